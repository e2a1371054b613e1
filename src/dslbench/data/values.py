"""What the columns of a table mean: which rows count, ids, ratings and times."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dslbench.data import ids, times
from dslbench.data.columns import plain
from dslbench.data.entries import DatasetEntry
from dslbench.data.interactions import Int32
from dslbench.data.labels import rank_ids, sort_labels
from dslbench.data.layout import Layout, toml_for
from dslbench.data.raw import Labels, Raw
from dslbench.data.understood import Column, Understood
from dslbench.errors import DataError

Mask = npt.NDArray[np.bool_]
_SEVERAL = re.compile(r"[0-9]+([ |;,]+[0-9]+)+")
_DRAWN = frozenset("-=+:|")
_RULER = re.compile(r"[-=+:|]{2,}")
_FEW = 5  # values of a column that says yes and no; more are numbers of another kind
_NO = ("0", "0.0", "false", "no", "-1", "n")


@dataclass(frozen=True)
class Table:
    """Columns by position: ranks in distinct texts, and these. `line` of a row, where it has one."""

    name: str
    rows: int
    columns: dict[int, tuple[Int32, Labels]]
    line: Callable[[int], int | None] = lambda row: None

    def refuse(self, row: int, problem: str, hint: str | None = None) -> DataError:
        """The error for what is wrong in a row."""
        line = self.line(row)
        where = f", line {line}" if line is not None else f", row {row + 1}"
        return DataError(f"{self.name}{where}: {problem}", hint)


def interpret(table: Table, layout: Layout, entry: DatasetEntry, **known: Any) -> Raw:
    """The interactions of a table.

    `known` is what else is to be said of the file (`encoding`, `packed`, `format`). Raises DataError
    for an id, rating or time that is none, and where a value could mean that a row does not count.
    """
    toml = toml_for(entry, table.name)
    if not table.rows:
        raise DataError(f"{table.name}: no rows")
    kept = np.ones(table.rows, dtype=bool)
    left_out: dict[str, int] = {}
    for at, wanted in layout.where.items():
        kept &= _where(table, layout, at, wanted)
        left_out[f"where {layout.name_of(at)} is not {' or '.join(wanted)}"] = int((~kept).sum())
    if not kept.any():
        raise DataError(f"{table.name}: where leaves no row", hint=_values_hint(table, layout))
    kept = _with_ids(table, layout, entry, kept, left_out, toml)
    if entry.own:
        _refuse_other_rows(table, layout, kept)
    warnings = [*dict.fromkeys((*entry.remarks, *layout.warnings))] if entry.own else []
    warnings += _flags(table, layout, kept, toml) if entry.own else []
    ratings = _ratings(table, layout, entry, kept, toml)
    stamps, how = _times(table, layout, entry, kept)
    if entry.own and entry.filters.min_rating is not None:
        if ratings is None:
            raise DataError(f"{table.name} has no ratings, so min_rating cannot be applied")
        low = kept & ~(ratings >= entry.filters.min_rating)
        left_out[f"ratings under {entry.filters.min_rating:g}"] = int(low.sum())
        kept = kept & ~low
        if not kept.any():
            raise DataError(f"{table.name}: no interactions are left by the filters")
    user, item = (_kept(table, layout.positions[what], kept) for what in ("user", "item"))
    if entry.own:
        warnings += _ids(table, layout, kept, user, item, toml)
    raw = assemble(
        table.name,
        user,
        item,
        None if ratings is None else ratings[kept],
        None if stamps is None else stamps[kept],
    )
    if not entry.own:
        return raw
    return said(raw, table, layout, entry, left_out, how, warnings, known)


def said(
    raw: Raw,
    table: Table,
    layout: Layout,
    entry: DatasetEntry,
    left_out: dict[str, int],
    how: str,
    warnings: list[str],
    known: dict[str, Any],
) -> Raw:
    """`raw` with the statement of what it was understood as."""
    names = layout.names
    first = None
    if len(raw.users) and raw.user_labels is not None and raw.item_labels is not None:
        first = str(raw.user_labels[raw.users[0]]), str(raw.item_labels[raw.items[0]])
    understood = Understood(
        file=table.name,
        format=known.get("format", f"{entry.format}, one interaction a row"),
        encoding=known.get("encoding", ""),
        packed=known.get("packed"),
        separator=layout.dialect.words if layout.dialect.separator else "",
        header=layout.header if layout.dialect.separator else None,
        header_why=entry.why.get("header", layout.header_why),
        columns=tuple(
            Column(what, None if names is None else names[at], at, layout.why.get(what, ""))
            for what, at in layout.positions.items()
        ),
        unused=layout.unused,
        times=how,
        rows=table.rows,
        left_out={reason: count for reason, count in left_out.items() if count},
        first=first,
        warnings=tuple(warnings),
    )
    return replace(raw, understood=understood)


def _where(table: Table, layout: Layout, at: int, wanted: tuple[str, ...]) -> Mask:
    codes, labels = table.columns[at]
    chosen = np.array([_alike(label, wanted) for label in labels], dtype=bool)
    return chosen[codes] if len(chosen) else np.zeros(table.rows, dtype=bool)


def _alike(label: str, wanted: tuple[str, ...]) -> bool:
    if label in wanted:
        return True
    try:
        return any(float(label) == float(value) for value in wanted)
    except ValueError:
        return False


def _values_hint(table: Table, layout: Layout) -> str:
    found = [
        f"{layout.name_of(at)} holds {', '.join(map(str, table.columns[at][1][:5]))}"
        for at in layout.where
    ]
    return "; ".join(found)


def _with_ids(
    table: Table,
    layout: Layout,
    entry: DatasetEntry,
    kept: Mask,
    left_out: dict[str, int],
    toml: str,
) -> Mask:
    """Rows with a user and an item; refuses the others unless they are to be dropped."""
    for what in ("user", "item"):
        codes, labels = table.columns[layout.positions[what]]
        none = ids.missing_among(labels, keep=entry.missing == "keep" or not entry.own)
        if not none.any():
            continue
        lacking = kept & none[codes]
        count = int(lacking.sum())
        if not count:
            continue
        row = int(np.argmax(lacking))
        label = str(labels[codes[row]])
        shown = f"no {what}" + (f" ('{label}')" if label else "")
        if entry.missing != "drop" or not entry.own:
            others = f", as in {count:,} of {table.rows:,} rows" if count > 1 else ""
            raise table.refuse(
                row,
                f"{shown}{others}",
                f'to leave such rows out write {toml}: missing = "drop"'
                + (f'; where {label!r} is an id: missing = "keep"' if label else ""),
            )
        left_out[f"no {what}"] = count
        kept = kept & ~lacking
    if not kept.any():
        raise DataError(f"{table.name}: no row has a user and an item")
    return kept


def _refuse_other_rows(table: Table, layout: Layout, kept: Mask) -> None:
    """Refuse a header that stands again below, as files that were put together have it, and rulers."""
    (users, user_labels), (items, item_labels) = (
        table.columns[layout.positions[what]] for what in ("user", "item")
    )

    def both(users_so: Mask, items_so: Mask) -> Mask:
        found: Mask = kept & users_so[users] & items_so[items]
        return found

    rulers = (
        np.array([one[:1] in _DRAWN and _RULER.fullmatch(one) is not None for one in labels], dtype=bool)
        for labels in (user_labels, item_labels)
    )  # fmt: skip
    ruled = both(*rulers)
    if ruled.any():
        raise table.refuse(int(np.argmax(ruled)), "a line that is drawn, not a row", "take it out")
    if layout.names is None:
        return

    def called(labels: Labels, name: str) -> Mask:
        most, bare = len(name) + 8, _bare(name)  # ids are many: most are too long to be it
        return np.array([len(one) < most and _bare(one) == bare for one in labels], dtype=bool)

    user_name, item_name = (layout.names[layout.positions[what]] for what in ("user", "item"))
    again = both(called(user_labels, user_name), called(item_labels, item_name))
    if again.any():
        row = int(np.argmax(again))
        raise table.refuse(row, "the header stands here again", "take the repeated header out")


def _bare(text: str) -> str:
    """A header's field however it is written: without quotes, case, or a mark of byte order."""
    return text.strip('\ufeff" ').lower()


