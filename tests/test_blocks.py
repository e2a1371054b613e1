"""Masks of whole blocks: dynamic sparse learning with `dsl.block`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from dsl_helpers import explorer, small_table
from dslbench import artefact
from dslbench.data.interactions import Interactions
from dslbench.errors import UsageError
from dslbench.methods.dsl import DSLOptions, DynamicSparseLearning
from dslbench.runs.assemble import served
from dslbench.spec import resolve
from dslbench.tables import keep_count, random_masks
from dslbench.training.hooks import Loop
from helpers import make_interactions
from training_helpers import PAIRS, SETTINGS, checkerboard, parameters, train

BACKBONES = [backbone for backbone, method in PAIRS if method == "dsl"]


def split(mask: torch.Tensor, block: int) -> tuple[int, list[list[bool]]]:
    """Number of blocks that are live as a whole, and the entries of those that are in part."""
    of_block = mask.reshape(-1, block)
    live = of_block.sum(dim=1)
    return int((live == block).sum()), of_block[(live > 0) & (live < block)].tolist()


def test_blocks_are_exchanged_by_hand() -> None:
    """Rows of two blocks of 8. Live are A (sum 8), B (sum 1.6), D (sum 0.8) and 3 entries of F.

    A third of the three whole blocks is dropped: D, although its largest weight is larger than B's.
    Of C, D and E the gradients' sums are 8, 0.8 and 9, so E grows; C has the largest single entry,
    and F, half live already, a larger sum still.
    """
    weight = torch.zeros(3, 16)
    weight[0, :8] = torch.tensor([1.0, -1.0] * 4)
    weight[0, 8:] = 0.2
    weight[1, 8] = -0.8
    weight[2, 8:11] = 0.01
    mask = torch.zeros(3, 16, dtype=torch.bool)
    mask[0] = mask[1, 8:] = mask[2, 8:11] = True
    gradient = torch.full((3, 16), 0.1)
    gradient[1, 0] = -8.0
    gradient[1, 1:8] = 0
    gradient[2, :8] = torch.tensor([-1.125, 1.125] * 4)
    gradient[2, 8:] = 9.0
    table = small_table(weight.tolist(), mask.tolist())
    method = explorer(DSLOptions(block=8))
    after, count = method.prune_and_grow(table.dense(), table.mask, gradient, 1 / 3)
    assert count == 1 and method.grown == 8
    table.move_mask(after, torch.optim.Adam([table.weight]))
    expected = mask.clone()
    expected[1, 8:] = False
    expected[2, :8] = True
    assert torch.equal(table.mask, expected)
    weight[1, 8] = 0
    assert_allclose(table.dense(), weight)


def test_a_block_is_dropped_by_its_summed_taylor_terms() -> None:
    """|w g|: 8 times 1 against once 9; by the products of sums it would be the other way round."""
    weight = torch.tensor([[1.0] * 8 + [9.0] + [0.0] * 7 + [0.0] * 8])
    gradient = torch.tensor([[1.0] * 8 + [1.0] + [0.0] * 7 + [0.0] * 8])
    mask = torch.tensor([[True] * 16 + [False] * 8])
    gradient[0, 16:] = 0.01
    method = explorer(DSLOptions(block=8, prune="taylor"))
    size = weight * gradient
    kept = method.prune(size.abs().view(1, 3, 8).sum(2), mask.view(1, 3, 8).all(2), 0.5, 2)
    assert kept.tolist() == [[False, True, False]]
    after, _ = method.prune_and_grow(weight, mask, gradient, 0.5)
    assert after.tolist() == [[True] * 16 + [False] * 8]  # and grows again: its gradient is largest


@given(
    rows=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    per_row=st.integers(1, 4),
    block=st.sampled_from([8, 16]),
    sparsity=st.sampled_from([0.0, 0.37, 0.5, 0.8, 0.95, 0.999]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=80, deadline=None)
def test_masks_are_whole_blocks_but_one_before_and_after_an_exploration(
    rows: tuple[int, int], per_row: int, block: int, sparsity: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    shape = (sum(rows), per_row * block)
    slices = [slice(0, rows[0]), slice(rows[0], shape[0])]
    mask = torch.from_numpy(random_masks(shape, slices, sparsity, rng, block))
    options: dict[str, object] = {"block": block}
    options["growth"] = ("gradient", "random")[seed % 2]
    method = explorer(DSLOptions(**options), sparsity)  # type: ignore[arg-type]
    weight, gradient = (
        torch.from_numpy(rng.standard_normal(shape).astype(np.float32)) for _ in range(2)
    )
    weight *= mask
    for part in slices:
        budget = keep_count(mask[part].numel(), sparsity)
        exchanged, _ = method.prune_and_grow(
            weight[part], mask[part], gradient[part], (0.0, 0.5, 1.0)[seed % 3]
        )
        before, after = split(mask[part], block), split(exchanged, block)
        assert before == after
        assert int(exchanged.sum()) == budget and before[0] == budget // block
        left = budget % block
        assert before[1] == ([[True] * left + [False] * (block - left)] if left else [])


def test_single_entries_are_drawn_as_ever() -> None:
    """A block of one entry: the shuffle of numbered blocks makes the same draws."""
    shape, slices = (50, 7), [slice(0, 20), slice(20, 50)]
    plain = random_masks(shape, slices, 0.8, np.random.default_rng(4))
    assert plain[:20].sum() == 28 and plain[20:].sum() == 42
    wide = random_masks((50, 56), slices, 0.8, np.random.default_rng(4), 8)
    assert np.array_equal(wide[:, ::8], plain)


def own_settings(backbone: str, block: int) -> list[str]:
    small = ["channels=4"] if backbone == "convncf" else []
    return [f"dsl.block={block}", "dsl.delta_t=2", f"embedding_size={2 * block}", *small]


@pytest.mark.parametrize("block", [8, 16])
@pytest.mark.parametrize("ranking", ["joint", "segment"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_keeps_budget_blocks_and_file(
    interactions: Interactions,
    backbone: str,
    ranking: str,
    block: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original, seen = DynamicSparseLearning.explore, []

    def checked(self: DynamicSparseLearning, loop: Loop) -> bool:
        explored = original(self, loop)
        for table in self.masked:
            for rows, size in zip(self.groups(table), self.group_sizes(table), strict=True):
                whole, in_part = split(table.mask[rows], block)
                budget = keep_count(size, 0.83)
                assert (whole, sum(map(sum, in_part))) == divmod(budget, block)
                assert len(in_part) == (budget % block > 0)
                seen.append(budget)
        return explored

    monkeypatch.setattr(DynamicSparseLearning, "explore", checked)
    own = [*own_settings(backbone, block), f"dsl.ranking={ranking}"]
    model, _, lab = train(interactions, backbone, "dsl", 0.83, 6, *own)
    assert seen
    packed = artefact.from_bytes(artefact.to_bytes(artefact.pack(model, {}, {})))
    rebuilt = served(packed, lab)
    users = torch.arange(interactions.n_users)
    model.eval(), rebuilt.eval()
    assert torch.equal(model.scorer()(users), rebuilt.scorer()(users))


def test_coins_are_tossed_for_blocks_and_the_official_variant_keeps_its_own_count() -> None:
    own = ["dsl.variant=official", *own_settings("lightgcn", 16)]
    _, method, _ = train(make_interactions(), "lightgcn", "dsl", 0.5, 4, *own)
    assert isinstance(method, DynamicSparseLearning)
    (table,) = method.masked
    assert split(table.mask, 16) == (table.live() // 16, [])
    assert table.live() == method.budget[0] and method.diagnostics()["explorations_in_all"] > 3


def test_without_exploration_no_block_moves() -> None:
    data = make_interactions()
    own = ["dsl.block=8", "embedding_size=16"]
    model, *_ = train(data, "lightgcn", "dsl", 0.5, 3, *own, "dsl.rho0=0")
    still, *_ = train(data, "lightgcn", "dsl", 0.5, 3, *own, "dsl.delta_t=1000000")
    moved, method, _ = train(data, "lightgcn", "dsl", 0.5, 3, *own, "dsl.delta_t=2")
    first, second, third = (parameters(m) for m in (model, still, moved))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], third[name]) for name in first)
    assert method.diagnostics()["grown"] > 0


# Rows of two blocks, of which some are empty for long: these take a large board and small steps.
LARGE_BOARD = {"convncf": ["pretrain_epochs=15"], "ultragcn": ["batch_size=256"]}


@pytest.mark.parametrize(
    ("backbone", "block"),
    [(b, block) for b in BACKBONES for block in (8, 16) if block == 16 or b not in LARGE_BOARD],
)
def test_a_checkerboard_is_learned(backbone: str, block: int) -> None:
    own = [*SETTINGS["checkerboard"].get(backbone, []), f"dsl.block={block}", "embedding_size=32"]
    size, epochs, lr = (100, 15, 0.02) if backbone in LARGE_BOARD else (60, 6, 0.03)
    own = [f"lr={lr}", *own, *LARGE_BOARD.get(backbone, [])]
    model, _, lab = train(checkerboard(size), backbone, "dsl", 0.5, epochs, *own)
    # With two blocks a row, some rows are empty for long; random pruning of entries comes to 1.
    assert lab.evaluate(model, "test").means["recall@20"] >= 0.97


def test_rows_that_are_no_multiple_of_a_block_are_one_clear_error(
    interactions: Interactions,
) -> None:
    with pytest.raises(UsageError, match=r"rows of 20 entries .* dsl\.block=16") as found:
        resolve(  # before anything is trained
            dataset="toy", backbone="lightgcn", method="dsl", sparsity=0.5, seed=0, epochs=1,
            settings=["dsl.block=16", "embedding_size=20"],
        )  # fmt: skip
    assert found.value.hint == "--set embedding_size=32 or --set dsl.block=none"
    own = ["dsl.block=8", "dsl.mask_scope=all", "embedding_size=8", "hidden=[12]"]
    with pytest.raises(UsageError, match=r"dsl\.block=8") as found:
        train(interactions, "neumf", "dsl", 0.5, 1, *own)
    assert "mask_scope=embeddings" in str(found.value.hint)


@pytest.mark.parametrize("own", ["dsl.block=4", "dsl.block=true"])
def test_block_sizes_are_checked(own: str) -> None:
    with pytest.raises(UsageError, match="block"):
        resolve(dataset="toy", backbone="lightgcn", method="dsl", sparsity=0.5, seed=0,
                settings=[own])  # fmt: skip
    with pytest.raises(UsageError, match="sign"):
        resolve(dataset="toy", backbone="lightgcn", method="dsl", sparsity=0.5, seed=0,
                settings=["dsl.block=8", "dsl.prune=set"])  # fmt: skip
