"""Protocols: how a published data set becomes train, validation and test.

| name                    | train / validation / test                                             |
|-------------------------|-----------------------------------------------------------------------|
| `given`                 | as published; where it has no validation, 10 % of each user's train   |
| `random`                | 80/10/10 of each user's items at random                               |
| `temporal`              | 80/10/10 of each user's items by time (ties in file order)            |
| `loo-last`              | the latest item for test, the one before for validation               |
| `loo-random`            | one item for test and one for validation, at random                   |
| `dsl-loo`               | as DSL's code: last in *file order*, against 100 sampled items        |
| `strong`                | users held out whole, 80 % of their items folded in (Mult-VAE)        |

The three leave-one-out protocols take a suffix `-99`, `-100` or `-999`: the held-out item is ranked
against that many sampled ones, which the user never interacted with, instead of all. `default` is
the data set's own, `paper` follows the DSL paper's code: the whole train, selection on test where
train and test are given; `dsl-loo` elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from dslbench.data.entries import DatasetEntry
from dslbench.data.interactions import Int32, Interactions, masked_csr, pairs_to_csr
from dslbench.data.published import Log, Published
from dslbench.data.splits import (
    Int64,
    carve_validation,
    deal_at_random,
    empty_like,
    from_end,
    label_parts,
    split_generator,
    tenth,
)
from dslbench.errors import DataError, UsageError, did_you_mean

SAMPLED = (99, 100, 999)
LEAVE_ONE_OUT = ("loo-last", "loo-random", "dsl-loo")
BASIC = ("given", "random", "temporal", "loo-last", "loo-random", "dsl-loo", "strong")
PROTOCOLS = (
    "default",
    "paper",
    *BASIC,
    *(f"{name}-{count}" for name in LEAVE_ONE_OUT for count in SAMPLED),
)
_ORDERED_BY_TIME = ("temporal", "loo-last")
_ORDERED = (*_ORDERED_BY_TIME, "dsl-loo")


@dataclass(frozen=True)
class Protocol:
    """A resolved protocol: the basic one, and how many items to sample (0: rank all)."""

    name: str
    basic: str
    sampled: int = 0
    select_on_test: bool = False


def resolve(name: str, entry: DatasetEntry) -> Protocol:
    """What `name` means for a data set. Raises UsageError for an unknown or impossible one."""
    if name not in PROTOCOLS:
        raise UsageError(f"unknown protocol '{name}'", hint=did_you_mean(name, PROTOCOLS))
    if name == "default":
        return resolve(entry.default_protocol, entry)
    if name == "paper":
        if entry.is_given or entry.generated:
            return Protocol("paper", "given", select_on_test=True)
        return Protocol("paper", "dsl-loo", sampled=100)
    if name in BASIC:
        return Protocol(name, name, sampled=100 if name == "dsl-loo" else 0)
    basic, _, count = name.rpartition("-")
    return Protocol(name, basic, sampled=int(count))


def split(entry: DatasetEntry, published: Published, protocol: Protocol) -> Interactions:
    """Split a published data set. Raises DataError where it lacks what the protocol needs."""
    if protocol.basic == "given":
        return _given(entry, published, protocol)
    log = published.log
    if protocol.basic in _ORDERED_BY_TIME and log.timestamps is None:
        other = "random" if protocol.basic == "temporal" else "loo-random"
        raise DataError(
            f"data set '{entry.name}' as stored here has no timestamps,"
            f" so protocol '{protocol.name}' cannot order it by time",
            hint=f"--protocol {other}",
        )
    if protocol.basic == "strong":
        from dslbench.data.strong import split_users

        return split_users(entry, published)
    return _per_user(entry, published, protocol)


def _given(entry: DatasetEntry, published: Published, protocol: Protocol) -> Interactions:
    if published.given is None:
        raise UsageError(
            f"data set '{entry.name}' has no train and test files of its own",
            hint=f"--protocol {entry.default_protocol}",
        )
    train, test = published.given["train"], published.given["test"]
    notes = list(published.notes)
    if protocol.select_on_test:
        valid = empty_like(train)
        notes.append("no validation: the epoch is selected on test, as the paper's code does")
    elif "valid" in published.given:
        valid = published.given["valid"]
    else:
        train, valid = carve_validation(train, published.key)
        notes.append("validation: 10 % of each user's training items, at random")
    return _assemble(entry, published, protocol, (train, valid, test), notes)


def _per_user(entry: DatasetEntry, published: Published, protocol: Protocol) -> Interactions:
    log, shape = published.log, published.shape
    counts = np.bincount(log.users, minlength=shape[0])
    if protocol.basic in LEAVE_ONE_OUT:
        n_test, n_valid = (counts > 1).astype(np.int64), (counts > 2).astype(np.int64)
    else:
        n_test, n_valid = tenth(counts, keep=1), tenth(counts, keep=2)
    everything = pairs_to_csr(log.users, log.items, shape)
    if protocol.basic in _ORDERED:
        parts = np.zeros(len(log.users), dtype=np.uint8)
        position = from_end(log.users, _order(log, protocol.basic), shape[0])
        label_parts(position, log.users, n_test, n_valid, parts)
        train, valid, test = (
            pairs_to_csr(log.users[parts == part], log.items[parts == part], shape)
            for part in range(3)
        )
    else:
        generator = split_generator(published.key, protocol.basic)
        parts = deal_at_random(everything, n_test, n_valid, generator)
        train, valid, test = (masked_csr(everything, parts == part) for part in range(3))
    notes = [*published.notes, _NOTES[protocol.basic]]
    negatives = None
    if protocol.sampled:
        negatives = sample_unseen(everything, test, protocol.sampled, published.key)
        notes.append(
            f"ranked against {protocol.sampled} sampled items the user never interacted with"
        )
    return _assemble(entry, published, protocol, (train, valid, test), notes, negatives)


_NOTES = {
    "random": "split 80/10/10 of each user's items at random",
    "temporal": "split 80/10/10 of each user's items by time, ties in file order",
    "loo-last": "each user's latest item is for test, the one before for validation",
    "loo-random": "one random item of each user is for test, another for validation",
    "dsl-loo": "each user's last item in file order is for test, the one before for validation",
}


def _order(log: Log, basic: str) -> Int64:
    """Pairs by user, then in the protocol's order."""
    if basic == "dsl-loo":
        return np.argsort(log.users, kind="stable")
    assert log.timestamps is not None
    return np.lexsort((log.timestamps, log.users))  # stable: ties stay in file order


