"""Methods, backbones and stored forms of other packages: used like our own, and harmless when broken."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dslbench import artefact
from dslbench.errors import DataError
from plugin_helpers import ROOT, dslbench, dslbench_each, example, install, with_packages
from process_helpers import Done

SMALL = ["--dataset", "toy", "--epochs", "2", "--set", "embedding_size=8"]


def installed(folder: Path, name: str, heading: str) -> Path:
    source, groups = example("extending.md", heading)
    return install(folder / name, name, source, **groups)


def contract(package: Path, name: str) -> str:
    """What the contract tests say of a plug-in; a fake terminal width keeps it short."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", name,
         str(ROOT / "tests" / "test_contract.py")],
        env=with_packages(package), check=False, capture_output=True, text=True, timeout=300,
        cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


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
    without = dslbench("report", "--format", "markdown")
    assert without.returncode == 0 and "half" in without.stdout


def test_a_stored_form_passes_the_contract(tmp_path: Path) -> None:
    package = installed(tmp_path, "half", "A stored form")
    assert "failed" not in contract(package, "half and lightgcn")


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


def test_a_backbone_of_another_package_passes_the_contract(tmp_path: Path) -> None:
    package = installed(tmp_path, "bprmf", "A backbone")
    wanted = "bprmf and (dense or dsl or rkd or esapn) and not checkerboard"
    assert "failed" not in contract(package, wanted)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def broken(:", "SyntaxError"), ("import no_such_module", "ModuleNotFoundError"),
        ("Broken = 7", "is no Method"), ("raise RuntimeError('a\\nb')", "RuntimeError: a b"),
        ("raise SystemExit(7)", "SystemExit: 7"),
    ],
)  # fmt: skip
def test_a_broken_plug_in_is_one_line_and_hurts_nobody(
    source: str, said: str, tmp_path: Path
) -> None:
    package = install(tmp_path / "p", "broken", source, methods="broken = broken:Broken")
    _, settings, _, report, planned, named = found = dslbench_each(
        ["list", "methods"], ["list", "settings"], ["list", "runs"], ["report"],
        ["compare", "--backbone", "lightgcn", *SMALL, "--dry-run"], ["list", "settings", "broken"],
        packages=(package,),
    )  # fmt: skip
    for done in found[:4]:
        assert "Traceback" not in done.stderr
        assert done.returncode == (2 if done is report else 0), done.stderr  # nothing is stored
    (line,) = (line for line in settings.stderr.splitlines() if "broken" in line)
    assert said in line
    assert planned.returncode == 0 and "11 runs" in planned.stderr and said in planned.stderr
    assert named.returncode == 2 and said in named.stderr and "Traceback" not in named.stderr


def test_a_plug_in_does_not_take_a_name_of_ours(tmp_path: Path) -> None:
    package = install(tmp_path / "p", "mine", "class Dense: pass", methods="dense = mine:Dense")
    done = dslbench("list", "methods", packages=(package,))
    assert done.returncode == 0 and "the name is taken" in done.stderr
    assert "The reference" in done.stdout
