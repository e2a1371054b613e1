"""The training loop: selection, divergence, and what a run's record is made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import softplus

from dslbench import artefact, registry
from dslbench import data as datasets
from dslbench.backbones.lightgcn import LightGCN
from dslbench.data.interactions import Interactions, pairs_to_csr
from dslbench.errors import DataError, RunError
from dslbench.evaluation.evaluate import Evaluation
from dslbench.ops.propagate import Propagate
from dslbench.optimisers import Adam
from dslbench.runs import assemble, store
from dslbench.runs.assemble import rebuild
from dslbench.runs.record import written
from dslbench.runs.worker.run import make_run
from dslbench.spec import resolve
from dslbench.tables.spec import xavier_uniform
from dslbench.training.hooks import rise_of
from dslbench.training.lab import Lab, learning_rate
from helpers import make_interactions

CPU = torch.device("cpu")
FIXTURE = next((Path(__file__).parent / "fixtures" / "store-format-2" / "runs").iterdir())


def make_lab(data: Interactions, *settings: str, method: str = "dense", epochs: int = 4) -> Lab:
    spec = resolve(
        dataset="toy", backbone="lightgcn", method=method, sparsity=0.5, seed=1, epochs=epochs,
        settings=["embedding_size=8", "batch_size=64", *settings],
    )  # fmt: skip
    return assemble.make_lab(spec, data, CPU)


@pytest.mark.parametrize(
    ("by_epoch", "rise"),
    [
        ({2: 0.10, 4: 0.15, 6: 0.18, 8: 0.20, 9: 0.21, 10: 0.19}, 0.05),  # .20 before epoch 8 of 10
        ({2: 0.10, 4: 0.15, 6: 0.18, 8: 0.20, 10: 0.15}, 0.0),  # what falls has levelled off
        ({6: 0.15, 7: 0.18, 8: 0.20, 10: 0.21}, None),  # three say nothing
        ({2: 0.0, 4: 0.0, 6: 0.0, 8: 0.0, 10: 0.1}, None),  # from nothing there is no ratio
        ({}, None),
    ],
)
def test_how_much_a_phase_still_rose(by_epoch: dict[int, float], rise: float | None) -> None:
    history = [
        {"epoch": epoch} | ({"recall@20": by_epoch[epoch]} if epoch in by_epoch else {})
        for epoch in range(1, 11)
    ]
    assert rise_of(history) == (None if rise is None else pytest.approx(rise))
    assert rise_of([]) is None


def test_the_best_epoch_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = make_lab(make_interactions(), "eval_every=1")
    values, weights = iter([0.1, 0.4, 0.3, 0.2]), []

    def scripted(self: Lab, model: Any, part: str) -> Evaluation:
        assert part == "valid"
        weights.append(model.embedding.weight.detach().clone())
        value = np.array([next(values)])
        return Evaluation(
            np.array([0]), {"recall@20": value, "ndcg@20": value, "hr@20": value}, {}, 0
        )

    monkeypatch.setattr(Lab, "evaluate", scripted)
    model = lab.build()
    record = lab.fit(model)
    assert (record.selected_epoch, record.selected_value) == (2, 0.4)
    assert torch.equal(model.tables()["embedding"].full(), weights[1])
    assert not torch.equal(weights[1], weights[3])


@pytest.mark.parametrize("settings", [["lr=1e30"], ["lr=1e38", "batch_size=100000"]])
def test_divergence_is_an_error_and_names_a_rate_to_try(settings: list[str]) -> None:
    lab = make_lab(make_interactions(), *settings, epochs=3)
    with pytest.raises(RunError, match=r"the loss became|stopped being numbers") as caught:
        lab.fit(lab.build())
    assert "--set lr=1e+" in (caught.value.hint or "")


def test_learning_rate_spans_the_epochs_run() -> None:
    hyper = make_lab(make_interactions(), "preset=dsl").hyper
    rates = [learning_rate(hyper, epoch, 4) for epoch in (1, 2, 3, 4)]
    spread = 1e-2 - 1e-4
    expected = [1e-4 + spread / 2 * (1 + np.cos(np.pi * k / 4)) for k in range(4)]
    np.testing.assert_allclose(rates, expected)


def test_lightgcn_loss_is_the_plain_formula() -> None:
    data = make_interactions()
    lab = make_lab(data, "reg=0.3")
    model = lab.build()
    assert isinstance(model, LightGCN) and model.published_delta_t == 3000
    batch = next(model.sampler(data, lab.hyper, lab.streams, CPU).epoch())
    table, n = model.embedding.full().detach(), data.n_users
    final = Propagate(data.train, 3)(table)
    u, i, j = batch.users, n + batch.positives, n + batch.negatives
    ranking = softplus((final[u] * final[j]).sum(1) - (final[u] * final[i]).sum(1)).mean()
    l2 = sum(table[rows].square().sum() for rows in (u, i, j)) / (2 * len(u))
    torch.testing.assert_close(model.loss(batch), ranking + 0.3 * l2)


def test_xavier_bound_is_that_of_the_joint_table() -> None:
    values = xavier_uniform(np.random.default_rng(0), 900, 100)
    bound = (6 / 1000) ** 0.5
    assert 0.999 * bound < np.abs(values).max() <= bound


def test_exploring_iterations_take_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    original = Adam.step
    monkeypatch.setattr(Adam, "step", lambda self, *a: (steps.append(1), original(self, *a))[1])
    for variant, skipped in [("default", True), ("official", False)]:
        steps.clear()
        settings = [f"dsl.variant={variant}", "dsl.delta_t=2", "dsl.decay=none"]
        lab = make_lab(make_interactions(), *settings, method="dsl")
        kind = registry.method("dsl")
        spec = resolve(
            dataset="toy", backbone="lightgcn", method="dsl", sparsity=0.5, seed=1, epochs=4,
            settings=settings,
        )  # fmt: skip
        method = kind(kind.options_type.model_validate(spec.options), 0.5)
        method.run(lab)
        explored = method.diagnostics()["explorations_in_all"]
        assert explored == lab.phases[0].steps // 2
        assert len(steps) == lab.phases[0].steps - (explored if skipped else 0)


def test_a_record_is_about_the_stored_model_on_test(own_home: Path) -> None:
    spec = resolve(
        dataset="toy", backbone="lightgcn", method="rp", sparsity=0.5, seed=0, epochs=2,
        settings=["embedding_size=8"],
    )  # fmt: skip
    record = make_run(spec, CPU, lambda event: None)
    packed = artefact.read(store.folder(record["id"]) / "model.safetensors")
    data = datasets.load("toy")
    again = assemble.make_lab(spec, data, CPU).evaluate(rebuild(packed), "test")
    for name, value in again.means.items():
        assert record["quality"][name] == pytest.approx(value, abs=1e-6)
    users = np.load(store.folder(record["id"]) / "users.npz")
    assert users["recall@20"].mean() == pytest.approx(record["quality"]["recall@20"])
    assert record["cost"]["measured"]["stored_bytes"]["bitmap"] > 0


@pytest.mark.parametrize("part", ["valid", "test"])
def test_a_protocol_that_leaves_a_part_empty_is_refused(part: str) -> None:
    whole = make_interactions()
    nothing = pairs_to_csr([], [], whole.train.shape)
    parts = {"train": whole.train, "valid": whole.valid, "test": whole.test, part: nothing}
    with pytest.raises(DataError, match=f"leaves no {'test' if part == 'test' else 'validation'}"):
        make_lab(Interactions("mine", "default", **parts))


def test_whole_numbers_of_a_record_stay_whole() -> None:
    found = written(json.loads((FIXTURE / "run.json").read_text()) | {"format": 3})
    macs = found["cost"]["counted"]["exact"]["train_macs"]
    assert isinstance(macs, int) and isinstance(found["quality"]["tied_users"], int)
    assert isinstance(found["quality"]["recall@20"], float)
    with pytest.raises(ValueError, match=r"budget\.surprise' is described nowhere"):
        written(found | {"budget": found["budget"] | {"surprise": 1}})


@pytest.mark.parametrize("backbone", registry.names("backbone"))
def test_the_number_of_threads_moves_no_bit(backbone: str) -> None:
    """Which is why it is no part of a run's identity.

    Products of dense matrices are torch's, and some processors' libraries sum them in another order on
    another number of threads: models that live by these are the same but for rounding.
    """
    own = ["embedding_size=16", "batch_size=256"]
    spec = resolve(
        dataset="toy", backbone=backbone, method="dense", sparsity=0, seed=0, epochs=1, settings=own
    )
    found, before = [], torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DSLBENCH_THREADS", str(threads))
            lab = assemble.make_lab(spec, make_interactions(90, 70), CPU)
            model = lab.build()
            lab.fit(model)
        found.append({name: p.detach().clone() for name, p in model.named_parameters()})
    torch.set_num_threads(before)
    exact = backbone in ("lightgcn", "ultragcn")  # all of their step are kernels of our own
    for name, one in found[0].items():
        other = found[1][name]
        assert torch.equal(one, other) if exact else torch.allclose(one, other, atol=1e-3), name
