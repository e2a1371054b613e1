"""The plain competitors (narrow rows, factors, sizes, shared rows, codes, few bits) and what must hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dslbench.cost import measured
from dslbench.data.interactions import Interactions
from dslbench.errors import UnsuitableError, UsageError
from dslbench.methods.lsq import LearnedSteps, StepOptions
from dslbench.methods.magprune import best_of
from dslbench.methods.mde import widths_for
from dslbench.methods.pq import quantised
from dslbench.methods.qr import rows_of, shares
from dslbench.ops import low_adam
from dslbench.ops.affine import PrincipalAxes
from dslbench.ops.clusters import NearestRows
from dslbench.ops.learned_steps import on_learned_grid
from dslbench.optimisers import Adam
from dslbench.tables import DenseTable
from dslbench.tables.coded import CodedTable
from dslbench.tables.composed import ComposedTable
from dslbench.tables.factored import FactoredTable
from dslbench.tables.low_precision import LowPrecisionTable
from dslbench.tables.spec import TableSpec, normal
from dslbench.tables.stepped import SteppedTable
from dslbench.tables.stored.quotient import Plan
from dslbench.training.hooks import Loop
from training_helpers import parameters, train

STREAM = np.random.default_rng


def spec(n: int, d: int, std: float = 0.1) -> TableSpec:
    return TableSpec("t", (("user", n),), d, normal(std))


# --- narrow ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", ["lightgcn", "ultragcn", "cdae", "multvae"])
def test_narrow_is_the_backbone_at_that_width(backbone: str, interactions: Interactions) -> None:
    found = train(interactions, backbone, "narrow", 0.5, 2, "embedding_size=8")[0]
    small = train(interactions, backbone, "dense", 0.0, 2, "embedding_size=4")[0]
    if (
        backbone != "multvae"
    ):  # its code is at most as wide as its hidden layers, which are narrower here
        expected = parameters(small)
        assert all(torch.equal(x, expected[name]) for name, x in parameters(found).items())
    without = train(interactions, backbone, "rkd", 0.5, 2, "embedding_size=8", "rkd.alpha=0")[0]
    for (name, x), y in zip(parameters(found).items(), parameters(without).values(), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-6, msg=name)


# --- factors -----------------------------------------------------------------------------------------


def test_factors_lose_the_squares_of_what_is_left_out() -> None:
    rows = torch.from_numpy(STREAM(0).standard_normal((50, 12)).astype(np.float32))
    axes, coordinates = PrincipalAxes()(rows)
    singular = np.linalg.svd(rows.numpy(), compute_uv=False).astype(np.float64)
    for rank in (1, 5, 12):
        table = FactoredTable(spec(50, 12), coordinates[:, :rank], axes[:, :rank].T)
        error = float((table.full().detach() - rows).square().sum())
        assert error == pytest.approx(float((singular[rank:] ** 2).sum()), rel=1e-3, abs=1e-6)
        assert table.live() == rank * 62
    torch.testing.assert_close(table.full(), rows, rtol=0, atol=1e-5)  # full rank
    low = rows[:, :3] @ rows[:3]
    axes, coordinates = PrincipalAxes()(low)
    table = FactoredTable(spec(50, 12), coordinates[:, :3], axes[:, :3].T)
    torch.testing.assert_close(table.full(), low, rtol=0, atol=1e-4)


def test_ranks_are_the_largest_that_fit(interactions: Interactions) -> None:
    model, method, _ = train(interactions, "ultragcn", "svd", 0.5, 1, "embedding_size=8")
    # 40 users and 30 items: k (n + 8) numbers of 4 n
    assert method.diagnostics()["ranks"] == {"user": 160 // 48, "item": 120 // 38}
    for table in model.tables().values():
        assert isinstance(table, FactoredTable)
    with pytest.raises(UsageError, match="rank 1 of rows of 8 are over the budget"):
        train(interactions, "ultragcn", "svd", 0.9, 1, "embedding_size=8")
    trained_on = train(interactions, "lightgcn", "svd", 0.5, 2, "svd.variant=finetune")
    assert [p.name for p in trained_on[2].phases] == ["teacher", "factors", "finetune"]


# --- sizes -------------------------------------------------------------------------------------------


@given(
    degrees=st.lists(st.integers(0, 1000), min_size=1, max_size=40),
    d=st.integers(1, 20),
    share=st.floats(0, 1),
    alpha=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
)
@settings(max_examples=200, deadline=None)
def test_widths_fill_the_budget_and_fall_with_popularity(
    degrees: list[int], d: int, share: float, alpha: float
) -> None:
    of_rows, n = np.array(degrees), len(degrees)
    budget = n + int(share * n * (d - 1))
    widths = widths_for(of_rows, d, budget, alpha, STREAM(0))
    assert widths.sum() == budget and widths.min() >= 1 and widths.max() <= d
    order = np.argsort(-of_rows, kind="stable")
    drops = np.diff(widths[order])
    assert (drops[np.diff(of_rows[order]) != 0] <= 0).all()
    if alpha == 0:
        assert widths.max() - widths.min() <= 1


def test_equal_sizes_are_narrow_rows(interactions: Interactions) -> None:
    """From the same start; what is drawn differs, as a narrow table is filled column by column."""
    narrow = train(interactions, "lightgcn", "narrow", 0.5, 1, "embedding_size=8")[0]
    model, method, _ = train(
        interactions, "lightgcn", "mde", 0.5, 1, "embedding_size=8", "mde.alpha=0"
    )
    assert (method.widths["embedding"] == 4).all()  # type: ignore[attr-defined]
    stored = method.stored(model)["embedding"]
    assert stored.form == "prefix" and stored.nbytes == 4 * 70 * 4 + 70
    with torch.no_grad():
        start = narrow.tables()["embedding"].full()
        model.tables()["embedding"].assign(torch.cat([start, torch.zeros_like(start)], dim=1))  # type: ignore[operator]
    users = torch.arange(interactions.n_users)
    torch.testing.assert_close(narrow.eval().scorer()(users), model.eval().scorer()(users))
    with pytest.raises(UnsuitableError, match="not one for each"):
        widths_for(np.ones(5), 4, 4, 0.5, STREAM(0))


# --- shared rows -----------------------------------------------------------------------------------


@given(n=st.integers(1, 60), m=st.integers(1, 60), own=st.integers(0, 60))
def test_no_two_rows_are_made_of_the_same(n: int, m: int, own: int) -> None:
    rows = np.sort(STREAM(n).permutation(n)[: min(own, n)]).astype(np.int32)
    first, second, stored = Plan((n,), (m,), rows).places()
    assert len(set(zip(first.tolist(), second.tolist(), strict=True))) == n
    assert stored == rows_of(n, m, len(rows)) and first.max() < stored and second.max() < stored
    assert ((second < 0) == np.isin(np.arange(n), rows)).all()


def test_one_quotient_is_a_table_of_its_own() -> None:
    n, d = 9, 5
    table = ComposedTable(spec(n, d), Plan((n,), (n,), np.empty(0, np.int32)), "mult", STREAM(0))
    with torch.no_grad():
        table.base[0] = 1.0
    first, second = table.first, table.second
    assert (first == 0).all() and torch.equal(table.full(), table.base[second])
    ids = torch.tensor([[3, 3], [0, 8]])
    assert torch.equal(table.rows(ids), table.full()[ids])


def test_products_and_sums_start_with_the_spread_of_the_backbone() -> None:
    plan = Plan((4000,), (3,), np.arange(1000, dtype=np.int32))
    for how in ("mult", "add"):
        full = ComposedTable(spec(4000, 16, 0.1), plan, how, STREAM(0)).full().detach()  # type: ignore[arg-type]
        assert full[:1000].std() == pytest.approx(0.1, rel=0.05)
        assert full[1000:].std() == pytest.approx(0.1, rel=0.5)


def test_what_the_budget_leaves_goes_to_rows_of_their_own() -> None:
    assert shares(300, 150, None, "user") == (3, 70)
    assert rows_of(300, 3, 70) == 77 + 3 + 70 == 150 < rows_of(300, 3, 71)
    assert shares(300, 35, None, "user")[0] == 15
    with pytest.raises(UnsuitableError, match="30 rows are too few"):
        shares(300, 30, None, "user")


# --- codes --------------------------------------------------------------------------------------------


def test_codes_are_exact_where_there_are_centroids_enough() -> None:
    rng = STREAM(0)
    rows = torch.from_numpy(rng.standard_normal((20, 6)).astype(np.float32))[
        rng.integers(20, size=90)
    ]
    codes = quantised(rows, 2, 20, 3, rng, NearestRows())
    assert np.array_equal(codes.unpack(), rows.numpy())
    table = CodedTable(spec(90, 6), codes)
    assert torch.equal(table.full(), rows) and table.pack().nbytes == 90 * 2 + 4 * 20 * 6


def test_more_centroids_and_parts_are_nearer() -> None:
    rng = STREAM(1)
    rows = torch.from_numpy(rng.standard_normal((400, 7)).astype(np.float32))

    def error(parts: int, k: int) -> float:
        codes = quantised(rows, parts, k, 25, STREAM(0), NearestRows())
        return float(np.square(codes.unpack() - rows.numpy()).sum())

    by_k = [error(2, k) for k in (1, 4, 16, 64)]
    assert by_k == sorted(by_k, reverse=True) and error(7, 16) < error(2, 16)
    assert by_k[0] == pytest.approx(float((rows - rows.mean(dim=0)).square().sum()), rel=1e-4)


def test_every_row_has_the_nearest_centroid() -> None:
    rng = STREAM(2)
    rows, centroids = (
        torch.from_numpy(rng.standard_normal((n, 3)).astype(np.float32)) for n in (80, 9)
    )
    found = NearestRows()(rows, centroids)
    assert torch.equal(found, torch.cdist(rows, centroids).argmin(dim=1))


# --- pruning without retraining --------------------------------------------------------------------


def test_no_minimum_is_pruning_by_magnitude(interactions: Interactions) -> None:
    own = ["embedding_size=8", "omp.variant=no-retrain", "magprune.min_per_row=0"]
    pruned = train(interactions, "lightgcn", "omp", 0.5, 2, *own)[0]
    found = train(interactions, "lightgcn", "magprune", 0.5, 2, *own)[0]
    assert torch.equal(found.tables()["embedding"].full(), pruned.tables()["embedding"].full())


def test_a_minimum_holds_in_every_row_and_the_most_leaves_all_alike(
    interactions: Interactions,
) -> None:
    for least in (2, 4):
        model, _, _ = train(
            interactions, "lightgcn", "magprune", 0.5, 1, "embedding_size=8", f"magprune.min_per_row={least}"
        )  # fmt: skip
        counts = model.tables()["embedding"].mask.sum(dim=1)  # type: ignore[union-attr, operator]
        assert int(counts.sum()) == 70 * 4 and int(counts.min()) >= least
    assert (counts == 4).all()
    with pytest.raises(UsageError, match="min_per_row 5 keeps more"):
        train(
            interactions,
            "lightgcn",
            "magprune",
            0.5,
            1,
            "embedding_size=8",
            "magprune.min_per_row=5",
        )
    _, method, lab = train(interactions, "lightgcn", "magprune", 0.5, 1, "embedding_size=8")
    found = method.diagnostics()
    assert found["tried"][str(found["min_per_row"])] == max(found["tried"].values())
    assert lab.phases[-1].ledger.eval_macs > 0 and lab.phases[-1].eval_seconds > 0


@given(peak=st.integers(0, 64), most=st.integers(0, 64))
def test_a_single_peak_is_found(peak: int, most: int) -> None:
    asked: list[int] = []

    def judged(least: int) -> float:
        asked.append(least)
        return -abs(least - peak)

    assert best_of(judged, most, 50) == min(peak, most)
    assert len(asked) == len(set(asked)) <= 20
    asked.clear()
    best_of(judged, most, 3)
    assert len(asked) <= 3


# --- learned steps ---------------------------------------------------------------------------------


def test_gradients_of_learned_steps() -> None:
    weight = torch.tensor([[0.3, -0.72, 5.0, -9.0]], requires_grad=True)
    log_step = torch.tensor([[np.log(0.5)]], dtype=torch.float32, requires_grad=True)
    out = on_learned_grid(weight, log_step, 7)
    assert out.tolist() == [[0.5, -0.5, 3.5, -3.5]]
    (out * torch.tensor([[1.0, 2.0, 3.0, 4.0]])).sum().backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None and weight.grad.tolist() == [[1, 2, 0, 0]]
    # round(w / s) - w / s inside, the largest code beyond
    slopes = (1 - 0.6) * 1 + (-1 + 1.44) * 2 + 7 * 3 - 7 * 4
    assert log_step.grad is not None
    assert float(log_step.grad) == pytest.approx(slopes * (7 * 4) ** -0.5 * 0.5, rel=1e-5)


def test_before_rounding_it_is_dense_and_after_it_what_is_read_is_stored(
    interactions: Interactions,
) -> None:
    dense = train(interactions, "lightgcn", "dense", 0.0, 2, "embedding_size=8")[0]
    late = train(interactions, "lightgcn", "lsq", 0.0, 2, "embedding_size=8", "lsq.warmup=0.999")[0]
    table = late.tables()["embedding"]
    assert isinstance(table, SteppedTable)
    # all but the last step are alike
    torch.testing.assert_close(table.weight, dense.tables()["embedding"].full(), rtol=0, atol=0.05)
    model, method, _ = train(
        interactions, "lightgcn", "lsq", 0.0, 3, "embedding_size=8", "lsq.warmup=0"
    )
    table = model.tables()["embedding"]
    torch.testing.assert_close(
        torch.from_numpy(method.stored(model)["embedding"].unpack()), table.full().detach(),
        rtol=2**-10, atol=1e-7,
    )  # fmt: skip
    assert len(torch.unique(table.full()[0].detach())) <= 15
    assert method.diagnostics() == {"trained_rounded": True}


# --- low precision from the start --------------------------------------------------------------------


@pytest.mark.parametrize("backbone", ["lightgcn", "ultragcn", "neumf", "cdae", "multvae"])
def test_low_precision_of_32_bits_is_dense(backbone: str, interactions: Interactions) -> None:
    found = parameters(train(interactions, backbone, "lpt", 0.0, 2, "lpt.precision=fp32")[0])
    dense = parameters(train(interactions, backbone, "dense", 0.0, 2)[0])
    assert all(torch.equal(found[name], dense[name]) for name in dense)


GROUP = {"lr": 0.004, "betas": (0.9, 0.999), "eps": 1e-8}


def table_of(n: int, d: int, precision: Any = "int8", std: float = 0.1) -> LowPrecisionTable:
    return LowPrecisionTable(spec(n, d, std), STREAM(0), precision).train()


def steps(table: LowPrecisionTable, count: int, seed: int = 0) -> Iterator[torch.Tensor]:
    """Steps with random gradients, each of which is given."""
    rng = STREAM(seed)
    for t in range(1, count + 1):
        gradient = torch.from_numpy(rng.standard_normal(table.kept.shape).astype(np.float32)) * 0.01
        (table.full() * gradient).sum().backward()  # type: ignore[no-untyped-call]
        table.step(t, GROUP, 1000 * seed + t)
        yield gradient


@pytest.mark.parametrize("precision", ["int8", "bf16"])
def test_it_follows_adam_of_32_bits(precision: str) -> None:
    table = table_of(60, 32, precision)
    weight = torch.nn.Parameter(table.decoded())
    optimiser = Adam([weight], lr=GROUP["lr"], fused=True)
    for gradient in steps(table, 100):
        weight.grad = gradient
        optimiser.step()
    moved = weight.detach() - weight.detach().mean()
    off = (table.decoded() - weight.detach()).square().mean().sqrt()
    assert float(off) < 0.15 * float(moved.std())
    bias = (table.decoded() - weight.detach()).mean()
    assert abs(float(bias)) < 0.1 * float(off)  # rounding at random has none


def test_no_epoch_before_rounding_begins_is_selected() -> None:
    method = LearnedSteps(StepOptions(warmup=0.5), 0.0)
    loops = (Loop(None, None, total=10, batch_size=1, t=t) for t in (4, 5, 6, 10))  # type: ignore[arg-type]
    chosen = [method.may_be_selected(loop) for loop in loops]
    assert chosen == [False, False, True, True]


@pytest.mark.parametrize("precision", ["int8", "bf16"])
@pytest.mark.parametrize("by_kernels", [True, False])
@pytest.mark.parametrize("size", [1e-4, 1.0])
def test_rows_that_rest_after_a_gradient_stay_where_adam_has_them(
    precision: str, by_kernels: bool, size: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Look-up rows do: a second moment rounded to none beside a first one would be divided by eps."""
    if not by_kernels:
        monkeypatch.setattr(low_adam, "step_int8", low_adam.int8_by_torch)
        monkeypatch.setattr(low_adam, "step_bf16", low_adam.bf16_by_torch)
    table = table_of(400, 64, precision)
    weight = torch.nn.Parameter(table.decoded())
    optimiser = Adam([weight], lr=GROUP["lr"], fused=True)
    gradient = torch.from_numpy(STREAM(3).standard_normal((400, 64)).astype(np.float32)) * size
    for t in range(1, 8):
        weight.grad = gradient if t == 1 else torch.zeros_like(gradient)
        optimiser.step()
        (table.full() * weight.grad).sum().backward()  # type: ignore[no-untyped-call]
        table.step(t, GROUP, t)
    assert float((table.decoded() - weight.detach()).abs().max()) < 20 * GROUP["lr"]


