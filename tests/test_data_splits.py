from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dslbench import data
from dslbench.data.entries import DatasetEntry, FileSpec
from dslbench.data.interactions import Interactions, pairs_to_csr
from dslbench.data.protocols import PROTOCOLS, resolve, sample_unseen, split
from dslbench.data.published import Published, publish
from dslbench.data.raw import Raw
from dslbench.data.splits import carve_validation, split_generator
from dslbench.errors import DataError, UsageError

# the generator's bits are part of every published split: they may never change
PINNED = 0.18426148402100984
ENTRY = DatasetEntry(
    name="made",
    title="made",
    format="csv",
    files=(FileSpec(name="all.csv", role="all"),),
)


def made(
    seed: int = 0, n_users: int = 40, n_items: int = 60, times: bool = True, shuffle: int = 0
) -> Published:
    """A published log with timestamps; `shuffle` writes the same log in another order."""
    rng = np.random.default_rng(seed)
    users, items = np.nonzero(rng.random((n_users, n_items)) < 0.25)
    stamps = rng.permutation(len(users)).astype(float)
    order = np.random.default_rng(shuffle).permutation(len(users)) if shuffle else slice(None)
    raw = Raw(
        "all.csv",
        users[order].astype(np.int32),
        items[order].astype(np.int32),
        n_users,
        n_items,
        timestamps=stamps[order] if times else None,
        repeats_allowed=True,
    )
    return publish(ENTRY, {"all": raw}, {})


def split_as(published: Published, protocol: str) -> Interactions:
    return split(ENTRY, published, resolve(protocol, ENTRY))


def dense_parts(interactions: Interactions) -> list[np.ndarray]:
    return [m.toarray() for m in (interactions.train, interactions.valid, interactions.test)]


NAMED = [name for name in PROTOCOLS if name not in ("default", "paper", "given")]


@pytest.mark.parametrize("protocol", NAMED)
def test_parts_are_disjoint_and_complete(protocol: str) -> None:
    published = made()
    made_split = split_as(published, protocol)
    parts = dense_parts(made_split)
    if made_split.fold_in is not None:
        parts.append(made_split.fold_in.toarray())
    total = np.sum(parts, axis=0)
    assert total.max() == 1
    if protocol != "strong":
        log = published.log
        assert (total == pairs_to_csr(log.users, log.items, published.shape).toarray()).all()
    for matrix in (made_split.train, made_split.valid, made_split.test):
        assert matrix.nnz > 0
        assert matrix.indices.dtype == np.int32
        assert matrix.has_sorted_indices


@pytest.mark.parametrize("protocol", NAMED)
def test_same_digests_whatever_the_order_of_the_file(protocol: str) -> None:
    if protocol.startswith("dsl-loo"):
        return  # its very definition is the order of the file
    first, again, shuffled = (split_as(made(shuffle=s), protocol) for s in (0, 0, 1))
    assert first.digests == again.digests == shuffled.digests
    if first.negatives is not None and shuffled.negatives is not None:
        assert (first.negatives == shuffled.negatives).all()


