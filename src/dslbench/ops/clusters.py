"""Which of a few points is nearest to each of many."""

from __future__ import annotations

import torch
from torch import Tensor

from dslbench.ops.base import Macs, Op

_BLOCK = 1 << 22  # products at a time


class NearestRows(Op):
    """argmin_k |x - c_k|^2 for rows x; of equal distances the first."""

    def forward(self, rows: Tensor, centroids: Tensor) -> Tensor:
        """(n, w) and (K, w) to (n,) int64."""
        half = centroids.square().sum(dim=1) / 2
        block = max(1, _BLOCK // len(centroids))
        return torch.cat(
            [(half - part @ centroids.T).argmin(dim=1) for part in torch.split(rows, block)]
        )

    def macs(self, rows: Tensor, centroids: Tensor) -> Macs:
        """n K w; the centroids' own norms are not counted."""
        return Macs(len(rows) * centroids.numel())
