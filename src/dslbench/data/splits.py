"""Dividing interactions into train, validation and test: seeded, vectorised, machine-independent.

Every random choice takes uniform doubles of PCG64, keyed by data set and split, in the canonical
order of the pairs (by user, then item): the result depends on neither the order of a file, nor
the run's seed, nor the machine.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
from scipy import sparse

from dslbench.data.interactions import Int32, pairs_to_csr

SPLIT_SEED = 20240304  # never the run's seed: all runs of all methods see the same split

Int64 = npt.NDArray[np.int64]


def split_generator(dataset: str, split: str) -> np.random.Generator:
    """Generator of one split of one data set."""
    key = hashlib.sha256(f"{dataset}/{split}".encode()).digest()
    words = [int.from_bytes(key[at : at + 4], "little") for at in range(0, 16, 4)]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([SPLIT_SEED, *words])))


def from_end(users: Int32, order: Int64, n_users: int) -> Int64:
    """Position of each pair counted from the end of its user's sequence (0 = last).

    `order` lists the pairs by user, then by the wanted order.
    """
    ends = np.cumsum(np.bincount(users, minlength=n_users))
    positions = np.empty(len(users), dtype=np.int64)
    positions[order] = ends[users[order]] - 1 - np.arange(len(users))
    return positions


def tenth(counts: Int64, *, keep: int) -> Int64:
    """10 % of each count, rounded down, but at least 1 where more than `keep` are left for it."""
    return np.where(counts > keep, np.maximum(counts // 10, 1), 0)


def carve_validation(
    train: sparse.csr_matrix, dataset: str
) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """Split published training pairs into (train, valid).

    Per user 10 % of the items, rounded down but at least one, chosen at random; a user with a
    single item keeps it in train.
    """
    users = np.repeat(np.arange(train.shape[0], dtype=np.int32), np.diff(train.indptr))
    draws = split_generator(dataset, "valid").random(train.nnz)
    counts = np.diff(train.indptr).astype(np.int64)
    position = from_end(users, np.lexsort((draws, users)), train.shape[0])
    held = position < tenth(counts, keep=1)[users]
    return (
        pairs_to_csr(users[~held], train.indices[~held], train.shape),
        pairs_to_csr(users[held], train.indices[held], train.shape),
    )


def empty_like(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    """A matrix of the same shape and types without pairs."""
    return pairs_to_csr(np.zeros(0, np.int32), np.zeros(0, np.int32), matrix.shape)
