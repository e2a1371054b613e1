"""What is written in any dialect is read back exactly, or refused; order and names change nothing."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dslbench import data
from dslbench.errors import DataError
from own_helpers import pairs

QUICK = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
NUMBERS = st.integers(0, 3000).map(str)
TEXTS = st.text("abcXYZ019 _-é\"';,|.", min_size=1, max_size=6).map(str.strip).filter(bool)
NAMES = {"user": "user_id", "item": "item_id", "rating": "rating", "time": "timestamp"}


@st.composite
def tables(draw: st.DrawFn, ids: st.SearchStrategy[str]) -> list[dict[str, str]]:
    found = draw(st.lists(st.tuples(ids, ids), min_size=1, max_size=12, unique=True))
    return [
        {"user": user, "item": item, "rating": str(1 + at % 5), "time": str(1_500_000_000 + at)}
        for at, (user, item) in enumerate(found)
    ]


@st.composite
def dialects(draw: st.DrawFn) -> dict[str, object]:
    return {
        "mark": draw(st.sampled_from([",", ";", "\t", "|", "::", " "])),
        "end": draw(st.sampled_from(["\n", "\r\n"])),
        "header": draw(st.booleans()),
        "columns": draw(
            st.sampled_from(
                [("user", "item"), ("user", "item", "rating"), ("user", "item", "rating", "time")]
            )
        ),
        "quoted": draw(st.booleans()),
        "encoding": draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"])),
        "packed": draw(st.booleans()),
        "suffix": draw(st.sampled_from([".csv", ".tsv", ".txt", ".dat", ""])),
        "last": draw(st.booleans()),
    }


def written(rows: list[dict[str, str]], how: dict[str, object]) -> bytes:
    columns: tuple[str, ...] = how["columns"]  # type: ignore[assignment]
    mark, end = str(how["mark"]), str(how["end"])
    lines = [[row[c] for c in columns] for row in rows]
    if how["header"]:
        lines.insert(0, [NAMES[c] for c in columns])
    if mark in "::":
        text = end.join(mark.join(line) for line in lines) + end
    else:
        out = io.StringIO()
        quoting = csv.QUOTE_ALL if how["quoted"] else csv.QUOTE_MINIMAL
        csv.writer(out, delimiter=mark, lineterminator=end, quoting=quoting).writerows(lines)
        text = out.getvalue()
    content = (text if how["last"] else text.removesuffix(end)).encode(str(how["encoding"]))
    return gzip.compress(content) if how["packed"] else content


def check(tmp_path: Path, rows: list[dict[str, str]], how: dict[str, object]) -> bool:
    """Whether it was read; what was read must be what was written."""
    path = tmp_path / f"d{how['suffix']}"
    path.write_bytes(written(rows, how))
    try:
        loaded = data.load(str(path))
    except DataError as error:
        assert "\n" not in error.message
        return False
    assert pairs(path) == {(row["user"], row["item"]) for row in rows}
    (understood,) = loaded.source["understood"]
    assert understood["rows"] == len(rows)
    assert understood["left_out"] == {}
    return True


@QUICK
@given(tables(NUMBERS), dialects())
def test_numbers_are_read_back(
    tmp_path: Path, rows: list[dict[str, str]], how: dict[str, object]
) -> None:
    read = check(tmp_path, rows, how)
    plain = how["mark"] != " " or not how["quoted"]
    if how["header"] and plain:  # nothing about such a file is doubtful
        assert read


@QUICK
@given(tables(TEXTS), dialects())
def test_texts_are_read_back_or_refused(
    tmp_path: Path, rows: list[dict[str, str]], how: dict[str, object]
) -> None:
    check(tmp_path, rows, how)


@QUICK
@given(tables(NUMBERS), st.data())
def test_order_of_rows_and_columns_changes_no_digest(
    tmp_path: Path, rows: list[dict[str, str]], choose: st.DataObject
) -> None:
    columns = tuple(choose.draw(st.permutations(["user", "item", "rating", "time"])))
    how = {
        "mark": ",", "end": "\n", "header": True, "quoted": False, "encoding": "utf-8",
        "packed": False, "last": True, "columns": ("user", "item", "rating", "time"),
    }  # fmt: skip
    first = tmp_path / "first.csv"
    first.write_bytes(written(rows, how))
    second = tmp_path / "second.csv"
    second.write_bytes(written(choose.draw(st.permutations(rows)), how | {"columns": columns}))
    for protocol in ("random", "loo-last"):
        one, other = (data.load(str(path), protocol=protocol) for path in (first, second))
        assert one.digests == other.digests


@pytest.mark.parametrize("sort", ["user", "item", None])
def test_pairs_in_any_order_are_pairs(tmp_path: Path, sort: str | None) -> None:
    rows = [
        {"user": str(u), "item": str(u * 7 % 11 + k)} for u in range(40) for k in range(1 + u % 3)
    ]
    rows = sorted(rows, key=lambda row: int(row[sort])) if sort else rows[::-1]
    path = tmp_path / "p.txt"
    path.write_text("".join(f"{row['user']} {row['item']}\n" for row in rows))
    assert pairs(path) == {(row["user"], row["item"]) for row in rows}
