"""Runs and models of the last released format: read, judged alike, told apart from current ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from cli_helpers import run
from dslbench import artefact
from dslbench import data as datasets
from dslbench.runs import store
from dslbench.runs.assemble import make_lab, rebuild
from dslbench.runs.stock import take_stock
from dslbench.spec import RunSpec
from model_file_helpers import joined, parts

FIXTURE = Path(__file__).parent / "fixtures" / "store-format-2"


@pytest.fixture
def older(own_home: Path) -> list[dict[str, Any]]:
    shutil.copytree(FIXTURE / "runs", own_home / "runs")
    return store.read_all(pytest.fail)


def rows(text: str) -> list[str]:
    """Rows of Markdown tables, without their widths."""
    return [
        "|".join(c.strip() for c in x.split("|")) for x in text.splitlines() if x.startswith("|")
    ]


def test_older_records_are_read_and_shown_with_the_same_digits(older: list[dict[str, Any]]) -> None:
    assert {r["spec"]["method"] for r in older} == {"dense", "dsl", "esapn", "tkd"}
    assert all(r["format"] == 2 and "versions" not in r for r in older)
    code, out, _ = run("report", "--format", "markdown")
    assert code == 0
    before = (FIXTURE / "table3.md").read_text(encoding="utf-8")
    found, expected = rows(out), rows(before)
    assert len(found) == len(expected) == 6
    # Below the header and its rule; in place of parameters there are bytes now, which were not recorded.
    for now, then in zip(found[2:], expected[2:], strict=True):
        cells, before_that = now.split("|"), then.split("|")
        assert cells[4] == "-" and cells[:4] + cells[5:] == before_that[:4] + before_that[5:]
    for table in ("1", "cost", "tail", "stats", "pareto"):
        assert run("report", "--table", table)[0] == 0


def test_older_models_rank_as_they_did(older: list[dict[str, Any]]) -> None:
    data = datasets.load("toy")
    for record in older:
        content = store.model_bytes(record["id"])
        packed = artefact.from_bytes(content)
        # Bit for bit what is written today, but for checksums.
        assert joined(*parts(artefact.to_bytes(packed))) == content
        lab = make_lab(RunSpec.of_record(record["spec"]), data, torch.device("cpu"))
        result = lab.evaluate(rebuild(packed), "test")
        for name, values in (store.per_user(record["id"]) or {}).items():
            if name != "users":
                assert result.mean(name) == pytest.approx(float(values.mean()), abs=1e-12), name
        stored = sum(table.parameters for table in packed.tables.values())
        assert stored == record["budget"]["table_params"]


def test_older_runs_do_not_pass_as_current_ones(older: list[dict[str, Any]]) -> None:
    specs = [RunSpec.of_record(r["spec"]) for r in older if r["spec"]["method"] == "dense"]
    (wanted,) = take_stock(specs, False, pytest.fail)
    assert not wanted.done and wanted.id not in {r["id"] for r in older}


def test_a_record_of_a_future_format_is_one_line(
    older: list[dict[str, Any]], own_home: Path
) -> None:
    path = own_home / "runs" / older[0]["id"] / "run.json"
    path.write_text(json.dumps(older[0] | {"format": 4}))
    lines: list[str] = []
    assert len(store.read_all(lines.append)) == 3
    (line,) = lines
    assert "record format 4, this version reads 2 to 3; a newer dslbench wrote it" in line


def test_an_unknown_metric_is_one_line_and_loses_nothing(
    older: list[dict[str, Any]], own_home: Path
) -> None:
    quality = older[0]["quality"] | {"serendipity@20": 0.5}
    path = own_home / "runs" / older[0]["id"] / "run.json"
    path.write_text(json.dumps(older[0] | {"quality": quality}))
    code, out, err = run("report", "--format", "json")
    assert code == 0 and len(json.loads(out)) == 4
    assert err.count("does not know the metric 'serendipity@20'") == 1
