"""ConvNCF: the map in Z-order, the tower against torch's convolution, regularisation, pretraining."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import conv2d, softplus

from dslbench.backbones.convncf import ConvNCF, ConvNCFHyper
from dslbench.data.interactions import Interactions
from dslbench.errors import UsageError
from dslbench.ops.outer import OuterMap, z_order
from dslbench.spec import resolve
from dslbench.tables.linear import truncated_normal
from dslbench.training.lab import Lab
from helpers import make_interactions


def make_lab(data: Interactions, *settings: str, dataset: str = "toy") -> Lab:
    spec = resolve(
        dataset=dataset, backbone="convncf", method="dense", sparsity=0, seed=0, epochs=1,
        settings=["preset=official", "pretrain_epochs=0", *settings],
    )  # fmt: skip
    hyper = ConvNCFHyper.model_validate(spec.hyper | {"epochs": 1})
    return Lab(data, ConvNCF, hyper, epochs=1, seed=0)


def build(data: Interactions, *settings: str, dataset: str = "toy") -> ConvNCF:
    model = make_lab(data, *settings, dataset=dataset).build()
    assert isinstance(model, ConvNCF)
    with torch.no_grad():  # larger than the recipe's 0.01, so that the map matters
        for table in (model.user, model.item):
            for parameter in table.parameters():
                parameter.mul_(50)
    return model


def tower(model: ConvNCF, p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Scores of pairs by torch's convolution over the outer product."""
    x = (p.unsqueeze(2) * q.unsqueeze(1)).unsqueeze(1)
    for layer in model.convolutions:
        kernel = layer.weight.view(layer.out_features, 2, 2, -1).permute(0, 3, 1, 2)
        x = torch.relu(conv2d(x, kernel, layer.bias, stride=2))
    return model.head(x.flatten(1)).squeeze(1)


def test_z_order_keeps_squares_together() -> None:
    rows, columns = z_order(4)
    assert rows[:8].tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    assert columns[:8].tolist() == [0, 1, 0, 1, 2, 3, 2, 3]
    assert len(set(zip(rows.tolist(), columns.tolist(), strict=True))) == 16


