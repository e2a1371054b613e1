"""What the forms have in common that keep numbers row by row, at one of several precisions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

from dslbench.tables.base import Array, Int64, Stored, Table
from dslbench.tables.spec import TableSpec
from dslbench.tables.stored.values import ServedValues, Values


@dataclass(frozen=True)
class Valued(Stored):
    """A form that is `values` and what says where they belong, which has no precision."""

    shape: tuple[int, int]
    values: Values

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

    def entries(self) -> Int64:
        return self.values.lengths


class Served(Table):
    """A table that looks up what is stored; not to be trained."""

    def __init__(self, spec: TableSpec, stored: Valued) -> None:
        super().__init__(spec)
        self._stored = stored
        self.values = ServedValues(stored.values)

    def live(self) -> int:
        return self._stored.parameters

    def pack(self) -> Stored:
        return self._stored
