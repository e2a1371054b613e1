"""CPU kernels of full ranking: the best columns of each row of a block of scores.

As in `kernels`: rows [lo, hi) of the output, interpreter lock released. Both rank equal scores by
lower priority[item], leave out items in the user's row of the `seen` CSR matrix, and fill places left
over with -1. `items` and `ranked` are (rows, K + 1): one place more than asked for, to see a tie at the
cut. tied[j] tells whether any of the places was decided by priority, the cut included.
"""

# mypy: disable-error-code="no-untyped-call, call-arg"

from __future__ import annotations

import numpy as np

from dslbench.ops.coded_kernels import ask_for, exact_row
from dslbench.ops.kernels import kernel, np_inf
from dslbench.ops.lookup_kernels import dot

WIDTH = 64  # columns that are looked at together
LEAST = np.int16(-32768)  # key of what is never ranked
SEEN = np.int16(-1)  # the bits that have it, of no number


@kernel
def insert(count, score, item, priority, items, ranked):  # type: ignore[no-untyped-def]
    """Enter an item into one row's list of `count` items, best first; returns the new count."""
    places = items.shape[0]
    if count == places:
        last = places - 1
        behind = score == ranked[last] and priority[item] > priority[items[last]]
        if score < ranked[last] or behind:
            return count
        q = last
    else:
        q = count
        count += 1
    while q > 0 and (
        ranked[q - 1] < score
        or (ranked[q - 1] == score and priority[items[q - 1]] > priority[item])
    ):
        ranked[q] = ranked[q - 1]
        items[q] = items[q - 1]
        q -= 1
    ranked[q] = score
    items[q] = item
    return count


@kernel
def end_list(count, items, ranked):  # type: ignore[no-untyped-def]
    """Mark the places left over; returns whether equal scores stand side by side."""
    for q in range(count, items.shape[0]):
        items[q] = -1
    tied = False
    for q in range(1, count):
        if ranked[q] == ranked[q - 1]:
            tied = True
    return tied


@kernel
def rank_rows(  # type: ignore[no-untyped-def]
    lo, hi, scores, users, priority, seen_indptr, seen_indices, items, ranked, tied
):
    """Rank by `scores` (rows, M) float32, in which seen items are set to -inf; -inf is never ranked."""
    n = scores.shape[1]
    places = items.shape[1]
    block = 32
    for j in range(lo, hi):
        row = scores[j]
        for p in range(seen_indptr[users[j]], seen_indptr[users[j] + 1]):
            row[seen_indices[p]] = -np_inf
        own_items, own_ranked = items[j], ranked[j]
        count = 0
        least = -np_inf
        for start in range(0, n, block):
            stop = min(start + block, n)
            # A branch-free look at a whole block: most hold nothing that enters the list.
            best = -np_inf
            for c in range(start, stop):
                best = max(best, row[c])
            if best < least:
                continue
            for c in range(start, stop):
                if row[c] >= least and row[c] > -np_inf:
                    count = insert(count, row[c], c, priority, own_items, own_ranked)
                    if count == places:
                        least = own_ranked[places - 1]
        tied[j] = end_list(count, own_items, own_ranked)


@kernel
def key_of(bits):  # type: ignore[no-untyped-def]
    """An integer that is ordered as the float of these 16 bits is; and back again."""
    return np.int16(bits ^ ((bits >> 15) & np.int16(0x7FFF)))


@kernel
def find_maxima(row, maxima):  # type: ignore[no-untyped-def]
    """maxima[b] = the largest key of the b-th `WIDTH` entries."""
    whole = row.shape[0] // WIDTH
    for b in range(whole):
        best = LEAST
        for c in range(WIDTH):
            best = max(best, key_of(row[b * WIDTH + c]))
        maxima[b] = best
    best = LEAST
    for c in range(whole * WIDTH, row.shape[0]):
        best = max(best, key_of(row[c]))
    if whole < maxima.shape[0]:
        maxima[whole] = best


@kernel
def find_largest(maxima, largest):  # type: ignore[no-untyped-def]
    """The len(largest)-th largest of the maxima; `LEAST` where there are not so many."""
    last = largest.shape[0] - 1
    largest[:] = LEAST
    for b in range(maxima.shape[0]):
        key = maxima[b]
        if key > largest[last]:
            q = last
            while q > 0 and largest[q - 1] < key:
                largest[q] = largest[q - 1]
                q -= 1
            largest[q] = key
    return largest[last]


@kernel
def lower(key, margin, bits):  # type: ignore[no-untyped-def]
    """The key of (a number's key minus a margin), rounded down; bits: (1,) int32 to work in."""
    number = bits.view(np.float32)
    bits[0] = np.int32(key_of(key)) << 16
    number[0] = number[0] - margin
    b = bits[0]
    return np.int16((b ^ ((b >> 31) & 0x7FFFFFFF)) >> 16)


@kernel
def rank_some(count, these, vector, table, room, priority, items, ranked):  # type: ignore[no-untyped-def]
    """Enter some items into one row's list by their exact scores; returns the new count."""
    for c in these:
        score = dot(vector, exact_row(table, c, room[0], room[1]))
        count = insert(count, score, c, priority, items, ranked)
    return count


@kernel
def screen_rows(  # type: ignore[no-untyped-def]
    lo, hi, approximate, margins, vectors, table, users, priority, seen_indptr, seen_indices, items,
    ranked, tied
):  # fmt: skip
    """Rank by the float32 products vectors[j] . table[c], of which only those are computed that matter.

    table: (M, d) float32, or `coded_kernels.Coded`.
    approximate: (rows, M) bfloat16 products as their bits, int16, each at most margins[j] / 2 off;
    those of seen items are overwritten. K + 1 items are at least the (K + 1)-th largest of the maxima
    over `WIDTH` columns each. No item whose approximate product is more than a margin below that can
    be among the best K + 1, as its own and theirs may be half a margin off.
    """
    places = items.shape[1]
    maxima = np.empty((approximate.shape[1] + WIDTH - 1) // WIDTH, dtype=np.int16)
    largest = np.empty(places, dtype=np.int16)
    bits = np.empty(1, dtype=np.int32)
    let_through = np.empty(64, dtype=np.int32)
    d = vectors.shape[1]
    room = np.zeros((2, d), dtype=np.float32)
    for j in range(lo, hi):
        row = approximate[j]
        for p in range(seen_indptr[users[j]], seen_indptr[users[j] + 1]):
            row[seen_indices[p]] = SEEN
        find_maxima(row, maxima)
        least = find_largest(maxima, largest)
        if least > LEAST:
            least = lower(least, margins[j], bits)
        least = max(least, np.int16(LEAST + 1))
        own_items, own_ranked, vector = items[j], ranked[j], vectors[j]
        count = found = 0
        for b in range(maxima.shape[0]):
            if maxima[b] < least:
                continue
            for c in range(b * WIDTH, min((b + 1) * WIDTH, row.shape[0])):
                if key_of(row[c]) >= least:
                    let_through[found] = c
                    found += 1
                    ask_for(table, c, d)  # by its turn it is there
                    if found == len(let_through):
                        count = rank_some(
                            count, let_through, vector, table, room, priority, own_items, own_ranked
                        )
                        found = 0
        count = rank_some(
            count, let_through[:found], vector, table, room, priority, own_items, own_ranked
        )
        tied[j] = end_list(count, own_items, own_ranked)
