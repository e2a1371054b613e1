"""AutoEmb and ESAPN: budgets, look-ups, exploration and storage against their oracles."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from dslbench import artefact
from dslbench.artefact import StoredModel
from dslbench.backbones.base import Backbone
from dslbench.errors import DataError, UsageError
from dslbench.methods import autoemb, esapn
from dslbench.methods._controllers import frozen, mean_losses, occurrences, split_pairs
from dslbench.methods._sizes import Budget, Group, choose_by_penalty, gain_per_parameter
from dslbench.runs.assemble import served
from dslbench.sampling.triples import Triples
from dslbench.tables import CandidateTable, MixedTable, Table, TableSpec
from dslbench.tables.maps import map_parameters
from dslbench.tables.spec import normal
from dslbench.tables.stored import Bitmap, Dense, Rows, Values, sizes_by_form
from dslbench.training.hooks import Loop
from helpers import make_interactions
from training_helpers import checkerboard, train

METHODS = ["autoemb", "esapn"]
SPEC = TableSpec("t", (("user", 5), ("item", 4)), 8, normal(0.5))
SIZES = (1, 2, 4, 8)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def mixed_table(chain: bool, sizes: tuple[int, ...] = SIZES, seed: int = 0) -> MixedTable:
    """Random vectors, sizes and norms."""
    table = MixedTable(SPEC, rng(seed), sizes, chain)
    drawn = rng(seed + 1)
    with torch.no_grad():
        for p in table.parameters():
            p.copy_(torch.from_numpy(drawn.standard_normal(tuple(p.shape))))
        for norm in table.norms:
            norm.estimate(  # type: ignore[operator]
                torch.from_numpy(drawn.standard_normal(8)), torch.from_numpy(drawn.random(8) + 0.5)
            )
    table.resize(torch.from_numpy(drawn.integers(len(sizes), size=9)))
    return table


def slowly(table: MixedTable, ids: list[int]) -> np.ndarray:
    """Row by row, step by step, in double precision."""
    out = np.zeros((len(ids), 8))
    for segment, inside in enumerate([range(5), range(5, 9)]):
        maps: Any = table.maps[segment]
        norm: Any = table.norms[segment]
        steps = [
            (s.weight.detach().double().numpy(), s.bias.detach().double().numpy())
            for s in maps.steps
        ]
        here, z = [b for b, r in enumerate(ids) if r in inside], []
        for b in here:
            place = int(table.place[ids[b]])
            x = table.weight[ids[b], : table.sizes[place]].detach().double().numpy()
            for weight, bias in steps[place:] if table.chain else steps[place : place + 1]:
                x = x @ weight + bias
            z.append(x)
        if not here:
            continue
        rows = np.array(z)
        mean, variance = norm.mean.double().numpy(), norm.variance.double().numpy()
        if table.training and len(here) > 1:
            mean, variance = rows.mean(axis=0), rows.var(axis=0)
        scaled = (rows - mean) / np.sqrt(variance + norm.eps)
        scale, shift = norm.scale.detach().double().numpy(), norm.shift.detach().double().numpy()
        out[here] = np.tanh(scaled * scale + shift)
    return out


@pytest.mark.parametrize("chain", [False, True])
@pytest.mark.parametrize("sizes", [SIZES, (2, 3), (8,), (1, 3)])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("ids", [[7, 0, 7, 3, 8, 1], [2], [6, 5], list(range(9))])
def test_look_up_equals_the_obvious_slow_version(
    chain: bool, sizes: tuple[int, ...], training: bool, ids: list[int]
) -> None:
    table = mixed_table(chain, sizes).train(training)
    expected = slowly(table, ids)
    assert_allclose(table.rows(torch.tensor(ids)).detach().numpy(), expected, atol=2e-5)
    if ids == list(range(9)):
        assert_allclose(table.full().detach().numpy(), expected, atol=2e-5)


@pytest.mark.parametrize("training", [False, True])
def test_soft_rows_are_the_weighted_sum_over_sizes(training: bool) -> None:
    table = CandidateTable(SPEC, rng(), SIZES).train(training)
    weights = torch.from_numpy(rng(1).dirichlet(np.ones(4), size=9)).float()
    table.mix(weights)
    expected = np.zeros((9, 8))
    for segment, inside in enumerate([slice(0, 5), slice(5, 9)]):
        maps: Any = table.maps[segment]
        norm: Any = table.norms[segment]
        first = 0
        for place, width in enumerate(SIZES):
            step = maps.steps[place]
            x = table.weight[inside, first : first + width] @ step.weight + step.bias
            z, first = x.detach().double().numpy(), first + width
            mean, variance = norm.mean.numpy(), norm.variance.numpy()
            if training:
                mean, variance = z.mean(axis=0), z.var(axis=0)
            scaled = (z - mean) / np.sqrt(variance + norm.eps) * norm.scale.detach().numpy()
            expected[inside] += weights[inside, place : place + 1].numpy() * np.tanh(scaled)
        # What is looked at next must not see the statistics this look moved.
    table.norms.requires_grad_(False)
    for norm in table.norms:
        norm.momentum = 0.0  # type: ignore[assignment]
    assert_allclose(table.full().detach().numpy(), expected, atol=1e-5)
    if not training:
        ids = torch.tensor([8, 1, 1, 4])
        assert_allclose(table.rows(ids).detach().numpy(), expected[ids], atol=1e-5)


@pytest.mark.parametrize("kind", ["direct", "chain", "soft"])
@pytest.mark.parametrize("training", [False, True])
def test_gradients_match_finite_differences(kind: str, training: bool) -> None:
    table: Table = (
        CandidateTable(SPEC, rng(), SIZES) if kind == "soft" else mixed_table(kind == "chain")
    )
    table.double().train(training)
    for module in table.modules():
        if hasattr(module, "momentum"):
            module.momentum = 0.0
    weights = torch.from_numpy(rng(1).dirichlet(np.ones(4), size=9)).requires_grad_()
    if isinstance(table, CandidateTable):
        table.mix(weights)
    ids = torch.tensor([7, 0, 7, 3, 8, 1])
    towards = torch.from_numpy(rng(2).standard_normal((6 + 9, 8)))

    def value() -> torch.Tensor:
        return (torch.cat([table.rows(ids), table.full()]) * towards).sum()

    value().backward()  # type: ignore[no-untyped-call]
    parameters = [*table.parameters(), *([weights] if kind == "soft" else [])]
    inside = None
    if isinstance(table, MixedTable):
        inside = torch.arange(8) < torch.from_numpy(table.widths).unsqueeze(1)
        assert table.weight.grad is not None
        assert not table.weight.grad[~inside].any()
    for parameter in parameters:
        direction = torch.from_numpy(rng(3).standard_normal(tuple(parameter.shape)))
        if inside is not None and parameter is table.weight:
            direction *= inside
        # In ranking the map of a size that no row has is not looked at.
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        slope = float((gradient * direction).sum())
        ends = []
        for step in (1e-6, -2e-6):
            with torch.no_grad():
                parameter += step * direction
                ends.append(float(value()))
        with torch.no_grad():
            parameter += 1e-6 * direction
        assert slope == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("chain", [False, True])
@pytest.mark.parametrize("places", [None, [3] * 9, [0] * 9])
def test_stored_rows_come_back_bit_for_bit(chain: bool, places: list[int] | None) -> None:
    table = mixed_table(chain).eval()
    if places:
        table.resize(torch.tensor(places))
    table.allowed = [sorted(set(table.place[:5].tolist())), [0, 1, 2, 3]]
    stored = table.pack()
    by_hand = int(table.widths.sum()) + sum(
        (8 + 8 if chain and w == 8 else w * 8 + 8)
        for places_ in table.allowed
        for w in (SIZES[p] for p in places_)
    )
    assert stored.parameters == table.live() == by_hand
    model = StoredModel({"t": stored}, {}, {"dataset": "toy"}, {"train": "abc"})
    content = artefact.to_bytes(model)
    again = artefact.from_bytes(content).tables["t"]
    assert isinstance(again, Rows)
    assert again.parameters == stored.parameters
    assert np.array_equal(again.widths, stored.widths)
    assert np.array_equal(again.unpack(), table.full().detach().numpy())
    served = again.table(SPEC)
    assert torch.equal(served.full(), table.full())
    ids = torch.tensor([8, 0, 3, 3, 5])
    assert torch.equal(served.rows(ids), table.rows(ids))
    assert served.live() == stored.parameters and served.pack() is again
    assert sizes_by_form(model.tables.values()) == {"dense": 9 * 8 * 4, "rows": again.nbytes}
    assert again.nbytes == 4 * stored.parameters + 9 <= len(content)
    assert artefact.to_bytes(StoredModel({"t": again}, {}, model.spec, model.digests)) == content


def test_a_model_of_several_forms_is_sized_by_what_each_can_be() -> None:
    rows, full = mixed_table(False).eval().pack(), np.ones((2, 2), np.float32)
    tables = {"a": rows, "b": Dense.of(full)}
    found = sizes_by_form(tables.values())
    assert found == {"dense": 9 * 8 * 4 + 16, "rows": rows.nbytes + 16}
    tables |= {"b": Bitmap.of(full, full > 0)}
    found = sizes_by_form(tables.values())
    assert found["csr"] is None and found["bitmap"] == rows.nbytes + 16 + 2 + 2


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_damaged_rows_are_one_line_or_read(draw: st.DataObject) -> None:
    stored = mixed_table(draw.draw(st.booleans())).eval().pack()
    content = bytearray(artefact.to_bytes(StoredModel({"t": stored}, {}, {}, {})))
    for _ in range(draw.draw(st.integers(1, 4))):
        content[draw.draw(st.integers(0, len(content) - 1))] = draw.draw(st.integers(0, 255))
    try:
        artefact.from_bytes(bytes(content)).tables["t"].unpack()
    except DataError as error:
        assert "\n" not in error.message
    except KeyError:  # the table's own name was hit
        pass


@pytest.mark.parametrize(
    "damage",
    [
        {"widths": np.full(9, 3)},
        {"widths": np.full(9, 99)},
        {"widths": np.ones(8, dtype=np.int64)},
        {"segments": (5, 5)},
        {"values": Values.of(np.zeros(9), np.ones(9, dtype=np.int64))},
        {"maps": {}},
    ],
)
def test_parts_that_do_not_fit_are_damage(damage: dict[str, Any]) -> None:
    stored = mixed_table(False).eval().pack()
    Rows(**(vars(stored) | {})).check()
    with pytest.raises(ValueError):
        Rows(**(vars(stored) | damage)).check()


def test_enlarging_keeps_what_a_row_stands_for_and_taking_it_back_keeps_every_bit() -> None:
    table = mixed_table(True, (1, 3, 8))
    table.resize(torch.tensor([0, 1, 0, 2, 1, 0, 0, 1, 2]))
    for norm in table.norms:
        norm.momentum = 0.0  # type: ignore[assignment]
    before, weight, place = table.full(), table.weight.detach().clone(), table.place.clone()
    rows = torch.tensor([5, 0, 1, 7])
    vectors = table.weight[rows].detach().clone()
    table.enlarge(rows)
    assert table.place.tolist() == [1, 2, 0, 2, 1, 1, 0, 2, 2]
    assert_allclose(table.full().detach().numpy(), before.detach().numpy(), atol=1e-5)
    assert table.weight[0, 1:3].detach().any() and not table.weight[0, 3:].detach().any()
    table.shrink(rows, vectors)
    assert torch.equal(table.weight, weight) and torch.equal(table.place, place)
    assert torch.equal(table.full(), before)


def groups(seed: int, n: int = 40, dim: int = 16, chain: bool = False) -> list[Group]:
    sizes = (1, 2, 4, 8, 16)
    cost = np.array([map_parameters(w, dim, chain) for w in sizes])
    found = []
    for segment, entity in enumerate(("user", "item")):
        degrees = rng(seed + segment).integers(1, 30, size=n)
        buckets = torch.from_numpy(np.floor(np.log2(degrees + 1)).astype(np.int64))
        found.append(
            Group(
                "embedding", segment, entity, segment * n, np.array(sizes), cost, degrees, buckets
            )
        )
    return found


@given(
    seed=st.integers(0, 10_000),
    share=st.floats(0.05, 1),
    levels=st.sampled_from([1, 2, 1000]),
    chain=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_the_penalty_is_monotone_and_the_budget_is_met(
    seed: int, share: float, levels: int, chain: bool
) -> None:
    found = groups(seed, 60, chain=chain)
    parameters = 2 * 60 * 16
    limit = int(share * parameters)
    try:
        budget = Budget(found, limit)
    except UsageError as error:
        assert "\n" not in error.message and error.hint
        assert limit < 2 * 60 + 2 * 17 * 16 + 16  # the smallest rows, and the next map
        return
    drawn = rng(seed).integers(1, levels + 1, size=(2, 60, 5)).astype(float)
    log_a = [np.log(x / x.sum(axis=1, keepdims=True)) for x in drawn]

    def chosen(penalty: float) -> int:
        return sum(
            int(g.sizes[a][(x[:, a] - penalty * g.sizes[a]).argmax(axis=1)].sum())
            for g, a, x in zip(found, budget.allowed, log_a, strict=True)
        ) + budget.maps(budget.allowed)

    totals = [chosen(penalty) for penalty in (0, 1e-4, 1e-3, 1e-2, 0.1, 1, 10)]
    assert totals == sorted(totals, reverse=True)
    places, penalty = choose_by_penalty(budget, log_a)
    assert budget.total(places) == chosen(penalty) <= limit
    if penalty:
        assert chosen(penalty * (1 - 1e-6)) > limit  # no smaller one would do
    spent = budget.spend(places, gain_per_parameter(log_a, found))
    assert all((b >= a).all() for a, b in zip(places, spent, strict=True))
    final = budget.settle(
        lambda: budget.spend(choose_by_penalty(budget, log_a)[0], gain_per_parameter(log_a, found))
    )
    assert limit - 16 <= budget.total(final) <= limit
    for p, a in zip(final, budget.allowed, strict=True):
        assert set(np.unique(p)) <= set(a)


def test_what_is_left_goes_to_the_best_gain_for_a_parameter() -> None:
    """Two rows at width 1; three parameters are left beyond the maps.

    Row 0 gains 0.6 for one (to 2) or 0.9 for three (to 4); row 1 gains 0.5 for one. So both go to
    2, and the third parameter buys nothing.
    """
    sizes, cost = np.array([1, 2, 4]), np.array([0, 0, 0])
    group = Group(
        "t", 0, "user", 0, sizes, cost, np.array([3, 9]), torch.zeros(2, dtype=torch.int64)
    )
    log_a = [np.array([[-2.0, -1.4, -1.1], [-2.0, -1.5, -9.0]])]
    budget = Budget([group], 5)
    start = [np.zeros(2, dtype=np.int64)]
    assert budget.spend(start, gain_per_parameter(log_a, [group]))[0].tolist() == [1, 1]
    assert start[0].tolist() == [0, 0]
    # With six, row 0 takes two more for 0.3.
    budget = Budget([group], 6)
    assert budget.spend(start, gain_per_parameter(log_a, [group]))[0].tolist() == [2, 1]
    # Of equal gains the more popular row's comes first.
    same = [np.array([[-2.0, -1.0, -1.0], [-2.0, -1.0, -1.0]])]
    assert Budget([group], 3).spend(start, gain_per_parameter(same, [group]))[0].tolist() == [0, 1]


def embedding_tables(model: Backbone) -> list[MixedTable]:
    return [table for table in model.tables().values() if isinstance(table, MixedTable)]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("backbone", ["lightgcn", "ultragcn"])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.8, 0.9])
def test_rows_and_maps_fill_the_budget(method: str, backbone: str, sparsity: float) -> None:
    data = make_interactions(150, 120, density=0.1)
    model, trained, lab = train(
        data, backbone, method, sparsity, 2, "embedding_size=16", "batch_size=256",
        f"{method}.hidden=16",
    )  # fmt: skip
    packed = artefact.from_bytes(artefact.to_bytes(artefact.pack(model, {}, {})))
    stored = sum(table.parameters for table in packed.tables.values())
    parameters = 270 * 16
    assert math.floor(parameters * (1 - sparsity) + 1e-9) - 16 <= stored
    assert stored <= parameters * (1 - sparsity) + 1e-9
    rebuilt = served(packed, lab)
    users = torch.arange(data.n_users)
    model.eval(), rebuilt.eval()
    assert torch.equal(model.scorer()(users), rebuilt.scorer()(users))
    found = trained.diagnostics()
    for entity, rows in (("user", 150), ("item", 120)):
        assert sum(found["sizes"][entity].values()) == rows
        rho = found["size_popularity_rank_correlation"][entity]
        assert rho is None or -1 <= rho <= 1
    if sparsity == 0.9:
        return
    assert found["natural_params"] > 0


@pytest.mark.parametrize("method", METHODS)
def test_natural_size_is_whatever_comes_out(method: str) -> None:
    data = make_interactions(60, 50)
    sizes = []
    for sparsity in (0.5, 0.99):
        model, trained, _ = train(data, "lightgcn", method, sparsity, 2, f"{method}.budget=natural")
        (table,) = embedding_tables(model)
        found = trained.diagnostics()
        assert table.live() == table.pack().parameters == found["natural_params"]
        sizes.append(found["sizes"])
    assert sizes[0] == sizes[1]


def state(model: Backbone) -> dict[str, torch.Tensor]:
    """A copy of a model's state, without the sums that are among the buffers of a counted step."""
    return {name: x.clone() for name, x in model.state_dict().items() if "total_" not in name}


