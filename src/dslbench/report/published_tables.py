"""Published results beside those of stored runs."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dslbench.errors import UsageError
from dslbench.report import published
from dslbench.report.columns import COLUMNS, Record
from dslbench.report.comparable import row_key
from dslbench.report.published import Result
from dslbench.report.relative import setting_of
from dslbench.report.tables import MISSING, Cell, TableModel, group, heading
from dslbench.words import percent

_TITLES = {
    "train_macs": "MACs (Tr.)",
    "infer_macs": "MACs (In.)",
    "average_macs": "Average MACs, %",
    "memory": "Memory",
    "recall_min": "Recall (min)",
    "recall": "Recall",
    "ndcg": "NDCG",
    "hr": "HR",
    "mrr": "MRR",
    "precision": "Precision",
}


@dataclass(frozen=True)
class Row:
    """A published value and, where the store has matching runs, theirs (mean over seeds)."""

    result: Result
    quantity: str
    runs: tuple[Record, ...] = ()

    @property
    def ours(self) -> list[float]:
        """Our values, one for each seed; empty where a run lacks it."""
        values = [_value(run, self.quantity) for run in self.runs]
        known = [value for value in values if value is not None]
        return known if len(known) == len(values) else []

    @property
    def difference(self) -> float | None:
        """Ours relative to the published value, less 1."""
        base = self.result.values[self.quantity].value
        return statistics.fmean(self.ours) / base - 1 if self.ours and base else None


def rows(records: Sequence[Record], dataset: str | None, backbone: str | None) -> list[Row]:
    """Published values of a data set and backbone (None: all) with the runs that match.

    Runs that differ in what a source does not say (preset, epochs) are kept apart: a published
    value stands in a row for each of their settings.
    """
    wanted = [
        result
        for result in published.results()
        if dataset in (None, result.setting.dataset) and backbone in (None, result.setting.backbone)
    ]
    if not wanted:
        chosen = [f"{k} '{v}'" for k, v in (("dataset", dataset), ("backbone", backbone)) if v]
        raise UsageError(
            f"no published results of {' and '.join(chosen)}",
            f"there are some of {', '.join(sorted({r.setting.dataset for r in published.results()}))}",
        )
    return [row for result in wanted for row in _rows(result, records)]


def _rows(result: Result, records: Sequence[Record]) -> Iterator[Row]:
    matching = group([run for run in records if matches(result, run)], _edition)
    for quantity in result.values:
        comparable = [
            tuple(runs)
            for runs in matching
            if any(_value(run, quantity) is not None for run in runs)
        ]
        for runs in comparable or [()]:
            yield Row(result, quantity, runs)


def matches(result: Result, run: Record) -> bool:
    """Whether a run has every setting that the source states, under a comparable protocol."""
    spec, setting = run["spec"], result.setting
    stated = setting.model_dump(exclude_none=True, exclude={"sparsity", "decay"})
    return (
        spec["protocol"] in result.protocols
        and all(spec.get(key) == value for key, value in stated.items())
        and (setting.sparsity is None or abs(spec["sparsity"] - setting.sparsity) < 1e-9)
        and (setting.decay is None or spec["options"].get("decay") == setting.decay)
    )


def _edition(run: Record) -> tuple[Any, ...]:
    return setting_of(run), *row_key(run)


def _value(run: Record, quantity: str) -> float | None:
    """A run's value of a published quantity; None for those that no run has (GPU memory, ...)."""
    if quantity in ("train_macs", "infer_macs"):
        return COLUMNS[quantity].value(run)
    value = run["quality"].get(quantity)
    return float(value) if isinstance(value, int | float) else None


def data(found: Sequence[Row]) -> list[dict[str, Any]]:
    """One object for each row; a missing value is None."""
    return [
        {
            "source": row.result.source,
            "citation": row.result.citation,
            "verified": row.result.verified,
            "note": row.result.note or None,
            "setting": row.result.setting.model_dump(),
            "quantity": row.quantity,
            "published": row.result.values[row.quantity].value,
            "spread": row.result.values[row.quantity].spread,
            "ours": statistics.fmean(row.ours) if row.ours else None,
            "difference": row.difference,
            "runs": [run["id"] for run in row.runs],
        }
        for row in found
    ]


