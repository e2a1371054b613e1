"""Tables of which a fixed number of entries is live, chosen by a mask."""

from __future__ import annotations

from abc import abstractmethod
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dslbench.ops import kernels
from dslbench.ops.threads import even_bounds, run_rows
from dslbench.tables.base import Stored
from dslbench.tables.dense import DenseTable
from dslbench.tables.spec import TableSpec, keep_count
from dslbench.tables.stored.bitmap import Bitmap

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

        Entries that stay live keep value and optimiser state; new ones start at 0 and cold. A table
        that is held in full takes any mask.
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

    def pack(self) -> Stored:
        return Bitmap.of(self.dense().cpu().numpy(), self.mask.cpu().numpy())


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
