"""Which column is what where there is no header: by position, as far as the values agree."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

from dslbench.data.columns import Chosen, column_of, each_once, is_number, refuse_unknown
from dslbench.data.entries import Columns
from dslbench.data.times import are_recent, is_time, looks_like_times
from dslbench.errors import DataError

_ASIN = re.compile(r"B0[0-9A-Z]{8}|[0-9]{9}[0-9X]")
_REVIEWER = re.compile(r"A[0-9A-Z]{9,20}")
MOST_COLUMNS = 4  # without a header


def by_position(
    width: int,
    values: Sequence[Sequence[str]],
    *,
    columns: Columns | None,
    why: Mapping[str, str],
    name: str,
    toml: str,
) -> Chosen:
    """Columns by their positions, where there is no header."""
    if columns is not None:
        positions: dict[str, int] = {}
        for what, at in columns.model_dump().items():
            if isinstance(at, str):
                raise DataError(f"{name}: column '{at}' is named, but there is no header")
            if at is not None:
                positions[what] = at
        said = {"user", "item"} & set(positions)
        if len(said) == 1:
            raise DataError(
                f"{name}: [columns] says which column is the {min(said)} alone, and there is no header",
                hint=f"say both in {toml}: [columns] user = 0, item = 1 (positions from 0)",
            )
        positions = {"user": 0, "item": 1} | positions
        if max(positions.values()) >= width:
            raise DataError(
                f"{name}, line 1: {width} column{'s' if width > 1 else ''},"
                f" expected at least {max(positions.values()) + 1}"
            )
        reasons = {what: why.get(what, "as described") for what in positions}
        return each_once(Chosen(positions, reasons), name, None)
    if width < 2:
        raise DataError(f"{name}, line 1: {width} column, expected at least 2")
    if width > MOST_COLUMNS:
        raise refuse_unknown(name, toml, "user", None, width)
    if all(_ASIN.fullmatch(row[0]) and _REVIEWER.fullmatch(row[1]) for row in values):
        raise DataError(
            f"{name}: the first column holds Amazon's items, the second its reviewers",
            hint=f"write {toml} beside it: header = false, [columns] user = 1, item = 0"
            " (and rating = 2, timestamp = 3 where there are)",
        )
    filled = [column_of(values, at) for at in range(width)]
    timed = [looks_like_times(column) for column in filled]
    _refuse_times_and_numbers(filled, others_timed=any(timed[2:]), name=name, toml=toml)
    positions = {"user": 0, "item": 1}
    reasons = {"user": "first column", "item": "second column"}
    times = []
    for at in range(2, width):
        column = filled[at]
        if timed[at]:
            times.append(at)
        elif "rating" not in positions and 2 * sum(map(is_number, column)) >= max(len(column), 1):
            positions["rating"] = at
            reasons["rating"] = "numbers that are no times"
        else:
            shown = f" ('{column[0][:30]}' and the like)" if column else ""
            raise DataError(
                f"{name}: what column {at} is cannot be told{shown}, and there is no header",
                hint=f"write {toml} beside it: header = false, [columns] user = 0, item = 1 (positions"
                " from 0; rating and timestamp likewise, other columns are then not used)",
            )
    if len(times) > 1:
        raise DataError(
            f"{name}: columns {times[0]} and {times[1]} both look like times; which is it?",
            hint=f"write {toml} beside it: header = false, [columns] user = 0, item = 1,"
            f" timestamp = {times[0]}",
        )
    if times:
        positions["timestamp"] = times[0]
        reasons["timestamp"] = "the values are times"
    return Chosen(positions, reasons)


def _refuse_times_and_numbers(
    filled: Sequence[Sequence[str]], *, others_timed: bool, name: str, toml: str
) -> None:
    """Refuse a first or second column that holds no ids but times, or the numbers of the rows."""
    width = len(filled)
    for at, column in enumerate(filled[:2]):
        if (column and all(map(is_time, column))) or (
            width > 2 and not others_timed and are_recent(column) and _mostly_new(column)
        ):
            shown = f"holds times ('{column[0][:30]}' and the like), no ids"
            if width == 2:
                raise DataError(
                    f"{name}: column {at} of two {shown}",
                    hint=f"if they are ids, say in {toml}: header = false, [columns] user = 0, item = 1",
                )
            left = [other for other in range(3) if other != at]
            described = f"user = {left[0]}, item = {left[1]}, timestamp = {at}"
            raise DataError(
                f"{name}: column {at} {shown}",
                hint=f"say which in {toml} beside it: header = false, [columns] {described}; or, where these"
                " are ids: user = 0, item = 1 (positions from 0)",
            )
    if width > 2 and _count_rows(filled[0]):
        raise DataError(
            f"{name}: column 0 counts the rows from {filled[0][0]} on, as pandas writes an index:"
            " then each user would have one",
            hint=f"write {toml} beside it: header = false, [columns] user = 1, item = 2 (or user = 0, item ="
            " 1; positions from 0)",
        )


def _count_rows(column: Sequence[str]) -> bool:
    """Whether a column begins with 0 or 1 and goes on in equal steps; some rows may have been left out."""
    if len(column) < 3 or column[0] not in ("0", "1") or not all(map(str.isdecimal, column)):
        return False
    steps = [after - before for before, after in pairwise(map(int, column))]
    return min(steps) > 0 and len(set(steps[:100])) == 1


def _mostly_new(column: Sequence[str]) -> bool:
    """Whether few values come twice, as times do and ids do not."""
    return 2 * len(set(column)) > len(column)
