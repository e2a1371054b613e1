from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

# Rich and Typer look at the terminal; tests must not.
os.environ.update(
    COLUMNS="160", TERMINAL_WIDTH="100", NO_COLOR="1", _TYPER_FORCE_DISABLE_TERMINAL="1"
)
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # begun in the background: tests press Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)
if "PYTEST_XDIST_WORKER" in os.environ:  # several processes share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from dslbench.data.interactions import Interactions
from dslbench.runs import durations, local, making
from helpers import make_interactions
from process_helpers import run_here


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
    monkeypatch.setattr(durations, "pace", lambda *_: None)


@pytest.fixture
def runs_in_this_process(no_trials: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are made here, one at a time: a worker's process takes seconds to start."""
    monkeypatch.setattr(local.Process, "run", run_here)
