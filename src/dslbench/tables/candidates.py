"""A table of soft sizes, while it is sought how much of each a row needs (AutoEmb)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dslbench.ops.affine import MixRows
from dslbench.tables.base import Stored, Table
from dslbench.tables.maps import DirectMaps, Sizes, row_norm, start_maps
from dslbench.tables.masked import segment_slices
from dslbench.tables.spec import TableSpec
from dslbench.tables.stored.dense import Dense


class CandidateTable(Table):
    """Every row owns a vector of each size; what it stands for is their weighted sum (AutoEmb, Eq. 5).

    row = sum_k a_k tanh(norm(x_k W_k + b_k)), with one norm for all sizes of a segment. The weights
    a are not the table's own: `mix` says what they are until the next call.
    """

    weights: Tensor

    def __init__(self, spec: TableSpec, rng: np.random.Generator, sizes: Sizes) -> None:
        super().__init__(spec)
        self.sizes = sizes
        drawn = [spec.init(rng, spec.n_rows, width) for width in sizes]
        spread = float(drawn[-1].std())
        self.weight = nn.Parameter(torch.from_numpy(np.concatenate(drawn, axis=1)))
        self.maps = nn.ModuleList(DirectMaps(sizes, spec.dim, rng) for _ in spec.segments)
        self.norms = nn.ModuleList(row_norm(spec.dim, spread) for _ in spec.segments)
        self.mix_rows = MixRows()
        start = torch.zeros(spec.n_rows, len(sizes))
        start[:, 0] = 1
        self.register_buffer("weights", start)
        self._now: Tensor | None = None

    def mix(self, weights: Tensor) -> None:
        """Put weights (n, K) in force; gradients flow back to them."""
        self._now = weights

    def keep(self, weights: Tensor) -> None:
        """Put weights (n, K) in force, and remember them as the last ones of each row."""
        self.weights.copy_(weights.detach())
        self._now = None

    @torch.no_grad()
    def start(self, values: Tensor) -> None:
        """Start from rows that were trained, (n, d): each size has their first principal axes."""
        for s, rows in enumerate(segment_slices(self.spec)):
            found = start_maps(self.maps[s], self.norms[s], values[rows])
            self.weight[rows] = torch.cat([found[:, :width] for width in self.sizes], dim=1)

    def full(self) -> Tensor:
        now = self.weights if self._now is None else self._now
        parts = [
            self._of_segment(s, self.weight[rows], now[rows])
            for s, rows in enumerate(segment_slices(self.spec))
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def rows(self, ids: Tensor) -> Tensor:
        now = self.weights if self._now is None else self._now
        vectors, weights = nn.functional.embedding(ids, self.weight), now[ids]
        if len(self.norms) == 1:
            return self._of_segment(0, vectors, weights)
        out = vectors.new_empty(len(ids), self.spec.dim)
        for s, inside in enumerate(segment_slices(self.spec)):
            here = ((ids >= inside.start) & (ids < inside.stop)).nonzero().squeeze(1)
            if len(here):
                out = out.index_copy(0, here, self._of_segment(s, vectors[here], weights[here]))
        return out

    def _of_segment(self, segment: int, vectors: Tensor, weights: Tensor) -> Tensor:
        maps: Any = self.maps[segment]
        norm: Any = self.norms[segment]
        parts = torch.split(vectors, list(self.sizes), dim=1)
        mixed: Tensor = self.mix_rows(
            weights, *(norm(step(x)) for step, x in zip(maps.steps, parts, strict=True))
        )
        return mixed

    def live(self) -> int:
        return sum(p.numel() for p in self.parameters())

    def pack(self) -> Stored:
        return Dense.of(self.full().detach().cpu().numpy())
