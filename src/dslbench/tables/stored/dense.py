"""Every entry, row by row, float32."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dslbench.tables.base import Array, Int64, Parts, Stored, Table
from dslbench.tables.spec import Float32, TableSpec


@dataclass(frozen=True)
class Dense(Stored):
    """`values`, n d float32."""

    form: ClassVar[str] = "dense"

    shape: tuple[int, int]
    values: Float32

    @classmethod
    def of(cls, full: npt.NDArray[Any]) -> Self:
        """The (n, d) matrix, copied."""
        n, d = full.shape
        return cls((n, d), np.array(full, dtype=np.float32).reshape(-1))

    @property
    def parameters(self) -> int:
        return int(self.values.size)

    def arrays(self) -> dict[str, Array]:
        return {"values": self.values}

    @classmethod
    def read(cls, shape: tuple[int, int], about: Mapping[str, Any], parts: Parts) -> Self:
        return cls(shape, parts.take("values", np.float32, (shape[0] * shape[1],)))

    def entries(self) -> Int64:
        return np.full(self.shape[0], self.shape[1], dtype=np.int64)

    def live(self) -> npt.NDArray[np.bool_]:
        return np.ones(self.shape, dtype=bool)

    def unpack(self) -> Float32:
        return self.values.reshape(self.shape).copy()

    def table(self, spec: TableSpec) -> Table:
        return ServedDense(spec, self)


class ServedDense(Table):
    """Looks up a stored matrix."""

    values: Tensor

    def __init__(self, spec: TableSpec, stored: Dense) -> None:
        super().__init__(spec)
        self._stored = stored
        self.register_buffer("values", torch.tensor(stored.values).view(stored.shape))

    def full(self) -> Tensor:
        return self.values

    def rows(self, ids: Tensor) -> Tensor:
        return nn.functional.embedding(ids, self.values)

    def live(self) -> int:
        return self._stored.parameters

    def pack(self) -> Stored:
        return self._stored
