"""Dynamic sparse learning against its oracles and worked examples."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from dsl_helpers import explorer, small_table
from dslbench.data.interactions import Interactions
from dslbench.methods.dsl import (
    DSLOptions,
    DynamicSparseLearning,
    keep_above,
)
from dslbench.tables import keep_count, select_largest
from dslbench.tables.select import kth_largest
from dslbench.training.hooks import Loop
from helpers import make_interactions
from training_helpers import parameters, train


def test_prune_and_grow_by_hand() -> None:
    """Live: 0.9, 0.1, 0.5, 0.2 of six. rho = 1/2 drops 0.1 and 0.2 and grows the two largest
    gradients among the four entries then off: 7 (new) and 5 (0.2 comes back with its value)."""
    table = small_table([[0.9, 0.1, 0.0], [0.5, 0.2, 0.0]], [[1, 1, 0], [1, 1, 0]])
    gradient = torch.tensor([[100.0, 1.0, -7.0], [100.0, 5.0, 3.0]])
    after, count = explorer(DSLOptions()).prune_and_grow(table.dense(), table.mask, gradient, 0.5)
    assert count == 2
    table.move_mask(after, torch.optim.Adam([table.weight]))
    assert table.mask.tolist() == [[True, False, True], [True, True, False]]
    assert_allclose(table.dense().numpy(), [[0.9, 0, 0], [0.5, 0.2, 0]], rtol=1e-6)


def test_ablations_prune_and_grow_by_hand() -> None:
    weight = torch.tensor([[0.9, -0.1, 0.3, -0.8], [0.2, -0.4, 0.0, 0.0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]], dtype=torch.bool)
    score = torch.tensor([[0.1, 9.0, 1.0, 0.1], [3.0, 1.0, 5.0, -6.0]])

    def kept(prune: str, rho: float) -> list[list[int]]:
        method = explorer(DSLOptions(prune=prune))  # type: ignore[arg-type]
        size = weight * score if prune == "taylor" else weight
        return method.prune(size, mask, rho, 6).int().tolist()

    assert kept("magnitude", 1 / 3) == [[1, 0, 1, 1], [0, 1, 0, 0]]
    # A third of the three positive weights (0.2), and of the three negative ones (-0.1).
    assert kept("set", 1 / 3) == [[1, 0, 1, 1], [0, 1, 0, 0]]
    assert kept("set", 2 / 3) == [[1, 0, 0, 1], [0, 0, 0, 0]]
    # |w g|: .09 .9 .3 .08 / .6 .4
    assert kept("taylor", 1 / 3) == [[0, 1, 1, 0], [1, 1, 0, 0]]
    uneven = torch.tensor([[0.9, 0.5, 0.3, 0.1, -0.01, -0.02]])
    everything = torch.ones_like(uneven, dtype=torch.bool)
    method = explorer(DSLOptions(prune="set"))
    assert method.prune(uneven, everything, 0.5, 6).int().tolist() == [[1, 1, 0, 0, 0, 1]]


def test_random_growth_is_uniform_over_what_is_free() -> None:
    weight, mask = torch.ones(1, 8), torch.tensor([[1, 1, 1, 1, 0, 0, 0, 0]], dtype=torch.bool)
    weight[0, 3] = 0.1
    method = explorer(DSLOptions(growth="random"))
    grown = torch.zeros(8)
    for _ in range(2000):
        after, count = method.prune_and_grow(weight, mask, torch.zeros(1, 8), 0.25)
        assert count == 1
        grown += (after & ~mask)[0]
    # One of five free places each time, that of the weight just dropped among them.
    assert_allclose(grown[4:] / 2000, 0.2, atol=0.04)


def test_momentum_growth_averages_the_gradients_before_an_exploration() -> None:
    data = make_interactions()
    model, method, _ = train(
        data, "lightgcn", "dsl", 0.5, 4, "dsl.delta_t=4", "dsl.growth=momentum"
    )
    assert isinstance(method, DynamicSparseLearning)
    loop = Loop(model, torch.optim.Adam(model.parameters()), total=100, batch_size=64)
    method.begin(loop)
    (table,) = method.masked
    for t in range(1, 4):
        loop.t = t
        method.before_step(loop)
        table.weight.grad = None
        (table.full() * float(t)).sum().backward()  # type: ignore[no-untyped-call]
        method.watch(loop)
    assert method.sums is not None
    expected = 0.1 * 3 + 0.9 * 0.1 * 2 + 0.81 * 0.1 * 1
    assert_allclose(method.sums[0].numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize(
    "settings_",
    [("growth=random",), ("growth=momentum",), ("prune=set",), ("prune=taylor", "growth=random")],
)
@pytest.mark.parametrize("backbone", ["lightgcn", "ultragcn"])
def test_ablations_keep_the_budget(backbone: str, settings_: tuple[str, ...]) -> None:
    options = [f"dsl.{setting}" for setting in settings_]
    model, method, _ = train(
        make_interactions(), backbone, "dsl", 0.5, 3, "dsl.delta_t=2", "batch_size=64", *options
    )
    assert method.diagnostics()["explorations_in_all"] > 5
    for table in model.tables().values():
        assert table.live() == keep_count(table.spec.n_rows * table.spec.dim, 0.5)


def test_update_ratio_follows_equation_2_and_its_alternatives() -> None:
    def ratios(**options: object) -> list[float]:
        method = explorer(DSLOptions(rho0=0.5, **options))  # type: ignore[arg-type]
        return [method.update_ratio(t, 100) for t in (0, 25, 50, 75, 100)]

    assert_allclose(ratios(), 0.5 * np.array([1, 0.854, 0.5, 0.146, 0]), atol=5e-4)
    official = DynamicSparseLearning.variants["official"]["eta_min"]
    assert_allclose(ratios(eta_min=official), [0.5, 0.4275, 0.2525, 0.0775, 0.005], atol=5e-5)
    assert_allclose(ratios(decay="linear"), [0.5, 0.375, 0.25, 0.125, 0])
    assert_allclose(ratios(decay="none"), [0.5] * 5)


@pytest.mark.parametrize("setting", ["dsl.rho0=0", "dsl.delta_t=1000000"])
def test_without_exploration_it_is_random_pruning_bit_for_bit(
    interactions: Interactions, setting: str
) -> None:
    moving = parameters(train(interactions, "lightgcn", "dsl", 0.5, 3, setting)[0])
    fixed = parameters(train(interactions, "lightgcn", "rp", 0.5, 3)[0])
    assert all(torch.equal(moving[name], fixed[name]) for name in fixed)


@pytest.mark.parametrize("sparsity", [0.5, 0.8, 0.9, 0.99])
@pytest.mark.parametrize("ranking", ["joint", "segment"])
def test_every_exploration_keeps_the_count_and_clears_the_rest(
    sparsity: float, ranking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    original = DynamicSparseLearning.explore

    def checked(self: DynamicSparseLearning, loop: Loop) -> bool:
        before = self.masked[0].mask
        explored = original(self, loop)
        table = self.masked[0]
        assert int((before & ~table.mask).sum()) == int((table.mask & ~before).sum())
        expected = sum(
            keep_count(7 * (rows.stop - rows.start), sparsity) for rows in self.groups(table)
        )
        seen.append(table.live())
        assert table.live() == expected
        return explored

    monkeypatch.setattr(DynamicSparseLearning, "explore", checked)
    train(
        make_interactions(),
        "lightgcn",
        "dsl",
        sparsity,
        4,
        "dsl.delta_t=2",
        f"dsl.ranking={ranking}",
    )
    assert len(seen) > 5


def test_official_variant_keeps_moments_warm_and_its_own_count() -> None:
    data = make_interactions()
    model, method, _ = train(
        data, "lightgcn", "dsl", 0.5, 4, "dsl.variant=official", "dsl.delta_t=2"
    )
    assert isinstance(method, DynamicSparseLearning)
    table = method.masked[0]
    assert table.live() == method.budget[0]
    assert abs(table.live() - keep_count(table.mask.numel(), 0.5)) < 60  # coins, not exact
    assert not table.dense()[~table.mask].any()
    assert method.diagnostics()["explorations_in_all"] > 5
    assert model.tables()["embedding"].pack().parameters == table.live()


@pytest.mark.parametrize("form", ["full", "packed"])
@pytest.mark.parametrize("score", ["instant", "accum"])
def test_a_mask_moves_where_a_step_comes_before_it(form: str, score: str) -> None:
    """The step masks the gradient that the exploration after it needs."""
    settings = [f"dsl.{x}" for x in ("step_on_explore=true", "delta_t=2")]
    _, method, _ = train(
        make_interactions(), "lightgcn", "dsl", 0.5, 4, *settings, f"dsl.table_form={form}",
        f"dsl.grow_score={score}",
    )  # fmt: skip
    assert method.diagnostics()["itop_rate"] > 0.7


def test_itop_rate_and_zero_score_growth_are_reported() -> None:
    data = make_interactions()
    _, method, _ = train(data, "lightgcn", "dsl", 0.8, 4, "dsl.delta_t=1")
    found = method.diagnostics()
    assert 0.2 < found["itop_rate"] <= 1
    assert found["zero_score_growth_fraction"] == 0  # propagation gives every entry a gradient
    assert found["grown"] > 0


def test_equal_scores_at_the_cut_are_taken_by_lot() -> None:
    score = torch.zeros(100, 10)
    score[0, :3] = torch.tensor([3.0, -2.0, 1.0])
    candidates = torch.ones(100, 10, dtype=torch.bool)
    candidates[0, 1] = False
    chosen = select_largest(score, candidates, 52, np.random.default_rng(0))
    assert int(chosen.sum()) == 52
    assert chosen[0, 0] and chosen[0, 2] and not chosen[0, 1]
    places = chosen.view(-1).nonzero().squeeze(1)[2:].float()
    assert 300 < places.mean() < 700  # by index they would be the first fifty


def test_threshold_rule_drops_ties_together() -> None:
    magnitude = torch.tensor([[0.0, 0.1, -0.1, 0.1, 0.5]])
    mask = torch.ones(1, 5, dtype=torch.bool)
    assert keep_above(magnitude, mask, 2).tolist() == [[False, False, False, False, True]]
    kept = select_largest(magnitude, mask, 3, np.random.default_rng(0))
    assert kept[0, 4] and not kept[0, 0] and int(kept.sum()) == 3


@given(
    seed=st.integers(0, 10_000),
    shape=st.tuples(st.integers(1, 30), st.integers(1, 9)),
    count=st.integers(0, 300),
    levels=st.sampled_from([1, 3, 1000]),
)
@settings(max_examples=150, deadline=None)
def test_selection_is_exact_under_ties(
    seed: int, shape: tuple[int, int], count: int, levels: int
) -> None:
    rng = np.random.default_rng(seed)
    values = (rng.integers(-levels, levels + 1, size=shape) * 1e-3).astype(np.float32)
    among = rng.random(shape) < 0.7
    chosen = select_largest(torch.from_numpy(values), torch.from_numpy(among), count, rng)
    flat = [i for i in range(values.size) if among.reshape(-1)[i]]
    flat.sort(key=lambda i: -abs(values.reshape(-1)[i]))
    taken = chosen.view(-1).nonzero().squeeze(1).tolist()
    sizes = [sorted(abs(values.reshape(-1)[i]) for i in some) for some in (taken, flat[:count])]
    assert sizes[0] == sizes[1] and set(taken) <= set(flat)
    if 0 < count <= len(flat):
        expected = abs(values.reshape(-1)[flat[count - 1]])
        assert kth_largest(torch.from_numpy(values), torch.from_numpy(among), count) == expected


@pytest.mark.parametrize(
    ("parameters_", "sparsity", "kept"),
    [(6, 0.5, 3), (7, 0.5, 4), (10, 0.7, 3), (10, 0.3, 7), (5, 0.99, 1), (1000, 0.0, 1000)],
)
def test_keep_count_by_hand(parameters_: int, sparsity: float, kept: int) -> None:
    assert keep_count(parameters_, sparsity) == kept


def test_growth_scores_add_up_over_the_last_batches_where_asked() -> None:
    data = make_interactions()
    model, method, _ = train(
        data, "lightgcn", "dsl", 0.5, 4, "dsl.delta_t=4", "dsl.grow_score=accum", "batch_size=64"
    )
    assert isinstance(method, DynamicSparseLearning)
    assert method.window == 2  # 70 rows, 64 triples a batch
    loop = Loop(model, torch.optim.Adam(model.parameters()), total=100, batch_size=64)
    method.begin(loop)
    (table,) = method.masked
    for t, expected in [(1, None), (2, None), (3, 3.0), (4, 7.0)]:
        loop.t = t
        method.before_step(loop)
        table.weight.grad = None
        (table.full() * float(-t)).sum().backward()  # type: ignore[no-untyped-call]
        method.watch(loop)
        assert (method.sums and float(method.sums[0].mean())) == expected
    method.explore(loop)
    assert method.sums is None


def test_regrown_zeros_that_are_dropped_again_are_drawn_by_lot() -> None:
    data = make_interactions(200, 150, density=0.05)
    model, _, _ = train(
        data, "lightgcn", "dsl", 0.9, 3, "dsl.growth=random", "dsl.delta_t=1", "embedding_size=16"
    )
    live = model.tables()["embedding"].pack().live()
    halves = live[:100].mean(), live[100:200].mean()  # of the users
    assert 0.6 < halves[0] / halves[1] < 1.6


def test_where_nothing_is_left_to_exchange_algorithm_1_takes_no_step_either() -> None:
    data = make_interactions()
    own = ["dsl.decay=linear", "dsl.delta_t=1"]  # rho is 0 in the last iteration
    model, method, _ = train(data, "lightgcn", "dsl", 0.5, 2, *own)
    loop = SimpleNamespace(t=10, total=10, note=lambda *_: None, model=model)
    assert method.update_ratio(10, 10) == 0.0 and method.explore(loop)  # type: ignore[attr-defined]
    model, full, _ = train(data, "lightgcn", "dsl", 0.0, 2, *own)
    loop.model = model
    assert not full.explore(loop)  # type: ignore[attr-defined]


def test_diagnostics_are_those_of_the_epoch_that_is_stored() -> None:
    _, method, lab = train(
        make_interactions(), "lightgcn", "dsl", 0.5, 6, "dsl.delta_t=2", "dsl.decay=none"
    )
    found, phase = method.diagnostics(), lab.phases[-1]
    assert phase.selected_epoch is not None
    steps = phase.steps // 6 * phase.selected_epoch
    assert found["explorations"] == steps // 2
    assert found["explorations_in_all"] == phase.steps // 2
