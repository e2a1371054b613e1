"""A training that several runs have in common is made once, and every run ends as if it had made it."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cli_helpers import run as dslbench
from dslbench import registry
from dslbench.data.interactions import Interactions
from dslbench.errors import UsageError
from dslbench.methods._masked import MaskedMethod
from dslbench.runs import claims, plan, sharing, stock, store
from dslbench.runs.checkpoint import Checkpoints
from dslbench.runs.claims import Claims
from dslbench.runs.schedule import Schedule
from dslbench.runs.sharing import SharingKeeper, trainings_of
from dslbench.runs.worker.run import make_run
from dslbench.runs.worker.train import train as train_run
from dslbench.spec import RunSpec, resolve
from dslbench.training.hooks import Hooks
from dslbench.training.progress import Keeper
from helpers import make_interactions
from training_helpers import SETTINGS

CPU = torch.device("cpu")
OF = {
    "lightgcn": ["embedding_size=16"],  # packed tables
    "neumf": ["pretrain_epochs=1", "dropout=0.3", "batch_size=512"],
    "multvae": [],
}


def spec(backbone: str, method: str, *own: str, sparsity: float = 0.5, epochs: int = 2) -> RunSpec:
    return resolve(
        dataset="toy", backbone=backbone, method=method, sparsity=sparsity, seed=3, epochs=epochs,
        settings=[
            "embedding_size=7", "batch_size=32", *SETTINGS["small"].get(backbone, []), "lth_mrs.rounds=2",
            "wr.rounds=2", *OF[backbone], *own,
        ],
    )  # fmt: skip


def trained(wanted: RunSpec, data: Interactions, keeper: Keeper | None = None) -> dict[str, Any]:
    """All that a run comes to, its times aside."""
    model, method, lab = train_run(wanted, data, CPU, lambda event: None, keeper or Keeper())
    return {
        "weights": model.state_dict(),
        "stored": {name: table.arrays() for name, table in method.stored(model).items()},
        "history": [
            {k: v for k, v in row.items() if not k.endswith("seconds")}
            for phase in lab.phases
            for row in phase.history
        ],
        "phases": [
            (p.name, p.epochs, p.steps, p.selected_epoch, p.selected_value, p.state_bytes, p.ledger.state())
            for p in lab.phases
        ],
        "streams": lab.streams.root.state(),
        "diagnostics": method.diagnostics(),
        "shared": [p.run for p in lab.phases],
    }  # fmt: skip


def sharer(wanted: RunSpec, data: Interactions, said: list[str] | None = None) -> SharingKeeper:
    """Takes over, and keeps, all that a run may share."""
    run_id = wanted.identity(data.digests)
    own = trainings_of(wanted, wanted.as_dense.identity(data.digests))
    kept = Checkpoints(run_id, CPU, ([] if said is None else said).append, 0)
    return SharingKeeper(kept, run_id, own, {t.key for t in own if sharing.is_stored(t.key)}, CPU)


def same(a: Any, b: Any) -> None:
    """Equal to the last bit."""
    if isinstance(a, torch.Tensor | np.ndarray):
        assert a.dtype == b.dtype and np.array_equal(np.asarray(a), np.asarray(b))
    elif isinstance(a, dict):
        assert set(a) == set(b)
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            same(x, y)
    else:
        assert a == b


def equal(found: dict[str, Any], alone: dict[str, Any]) -> list[str | None]:
    """Check that runs are equal but for who trained what; says who did."""
    same({k: v for k, v in found.items() if k != "shared"}, {k: v for k, v in alone.items() if k != "shared"})
    assert not any(alone["shared"])
    return list(found["shared"])


@pytest.mark.parametrize("backbone", OF)
def test_the_dense_training_is_the_same_bits_shared_or_not(backbone: str) -> None:
    data = make_interactions()
    before = len(registry.backbone(backbone).pretraining(resolve_hyper(spec(backbone, "dense"))))
    dense = spec(backbone, "dense")
    said: list[str] = []
    assert equal(trained(dense, data, sharer(dense, data)), trained(dense, data)) == [None] * (1 + before)
    by = dense.identity(data.digests)
    for method, phases in (("omp", 2), ("wr", 3), ("lth_mrs", 3), ("pep", 2)):
        wanted = spec(backbone, method)
        who = equal(trained(wanted, data, sharer(wanted, data, said)), trained(wanted, data))
        first = None if method == "pep" else by  # its search is its own
        assert who == [by] * before + [first] + [None] * (phases - 1)
    assert len(said) == 4 * before + 3 and all(f"taken over from run {by}" in line for line in said)


def resolve_hyper(wanted: RunSpec) -> Any:
    return registry.backbone(wanted.backbone).hyper_type.model_validate(wanted.hyper | {"epochs": 1})


def test_rounds_on_the_way_to_several_sparsities_are_shared_where_the_schedule_makes_them_so() -> None:
    data, backbone = make_interactions(), "lightgcn"
    options = [f"{m}.{o}" for m in ("lth_mrs", "wr") for o in ("schedule=fraction", "p=0.25")]

    def rounds(method: str, sparsity: float) -> RunSpec:
        found = spec(backbone, method, *options, sparsity=sparsity)
        return found.model_copy(update={"options": found.options | {"rounds": None}})

    # By quarters: 25, 44, 58 %; the last round is trimmed to 50 and 55 %.
    who = {}
    for method in ("lth_mrs", "wr"):
        for sparsity in (0.25, 0.5, 0.55):
            wanted = rounds(method, sparsity)
            who[method, sparsity] = equal(
                trained(wanted, data, sharer(wanted, data)), trained(wanted, data)
            )
    by = {key: rounds(*key).identity(data.digests) for key in who}
    quarter, half, more = (by["lth_mrs", s] for s in (0.25, 0.5, 0.55))
    assert who["lth_mrs", 0.25] == [None, None]
    assert who["lth_mrs", 0.5] == [quarter, quarter, None, None]
    assert who["lth_mrs", 0.55] == [quarter, quarter, half, None]
    assert who["wr", 0.25] == [quarter, None]  # its own first round: it goes on from trained weights
    assert who["wr", 0.55] == [quarter, by["wr", 0.25], by["wr", 0.5], None]
    # OMP is LTH-MRS with one round.
    omp = spec(backbone, "omp", sparsity=0.25)
    assert equal(trained(omp, data, sharer(omp, data)), trained(omp, data)) == [quarter, quarter]
    # In the usual schedule all rounds but the first depend on where they lead.
    names = [
        {t.key for t in trainings_of(spec(backbone, "lth_mrs", sparsity=s), "x")} for s in (0.5, 0.6)
    ]
    assert len(names[0] & names[1]) == 1
