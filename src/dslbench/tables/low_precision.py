"""Tables that are kept at low precision while they are trained, with their optimiser's state."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from dslbench.ops import low_adam
from dslbench.tables.base import Stored, Table
from dslbench.tables.spec import TableSpec
from dslbench.tables.stored.dense import Dense
from dslbench.tables.stored.values import Values

LowPrecision = Literal["int8", "bf16"]


class LowPrecisionTable(Table):
    """Between steps an entry is 8 or 16 bits, and its two moments of Adam are 8 bits each.

    In a step all rows are decoded, once, into float32; the gradient with respect to these is what `step`
    takes, which decodes row by row, steps, and rounds at random. The moments' grids are a row's own, and the
    second is kept as its root.
    """

    kept: Tensor
    grid: Tensor
    first: Tensor
    first_scale: Tensor
    second: Tensor
    second_scale: Tensor

    def __init__(self, spec: TableSpec, rng: np.random.Generator, precision: LowPrecision) -> None:
        super().__init__(spec)
        self.precision = precision
        n, d = spec.n_rows, spec.dim
        drawn = torch.from_numpy(spec.init(rng, n, d))
        # Nothing of it is trained by the loop's optimiser; a model has parameters all the same.
        self.weight = nn.Parameter(torch.zeros(0))
        self.register_buffer("grid", torch.zeros(n if precision == "int8" else 0))
        self.register_buffer(
            "kept", torch.zeros(n, d, dtype=torch.int8 if precision == "int8" else torch.int16)
        )
        self.register_buffer("first", torch.zeros(n, d, dtype=torch.int8))
        self.register_buffer("second", torch.zeros(n, d, dtype=torch.uint8))
        self.register_buffer("first_scale", torch.zeros(n))
        self.register_buffer("second_scale", torch.zeros(n))
        self.assign(drawn)
        self._decoded: Tensor | None = None
        self._stale = False

    @torch.no_grad()
    def assign(self, values: Tensor) -> None:
        """Take (n, d) values, each rounded to the nearest."""
        if self.precision == "bf16":
            self.kept.copy_(values.to(torch.bfloat16).view(torch.int16))
            return
        self.grid.copy_(low_adam.grids(values.abs().amax(dim=1), self.grid))
        self.grid.masked_fill_(self.grid == 0, 2.0**-20)  # rows of zeros
        self.kept.copy_((values / self.grid.unsqueeze(1)).round())

    def full(self) -> Tensor:
        """(n, d); where gradients are recorded, one tensor for all calls of a step."""
        if not (self.training and torch.is_grad_enabled()):
            self._decoded = None  # its memory is for the ranking
            return self.decoded()
        if self._decoded is None:
            self._decoded = self.decoded().requires_grad_()
        elif self._stale:
            self.decoded(self._decoded.detach())  # fresh memory would take longer than decoding
        self._stale = False
        return self._decoded

    def rows(self, ids: Tensor) -> Tensor:
        return nn.functional.embedding(ids, self.full())

    def decoded(self, out: Tensor | None = None) -> Tensor:
        """The values as they are kept, (n, d) float32; written to `out` if there is one."""
        if out is None:
            out = torch.empty(self.kept.shape, device=self.kept.device)
        if self.precision == "bf16":
            return out.copy_(self.kept.view(torch.bfloat16))
        low_adam.decode(self.kept, self.grid, out)
        return out

    @torch.no_grad()
    def step(self, t: int, group: dict[str, Any], seed: int) -> None:
        """Adam's step t with the gradient of the last backward pass.

        Args:
            group: the optimiser's rate, betas and eps.
            seed: of the rounding.
        """
        if self._decoded is None or self._decoded.grad is None:
            return
        gradient, self._decoded.grad, self._stale = self._decoded.grad.contiguous(), None, True
        moments = (self.first, self.first_scale, self.second, self.second_scale)
        rate = low_adam.Rate.at(t, group)
        if self.precision == "int8":
            low_adam.step_int8(gradient, self.kept, self.grid, *moments, rate, seed)
        else:
            low_adam.step_bf16(gradient, self.kept, *moments, rate, seed)

    def live(self) -> int:
        return self.kept.numel()

    def pack(self) -> Stored:
        n, d = self.kept.shape
        lengths, kept = np.full(n, d, dtype=np.int64), self.kept.cpu().numpy()
        if self.precision == "bf16":
            return Dense((n, d), Values("bf16", lengths, kept.view(np.uint16).reshape(-1).copy()))
        return Dense((n, d), Values.on_grid(kept, lengths, self.grid.cpu().numpy(), "int8"))
