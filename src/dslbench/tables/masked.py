"""Tables of which a fixed number of entries is live, chosen by a mask."""

from __future__ import annotations

from abc import abstractmethod
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dslbench.ops import kernels, packed_kernels
from dslbench.ops.base import triton_kernels
from dslbench.ops.lanes import has_expand
from dslbench.ops.packed_kernels import PackedRows
from dslbench.ops.threads import even_bounds, run_rows, thread_count
from dslbench.tables.base import StoredTable, TableSpec, keep_count
from dslbench.tables.dense import DenseTable

_WIDE = has_expand()
BoolArray = npt.NDArray[np.bool_]


class MaskedTable(DenseTable):
    """A table with a mask: what is off it is zero, and stays zero while it is trained.

    Starts with all entries live. Whoever grows weights asks for the gradient of entries off the
    mask with `keep_gradient` before the loss is computed, and calls `mask_gradient` before the
    optimiser's step.
    """

    @property
    @abstractmethod
    def mask(self) -> Tensor:
        """Which entries are live, (n, d) bool; not to be written to."""

    @abstractmethod
    def dense(self) -> Tensor:
        """The (n, d) values, zeros off the mask, without gradient; not to be written to."""

    @abstractmethod
    def assign(self, values: Tensor) -> None:
        """Take the live entries' values from an (n, d) tensor."""

    @abstractmethod
    def set_mask(self, mask: Tensor) -> None:
        """Replace the mask, (n, d) bool, and zero what it leaves out; before an optimiser is made."""

    @abstractmethod
    def move_mask(self, mask: Tensor, optimiser: torch.optim.Optimizer) -> None:
        """Replace the mask by one with as many live entries, in the midst of a training.

        Entries that stay live keep value and optimiser state; new ones start at 0 and cold.
        """

    @abstractmethod
    def keep_gradient(self, wanted: bool) -> None:
        """Whether the coming backward pass is to keep the gradient off the mask too."""

    @abstractmethod
    def gradient(self) -> Tensor | None:
        """The (n, d) gradient of the last backward pass, if it was to be kept and there is one."""

    @abstractmethod
    def mask_gradient(self) -> None:
        """Leave the optimiser the live entries' gradients only."""

    def pack(self) -> StoredTable:
        values, mask = self.dense().cpu().numpy(), self.mask.cpu().numpy().copy()
        return StoredTable((values.shape[0], values.shape[1]), values[mask], mask)

    @torch.no_grad()
    def load(self, stored: StoredTable) -> None:
        full = stored.mask is None
        mask = np.ones(stored.shape, dtype=bool) if full else stored.mask
        self.set_mask(torch.from_numpy(mask).to(self.weight.device))
        self.assign(torch.from_numpy(stored.unpack()).to(self.weight.device))


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
        if self.bits.device.type != "cpu":
            places = torch.arange(self.spec.dim, device=self.bits.device)
            return (self.bits[:, places // 8] >> (places % 8).to(torch.uint8) & 1).bool()
        entries = np.unpackbits(self.bits.numpy(), axis=1, count=self.spec.dim, bitorder="little")
        return torch.from_numpy(entries.view(bool))

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
        self.bits = torch.from_numpy(bits).to(self.weight.device)
        starts = np.zeros(len(bits) + 1, dtype=np.int64)
        np.cumsum(np.bitwise_count(bits).sum(axis=1, dtype=np.int64), out=starts[1:])
        self._count = int(starts[-1])
        # int32 counts as many entries as a table of 8 GiB has.
        self.register_buffer(
            "starts", torch.from_numpy(starts.astype(np.int32)).to(self.bits.device)
        )

    def _spread(self, values: Tensor) -> Tensor:
        if values.device.type != "cpu":
            if (found := triton_kernels()) is not None:
                spread: Tensor = found.spread(self.starts, self.bits, values, self.spec.dim)
                return spread
            out = torch.zeros(self._shape, dtype=values.dtype, device=values.device)
            out[self.mask] = values
            return out
        out = torch.empty(self._shape, dtype=values.dtype)
        bounds = even_bounds(*self._shape)
        run_rows(packed_kernels.spread_rows, bounds, _WIDE, *self._arrays(values), out.numpy())
        return out

    def _gather(self, full: Tensor) -> Tensor:
        if full.device.type != "cpu":
            if (found := triton_kernels()) is not None:
                gathered: Tensor = found.gather(self.starts, self.bits, full, self._count)
                return gathered
            return full[self.mask]
        out = torch.empty(self._count, dtype=full.dtype)
        full = full.detach().contiguous()
        bounds = even_bounds(*self._shape)
        run_rows(packed_kernels.gather_rows, bounds, _WIDE, *self._arrays(out), full.numpy())
        return out

    def _arrays(self, values: Tensor) -> PackedRows:
        assert self.bits is not None
        return PackedRows(self.starts.numpy(), self.bits.numpy(), values.detach().numpy())

    def _keep(self, gradient: Tensor) -> None:
        """Add to the kept gradient: a loss may read a table more than once."""
        self._gradient = gradient if self._gradient is None else self._gradient + gradient


class DenseMaskedTable(MaskedTable):
    """A dense parameter, and optimiser state, that are zero wherever the mask is.

    The plain form: more memory than a dense table, less work for very short rows.
    """

    chosen: Tensor

    def __init__(self, spec: TableSpec, rng: np.random.Generator) -> None:
        super().__init__(spec, rng)
        self.register_buffer("chosen", torch.ones_like(self.weight, dtype=torch.bool))

    @property
    def mask(self) -> Tensor:
        return self.chosen

    def dense(self) -> Tensor:
        return self.weight.detach()

    @torch.no_grad()
    def assign(self, values: Tensor) -> None:
        self.weight.copy_(values)
        self.apply_mask()

    @torch.no_grad()
    def set_mask(self, mask: Tensor) -> None:
        self.chosen.copy_(mask)
        self.apply_mask()

    @torch.no_grad()
    def move_mask(self, mask: Tensor, optimiser: torch.optim.Optimizer) -> None:
        moved = ~(mask & self.chosen)
        self.set_mask(mask)
        for name, x in optimiser.state.get(self.weight, {}).items():
            if x.shape == self.weight.shape:
                x.masked_fill_(moved, cold_start(optimiser, name))

    def keep_gradient(self, wanted: bool) -> None:
        """Nothing to do: the gradient is dense in any case."""

    def gradient(self) -> Tensor | None:
        return self.weight.grad

    @torch.no_grad()
    def apply_mask(self) -> None:
        """Zero the parameter off the mask."""
        _zero_off(self.weight, self.chosen)

    def mask_gradient(self) -> None:
        if self.weight.grad is not None:
            _zero_off(self.weight.grad, self.chosen)

    def live(self) -> int:
        return int(self.chosen.count_nonzero())


class WarmMaskedTable(DenseMaskedTable):
    """As in the released code of DSL: moments of weights off the mask go on moving."""

    def move_mask(self, mask: Tensor, optimiser: torch.optim.Optimizer) -> None:
        """Replace the mask; the optimiser's state stays as it is."""
        self.set_mask(mask)

    def mask_gradient(self) -> None:
        """Nothing: the optimiser takes the whole gradient, and `apply_mask` undoes the step."""


def cold_start(optimiser: torch.optim.Optimizer, name: str) -> float:
    """What an entry's state starts at: Adam's moments at 0, Adagrad's sum at the value given."""
    return float(optimiser.defaults["initial_accumulator_value"]) if name == "sum" else 0.0


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
        if weight.device.type != "cpu":
            return table._spread(weight)[ids]
        flat = ids.reshape(-1)
        out = torch.empty((len(flat), table.spec.dim), dtype=weight.dtype)
        run_rows(
            packed_kernels.spread_chosen, even_bounds(*out.shape), _WIDE, flat.numpy(),
            *table._arrays(weight), out.numpy(),
        )  # fmt: skip
        return out.view(*ids.shape, out.shape[1])

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
        out = torch.zeros(len(table.weight), dtype=given.dtype)
        # Every range of rows looks through all ids: not more ranges than the work is worth.
        parts = len(even_bounds(*given.shape)) - 1
        run_rows(
            packed_kernels.gather_chosen, even_bounds(n, parts=min(parts, thread_count())),
            ids.reshape(-1).numpy(), *table._arrays(out), given.contiguous().numpy(),
        )  # fmt: skip
        return out, None, None


def _zero_off(x: Tensor, mask: Tensor) -> None:
    if x.device.type == "cpu":
        values = x.detach().numpy()
        run_rows(kernels.mask_rows, even_bounds(len(values)), values, mask.numpy())
    else:
        x.detach().mul_(mask)


def segment_slices(spec: TableSpec) -> list[slice]:
    """The row range of each segment of a table."""
    starts = np.cumsum([0, *(rows for _, rows in spec.segments)])
    return [slice(int(a), int(b)) for a, b in pairwise(starts)]


def random_masks(
    shape: tuple[int, int],
    slices: list[slice],
    sparsity: float,
    rng: np.random.Generator,
    block: int = 1,
) -> BoolArray:
    """A uniform random mask with exactly k* live entries in each of the given row ranges.

    They come in aligned blocks of `block` neighbours of a row; what k* leaves over is one block that is
    live in its first entries only.
    """
    mask = np.zeros(shape, dtype=bool)
    for rows in slices:
        part = mask[rows].reshape(-1)
        part[: keep_count(part.size, sparsity)] = True
        # Rows of blocks are shuffled by number, which for single entries would take 8 bytes each.
        shuffled = rng.permutation(part if block == 1 else part.reshape(-1, block))
        mask[rows] = shuffled.reshape(-1, shape[1])
    return mask
