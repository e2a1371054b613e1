"""Parts of small networks over rows: affine maps, weighted sums."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from dslbench.ops.base import Macs, Op, product_macs, trained


class MapRows(Op):
    """x W + b for all rows of x."""

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """(B, w), (w, out) and (out,) to (B, out)."""
        return torch.addmm(bias, x, weight)

    def macs(self, x: Tensor, weight: Tensor, bias: Tensor) -> Macs:
        """B w out, and as many for each of the gradients of x and W that are wanted."""
        return product_macs(x, weight.T, skips_zeros=False)


class FactorRows(Op):
    """x R for rows x."""

    def forward(self, x: Tensor, right: Tensor) -> Tensor:
        """(B, k) and (k, d) to (B, d)."""
        return x @ right

    def macs(self, x: Tensor, right: Tensor) -> Macs:
        """B k d, and as many for each of the gradients that are wanted."""
        return product_macs(x, right.T, skips_zeros=False)


def expand(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """tanh(x W + b), (B, w) to (B, d); a weight of shape (d,) is a diagonal one."""
    if weight.dim() == 1:
        return torch.addcmul(bias, rows, weight).tanh_()
    return torch.addmm(bias, rows, weight).tanh_()


class ExpandRows(Op):
    """`expand` for rows that are ranked with: a stored table gives the same bits."""

    def forward(self, rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """(B, w), (w, d) or (d,), and (d,) to (B, d)."""
        return expand(rows, weight, bias)

    def macs(self, rows: Tensor, weight: Tensor, bias: Tensor) -> Macs:
        """B w d, or B d for a diagonal map; ranking has no backward pass."""
        return Macs(len(rows) * weight.numel())


class ComposeMaps(Op):
    """One map for two: x (W V) + (b V + c) = (x W + b) V + c."""

    def forward(
        self, weight: Tensor, bias: Tensor, after: Tensor, shift: Tensor
    ) -> tuple[Tensor, Tensor]:
        """W (w, m), b (m,), V (m, d) and c (d,) to weight (w, d) and bias (d,)."""
        return weight @ after, bias @ after + shift

    def macs(self, weight: Tensor, bias: Tensor, after: Tensor, shift: Tensor) -> Macs:
        """(w + 1) m d; done in ranking only, which has no backward pass."""
        return Macs((len(weight) + 1) * after.numel())


class PrincipalAxes(Op):
    """Principal axes of centred rows, the strongest first, and the rows' coordinates along them."""

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(n, d) to (d, d), one axis a column, and (n, d)."""
        axes = torch.linalg.eigh(rows.T @ rows).eigenvectors.flip(1)
        return axes, rows @ axes

    def macs(self, rows: Tensor) -> Macs:
        """n d^2 for the Gram matrix and as many for the coordinates; its axes are not counted."""
        return Macs(2 * rows.numel() * rows.shape[1])


class MixRows(Op):
    """sum_k a_k x_k, row by row."""

    def forward(self, weights: Tensor, *parts: Tensor) -> Tensor:
        """(B, K) and K times (B, d) to (B, d)."""
        total = parts[0] * weights[:, :1]
        for k, part in enumerate(parts[1:], start=1):
            total = total.addcmul(part, weights[:, k : k + 1])
        return total

    def macs(self, weights: Tensor, *parts: Tensor) -> Macs:
        """K B d; backward as many for the weights, and B d for each part whose gradient is wanted."""
        each = parts[0].numel()
        backward = each * (trained(weights) * len(parts) + sum(trained(part) for part in parts))
        return Macs(each * len(parts), backward, backward)


class Affine(nn.Module):
    """x W + b with parameters; W keeps variances (LeCun), b starts at zero.

    Args:
        isometric: whether W starts as a multiple of a matrix with orthonormal rows, so that no direction
            of x is smaller than another behind it; else its entries are uniform. Needs width <= out.
    """

    def __init__(
        self, width: int, out: int, rng: np.random.Generator, isometric: bool = False
    ) -> None:
        super().__init__()
        if isometric:
            columns = np.linalg.qr(rng.standard_normal((out, width))).Q
            drawn = (columns.T * math.sqrt(out / width)).astype(np.float32)
        else:
            bound = math.sqrt(3 / width)
            drawn = (rng.random((width, out), dtype=np.float32) * 2 - 1) * np.float32(bound)
        self.weight = nn.Parameter(torch.from_numpy(np.ascontiguousarray(drawn)))
        self.bias = nn.Parameter(torch.zeros(out))
        self.map_rows = MapRows()

    def forward(self, x: Tensor) -> Tensor:
        """(B, width) to (B, out)."""
        y: Tensor = self.map_rows(x, self.weight, self.bias)
        return y
