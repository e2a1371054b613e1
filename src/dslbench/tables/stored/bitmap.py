"""Live entries row by row, float32, and a bit for each entry that says whether it is one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dslbench.ops import packed
from dslbench.tables.base import Array, Int64, Parts, Stored, Table
from dslbench.tables.spec import Float32, TableSpec, unsigned


@dataclass(frozen=True)
class Bitmap(Stored):
    """`values`; `bits`, (n, ceil(d / 8)) uint8, bit k of a row set where column k is live (little-endian
    within a byte); `counts`, live entries of each row, in the smallest unsigned integer that holds d.
    """

    form: ClassVar[str] = "bitmap"

    shape: tuple[int, int]
    values: Float32
    bits: npt.NDArray[np.uint8]

    @classmethod
    def of(cls, full: npt.NDArray[Any], mask: npt.NDArray[np.bool_]) -> Self:
        """The entries of an (n, d) matrix that are live in a mask of its shape."""
        n, d = full.shape
        values = np.asarray(full[mask], dtype=np.float32)
        return cls((n, d), values, np.packbits(mask, axis=1, bitorder="little"))

    @staticmethod
    def size(n: int, d: int, live: int) -> int:
        """Bytes of n rows of d columns with so many live entries."""
        return 4 * live + n * (-(-d // 8)) + n * np.dtype(unsigned(d)).itemsize

    @property
    def parameters(self) -> int:
        return int(self.values.size)

    def arrays(self) -> dict[str, Array]:
        counts = self.entries().astype(unsigned(self.shape[1]))
        return {"values": self.values, "counts": counts, "bits": self.bits}

    @classmethod
    def read(cls, shape: tuple[int, int], about: Mapping[str, Any], parts: Parts) -> Self:
        n, d = shape
        values = parts.take("values", np.float32)
        counts = parts.take("counts", unsigned(d), (n,))
        found = cls(shape, values, parts.take("bits", np.uint8, (n, -(-d // 8))))
        beyond = found.bits[:, -1] >> (d % 8) if d % 8 else np.zeros(1, dtype=np.uint8)
        if (
            beyond.any()
            or not np.array_equal(found.entries(), counts)
            or counts.sum(dtype=np.int64) != values.size
        ):
            raise ValueError(f"{values.size} values: bits and counts of live entries don't add up")
        return found

    def entries(self) -> Int64:
        found: Int64 = np.bitwise_count(self.bits).sum(axis=1, dtype=np.int64)
        return found

    def live(self) -> npt.NDArray[np.bool_]:
        return np.unpackbits(self.bits, axis=1, count=self.shape[1], bitorder="little").view(bool)

    def unpack(self) -> Float32:
        full = np.zeros(self.shape, dtype=np.float32)
        full[self.live()] = self.values
        return full

    def sizes(self) -> dict[str, int]:
        n, d = self.shape
        column = np.dtype(unsigned(d)).itemsize
        return super().sizes() | {"csr": self.parameters * (4 + column) + n * column}

    def table(self, spec: TableSpec) -> Table:
        return ServedBitmap(spec, self)


class ServedBitmap(Table):
    """Spreads the stored rows that are asked for."""

    values: Tensor
    bits: Tensor
    starts: Tensor

    def __init__(self, spec: TableSpec, stored: Bitmap) -> None:
        super().__init__(spec)
        self._stored = stored
        self.register_buffer("values", torch.tensor(stored.values))
        self.register_buffer("bits", torch.tensor(stored.bits))
        self.register_buffer("starts", packed.row_starts(stored.bits))

    def full(self) -> Tensor:
        return packed.spread(self.values, self.bits, self.starts, self.spec.dim)

    def rows(self, ids: Tensor) -> Tensor:
        return packed.spread_chosen(self.values, self.bits, self.starts, self.spec.dim, ids)

    def entries(self) -> Tensor:
        return self.values

    def live(self) -> int:
        return self._stored.parameters

    def pack(self) -> Stored:
        return self._stored
