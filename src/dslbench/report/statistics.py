"""How far a difference between methods can be trusted: intervals, paired tests, Holm's correction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dslbench.evaluation.metrics import in_group
from dslbench.report import beside
from dslbench.report.columns import COLUMNS, Column, Record
from dslbench.report.comparable import footer, label, rows, setting
from dslbench.report.costs import change, shared_seeds
from dslbench.report.relative import setting_of
from dslbench.report.tables import MISSING, NOT_APPLICABLE, Cell, TableModel, group, heading, mean

Float64 = npt.NDArray[np.float64]

FEWEST_SEEDS = 3  # below it a test over seeds says nothing


@dataclass(frozen=True)
class Summary:
    """Mean, standard deviation (n - 1) and the 95 % interval of the mean by Student's t."""

    n: int
    mean: float
    deviation: float | None
    low: float | None
    high: float | None


def summary(values: Sequence[float], level: float = 0.95) -> Summary:
    """Summarise values of several seeds; one value has no deviation and no interval."""
    n, centre = len(values), float(np.mean(values))
    if n < 2:
        return Summary(n, centre, None, None, None)
    deviation = float(np.std(values, ddof=1))
    from scipy import stats  # half a second to import

    half = float(stats.t.ppf((1 + level) / 2, n - 1)) * deviation / math.sqrt(n)
    return Summary(n, centre, deviation, centre - half, centre + half)


def paired_t(first: Float64, second: Float64) -> float | None:
    """Two-sided p of the paired t-test; 1 where nothing differs, None where it is not defined."""
    differences = np.asarray(first) - np.asarray(second)
    if len(differences) < 2:
        return None
    if not differences.any():
        return 1.0
    if np.ptp(differences) <= 1e-12 * np.abs(differences).max():
        return None  # no spread, but for rounding, to compare the difference with
    from scipy import stats

    return float(stats.ttest_rel(first, second).pvalue)


def wilcoxon(first: Float64, second: Float64) -> float | None:
    """Two-sided p of Wilcoxon's signed-rank test; 1 where nothing differs.

    Pairs without a difference are left out, as is usual.
    """
    differences = np.asarray(first) - np.asarray(second)
    if len(differences) < 2:
        return None
    if not differences.any():
        return 1.0
    from scipy import stats

    return float(stats.wilcoxon(differences, zero_method="wilcox", method="approx").pvalue)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjustment: the i-th smallest of m times (m - i), made monotone, at most 1.

    Missing values stay missing and do not count into m.
    """
    known = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, place) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        adjusted[place] = largest
    return adjusted


def per_user(
    runs: Sequence[Record], metric: str, seeds: Sequence[int]
) -> tuple[Float64, Float64] | None:
    """Users and their mean value over the seeds; None where a run's values were not kept."""
    total, users = None, None
    for run in runs:
        if run["spec"]["seed"] not in seeds:
            continue
        kept = beside.per_user(run)
        if kept is None or metric not in kept or "users" not in kept:
            return None
        ids = np.asarray(kept["users"])
        found = np.asarray(kept[metric], dtype=np.float64)
        if users is not None and not np.array_equal(ids, users):
            return None
        users, total = ids, found if total is None else total + found
    return None if users is None or total is None else (users, total / len(seeds))


@dataclass(frozen=True)
class Comparison:
    """p values of a row against another, not yet corrected; None where a test can't be made."""

    seeds: float | None
    users_t: float | None
    users_wilcoxon: float | None


def compare(runs: Sequence[Record], other: Sequence[Record], column: Column) -> Comparison:
    """Paired tests of two rows over the seeds they share, and over users (means over those seeds)."""
    shared, of_seeds = sorted(shared_seeds(runs, other)), over_seeds(runs, other, column)
    metric = column.path[-1]
    if not shared:
        return Comparison(None, None, None)
    mine, others = per_user(runs, metric, shared), per_user(other, metric, shared)
    if mine is None or others is None or not np.array_equal(mine[0], others[0]):
        return Comparison(of_seeds, None, None)
    return Comparison(of_seeds, paired_t(mine[1], others[1]), wilcoxon(mine[1], others[1]))


def over_seeds(runs: Sequence[Record], other: Sequence[Record], column: Column) -> float | None:
    """p of the paired t-test over the seeds that two rows share; None for fewer than three."""
    pairs = _pairs(runs, other, column)
    return paired_t(*pairs.T) if len(pairs) >= FEWEST_SEEDS else None


def change_over_seeds(
    runs: Sequence[Record], other: Sequence[Record], column: Column
) -> tuple[float, float] | None:
    """Student's 95 % interval of the paired change over the shared seeds, relative to the other row's mean.

    None for fewer than three seeds.
    """
    pairs = _pairs(runs, other, column)
    if len(pairs) < FEWEST_SEEDS or not (of_other := float(pairs[:, 1].mean())):
        return None
    found = summary(list((pairs[:, 0] - pairs[:, 1]) / of_other))
    return None if found.low is None or found.high is None else (found.low, found.high)


