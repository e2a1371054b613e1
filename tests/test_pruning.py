"""OMP, LTH-MRS, WR and PEP against their oracles."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from dslbench.backbones.multvae import MultVAE
from dslbench.data.interactions import Interactions
from dslbench.errors import UsageError
from dslbench.methods import _masked, lth_mrs
from dslbench.methods.gmp import GradualOptions, GradualPruning
from dslbench.methods.lth_mrs import IterativePruning, LotteryTickets, TicketOptions
from dslbench.methods.omp import OneShotOptions, OneShotPruning
from dslbench.methods.pep import SoftThresholds
from dslbench.spec import resolve
from dslbench.tables import (
    DenseMaskedTable,
    MaskedTable,
    PackedTable,
    Table,
    TableSpec,
    keep_count,
)
from dslbench.tables.select import select_greatest
from dslbench.tables.soft import Granularity, SoftThresholdTable
from dslbench.tables.spec import normal
from dslbench.training.hooks import Hooks, Loop, Phase
from dslbench.training.lab import Lab
from helpers import make_interactions
from training_helpers import parameters, train


def values(table: Table) -> torch.Tensor:
    """A copy of what a table is trained on, (n, d)."""
    kept = table.dense() if isinstance(table, MaskedTable) else table.weight.detach()
    assert isinstance(kept, torch.Tensor)
    return kept.clone()


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
    """(phase, weights, mask) of every training that begins, and its end as (phase + " end", ...)."""
    seen: list[tuple[str, torch.Tensor, torch.Tensor]] = []
    original = Lab.fit

    def watched(self: Lab, model, phase: str = "train", hooks: Hooks | None = None, **kw) -> Phase:  # type: ignore[no-untyped-def]
        (table,) = model.tables().values()
        mask = table.mask if isinstance(table, MaskedTable) else torch.ones(1)
        seen.append((phase, values(table), mask.clone()))
        record = original(self, model, phase, hooks, **kw)
        seen.append((f"{phase} end", values(table), mask.clone()))
        return record

    monkeypatch.setattr(Lab, "fit", watched)
    return seen


def test_tickets_are_rewound_bit_for_bit(interactions: Interactions, starts: list) -> None:  # type: ignore[type-arg]
    train(interactions, "lightgcn", "lth_mrs", 0.5, 2)
    begins = starts[::2]
    assert [name for name, _, _ in begins] == [f"round {r}" for r in range(8)]
    initial = begins[0][1]
    masks = [mask for _, _, mask in begins]
    for (_, weight, mask), smaller in zip(begins, masks[1:], strict=False):
        assert torch.equal(weight, initial * mask)
        assert not (smaller & ~mask).any()  # masks only shrink
    kept = [int(mask.sum()) for mask in masks]
    total = initial.numel()
    assert kept[0] == total and kept[-1] == keep_count(total, 0.5)
    ratios = np.array(kept[1:]) / np.array(kept[:-1])
    assert_allclose(ratios, 0.5 ** (1 / 7), atol=0.01)


def test_pruning_drops_the_smallest_of_the_selected_weights(
    interactions: Interactions,
    starts: list,  # type: ignore[type-arg]
) -> None:
    train(interactions, "lightgcn", "lth_mrs", 0.5, 2, "lth_mrs.rounds=1")
    trained, mask = starts[1][1].abs(), starts[2][2]
    assert float(trained[mask].min()) >= float(trained[~mask].max())


def test_one_round_of_tickets_is_one_shot_pruning(interactions: Interactions) -> None:
    one = parameters(train(interactions, "lightgcn", "lth_mrs", 0.6, 2, "lth_mrs.rounds=1")[0])
    omp = parameters(train(interactions, "lightgcn", "omp", 0.6, 2)[0])
    assert all(torch.equal(one[name], omp[name]) for name in omp)


def test_without_rewinding_survivors_keep_their_values(
    interactions: Interactions,
    starts: list,  # type: ignore[type-arg]
) -> None:
    train(interactions, "lightgcn", "wr", 0.5, 2)
    for (_, trained, _), (name, weight, mask) in zip(starts[1::2], starts[2::2], strict=False):
        assert torch.equal(weight, trained * mask), name


def test_reinit_draws_new_weights_each_round(interactions: Interactions, starts: list) -> None:  # type: ignore[type-arg]
    train(interactions, "lightgcn", "wr", 0.3, 1, "wr.variant=reinit")
    first, second, third = (weight for _, weight, _ in starts[:6:2])
    for a, b in [(first, second), (second, third), (first, third)]:
        alive = (a != 0) & (b != 0)
        assert not (a[alive] == b[alive]).any()


@pytest.mark.parametrize("method", ["omp", "lth_mrs"])
def test_annealing_begins_anew_with_the_weights(
    interactions: Interactions, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ticket is judged in isolation: Mult-VAE's schedule counts its own steps."""
    begun: list[int] = []
    original = Lab.fit

    def watched(self: Lab, model: MultVAE, *args: object, **given: object) -> object:
        begun.append(int(model.updates))
        return original(self, model, *args, **given)  # type: ignore[arg-type]

    monkeypatch.setattr(Lab, "fit", watched)
    train(interactions, "multvae", method, 0.3, 2)
    assert len(begun) > 1 and set(begun) == {0}


