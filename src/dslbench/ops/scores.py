"""Scores as dot products: of pairs, and of users against all items."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dslbench.ops.base import Macs, Op, live, product_macs, trained

# From user ids (B,) to scores of all items (B, M), and from users (B,) and items (B, C) to theirs (B, C).
Scorer = Callable[[Tensor], Tensor]
CandidateScorer = Callable[[Tensor, Tensor], Tensor]


class PairScores(Op):
    """Row-wise dot products."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """(B, d) and (B, d) to (B,)."""
        return (a * b).sum(dim=1)

    def macs(self, a: Tensor, b: Tensor) -> Macs:
        """The places where both rows are live, and those again for each gradient."""
        overlap = live((a != 0) & (b != 0))
        dense = trained(a) * live(b) + trained(b) * live(a)
        return Macs(overlap, overlap * (trained(a) + trained(b)), dense)


class FullScores(Op):
    """Users against all items, into one buffer that is used again for the next block.

    Args:
        skips_zeros: whether zeros of the users' rows are left out of the count; not where these
            are activations.
    """

    def __init__(self, skips_zeros: bool = True) -> None:
        super().__init__()
        self.skips_zeros = skips_zeros
        self._buffer: Tensor | None = None

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """(B, d) and (M, d) to (B, M); the result is overwritten by the next call."""
        shape = (len(users), len(items))
        if (
            self._buffer is None
            or self._buffer.shape[0] < shape[0]
            or self._buffer.shape[1] != shape[1]
            or self._buffer.dtype != users.dtype
            or self._buffer.device != users.device
        ):
            self._buffer = torch.empty(shape, dtype=users.dtype, device=users.device)
        return torch.mm(users, items.T, out=self._buffer[: shape[0]])

    def macs(self, users: Tensor, items: Tensor) -> Macs:
        """A matrix product of rows with their zeros."""
        return product_macs(users, items, self.skips_zeros)


class ProductScorer:
    """Scores of users against all items that are products of their vectors.

    Args:
        scores: computes a block of them, (B, d) and (M, d) to (B, M), in their type.
        users: (N, d) vectors, contiguous as the items' are.
        items: (M, d) vectors.
    """

    def __init__(self, scores: Callable[[Tensor, Tensor], Tensor], users: Tensor, items: Tensor):
        self.scores, self.users, self.items = scores, users.detach(), items.detach()

    @torch.no_grad()
    def __call__(self, ids: Tensor) -> Tensor:
        """(B,) ids to (B, M); the result is overwritten by the next call."""
        return self.scores(self.users[ids], self.items)