def tables(found: Sequence[Row]) -> list[TableModel]:
    """One table for each source and data set."""
    keys = dict.fromkeys(_key(row) for row in found)
    return [_table([row for row in found if _key(row) == key]) for key in keys]


def _key(row: Row) -> tuple[str, str]:
    return row.result.source, row.result.setting.dataset


def _table(part: Sequence[Row]) -> TableModel:
    first = part[0].result
    table = TableModel(
        title=f"Published: {first.source}, {first.setting.dataset}",
        headers=["Model", "Quantity", "Published", "Ours", "Difference", "Runs"],
        rows=[],
        left_columns=2,
    )
    previous: Result | None = None
    described: dict[str, str] = {}
    for row in part:
        printed = row.result.values[row.quantity]
        spread = "" if printed.spread is None else f"{printed.spread:.4f}".lstrip("0")
        letter = MISSING
        if row.ours:
            letter = described.setdefault(_runs(row.runs), chr(ord("a") + len(described)))
        table.rows.append(
            [
                heading(_model(row.result), row.result is previous),
                Cell(title_of(row.quantity)),
                Cell(printed.text, spread, value=printed.value, deviation=printed.spread),
                _ours(row),
                Cell(MISSING)
                if row.difference is None
                else Cell(f"{row.difference:+.1%}", value=row.difference),
                Cell(letter),
            ]
        )
        previous = row.result
    table.footer = [f"Source: {first.citation}."]
    if not first.verified:
        table.footer.append("Quoted from the literature, not checked against the source itself.")
    notes = dict.fromkeys(row.result.note for row in part if row.result.note)
    table.footer += [f"Published: {note}." for note in notes]
    table.footer += [f"{letter}: {runs}." for runs, letter in described.items()]
    if described:
        table.footer.append(
            "Ours: quality measured on test; MACs counted by the paper's convention, for the run's own "
            "epochs and batch size."
        )
    return table


def title_of(quantity: str) -> str:
    """A published quantity as a header."""
    name, at, cutoff = quantity.partition("@")
    return _TITLES[name] + at + cutoff


def _model(result: Result) -> str:
    setting = result.setting
    named = (("l", setting.layers), ("d", setting.embedding_size), ("epochs", setting.epochs))
    sizes = [f"{name}={value}" for name, value in named if value is not None]
    parts = [published.label("backbone", setting.backbone), *sizes]
    if setting.method != "dense":
        parts.append(published.label("method", setting.method))
        if setting.sparsity is not None:
            parts.append(f"{percent(setting.sparsity)}")
    if setting.decay is not None:
        parts.append(f"decay={setting.decay}")
    return " ".join(parts)


def _ours(row: Row) -> Cell:
    if not row.ours:
        return Cell(MISSING)
    mean = statistics.fmean(row.ours)
    if row.quantity.endswith("macs"):
        return Cell(f"{mean:.2e}", value=mean, runs=len(row.ours))
    deviation = statistics.stdev(row.ours) if len(row.ours) > 1 else None
    spread = "" if deviation is None else f"{deviation:.4f}".lstrip("0")
    return Cell(f"{mean:.4f}", spread, "", mean, deviation, len(row.ours))


def _runs(runs: Sequence[Record]) -> str:
    """What sets our runs apart from the published one."""
    spec = runs[0]["spec"]
    changed = [f"{k}={v}" for k, v in (spec["changed_hyper"] | spec["changed_options"]).items()]
    variant = [] if spec["variant"] == "default" else [spec["variant"]]
    epochs = f"{spec['epochs']} of {spec['full_epochs']} epochs"
    seeds = f"{len(runs)} seed" + ("s" if len(runs) > 1 else "")
    return ", ".join(
        [
            f"{spec['preset']} preset",
            *variant,
            *changed,
            f"protocol {spec['protocol']}",
            epochs,
            seeds,
        ]
    )
