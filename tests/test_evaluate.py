"""Ranking and metrics against an obvious slow version, hand-worked cases, and ties."""

from __future__ import annotations

import gc
import math
import weakref
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dslbench.data.interactions import pairs_to_csr
from dslbench.errors import UsageError
from dslbench.evaluation import evaluate as ev
from dslbench.evaluation import metrics
from dslbench.evaluation.ranking import Ranker, _Lists, _OnDevice, _Screen, tie_priority
from dslbench.ops.scores import ProductScorer
from helpers import make_interactions


def slow_ranking(
    scores: np.ndarray, seen: set[int], priority: np.ndarray, k: int
) -> tuple[list[int], bool]:
    order = sorted(
        (i for i in range(len(scores)) if i not in seen and scores[i] > -np.inf),
        key=lambda i: (-scores[i], priority[i]),
    )
    tied = any(scores[a] == scores[b] for a, b in pairwise(order[: k + 1]))
    return order[:k], tied


@given(seed=st.integers(0, 10_000), levels=st.sampled_from([1, 2, 5, 1000]), m=st.integers(2, 90))
@settings(max_examples=60, deadline=None)
def test_ranking_equals_the_slow_version(seed: int, levels: int, m: int) -> None:
    rng = np.random.default_rng(seed)
    data = make_interactions(12, m, 0.3, seed)
    scores = (rng.integers(-levels, levels, size=(12, m)) / 7).astype(np.float32)
    scores[rng.random((12, m)) < 0.02] = -np.inf
    scores[rng.random((12, m)) < 0.05] = -0.0
    users = np.arange(12)

    def scorer(ids: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(scores)[ids].clone()

    ranker = Ranker(scorer, data.train, 10, seed=seed)
    lists = _Lists(ranker.k, data.train, tie_priority(data.train.shape[1], seed))
    for rank in (ranker, _OnDevice(lists, scorer, torch.device("cpu"))):
        check_ranking(rank(users), scores, data.train, tie_priority(m, seed), min(10, m))


def check_ranking(found: Any, scores: Any, seen: Any, priority: Any, k: int) -> None:
    items, tied = found
    for u in range(len(scores)):
        own = set(seen[u].indices.tolist())
        expected, expected_tied = slow_ranking(scores[u], own, priority, k)
        assert items[u][: len(expected)].tolist() == expected
        assert (items[u][len(expected) :] == -1).all()
        assert bool(tied[u]) == expected_tied


@given(
    seed=st.integers(0, 10_000), m=st.integers(1, 700), d=st.integers(1, 40),
    spread=st.sampled_from([0, 1, 40, 600]), scale=st.sampled_from([2.0**-100, 1.0, 2.0**60]),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_screening_by_rounded_products_changes_nothing(
    seed: int, m: int, d: int, spread: int, scale: float
) -> None:
    """Whole numbers of 10 bits: exact in float32, not in bfloat16; items differ by `spread` at most."""
    rng = np.random.default_rng(seed)
    data = make_interactions(12, m, 0.1, seed)
    largest = int((2**23 / d) ** 0.5)
    vectors = rng.integers(-largest, largest + 1, (12, d))
    vectors[3] = 0
    base = rng.integers(-largest // 2, largest // 2 + 1, d)
    table = np.clip(base + rng.integers(-spread, spread + 1, (m, d)), -largest, largest)
    tensors = [torch.from_numpy(x.astype(np.float32)) for x in (vectors * scale, table)]
    scorer = ProductScorer(lambda users, items: users @ items.T, *tensors)
    lists = _Lists(min(10, m), data.train, tie_priority(m, seed))
    found = _Screen(lists, scorer, 12)(np.arange(12))
    check_ranking(found, vectors @ table.T, data.train, lists.priority, lists.k)


@pytest.mark.parametrize("scale", [1.0, 2.0**-100, 2.0**-115])
def test_screening_allows_for_the_worst_rounding(scale: float) -> None:
    """All factors lie half way between two rounded ones, and rounding takes the best item far down."""
    e, t, half = 2.0**-8, 2.0**-20, 32
    vectors = np.array([[1 + e] * half + [1 + e + t] * half + [1.0]]) * scale
    items = np.array([[-(1 + e)] * half + [1 + e + t] * half + [0.0]] * 768)
    items[7] = -items[7]
    items[7, -1] = 0.01
    tensors = [torch.from_numpy(x.astype(np.float32)) for x in (vectors, items / scale)]
    scorer = ProductScorer(lambda users, items: users @ items.T, *tensors)
    lists = _Lists(10, pairs_to_csr([], [], (1, 768)), tie_priority(768, 0))
    found, _ = _Screen(lists, scorer, 1)(np.arange(1))
    assert found[0, 0] == 7


def test_products_of_what_is_not_finite_are_not_screened() -> None:
    users, items = torch.ones(3, 4), torch.ones(5, 4)
    items[2, 1], items[4, 0] = torch.nan, torch.inf
    scorer = ProductScorer(lambda users, items: users @ items.T, users, items)
    found, _ = Ranker(scorer, pairs_to_csr([0], [0], (3, 5)), 5)(np.arange(3))
    assert sorted(found[0]) == [-1, -1, 1, 3, 4] and set(found[:, 0]) == {4}


def test_what_is_no_number_is_ranked_nowhere_on_a_device() -> None:
    scores = torch.tensor([[torch.nan, 1.0, torch.nan, 3.0, torch.nan, torch.inf]])
    lists = _Lists(2, pairs_to_csr([], [], (1, 6)), tie_priority(6, 0))
    found, tied = _OnDevice(lists, lambda ids: scores.clone(), torch.device("cpu"))(np.arange(1))
    assert found.tolist() == [[5, 3]] and not tied[0]


@pytest.mark.parametrize("by_products", [True, False])
def test_a_scorer_is_gone_with_its_ranking(by_products: bool) -> None:
    """In a cycle it would wait for the collector, which counts objects and not their gigabytes."""
    users, items = torch.randn(3, 8), torch.randn(50, 8)
    scorer: Any = ProductScorer(lambda u, i: u @ i.T, users, items)
    if not by_products:
        scorer = partial(lambda x, ids: x[ids], torch.randn(3, 50))
    alive = weakref.ref(scorer)
    gc.disable()
    try:
        Ranker(scorer, pairs_to_csr([], [], (3, 50)), 5)(np.arange(3))
        del scorer
        assert alive() is None
    finally:
        gc.enable()


def test_items_may_lie_in_any_layout() -> None:
    torch.manual_seed(0)
    users, items = torch.randn(30, 8), torch.randn(8, 50).t()
    assert not items.is_contiguous()
    scorer = ProductScorer(lambda users, items: users @ items.T, users, items)
    lists = _Lists(5, pairs_to_csr([], [], (30, 50)), tie_priority(50, 0))
    found, _ = _Screen(lists, scorer, 30)(np.arange(30))
    assert np.array_equal(found, (users @ items.T).topk(5).indices.numpy())


def test_screening_in_several_blocks_is_the_same() -> None:
    data, rng = make_interactions(90, 50), np.random.default_rng(1)
    tensors = [torch.from_numpy(rng.standard_normal((n, 9), dtype=np.float32)) for n in (90, 50)]
    scorer = ProductScorer(lambda users, items: users @ items.T, *tensors)
    lists = _Lists(7, data.train, tie_priority(50, 0))
    whole, parts = (_Screen(lists, scorer, block)(np.arange(90)) for block in (90, 7))
    assert all((a == b).all() for a, b in zip(whole, parts, strict=True))


def test_metrics_by_hand() -> None:
    # User 0 has 3 relevant items, found at places 1 and 3; user 1 has 1, found nowhere.
    hits = np.array([[True, False, True, False], [False] * 4])
    truth = pairs_to_csr([0, 0, 0, 1], [0, 2, 9, 5], (2, 10))
    items = np.array([[0, 1, 2, 3], [0, 1, 2, 3]], dtype=np.int32)
    lists = metrics.Lists(items, hits, truth, np.arange(10, 0, -1))
    np.testing.assert_allclose(metrics.recall(4, lists), [2 / 3, 0])
    np.testing.assert_allclose(metrics.recall(2, lists), [1 / 3, 0])
    np.testing.assert_allclose(metrics.hit_rate(4, lists), [1, 0])
    dcg = 1 / math.log2(2) + 1 / math.log2(4)
    ideal = 1 + 1 / math.log2(3) + 1 / math.log2(4)
    np.testing.assert_allclose(metrics.ndcg(4, lists), [dcg / ideal, 0])
    # With K below |T| the ideal list is cut at K.
    np.testing.assert_allclose(metrics.ndcg(1, lists), [1, 0])


def test_metrics_of_all_lists_by_hand() -> None:
    # Ten items, 0 the most popular; three lists of two, and a place that stays empty.
    items = np.array([[0, 1], [0, 4], [0, -1]], dtype=np.int32)
    truth = pairs_to_csr([0, 0, 1, 2], [1, 9, 4, 8], (3, 10))
    hits = np.array([[False, True], [False, True], [False, False]])
    lists = metrics.Lists(items, hits, truth, np.arange(10, 0, -1))
    assert lists.fifths.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert metrics.coverage(2, lists) == 3 / 10
    # Recommended 3, 1, 1 times and seven times not at all: sum (2i - 11) c_i over i = 8, 9, 10.
    assert metrics.gini(2, lists) == pytest.approx((5 * 1 + 7 * 1 + 9 * 3) / (10 * 5))
    # Sought in the first fifth: item 1, found; third: item 4, found; last: 9 and 8, not.
    found = [metrics.recall_of_fifth(n, 2, lists) for n in range(5)]
    assert found == [1.0, None, 1.0, None, 0.0]
    sampled = metrics.Lists(items, hits, truth, np.arange(10, 0, -1), whole=False)
    assert metrics.coverage(2, sampled) is metrics.gini(2, sampled) is None
    assert metrics.recall_of_fifth(0, 2, sampled) == 1.0


def test_equal_popularity_is_dealt_by_lot() -> None:
    nothing = np.zeros((0, 2), dtype=np.int32)
    lists = metrics.Lists(nothing, nothing > 0, pairs_to_csr([], [], (0, 1000)), np.ones(1000, int))
    of_low, of_high = lists.fifths[:500].mean(), lists.fifths[500:].mean()
    assert abs(of_low - of_high) < 0.3 and np.bincount(lists.fifths).tolist() == [200] * 5


def test_every_metric_is_within_its_range_and_shown() -> None:
    data = make_interactions(50, 40)
    scores = torch.from_numpy(np.random.default_rng(0).standard_normal((50, 40)).astype(np.float32))
    result = ev.evaluate(lambda ids: scores[ids].clone(), data.test, data.train)
    assert set(result.means) == set(metrics.METRICS)
    for name, metric in metrics.METRICS.items():
        value = result.means[name]
        assert value is not None and metric.range[0] <= value <= metric.range[1]
        assert float(metric.show(value)) == pytest.approx(value, abs=1e-4) and metric.label
    parts = [result.means[f"recall@20:fifth{n}"] for n in range(1, 6)]
    assert len(set(parts)) == 5


def test_perfect_scores_give_one_and_users_without_truth_are_left_out() -> None:
    shape = (4, 30)
    test = pairs_to_csr([0, 1, 3], [5, 6, 7], shape)
    train = pairs_to_csr([0, 1, 2, 3], [0, 1, 2, 3], shape)
    scores = torch.from_numpy(test.toarray() + train.toarray() * 100)
    result = ev.evaluate(lambda ids: scores[ids].clone(), test, train)
    assert result.users.tolist() == [0, 1, 3]
    assert set(result.values) == {f"{m}@{k}" for m in ("recall", "ndcg", "hr") for k in (10, 20)}
    assert all((values == 1).all() for values in result.values.values())


def test_result_does_not_depend_on_the_block_size() -> None:
    data = make_interactions(50, 40)
    scores = torch.from_numpy(np.random.default_rng(0).standard_normal((50, 40)).astype(np.float32))
    outcomes = [
        ev.evaluate(lambda ids: scores[ids].clone(), data.test, data.train, block_users=size).means
        for size in (1, 7, None)
    ]
    assert outcomes[0] == outcomes[1] == outcomes[2]


def test_equal_scores_are_ranked_by_lot_and_counted() -> None:
    """All scores equal: recall must be that of a random list, not of the lowest ids."""
    shape = (200, 1000)
    test = pairs_to_csr(np.arange(200), np.zeros(200, dtype=int), shape)  # item 0 for everyone
    nothing = pairs_to_csr([], [], shape)
    found = [
        ev.evaluate(lambda ids: torch.zeros(len(ids), 1000), test, nothing, seed=seed)
        for seed in range(100)
    ]
    assert all(result.ties == 200 for result in found)
    mean = np.mean([result.means["recall@20"] for result in found])
    assert 0.0 <= mean < 0.08  # 0.02 in expectation; by id it would be 1


def test_seen_items_never_come_back() -> None:
    shape = (1, 3)
    seen = pairs_to_csr([0, 0], [0, 1], shape)
    items, _ = Ranker(lambda ids: torch.tensor([[3.0, 2.0, 1.0]]), seen, 3)(np.array([0]))
    assert items.tolist() == [[2, -1, -1]]


def test_sampled_ranking_against_the_slow_version() -> None:
    rng = np.random.default_rng(3)
    shape = (30, 60)
    truth = pairs_to_csr(np.arange(0, 30, 2), rng.integers(0, 10, 15), shape)  # every other user
    negatives = np.stack([10 + rng.permutation(50)[:25] for _ in range(30)]).astype(np.int32)
    negatives[4, 20:] = -1  # a user with fewer candidates
    scores = (rng.integers(0, 8, shape) / 4).astype(np.float32)
    result = ev.evaluate_sampled(
        lambda users, items: torch.from_numpy(scores)[users].gather(1, items), truth, negatives,
        metrics={
            "recall@5": metrics.Metric("", 5, partial(metrics.recall, 5), ""),
            "ndcg@5": metrics.Metric("", 5, partial(metrics.ndcg, 5), ""),
        },
        popularity=np.ones(truth.shape[1], dtype=np.int64), seed=1, block_users=4,
    )  # fmt: skip
    priority = tie_priority(60, 1)
    assert result.users.tolist() == list(range(0, 30, 2))
    for place, user in enumerate(result.users):
        item = int(truth[int(user)].indices[0])
        others = [int(i) for i in negatives[user] if i >= 0]
        key = (-scores[user, item], priority[item])
        rank = sum((-scores[user, i], priority[i]) < key for i in others)
        assert result.values["recall@5"][place] == float(rank < 5)
        gain = 1 / math.log2(rank + 2) if rank < 5 else 0.0
        assert result.values["ndcg@5"][place] == pytest.approx(gain)


@pytest.mark.parametrize("k", [0, -3])
def test_a_list_of_no_items_is_refused(k: int) -> None:
    data = make_interactions(12, 9)

    def scorer(users: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(users), 9)

    with pytest.raises(UsageError, match=f"k is {k}, not a number of items"):
        Ranker(scorer, data.seen_before_test, k)
