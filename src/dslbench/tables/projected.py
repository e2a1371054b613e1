"""A table that is a linear map of a frozen, wider one."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from dslbench.ops.topology import ProjectRows
from dslbench.tables.base import Stored, Table
from dslbench.tables.spec import TableSpec, xavier_uniform
from dslbench.tables.stored.dense import Dense


class ProjectedTable(Table):
    """(n, e) rows E W + b of a frozen (n, d) table E, with a W and a b for each segment.

    Only W (Xavier-uniform) and b (zeros) are trained. Stored is the finished product.

    Args:
        spec: of the (n, e) table.
        frozen: E, (n, d).
        rng: draws W.
    """

    frozen: Tensor

    def __init__(self, spec: TableSpec, frozen: Tensor, rng: np.random.Generator) -> None:
        super().__init__(spec)
        self.register_buffer("frozen", frozen.detach().clone(), persistent=False)
        d = frozen.shape[1]
        self.weights = nn.ParameterList(
            nn.Parameter(torch.from_numpy(xavier_uniform(rng, d, spec.dim))) for _ in spec.segments
        )
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(spec.dim)) for _ in spec.segments)
        self.project = ProjectRows()

    def full(self) -> Tensor:
        parts = torch.split(self.frozen, [rows for _, rows in self.spec.segments])
        columns = zip(parts, self.weights, self.biases, strict=True)
        return torch.cat([self.project(*column) for column in columns])

    def rows(self, ids: Tensor) -> Tensor:
        if len(self.spec.segments) > 1:
            return self.full()[ids]
        return self.project(self.frozen[ids], self.weights[0], self.biases[0])  # type: ignore[no-any-return]

    def live(self) -> int:
        return self.spec.n_rows * self.spec.dim

    def pack(self) -> Stored:
        return Dense.of(self.full().detach().cpu().numpy())
