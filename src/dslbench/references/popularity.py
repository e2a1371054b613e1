"""Item popularity: everybody is given what most have."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from dslbench.references._models import Constant, degrees
from dslbench.references.base import Model, Reference


class Popularity(Reference):
    """Training pairs of each item."""

    name = "popularity"
    label = "Item popularity"
    models = (Constant,)

    @classmethod
    def memory_needed(cls, train: sparse.csr_matrix, options: Any) -> int:
        return 16 * int(train.shape[1])

    @classmethod
    def fit(cls, train: sparse.csr_matrix, options: Any, seed: int) -> Model:
        return Constant(degrees(train).astype(np.float32))
