"""A table whose entries are shrunk towards zero by learned thresholds (PEP)."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from dslbench.tables.base import Stored
from dslbench.tables.dense import DenseTable
from dslbench.tables.spec import TableSpec
from dslbench.tables.stored.bitmap import Bitmap

Granularity = Literal["global", "dimension", "feature", "feature_dim"]


class SoftThresholdTable(DenseTable):
    """v_hat = sign(v) relu(|v| - sigmoid(t)), with t learned beside v (PEP, Eq. 4).

    The granularity says how many thresholds there are: one, one per dimension (d), one per row
    (n), or one per entry (n x d).
    """

    def __init__(
        self, spec: TableSpec, rng: np.random.Generator, granularity: Granularity, start: float
    ) -> None:
        super().__init__(spec, rng)
        n, d = spec.n_rows, spec.dim
        shape = {"global": (1, 1), "dimension": (1, d), "feature": (n, 1), "feature_dim": (n, d)}
        self.threshold = nn.Parameter(torch.full(shape[granularity], float(start)))

    def full(self) -> Tensor:
        shrunk: Tensor = _SoftThreshold.apply(self.weight, self.threshold)  # type: ignore[no-untyped-call]
        return shrunk

    def rows(self, ids: Tensor) -> Tensor:
        chosen = nn.functional.embedding(ids, self.weight)
        threshold: Tensor = self.threshold
        if threshold.shape[0] > 1:
            threshold = nn.functional.embedding(ids, threshold)
        shrunk: Tensor = _SoftThreshold.apply(chosen, threshold)  # type: ignore[no-untyped-call]
        return shrunk

    @torch.no_grad()
    def margin(self) -> Tensor:
        """|v| - sigmoid(t): positive where an entry is alive, (n, d)."""
        return self.weight.abs() - torch.sigmoid(self.threshold)

    def live(self) -> int:
        return int((self.margin() > 0).count_nonzero())

    def pack(self) -> Stored:
        full = self.full().detach().cpu().numpy()
        return Bitmap.of(full, (self.margin() > 0).cpu().numpy())


class _SoftThreshold(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, v: Tensor, t: Tensor) -> Tensor:
        sigma = torch.sigmoid(t)
        shrunk = v.sign() * torch.relu(v.abs() - sigma)
        ctx.save_for_backward(shrunk, sigma)
        return shrunk

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        # d v_hat / d v is 1 where alive; d v_hat / d t is -sign(v) sigma'(t) there.
        shrunk, sigma = ctx.saved_tensors
        on_v = gradients[0] * (shrunk != 0)
        on_t = -(on_v * shrunk.sign()) * (sigma * (1 - sigma))
        for axis, size in enumerate(sigma.shape):
            if size == 1 and on_t.shape[axis] > 1:
                on_t = on_t.sum(dim=axis, keepdim=True)
        return on_v, on_t