def test_late_rewinding_goes_back_to_that_epoch(
    interactions: Interactions, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_epoch: list[torch.Tensor] = []
    original = LotteryTickets.after_step

    def watched(self: LotteryTickets, loop: Loop) -> None:
        original(self, loop)
        if loop.t == loop.total // loop.epochs * 2 and len(self.kept) == 1:
            at_epoch.append(self.model.tables()["embedding"].weight.detach().clone())

    monkeypatch.setattr(LotteryTickets, "after_step", watched)
    rewound: list[torch.Tensor] = []
    restore = _masked.restore_weights
    monkeypatch.setattr(
        lth_mrs,
        "restore_weights",
        lambda m, w: (rewound.append(w["embedding.weight"]), restore(m, w)),
    )
    settings = ["lth_mrs.rounds=1", "lth_mrs.rewind_epoch=2"]
    train(interactions, "lightgcn", "lth_mrs", 0.5, 4, *settings)
    assert torch.equal(rewound[0], at_epoch[0])


@pytest.mark.parametrize(
    ("sparsity", "rounds"), [(0.0, 0), (0.1, 1), (0.5, 7), (0.8, 16), (0.9, 22)]
)
def test_rounds_for_a_tenth_each(sparsity: float, rounds: int) -> None:
    for schedule in ("geometric", "fraction"):
        options = TicketOptions(schedule=schedule)  # type: ignore[arg-type]
        assert options.round_count(sparsity) == rounds
        assert len(IterativePruning.phases(options, sparsity)) == rounds + 1
        assert options.sparsity_after(rounds, sparsity) == sparsity
    assert TicketOptions(schedule="fraction").sparsity_after(1, 0.9) == pytest.approx(0.1)


def test_omp_variants(interactions: Interactions, starts: list) -> None:  # type: ignore[type-arg]
    train(interactions, "lightgcn", "omp", 0.5, 2, "omp.variant=finetune")
    assert torch.equal(starts[2][1], starts[1][1] * starts[2][2])
    starts.clear()
    model, _, _ = train(interactions, "lightgcn", "omp", 0.5, 2, "omp.variant=no-retrain")
    assert [name for name, _, _ in starts] == ["dense", "dense end"]
    table = model.tables()["embedding"]
    assert torch.equal(table.dense(), starts[1][1] * table.mask)


def test_protected_rows_keep_their_largest_entries() -> None:
    method = OneShotPruning(OneShotOptions(min_per_row=1), 0.5)
    weights = np.array([[9, 8, 7, 6], [0.1, 0.3, 0.2, 0.0]], dtype=np.float32)
    table = PackedTable(
        TableSpec("t", (("user", 2),), 4, lambda *_: weights), np.random.default_rng(0)
    )
    method.model = type("M", (), {"tables": lambda self: {"t": table}})()  # type: ignore[assignment]
    method.prune_protecting(1)
    assert table.mask.tolist() == [[True, True, True, False], [False, True, False, False]]
    with pytest.raises(UsageError, match="min_per_row 3 keeps more") as caught:
        method.prune_protecting(3)
    assert caught.value.hint == "--set omp.min_per_row=2"


GRANULARITIES: list[Granularity] = ["global", "dimension", "feature", "feature_dim"]


def soft_table(granularity: Granularity, start: float, dtype: torch.dtype) -> SoftThresholdTable:
    spec = TableSpec("t", (("user", 5),), 3, normal(1.0))
    return SoftThresholdTable(spec, np.random.default_rng(0), granularity, start).to(dtype)


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_thresholds_shrink_and_their_gradients_are_right(granularity: Granularity) -> None:
    table = soft_table(granularity, -0.25, torch.float64)
    v, sigma = table.weight.detach().numpy(), 1 / (1 + np.exp(0.25))
    expected = np.sign(v) * np.maximum(np.abs(v) - sigma, 0)
    assert_allclose(table.full().detach().numpy(), expected, atol=1e-12)
    assert 0 < table.live() == np.count_nonzero(expected) < 15
    ids = torch.tensor([4, 0, 0])
    assert torch.equal(table.rows(ids), table.full()[ids])

    def whole(weight: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
        from dslbench.tables.soft import _SoftThreshold

        return _SoftThreshold.apply(weight, threshold)  # type: ignore[no-any-return]

    assert torch.autograd.gradcheck(whole, (table.weight, table.threshold))
    packed = table.pack()
    assert_allclose(packed.unpack(), expected, atol=1e-7)


def test_thresholds_at_minus_infinity_are_a_dense_table() -> None:
    table = soft_table("feature_dim", -1000.0, torch.float32)
    assert torch.equal(table.full(), table.weight)
    assert table.live() == 15


def test_pep_meets_the_budget_and_says_whether_the_search_did() -> None:
    data = make_interactions()
    _, method, lab = train(data, "lightgcn", "pep", 0.5, 20)
    assert isinstance(method, SoftThresholds)
    found = method.diagnostics()
    assert found["reached"] is True
    assert 0 < found["search_steps"] < lab.phases[1].steps
    assert [phase.name for phase in lab.phases] == ["search", "retrain"]
    _, short, _ = train(data, "lightgcn", "pep", 0.5, 2, "pep.threshold_init=-50")
    assert short.diagnostics()["reached"] is False  # and the contract suite checks the budget


def test_pep_retrains_the_first_weights_under_the_mask(
    interactions: Interactions,
    starts: list,  # type: ignore[type-arg]
) -> None:
    train(interactions, "lightgcn", "pep", 0.5, 4)
    assert torch.equal(starts[2][1], starts[0][1] * starts[2][2])


def test_select_greatest_counts_signs_and_is_exact_under_ties() -> None:
    score = torch.tensor([[-3.0, 1.0, 1.0], [-1.0, 1.0, 5.0]])
    rng = np.random.default_rng(0)
    assert select_greatest(score, 4, rng).tolist() == [[False, True, True], [False, True, True]]
    several = [select_greatest(score, 2, rng) for _ in range(50)]
    assert all(kept[1, 2] and int(kept.sum()) == 2 for kept in several)
    assert 5 < sum(int(kept[0, 1]) for kept in several) < 30  # a third, by lot
    assert int(select_greatest(torch.zeros(4, 4), 7, rng).sum()) == 7
    assert select_greatest(score, 10, rng).all()


def test_an_epoch_that_no_round_has_is_refused() -> None:
    def spec(epochs: int, *settings: str) -> object:
        return resolve(
            dataset="toy", backbone="lightgcn", method="lth_mrs", sparsity=0.5, seed=0,
            epochs=epochs, settings=settings,
        )  # fmt: skip

    with pytest.raises(UsageError, match=r"rewind_epoch=100 has no effect: a round has 2 epochs"):
        spec(2, "lth_mrs.rewind_epoch=100")
    spec(101, "lth_mrs.rewind_epoch=100")


@pytest.mark.parametrize(
    ("x", "gone"), [(0.0, 0.0), (0.25, 0.578), (0.5, 0.875), (0.75, 0.984), (1.0, 1.0)]
)
def test_gmp_prunes_along_a_cubic(x: float, gone: float) -> None:
    method = GradualPruning(GradualOptions(start=0.2, end=0.6), 0.8)
    method.first, method.last = 200, 600
    assert_allclose(method.share_pruned(round(200 + 400 * x)), 0.8 * gone, atol=5e-4)
    # The mean density of a ramp is 1 - .75 s.
    ramp = [1 - method.share_pruned(t) for t in range(200, 601)]
    assert_allclose(np.mean(ramp), 1 - 0.75 * 0.8, atol=2e-3)


def test_gmp_masks_shrink_to_exactly_k_and_the_epoch_is_chosen_after(
    interactions: Interactions, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks: list[torch.Tensor] = []
    moved = DenseMaskedTable.move_mask

    def watched(
        self: DenseMaskedTable, mask: torch.Tensor, optimiser: torch.optim.Optimizer
    ) -> None:
        moved(self, mask, optimiser)
        masks.append(mask)
        moments = optimiser.state[self.weight]["exp_avg"]
        assert not moments[~mask].any() and not self.dense()[~mask].any()

    monkeypatch.setattr(DenseMaskedTable, "move_mask", watched)
    model, _, lab = train(interactions, "lightgcn", "gmp", 0.75, 4, "gmp.every=1", "gmp.end=0.7")
    (table,) = model.tables().values()
    sizes = [int(mask.count_nonzero()) for mask in masks]
    assert len(masks) > 3 and sizes == sorted(sizes, reverse=True)
    for before, after in pairwise(masks):
        assert not (after & ~before).any()  # what has left does not come back
    assert sizes[-1] == keep_count(table.spec.n_rows * table.spec.dim, 0.75) == table.live()
    selected = lab.phases[-1].selected_epoch
    assert selected is not None and selected >= 3


def test_gmp_without_sparsity_is_dense(interactions: Interactions) -> None:
    masked, *_ = train(interactions, "lightgcn", "gmp", 0.0, 2)
    dense, *_ = train(interactions, "lightgcn", "dense", 0.0, 2)
    for name, value in parameters(dense).items():
        assert torch.equal(parameters(masked)[name], value)
    with pytest.raises(UsageError, match="not before"):
        train(interactions, "lightgcn", "gmp", 0.5, 2, "gmp.start=0.5")