def test_rows_only_grow_and_exploration_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    explored = grown = 0
    explore, grow = esapn._Search.explore, esapn._Search.grow

    def checked_explore(
        self: esapn._Search, model: Backbone, batch: Any, growing: list[torch.Tensor]
    ) -> torch.Tensor:
        nonlocal explored
        before = state(model)
        losses = explore(self, model, batch, growing)
        after = model.state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert all(p.requires_grad for p in model.parameters())
        explored += sum(len(ids) for ids in growing)
        return losses

    def checked_grow(self: esapn._Search, loop: Loop, asked: list[torch.Tensor]) -> None:
        nonlocal grown
        before = self.places()
        grow(self, loop, asked)
        after = self.places()
        larger = [b - a for a, b in zip(before, after, strict=True)]
        assert all(((x == 0) | (x == 1)).all() for x in larger)
        assert self.budget.limit is not None and self.left is not None
        assert self.budget.total(after) == self.budget.limit - self.left <= self.budget.limit
        for table, x, g in zip(self.tables, larger, self.groups, strict=True):
            state = loop.optimiser.state.get(table.weight, {})
            rows = g.first + np.flatnonzero(x)
            if "exp_avg" in state:
                assert not state["exp_avg"][rows].any()
            inside = torch.arange(table.spec.dim) < torch.from_numpy(table.widths).unsqueeze(1)
            assert not table.weight.detach()[~inside].any()
        grown += int(sum(x.sum() for x in larger))

    monkeypatch.setattr(esapn._Search, "explore", checked_explore)
    monkeypatch.setattr(esapn._Search, "grow", checked_grow)
    model, method, _ = train(make_interactions(), "lightgcn", "esapn", 0.5, 6)
    assert explored > 20 and grown > 5
    assert isinstance(method, esapn.ESAPN)
    (table,) = embedding_tables(model)
    assert table.place.tolist() == np.concatenate(method.places).tolist()


