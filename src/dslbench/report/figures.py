"""The paper's figures as plain data: panels of lines, points or heat maps, not yet drawn."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from dslbench.errors import UsageError
from dslbench.evaluation.metrics import SELECTION, in_group
from dslbench.report import beside
from dslbench.report.columns import COLUMNS, Record
from dslbench.report.comparable import dense_of, footer, label, row_key, row_label, rows, setting
from dslbench.report.costs import change
from dslbench.report.evidence import LARGEST_LOSS
from dslbench.report.pareto import COSTS, front, points
from dslbench.report.relative import setting_of
from dslbench.report.tables import group, values
from dslbench.words import percent


@dataclass(frozen=True)
class Series:
    """Points of one colour.

    Attributes:
        name: legend entry.
        x, y: coordinates.
        error: standard deviation of y per point; None where there is one run.
        style: "line", "points", or "level" (a horizontal line at y[0] over the whole panel).
        labels: what each point is called beside it; empty: the points have no names of their own.
    """

    name: str
    x: list[float]
    y: list[float]
    error: list[float | None] = field(default_factory=list)
    style: Literal["line", "points", "level"] = "line"
    labels: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Panel:
    """One pair of axes: series, or a heat map of values >= 0 where NaN is drawn white."""

    title: str
    x_label: str
    y_label: str
    series: list[Series] = field(default_factory=list)
    heat: npt.NDArray[np.float64] | None = None
    x_log: bool = False


@dataclass(frozen=True)
class FigureModel:
    """A figure before it is drawn."""

    title: str
    panels: list[Panel]
    footer: list[str]


FigureBuilder = Callable[[Sequence[Record]], list[FigureModel]]
QUALITY = tuple(in_group("compared"))
_UNITS = {"seconds": (" (s)", 1.0), "bytes": (" (MiB)", 2.0**20)}


def _series(
    name: str, found: Sequence[tuple[float, Sequence[Record]]], metric: str, style: Any = "line"
) -> Series:
    """Mean and deviation of a metric at each x, ascending."""
    column = COLUMNS[metric]
    kept = sorted((x, v) for x, runs in found if (v := values(column, runs)) is not None)
    return Series(
        name,
        [x for x, _ in kept],
        [statistics.fmean(v) for _, v in kept],
        [statistics.stdev(v) if len(v) > 1 else None for _, v in kept],
        style,
    )


def figure2(records: Sequence[Record]) -> list[FigureModel]:
    """Quality against sparsity per method (paper, Figure 2); one figure per setting.

    Raises `UsageError` where no method was run at two sparsities.
    """
    figures = [_figure2(part) for part in group(records, setting_of) if _sparsities(part) > 1]
    if not figures:
        raise UsageError(
            "figure 2 needs a method at two or more sparsities", "dslbench compare --plan figure2"
        )
    return figures


def _sparsities(records: Sequence[Record]) -> int:
    """The most sparsities of any one method."""
    methods = group((r for r in records if r["spec"]["method"] != "dense"), _method_key)
    return max((len({r["spec"]["sparsity"] for r in runs}) for runs in methods), default=0)


def _method_key(record: Record) -> tuple[Any, ...]:
    method, variant, _, options = row_key(record)
    return method, variant, options


def _figure2(records: list[Record]) -> FigureModel:
    dense = dense_of(records)
    panels = []
    for metric in QUALITY:
        lines = [_series("Baseline", [(0.0, dense)], metric, "level")] if dense else []
        for runs in group((r for part in rows(records) for r in part), _method_key):
            spec = runs[0]["spec"]
            alone = len({r["spec"]["sparsity"] for r in runs}) == 1
            if spec["method"] == "dense" or (alone and spec["changed_options"]):
                continue  # a sweep over an option at one sparsity belongs into another figure
            at = [
                (statistics.fmean(r["budget"]["achieved_sparsity"] for r in part), part)
                for part in group(runs, row_key)
            ]
            lines.append(_series(row_label(spec), at, metric))
        panels.append(Panel("", "achieved sparsity", COLUMNS[metric].title, lines))
    return FigureModel(
        f"Figure 2: quality against sparsity, {setting(records[0])}",
        panels,
        footer(records, *_extreme_sparsity(records, dense)),
    )


def _extreme_sparsity(records: Sequence[Record], dense: Sequence[Record]) -> list[str]:
    """The highest sparsity at which DSL keeps the dense quality (the paper's star)."""
    changes = [
        (runs[0]["spec"]["sparsity"], found)
        for runs in group((r for r in records if r["spec"]["method"] == "dsl"), row_key)
        if (found := change(COLUMNS[SELECTION], runs, dense)) is not None
    ]
    if not changes:
        return []
    kept = [sparsity for sparsity, found in changes if found >= -LARGEST_LOSS]
    limit = f"at least {1 - LARGEST_LOSS:.0%} of the dense Recall@20"
    return [
        f"Highest sparsity at which DSL keeps {limit}: {percent(max(kept))}."
        if kept
        else f"At no sparsity here does DSL keep {limit}."
    ]


def figure3(records: Sequence[Record]) -> list[FigureModel]:
    """Quality of DSL against its update interval and initial update ratio (paper, Figure 3).

    Raises `UsageError` where neither was varied.
    """
    figures = []
    for part in group(records, setting_of):
        dsl = [r for r in part if r["spec"]["method"] == "dsl"]
        random = [r for r in part if r["spec"]["method"] == "rp"]
        panels = [
            *_varied(dsl, random, "delta_t", "iterations between explorations", True),
            *_varied(dsl, random, "rho0", "initial update ratio", False),
        ]
        if panels:
            figures.append(
                FigureModel(
                    f"Figure 3: update interval and initial update ratio of DSL, "
                    f"{setting(part[0])}",
                    panels,
                    footer(part, "RP: the same mask, never updated."),
                )
            )
    if not figures:
        raise UsageError(
            "figure 3 needs runs of dsl with two or more delta_t or rho0",
            "dslbench compare --plan figure3",
        )
    return figures


def _varied(
    dsl: Sequence[Record], random: Sequence[Record], option: str, x_label: str, x_log: bool
) -> list[Panel]:
    """A panel per metric for the runs that differ in nothing but one option; none where it is constant."""

    def value(record: Record) -> float | None:
        found = record["spec"]["options"].get(option)
        if found is None:  # chosen by the method from the length of the run
            found = (record.get("diagnostics") or {}).get(option)
        return float(found) if isinstance(found, int | float) else None

    def rest(record: Record) -> tuple[Any, ...]:
        spec = record["spec"]
        options = {k: v for k, v in spec["options"].items() if k != option}
        return spec["variant"], spec["sparsity"], json.dumps(options, sort_keys=True)

    panels = []
    sweeps = [
        runs
        for runs in group((r for r in dsl if value(r) is not None), rest)
        if len({value(r) for r in runs}) > 1
    ]
    for metric in QUALITY if sweeps else ():
        lines = []
        for runs in sorted(sweeps, key=lambda runs: runs[0]["spec"]["sparsity"]):
            spec = runs[0]["spec"]
            at = [(value(part[0]) or 0.0, part) for part in group(runs, value)]
            name = f"{row_label(spec, without=[option])} {percent(spec['sparsity'])}"
            lines.append(_series(name, at, metric))
            never = [r for r in random if r["spec"]["sparsity"] == spec["sparsity"]]
            rp = group(never, row_key)[:1]
            lines += [_series(label(r), [(0.0, r)], metric, "level") for r in rp]
        unique = {line.name: line for line in lines}
        panels.append(Panel("", x_label, COLUMNS[metric].title, list(unique.values()), x_log=x_log))
    return panels


def figure5(records: Sequence[Record]) -> list[FigureModel]:
    """Training loss by epoch of dense, RP and DSL at one sparsity (paper, Figure 5).

    The first seed of each row. Raises `UsageError` where fewer than two histories are kept.
    """
    figures = []
    shown = [r for r in records if r["spec"]["method"] in ("rp", "dsl")]
    for sparse in group(shown, lambda r: (setting_of(r), r["spec"]["sparsity"])):
        alike = [r for r in records if setting_of(r) == setting_of(sparse[0])]
        part, lines = [*dense_of(alike), *sparse], []
        for runs in rows(part):
            kept = [r for r in beside.history(runs[0]) if r.get("phase") == "train"]
            found = [(float(r["epoch"]), float(r["loss"])) for r in kept]
            if found:
                lines.append(Series(label(runs), [x for x, _ in found], [y for _, y in found]))
        if len(lines) > 1:
            figures.append(
                FigureModel(
                    f"Figure 5: training loss, {setting(part[0])}",
                    [Panel("", "epoch", "training loss", lines)],
                    footer(part, "Loss as the backbone defines it, mean over an epoch's batches."),
                )
            )
    if not figures:
        raise UsageError(
            "figure 5 needs two or more runs of dense, rp and dsl with their histories",
            "dslbench compare --plan figure5",
        )
    return figures


def pareto(records: Sequence[Record]) -> list[FigureModel]:
    """Quality against each cost, the rows that no other beats joined by a line."""
    figures = []
    for part in group(records, setting_of):
        of_rows = rows(part)
        panels = []
        for column in COSTS.values():
            found = points(of_rows, column)
            if sum(p is not None for p in found) < 2:
                continue
            unit, scale = _UNITS.get(column.path[-1].rpartition("_")[2], ("", 1.0))
            best = sorted(p for p, on in zip(found, front(found), strict=True) if on and p)
            lines = [Series("not beaten", [x / scale for x, _ in best], [y for _, y in best])]
            of_methods: dict[str, list[tuple[float, float]]] = {}
            for point, runs in zip(found, of_rows, strict=True):
                if point is not None:
                    of_methods.setdefault(row_label(runs[0]["spec"]), []).append(point)
            lines += [
                Series(name, [x / scale for x, _ in own], [y for _, y in own], style="points")
                for name, own in of_methods.items()
            ]
            panels.append(Panel("", column.title + unit, COLUMNS[SELECTION].title, lines))
        if panels:
            title = f"Pareto: {setting(part[0])}"
            figures.append(FigureModel(title, panels, footer(part)))
    if not figures:
        raise UsageError(
            "the pareto figure needs two or more methods with the same settings",
            "dslbench compare --backbone lightgcn",
        )
    return figures