def _pairs(runs: Sequence[Record], other: Sequence[Record], column: Column) -> Float64:
    """Both rows' values, n x 2, of the seeds for which both have one."""
    own = {r["spec"]["seed"]: column.value(r) for r in runs}
    theirs = {r["spec"]["seed"]: column.value(r) for r in other}
    both = ((own[s], theirs[s]) for s in sorted(shared_seeds(runs, other)))
    known = [pair for pair in both if None not in pair]
    return np.array(known, dtype=np.float64).reshape(-1, 2)


METRICS = tuple(in_group("compared"))


def table(records: Sequence[Record]) -> list[TableModel]:
    """Intervals and paired tests against dense and against the best other method, per setting."""
    return [_table(part) for part in group(records, setting_of)]


def _table(records: list[Record]) -> TableModel:
    found = TableModel(
        title=f"Statistics: {setting(records[0])}",
        headers=[
            "Metric", "Method", "Seeds", "Mean", "95% low", "95% high",
            *(f"{against} {what}" for against in ("dense:", "best:")
              for what in (("diff.",) if against == "best:" else ("diff.", "95% low", "95% high"))
              + ("p(seeds)", "p(users,t)", "p(users,W)")),
        ],
        rows=[],
        left_columns=2,
    )  # fmt: skip
    of_rows = rows(records)
    for name in METRICS:
        found.rows += _rows_of_metric(COLUMNS[name], of_rows)
        found.rules.append(len(found.rows) - 1)
    found.rules = found.rules[:-1]
    notes = [
        "diff.: relative to dense, or to the best row of the most seeds that is not dense, over the shared "
        "seeds; a reference's, which has no seed, over all. p: two-sided "
        "paired tests, Holm-corrected over the rows; t: t-test; W: Wilcoxon's signed ranks; users: "
        "values per user, averaged over the shared seeds.",
        "95% low, high: Student's t interval over seeds, of the mean and of the paired difference, of each "
        "row by itself (p is corrected for their number).",
    ]
    if max(len(runs) for runs in of_rows) < FEWEST_SEEDS:
        notes.append(f"Fewer than {FEWEST_SEEDS} seeds: nothing can be tested over seeds.")
    found.footer = footer(records, *notes)
    return found


def _rows_of_metric(column: Column, of_rows: Sequence[Sequence[Record]]) -> list[list[Cell]]:
    means = [mean(column, runs) for runs in of_rows]
    dense = next((n for n, runs in enumerate(of_rows) if _is_dense(runs)), None)
    others = [n for n, m in enumerate(means) if n != dense and m is not None]
    best = max(others, key=lambda n: (len(of_rows[n]), means[n] or 0.0), default=None)
    against = [
        _against(column, of_rows, dense, intervals=True),
        _against(column, of_rows, best, intervals=False),
    ]
    cells = []
    for place, runs in enumerate(of_rows):
        values = [v for v in (column.value(r) for r in runs) if v is not None]
        of_seeds = summary(values)
        low, high = (
            Cell(NOT_APPLICABLE) if v is None else Cell(column.show(v), value=v)
            for v in (of_seeds.low, of_seeds.high)
        )
        cells.append(
            [
                heading(column.title, place > 0),
                Cell(label(runs)),
                Cell(str(of_seeds.n), value=of_seeds.n),
                Cell(column.show(of_seeds.mean), value=of_seeds.mean, runs=of_seeds.n),
                low,
                high,
                *(c for part in against for c in part[place]),
            ]
        )
    return cells


def _against(
    column: Column,
    of_rows: Sequence[Sequence[Record]],
    reference: int | None,
    *,
    intervals: bool,
) -> list[list[Cell]]:
    """Cells per row: relative change to the reference row, its interval, three corrected p values."""
    count = 6 if intervals else 4
    if reference is None:
        return [[Cell(MISSING)] * count for _ in of_rows]
    tests = [
        None if place == reference else compare(runs, of_rows[reference], column)
        for place, runs in enumerate(of_rows)
    ]
    corrected = [
        holm([None if test is None else getattr(test, field) for test in tests])
        for field in ("seeds", "users_t", "users_wilcoxon")
    ]
    cells = []
    for place in range(len(of_rows)):
        if place == reference:
            cells.append([Cell(NOT_APPLICABLE)] * count)
            continue
        changed = change(column, of_rows[place], of_rows[reference])
        interval = change_over_seeds(of_rows[place], of_rows[reference], column) or (None, None)
        shown = [
            Cell(MISSING) if value is None else Cell(f"{value:+.1%}", value=value)
            for value in (changed, *(interval if intervals else ()))
        ]
        cells.append([*shown, *(p_cell(p[place]) for p in corrected)])
    return cells


def p_cell(p: float | None) -> Cell:
    """A p value; tiny ones as a bound."""
    if p is None:
        return Cell(MISSING)
    return Cell("<.0001" if p < 1e-4 else f"{p:.4f}".lstrip("0") if p < 1 else "1", value=p)


def _is_dense(runs: Sequence[Record]) -> bool:
    return bool(runs[0]["spec"]["method"] == "dense")
