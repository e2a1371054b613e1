"""A data set as published: files read, verified, filtered, ids mapped; not split yet."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import sparse

from dslbench.data import reading
from dslbench.data.entries import DatasetEntry, FileSpec
from dslbench.data.interactions import Int32, digest, masked_csr, pairs_to_csr, row_blocks
from dslbench.data.labels import compact, rank_ids
from dslbench.data.own_parts import check_strangers, content_key, joined
from dslbench.data.raw import Labels, Raw
from dslbench.data.understood import Understood
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
    perhaps valid, test) where the data set has them, disjoint from each other. `key` seeds splits:
    the name of a published data set, of one's own what it holds. `understood` says what each file of
    one's own was taken for.
    """

    shape: tuple[int, int]
    make_log: Callable[[], Log]
    given: dict[str, sparse.csr_matrix] | None
    user_ids: Labels | None
    item_ids: Labels | None
    notes: tuple[str, ...] = ()
    key: str = ""
    understood: tuple[Understood, ...] = ()

    @cached_property
    def log(self) -> Log:
        """All interactions in file order."""
        return self.make_log()


def read_files(entry: DatasetEntry, where: Path) -> dict[str, Raw]:
    """Raw interactions of each data file in folder `where`, by role."""
    found: dict[str, list[Raw]] = {}
    for file in entry.files:
        if file.holds_pairs:
            found.setdefault(file.role, []).append(reading.read(where / file.name, entry))
    return {role: raws[0] if len(raws) == 1 else joined(raws) for role, raws in found.items()}


def file_shape(entry: DatasetEntry, spec: FileSpec, raw: Raw) -> tuple[int, int]:
    """Users x items over which a file's digest is taken."""
    if spec.shape is not None:
        return spec.shape
    if entry.is_given and entry.expect.users is not None and entry.expect.items is not None:
        return entry.expect.users, entry.expect.items
    return raw.n_users, raw.n_items


def canonical(entry: DatasetEntry, spec: FileSpec, raw: Raw) -> sparse.csr_matrix:
    """The file's pairs as its digest sees them; of data of one's own the ids are compacted."""
    if entry.own:
        raws, shape, _, _ = compact({spec.role: raw})
        return raws[spec.role].to_csr(shape)
    return raw.to_csr(file_shape(entry, spec, raw))


def publish(
    entry: DatasetEntry,
    raws: dict[str, Raw],
    digests: dict[str, str | None],
    *,
    keep_log: bool = True,
) -> Published:
    """Verify, filter and number what the files hold.

    `digests` has, per role, the digest a file must have (None: not known). Without `keep_log` a
    data set with train and test of its own drops the order of its files, which saves memory; `raws`
    is used up. Raises DataError when a file or the whole is not what it should be.
    """
    if entry.is_given:
        return _publish_given(entry, raws, digests, keep_log)
    return _publish_log(entry, raws["all"], digests.get("all"))


def check_digest(where: str, matrix: sparse.csr_matrix, expected: str | None) -> None:
    """Raise DataError where a matrix is not the one expected."""
    if expected is not None and (found := digest(matrix)) != expected:
        raise DataError(f"{where}: the pairs' digest is {found}, expected {expected}")


def _publish_given(
    entry: DatasetEntry, raws: dict[str, Raw], digests: dict[str, str | None], keep_log: bool
) -> Published:
    specs: dict[str, FileSpec] = {file.role: file for file in entry.files}
    user_ids: Labels | None = None
    item_ids: Labels | None = None
    if entry.own:
        for role, raw in raws.items():
            if digests.get(role) is not None:
                check_digest(raw.name, canonical(entry, specs[role], raw), digests[role])
        digests = {}
        check_strangers(raws)
        raws, shape, user_ids, item_ids = compact(raws)
    else:
        shape = file_shape(entry, specs["train"], raws["train"])
    kept = list(raws.values()) if keep_log else []
    notes = [*entry.notes, *dict.fromkeys(note for raw in raws.values() for note in raw.notes)]
    notes += _cut_notes(entry, raws.values())
    understood = tuple(raw.understood for raw in raws.values() if raw.understood is not None)
    parts: dict[str, sparse.csr_matrix] = {}
    for role in ("train", "valid", "test"):
        if role not in raws:
            continue
        raw = raws.pop(role)  # its columns are no longer needed
        parts[role] = raw.to_csr(shape)
        if entry.own and (merged := len(raw.users) - parts[role].nnz):
            notes.append(f"{raw.name}: {merged:,} repeated pairs are merged")
        expected = getattr(entry.expect, role, None)
        if expected is not None and parts[role].nnz != expected:
            raise DataError(
                f"{raw.name}: expected {expected:,} pairs, found {parts[role].nnz:,}" + raw.cut_note
            )
        check_digest(raw.name, parts[role], digests.get(role))
    for role, earlier in (("valid", ("train",)), ("test", ("train", "valid"))):
        for other in earlier:
            if role in parts and other in parts:
                parts[role], repeated = _without(parts[role], parts[other])
                if repeated:
                    notes.append(f"{repeated:,} {role} pairs that are in {other} too are left out")
    active = {role: np.diff(part.indptr) > 0 for role, part in parts.items()}
    strangers = int(np.count_nonzero(active["test"] & ~active["train"]))
    if strangers:
        notes.append(f"{strangers:,} test users have no training pairs")
    if entry.own:
        notes += _unseen_items(parts)
    unseen = shape[1] - len(np.unique(parts["train"].indices))
    if unseen:
        notes.append(f"{unseen:,} items never occur in train; they stay in the ranking")
    key = content_key(parts, user_ids, item_ids) if entry.own else entry.name
    notes += [statement.short() for statement in understood]
    return Published(
        shape,
        lambda: _merge_log(kept, shape),
        parts,
        user_ids,
        item_ids,
        tuple(notes),
        key,
        understood,
    )


