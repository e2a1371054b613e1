"""A table whose rows have different widths."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dslbench.ops.affine import ExpandRows
from dslbench.tables.base import Table
from dslbench.tables.maps import ChainMaps, DirectMaps, Sizes, map_parameters, row_norm, start_maps
from dslbench.tables.masked import segment_slices
from dslbench.tables.spec import TableSpec
from dslbench.tables.stored.rows import Rows
from dslbench.tables.stored.values import Values


class MixedTable(Table):
    """Every row owns one vector, of one of a few widths; maps bring it to d.

    row = tanh(norm(map(x))), the norm over all rows of a segment that are looked up together. In
    ranking the norm is affine: it is folded into the maps, which then are what is stored.

    The vectors lie in an (n, d) parameter that is zero from each row's width on. Gradients there
    are zero too, and no other width of a row is ever computed.

    Args:
        sizes: the possible widths, ascending; all rows start at the first.
        chain: whether maps lead from a width to the next (ESAPN) or straight to d (AutoEmb).
    """

    place: Tensor

    def __init__(
        self, spec: TableSpec, rng: np.random.Generator, sizes: Sizes, chain: bool
    ) -> None:
        super().__init__(spec)
        self.sizes, self.chain = sizes, chain
        drawn = torch.from_numpy(spec.init(rng, spec.n_rows, spec.dim))
        spread = float(drawn.std())
        drawn[:, sizes[0] :] = 0
        self.weight = nn.Parameter(drawn)
        kind = ChainMaps if chain else DirectMaps
        self.maps = nn.ModuleList(kind(sizes, spec.dim, rng) for _ in spec.segments)
        self.norms = nn.ModuleList(row_norm(spec.dim, spread) for _ in spec.segments)
        self.expand_rows = ExpandRows()
        self.register_buffer("place", torch.zeros(spec.n_rows, dtype=torch.int64))
        # Sizes whose maps are stored, by segment.
        self.allowed: list[list[int]] = [list(range(len(sizes))) for _ in spec.segments]
        self._order: tuple[Tensor, list[int], Tensor] | None = None

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._order = None

    @torch.no_grad()
    def start(self, values: Tensor) -> None:
        """Start from rows that were trained, (n, d): what is kept are their first principal axes."""
        for s, rows in enumerate(segment_slices(self.spec)):
            self.weight[rows] = start_maps(self.maps[s], self.norms[s], values[rows])
        self.resize(self.place.clone())

    @property
    def widths(self) -> npt.NDArray[np.int64]:
        """(n,) width of each row."""
        found: npt.NDArray[np.int64] = np.asarray(self.sizes)[self.place.cpu().numpy()]
        return found

    @torch.no_grad()
    def resize(self, place: Tensor) -> None:
        """Give each row (n,) a place in `sizes`, and zero its vector from that width on."""
        self.place.copy_(place)
        widths = torch.tensor(self.sizes, device=place.device)[self.place]
        columns = torch.arange(self.spec.dim, device=place.device)
        self.weight.masked_fill_(columns >= widths.unsqueeze(1), 0)
        self._order = None

    @torch.no_grad()
    def enlarge(self, rows: Tensor) -> None:
        """Move distinct rows (B,) to the next width: x becomes x W + b of the chain's step.

        The mapped row stays as it is but for rounding.
        """
        for place, at in enumerate(self.sizes[:-1]):
            here = self._in_segments(rows[self.place[rows] == place])
            for maps, ids in zip(self.maps, here, strict=True):
                if len(ids):
                    step: Any = maps.steps[place]  # type: ignore[index]
                    moved = step(self.weight[ids, :at])
                    self.weight[ids, : moved.shape[1]] = moved
        self.place[rows] += 1
        self._order = None

    @torch.no_grad()
    def shrink(self, rows: Tensor, vectors: Tensor) -> None:
        """Take an enlargement back: rows (B,), and their vectors (B, d) as they were before it."""
        self.weight[rows] = vectors
        self.place[rows] -= 1
        self._order = None

    @torch.no_grad()
    def estimate_norms(self) -> None:
        """Set the norms' running statistics to those of all rows as they are now."""
        order, counts, _ = self._arranged(None)
        for z, norm in zip(self._mapped(order, counts), self.norms, strict=True):
            if len(z) > 1:
                norm.estimate(z.mean(dim=0), z.var(dim=0))  # type: ignore[operator]

    def full(self) -> Tensor:
        return self._look_up(None)

    def rows(self, ids: Tensor) -> Tensor:
        return self._look_up(ids)

    def _look_up(self, ids: Tensor | None) -> Tensor:
        order, counts, back = self._arranged(ids)
        if self.training:
            normed = [
                norm(z) if len(z) else z
                for z, norm in zip(self._mapped(order, counts), self.norms, strict=True)
            ]
            return torch.cat(normed).index_select(0, back)
        maps, k = self._stored_maps(), len(self.sizes)
        blocks = torch.split(nn.functional.embedding(order, self.weight), counts)
        parts = [
            self.expand_rows(
                x[:, : self.sizes[p % k]].contiguous(), *maps[p // k, self.sizes[p % k]]
            )
            for p, x in enumerate(blocks)
            if len(x)
        ]
        return torch.cat(parts).index_select(0, back)

    def _mapped(self, order: Tensor, counts: list[int]) -> list[Tensor]:
        """Rows brought to d, before the norm: (B_s, d) for each segment."""
        k = len(self.sizes)
        blocks = torch.split(nn.functional.embedding(order, self.weight), counts)
        return [
            maps([x[:, :w] for x, w in zip(blocks[s * k :], self.sizes, strict=False)])
            for s, maps in enumerate(self.maps)
        ]

    def _arranged(self, ids: Tensor | None) -> tuple[Tensor, list[int], Tensor]:
        """Row numbers by segment, then size; how many of each; and where each id went.

        None stands for all rows; their order is kept until a size changes.
        """
        if ids is None and self._order is not None:
            return self._order
        rows = torch.arange(self.spec.n_rows, device=self.place.device) if ids is None else ids
        k, n_segments = len(self.sizes), len(self.spec.segments)
        key = self.place[rows]
        for inside in segment_slices(self.spec)[1:]:
            key = key + k * (rows >= inside.start)
        order = torch.sort(key, stable=True).indices
        counts: list[int] = torch.bincount(key, minlength=k * n_segments).tolist()
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order), device=order.device)
        found = rows[order], counts, back
        if ids is None:
            self._order = found
        return found

    def _in_segments(self, rows: Tensor) -> list[Tensor]:
        return [
            rows[(rows >= inside.start) & (rows < inside.stop)]
            for inside in segment_slices(self.spec)
        ]

    def _stored_maps(self) -> dict[tuple[int, int], tuple[Tensor, Tensor]]:
        """Weight and bias by segment and width, the norm's running statistics folded in."""
        found = {}
        pairs = zip(self.maps, self.norms, self.allowed, strict=True)
        for segment, (maps, norm, allowed) in enumerate(pairs):
            factor, offset = norm.as_affine()  # type: ignore[operator]
            for place in allowed:
                weight, bias = maps.composed(place)  # type: ignore[operator]
                found[segment, self.sizes[place]] = (
                    factor if weight is None else weight * factor,
                    offset if bias is None else bias * factor + offset,
                )
        return found

    def live(self) -> int:
        maps = sum(
            map_parameters(self.sizes[place], self.spec.dim, self.chain)
            for places in self.allowed
            for place in places
        )
        return int(self.widths.sum()) + maps

    def pack(self) -> Rows:
        widths = self.widths
        inside = np.arange(self.spec.dim) < widths[:, None]
        return Rows(
            shape=(self.spec.n_rows, self.spec.dim),
            values=Values.of(self.weight.detach().cpu().numpy()[inside], widths),
            widths=widths,
            segments=tuple(rows for _, rows in self.spec.segments),
            maps={
                key: (w.detach().cpu().numpy().copy(), b.detach().cpu().numpy().copy())
                for key, (w, b) in self._stored_maps().items()
            },
        )
