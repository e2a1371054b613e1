"""What the page of all runs knows: settings, rows with their prices, what is behind each, and caveats."""

from __future__ import annotations

import statistics as numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dslbench import presets
from dslbench.errors import UsageError
from dslbench.evaluation.metrics import METRICS, SELECTION, in_group
from dslbench.report import beside, published_tables, references, sizes
from dslbench.report.columns import COLUMNS, Column, Record
from dslbench.report.comparable import (
    LEVEL,
    backbone_label,
    dense_of,
    footer,
    label,
    mean_rise,
    method_names,
    model,
    other_versions,
    protocol,
    reduced,
    row_key,
    rows,
    setting,
)
from dslbench.report.costs import ENERGY, LATENCY, STATE, change
from dslbench.report.machines import describe, machine_of, with_comparable_times
from dslbench.report.naming import labelled
from dslbench.report.published import Result, results
from dslbench.report.relative import mac_notes, setting_of
from dslbench.report.sizes import Point
from dslbench.report.statistics import change_over_seeds, holm, over_seeds
from dslbench.report.tables import group, mean, values

# What a row costs, by the unit that the page shows it in. Nothing of them but the bytes of its tables is
# known at other precisions than the one that was trained.
COSTS: dict[str, tuple[Column, str]] = {
    "train_time": (COLUMNS["train_time"], "s"),
    "train_macs": (COLUMNS["exact_train_macs"], "MACs"),
    "state": (STATE, "B"),
    "memory": (COLUMNS["memory"], "B"),
    "latency_1": (LATENCY["1"], "s"),
    "latency_1024": (LATENCY["1024"], "s"),
    "infer_macs": (COLUMNS["exact_infer_macs"], "MACs"),
    "energy": (ENERGY, "J"),
}
_FAMILIES = {"": "Dense", "MP": "Masks", "KD": "Distillation"}
QUALITY = tuple(in_group("quality"))
_DIGITS = 7  # more than is measured


def content(records: Sequence[Record]) -> dict[str, Any]:
    """All that the page shows, as plain data; equal records give equal data, in whatever order they come.

    Raises `UsageError` where there are none.
    """
    if not records:
        raise UsageError("no runs to show", "dslbench compare --backbone lightgcn")
    in_order = sorted(labelled(records), key=lambda r: str(r["id"]))
    parts = group(references.beside(in_order), setting_of)
    parts = [with_comparable_times(part) for part in parts]
    parts.sort(key=_by_name)
    found = [_part(number, part) for number, part in enumerate(parts)]
    shared = [line for line in found[0].notes if all(line in other.notes for other in found)]
    for one in found:
        one.setting["notes"] = [line for line in one.notes if line not in shared]
    return {
        "quality": [{"key": name, "label": METRICS[name].label} for name in QUALITY],
        "costs": [
            {"key": name, "title": column.title, "unit": unit, "how": column.provenance}
            for name, (column, unit) in COSTS.items()
            if any(name in row["costs"] for one in found for row in one.rows)
        ],
        "settings": [one.setting for one in found],
        "rows": [row for one in found for row in one.rows],
        "notes": [*_NOTES, *shared],
        "worth": sizes.WORTH_DRAWING,
        "order": sorted(range(len(found)), key=lambda n: (found[n].weight, -n), reverse=True),
    }


_NOTES = (
    "Each row was written, read back and ranked as it is stored. fp16, bf16: 16 bits a value; int8 to int2: "
    "so many bits a value and one scale of 16 bits a row. Bytes: of the tables of users and items on disk, "
    "scales, bitmaps and maps included; of a reference, of all that it keeps: one that scores users from "
    "what they have needs that as well, which is not counted.",
    "The sentence at the top takes the smallest of many by their quality on test: chosen so, it looks better "
    "than it is. dslbench shrink chooses on validation. Curves are of validation.",
    f"vs dense: {METRICS[SELECTION].label} relative to dense at fp32 of the same setting, over seeds that "
    "both have. p: two-sided paired t-tests against it, Holm-corrected over the rows of a setting. "
    "95% low, high: Student's interval of that change over three seeds or more, of each row by itself.",
    "Costs of training are those of the whole run, all phases and its teacher included; rounding "
    "afterwards adds none. Serving was timed, and its MACs counted, of the model as it was "
    "trained: not of rounded ones.",
    "Front: no other row of what is shown is as cheap and as good, and better in one of the two. Differences "
    "within the spread of seeds can move it. Rows have different numbers of seeds: compare their change, "
    "which is against dense of the same seeds, and not their means.",
    "Times are of the machine of each run and of what else ran on it, and hold for nothing else.",
)


