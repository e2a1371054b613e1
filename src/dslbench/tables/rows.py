"""A stored table whose rows have different widths, and the maps that bring a row to full width."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch

from dslbench.ops.affine import expand
from dslbench.tables.base import Float32, StoredTable

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class StoredRows(StoredTable):
    """A table as rows of different widths, and a map for each width of each segment.

    Row r of width w in segment s stands for tanh(x_r W + b), W = maps[s, w][0] of shape (w, d) and
    b = maps[s, w][1] of shape (d,). Where W has shape (d,) it is a diagonal one, for w = d.

    Attributes:
        values: the rows one after the other, float32; `mask` is None.
        widths: (n,) width of each row.
        segments: number of rows of each segment.
        maps: by segment and width. All of them are stored, and count, used or not.
    """

    widths: Int64
    segments: tuple[int, ...]
    maps: Mapping[tuple[int, int], tuple[Float32, Float32]]

    @property
    def stored(self) -> int:
        """Number of stored parameters: rows and maps."""
        return int(self.values.size) + sum(w.size + b.size for w, b in self.maps.values())

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
        if any(x.dtype != np.float32 for pair in self.maps.values() for x in (self.values, *pair)):
            raise ValueError("values that are not float32")
        if self.values.shape != (int(self.widths.sum()),):
            raise ValueError(f"{self.values.size} values for widths of {int(self.widths.sum())}")
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

    def unpack(self) -> Float32:
        """The (n, d) matrix of mapped rows."""
        full = np.empty(self.shape, dtype=np.float32)
        starts = np.cumsum(self.widths) - self.widths
        for segment, width, rows in self.blocks():
            block = self.values[starts[rows][:, None] + np.arange(width)]
            weight, bias = (torch.tensor(x) for x in self.maps[segment, width])
            full[rows] = expand(torch.from_numpy(block), weight, bias).numpy()
        return full
