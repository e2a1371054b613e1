"""A data set as published: files read, verified, filtered, ids mapped; not split yet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import sparse

from dslbench.data import formats
from dslbench.data.entries import DatasetEntry, FileSpec
from dslbench.data.formats import Labels, Raw
from dslbench.data.labels import sort_labels
from dslbench.data.interactions import Int32, digest, pairs_to_csr
from dslbench.errors import DataError


@dataclass(frozen=True)
class Log:
    """All distinct interactions in file order, over rows 0..n_users-1 and columns 0..n_items-1."""

    users: Int32
    items: Int32
    timestamps: npt.NDArray[np.float64] | None


@dataclass(frozen=True)
class Published:
    """A data set before splitting.

    `log` holds all interactions (made when first asked for); `given` the published parts (train,
    perhaps valid, test) where the data set has them, disjoint from each other.
    """

    shape: tuple[int, int]
    make_log: Callable[[], Log]
    given: dict[str, sparse.csr_matrix] | None
    user_ids: Labels | None
    item_ids: Labels | None
    notes: tuple[str, ...] = ()

    @cached_property
    def log(self) -> Log:
        """All interactions in file order."""
        return self.make_log()


def read_files(entry: DatasetEntry, where: Path) -> dict[str, Raw]:
    """Raw interactions of each data file in folder `where`, by role."""
    return {
        file.role: formats.read(where / file.name, entry)
        for file in entry.files
        if file.holds_pairs
    }


def file_shape(entry: DatasetEntry, spec: FileSpec, raw: Raw) -> tuple[int, int]:
    """Users x items over which a file's digest is taken."""
    if spec.shape is not None:
        return spec.shape
    if entry.is_given and entry.expect.users is not None and entry.expect.items is not None:
        return entry.expect.users, entry.expect.items
    return raw.n_users, raw.n_items


def canonical(entry: DatasetEntry, spec: FileSpec, raw: Raw) -> sparse.csr_matrix:
    """The file's pairs as its published digest sees them (labels become ranks)."""
    return raw.to_csr(file_shape(entry, spec, raw))


def publish(entry: DatasetEntry, raws: dict[str, Raw], digests: dict[str, str | None]) -> Published:
    """Verify, filter and number what the files hold.

    `digests` has, per role, the digest a file must have (None: not known). Raises DataError when
    a file or the whole is not what it should be.
    """
    if entry.is_given:
        return _publish_given(entry, raws, digests)
    return _publish_log(entry, raws["all"], digests.get("all"))


def check_digest(where: str, matrix: sparse.csr_matrix, expected: str | None) -> None:
    """Raise DataError where a matrix is not the one expected."""
    if expected is not None and (found := digest(matrix)) != expected:
        raise DataError(f"{where}: the pairs' digest is {found}, expected {expected}")


def _publish_given(
    entry: DatasetEntry, raws: dict[str, Raw], digests: dict[str, str | None]
) -> Published:
    if entry.own:
        raws, shape, user_ids, item_ids = _compact_together(raws)
    else:
        specs = {file.role: file for file in entry.files}
        shape = file_shape(entry, specs["train"], raws["train"])
        user_ids = item_ids = None
    parts = {role: raw.to_csr(shape) for role, raw in raws.items()}
    for role, part in parts.items():
        check_digest(raws[role].name, part, digests.get(role))
    for role in ("train", "test"):
        expected = getattr(entry.expect, role)
        if expected is not None and parts[role].nnz != expected:
            raise DataError(
                f"{raws[role].name}: expected {expected:,} pairs, found {parts[role].nnz:,}"
                + raws[role].cut_note
            )
    notes = list(entry.notes)
    known, given = parts["train"], {"train": parts["train"]}
    for role in ("valid", "test"):
        if role not in parts:
            continue
        part, repeated = _without(parts[role], known)
        if repeated:
            notes.append(f"{repeated:,} {role} pairs that occur earlier too are left out")
        given[role] = part
        known = sparse.csr_matrix(known + part)
    active = {role: np.diff(part.indptr) > 0 for role, part in given.items()}
    strangers = np.count_nonzero(active["test"] & ~active["train"])
    if strangers:
        notes.append(f"{strangers:,} test users have no training pairs")
    unseen = int(shape[1] - np.count_nonzero(np.bincount(given["train"].indices, minlength=1)))
    if unseen:
        notes.append(f"{unseen:,} items never occur in train; they stay in the ranking")
    return Published(
        shape,
        lambda: _merge_log(list(raws.values()), shape),
        given,
        user_ids,
        item_ids,
        tuple(notes),
    )


def _without(part: sparse.csr_matrix, known: sparse.csr_matrix) -> tuple[sparse.csr_matrix, int]:
    """`part` less the pairs of `known`, and how many these were."""
    repeated = sparse.csr_matrix(part.multiply(known))
    if not repeated.nnz:
        return part, 0
    rest = sparse.csr_matrix(part - repeated)
    rest.eliminate_zeros()
    rest.sort_indices()
    return rest, repeated.nnz


def _merge_log(raws: list[Raw], shape: tuple[int, int]) -> Log:
    """Distinct pairs of several files, one after the other."""
    times = [raw.timestamps for raw in raws]
    stamps = None if any(time is None for time in times) else np.concatenate(times)  # type: ignore[arg-type]
    users = np.concatenate([raw.users for raw in raws])
    items = np.concatenate([raw.items for raw in raws])
    return distinct(users, items, stamps, shape[1])[0]


