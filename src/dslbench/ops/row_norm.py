"""Batch normalisation over rows, with a hyperbolic tangent behind it where one is wanted."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dslbench.ops import row_norm_kernels as kernels
from dslbench.ops.threads import SMALL, Bounds, even_bounds, run_rows


class RowNorm(nn.Module):
    """Batch normalisation over rows (B, d), with scale and shift (Ioffe and Szegedy, Alg. 1).

    In training the statistics are those of the batch, and running ones move towards them by
    `momentum`; in ranking, and for a single row, they are the running ones.

    Args:
        dim: d.
        scale: initial scale, which is the standard deviation of the output at the start.
        eps: added to the variances.
        bend: whether tanh follows.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, dim: int, scale: float = 1.0, eps: float = 1e-5, bend: bool = False) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((dim,), float(scale)))
        self.shift = nn.Parameter(torch.zeros(dim))
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("variance", torch.ones(dim))
        self.eps, self.momentum, self.bend = eps, 0.1, bend

    def forward(self, x: Tensor, counts: Tensor | None = None) -> Tensor:
        """(B, d) to (B, d).

        Args:
            counts: (B,) how many equal rows each one stands for in the statistics; none: itself.
        """
        rows = len(x) if counts is None else int(counts.sum())
        if not self.training or rows < 2:
            factor, offset = self.as_affine()
            return self._bent(x * factor + offset)
        if counts is not None:
            share = counts[:, None] / rows
            mean = (x * share).sum(dim=0)
            variance = ((x - mean).square() * share).sum(dim=0)
            normed = (x - mean) * torch.rsqrt(variance + self.eps)
            y = self._bent(normed * self.scale + self.shift)
        elif x.device.type == "cpu" and x.dtype == torch.float32:
            y, mean, variance = _RowNorm.apply(x, self.scale, self.shift, self.eps, self.bend)  # type: ignore[no-untyped-call]
        else:
            return self._bent(
                nn.functional.batch_norm(
                    x,
                    self.mean,
                    self.variance,
                    self.scale,
                    self.shift,
                    True,
                    self.momentum,
                    self.eps,
                )
            )
        if self.momentum:
            with torch.no_grad():
                self.mean.lerp_(mean, self.momentum)
                self.variance.lerp_(variance * (rows / (rows - 1)), self.momentum)
        return y

    def _bent(self, y: Tensor) -> Tensor:
        return y.tanh() if self.bend else y

    @torch.no_grad()
    def estimate(self, mean: Tensor, variance: Tensor) -> None:
        """Replace the running statistics, (d,) each."""
        self.mean.copy_(mean)
        self.variance.copy_(variance)

    def as_affine(self) -> tuple[Tensor, Tensor]:
        """Factor and offset, (d,) each, that it amounts to with the running statistics."""
        factor = self.scale / torch.sqrt(self.variance + self.eps)
        # A copy, because gradients may come back after the next call has moved the statistics.
        return factor, self.shift - self.mean.clone() * factor


class _RowNorm(torch.autograd.Function):
    """Two passes over the rows in each direction, where torch's own operations take six."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, eps: float, bend: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        x = x.contiguous()
        rows = x.detach().numpy()
        off, squares = _sums(kernels.column_sums, rows) / len(x)
        mean = torch.from_numpy(off).float() + x[0]
        variance = torch.from_numpy(np.maximum(squares - off * off, 0)).float()
        inverse = torch.rsqrt(variance + eps)
        factor, y = inverse * scale, torch.empty_like(x)
        run_rows(
            kernels.scale_rows, _bounds(x), rows, factor.detach().numpy(),
            (shift - mean * factor).detach().numpy(), bend, y.numpy(),
        )  # fmt: skip
        ctx.save_for_backward(x, y, mean, inverse, scale)
        ctx.bend = bend
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, y, mean, inverse, scale = ctx.saved_tensors
        known = (
            x.detach().numpy(),
            mean.numpy(),
            y.numpy(),
            ctx.bend,
            gradients[0].contiguous().numpy(),
        )
        total, along = torch.from_numpy(_sums(kernels.gradient_sums, *known)).float()
        factor, out = (inverse * scale).detach(), torch.empty_like(x)
        run_rows(
            kernels.row_gradients, _bounds(x), *known, factor.numpy(), (factor * total / len(x)).numpy(),
            (factor * inverse.square() * along / len(x)).numpy(), out.numpy(),
        )  # fmt: skip
        return out, along * inverse, total, None, None


def _sums(kernel: Any, x: np.ndarray, *known: Any) -> np.ndarray:
    """What a kernel sums over all rows, (2, d) float64."""
    sums = np.zeros((-(-len(x) // kernels.BLOCK), 2, x.shape[1]), dtype=np.float32)
    run_rows(kernel, _bounds(x), x, *known, sums)
    found: np.ndarray = sums.sum(axis=0, dtype=np.float64)
    return found


def _bounds(x: Any) -> Bounds:
    """Ranges of blocks of rows."""
    blocks, width = -(-len(x) // kernels.BLOCK), kernels.BLOCK * x.shape[1]
    return even_bounds(blocks, width, parts=1 if len(x) * x.shape[1] < SMALL else None)
