"""Kernels of references: see `dslbench.ops.kernels` for what all kernels have in common."""

from __future__ import annotations

import numpy as np

from dslbench.ops.kernels import kernel


@kernel
def most_similar(  # type: ignore[no-untyped-def]
    lo, hi, l_ptr, l_ind, l_val, r_ptr, r_ind, r_val, of_row, of_column, pairs, shrink, jaccard,
    expected, columns, values, counts,
):  # fmt: skip
    """Rows [lo, hi) of `most_similar`: columns and values (M, k), counts (M,)."""
    m, k = len(of_column), columns.shape[1]
    total = np.zeros(m, dtype=np.float32)
    seen = np.zeros(m, dtype=np.bool_)
    touched = np.empty(m, dtype=np.int32)
    for i in range(lo, hi):
        n = 0
        for a in range(l_ptr[i], l_ptr[i + 1]):
            u, weight = l_ind[a], l_val[a]
            for b in range(r_ptr[u], r_ptr[u + 1]):
                j = r_ind[b]
                if not seen[j]:
                    seen[j] = True
                    touched[n] = j
                    n += 1
                total[j] += weight * r_val[b]
        found = np.empty(n, dtype=np.float32)
        kept = 0
        for t in range(n):
            j = touched[t]
            dot = float(total[j])
            seen[j], total[j] = False, 0
            if j == i:
                continue
            below = pairs[i] + pairs[j] - dot if jaccard else of_row[i] * of_column[j]
            below += shrink
            value = (dot - expected * pairs[i] * pairs[j]) / below if below > 0 else 0.0
            if value > 0:
                touched[kept] = j
                found[kept] = value
                kept += 1
        if kept > k:
            bound = np.partition(found[:kept], kept - k)[kept - k]
            above = 0
            for t in range(kept):
                above += found[t] > bound
            equal, n = k - above, 0
            for t in range(kept):
                if found[t] > bound or (found[t] == bound and equal > 0):
                    equal -= found[t] == bound
                    columns[i, n], values[i, n] = touched[t], found[t]
                    n += 1
            kept = n
        else:
            columns[i, :kept] = touched[:kept]
            values[i, :kept] = found[:kept]
        counts[i] = kept


@kernel
def descend(  # type: ignore[no-untyped-def]
    lo, hi, u_ptr, u_ind, i_ptr, i_ind, c_ptr, c_ind, l1, l2, sweeps, tolerance, columns, values, counts,
):  # fmt: skip
    """Rows [lo, hi) of `descend`.

    `left` holds x_j - X w of all users; a look at an item's weight reads it at the item's users, a change is
    taken off it there. After a round over all items, only those with a weight are gone over until they stand
    still, then all again.
    """
    m, most = len(i_ptr) - 1, columns.shape[1]
    seen = np.zeros(m, dtype=np.bool_)
    touched = np.empty(m, dtype=np.int32)
    left = np.zeros(len(u_ptr) - 1, dtype=np.float32)
    for j in range(lo, hi):
        n = 0
        if len(c_ptr):
            for a in range(c_ptr[j], c_ptr[j + 1]):
                if c_ind[a] != j:
                    touched[n] = c_ind[a]
                    n += 1
        else:  # all that share a user with it
            seen[j] = True
            for a in range(i_ptr[j], i_ptr[j + 1]):
                u = i_ind[a]
                for b in range(u_ptr[u], u_ptr[u + 1]):
                    item = u_ind[b]
                    if not seen[item]:
                        seen[item] = True
                        touched[n] = item
                        n += 1
            seen[j] = False
            for s in range(n):
                seen[touched[s]] = False
        items = touched[:n]
        w = np.zeros(n, dtype=np.float32)
        for a in range(i_ptr[j], i_ptr[j + 1]):
            left[i_ind[a]] = 1
        whole = True
        for _ in range(sweeps):
            change = np.float32(0)
            for s in range(n):
                if not whole and w[s] == 0:
                    continue
                begin, end = i_ptr[items[s]], i_ptr[items[s] + 1]
                users = np.float32(end - begin)
                above = users * w[s] - l1
                for a in range(begin, end):
                    above += left[i_ind[a]]
                new = above / (users + l2) if above > 0 else np.float32(0)
                step = new - w[s]
                if step != 0:
                    w[s] = new
                    change = max(change, abs(step))
                    for a in range(begin, end):
                        left[i_ind[a]] -= step
            if change <= tolerance:
                if whole:
                    break
                whole = True
            else:
                whole = False
        for a in range(i_ptr[j], i_ptr[j + 1]):
            left[i_ind[a]] = 0
        for s in range(n):  # of those with no weight in the end, too: theirs may have come and gone
            for a in range(i_ptr[items[s]], i_ptr[items[s] + 1]):
                left[i_ind[a]] = 0
        live = 0
        for s in range(n):
            live += w[s] > 0
        bound, equal = np.float32(0), 0
        if live > most:
            bound = np.partition(w, n - most)[n - most]
            above_it = 0
            for s in range(n):
                above_it += w[s] > bound
            equal = most - above_it
        kept = 0
        for s in range(n):
            if w[s] > bound or (w[s] == bound and bound > 0 and equal > 0):
                equal -= w[s] == bound
                columns[j, kept], values[j, kept] = items[s], w[s]
                kept += 1
        counts[j] = kept