def distinct(
    users: Int32, items: Int32, timestamps: npt.NDArray[np.float64] | None, n_items: int
) -> tuple[Log, int]:
    """Each pair once, in file order, and how many repeats were merged.

    Of repeats the latest in time is kept, the first in the file where there are no times.
    """
    keys = users.astype(np.int64) * n_items + items
    order = (
        np.argsort(keys, kind="stable")
        if timestamps is None
        else np.lexsort((np.arange(len(keys)), -timestamps, keys))
    )
    ranked = keys[order]
    first = np.ones(len(keys), dtype=bool)
    first[1:] = ranked[1:] != ranked[:-1]
    kept = np.sort(order[first])
    if len(kept) == len(keys):
        return Log(users, items, timestamps), 0
    stamps = None if timestamps is None else timestamps[kept]
    return Log(users[kept], items[kept], stamps), len(keys) - len(kept)


def _publish_log(entry: DatasetEntry, raw: Raw, expected: str | None) -> Published:
    spec = next(file for file in entry.files if file.role == "all")
    if expected is not None:
        check_digest(raw.name, canonical(entry, spec, raw), expected)
    # numbered first, so that nothing below grows with the size of an id
    raws, shape, user_ids, item_ids = _compact_together({"all": raw})
    raw = raws["all"]
    if not raw.repeats_allowed:
        raw.to_csr(shape)
    users, items, stamps = raw.users, raw.items, raw.timestamps
    notes = list(entry.notes)
    minimum = entry.filters.min_rating
    if minimum is not None:
        if raw.ratings is None:
            raise DataError(f"{raw.name} has no ratings, so min_rating cannot be applied")
        kept = raw.ratings >= minimum
        users, items = users[kept], items[kept]
        stamps = None if stamps is None else stamps[kept]
    log, merged = distinct(users, items, stamps, shape[1])
    if merged:
        notes.append(f"{merged:,} repeated pairs are merged")
    log = apply_filters(log, entry)
    if not len(log.users):
        left = " are left by the filters" if len(raw.users) else ""
        raise DataError(f"{raw.name}: no interactions{left}")
    user_codes, rows = _rank(log.users)
    item_codes, columns = _rank(log.items)
    shape = (len(user_codes), len(item_codes))
    log = Log(rows, columns, log.timestamps)
    _check_expected(entry, raw, log, shape)
    return Published(
        shape,
        lambda: log,
        None,
        user_ids[user_codes],
        item_ids[item_codes],
        tuple(notes),
    )


def apply_filters(log: Log, entry: DatasetEntry) -> Log:
    """One-pass minimum per user, then k-core to a fixed point (users first, then items)."""
    kept = np.ones(len(log.users), dtype=bool)
    if entry.filters.min_user_items is not None:
        kept = np.bincount(log.users)[log.users] >= entry.filters.min_user_items
    if entry.filters.k_core is not None:
        before = -1
        while before != (count := int(np.count_nonzero(kept))):
            before = count
            for ids in (log.users, log.items):
                kept &= (
                    np.bincount(ids[kept], minlength=int(ids.max(initial=0)) + 1)[ids]
                    >= entry.filters.k_core
                )
    if kept.all():
        return log
    stamps = None if log.timestamps is None else log.timestamps[kept]
    return Log(log.users[kept], log.items[kept], stamps)


def _check_expected(entry: DatasetEntry, raw: Raw, log: Log, shape: tuple[int, int]) -> None:
    expect = entry.expect
    found = {"users": shape[0], "items": shape[1], "interactions": len(log.users)}
    for what, count in found.items():
        expected = getattr(expect, what)
        if expected is not None and expected != count:
            raise DataError(
                f"{raw.name}: expected {expected:,} {what}, found {count:,}{raw.cut_note}"
            )
    if expect.digest is not None:
        check_digest(raw.name, pairs_to_csr(log.users, log.items, shape), expect.digest)


def _rank(ids: Int32) -> tuple[Int32, Int32]:
    """Ids that occur, ascending, and each of `ids` as its position among them."""
    top = int(ids.max(initial=-1)) + 1
    if top > 4 * len(ids) + 1024:  # far apart: a table of all ids would be mostly empty
        known, ranks = np.unique(ids, return_inverse=True)
        return known, ranks.astype(np.int32)
    occurs = np.bincount(ids, minlength=1) > 0
    return np.flatnonzero(occurs).astype(np.int32), (np.cumsum(occurs) - 1).astype(np.int32)[ids]


def _compact_together(
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
        known, ranks = _rank(np.concatenate([codes for codes, _ in columns]))
        return known, np.split(ranks, np.cumsum([len(codes) for codes, _ in columns])[:-1])
    texts = [
        (np.arange(codes.max(initial=-1) + 1).astype(str) if labels is None else labels)
        for codes, labels in columns
    ]
    names = sort_labels(
        np.concatenate(
            [text[_rank(codes)[0]] for (codes, _), text in zip(columns, texts, strict=True)]
        )
    )
    position = {name: rank for rank, name in enumerate(names)}
    return names, [
        np.array([position.get(name, -1) for name in text], dtype=np.int32)[codes]
        for (codes, _), text in zip(columns, texts, strict=True)
    ]
