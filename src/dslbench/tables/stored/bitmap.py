"""Live entries row by row, and a bit for each entry that says whether it is one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dslbench.ops import packed
from dslbench.ops.coded import CodedRows
from dslbench.tables.base import Array, Parts, Table
from dslbench.tables.spec import Float32, TableSpec, unsigned
from dslbench.tables.stored._valued import Served, Valued
from dslbench.tables.stored.values import Values, as_tensor


@dataclass(frozen=True)
class Bitmap(Valued):
    """`values`; `bits`, (n, ceil(d / 8)) uint8, bit k of a row set where column k is live (little-endian
    within a byte); `counts`, live entries of each row, in the smallest unsigned integer that holds d.
    """

    form: ClassVar[str] = "bitmap"

    bits: npt.NDArray[np.uint8]

    @classmethod
    def of(
        cls, full: npt.NDArray[Any], mask: npt.NDArray[np.bool_], precision: str = "fp32"
    ) -> Self:
        """The entries of an (n, d) matrix that are live in a mask of its shape."""
        n, d = full.shape
        values = Values.of(full[mask], mask.sum(axis=1, dtype=np.int64), precision)
        return cls((n, d), values, np.packbits(mask, axis=1, bitorder="little"))

    @staticmethod
    def size(n: int, d: int, live: int) -> int:
        """Bytes of n rows of d columns with so many live entries, as float32."""
        return 4 * live + n * (-(-d // 8)) + n * np.dtype(unsigned(d)).itemsize

    def arrays(self) -> dict[str, Array]:
        counts = self.entries().astype(unsigned(self.shape[1]))
        return self.values.arrays() | {"counts": counts, "bits": self.bits}

    @classmethod
    def read(cls, shape: tuple[int, int], about: Mapping[str, Any], parts: Parts) -> Self:
        n, d = shape
        counts = parts.take("counts", unsigned(d), (n,)).astype(np.int64)
        bits = parts.take("bits", np.uint8, (n, -(-d // 8)))
        beyond = bits[:, -1] >> (d % 8) if d % 8 else np.zeros(1, dtype=np.uint8)
        if beyond.any() or not np.array_equal(
            np.bitwise_count(bits).sum(axis=1, dtype=np.int64), counts
        ):
            raise ValueError("bits and counts of live entries don't add up")
        return cls(shape, Values.read(about, counts, parts), bits)

    def live(self) -> npt.NDArray[np.bool_]:
        return np.unpackbits(self.bits, axis=1, count=self.shape[1], bitorder="little").view(bool)

    def unpack(self) -> Float32:
        full = np.zeros(self.shape, dtype=np.float32)
        full[self.live()] = self.values.flat()
        return full

    def sizes(self) -> dict[str, int]:
        n, d = self.shape
        column = np.dtype(unsigned(d)).itemsize
        return super().sizes() | {"csr": self.values.nbytes + (self.parameters + n) * column}

    def table(self, spec: TableSpec) -> Table:
        return ServedBitmap(spec, self)


class ServedBitmap(Served):
    """Spreads the stored rows that are asked for."""

    bits: Tensor

    def __init__(self, spec: TableSpec, stored: Bitmap) -> None:
        super().__init__(spec, stored)
        self.register_buffer("bits", as_tensor(stored.bits))

    def operand(self) -> Tensor | CodedRows:
        return self.values.coded(self.spec.dim, self.bits) or self.full()

    def full(self) -> Tensor:
        return packed.spread(self.values.all_values(), self.bits, self.values.starts, self.spec.dim)

    def rows(self, ids: Tensor) -> Tensor:
        d = self.spec.dim
        if self.values.precision == "fp32":
            return packed.spread_chosen(
                self.values.all_values(), self.bits, self.values.starts, d, ids
            )
        flat = ids.reshape(-1)
        values, begin = self.values.of_rows(flat)
        rows = packed.spread(values, self.bits[flat], begin.to(torch.int32), d)
        return rows.view(*ids.shape, d)

    def entries(self) -> Tensor:
        return self.values.all_values()
