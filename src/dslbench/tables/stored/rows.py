"""Rows of different widths, and the maps, float32, that bring each to full width."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dslbench.ops.affine import ExpandRows, expand
from dslbench.tables.base import Array, Int64, Parts, Table
from dslbench.tables.spec import Float32, TableSpec, unsigned
from dslbench.tables.stored._valued import Served, Valued
from dslbench.tables.stored.values import Values


@dataclass(frozen=True)
class Rows(Valued):
    """Row r of width w in segment s stands for tanh(x_r W + b), W (w, d) and b (d,) its map.

    Where W has shape (d,) it is a diagonal one, for w = d. In the file: `values`; `counts`, the widths;
    `map.s.w` and `bias.s.w` for each map; the header names the segments' sizes and the maps.

    Attributes:
        values: the rows one after the other.
        widths: (n,) width of each row.
        segments: number of rows of each segment.
        maps: weight and bias by segment and width. All of them are stored, and count, used or not.
    """

    form: ClassVar[str] = "rows"

    widths: Int64
    segments: tuple[int, ...]
    maps: Mapping[tuple[int, int], tuple[Float32, Float32]]

    @property
    def parameters(self) -> int:
        """Rows and maps."""
        return self.values.count + sum(w.size + b.size for w, b in self.maps.values())

    def arrays(self) -> dict[str, Array]:
        counts = self.widths.astype(unsigned(self.shape[1]))
        found = self.values.arrays() | {"counts": counts}
        for (segment, width), (weight, bias) in self.maps.items():
            found |= {f"map.{segment}.{width}": weight, f"bias.{segment}.{width}": bias}
        return found

    def about(self) -> dict[str, Any]:
        shown = {"segments": list(self.segments), "maps": [list(key) for key in self.maps]}
        return shown | self.values.about()

    @classmethod
    def read(cls, shape: tuple[int, int], about: Mapping[str, Any], parts: Parts) -> Self:
        widths = parts.take("counts", unsigned(shape[1]), (shape[0],)).astype(np.int64)
        values = Values.read(about, widths, parts)
        maps = {
            (int(s), int(w)): (parts.take_any(f"map.{s}.{w}"), parts.take_any(f"bias.{s}.{w}"))
            for s, w in about["maps"]
        }
        found = cls(shape, values, widths, tuple(int(size) for size in about["segments"]), maps)
        found.check()
        return found

    def check(self) -> None:
        """Raise `ValueError` where the parts don't fit together."""
        n, d = self.shape
        if (
            self.widths.shape != (n,)
            or sum(self.segments) != n
            or min(self.segments, default=0) < 0
        ):
            raise ValueError(f"{self.widths.size} widths in segments {self.segments}, not {n}")
        if len(self.widths) and not (self.widths.min() >= 1 and self.widths.max() <= d):
            raise ValueError(f"widths outside 1 to {d}")
        if any(x.dtype != np.float32 for pair in self.maps.values() for x in pair):
            raise ValueError("maps that are not float32")
        if not np.array_equal(self.values.lengths, self.widths):
            raise ValueError(f"{self.values.count} values for widths of {int(self.widths.sum())}")
        for (_, width), (weight, bias) in self.maps.items():
            if bias.shape != (d,) or (weight.shape != (width, d) and weight.shape != (d,)):
                raise ValueError(f"a map of shape {weight.shape} for width {width}")
            if weight.shape == (d,) and width != d:
                raise ValueError(f"a diagonal map for width {width}")
        for segment, width, _ in self.blocks():
            if (segment, width) not in self.maps:
                raise ValueError(f"no map for width {width} of segment {segment}")

    def blocks(self) -> Iterator[tuple[int, int, Int64]]:
        """Segment, width and row numbers of all rows that share both, ascending."""
        bounds = np.cumsum([0, *self.segments])
        for segment, (start, end) in enumerate(pairwise(bounds)):
            inside = self.widths[start:end]
            for width in np.unique(inside):
                yield segment, int(width), start + np.flatnonzero(inside == width)

    def entries(self) -> Int64:
        return self.widths

    def live(self) -> npt.NDArray[np.bool_]:
        """The first columns of each row, as many as it is wide."""
        return np.arange(self.shape[1]) < self.widths[:, None]

    def unpack(self) -> Float32:
        """The (n, d) matrix of mapped rows."""
        full = np.empty(self.shape, dtype=np.float32)
        starts, values = np.cumsum(self.widths) - self.widths, self.values.flat()
        for segment, width, rows in self.blocks():
            block = values[starts[rows][:, None] + np.arange(width)]
            weight, bias = (torch.tensor(x) for x in self.maps[segment, width])
            full[rows] = expand(torch.from_numpy(block), weight, bias).numpy()
        return full

    def table(self, spec: TableSpec) -> Table:
        return ServedRows(spec, self)


class ServedRows(Served):
    """Brings the rows that are asked for to full width; the maps' products are on the bill."""

    block: Tensor

    def __init__(self, spec: TableSpec, stored: Rows) -> None:
        super().__init__(spec, stored)
        self._keys = [(segment, width) for segment, width, _ in stored.blocks()]
        block = np.empty(stored.shape[0], dtype=np.int64)
        for number, (_, _, rows) in enumerate(stored.blocks()):
            block[rows] = number
        self.register_buffer("block", torch.from_numpy(block))
        for number, key in enumerate(self._keys):
            weight, bias = stored.maps[key]
            self.register_buffer(f"map{number}", torch.tensor(weight))
            self.register_buffer(f"bias{number}", torch.tensor(bias))
        self.expand_rows = ExpandRows()

    def full(self) -> Tensor:
        return self.rows(torch.arange(self.spec.n_rows, device=self.block.device))

    def rows(self, ids: Tensor) -> Tensor:
        out = torch.empty((len(ids), self.spec.dim), device=ids.device)
        of_ids = self.block[ids]
        for number, (_, width) in enumerate(self._keys):
            here = (of_ids == number).nonzero().squeeze(1)
            if len(here):
                vectors = self.values.of_rows(ids[here])[0].view(len(here), width)
                maps = getattr(self, f"map{number}"), getattr(self, f"bias{number}")
                out[here] = self.expand_rows(vectors, *maps)
        return out
