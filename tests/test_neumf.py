"""NeuMF: shapes, scores, losses, sampling and pretraining."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn.functional import binary_cross_entropy

from dslbench.backbones.neumf import NeuMF, NeuMFHyper
from dslbench.data.interactions import Interactions
from dslbench.methods.rp import RandomPruning, RandomPruningOptions
from dslbench.ops.layers import SeededDropout
from dslbench.sampling.pairs import Grouped, PointwiseSampler
from dslbench.seeds import Streams
from dslbench.spec import resolve
from dslbench.tables import DenseTable, MaskedTable, PackedTable
from dslbench.training.lab import Lab
from helpers import make_interactions

CPU = torch.device("cpu")


def make_lab(data: Interactions, *settings: str, epochs: int = 1) -> Lab:
    spec = resolve(
        dataset="toy", backbone="neumf", method="dense", sparsity=0, seed=0, epochs=epochs,
        settings=["init_std=0.5", *settings],
    )  # fmt: skip
    hyper = NeuMFHyper.model_validate(spec.hyper | {"epochs": epochs})
    return Lab(data, NeuMF, hyper, epochs=epochs, seed=0)


def build(data: Interactions, *settings: str) -> NeuMF:
    model = make_lab(data, *settings).build()
    assert isinstance(model, NeuMF)
    return model


def plain_scores(model: NeuMF) -> torch.Tensor:
    """Probabilities of all pairs, (N, M), by the paper's formulas."""
    n_users, n_items = model.mlp_user.spec.n_rows, model.mlp_item.spec.n_rows
    users = torch.arange(n_users).repeat_interleave(n_items)
    items = torch.arange(n_items).repeat(n_users)
    gmf = model.gmf_user.full()[users] * model.gmf_item.full()[items]
    hidden = torch.cat([model.mlp_user.full()[users], model.mlp_item.full()[items]], dim=1)
    for layer in model.layers:
        hidden = torch.relu(layer(hidden))
    return torch.sigmoid(model.predict(torch.cat([gmf, hidden], dim=1))).view(n_users, n_items)


@pytest.mark.parametrize("preset", ["official", "dsl", "recbole"])
def test_all_ways_to_score_agree(preset: str) -> None:
    data = make_interactions(12, 9)
    model = build(data, f"preset={preset}").eval()
    expected = plain_scores(model)
    every = torch.arange(12)
    torch.testing.assert_close(torch.sigmoid(model.scorer()(every)), expected)
    items = torch.randint(9, (12, 4), generator=torch.Generator().manual_seed(0))
    for some in (items, items[:, :1], items.repeat(1, 9)):
        found = torch.sigmoid(model.candidate_scorer()(every, some))
        torch.testing.assert_close(found, expected.gather(1, some))


def test_parameters_by_closed_form() -> None:
    data = make_interactions(12, 9)
    official = build(data)  # d_mf 8, layers [64, 32, 16, 8]
    layers = (64 * 32 + 32) + (32 * 16 + 16) + (16 * 8 + 8)
    count = sum(p.numel() for p in official.parameters())
    assert count == 21 * (8 + 32) + layers + (8 + 8 + 1)
    released = build(data, "preset=dsl")
    layers = (32 * 32 + 32) + (32 * 16 + 16) + (16 * 8 + 8)
    assert sum(p.numel() for p in released.parameters()) == 21 * 32 + layers + (16 + 8 + 1)
    assert build(data, "embedding_size=32").mlp_user.spec.dim == 128  # as in He et al.'s f = 32


def test_scopes() -> None:
    tables = build(make_interactions(12, 9)).tables()
    official = {name for name, t in tables.items() if t.spec.in_scope("official")}
    assert official == {"mlp_user", "mlp_item"}
    embeddings = {name for name, t in tables.items() if t.spec.in_scope("embeddings")}
    assert embeddings == {"gmf_user", "gmf_item", "mlp_user", "mlp_item"}
    assert {name for name, t in tables.items() if t.spec.in_scope("all")} == set(tables)
    assert set(tables) - embeddings == {"layer1", "layer2", "layer3", "predict"}


