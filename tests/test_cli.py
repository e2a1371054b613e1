"""The command line from the outside: output, exit codes, interruption."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cli_helpers import run
from dslbench.runs import checkpoint, local, making, store
from process_helpers import WITHOUT_TRIAL, run_here
from record_helpers import RUNS

TRAIN = ["train", "--backbone", "lightgcn", "--method", "dsl"]
SMALL = ["--dataset", "toy", "--epochs", "2", "--set", "embedding_size=8"]


def test_compare_makes_what_is_missing_and_report_shows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = run(
        "compare", "--backbone", "lightgcn", *SMALL, "--method", "dense", "--method", "dsl",
        "--format", "json",
    )  # fmt: skip
    assert code == 0, err
    assert "2 runs: 0 stored, 2 to make (2 trainings, about" in err
    records = json.loads(out)
    assert [r["spec"]["method"] for r in records] == ["dense", "dsl"]
    assert [r["budget"]["table_params"] for r in records] == [14400, 7200]
    for r in records:
        measured = r["cost"]["measured"]
        assert measured["train_seconds"] > 0
        assert 50 << 20 < measured["peak_rss_bytes"] < 4 << 30
        exact = r["cost"]["counted"]["exact"]
        assert exact["train_macs"] == sum(p["train_macs"] for p in exact["phases"]) > 0
        assert exact["infer_macs"] > 1000 * 800 * 8 and exact["infer_users_counted"] == 1000
        assert r["selection"]["on"] == "valid" and r["selection"]["epoch"] in (1, 2)
        assert len(json.loads((store.folder(r["id"]) / "history.json").read_text())) == 2
    # A trial was had above, and processes.
    monkeypatch.setattr(making, "estimate_seconds", lambda *_: 0.0)
    monkeypatch.setattr(local.Process, "run", run_here)
    # A third method: the two stored runs are not made again, damaged ones are.
    (store.folder(records[1]["id"]) / "run.json").write_text("{")
    three = ["--method", "dense", "--method", "rp", "--method", "dsl"]
    code, out, err = run("compare", "--backbone", "lightgcn", *SMALL, *three)
    assert code == 0, err
    assert "3 runs: 1 stored, 2 to make" in err and "run.json, line 1" in err
    assert "Baseline" in out and "RP" in out and "REDUCED: 2 of 50" in out
    again = store.read(records[1]["id"])
    assert again["quality"] == records[1]["quality"]  # the same seed, the same result

    code, out, _ = run("report", "--format", "markdown", "--table", "2")
    assert code == 0 and "+ DSL 50%" in out
    code, out, _ = run("list", "runs")
    assert code == 0 and len(out.splitlines()) == 3
    code, _, err = run("report", "--stats", "--references")
    assert code == 2 and "no references of these data are stored" in err
    code, out, err = run(
        "train", "--method", "itemknn", "--dataset", "toy", "--set", "itemknn.k=20"
    )
    assert code == 0 and "Table 3: toy, references, protocol default" in out, err
    code, out, err = run("report", "--stats", "--references", "--backbone", "lightgcn")
    assert code == 0, err
    assert "Statistics: toy" in out and "ItemKNN (k=20)" in out and "Fewer than 3 seeds" in out
    code, out, err = run(
        "compare", "--method", "itemknn", "--dataset", "toy", "--set", "itemknn.k=20"
    )
    assert code == 0 and "1 run: 1 stored, 0 to make" in err
    code, out, _ = run("report", "--format", "json")
    assert code == 0 and {r["id"] for r in json.loads(out)} >= {r["id"] for r in records}
    page, picture = tmp_path / "report.html", tmp_path / "loss.png"
    code, out, err = run("report", "--output", str(page))
    assert code == 0 and out == "" and page.read_text().startswith("<!DOCTYPE html>")
    code, out, err = run("report", "--figure", "5", "--output", str(picture))
    assert code == 0 and picture.read_bytes().startswith(b"\x89PNG")
    code, out, err = run("report", "--figure", "4")
    assert code == 0 and "rank correlation" in out

    own = tmp_path / "own.toml"
    own.write_text(
        'title = "Mine"\nfigure = "5"\n[[grid]]\ndataset = "toy"\nbackbone = "lightgcn"\n'
        'method = ["dense", "dsl"]\nepochs = 2\nset = { embedding_size = 8 }\n'
    )
    code, out, err = run("compare", "--plan", str(own))
    assert code == 0 and "2 runs: 2 stored, 0 to make" in err
    assert out.startswith("Figure 5: training loss")
    code, out, err = run("compare", "--plan", str(own), "--dry-run", "--seeds", "2")
    assert code == 0 and "4 runs: 2 stored, 2 to make (2 trainings" in err
    assert "toy lightgcn dsl (embedding_size=8) 50% seed 1" in out


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["compare", "--backbone", "lightgnc"], 2, "did you mean 'lightgcn'"),
        (["compare", "--backbone", "lightgcn", "--method", "dsll"], 2, "did you mean 'dsl'"),
        (["compare", "--backbone", "lightgcn", "--sparsity", "1"], 2, "outside [0, 1)"),
        (["compare", "--backbone", "lightgcn", "--sparsity", "half"], 2, "valid number"),
        (["compare", "--backbone", "lightgcn", "--set", "lrr=1"], 2, "did you mean 'lr'"),
        (["compare", "--backbone", "lightgcn", "--dataset", "gowala"], 2, "did you mean 'gowalla'"),
        (
            ["compare", "--backbone", "lightgcn", "--dataset", "gowalla"],
            3,
            "dslbench download gowalla",
        ),
        (["compare", "--backbone", "lightgcn", "--device", "tpu"], 2, "unknown device"),
        (["compare"], 2, "name a --backbone or a --plan"),
        (["compare", "--plan", "tabel3"], 2, "did you mean 'table3'"),
        (["report", "--table", "3", "--figure", "2"], 2, "exclude each other"),
        (["report", "--table", "audit", "--published"], 2, "exclude each other"),
        (["report", "--published", "--method", "dsl"], 2, "cannot be combined with --method"),
        (["report", "--table", "audit", "--stats"], 2, "cannot be combined with --stats"),
        (["report", "--figure", "7"], 2, "no figure '7'"),
        (["report", "--figure", "2", "--format", "png"], 2, "needs a file"),
        (["report", "--method", "dsl"], 2, "no stored runs of method 'dsl'"),
        (["reproduce", "--scale", "quik"], 2, "did you mean 'quick'"),
        (["train"], 2, "--backbone"),
        ([*TRAIN, "--set", "rkd.k=5"], 2, "rkd is not run, only dsl"),
        ([*TRAIN, "--set", "rkd.kk=5"], 2, "did you mean 'k'?"),
        (["compare", *TRAIN[1:], "--set", "rkd.k=5"], 2, "rkd is not run, only dsl"),
        ([*TRAIN, "--epochs", "2", "--scale", "laptop"], 2, "exclude each other"),
        (["compare", *TRAIN[1:], "--epochs", "2", "--scale", "quick"], 2, "exclude each other"),
        ([*TRAIN, "--export", "/"], 2, "cannot write /: it is a folder"),
        ([*TRAIN, "--export", "/dev/null/m"], 2, "cannot write /dev/null/m: "),
        (["trian"], 2, "No such command"),
        (["list", "dataset"], 2, "datasets"),
        (["report"], 2, "no stored runs"),
        (["download", "gowala"], 2, "did you mean 'gowalla'"),
        (["download", "gowalla", "--from", "/does/not/exist"], 3, "/does/not/exist"),
    ],
)
def test_bad_input_is_one_line_and_the_right_code(args: list[str], code: int, message: str) -> None:
    found, out, err = run(*args)
    assert found == code
    assert message in err
    assert "Traceback" not in err and out == ""
    lines = [line for line in err.splitlines() if not line.startswith("data set: ")]
    assert lines[0].startswith("error: ") and len(lines) <= 2


def test_report_refuses_what_it_cannot_write(tmp_path: Path) -> None:
    for r in RUNS:
        store.save(r, [], {})
    target = tmp_path / "no" / "such"
    (tmp_path / "no").write_text("a file, not a folder")
    code, _, err = run("report", "--output", str(target))
    assert code == 2 and "cannot write" in err
    asked, there = RUNS[0]["spec"], " or ".join(sorted({r["spec"]["dataset"] for r in RUNS}))
    code, _, err = run("report", "--backbone", asked["backbone"], "--dataset", "nosuch")
    assert code == 2 and f"try: --dataset {there}\n" in err, err
    code, _, err = run("report", "--dataset", asked["dataset"], "--backbone", "nosuch")
    assert code == 2 and asked["backbone"] in err.partition("try: --backbone ")[2], err
    code, out, err = run("report", "--table", "9")
    assert code == 2 and "no table '9'" in err and out == ""
    code, out, err = run("report", "--table", "4")
    assert code == 2 and "compare --plan table4" in err and out == ""
    code, out, err = run("report", "--format", "pdf")
    assert code == 2 and "no format 'pdf'" in err
    code, out, err = run("report", "--output", str(tmp_path / "t.md"), "--format", "markdown")
    assert code == 0 and out == "" and (tmp_path / "t.md").read_text().startswith("**Table 3")


@pytest.mark.parametrize(
    ("send", "number"),
    [(os.killpg, signal.SIGINT), (os.kill, signal.SIGTERM)],
    ids=["Ctrl-C", "stop"],
)
def test_interrupting_loses_nothing(
    own_home: Path, runs_in_this_process: None, send: Callable[[int, int], None], number: int
) -> None:
    command = [
        "compare", "--backbone", "lightgcn", "--dataset", "toy", "--epochs", "5",
        "--set", "embedding_size=8", "--method", "dense", "--method", "rp",
    ]  # fmt: skip
    process = subprocess.Popen(
        [*WITHOUT_TRIAL, *command], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    runs = own_home / "runs"

    def stored() -> list[Path]:
        return list(runs.glob("[!.]*/run.json")) if runs.exists() else []

    while not stored() and time.monotonic() < deadline:
        time.sleep(0.05)
    send(process.pid, number)  # Ctrl-C goes to the whole group
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted: 1 of 2 runs are stored" in err
    assert "Baseline" in out  # the table of what there is
    assert len(stored()) == 1
    before = stored()[0].stat().st_mtime_ns
    code, _, err = run(*command)
    assert code == 0, err
    assert "2 runs: 1 stored, 1 to make" in err
    assert len(stored()) == 2
    assert min(path.stat().st_mtime_ns for path in stored()) == before


def test_help_does_not_import_the_heavy_ones() -> None:
    code = (
        "import sys; import dslbench.cli; "
        "sys.exit(any(m in sys.modules for m in ('torch', 'numba', 'numpy', 'pandas', 'scipy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_command_helps_with_an_example() -> None:
    for command in ("download", "train", "compare", "report", "list", "reproduce"):
        code, out, _ = run(command, "--help")
        assert code == 0
        assert "Example" in out


def test_doctor_says_what_is_there_and_what_is_missing() -> None:
    for name, size in (("0123456789ab", 2 << 20), ("ba9876543210", 1 << 20)):
        path = checkpoint.folder(name) / "0001-0002.safetensors"
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes(size))
    code, out, _ = run("doctor")
    facts = dict(
        line.split(None, 1) for line in out.splitlines() if not line.startswith("data set")
    )
    assert code == 0
    assert {"python", "torch", "cores", "kernels", "store"} <= set(facts)
    assert facts["checkpoints"].startswith("3.0 MiB of 2 unfinished runs;")
    assert facts["checkpoints"].endswith(str(store.folder(".checkpoints")))
    assert "data set       toy: intact, 30,513 interactions" in out
    assert any(line.startswith("not at hand") and "gowalla" in line for line in out.splitlines())
