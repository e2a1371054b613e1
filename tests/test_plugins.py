"""Methods, backbones and stored forms of other packages: used like our own, and harmless when broken."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cli_helpers import run
from dslbench import artefact
from dslbench.errors import DataError
from plugin_helpers import ROOT, dslbench_each, example, install, with_packages
from process_helpers import Done

SMALL = ["--dataset", "toy", "--epochs", "2", "--set", "embedding_size=8"]


def installed(folder: Path, name: str, heading: str) -> Path:
    source, groups = example("extending.md", heading)
    return install(folder / name, name, source, **groups)


def compare(*args: str) -> list[str]:
    return ["compare", *args, *SMALL, "--format", "json"]


def records(done: Done) -> list[dict[str, Any]]:
    """What a compare made."""
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_a_stored_form_is_one_file(tmp_path: Path) -> None:
    package = installed(tmp_path, "half", "A stored form")
    methods = ["--backbone", "lightgcn", "--method", "dense", "--method", "half"]
    made, shown = dslbench_each(
        compare(*methods), ["report", "--table", "cost"], packages=(package,)
    )
    dense, half = records(made)
    assert half["budget"]["table_params"] == dense["budget"]["table_params"] == 1800 * 8
    assert half["budget"]["table_bytes"] * 2 == dense["budget"]["table_bytes"] == 1800 * 8 * 4
    assert [t["form"] for t in half["budget"]["tables"]] == ["half"]
    assert half["cost"]["measured"]["stored_bytes"] == {"dense": 57_600, "half": 28_800}
    assert half["quality"]["recall@20"] == pytest.approx(dense["quality"]["recall@20"], abs=0.01)
    assert shown.returncode == 0 and "Half precision" in shown.stdout
    assert "28.1 KiB" in shown.stdout and "56.2 KiB" in shown.stdout
    # Elsewhere the model is refused in one line, and the record is read.
    file = Path(f"{tmp_path}/home/runs/{half['id']}/model.safetensors")
    with pytest.raises(DataError, match="form 'half' of a table is not known here") as caught:
        artefact.read(file)
    assert "\n" not in caught.value.message and "install" in (caught.value.hint or "")
    code, out, _ = run("report", "--format", "markdown")
    assert code == 0 and "half" in out


def test_a_backbone_of_another_package_brings_its_presets_and_runs(tmp_path: Path) -> None:
    package = installed(tmp_path, "bprmf", "A backbone")
    methods = [part for name in ("dense", "dsl", "tkd") for part in ("--method", name)]
    listed, made = dslbench_each(
        ["list", "settings", "bprmf"], compare("--backbone", "bprmf", *methods), packages=(package,)
    )
    assert "defaults of preset own" in listed.stdout and "  lr " in listed.stdout
    dense, dsl, tkd = records(made)
    assert dense["spec"]["preset"] == "own"
    sizes = [r["budget"]["table_params"] for r in (dense, dsl, tkd)]
    assert sizes == [1800 * 8, 900 * 8, 1800 * 4]
    # One user's row with two items' and back: three products of 8 a triple, each pair's once more for
    # each of its two rows.
    per_triple = dense["cost"]["counted"]["exact"]["train_macs"] / 2 / dense["data"]["train_pairs"]
    assert per_triple == 3 * 2 * 8


def test_a_stored_form_and_a_backbone_of_other_packages_pass_the_contract(tmp_path: Path) -> None:
    """The contract tests find them; a fake terminal width keeps what they say short."""
    packages = (
        installed(tmp_path, "half", "A stored form"),
        installed(tmp_path, "bprmf", "A backbone"),
    )
    methods = "dense or dsl or rkd or esapn"
    wanted = f"(half and lightgcn) or (bprmf and ({methods}) and not checkerboard)"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rA", "-p", "no:cacheprovider", "-k", wanted,
         *(str(ROOT / "tests" / f"test_{name}.py") for name in ("contract", "resume"))],
        env=with_packages(*packages), check=False, capture_output=True, text=True, timeout=300,
        cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    passed = [line for line in done.stdout.splitlines() if "PASSED" in line]
    for name in ("half", "bprmf", "test_interrupted_is_uninterrupted[bprmf-dsl"):
        assert any(name in line for line in passed), name


BROKEN = {
    "def broken(:": "SyntaxError", "import no_such_module": "ModuleNotFoundError",
    "Broken = 7": "is no Method", "raise RuntimeError('a\\nb')": "RuntimeError: a b",
    "raise SystemExit(7)": "SystemExit: 7",
}  # fmt: skip


def test_broken_plug_ins_are_a_line_each_and_hurt_nobody(tmp_path: Path) -> None:
    names = [f"broken{number}" for number in range(len(BROKEN))]
    packages = [
        install(tmp_path / name, name, source, methods=f"{name} = {name}:Broken")
        for name, source in zip(names, BROKEN, strict=True)
    ]
    _, settings, _, report, planned, *named = found = dslbench_each(
        ["list", "methods"], ["list", "settings"], ["list", "runs"], ["report"],
        ["compare", "--backbone", "lightgcn", *SMALL, "--dry-run"],
        *(["list", "settings", name] for name in names), packages=tuple(packages),
    )  # fmt: skip
    for done in found[:4]:
        assert "Traceback" not in done.stderr
        assert done.returncode == (2 if done is report else 0), done.stderr  # nothing is stored
    assert planned.returncode == 0 and "12 runs" in planned.stderr
    for name, said, own in zip(names, BROKEN.values(), named, strict=True):
        for done in (settings, planned):
            (line,) = (line for line in done.stderr.splitlines() if name in line)
            assert said in line
        assert own.returncode == 2 and said in own.stderr and "Traceback" not in own.stderr


def test_a_plug_in_does_not_take_a_name_of_ours(tmp_path: Path) -> None:
    package = install(tmp_path / "p", "mine", "class Dense: pass", methods="dense = mine:Dense")
    (done,) = dslbench_each(["list", "methods"], packages=(package,))
    assert done.returncode == 0 and "the name is taken" in done.stderr
    assert "The reference" in done.stdout


def test_a_plug_in_hears_of_runs_and_a_broken_one_hurts_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = installed(tmp_path, "epochs", "Who listens to runs")
    broken = install(
        tmp_path / "bad", "bad", "def listen(event):\n    raise KeyError(event['event'])\n",
        events="bad = bad:listen",
    )  # fmt: skip
    monkeypatch.setenv("EPOCHS_CSV", str(tmp_path / "epochs.csv"))
    (done,) = dslbench_each(
        compare("--backbone", "lightgcn", "--method", "dense", "--method", "rp"),
        packages=(package, broken),
    )
    found = records(done)
    rows = [line.split(",") for line in (tmp_path / "epochs.csv").read_text().splitlines()]
    lines = (["train", "1"], ["train", "2"], ["test", ""])
    assert [row[:3] for row in rows] == [[r["id"], *line] for r in found for line in lines]
    assert float(rows[2][4]) == found[0]["quality"]["recall@20"]
    assert float(rows[0][3]) > 0 and 0 < float(rows[0][4]) < 1
    assert done.stderr.count("the plug-in 'bad' failed and hears no more events: KeyError") == 1
