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

from dslbench.data.interactions import Int32, masked_csr, pairs_to_csr, row_blocks

SPLIT_SEED = 20240304  # never the run's seed: all runs of all methods see the same split

Int64 = npt.NDArray[np.int64]
Parts = npt.NDArray[np.uint8]


def split_generator(dataset: str, split: str) -> np.random.Generator:
    """Generator of one split of one data set, by its name (of one's own: by its content)."""
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


def deal_at_random(
    matrix: sparse.csr_matrix, n_test: Int64, n_valid: Int64, generator: np.random.Generator
) -> Parts:
    """For each stored pair of a CSR 0 (train), 1 (validation) or 2 (test).

    Of each user `n_test` and `n_valid` pairs, chosen at random. Works through blocks of users, so
    that the extra memory stays small; the draws are those of one call for all pairs.
    """
    parts = np.zeros(matrix.nnz, dtype=np.uint8)
    for start, end in row_blocks(matrix.indptr):
        first, last = matrix.indptr[start], matrix.indptr[end]
        counts = np.diff(matrix.indptr[start : end + 1])
        users = np.repeat(np.arange(end - start, dtype=np.int32), counts)
        order = np.lexsort((generator.random(last - first), users))
        position = from_end(users, order, end - start)
        label_parts(position, users, n_test[start:end], n_valid[start:end], parts[first:last])
    return parts


def label_parts(position: Int64, users: Int32, n_test: Int64, n_valid: Int64, out: Parts) -> None:
    """Write 2 into `out` for the last `n_test` of each user, 1 for the `n_valid` before them."""
    out[position < (n_test + n_valid)[users]] = 1
    out[position < n_test[users]] = 2


def carve_validation(
    train: sparse.csr_matrix, dataset: str
) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """Split published training pairs into (train, valid).

    Per user 10 % of the items, rounded down but at least one, chosen at random; a user with a
    single item keeps it in train.
    """
    counts = np.diff(train.indptr).astype(np.int64)
    generator = split_generator(dataset, "valid")
    held = deal_at_random(train, np.zeros_like(counts), tenth(counts, keep=1), generator) > 0
    return masked_csr(train, ~held), masked_csr(train, held)


def empty_like(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    """A matrix of the same shape and types without pairs."""
    return pairs_to_csr(np.zeros(0, np.int32), np.zeros(0, np.int32), matrix.shape)
