"""Batches for models that go through the interactions: grouped with negatives, or one by one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor

from dslbench.errors import DataError
from dslbench.sampling.triples import draw_unseen
from dslbench.seeds import Streams

Int32 = npt.NDArray[np.int32]


class Grouped(NamedTuple):
    """Interactions with negatives of their own, on the model's device.

    `users` and `positives` are (B,) int64, `negatives` (B, n) int32.
    """

    users: Tensor
    positives: Tensor
    negatives: Tensor


class Pointwise(NamedTuple):
    """Single pairs with a label (1: interaction, 0: negative), each field (B,), on the device."""

    users: Tensor
    items: Tensor
    labels: Tensor


class _Interactions:
    """The training pairs as two columns, and negatives for their users.

    With `filtered`, pairs of users who have all items are left out: they have no negatives.
    Raises `DataError` when no pair is left.
    """

    def __init__(self, train: sparse.csr_matrix, filtered: bool) -> None:
        self._train = train
        self._n_items = int(train.shape[1])
        self._filtered = filtered
        degrees = np.diff(train.indptr)
        self.users = np.repeat(np.arange(len(degrees), dtype=np.int32), degrees)
        self.items = train.indices.astype(np.int32)
        if filtered and (degrees == self._n_items).any():
            usable = np.repeat(degrees < self._n_items, degrees)
            self.users, self.items = self.users[usable], self.items[usable]
        if len(self.users) == 0:
            raise DataError(
                "no user has both an item to train on and an item left out of training",
                "check the data set: `dslbench list datasets`",
            )

    def __len__(self) -> int:
        return len(self.users)

    def negatives(self, users: Int32, rng: np.random.Generator) -> Int32:
        """A uniform item for each of the users (K,), not one of the user's own if `filtered`."""
        if self._filtered:
            return draw_unseen(self._train, users, rng, np.int32)
        return rng.integers(self._n_items, size=len(users), dtype=np.int32)


class GroupedSampler:
    """Each interaction once per epoch, in a new order, with n uniform items beside it.

    Args:
        train: (N, M) binary CSR.
        batch_size: interactions per batch.
        negatives: n, drawn with replacement.
        filtered: draw again what is in the user's training row (UltraGCN does not).
        drop_last: leave out an incomplete last batch, unless it is the only one.
    """

    def __init__(
        self,
        train: sparse.csr_matrix,
        batch_size: int,
        negatives: int,
        streams: Streams,
        device: torch.device,
        *,
        filtered: bool,
        drop_last: bool = False,
    ) -> None:
        self._pairs = _Interactions(train, filtered)
        self._batch_size, self._n = batch_size, negatives
        self._order, self._negatives = streams["order"], streams["negatives"]
        self._device = device
        whole = len(self._pairs) // batch_size
        self._steps = whole if drop_last and whole else -(-len(self._pairs) // batch_size)

    @property
    def steps(self) -> int:
        """Batches per epoch."""
        return self._steps

    def epoch(self) -> Iterator[Grouped]:
        """The batches of one epoch, newly drawn."""
        order = self._order.permutation(len(self._pairs))
        for step in range(self._steps):
            chosen = order[step * self._batch_size : (step + 1) * self._batch_size]
            users, positives = self._pairs.users[chosen], self._pairs.items[chosen]
            negatives = self._pairs.negatives(np.repeat(users, self._n), self._negatives)
            yield Grouped(
                torch.from_numpy(users).to(self._device, torch.int64),
                torch.from_numpy(positives).to(self._device, torch.int64),
                torch.from_numpy(negatives.reshape(len(users), self._n)).to(self._device),
            )


class PointwiseSampler:
    """All interactions and n new negatives for each, mixed (He et al., WWW 2017, section 4.1).

    Negatives are rejected against the user's training row only: held-out items may be drawn.
    """

    # Pairs whose negatives are drawn at a time: bounds memory whatever the size of the data.
    _CHUNK = 1 << 18

    def __init__(
        self,
        train: sparse.csr_matrix,
        batch_size: int,
        negatives: int,
        streams: Streams,
        device: torch.device,
    ) -> None:
        self._pairs = _Interactions(train, filtered=True)
        self._batch_size, self._group = batch_size, 1 + negatives
        self._order, self._negatives = streams["order"], streams["negatives"]
        self._device = device

    @property
    def steps(self) -> int:
        """Batches per epoch; the last one may be smaller."""
        return -(-len(self._pairs) * self._group // self._batch_size)

    def epoch(self) -> Iterator[Pointwise]:
        """The batches of one epoch, newly drawn."""
        # Place p stands for pair p // group: its positive where p % group is 0, else a negative.
        order = self._order.permutation(len(self._pairs) * self._group)
        per_chunk = max(1, self._CHUNK // self._batch_size) * self._batch_size
        for start in range(0, len(order), per_chunk):
            place = order[start : start + per_chunk]
            pair = place // self._group
            positive = place % self._group == 0
            users, items = self._pairs.users[pair], self._pairs.items[pair]
            items[~positive] = self._pairs.negatives(users[~positive], self._negatives)
            columns = (
                torch.from_numpy(users).to(self._device, torch.int64),
                torch.from_numpy(items).to(self._device, torch.int64),
                torch.from_numpy(positive).to(self._device, torch.float32),
            )
            parts = zip(*(torch.split(x, self._batch_size) for x in columns), strict=True)
            yield from (Pointwise(*part) for part in parts)
