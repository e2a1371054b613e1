"""How often the rows of a table occur in training."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse

from dslbench.tables import TableSpec


def degrees(spec: TableSpec, train: sparse.csr_matrix) -> list[npt.NDArray[np.int64]]:
    """Training pairs of each row, by segment; 1 for rows of neither users nor items."""
    known = {
        "user": np.diff(train.indptr).astype(np.int64),
        "item": np.bincount(train.indices, minlength=train.shape[1]).astype(np.int64),
    }
    return [known.get(name, np.ones(rows, dtype=np.int64)) for name, rows in spec.segments]
