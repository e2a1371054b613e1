"""Every entry, row by row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from dslbench.ops.coded import CodedRows
from dslbench.tables.base import Int64, Parts, Table
from dslbench.tables.spec import Float32, TableSpec
from dslbench.tables.stored._valued import Served, Valued
from dslbench.tables.stored.values import Values


@dataclass(frozen=True)
class Dense(Valued):
    """`values`, n rows of d."""

    form: ClassVar[str] = "dense"

    @classmethod
    def of(cls, full: npt.NDArray[Any], precision: str = "fp32") -> Self:
        """The (n, d) matrix, copied."""
        n, d = full.shape
        return cls((n, d), Values.of(np.array(full, dtype=np.float32), _lengths(n, d), precision))

    @classmethod
    def read(cls, shape: tuple[int, int], about: Mapping[str, Any], parts: Parts) -> Self:
        if shape[0] and not shape[1]:
            raise ValueError(f"{shape[0]:,} rows of no columns")
        return cls(shape, Values.read(about, _lengths(*shape), parts))

    def live(self) -> npt.NDArray[np.bool_]:
        return np.ones(self.shape, dtype=bool)

    def unpack(self) -> Float32:
        return self.values.flat().reshape(self.shape).copy()

    def table(self, spec: TableSpec) -> Table:
        return ServedDense(spec, self)


class ServedDense(Served):
    """Looks up a stored matrix."""

    def operand(self) -> Tensor | CodedRows:
        return self.values.coded(self.spec.dim) or self.full()

    def full(self) -> Tensor:
        return self.values.all_values().view(self.spec.n_rows, self.spec.dim)

    def rows(self, ids: Tensor) -> Tensor:
        if self.values.precision == "fp32":
            return nn.functional.embedding(ids, self.full())
        found: Tensor = self.values.of_rows(ids.reshape(-1))[0]
        return found.view(*ids.shape, self.spec.dim)


def _lengths(n: int, d: int) -> Int64:
    return np.broadcast_to(np.int64(d), n)