@dataclass
class _Part:
    setting: dict[str, Any]
    rows: list[dict[str, Any]]
    notes: list[str]
    earlier: bool

    @property
    def weight(self) -> tuple[bool, bool, int]:
        """Settings that show most stand first: trained in full, by a preset of today, and of many rows."""
        points = sum(len(row["points"]) for row in self.rows)
        return self.setting["training"] == "full", not self.earlier, points


def _by_name(part: Sequence[Record]) -> tuple[Any, ...]:
    spec = part[0]["spec"]
    return spec["dataset"], spec["backbone"], -spec["epochs"], setting_of(part[0])


def _part(number: int, part: Sequence[Record]) -> _Part:
    spec, data, dense = part[0]["spec"], part[0]["data"], dense_of(part)
    points = _points(part)
    of_rows: dict[Any, list[Point]] = {}
    for point in points:
        of_rows.setdefault(row_key(point.runs[0]), []).append(point)
    corrected = holm([_p_seeds(point, dense) for point in points])
    p_seeds = {id(point): p for point, p in zip(points, corrected, strict=True)}
    known = _known(spec)
    about = {
        "dataset": spec["dataset"],
        "backbone": backbone_label(spec["backbone"]),
        "text": setting(part[0]),
        "model": model(spec),
        "protocol": protocol(spec),
        "training": "reduced" if reduced(spec) else "full",
        "epochs": spec["epochs"],
        "full_epochs": spec["full_epochs"],
        "answer": sizes.answer(points, dense) if dense else "",
        "dense_bytes": mean(COLUMNS["bytes"], dense) or part[0]["budget"].get("dense_table_bytes"),
        "data": f"{data['users']:,} users, {data['items']:,} items, {data['train_pairs']:,} training pairs",
        "digests": {
            name: data[f"{name}_digest"]
            for name in ("train", "valid", "test", "fold_in", "content")
            if data.get(f"{name}_digest")
        },
    }
    shown = [
        _row(number, own, dense, p_seeds, known)
        for own in sorted(of_rows.values(), key=lambda own: _order(own[0]))
    ]
    return _Part(about, shown, footer(part, *mac_notes(part)), presets.is_earlier(spec["preset"]))


def _order(point: Point) -> tuple[Any, ...]:
    method, variant, sparsity, options = row_key(point.runs[0])
    return method != "dense", method_names(method)[1], method, variant, sparsity, options


def _points(part: Sequence[Record]) -> list[Point]:
    """Every row at every precision; one of older records, which were judged at none, as it is."""
    found = sizes.points(part)
    judged = {row_key(point.runs[0]) for point in found}
    others = [runs for runs in rows(part) if row_key(runs[0]) not in judged]
    return found + [Point(label(runs), "", list(runs)) for runs in others]


def _p_seeds(point: Point, dense: Sequence[Record]) -> float | None:
    return None if point.is_dense else over_seeds(point.runs, dense, COLUMNS[SELECTION])


def _row(
    number: int,
    points: Sequence[Point],
    dense: Sequence[Record],
    p_seeds: Mapping[int, float | None],
    known: Sequence[Result],
) -> dict[str, Any]:
    runs = points[0].runs
    first = runs[0]
    costs = {name: _number(mean(column, runs)) for name, (column, _) in COSTS.items()}
    old = dict.fromkeys(text for run in runs if (text := other_versions(run)))
    return _filled({
        "setting": number,
        "name": label(runs),
        "method": first["spec"]["method"],
        "family": _FAMILIES.get(family := method_names(first["spec"]["method"])[1], family),
        "sparsity": first["spec"]["sparsity"],
        "training": _training(runs),
        "seeds": sorted(run["spec"]["seed"] for run in runs),
        "ids": [run["id"] for run in sorted(runs, key=lambda r: r["spec"]["seed"])],
        "points": [_point(point, dense, p_seeds[id(point)]) for point in points],
        "costs": _filled(costs),
        "macs_of_dense": _ratio(change(COLUMNS["exact_train_macs"], runs, dense)),
        "command": beside.command(first),
        "curve": beside.curve(first),
        "phases": _phases(first),
        "budget": _budget(first),
        "epoch": first["selection"]["epoch"],
        "machine": describe(machine_of(first)),
        "versions": "; ".join(old),
        "published": _published(runs, known),
    })  # fmt: skip


