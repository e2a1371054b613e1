"""Batches of whole users for models that read a user's row of items."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor

from dslbench.errors import DataError
from dslbench.seeds import Streams


class UserRows(NamedTuple):
    """Users and their items as CSR slices, on the model's device.

    Fields: `users` (B,) int64; `indptr` (B + 1,) int64; `items` (nnz,) int64, user by user;
    `seed`, from which the batch's noise is drawn, so that a loss is a function of batch and
    parameters, the same whenever and on however many threads it is computed.
    """

    users: Tensor
    indptr: Tensor
    items: Tensor
    seed: int

    def noise(self, name: str) -> np.random.Generator:
        """The batch's random stream of this name, from its start."""
        return np.random.Generator(np.random.PCG64([self.seed, zlib.crc32(name.encode("utf-8"))]))


def take_rows(
    matrix: sparse.csr_matrix, users: npt.NDArray[np.int64], device: torch.device, seed: int = 0
) -> UserRows:
    """The rows of some users of an (N, M) CSR matrix; values are taken as ones."""
    part = matrix[users]
    return UserRows(
        torch.from_numpy(users).to(device),
        torch.from_numpy(part.indptr.astype(np.int64)).to(device),
        torch.from_numpy(part.indices.astype(np.int64)).to(device),
        seed,
    )


class UserRowSampler:
    """All users with at least one training item, once an epoch, in a new random order."""

    def __init__(
        self, train: sparse.csr_matrix, batch_size: int, streams: Streams, device: torch.device
    ) -> None:
        self._train = train
        self._users = np.flatnonzero(np.diff(train.indptr)).astype(np.int64)
        if len(self._users) == 0:
            raise DataError(
                "no user has an item to train on", "check the data set: `dslbench list datasets`"
            )
        self._batch_size = batch_size
        self._order, self._noise = streams["order"], streams["noise"]
        self._device = device

    @property
    def steps(self) -> int:
        """Batches per epoch; the last one may be smaller."""
        return -(-len(self._users) // self._batch_size)

    def epoch(self) -> Iterator[UserRows]:
        """The batches of one epoch."""
        users = self._order.permutation(self._users)
        for start in range(0, len(users), self._batch_size):
            part = users[start : start + self._batch_size]
            yield take_rows(self._train, part, self._device, int(self._noise.integers(1 << 62)))
