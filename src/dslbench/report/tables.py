"""Build the paper's tables from run records."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from dslbench import registry
from dslbench.errors import UsageError
from dslbench.report.columns import COLUMNS, Column, Record
from dslbench.report.relative import (
    EQUAL_COST,
    is_equal_cost,
    mac_notes,
    setting_of,
    with_ratios,
    without_epochs,
)

Mark = Literal["", "best", "second"]
MISSING = "-"


@dataclass(frozen=True)
class Cell:
    """Text of a table cell; `spread` is a standard deviation shown as a subscript."""

    text: str
    spread: str = ""
    mark: Mark = ""


@dataclass
class TableModel:
    """A table before it has a format."""

    title: str
    headers: list[str]
    rows: list[list[Cell]]
    footer: list[str] = field(default_factory=list)
    left_columns: int = 1  # columns of text at the left; the others hold numbers
    rules: list[int] = field(default_factory=list)  # rows after which a rule is drawn


def group(records: Iterable[Record], key: Callable[[Record], Any]) -> list[list[Record]]:
    """Records by key, in order of first appearance."""
    groups: dict[Any, list[Record]] = {}
    for record in records:
        groups.setdefault(key(record), []).append(record)
    return list(groups.values())


def table3(records: Sequence[Record]) -> list[TableModel]:
    """Methods on one backbone: cost and quality (paper, Table 3); one table per setting."""
    return [_table3(part) for part in group(records, setting_of)]


def _table3(records: list[Record]) -> TableModel:
    records = with_ratios(records)
    shown = ["params", "train_macs", "exact_train_macs", "train_ratio", "exact_infer_macs"]
    shown += ["memory", "train_time", "recall", "ndcg", "hr"]
    if is_equal_cost(records[0]):
        shown = EQUAL_COST + shown
    columns = [COLUMNS[name] for name in shown]
    order = {name: place for place, name in enumerate(registry.names("method"))}
    rows = group(
        sorted(
            records,
            key=lambda r: (
                r["spec"]["method"] != "dense",
                _method(r["spec"]["method"])[1],
                r["spec"]["sparsity"],
                order.get(r["spec"]["method"], len(order)),
                r["spec"]["variant"],
            ),
        ),
        _row_key,
    )
    marks = [_marks(column, rows) for column in columns]
    table = TableModel(
        title=f"Table 3: {_setting(records[0])}",
        headers=["Category", "Method", "Sparsity", *(c.title for c in columns)],
        rows=[],
        left_columns=2,
    )
    previous: str | None = None
    for place, runs in enumerate(rows):
        label, family = _method(runs[0]["spec"]["method"])
        if previous is not None and family != previous:
            table.rules.append(place - 1)
        name = label + _variant(runs[0]["spec"]) + _width(runs[0])
        table.rows.append(
            [
                Cell(family if family != previous else ""),
                Cell(name),
                Cell(f"{statistics.fmean(r['budget']['achieved_sparsity'] for r in runs):.1%}"),
                *(
                    _cell(column, runs, mark[place])
                    for column, mark in zip(columns, marks, strict=True)
                ),
            ]
        )
        previous = family
    table.footer = _footer(records, columns) + mac_notes(records)
    return table


def table2(records: Sequence[Record]) -> list[TableModel]:
    """Backbones with and without DSL over data sets (paper, Table 2); one table per protocol."""
    kept = [r for r in records if r["spec"]["method"] in ("dense", "dsl")]
    return [
        _table2(part) for part in group(kept, lambda r: (r["spec"]["protocol"], r["spec"]["scale"]))
    ]


def _table2(records: list[Record]) -> TableModel:
    shown = ["train_macs", "infer_macs", "exact_train_macs", "exact_infer_macs", "recall", "ndcg"]
    columns = [COLUMNS[name] for name in shown]
    sets = list(dict.fromkeys(r["spec"]["dataset"] for r in records))
    first = records[0]["spec"]
    table = TableModel(
        title=f"Table 2: DSL over backbones, {_protocol(first)}",
        headers=["Model", *(f"{name} {c.title}" for name in sets for c in columns)],
        rows=[],
    )
    for of_backbone in group(records, lambda r: (r["spec"]["backbone"], _shape(r["spec"]))):
        methods = group(
            sorted(
                of_backbone, key=lambda r: (r["spec"]["method"] != "dense", r["spec"]["sparsity"])
            ),
            _row_key,
        )
        for runs in methods:
            spec = runs[0]["spec"]
            label = f"{_backbone(spec['backbone'])} ({_shape(spec)})"
            if spec["method"] == "dsl":
                label = f"+ DSL{_variant(spec)} {spec['sparsity']:.0%}"
            cells = [
                _cell(column, [r for r in runs if r["spec"]["dataset"] == name], "")
                for name in sets
                for column in columns
            ]
            table.rows.append([Cell(label), *cells])
        table.rules.append(len(table.rows) - 1)
    table.rules = table.rules[:-1]
    table.footer = _footer(records, columns) + mac_notes(records)
    return table


BUILDERS: dict[str, Callable[[Sequence[Record]], list[TableModel]]] = {"2": table2, "3": table3}


def build(number: str, records: Sequence[Record]) -> list[TableModel]:
    """The tables of the given number from these records."""
    if number not in BUILDERS:
        raise UsageError(f"no table '{number}'", f"tables: {', '.join(BUILDERS)}")
    return BUILDERS[number](records)


def _cell(column: Column, runs: Sequence[Record], mark: Mark) -> Cell:
    """Mean over seeds, with the standard deviation where there are several."""
    values = [v for v in (column.value(r) for r in runs) if v is not None]
    if not values or len(values) < len(runs):
        return Cell(MISSING)
    spread = ""
    if len(values) > 1 and column.better == "high":
        spread = f"{statistics.stdev(values):.4f}".lstrip("0")
    return Cell(column.show(statistics.fmean(values)), spread, mark)


def _marks(column: Column, rows: list[list[Record]]) -> list[Mark]:
    """Best and second best of the values as shown, so that equal texts are marked alike."""
    if column.better is None:
        return [""] * len(rows)
    values: list[tuple[str, float] | None] = []
    for runs in rows:
        found = [v for v in (column.value(r) for r in runs) if v is not None]
        mean = statistics.fmean(found) if len(found) == len(runs) and found else None
        values.append(None if mean is None else (column.show(mean), mean))
    known = sorted(
        {v for v in values if v is not None}, key=lambda v: v[1], reverse=column.better == "high"
    )
    texts = list(dict.fromkeys(text for text, _ in known))
    if len(texts) < 2:
        return [""] * len(rows)
    names: dict[str, Mark] = {texts[0]: "best", texts[1]: "second"}
    return ["" if v is None else names.get(v[0], "") for v in values]


def _row_key(record: Record) -> Any:
    """Runs of one row: all but the seed is the same."""
    spec = record["spec"]
    options = json.dumps(spec["options"], sort_keys=True)
    return spec["method"], spec["variant"], spec["sparsity"], options


def _variant(spec: Record) -> str:
    """What sets a run apart from the method's default, in brackets; empty when nothing does."""
    parts = [] if spec["variant"] == "default" else [spec["variant"]]
    parts += [f"{key}={value}" for key, value in spec["changed_options"].items()]
    return f" ({', '.join(parts)})" if parts else ""


