"""SANSA (Spisak et al., RecSys 2023): EASE for many items, by a sparse approximate inverse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy import sparse

from dslbench.errors import RunError
from dslbench.references import _kernels
from dslbench.references._models import SparseWeights, degrees
from dslbench.references.base import Array, Float32, Model, Options, Reference
from dslbench.tables.base import Parts

_MOST_STARTS = 24  # the shift of the last is .001 2^23: beyond that nothing of the data is left
_SMALL = 1e-6  # a column with a residual of this norm needs no correction


class SANSAOptions(Options):
    """How dense the factor may be, and how it is made."""

    l2: float | None = Field(default=None, ge=0, description="EASE's lambda")
    density: float | None = Field(
        default=None, gt=0, le=1,
        description="entries of the factor, as a share of M^2; none: 0.001, and 20 an item at least",
    )  # fmt: skip
    scaled: bool = Field(
        default=True, description="divide the columns of X by the root of the norm of X'X's"
    )
    refinements: int = Field(default=3, ge=0, description="corrections of the approximate inverse")


@dataclass(frozen=True)
class Factored(Model):
    """W (M, M) sparse, its rows' weights 1 / D, and the diagonal of P = W'D^-1 W; scores -x P diag(1 / P)."""

    form: ClassVar[str] = "sparse factor"

    factor: SparseWeights
    inverse: Float32
    diagonal: Float32

    def arrays(self) -> dict[str, Array]:
        return self.factor.arrays() | {"inverse": self.inverse, "diagonal": self.diagonal}

    def about(self) -> dict[str, Any]:
        return self.factor.about()

    @classmethod
    def read(cls, shape: tuple[int, int], about: Mapping[str, Any], parts: Parts) -> Self:
        factor = SparseWeights.read(shape, about, parts)
        inverse, diagonal = (
            parts.take(name, np.float32, (shape[1],)) for name in ("inverse", "diagonal")
        )
        if not (diagonal > 0).all():
            raise ValueError("a diagonal that is not greater than zero")
        return cls(factor, inverse, diagonal)

    @property
    def parameters(self) -> int:
        return self.factor.parameters + 2 * len(self.inverse)

    @property
    def precision(self) -> str:
        return self.factor.precision

    def rounded(self, precision: str) -> Factored:
        return replace(self, factor=self.factor.rounded(precision))

    def scores(self, known: sparse.csr_matrix) -> Float32:
        w = self.factor.matrix
        inner = sparse.csr_matrix(known @ self._across @ sparse.diags_array(self.inverse))
        return np.asarray((inner @ w).toarray() / -self.diagonal, dtype=np.float32)

    @cached_property
    def _across(self) -> sparse.csr_matrix:
        """W' by its rows, which are columns of W."""
        return sparse.csr_matrix(self.factor.matrix.T)

    def macs(self, known: sparse.csr_matrix) -> int:
        """Two sparse products; elementwise scaling costs nothing."""
        w = self.factor.matrix
        of_columns = degrees(w)
        inner = known @ self._across
        of_rows = np.diff(w.indptr).astype(np.int64)
        return int(of_columns[known.indices].sum()) + int(of_rows[inner.indices].sum())


def entries(options: SANSAOptions, m: int) -> int:
    """Entries of the factor of m items."""
    if options.density is not None:
        return int(options.density * m * m)
    return min(m * m, max(int(1e-3 * m * m), 20 * m))


class SANSA(Reference):
    """A = X'X + lambda I ~ L D L' with a given number of entries; P = A^-1 ~ W' D^-1 W, W ~ L^-1.

    Scores are x B with EASE's B = I - P diag(1 / P), whose first term only reaches items that the user has.
    The factor is incomplete: of each column the largest entries are kept, the denser columns last. W starts
    as 2 I - L and is corrected by the least residual, column by column.
    """

    name = "sansa"
    label = "SANSA"
    options_type = SANSAOptions
    models = (Factored,)
    grid: ClassVar[dict[str, tuple[Any, ...]]] = {
        "l2": (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)
    }
    usual: ClassVar[dict[str, Any]] = {"l2": 20.0}
    version = 2  # 2: 20 entries an item at least where no density is given

    @classmethod
    def memory_needed(cls, train: sparse.csr_matrix, options: SANSAOptions) -> int:
        m = int(train.shape[1])
        kept = entries(options, m)
        # The factor, W, and products of sparse matrices with more entries than either.
        return 12 * kept * (4 + 8 * bool(options.refinements)) + 60 * m + 60 * int(train.nnz)

    @classmethod
    def fit(cls, train: sparse.csr_matrix, options: SANSAOptions, seed: int) -> Model:
        m = int(train.shape[1])
        order = np.argsort(degrees(train), kind="stable")
        x = sparse.csr_matrix(sparse.csr_matrix(train, dtype=np.float64)[:, order])
        if options.scaled:
            norms = gram_norms(x)
            roots = np.sqrt(np.where(norms > 0, norms, 1))
            x = sparse.csr_matrix(x @ sparse.diags_array(1 / roots))
        kept = max(m, entries(options, m))
        lower, _ = incomplete_cholesky(x, float(options.l2 or 0.0), kept)
        of_columns = lower.diagonal()
        lower = sparse.csc_matrix(lower @ sparse.diags_array(1 / of_columns))
        w = approximate_inverse(lower, options.refinements, kept)
        inverse = 1 / of_columns**2
        squares = w.copy()
        squares.data **= 2
        diagonal = np.asarray(squares.T @ inverse).ravel()
        # Back to the items' own order: rows of W may stand in any.
        places = np.argsort(order)
        found = sparse.csr_matrix(w)[:, places]
        return Factored(
            SparseWeights.of(found), inverse.astype(np.float32), diagonal[places].astype(np.float32)
        )


