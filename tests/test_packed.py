"""The packed table against the plain masked one, and what it takes in memory."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from dslbench.methods.dsl import DynamicSparseLearning
from dslbench.methods.rp import RandomPruning
from dslbench.ops.lanes import has_expand
from dslbench.tables import (
    DenseMaskedTable,
    DenseTable,
    MaskedTable,
    PackedTable,
    TableSpec,
)
from dslbench.tables.spec import normal
from helpers import make_interactions
from training_helpers import train

BACKBONES = ["lightgcn", "ultragcn", "neumf", "convncf", "cdae", "multvae"]


def make(kind: type[MaskedTable], n: int, d: int, density: float, seed: int = 0) -> MaskedTable:
    table = kind(TableSpec("t", (("user", n),), d, normal(1.0)), np.random.default_rng(seed))
    mask = torch.from_numpy(np.random.default_rng(seed + 1).random((n, d)) < density)
    mask[0] = False  # an empty row
    mask[1] = True
    table.set_mask(mask)
    return table


@pytest.mark.parametrize(
    ("form", "kinds"),
    [
        ("auto", [DenseMaskedTable, PackedTable, PackedTable, DenseMaskedTable]),
        ("packed", [PackedTable] * 4),
        ("full", [DenseMaskedTable] * 4),
    ],
)
def test_tables_are_packed_where_that_is_not_slower_or_as_told(
    form: str, kinds: list[type[MaskedTable]]
) -> None:
    method = RandomPruning(RandomPruning.options_type(table_form=form), 0.5)
    tables = [
        method.make_table(TableSpec("t", (("user", 5),), d, normal(1.0)), np.random.default_rng(0))
        for d in (15, 16, 256, 257)
    ]
    assert [type(table) for table in tables] == kinds


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("d", [1, 7, 20, 64, 300])
def test_reads_and_gradients_are_those_of_the_dense_form(
    d: int, wide: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if wide and not has_expand():
        pytest.skip("the processor has no AVX-512")
    monkeypatch.setattr("dslbench.ops.packed._WIDE", wide)
    packed, plain = make(PackedTable, 40, d, 0.3), make(DenseMaskedTable, 40, d, 0.3)
    assert torch.equal(packed.mask, plain.mask)
    assert packed.live() == plain.live() == packed.weight.numel()
    rng = np.random.default_rng(5)
    ids = torch.from_numpy(rng.integers(0, 40, (6, 4)))
    on_rows = torch.from_numpy(rng.standard_normal((6, 4, d)).astype(np.float32))
    on_full = torch.from_numpy(rng.standard_normal((40, d)).astype(np.float32))
    for wanted in (False, True):
        packed.weight.grad = plain.weight.grad = None
        for table in (packed, plain):
            table.keep_gradient(wanted)
            assert torch.equal(table.full(), table.dense())
            assert torch.equal(table.rows(ids), table.dense()[ids])
            ((table.rows(ids) * on_rows).sum() + (table.full() * on_full).sum()).backward()
        assert plain.weight.grad is not None and packed.weight.grad is not None
        assert_allclose(packed.weight.grad, plain.weight.grad[plain.mask], rtol=1e-5, atol=1e-6)
        if wanted:
            assert_allclose(packed.gradient(), plain.gradient(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [PackedTable, DenseMaskedTable])
@pytest.mark.parametrize("optimiser", ["adam", "adagrad"])
def test_a_moved_mask_keeps_what_stays_and_starts_the_rest_cold(
    optimiser: str, kind: type[MaskedTable]
) -> None:
    table = make(kind, 30, 8, 0.5)
    steps = (
        torch.optim.Adam([table.weight], lr=0.1, fused=True)
        if optimiser == "adam"
        else torch.optim.Adagrad([table.weight], lr=0.1, initial_accumulator_value=0.1)
    )
    table.full().square().sum().backward()  # type: ignore[no-untyped-call]
    table.mask_gradient()
    steps.step()
    names = ("exp_avg", "exp_avg_sq") if optimiser == "adam" else ("sum",)
    cold = 0.0 if optimiser == "adam" else 0.1
    before, values = table.mask, table.dense()
    packed = isinstance(table, PackedTable)
    state = {}
    for name in names:
        found = steps.state[table.weight][name]
        state[name] = torch.full((30, 8), cold)
        state[name][before] = found.clone() if packed else found[before].clone()
    order = torch.from_numpy(np.random.default_rng(9).permutation(240))
    after = before.view(-1)[order].view(30, 8)
    table.move_mask(after, steps)
    assert torch.equal(table.mask, after)
    assert torch.equal(table.dense(), values * (before & after))
    for name in names:
        expected = torch.where(before & after, state[name], cold)
        found = steps.state[table.weight][name]
        assert_allclose(found, expected[after] if packed else expected, rtol=1e-6)


def test_a_mask_moves_to_one_with_as_many_live_entries() -> None:
    table = make(PackedTable, 30, 8, 0.5)
    with pytest.raises(ValueError, match="as many live"):
        table.move_mask(torch.ones(30, 8, dtype=torch.bool), torch.optim.Adam([table.weight]))


def test_a_full_mask_is_the_dense_table_again() -> None:
    table = make(PackedTable, 10, 4, 0.5)
    values = table.dense()
    table.set_mask(torch.ones(10, 4, dtype=torch.bool))
    assert table.weight.shape == (10, 4) and torch.equal(table.weight.detach(), values)


@pytest.mark.parametrize("method", ["rp", "dsl"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_training_is_that_of_the_masked_dense_form(
    backbone: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """200 steps or more, explorations included, at 80 %."""
    data = make_interactions()
    small = ["batch_size=16", "dsl.delta_t=10", "dsl.growth=gradient"]
    curves, kept = [], []
    for kind in (PackedTable, DenseMaskedTable):
        for owner in (RandomPruning, DynamicSparseLearning):
            monkeypatch.setattr(owner, "table_type", lambda self, spec, kind=kind: kind)
        epochs = {"cdae": 70, "multvae": 70, "neumf": 4}.get(backbone, 12)
        _, trained, lab = train(data, backbone, method, 0.8, epochs, *small)
        assert all(isinstance(table, kind) for table in trained.masked)  # type: ignore[attr-defined]
        assert lab.phases[-1].steps >= 200
        curves.append([row["loss"] for row in lab.phases[-1].history])
        kept.append([table.dense() for table in trained.masked])  # type: ignore[attr-defined]
    assert_allclose(curves[0], curves[1], rtol=1e-6)
    for packed, plain in zip(*kept, strict=True):
        assert_allclose(packed, plain, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("sparsity", "share"), [(0.5, 0.56), (0.9, 0.15)])
def test_memory_of_table_and_optimiser_by_allocation(sparsity: float, share: float) -> None:
    """All tensors alive between two steps: values, indices and moments of live weights only."""

    def allocated(kind: type[DenseTable]) -> int:
        gc.collect()
        before = {x.untyped_storage().data_ptr() for x in _tensors()}
        table = kind(TableSpec("t", (("user", 2000),), 64, normal(1.0)), np.random.default_rng(0))
        if isinstance(table, PackedTable):
            order = np.random.default_rng(0).permutation(2000 * 64)
            live = order < round(2000 * 64 * (1 - sparsity))
            table.set_mask(torch.from_numpy(live.reshape(2000, 64)))
        optimiser = torch.optim.Adam([table.weight], fused=True)
        for _ in range(3):
            optimiser.zero_grad(set_to_none=True)
            table.full().square().sum().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        gc.collect()
        storages = {
            x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in _tensors()
        }
        return sum(size for pointer, size in storages.items() if pointer not in before)

    dense = allocated(DenseTable)
    assert dense >= 3 * 4 * 2000 * 64
    assert allocated(PackedTable) <= share * dense


def _tensors() -> list[torch.Tensor]:
    return [x for x in gc.get_objects() if issubclass(type(x), torch.Tensor)]
