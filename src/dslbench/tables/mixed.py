"""Tables whose rows have different widths: soft sizes while they are sought, and hard ones."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dslbench.ops.affine import Affine, MixRows, RowNorm
from dslbench.tables.base import StoredTable, Table, TableSpec
from dslbench.tables.masked import segment_slices
from dslbench.tables.rows import StoredRows, mapped

Sizes = tuple[int, ...]


def map_parameters(width: int, dim: int, chain: bool) -> int:
    """Parameters of the stored map of a width; the last of a chain only scales and shifts."""
    return 2 * dim if chain and width == dim else (width + 1) * dim


class DirectMaps(nn.Module):
    """A map from each width straight to d (AutoEmb, Eq. 3)."""

    def __init__(self, sizes: Sizes, dim: int, rng: np.random.Generator) -> None:
        super().__init__()
        self.sizes = sizes
        self.steps = nn.ModuleList(Affine(width, dim, rng) for width in sizes)

    def forward(self, blocks: Sequence[Tensor]) -> Tensor:
        """Blocks (B_k, w_k), one for each width, to all their rows (sum B_k, d), in order."""
        return torch.cat([step(x) for step, x in zip(self.steps, blocks, strict=True)])

    @torch.no_grad()
    def start(self, basis: Tensor) -> None:
        """Bring vectors that are the first coordinates in an orthonormal basis (d, d) back from it."""
        for width, step in zip(self.sizes, self.steps, strict=True):
            step.weight.copy_(basis[:, :width].T)  # type: ignore[operator]

    def composed(self, place: int) -> tuple[Tensor | None, Tensor | None]:
        """Weight (w, d) and bias (d,) of the map of one width."""
        step: Any = self.steps[place]
        return step.weight, step.bias


class ChainMaps(nn.Module):
    """Maps from each width to the next, up to d (ESAPN, Eq. 2)."""

    def __init__(self, sizes: Sizes, dim: int, rng: np.random.Generator) -> None:
        super().__init__()
        ends = sizes if sizes[-1] == dim else (*sizes, dim)
        self.dim = dim
        self.steps = nn.ModuleList(Affine(a, b, rng) for a, b in pairwise(ends))

    def forward(self, blocks: Sequence[Tensor]) -> Tensor:
        """Blocks (B_k, w_k), one for each width, to all their rows (sum B_k, d), in order."""
        h = blocks[0]
        for place, step in enumerate(self.steps, start=1):
            h = step(h)
            if place < len(blocks):
                h = torch.cat([h, blocks[place]])
        return h

    @torch.no_grad()
    def start(self, basis: Tensor) -> None:
        """Bring vectors that are the first coordinates in an orthonormal basis (d, d) back from it.

        All steps but the last add coordinates that are zero; so a chain without steps needs the
        vectors themselves, not their coordinates.
        """
        steps: list[Any] = list(self.steps)
        for step in steps[:-1]:
            step.weight.copy_(torch.eye(*step.weight.shape))
        for step in steps[-1:]:
            step.weight.copy_(basis[:, : len(step.weight)].T)

    def composed(self, place: int) -> tuple[Tensor | None, Tensor | None]:
        """Weight (w, d) and bias (d,) of all steps from one width up; None where there are none."""
        weight: Tensor | None = None
        bias: Tensor | None = None
        rest: list[Any] = list(self.steps)[place:]
        for step in rest:
            bias = step.bias if bias is None else bias @ step.weight + step.bias
            weight = step.weight if weight is None else weight @ step.weight
        return weight, bias


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
        self._now = start

    def mix(self, weights: Tensor) -> None:
        """Put weights (n, K) in force; gradients flow back to them."""
        self._now = weights

    def keep(self, weights: Tensor) -> None:
        """Put weights (n, K) in force, and remember them as the last ones of each row."""
        self.weights.copy_(weights.detach())
        self._now = self.weights

    @torch.no_grad()
    def start(self, values: Tensor) -> None:
        """Start from rows that were trained, (n, d): each size has their first principal axes."""
        for s, rows in enumerate(segment_slices(self.spec)):
            found = start_maps(self.maps[s], self.norms[s], values[rows])
            self.weight[rows] = torch.cat([found[:, :width] for width in self.sizes], dim=1)

    def full(self) -> Tensor:
        parts = [
            self._of_segment(s, self.weight[rows], self._now[rows])
            for s, rows in enumerate(segment_slices(self.spec))
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def rows(self, ids: Tensor) -> Tensor:
        vectors, weights = nn.functional.embedding(ids, self.weight), self._now[ids]
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
            weights, *(norm(step(x)).tanh() for step, x in zip(maps.steps, parts, strict=True))
        )
        return mixed

    def live(self) -> int:
        return sum(p.numel() for p in self.parameters())

    def pack(self) -> StoredTable:
        full = self.full().detach().cpu().numpy()
        return StoredTable((full.shape[0], full.shape[1]), full.reshape(-1), None)

    def load(self, stored: StoredTable) -> None:
        raise ValueError("a table of candidate sizes is never read: its rows have no one size yet")


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
        self.register_buffer("place", torch.zeros(spec.n_rows, dtype=torch.int64))
        # Sizes whose maps are stored, by segment.
        self.allowed: list[list[int]] = [list(range(len(sizes))) for _ in spec.segments]
        self._order: tuple[Tensor, list[int], Tensor] | None = None
        self._read: StoredRows | None = None

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
        if self.training and self._read is None:
            normed = [
                norm(z) if len(z) else z
                for z, norm in zip(self._mapped(order, counts), self.norms, strict=True)
            ]
            return torch.cat(normed).tanh().index_select(0, back)
        maps, k = self._stored_maps(), len(self.sizes)
        blocks = torch.split(nn.functional.embedding(order, self.weight), counts)
        parts = [
            mapped(x[:, : self.sizes[p % k]].contiguous(), *maps[p // k, self.sizes[p % k]])
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
        if self._read is not None:
            device = self.weight.device
            return {
                key: (torch.tensor(w, device=device), torch.tensor(b, device=device))
                for key, (w, b) in self._read.maps.items()
            }
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

    def pack(self) -> StoredRows:
        widths = self.widths
        inside = np.arange(self.spec.dim) < widths[:, None]
        return StoredRows(
            shape=(self.spec.n_rows, self.spec.dim),
            values=self.weight.detach().cpu().numpy()[inside],
            mask=None,
            widths=widths,
            segments=tuple(rows for _, rows in self.spec.segments),
            maps={
                key: (w.detach().cpu().numpy().copy(), b.detach().cpu().numpy().copy())
                for key, (w, b) in self._stored_maps().items()
            },
        )

    @torch.no_grad()
    def load(self, stored: StoredTable) -> None:
        """Take rows and folded maps; the table can then be looked up, but not trained further."""
        if not isinstance(stored, StoredRows):
            raise ValueError("a table of mixed sizes is read from stored rows of mixed sizes")
        places = {width: place for place, width in enumerate(self.sizes)}
        chosen = torch.tensor([places[int(width)] for width in stored.widths])
        self.resize(chosen.to(self.place.device))
        padded = np.zeros(stored.shape, dtype=np.float32)
        padded[np.arange(self.spec.dim) < stored.widths[:, None]] = stored.values
        self.weight.copy_(torch.from_numpy(padded))
        self._read = stored


def row_norm(dim: int, spread: float) -> RowNorm:
    """A norm whose output starts with the spread that the backbone gives its table.

    What it normalises starts with that spread as well (UltraGCN's is 1e-4): eps must be small
    beside its square.
    """
    spread = spread or 1.0
    return RowNorm(dim, scale=spread, eps=1e-5 * spread**2)


def start_maps(maps: Any, norm: Any, values: Tensor) -> Tensor:
    """Set maps and norm such that the coordinates returned, (n, d), stand for these rows.

    The coordinates are those along the principal axes, so the first w of them are the best that a
    vector of width w can do. The norm gives back means and spreads; tanh is near the identity at
    the scale of embeddings.
    """
    mean, spread = values.mean(dim=0), values.std(dim=0)
    centred = values - mean
    axes = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1)
    if not len(maps.steps):
        axes = torch.eye(len(mean), device=values.device)
    maps.start(axes)
    norm.scale.copy_(spread)
    norm.shift.copy_(mean)
    coordinates: Tensor = centred @ axes
    return coordinates