def _unseen_items(parts: dict[str, sparse.csr_matrix]) -> list[str]:
    """A word on test items that no training pair has."""
    known = np.unique(parts["train"].indices)
    new = np.setdiff1d(parts["test"].indices, known)
    return [f"{len(new):,} test items never occur in train"] if len(new) else []


def _without(part: sparse.csr_matrix, known: sparse.csr_matrix) -> tuple[sparse.csr_matrix, int]:
    """`part` less the pairs of `known`, and how many these were."""
    fresh = np.ones(part.nnz, dtype=bool)
    for start, end in row_blocks(part.indptr):
        mine, theirs = (_keys(matrix, start, end) for matrix in (part, known))
        fresh[part.indptr[start] : part.indptr[end]] = ~np.isin(mine, theirs, kind="sort")
    repeated = part.nnz - int(np.count_nonzero(fresh))
    return (masked_csr(part, fresh), repeated) if repeated else (part, 0)


def _keys(matrix: sparse.csr_matrix, start: int, end: int) -> npt.NDArray[np.int64]:
    """One number per stored pair of some rows, ascending."""
    rows = np.repeat(np.arange(start, end), np.diff(matrix.indptr[start : end + 1]))
    columns = matrix.indices[matrix.indptr[start] : matrix.indptr[end]]
    return rows * np.int64(matrix.shape[1]) + columns


def _merge_log(raws: list[Raw], shape: tuple[int, int]) -> Log:
    """Distinct pairs of several files, one after the other."""
    times = [raw.timestamps for raw in raws if raw.timestamps is not None]
    stamps = np.concatenate(times) if len(times) == len(raws) else None
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
    if expected is not None and sum(file.role == "all" for file in entry.files) == 1:
        check_digest(raw.name, canonical(entry, spec, raw), expected)
    # numbered first, so that nothing below grows with the size of an id
    raws, shape, user_ids, item_ids = compact({"all": raw})
    raw = raws["all"]
    if not raw.repeats_allowed:
        raw.to_csr(shape)
    users, items, stamps = raw.users, raw.items, raw.timestamps
    notes = [*entry.notes, *raw.notes, *_cut_notes(entry, [raw])]
    minimum = None if entry.own else entry.filters.min_rating  # of one's own it is done in reading
    if minimum is not None:
        if raw.ratings is None:
            raise DataError(f"{raw.name} has no ratings, so min_rating cannot be applied")
        kept = raw.ratings >= minimum
        users, items = users[kept], items[kept]
        stamps = None if stamps is None else stamps[kept]
    log, merged = Log(users, items, stamps), 0
    if raw.repeats_allowed:
        log, merged = distinct(users, items, stamps, shape[1])
    if merged:
        notes.append(f"{merged:,} repeated pairs are merged")
    log = apply_filters(log, entry)
    if not len(log.users):
        left = " are left by the filters" if len(raw.users) else ""
        raise DataError(f"{raw.name}: no interactions{left}")
    user_codes, rows = rank_ids(log.users)
    item_codes, columns = rank_ids(log.items)
    shape = (len(user_codes), len(item_codes))
    log = Log(rows, columns, log.timestamps)
    _check_expected(entry, raw, log, shape)
    users_of, items_of = user_ids[user_codes], item_ids[item_codes]
    key = entry.name
    if entry.own:
        everything = pairs_to_csr(log.users, log.items, shape)
        key = content_key({"all": everything}, users_of, items_of)
    understood = () if raw.understood is None else (raw.understood,)
    notes += [statement.short() for statement in understood]
    return Published(shape, lambda: log, None, users_of, items_of, tuple(notes), key, understood)


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


def _cut_notes(entry: DatasetEntry, raws: Iterable[Raw]) -> list[str]:
    """A word on files of one's own that may be cut off; published ones are proven otherwise."""
    return [
        f"{raw.name}{raw.cut_note.replace(';', ':')}" for raw in raws if entry.own and raw.cut_note
    ]
