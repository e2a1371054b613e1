"""Matrices of which the live entries alone are kept: spread them out, and gather them again.

`values` (k,) are the live entries row by row, `bits` (n, ceil(d / 8)) uint8 says which those are,
lowest bit first, and `starts` (n + 1,) int32 where each row's begin. Kernels of our own on the CPU,
Triton on CUDA where it is there, torch's operations elsewhere.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dslbench.ops import packed_kernels
from dslbench.ops.base import triton_kernels
from dslbench.ops.lanes import has_expand
from dslbench.ops.packed_kernels import PackedRows
from dslbench.ops.threads import even_bounds, run_rows, thread_count

_WIDE = has_expand()


def row_starts(bits: npt.NDArray[np.uint8]) -> Tensor:
    """(n + 1,) int32, where each row's values begin: it counts as many as a table of 8 GiB has."""
    starts = np.zeros(len(bits) + 1, dtype=np.int64)
    np.cumsum(np.bitwise_count(bits).sum(axis=1, dtype=np.int64), out=starts[1:])
    return torch.from_numpy(starts.astype(np.int32))


def unpack_bits(bits: Tensor, d: int) -> Tensor:
    """The mask (n, d) of a bitmap."""
    if bits.device.type != "cpu":
        places = torch.arange(d, device=bits.device)
        return (bits[:, places // 8] >> (places % 8).to(torch.uint8) & 1).bool()
    entries = np.unpackbits(bits.numpy(), axis=1, count=d, bitorder="little")
    return torch.from_numpy(entries.view(bool))


def spread(values: Tensor, bits: Tensor, starts: Tensor, d: int) -> Tensor:
    """The (n, d) matrix, zeros where nothing is kept."""
    shape = (len(bits), d)
    if values.device.type != "cpu":
        if (found := triton_kernels()) is not None:
            full: Tensor = found.spread(starts, bits, values, d)
            return full
        out = torch.zeros(shape, dtype=values.dtype, device=values.device)
        out[unpack_bits(bits, d)] = values
        return out
    out = torch.empty(shape, dtype=values.dtype)
    run_rows(
        packed_kernels.spread_rows, even_bounds(*shape), _WIDE, *_arrays(values, bits, starts),
        out.numpy(),
    )  # fmt: skip
    return out


def spread_chosen(values: Tensor, bits: Tensor, starts: Tensor, d: int, ids: Tensor) -> Tensor:
    """The rows of `ids` (...) as (..., d)."""
    if values.device.type != "cpu":
        return spread(values, bits, starts, d)[ids]
    flat = ids.reshape(-1)
    out = torch.empty((len(flat), d), dtype=values.dtype)
    run_rows(
        packed_kernels.spread_chosen, even_bounds(*out.shape), _WIDE, flat.numpy(),
        *_arrays(values, bits, starts), out.numpy(),
    )  # fmt: skip
    return out.view(*ids.shape, d)


def gather(full: Tensor, bits: Tensor, starts: Tensor, count: int) -> Tensor:
    """The `count` entries of an (n, d) matrix that are live, row by row."""
    if full.device.type != "cpu":
        if (found := triton_kernels()) is not None:
            gathered: Tensor = found.gather(starts, bits, full, count)
            return gathered
        return full[unpack_bits(bits, full.shape[1])]
    out = torch.empty(count, dtype=full.dtype)
    full = full.detach().contiguous()
    run_rows(
        packed_kernels.gather_rows, even_bounds(*full.shape), _WIDE, *_arrays(out, bits, starts),
        full.numpy(),
    )  # fmt: skip
    return out


def gather_chosen(given: Tensor, ids: Tensor, bits: Tensor, starts: Tensor, count: int) -> Tensor:
    """Sums of rows (B, d) that belong to rows `ids` (...) of the matrix, at its live entries, (count,).

    On the CPU; the sums of one entry are in the order of the ids.
    """
    out = torch.zeros(count, dtype=given.dtype)
    # Every range of rows looks through all ids: not more ranges than the work is worth.
    parts = len(even_bounds(*given.shape)) - 1
    run_rows(
        packed_kernels.gather_chosen, even_bounds(len(bits), parts=min(parts, thread_count())),
        ids.reshape(-1).numpy(), *_arrays(out, bits, starts), given.contiguous().numpy(),
    )  # fmt: skip
    return out


def _arrays(values: Tensor, bits: Tensor, starts: Tensor) -> PackedRows:
    return PackedRows(starts.numpy(), bits.numpy(), values.detach().numpy())
