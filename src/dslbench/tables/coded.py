"""A table of fixed codes, whose centroids are trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dslbench.tables.base import Stored, Table
from dslbench.tables.spec import TableSpec
from dslbench.tables.stored.codes import Codes, look_up, part_of_column


class CodedTable(Table):
    """(n, d) rows of codes (n, parts) into centroids (K, d); the codes stay as they are.

    Args:
        spec: of the (n, d) table.
        start: codes, and what the centroids start from.
    """

    codes: Tensor
    parts: Tensor

    def __init__(self, spec: TableSpec, start: Codes) -> None:
        super().__init__(spec)
        self.centroids = nn.Parameter(torch.tensor(start.centroids))
        self.register_buffer("codes", torch.tensor(start.codes), persistent=False)
        parts = torch.from_numpy(part_of_column(spec.dim, start.codes.shape[1]))
        self.register_buffer("parts", parts, persistent=False)

    def full(self) -> Tensor:
        return look_up(self.centroids, self.codes, self.parts)

    def rows(self, ids: Tensor) -> Tensor:
        found = look_up(self.centroids, self.codes[ids.reshape(-1)], self.parts)
        return found.view(*ids.shape, self.spec.dim)

    def live(self) -> int:
        return self.centroids.numel()

    def pack(self) -> Stored:
        shape = self.spec.n_rows, self.spec.dim
        return Codes(shape, self.codes.cpu().numpy(), self.centroids.detach().cpu().numpy().copy())
