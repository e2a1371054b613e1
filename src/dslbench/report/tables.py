"""What a table is before it has a format: cells, marks, and how cells are made from runs."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from dslbench.report.columns import Column, Record

Mark = Literal["", "best", "second"]
MISSING = "-"  # a number that was not counted, measured or kept
NOT_APPLICABLE = "n/a"  # a number that cannot exist


@dataclass(frozen=True)
class Cell:
    """A table cell.

    Attributes:
        text: what is shown.
        spread: a standard deviation, shown as a subscript.
        mark: whether the value is the best or second best of its column.
        value: the number behind the text, unrounded; None for words and missing numbers.
        deviation: the number behind `spread`.
        runs: how many runs the number is a mean of.
        repeats: the text of the row above, where it holds for this row too and is left empty here.
    """

    text: str
    spread: str = ""
    mark: Mark = ""
    value: float | None = None
    deviation: float | None = None
    runs: int = 0
    repeats: str = ""

    @property
    def whole(self) -> str:
        """The text for a reader who sees this row alone."""
        return self.text or self.repeats


@dataclass
class TableModel:
    """A table before it has a format."""

    title: str
    headers: list[str]
    rows: list[list[Cell]]
    footer: list[str] = field(default_factory=list)
    left_columns: int = 1  # columns of text at the left; the others hold numbers
    rules: list[int] = field(default_factory=list)  # rows after which a rule is drawn
    first: list[int] = field(default_factory=list)  # columns that come first where all don't fit
    legend: str = "*: best, ': second best of the column."  # of marks that are characters


Builder = Callable[[Sequence[Record]], list[TableModel]]


def group(records: Iterable[Record], key: Callable[[Record], Hashable]) -> list[list[Record]]:
    """Records by key, in order of first appearance."""
    groups: dict[Hashable, list[Record]] = {}
    for record in records:
        groups.setdefault(key(record), []).append(record)
    return list(groups.values())


def heading(text: str, again: bool) -> Cell:
    """A cell of words, left empty where the row above has the same."""
    return Cell("", repeats=text) if again else Cell(text)


def values(column: Column, runs: Sequence[Record]) -> list[float] | None:
    """A quantity of each run; None where any of them lacks it, so that no mean is of a part."""
    found = [v for v in (column.value(run) for run in runs) if v is not None]
    return found if found and len(found) == len(runs) else None


def mean(column: Column, runs: Sequence[Record]) -> float | None:
    """Mean over runs; None where any of them lacks the quantity."""
    found = values(column, runs)
    return None if found is None else statistics.fmean(found)


def cell(column: Column, runs: Sequence[Record], mark: Mark = "") -> Cell:
    """Mean over seeds, for quality with the standard deviation where there are several."""
    found = values(column, runs)
    if found is None:
        return Cell(MISSING)
    average = statistics.fmean(found)
    deviation = statistics.stdev(found) if len(found) > 1 else None
    spread = ""
    if deviation is not None and column.better == "high":
        spread = f"{deviation:.4f}".lstrip("0")
    return Cell(column.show(average), spread, mark, average, deviation, len(found))


def marks(column: Column, rows: Sequence[Sequence[Record]]) -> list[Mark]:
    """Best and second best of the values as shown, so that equal texts are marked alike."""
    if column.better is None:
        return [""] * len(rows)
    means = [mean(column, runs) for runs in rows]
    shown = [None if value is None else column.show(value) for value in means]
    known = sorted(
        ((value, text) for value, text in zip(means, shown, strict=True) if value is not None),
        key=lambda pair: pair[0],
        reverse=column.better == "high",
    )
    texts = list(dict.fromkeys(text for _, text in known))
    if len(texts) < 2:
        return [""] * len(rows)
    places: dict[str | None, Mark] = {texts[0]: "best", texts[1]: "second"}
    return [places.get(text, "") for text in shown]
