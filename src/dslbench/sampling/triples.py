"""Training batches, drawn without Python per interaction."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor

from dslbench.errors import DataError
from dslbench.ops import kernels
from dslbench.ops.threads import even_bounds, run_rows
from dslbench.seeds import Streams

Index = TypeVar("Index", np.int32, np.int64)

# Triples drawn at a time: bounds the memory of sampling whatever the size of the data.
_CHUNK = 1 << 17


class Sampler(Protocol):
    """Source of training batches."""

    @property
    def steps(self) -> int:
        """Batches per epoch."""

    def epoch(self) -> Iterator[Any]:
        """The batches of one epoch."""


class Triples(NamedTuple):
    """BPR triples: users, positives and negatives are (B,) int64 on the model's device.

    `known` is (B, n) bool where examples share their negatives in blocks of n: whether the t-th
    negative of an example's block is one of its user's own items. None: each has its own alone.
    """

    users: Tensor
    positives: Tensor
    negatives: Tensor
    known: Tensor | None = None


def draw_unseen(
    train: sparse.csr_matrix,
    users: npt.NDArray[np.integer],
    rng: np.random.Generator,
    dtype: type[Index],
    each: int = 1,
) -> npt.NDArray[Index]:
    """Uniform items for each of the users (K,) that are not in the user's training row, (K * each,).

    Each user must have such an item; those who got one of their own draw again.
    """
    n_items = int(train.shape[1])

    def are_known(
        users: npt.NDArray[np.integer], items: npt.NDArray[Index]
    ) -> npt.NDArray[np.bool_]:
        known = np.empty(len(users), dtype=bool)
        run_rows(
            kernels.known_pairs, even_bounds(len(known)), train.indptr, train.indices, users, items,
            known,
        )  # fmt: skip
        return known

    drawn = rng.integers(n_items, size=len(users) * each, dtype=dtype)
    if each == 1:
        known = are_known(users, drawn)
    else:
        known = np.empty(len(drawn), dtype=bool)
        run_rows(
            kernels.known_of_each, even_bounds(len(users), each), train.indptr, train.indices, n_items,
            users, drawn.reshape(-1, each), known.reshape(-1, each),
        )  # fmt: skip
    again = np.flatnonzero(known)
    while len(again):
        drawn[again] = rng.integers(n_items, size=len(again), dtype=dtype)
        again = again[are_known(users[again // each], drawn[again])]
    return drawn


class TripleSampler:
    """LightGCN's sampling: a uniform user, a uniform item of theirs, a uniform item not of theirs.

    An epoch is as many triples as there are training pairs, users drawn with replacement. Users
    without items, or with all of them, have no triple and are never drawn. Held-out items may be
    drawn as negatives, as in LightGCN.

    Args:
        shared: n, examples that share their negatives: the same are drawn, whatever n is.
    """

    def __init__(
        self, train: sparse.csr_matrix, batch_size: int, streams: Streams, device: torch.device,
        shared: int = 1,
    ) -> None:  # fmt: skip
        self._train = train
        self._n_items = int(train.shape[1])
        degrees = np.diff(train.indptr)
        self._users = np.flatnonzero((degrees > 0) & (degrees < self._n_items))
        if len(self._users) == 0:
            raise DataError(
                "no user has both an item to train on and an item left out of training",
                "check the data set: `dslbench list datasets`",
            )
        self._batch_size, self._shared = batch_size, shared
        self._order, self._negatives = streams["order"], streams["negatives"]
        self._device = device

    @property
    def steps(self) -> int:
        """Batches per epoch; the last one may be smaller."""
        return -(-int(self._train.nnz) // self._batch_size)

    def epoch(self) -> Iterator[Triples]:
        """The batches of one epoch, newly drawn."""
        size = self._batch_size
        per_chunk = max(1, _CHUNK // size) * size
        left = int(self._train.nnz)
        while left > 0:
            count = min(left, per_chunk)
            drawn = self._draw(count)
            on_device = [torch.from_numpy(part).to(self._device) for part in drawn]
            for at in range(0, count, size):
                batch = Triples(*(part[at : at + size].long() for part in on_device))
                if self._shared > 1:
                    known = self._known(drawn[0][at : at + size], drawn[2][at : at + size])
                    batch = batch._replace(known=known)
                yield batch
            left -= count

    def _known(self, users: npt.NDArray[np.int32], negatives: npt.NDArray[np.int32]) -> Tensor:
        """`Triples.known` of a batch."""
        known = np.empty((len(users), self._shared), dtype=bool)
        run_rows(
            kernels.known_in_blocks, even_bounds(-(-len(users) // self._shared), 32 * self._shared),
            self._train.indptr, self._train.indices, self._n_items, self._shared, users, negatives, known,
        )  # fmt: skip
        return torch.from_numpy(known).to(self._device)

    def _draw(self, count: int) -> list[npt.NDArray[np.int32]]:
        """Users, positives and negatives, (count,) each."""
        users = self._users[self._order.integers(len(self._users), size=count)]
        at = self._order.random(count)
        at *= np.diff(self._train.indptr)[users]
        positives = self._train.indices[self._train.indptr[users] + at.astype(np.int32)]
        del at
        negatives = draw_unseen(self._train, users, self._negatives, np.int64)
        return [part.astype(np.int32) for part in (users, positives, negatives)]
