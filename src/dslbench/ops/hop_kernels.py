# mypy: disable-error-code="call-arg, var-annotated"
"""Hops of LightGCN's propagation: sparse times dense, a row's sum kept in registers.

Each entry of a row is the same sum in the same order, of fused products where the processor has them,
however wide the strip of columns that is summed at a time.

What a hop reads of its neighbours, and writes for the next one, may be in halves (bfloat16 as uint16; d a
multiple of 16): half the traffic, which is most of a hop's time. Sums are of float32.

`to` says which row of the output each row is written to, where they are in another order; empty: its own.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from dslbench.ops.kernels import kernel
from dslbench.ops.lanes import add_lanes, load_lanes, prefetch, store_lanes, zero_lanes

# Neighbours whose rows are asked for ahead of their turn: about as many as one row's sum takes.
_AHEAD = 16


@njit(nogil=True, error_model="numpy", fastmath={"contract"})
def wide_row(first, last, indices, values, d, x, base, b, scale, out, o):  # type: ignore[no-untyped-def]
    """out[o : o + d] = scale * (base[b : b + d] + sum_p values[p] * row indices[p] of x).

    For p in [first, last) and d a multiple of 16; `x`, `base` and `out` are flat; b < 0: no base.
    """
    end = len(indices) - 1
    c = 0
    while c + 64 <= d:
        s0 = s1 = s2 = s3 = zero_lanes()
        if b >= 0:
            s0, s1 = load_lanes(base, b + c), load_lanes(base, b + c + 16)
            s2, s3 = load_lanes(base, b + c + 32), load_lanes(base, b + c + 48)
        for p in range(first, last):
            q = np.int64(indices[min(p + _AHEAD, end)]) * d + c
            prefetch(x, q), prefetch(x, q + 16)
            prefetch(x, q + 32), prefetch(x, q + 48)
            q = np.int64(indices[p]) * d + c
            v = values[p]
            s0 = add_lanes(s0, v, x, q)
            s1 = add_lanes(s1, v, x, q + 16)
            s2 = add_lanes(s2, v, x, q + 32)
            s3 = add_lanes(s3, v, x, q + 48)
        store_lanes(s0, scale, out, o + c)
        store_lanes(s1, scale, out, o + c + 16)
        store_lanes(s2, scale, out, o + c + 32)
        store_lanes(s3, scale, out, o + c + 48)
        c += 64
    while c + 16 <= d:
        s0 = zero_lanes()
        if b >= 0:
            s0 = load_lanes(base, b + c)
        for p in range(first, last):
            s0 = add_lanes(s0, values[p], x, np.int64(indices[p]) * d + c)
        store_lanes(s0, scale, out, o + c)
        c += 16


@njit(nogil=True, error_model="numpy", fastmath={"contract"})
def narrow_row(first, last, indices, values, x, base, b, scale, out, o):  # type: ignore[no-untyped-def]
    """`wide_row` for any width, over matrices and their rows b and o; alike but for registers.

    The kernels choose between the two: in one function with the other this loop is not inlined, and
    takes twice as long.
    """
    d = x.shape[1]
    for k in range(d):
        out[o, k] = base[b, k] if b >= 0 else 0
    for p in range(first, last):
        q = indices[p]
        v = values[p]
        for k in range(d):
            out[o, k] += v * x[q, k]
    if scale != 1:
        for k in range(d):
            out[o, k] *= scale


@kernel
def spmm(lo, hi, indptr, indices, values, x, base, scale, to, out):  # type: ignore[no-untyped-def]
    """out[to[r]] = scale * (base[r] + sum_p values[p] * x[indices[p]])."""
    d = x.shape[1]
    flat, onto, into = x.reshape(-1), base.reshape(-1), out.reshape(-1)
    for r in range(lo, hi):
        t = np.int64(to[r] if len(to) else r)
        if d % 16 == 0:
            b = np.int64(r) * d
            wide_row(
                indptr[r], indptr[r + 1], indices, values, d, flat, onto, b, scale, into, t * d
            )
        else:
            narrow_row(indptr[r], indptr[r + 1], indices, values, x, base, r, scale, out, t)


@kernel
def spmm_rows(lo, hi, rows, indptr, indices, values, x, base, scale, out):  # type: ignore[no-untyped-def]
    """out[j] = scale * (base[r] + sum_p values[p] * x[indices[p]]) for r = rows[j]."""
    d = x.shape[1]
    flat, onto, to = x.reshape(-1), base.reshape(-1), out.reshape(-1)
    for j in range(lo, hi):
        r = rows[j]
        o = np.int64(j) * d
        if d % 16 == 0:
            wide_row(indptr[r], indptr[r + 1], indices, values, d, flat, onto, r * d, scale, to, o)
        else:
            narrow_row(indptr[r], indptr[r + 1], indices, values, x, base, r, scale, out, j)


@kernel
def spmm_from_slots(  # type: ignore[no-untyped-def]
    lo, hi, indptr, indices, values, slot, g, scale, extra, to, out
):
    """One hop of a matrix that is zero but for the rows with slot[r] >= 0, whose values are g[slot[r]].

    out[to[r]] = scale * (G[r] + sum_p values[p] * G[indices[p]]) + X[r], with X stored like G in `extra`.
    """
    d = g.shape[1]
    flat, into = g.reshape(-1), out.reshape(-1)
    longest = 0
    for r in range(lo, hi):
        longest = max(longest, indptr[r + 1] - indptr[r])
    # The neighbours that are not zero, picked without a branch, which would be guessed wrong too often.
    found = np.zeros(longest + 1, dtype=np.int32)
    weights = np.zeros(longest + 1, dtype=np.float32)
    for r in range(lo, hi):
        count = 0
        for p in range(indptr[r], indptr[r + 1]):
            s = slot[indices[p]]
            found[count] = s
            weights[count] = values[p]
            count += s >= 0
        s = np.int64(slot[r])
        t = np.int64(to[r] if len(to) else r)
        if d % 16 == 0:
            b = s * d if s >= 0 else np.int64(-1)
            wide_row(0, count, found, weights, d, flat, flat, b, scale, into, t * d)
        else:
            narrow_row(0, count, found, weights, g, g, s, scale, out, t)
        if s >= 0 and extra.shape[0] > 0:
            for k in range(d):
                out[t, k] += extra[s, k]


@kernel
def spmm_onto_slots(  # type: ignore[no-untyped-def]
    lo, hi, indptr, indices, values, x, slot, g, scale, extra, to, out
):
    """out[to[r]] = scale * (G[r] + sum_p values[p] * x[indices[p]]) + X[r].

    G is zero but for the rows with slot[r] >= 0, whose values are g[slot[r]]; X is stored like G in
    `extra`, or is nothing where that is empty.
    """
    d = x.shape[1]
    flat, onto, into = x.reshape(-1), g.reshape(-1), out.reshape(-1)
    for r in range(lo, hi):
        s = np.int64(slot[r])
        b = s * d if s >= 0 else np.int64(-1)
        t = np.int64(to[r] if len(to) else r)
        if d % 16 == 0:
            wide_row(
                indptr[r], indptr[r + 1], indices, values, d, flat, onto, b, scale, into, t * d
            )
        else:
            narrow_row(indptr[r], indptr[r + 1], indices, values, x, g, s, scale, out, t)
        if s >= 0 and extra.shape[0] > 0:
            for k in range(d):
                out[t, k] += extra[s, k]


@kernel
def products(lo, hi, indptr, indices, values, x, out):  # type: ignore[no-untyped-def]
    """out[r] = sum_p values[p] * x[indices[p]]."""
    d = x.shape[1]
    flat, to = x.reshape(-1), out.reshape(-1)
    for r in range(lo, hi):
        one = np.float32(1)
        if d % 16 == 0:
            o = np.int64(r) * d
            wide_row(
                indptr[r], indptr[r + 1], indices, values, d, flat, flat, np.int64(-1), one, to, o
            )
        else:
            narrow_row(indptr[r], indptr[r + 1], indices, values, x, x, np.int64(-1), one, out, r)


@kernel
def take_rows(lo, hi, x, rows, out, halves):  # type: ignore[no-untyped-def]
    """out[j] = x[rows[j]], and the same in halves where there is room for them."""
    d, one = x.shape[1], np.float32(1)
    flat = halves.reshape(-1)
    for j in range(lo, hi):
        r = rows[j]
        for k in range(d):
            out[j, k] = x[r, k]
        if len(flat):
            for c in range(0, d, 16):
                store_lanes(load_lanes(out[j], c), one, flat, np.int64(j) * d + c)
