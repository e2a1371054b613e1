"""A table whose rows are put together from fewer ones, all of them trained."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from dslbench.tables.base import Stored, Table
from dslbench.tables.spec import TableSpec
from dslbench.tables.stored.quotient import Combine, Plan, Quotient, combined


class ComposedTable(Table):
    """Rows of their own, and rows Q[p // m] o R[p mod m] (Shi et al., KDD 2020).

    Starts with the spread that the backbone gives its table: own rows are drawn as they would be, factors of
    a product from N(0, std), terms of a sum from N(0, std^2 / 2), std the deviation of the backbone's draw.

    Args:
        spec: of the (n, d) table.
        plan: which rows are made of which.
        combine: product or sum.
        rng: draws the start.
    """

    first: Tensor
    second: Tensor

    def __init__(
        self, spec: TableSpec, plan: Plan, combine: Combine, rng: np.random.Generator
    ) -> None:
        super().__init__(spec)
        self.plan, self.combine = plan, combine
        first, second, rows = plan.places()
        drawn = spec.init(rng, spec.n_rows, spec.dim)
        deviation = float(drawn.std()) or 1.0
        spread = np.sqrt(deviation) if combine == "mult" else deviation / np.sqrt(2)
        base = rng.standard_normal((rows, spec.dim), dtype=np.float32) * np.float32(spread)
        alone = second < 0
        base[first[alone]] = drawn[alone]
        self.base = nn.Parameter(torch.from_numpy(base))
        self.register_buffer("first", torch.from_numpy(first), persistent=False)
        self.register_buffer("second", torch.from_numpy(second), persistent=False)

    def full(self) -> Tensor:
        return self._put_together(self.first, self.second)

    def rows(self, ids: Tensor) -> Tensor:
        flat = ids.reshape(-1)
        found = self._put_together(self.first[flat], self.second[flat])
        return found.view(*ids.shape, self.spec.dim)

    def _put_together(self, first: Tensor, second: Tensor) -> Tensor:
        one, other = (nn.functional.embedding(x, self.base) for x in (first, second.clamp(min=0)))
        return combined(one, other, second, self.combine)

    def live(self) -> int:
        return self.base.numel()

    def pack(self) -> Stored:
        return Quotient.of(self.base.detach().cpu().numpy(), self.plan, self.combine)
