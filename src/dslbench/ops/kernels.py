"""CPU kernels, compiled once by numba and cached on disk.

Every kernel works on the rows [lo, hi) of its output and releases the interpreter lock; callers
split the rows over threads with `threads.run_rows`. float32 sums run in a fixed order per row.
`contract` lets the compiler fuse multiply and add; nothing else of IEEE semantics is given up.
"""

from __future__ import annotations

import numpy as np
from numba import njit

np_inf = np.float32(np.inf)
kernel = njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})


@kernel
def assign_slots(rows, slot, unique):  # type: ignore[no-untyped-def]
    """Number the distinct values of `rows`, the smallest first: slot[unique[s]] = s; returns how many.

    In their own order, so that what goes through all rows finds those of a batch side by side.
    """
    for j in range(rows.shape[0]):
        slot[rows[j]] = 0
    count = 0
    for r in range(slot.shape[0]):
        if slot[r] == 0:
            slot[r] = count
            unique[count] = r
            count += 1
    return count


@kernel
def add_by_slot(lo, hi, rows, slot, g, h, out, more):  # type: ignore[no-untyped-def]
    """out[slot[rows[j]]] += g[j] and more[slot[rows[j]]] += h[j], columns [lo, hi), for all j.

    Threads take columns, so that they don't collide.
    """
    for j in range(rows.shape[0]):
        s = slot[rows[j]]
        first, second = out[s, lo:hi], more[s, lo:hi]
        of_first, of_second = g[j, lo:hi], h[j, lo:hi]
        for k in range(len(first)):
            first[k] += of_first[k]
            second[k] += of_second[k]


@kernel
def mask_rows(lo, hi, x, mask):  # type: ignore[no-untyped-def]
    """x[r] *= mask[r], in place; mask is boolean."""
    for r in range(lo, hi):
        for k in range(x.shape[1]):
            x[r, k] = x[r, k] if mask[r, k] else 0


@kernel
def count_live(lo, hi, x, out):  # type: ignore[no-untyped-def]
    """out[r] = the number of entries of x[r] that are not zero."""
    for r in range(lo, hi):
        found = np.int32(0)
        for k in range(x.shape[1]):
            found += np.int32(x[r, k] != 0)
        out[r] = found


@kernel
def count_live_by_column(lo, hi, x, out):  # type: ignore[no-untyped-def]
    """out[k] += the number of entries of x[:, k] that are not zero, for columns [lo, hi)."""
    for r in range(x.shape[0]):
        for k in range(lo, hi):
            out[k] += np.int32(x[r, k] != 0)


@kernel
def known_pairs(lo, hi, indptr, indices, users, items, out):  # type: ignore[no-untyped-def]
    """out[j] = whether (users[j], items[j]) is an entry of a CSR matrix with sorted rows."""
    for j in range(lo, hi):
        item = items[j]
        a = indptr[users[j]]
        b = indptr[users[j] + 1]
        while a < b:
            middle = (a + b) // 2
            if indices[middle] < item:
                a = middle + 1
            else:
                b = middle
        out[j] = a < indptr[users[j] + 1] and indices[a] == item


@kernel
def known_of_each(lo, hi, indptr, indices, n_items, users, items, out):  # type: ignore[no-untyped-def]
    """out[b, t] = whether items[b, t] is in the row of users[b] of a CSR matrix.

    The row is marked, and each item asks its mark: no search, where a user has many items.
    """
    marks = np.zeros(n_items, dtype=np.bool_)
    for b in range(lo, hi):
        row = indices[indptr[users[b]] : indptr[users[b] + 1]]
        for item in row:
            marks[item] = True
        for t in range(items.shape[1]):
            out[b, t] = marks[items[b, t]]
        for item in row:
            marks[item] = False


@kernel
def known_in_blocks(  # type: ignore[no-untyped-def]
    lo, hi, indptr, indices, n_items, size, users, items, out
):
    """out[b, t] = whether item t of b's block is in the row of users[b], for blocks [lo, hi) of `size`.

    Block by block the items are marked and the rows of its users gone through: most rows are shorter
    than what searches for all pairs would look at.
    """
    marks = np.zeros(n_items, dtype=np.int32)
    for block in range(lo, hi):
        first, end = block * size, min((block + 1) * size, users.shape[0])
        for t in range(first, end):
            marks[items[t]] = block + 1
        for b in range(first, end):
            for t in range(size):
                out[b, t] = False
            for at in range(indptr[users[b]], indptr[users[b] + 1]):
                if marks[indices[at]] == block + 1:
                    for t in range(first, end):
                        if items[t] == indices[at]:
                            out[b, t - first] = True


@kernel
def count_higher(lo, hi, scores, others, out):  # type: ignore[no-untyped-def]
    """out[r, k] = how many of others[r] are above scores[r, k]."""
    for r in range(lo, hi):
        row = others[r]
        for k in range(scores.shape[1]):
            score, count = scores[r, k], np.int32(0)
            for j in range(len(row)):  # as wide as the scores, or a vector holds half as many
                count += np.int32(row[j] > score)
            out[r, k] = count


@kernel
def magnitude_histogram(  # type: ignore[no-untyped-def]
    lo, hi, step, bits, among, prefix, counts
):
    """Histogram of the magnitudes of chosen float32 entries, seen as their bits without the sign.

    Without a prefix (-1) the upper 15 of the 31 bits are counted, else the lower 16 of the entries
    whose upper bits equal it. Rows [lo, hi) are counted in counts[lo // step].
    """
    into = counts[lo // step]
    for r in range(lo, hi):
        for k in range(bits.shape[1]):
            # Adding the condition instead of branching on it: masks look random to a branch predictor.
            b = bits[r, k] & 0x7FFFFFFF
            if prefix < 0:
                into[b >> 16] += among[r, k]
            elif b >> 16 == prefix:
                into[b & 0xFFFF] += among[r, k]


@kernel
def at_least(  # type: ignore[no-untyped-def]
    lo, hi, step, bits, among, threshold, chosen, found
):
    """Choose the entries of `among` whose magnitude's bits reach a threshold's, and count them.

    Rows [lo, hi) are counted in found[lo // step].
    """
    total = 0
    for r in range(lo, hi):
        for k in range(bits.shape[1]):
            taken = among[r, k] & ((bits[r, k] & 0x7FFFFFFF) >= threshold)
            chosen[r, k] = taken
            total += taken
    found[lo // step] = total
