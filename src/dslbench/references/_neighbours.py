"""The most similar items of each item, from what users have in common, without a matrix of all pairs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse

from dslbench.ops.threads import balanced_bounds, run_rows
from dslbench.references import _kernels
from dslbench.references._models import of_padded

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
        _kernels.most_similar, balanced_bounds(left.indptr), left.indptr, left.indices,
        left.data.astype(np.float32), right.indptr, right.indices, right.data.astype(np.float32),
        of_row.astype(np.float64), of_column.astype(np.float64), pairs, float(shrink), jaccard,
        float(expected), columns, values, counts,
    )  # fmt: skip
    return of_padded(columns, values, counts)
