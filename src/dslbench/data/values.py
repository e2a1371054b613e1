"""What the columns of a table mean: which rows count, ids, ratings and times."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dslbench.data import ids, times
from dslbench.data.doubts import doubtful_ids, flags, leave_out_under, refuse_no, refuse_other_rows
from dslbench.data.entries import DatasetEntry
from dslbench.data.interactions import Int32
from dslbench.data.labels import rank_ids, sort_labels
from dslbench.data.layout import Layout, toml_for
from dslbench.data.raw import Labels, Raw
from dslbench.data.table import Mask, Table
from dslbench.data.understood import Column, Understood
from dslbench.errors import DataError


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
        refuse_other_rows(table, layout, kept)
    warnings = [*dict.fromkeys((*entry.remarks, *layout.warnings))] if entry.own else []
    warnings += flags(table, layout, kept, toml) if entry.own else []
    ratings = _ratings(table, layout, entry, kept, toml)
    stamps, how = _times(table, layout, entry, kept)
    if entry.own and entry.filters.min_rating is not None:
        if ratings is None:
            raise DataError(f"{table.name} has no ratings, so min_rating cannot be applied")
        kept = leave_out_under(table, entry.filters.min_rating, ratings, kept, left_out)
    user, item = (_kept(table, layout.positions[what], kept) for what in ("user", "item"))
    if entry.own:
        warnings += doubtful_ids(table, layout, kept, user, item, toml)
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


def _kept(table: Table, at: int, kept: Mask) -> tuple[Int32, Labels]:
    codes, labels = table.columns[at]
    if kept.all():
        return codes, labels
    known, ranks = rank_ids(codes[kept])
    return ranks, labels[known]


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