@pytest.mark.parametrize("d", [2, 8, 64])
def test_outer_map_and_its_gradient(d: int) -> None:
    p, q = (torch.randn(5, d, requires_grad=True) for _ in range(2))
    op, weights = OuterMap(d), torch.randn(5, d * d)
    plain = (p.unsqueeze(2) * q.unsqueeze(1))[:, op.rows, op.columns]
    found = op(p, q)
    assert torch.equal(found, plain)
    gradients = torch.autograd.grad((found * weights).sum(), [p, q])
    for a, b in zip(gradients, torch.autograd.grad((plain * weights).sum(), [p, q]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("d", [2, 4, 16, 64])
def test_scores_and_gradients_equal_torchs_convolutions(d: int) -> None:
    data = make_interactions(6, 5)
    model = build(data, f"embedding_size={d}", "channels=6")

    def pairs() -> tuple[torch.Tensor, torch.Tensor]:
        return model.user.full()[:5], model.item.full()[[0, 1, 2, 0, 4]]

    found, expected = model.score_pairs(*pairs()), tower(model, *pairs())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(found.square().sum(), parameters)
    for a, b in zip(
        gradients, torch.autograd.grad(expected.square().sum(), parameters), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_scorers_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dslbench.backbones.convncf._BLOCK_BYTES", 1 << 14)  # several blocks
    model = build(make_interactions(6, 50), "embedding_size=8")
    scores = model.scorer()(torch.tensor([4, 1]))
    assert scores.shape == (2, 50) and not scores.requires_grad
    expected = tower(model, model.user.full()[[1]].expand(50, -1), model.item.full())
    torch.testing.assert_close(scores[1], expected.detach(), rtol=1e-4, atol=1e-5)
    some = torch.tensor([[3, 3, 49], [0, 7, 8]])
    found = model.candidate_scorer()(torch.tensor([4, 1]), some)
    torch.testing.assert_close(found, scores.gather(1, some))


def test_loss_is_the_regularised_sum() -> None:
    data = make_interactions(12, 9)
    lab = make_lab(data, "embedding_size=4", "reg_embedding=0.3", "reg_output=10", "reg_network=2")
    model = lab.build()
    assert isinstance(model, ConvNCF)
    batch = next(model.sampler(data, lab.hyper, lab.streams, lab.device).epoch())
    p, i = model.user.full()[batch.users], model.item.full()[batch.positives]
    j = model.item.full()[batch.negatives[:, 0].long()]
    ranking = softplus(tower(model, p, j) - tower(model, p, i)).sum()
    rows = p.square().sum() + i.square().sum() + j.square().sum()
    layers = [
        layer.weight.square().sum() + layer.bias.square().sum() for layer in model.convolutions
    ]
    head = model.head.weight.square().sum() + model.head.bias.square().sum()
    expected = ranking + 0.3 * rows + 10 * head + 2 * (sum(layers) + head)
    torch.testing.assert_close(model.loss(batch), expected)


def test_parameters_of_the_published_network() -> None:
    model = build(make_interactions(6, 5), dataset="ml-1m")
    assert model.hyper.embedding_size == 64 and len(model.convolutions) == 6
    assert sum(p.numel() for p in model.convolutions.parameters()) == 20_800
    assert sum(p.numel() for p in model.head.parameters()) == 33
    assert model.other_parameters() == 6 * 32 + 1  # biases; weights are tables of role "layer"


def test_initial_values() -> None:
    values = truncated_normal(0.1)(np.random.default_rng(0), 300, 100)
    assert np.abs(values).max() <= 0.2 and values.std() == pytest.approx(0.088, abs=0.002)
    model = make_lab(make_interactions(6, 5)).build()
    assert all((layer.bias == 0.1).all() for layer in model.convolutions)  # type: ignore[union-attr]


def test_adagrad_starts_at_a_tenth() -> None:
    lab = make_lab(make_interactions(6, 5))
    model = lab.build()
    optimiser = model.optimiser(lab.hyper)
    assert isinstance(optimiser, torch.optim.Adagrad)
    assert all((optimiser.state[p]["sum"] == 0.1).all() for p in model.parameters())


def test_tables_start_from_matrix_factorisation() -> None:
    data = make_interactions(20, 15)
    lab = make_lab(data, "pretrain_epochs=3", "batch_size=16", "warm_up_epochs=0")
    model, fresh = lab.build(), lab.build(pretrained=False)
    assert [(p.name, p.epochs) for p in lab.phases] == [("pretrain MF", 3)]
    assert lab.phases[0].selected_epoch is not None
    for (name, p), q in zip(model.named_parameters(), fresh.parameters(), strict=True):
        assert torch.equal(p, q) == (name not in ("user.weight", "item.weight"))


def test_the_warm_up_goes_on_from_there_without_regularisation() -> None:
    settings = "pretrain_epochs=3", "warm_up_epochs=1", "batch_size=16", "reg_network=1000"
    lab = make_lab(make_interactions(20, 15), *settings)
    model, fresh = lab.build(), lab.build(pretrained=False)
    assert [(p.name, p.epochs) for p in lab.phases] == [("pretrain MF", 3), ("warm up", 1)]
    assert lab.phases[1].history[0]["loss"] < 16 * 0.7  # a norm alone would be in the thousands
    assert lab.phases[1].history[0]["lr"] == 0.01
    mf = make_lab(make_interactions(20, 15), *settings, "warm_up_epochs=0").build()
    # Biases before the last ReLU may stay: they cancel between two items while all units are active.
    for p, q in zip(model.parameters(), fresh.parameters(), strict=True):
        assert p.ndim == 1 or not torch.equal(p, q)
    for start, p in zip(list(mf.parameters())[:2], model.parameters(), strict=False):
        assert 0 < (p - start).abs().max() < 0.2  # the tables go on from MF's
    assert lab.hyper.reg_network == 1000  # type: ignore[attr-defined]


@pytest.mark.parametrize("size", [1, 7, 48])
def test_sizes_that_cannot_be_halved_are_refused(size: int) -> None:
    with pytest.raises(UsageError, match="take 2, 4, 8"):
        make_lab(make_interactions(6, 5), f"embedding_size={size}")
