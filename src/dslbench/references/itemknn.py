"""ItemKNN (Sarwar et al., WWW 2001): items that the same users have, the K most similar of each."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field
from scipy import sparse

from dslbench.errors import UsageError
from dslbench.references._models import Shifted, SparseWeights, degrees, summing_to_one
from dslbench.references._neighbours import most_similar
from dslbench.references.base import Model, Options, Reference

_BY_COUNT = ("pearson", "jaccard")  # similarities that look at who has an item, and at no weight


class ItemKNNOptions(Options):
    """Which items are neighbours, and how many."""

    k: int | None = Field(default=None, ge=1, description="neighbours of each item that are kept")
    similarity: Literal["cosine", "asymmetric", "pearson", "jaccard"] = Field(
        default="cosine", description="of the items' columns"
    )
    shrink: float | None = Field(
        default=None, ge=0, description="added to the denominator: less trust in few users"
    )
    alpha: float = Field(
        default=0.5, ge=0, le=1, description="asymmetric: weight of the neighbour's own norm"
    )
    tfidf: bool | None = Field(
        default=None, description="weigh users by the log of how few items they have"
    )
    normalised: bool | None = Field(
        default=None, description="divide an item's similarities to its neighbours by their sum"
    )
    centred: bool | None = Field(
        default=None,
        description="predict how a user differs from the items' mean, and add the mean",
    )


class ItemKNN(Reference):
    """score_uj = sum of s_ij over the items i of the user that are among the K most similar to j.

    Cosine: dot / (|i| |j| + h). Asymmetric: dot / (|i|^(2 a) |j|^(2 - 2 a) + h). Pearson: the correlation of
    binary columns over all users. Jaccard: dot / (c_i + c_j - dot + h). Normalised: s_ij over the sum of s_ij
    over j's neighbours, so that an item with few or weak neighbours is not held back.
    Centred: score_uj = m_j + sum_i s_ij (x_ui - m_i), x_ui 1 where a user has an item and m_i its mean over
    all users, as BARS' ItemCF predicts.
    """

    name = "itemknn"
    label = "ItemKNN"
    version = 2  # 2: may be centred
    options_type = ItemKNNOptions
    models = (SparseWeights, Shifted)
    grid: ClassVar[dict[str, tuple[Any, ...]]] = {
        "tfidf": (False, True),
        "normalised": (False, True),
        "centred": (False, True),
        "k": (5, 10, 20, 50, 100, 200, 400, 800, 1600),
        "shrink": (0, 10, 20, 50, 100, 200, 500, 1000),
    }
    usual: ClassVar[dict[str, Any]] = {
        "tfidf": False, "normalised": False, "centred": False, "k": 100, "shrink": 0,
    }  # fmt: skip
    natural_ends: ClassVar[dict[str, tuple[Any, ...]]] = {
        "tfidf": (False, True), "normalised": (False, True), "centred": (False, True), "shrink": (0,),
    }  # fmt: skip

    @classmethod
    def check(cls, options: ItemKNNOptions) -> None:
        if options.tfidf and options.similarity in _BY_COUNT:
            raise UsageError(
                f"itemknn.tfidf weighs values, which {options.similarity} does not look at",
                "leave one of them out",
            )
        if options.alpha != 0.5 and options.similarity != "asymmetric":
            raise UsageError(
                "itemknn.alpha is of the asymmetric cosine", "--set itemknn.similarity=asymmetric"
            )

    @classmethod
    def searched(cls, options: ItemKNNOptions) -> dict[str, tuple[Any, ...]]:
        found = super().searched(options)
        if options.similarity in _BY_COUNT:
            found.pop("tfidf", None)
        return found

    @classmethod
    def memory_needed(cls, train: sparse.csr_matrix, options: ItemKNNOptions) -> int:
        m = int(train.shape[1])
        return 40 * m * min(options.k or 1, m) + 40 * int(train.nnz)

    @classmethod
    def fit(cls, train: sparse.csr_matrix, options: ItemKNNOptions, seed: int) -> Model:
        x = sparse.csr_matrix(train, dtype=np.float32)
        counts = degrees(train).astype(np.float64)
        jaccard, expected = options.similarity == "jaccard", 0.0
        if options.tfidf:  # a user with few items says more of each
            of_user = np.diff(x.indptr)
            weight = np.log((1 + x.shape[1]) / (1 + of_user)).astype(np.float32)
            x = sparse.csr_matrix(sparse.diags_array(weight) @ x)
        squares = np.asarray(x.multiply(x).sum(axis=0), dtype=np.float64).ravel()
        if options.similarity == "pearson":
            expected = 1 / max(int(x.shape[0]), 1)
            squares = counts - counts**2 * expected
        share = options.alpha if options.similarity == "asymmetric" else 0.5
        # Row: the item that is scored; column: its neighbour.
        of_row, of_column = squares ** (1 - share), squares**share
        found = most_similar(
            sparse.csr_matrix(x.T), x, options.k or 1, of_row, of_column,
            shrink=options.shrink or 0.0, jaccard=jaccard, expected=expected,
        )  # fmt: skip
        if options.normalised:
            found = summing_to_one(found)
        weights = SparseWeights.of(sparse.csr_matrix(found.T))
        if not options.centred:
            return weights
        mean = (counts / max(int(x.shape[0]), 1)).astype(np.float32)
        return Shifted(weights, mean - np.asarray(found @ mean, dtype=np.float32))
