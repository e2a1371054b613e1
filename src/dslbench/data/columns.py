"""Which column is what, and whether the first row is a header: by all evidence, else refused."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from dslbench.data.entries import Columns
from dslbench.data.times import is_time, looks_like_times
from dslbench.errors import DataError

ROLES = ("user", "item", "rating", "timestamp")
# First those that say "id", then those that may be a name: ids win.
_KNOWN: dict[str, tuple[tuple[str, ...], ...]] = {
    "user": (
        (*("userid", "uid", "reviewerid", "visitorid", "customerid", "memberid", "buyerid"),
         *("clientid", "readerid", "listenerid", "playerid", "accountid", "personid", "userindex"),
         *("usersha1", "profileid")),
        ("user", "reviewer", "visitor", "customer", "member", "username", "u"),
    ),
    "item": (
        (*("itemid", "iid", "movieid", "asin", "parentasin", "businessid", "productid", "gameid"),
         *("locationid", "poiid", "venueid", "trackid", "songid", "artistid", "bookid", "isbn"),
         *("articleid", "newsid", "videoid", "appid", "storeid", "recipeid", "animeid", "adid"),
         *("stockcode", "sku", "goodsid", "courseid", "paperid", "postid", "jobid", "musicid")),
        (*("item", "movie", "product", "business", "track", "song", "artist", "book", "article"),
         *("news", "video", "game", "location", "venue", "i")),
    ),
    "rating": (
        ("rating", "score", "stars", "overall", "bookrating", "userrating", "reviewscore", "star"),
        (),
    ),
    "timestamp": (
        (*("timestamp", "time", "date", "ts", "datetime", "unixreviewtime", "reviewtime"),
         *("createdat", "unixtime", "invoicedate", "tdat", "dateadded", "eventtime", "utctime"),
         *("orderdate", "purchasedate", "viewtime", "localtime", "timestampms", "timestamps")),
        (),
    ),
}  # fmt: skip
_NO_MATRIX = (
    "a matrix of users x items must be turned into lines 'user,item,rating' first:"
    " pandas.DataFrame.stack"
)
_MANY = 5  # columns whose names differ by a number alone
_DAY_FIRST = re.compile(r"(1[3-9]|2[0-9]|3[01])[/.-]")
_FIRM_TIMES = ("timestamp", "ts", "unixreviewtime", "unixtime", "timestamps", "timestampms")
_ALL_NAMES = {name for tiers in _KNOWN.values() for tier in tiers for name in tier if len(name) > 1}
_SHAPE = (
    (re.compile(r"[0-9]+"), "9"),
    (re.compile(r"[^\W\d_]+"), "a"),
)


@dataclass(frozen=True)
class Chosen:
    """Position of each role's column, why it is that one, and what a reader must be told."""

    positions: dict[str, int]
    why: dict[str, str]
    warnings: tuple[str, ...] = ()


def plain(name: str) -> str:
    """A column's name for comparison: `user_id:token` and `User ID` are `userid`."""
    return re.sub(r"[^a-z0-9]", "", name.partition(":")[0].lower()) or name.strip().lower()


def header_names(fields: Sequence[str]) -> dict[str, int]:
    """Position of each role that a header names once, and of `rank`."""
    lowered = [plain(field) for field in fields]
    found = {"rank": lowered.index("rank")} if "rank" in lowered else {}
    for what in ROLES:
        for places in _called(what, lowered):
            if len(places) == 1 and what not in found:
                found[what] = places[0]
    return found


def _called(what: str, lowered: Sequence[str]) -> Iterator[list[int]]:
    """Positions of the columns that are called like a role, for each tier of its names."""
    for tier in _KNOWN[what]:
        yield [at for at, field in enumerate(lowered) if field in tier]


def column_of(rows: Sequence[Sequence[str]], at: int) -> list[str]:
    """What stands in a column, without empty fields."""
    return [row[at] for row in rows if at < len(row) and row[at]]


