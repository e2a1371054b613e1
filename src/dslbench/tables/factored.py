"""A table that is the product of a tall matrix and a wide one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dslbench.ops.affine import FactorRows
from dslbench.tables.base import Stored, Table
from dslbench.tables.spec import TableSpec
from dslbench.tables.stored.factors import Factors


class FactoredTable(Table):
    """(n, d) rows L R of L (n, k) and R (k, d), both trained.

    Args:
        spec: of the (n, d) table.
        left, right: what it starts from.
    """

    def __init__(self, spec: TableSpec, left: Tensor, right: Tensor) -> None:
        super().__init__(spec)
        self.left = nn.Parameter(left.detach().clone(memory_format=torch.contiguous_format))
        self.right = nn.Parameter(right.detach().clone(memory_format=torch.contiguous_format))
        self.factor_rows = FactorRows()

    def full(self) -> Tensor:
        found: Tensor = self.factor_rows(self.left, self.right)
        return found

    def rows(self, ids: Tensor) -> Tensor:
        flat = nn.functional.embedding(ids.reshape(-1), self.left)
        found: Tensor = self.factor_rows(flat, self.right)
        return found.view(*ids.shape, self.spec.dim)

    def live(self) -> int:
        return self.left.numel() + self.right.numel()

    def pack(self) -> Stored:
        return Factors.of(self.left.detach().cpu().numpy(), self.right.detach().cpu().numpy())
