"""The columns of a table as they are read, before what they mean is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dslbench.data.interactions import Int32
from dslbench.data.raw import Labels
from dslbench.errors import DataError

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Table:
    """Columns by position: ranks in distinct texts, and these. `line` of a row, where it has one."""

    name: str
    rows: int
    columns: dict[int, tuple[Int32, Labels]]
    line: Callable[[int], int | None] = lambda row: None

    def refuse(self, row: int, problem: str, hint: str | None = None) -> DataError:
        """The error for what is wrong in a row."""
        line = self.line(row)
        where = f", line {line}" if line is not None else f", row {row + 1}"
        return DataError(f"{self.name}{where}: {problem}", hint)
