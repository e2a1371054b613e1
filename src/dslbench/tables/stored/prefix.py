"""Rows of different widths, which are the first columns of the whole ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dslbench.ops.coded import CodedRows
from dslbench.tables.base import Array, Int64, Parts, Table
from dslbench.tables.spec import Float32, TableSpec, unsigned
from dslbench.tables.stored._valued import Served, Valued
from dslbench.tables.stored.values import Values


@dataclass(frozen=True)
class Prefix(Valued):
    """`values`, the rows one after the other; `counts`, their widths. What lies behind a row is zero."""

    form: ClassVar[str] = "prefix"

    @classmethod
    def of(cls, full: Float32, widths: Int64, precision: str = "fp32") -> Self:
        """The first columns of an (n, d) matrix, so many of each row."""
        return cls(full.shape, Values.of(full[_live(widths, full.shape[1])], widths, precision))

    @staticmethod
    def size(n: int, d: int, live: int) -> int:
        """Bytes of n rows of at most d columns with so many entries, as float32."""
        return 4 * live + n * np.dtype(unsigned(d)).itemsize

    def arrays(self) -> dict[str, Array]:
        counts = self.values.lengths.astype(unsigned(self.shape[1]))
        return self.values.arrays() | {"counts": counts}

    @classmethod
    def read(cls, shape: tuple[int, int], about: Mapping[str, Any], parts: Parts) -> Self:
        widths = parts.take("counts", unsigned(shape[1]), (shape[0],)).astype(np.int64)
        if widths.max(initial=0) > shape[1]:
            raise ValueError(f"rows wider than {shape[1]}")
        return cls(shape, Values.read(about, widths, parts))

    def live(self) -> npt.NDArray[np.bool_]:
        return _live(self.values.lengths, self.shape[1])

    def unpack(self) -> Float32:
        full = np.zeros(self.shape, dtype=np.float32)
        full[self.live()] = self.values.flat()
        return full

    def table(self, spec: TableSpec) -> Table:
        return ServedPrefix(spec, self)


class ServedPrefix(Served):
    """Fills up the rows that are asked for with zeros."""

    def operand(self) -> Tensor | CodedRows:
        return self.values.coded(self.spec.dim) or self.full()

    def full(self) -> Tensor:
        return self._filled(self.values.all_values(), self.values.starts)

    def rows(self, ids: Tensor) -> Tensor:
        return self._filled(*self.values.of_rows(ids.reshape(-1))).view(*ids.shape, self.spec.dim)

    def _filled(self, values: Tensor, starts: Tensor) -> Tensor:
        columns = torch.arange(self.spec.dim, device=values.device)
        live = columns < starts.diff().unsqueeze(1)
        return values.new_zeros(live.shape).masked_scatter_(live, values)


def _live(widths: Int64, d: int) -> npt.NDArray[np.bool_]:
    return np.arange(d) < widths[:, None]
