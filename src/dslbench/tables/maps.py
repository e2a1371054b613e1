"""Maps that bring rows of different widths to d, and the norm behind them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dslbench.ops.affine import Affine, ComposeMaps, PrincipalAxes
from dslbench.ops.row_norm import RowNorm

Sizes = tuple[int, ...]


def map_parameters(width: int, dim: int, chain: bool) -> int:
    """Parameters of the stored map of a width; the last of a chain only scales and shifts."""
    return 2 * dim if chain and width == dim else (width + 1) * dim


class DirectMaps(nn.Module):
    """A map from each width straight to d (AutoEmb, Eq. 3)."""

    def __init__(self, sizes: Sizes, dim: int, rng: np.random.Generator) -> None:
        super().__init__()
        self.sizes = sizes
        self.principal_axes = PrincipalAxes()
        self.steps = nn.ModuleList(Affine(width, dim, rng, isometric=True) for width in sizes)

    def forward(self, blocks: Sequence[Tensor]) -> Tensor:
        """Blocks (B_k, w_k), one for each width, to all their rows (sum B_k, d), in order."""
        return torch.cat([step(x) for step, x in zip(self.steps, blocks, strict=True)])

    @torch.no_grad()
    def start(self, basis: Tensor) -> None:
        """Bring vectors that are the first coordinates in an orthonormal basis (d, d) back from it."""
        for width, step in zip(self.sizes, self.steps, strict=True):
            step.weight.copy_(basis[:, :width].T)  # type: ignore[operator]

    def composed(self, place: int) -> tuple[Tensor | None, Tensor | None]:
        """Weight (w, d) and bias (d,) of the map of one width."""
        step: Any = self.steps[place]
        return step.weight, step.bias


class ChainMaps(nn.Module):
    """Maps from each width to the next, up to d (ESAPN, Eq. 2)."""

    def __init__(self, sizes: Sizes, dim: int, rng: np.random.Generator) -> None:
        super().__init__()
        ends = sizes if sizes[-1] == dim else (*sizes, dim)
        self.dim = dim
        self.compose, self.principal_axes = ComposeMaps(), PrincipalAxes()
        self.steps = nn.ModuleList(Affine(a, b, rng, isometric=True) for a, b in pairwise(ends))

    def forward(self, blocks: Sequence[Tensor]) -> Tensor:
        """Blocks (B_k, w_k), one for each width, to all their rows (sum B_k, d), in order."""
        h = blocks[0]
        for place, step in enumerate(self.steps, start=1):
            h = step(h)
            if place < len(blocks):
                h = torch.cat([h, blocks[place]])
        return h

    @torch.no_grad()
    def start(self, basis: Tensor) -> None:
        """Bring vectors that are the first coordinates in an orthonormal basis (d, d) back from it.

        All steps but the last add coordinates that are zero; so a chain without steps needs the
        vectors themselves, not their coordinates.
        """
        steps: list[Any] = list(self.steps)
        for step in steps[:-1]:
            step.weight.copy_(torch.eye(*step.weight.shape))
        for step in steps[-1:]:
            step.weight.copy_(basis[:, : len(step.weight)].T)

    def composed(self, place: int) -> tuple[Tensor | None, Tensor | None]:
        """Weight (w, d) and bias (d,) of all steps from one width up; None where there are none."""
        weight: Tensor | None = None
        bias: Tensor | None = None
        rest: list[Any] = list(self.steps)[place:]
        for step in rest:
            if weight is None or bias is None:
                weight, bias = step.weight, step.bias
            else:
                weight, bias = self.compose(weight, bias, step.weight, step.bias)
        return weight, bias


def row_norm(dim: int, spread: float) -> RowNorm:
    """A norm, and tanh behind it, whose output starts with the spread that the backbone gives its table.

    What it normalises starts with that spread as well (UltraGCN's is 1e-4): eps must be small
    beside its square.
    """
    spread = spread or 1.0
    return RowNorm(dim, scale=spread, eps=1e-5 * spread**2, bend=True)


def start_maps(maps: Any, norm: Any, values: Tensor) -> Tensor:
    """Set maps and norm such that the coordinates returned, (n, d), stand for these rows.

    The coordinates are those along the principal axes, so the first w of them are the best that a
    vector of width w can do. The norm gives back means and spreads; tanh is near the identity at
    the scale of embeddings.
    """
    mean, spread = values.mean(dim=0), values.std(dim=0, correction=0)
    found: tuple[Tensor, Tensor] = maps.principal_axes(values - mean)
    axes, coordinates = found
    if not len(maps.steps):
        axes, coordinates = torch.eye(len(mean), device=values.device), values - mean
    maps.start(axes)
    norm.scale.copy_(spread)
    norm.shift.copy_(mean)
    return coordinates
