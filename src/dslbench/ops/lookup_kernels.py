"""CPU kernels of scores between a batch's users and items looked up for each of them.

As in `kernels`: rows [lo, hi) of the output, interpreter lock released, a fixed order of sums per
row. Rows of the table are added four at a time, which loads and stores the sum a quarter as often.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from dslbench.ops.kernels import kernel

# `reassoc` lets the compiler sum a dot product in vector lanes; the order stays the same for every
# row and every thread.
dot_kernel = njit(
    cache=True, nogil=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"}
)


@dot_kernel
def dot(a, b):  # type: ignore[no-untyped-def]
    """a . b, always summed in the same order."""
    total = a[0] * b[0]
    for k in range(1, a.shape[0]):
        total += a[k] * b[k]
    return total


@dot_kernel
def gather_dots(lo, hi, users, table, items, out):  # type: ignore[no-untyped-def]
    """out[b, c] = users[b] . table[items[b, c]]."""
    d = users.shape[1]
    for b in range(lo, hi):
        row = users[b]
        for c in range(items.shape[1]):
            other = table[items[b, c]]
            total = row[0] * other[0]
            for k in range(1, d):
                total += row[k] * other[k]
            out[b, c] = total


@kernel
def gather_sums(lo, hi, weights, table, items, out):  # type: ignore[no-untyped-def]
    """out[b] = sum_c weights[b, c] * table[items[b, c]]."""
    d = table.shape[1]
    n = items.shape[1]
    for b in range(lo, hi):
        row = out[b]
        for k in range(d):
            row[k] = 0
        c = 0
        while c + 4 <= n:
            t0, t1 = table[items[b, c]], table[items[b, c + 1]]
            t2, t3 = table[items[b, c + 2]], table[items[b, c + 3]]
            w0, w1, w2, w3 = weights[b, c], weights[b, c + 1], weights[b, c + 2], weights[b, c + 3]
            for k in range(d):
                row[k] += (w0 * t0[k] + w1 * t1[k]) + (w2 * t2[k] + w3 * t3[k])
            c += 4
        while c < n:
            t0, w0 = table[items[b, c]], weights[b, c]
            for k in range(d):
                row[k] += w0 * t0[k]
            c += 1


@kernel
def group_by_item(items, n_items, indptr, order):  # type: ignore[no-untyped-def]
    """Counting sort: order[indptr[i]:indptr[i + 1]] are the places in `items` that hold i, ascending."""
    indptr[:] = 0
    for p in range(items.shape[0]):
        indptr[items[p] + 1] += 1
    for i in range(n_items):
        indptr[i + 1] += indptr[i]
    # indptr[i] serves as the next free place of i, and is moved back by one afterwards.
    for p in range(items.shape[0]):
        i = items[p]
        order[indptr[i]] = p
        indptr[i] += 1
    for i in range(n_items, 0, -1):
        indptr[i] = indptr[i - 1]
    indptr[0] = 0


@kernel
def scatter_sums(lo, hi, indptr, order, width, weights, users, out):  # type: ignore[no-untyped-def]
    """out[i] = sum over the places p of item i of weights[p] * users[p // width]."""
    d = users.shape[1]
    for i in range(lo, hi):
        row = out[i]
        for k in range(d):
            row[k] = 0
        p = indptr[i]
        end = indptr[i + 1]
        while p + 4 <= end:
            p0, p1, p2, p3 = order[p], order[p + 1], order[p + 2], order[p + 3]
            u0, u1 = users[p0 // width], users[p1 // width]
            u2, u3 = users[p2 // width], users[p3 // width]
            w0, w1, w2, w3 = weights[p0], weights[p1], weights[p2], weights[p3]
            for k in range(d):
                row[k] += (w0 * u0[k] + w1 * u1[k]) + (w2 * u2[k] + w3 * u3[k])
            p += 4
        while p < end:
            u0, w0 = users[order[p] // width], weights[order[p]]
            for k in range(d):
                row[k] += w0 * u0[k]
            p += 1


@kernel
def top_neighbours(  # type: ignore[no-untyped-def]
    lo, hi, by_item_indptr, by_item_indices, indptr, indices, sums, neighbours, omega
):
    """The heaviest columns of rows of G = R^T R, weighted as in UltraGCN's Eq. 11, heaviest first.

    R is given by users (CSR) and by items (its transpose). Equal weights are ordered by column.
    Places left over keep what `neighbours` and `omega` hold.
    """
    n_items = sums.shape[0]
    top = neighbours.shape[1]
    counts = np.zeros(n_items, dtype=np.int32)
    touched = np.empty(n_items, dtype=np.int32)
    best = np.empty(top, dtype=np.float64)
    for i in range(lo, hi):
        n_touched = 0
        for p in range(by_item_indptr[i], by_item_indptr[i + 1]):
            u = by_item_indices[p]
            for q in range(indptr[u], indptr[u + 1]):
                j = indices[q]
                if counts[j] == 0:
                    touched[n_touched] = j
                    n_touched += 1
                counts[j] += 1
        found = 0
        for t in range(n_touched):
            j = touched[t]
            w = counts[j] * (np.sqrt(sums[i] + 1) / sums[i] / np.sqrt(sums[j] + 1))
            counts[j] = 0
            if found == top:
                q = top - 1
                if w < best[q] or (w == best[q] and j > neighbours[i, q]):
                    continue
            else:
                q = found
                found += 1
            while q > 0 and (best[q - 1] < w or (best[q - 1] == w and neighbours[i, q - 1] > j)):
                best[q] = best[q - 1]
                neighbours[i, q] = neighbours[i, q - 1]
                q -= 1
            best[q] = w
            neighbours[i, q] = j
        for q in range(found):
            omega[i, q] = best[q]
