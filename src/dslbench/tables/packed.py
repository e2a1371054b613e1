"""A masked table that holds its live entries only."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dslbench.ops import packed
from dslbench.tables.masked import MaskedTable, cold_start
from dslbench.tables.spec import TableSpec


class PackedTable(MaskedTable):
    """A masked table that holds its live entries only, and so does its optimiser.

    `weight` is the (n, d) matrix while everything is live. From the first mask on it is the (k,)
    vector of live values, row by row, beside a bitmap of the live entries (ceil(d / 8) bytes a row,
    lowest bit first) and the rows' starts. A training step spreads it to (n, d) and gathers the
    gradient back: what stays between steps is value and moments of k entries, and the bitmap.
    """

    bits: Tensor | None
    starts: Tensor

    def __init__(self, spec: TableSpec, rng: np.random.Generator) -> None:
        super().__init__(spec, rng)
        self.register_buffer("bits", None)
        self._count = spec.n_rows * spec.dim  # of live entries
        self._wanted = False
        self._gradient: Tensor | None = None

    @property
    def mask(self) -> Tensor:
        if self.bits is None:
            return torch.ones_like(self.weight, dtype=torch.bool)
        return packed.unpack_bits(self.bits, self.spec.dim)

    @torch.no_grad()
    def dense(self) -> Tensor:
        return self.weight.detach() if self.bits is None else self._spread(self.weight.detach())

    def full(self) -> Tensor:
        if self.bits is None:
            return self.weight
        spread: Tensor = _Spread.apply(self.weight, self)  # type: ignore[no-untyped-call]
        return spread

    def rows(self, ids: Tensor) -> Tensor:
        if self.bits is None:
            return super().rows(ids)
        chosen: Tensor = _SpreadRows.apply(self.weight, ids, self)  # type: ignore[no-untyped-call]
        return chosen

    def entries(self) -> Tensor:
        return self.weight

    @torch.no_grad()
    def assign(self, values: Tensor) -> None:
        self.weight.copy_(values if self.bits is None else self._gather(values))

    @torch.no_grad()
    def set_mask(self, mask: Tensor) -> None:
        values = self.dense()
        if mask.all():
            self.bits, self.weight = None, nn.Parameter(values.clone())
            return
        self._index(mask)
        self.weight = nn.Parameter(self._gather(values))

    @torch.no_grad()
    def move_mask(self, mask: Tensor, optimiser: torch.optim.Optimizer) -> None:
        if self.bits is None or int(mask.count_nonzero()) != self.weight.numel():
            raise ValueError("a mask moves to one with as many live entries")
        per_entry = {
            name: x
            for name, x in optimiser.state.get(self.weight, {}).items()
            if isinstance(x, Tensor) and x.shape == self.weight.shape
        }
        cold = {name: cold_start(optimiser, name) for name in per_entry}
        spread = {name: self._spread(x - cold[name]) for name, x in per_entry.items()}
        values = self.dense()
        self._index(mask)
        self.weight.copy_(self._gather(values))
        for name, x in per_entry.items():
            x.copy_(self._gather(spread[name]) + cold[name])

    def keep_gradient(self, wanted: bool) -> None:
        self._wanted, self._gradient = wanted, None

    def gradient(self) -> Tensor | None:
        return self.weight.grad if self.bits is None else self._gradient

    def mask_gradient(self) -> None:
        """Nothing to do: only live entries have a place."""

    def live(self) -> int:
        return self.weight.numel()

    @property
    def _shape(self) -> tuple[int, int]:
        return self.spec.n_rows, self.spec.dim

    def _index(self, mask: Tensor) -> None:
        """Set bitmap and starts for the live entries of a mask."""
        bits = np.packbits(mask.cpu().numpy(), axis=1, bitorder="little")
        starts = packed.row_starts(bits)
        self._count = int(starts[-1])
        self.bits = torch.from_numpy(bits).to(self.weight.device)
        self.register_buffer("starts", starts.to(self.bits.device))

    def _spread(self, values: Tensor) -> Tensor:
        assert self.bits is not None
        return packed.spread(values, self.bits, self.starts, self.spec.dim)

    def _gather(self, full: Tensor) -> Tensor:
        assert self.bits is not None
        return packed.gather(full, self.bits, self.starts, self._count)

    def _keep(self, gradient: Tensor) -> None:
        """Add to the kept gradient: a loss may read a table more than once."""
        self._gradient = gradient if self._gradient is None else self._gradient + gradient


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, table: PackedTable) -> Tensor:
        ctx.table = table
        return table._spread(weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        table, full = ctx.table, gradients[0]
        if table._wanted:
            table._keep(full)
        return table._gather(full), None


class _SpreadRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor, table: PackedTable) -> Tensor:
        ctx.table = table
        ctx.save_for_backward(ids)
        assert table.bits is not None
        return packed.spread_chosen(weight, table.bits, table.starts, table.spec.dim, ids)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        table, (ids,), given = ctx.table, ctx.saved_tensors, gradients[0]
        n, d = table._shape
        given = given.reshape(-1, d)
        if table._wanted or given.device.type != "cpu":
            full = torch.zeros((n, d), dtype=given.dtype, device=given.device)
            full.index_add_(0, ids.reshape(-1), given)
            if table._wanted:
                table._keep(full)
            return table._gather(full), None, None
        found = packed.gather_chosen(given, ids, table.bits, table.starts, table._count)
        return found, None, None
