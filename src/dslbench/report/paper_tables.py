"""The paper's Tables 2, 3 and 4 from run records."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from typing import Any

from dslbench.errors import UsageError
from dslbench.evaluation.metrics import in_group
from dslbench.report import tuned
from dslbench.report.columns import COLUMNS, Column, Record
from dslbench.report.comparable import (
    dense_of,
    footer,
    label,
    method_names,
    model,
    protocol,
    reduced,
    rising,
    row_label,
    row_width,
    rows,
    setting,
)
from dslbench.report.relative import EQUAL_COST, is_equal_cost, mac_notes, setting_of, with_ratios
from dslbench.report.sizes import at_precision
from dslbench.report.tables import NOT_APPLICABLE, Cell, TableModel, cell, group, heading, marks
from dslbench.words import percent, percent_reached

DECAYS = {"cosine": "Cosine", "linear": "Linear", "none": "No decay"}


def table3(records: Sequence[Record]) -> list[TableModel]:
    """Methods on one backbone: cost and quality (paper, Table 3); one table per setting."""
    return [_table3(part) for part in group(records, setting_of)]


def _table3(records: list[Record]) -> TableModel:
    records = tuned.with_tuning(with_ratios(records))
    records += [at for record in dense_of(records) if (at := _at_four_bits(record)) is not None]
    shown = ["bytes", "train_macs", "exact_train_macs", "train_ratio", "exact_infer_macs"]
    shown += ["memory", "train_time", *in_group("quality")]
    if is_equal_cost(records[0]):
        shown = EQUAL_COST + shown
    if any("tuning" in record for record in records):
        after = shown.index("train_ratio") + 1
        shown[after:after] = tuned.COLUMNS_OF_TUNING
    table = by_method(f"Table 3: {setting(records[0])}", shown, records)
    own = [label([r]) for r in records if method_names(r["spec"]["method"])[1] == "Plain"]
    own += [label([r]) for r in records if "precision" in r]
    notes = [f"Ours, not the paper's: {', '.join(dict.fromkeys(own))}."] if own else []
    if any("precision" in r for r in records):
        notes.append(
            "int4: the same training, its tables rounded to four bits a value and a scale a row; "
            "`dslbench report --table bytes` has all methods at all precisions."
        )
    table.footer = footer(records, *notes, *paper_mac_note(records), *mac_notes(records))
    table.footer += tuned.notes(records)
    return table


def _at_four_bits(record: Record) -> Record | None:
    """A dense run as if its model were kept at int4; None where it was not judged so."""
    found = at_precision(record, "int4")
    return None if found is None else {**found, "spec": found["spec"] | {"variant": "int4"}}


def tail(records: Sequence[Record]) -> list[TableModel]:
    """Who pays: what methods recommend of rarely seen items, and how evenly; one table per setting."""
    return [_tail(part) for part in group(records, setting_of)]


def _tail(records: list[Record]) -> TableModel:
    table = by_method(f"Popular and rare items: {setting(records[0])}", in_group("tail"), records)
    table.footer = footer(
        records,
        "Fifths of the items by training pairs, 1 the most popular: of all pairs sought among a fifth's "
        "items, the share that stood in the user's first 20.",
        "Coverage: share of the items that stand in anybody's first 20. Gini: how unevenly items are "
        "recommended, 0 all alike.",
    )
    return table


def by_method(title: str, shown: Sequence[str], records: Sequence[Record]) -> TableModel:
    """A row for each method, by family, with the columns of these names; without a footer."""
    columns = [COLUMNS[name] for name in shown]
    of_rows = rows(records)
    column_marks = [marks(column, of_rows) for column in columns]
    table = TableModel(
        title=title,
        headers=["Category", "Method", "Sparsity", *(c.title for c in columns)],
        rows=[],
        left_columns=2,
    )
    quality = {*in_group("quality"), *in_group("tail")}
    table.first = [2, *(3 + place for place, name in enumerate(shown) if name in quality)]
    previous: str | None = None
    for place, runs in enumerate(of_rows):
        spec = runs[0]["spec"]
        family = method_names(spec["method"])[1]
        if previous is not None and family != previous:
            table.rules.append(place - 1)
        reached = [r["budget"]["achieved_sparsity"] for r in runs]
        if None in reached:  # of no dense model a part
            sparsity = Cell(NOT_APPLICABLE)
        else:
            mean_of = statistics.fmean(reached)
            sparsity = Cell(percent_reached(mean_of), value=mean_of, runs=len(runs))
        table.rows.append(
            [
                heading(family, family == previous),
                Cell(row_label(spec) + row_width(runs[0]) + rising(runs)),
                sparsity,
                *(
                    cell(column, runs, mark[place])
                    for column, mark in zip(columns, column_marks, strict=True)
                ),
            ]
        )
        previous = family
    return table


def paper_mac_note(records: Sequence[Record]) -> list[str]:
    """Which convention the MACs of Tables 2 and 3 follow."""
    if any(COLUMNS[n].value(r) is not None for r in records for n in ("train_macs", "infer_macs")):
        return [
            "Paper MACs: counted by the paper's convention, which no kernel saves by itself; "
            "`--table cost` sets them beside exact counts and measurements."
        ]
    return []


def _scale(spec: Record) -> tuple[Any, ...]:
    """What says how far training went; runs of different scales are never in one table."""
    return (spec["scale"], spec["epochs"]) if spec["scale"] == "custom" else (spec["scale"],)


def table2(records: Sequence[Record]) -> list[TableModel]:
    """Backbones with and without DSL over data sets (paper, Table 2).

    One table per protocol and scale. Raises `UsageError` where no DSL run is among the records.
    """
    kept = [r for r in records if r["spec"]["method"] in ("dense", "dsl")]
    if not any(r["spec"]["method"] == "dsl" for r in kept):
        raise UsageError("table 2 needs runs of dsl", "dslbench compare --plan table2")
    return [
        _table2(part) for part in group(kept, lambda r: (r["spec"]["protocol"], *_scale(r["spec"])))
    ]


def _table2(records: list[Record]) -> TableModel:
    shown = ["train_macs", "infer_macs", "exact_train_macs", "exact_infer_macs"]
    shown += in_group("compared")
    columns = [COLUMNS[name] for name in shown]
    sets = list(dict.fromkeys(r["spec"]["dataset"] for r in records))
    table = TableModel(
        title=f"Table 2: DSL over backbones, {_protocol_and_scale(records)}",
        headers=["Model", *(f"{name} {c.title}" for name in sets for c in columns)],
        rows=[],
    )
    editions = _editions(records)
    for of_model in group(
        records, lambda r: (r["spec"]["backbone"], model(r["spec"]), editions[r["id"]])
    ):
        number = editions[of_model[0]["id"]]
        again = f" [{number}]" if number > 1 else ""
        for runs in rows(of_model):
            spec = runs[0]["spec"]
            label = model(spec) + again
            if spec["method"] == "dsl":
                label = f"+ {row_label(spec)} {percent(spec['sparsity'])}"
            table.rows.append([Cell(label), *_cells_by_dataset(runs, sets, columns)])
        table.rules.append(len(table.rows) - 1)
    table.rules = table.rules[:-1]
    notes = [*paper_mac_note(records), *mac_notes(records)]
    if max(editions.values()) > 1:
        notes.append("[2], [3], ...: the same model with other data or resolved settings.")
    table.footer = footer(records, *notes)
    return table


def _editions(records: Sequence[Record]) -> dict[str, int]:
    """A number per run that keeps runs apart whose settings differ in what a row does not name."""
    numbers: dict[str, int] = {}
    for alike in group(records, lambda r: (r["spec"]["dataset"], model(r["spec"]))):
        for number, runs in enumerate(group(alike, setting_of), start=1):
            numbers |= {r["id"]: number for r in runs}
    return numbers


def _protocol_and_scale(records: Sequence[Record]) -> str:
    spec = records[0]["spec"]
    if len({(r["spec"]["epochs"], r["spec"]["full_epochs"]) for r in records}) == 1:
        return protocol(spec)
    text = f"protocol {spec['protocol']}, scale {spec['scale']}"
    return f"{text}, REDUCED: see below" if any(reduced(r["spec"]) for r in records) else text


def _cells_by_dataset(
    runs: Sequence[Record], sets: Sequence[str], columns: Sequence[Column]
) -> list[Cell]:
    return [
        cell(column, [r for r in runs if r["spec"]["dataset"] == name])
        for name in sets
        for column in columns
    ]


def table4(records: Sequence[Record]) -> list[TableModel]:
    """DSL under different decays of its update ratio, over data sets (paper, Table 4).

    One table per model, protocol, scale, sparsity and other options. Raises `UsageError` where no
    two decays were run under the same settings.
    """
    kept = [r for r in records if r["spec"]["method"] == "dsl"]
    editions = _editions(kept) if kept else {}

    def alike(record: Record) -> tuple[Any, ...]:
        spec = record["spec"]
        options = {k: v for k, v in spec["options"].items() if k != "decay"}
        return (
            model(spec), spec["protocol"], *_scale(spec), spec["sparsity"], spec["variant"],
            json.dumps(options, sort_keys=True), editions[record["id"]],
        )  # fmt: skip

    tables = [
        _table4(part)
        for part in group(kept, alike)
        if len({r["spec"]["options"].get("decay") for r in part}) > 1
    ]
    if not tables:
        raise UsageError(
            "table 4 needs runs of dsl with two or more decays",
            "dslbench compare --plan table4",
        )
    return tables


def _table4(records: list[Record]) -> TableModel:
    columns = [COLUMNS[name] for name in in_group("compared")]
    sets = list(dict.fromkeys(r["spec"]["dataset"] for r in records))
    first = records[0]["spec"]
    of_decays = [
        runs
        for decay in DECAYS
        if (runs := [r for r in records if r["spec"]["options"].get("decay") == decay])
    ]
    column_marks = [
        marks(column, [[r for r in runs if r["spec"]["dataset"] == name] for runs in of_decays])
        for name in sets
        for column in columns
    ]
    label = row_label(first, without=["decay"])
    return TableModel(
        title=f"Table 4: decay of the update ratio, {label} {percent(first['sparsity'])}, "
        f"{model(first)}, {_protocol_and_scale(records)}",
        headers=["Decay", *(f"{name} {c.title}" for name in sets for c in columns)],
        rows=[
            [
                Cell(DECAYS[runs[0]["spec"]["options"]["decay"]]),
                *(
                    cell(
                        columns[number % 2],
                        [r for r in runs if r["spec"]["dataset"] == sets[number // 2]],
                        mark[place],
                    )
                    for number, mark in enumerate(column_marks)
                ),
            ]
            for place, runs in enumerate(of_decays)
        ],
        footer=footer(records),
    )
