# mypy: disable-error-code="no-untyped-call, call-arg, var-annotated"
"""Kernels that read rows of few bits as they are stored: a row is decoded where it is used.

A row is decoded to float32 before anything else is done with it, by the operations of `low_bits.decode`,
and sums are those of the kernels for float32 rows in their order: results have the same bits.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit, types
from numba.extending import overload

from dslbench.ops.hop_kernels import narrow_row, wide_row
from dslbench.ops.kernels import kernel
from dslbench.ops.lanes import prefetch
from dslbench.ops.lookup_kernels import dot
from dslbench.ops.low_bits import decode_values, uncounted
from dslbench.ops.packed_kernels import spread_row


class Coded(NamedTuple):
    """An (n, d) matrix of which row r stands for whole numbers of `bits` bits, times scale[r].

    Attributes:
        codes: packed as in `low_bits`.
        scale: (n,).
        bits: of one code.
        width: codes of each row, where all rows have as many; else -1.
        stride: bytes of these.
        starts: (n + 1,) codes before each row, where they have not; else empty.
        places: (n + 1,) bytes before each row; empty as `starts`.
        live: (n, ceil(d / 8)) bitmap of the columns that the codes belong to; of no rows: the first ones.
        wide: whether 16 columns at a time can be filled from a bitmap (`lanes.has_expand`).
    """

    codes: npt.NDArray[np.uint8]
    scale: npt.NDArray[np.float32]
    bits: int
    width: int
    stride: int
    starts: npt.NDArray[np.int32 | np.int64]
    places: npt.NDArray[np.int32 | np.int64]
    live: npt.NDArray[np.uint8]
    wide: bool


@uncounted
def decode_row(m, r, line, out, o, d):  # type: ignore[no-untyped-def]
    """Row r to out[o : o + d]; `line` (d,) is room to work in, of finite numbers."""
    if m.width >= 0:
        at, count = np.int64(r) * m.stride, np.int64(m.width)
    else:
        at, count = np.int64(m.places[r]), np.int64(m.starts[r + 1] - m.starts[r])
    if len(m.live):
        decode_values(m.codes, at, count, m.bits, m.scale[r], line, 0)
        spread_row(m.wide, m.live[r], np.int64(0), max(count - 1, 0), line, out, o, d)
    else:
        decode_values(m.codes, at, count, m.bits, m.scale[r], out, o)
        for k in range(count, d):
            out[o + k] = 0


def exact_row(table, c, line, room):  # type: ignore[no-untyped-def]
    """Row c of a float32 matrix, or of a `Coded` one, decoded into `line`."""


@overload(exact_row)
def _exact_row(table, c, line, room):  # type: ignore[no-untyped-def]
    if isinstance(table, types.Array):
        return lambda table, c, line, room: table[c]

    def decoded(table, c, line, room):  # type: ignore[no-untyped-def]
        decode_row(table, c, room, line, 0, len(line))
        return line

    return decoded


def ask_for(table, c, d):  # type: ignore[no-untyped-def]
    """Ask for the cache lines of row c ahead of its turn."""


@overload(ask_for)
def _ask_for(table, c, d):  # type: ignore[no-untyped-def]
    if isinstance(table, types.Array):

        def whole(table, c, d):  # type: ignore[no-untyped-def]
            flat = table.reshape(-1)
            for k in range(0, d, 16):
                prefetch(flat, np.int64(c) * d + k)

        return whole

    def codes(table, c, d):  # type: ignore[no-untyped-def]
        at = np.int64(c) * table.stride if table.width >= 0 else np.int64(table.places[c])
        prefetch(table.codes, at)
        prefetch(table.scale, np.int64(c))

    return codes


@kernel
def decode_rows(lo, hi, m, ids, out):  # type: ignore[no-untyped-def]
    """out[j] = row ids[j], float32."""
    d = out.shape[1]
    flat, line = out.reshape(-1), np.zeros(d, dtype=np.float32)
    for j in range(lo, hi):
        decode_row(m, ids[j], line, flat, np.int64(j) * d, d)


@kernel
def decode_range(lo, hi, m, first, out):  # type: ignore[no-untyped-def]
    """out[j] = row first + j, float32."""
    d = out.shape[1]
    flat, line = out.reshape(-1), np.zeros(d, dtype=np.float32)
    for j in range(lo, hi):
        decode_row(m, first + j, line, flat, np.int64(j) * d, d)


@kernel
def round_range(lo, hi, m, first, out):  # type: ignore[no-untyped-def]
    """out[j] = row first + j as bfloat16, rounded to the nearest even; int16 that hold its bits."""
    d = out.shape[1]
    line, row = np.zeros(d, dtype=np.float32), np.zeros(d, dtype=np.float32)
    bits = row.view(np.int32)
    for j in range(lo, hi):
        decode_row(m, first + j, line, row, 0, d)
        into = out[j]
        for k in range(d):
            into[k] = np.int16((bits[k] + 0x7FFF + ((bits[k] >> 16) & 1)) >> 16)


@kernel
def score_rows(lo, hi, users, m, out):  # type: ignore[no-untyped-def]
    """out[b, c] = users[b] . row c, for rows [lo, hi)."""
    d = users.shape[1]
    line, room = np.zeros(d, dtype=np.float32), np.zeros(d, dtype=np.float32)
    for c in range(lo, hi):
        decode_row(m, c, room, line, 0, d)
        for b in range(users.shape[0]):
            out[b, c] = dot(users[b], line)


@njit(  # type: ignore[call-overload]
    nogil=True, error_model="numpy", fastmath={"contract"}, _nrt=False
)
def _add_row(m, r, v, line, room, total):  # type: ignore[no-untyped-def]
    """total += v times row r."""
    d = len(total)
    if m.bits == 8 and m.width == d:  # decoded in registers
        at, factor = np.int64(r) * m.stride, m.scale[r]
        codes = m.codes[at : at + d]
        for k in range(d):
            total[k] += v * (np.float32(np.int8(codes[k])) * factor)
    else:
        decode_row(m, r, room, line, 0, d)
        for k in range(d):
            total[k] += v * line[k]


@kernel
def hop(lo, hi, indptr, indices, values, m, row_at, scale, to, out):  # type: ignore[no-untyped-def]
    """out[to[r]] = scale * (X[r] + sum_p values[p] * X[indices[p]]), X[r] being row row_at[r] of m.

    Empty `row_at` and `to` leave the numbers as they are.
    """
    d = out.shape[1]
    line, room = np.zeros(d, dtype=np.float32), np.zeros(d, dtype=np.float32)
    total = np.zeros(d, dtype=np.float32)
    for r in range(lo, hi):
        decode_row(m, row_at[r] if len(row_at) else r, room, total, 0, d)
        for p in range(indptr[r], indptr[r + 1]):
            q = indices[p]
            _add_row(m, row_at[q] if len(row_at) else q, values[p], line, room, total)
        row = out[to[r] if len(to) else r]
        for k in range(d):
            row[k] = scale * total[k]


@kernel
def hop_onto(lo, hi, indptr, indices, values, x, m, row_at, scale, to, out):  # type: ignore[no-untyped-def]
    """out[to[r]] = scale * (X[r] + sum_p values[p] * x[indices[p]]), with X as in `hop`."""
    d = out.shape[1]
    base, room = np.zeros((1, d), dtype=np.float32), np.zeros(d, dtype=np.float32)
    onto, flat, into = base.reshape(-1), x.reshape(-1), out.reshape(-1)
    for r in range(lo, hi):
        decode_row(m, row_at[r] if len(row_at) else r, room, onto, 0, d)
        a, b, t = indptr[r], indptr[r + 1], np.int64(to[r] if len(to) else r)
        if d % 16 == 0:
            wide_row(a, b, indices, values, d, flat, onto, np.int64(0), scale, into, t * d)
        else:
            narrow_row(a, b, indices, values, x, base, np.int64(0), scale, out, t)