@kernel
def solve(lo, hi, ptr, ind, others, gram, penalties, found):  # type: ignore[no-untyped-def]
    """Rows [lo, hi) of `solve`, by Cholesky in place."""
    d = gram.shape[0]
    for u in range(lo, hi):
        if ptr[u] == ptr[u + 1]:
            continue
        a = gram.copy()
        b = np.zeros(d, dtype=np.float32)
        for p in range(d):
            a[p, p] += penalties[u]
        for at in range(ptr[u], ptr[u + 1]):
            h = others[ind[at]]
            for p in range(d):
                b[p] += h[p]
                x = h[p]
                row = a[p]
                for q in range(p + 1):
                    row[q] += x * h[q]
        for p in range(d):  # lower triangle, row by row
            row = a[p]
            for q in range(p):
                other = a[q]
                total = row[q]
                for r in range(q):
                    total -= row[r] * other[r]
                row[q] = total / other[q]
            total = row[p]
            for r in range(p):
                total -= row[r] * row[r]
            row[p] = np.sqrt(total)
        for p in range(d):
            total = b[p]
            for r in range(p):
                total -= a[p, r] * b[r]
            b[p] = total / a[p, p]
        for p in range(d - 1, -1, -1):
            b[p] /= a[p, p]
            for r in range(p):
                b[r] -= a[p, r] * b[p]
        found[u] = b


@kernel
def factor(  # type: ignore[no-untyped-def]
    c_ptr, c_ind, c_val, r_ptr, r_ind, r_val, l2, kept, start, row, value,
):  # fmt: skip
    """Columns of `incomplete_cholesky`, left to right, into (start, row, value); whether it got to the end.

    The columns k < j with an entry in row j stand in a chain that begins at head[j]; where[k] is the place
    of that entry.
    """
    m = len(c_ptr) - 1
    diagonal = np.full(m, l2)
    for i in range(m):
        for a in range(c_ptr[i], c_ptr[i + 1]):
            diagonal[i] += c_val[a] * c_val[a]
    total = np.zeros(m)
    seen = np.zeros(m, dtype=np.bool_)
    touched = np.empty(m, dtype=np.int32)
    head = np.full(m, -1, dtype=np.int32)
    after = np.full(m, -1, dtype=np.int32)
    where = np.zeros(m, dtype=np.int64)
    used = 0
    for j in range(m):
        if not diagonal[j] > 0:
            return False
        n = 0
        for a in range(c_ptr[j], c_ptr[j + 1]):  # column j of X'X below the diagonal
            u = c_ind[a]
            for b in range(r_ptr[u], r_ptr[u + 1]):
                i = r_ind[b]
                if i > j:
                    if not seen[i]:
                        seen[i] = True
                        touched[n] = i
                        n += 1
                    total[i] += c_val[a] * r_val[b]
        k = head[j]
        while k >= 0:
            following = after[k]
            at = where[k]
            factor = value[at]
            for b in range(at + 1, start[k + 1]):
                i = row[b]
                if not seen[i]:
                    seen[i] = True
                    touched[n] = i
                    n += 1
                total[i] -= factor * value[b]
            if at + 1 < start[k + 1]:
                where[k] = at + 1
                after[k] = head[row[at + 1]]
                head[row[at + 1]] = k
            k = following
        root = np.sqrt(diagonal[j])
        sizes = np.empty(n)
        for t in range(n):
            i = touched[t]
            total[i] /= root
            diagonal[i] -= total[i] * total[i]
            sizes[t] = abs(total[i])
        room = (kept - used) // (m - j) - 1
        bound, equal = -1.0, 0
        if n > room:
            bound, equal = np.inf, 0
            if room > 0:
                bound = np.partition(sizes, n - room)[n - room]
                above = 0
                for t in range(n):
                    above += sizes[t] > bound
                equal = room - above
        row[used], value[used] = j, root
        begin = used + 1
        used += 1
        for t in range(n):
            i = touched[t]
            if sizes[t] > bound or (sizes[t] == bound and equal > 0):
                equal -= sizes[t] == bound
                if total[i] != 0:
                    row[used], value[used] = i, total[i]
                    used += 1
            total[i], seen[i] = 0.0, False
        order = np.argsort(row[begin:used])
        row[begin:used] = row[begin:used][order]
        value[begin:used] = value[begin:used][order]
        start[j + 1] = used
        if used > begin:
            where[j] = begin
            after[j] = head[row[begin]]
            head[row[begin]] = j
    return True
