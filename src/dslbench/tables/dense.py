"""The ordinary table: one parameter, every entry stored."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from dslbench.tables.base import StoredTable, Table, TableSpec


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

    def pack(self) -> StoredTable:
        weight = self.weight.detach().cpu().numpy()
        return StoredTable((weight.shape[0], weight.shape[1]), weight.reshape(-1).copy(), None)

    @torch.no_grad()
    def load(self, stored: StoredTable) -> None:
        self.weight.copy_(torch.from_numpy(stored.unpack()))
