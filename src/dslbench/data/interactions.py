"""Interactions: the one thing the rest of the program knows about data."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

Int32 = npt.NDArray[np.int32]


def pairs_to_csr(
    users: npt.ArrayLike, items: npt.ArrayLike, shape: tuple[int, int]
) -> sparse.csr_matrix:
    """Binary CSR of distinct (user, item) pairs: float32 ones, int32 indices, rows sorted."""
    rows, columns = np.asarray(users, dtype=np.int64), np.asarray(items, dtype=np.int64)
    keys = np.unique(rows * shape[1] + columns)
    indptr = np.zeros(shape[0] + 1, dtype=np.int32)
    np.cumsum(np.bincount(keys // shape[1], minlength=shape[0]), out=indptr[1:])
    indices = (keys % shape[1]).astype(np.int32)
    return sparse.csr_matrix((np.ones(len(keys), dtype=np.float32), indices, indptr), shape=shape)


def digest(matrix: sparse.csr_matrix) -> str:
    """Order-independent identity of a set of pairs.

    sha256 of ascii "{n_users} {n_items} {n_pairs}\\n" followed by the pairs sorted by user, then
    item, as little-endian int32, row-major.
    """
    users = np.repeat(np.arange(matrix.shape[0], dtype="<i4"), np.diff(matrix.indptr))
    pairs = np.stack([users, matrix.indices.astype("<i4")], axis=1)
    hasher = hashlib.sha256(f"{matrix.shape[0]} {matrix.shape[1]} {matrix.nnz}\n".encode("ascii"))
    hasher.update(np.ascontiguousarray(pairs).data)
    return hasher.hexdigest()


@dataclass(frozen=True)
class Interactions:
    """A data set split into train, validation and test; immutable.

    The three matrices are binary CSR of shape (n_users, n_items) with sorted int32 indices and no
    pair in common. `valid` is empty where the protocol selects on test. `notes` are sentences a
    reader of a table should see (for example how a split was made).

    Optional parts: `negatives`, (n_users, n) int32 items to rank the held-out one against in
    sampled evaluation (-1 fills up; never a pair of any part); `fold_in`, what is known of users
    held out from training (strong generalisation); `user_ids` and `item_ids`, the original id of
    each row and column (None: the numbers themselves are the ids).
    """

    name: str
    protocol: str
    train: sparse.csr_matrix
    valid: sparse.csr_matrix
    test: sparse.csr_matrix
    notes: tuple[str, ...] = ()
    source: dict[str, Any] = field(default_factory=dict)
    negatives: Int32 | None = None
    fold_in: sparse.csr_matrix | None = None
    user_ids: npt.NDArray[Any] | None = None
    item_ids: npt.NDArray[Any] | None = None

    @property
    def n_users(self) -> int:
        """Rows of every matrix."""
        return int(self.train.shape[0])

    @property
    def n_items(self) -> int:
        """Columns of every matrix."""
        return int(self.train.shape[1])

    @property
    def n_train(self) -> int:
        """Training pairs."""
        return int(self.train.nnz)

    @cached_property
    def digests(self) -> dict[str, str | None]:
        """Digest of each part; None for an empty part."""
        parts = {"train": self.train, "valid": self.valid, "test": self.test}
        return {name: digest(part) if part.nnz else None for name, part in parts.items()}

    @cached_property
    def seen_before_test(self) -> sparse.csr_matrix:
        """Pairs excluded from the ranking when testing: train, validation and fold-in."""
        return self._union(self.seen_before_valid, self.valid)

    @cached_property
    def seen_before_valid(self) -> sparse.csr_matrix:
        """Pairs excluded from the ranking when validating: train and fold-in."""
        return self.train if self.fold_in is None else self._union(self.train, self.fold_in)

    @staticmethod
    def _union(first: sparse.csr_matrix, second: sparse.csr_matrix) -> sparse.csr_matrix:
        if not second.nnz:
            return first
        union = sparse.csr_matrix(first + second)
        union.sort_indices()
        return union

    def summary(self) -> dict[str, Any]:
        """The `data` section of a run record."""
        return {
            "name": self.name,
            "protocol": self.protocol,
            "users": self.n_users,
            "items": self.n_items,
            "train_pairs": int(self.train.nnz),
            "valid_pairs": int(self.valid.nnz),
            "test_pairs": int(self.test.nnz),
            "train_digest": self.digests["train"],
            "valid_digest": self.digests["valid"],
            "test_digest": self.digests["test"],
            "notes": list(self.notes),
        }
