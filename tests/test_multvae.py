"""Mult-VAE, and the operations it shares with CDAE, against plain dense references."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor

from autoencoder_helpers import dense_rows, dropped_rows, strong_data
from dslbench.backbones.multvae import MultVAE, MultVAEHyper
from dslbench.data.interactions import Interactions, pairs_to_csr
from dslbench.errors import DataError
from dslbench.ops.output_loss import BinaryLoss, MultinomialLoss, OutputLoss
from dslbench.ops.sparse_input import SparseInput, drop_entries
from dslbench.sampling.rows import UserRows, UserRowSampler, take_rows
from dslbench.seeds import Streams
from dslbench.spec import resolve
from dslbench.tables import keep_count
from dslbench.training.lab import Lab
from helpers import make_interactions
from training_helpers import train

CPU = torch.device("cpu")


def make_lab(data: Interactions, epochs: int = 1, seed: int = 0, *settings: str) -> Lab:
    spec = resolve(
        dataset="toy", backbone="multvae", method="dense", sparsity=0, seed=seed, epochs=epochs,
        settings=["embedding_size=6", "latent=3", "batch_size=16", *settings],
    )  # fmt: skip
    hyper = MultVAEHyper.model_validate(spec.hyper | {"epochs": epochs})
    return Lab(data, MultVAE, hyper, epochs=epochs, seed=seed)


def build(lab: Lab) -> MultVAE:
    model = lab.build()
    assert isinstance(model, MultVAE)
    return model


def first_batch(lab: Lab) -> UserRows:
    return next(UserRowSampler(lab.data.train, lab.hyper.batch_size, Streams(1), CPU).epoch())


def reference_loss(model: MultVAE, batch: UserRows, weight: float) -> Tensor:
    """Liang et al., Eq. 7, on dense matrices and with torch's own functions only."""
    x = dense_rows(batch, len(model.item_bias))
    normed = dropped_rows(batch, torch.nn.functional.normalize(x), model.hyper.dropout)
    hidden = torch.tanh(normed @ model.encoder.full() + model.encoder_bias)
    mean, log_variance = model.to_code(hidden).chunk(2, dim=1)
    eps = torch.from_numpy(batch.noise("eps").standard_normal(mean.shape, dtype=np.float32))
    code = mean + model.hyper.noise_std * eps * torch.exp(log_variance / 2)
    logits = torch.tanh(model.from_code(code)) @ model.decoder.full().T + model.item_bias
    likelihood = -(x * torch.log_softmax(logits, dim=1)).sum(dim=1).mean()
    prior = torch.distributions.Normal(torch.zeros_like(mean), 1.0)
    posterior = torch.distributions.Normal(mean, torch.exp(log_variance / 2))
    kl = torch.distributions.kl_divergence(posterior, prior).sum(dim=1).mean()
    return likelihood + weight * kl


