"""What is measured: state of a training, latency, energy."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dslbench.cost import measured
from helpers import make_interactions
from training_helpers import train

DATA = make_interactions()


def test_state_bytes_are_those_of_parameters_and_moments() -> None:
    model, _, lab = train(DATA, "lightgcn", "dense", 0.0, 1)
    entries = model.embedding.weight.numel()  # type: ignore[union-attr, operator]
    # A value and two moments each, and Adam's step count.
    assert lab.phases[-1].state_bytes == 3 * 4 * entries + 4


def test_packed_state_is_smaller() -> None:
    wide = ("embedding_size=64",)
    dense = train(DATA, "lightgcn", "dense", 0.0, 1, *wide)[2].phases[-1].state_bytes
    for sparsity, share in ((0.5, 0.56), (0.9, 0.15)):
        found = train(DATA, "lightgcn", "dsl", sparsity, 1, *wide)[2].phases[-1].state_bytes
        assert dense and found and found <= share * dense


def test_each_step_is_timed() -> None:
    _, _, lab = train(DATA, "lightgcn", "dense", 0.0, 2)
    for row in lab.phases[0].history:
        q1, median, q3 = row["step_seconds"]
        assert 0 < q1 <= median <= q3


def test_latency_is_measured_where_there_are_so_many_users() -> None:
    model, _, _ = train(DATA, "lightgcn", "dense", 0.0, 1)
    found = measured.top_k_latency(model, DATA.seen_before_test)
    assert found["1024"] is None and found["1"] is not None
    assert 0 < found["1"]["p50_seconds"] <= found["1"]["p95_seconds"]


def test_energy_counts_packages_and_wraps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    readings = iter(
        [{"a": (900, 999), "b": (5, 999)}, {"a": (100, 999), "b": (1005 % 1000, 999)}, {}]
    )
    monkeypatch.setattr(measured, "_rapl", lambda: next(readings))
    energy = measured.Energy()
    assert energy.joules() == pytest.approx(200e-6)  # 900 to 1100, and 5 to 5
    assert energy.joules() is None


def test_without_counters_there_is_no_energy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "_rapl", lambda: {})
    assert measured.Energy().joules() is None


def test_memory_that_cannot_be_read_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(*args: object, **kwargs: object) -> str:
        raise OSError

    monkeypatch.setattr(Path, "read_text", unreadable)
    monkeypatch.setitem(__import__("sys").modules, "resource", None)
    assert measured.peak_rss_bytes() is None
    assert measured.peak_cuda_bytes(torch.device("cpu")) is None
