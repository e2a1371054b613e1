"""Live entries row by row, float32, with the column of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from dslbench.tables.base import Array, Int64, Parts, Stored, Table
from dslbench.tables.spec import Float32, TableSpec, unsigned
from dslbench.tables.stored.bitmap import Bitmap, ServedBitmap


@dataclass(frozen=True)
class Csr(Stored):
    """`values`; `columns`, in the smallest unsigned integer that holds d; `counts`, entries of each row."""

    form: ClassVar[str] = "csr"

    shape: tuple[int, int]
    values: Float32
    columns: npt.NDArray[np.unsignedinteger[Any]]
    counts: npt.NDArray[np.unsignedinteger[Any]]

    @classmethod
    def of(cls, full: npt.NDArray[Any], mask: npt.NDArray[np.bool_]) -> Self:
        """The entries of an (n, d) matrix that are live in a mask of its shape."""
        n, d = full.shape
        kind = unsigned(d)
        columns = np.broadcast_to(np.arange(d, dtype=kind), mask.shape)[mask]
        values = np.asarray(full[mask], dtype=np.float32)
        return cls((n, d), values, columns, mask.sum(axis=1).astype(kind))

    @property
    def parameters(self) -> int:
        return int(self.values.size)

    def arrays(self) -> dict[str, Array]:
        return {"values": self.values, "counts": self.counts, "columns": self.columns}

    @classmethod
    def read(cls, shape: tuple[int, int], about: Mapping[str, Any], parts: Parts) -> Self:
        n, d = shape
        values = parts.take("values", np.float32)
        counts = parts.take("counts", unsigned(d), (n,))
        if values.size != counts.sum(dtype=np.int64):
            raise ValueError(f"{values.size} values for {counts.sum(dtype=np.int64)} entries")
        found = cls(shape, values, parts.take("columns", unsigned(d), values.shape), counts)
        live = found.live()
        if not np.array_equal(np.nonzero(live)[1], found.columns) or not np.array_equal(
            live.sum(axis=1), counts
        ):
            raise ValueError("columns of live entries are not in order, or stand twice")
        return found

    def entries(self) -> Int64:
        return self.counts.astype(np.int64)

    def live(self) -> npt.NDArray[np.bool_]:
        mask = np.zeros(self.shape, dtype=bool)
        mask[np.repeat(np.arange(self.shape[0]), self.entries()), self.columns] = True
        return mask

    def unpack(self) -> Float32:
        full = np.zeros(self.shape, dtype=np.float32)
        full[self.live()] = self.values
        return full

    def sizes(self) -> dict[str, int]:
        return super().sizes() | {"bitmap": Bitmap.size(*self.shape, self.parameters)}

    def table(self, spec: TableSpec) -> Table:
        bits = np.packbits(self.live(), axis=1, bitorder="little")
        return ServedBitmap(spec, Bitmap(self.shape, self.values, bits))
