"""What a log hears of runs that take long."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from dslbench.runs import progress
from dslbench.spec import resolve


def test_a_log_hears_of_evaluations_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    spec = resolve(
        dataset="toy", backbone="lightgcn", method="omp", sparsity=0.5, seed=0, epochs=10
    )
    out = io.StringIO()
    quiet = progress.Quiet(Console(file=out, width=200), total=1)
    quiet.begin(0, spec)
    quiet.event(0, {"event": "start", "phases": ["dense", "retrain"]})
    for epoch in range(1, 6):
        now[0] += 10
        row = {"event": "epoch", "phase": "dense", "epoch": epoch, "epochs": 10, "loss": 0.5}
        quiet.event(0, row | ({"recall@20": 0.1} if epoch != 3 else {}))
    lines = out.getvalue().splitlines()
    assert lines[0].startswith("[1/1] toy lightgcn omp 50% seed 0 ...")
    # Epoch 3 was not evaluated; from epoch 1 on, an epoch takes ten seconds, and 16 of 20 are left.
    assert lines[1:] == [
        "    dense epoch 4/10 loss 0.5000 Recall@20 0.1000, 30 s, about 160 s left"
    ]


def test_a_phase_without_evaluations_is_not_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    spec = resolve(
        dataset="toy", backbone="lightgcn", method="autoemb", sparsity=0.5, seed=0, epochs=10
    )
    out = io.StringIO()
    quiet = progress.Quiet(Console(file=out, width=200), total=1)
    quiet.begin(0, spec)
    quiet.event(0, {"event": "start", "phases": ["search", "retrain"]})
    for epoch in range(1, 10):
        now[0] += 20
        quiet.event(
            0, {"event": "epoch", "phase": "search", "epoch": epoch, "epochs": 10, "loss": 0.5}
        )
        quiet.event(
            0, {"event": "step", "phase": "search", "done": epoch, "epochs": 10, "loss": 0.5}
        )
    said = [line.partition(" loss")[0].strip() for line in out.getvalue().splitlines()[1:]]
    assert said == ["search epoch 3/10", "search epoch 6/10", "search epoch 9/10"]
