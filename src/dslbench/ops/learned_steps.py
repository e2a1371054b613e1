"""Rounding to a grid whose steps are learned (LSQ, Esser et al., ICLR 2020)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def on_learned_grid(weight: Tensor, log_step: Tensor, most: int) -> Tensor:
    """s clip(round(w / s), -most, most), s = exp(log_step), row by row; differentiable in both.

    Gradients: of w straight through within the grid's reach and 0 beyond; of s round(w / s) - w / s within,
    -most or most beyond, times 1 / sqrt(most d) (LSQ, Eqs. 3 and 5); of log_step s times that.

    Args:
        weight: (B, d).
        log_step: (B, 1).
        most: the largest |code|.
    """
    found: Tensor = _OnGrid.apply(weight, log_step, most)  # type: ignore[no-untyped-call]
    return found


class _OnGrid(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, log_step: Tensor, most: int) -> Tensor:
        step = log_step.exp()
        scaled = weight / step
        codes = scaled.round().clamp_(-most, most)
        ctx.save_for_backward(scaled, codes, step)
        ctx.most = most
        return codes * step

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (gradient,) = gradients
        scaled, codes, step = ctx.saved_tensors
        inside = scaled.abs() <= ctx.most
        slope = torch.where(inside, codes - scaled, codes)
        factor = (ctx.most * gradient.shape[1]) ** -0.5
        of_step = (gradient * slope).sum(dim=1, keepdim=True) * factor
        return gradient * inside, of_step * step, None
