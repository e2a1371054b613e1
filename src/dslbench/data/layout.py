"""How a text is divided, which row is a header and which column is what: decided once for a file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from dslbench.data import columns as named
from dslbench.data import dialect as dialects
from dslbench.data.content import Text, stem
from dslbench.data.dialect import Dialect
from dslbench.data.entries import Columns, DatasetEntry
from dslbench.data.positions import by_position
from dslbench.errors import DataError

_IMPRESSIONS = re.compile(r"\t\S+-[01]( \S+-[01])*\s*$")
_FEW = 300  # rows of which the types of columns are told
_TELLING = 10  # rows of which two values are no chance
_PLACES = ("lat", "latitude", "lon", "lng", "long", "longitude", "x", "y", "z")
_FLAGS = (
    *("click", "clicked", "isclick", "label", "bought", "buy", "purchase", "purchased", "like"),
    *("liked", "islike", "target", "conversion", "converted", "positive", "y", "isclicked"),
    *("clicks", "likes", "vote", "votes", "upvote", "dislike"),
    *("recommended", "isrecommended", "voted", "interaction", "response"),
)
_EVENTS = (
    "event", "events", "eventtype", "behavior", "behaviour", "behaviortype", "action", "type",
    "interactiontype", "feedbacktype",
)  # fmt: skip
_TWO_VALUES = (
    {"0", "1"},
    {"0.0", "1.0"},
    {"true", "false"},
    {"yes", "no"},
    {"-1", "1"},
    {"y", "n"},
)


@dataclass(frozen=True)
class Layout:
    """A settled text: positions of the roles, of columns that select rows, and of those to look at."""

    dialect: Dialect
    header: bool
    header_why: str
    width: int
    names: tuple[str, ...] | None
    positions: dict[str, int]
    why: dict[str, str]
    where: dict[int, tuple[str, ...]]
    flags: dict[int, str]
    warnings: tuple[str, ...] = ()

    @property
    def wanted(self) -> list[int]:
        """Every column that must be read."""
        return list(dict.fromkeys([*self.positions.values(), *self.where, *self.flags]))

    def name_of(self, at: int) -> str:
        """A column in words: its name, else its position."""
        return f"'{self.names[at]}'" if self.names is not None else f"{at}"

    @property
    def unused(self) -> tuple[str, ...]:
        """Columns that became nothing."""
        used = {*self.positions.values(), *self.where}
        found = [at for at in range(self.width) if at not in used]
        shown = [
            self.names[at] or f"(column {at})" if self.names else f"column {at}" for at in found
        ]
        return (*shown[:20], *([f"{len(shown) - 20} more"] if len(shown) > 20 else []))


def toml_for(entry: DatasetEntry, name: str) -> str:
    """Name of the TOML that describes a file, or could."""
    if entry.described_in:
        return entry.described_in
    return "dataset.toml" if entry.is_given else f"{stem(name)}.toml"


def layout_of(text: Text, entry: DatasetEntry, *, whole: bool = True) -> Layout:
    """Settle a delimited text as far as the entry leaves it open. Raises DataError with the line.

    All rows are counted; not so without `whole`, where they will be later and those seen are alike.
    """
    toml = toml_for(entry, text.name)
    lines = dialects.sample(text)
    _refuse_other_kinds(text, lines)
    separator = entry.separator
    if entry.format == "ratings":
        separator = separator or "::"
    elif entry.format == "inter":
        separator = separator or "\t"
    dialect = dialects.find(text, lines, separator, entry.quotes, toml)
    if dialect.separator == "::" and b"\t" in text.content:
        line = text.content[: text.content.index(b"\t")].count(b"\n") + 1
        raise text.refuse(line, "a tab in a file divided by '::'")
    widths = {len(dialect.split(line)) for line in lines}
    whole |= len(widths) > 1 or dialect.quotes
    width = dialects.check_widths(text, dialect) if whole else widths.pop()
    rows = [row for row in (dialect.split(line) for line in lines) if len(row) == width]
    first, below = rows[0], rows[1:]
    header, why = _header(text, entry, first, below, toml)
    if header and not below:
        raise DataError(f"{text.name}: a header and no rows below it", hint="was it cut?")
    values = _spread(below if header else rows)
    names = first if header else None
    return settle(text.name, entry, dialect, (header, why), names, width, values)


def settle(
    name: str,
    entry: DatasetEntry,
    dialect: Dialect,
    header: tuple[bool, str],
    names: Sequence[str] | None,
    width: int,
    values: Sequence[Sequence[str]],
) -> Layout:
    """Columns by their names or positions, and those that could say that a row does not count."""
    toml = toml_for(entry, name)
    if names is not None:
        chosen = named.by_name(
            names, values, columns=entry.columns or _recbole(entry, names), why=entry.why,
            time_format=entry.time_format, name=name, toml=toml,
        )  # fmt: skip
    else:
        chosen = by_position(
            width, values, columns=entry.columns or _ratings(entry, width), why=entry.why,
            name=name, toml=toml,
        )  # fmt: skip
    where = _where(entry, names, width, name)
    flags, warnings = _look_at(entry, names, width, values, chosen.positions, where)
    return Layout(
        dialect, header[0], header[1], width, None if names is None else tuple(names),
        chosen.positions, chosen.why, where, flags, (*chosen.warnings, *warnings),
    )  # fmt: skip


def _spread(rows: list[list[str]]) -> list[list[str]]:
    """Some rows, from all over the sample."""
    return rows[:: max(1, len(rows) // _FEW)]


def _header(
    text: Text, entry: DatasetEntry, first: list[str], below: list[list[str]], toml: str
) -> tuple[bool, str]:
    if entry.format == "inter":
        return True, "RecBole's"
    if entry.format == "ratings" and entry.header is None and not entry.own:
        return False, "MovieLens' format"
    return named.is_header(
        first, _spread(below), said=entry.header, columns=entry.columns, name=text.name, toml=toml
    )


def _recbole(entry: DatasetEntry, names: Sequence[str]) -> Columns | None:
    if entry.format != "inter":
        return None
    plain = [field.partition(":")[0] for field in names]
    if "user_id" not in plain or "item_id" not in plain:
        return None
    return Columns(
        user="user_id",
        item="item_id",
        rating="rating" if "rating" in plain else None,
        timestamp="timestamp" if "timestamp" in plain else None,
    )


def _ratings(entry: DatasetEntry, width: int) -> Columns | None:
    """MovieLens' columns of a published file; of one's own the values decide."""
    if entry.own:
        return None
    return Columns(
        user=0, item=1, rating=2 if width > 2 else None, timestamp=3 if width > 3 else None
    )


def _refuse_other_kinds(text: Text, lines: Sequence[str]) -> None:
    """Files whose lines are no rows: known kinds, each with the way out."""
    first = lines[0].strip() or "-"
    if first.endswith(":") and first[:-1].isdigit() and len(lines) > 1:
        raise text.refuse(
            1,
            f"'{first}' stands above the ratings of one movie (Netflix): lines of two kinds",
            "turn it into a table: awk -F, '/:$/ {m = substr($0, 1, length($0) - 1); next}"
            f' {{print $1 "," m "," $2 "," $3}}\' {text.name} > ratings.csv',
        )
    if all(_IMPRESSIONS.search(line) for line in lines):
        raise text.refuse(
            1, "the items shown and clicked stand in one field (MIND): one row is many interactions",
            "turn it into a table: awk -F'\\t' '{n = split($5, shown, \" \"); for (k = 1; k <= n; k++)"
            ' if (shown[k] ~ /-1$/) print $2 "," substr(shown[k], 1, length(shown[k]) - 2) "," $3}\''
            f" {text.name} > clicks.csv",
        )  # fmt: skip
    if first.startswith("%%MatrixMarket"):
        raise text.refuse(
            1, "a matrix in Matrix Market's format",
            "save it for scipy: scipy.sparse.save_npz('m.npz', scipy.io.mmread(FILE))",
        )  # fmt: skip
    if first[0] in "#%" and len(lines) > 1:
        raise text.refuse(
            1, f"a comment ('{first[:30]}'), not a row",
            f"take comments out: grep -v '^[#%]' {text.name} > rows.txt",
        )  # fmt: skip
    if first[0] in "[{" and first[-1] in "]},":
        raise text.refuse(
            1, "this looks like JSON", 'name it *.json, or say format = "jsonl" in a TOML beside it'
        )
    if first.startswith("sep=") and len(first) == 5:
        raise text.refuse(
            1, "a note for Excel, not a row", f"take it out: tail -n +2 {text.name} > rows.csv"
        )
    if first[0] == "<":
        raise text.refuse(1, "markup (HTML or XML), not a table", "was the download refused?")


def _where(
    entry: DatasetEntry, names: Sequence[str] | None, width: int, name: str
) -> dict[int, tuple[str, ...]]:
    found: dict[int, tuple[str, ...]] = {}
    for column, values in (entry.where or {}).items():
        if names is not None and column in names:
            found[list(names).index(column)] = values
        elif names is None and column.isdigit() and int(column) < width:
            found[int(column)] = values
        else:
            shown = ", ".join(names[:12]) if names is not None else f"0 to {width - 1}"
            raise DataError(f"{name}: where: no column '{column}' among {shown}")
    return found


def _look_at(
    entry: DatasetEntry,
    names: Sequence[str] | None,
    width: int,
    values: Sequence[Sequence[str]],
    positions: dict[str, int],
    where: dict[int, tuple[str, ...]],
) -> tuple[dict[int, str], list[str]]:
    """Unused columns that could say no: those of two values, and kinds of events."""
    flags: dict[int, str] = {}
    warnings: list[str] = []
    if not entry.own or entry.where is not None:
        return flags, warnings
    for at in range(width):
        if at in positions.values() or at in where:
            continue
        found = {row[at].lower() for row in values if at < len(row) and row[at]}
        name = named.plain(names[at]) if names is not None else ""
        two = any(found and found <= pair for pair in _TWO_VALUES)
        if name in _FLAGS or (two and name.startswith("is")):
            flags[at] = "flag"
        elif two or (name not in _EVENTS and len(found) == 2 and len(values) >= _TELLING):
            flags[at] = "two values"
        elif name in _EVENTS or (names is None and len(values) > 20 and 1 < len(found) < 6):
            flags[at] = "events"
        elif name not in _PLACES and any(one[0] == "-" and named.is_number(one) for one in found):
            flags[at] = "negative"
    return flags, warnings