def test_controllers_and_model_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """The controllers' step moves nothing of the model, and the model's nothing of them."""
    original, controller_step = autoemb._Search.loss, autoemb._Search.controller_step
    seen = 0

    def checked_step(self: autoemb._Search, model: Backbone, batch: Any) -> float:
        nonlocal seen
        before = state(model)
        weights = [p.detach().clone() for p in self.controllers.parameters()]
        value = controller_step(self, model, batch)
        after = model.state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert any(
            not torch.equal(a, b)
            for a, b in zip(weights, self.controllers.parameters(), strict=True)
        )
        seen += 1
        return value

    def checked_loss(self: autoemb._Search, loop: Loop, batch: Any) -> torch.Tensor:
        loss = original(self, loop, batch)
        table = self.tables[0]
        assert torch.allclose(table.weights.sum(dim=1), torch.ones(table.spec.n_rows))
        touched = torch.unique(batch.users)
        others = np.setdiff1d(np.arange(40), touched.numpy())
        if loop.t == 1:  # those outside the batch still have all their mass on the smallest size
            assert (table.weights[others, 0] == 1).all()
            assert (table.weights[touched, 0] < 1).all()
        weights = [p.detach().clone() for p in self.controllers.parameters()]
        (gradient,) = torch.autograd.grad(loss, [table.weight], retain_graph=True)
        assert gradient.any()
        for a, b in zip(weights, self.controllers.parameters(), strict=True):
            assert torch.equal(a, b)
        return loss

    monkeypatch.setattr(autoemb._Search, "controller_step", checked_step)
    monkeypatch.setattr(autoemb._Search, "loss", checked_loss)
    train(make_interactions(), "lightgcn", "autoemb", 0.5, 2, "autoemb.last_loss=true")
    assert seen > 5


