"""Lists of recommendations that any tool made, by original ids.

Columns with a header: user, item, and `rank` (1 is best) or `score` (the highest is best); with neither,
a user's items stand best first. Or JSON, an object a user: `{"user": ..., "items": [...]}`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dslbench.data import dialect as dialects
from dslbench.data.columns import header_names, is_number
from dslbench.data.content import Text, read_text
from dslbench.data.jsonlines import objects
from dslbench.errors import DataError

_HINT = 'expected columns user, item and rank (with a header), or JSON lines {"user": ..., "items": [...]}'


@dataclass(frozen=True)
class RankedLists:
    """Lists in the numbers of a data set.

    Attributes:
        items: (N, k) int32, best first, -1 where there are fewer.
        given: (N,) bool, whether there is a list for the user.
        order: in words, what says which item is best.
    """

    items: npt.NDArray[np.int32]
    given: npt.NDArray[np.bool_]
    order: str


def read_ranked(path: Path, users: Mapping[str, int], items: Mapping[str, int]) -> RankedLists:
    """Read lists; `users` and `items` number the original ids.

    Raises `DataError` with the line of an id that is unknown, an item that stands twice in a list, or
    what is no list.
    """
    text = read_text(path)
    found = _objects(text) if text.content.lstrip()[:1] in (b"{", b"[") else _rows(text)
    lists: dict[int, list[tuple[float, int]]] = {}
    known: set[tuple[int, int]] = set()
    ranks: set[tuple[int, float]] = set()
    for line, user, item, key in found.entries:
        row, column = users.get(user), items.get(item)
        if row is None or column is None:
            what, one = ("user", user) if row is None else ("item", item)
            raise text.refuse(
                line,
                f"the data set has no {what} '{one}'",
                "lists are by original ids, as `dslbench recommend` gives them",
            )
        if (row, column) in known:
            raise text.refuse(line, f"item '{item}' stands twice in the list of user '{user}'")
        known.add((row, column))
        if found.ranked and (row, key) in ranks:
            raise text.refuse(line, f"rank {key:g} stands twice in the list of user '{user}'")
        ranks.add((row, key))
        lists.setdefault(row, []).append((key, column))
    if not lists:
        raise DataError(f"{text.name} holds no lists", "was it cut?")
    table = np.full((len(users), max(map(len, lists.values()))), -1, dtype=np.int32)
    for row, entries in lists.items():
        entries.sort(key=lambda entry: entry[0])  # stable: equal keys stay as they stand
        table[row, : len(entries)] = [column for _, column in entries]
    given = np.zeros(len(users), dtype=bool)
    given[list(lists)] = True
    return RankedLists(table, given, found.order)


@dataclass(frozen=True)
class _Entries:
    """Line, user, item, and a key that is smaller for what is better."""

    entries: list[tuple[int, str, str, float]]
    order: str
    ranked: bool = False  # keys are ranks, each once in a list


def _objects(text: Text) -> _Entries:
    entries = []
    users: set[str] = set()
    for line, record in objects(text):
        at = line or 1
        if not isinstance(record.get("items"), list) or "user" not in record:
            raise text.refuse(at, 'not {"user": ..., "items": [...]}', _HINT)
        user, *items = (_id(text, at, one) for one in (record["user"], *record["items"]))
        if user in users:
            raise text.refuse(at, f"user '{user}' already has a list")
        users.add(user)
        entries += [(at, user, item, float(place)) for place, item in enumerate(items)]
    return _Entries(entries, "as they stand")


def _id(text: Text, line: int, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise text.refuse(
            line, f"{json.dumps(value)[:40]} is no id", "ids are texts or whole numbers"
        )
    return str(value).strip()


def _rows(text: Text) -> _Entries:
    dialect = dialects.find(text, dialects.sample(text), None, None, "the file")
    width = dialects.check_widths(text, dialect)
    lines = dialects.rows(text, dialect)
    _, header = next(lines, (1, []))
    roles = header_names(header)
    if not {"user", "item"} <= roles.keys():
        raise DataError(
            f"{text.name}: the first line does not name a column of users and one of items", _HINT
        )
    user, item = roles["user"], roles["item"]
    by = next((name for name in ("rank", "rating") if name in roles), None)
    if by is None and width > 2:
        others = [name for at, name in enumerate(header) if at not in (user, item)]
        raise DataError(
            f"{text.name}: what is column '{others[0]}', and which item is best?",
            "call it rank (1 is best) or score (the highest is best), or leave it out: "
            "items then stand best first",
        )
    sign = -1.0 if by == "rating" else 1.0
    entries = []
    for line, fields in lines:
        key = 0.0
        if by is not None:
            value = fields[roles[by]]
            if not is_number(value) or (by == "rank" and float(value) < 0):
                what = "number" if by == "rating" else "rank, of which 1 is best"
                raise text.refuse(line, f"'{value}' in column '{header[roles[by]]}' is no {what}")
            key = sign * float(value)
        entries.append((line, fields[user], fields[item], key))
    order = {"rank": "by rank, 1 is best", "rating": "by score, the highest is best"}
    return _Entries(entries, order.get(by or "", "as they stand"), ranked=by == "rank")
