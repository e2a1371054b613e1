"""Rows of codes: each names one of a few centroids for every part of the row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dslbench.errors import UsageError
from dslbench.tables.base import Array, Int64, Parts, Stored, Table
from dslbench.tables.spec import Float32, TableSpec


def part_of_column(d: int, parts: int) -> Int64:
    """(d,) which part a column belongs to; parts are as equal as can be, the wider ones first."""
    widths = [len(part) for part in np.array_split(np.arange(d), parts)]
    return np.repeat(np.arange(parts), widths)


@dataclass(frozen=True)
class Codes(Stored):
    """Column j of row r is `centroids`[`codes`[r, p], j], p the part that j belongs to.

    `centroids` is (K, d) float32 with K up to 256, `codes` (n, parts) uint8. Parameters are the centroids;
    codes count in bytes, as a mask's bits do.
    """

    form: ClassVar[str] = "codes"
    shares_rows: ClassVar[bool] = True

    shape: tuple[int, int]
    codes: npt.NDArray[np.uint8]
    centroids: Float32

    @staticmethod
    def size(n: int, d: int, parts: int, k: int) -> int:
        """Bytes of n rows."""
        return n * parts + 4 * k * d

    @property
    def precision(self) -> str:
        return f"{self.codes.shape[1]} codes"

    def rounded(self, precision: str) -> Self:
        if precision in ("fp32", self.precision):  # what the file has is exact
            return self
        raise UsageError(
            f"rows of codes have no precision {precision}: their size is set by the number of codes",
            "leave --precision out",
        )

    @property
    def parameters(self) -> int:
        return self.centroids.size

    def arrays(self) -> dict[str, Array]:
        return {"codes": self.codes, "centroids": self.centroids}

    def about(self) -> dict[str, Any]:
        return {"parts": self.codes.shape[1], "centroids": len(self.centroids)}

    @classmethod
    def read(cls, shape: tuple[int, int], about: Mapping[str, Any], parts: Parts) -> Self:
        n, d = shape
        count, k = about["parts"], about["centroids"]
        if not (type(count) is int and type(k) is int and 1 <= count <= d and 1 <= k <= 256):
            raise ValueError(f"{count!r} parts of {d} columns, {k!r} centroids")
        codes = parts.take("codes", np.uint8, (n, count))
        if codes.max(initial=0) >= k:
            raise ValueError(f"codes beyond {k} centroids")
        return cls(shape, codes, parts.take("centroids", np.float32, (k, d)))

    def entries(self) -> Int64:
        return np.full(self.shape[0], self.shape[1], dtype=np.int64)

    def live(self) -> npt.NDArray[np.bool_]:
        return np.ones(self.shape, dtype=bool)

    def unpack(self) -> Float32:
        d = self.shape[1]
        found: Float32 = self.centroids[
            self.codes[:, part_of_column(d, self.codes.shape[1])], np.arange(d)
        ]
        return found

    def table(self, spec: TableSpec) -> Table:
        return ServedCodes(spec, self)


class ServedCodes(Table):
    """Looks the centroids of the rows up that are asked for."""

    codes: Tensor
    centroids: Tensor
    parts: Tensor

    def __init__(self, spec: TableSpec, stored: Codes) -> None:
        super().__init__(spec)
        self._stored = stored
        self.register_buffer("codes", torch.tensor(stored.codes))
        self.register_buffer("centroids", torch.tensor(stored.centroids))
        parts = part_of_column(spec.dim, stored.codes.shape[1])
        self.register_buffer("parts", torch.from_numpy(parts))

    def full(self) -> Tensor:
        return look_up(self.centroids, self.codes, self.parts)

    def rows(self, ids: Tensor) -> Tensor:
        found = look_up(self.centroids, self.codes[ids.reshape(-1)], self.parts)
        return found.view(*ids.shape, self.spec.dim)

    def live(self) -> int:
        return self._stored.parameters

    def pack(self) -> Stored:
        return self._stored


def look_up(centroids: Tensor, codes: Tensor, parts: Tensor) -> Tensor:
    """Rows (B, d) of codes (B, parts), differentiable with respect to the centroids (K, d)."""
    return centroids.gather(0, codes[:, parts].long())
