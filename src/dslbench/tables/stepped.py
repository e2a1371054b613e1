"""A table that is trained as it will be rounded."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from dslbench.ops.learned_steps import on_learned_grid
from dslbench.ops.low_bits import largest
from dslbench.tables.base import Stored, Table
from dslbench.tables.spec import TableSpec
from dslbench.tables.stored.dense import Dense
from dslbench.tables.stored.values import BITS, Values


class SteppedTable(Table):
    """(n, d) float32 weights, read through a grid for each row whose step is trained as its logarithm.

    Until `start_steps` is called the weights are read as they are.
    """

    rounds: Tensor

    def __init__(self, spec: TableSpec, rng: np.random.Generator, precision: str) -> None:
        super().__init__(spec)
        self.precision, self.most = precision, largest(BITS[precision])
        self.weight = nn.Parameter(torch.from_numpy(spec.init(rng, spec.n_rows, spec.dim)))
        self.log_step = nn.Parameter(torch.zeros(spec.n_rows, 1))
        self.register_buffer("rounds", torch.zeros((), dtype=torch.bool))

    @torch.no_grad()
    def start_steps(self) -> None:
        """Steps of 2 mean|w| / sqrt(most) for each row, and rounding from here on."""
        step = 2 * self.weight.abs().mean(dim=1, keepdim=True) / self.most**0.5
        self.log_step.copy_(step.clamp(min=1e-12).log())
        self.rounds.fill_(True)

    def full(self) -> Tensor:
        if not self.rounds:
            return self.weight
        return on_learned_grid(self.weight, self.log_step, self.most)

    def rows(self, ids: Tensor) -> Tensor:
        weight = nn.functional.embedding(ids, self.weight)
        if not self.rounds:
            return weight
        steps = nn.functional.embedding(ids, self.log_step)
        d = self.spec.dim
        found = on_learned_grid(weight.view(-1, d), steps.view(-1, 1), self.most)
        return found.view(*ids.shape, d)

    def live(self) -> int:
        return self.weight.numel()

    def pack(self) -> Stored:
        weight = self.weight.detach().cpu().numpy()
        if not self.rounds:
            return Dense.of(weight, self.precision)
        n, d = weight.shape
        step = self.log_step.detach().exp().cpu().numpy()
        codes = np.clip(np.rint(weight / step), -self.most, self.most)
        lengths = np.full(n, d, dtype=np.int64)
        return Dense((n, d), Values.on_grid(codes, lengths, step.reshape(-1), self.precision))