def is_number(text: str) -> bool:
    """Whether a text is a finite number."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def header_evidence(first: Sequence[str], below: Sequence[Sequence[str]]) -> tuple[bool, bool, str]:
    """(something says it is a header, something says it is a row, both in words)."""
    yes: list[str] = []
    no: list[str] = []
    known = [field for field in first if plain(field) in _ALL_NAMES]
    if known:
        yes.append(f"'{known[0]}' is a usual name")
    for at, field in enumerate(first):
        column = column_of(below, at)
        if not field or not column:
            continue
        if is_number(field) or is_time(field):
            no.append(f"'{field[:30]}' in line 1 is a value")
        elif plain(field) in _ALL_NAMES:
            continue
        elif field in column:
            no.append(f"'{field[:30]}' of line 1 occurs below as well")
        elif all(map(is_number, column)) or all(map(is_time, column)):
            yes.append(f"numbers stand below '{field[:30]}'")
        elif (shape := _shape(field)) != "a" and "9" in shape:
            alike = sum(_shape(value) == shape for value in column)
            if alike * 2 > len(column):
                no.append(f"'{field[:30]}' looks like the ids below")
    numeric = [at for at, field in enumerate(first) if is_number(field)]
    if (
        len(known) > 1
        and numeric
        and all(plain(f) in _ALL_NAMES or is_number(f) or not f for f in first)
    ):
        no = [reason for reason in no if not reason.endswith("is a value")]
    return bool(yes), bool(no), "; ".join([*yes[:1], *no[:1]]) or "line 1 and those below are text"


def _shape(text: str) -> str:
    for pattern, mark in _SHAPE:
        text = pattern.sub(mark, text)
    return text


def is_header(
    first: Sequence[str],
    below: Sequence[Sequence[str]],
    *,
    said: bool | None,
    columns: Columns | None,
    name: str,
    toml: str,
) -> tuple[bool, str]:
    """Whether the first row is a header, and why. Raises DataError where that stays doubtful."""
    if said is not None:
        return said, "as described"
    yes, no, words = header_evidence(first, below)
    given = [c for c in columns.model_dump().values() if c is not None] if columns else []
    if given:
        if any(isinstance(column, str) for column in given):
            return True, "columns are named"
        if yes and not no:
            raise DataError(
                f"{name}, line 1: columns are given by position, but this looks like a header"
                f" ({words})",
                hint=f"say in {toml}: header = true, or header = false",
            )
        return False, "columns are given by position"
    if yes and not no:
        return True, words
    if no and not yes:
        return False, words
    shown = ", ".join(field[:20] for field in first[:6])
    raise DataError(
        f"{name}, line 1: it cannot be told whether '{shown}' is a header ({words})",
        hint=f"say so in {toml}: header = true, or header = false",
    )


def refuse_unknown(
    name: str, toml: str, what: str, names: Sequence[str] | None, width: int
) -> DataError:
    """The error where a column's role cannot be told, with the whole description to write."""
    if names is None:
        return DataError(
            f"{name}: {width} columns without a header; which are the user and the item?",
            hint=f"if each line is one interaction, say in {toml} beside it: header = false, [columns]"
            f" user = ..., item = ... (positions from 0; rating and timestamp likewise); {_NO_MATRIX}",
        )
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    if len(names) < 2:
        return DataError(
            f"{name}: which column is the {what}? The header has {shown} alone",
            hint="an interaction needs a user and an item: two columns",
        )
    first, second = names[0], names[1]
    if len(names) > _MANY and len({re.sub("[0-9]+", "", one) for one in names[1:]}) == 1:
        return DataError(
            f"{name}: which column is the {what}? The header has {shown}",
            hint=f"{_NO_MATRIX}, or melt",
        )
    return DataError(
        f"{name}: which column is the {what}? The header has {shown}",
        hint=f'write {toml} beside it: [columns] user = "{first}", item = "{second}"'
        ' (and rating = "...", timestamp = "..." where there are)',
    )


def by_name(
    names: Sequence[str],
    values: Sequence[Sequence[str]],
    *,
    columns: Columns | None,
    why: Mapping[str, str],
    time_format: str | None,
    name: str,
    toml: str,
) -> Chosen:
    """Columns by their names in a header; `values` are some rows below it."""
    lowered = [plain(field) for field in names]
    again = next((n for at, n in enumerate(names) if n and n in names[:at]), None)
    if columns is not None:
        return _as_described(names, lowered, columns, why, name, again, toml)
    if again is not None:
        raise DataError(
            f"{name}: two columns are called '{again}'",
            hint=f"rename one, or write {toml} beside it: header = true, [columns] user = 0, item = 1",
        )
    positions: dict[str, int] = {}
    reasons: dict[str, str] = {}
    warnings: list[str] = []
    for what in ROLES:
        for found in _called(what, lowered):
            if what == "timestamp":
                found = _times(found, names, lowered, values, time_format, warnings, name, toml)
            if len(found) > 1:
                listed = " or ".join(f"'{names[at]}'" for at in found)
                user, item = (
                    names[positions[w]]
                    if w in positions
                    else names[found[0]]
                    if w == what
                    else "..."
                    for w in ("user", "item")
                )
                extra = "" if what in ("user", "item") else f', {what} = "{names[found[0]]}"'
                raise DataError(
                    f"{name}: which column is the {what}, {listed}?",
                    hint=f'write {toml} beside it: [columns] user = "{user}", item = "{item}"{extra}',
                )
            if found:
                positions[what] = found[0]
                reasons[what] = "by its name"
                break
        if what not in positions and what in ("user", "item"):
            raise refuse_unknown(name, toml, what, names, len(names))
    return Chosen(positions, reasons, tuple(warnings))