def _width(record: Record) -> str:
    """Size of a narrower model whose share of the embedding size was not a whole number."""
    found = record.get("diagnostics") or {}
    if found.get("exact_share", True):
        return ""
    return f" (d={'+'.join(str(width) for width in sorted(set(found['student_widths'].values())))})"


def _method(name: str) -> tuple[str, str]:
    """Label and family; a method that is no longer known keeps its name."""
    try:
        found = registry.method(name)
    except UsageError:
        return name, ""
    return found.label, found.family


def _backbone(name: str) -> str:
    try:
        return registry.backbone(name).label
    except UsageError:
        return name


def _shape(spec: Record) -> str:
    layers = f"l={spec['layers']}, " if spec.get("layers") is not None else ""
    named = ("layers", "embedding_size")
    changed = [f"{k}={v}" for k, v in spec["changed_hyper"].items() if k not in named]
    preset = f"{spec['preset']} preset" + (f" with {', '.join(changed)}" if changed else "")
    epochs = "" if spec["epochs"] is None else f", {spec['epochs']} epochs"
    return f"{layers}d={spec['embedding_size']}, {preset}{epochs}"


def _protocol(spec: Record) -> str:
    text = f"protocol {spec['protocol']}"
    if spec["epochs"] is not None and spec["epochs"] < spec["full_epochs"]:
        text += f", REDUCED: {spec['epochs']} of {spec['full_epochs']} epochs"
    return text


def _setting(record: Record) -> str:
    equal_cost = is_equal_cost(record)
    spec = without_epochs(record["spec"]) if equal_cost else record["spec"]
    text = f"{spec['dataset']}, {_backbone(spec['backbone'])} ({_shape(spec)}), {_protocol(spec)}"
    return f"equal training MACs, {text}" if equal_cost else text


def _footer(records: Sequence[Record], columns: Sequence[Column]) -> list[str]:
    """What a reader needs to defend the numbers."""
    specs = [r["spec"] for r in records]
    seeds = sorted({s["seed"] for s in specs})
    lines = [
        f"Seeds: {', '.join(map(str, seeds))}"
        + (
            " (one seed: no spread can be given)."
            if len(seeds) == 1
            else "; mean and standard deviation."
        )
    ]
    reduced = sorted(
        {(s["epochs"], s["full_epochs"]) for s in specs if s["epochs"] < s["full_epochs"]}
    )
    lines += [
        f"Reduced settings: {epochs} of the preset's {full} epochs; quality is below the full protocol's."
        for epochs, full in reduced
    ]
    parts = {"valid": "validation", "test": "the TEST set, as the paper's code did"}
    chosen = sorted({r["selection"]["on"] for r in records}, reverse=True)
    lines.append(f"The epoch was selected on {' or '.join(parts[name] for name in chosen)}.")
    for runs in group(records, lambda r: r["spec"]["dataset"]):
        data = runs[0]["data"]
        digests = ", ".join(
            f"{part} {data[f'{part}_digest'][:12]}"
            for part in ("train", "valid", "test")
            if data[f"{part}_digest"]
        )
        lines.append(
            f"{data['name']}: {data['users']:,} users, {data['items']:,} items, "
            f"{data['train_pairs']:,} training pairs; digests: {digests}."
        )
        lines += [f"{data['name']}: {note}" for note in data.get("notes", [])]
    lines.append(
        "Quality, time and memory are measured (memory: peak of the run's own process, data and "
        "libraries included); parameters and MACs are counted. '-': not available."
    )
    tied = max(r["quality"].get("tied_users") or 0 for r in records)
    if tied:
        lines.append(
            f"Ties: up to {tied} users' lists were in part decided by the seeded tie-break."
        )
    machines = {(e["cpu"], e["cores"], e["device"]) for e in (r["environment"] for r in records)}
    lines.append(
        "Machine: "
        + "; ".join(f"{cpu}, {cores} cores, {dev}" for cpu, cores, dev in sorted(machines))
        + "."
    )
    return lines
