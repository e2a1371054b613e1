"""What does a byte buy: every method at every precision that its stored model was judged at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dslbench.errors import UsageError
from dslbench.evaluation.metrics import METRICS, SELECTION, in_group
from dslbench.report.columns import COLUMNS, Record, size
from dslbench.report.comparable import dense_of, footer, label, reduced, rising, rows, setting
from dslbench.report.costs import STATE, change, levelled, shared_seeds
from dslbench.report.figures import FigureModel, Panel, Series
from dslbench.report.pareto import front
from dslbench.report.relative import setting_of
from dslbench.report.statistics import change_over_seeds, holm, p_cell, paired_t, per_user
from dslbench.report.tables import MISSING, NOT_APPLICABLE, Cell, TableModel, cell, group, mean
from dslbench.words import number, percent

BYTES = COLUMNS["bytes"]
LARGEST_LOSS, SIGNIFICANT = 0.01, 0.05
FEW_METHODS = 6  # whose points a figure tells apart by their marks
Precisions = Mapping[str, Sequence[str]]


LEVELLED = "Rows of fewer seeds than dense stand by their change against dense of the same seeds."
WORTH_DRAWING = 0.85  # of the best quality: what lies below would press the others together


@dataclass(frozen=True)
class Point:
    """One row of runs at one precision.

    Attributes:
        row: the row's name.
        precision: how the tables' values are kept; empty: at one only.
        runs: records with the quality and the bytes of that stored model in place of the run's.
        p: of the paired test over users against dense at fp32, Holm-corrected; None where there is none.
        level: its quality, at the level of all of dense's seeds.
    """

    row: str
    precision: str
    runs: list[Record]
    p: float | None = None
    level: float | None = None

    @property
    def name(self) -> str:
        """Of the row, with the precision."""
        return f"{self.row}, {self.precision}" if self.precision else self.row

    @property
    def is_dense(self) -> bool:
        """Whether it is what the others are compared with: dense at 32 bits."""
        return bool(self.precision == "fp32" and self.runs[0]["spec"]["method"] == "dense")

    @property
    def place(self) -> tuple[float, float] | None:
        """(bytes, quality) by which points are put in order."""
        price = mean(BYTES, self.runs)
        return None if price is None or self.level is None else (price, self.level)


def at_precision(record: Record, precision: str) -> Record | None:
    """The record as if its model were kept at a precision; None where it was not judged so."""
    for found in record.get("stored") or []:
        if found["precision"] == precision and found["quality"] is not None:
            budget = {**record["budget"], "table_bytes": found["bytes"]}
            return {**record, "quality": found["quality"], "budget": budget, "precision": precision}
    return None


def points(records: Sequence[Record], only: Precisions | None = None) -> list[Point]:
    """Every row of one setting at every precision that all of its runs were judged at, by bytes.

    Args:
        only: the precisions of each run, by its id, that are looked at; others have none.
    """
    found = []
    for runs in rows(records):
        precisions = dict.fromkeys(s["precision"] for run in runs for s in run.get("stored") or [])
        if only is not None:
            precisions = dict.fromkeys(p for run in runs for p in only.get(run["id"], ()))
        for precision in precisions:
            at = [at_precision(run, precision) for run in runs]
            kept = [run for run in at if run is not None]
            if len(kept) == len(runs):
                found.append(Point(label(runs), precision, kept))
    dense = dense_of(records)
    found = [replace(point, level=levelled(point.runs, dense)) for point in found]
    found = [point for point in found if point.place is not None]
    corrected = holm([_p_value(point, dense) for point in found])
    found = [replace(point, p=p) for point, p in zip(found, corrected, strict=True)]
    return sorted(found, key=_by_size)


def _by_size(point: Point) -> tuple[float, float]:
    """The smallest first, and of equal ones the best."""
    nbytes, quality = point.place or (0.0, 0.0)
    return nbytes, -quality


def _p_value(point: Point, dense: Sequence[Record]) -> float | None:
    """Of the paired t-test over users against dense at fp32, values averaged over shared seeds."""
    seeds = sorted(shared_seeds(point.runs, dense))
    if not seeds or point.is_dense:
        return None
    as_trained = point.runs[0]["stored"][0]["precision"]
    metric = SELECTION if point.precision == as_trained else f"{SELECTION}|{point.precision}"
    own, theirs = per_user(point.runs, metric, seeds), per_user(dense, SELECTION, seeds)
    if own is None or theirs is None or not np.array_equal(own[0], theirs[0]):
        return None
    return paired_t(own[1], theirs[1])


def table(records: Sequence[Record], only: Precisions | None = None) -> list[TableModel]:
    """Methods by precision, the smallest first; raises `UsageError` where no run has bytes recorded.

    Args:
        only: the precisions of each run, by its id, that are shown.
    """
    found = [(part, points(part, only)) for part in group(records, setting_of)]
    if not any(of_part for _, of_part in found):
        raise UsageError(
            "no stored run was judged by its bytes: older records lack them",
            "make them again: dslbench compare ... --force",
        )
    return [_table(part, of_part) for part, of_part in found if of_part]


def _table(records: Sequence[Record], found: Sequence[Point]) -> TableModel:
    dense = dense_of(records)
    whole = mean(BYTES, dense) or records[0]["budget"].get("dense_table_bytes")
    on_front = front([point.place for point in found])
    quality = [COLUMNS[name] for name in in_group("compared")]
    table = TableModel(
        title=f"What a byte buys: {setting(records[0])}",
        headers=[
            "Method", "Bytes", "of dense", *(c.title for c in quality), "vs dense", "p (users)",
            "Front", "Training state",
        ],
        rows=[],
    )  # fmt: skip
    for point, on in zip(found, on_front, strict=True):
        price = mean(BYTES, point.runs)
        lost = change(COLUMNS[SELECTION], point.runs, dense)
        table.rows.append(
            [
                Cell(point.name + rising(point.runs)),
                cell(BYTES, point.runs),
                Cell(f"{price / whole:.3f}", value=price / whole)
                if price is not None and whole
                else Cell(MISSING),
                *(cell(column, point.runs) for column in quality),
                Cell(NOT_APPLICABLE)
                if point.is_dense
                else Cell(MISSING if lost is None else f"{lost:+.1%}", value=lost),
                Cell(NOT_APPLICABLE) if point.is_dense else p_cell(point.p),
                Cell("yes" if on else ""),
                cell(STATE, point.runs),
            ]
        )
    table.footer = footer(
        records,
        answer(found, dense),
        "Bytes: of the tables of users and items on disk, scales, bitmaps and maps included; each row was "
        "rounded, written, read back and ranked as it is stored. fp16, bf16: 16 bits a value; int8 to "
        "int2: so many bits a value and one scale of 16 bits a row. Other weights stay float32.",
        f"vs dense: {METRICS[SELECTION].label} relative to dense at fp32, over the seeds that both have. "
        "p: paired t-test over users, Holm-corrected over the rows. Front: no other row is as small and "
        "as good, relative to dense, and better in one of the two. Training state: tables and optimiser at "
        "the end of the run's training that needs most; a teacher's are its own run's.",
    )
    return table


def answer(found: Sequence[Point], dense: Sequence[Record]) -> str:
    """The smallest stored model that is about as good as dense, in one sentence."""
    whole = mean(BYTES, dense)
    short = next((f" {text}." for p in found if (text := reduced(p.runs[0]["spec"]))), "")
    for point in found:  # the smallest first
        lost = change(COLUMNS[SELECTION], point.runs, dense)
        price = mean(BYTES, point.runs)
        if lost is None or price is None or lost < -LARGEST_LOSS:
            continue
        said = _certainty(point, dense)
        share = f", {price / whole:.3f} of dense" if whole else ""
        return (
            f"The smallest stored model that loses under {percent(LARGEST_LOSS)} of dense's "
            f"{METRICS[SELECTION].label}: {point.name}: {size(price)}{share} ({lost:+.1%}, {said}).{short}"
        )
    return (
        f"No stored model was compared with dense and loses under {percent(LARGEST_LOSS)} of its "
        f"{METRICS[SELECTION].label}.{short}"
    )


def _certainty(point: Point, dense: Sequence[Record]) -> str:
    """How far a change can be trusted: its interval over seeds, and whether users can tell."""
    between = change_over_seeds(point.runs, dense, COLUMNS[SELECTION])
    seeds = number(len(shared_seeds(point.runs, dense)), "seed")
    if between is not None:
        seeds = f"over {seeds} {between[0]:+.1%} to {between[1]:+.1%}"
    if point.p is None:
        return seeds
    return seeds + (", " if point.p < SIGNIFICANT else ", not ") + "significant over users"


def figure(records: Sequence[Record]) -> list[FigureModel]:
    """Quality against bytes: a point for each method and precision; those of the front have names."""
    figures = []
    for part in group(records, setting_of):
        found = points(part)
        if len(found) < 2:
            continue
        best = max(point.place[1] for point in found if point.place)
        drawn = [point for point in found if point.place and point.place[1] >= WORTH_DRAWING * best]
        panel = _panel(drawn, front([point.place for point in drawn]))
        said = answer(found, dense_of(part))
        if poor := len(found) - len(drawn):
            said += f" Not drawn: {number(poor, 'row')} below {percent(WORTH_DRAWING)} of the best."
        if len({frozenset(run["spec"]["seed"] for run in point.runs) for point in drawn}) > 1:
            said += f" {LEVELLED}"
        title = f"What a byte buys: {setting(part[0])}"
        figures.append(FigureModel(title, [panel], footer(part, said)))
    if not figures:
        raise UsageError(
            "the bytes figure needs runs that were judged at two or more precisions",
            "dslbench compare --backbone lightgcn",
        )
    return figures


def _panel(found: Sequence[Point], on_front: Sequence[bool]) -> Panel:
    """The front with names; the others by method where these are few, else dense and all others."""
    placed = [(p, p.place, on) for p, on in zip(found, on_front, strict=True) if p.place]
    largest = max(x for _, (x, _), _ in placed)
    unit, unit_name = (2**20, "MiB") if largest >= 2**20 else (2**10, "KiB")
    best = [(x / unit, y, p.name) for p, (x, y), on in placed if on]
    others: dict[str, list[tuple[float, float]]] = {}
    for point, (x, y), on in placed:
        if not on:
            others.setdefault(point.row, []).append((x / unit, y))
    if len(others) > FEW_METHODS:
        dense = {point.row for point in found if point.runs[0]["spec"]["method"] == "dense"}
        rest = [place for name, of in others.items() if name not in dense for place in of]
        others = {"beaten by these": rest} | {n: of for n, of in others.items() if n in dense}
    lines = [
        Series(name, [x for x, _ in of], [y for _, y in of], style="points")
        for name, of in others.items()
    ]
    xs, ys, names = (list(column) for column in zip(*best, strict=True))
    # Drawn last, it lies above the others.
    lines.append(Series("not beaten", xs, ys, labels=names))
    x_label = f"bytes of the tables ({unit_name})"
    return Panel("", x_label, COLUMNS[SELECTION].title, lines, x_log=True)
