"""The parts of data of one's own: put together, compared, and known by what they hold."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import sparse

from dslbench.data.interactions import digest
from dslbench.data.labels import compact
from dslbench.data.raw import Labels, Raw
from dslbench.errors import DataError

_NEARLY_NONE = 0.1


def content_key(
    parts: dict[str, sparse.csr_matrix], user_ids: Labels | None, item_ids: Labels | None
) -> str:
    """What a data set holds: its pairs under their original ids, in no order."""
    hasher = hashlib.sha256()
    for role in sorted(parts):
        hasher.update(f"{role} {digest(parts[role])}\n".encode())
    for ids in (user_ids, item_ids):
        text = "\n".join(map(str, () if ids is None else ids))
        hasher.update(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
    return hasher.hexdigest()


def joined(raws: Sequence[Raw]) -> Raw:
    """Several files of one part, one after the other."""
    parts, shape, user_labels, item_labels = compact({str(at): raw for at, raw in enumerate(raws)})
    found = list(parts.values())
    ratings, times = (
        None
        if any(column is None for column in columns)
        else np.concatenate([column for column in columns if column is not None])
        for columns in ([raw.ratings for raw in found], [raw.timestamps for raw in found])
    )
    first = found[0].understood
    if first is not None:
        every = [raw.understood for raw in found if raw.understood is not None]
        first = replace(
            first,
            file=f"{first.file} and {len(raws) - 1} more",
            rows=sum(one.rows for one in every),
            left_out={
                reason: sum(one.left_out.get(reason, 0) for one in every)
                for reason in dict.fromkeys(r for one in every for r in one.left_out)
            },
            warnings=tuple(dict.fromkeys(w for one in every for w in one.warnings)),
        )
    return replace(
        found[0],
        name=f"{found[0].name} and {len(raws) - 1} more",
        users=np.concatenate([raw.users for raw in found]),
        items=np.concatenate([raw.items for raw in found]),
        n_users=shape[0],
        n_items=shape[1],
        user_labels=user_labels,
        item_labels=item_labels,
        ratings=ratings,
        timestamps=times,
        repeats_allowed=True,
        line_starts=None,
        understood=first,
    )


def check_strangers(raws: dict[str, Raw]) -> None:
    """Raise DataError where (nearly) no user or item of a part ever occurs in train."""
    for role in ("valid", "test"):
        if role not in raws or not len(raws[role].users):
            continue
        for what in ("user", "item"):
            known, asked = (_occurring(raws[part], what) for part in ("train", role))
            found = len(known & asked)
            if found > _NEARLY_NONE * len(asked):
                continue
            count = "no" if not found else f"only {found:,} of {len(asked):,}"
            examples = sorted(asked - known)[0], sorted(known)[0] if known else "nothing"
            raise DataError(
                f"{raws[role].name}: {count} {role} {what}{'' if found == 1 or not found else 's'}"
                f" occur{'s' if found < 2 else ''} in {raws['train'].name}"
                f" (here '{examples[0]}', there '{examples[1]}')",
                hint=_reason(asked, known, raws, role, what),
            )


def _occurring(raw: Raw, what: str) -> set[str]:
    codes, labels = (raw.users, raw.user_labels) if what == "user" else (raw.items, raw.item_labels)
    present = np.unique(codes)
    return set(map(str, present if labels is None else labels[present]))


def _reason(asked: set[str], known: set[str], raws: dict[str, Raw], role: str, what: str) -> str:
    other = "item" if what == "user" else "user"
    changes = (
        ("one is written with '.0' where the other is not: write whole numbers in both",
         lambda label: label.removesuffix(".0")),
        ("leading zeros differ: write ids alike in both", lambda label: label.lstrip("0")),
        ("capitals differ: write ids alike in both", str.lower),
    )  # fmt: skip
    for words, change in changes:
        if {change(a) for a in asked} & {change(k) for k in known}:
            return words
    if asked & _occurring(raws["train"], other):
        return "columns seem swapped: say which is which in a dataset.toml there, or add headers"
    return (
        f"{role} {what}s must be among those of train; are both files of one data set, with the same"
        " columns and ids?"
    )