def test_reinforce_makes_a_rewarded_action_likelier() -> None:
    """With a past loss far above the present one every sampled action is reinforced."""
    captured: list[esapn._Search] = []
    original = esapn._Search.finish

    class Stop(Exception):
        pass

    def finish(self: esapn._Search) -> None:
        captured.append(self)
        raise Stop

    esapn._Search.finish = finish  # type: ignore[method-assign]
    try:
        data = make_interactions()
        with pytest.raises(Stop):
            train(data, "lightgcn", "esapn", 0.5, 2)
    finally:
        esapn._Search.finish = original  # type: ignore[method-assign]
    (search,) = captured
    ids = torch.arange(10)
    search.controllers.eval()
    for reward in (5.0, -5.0):
        logits = search.logits(0, ids)
        taken = torch.nn.functional.cross_entropy(
            logits, torch.ones(10, dtype=torch.int64), reduction="none"
        )
        search.step.zero_grad()
        before = search.margin(0, ids).detach().mean()
        (taken * reward).sum().backward()  # type: ignore[no-untyped-call]
        search.step.step()
        assert float((search.margin(0, ids).detach().mean() - before) * reward) > 0


def test_losses_are_shared_out_to_users_and_items() -> None:
    batch = Triples(torch.tensor([4, 1, 4]), torch.tensor([0, 2, 3]), torch.tensor([2, 3, 3]))
    losses = torch.tensor([1.0, 2.0, 4.0])
    found = occurrences(batch)
    ids, means = mean_losses(found["user"], losses)
    assert ids.tolist() == [1, 4] and means.tolist() == [2.0, 2.5]
    ids, means = mean_losses(found["item"], losses)
    # item 3 is in examples 2 (twice: wanted and unwanted) and 1
    assert ids.tolist() == [0, 2, 3]
    assert_allclose(means.numpy(), [1.0, 1.5, 10 / 3])


