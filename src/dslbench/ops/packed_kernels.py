"""Spread packed rows to dense ones and gather them back.

A packed (n, d) matrix is its live values in order, a bitmap of ceil(d / 8) bytes a row (lowest bit
first), and where each row's values start. Sixteen entries at a time are expanded or compressed by
one AVX-512 instruction where the processor has it; elsewhere bit by bit, without branches.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from dslbench.ops.kernels import kernel
from dslbench.ops.lanes import BITS, LANES, POINTER, count_bits, expand, lanes_of, pointer


class PackedRows(NamedTuple):
    """A packed (n, d) matrix.

    Attributes:
        starts: (n + 1,) int32, where each row's values start.
        bits: (n, ceil(d / 8)) uint8, the live entries of each row.
        values: the live values, row by row, float32.
    """

    starts: npt.NDArray[np.int32]
    bits: npt.NDArray[np.uint8]
    values: npt.NDArray[np.float32]


@intrinsic
def _expand16(typing: Any, bits: Any, values: Any, p: Any, out: Any, o: Any) -> Any:
    """out[o : o + 16] = values from p on where a bit is set, 0 elsewhere; the number of set bits."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source = pointer(context, builder, signature.args[1], args[1], args[2])
        target = pointer(context, builder, signature.args[3], args[3], args[4])
        row = expand(builder, source, lanes_of(builder, args[0]))
        builder.store(row, builder.bitcast(target, LANES.as_pointer()), align=4)
        return count_bits(builder, args[0])

    return types.int64(types.int64, values, types.int64, out, types.int64), generate


@intrinsic
def _compress16(typing: Any, bits: Any, full: Any, o: Any, values: Any, p: Any) -> Any:
    """values from p on = those of full[o : o + 16] whose bit is set; the number of set bits."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source = pointer(context, builder, signature.args[1], args[1], args[2])
        target = pointer(context, builder, signature.args[3], args[3], args[4])
        row = builder.load(builder.bitcast(source, LANES.as_pointer()), align=4)
        compress = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [LANES, POINTER, BITS]),
            "llvm.masked.compressstore.v16f32",
        )
        builder.call(compress, [row, target, lanes_of(builder, args[0])])
        return count_bits(builder, args[0])

    return types.int64(types.int64, full, types.int64, values, types.int64), generate


@njit(nogil=True)
def _spread_bits(byte, width, p, last, values, out, o):  # type: ignore[no-untyped-def]
    """Up to 8 entries from one byte of the bitmap; returns the place after the last value taken."""
    for j in range(width):
        bit = (byte >> j) & 1
        out[o + j] = values[min(p, last)] * bit
        p += bit
    return p


@njit(nogil=True)
def _gather_bits(byte, width, p, values, full, o):  # type: ignore[no-untyped-def]
    for j in range(width):
        if (byte >> j) & 1:
            values[p] = full[o + j]
            p += 1
    return p


@njit(nogil=True)
def spread_row(wide, bits, p, last, values, out, o, d):  # type: ignore[no-untyped-def]
    """Write one row of d entries to out[o:]; `wide` takes 16 at a time."""
    c = 0
    if wide:
        while c + 16 <= d:
            both = np.int64(bits[c >> 3]) | np.int64(bits[(c >> 3) + 1]) << 8
            p += _expand16(both, values, p, out, o + c)  # type: ignore[call-arg]
            c += 16
    while c < d:
        p = _spread_bits(np.int64(bits[c >> 3]), min(8, d - c), p, last, values, out, o + c)
        c += 8


@kernel
def spread_rows(lo, hi, wide, starts, bits, values, out):  # type: ignore[no-untyped-def]
    """Row r of the packed matrix to out[r], for rows [lo, hi); `out` is (n, d), contiguous."""
    d = out.shape[1]
    flat, last = out.reshape(-1), len(values) - 1
    for r in range(lo, hi):
        spread_row(wide, bits[r], np.int64(starts[r]), last, values, flat, np.int64(r) * d, d)


@kernel
def spread_chosen(lo, hi, wide, ids, starts, bits, values, out):  # type: ignore[no-untyped-def]
    """Row ids[j] of the packed matrix to out[j], for j in [lo, hi)."""
    d = out.shape[1]
    flat, last = out.reshape(-1), len(values) - 1
    for j in range(lo, hi):
        r = ids[j]
        spread_row(wide, bits[r], np.int64(starts[r]), last, values, flat, np.int64(j) * d, d)


@kernel
def gather_rows(lo, hi, wide, starts, bits, values, full):  # type: ignore[no-untyped-def]
    """The live entries of full[r] to row r of the packed matrix, for rows [lo, hi)."""
    d = full.shape[1]
    flat = full.reshape(-1)
    for r in range(lo, hi):
        p, o = np.int64(starts[r]), np.int64(r) * d
        c = 0
        if wide:
            while c + 16 <= d:
                both = np.int64(bits[r, c >> 3]) | np.int64(bits[r, (c >> 3) + 1]) << 8
                p += _compress16(both, flat, o + c, values, p)  # type: ignore[call-arg]
                c += 16
        while c < d:
            p = _gather_bits(np.int64(bits[r, c >> 3]), min(8, d - c), p, values, flat, o + c)
            c += 8


@kernel
def gather_chosen(lo, hi, ids, starts, bits, values, given):  # type: ignore[no-untyped-def]
    """values += the live entries of given[j] for each row ids[j] in [lo, hi), j in order."""
    d = given.shape[1]
    for j in range(len(ids)):
        r = ids[j]
        if lo <= r < hi:
            p = np.int64(starts[r])
            for c in range(d):
                if (bits[r, c >> 3] >> (c & 7)) & 1:
                    values[p] += given[j, c]
                    p += 1
