"""Live entries row by row, with the column of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from dslbench.tables.base import Array, Parts, Table
from dslbench.tables.spec import Float32, TableSpec, unsigned
from dslbench.tables.stored._valued import Valued
from dslbench.tables.stored.bitmap import Bitmap, ServedBitmap
from dslbench.tables.stored.values import Values


@dataclass(frozen=True)
class Csr(Valued):
    """`values`; `columns`, in the smallest unsigned integer that holds d; `counts`, entries of each row."""

    form: ClassVar[str] = "csr"

    columns: npt.NDArray[np.unsignedinteger[Any]]
    counts: npt.NDArray[np.unsignedinteger[Any]]

    @classmethod
    def of(cls, full: npt.NDArray[Any], mask: npt.NDArray[np.bool_]) -> Self:
        """The entries of an (n, d) matrix that are live in a mask of its shape."""
        n, d = full.shape
        kind = unsigned(d)
        columns = np.broadcast_to(np.arange(d, dtype=kind), mask.shape)[mask]
        counts = mask.sum(axis=1, dtype=np.int64)
        return cls((n, d), Values.of(full[mask], counts), columns, counts.astype(kind))

    def arrays(self) -> dict[str, Array]:
        return self.values.arrays() | {"counts": self.counts, "columns": self.columns}

    @classmethod
    def read(cls, shape: tuple[int, int], about: Mapping[str, Any], parts: Parts) -> Self:
        n, d = shape
        counts = parts.take("counts", unsigned(d), (n,))
        values = Values.read(about, counts.astype(np.int64), parts)
        columns = parts.take("columns", unsigned(d), (values.count,))
        found = cls(shape, values, columns, counts)
        live = found.live()
        if not np.array_equal(np.nonzero(live)[1], found.columns) or not np.array_equal(
            live.sum(axis=1), counts
        ):
            raise ValueError("columns of live entries are not in order, or stand twice")
        return found

    def live(self) -> npt.NDArray[np.bool_]:
        mask = np.zeros(self.shape, dtype=bool)
        mask[np.repeat(np.arange(self.shape[0]), self.entries()), self.columns] = True
        return mask

    def unpack(self) -> Float32:
        full = np.zeros(self.shape, dtype=np.float32)
        full[self.live()] = self.values.flat()
        return full

    def sizes(self) -> dict[str, int]:
        n, d = self.shape
        bits = n * (-(-d // 8)) + self.counts.nbytes
        return super().sizes() | {"bitmap": self.values.nbytes + bits}

    def table(self, spec: TableSpec) -> Table:
        bits = np.packbits(self.live(), axis=1, bitorder="little")
        return ServedBitmap(spec, Bitmap(self.shape, self.values, bits))
