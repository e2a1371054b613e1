"""SLIM (Ning and Karypis, ICDM 2011): sparse, non-negative item-to-item weights by coordinate descent."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from pydantic import Field
from scipy import sparse

from dslbench.errors import RunError
from dslbench.ops.threads import even_bounds, run_rows
from dslbench.references import _kernels
from dslbench.references._models import SparseWeights, of_padded
from dslbench.references._neighbours import most_similar
from dslbench.references.base import Model, Options, Reference


class SLIMOptions(Options):
    """The two penalties, and which items may have a weight."""

    l1: float | None = Field(
        default=None, ge=0, description="weight of the sum of the weights: larger is sparser"
    )
    l2: float | None = Field(
        default=None, ge=0, description="weight of half the squared norm of the weights"
    )
    neighbours: int = Field(
        default=0, ge=0,
        description="only so many items, the most similar by cosine, may have a weight (fs-SLIM); 0: all",
    )  # fmt: skip
    k: int = Field(default=100, ge=1, description="weights of each item that are kept, the largest")
    sweeps: int = Field(default=100, ge=1, description="most rounds over an item's weights")
    tolerance: float = Field(
        default=1e-4,
        gt=0,
        description="a round that changes no weight by more ends an item's descent",
    )


class SLIM(Reference):
    """Item j: min 1/2 |x_j - X w|^2 + l2 / 2 |w|^2 + l1 |w|_1 over w >= 0 with w_j = 0; scores are x W.

    On what is left of an item, r = x_j - X w: w_k = max(0, (x_k' r + |U_k| w_k - l1) / (|U_k| + l2)). Items
    that no user of j has can have no weight, as nothing has negative entries.
    """

    name = "slim"
    label = "SLIM"
    options_type = SLIMOptions
    version = 2
    models = (SparseWeights,)
    grid: ClassVar[dict[str, tuple[Any, ...]]] = {
        "l2": (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0),
        "l1": (0.0, 0.1, 0.3, 1.0, 3.0, 10.0),
    }
    usual: ClassVar[dict[str, Any]] = {"l2": 100.0, "l1": 0.0}
    natural_ends: ClassVar[dict[str, tuple[Any, ...]]] = {"l1": (0.0,)}

    @classmethod
    def memory_needed(cls, train: sparse.csr_matrix, options: SLIMOptions) -> int:
        m = int(train.shape[1])
        chosen = min(options.neighbours, m)
        return 8 * train.nnz + 40 * m * min(options.k, m) + 40 * m * chosen

    @classmethod
    def fit(cls, train: sparse.csr_matrix, options: SLIMOptions, seed: int) -> Model:
        of_items = sparse.csr_matrix(train.T)
        chosen = None
        if options.neighbours:
            x = sparse.csr_matrix(train, dtype=np.float32)
            norms = np.sqrt(np.diff(of_items.indptr).astype(np.float64))
            chosen = most_similar(sparse.csr_matrix(x.T), x, options.neighbours, norms, norms)
        found = descend(
            train, of_items, chosen, float(options.l1 or 0.0), float(options.l2 or 0.0), options.k,
            options.sweeps, options.tolerance,
        )  # fmt: skip
        if not np.isfinite(found.data).all():
            raise RunError("SLIM's weights are no finite numbers", "a larger slim.l2")
        return SparseWeights.of(sparse.csr_matrix(found.T))


def descend(
    of_users: sparse.csr_matrix, of_items: sparse.csr_matrix, chosen: sparse.csr_matrix | None, l1: float,
    l2: float, k: int, sweeps: int, tolerance: float,
) -> sparse.csr_matrix:  # fmt: skip
    """Weights of each item j in row j (M, M), the k largest of them.

    Args:
        of_users, of_items: the pairs, (N, M) and (M, N).
        chosen: which items may have a weight in row j, the diagonal means nothing; None: all.
    """
    m = of_items.shape[0]
    k = max(1, min(k, m))
    columns, values = np.zeros((m, k), dtype=np.int32), np.zeros((m, k), dtype=np.float32)
    counts = np.zeros(m, dtype=np.int64)
    nothing = np.zeros(0, dtype=np.int32)
    c_ptr, c_ind = (nothing, nothing) if chosen is None else (chosen.indptr, chosen.indices)
    run_rows(
        _kernels.descend, even_bounds(m, 1 << 14), of_users.indptr, of_users.indices, of_items.indptr,
        of_items.indices, c_ptr, c_ind, np.float32(l1), np.float32(l2), sweeps, np.float32(tolerance),
        columns, values, counts,
    )  # fmt: skip
    return of_padded(columns, values, counts)
