"""The metrics, one entry each: evaluation, records, tables, statistics, figures and progress follow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import sparse

Float64 = npt.NDArray[np.float64]
# Where a metric is shown: the usual quality columns, what is compared with dense (losses, tests over
# users, figures), and `report --table tail`.
Group = Literal["quality", "compared", "tail"]
FIFTHS = 5


@dataclass(frozen=True)
class Lists:
    """What was ranked for every user with something to find, and what was to be found.

    Attributes:
        items: (U, k) int32, best first, -1 where there are fewer.
        hits: (U, k) bool, whether the item at a place is in the user's truth.
        truth: (U, M) binary CSR; no row is empty.
        popularity: (M,) training pairs of each item.
        whole: whether all items were ranked, not sampled ones.
    """

    items: npt.NDArray[np.int32]
    hits: npt.NDArray[np.bool_]
    truth: sparse.csr_matrix
    popularity: npt.NDArray[np.int64]
    whole: bool = True

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """(U,) number of items in each truth."""
        return np.diff(self.truth.indptr).astype(np.int64)

    @cached_property
    def fifths(self) -> npt.NDArray[np.int64]:
        """(M,) popularity fifth of each item, 0 the most popular; as many items in each as can be.

        Equal popularity is decided by lot, always the same one: low ids are the popular items in the
        standard splits.
        """
        lot = np.random.default_rng(0).permutation(len(self.popularity))
        order = np.lexsort((lot, -self.popularity))
        found = np.empty(len(order), dtype=np.int64)
        for number, part in enumerate(np.array_split(order, FIFTHS)):
            found[part] = number
        return found


@dataclass(frozen=True)
class Metric:
    """What a list of recommendations is worth.

    Attributes:
        label: header of its column.
        k: length of the lists it looks at.
        of: its value for each user, (U,) float64, whose mean is shown; or one number for all lists
            together; None where it cannot be said.
        meaning: one clause, for the documentation.
        better: which direction is better; None where best values are not marked.
        range: least and largest value.
        groups: where it is shown; always in the record.
        show: formats a value.
    """

    label: str
    k: int
    of: Callable[[Lists], Float64 | float | None]
    meaning: str
    better: Literal["high", "low"] | None = "high"
    range: tuple[float, float] = (0.0, 1.0)
    groups: tuple[Group, ...] = ()
    show: Callable[[float], str] = "{:.4f}".format


def recall(k: int, lists: Lists) -> Float64:
    """Hits among the first k, divided by the size of the truth."""
    return np.asarray(lists.hits[:, :k].sum(axis=1) / lists.sizes, dtype=np.float64)


def hit_rate(k: int, lists: Lists) -> Float64:
    """Whether there is a hit among the first k."""
    return np.asarray(lists.hits[:, :k].any(axis=1), dtype=np.float64)


def ndcg(k: int, lists: Lists) -> Float64:
    """Sum of 1 / log2(place + 1) over hits, divided by the same sum over the first min(k, |truth|) places."""
    gains: Float64 = 1.0 / np.log2(np.arange(2, k + 2, dtype=np.float64))
    ideal = np.concatenate([[0.0], np.cumsum(gains)])
    hits = lists.hits[:, :k]
    return np.asarray((hits @ gains[: hits.shape[1]]) / ideal[np.minimum(lists.sizes, k)])


def _times_recommended(k: int, lists: Lists) -> npt.NDArray[np.int64] | None:
    """(M,) in how many lists each item stands; None where not all items were ranked."""
    if not lists.whole:
        return None
    items = lists.items[:, :k]
    return np.bincount(items[items >= 0], minlength=len(lists.popularity))


def coverage(k: int, lists: Lists) -> float | None:
    """Share of all items that stand in somebody's list."""
    times = _times_recommended(k, lists)
    return None if times is None else float((times > 0).mean())


def gini(k: int, lists: Lists) -> float | None:
    """Gini index of how often items are recommended: 0 all alike, near 1 a few of them only."""
    times = _times_recommended(k, lists)
    if times is None or not times.any():
        return None
    n = len(times)
    weights = 2.0 * np.arange(1, n + 1) - n - 1
    return float(weights @ np.sort(times) / (n * times.sum()))


def recall_of_fifth(fifth: int, k: int, lists: Lists) -> float | None:
    """Of all that was to be found among the items of a popularity fifth, the share that was."""
    of_items = lists.fifths
    sought = int((of_items[lists.truth.indices] == fifth).sum())
    found = int((of_items[lists.items[:, :k][lists.hits[:, :k]]] == fifth).sum())
    return found / sought if sought else None


def _fifth(number: int) -> Metric:
    which = {1: " (most popular items)", FIFTHS: " (least popular)"}.get(number, "")
    return Metric(
        f"Recall@20, fifth {number}", 20, partial(recall_of_fifth, number - 1, 20),
        f"recall@20 of all pairs whose item is in popularity fifth {number}{which}",
        groups=("tail",),
    )  # fmt: skip


METRICS: dict[str, Metric] = {
    "recall@20": Metric(
        "Recall@20", 20, partial(recall, 20), "hits / size of the truth",
        groups=("quality", "compared", "tail"),
    ),
    "ndcg@20": Metric(
        "NDCG@20", 20, partial(ndcg, 20), "hits discounted by place / the best possible",
        groups=("quality", "compared"),
    ),
    "hr@20": Metric(
        "HR@20", 20, partial(hit_rate, 20), "whether there is a hit", groups=("quality",)
    ),
    "recall@10": Metric("Recall@10", 10, partial(recall, 10), "as @20"),
    "ndcg@10": Metric("NDCG@10", 10, partial(ndcg, 10), "as @20"),
    "hr@10": Metric("HR@10", 10, partial(hit_rate, 10), "as @20"),
    "coverage@20": Metric(
        "Coverage@20", 20, partial(coverage, 20),
        "share of all items that stand in somebody's list; null where only sampled items are ranked",
        groups=("tail",),
    ),
    "gini@20": Metric(
        "Gini@20", 20, partial(gini, 20),
        "Gini index of how often items are recommended, 0 all alike; null as above",
        better="low", groups=("tail",),
    ),
    **{f"recall@20:fifth{number}": _fifth(number) for number in range(1, FIFTHS + 1)},
}  # fmt: skip

# Model selection looks at this one on validation (on test under the paper's protocol).
SELECTION = "recall@20"


def lists_hold_all(users: int, items: int, train_pairs: int) -> str | None:
    """What is to be said where `SELECTION` tells no model from another; None where it does."""
    longest, left = METRICS[SELECTION].k, items - train_pairs / max(users, 1)
    if left > longest:
        return None
    return f"lists of {longest} hold all of the {left:.0f} items that are left to an average user"


def in_group(group: Group) -> list[str]:
    """Names of the metrics that are shown somewhere."""
    return [name for name, metric in METRICS.items() if group in metric.groups]


def measure(
    lists: Lists, metrics: Mapping[str, Metric] = METRICS
) -> tuple[dict[str, Float64], dict[str, float | None]]:
    """Values by user of the metrics that have them, and what is one number for all lists together."""
    found = {name: metric.of(lists) for name, metric in metrics.items()}
    by_user = {name: value for name, value in found.items() if isinstance(value, np.ndarray)}
    whole = {name: value for name, value in found.items() if not isinstance(value, np.ndarray)}
    return by_user, whole
