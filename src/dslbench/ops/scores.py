"""Scores as dot products: of pairs, and of users against all items."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PairScores(nn.Module):
    """Row-wise dot products."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """(B, d) and (B, d) to (B,)."""
        return (a * b).sum(dim=1)


class FullScores(nn.Module):
    """Users against all items, into one buffer that is used again for the next block."""

    def __init__(self) -> None:
        super().__init__()
        self._buffer: Tensor | None = None

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """(B, d) and (M, d) to (B, M); the result is overwritten by the next call."""
        shape = (len(users), len(items))
        if (
            self._buffer is None
            or self._buffer.shape[0] < shape[0]
            or self._buffer.shape[1] != shape[1]
            or self._buffer.device != users.device
        ):
            self._buffer = torch.empty(shape, dtype=users.dtype, device=users.device)
        return torch.mm(users, items.T, out=self._buffer[: shape[0]])
