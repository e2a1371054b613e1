"""Scores as dot products: of pairs, and of users against all items."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dslbench.ops import coded_kernels
from dslbench.ops.base import Macs, Op, live, product_macs, trained
from dslbench.ops.coded import CodedRows
from dslbench.ops.threads import even_bounds, run_rows

# From user ids (B,) to scores of all items (B, M), and from users (B,) and items (B, C) to theirs (B, C).
Scorer = Callable[[Tensor], Tensor]
CandidateScorer = Callable[[Tensor, Tensor], Tensor]

# Coded items are scored straight from their codes for so few users; for more they are decoded in blocks,
# for a matrix product.
FEW_USERS = 4


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

    def forward(self, users: Tensor, items: Tensor | CodedRows) -> Tensor:
        """(B, d) and (M, d) to (B, M), of the users' type; the result is overwritten by the next call."""
        shape = (len(users), len(items))
        if (
            self._buffer is None
            or self._buffer.shape[0] < shape[0]
            or self._buffer.shape[1] != shape[1]
            or self._buffer.dtype != users.dtype
            or self._buffer.device != users.device
        ):
            self._buffer = torch.empty(shape, dtype=users.dtype, device=users.device)
        out = self._buffer[: shape[0]]
        if isinstance(items, Tensor):
            return torch.mm(users, items.T, out=out)
        if len(users) <= FEW_USERS and users.dtype == torch.float32:
            run_rows(
                coded_kernels.score_rows, even_bounds(*items.shape), users.contiguous().numpy(),
                items.stored, out.numpy(),
            )  # fmt: skip
            return out
        for part, block in items.blocks(users.dtype):
            torch.mm(users, block.T, out=out[:, part])
        return out

    def macs(self, users: Tensor, items: Tensor | CodedRows) -> Macs:
        """A matrix product of rows with their zeros."""
        full = items if isinstance(items, Tensor) else items.full()
        return product_macs(users, full, self.skips_zeros)


class ProductScorer:
    """Scores of users against all items that are products of their vectors.

    Args:
        scores: computes a block of them, (B, d) and (M, d) to (B, M), in their type.
        users: (N, d) vectors, contiguous as the items' are.
        items: (M, d) vectors.
    """

    def __init__(
        self, scores: Callable[[Tensor, Tensor | CodedRows], Tensor], users: Tensor | CodedRows,
        items: Tensor | CodedRows,
    ) -> None:  # fmt: skip
        self.scores = scores
        self.users = users.detach() if isinstance(users, Tensor) else users
        self.items = items.detach() if isinstance(items, Tensor) else items

    def vectors(self, ids: Tensor) -> Tensor:
        """Those of users (B,), (B, d)."""
        return self.users[ids] if isinstance(self.users, Tensor) else self.users.rows(ids)

    @torch.no_grad()
    def __call__(self, ids: Tensor) -> Tensor:
        """(B,) ids to (B, M); the result is overwritten by the next call."""
        return self.scores(self.vectors(ids), self.items)