def test_devices_without_kernels_step_alike() -> None:
    for precision in ("int8", "bf16"):
        one, other = table_of(17, 24, precision), table_of(17, 24, precision)
        for t in range(1, 20):
            gradient = torch.from_numpy(STREAM(t).standard_normal((17, 24)).astype(np.float32))
            rate, seed = low_adam.Rate.at(t, GROUP), t * 2**40 + 7
            for table, kernels in ((one, True), (other, False)):
                moments = (table.first, table.first_scale, table.second, table.second_scale)
                if precision == "int8":
                    step = low_adam.step_int8 if kernels else low_adam.int8_by_torch
                    step(gradient, table.kept, table.grid, *moments, rate, seed)
                else:
                    step_16 = low_adam.step_bf16 if kernels else low_adam.bf16_by_torch
                    step_16(gradient, table.kept, *moments, rate, seed)
        same = (one.kept == other.kept).float().mean()
        assert float(same) > 0.99  # sums of products are rounded once, or twice


def test_rounding_at_random_is_without_bias_and_small_steps_are_not_lost() -> None:
    # 1 + 1000 times 1e-3 in bfloat16: the nearest would stay at 1 for ever
    halves = torch.ones(400, 8).to(torch.bfloat16).view(torch.int16)
    moments = [
        torch.zeros(400, 8, dtype=torch.int8), torch.zeros(400),
        torch.zeros(400, 8, dtype=torch.uint8), torch.zeros(400),
    ]  # fmt: skip
    rate = low_adam.Rate(1.0, 0.0, 1.0, 1.0, 0.0)  # w - g
    for t in range(1000):
        low_adam.step_bf16(torch.full((400, 8), -1e-3), halves, *moments, rate, t)
    found = halves.view(torch.bfloat16).float()
    assert float(found.mean()) == pytest.approx(2.0, abs=0.01)
    assert float(found.std()) == pytest.approx(0.084, rel=0.2)


