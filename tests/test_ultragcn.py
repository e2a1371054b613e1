"""UltraGCN: constants, loss, gradients and sampling against plain slow versions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy import stats
from torch.nn.functional import softplus

from dslbench import registry
from dslbench.backbones.ultragcn import UltraGCN, UltraGCNHyper, degree_weights, item_graph
from dslbench.data.interactions import Interactions, pairs_to_csr
from dslbench.errors import DataError
from dslbench.ops import threads
from dslbench.ops.lookup import LookupScores
from dslbench.ops.norms import SquaredNorm
from dslbench.sampling.pairs import GroupedSampler, PointwiseSampler
from dslbench.seeds import Streams
from dslbench.spec import resolve
from dslbench.tables import DenseTable
from dslbench.training.lab import Lab
from helpers import make_interactions

CPU = torch.device("cpu")


def build(data: Interactions, *settings: str) -> tuple[UltraGCN, UltraGCNHyper]:
    spec = resolve(
        dataset="toy", backbone="ultragcn", method="dense", sparsity=0, seed=0, epochs=1,
        settings=list(settings),
    )  # fmt: skip
    hyper = UltraGCNHyper.model_validate(spec.hyper | {"epochs": 1})
    return UltraGCN(data, hyper, DenseTable, Streams(0)), hyper


def test_constants_follow_their_formulas() -> None:
    train = pairs_to_csr([0, 0, 0, 1], [0, 1, 2, 0], (3, 4))
    users, items = degree_weights(train)
    assert_allclose(users, [2 / 3, np.sqrt(2), 0], rtol=1e-6)  # degrees 3, 1, 0
    assert_allclose(items, [1 / np.sqrt(3), 1 / np.sqrt(2), 1 / np.sqrt(2), 1], rtol=1e-6)


@pytest.mark.parametrize("top", [0, 1, 5, 40])
def test_item_graph_is_the_best_of_each_row_with_the_diagonal(top: int) -> None:
    train = make_interactions(60, 40, density=0.05).train
    dense = train.toarray().astype(np.float64)
    graph = dense.T @ dense
    sums = graph.sum(axis=1)
    omega = graph * (np.sqrt(sums + 1) / np.maximum(sums, 1))[:, None] / np.sqrt(sums + 1)
    neighbours, weights = item_graph(train, top)
    assert neighbours.shape == weights.shape == (40, top)
    for i in range(40):
        order = sorted(np.flatnonzero(omega[i]), key=lambda j: (-omega[i, j], j))[:top]
        assert neighbours[i, : len(order)].tolist() == order
        assert_allclose(weights[i, : len(order)], omega[i, order], rtol=1e-6)
        assert (neighbours[i, len(order) :] == i).all() and (weights[i, len(order) :] == 0).all()


@pytest.mark.parametrize("shape", [(33, 17, 7, 50), (5, 3, 1, 4), (40, 101, 64, 30), (1, 1, 9, 1)])
def test_lookup_scores_equal_plain_torch(shape: tuple[int, int, int, int]) -> None:
    batch, width, d, n_items = shape
    generator = torch.Generator().manual_seed(0)
    users = torch.randn(batch, d, generator=generator, requires_grad=True)
    table = torch.randn(n_items, d, generator=generator, requires_grad=True)
    items = torch.randint(n_items, (batch, width), generator=generator, dtype=torch.int32)
    weights = torch.randn(batch, width, generator=generator)
    scores = LookupScores()(users, table, items)
    plain = (table[items.long()] * users.unsqueeze(1)).sum(dim=2)
    torch.testing.assert_close(scores, plain, rtol=1e-4, atol=1e-5)
    found = torch.autograd.grad((scores * weights).sum(), [users, table])
    expected = torch.autograd.grad((plain * weights).sum(), [users, table])
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_threads_do_not_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    model, hyper = build(make_interactions(50, 40), "batch_size=64", "embedding_size=9")
    batch = next(model.sampler(make_interactions(50, 40), hyper, Streams(1), CPU).epoch())
    gradients = []
    for number in ("1", "2", "5"):
        monkeypatch.setenv("DSLBENCH_THREADS", number)
        assert threads.thread_count() == int(number)
        model.zero_grad()
        model.loss(batch).backward()  # type: ignore[no-untyped-call]
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for other in gradients[1:]:
        assert all(torch.equal(a, b) for a, b in zip(gradients[0], other, strict=True))


def test_loss_equals_the_slow_one() -> None:
    data = make_interactions(20, 15)
    model, h = build(
        data, "batch_size=16", "embedding_size=5", "init_std=0.5", "w1=0.1", "w3=0.2", "w4=0.7",
        "lambda_=0.3", "gamma=0.01", "negative_num=6", "negative_weight=4", "neighbours=3",
    )  # fmt: skip
    batch = next(model.sampler(data, h, Streams(1), CPU).epoch())
    users, items = model.user.full(), model.item.full()
    d_users, d_items = data.train.sum(axis=1).A1, data.train.sum(axis=0).A1  # type: ignore[attr-defined]
    neighbours, omega = item_graph(data.train, 3)
    slow = h.gamma / 2 * (users.square().sum() + items.square().sum())
    for u, i, negatives in zip(*(x.tolist() for x in batch), strict=True):
        beta = np.sqrt(d_users[u] + 1) / d_users[u]
        positive = h.w1 + h.w2 * beta / np.sqrt(d_items[i] + 1)
        slow = slow + positive * softplus(-users[u] @ items[i])
        for j in negatives:
            weight = h.w3 + h.w4 * beta / np.sqrt(d_items[j] + 1)
            slow = slow + h.negative_weight / 6 * weight * softplus(users[u] @ items[j])
        for k, weight in zip(neighbours[i], omega[i], strict=True):
            slow = slow + h.lambda_ * float(weight) * softplus(-users[u] @ items[k])
    loss = model.loss(batch)
    assert float(loss.detach()) == pytest.approx(float(slow.detach()), rel=1e-5)
    found = torch.autograd.grad(loss, list(model.parameters()))
    for a, b in zip(found, torch.autograd.grad(slow, list(model.parameters())), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_squared_norm() -> None:
    x = torch.randn(7, 3, requires_grad=True)
    SquaredNorm()(x).backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    torch.testing.assert_close(x.grad, 2 * x.detach())


def test_every_interaction_comes_once_and_negatives_are_uniform_over_all_items() -> None:
    train = make_interactions(30, 20).train
    sampler = GroupedSampler(train, 32, 40, Streams(0), CPU, filtered=False)
    batches = list(sampler.epoch())
    assert len(batches) == sampler.steps == -(-train.nnz // 32)
    users, items = (torch.cat([b[k] for b in batches]).numpy() for k in (0, 1))
    rows = np.repeat(np.arange(30), np.diff(train.indptr))
    assert sorted(zip(users, items, strict=True)) == sorted(zip(rows, train.indices, strict=True))
    negatives = torch.cat([b.negatives for b in batches]).numpy()
    assert stats.chisquare(np.bincount(negatives.reshape(-1), minlength=20)).pvalue > 1e-3
    again = torch.cat([b.users for b in sampler.epoch()]).numpy()
    assert not np.array_equal(users, again)


def test_filtered_negatives_are_never_the_users_own() -> None:
    train = make_interactions(30, 20).train
    known = train.toarray().astype(bool)
    for batch in GroupedSampler(train, 32, 9, Streams(0), CPU, filtered=True).epoch():
        assert not known[batch.users[:, None], batch.negatives.long()].any()
    places = pairs_to_csr([0, 0, 0, 2], [0, 1, 2, 1], (3, 3))  # user 0 has all
    for kind in (
        GroupedSampler(places, 2, 1, Streams(0), CPU, filtered=True),
        PointwiseSampler(places, 2, 1, Streams(0), CPU),
    ):
        assert {int(u) for batch in kind.epoch() for u in batch.users} == {2}
    with pytest.raises(DataError, match="no user has both"):
        PointwiseSampler(pairs_to_csr([0], [0], (1, 1)), 2, 1, Streams(0), CPU)


def test_incomplete_batches_are_dropped_unless_they_are_all_there_is() -> None:
    train = make_interactions(30, 20).train
    for size, steps in [(32, train.nnz // 32), (10_000, 1)]:
        sampler = GroupedSampler(train, size, 1, Streams(0), CPU, filtered=True, drop_last=True)
        assert sampler.steps == len(list(sampler.epoch())) == steps


@pytest.mark.parametrize("name", ["ultragcn", "neumf", "convncf"])
def test_gaps_and_batches_larger_than_the_data(name: str) -> None:
    """A user and items without interactions, d = 1 where the model has it, one batch for all."""
    train = pairs_to_csr([0, 0, 2], [0, 1, 1], (4, 5))
    empty = pairs_to_csr([], [], (4, 5))
    data = Interactions("tiny", "paper", train, empty, pairs_to_csr([2, 3], [3, 0], (4, 5)))
    kind = registry.backbone(name)
    size = 2 if name == "convncf" else 1
    spec = resolve(
        dataset="toy", backbone=name, method="dense", sparsity=0, seed=0, epochs=2,
        settings=[f"embedding_size={size}", "batch_size=4096"],
    )  # fmt: skip
    lab = Lab(
        data, kind, kind.hyper_type.model_validate(spec.hyper | {"epochs": 2}), epochs=2, seed=0
    )
    model = lab.build()
    lab.fit(model)
    assert lab.phases[-1].steps == 2
    assert np.isfinite(lab.evaluate(model, "test").means["recall@20"])


def test_parameters_are_the_two_tables() -> None:
    model, _ = build(make_interactions(20, 15), "embedding_size=7")
    assert sum(p.numel() for p in model.parameters()) == (20 + 15) * 7
    assert model.other_parameters() == 0