def test_held_out_pairs_are_apart_and_leave_every_user_one() -> None:
    data = make_interactions()
    for share in (0.1, 0.99):
        kept, held = split_pairs(data, share, rng())
        assert (kept + held != data.train).nnz == 0 and kept.multiply(held).nnz == 0
        assert (np.diff(kept.indptr) >= (np.diff(data.train.indptr) > 0)).all()
        assert held.nnz == pytest.approx(share * data.train.nnz, rel=0.5)


def test_frozen_gives_everything_back() -> None:
    model, _, _ = train(make_interactions(), "lightgcn", "esapn", 0.5, 2)
    with frozen(model):
        assert not any(p.requires_grad for p in model.parameters())
        assert all(norm.momentum == 0 for norm in embedding_tables(model)[0].norms)
    assert all(p.requires_grad for p in model.parameters())
    assert all(norm.momentum == 0.1 for norm in embedding_tables(model)[0].norms)


@pytest.mark.parametrize("method", METHODS)
def test_rows_that_are_equally_popular_have_no_correlation(method: str) -> None:
    data = checkerboard(20)
    _, trained, _ = train(data, "lightgcn", method, 0.5, 2)
    assert set(trained.diagnostics()["size_popularity_rank_correlation"].values()) == {None}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("backbone", "sparsity", "setting", "message"),
    [
        ("lightgcn", 0.99, "", "rows of the smallest size and their maps take"),
        ("lightgcn", 0.5, "sizes=[7]", "rows of the smallest size and their maps take"),
        ("lightgcn", 0.5, "sizes=[1]", "comes within a row"),
        ("lightgcn", 0.5, "sizes=[8, 9]", "fits an embedding size of 7"),
        ("multvae", 0.5, "", "no table of users"),
        ("cdae", 0.5, "", "only its user matrix"),
    ],
)
def test_what_cannot_be_met_is_one_line(
    method: str, backbone: str, sparsity: float, setting: str, message: str
) -> None:
    own = [f"{method}.{setting}"] if setting else []
    with pytest.raises(UsageError, match=message) as caught:
        train(make_interactions(), backbone, method, sparsity, 2, *own)
    assert "\n" not in caught.value.message and "METHOD" not in str(caught.value.hint)


