"""RP3beta (Paudel et al., TiiS 2017): three random steps from user to item, popular ends held back."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from pydantic import Field
from scipy import sparse

from dslbench.references._models import SparseWeights, degrees, summing_to_one
from dslbench.references._neighbours import most_similar
from dslbench.references.base import Model, Options, Reference


class RP3betaOptions(Options):
    """Exponents and the number of neighbours."""

    k: int | None = Field(
        default=None, ge=1, description="entries of each item's row that are kept"
    )
    alpha: float | None = Field(
        default=None, ge=0, le=2, description="exponent of each step's probabilities"
    )
    beta: float | None = Field(
        default=None,
        ge=0,
        le=2,
        description="exponent of the popularity that scores are divided by",
    )


class RP3beta(Reference):
    """W_ij = sum_u p(u | i)^a p(j | u)^a / degree_j^b; the K largest of a row, which then sum to 1."""

    name = "rp3beta"
    label = "RP3beta"
    options_type = RP3betaOptions
    models = (SparseWeights,)
    grid: ClassVar[dict[str, tuple[Any, ...]]] = {
        "k": (50, 100, 200, 400, 800, 1600),
        "alpha": (0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4),
        "beta": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0),
    }
    usual: ClassVar[dict[str, Any]] = {"k": 400, "alpha": 0.8, "beta": 0.3}
    natural_ends: ClassVar[dict[str, tuple[Any, ...]]] = {"beta": (0.0,)}

    @classmethod
    def memory_needed(cls, train: sparse.csr_matrix, options: RP3betaOptions) -> int:
        m = int(train.shape[1])
        return 32 * m * min(options.k or 1, m) + 40 * int(train.nnz)

    @classmethod
    def fit(cls, train: sparse.csr_matrix, options: RP3betaOptions, seed: int) -> Model:
        def stepped(matrix: Any) -> sparse.csr_matrix:
            rows = np.maximum(np.diff(matrix.indptr), 1)
            each = (1 / rows) ** options.alpha
            return sparse.csr_matrix(sparse.diags_array(each) @ matrix)

        back = stepped(sparse.csr_matrix(train.T, dtype=np.float64))
        on = stepped(sparse.csr_matrix(train, dtype=np.float64))
        held = np.maximum(degrees(train), 1).astype(np.float64) ** (options.beta or 0.0)
        found = most_similar(back, on, options.k or 1, np.ones(len(held)), held)
        return SparseWeights.of(summing_to_one(found))
