"""What references store: one score an item, and item-to-item weights, dense or sparse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from scipy import sparse

from dslbench.ops.low_bits import starts_of
from dslbench.references.base import Array, Float32, Model
from dslbench.tables.base import Parts
from dslbench.tables.spec import unsigned
from dslbench.tables.stored import Values


def degrees(matrix: sparse.csr_matrix) -> npt.NDArray[np.int64]:
    """(M,) pairs of each item of a binary CSR (N, M)."""
    return np.bincount(matrix.indices, minlength=matrix.shape[1]).astype(np.int64)


@dataclass(frozen=True)
class Constant(Model):
    """The same scores for everybody, (M,)."""

    form: ClassVar[str] = "vector"

    values: Float32

    def arrays(self) -> dict[str, Array]:
        return {"values": self.values}

    @classmethod
    def read(cls, shape: tuple[int, int], about: Mapping[str, Any], parts: Parts) -> Self:
        return cls(parts.take("values", np.float32, (shape[1],)))

    def scores(self, known: sparse.csr_matrix) -> Float32:
        return np.tile(self.values, (known.shape[0], 1))

    @property
    def parameters(self) -> int:
        return len(self.values)


@dataclass(frozen=True)
class DenseWeights(Model):
    """Weights W (M, M) in float32; scores are x W."""

    form: ClassVar[str] = "dense"

    weights: Float32

    def arrays(self) -> dict[str, Array]:
        return {"values": self.weights}

    @classmethod
    def read(cls, shape: tuple[int, int], about: Mapping[str, Any], parts: Parts) -> Self:
        return cls(parts.take("values", np.float32, (shape[1], shape[1])))

    def scores(self, known: sparse.csr_matrix) -> Float32:
        return np.asarray(known @ self.weights, dtype=np.float32)

    @property
    def parameters(self) -> int:
        return int(self.weights.size)

    def macs(self, known: sparse.csr_matrix) -> int:
        """A row of M weights for each item of each user."""
        return int(known.nnz) * int(self.weights.shape[1])


@dataclass(frozen=True)
class Valued(Model):
    """A form that is `values` at one of several precisions, and what says where they belong."""

    values: Values

    def arrays(self) -> dict[str, Array]:
        return self.values.arrays()

    def about(self) -> dict[str, Any]:
        return self.values.about()

    @property
    def parameters(self) -> int:
        return self.values.count

    @property
    def precision(self) -> str:
        return self.values.precision

    def rounded(self, precision: str) -> Self:
        return replace(self, values=self.values.rounded(precision))


def finite(about: Mapping[str, Any], key: str) -> float:
    """A number that a file says; raises `ValueError` for what is none, or none of float32."""
    found = about[key]
    if type(found) not in (int, float) or not abs(found) <= np.finfo(np.float32).max:
        raise ValueError(f"{key} {found!r} is no number")
    return float(found)


def at_least(about: Mapping[str, Any], key: str, least: int) -> int:
    """A whole number that a file says; raises `ValueError` for what is none, or below `least`."""
    found = about[key]
    if type(found) is not int or not least <= found < 1 << 31:
        raise ValueError(f"{key} {found!r} is no whole number from {least}")
    return found


def read_rows(
    parts: Parts, n: int, width: int
) -> tuple[npt.NDArray[np.unsignedinteger[Any]], npt.NDArray[np.unsignedinteger[Any]]]:
    """`counts` (n,) and `columns` of rows of distinct, ascending numbers below `width`, of a file.

    Raises `ValueError` where they are not.
    """
    kind = unsigned(width)
    counts, columns = parts.take("counts", kind, (n,)), parts.take("columns", kind)
    row = np.repeat(np.arange(n), counts)
    if len(row) != len(columns) or (columns >= width).any():
        raise ValueError(f"{len(columns)} columns below {width} for {len(row)} entries")
    if not ((np.diff(columns.astype(np.int64)) > 0) | (np.diff(row) > 0)).all():
        raise ValueError("columns that are not in order, or stand twice")
    return counts, columns


@dataclass(frozen=True)
class SparseWeights(Valued):
    """Weights W (M, M) row by row: `values`, `columns`, and `counts`, entries of each row; scores are x W.

    Columns and counts take 2 bytes below 65,536 items, else 4.
    """

    form: ClassVar[str] = "csr"

    columns: npt.NDArray[np.unsignedinteger[Any]]
    counts: npt.NDArray[np.unsignedinteger[Any]]

    @classmethod
    def of(cls, weights: sparse.csr_matrix) -> SparseWeights:
        """A CSR matrix; explicit zeros are left out."""
        weights = sparse.csr_matrix(weights, dtype=np.float32)
        weights.eliminate_zeros()
        weights.sort_indices()
        kind = unsigned(weights.shape[1])
        counts = np.diff(weights.indptr).astype(np.int64)
        return cls(
            Values.of(weights.data, counts), weights.indices.astype(kind), counts.astype(kind)
        )

    def arrays(self) -> dict[str, Array]:
        return super().arrays() | {"columns": self.columns, "counts": self.counts}

    @classmethod
    def read(cls, shape: tuple[int, int], about: Mapping[str, Any], parts: Parts) -> Self:
        counts, columns = read_rows(parts, shape[1], shape[1])
        return cls(Values.read(about, counts.astype(np.int64), parts), columns, counts)

    @cached_property
    def matrix(self) -> sparse.csr_matrix:
        """What is stored, decoded once."""
        starts = starts_of(self.counts)
        small = starts[-1] < 2**31
        kind = np.int32 if small else np.int64
        m = len(self.counts)
        return sparse.csr_matrix(
            (self.values.flat(), self.columns.astype(kind), starts.astype(kind)), shape=(m, m)
        )

    def scores(self, known: sparse.csr_matrix) -> Float32:
        return np.asarray((known @ self.matrix).toarray(), dtype=np.float32)

    def macs(self, known: sparse.csr_matrix) -> int:
        """The stored entries of the row of each item of each user."""
        return int(self.counts.astype(np.int64)[known.indices].sum())


@dataclass(frozen=True)
class Shifted(Model):
    """Scores of sparse weights and, the same for everybody, one number an item: `shift`, (M,) float32."""

    form: ClassVar[str] = "csr, shift"

    weights: SparseWeights
    shift: Float32

    def arrays(self) -> dict[str, Array]:
        return self.weights.arrays() | {"shift": self.shift}

    def about(self) -> dict[str, Any]:
        return self.weights.about()

    @classmethod
    def read(cls, shape: tuple[int, int], about: Mapping[str, Any], parts: Parts) -> Self:
        weights = SparseWeights.read(shape, about, parts)
        return cls(weights, parts.take("shift", np.float32, (shape[1],)))

    def scores(self, known: sparse.csr_matrix) -> Float32:
        return self.weights.scores(known) + self.shift

    @property
    def parameters(self) -> int:
        return self.weights.parameters + len(self.shift)

    def macs(self, known: sparse.csr_matrix) -> int:
        return self.weights.macs(known)

    @property
    def precision(self) -> str:
        return self.weights.precision

    def rounded(self, precision: str) -> Self:
        return replace(self, weights=self.weights.rounded(precision))


def of_padded(
    columns: npt.NDArray[np.int32], values: Float32, counts: npt.NDArray[np.int64]
) -> sparse.csr_matrix:
    """A CSR (M, M) of the first `counts` (M,) entries of each padded row, (M, k)."""
    live = np.arange(columns.shape[1]) < counts[:, None]
    shape = (len(columns),) * 2
    return sparse.csr_matrix((values[live], columns[live], starts_of(counts)), shape=shape)


def summing_to_one(weights: sparse.csr_matrix) -> sparse.csr_matrix:
    """Rows divided by their sums; those that have none stay as they are."""
    sums = np.asarray(weights.sum(axis=1)).ravel()
    return sparse.csr_matrix(sparse.diags_array(1 / np.where(sums > 0, sums, 1)) @ weights)


def largest(weights: Float32, share: float) -> sparse.csr_matrix:
    """The largest entries by magnitude of a matrix (n, m): exactly floor(share n m) of them, zeros left out.

    Of equal ones the first row by row. Takes no copy of the matrix: magnitudes are ranked by their bits,
    upper and lower half in a pass each.
    """
    wanted = int(share * weights.size)
    counts, parts = np.zeros(len(weights) + 1, dtype=np.int64), []
    threshold, equal = _threshold(weights, wanted)
    for row in range(len(weights)):
        size = np.abs(weights[row]).view(np.uint32)
        take = size > threshold
        if equal:
            same = np.flatnonzero(size == threshold)[:equal]
            take[same] = True
            equal -= len(same)
        columns = np.flatnonzero(take & (size > 0)).astype(np.int32)
        counts[row + 1] = len(columns)
        parts.append((columns, weights[row, columns]))
    columns = np.concatenate([c for c, _ in parts])
    values = np.concatenate([v for _, v in parts])
    return sparse.csr_matrix((values, columns, np.cumsum(counts)), shape=weights.shape)


def _threshold(weights: Float32, wanted: int) -> tuple[int, int]:
    """The bits of the `wanted`-th largest magnitude, and how many that are equal to it belong to these."""
    if wanted <= 0:
        return 0xFFFFFFFF, 0
    above, bits = 0, 0
    for level in range(2):
        histogram = np.zeros(1 << 16, dtype=np.int64)
        for row in weights:
            size = np.abs(row).view(np.uint32)
            size = size[(size >> 16) == bits >> 16] & 0xFFFF if level else size >> 16
            histogram += np.bincount(size, minlength=1 << 16)
        down = np.cumsum(histogram[::-1])[::-1]  # as large or larger
        place = int(np.flatnonzero(down >= wanted - above)[-1])
        above += int(down[place] - histogram[place])
        bits |= place << (0 if level else 16)
    return bits, wanted - above