def _times(
    found: list[int],
    names: Sequence[str],
    lowered: Sequence[str],
    values: Sequence[Sequence[str]],
    time_format: str | None,
    warnings: list[str],
    name: str,
    toml: str,
) -> list[int]:
    """Of columns named like a time those whose values are times."""
    kept: list[int] = []
    strange: list[int] = []
    for at in found:
        column = column_of(values, at)
        firm = lowered[at] in _FIRM_TIMES and all(map(is_number, column))
        if firm or looks_like_times(column) or time_format is not None:
            kept.append(at)
        else:
            strange.append(at)
    for at in strange:
        column = column_of(values, at)
        late = (value for value in column if _DAY_FIRST.match(value))  # that day is no month
        shown = next(late, column[0] if column else "")
        day = re.fullmatch(r"(19|20)\d{6}", shown) is not None
        if not kept and (day or (re.search(r"\d\D+\d", shown) and not is_number(shown))):
            raise DataError(
                f"{name}: '{shown[:40]}' in column '{names[at]}' is a time in no known order",
                hint=f'say which in {toml} beside it: time_format = "{_guess(shown)}" (as'
                f" strptime), or leave it out: {columns_hint(names, lowered)}",
            )
        warnings.append(f"column '{names[at]}' is not used: '{shown[:30]}' is not a time")
    return kept


def columns_hint(names: Sequence[str], lowered: Sequence[str]) -> str:
    """The `[columns]` line with user and item only."""
    chosen = {
        what: next((names[at] for places in _called(what, lowered) for at in places), "...")
        for what in ("user", "item")
    }  # fmt: skip
    return f'[columns] user = "{chosen["user"]}", item = "{chosen["item"]}"'


def _guess(shown: str) -> str:
    """A strptime format to start from."""
    clock = ""
    if (match := re.search(r"\d?\d:\d\d(:\d\d)?", shown)) is not None:
        clock = " %H:%M" + (":%S" if match[1] else "")
    if re.match(r"[A-Z][a-z]{2} [A-Z][a-z]{2} \d", shown):
        return "%a %b %d %H:%M:%S %z %Y"
    if shown.isdigit():
        return "%Y%m%d"
    if re.match(r"\d{4}/", shown):
        return f"%Y/%m/%d{clock}"
    if re.match(r"\d\d?:", shown):
        return clock.strip()
    if re.match(r"\d\d? \d\d?, \d{4}", shown):
        return "%m %d, %Y"
    if "." in shown.split(" ")[0]:
        return f"%d.%m.%Y{clock}"
    return f"%d/%m/%Y{clock}" if _DAY_FIRST.match(shown) else f"%m/%d/%Y{clock}"


def _as_described(
    names: Sequence[str],
    lowered: Sequence[str],
    columns: Columns,
    why: Mapping[str, str],
    name: str,
    again: str | None,
    toml: str,
) -> Chosen:
    positions: dict[str, int] = {}
    stripped = [field.partition(":")[0] for field in names]  # of RecBole's `user_id:token`
    for what in ROLES:
        wanted = getattr(columns, what)
        if wanted is None:
            continue
        if wanted in names and wanted != again:
            positions[what] = list(names).index(wanted)
        elif wanted in stripped and stripped.count(wanted) == 1:
            positions[what] = stripped.index(wanted)
        elif isinstance(wanted, int) and wanted < len(names):
            positions[what] = wanted
        else:
            shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
            raise DataError(
                f"{name}: no column '{wanted}' among {shown}",
                hint="name one of these, or a position from 0, in [columns]",
            )
    reasons = {what: why.get(what, "as described") for what in positions}
    for what in ("user", "item"):
        if what in positions:
            continue
        tiers = _called(what, lowered)
        free = ([at for at in places if at not in positions.values()] for places in tiers)
        found = next(filter(None, free), [])
        if len(found) != 1:
            raise refuse_unknown(name, toml, what, names, len(names))
        positions[what], reasons[what] = found[0], "by its name"
    return each_once(Chosen(positions, reasons), name, names)


def each_once(chosen: Chosen, name: str, names: Sequence[str] | None) -> Chosen:
    """Raise `DataError` where one column is described as two things."""
    roles: dict[int, str] = {}
    for what, at in chosen.positions.items():
        if at in roles:
            column = f"'{names[at]}'" if names is not None else f"{at}"
            raise DataError(
                f"{name}: [columns] takes column {column} for {roles[at]} and {what}",
                hint="name another column for one of them",
            )
        roles[at] = what
    return chosen