def sample_unseen(
    seen: sparse.csr_matrix, wanted: sparse.csr_matrix, count: int, dataset: str
) -> Int32:
    """`count` distinct items per user with a pair in `wanted`, none of them in `seen`.

    Returns (n_users, count) int32 in random order; -1 where a user has too few unseen items, and
    in the rows of the other users. The draws depend on data set and `count` only.
    """
    n_users, n_items = seen.shape
    sampled = np.full((n_users, count), -1, dtype=np.int32)
    generator = split_generator(dataset, f"negatives-{count}")
    for user in np.flatnonzero(np.diff(wanted.indptr)):
        mine = seen.indices[seen.indptr[user] : seen.indptr[user + 1]]
        free = n_items - len(mine)
        ranks = np.zeros(0, dtype=np.int64)
        if free >= 4 * count:
            draws = (generator.random(2 * count) * free).astype(np.int64)
            ranks = draws[np.sort(np.unique(draws, return_index=True)[1])][:count]
        if len(ranks) < min(count, free):
            ranks = np.argsort(generator.random(free), kind="stable")[:count]
        # the r-th unseen item: r plus the seen items before it
        sampled[user, : len(ranks)] = ranks + np.searchsorted(
            mine - np.arange(len(mine)), ranks, side="right"
        )
    return sampled


def _assemble(
    entry: DatasetEntry,
    published: Published,
    protocol: Protocol,
    parts: tuple[sparse.csr_matrix, sparse.csr_matrix, sparse.csr_matrix],
    notes: list[str],
    negatives: Int32 | None = None,
) -> Interactions:
    train, valid, test = parts
    return Interactions(
        name=entry.name,
        protocol=protocol.name,
        train=train,
        valid=valid,
        test=test,
        notes=tuple(notes),
        negatives=negatives,
        user_ids=published.user_ids,
        item_ids=published.item_ids,
        content=published.key if entry.own else None,
    )
