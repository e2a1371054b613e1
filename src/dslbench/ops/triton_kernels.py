"""Spread and gather packed rows on a CUDA device; see `packed_kernels`.

This file is imported where Triton is installed (torch brings it along with CUDA on Linux) and a CUDA device
is used; elsewhere torch's own operations do the same work.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _places(starts, bits, n, d, n_bytes, ROWS: tl.constexpr, WIDTH: tl.constexpr):  # type: ignore[no-untyped-def]
    """Of the rows of this program: which entries are live, where these lie, and where all lie."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, WIDTH)[None, :]
    inside = (row < n) & (column < d)
    packed = tl.load(bits + row * n_bytes + column // 8, mask=inside, other=0).to(tl.int32)
    live = (packed >> (column % 8)) & 1
    at = tl.load(starts + row, mask=row < n, other=0) + tl.cumsum(live, axis=1) - live
    return live != 0, at, inside, row * d + column


@triton.jit
def _spread(starts, bits, values, full, n, d, n_bytes, ROWS: tl.constexpr, WIDTH: tl.constexpr):  # type: ignore[no-untyped-def]
    live, at, inside, place = _places(starts, bits, n, d, n_bytes, ROWS, WIDTH)
    tl.store(full + place, tl.load(values + at, mask=live, other=0.0), mask=inside)


@triton.jit
def _gather(starts, bits, values, full, n, d, n_bytes, ROWS: tl.constexpr, WIDTH: tl.constexpr):  # type: ignore[no-untyped-def]
    live, at, _, place = _places(starts, bits, n, d, n_bytes, ROWS, WIDTH)
    tl.store(values + at, tl.load(full + place, mask=live, other=0.0), mask=live)


def spread(starts: Tensor, bits: Tensor, values: Tensor, d: int) -> Tensor:
    """The (n, d) matrix of packed rows: see `packed_kernels.PackedRows`."""
    full = values.new_empty((len(bits), d))
    _by_rows(_spread, starts, bits, values, full)
    return full


def gather(starts: Tensor, bits: Tensor, full: Tensor, count: int) -> Tensor:
    """The `count` live entries of an (n, d) matrix, row by row."""
    values = full.new_empty(count)
    _by_rows(_gather, starts, bits, values, full.contiguous())
    return values


def _by_rows(kernel: Any, starts: Tensor, bits: Tensor, values: Tensor, full: Tensor) -> None:
    """Run a kernel on some rows at a time, 1,024 entries or one row."""
    n, d = full.shape
    width = triton.next_power_of_2(d)
    rows = max(1, 1024 // width)
    kernel[(triton.cdiv(n, rows),)](
        starts, bits, values, full, n, d, bits.shape[1], ROWS=rows, WIDTH=width, num_warps=4
    )
