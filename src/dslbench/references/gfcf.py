"""GF-CF (Shen et al., CIKM 2021): a linear and an ideal low-pass filter of the graph, both closed forms."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy import sparse
from scipy.sparse.linalg import svds

from dslbench.ops.low_bits import starts_of
from dslbench.references._models import Valued, at_least, degrees, finite, read_rows
from dslbench.references.base import Array, Float32, Model, Options, Reference
from dslbench.tables.base import Parts
from dslbench.tables.spec import unsigned
from dslbench.tables.stored import Values


class GFCFOptions(Options):
    """The low-pass filter."""

    factors: int = Field(
        default=256, ge=1, description="right singular vectors V of the ideal filter"
    )
    weight: float | None = Field(
        default=None,
        ge=0,
        description="of the ideal filter beside the linear one; 0: none is computed",
    )


@dataclass(frozen=True)
class GraphFilter(Valued):
    """The training pairs, which are R~, and V row by row, (M, k)."""

    form: ClassVar[str] = "graph"

    columns: npt.NDArray[np.unsignedinteger[Any]]
    counts: npt.NDArray[np.unsignedinteger[Any]]
    weight: float
    n_items: int

    @classmethod
    def of(cls, train: sparse.csr_matrix, vectors: Float32, weight: float) -> GraphFilter:
        """From training pairs (N, M) and vectors (M, k); k is 0 where there are none."""
        kind = unsigned(int(train.shape[1]))
        lengths = np.full(vectors.shape[0], vectors.shape[1], dtype=np.int64)
        return cls(
            Values.of(vectors, lengths), train.indices.astype(kind), np.diff(train.indptr).astype(kind),
            weight, int(train.shape[1]),
        )  # fmt: skip

    def arrays(self) -> dict[str, Array]:
        return super().arrays() | {"columns": self.columns, "counts": self.counts}

    def about(self) -> dict[str, Any]:
        k = self.values.count // max(self.n_items, 1)
        return super().about() | {"k": k, "weight": self.weight}

    @classmethod
    def read(cls, shape: tuple[int, int], about: Mapping[str, Any], parts: Parts) -> Self:
        n, m = shape
        counts, columns = read_rows(parts, n, m)
        lengths = np.full(m, at_least(about, "k", 0), dtype=np.int64)
        if (weight := finite(about, "weight")) < 0:
            raise ValueError(f"weight {weight}")
        return cls(Values.read(about, lengths, parts), columns, counts, weight, m)

    @cached_property
    def _parts(self) -> tuple[sparse.csr_matrix, Float32, Float32]:
        """R~, the roots of the items' degrees (at least 1), and V; made once."""
        starts = starts_of(self.counts).astype(np.int32)
        ones = np.ones(len(self.columns), dtype=np.float32)
        shape = (len(self.counts), self.n_items)
        pairs = sparse.csr_matrix((ones, self.columns.astype(np.int32), starts), shape=shape)
        normal, roots = normalised(pairs)
        k = self.values.count // max(self.n_items, 1)
        return normal, roots, self.values.flat().reshape(self.n_items, k)

    def scores(self, known: sparse.csr_matrix) -> Float32:
        normal, roots, vectors = self._parts
        found: Float32 = ((known @ normal.T) @ normal).toarray()
        if vectors.shape[1] and self.weight:
            scaled = known @ sparse.diags_array(1 / roots)
            found += np.float32(self.weight) * (((scaled @ vectors) @ vectors.T) * roots)
        return np.asarray(found, dtype=np.float32)

    def macs(self, known: sparse.csr_matrix) -> int:
        """Two sparse products for R~'R~, and two dense ones for V, at the users' items."""
        normal, _, vectors = self._parts
        between = known @ normal.T
        of_users = np.diff(normal.indptr).astype(np.int64)
        linear = int(degrees(normal)[known.indices].sum()) + int(of_users[between.indices].sum())
        k = vectors.shape[1]
        total: int = linear + k * (int(known.nnz) + int(known.shape[0]) * self.n_items)
        return total


def normalised(train: sparse.csr_matrix) -> tuple[sparse.csr_matrix, Float32]:
    """R~ = D_u^-1/2 R D_i^-1/2, and D_i^1/2 (M,); empty rows and columns have degree 1."""
    users = np.maximum(np.diff(train.indptr), 1)
    roots = np.sqrt(np.maximum(degrees(train), 1)).astype(np.float32)
    left = sparse.diags_array((1 / np.sqrt(users)).astype(np.float32))
    found = sparse.csr_matrix(left @ train @ sparse.diags_array(1 / roots), dtype=np.float32)
    return found, roots


class GFCF(Reference):
    """Scores r (R~'R~ + w D_i^-1/2 V V' D_i^1/2), r what the user has."""

    name = "gfcf"
    label = "GF-CF"
    options_type = GFCFOptions
    models = (GraphFilter,)
    grid: ClassVar[dict[str, tuple[Any, ...]]] = {"weight": (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)}
    usual: ClassVar[dict[str, Any]] = {"weight": 0.3}
    natural_ends: ClassVar[dict[str, tuple[Any, ...]]] = {"weight": (0.0,)}

    @classmethod
    def memory_needed(cls, train: sparse.csr_matrix, options: GFCFOptions) -> int:
        n, m = (int(side) for side in train.shape)
        k = min(options.factors, max(min(n, m) - 1, 0))
        return 4 * (3 * k + 2) * (n + m) + 40 * int(train.nnz)

    @classmethod
    def fit(cls, train: sparse.csr_matrix, options: GFCFOptions, seed: int) -> Model:
        k = min(options.factors, max(min(train.shape) - 1, 0)) if options.weight else 0
        return GraphFilter.of(train, _vectors(train, k), float(options.weight or 0.0))


_LAST: list[tuple[weakref.ref[sparse.csr_matrix], int, Float32]] = []


def _vectors(train: sparse.csr_matrix, k: int) -> Float32:
    """The first k right singular vectors of R~, (M, k); those of the last call are kept for other weights."""
    for known, width, found in _LAST:
        if known() is train and width == k:
            return found
    normal, _ = normalised(train)
    vectors = np.zeros((normal.shape[1], k), dtype=np.float32)
    if k:
        # A start of ones has a part of every vector but those that are orthogonal to it by symmetry.
        start = 1 + np.random.default_rng(0).random(min(normal.shape))
        vh: Any = "vh"  # scipy's stubs call it v
        by_row = svds(normal, k, v0=start, return_singular_vectors=vh, random_state=0)[2]
        vectors = np.ascontiguousarray(by_row.T, dtype=np.float32)
        _LAST[:] = [(weakref.ref(train), k, vectors)]
    return vectors