def _training(runs: Sequence[Record]) -> str:
    """Whether a row had levelled off; of runs that nobody looked at, whether they had all epochs."""
    rise, spec = mean_rise(runs), runs[0]["spec"]
    if rise is not None:
        return "rising" if rise > LEVEL else "levelled"
    return "reduced" if reduced(spec) else "full"


def _point(point: Point, dense: Sequence[Record], p_seeds: float | None) -> dict[str, Any]:
    quality = [mean(COLUMNS[name], point.runs) for name in QUALITY]
    spread = [_spread(COLUMNS[name], point.runs) for name in QUALITY]
    between = None if point.is_dense else change_over_seeds(point.runs, dense, COLUMNS[SELECTION])
    low, high = between or (None, None)
    trained = (point.runs[0].get("stored") or [{"precision": point.precision}])[0]["precision"]
    return _filled({
        "precision": point.precision,
        "trained": point.precision == trained,
        "bytes": _number(mean(COLUMNS["bytes"], point.runs)),
        "quality": [_number(value) for value in quality],
        "sd": None if None in spread else [_number(value) for value in spread],
        "lost": _number(change(COLUMNS[SELECTION], point.runs, dense)),
        "low": _number(low),
        "high": _number(high),
        "p_users": _number(point.p),
        "p_seeds": _number(p_seeds),
    })  # fmt: skip


def _spread(column: Column, runs: Sequence[Record]) -> float | None:
    found = values(column, runs)
    return numbers.stdev(found) if found and len(found) > 1 else None


def _phases(run: Record) -> list[dict[str, Any]]:
    """The bill by phase: counted and measured."""
    counted = (run["cost"]["counted"].get("exact") or {}).get("phases") or []
    macs = {phase["phase"]: phase.get("train_macs") for phase in counted}
    timed = "times_left_out" not in run
    return [
        _filled({
            "phase": phase["phase"],
            "epochs": phase.get("epochs"),
            "macs": _number(macs.get(phase["phase"])),
            "seconds": _number(phase.get("train_seconds")) if timed else None,
            "state": phase.get("state_bytes"),
            "of_run": phase.get("shared_run"),
        })
        for phase in run["cost"]["measured"].get("phases") or []
    ]  # fmt: skip


def _budget(run: Record) -> dict[str, Any]:
    budget = run["budget"]
    kept = ("dense_table_params", "table_params", "total_params", "rows", "empty_rows")
    tables = [
        [t["name"], t["form"], t["parameters"], t["bytes"]] for t in budget.get("tables") or []
    ]
    return _filled({key: budget.get(key) for key in kept} | {"tables": tables})


def _known(spec: Record) -> list[Result]:
    """Published results of a data set and backbone."""
    return [
        result
        for result in results()
        if (result.setting.dataset, result.setting.backbone) == (spec["dataset"], spec["backbone"])
    ]


def _published(runs: Sequence[Record], known: Sequence[Result]) -> list[list[Any]]:
    """Source, quantity, what was published, and ours, of the published values that fit a row."""
    found = [
        published_tables.Row(result, quantity, tuple(runs))
        for result in known
        if published_tables.matches(result, runs[0])
        for quantity in result.values
    ]
    return [
        [row.result.source, published_tables.title_of(row.quantity),
         row.result.values[row.quantity].text, _number(numbers.fmean(row.ours))]
        for row in found
        if row.ours
    ]  # fmt: skip


def _ratio(change_: float | None) -> float | None:
    return None if change_ is None else _number(1 + change_)


def _number(value: float | None) -> float | None:
    """A number at the digits that a page needs; whole ones stay whole."""
    if value is None:
        return None
    short = float(f"{value:.{_DIGITS}g}")
    return int(short) if short.is_integer() and abs(short) < 2**53 else short


def _filled(found: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is not known, which the page shows as '-'."""
    return {key: value for key, value in found.items() if value not in (None, "", [], {})}
