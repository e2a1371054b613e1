"""A table of which a fixed number of entries is live, chosen by a mask."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dslbench.ops import kernels
from dslbench.ops.threads import even_bounds, run_rows
from dslbench.tables.base import StoredTable, TableSpec, keep_count
from dslbench.tables.dense import DenseTable

BoolArray = npt.NDArray[np.bool_]


class MaskedTable(DenseTable):
    """A dense parameter that is physically zero wherever its mask is.

    The look-ups read the parameter as it is, so gradients are dense: growth needs them. Whoever
    trains the table calls `mask_gradient` before the optimiser's step; then parameter and
    optimiser state stay zero off the mask by themselves, and what is stored is what is live.
    """

    mask: Tensor

    def __init__(self, spec: TableSpec, rng: np.random.Generator) -> None:
        super().__init__(spec, rng)
        self.register_buffer("mask", torch.ones_like(self.weight, dtype=torch.bool))

    @torch.no_grad()
    def set_mask(self, mask: Tensor) -> None:
        """Replace the mask, (n, d) bool, and zero what it leaves out."""
        self.mask.copy_(mask)
        self.apply_mask()

    @torch.no_grad()
    def apply_mask(self) -> None:
        """Zero the parameter off the mask."""
        _zero_off(self.weight, self.mask)

    def mask_gradient(self) -> None:
        """Zero the gradient off the mask, so that the step and the moments stay on it."""
        if self.weight.grad is not None:
            _zero_off(self.weight.grad, self.mask)

    def live(self) -> int:
        return int(self.mask.count_nonzero())

    def pack(self) -> StoredTable:
        weight, mask = self.weight.detach().cpu().numpy(), self.mask.cpu().numpy().copy()
        return StoredTable((weight.shape[0], weight.shape[1]), weight[mask], mask)

    @torch.no_grad()
    def load(self, stored: StoredTable) -> None:
        super().load(stored)
        if stored.mask is None:
            self.mask.fill_(True)
        else:
            self.mask.copy_(torch.from_numpy(stored.mask))


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
    shape: tuple[int, int], slices: list[slice], sparsity: float, rng: np.random.Generator
) -> BoolArray:
    """A uniform random mask with exactly k* live entries in each of the given row ranges."""
    mask = np.zeros(shape, dtype=bool)
    for rows in slices:
        part = mask[rows].reshape(-1)
        part[: keep_count(part.size, sparsity)] = True
        mask[rows] = rng.permutation(part).reshape(-1, shape[1])
    return mask
