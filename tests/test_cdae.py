"""CDAE against a plain dense reference, its counts, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor

from autoencoder_helpers import dense_rows, dropped_rows, strong_data
from dslbench.backbones.cdae import CDAE, CDAEHyper
from dslbench.data.interactions import Interactions, pairs_to_csr
from dslbench.errors import UsageError
from dslbench.runs.assemble import make_lab as worker_lab
from dslbench.sampling.rows import UserRows, UserRowSampler
from dslbench.seeds import Streams
from dslbench.spec import RunSpec, resolve
from dslbench.tables import keep_count
from dslbench.training.lab import Lab
from helpers import make_interactions
from training_helpers import train

CPU = torch.device("cpu")


def make_spec(epochs: int, *settings: str) -> RunSpec:
    return resolve(
        dataset="toy", backbone="cdae", method="dense", sparsity=0, seed=0, epochs=epochs,
        settings=["embedding_size=6", "batch_size=16", *settings],
    )  # fmt: skip


def make_lab(data: Interactions, epochs: int = 1, *settings: str) -> Lab:
    spec = make_spec(epochs, *settings)
    hyper = CDAEHyper.model_validate(spec.hyper | {"epochs": epochs})
    return Lab(data, CDAE, hyper, epochs=epochs, seed=0)


def build(lab: Lab) -> CDAE:
    model = lab.build()
    assert isinstance(model, CDAE)
    return model


def reference_scores(model: CDAE, x: Tensor, users: Tensor) -> Tensor:
    own = model.user.full()[users]
    if model.projection is not None:
        own = own @ model.projection.weight.T
    act = getattr(torch, model.hyper.activation)
    hidden = act(x @ model.encoder.full() + own + model.hidden_bias)
    scores: Tensor = hidden @ model.decoder.full().T + model.item_bias
    return scores


def reference_loss(model: CDAE, batch: UserRows) -> Tensor:
    x = dense_rows(batch, len(model.item_bias))
    scores = reference_scores(model, dropped_rows(batch, x, model.hyper.dropout), batch.users)
    fit = torch.nn.functional.binary_cross_entropy_with_logits(scores, x, reduction="sum")
    norms = [table.full().square().sum().sqrt() for table in (model.user, model.encoder)]
    return fit + model.hyper.reg * (norms[0] + norms[1])


@pytest.mark.parametrize(
    "settings", [["preset=recbole"], ["preset=dsl", "reg=3.0"], ["activation=sigmoid", "reg=0.0"]]
)
def test_loss_and_gradients_equal_the_dense_reference(
    interactions: Interactions, settings: list[str]
) -> None:
    lab = make_lab(interactions, 1, *settings)
    model = build(lab)
    batch = next(UserRowSampler(interactions.train, 16, Streams(1), CPU).epoch())
    results = []
    for compute in (reference_loss, CDAE.loss):
        model.zero_grad()
        loss = compute(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        results.append((float(loss.detach()), gradients))
    (expected, expected_gradients), (found, gradients) = results
    assert found == pytest.approx(expected, rel=1e-5)
    assert len(gradients) == len(expected_gradients) == len(list(model.parameters()))
    for name, gradient in gradients.items():
        assert_allclose(gradient, expected_gradients[name], rtol=1e-3, atol=1e-4, err_msg=name)


def test_scores_come_from_uncorrupted_training_items(interactions: Interactions) -> None:
    lab = make_lab(interactions, 2)
    model = build(lab)
    lab.fit(model)
    users = torch.tensor([7, 0, 39])
    x = torch.from_numpy(interactions.train[users.numpy()].toarray())
    with torch.no_grad():
        expected = reference_scores(model, x, users)
    for _ in range(2):
        assert_allclose(model.scorer()(users), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("preset", ["recbole", "dsl"])
def test_parameters_count_to_the_closed_form(preset: str) -> None:
    n, m, k = 20, 30, 256
    data = make_interactions(n, m)
    model = build(make_lab(data, 1, f"preset={preset}", f"embedding_size={k}"))
    projection = k * k if preset == "dsl" else 0
    assert sum(p.numel() for p in model.parameters()) == (2 * m + n) * k + projection + k + m
    assert model.other_parameters() == k + m
    tables = model.tables()
    assert {name for name, t in tables.items() if t.spec.role == "embedding"} == {
        "encoder", "user", "decoder",
    }  # fmt: skip
    small, _, _ = train(data, "cdae", "dsl", 0.6, 1, f"preset={preset}", "dsl.mask_scope=all")
    for table in small.tables().values():
        assert table.live() == keep_count(table.spec.n_rows * 7, 0.6)


def test_presets_follow_their_sources() -> None:
    def hyper(preset: str, dataset: str) -> tuple[dict[str, object], int]:
        spec = resolve(
            dataset=dataset, backbone="cdae", method="dense", sparsity=0, seed=0, scale="paper",
            settings=[f"preset={preset}"],
        )  # fmt: skip
        return spec.hyper, spec.epochs

    values, _ = hyper("recbole", "ml-1m")
    assert (values["embedding_size"], values["user_projection"]) == (64, False)
    values, epochs = hyper("dsl", "ml-1m")
    assert (values["embedding_size"], values["user_projection"], epochs) == (256, True, 21)


def test_held_out_users_are_refused() -> None:
    with pytest.raises(UsageError, match="cannot score users it was not trained on"):
        worker_lab(make_spec(1), strong_data(), CPU)


@pytest.mark.parametrize(
    "settings", [["preset=recbole", "embedding_size=1"], ["preset=dsl", "embedding_size=13"]]
)
def test_awkward_data_and_sizes(settings: list[str]) -> None:
    """A user and an item without interactions, a batch larger than the data."""
    shape = (4, 5)
    data = Interactions(
        "tiny", "paper", pairs_to_csr([1, 1, 3], [0, 3, 3], shape), pairs_to_csr([], [], shape),
        pairs_to_csr([0, 3], [2, 0], shape),
    )  # fmt: skip
    lab = make_lab(data, 2, "batch_size=1000", *settings)
    model = build(lab)
    before = model.user.full().detach()[[0, 2]].clone()
    lab.fit(model)
    assert torch.isfinite(model.scorer()(torch.arange(4))).all()
    # A user who is never sampled keeps a vector, shrunk by the norm alone.
    assert_allclose(model.user.full().detach()[[0, 2]], before, atol=5e-3)
    assert np.isfinite(lab.phases[0].history[-1]["loss"])
