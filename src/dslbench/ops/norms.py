"""Norms of whole tables, which some losses take in every step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dslbench.ops.base import Macs, Op, live, trained


class Norm(Op):
    """Square root of the sum of squares, a scalar."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to a scalar."""
        size: Tensor = x.norm()
        return size

    def macs(self, x: Tensor) -> Macs:
        """One square, and one product backward, for each live entry; a zero's gradient is zero."""
        backward = trained(x) * live(x)
        return Macs(live(x), backward, backward)


class SquaredNorm(Norm):
    """Sum of squares, a scalar; neither direction makes a squared copy of a whole table."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to a scalar."""
        total: Tensor = _SquaredNorm.apply(x)  # type: ignore[no-untyped-call]
        return total


class _SquaredNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        flat = x.detach().reshape(-1)
        return torch.dot(flat, flat)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        gradient: Tensor = 2 * gradients[0] * x.detach()
        return gradient
