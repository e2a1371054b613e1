"""Ranking metrics from hit matrices; definitions as in the LightGCN and RecBole code."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dslbench.errors import UsageError

Float64 = npt.NDArray[np.float64]

DEFAULT_METRICS = ("recall@20", "ndcg@20", "hr@20", "recall@10", "ndcg@10", "hr@10")


def cutoff(metric: str) -> int:
    """K of a metric name such as `recall@20`."""
    match = re.fullmatch(r"(recall|ndcg|hr)@([1-9]\d*)", metric)
    if match is None:
        raise UsageError(f"unknown metric '{metric}'", "metrics are recall@K, ndcg@K and hr@K")
    return int(match.group(2))


def per_user(metric: str, hits: npt.NDArray[np.bool_], truth_sizes: npt.ArrayLike) -> Float64:
    """One value per user.

    Args:
        metric: recall@K = hits / |T|; hr@K = any hit; ndcg@K = sum of 1 / log2(place + 1) over hits,
            divided by the same sum over the first min(K, |T|) places.
        hits: (users, >= K) bool, hits[u, q] = whether the item at place q is in the user's truth T.
        truth_sizes: (users,) sizes |T| >= 1.

    Returns:
        (users,) float64.
    """
    k = cutoff(metric)
    hits = hits[:, :k]
    sizes = np.asarray(truth_sizes)
    if metric.startswith("recall"):
        return np.asarray(hits.sum(axis=1) / sizes, dtype=np.float64)
    if metric.startswith("hr"):
        return np.asarray(hits.any(axis=1), dtype=np.float64)
    gains: Float64 = 1.0 / np.log2(np.arange(2, k + 2, dtype=np.float64))
    ideal = np.concatenate([[0.0], np.cumsum(gains)])
    return np.asarray((hits @ gains[: hits.shape[1]]) / ideal[np.minimum(sizes, k)])


def means(values: dict[str, Float64]) -> dict[str, float]:
    """Average of each metric over users, summed in float64."""
    return {name: float(array.mean()) for name, array in values.items()}


def largest_cutoff(metrics: Sequence[str]) -> int:
    """The K that serves all the metrics named."""
    return max(cutoff(name) for name in metrics)
