"""Expected durations: what runs took before, else a trial."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dslbench import registry
from dslbench.cost import measured
from dslbench.errors import RunError
from dslbench.runs import durations, local
from dslbench.runs.worker.probe import probe
from dslbench.spec import RunSpec, resolve

CPU = torch.device("cpu")


def spec(method: str = "dense", epochs: int = 40, *own: str) -> RunSpec:
    return resolve(
        dataset="toy", backbone="lightgcn", method=method, sparsity=0.5, seed=0, epochs=epochs, settings=own
    )  # fmt: skip


def stored(of: RunSpec, epoch: float, evaluation: float, **changes: Any) -> dict[str, Any]:
    """A record of a run with a shared first phase, and one of its own: 2 seconds beside."""
    own = {
        "shared_run": None, "epochs": of.epochs, "steps": 9, "selected_epoch": 3,
        "train_seconds": epoch * of.epochs,
        "eval_seconds": evaluation * durations.evaluations(of.hyper, of.epochs),
    }  # fmt: skip
    other = own | {"shared_run": "x", "train_seconds": 1e9}
    seconds = int(own["train_seconds"] + own["eval_seconds"]) + 2
    return {
        "spec": of.model_dump(),
        "environment": measured.environment(CPU) | changes,
        "cost": {"measured": {"phases": [other, own], "resumed": 0}},
        "started": "2026-01-01T00:00:00+00:00",
        "finished": f"2026-01-01T00:{seconds // 60:02}:{seconds % 60:02}+00:00",
    }


def test_evaluations_of_a_training() -> None:
    assert [durations.evaluations({"eval_every": None}, n) for n in (1, 20, 40, 50)] == [
        1,
        20,
        20,
        25,
    ]
    assert durations.evaluations({"eval_every": 3}, 7) == 3


def test_what_runs_took_before_is_expected_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def trial(self: local.Process, job: Any, **_: Any) -> dict[str, float]:
        if job["spec"]["hyper"]["layers"] == 2:
            raise RunError("it fails")
        return {"epoch_seconds": 10.0, "eval_seconds": 1.0, "trial_seconds": 0.0}

    monkeypatch.setattr(local.Process, "run", trial)
    other = spec("omp", 10, "layers=4")
    expected = durations.Expected(
        [
            stored(spec("dense", 20), 0.5, 0.25),
            stored(spec("omp", 20), 0.75, 2.0),
            stored(spec("omp", 30), 7.5, 0.2),  # on a busy machine, but for its evaluations
            stored(spec("rp", 20), 9.0, 9.0, cpu="another"),
        ],
        "cpu",
    )
    # Of its own method, at another length: 40 epochs of 0.75 s and 20 evaluations (0.2 s), twice; 2 s beside.
    assert expected.pace(spec("omp")).seconds(spec("omp"), 2) == pytest.approx(2 + 2 * (30 + 4))
    # Of another, dense's times what it is said to take; another machine's are not looked at.
    assert expected.pace(spec("rp")).epoch == pytest.approx(0.5)
    # Of another setting a trial, times what the method took here, 1.5.
    assert expected.pace(other).epoch == pytest.approx(15.0)
    with pytest.raises(RunError):
        expected.pace(spec("dense", 10, "layers=2"))
    nothing = stored(spec(), 1, 1)
    nothing["cost"]["measured"]["phases"].pop()
    assert durations.of_record(nothing) is None  # it trained nothing itself


def test_a_trial_times_every_part() -> None:
    found = probe(spec(), CPU)
    assert set(found) == {"epoch_seconds", "eval_seconds", "trial_seconds"}
    assert all(seconds > 0 for seconds in found.values())


def test_phases_that_share_the_epochs_are_one_training() -> None:
    """ESAPN searches in half of the epochs and trains in the others; AutoEmb does both in full."""
    for method, expected in (("esapn", 1), ("autoemb", 2), ("dense", 1)):
        kind = registry.method(method)
        assert kind.trainings(kind.options_type(), 0.5) == expected
