"""Original ids: kept, and numbered in an order that does not depend on the file's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dslbench.data.interactions import Int32
from dslbench.data.raw import Labels, Raw


def sort_labels(labels: Labels) -> Labels:
    """Distinct labels: by value where all are plain integers, else alphabetically.

    '007' is not a plain integer: it stays apart from '7'.
    """
    distinct = {str(label) for label in labels}
    plain = all(label.isascii() and label.isdigit() and _is_plain(label) for label in distinct)
    ordered = sorted(distinct, key=int) if plain else sorted(distinct)
    return np.array(ordered, dtype=object)


def _is_plain(label: str) -> bool:
    return len(label) < 19 and (label == "0" or label[0] != "0")


def rank_ids(ids: Int32) -> tuple[Int32, Int32]:
    """Ids that occur, ascending, and each of `ids` as its position among them."""
    top = int(ids.max(initial=-1)) + 1
    if top > 4 * len(ids) + 1024:  # far apart: a table of all ids would be mostly empty
        known, ranks = np.unique(ids, return_inverse=True)
        return known, ranks.astype(np.int32)
    occurs = np.bincount(ids, minlength=1) > 0
    return np.flatnonzero(occurs).astype(np.int32), (np.cumsum(occurs) - 1).astype(np.int32)[ids]


def compact(
    raws: dict[str, Raw],
) -> tuple[dict[str, Raw], tuple[int, int], Labels, Labels]:
    """Number users and items that occur in any of the files, in the order of their ids."""
    user_ids, users = _ranks([(raw.users, raw.user_labels) for raw in raws.values()])
    item_ids, items = _ranks([(raw.items, raw.item_labels) for raw in raws.values()])
    compact = {
        role: replace(
            raw,
            users=users[index],
            items=items[index],
            n_users=len(user_ids),
            n_items=len(item_ids),
            user_labels=user_ids,
            item_labels=item_ids,
        )
        for index, (role, raw) in enumerate(raws.items())
    }
    return compact, (len(user_ids), len(item_ids)), user_ids, item_ids


def _ranks(columns: list[tuple[Int32, Labels | None]]) -> tuple[Labels, list[Int32]]:
    """Labels that occur in any column, sorted, and each column as positions in them."""
    if all(labels is None for _, labels in columns):
        known, ranks = rank_ids(np.concatenate([codes for codes, _ in columns]))
        return known, np.split(ranks, np.cumsum([len(codes) for codes, _ in columns])[:-1])
    # files of one data set have one format: here all have labels
    labelled = [(codes, labels) for codes, labels in columns if labels is not None]
    names = sort_labels(np.concatenate([labels[rank_ids(codes)[0]] for codes, labels in labelled]))
    position = {name: rank for rank, name in enumerate(names)}
    return names, [
        np.array([position.get(name, -1) for name in labels], dtype=np.int32)[codes]
        for codes, labels in labelled
    ]
