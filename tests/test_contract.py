"""What every method and backbone must satisfy; new ones join by themselves."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch

from conftest import DEVICES, make_interactions
from dslbench import artefact, registry
from dslbench.backbones.base import Backbone
from dslbench.data.interactions import Interactions, pairs_to_csr
from dslbench.errors import UsageError
from dslbench.methods.base import Method
from dslbench.runs.assemble import make_lab, served
from dslbench.spec import resolve
from dslbench.tables import keep_count
from dslbench.training.hooks import Phase
from dslbench.training.lab import Lab

METHODS, BACKBONES = registry.names("method"), registry.names("backbone")
PAIRS = [
    (backbone, method)
    for backbone, method in itertools.product(BACKBONES, METHODS)
    if method not in registry.backbone(backbone).refuses
]

# What a backbone needs beside, or instead of, the settings of the tests below: by test, then name.
SETTINGS: dict[str, dict[str, list[str]]] = {
    "small": {
        "convncf": ["embedding_size=8", "channels=4"],
        "neumf": ["batch_size=128"],
    },
    "checkerboard": {
        "lightgcn": ["lr=0.02", "batch_size=128"],
        "convncf": ["lr=0.05", "channels=8", "batch_size=128", "pretrain_epochs=15"],
        "neumf": ["batch_size=256", "negative_num=2"],
        # Two of its rows with a random half of 16 entries each may have too few in common.
        "ultragcn": [
            "embedding_size=32",
            "batch_size=256",
            "lr=0.03",
            "lambda_=1",
            "negative_num=10",
            "negative_weight=10",
        ],
    },
    # Few pairs and large values: else rounding of the loss or a ReLU's kink exceeds the slope.
    "gradients": {
        "convncf": ["embedding_size=4", "channels=4", "batch_size=8"],
        "neumf": ["batch_size=8", "init_std=2", "hidden=[2]"],
        "ultragcn": ["batch_size=8", "init_std=0.5", "gamma=1"],
    },
}

# Iterative methods take 22 rounds to 90 %; two show the same contract.
TWO_ROUNDS = ["lth_mrs.rounds=2", "wr.rounds=2"]


def train(
    data: Interactions,
    backbone: str,
    method: str,
    sparsity: float,
    epochs: int = 2,
    *settings: str,
    device: str = "cpu",
) -> tuple[Backbone, Method, Lab]:
    spec = resolve(
        dataset="toy", backbone=backbone, method=method, sparsity=sparsity, seed=3, epochs=epochs,
        protocol=data.protocol,
        settings=[
            "embedding_size=7", "batch_size=32", *SETTINGS["small"].get(backbone, []), *settings
        ],
    )  # fmt: skip
    lab = make_lab(spec, data, torch.device(device))

    def teacher() -> tuple[Backbone, Phase]:
        model, _, dense = train(data, backbone, "dense", 0.0, epochs, *settings, device=device)
        return model, dataclasses.replace(dense.phases[-1], name="teacher")

    lab.find_teacher = teacher
    method_type = registry.method(method)
    trained = method_type(method_type.options_type.model_validate(spec.options), spec.sparsity)
    return trained.run(lab), trained, lab


def parameters(model: Backbone) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize(("backbone", "method"), PAIRS)
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.8, 0.9, 0.99])
@pytest.mark.parametrize("device", DEVICES)
def test_the_budget_is_exact_and_survives_storage(
    interactions: Interactions, backbone: str, method: str, sparsity: float, device: str
) -> None:
    try:
        model, trained, lab = train(
            interactions, backbone, method, sparsity, 2, *TWO_ROUNDS, device=device
        )
    except UsageError:
        assert sparsity >= 0.8  # not one column is left of a row, or maps take more than there is
        return
    kept = artefact.pack(model, {}, {}, trained.stored(model))
    content = artefact.to_bytes(kept)
    packed = artefact.from_bytes(content)
    assert artefact.to_bytes(packed) == content
    specs = {n: t.spec for n, t in model.tables().items() if t.spec.role == "embedding"}
    own = [packed.tables[name] for name in specs]
    parameters, nbytes = sum(t.parameters for t in own), sum(t.nbytes for t in own)
    trained.allowance(specs, lab.full_hyper).check(parameters, nbytes)
    entries = [spec.n_rows * lab.full_hyper.width(name) for name, spec in specs.items()]
    assert parameters <= sum(keep_count(n, trained.sparsity) for n in entries)
    for name, table in packed.tables.items():
        assert table.entries().shape == (table.shape[0],) and type(table).form == table.form
        assert (
            table.entries().sum() <= table.parameters and table.sizes()[table.form] == table.nbytes
        )
        assert np.array_equal(table.live().sum(axis=1), table.entries()), name
    rebuilt, original = served(packed, lab), model.eval()
    if any(
        not np.array_equal(kept.tables[name].unpack(), table.full().detach().cpu().numpy())
        for name, table in model.tables().items()
    ):  # values are rounded when they are stored
        original = served(kept, lab)
    users = torch.arange(interactions.n_users, device=device)
    both = original.scorer()(users), rebuilt.scorer()(users)
    if device == "cpu":
        assert torch.equal(*both)
    else:
        torch.testing.assert_close(*both, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("backbone", "method"), PAIRS)
def test_the_same_seed_gives_the_same_bits(
    interactions: Interactions, backbone: str, method: str
) -> None:
    first, second = (
        parameters(train(interactions, backbone, method, 0.5, 2, *TWO_ROUNDS)[0]) for _ in range(2)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("backbone", "method"), [p for p in PAIRS if registry.method(p[1]).family == "MP"]
)
def test_zero_sparsity_of_a_mask_equals_dense(
    interactions: Interactions, backbone: str, method: str
) -> None:
    small = parameters(train(interactions, backbone, method, 0.0)[0])
    dense = parameters(train(interactions, backbone, "dense", 0.0)[0])
    assert all(torch.equal(small[name], dense[name]) for name in dense)


def checkerboard(n: int = 100) -> Interactions:
    """Users like the items of their own parity; two of them are held out for each user."""
    users, items = np.nonzero((np.arange(n)[:, None] + np.arange(n)) % 2 == 0)
    held_out = ((items - users) % n == 2) | ((items - users) % n == 10)
    shape = (n, n)
    train_part = pairs_to_csr(users[~held_out], items[~held_out], shape)
    test_part = pairs_to_csr(users[held_out], items[held_out], shape)
    return Interactions("checkerboard", "paper", train_part, pairs_to_csr([], [], shape), test_part)


@pytest.mark.parametrize(("backbone", "method"), PAIRS)
@pytest.mark.parametrize("device", DEVICES)
def test_a_checkerboard_is_learned(backbone: str, method: str, device: str) -> None:
    data = checkerboard()
    own = SETTINGS["checkerboard"].get(backbone, [])
    own = ["embedding_size=16", "lr=0.01", *TWO_ROUNDS, *own]
    model, _, lab = train(data, backbone, method, 0.5, 15, *own, device=device)
    assert lab.evaluate(model, "test").means["recall@20"] == 1.0


@pytest.mark.parametrize("backbone", BACKBONES)
def test_gradients_match_finite_differences(backbone: str) -> None:
    """Along random directions, so that every kernel of the backward pass takes part."""
    data = make_interactions(15, 12)
    spec = resolve(
        dataset="toy", backbone=backbone, method="dense", sparsity=0, seed=0, epochs=1,
        settings=["embedding_size=5", *SETTINGS["gradients"].get(backbone, [])],
    )  # fmt: skip
    kind = registry.backbone(backbone)
    hyper = kind.hyper_type.model_validate(spec.hyper | {"epochs": 1})
    lab = Lab(data, kind, hyper, epochs=1, seed=0)
    model = lab.build()
    batch: Any = next(_batches(lab))
    rng = np.random.default_rng(0)
    loss = model.loss(batch)
    loss.backward()  # type: ignore[no-untyped-call]
    for parameter in model.parameters():
        direction = torch.from_numpy(rng.standard_normal(tuple(parameter.shape)).astype(np.float32))
        assert parameter.grad is not None
        slope = float((parameter.grad * direction).sum())
        values, step = parameter.detach().clone(), 1e-2
        ends = []
        for steps in (-2, -1, 1, 2):
            with torch.no_grad():
                parameter.copy_(values + steps * step * direction)
                ends.append(float(model.loss(batch)))
        with torch.no_grad():
            parameter.copy_(values)
        # The four-point formula: exact up to the fifth derivative.
        expected = (ends[0] - 8 * ends[1] + 8 * ends[2] - ends[3]) / (12 * step)
        assert slope == pytest.approx(expected, rel=2e-2, abs=2e-4)


def _batches(lab: Lab) -> Any:
    return lab.build().sampler(lab.data, lab.hyper, lab.streams, lab.device).epoch()


@pytest.mark.parametrize("kind", ["method", "backbone"])
def test_listing_says_what_each_is(kind: str) -> None:
    for name in registry.names(kind):
        assert registry.summary(kind, name).endswith(".")
