"""What no other run beats in quality and one of the costs."""

from __future__ import annotations

from collections.abc import Sequence

from dslbench.evaluation.metrics import in_group
from dslbench.report.columns import COLUMNS, Column, Record
from dslbench.report.comparable import dense_of, footer, label, rows, setting
from dslbench.report.costs import STORED, levelled
from dslbench.report.relative import setting_of
from dslbench.report.tables import MISSING, Cell, TableModel, group, mean

COSTS: dict[str, Column] = {
    "train time": COLUMNS["train_time"],
    "train MACs": COLUMNS["exact_train_macs"],
    "inference MACs": COLUMNS["exact_infer_macs"],
    "peak memory": COLUMNS["memory"],
    "stored size": STORED,
}


def front(points: Sequence[tuple[float, float] | None]) -> list[bool]:
    """Which (cost, quality) points no other beats: is as cheap and as good, and better in one."""
    known = [p for p in points if p is not None]
    return [
        p is not None
        and not any(
            other[0] <= p[0] and other[1] >= p[1] and other != p  # as good in both, better in one
            for other in known
        )
        for p in points
    ]


def pareto(records: Sequence[Record]) -> list[TableModel]:
    """Quality against each cost; runs that no other run beats are marked."""
    return [_pareto(part) for part in group(records, setting_of)]


def points(of_rows: Sequence[Sequence[Record]], column: Column) -> list[tuple[float, float] | None]:
    """(cost, Recall@20 at the level of dense's seeds) of each row; None where the cost is not known."""
    found: list[tuple[float, float] | None] = []
    dense = dense_of([run for runs in of_rows for run in runs])
    for runs in of_rows:
        price, quality = mean(column, runs), levelled(runs, dense)
        found.append(None if price is None or quality is None else (price, quality))
    return found


def _pareto(records: list[Record]) -> TableModel:
    of_rows = rows(records)
    fronts = {name: front(points(of_rows, column)) for name, column in COSTS.items()}
    known = [name for name, column in COSTS.items() if any(points(of_rows, column))]
    table = TableModel(
        title=f"Pareto: {setting(records[0])}",
        headers=["Method", "Recall@20", "NDCG@20", *(COSTS[name].title for name in known), "Front"],
        rows=[],
        legend="*: on the front of this cost and Recall@20.",
    )
    for place, runs in enumerate(of_rows):
        quality = [(COLUMNS[name], mean(COLUMNS[name], runs)) for name in in_group("compared")]
        numbers = [*quality, *((COSTS[name], mean(COSTS[name], runs)) for name in known)]
        on = [name for name in known if fronts[name][place]]
        table.rows.append(
            [
                Cell(label(runs)),
                *(
                    Cell(MISSING) if v is None else Cell(column.show(v), value=v, runs=len(runs))
                    for column, v in numbers
                ),
                Cell(f"{len(on)} of {len(known)}", value=len(on)),
            ]
        )
        for offset, name in enumerate(known, start=3):
            shown = table.rows[-1][offset]
            if name in on:
                table.rows[-1][offset] = Cell(
                    shown.text, "", "best", shown.value, shown.deviation, shown.runs
                )
    table.footer = footer(
        records,
        "Marked are the rows on the front of a cost and Recall@20: no other row is as cheap and as good "
        "and better in one of the two. Front: of how many of the costs. Means over seeds; differences "
        "within their spread can move it. A row of other seeds than dense's counts by its change against "
        "dense of the same seeds.",
    )
    return table
