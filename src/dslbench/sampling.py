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

Int64 = npt.NDArray[np.int64]
Index = TypeVar("Index", np.int32, np.int64)

# Triples drawn at a time: bounds the memory of sampling whatever the size of the data.
_CHUNK = 1 << 20


class Sampler(Protocol):
    """Source of training batches."""

    @property
    def steps(self) -> int:
        """Batches per epoch."""

    def epoch(self) -> Iterator[Any]:
        """The batches of one epoch."""


class Triples(NamedTuple):
    """BPR triples, each field (B,) int64 on the model's device."""

    users: Tensor
    positives: Tensor
    negatives: Tensor


def draw_unseen(
    train: sparse.csr_matrix,
    users: npt.NDArray[np.integer],
    rng: np.random.Generator,
    dtype: type[Index],
) -> npt.NDArray[Index]:
    """A uniform item for each of the users (K,) that is not in the user's training row.

    Each user must have such an item; those who got one of their own draw again.
    """
    n_items = int(train.shape[1])
    drawn = rng.integers(n_items, size=len(users), dtype=dtype)
    again = np.arange(len(users))
    while True:
        known = np.empty(len(again), dtype=bool)
        run_rows(
            kernels.known_pairs, even_bounds(len(known)), train.indptr, train.indices,
            users[again], drawn[again], known,
        )  # fmt: skip
        again = again[known]
        if len(again) == 0:
            return drawn
        drawn[again] = rng.integers(n_items, size=len(again), dtype=dtype)


class TripleSampler:
    """LightGCN's sampling: a uniform user, a uniform item of theirs, a uniform item not of theirs.

    An epoch is as many triples as there are training pairs, users drawn with replacement. Users
    without items, or with all of them, have no triple and are never drawn. Held-out items may be
    drawn as negatives, as in LightGCN.
    """

    def __init__(
        self, train: sparse.csr_matrix, batch_size: int, streams: Streams, device: torch.device
    ) -> None:
        self._train = train
        self._n_items = int(train.shape[1])
        degrees = np.diff(train.indptr)
        self._users = np.flatnonzero((degrees > 0) & (degrees < self._n_items))
        if len(self._users) == 0:
            raise DataError(
                "no user has both an item to train on and an item left out of training",
                "check the data set: `dslbench list datasets`",
            )
        self._batch_size = batch_size
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
            drawn = [torch.from_numpy(part).to(self._device) for part in self._draw(count)]
            yield from (
                Triples(*parts)
                for parts in zip(*(torch.split(x, size) for x in drawn), strict=True)
            )
            left -= count

    def _draw(self, count: int) -> tuple[Int64, Int64, Int64]:
        indptr, indices = self._train.indptr, self._train.indices
        users = self._users[self._order.integers(len(self._users), size=count)]
        begin, end = indptr[users].astype(np.int64), indptr[users + 1].astype(np.int64)
        positives = indices[begin + (self._order.random(count) * (end - begin)).astype(np.int64)]
        negatives = draw_unseen(self._train, users, self._negatives, np.int64)
        return users, positives.astype(np.int64), negatives
