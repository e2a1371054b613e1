from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Rich and Typer look at the terminal; tests must not.
os.environ.update(
    COLUMNS="160", TERMINAL_WIDTH="100", NO_COLOR="1", _TYPER_FORCE_DISABLE_TERMINAL="1"
)
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from dslbench.data.interactions import Interactions
from dslbench.runs import local, making
from dslbench.runs.assemble import choose_device
from dslbench.runs.worker.run import make_run
from dslbench.spec import RunSpec
from helpers import make_interactions


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Every test has a store of its own."""
    monkeypatch.setenv("DSLBENCH_HOME", str(tmp_path / "home"))
    yield tmp_path / "home"


@pytest.fixture
def interactions() -> Interactions:
    return make_interactions()


@pytest.fixture
def no_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are expected to take no time: a trial of a few steps takes a process."""
    monkeypatch.setattr(making, "estimate_seconds", lambda *_: 0.0)


@pytest.fixture
def runs_in_this_process(no_trials: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are made here, one at a time: a worker's process takes seconds to start."""

    def run(
        self: local.Process, job: local.Event, on_event: local.OnEvent, **_: Any
    ) -> local.Event:
        job = json.loads(json.dumps(job))
        spec, device = RunSpec.model_validate(job["spec"]), choose_device(job["device"])
        assert job["task"] == "run"
        record = make_run(spec, device, lambda event: on_event(json.loads(json.dumps(event))))
        return {"event": "done", "id": record["id"]}

    monkeypatch.setattr(local.Process, "run", run)
