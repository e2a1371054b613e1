"""What tuning came to: in a table of its own, and beside the runs that use it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dslbench import presets
from dslbench.errors import UsageError
from dslbench.evaluation.metrics import METRICS, SELECTION
from dslbench.report.columns import COLUMNS, Record, seconds
from dslbench.report.comparable import method_names
from dslbench.report.tables import MISSING, Cell, TableModel
from dslbench.tuning.campaign import Found, Result
from dslbench.words import number, percent

COLUMNS_OF_TUNING = [
    "tuned_macs",
    "tuned_gain",
]  # that a table of tuned runs has beside the usual ones


def tables(result: Result) -> list[TableModel]:
    """A row for each method, and the ranges."""
    spec = result.found[0].trials[0].spec
    label = METRICS[SELECTION].label
    table = TableModel(
        f"Tuned on validation: {spec.dataset}, {spec.backbone}, {spec.epochs} of {spec.full_epochs} epochs",
        ["Method", "Trials", "Failed", f"Published {label}", f"Chosen {label}", "Gain",
         "MACs of trials", "Time of trials", "Chosen"], [],
    )  # fmt: skip
    table.rows = [_row(one) for one in result.found]
    search = result.setting.search
    first, *others = result.found
    table.footer = [
        f"{label} on validation: no trial was given the test part. The first trial, Published, is the "
        f"{spec.preset} preset with options as published. Seed {search.seed} of search and trainings, "
        f"sampler {search.sampler}, pruner {search.pruner}.",
        "MACs of trials: counted, of training in all trials; dense runs that others learn from: in dense's "
        "row. Time: measured, training and choosing of epochs.",
        *(_ranges(one) for one in result.found),
    ]  # fmt: skip
    if others:
        at = f" at sparsity {percent(result.setting.sparsity)}" if result.setting.sparsity else ""
        values = ", ".join(f"{k}={v}" for k, v in first.chosen.values.items())
        table.footer.append(
            f"Methods{at} were searched at dense's choice ({values or 'as published'})."
        )
    for one in result.found:
        table.footer += [
            f"At the edge of its range: {one.method}, {key}={one.chosen.values[key]} ({one.space[key]}); "
            "a better value may lie beyond."
            for key in one.at_edges
        ]
        if one.failed:
            reason = one.failed[0].outcome.reason
            table.footer.append(
                f"{one.method}: {number(len(one.failed), 'trial')} failed: {reason}."
            )
        if given_up := sum(trial.given_up for trial in one.trials):
            table.footer.append(f"{one.method}: {number(given_up, 'trial')} given up early.")
    table.footer += [f"Left out: {line}." for line in result.left_out]
    return [table]


def plain(result: Result) -> dict[str, Any]:
    """The same as data, with every trial."""
    search = result.setting.search
    return {
        "backbone": result.setting.backbone, "dataset": result.setting.dataset,
        "trials": search.trials, "seed": search.seed, "sampler": search.sampler, "pruner": search.pruner,
        "methods": {one.method: _plain(one) for one in result.found},
        "left_out": result.left_out,
    }  # fmt: skip


def with_tuning(records: Sequence[Record]) -> list[Record]:
    """The records, those of a tuned preset with what that took where its file is at hand.

    `tuning.macs`: MACs of the run's training and of all trials of its method and of the dense run's;
    `tuning.gain`: by how much the choice was better than the published setting, on validation.
    """
    return [
        {**record, "tuning": found} if (found := _of_file(record)) is not None else record
        for record in records
    ]


def _of_file(record: Record) -> dict[str, float | None] | None:
    if not presets.is_file(record["spec"]["preset"]):
        return None
    try:
        file, _ = presets.read(record["spec"]["preset"])
    except UsageError:
        return None
    method = record["spec"]["method"]
    own, dense = file.method.get(method), file.method.get("dense")
    if own is None or dense is None:
        return None
    whole = COLUMNS["exact_train_macs"].value(record)
    parts = [whole, own.macs, *([dense.macs] if method != "dense" else [])]
    macs = None if None in parts else sum(part for part in parts if part is not None)
    return {"macs": macs, "gain": own.validation / own.published - 1 if own.published else None}


def notes(records: Sequence[Record]) -> list[str]:
    """What the columns are, and where the settings come from."""
    if not any("tuning" in record for record in records):
        return []
    name = next(r["spec"]["preset"] for r in records if "tuning" in r)
    file, _ = presets.read(name)
    others = [
        f"{method_names(method)[0]} {key}={value}"
        for method in dict.fromkeys(record["spec"]["method"] for record in records)
        for key, value in (file.method[method].hyper if method in file.method else {}).items()
    ]
    return [
        f"Settings {file.source}; they are in {name}.",
        *([f"Other hyper-parameters than the dense run's: {', '.join(others)}."] if others else []),
        "MACs with tuning: counted, of the run's training, all trials of its method and, but for dense, "
        "dense's trials, at whose choice the others were searched. Gain: on validation, of the choice over "
        "the published setting, at the trials' epochs and seed.",
    ]


def _row(one: Found) -> list[Cell]:
    macs, took = one.cost
    metric, best = METRICS[SELECTION], one.chosen.outcome.quality
    return [
        Cell(method_names(one.method)[0]),
        Cell(f"{len(one.trials)}", value=len(one.trials)),
        Cell(f"{len(one.failed)}", value=len(one.failed)),
        Cell(MISSING) if one.published is None else Cell(metric.show(one.published), value=one.published),
        Cell(MISSING) if best is None else Cell(metric.show(best), value=best),
        Cell(MISSING) if one.gain is None else Cell(f"{one.gain:+.1%}", value=one.gain),
        Cell(MISSING) if macs is None else Cell(f"{macs:.2e}", value=macs),
        Cell(MISSING) if took is None else Cell(seconds(took), value=took),
        Cell(_choice(one)),
    ]  # fmt: skip


def _choice(one: Found) -> str:
    if one.chosen.how != "searched":
        return {"published": "as published", "carried": "as published, dense's choice"}[
            one.chosen.how
        ]
    return ", ".join(
        f"{key.rpartition('.')[2]}={value}" for key, value in one.chosen.values.items()
    )


def _ranges(one: Found) -> str:
    ranges = "; ".join(f"{key} {found}" for key, found in one.space.items())
    return f"{one.method} searched {one.searched}{': ' + ranges if ranges else ''}."


def _plain(one: Found) -> dict[str, Any]:
    macs, took = one.cost
    return {
        "searched": {key: str(found) for key, found in one.space.items()},
        "chosen": {"run": one.chosen.outcome.run, "how": one.chosen.how, "values": one.chosen.values},
        "validation": one.chosen.outcome.quality, "published": one.published, "gain": one.gain,
        "at_edges": one.at_edges, "macs": macs, "seconds": took,
        "trials": [
            {
                "run": t.outcome.run, "how": t.how, "values": t.values, "validation": t.outcome.quality,
                "reason": t.outcome.reason or None, "macs": t.outcome.macs, "seconds": t.outcome.seconds,
                "before": [b.run for b in t.before],
            }
            for t in one.trials
        ],
    }  # fmt: skip