def _kept(table: Table, at: int, kept: Mask) -> tuple[Int32, Labels]:
    codes, labels = table.columns[at]
    if kept.all():
        return codes, labels
    known, ranks = rank_ids(codes[kept])
    return ranks, labels[known]


def _flags(table: Table, layout: Layout, kept: Mask, toml: str) -> list[str]:
    """Words on columns that could say no; refuses those whose name says that they do."""
    warnings: list[str] = []
    for at, kind in layout.flags.items():
        codes, labels = table.columns[at]
        counts = np.bincount(codes[kept], minlength=len(labels))
        order = [int(k) for k in np.argsort(-counts, kind="stable") if counts[k]]
        values = [str(labels[k]).lower() for k in order if labels[k]]
        shown = ", ".join(f"{labels[k]!r} {counts[k]:,}" for k in order[:5])
        name = layout.name_of(at)
        key = layout.names[at] if layout.names is not None else str(at)
        if kind == "flag" and 2 <= len(values) <= _FEW and any(value in _NO for value in values):
            known = [str(labels[k]) for k in order if labels[k]]
            yes = [label for label in known if label.lower() not in _NO] or known[:1]
            raise DataError(
                f"{table.name}: column {name} holds {shown}: do rows of all of them count as"
                " interactions?",
                hint=f'only some: write {toml}: where = {{ "{key}" = {json.dumps(yes)} }};'
                " all of them: where = {}",
            )
        if kind == "events":
            if 1 < len(order) < 20:
                warnings.append(f"column {name} is not used, all its kinds count alike: {shown}")
        elif kind == "flag" and len(values) == 1 and values[0] in _NO:
            warnings.append(f"column {name} is {values[0]} in every row, and all of them count")
        elif len(order) == 2:
            warnings.append(f"column {name} is not used, rows of both its values count: {shown}")
    return warnings