def test_every_layer_can_be_masked() -> None:
    lab = make_lab(make_interactions(12, 9))
    method = RandomPruning(RandomPruningOptions(mask_scope="all"), 0.5)
    model = method.run(lab)
    for table in model.tables().values():
        assert isinstance(table, MaskedTable)
        assert table.live() == -(-table.mask.numel() // 2)


def test_mixed_loss_is_the_mean_cross_entropy() -> None:
    data = make_interactions(12, 9)
    model = build(data, "batch_size=32")
    batch = next(PointwiseSampler(data.train, 32, 4, Streams(0), CPU).epoch())
    expected = binary_cross_entropy(plain_scores(model)[batch.users, batch.items], batch.labels)
    torch.testing.assert_close(model.loss(batch), expected)
    found = torch.autograd.grad(model.loss(batch), list(model.parameters()))
    plain = torch.autograd.grad(expected, list(model.parameters()))
    for a, b in zip(found, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_balanced_loss_gives_both_kinds_equal_weight() -> None:
    model = build(make_interactions(12, 9), "preset=dsl").eval()
    negatives = torch.tensor([[3, 4, 5], [6, 7, 8]], dtype=torch.int32)
    batch = Grouped(torch.tensor([0, 1]), torch.tensor([1, 2]), negatives)
    p = plain_scores(model)
    wanted = p[batch.users, batch.positives]
    unwanted = p[batch.users[:, None], negatives.long()]
    expected = -wanted.log().mean() - (1 - unwanted).log().mean()
    torch.testing.assert_close(model.loss(batch), expected)


def test_pointwise_batches_mix_every_interaction_with_its_negatives() -> None:
    train = make_interactions(30, 20).train
    sampler = PointwiseSampler(train, 50, 4, Streams(0), CPU)
    sampler._CHUNK = 200
    known = train.toarray().astype(bool)
    batches = [b for _ in range(20) for b in sampler.epoch()]
    users, items, labels = (torch.cat([b[k] for b in batches]).numpy() for k in range(3))
    assert sampler.steps == -(-5 * train.nnz // 50)
    assert len(users) == 20 * 5 * train.nnz and labels.mean() == 0.2
    assert np.array_equal(known[users, items], labels == 1)
    counts = np.zeros(train.shape)
    np.add.at(counts, (users[labels == 1], items[labels == 1]), 1)
    assert np.array_equal(counts, 20 * known)
    # Positives are spread over the epoch, and a user's negatives are uniform over the rest.
    assert 0.1 < labels[:500].mean() < 0.3
    drawn = np.bincount(items[(labels == 0) & (users == 3)], minlength=20)[~known[3]]
    assert stats.chisquare(drawn).pvalue > 1e-3


def test_dropout_has_a_stream_of_its_own() -> None:
    x = torch.ones(200, 50)
    first, second = (SeededDropout(0.2, np.random.default_rng(0)) for _ in range(2))
    torch.manual_seed(5)
    dropped = first(x)
    torch.manual_seed(6)
    assert torch.equal(dropped, second(x)) and not torch.equal(dropped, first(x))
    assert float((dropped == 0).float().mean()) == pytest.approx(0.2, abs=0.02)
    assert dropped.unique().tolist() == pytest.approx([0, 1.25], rel=1e-4)  # p is 13107 / 65536
    assert float(first(torch.ones(7, 3)).mean()) > 0  # no multiple of four entries
    most = SeededDropout(0.9999999, np.random.default_rng(0))(torch.ones(99, 99))
    assert torch.isfinite(most).all()
    assert torch.equal(first.eval()(x), x)


def test_pretraining_joins_halves_and_goes_on_with_sgd() -> None:
    lab = make_lab(make_interactions(12, 9), "pretrain_epochs=2", "batch_size=64")
    model = lab.build()
    assert [phase.name for phase in lab.phases] == ["pretrain GMF", "pretrain MLP"]
    assert [phase.epochs for phase in lab.phases] == [2, 2]
    assert isinstance(model.optimiser(lab.hyper), torch.optim.SGD)
    fresh = lab.build(pretrained=False)
    changed = [
        name
        for (name, p), q in zip(model.named_parameters(), fresh.parameters(), strict=True)
        if not torch.equal(p, q)
    ]
    assert changed == [name for name, _ in model.named_parameters()]
    again = lab.build(lambda spec, rng: PackedTable(spec, rng))
    assert len(lab.phases) == 2  # trained once
    values = dict(again.named_parameters())
    assert all(torch.equal(p, values[name]) for name, p in model.named_parameters())
    assert isinstance(again.tables()["gmf_user"], MaskedTable)


def test_pretraining_shrinks_with_the_run_unless_set() -> None:
    def epochs(*settings: str) -> int:
        spec = resolve(
            dataset="toy", backbone="convncf", method="dense", sparsity=0, seed=0, epochs=6,
            settings=["preset=official", *settings],
        )  # fmt: skip
        return int(spec.hyper["pretrain_epochs"])

    assert epochs() == 2  # 20 of 60
    assert epochs("pretrain_epochs=9") == 9
    assert epochs("pretrain_epochs=0") == 0


def test_dense_table_is_the_default() -> None:
    assert isinstance(build(make_interactions(12, 9)).tables()["predict"], DenseTable)
