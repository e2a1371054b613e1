"""EASE (Steck, WWW 2019): the linear item-to-item model with a zero diagonal, in closed form."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from pydantic import Field
from scipy import sparse
from scipy.linalg import lapack

from dslbench.errors import RunError
from dslbench.references._models import DenseWeights, SparseWeights, largest
from dslbench.references.base import Float32, Model, Options, Reference

_BLOCK = 1024  # columns of the Gram matrix, and rows of a tile, at a time


class EASEOptions(Options):
    """How strongly weights are held down, and how many are kept."""

    l2: float | None = Field(
        default=None, ge=0, description="weight lambda of the squared norm of the weights"
    )
    keep: float = Field(
        default=1, gt=0, le=1,
        description="share of the weights that is kept, the largest; below 1 with their columns",
    )  # fmt: skip


class EASE(Reference):
    """B = I - P diag(1 / P) with P = (X'X + lambda I)^-1; scores are x B.

    Computed in float32, in the memory of the Gram matrix: 4 M^2 bytes. With N users that are at most half as
    many, from the N x N matrix K = XX' + lambda I in float64: X'K^-1 X = I - lambda P, 8 N^2 bytes more.
    """

    name = "ease"
    label = "EASE"
    version = 2
    options_type = EASEOptions
    models = (DenseWeights, SparseWeights)
    grid: ClassVar[dict[str, tuple[Any, ...]]] = {
        "l2": (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10000.0)
    }
    usual: ClassVar[dict[str, Any]] = {"l2": 100.0}

    @classmethod
    def memory_needed(cls, train: sparse.csr_matrix, options: EASEOptions) -> int:
        n, m = train.shape
        kept = 0 if options.keep == 1 else int(32 * options.keep * m * m)
        working = 8 * n * n + 3 * 8 * m * _BLOCK if _is_wide(train) else 3 * 4 * m * _BLOCK
        return int(4 * m * m + working + kept)

    @classmethod
    def fit(cls, train: sparse.csr_matrix, options: EASEOptions, seed: int) -> Model:
        weights = ease(train, float(options.l2 or 0.0))
        if options.keep == 1:
            return DenseWeights(weights)
        return SparseWeights.of(largest(weights, options.keep))

    @classmethod
    def train_macs(cls, train: sparse.csr_matrix, options: EASEOptions) -> int:
        """The Gram matrix from its pairs; a sixth of its cube for the factor, a third for the inverse.

        From users: their Gram matrix, and its inverse from both sides by pairs.
        """
        n, m = map(int, train.shape)
        if _is_wide(train):
            of_items = np.bincount(train.indices, minlength=m).astype(np.int64)
            return int((of_items**2).sum()) + n**3 // 2 + int(train.nnz) * (n + m)
        of_users = np.diff(train.indptr).astype(np.int64)
        return int((of_users**2).sum()) + m**3 // 2


def _is_wide(train: sparse.csr_matrix) -> bool:
    """Whether there are so many more items than users that inverting for these is the smaller task."""
    return 2 * int(train.shape[0]) <= int(train.shape[1])


def ease(train: sparse.csr_matrix, l2: float) -> Float32:
    """(M, M) weights B with a zero diagonal.

    Raises `RunError` where the matrix has no inverse in float32, as at lambda 0.
    """
    if _is_wide(train):
        return _from_users(train, l2)
    m = int(train.shape[1])
    x = sparse.csr_matrix(train, dtype=np.float32)
    columns, transposed = sparse.csc_matrix(x), sparse.csr_matrix(x.T)
    b = np.empty((m, m), dtype=np.float32)
    for start in range(0, m, _BLOCK):
        # Rows of a symmetric matrix: its columns.
        stop = min(start + _BLOCK, m)
        b[start:stop] = (transposed[start:stop] @ columns).toarray()
    b[np.diag_indices(m)] += np.float32(l2)
    # LAPACK's order of columns is that of our rows: the transposed view is worked on in place.
    factor, info = lapack.spotrf(b.T, lower=True, clean=False, overwrite_a=True)
    if info == 0:
        inverse, info = lapack.spotri(factor, lower=True, overwrite_c=True)
    if info != 0 or not np.isfinite(b.diagonal()).all():
        raise _singular(l2)
    assert np.shares_memory(inverse, b)
    _mirror(b)
    scale = -1 / b.diagonal()
    for start in range(0, m, _BLOCK):
        b[start : start + _BLOCK] *= scale
    np.fill_diagonal(b, 0)
    return b


def _from_users(train: sparse.csr_matrix, l2: float) -> Float32:
    """The same from Q = X'(XX' + lambda I)^-1 X: B_ij = Q_ij / (1 - Q_jj)."""
    n, m = map(int, train.shape)
    x = sparse.csr_matrix(train, dtype=np.float64)
    of_items = sparse.csr_matrix(x.T)
    gram = (x @ of_items).toarray()
    gram[np.diag_indices(n)] += l2
    factor, info = lapack.dpotrf(gram.T, lower=True, clean=False, overwrite_a=True)
    if info == 0:
        inverse, info = lapack.dpotri(factor, lower=True, overwrite_c=True)
    if info != 0 or l2 == 0:  # more items than users: X'X alone never has one
        raise _singular(l2)
    inverse = np.tril(inverse) + np.tril(inverse, -1).T
    b, left = np.empty((m, m), dtype=np.float32), np.empty(m)
    for start in range(0, m, _BLOCK):
        rows = slice(start, min(start + _BLOCK, m))
        q = of_items @ (of_items[rows] @ inverse).T
        left[rows] = 1 - q[rows].diagonal()
        b[rows] = q.T
    if not (left > 0).all():  # an item that one user alone has, at next to no lambda
        raise _singular(l2)
    for start in range(0, m, _BLOCK):
        b[start : start + _BLOCK] /= left
    np.fill_diagonal(b, 0)
    return b


def _singular(l2: float) -> RunError:
    return RunError(
        f"EASE: X'X + {l2:g} I has no inverse in float32", "a larger ease.l2, such as 100"
    )


def _mirror(matrix: Float32) -> None:
    """Copy the upper triangle onto the lower one, tile by tile."""
    m = len(matrix)
    for top in range(0, m, _BLOCK):
        rows = slice(top, min(top + _BLOCK, m))
        tile = matrix[rows, rows]
        upper = np.triu(tile)
        tile[:] = upper + np.triu(tile, 1).T
        for left in range(0, top, _BLOCK):
            columns = slice(left, left + _BLOCK)
            matrix[rows, columns] = matrix[columns, rows].T
