"""What every method and backbone must satisfy; new ones join by themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from dslbench import artefact, registry
from dslbench.backbones.base import Backbone
from dslbench.data.interactions import Interactions
from dslbench.errors import UsageError
from dslbench.methods.base import Method
from dslbench.runs.assemble import served
from dslbench.spec import resolve
from dslbench.tables import keep_count
from dslbench.training.lab import Lab
from helpers import DEVICES, make_interactions
from training_helpers import (
    BACKBONES,
    METHODS,
    PAIRS,
    SETTINGS,
    TWO_ROUNDS,
    checkerboard,
    parameters,
    train,
)

# Every pair at a half, and at one of the others in turn.
OTHERS = (0.0, 0.9, 0.99)
BUDGETS = [
    (backbone, method, sparsity)
    for backbone, method in PAIRS
    for sparsity in (0.5, OTHERS[(BACKBONES.index(backbone) + METHODS.index(method)) % 3])
]


VARIANTS = [
    (method, variant)
    for method in METHODS
    for variant in registry.method(method).variants
    if variant != "default"
]


def within_budget(model: Backbone, trained: Method, lab: Lab) -> artefact.StoredModel:
    """The model as it is stored, which is what its method allows."""
    kept = artefact.pack(model, {}, {}, trained.stored(model))
    specs = {n: t.spec for n, t in model.tables().items() if t.spec.role == "embedding"}
    own = [kept.tables[name] for name in specs]
    parameters, nbytes = sum(t.parameters for t in own), sum(t.nbytes for t in own)
    trained.allowance(specs, lab.full_hyper).check(parameters, nbytes)
    return kept


@pytest.mark.parametrize(("method", "variant"), VARIANTS)
def test_named_variants_keep_to_their_budgets(
    interactions: Interactions, method: str, variant: str
) -> None:
    model, trained, lab = train(
        interactions, "lightgcn", method, 0.5, 1, f"{method}.variant={variant}"
    )
    within_budget(model, trained, lab)


@pytest.mark.parametrize(("backbone", "method", "sparsity"), BUDGETS)
@pytest.mark.parametrize("device", DEVICES)
def test_the_budget_is_exact_and_survives_storage(
    interactions: Interactions, backbone: str, method: str, sparsity: float, device: str
) -> None:
    try:
        epochs = 2 if sparsity == 0.5 else 1
        model, trained, lab = train(
            interactions, backbone, method, sparsity, epochs, *TWO_ROUNDS, device=device
        )
    except UsageError:
        assert sparsity >= 0.9  # not one column is left of a row, or maps take more than there is
        return
    kept = within_budget(model, trained, lab)
    content = artefact.to_bytes(kept)
    packed = artefact.from_bytes(content)
    assert artefact.to_bytes(packed) == content
    specs = {n: t.spec for n, t in model.tables().items() if t.spec.role == "embedding"}
    parameters = sum(packed.tables[name].parameters for name in specs)
    entries = [spec.n_rows * lab.full_hyper.width(name) for name, spec in specs.items()]
    assert parameters <= sum(keep_count(n, trained.sparsity) for n in entries)
    for name, table in packed.tables.items():
        assert table.entries().shape == (table.shape[0],) and type(table).form == table.form
        assert table.sizes()[table.form] == table.nbytes
        assert table.entries().sum() <= table.parameters or table.shares_rows
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


@pytest.mark.parametrize(
    ("backbone", "method"), [p for p in PAIRS if registry.method(p[1]).family == "MP"]
)
def test_zero_sparsity_of_a_mask_equals_dense(
    interactions: Interactions, backbone: str, method: str
) -> None:
    small = parameters(train(interactions, backbone, method, 0.0)[0])
    dense = parameters(train(interactions, backbone, "dense", 0.0)[0])
    assert all(torch.equal(small[name], dense[name]) for name in dense)


@pytest.mark.parametrize(("backbone", "method"), PAIRS)
@pytest.mark.parametrize("device", DEVICES)
def test_a_checkerboard_is_learned(backbone: str, method: str, device: str) -> None:
    learn_a_checkerboard(backbone, method, device, *SETTINGS["checkerboard"].get(backbone, []))


@pytest.mark.parametrize("method", [method for backbone, method in PAIRS if backbone == "lightgcn"])
@pytest.mark.parametrize("device", DEVICES)
def test_a_checkerboard_is_learned_from_shared_negatives(method: str, device: str) -> None:
    own = SETTINGS["checkerboard"].get("lightgcn", [])
    learn_a_checkerboard("lightgcn", method, device, *own, "negatives=8")


def learn_a_checkerboard(backbone: str, method: str, device: str, *settings: str) -> None:
    own = ["embedding_size=16", "lr=0.03", *TWO_ROUNDS, *settings]
    model, _, lab = train(checkerboard(), backbone, method, 0.5, 6, *own, device=device)
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
