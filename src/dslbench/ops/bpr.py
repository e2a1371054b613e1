"""The pairwise loss of Bayesian personalised ranking (Rendle et al., UAI 2009) on looked-up rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dslbench.ops.base import Macs, Op, product_macs
from dslbench.ops.bpr_kernels import bpr_gradients, bpr_losses
from dslbench.ops.scores import PairScores
from dslbench.ops.threads import SMALL, Bounds, even_bounds, run_rows

# Entries that torch gives a thread at least, and that its loops take at once: two vectors of AVX-512.
_SHARE, _VECTORS = 1 << 15, 32


class BprLoss(Op):
    """mean softplus(s_uj - s_ui) + reg / (2 B) * (|e_u|^2 + |e_i|^2 + |e_j|^2).

    With `known`, examples in blocks of n rank each other's negatives, too: an example's loss is the mean over
    its block's negatives j, but for those that are its user's own items. Another example's negative is about
    as likely as any item that one does not have, so that what is expected of the loss is nearly the same,
    with less noise, and no row more is looked up.

    On the CPU two kernels do what takes torch some forty operations with intermediate results, where each
    example has its own negative alone.
    """

    def forward(
        self, rows: Tensor, own: Tensor, count: int, reg: float, known: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The loss, a scalar, differentiable in both tensors; and each example's, (B,), which is not.

        Args:
            rows: (R, d) vectors that give the scores: B users, their B positives i, their B negatives
                j; further rows are left alone.
            own: (R, d), their vectors that are kept small.
            count: B.
            known: (B, n) bool, whether negative t of an example's block counts for nothing; one's own
                always counts.
        """
        if known is not None:
            return _SharedBprLoss.apply(rows, own, count, reg, known)  # type: ignore[no-untyped-call, no-any-return]
        if rows.device.type == "cpu":
            loss, losses = _BprLoss.apply(rows, own, count, reg)  # type: ignore[no-untyped-call]
            return loss, losses
        users, positives, negatives = rows[: 3 * count].view(3, count, -1)
        margins = (users * (negatives - positives)).sum(dim=1)
        losses = torch.nn.functional.softplus(margins)
        norms = own[: 3 * count].square().sum()
        return losses.mean() + reg / (2 * count) * norms, losses.detach()

    def macs(
        self, rows: Tensor, own: Tensor, count: int, reg: float, known: Tensor | None = None
    ) -> Macs:
        """Those of the scores of each example's positive and its negatives."""
        users, positives, negatives = rows[: 3 * count].view(3, count, -1)
        parts = [PairScores().macs(users, positives)]
        if known is None:
            parts.append(PairScores().macs(users, negatives))
        else:
            for part, n in _blocks(count, known.shape[1]):
                blocks = (x[part].view(-1, n, x.shape[1]) for x in (users, negatives))
                parts += [
                    product_macs(u, j, skips_zeros=True) for u, j in zip(*blocks, strict=True)
                ]
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


class _SharedBprLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, own: Tensor, count: int, reg: float, known: Tensor
    ) -> tuple[Tensor, Tensor]:
        users, positives, negatives = rows[: 3 * count].view(3, count, -1)
        liked = (users * positives).sum(dim=1)
        slopes = rows.new_zeros(known.shape)  # of an example's loss by the scores of its negatives
        losses = torch.empty_like(liked)
        for part, n in _blocks(count, known.shape[1]):
            u, j = (x[part].view(-1, n, x.shape[1]) for x in (users, negatives))
            margins = torch.bmm(u, j.mT).view(-1, n).sub_(liked[part, None])
            left_out = known[part, :n]
            counted = (n - left_out.sum(dim=1)).to(rows.dtype)
            with _whole_vectors(margins.numel()):
                each, margins = torch.nn.functional.softplus(margins), margins.sigmoid_()
            losses[part] = each.masked_fill_(left_out, 0.0).sum(dim=1) / counted
            slopes[part, :n] = margins.masked_fill_(left_out, 0.0).div_(counted[:, None])
        ctx.save_for_backward(rows, own, slopes)
        ctx.count, ctx.reg = count, reg
        ctx.mark_non_differentiable(losses)
        norms = own[: 3 * count].view(3, count, -1).square().sum(dim=(0, 2))
        return losses.mean() + reg / (2 * count) * norms.sum(), losses

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        rows, own, slopes = ctx.saved_tensors
        count, scale = ctx.count, gradients[0] / ctx.count
        make = torch.empty_like if len(rows) == 3 * count else torch.zeros_like
        on_rows, on_own = make(rows), make(own)
        users, positives, negatives = rows[: 3 * count].view(3, count, -1)
        on_users, on_positives, on_negatives = on_rows[: 3 * count].view(3, count, -1)
        slopes = slopes * scale
        on_liked = -slopes.sum(dim=1, keepdim=True)
        torch.mul(on_liked, users, out=on_positives)
        torch.mul(on_liked, positives, out=on_users)
        for part, n in _blocks(count, slopes.shape[1]):
            blocks = slopes[part, :n].reshape(-1, n, n)
            u, j, on_u, on_j = (
                x[part].view(-1, n, x.shape[1]) for x in (users, negatives, on_users, on_negatives)
            )
            on_u.baddbmm_(blocks, j)
            torch.bmm(blocks.mT, u, out=on_j)
        torch.mul(own[: 3 * count], scale * ctx.reg, out=on_own[: 3 * count])
        return on_rows, on_own, None, None, None


def _blocks(count: int, n: int) -> Iterator[tuple[slice, int]]:
    """Examples with the size of their blocks: all whole blocks at once, and the smaller one at the end.

    Several blocks go to torch's threads one by one. A product that is alone torch would divide, and sum in
    an order that depends on the number of threads: it is one thread's.
    """
    whole = count // n * n
    for first, last, size in ((0, whole, n), (whole, count, count - whole)):
        if first < last:
            with _one_thread() if last - first == size else nullcontext():
                yield slice(first, last), size


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _whole_vectors(entries: int) -> AbstractContextManager[None]:
    """For functions of so many entries: on one thread, unless torch gives its threads whole vectors each.

    What is left of a vector at the end of a thread's share is computed in another way than the rest.
    """
    threads = min(torch.get_num_threads(), -(-entries // _SHARE))
    return _one_thread() if entries % (threads * _VECTORS) else nullcontext()