def gram_norms(x: sparse.csr_matrix) -> npt.NDArray[np.float64]:
    """(M,) norms of the columns of X'X."""
    m, found = int(x.shape[1]), np.zeros(int(x.shape[1]))
    columns = sparse.csr_matrix(x.T)
    for start in range(0, m, 4096):
        block = columns[start : start + 4096] @ x
        block.data **= 2
        found[start : start + 4096] = np.sqrt(np.asarray(block.sum(axis=1)).ravel())
    return found


def incomplete_cholesky(
    x: sparse.csr_matrix, l2: float, kept: int
) -> tuple[sparse.csc_matrix, float]:
    """L (M, M) with at most `kept` entries and LL' ~ X'X + lambda I, and what was added to lambda.

    Column j keeps its floor((kept - used) / (M - j)) largest entries, its diagonal among them; what is
    dropped still lowers the later diagonal. Where that is not greater than zero, it begins again with
    lambda + .001 2^c. Raises `RunError` where no c helps.
    """
    m = int(x.shape[1])
    columns = sparse.csr_matrix(x.T)
    start, row, value = np.zeros(m + 1, np.int64), np.zeros(kept, np.int32), np.zeros(kept)
    for attempt in range(-1, _MOST_STARTS):
        added = 0.0 if attempt < 0 else 0.001 * 2.0**attempt
        done = _kernels.factor(
            columns.indptr, columns.indices, columns.data, x.indptr, x.indices, x.data, l2 + added,
            kept, start, row, value,
        )  # fmt: skip
        if done:
            used = start[-1]
            found = sparse.csc_matrix((value[:used], row[:used], start), shape=(m, m))
            found.sort_indices()
            return found, added
    raise RunError(
        f"the incomplete factor of X'X + {l2:g} I breaks down", "a larger sansa.l2 or density"
    )


def approximate_inverse(lower: sparse.csc_matrix, refinements: int, kept: int) -> sparse.csc_matrix:
    """W ~ L^-1 of a triangular L with a diagonal of ones, with at most `kept` entries.

    From 2 I - L; a refinement adds alpha_j of the residual R = I - L W to each column that has one,
    alpha_j = <R_j, L R_j> / |L R_j|^2, and keeps the largest entries.
    """
    m = lower.shape[0]
    one = sparse.eye_array(m, format="csc")
    w = sparse.csc_matrix(2 * one - lower)
    for _ in range(refinements):
        residual = sparse.csc_matrix(one - lower @ w)
        squares = residual.multiply(residual).sum(axis=0)
        if np.sqrt(np.max(squares)) <= _SMALL:
            break
        moved = sparse.csc_matrix(lower @ residual)
        along = np.asarray(residual.multiply(moved).sum(axis=0)).ravel()
        length = np.asarray(moved.multiply(moved).sum(axis=0)).ravel()
        step = np.divide(along, length, out=np.zeros(m), where=length > 0)
        w = _truncated(sparse.csc_matrix(w + residual @ sparse.diags_array(step)), kept)
    return w


def _truncated(matrix: sparse.csc_matrix, kept: int) -> sparse.csc_matrix:
    """The largest entries by magnitude; of equal ones the first."""
    matrix.eliminate_zeros()
    if matrix.nnz <= kept:
        return matrix
    order = np.argsort(-np.abs(matrix.data), kind="stable")
    matrix.data[order[kept:]] = 0
    matrix.eliminate_zeros()
    return matrix
