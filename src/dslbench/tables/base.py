"""What a table is while it is trained or served, and what is kept of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from dslbench.errors import UsageError
from dslbench.ops.coded import CodedRows
from dslbench.tables.spec import Float32, TableSpec
from dslbench.words import times

Array = npt.NDArray[Any]
Int64 = npt.NDArray[np.int64]


class Table(nn.Module, ABC):
    """An (n, d) embedding table whose representation is the method's affair."""

    def __init__(self, spec: TableSpec) -> None:
        super().__init__()
        self.spec = spec

    @abstractmethod
    def full(self) -> Tensor:
        """All rows, (n, d), differentiable."""

    @abstractmethod
    def rows(self, ids: Tensor) -> Tensor:
        """The rows of `ids` (B,) int64, as (B, d), differentiable."""

    def operand(self) -> Tensor | CodedRows:
        """All rows for an operation that reads coded ones, too: as they are stored, or `full()`."""
        return self.full()

    def entries(self) -> Tensor:
        """All entries that may not be zero, in any shape, differentiable: for norms."""
        return self.full()

    @abstractmethod
    def live(self) -> int:
        """Number of stored parameters."""

    @abstractmethod
    def pack(self) -> Stored:
        """The table as it would be kept on disk."""


MakeTable = Callable[[TableSpec, np.random.Generator], Table]


class Stored(ABC):
    """An (n, d) table as it is kept. A form is one subclass in one file, found by its `form`.

    Attributes:
        form: its name in model files.
        shape: (n, d).
    """

    form: ClassVar[str]
    # Whether rows are made of what others are made of, too: their entries then are more than is stored.
    shares_rows: ClassVar[bool] = False
    shape: tuple[int, int]

    @property
    @abstractmethod
    def parameters(self) -> int:
        """Number of stored parameters."""

    @abstractmethod
    def arrays(self) -> dict[str, Array]:
        """What lies in the file, by name within the table."""

    def about(self) -> dict[str, Any]:
        """What the file's header says of the table beside shape and form; plain data."""
        return {}

    @classmethod
    @abstractmethod
    def read(cls, shape: tuple[int, int], about: Mapping[str, Any], parts: Parts) -> Self:
        """The table of `arrays` and `about`.

        Takes every array out of `parts`. Raises `ValueError`, `KeyError` or `TypeError` for what is
        not exactly as this form writes it: what is packed again must be what was read.
        """

    @abstractmethod
    def entries(self) -> Int64:
        """(n,) how many entries each row stores."""

    @abstractmethod
    def live(self) -> npt.NDArray[np.bool_]:
        """(n, d) which columns of each row hold something."""

    @abstractmethod
    def unpack(self) -> Float32:
        """The (n, d) matrix it stands for, zeros where nothing is stored."""

    @abstractmethod
    def table(self, spec: TableSpec) -> Table:
        """A table, not to be trained, that looks up what is stored as it is stored."""

    @property
    def precision(self) -> str:
        """How values are kept; a form with values of a kind of its own says its name."""
        return self.form

    def rounded(self, precision: str) -> Self:
        """The same entries at another precision (`dslbench.tables.stored.values`).

        Raises `UsageError` for a precision that the form has not, `ValueError` for values that cannot be
        rounded to it.
        """
        if precision == self.precision:
            return self
        raise UsageError(
            f"form '{self.form}' of a table has no precision {precision}", "leave --precision out"
        )

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays, as they lie on disk; the file's header comes on top."""
        return sum(array.nbytes for array in self.arrays().values())

    def sizes(self) -> dict[str, int]:
        """Bytes in each form in which the same entries could be kept, this one among them."""
        return {"dense": 4 * self.shape[0] * self.shape[1], self.form: self.nbytes}


class Parts:
    """The arrays of one table of a model file, which are taken out one by one.

    Each `take` raises `KeyError` for what is missing, `ValueError` for another type or shape.
    """

    def __init__(self, name: str, arrays: dict[str, Array]) -> None:
        self._name, self._arrays = name, arrays

    def take(
        self, part: str, kind: npt.DTypeLike, shape: tuple[int, ...] | None = None
    ) -> npt.NDArray[Any]:
        """An array of this type and shape; `shape` None: of any length, with one axis."""
        key = f"{self._name}.{part}"
        array = self._arrays.pop(key)
        if array.dtype != kind or array.ndim != (1 if shape is None else len(shape)):
            raise ValueError(f"'{key}' is {array.dtype} with {array.ndim} axes")
        if shape is not None and array.shape != shape:
            raise ValueError(f"'{key}' is {times(array.shape)}, not {times(shape)}")
        return array

    def take_any(self, part: str) -> npt.NDArray[Any]:
        """An array of any type and shape."""
        return self._arrays.pop(f"{self._name}.{part}")


def sizes_by_form(tables: Iterable[Stored]) -> dict[str, int | None]:
    """Bytes of all tables' arrays in each form that one of them can have, as they would lie on disk.

    A table without that form counts as it is stored where another is stored in it, else the size is None.
    """
    tables = list(tables)
    found: dict[str, int | None] = {}
    for form in sorted({form for table in tables for form in table.sizes()}):
        mixed = any(table.form == form for table in tables)
        parts = [table.sizes().get(form, table.nbytes if mixed else -1) for table in tables]
        found[form] = None if -1 in parts else sum(parts)
    return found