@pytest.mark.parametrize("preset", ["official", "dsl", "recbole"])
def test_loss_and_gradients_equal_the_dense_reference(
    interactions: Interactions, preset: str
) -> None:
    lab = make_lab(interactions, 1, 0, f"preset={preset}", "anneal_steps=100")
    model, batch = build(lab), first_batch(lab)
    model.updates.fill_(15)
    results = []
    for compute in (lambda: reference_loss(model, batch, 0.15), lambda: model.loss(batch)):
        model.zero_grad()
        loss = compute()
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        results.append((float(loss.detach()), gradients))
    (expected, expected_gradients), (found, gradients) = results
    assert found == pytest.approx(expected, rel=1e-5)
    assert len(gradients) == len(expected_gradients) == len(list(model.parameters()))
    for name, gradient in gradients.items():
        assert_allclose(gradient, expected_gradients[name], rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("kind", [MultinomialLoss, BinaryLoss])
def test_output_losses_by_blocks_equal_a_dense_target(kind: type[OutputLoss]) -> None:
    data = make_interactions(11, 9)
    batch = take_rows(data.train, np.array([4, 0, 10, 7, 7]), CPU)
    x = dense_rows(batch, 9)
    torch.manual_seed(0)
    values = [5 * torch.randn(5, 3), torch.randn(9, 3), torch.randn(9)]
    h, table, bias = (v.clone().requires_grad_() for v in values)
    scores = h @ table.T + bias
    if kind is MultinomialLoss:
        expected = -(x * scores.log_softmax(dim=1)).sum()
    else:
        expected = torch.nn.functional.binary_cross_entropy_with_logits(scores, x, reduction="sum")
    (3 * expected).backward()
    for block_bytes in (1 << 20, 2 * 9 * 4, 1):
        ours = [v.clone().requires_grad_() for v in values]
        op = kind(block_bytes)
        loss = op(*ours, batch.indptr, batch.items)
        (3 * loss).backward()
        assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
        for got, want in zip(ours, (h, table, bias), strict=True):
            assert got.grad is not None and want.grad is not None
            assert_allclose(got.grad, want.grad, rtol=1e-4, atol=1e-4)
        with torch.no_grad():
            assert torch.equal(op(*ours, batch.indptr, batch.items), loss.detach())


def test_large_scores_neither_overflow_nor_vanish() -> None:
    indptr, items = torch.tensor([0, 1]), torch.tensor([0])
    h, bias = torch.tensor([[1.0]], requires_grad=True), torch.zeros(3)
    table = torch.tensor([[-200.0], [0.0], [200.0]])
    assert float(MultinomialLoss()(h, table, bias, indptr, items).detach()) == 400
    expected = 200 + np.log(2) + 200
    loss = BinaryLoss()(h, table, bias, indptr, items)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(expected)
    assert torch.isfinite(h.grad).all() if h.grad is not None else False


def test_sparse_input_equals_a_dense_product_whatever_the_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((50, 40), dtype=np.float32))
    x[torch.from_numpy(rng.random((50, 40)) < 0.7)] = 0
    x[3], x[:, 5] = 0, 0  # a user and an item without interactions
    rows, items = x.nonzero(as_tuple=True)
    indptr = torch.cat([torch.zeros(1, dtype=torch.int64), torch.bincount(rows, minlength=50)])
    values = [
        torch.from_numpy(rng.standard_normal(s, dtype=np.float32)) for s in ((40, 7), (50, 7))
    ]
    seen = []
    for threads in ("1", "2", "5"):
        monkeypatch.setenv("DSLBENCH_THREADS", threads)
        table = values[0].clone().requires_grad_()
        out = SparseInput()(table, indptr.cumsum(0), items, x[rows, items])
        out.backward(values[1])
        assert table.grad is not None
        seen.append((out.detach(), table.grad))
        assert_allclose(out.detach(), x @ values[0], rtol=1e-4, atol=1e-5)
        assert_allclose(table.grad, x.T @ values[1], rtol=1e-4, atol=1e-5)
    for out, gradient in seen[1:]:
        assert torch.equal(out, seen[0][0]) and torch.equal(gradient, seen[0][1])


def test_dropout_takes_its_share_and_scales_what_stays() -> None:
    indptr, items = torch.tensor([0, 0, 4000, 10000]), torch.arange(10000)
    rng = np.random.default_rng(0)
    ends, kept, values = drop_entries(indptr, items, torch.full((10000,), 0.3), 0.25, rng)
    assert ends.tolist()[:2] == [0, 0] and int(ends[-1]) == len(kept) == len(values)
    assert (kept[: int(ends[2])] < 4000).all() and (kept[int(ends[2]) :] >= 4000).all()
    assert 0.74 < len(kept) / 10000 < 0.76
    assert_allclose(values, 0.3 / 0.75, rtol=1e-6)


def test_noise_is_a_function_of_the_batch(interactions: Interactions) -> None:
    lab = make_lab(interactions)
    model, batch = build(lab), first_batch(lab)
    with torch.no_grad():
        losses = [float(model.loss(b)) for b in (batch, batch, batch._replace(seed=batch.seed + 1))]
    assert losses[0] == losses[1] != losses[2]
    sampler = UserRowSampler(interactions.train, 16, Streams(5), CPU)
    seeds = [b.seed for _ in range(3) for b in sampler.epoch()]
    assert len(set(seeds)) == len(seeds) == 3 * sampler.steps
    again = UserRowSampler(interactions.train, 16, Streams(5), CPU)
    assert [b.seed for _ in range(3) for b in again.epoch()] == seeds


