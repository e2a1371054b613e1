"""What could be meant in two ways in a table: rows that say no, ids that are none, lines that are no rows."""

from __future__ import annotations

import json
import re

import numpy as np
import numpy.typing as npt

from dslbench.data import ids
from dslbench.data.columns import is_number, plain
from dslbench.data.interactions import Int32
from dslbench.data.layout import Layout
from dslbench.data.raw import Labels
from dslbench.data.table import Mask, Table
from dslbench.errors import DataError

_ONE = r"""(?:-?[0-9]+|'[^']*'|"[^"]*")"""
_NESTED = re.compile(rf"[\[({{]\s*{_ONE}(?:[,\s]+{_ONE})*\s*,?\s*[\])}}]|[0-9]+(?:[,;][0-9]+)+")
_SEVERAL = re.compile(r"[0-9]+(?:[ |]+[0-9]+)+")
_DRAWN = frozenset("-=+:|")
_RULER = re.compile(r"[-=+:|]{2,}")
_FEW = 5  # values of a column that says yes and no; more are numbers of another kind
_NO = ("0", "0.0", "false", "no", "-1", "n")


def refuse_other_rows(table: Table, layout: Layout, kept: Mask) -> None:
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


def flags(table: Table, layout: Layout, kept: Mask, toml: str) -> list[str]:
    """Words on columns that could say no; refuses those whose name says that they do."""
    warnings: list[str] = []
    for at, kind in layout.flags.items():
        codes, labels = table.columns[at]
        counts = np.bincount(codes[kept], minlength=len(labels))
        order = [int(k) for k in np.argsort(-counts, kind="stable") if counts[k]]
        known = [str(labels[k]) for k in order if labels[k]]
        values = [label.lower() for label in known]
        shown = ", ".join(f"{labels[k]!r} {counts[k]:,}" for k in order[:5])
        name = layout.name_of(at)
        key = layout.names[at] if layout.names is not None else str(at)
        if kind == "flag" and 2 <= len(values) <= _FEW and any(value in _NO for value in values):
            yes = [label for label in known if label.lower() not in _NO] or known[:1]
            wanted = (
                f"{json.dumps(key, ensure_ascii=False)} = {json.dumps(yes, ensure_ascii=False)}"
            )
            raise DataError(
                f"{table.name}: column {name} holds {shown}: do rows of all of them count as"
                " interactions?",
                hint=f"only some: write {toml}: where = {{ {wanted} }}; all of them: where = {{}}",
            )
        if kind == "events":
            if 1 < len(order) < 20:
                warnings.append(f"column {name} is not used, all its kinds count alike: {shown}")
        elif kind == "flag" and len(values) == 1 and values[0] in _NO:
            warnings.append(f"column {name} is {values[0]} in every row, and all of them count")
        elif kind == "negative":
            below = [str(label)[:1] == "-" and is_number(str(label)) for label in labels]
            count = int(counts[below].sum())
            warnings.append(f"column {name} is not used, and its {count:,} rows below 0 count, too")
        elif len(values) == 2:
            warnings.append(f"column {name} is not used, rows of both its values count: {shown}")
    return warnings


def leave_out_under(
    table: Table,
    least: float,
    ratings: npt.NDArray[np.float64],
    kept: Mask,
    left_out: dict[str, int],
) -> Mask:
    """What is kept of rows with `min_rating`; the others are counted in `left_out`."""
    low = kept & ~(ratings >= least)
    left_out[f"ratings under {least:g}"] = int(low.sum())
    kept = kept & ~low
    if not kept.any():
        raise DataError(f"{table.name}: no interactions are left by the filters")
    return kept


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
            f"write {toml}: filters.min_rating = {smallest:g} leaves them out,"
            f" filters.min_rating = {least:g} counts all",
        )
    if not count and len(used) and used.max() <= 1 and (used != 1).any():
        raise DataError(
            f"{table.name}: {where} holds shares from {least:g} to {used.max():g}: is any of"
            " them an interaction?",
            hint=f"write {toml}: filters.min_rating = 0.5 (the least that counts);"
            f" filters.min_rating = {least:g} counts all",
        )


def doubtful_ids(
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
        nested = [at for at, label in enumerate(labels) if _NESTED.fullmatch(label)]
        if 2 * len(nested) > len(labels):
            row = int(rows[int(np.argmax(codes == nested[0]))])
            raise table.refuse(
                row,
                f"{what}: '{labels[nested[0]][:30]}' and the like hold several: one row is many"
                " interactions",
                f"make it flat, one a row; with pandas: frame.explode, once '{what}' holds lists",
            )
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
