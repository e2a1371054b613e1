"""The pairwise loss of Bayesian personalised ranking (Rendle et al., UAI 2009) on looked-up rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from dslbench.ops.base import Macs, Op
from dslbench.ops.bpr_kernels import bpr_gradients, bpr_losses
from dslbench.ops.scores import PairScores
from dslbench.ops.threads import SMALL, Bounds, even_bounds, run_rows


class BprLoss(Op):
    """mean softplus(s_uj - s_ui) + reg / (2 B) * (|e_u|^2 + |e_i|^2 + |e_j|^2).

    On the CPU two kernels do what takes torch some forty operations with intermediate results.
    """

    def forward(self, rows: Tensor, own: Tensor, count: int, reg: float) -> tuple[Tensor, Tensor]:
        """The loss, a scalar, differentiable in both tensors; and each example's, (B,), which is not.

        Args:
            rows: (R, d) vectors that give the scores: B users, their B positives i, their B negatives
                j; further rows are left alone.
            own: (R, d), their vectors that are kept small.
            count: B.
        """
        if rows.device.type == "cpu":
            loss, losses = _BprLoss.apply(rows, own, count, reg)  # type: ignore[no-untyped-call]
            return loss, losses
        users, positives, negatives = rows[: 3 * count].view(3, count, -1)
        margins = (users * (negatives - positives)).sum(dim=1)
        losses = torch.nn.functional.softplus(margins)
        norms = own[: 3 * count].square().sum()
        return losses.mean() + reg / (2 * count) * norms, losses.detach()

    def macs(self, rows: Tensor, own: Tensor, count: int, reg: float) -> Macs:
        """Those of the two scores of each example."""
        users, *items = torch.split(rows[: 3 * count], count)
        parts = [PairScores().macs(users, vectors) for vectors in items]
        return Macs(*(sum(part) for part in zip(*parts, strict=True)))


class _BprLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, own: Tensor, count: int, reg: float
    ) -> tuple[Tensor, Tensor]:
        rows, own = rows.contiguous(), own.contiguous()
        losses, slopes, norms = (torch.empty(count) for _ in range(3))
        run_rows(
            bpr_losses, _bounds(rows, count), count, rows.detach().numpy(),
            own.detach().numpy(), losses.numpy(), slopes.numpy(), norms.numpy(),
        )  # fmt: skip
        ctx.save_for_backward(rows, own, slopes)
        ctx.count, ctx.reg = count, reg
        ctx.mark_non_differentiable(losses)
        return losses.mean() + reg / (2 * count) * norms.sum(), losses

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        rows, own, slopes = ctx.saved_tensors
        count = ctx.count
        scale = float(gradients[0]) / count
        make = torch.empty_like if len(rows) == 3 * count else torch.zeros_like
        on_rows, on_own = make(rows), make(own)
        run_rows(
            bpr_gradients, _bounds(rows, count), count, rows.detach().numpy(),
            own.detach().numpy(), slopes.numpy(), np.float32(scale), np.float32(scale * ctx.reg),
            on_rows.numpy(), on_own.numpy(),
        )  # fmt: skip
        return on_rows, on_own, None, None


def _bounds(rows: Tensor, count: int) -> Bounds:
    return even_bounds(count, parts=1 if 2 * rows.numel() < SMALL else None)
