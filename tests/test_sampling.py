"""Sampling follows LightGCN's distribution, whatever the chunks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from dslbench.data.interactions import pairs_to_csr
from dslbench.errors import DataError
from dslbench.sampling import triples as sampling
from dslbench.sampling.triples import TripleSampler, draw_unseen
from dslbench.seeds import Streams
from helpers import make_interactions

CPU = torch.device("cpu")


def draw(train, batch_size=64, epochs=1, seed=0):  # type: ignore[no-untyped-def]
    sampler = TripleSampler(train, batch_size, Streams(seed), CPU)
    batches = [b for _ in range(epochs) for b in sampler.epoch()]
    return batches, [
        torch.cat([getattr(b, f) for b in batches]).numpy()
        for f in ("users", "positives", "negatives")
    ]


def test_positives_are_the_users_items_and_negatives_are_not() -> None:
    train = make_interactions(60, 40).train
    _, (users, positives, negatives) = draw(train, epochs=5)
    known = train.toarray().astype(bool)
    assert known[users, positives].all()
    assert not known[users, negatives].any()


def test_users_are_uniform_and_an_epoch_is_as_long_as_the_training_set() -> None:
    train = make_interactions(20, 40).train
    batches, (users, positives, _) = draw(train, batch_size=64, epochs=100)
    assert len(users) == 100 * train.nnz
    assert len(batches) == 100 * -(-train.nnz // 64)
    assert stats.chisquare(np.bincount(users, minlength=20)).pvalue > 1e-3
    # Given the user, the item is uniform over the user's items.
    own = positives[users == 3]
    counts = np.bincount(own, minlength=40)[train[3].indices]
    assert stats.chisquare(counts).pvalue > 1e-3


def test_chunks_do_not_change_batches_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    train = make_interactions(50, 40).train
    monkeypatch.setattr(sampling, "_CHUNK", 100)
    batches, (users, _, _) = draw(train, batch_size=32)
    assert len(users) == train.nnz
    assert [len(b.users) for b in batches[:-1]] == [32] * (len(batches) - 1)


def test_users_without_items_or_with_all_are_never_drawn() -> None:
    train = pairs_to_csr([0, 0, 0, 2], [0, 1, 2, 1], (3, 3))  # user 0 has all, user 1 none
    _, (users, _, negatives) = draw(train, epochs=20)
    assert set(users) == {2}
    assert set(negatives) == {0, 2}


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_several_unseen_items_of_each_are_those_of_repeated_users(dtype: type) -> None:
    train = make_interactions(40, 25).train
    users = np.random.default_rng(1).integers(40, size=500)
    found = draw_unseen(train, users, np.random.default_rng(2), dtype, 9)
    one_by_one = draw_unseen(train, users.repeat(9), np.random.default_rng(2), dtype)
    assert found.dtype == dtype and (found == one_by_one).all()
    assert not train.toarray()[users.repeat(9), found].any()


@pytest.mark.parametrize("batch_size, n", [(64, 8), (30, 7), (5, 9)])
def test_shared_negatives_are_known_where_their_user_has_them(batch_size: int, n: int) -> None:
    train = make_interactions(40, 25).train
    has = train.toarray().astype(bool)
    alone = TripleSampler(train, batch_size, Streams(0), CPU).epoch()
    found = 0
    for batch in TripleSampler(train, batch_size, Streams(0), CPU, shared=n).epoch():
        for a, b in zip(batch[:3], next(alone)[:3], strict=True):
            assert torch.equal(a, b)  # the same draws
        assert batch.known is not None
        users, negatives, known = (
            x.numpy() for x in (batch.users, batch.negatives, batch.known)
        )  # fmt: skip
        for b in range(len(users)):
            block = negatives[b // n * n :][:n]
            assert (known[b, : len(block)] == has[users[b], block]).all()
            assert not known[b, len(block) :].any()
            assert not known[b, b % n]
        found += known.sum()
    assert found


def test_nothing_to_sample_is_said() -> None:
    with pytest.raises(DataError, match="no user has both"):
        TripleSampler(pairs_to_csr([0], [0], (1, 1)), 4, Streams(0), CPU)


def test_streams_are_independent_by_name() -> None:
    first, second = Streams(7), Streams(7)
    second["negatives"].random(100)  # a draw from one stream ...
    assert first["order"].random() == second["order"].random()  # ... moves no other
    assert Streams(7)["order"].random() != Streams(8)["order"].random()
    assert Streams(7)["order"].random() != Streams(7)["mask"].random()