def test_a_grid_is_widened_for_what_leaves_it_and_kept_else() -> None:
    table = table_of(3, 16)
    before = table.grid.clone()
    assert ((table.decoded() / table.grid[:, None]).abs() <= 127).all()
    with torch.no_grad():
        table.assign(table.decoded() * torch.tensor([[1.0], [8.0], [0.01]]))
    assert table.grid[0] == before[0] and table.grid[1] > before[1] and table.grid[2] < before[2]
    mantissas = torch.frexp(table.grid).mantissa
    assert torch.isin(mantissas, torch.tensor([0.5, 0.625, 0.75, 0.875])).all()
    zero = table_of(2, 4, std=0.0)
    assert (zero.decoded() == 0).all() and (zero.grid > 0).all()


def test_rows_without_gradients_and_rates_of_zero_change_nothing() -> None:
    table = table_of(5, 16)
    kept = table.kept.clone()
    for t in range(1, 5):
        weights = torch.zeros(5, 16)
        weights[2] = 1.0
        (table.full() * weights).sum().backward()  # type: ignore[no-untyped-call]
        table.step(t, GROUP, t)
    rows = [0, 1, 3, 4]
    assert torch.equal(table.kept[rows], kept[rows]) and not torch.equal(table.kept[2], kept[2])
    kept = table.kept.clone()
    (table.full()).sum().backward()  # type: ignore[no-untyped-call]
    table.step(5, GROUP | {"lr": 0.0}, 5)
    assert torch.equal(table.kept, kept)