def _ratings(
    table: Table, layout: Layout, entry: DatasetEntry, kept: Mask, toml: str
) -> npt.NDArray[np.float64] | None:
    at = layout.positions.get("rating")
    if at is None:
        return None
    codes, labels = table.columns[at]
    values = times.floats(labels)
    wrong = kept & ~np.isfinite(values)[codes]
    if wrong.any():
        row = int(np.argmax(wrong))
        label = str(labels[codes[row]])
        comma = "; is the comma a decimal point?" if "," in label else ""
        raise table.refuse(
            row,
            f"rating {label[:20]!r} is not a number{comma}",
            f"correct it, or give [columns] user and item without a rating in {toml}",
        )
    ratings: npt.NDArray[np.float64] = values[codes]
    if entry.own and entry.filters.min_rating is None:
        refuse_no(table, f"column {layout.name_of(at)}", ratings, kept, toml)
    return ratings


def refuse_no(
    table: Table, where: str, ratings: npt.NDArray[np.float64], kept: Mask, toml: str
) -> None:
    """Refuse ratings that may mean "no": 0 and less, or shares of one. `where` they stand, in words."""
    used = ratings[kept]
    no = kept & (ratings <= 0)
    count = int(no.sum())
    least = float(used.min(initial=np.inf))
    above = used[used > 0]
    smallest = float(above.min(initial=np.inf)) if len(above) else 1.0
    if (count and count < len(used)) or (count and least < 0):
        raise table.refuse(
            int(np.argmax(no)),
            f"rating {ratings[int(np.argmax(no))]:g} ({where}), as in {count:,} of"
            f" {len(used):,} rows: do these count as interactions?",
            f"write {toml}: [filters] min_rating = {smallest:g} leaves them out,"
            f" min_rating = {least:g} counts all",
        )
    if not count and len(used) and used.max() <= 1 and (used != 1).any():
        raise DataError(
            f"{table.name}: {where} holds shares from {least:g} to {used.max():g}: is any of"
            " them an interaction?",
            hint=f"write {toml}: [filters] min_rating = 0.5 (the least that counts);"
            f" min_rating = {least:g} counts all",
        )


