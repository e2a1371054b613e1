"""Models served from packed rows give what the same models decoded give, to the last bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dslbench.evaluation.ranking import Ranker, _fits, _Screen
from dslbench.ops.coded import BLOCK, CodedRows
from dslbench.ops.propagate import Propagate
from dslbench.ops.scores import FEW_USERS, FullScores, ProductScorer
from dslbench.tables import Table, TableSpec
from dslbench.tables.spec import normal
from dslbench.tables.stored import Bitmap, Csr, Dense, Prefix, Stored
from helpers import make_interactions

CODED = ("int8", "int6", "int4", "int3", "int2")
Widths = st.integers(1, 90) | st.sampled_from([1, 15, 16, 17, 63, 64, 80, 128])


def served(kept: Stored) -> Table:
    n, d = kept.shape
    return kept.table(TableSpec("t", (("user", n),), d, normal(1.0)))


def tables(n: int, d: int, precision: str, seed: int) -> list[Table]:
    """Every form that is served as it is packed, with rows of no live entry and rows of zeros."""
    rng = np.random.default_rng(seed)
    full = (rng.standard_normal((n, d)) * np.logspace(-2, 2, n)[:, None]).astype(np.float32)
    full[rng.integers(n)] = 0
    mask = rng.random((n, d)) < rng.choice([0.1, 0.5, 1.0])
    mask[rng.integers(n)] = rng.random() < 0.5
    widths = rng.integers(0, d + 1, n)
    even = np.full(n, rng.integers(0, d + 1))
    half = np.zeros((n, d), dtype=bool)
    half[:, : d // 2] = True  # as many in each row
    found = [
        Dense.of(full), Bitmap.of(full, mask), Bitmap.of(full, half), Csr.of(full, mask),
        Prefix.of(full, widths), Prefix.of(full, even),
    ]  # fmt: skip
    return [served(one.rounded(precision)) for one in found]


def operand(table: Table) -> CodedRows:
    found = table.operand()
    assert isinstance(found, CodedRows)
    return found


@given(n=st.integers(1, 40), d=Widths, precision=st.sampled_from(CODED), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_rows_are_those_of_the_decoded_table(n: int, d: int, precision: str, seed: int) -> None:
    ids = torch.from_numpy(np.random.default_rng(seed).integers(n, size=7))
    for table in tables(n, d, precision, seed):
        coded, full = operand(table), table.full()
        assert coded.shape == (n, d)
        assert torch.equal(coded.full(), full) and torch.equal(coded.rows(ids), full[ids])
        assert torch.equal(
            coded[n // 3 : n].rows(ids % (n - n // 3)), full[n // 3 :][ids % (n - n // 3)]
        )
        for kind in (torch.float32, torch.bfloat16):
            parts = [block.clone() for _, block in coded.blocks(kind)]
            assert torch.equal(torch.cat(parts), full.to(kind))
        assert float(full.abs().max()) <= coded.bound()


@given(
    d=Widths, precision=st.sampled_from(CODED), layers=st.integers(0, 3), seed=st.integers(0, 99)
)
@settings(max_examples=25, deadline=None)
def test_propagated_rows_have_the_same_bits(d: int, precision: str, layers: int, seed: int) -> None:
    data = make_interactions(17, 13, 0.3, seed)
    propagate = Propagate(data.train, layers)
    for table in tables(30, d, precision, seed):
        found = propagate(operand(table))
        found = found if isinstance(found, torch.Tensor) else found.full()
        assert torch.equal(found, propagate(table.full()))
        assert propagate.macs(operand(table)) == propagate.macs(table.full())
        rows = torch.tensor([3, 0, 29])
        for one, other in zip(
            propagate(operand(table), rows), propagate(table.full(), rows), strict=True
        ):
            assert torch.equal(one, other)


@pytest.mark.parametrize("precision", ["int8", "int4", "int3"])
@pytest.mark.parametrize("screened", [True, False])
@pytest.mark.parametrize("d", [7, 64])
def test_lists_and_ties_are_the_same(
    monkeypatch: pytest.MonkeyPatch, precision: str, screened: bool, d: int
) -> None:
    monkeypatch.setattr("dslbench.evaluation.ranking.multiplies_bfloat16", lambda: screened)
    monkeypatch.setattr("dslbench.ops.coded.BLOCK", 50)  # several of them
    n, m = 30, 170
    data = make_interactions(n, m, 0.2, 0)
    for users, items in zip(tables(n, d, precision, 1), tables(m, d, precision, 2), strict=True):
        scorers = (
            ProductScorer(FullScores(), users.operand(), items.operand()),
            ProductScorer(FullScores(), users.full(), items.full()),
        )
        rankers = [Ranker(scorer, data.train, 20) for scorer in scorers]
        assert all(isinstance(one._rank, _Screen) == screened for one in rankers)
        for some in (np.arange(n), np.arange(FEW_USERS), np.array([5])):
            found, expected = (ranker(some) for ranker in rankers)
            same(found, expected, screened)
        ids = torch.arange(n)
        torch.testing.assert_close(scorers[0](ids), scorers[1](ids))
        arguments = scorers[0].vectors(ids), scorers[0].items
        assert scorers[0].scores.macs(*arguments) == scorers[1].scores.macs(  # type: ignore[attr-defined]
            users.full(), items.full()
        )


def same(found: Any, expected: Any, exactly: bool) -> None:
    """Equal lists; sums of torch's products may be of another order for another layout of blocks."""
    agree = found[0] == expected[0]
    assert agree.all() if exactly else agree.mean() > 0.99
    assert np.array_equal(found[1], expected[1]) or not exactly


def test_one_user_is_scored_as_many_are() -> None:
    """Scores from codes are the products that screening computes, summed in the same order."""
    rng = np.random.default_rng(0)
    for d in (5, 16, 33, 64, 100):
        items = served(Dense.of(rng.standard_normal((300, d)), "int8"))
        users = torch.from_numpy(rng.standard_normal((40, d)).astype(np.float32))
        data = make_interactions(40, 300, 0.05, 0)
        scorer = ProductScorer(FullScores(), users, items.operand())
        ranker = Ranker(scorer, data.train, 20)
        if not isinstance(ranker._rank, _Screen):
            pytest.skip("no screening on this processor")
        together, _ = ranker(np.arange(40))
        alone = [ranker(np.array([user]))[0][0] for user in range(40)]
        assert np.array_equal(together, np.array(alone))


def test_scores_that_could_leave_float32_are_not_screened() -> None:
    large = served(Dense.of(np.full((3, 4), 1e30), "int8")).operand()
    scorer = ProductScorer(FullScores(), large, large)
    assert not _fits(scorer)
    assert not _fits(ProductScorer(FullScores(), large.full(), large.full()))  # type: ignore[union-attr]


@pytest.mark.parametrize(("precision", "most"), [("int8", 0.275), ("int4", 0.15)])
def test_what_a_served_table_holds_beside_the_stored_one_is_little(
    precision: str, most: float
) -> None:
    """Codes are in memory once; beside them stand their scales as float32."""
    n, d = BLOCK, 64
    kept = Dense.of(np.random.default_rng(0).standard_normal((n, d)), precision)
    table = served(kept)
    held = {x.data_ptr(): x.nbytes for x in table.buffers()}
    assert kept.values.kept.ctypes.data in held
    assert (sum(held.values()) + kept.values.scale.nbytes) / (4 * n * d) <= most  # type: ignore[union-attr]
