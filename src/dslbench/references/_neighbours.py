"""The most similar items of each item, from what users have in common, without a matrix of all pairs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse

from dslbench.ops.kernels import kernel
from dslbench.ops.threads import balanced_bounds, run_rows

Float64 = npt.NDArray[np.float64]


def most_similar(
    left: sparse.csr_matrix, right: sparse.csr_matrix, k: int, of_row: Float64, of_column: Float64,
    *, shrink: float = 0.0, jaccard: bool = False, expected: float = 0.0,
) -> sparse.csr_matrix:  # fmt: skip
    """Of each row i of S (M, M) the k largest positive entries, without the diagonal.

    S_ij = (dot_ij - expected c_i c_j) / (of_row_i of_column_j + shrink) with dot = left right, or with
    `jaccard` dot_ij / (c_i + c_j - dot_ij + shrink), where c counts the pairs of an item.

    Args:
        left: (M, N); its rows have the users of an item.
        right: (N, M).
    """
    m = left.shape[0]
    k = max(1, min(k, m - 1))
    columns = np.zeros((m, k), dtype=np.int32)
    values = np.zeros((m, k), dtype=np.float32)
    counts = np.zeros(m, dtype=np.int64)
    pairs = np.diff(left.indptr).astype(np.float64)
    run_rows(
        _most_similar, balanced_bounds(left.indptr), left.indptr, left.indices,
        left.data.astype(np.float32), right.indptr, right.indices, right.data.astype(np.float32),
        of_row.astype(np.float64), of_column.astype(np.float64), pairs, float(shrink), jaccard,
        float(expected), columns, values, counts,
    )  # fmt: skip
    live = np.arange(k) < counts[:, None]
    starts = np.concatenate([[0], np.cumsum(counts)])
    return sparse.csr_matrix((values[live], columns[live], starts), shape=(m, m))


@kernel
def _most_similar(
    lo,
    hi,
    l_ptr,
    l_ind,
    l_val,
    r_ptr,
    r_ind,
    r_val,
    of_row,
    of_column,
    pairs,
    shrink,
    jaccard,
    expected,
    columns,
    values,
    counts,
):  # type: ignore[no-untyped-def]
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
