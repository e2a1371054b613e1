"""The ordinary table: one parameter, every entry stored."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from dslbench.tables.base import Stored, Table
from dslbench.tables.spec import TableSpec
from dslbench.tables.stored.dense import Dense


class DenseTable(Table):
    """An (n, d) float32 parameter."""

    def __init__(self, spec: TableSpec, rng: np.random.Generator) -> None:
        super().__init__(spec)
        self.weight = nn.Parameter(torch.from_numpy(spec.init(rng, spec.n_rows, spec.dim)))

    def full(self) -> Tensor:
        return self.weight

    def rows(self, ids: Tensor) -> Tensor:
        return nn.functional.embedding(ids, self.weight)

    def live(self) -> int:
        return self.weight.numel()

    def pack(self) -> Stored:
        return Dense.of(self.full().detach().cpu().numpy())