@pytest.mark.parametrize("precision", ["int8", "bf16"])
def test_the_number_of_threads_moves_no_bit(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for threads in ("1", "3"):
        monkeypatch.setenv("DSLBENCH_THREADS", threads)
        table = table_of(4000, 64, precision)
        for _ in steps(table, 3):
            pass
        found.append(table.kept)
    assert torch.equal(*found)


def test_its_state_is_small_from_start_to_end(interactions: Interactions) -> None:
    sizes = {}
    for method in ("dense", "lpt"):
        model, _, lab = train(interactions, "lightgcn", method, 0.0, 1, "embedding_size=64")
        sizes[method] = lab.phases[-1].state_bytes
        assert (
            sizes[method] == measured.state_bytes(model, model.optimiser(lab.hyper))
            or method == "dense"
        )
    assert sizes["lpt"] / sizes["dense"] <= 0.27  # type: ignore[operator]


def test_what_is_stored_is_what_was_trained() -> None:
    for precision in ("int8", "bf16"):
        table = table_of(30, 20, precision)
        for _ in steps(table, 5):
            pass
        assert np.array_equal(table.pack().unpack(), table.decoded().numpy())
        assert table.pack().precision == precision


def test_other_optimisers_are_refused(interactions: Interactions) -> None:
    with pytest.raises(UnsuitableError, match="Adam's"):
        train(interactions, "neumf", "lpt", 0.0, 1, "pretrain_epochs=1")
    with pytest.raises(UnsuitableError, match="Adagrad"):
        train(interactions, "convncf", "lpt", 0.0, 1)
    assert isinstance(DenseTable(spec(2, 2), STREAM(0)), DenseTable)