def test_proportions() -> None:
    parts = dense_parts(split_as(made(n_items=200), "random"))
    sizes = [part.sum(axis=1) for part in parts]
    total = np.sum(sizes, axis=0)
    assert (sizes[1] == total // 10).all()
    assert (sizes[2] == total // 10).all()


@pytest.mark.parametrize(("n", "expected"), [(1, (1, 0, 0)), (2, (1, 0, 1)), (3, (1, 1, 1))])
@pytest.mark.parametrize("protocol", ["random", "temporal", "loo-last", "loo-random", "dsl-loo"])
def test_users_with_few_items(protocol: str, n: int, expected: tuple[int, int, int]) -> None:
    zeros = np.zeros(n, dtype=np.int32)
    raw = Raw("f", zeros, np.arange(n, dtype=np.int32), 1, n, timestamps=np.arange(n) * 1.0)
    made_split = split_as(publish(ENTRY, {"all": raw}, {}), protocol)
    assert (made_split.train.nnz, made_split.valid.nnz, made_split.test.nnz) == expected


def log_of(items: list[int], times: list[float]) -> Published:
    users = np.zeros(len(items), dtype=np.int32)
    columns = np.array(items, dtype=np.int32)
    raw = Raw("f", users, columns, 1, 10, timestamps=np.array(times), repeats_allowed=True)
    return publish(ENTRY, {"all": raw}, {})


def items_of(part: np.ndarray) -> list[int]:
    return np.flatnonzero(part[0]).tolist()


@pytest.mark.parametrize("protocol", ["temporal", "loo-last"])
def test_time_decides_and_ties_follow_the_file(protocol: str) -> None:
    _, valid, test = dense_parts(split_as(log_of([0, 1, 2, 3], [5, 9, 9, 1]), protocol))
    assert (items_of(valid), items_of(test)) == ([1], [2])


def test_file_order_of_dsl_loo() -> None:
    _, valid, test = dense_parts(split_as(log_of([3, 0, 2, 1], [5, 9, 9, 1]), "dsl-loo"))
    assert (items_of(valid), items_of(test)) == ([2], [1])


def test_repeats_keep_the_latest_time() -> None:
    published = log_of([0, 1, 2, 0], [1, 2, 3, 4])
    _, _, test = dense_parts(split_as(published, "loo-last"))
    assert items_of(test) == [0]
    assert any("1 repeated pairs are merged" in note for note in published.notes)


def test_no_timestamps_is_said() -> None:
    published = made(times=False)
    for protocol, instead in (("temporal", "random"), ("loo-last", "loo-random")):
        with pytest.raises(DataError, match="no timestamps") as caught:
            split_as(published, protocol)
        assert caught.value.hint == f"--protocol {instead}"


@pytest.mark.parametrize("count", [99, 100, 999])
def test_sampled_negatives_touch_nothing(count: int) -> None:
    made_split = split_as(made(n_items=1200, n_users=12), f"loo-random-{count}")
    assert made_split.negatives is not None
    assert made_split.negatives.shape == (12, count)
    used = np.sum(dense_parts(made_split), axis=0)
    for user, row in enumerate(made_split.negatives):
        drawn = row[row >= 0]
        assert len(set(drawn.tolist())) == len(drawn)
        assert not used[user, drawn].any()
        free = int((used[user] == 0).sum())
        assert len(drawn) == min(count, free)


def test_sampled_negatives_reach_every_unseen_item() -> None:
    seen = pairs_to_csr([0, 0, 0], [0, 4, 9], (1, 10))
    sampled = sample_unseen(seen, seen, 8, "x")
    assert sorted(sampled[0].tolist()) == [-1, 1, 2, 3, 5, 6, 7, 8]


def test_strong_holds_users_out() -> None:
    made_split = split_as(made(n_users=100), "strong")
    assert made_split.fold_in is not None
    active = [np.diff(m.indptr) > 0 for m in (made_split.train, made_split.valid, made_split.test)]
    assert not (active[0] & (active[1] | active[2])).any()
    assert not (active[1] & active[2]).any()
    assert active[1].sum() == active[2].sum() == 10
    folded = np.diff(made_split.fold_in.indptr)
    wanted = np.diff(made_split.test.indptr) + np.diff(made_split.valid.indptr)
    held = active[1] | active[2]
    assert (wanted[held] == (wanted + folded)[held] // 5).all()
    assert made_split.train.toarray().sum(axis=0).min() >= 1  # the vocabulary is train's
    seen = made_split.seen_before_test.toarray()
    assert seen.max() == 1
    assert not (seen * made_split.test.toarray()).any()
    assert made_split.user_ids is not None
    assert made_split.item_ids is not None
    assert len(made_split.user_ids) == made_split.n_users
    assert len(made_split.item_ids) == made_split.n_items


def test_strong_needs_users() -> None:
    with pytest.raises(DataError, match="at least 10 users"):
        split_as(made(n_users=8), "strong")


def test_unknown_protocol() -> None:
    with pytest.raises(UsageError, match="unknown protocol 'temporl'") as caught:
        resolve("temporl", ENTRY)
    assert caught.value.hint == "did you mean 'temporal'?"


def test_given_is_impossible_without_given_files() -> None:
    with pytest.raises(UsageError, match="no train and test files"):
        split_as(made(), "given")


@settings(max_examples=40, deadline=None)
@given(
    st.sets(st.tuples(st.integers(0, 8), st.integers(0, 30)), min_size=1, max_size=120),
    st.text("abc", min_size=1, max_size=3),
)
def test_carving_leaks_nothing(pairs: set[tuple[int, int]], name: str) -> None:
    users, items = zip(*sorted(pairs), strict=True)
    published = pairs_to_csr(users, items, (9, 31))
    train, valid = carve_validation(published, name)
    assert ((train + valid).toarray() == published.toarray()).all()
    counts = np.diff(published.indptr)
    expected = np.where(counts >= 2, np.maximum(counts // 10, 1), 0)
    assert (np.diff(valid.indptr) == expected).all()
    again = carve_validation(published, name)[1]
    assert (again != valid).nnz == 0


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 6), st.integers(0, 20), st.integers(0, 5)),
        min_size=1,
        max_size=80,
    ),
    st.sampled_from(["random", "temporal", "loo-last", "loo-random", "dsl-loo"]),
)
def test_no_split_leaks(rows: list[tuple[int, int, int]], protocol: str) -> None:
    users, items, times = (np.array(column) for column in zip(*rows, strict=True))
    raw = Raw(
        "f",
        users.astype(np.int32),
        items.astype(np.int32),
        7,
        21,
        timestamps=times.astype(float),
        repeats_allowed=True,
    )
    made_split = split_as(publish(ENTRY, {"all": raw}, {}), protocol)
    total = np.sum(dense_parts(made_split), axis=0)
    assert total.max() == 1
    assert total.sum() == len(set(zip(users.tolist(), items.tolist(), strict=True)))


def test_streams_are_keyed() -> None:
    draws = {
        (name, part): split_generator(name, part).random()
        for name in ("gowalla", "yelp2018")
        for part in ("valid", "random")
    }
    assert len(set(draws.values())) == 4
    assert split_generator("gowalla", "valid").random() == pytest.approx(PINNED, abs=0)


def test_toy_is_what_it_always_was() -> None:
    toy = data.load("toy")
    assert (toy.n_users, toy.n_items) == (1000, 800)
    assert toy.train.nnz + toy.valid.nnz + toy.test.nnz == 30513
    paper = data.load("toy", protocol="paper")
    assert paper.valid.nnz == 0
    assert paper.train.nnz == toy.train.nnz + toy.valid.nnz
    assert paper.digests["test"] == toy.digests["test"]
    assert paper.digests["valid"] is None


def test_toy_has_power_laws_and_tastes_of_high_rank() -> None:
    toy = data.load("toy", protocol="paper")
    train, test = toy.train.toarray(), toy.test.toarray()
    popularity, activity = np.sort(train.sum(axis=0))[::-1], np.sort(train.sum(axis=1))[::-1]
    assert popularity[:80].sum() > 3 * popularity[-80:].sum()
    assert activity[:100].sum() > 3 * activity[-100:].sum()

    def recall(scores: np.ndarray) -> float:
        top = np.argsort(np.where(train > 0, -np.inf, scores), axis=1)[:, ::-1][:, :20]
        hits = np.take_along_axis(test, top, axis=1).sum(axis=1)
        return float(np.mean(hits / test.sum(axis=1)))

    weights = np.sqrt(train.sum(axis=0))
    _, _, v = np.linalg.svd(
        train / np.sqrt(train.sum(axis=1))[:, None] / weights, full_matrices=False
    )
    by_rank = {
        rank: recall((train / weights) @ v[:rank].T @ v[:rank] * weights) for rank in (8, 32, 64)
    }
    popular = recall(np.tile(train.sum(axis=0), (1000, 1)))
    assert popular < 0.15
    assert popular < by_rank[8] < by_rank[32] < by_rank[64]
    assert by_rank[64] > 2 * popular
