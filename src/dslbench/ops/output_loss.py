"""Losses over all items of a batch of users, from the last hidden layer on.

Scores are H T' + b for hidden rows H (B, K), an item table T (M, K) and item biases b (M,). Loss
and gradients are made together, block by block of users, in one reused buffer: neither the (B, M)
target nor the (B, M) scores of a large batch ever exist as a whole.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from dslbench.ops.base import Macs, Op, product_macs

# Bytes of one block of scores.
BLOCK_BYTES = 64 << 20


class OutputLoss(Op):
    """A sum over users and all items of a loss of scores and binary targets."""

    def __init__(self, block_bytes: int = BLOCK_BYTES) -> None:
        super().__init__()
        self.block_bytes = block_bytes
        self._buffers_by_name: dict[str, Tensor] = {}

    def forward(
        self, hidden: Tensor, table: Tensor, bias: Tensor, indptr: Tensor, items: Tensor
    ) -> Tensor:
        """The loss, a scalar, differentiable once in the first three.

        Args:
            hidden: (B, K).
            table: (M, K).
            bias: (M,).
            indptr: (B + 1,) int64; the targets of user b are
            items: (nnz,) int64, the part from indptr[b] to indptr[b + 1], all distinct.
        """
        if torch.is_grad_enabled():
            loss: Tensor = _OutputLoss.apply(hidden, table, bias, indptr, items, self)  # type: ignore[no-untyped-call]
            return loss
        return self.compute(hidden, table, bias, indptr, items, gradients=False)[0]

    def macs(
        self, hidden: Tensor, table: Tensor, bias: Tensor, indptr: Tensor, items: Tensor
    ) -> Macs:
        """The product of an activation and a table."""
        return product_macs(hidden, table, skips_zeros=False)

    @abstractmethod
    def block(self, scores: Tensor, flat: Tensor, counts: Tensor, gradients: bool) -> Tensor:
        """Loss of a block of users; `scores` (b, M) becomes its gradient where asked for.

        Args:
            flat: positions of the targets in the flattened scores.
            counts: (b,) number of targets by user.
        """

    def compute(
        self, hidden: Tensor, table: Tensor, bias: Tensor, indptr: Tensor, items: Tensor,
        *, gradients: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
        """Loss and the gradients of hidden, table and bias (empty where not asked for)."""
        n_users, n_items = len(hidden), len(table)
        size = max(1, self.block_bytes // (4 * n_items))
        loss = hidden.new_zeros(())
        to_hidden, to_table, to_bias = (
            torch.empty_like(x) if gradients else x.new_empty(0) for x in (hidden, table, bias)
        )
        for start in range(0, n_users, size):
            rows = hidden[start : start + size]
            scores = self.buffer("scores", len(rows), n_items, hidden)
            torch.addmm(bias, rows, table.T, out=scores)
            ends = indptr[start : start + len(rows) + 1]
            counts = ends.diff()
            owners = torch.arange(len(rows), device=rows.device).repeat_interleave(counts)
            flat = owners * n_items + items[int(ends[0]) : int(ends[-1])]
            loss += self.block(scores, flat, counts, gradients)
            if not gradients:
                continue
            torch.mm(scores, table, out=to_hidden[start : start + size])
            if start == 0:
                torch.mm(scores.T, rows, out=to_table)
                torch.sum(scores, dim=0, out=to_bias)
            else:
                to_table.addmm_(scores.T, rows)
                to_bias += scores.sum(dim=0)
        return loss, to_hidden, to_table, to_bias

    def buffer(self, name: str, rows: int, columns: int, like: Tensor) -> Tensor:
        """Working memory kept between steps: fresh pages cost more than the arithmetic on them."""
        kept = self._buffers_by_name.get(name)
        if kept is None or kept.numel() < rows * columns or kept.device != like.device:
            kept = self._buffers_by_name[name] = like.new_empty(rows * columns)
        return kept.detach()[: rows * columns].view(rows, columns)


class MultinomialLoss(OutputLoss):
    """-sum_u sum_i x_ui log softmax(scores_u)_i."""

    def block(self, scores: Tensor, flat: Tensor, counts: Tensor, gradients: bool) -> Tensor:
        chosen = scores.view(-1)[flat].sum()
        largest = scores.amax(dim=1, keepdim=True)
        total = scores.sub_(largest).exp_().sum(dim=1, keepdim=True)
        weight = counts.to(scores.dtype).unsqueeze(1)
        if gradients:
            scores.mul_(weight / total)
            scores.view(-1)[flat] -= 1
        return (weight * (total.log() + largest)).sum() - chosen


class BinaryLoss(OutputLoss):
    """sum_u sum_i of the binary cross-entropy of sigmoid(scores_ui) and x_ui."""

    def block(self, scores: Tensor, flat: Tensor, counts: Tensor, gradients: bool) -> Tensor:
        chosen = scores.view(-1)[flat].sum()
        softplus = self.buffer("softplus", scores.shape[0], scores.shape[1], scores)
        torch.logaddexp(scores, scores.new_zeros(()), out=softplus)
        if gradients:
            scores.sigmoid_()
            scores.view(-1)[flat] -= 1
        return softplus.sum() - chosen


class _OutputLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, table: Tensor, bias: Tensor, indptr: Tensor, items: Tensor,
        op: OutputLoss,
    ) -> Tensor:  # fmt: skip
        loss, *ctx.gradients = op.compute(
            hidden.detach(), table.detach(), bias.detach(), indptr, items, gradients=True
        )
        return loss

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        scale = gradients[0]
        return *(gradient.mul_(scale) for gradient in _handed_over(ctx)), None, None, None


def _handed_over(ctx: Any) -> list[Tensor]:
    """The gradients, given away: the scaling may then be done in place, and no copy is kept."""
    found: list[Tensor] = ctx.gradients
    del ctx.gradients
    return found