def test_kl_weight_rises_with_training_steps_up_to_its_cap(interactions: Interactions) -> None:
    lab = make_lab(interactions, 4, 0, "anneal_steps=10", "anneal_cap=0.3")
    model, batch = build(lab), first_batch(lab)
    weights = []
    for _ in range(5):
        weights.append(model.kl_weight())
        model.loss(batch)
    assert weights == [0, 0.1, 0.2, 0.3, 0.3]
    with torch.no_grad():
        model.loss(batch)
    model.eval()
    model.scorer()(torch.arange(3))
    assert int(model.updates) == 5 == int(model.state_dict()["updates"])
    trained = build(lab)
    phase = lab.fit(trained)
    assert phase.selected_epoch is not None
    assert int(trained.updates) == phase.selected_epoch * 3  # 40 users in batches of 16
    constant = build(make_lab(interactions, 1, 0, "anneal_steps=0"))
    assert constant.kl_weight() == 0.2


def test_parameters_count_to_the_closed_form() -> None:
    data = make_interactions(20, 30)
    model = build(make_lab(data, 1, 0, "embedding_size=600", "latent=200"))
    m, k, z = 30, 600, 200
    layers = 2 * z * k + k * z
    assert sum(p.numel() for p in model.parameters()) == 2 * m * k + layers + k + 2 * z + k + m
    assert {name: (t.spec.n_rows, t.spec.dim) for name, t in model.tables().items()} == {
        "encoder": (m, k), "to_code": (2 * z, k), "from_code": (k, z), "decoder": (m, k),
    }  # fmt: skip
    assert model.other_parameters() == k + 2 * z + k + m
    small, _, _ = train(data, "multvae", "rp", 0.8, 1, "rp.mask_scope=all", "latent=5")
    assert {n: t.live() for n, t in small.tables().items()} == {
        "encoder": keep_count(m * 7, 0.8), "to_code": keep_count(10 * 7, 0.8),
        "from_code": keep_count(7 * 5, 0.8), "decoder": keep_count(m * 7, 0.8),
    }  # fmt: skip


def test_held_out_users_are_scored_from_what_is_folded_in() -> None:
    data = strong_data()
    assert data.fold_in is not None
    lab = make_lab(data, 3)
    sampled = [b.users for b in UserRowSampler(data.train, 16, Streams(0), CPU).epoch()]
    assert sorted(torch.cat(sampled).tolist()) == list(range(30))
    model = build(lab)
    lab.fit(model)
    model.eval()
    users = torch.tensor([35, 2, 31])
    known = torch.from_numpy((data.train + data.fold_in)[users.numpy()].toarray())
    assert (known.sum(dim=1) > 0).all()
    with torch.no_grad():
        x = torch.nn.functional.normalize(known)
        mean = model.to_code(torch.tanh(x @ model.encoder.full() + model.encoder_bias))[:, :3]
        expected = torch.tanh(model.from_code(mean)) @ model.decoder.full().T + model.item_bias
    assert_allclose(model.scorer()(users), expected, rtol=1e-4, atol=1e-5)
    result = lab.evaluate(model, "test")
    assert set(result.users) <= set(range(30, 40))


@pytest.mark.parametrize("width", [1, 13])
def test_awkward_data_and_sizes(width: int) -> None:
    """Users and items without interactions, one user only, a batch larger than the data."""
    shape = (6, 8)
    empty = pairs_to_csr([], [], shape)
    data = Interactions(
        "tiny", "paper", pairs_to_csr([1, 1, 4], [0, 3, 3], shape), empty,
        pairs_to_csr([0, 4], [2, 0], shape),
    )  # fmt: skip
    lab = make_lab(data, 2, 0, f"embedding_size={width}", "latent=1", "batch_size=1000")
    model = build(lab)
    lab.fit(model)
    scores = model.scorer()(torch.arange(6))
    assert torch.isfinite(scores).all()
    assert lab.phases[0].steps == 2
    one = Interactions("one", "paper", data.train[1:2], empty[:1], pairs_to_csr([0], [5], (1, 8)))
    lab = make_lab(one, 2, 0, f"embedding_size={width}", "latent=1")
    lab.fit(build(lab))
    nothing = replace(data, train=empty)
    with pytest.raises(DataError, match="no user has an item to train on"):
        make_lab(nothing).fit(build(make_lab(nothing)))
