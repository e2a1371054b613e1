"""What lists that were made elsewhere are worth: our metrics on our split."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dslbench.data.interactions import Interactions
from dslbench.data.ranked import RankedLists
from dslbench.errors import DataError
from dslbench.evaluation.evaluate import evaluate_lists, pairs_of_items
from dslbench.evaluation.metrics import METRICS
from dslbench.report.tables import MISSING, Cell, TableModel
from dslbench.words import number


@dataclass(frozen=True)
class Judged:
    """Values of the metrics for which lists are long enough, and what a reader must know."""

    means: dict[str, float | None]
    users: int
    notes: tuple[str, ...]


def judge(ranked: RankedLists, data: Interactions) -> Judged:
    """Compare lists with the test part; a user without a list has found nothing.

    Raises `DataError` where the test part is empty, or no list is of one of its users.
    """
    tested = np.diff(data.test.indptr) > 0
    if not tested.any():
        raise DataError(
            f"protocol {data.protocol} leaves no test pairs", "choose another --protocol"
        )
    if not (tested & ranked.given).any():
        raise DataError(
            f"none of {number(int(ranked.given.sum()), 'list')} is of a user with something to find",
            "was another split or protocol used?",
        )
    lengths = (ranked.items >= 0).sum(axis=1)
    unseen = data.n_items - np.diff(data.seen_before_test.indptr)
    whole = bool((lengths >= unseen)[ranked.given].any())  # somebody's list cannot be longer
    longest = int(lengths.max())
    metrics = {name: metric for name, metric in METRICS.items() if whole or metric.k <= longest}
    found = evaluate_lists(ranked.items, data.test, pairs_of_items(data.train), metrics)
    notes = []
    if missing := int((tested & ~ranked.given).sum()):
        notes.append(
            f"{missing:,} of {int(tested.sum()):,} users with something to find are without a list: 0"
        )
    if beside := int((ranked.given & ~tested).sum()):
        notes.append(f"{number(beside, 'list')} of users with nothing to find are not looked at")
    rows, places = np.nonzero(ranked.items >= 0)
    known = int(data.seen_before_test[rows, ranked.items[rows, places]].sum())
    if known:
        notes.append(
            f"{known:,} of {len(rows):,} places hold what the user had before the test; they count as misses"
        )
    if short := sorted({metric.k for name, metric in METRICS.items() if name not in metrics}):
        notes.append(
            f"lists of {longest} are too short for metrics at {' and '.join(map(str, short))}"
        )
    if data.negatives is not None:
        notes.append("all items are ranked here, not the sampled ones of this protocol")
    return Judged(found.means, len(found.users), tuple(notes))


def table(lists: str, dataset: str, judged: Judged) -> TableModel:
    """A row for each metric."""
    rows = [
        [
            Cell(metric.label),
            Cell(metric.meaning),
            Cell(MISSING) if (value := judged.means[name]) is None else Cell(metric.show(value), value=value),
        ]
        for name, metric in METRICS.items()
        if name in judged.means
    ]  # fmt: skip
    return TableModel(
        f"{lists} on {dataset}", ["Metric", "Meaning", "Value"], rows,
        [f"averages over {number(judged.users, 'user')} with something to find", *judged.notes],
        left_columns=2,
    )  # fmt: skip
