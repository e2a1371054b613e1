"""Short rows, and one matrix that brings all of them to full width."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dslbench.ops.affine import FactorRows
from dslbench.tables.base import Array, Parts, Table
from dslbench.tables.spec import Float32, TableSpec
from dslbench.tables.stored._valued import Served, Valued
from dslbench.tables.stored.values import Values


@dataclass(frozen=True)
class Factors(Valued):
    """Row r stands for x_r R: `values`, n rows of k, and `right`, R (k, d), which stays float32."""

    form: ClassVar[str] = "factors"

    right: Float32

    @classmethod
    def of(cls, left: Float32, right: Float32, precision: str = "fp32") -> Self:
        """The product of (n, k) and (k, d)."""
        (n, k), d = left.shape, right.shape[1]
        values = Values.of(np.array(left), np.full(n, k, dtype=np.int64), precision)
        return cls((n, d), values, np.array(right, dtype=np.float32))

    @property
    def rank(self) -> int:
        """k."""
        return len(self.right)

    @property
    def parameters(self) -> int:
        return self.values.count + self.right.size

    def arrays(self) -> dict[str, Array]:
        return self.values.arrays() | {"right": self.right}

    def about(self) -> dict[str, Any]:
        return {"rank": self.rank} | self.values.about()

    @classmethod
    def read(cls, shape: tuple[int, int], about: Mapping[str, Any], parts: Parts) -> Self:
        n, d = shape
        rank = about["rank"]
        if type(rank) is not int or not 1 <= rank <= d:
            raise ValueError(f"rank {rank!r} of rows of {d}")
        right = parts.take("right", np.float32, (rank, d))
        return cls(shape, Values.read(about, np.full(n, rank, dtype=np.int64), parts), right)

    def live(self) -> npt.NDArray[np.bool_]:
        """The first k columns of each row: so many numbers it is made of."""
        return np.broadcast_to(np.arange(self.shape[1]) < self.rank, self.shape)

    def unpack(self) -> Float32:
        left = torch.from_numpy(self.values.flat().reshape(-1, self.rank))
        found: Float32 = (left @ torch.from_numpy(self.right)).numpy()
        return found

    def table(self, spec: TableSpec) -> Table:
        return ServedFactors(spec, self)


class ServedFactors(Served):
    """Multiplies the rows that are asked for; the product is on the bill."""

    right: Tensor

    def __init__(self, spec: TableSpec, stored: Factors) -> None:
        super().__init__(spec, stored)
        self._rank = stored.rank
        self.register_buffer("right", torch.tensor(stored.right))
        self.factor_rows = FactorRows()

    def full(self) -> Tensor:
        left = self.values.all_values().view(-1, self._rank)
        found: Tensor = self.factor_rows(left, self.right)
        return found

    def rows(self, ids: Tensor) -> Tensor:
        left = self.values.of_rows(ids.reshape(-1))[0].view(-1, self._rank)
        found: Tensor = self.factor_rows(left, self.right)
        return found.view(*ids.shape, self.spec.dim)
