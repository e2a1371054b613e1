"""Table 1: what each method saves and keeps, ticked only where the store holds the evidence."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dslbench.errors import DslbenchError
from dslbench.evaluation.metrics import in_group
from dslbench.output import warn_once
from dslbench.report import beside
from dslbench.report.columns import COLUMNS, Record
from dslbench.report.comparable import dense_of, footer, label, method_names, rows, setting
from dslbench.report.costs import TABLE_1, TEST_TIME, CostKind, change, promised
from dslbench.report.relative import setting_of
from dslbench.report.tables import MISSING, Cell, TableModel, group

YES, COUNTED, MEASURED, NO = "✓", "(c)", "(m)", "✗"

LEAST_SAVING = 0.05  # of the dense run's cost
BUDGET_TOLERANCE = 0.001  # of the table's entries
LEAST_DISPERSION = 1.5  # variance of live entries per row, in units of a random mask's
LARGEST_LOSS = 0.01  # of the dense run's quality


def table1(records: Sequence[Record]) -> list[TableModel]:
    """Properties of the methods (paper, Table 1); one table per setting."""
    return [_table1(part) for part in group(records, setting_of)]


def _table1(records: list[Record]) -> TableModel:
    dense = dense_of(records)
    table = TableModel(
        title=f"Table 1: {setting(records[0])}",
        headers=[
            "Category", "Method", *(kind.name.capitalize() for kind in TABLE_1),
            "End-to-end", "Budget", "Non-uniform", "Performance",
        ],
        rows=[],
        left_columns=2,
)  # fmt: skip
    for runs in rows(records):
        if runs[0]["spec"]["method"] == "dense":
            continue
        savings = [
            saving(promised(k, runs, dense), change(k.measured, runs, dense), noise(k, runs, dense))
            for k in TABLE_1
        ]
        judged = [
            *savings, end_to_end(runs, dense), keeps_budget(runs), non_uniform(runs),
            keeps_quality(runs, dense),
        ]  # fmt: skip
        family = Cell(method_names(runs[0]["spec"]["method"])[1])
        table.rows.append([family, Cell(label(runs)), *map(Cell, judged)])
    table.footer = footer(
        records,
        f"{YES}: counted and measured; {COUNTED}: counted only, no measurement shows it beyond its noise; "
        f"{MEASURED}: measured only, the count does not show it; {NO}: no; "
        f"{MISSING}: no evidence stored (a dense run with the same settings and seed is needed).",
        f"Savings: at least {LEAST_SAVING:.0%} of the dense run's cost (MACs or parameters counted, "
        "seconds or bytes measured), and for what is measured more than its noise (two standard errors over "
        "seeds, else the quartiles of a step; one timing or peak by itself shows nothing). End-to-end: no "
        "more training phases than dense.",
        f"Budget: every run within {BUDGET_TOLERANCE:.1%} of the entries asked for. Non-uniform: live "
        f"entries per row vary at least {LEAST_DISPERSION} times as much as a random mask's "
        "(variance). Performance: at most "
        f"{LARGEST_LOSS:.0%} of the dense Recall@20 and NDCG@20 lost.",
    )
    return table


def saving(counted: float | None, measured: float | None, noise: float | None) -> str:
    """Whether count and measurement show a saving, one of them does, or none.

    Args:
        counted, measured: changes relative to dense (-0.5: half).
        noise: what the measurement has to exceed; None: one timing, which shows nothing by itself.
    """
    shown = measured is not None and noise is not None and measured <= -max(LEAST_SAVING, noise)
    promised_ = counted is not None and counted <= -LEAST_SAVING
    if shown or promised_:
        return YES if shown and promised_ else MEASURED if shown else COUNTED
    return MISSING if measured is None and counted is None else NO


def noise(kind: CostKind, runs: Sequence[Record], dense: Sequence[Record]) -> float | None:
    """What a measured change has to exceed.

    Two standard errors of the change over the seeds that both have. Of a single seed: the distance of the
    quartiles of a step in the last phase, of its median, for the time of training; nothing for bytes
    stored; None, which shows nothing, for what was measured once (a ranking, a peak of memory).
    """
    column = kind.measured
    by_seed = [
        {r["spec"]["seed"]: value for r in part if (value := column.value(r)) is not None}
        for part in (runs, dense)
    ]
    seeds = by_seed[0].keys() & by_seed[1].keys()
    if len(seeds) > 1:
        changes = [by_seed[0][seed] / by_seed[1][seed] - 1 for seed in seeds if by_seed[1][seed]]
        return 2 * statistics.stdev(changes) / len(changes) ** 0.5 if len(changes) > 1 else None
    if column in (TEST_TIME, COLUMNS["memory"]):
        return None
    if column is not COLUMNS["train_time"]:
        return 0.0
    spreads = [
        (step["q3"] - step["q1"]) / step["median"]
        for run in (*runs, *dense)
        for phase in (run["cost"]["measured"].get("phases") or [])[-1:]
        if (step := phase.get("step_seconds")) and step["median"]
    ]
    return max(spreads) if spreads else None


def end_to_end(runs: Sequence[Record], dense: Sequence[Record]) -> str:
    """Whether one training does it: no more phases than the dense run of the backbone has."""
    own = [len(r["cost"]["measured"].get("phases") or []) for r in runs]
    base = [len(r["cost"]["measured"].get("phases") or []) for r in dense]
    if not all(own) or not base or not all(base):
        return MISSING
    return YES if max(own) <= max(base) else NO


def keeps_budget(runs: Sequence[Record]) -> str:
    """Whether every run stores as many entries as were asked for."""
    return (
        YES
        if all(
            abs(r["budget"]["achieved_sparsity"] - r["spec"]["sparsity"]) <= BUDGET_TOLERANCE
            for r in runs
        )
        else NO
    )


def non_uniform(runs: Sequence[Record]) -> str:
    """Whether rows differ in their live entries by more than chance, in every stored model."""
    ratios = []
    for run in runs:
        try:
            packed = beside.model(run)
        except DslbenchError as error:
            if beside.has_model(run):
                warn_once(f"{error.message}; left out")
            return MISSING
        found = [
            dispersion(table.entries(), table.shape[1])
            for table in packed.tables.values()
            if 0 < table.entries().sum() < table.shape[0] * table.shape[1]
        ]
        ratios.append(max(found, default=0.0))
    return YES if min(ratios) >= LEAST_DISPERSION else NO


def dispersion(entries: npt.NDArray[np.int64], d: int) -> float:
    """Variance of the entries stored of each row, divided by d s (1 - s), that of a random mask.

    Args:
        entries: (n,) how many each row stores, some and not all of d.
    """
    share = float(entries.mean()) / d
    return float(entries.var()) / (d * share * (1 - share))


def keeps_quality(runs: Sequence[Record], dense: Sequence[Record]) -> str:
    """Whether Recall@20 and NDCG@20 stay near the dense runs'."""
    losses = [change(COLUMNS[name], runs, dense) for name in in_group("compared")]
    if any(loss is None for loss in losses):
        return MISSING
    return YES if all(loss is not None and loss >= -LARGEST_LOSS for loss in losses) else NO
