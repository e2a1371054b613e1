"""Small trainings: every pair of backbone and method, and settings under which each works."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import torch

from dslbench import registry
from dslbench.backbones.base import Backbone
from dslbench.data.interactions import Interactions, pairs_to_csr
from dslbench.methods.base import Method
from dslbench.runs.assemble import make_lab
from dslbench.spec import resolve
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
        "cdae": ["batch_size=16"],
        "convncf": ["lr=0.05", "channels=8", "batch_size=128", "pretrain_epochs=10"],
        "lightgcn": ["batch_size=128"],
        "multvae": ["batch_size=16"],
        "neumf": ["batch_size=256", "negative_num=2"],
        # Two of its rows with a random half of 16 entries each may have too few in common.
        "ultragcn": [
            "embedding_size=32",
            "batch_size=128",
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
# And of a few epochs gmp needs most to recover in.
TWO_ROUNDS = ["lth_mrs.rounds=2", "wr.rounds=2", "gmp.end=0.3"]

_TEACHERS: dict[str, tuple[Backbone, Phase]] = {}  # each is trained once, and never changed


def published(backbone: str) -> list[str]:
    """The published recipe, which says more of a model than our short one; not all plug-ins have it."""
    return ["preset=official"] if "official" in registry.backbone(backbone).presets() else []


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
            *published(backbone), "embedding_size=7", "batch_size=32",
            *SETTINGS["small"].get(backbone, []), *settings,
        ],
    )  # fmt: skip
    lab = make_lab(spec, data, torch.device(device))

    def teacher() -> tuple[Backbone, Phase]:
        key = str((data.digests, backbone, epochs, settings, device))
        if key not in _TEACHERS:
            found, _, dense = train(data, backbone, "dense", 0.0, epochs, *settings, device=device)
            _TEACHERS[key] = found, dense.phases[-1]
        model, phase = _TEACHERS[key]
        return model, dataclasses.replace(phase, name="teacher")

    lab.find_teacher = teacher
    method_type = registry.method(method)
    trained = method_type(method_type.options_type.model_validate(spec.options), spec.sparsity)
    return trained.run(lab), trained, lab


def parameters(model: Backbone) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def checkerboard(n: int = 44) -> Interactions:
    """Users like the items of their own parity; two of them are held out for each user."""
    users, items = np.nonzero((np.arange(n)[:, None] + np.arange(n)) % 2 == 0)
    held_out = ((items - users) % n == 2) | ((items - users) % n == 10)
    shape = (n, n)
    train_part = pairs_to_csr(users[~held_out], items[~held_out], shape)
    test_part = pairs_to_csr(users[held_out], items[held_out], shape)
    return Interactions("checkerboard", "paper", train_part, pairs_to_csr([], [], shape), test_part)


def same(a: Any, b: Any) -> None:
    """Equal to the last bit."""
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b)
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype and np.array_equal(a, b)
    elif isinstance(a, dict):
        assert list(a) == list(b) or set(a) == set(b)
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            same(x, y)
    else:
        assert a == b