@pytest.mark.parametrize("kind", ["soft", "chain"])
@pytest.mark.parametrize("sizes", [(2, 3, 8), (2,), (8,)])
def test_a_pretrained_start_is_kept_where_the_size_suffices(
    kind: str, sizes: tuple[int, ...]
) -> None:
    """Rows of rank 2 around a mean, small enough for tanh: vectors of width 2 hold them."""
    drawn = rng(5)
    values = 0.01 * (
        drawn.standard_normal((9, 2)) @ drawn.standard_normal((2, 8)) + drawn.standard_normal(8)
    )
    start = torch.from_numpy(values).float()
    table: CandidateTable | MixedTable = (
        CandidateTable(SPEC, rng(), sizes)
        if kind == "soft"
        else MixedTable(SPEC, rng(), sizes, True)
    )
    for norm in table.norms:
        norm.eps = 1e-12  # type: ignore[assignment]
    table.start(start)
    if isinstance(table, CandidateTable):
        table.mix(torch.from_numpy(rng(1).dirichlet(np.ones(len(sizes)), size=9)).float())
    assert_allclose(table.full().detach().numpy(), np.tanh(values), rtol=1e-3, atol=1e-5)
    if isinstance(table, MixedTable) and len(sizes) == 3:
        table.enlarge(torch.tensor([0, 4, 7]))
        assert_allclose(table.full().detach().numpy(), np.tanh(values), rtol=1e-3, atol=1e-5)
