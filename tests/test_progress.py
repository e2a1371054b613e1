"""What a log hears of runs that take long."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from dslbench.runs import progress
from dslbench.spec import resolve


def heard(
    monkeypatch: pytest.MonkeyPatch, method: str, phases: list[str], seconds: float,
    epochs: list[list[dict[str, Any]]],
) -> list[str]:  # fmt: skip
    """Lines of a log after the first: of the first phase's epochs, so many seconds and events each."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    spec = resolve(
        dataset="toy", backbone="lightgcn", method=method, sparsity=0.5, seed=0, epochs=10
    )
    out = io.StringIO()
    quiet = progress.Quiet(Console(file=out, width=200), part=progress.Part(total=1))
    quiet.begin(0, spec)
    quiet.event(0, {"event": "start", "phases": phases})
    for events in epochs:
        now[0] += seconds
        for event in events:
            quiet.event(0, {"phase": phases[0], "epochs": 10, "loss": 0.5} | event)
    lines = out.getvalue().splitlines()
    assert lines[0].startswith(f"[1/1] toy lightgcn {method} 50% seed 0 ...")
    return lines[1:]


def test_a_log_hears_of_evaluations_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[list[dict[str, Any]]] = [
        [{"event": "epoch", "epoch": epoch} | ({"recall@20": 0.1} if epoch != 3 else {})]
        for epoch in range(1, 6)
    ]
    # Epoch 3 was not evaluated; from epoch 1 on, an epoch takes ten seconds, and 16 of 20 are left.
    assert heard(monkeypatch, "omp", ["dense", "retrain"], 10, rows) == [
        "    dense epoch 4/10 loss 0.5000 Recall@20 0.1000, 30 s, about 160 s left"
    ]


def test_a_phase_without_evaluations_is_not_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[list[dict[str, Any]]] = [
        [{"event": "epoch", "epoch": epoch}, {"event": "step", "done": epoch}]
        for epoch in range(1, 10)
    ]
    lines = heard(monkeypatch, "autoemb", ["search", "retrain"], 20, rows)
    said = [line.partition(" loss")[0].strip() for line in lines]
    assert said == ["search epoch 3/10", "search epoch 6/10", "search epoch 9/10"]
