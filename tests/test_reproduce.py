"""`dslbench reproduce` around trainings that are made up: data, plans, files, failures."""

from __future__ import annotations

from pathlib import Path

import pytest

from dslbench import data as datasets
from dslbench.cli import reproduction as reproduce
from dslbench.errors import DataError, RunError, UsageError
from dslbench.runs import plan, stock, store
from dslbench.spec import RunSpec
from record_helpers import record

SMALL = """\
title = "Small"
table = "3"
[[grid]]
dataset = ["gowalla", "toy"]
backbone = "lightgcn"
method = ["dense", "dsl", "rp"]
[[grid]]
dataset = "gowalla"
backbone = "multvae"
method = ["dense", "dsl"]
"""


def made_up(specs: list[RunSpec]) -> None:
    """Store a record for each run without training it."""
    digests = datasets.load("toy").summary()
    for run in stock.take_stock(specs, force=False, warn=pytest.fail):
        made = record(run.spec.method, 0.1) | {"id": run.id}
        extra = {"embedding_size": 64, "layers": 3}
        made |= {"spec": run.spec.model_dump() | extra, "data": digests}
        store.save(made, [], {})


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One plan of toy runs, and what is said."""
    monkeypatch.setattr(reproduce, "PLANS", {"quick": ("small",)})
    monkeypatch.setattr(plan, "read", lambda name: plan.parse("small", SMALL))

    def no_network(names: list[str], *rest: object) -> None:
        raise DataError(f"{names[0]} cannot be reached")

    monkeypatch.setattr("dslbench.cli.datasets.download", no_network)
    return []


def test_it_falls_back_to_the_embedded_data_and_says_so(tmp_path: Path, small: list[str]) -> None:
    reproduce.reproduce("quick", None, tmp_path / "out", made_up, small.append)
    said = "\n".join(small)
    assert said.count("gowalla cannot be had: gowalla cannot be reached") == 1  # asked once
    assert "the embedded data set 'toy' stands in for gowalla" in said
    report = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Table 3: toy, LightGCN" in report and "MultVAE" in report and "RP3beta" in report
    assert (tmp_path / "out" / "tables" / "table-3.md").read_text().startswith("**Table 3: toy")
    assert "EASE" in (tmp_path / "out" / "tables" / "table-3.md").read_text()
    assert (tmp_path / "out" / "figures" / "figure-pareto.svg").exists()
    assert "no table 4: table 4 needs runs of dsl" in said
    for path in (tmp_path / "out").rglob("*.*"):
        assert f"written: {path}" in said


def test_the_second_time_nothing_is_missing(tmp_path: Path, small: list[str]) -> None:
    calls: list[int] = []

    def count_missing(specs: list[RunSpec]) -> None:
        planned = stock.take_stock(specs, force=False, warn=pytest.fail)
        calls.append(sum(not run.done for run in planned))
        made_up(specs)

    for _ in range(2):
        reproduce.reproduce("quick", None, tmp_path / "out", count_missing, small.append)
    assert calls == [5 + 8, 0]  # methods and references


def test_failed_runs_leave_a_report_and_an_error(tmp_path: Path, small: list[str]) -> None:
    def some_fail(specs: list[RunSpec]) -> None:
        made_up(specs[:2])
        raise RunError("3 of 5 runs failed, see above")

    with pytest.raises(RunError, match="plan small: 3 of 5 runs failed"):
        reproduce.reproduce("quick", None, tmp_path / "out", some_fail, small.append)
    assert (tmp_path / "out" / "report.html").exists()


def test_what_cannot_work_is_said_before_any_training(tmp_path: Path, small: list[str]) -> None:
    def never(specs: list[RunSpec]) -> None:
        pytest.fail("training started")

    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write"):
        reproduce.reproduce("quick", None, tmp_path / "file" / "out", never, small.append)
    with pytest.raises(UsageError, match="unknown scale 'quik'"):
        reproduce.reproduce("quik", None, tmp_path / "out", never, small.append)
    with pytest.raises(DataError, match="is not a folder"):
        reproduce.reproduce("quick", tmp_path / "none", tmp_path / "out", never, small.append)


def test_data_is_imported_from_the_folder_given(
    tmp_path: Path, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(
        "dslbench.cli.datasets.download", lambda names, all_, source, *rest: asked.append(source)
    )
    (tmp_path / "gowalla").mkdir()
    sources = reproduce._Sources(tmp_path, small.append)
    assert sources.has("gowalla") and sources.has("ml-1m")
    assert asked == [tmp_path / "gowalla", None]  # what is not in the folder is downloaded
