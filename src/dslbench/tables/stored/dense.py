"""Every entry, row by row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from dslbench.tables.base import Array, Int64, Parts, Stored, Table
from dslbench.tables.spec import Float32, TableSpec
from dslbench.tables.stored.values import ServedValues, Values


@dataclass(frozen=True)
class Dense(Stored):
    """`values`, n rows of d."""

    form: ClassVar[str] = "dense"

    shape: tuple[int, int]
    values: Values

    @classmethod
    def of(cls, full: npt.NDArray[Any], precision: str = "fp32") -> Self:
        """The (n, d) matrix, copied."""
        n, d = full.shape
        return cls((n, d), Values.of(np.array(full, dtype=np.float32), _lengths(n, d), precision))

    @property
    def precision(self) -> str:
        return self.values.precision

    def rounded(self, precision: str) -> Self:
        return replace(self, values=self.values.rounded(precision))

    @property
    def parameters(self) -> int:
        return self.values.count

    def arrays(self) -> dict[str, Array]:
        return self.values.arrays()

    def about(self) -> dict[str, Any]:
        return self.values.about()

    @classmethod
    def read(cls, shape: tuple[int, int], about: Mapping[str, Any], parts: Parts) -> Self:
        return cls(shape, Values.read(about, _lengths(*shape), parts))

    def entries(self) -> Int64:
        return self.values.lengths

    def live(self) -> npt.NDArray[np.bool_]:
        return np.ones(self.shape, dtype=bool)

    def unpack(self) -> Float32:
        return self.values.flat().reshape(self.shape).copy()

    def table(self, spec: TableSpec) -> Table:
        return ServedDense(spec, self)


class ServedDense(Table):
    """Looks up a stored matrix."""

    def __init__(self, spec: TableSpec, stored: Dense) -> None:
        super().__init__(spec)
        self._stored = stored
        self.values = ServedValues(stored.values)

    def full(self) -> Tensor:
        return self.values.all_values().view(self.spec.n_rows, self.spec.dim)

    def rows(self, ids: Tensor) -> Tensor:
        if self.values.precision == "fp32":
            return nn.functional.embedding(ids, self.full())
        found: Tensor = self.values.of_rows(ids.reshape(-1))[0]
        return found.view(*ids.shape, self.spec.dim)

    def live(self) -> int:
        return self._stored.parameters

    def pack(self) -> Stored:
        return self._stored


def _lengths(n: int, d: int) -> Int64:
    return np.full(n, d, dtype=np.int64)
