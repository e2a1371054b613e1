"""Interactions: the one thing the rest of the program knows about data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
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
    keys = np.array(users, dtype=np.int64)
    keys *= shape[1]
    np.add(keys, np.asarray(items), out=keys, casting="unsafe")
    keys.sort()
    repeated = keys[1:] == keys[:-1]
    if repeated.any():
        keys = keys[np.concatenate([[True], ~repeated])]
    row_starts = np.arange(shape[0] + 1, dtype=np.int64) * shape[1]
    indptr = np.searchsorted(keys, row_starts).astype(np.int32)
    np.remainder(keys, max(shape[1], 1), out=keys)
    return _binary_csr(keys.astype(np.int32), indptr, shape)


def no_pairs(shape: tuple[int, int]) -> sparse.csr_matrix:
    """CSR of a shape without an entry."""
    return pairs_to_csr([], [], shape)


def masked_csr(matrix: sparse.csr_matrix, kept: npt.NDArray[np.bool_]) -> sparse.csr_matrix:
    """The stored pairs of a binary CSR for which `kept` (one flag per pair) is true."""
    before = np.zeros(matrix.nnz + 1, dtype=np.int32)
    np.cumsum(kept, out=before[1:])
    return _binary_csr(matrix.indices[kept], before[matrix.indptr], matrix.shape)


def _binary_csr(indices: Int32, indptr: Int32, shape: tuple[int, int]) -> sparse.csr_matrix:
    values = np.ones(len(indices), dtype=np.float32)
    return sparse.csr_matrix((values, indices, indptr), shape=shape)


def row_blocks(indptr: Int32, pairs: int = 1 << 16) -> Iterator[tuple[int, int]]:
    """Ranges of rows that together hold about `pairs` stored pairs, at least one row each."""
    start, n_rows = 0, len(indptr) - 1
    while start < n_rows:
        end = int(np.searchsorted(indptr, int(indptr[start]) + pairs, side="right")) - 1
        end = min(max(end, start + 1), n_rows)
        yield start, end
        start = end


def digest(matrix: sparse.csr_matrix) -> str:
    """Order-independent identity of a set of pairs.

    sha256 of ascii "{n_users} {n_items} {n_pairs}\\n" followed by the pairs sorted by user, then
    item, as little-endian int32, row-major.
    """
    hasher = hashlib.sha256(f"{matrix.shape[0]} {matrix.shape[1]} {matrix.nnz}\n".encode("ascii"))
    for start, end in row_blocks(matrix.indptr):
        first, last = matrix.indptr[start], matrix.indptr[end]
        pairs = np.empty((last - first, 2), dtype="<i4")
        pairs[:, 0] = np.repeat(np.arange(start, end), np.diff(matrix.indptr[start : end + 1]))
        pairs[:, 1] = matrix.indices[first:last]
        hasher.update(pairs.data)
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
    each row and column (None: the numbers themselves are the ids); `content`, of data of one's own:
    what pairs and ids they are, whatever the file is called.
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
    content: str | None = None

    @property
    def n_users(self) -> int:
        """Rows of every matrix."""
        return int(self.train.shape[0])

    @property
    def n_items(self) -> int:
        """Columns of every matrix."""
        return int(self.train.shape[1])

    @property
    def user_names(self) -> list[str]:
        """Original id of each row, as text."""
        return [
            str(one) for one in (range(self.n_users) if self.user_ids is None else self.user_ids)
        ]

    @property
    def item_names(self) -> list[str]:
        """Original id of each column, as text."""
        return [
            str(one) for one in (range(self.n_items) if self.item_ids is None else self.item_ids)
        ]

    @cached_property
    def digests(self) -> dict[str, str | None]:
        """Digest of each part that decides a result; None for an empty part."""
        parts = {"train": self.train, "valid": self.valid, "test": self.test}
        if self.fold_in is not None:
            parts["fold_in"] = self.fold_in
        found = {name: digest(part) if part.nnz else None for name, part in parts.items()}
        return found if self.content is None else {**found, "content": self.content}

    @cached_property
    def seen_before_test(self) -> sparse.csr_matrix:
        """Pairs excluded from the ranking when testing: train, validation and fold-in."""
        return self._union(self.seen_before_valid, self.valid)

    @cached_property
    def seen_before_valid(self) -> sparse.csr_matrix:
        """Pairs excluded from the ranking when validating: train and fold-in."""
        return self.train if self.fold_in is None else self._union(self.train, self.fold_in)

    @cached_property
    def seen(self) -> sparse.csr_matrix:
        """All pairs of all parts."""
        return self._union(self.seen_before_test, self.test)

    @staticmethod
    def _union(first: sparse.csr_matrix, second: sparse.csr_matrix) -> sparse.csr_matrix:
        if not second.nnz:
            return first
        union = sparse.csr_matrix(first + second)
        union.sort_indices()
        return union

    def without_test(self) -> Interactions:
        """The same without its test pairs, for those who choose: what is not there, nobody looks at."""
        return replace(self, test=no_pairs((self.n_users, self.n_items)))

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
            "fold_in_digest": self.digests.get("fold_in"),
            "content_digest": self.content,
            "notes": list(self.notes),
        }