def _times(
    table: Table, layout: Layout, entry: DatasetEntry, kept: Mask
) -> tuple[npt.NDArray[np.float64] | None, str]:
    at = layout.positions.get("timestamp")
    if at is None:
        return None, ""
    codes, labels = table.columns[at]
    if not kept.all():
        known, codes_kept = rank_ids(codes[kept])
        values, bad, how = times.seconds(labels[known], entry.time_format)
        if values is not None:
            full = np.full(table.rows, np.nan)
            full[kept] = values[codes_kept]
            return full, how
        bad = int(known[bad])
    else:
        values, bad, how = times.seconds(labels, entry.time_format)
        if values is not None:
            return values[codes], how
    row = int(np.argmax(kept & (codes == bad)))
    label = str(labels[bad])
    shown = f"timestamp {label[:25]!r} {how}" if label else "no timestamp"
    toml = toml_for(entry, table.name)
    raise table.refuse(
        row,
        shown,
        f'say in {toml} how times are written: time_format = "%d/%m/%Y %H:%M" (as strptime), or'
        " give [columns] without timestamp",
    )


def _ids(
    table: Table,
    layout: Layout,
    kept: Mask,
    user: tuple[Int32, Labels],
    item: tuple[Int32, Labels],
    toml: str,
) -> list[str]:
    """Refuse ids that cannot be meant; a word where names may have been taken for ids."""
    rows = np.flatnonzero(kept)
    warnings: list[str] = []
    for what, (codes, labels) in (("user", user), ("item", item)):
        found = ids.doubtful(labels)
        if found is not None:
            row = int(rows[int(np.argmax(codes == found[0]))])
            raise table.refuse(row, f"{what}: {found[1]}", "write ids alike in every row")
        several = sum(_SEVERAL.fullmatch(label) is not None for label in labels)
        if 2 * several > len(labels):
            warnings.append(
                f"{what}s are several numbers each ('{labels[0]}'), and count as one: is a row many"
                " interactions?"
            )
        if "-1" in labels:
            count = int(np.count_nonzero(codes == list(labels).index("-1")))
            warnings.append(
                f"{what} '-1' is an id like others ({count:,} rows): does it mean none?"
            )
    if layout.names is None:
        for first in ("userid", "user"):
            second = first.replace("user", "item")
            names = {
                plain(str(label)): at
                for at, label in enumerate(user[1])
                if str(label)[:4].lower() == "user"
            }
            items = {plain(str(label)) for label in item[1] if str(label)[:4].lower() == "item"}
            if first in names and second in items:
                row = int(rows[int(np.argmax(user[0] == names[first]))])
                raise table.refuse(
                    row,
                    "a header, where the file is read as one without",
                    f"take it out, or say in {toml}: header = true",
                )
    return warnings


def assemble(
    name: str,
    user: tuple[Int32, Labels],
    item: tuple[Int32, Labels],
    ratings: npt.NDArray[np.float64] | None,
    timestamps: npt.NDArray[np.float64] | None,
) -> Raw:
    """Interactions with their ids in order."""
    users, user_labels = _sorted_codes(*user)
    items, item_labels = _sorted_codes(*item)
    return Raw(
        name,
        users,
        items,
        n_users=len(user_labels),
        n_items=len(item_labels),
        user_labels=user_labels,
        item_labels=item_labels,
        ratings=ratings,
        timestamps=timestamps,
        repeats_allowed=True,
    )


def _sorted_codes(codes: Int32, labels: Labels) -> tuple[Int32, Labels]:
    """Codes into labels in their order, instead of any order."""
    known = sort_labels(labels)
    position = {label: rank for rank, label in enumerate(known)}
    ranks = np.array([position[label] for label in labels], dtype=np.int32)
    return ranks[codes] if len(ranks) else codes, known
