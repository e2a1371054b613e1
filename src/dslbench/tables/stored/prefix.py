"""Rows of different widths, which are the first columns of the whole ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dslbench.tables.base import Array, Int64, Parts, Stored, Table
from dslbench.tables.spec import Float32, TableSpec, unsigned
from dslbench.tables.stored.values import ServedValues, Values


@dataclass(frozen=True)
class Prefix(Stored):
    """`values`, the rows one after the other; `counts`, their widths. What lies behind a row is zero."""

    form: ClassVar[str] = "prefix"

    shape: tuple[int, int]
    values: Values

    @classmethod
    def of(cls, full: Float32, widths: Int64, precision: str = "fp32") -> Self:
        """The first columns of an (n, d) matrix, so many of each row."""
        return cls(full.shape, Values.of(full[_live(widths, full.shape[1])], widths, precision))

    @staticmethod
    def size(n: int, d: int, live: int) -> int:
        """Bytes of n rows of at most d columns with so many entries, as float32."""
        return 4 * live + n * np.dtype(unsigned(d)).itemsize

    @property
    def precision(self) -> str:
        return self.values.precision

    def rounded(self, precision: str) -> Self:
        return replace(self, values=self.values.rounded(precision))

    @property
    def parameters(self) -> int:
        return self.values.count

    def arrays(self) -> dict[str, Array]:
        counts = self.values.lengths.astype(unsigned(self.shape[1]))
        return self.values.arrays() | {"counts": counts}

    def about(self) -> dict[str, Any]:
        return self.values.about()

    @classmethod
    def read(cls, shape: tuple[int, int], about: Mapping[str, Any], parts: Parts) -> Self:
        widths = parts.take("counts", unsigned(shape[1]), (shape[0],)).astype(np.int64)
        if widths.max(initial=0) > shape[1]:
            raise ValueError(f"rows wider than {shape[1]}")
        return cls(shape, Values.read(about, widths, parts))

    def entries(self) -> Int64:
        return self.values.lengths

    def live(self) -> npt.NDArray[np.bool_]:
        return _live(self.values.lengths, self.shape[1])

    def unpack(self) -> Float32:
        full = np.zeros(self.shape, dtype=np.float32)
        full[self.live()] = self.values.flat()
        return full

    def table(self, spec: TableSpec) -> Table:
        return ServedPrefix(spec, self)


class ServedPrefix(Table):
    """Fills up the rows that are asked for with zeros."""

    def __init__(self, spec: TableSpec, stored: Prefix) -> None:
        super().__init__(spec)
        self._stored = stored
        self.values = ServedValues(stored.values)

    def full(self) -> Tensor:
        return self._filled(self.values.all_values(), self.values.starts)

    def rows(self, ids: Tensor) -> Tensor:
        return self._filled(*self.values.of_rows(ids.reshape(-1))).view(*ids.shape, self.spec.dim)

    def _filled(self, values: Tensor, starts: Tensor) -> Tensor:
        columns = torch.arange(self.spec.dim, device=values.device)
        live = columns < starts.diff().unsqueeze(1)
        return values.new_zeros(live.shape).masked_scatter_(live, values)

    def live(self) -> int:
        return self._stored.parameters

    def pack(self) -> Stored:
        return self._stored


def _live(widths: Int64, d: int) -> npt.NDArray[np.bool_]:
    return np.arange(d) < widths[:, None]
