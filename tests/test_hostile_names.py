"""Names and paths with anything in them, through every command: one line, the right code, no tricks."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from cli_helpers import run
from dslbench import output
from dslbench.cli import comparison, exporting, runner
from dslbench.data import entries
from dslbench.errors import RunError, UsageError, harmless
from dslbench.runs import making, store
from dslbench.spec import resolve
from record_helpers import RUNS

ODD = {
    "escape": "a\x1b[2Jb", "bell": "a\x07b", "newline": "two\nlines", "return": "a\rb",
    "csi": "a\x9b31mb", "right to left": "a\u202egnp.b", "isolate": "a\u2066b",
    "line separator": "a\u2028b", "half": "a\udcffb", "no-break space": "a\u00a0b",
    "narrow space": "a\u202fb", "emoji": "a\U0001f600b", "joined": "\U0001f469\u200d\U0001f52c",
    "markup": "[bold]a[b] :smile:", "long": "x" * 4096, "formula": "=a|b", "quote": "a'\"b",
}  # fmt: skip
CSV = "user,item\n" + "".join(
    f"u{u},i{(u * 7 + k * k) % 20}\n" for u in range(30) for k in range(8)
)
PLAN = 'title = "p"\n[[grid]]\nbackbone = "lightgcn"\nmethod = "dense"\nepochs = 1\ndataset = '
COMPARE = ["compare", "--backbone", "lightgcn", "--method", "dense", "--epochs", "1", "--dry-run"]
KNOWN = ("warning: ", "error: ", "  try: ", "data set: ", "data: ", "timing ", "estimating ",
         "left out: ", "1 run: ", "written: ", "'", "failed last time, tried again: ")  # fmt: skip


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is trained, and relative paths are those of the test."""
    monkeypatch.setattr(making, "estimate_seconds", lambda *args: 1.0)
    for module in (
        comparison,
        runner,
    ):  # both named: one that is loaded under a patch would keep it
        monkeypatch.setattr(module, "make", lambda *args, **options: [{"id": "x"}])
    monkeypatch.setattr(exporting, "exported", lambda *args, **options: b"a model")
    monkeypatch.chdir(tmp_path)


def check(*args: str) -> tuple[int, str, str]:
    """A command's outcome, which must be one line where it is an error, and harmless in any case."""
    output.warn_once.cache_clear()
    code, out, err = run(*args)
    assert code in (0, 1, 2, 3), args
    lines = err.splitlines()
    for line in lines:
        assert line.isprintable() and line.startswith(KNOWN), (args, line)
    errors = [n for n, line in enumerate(lines) if line.startswith("error: ")]
    if code:
        assert len(errors) == 1 and len(lines) - errors[0] <= 2, (args, err)
    else:
        assert not errors
    assert all(map(harmless, out.split("\n"))), (args, out)
    return code, out, err


@pytest.mark.parametrize("name", ODD.values(), ids=ODD)
def test_names_in_every_command(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for r in RUNS:
        store.save(r, [], {})
    for args in (
        ["list", name], ["list", "settings", name], ["list", "methods", name], [name],
        ["report", "--dataset", name], ["report", "--table", name], ["report", "--figure", name],
        ["report", "--format", name], ["report", "--published", "--backbone", name],
        ["compare", "--backbone", name, "--dry-run"], ["compare", "--plan", name, "--dry-run"],
        [*COMPARE, "--set", f"{name}=1"], [*COMPARE, "--set", f"lr={name}"],
        [*COMPARE, "--protocol", name], [*COMPARE, "--scale", name],
        ["train", "--backbone", "lightgcn", "--dataset", "toy", "--method", name],
        ["reproduce", "--scale", name],
    ):  # fmt: skip
        code, out, _ = check(*args)
        assert code == 2 and out == "", args
    assert check("download", name)[0] == 2
    for args in (
        ["download", "mine", "--from", f"no/{name}"], ["download", "ml-1m", "--from", f"no/{name}"],
        ["reproduce", "--import", f"no/{name}"],
    ):  # fmt: skip
        assert check(*args)[0] == 3, args
    too_long = len(name) > 250
    for args in (
        ["report", "--format", "markdown", "--output", f"out/{name}"],
        [
            "train",
            "--backbone",
            "lightgcn",
            "--dataset",
            "toy",
            "--json",
            "--export",
            f"out/{name}",
        ],
    ):
        code, _, _ = check(*args)
        assert code == (2 if too_long else 0), args
        if not too_long:
            path = tmp_path / "out" / name
            assert path.read_bytes()
            path.unlink()


@pytest.mark.parametrize("name", [n for n in ODD.values() if len(n) < 250],
                         ids=[key for key, n in ODD.items() if len(n) < 250])  # fmt: skip
def test_files_with_odd_names(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What can be stored can be read; what could not be read is refused before it is trained."""
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DSLBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(making, "estimate_seconds", lambda *args: 1.0)
    data = tmp_path / f"{name}.csv"
    data.write_text(CSV)
    good = harmless(name)
    code, out, err = check(*COMPARE, "--dataset", str(data))
    assert code == (0 if good else 2), err
    assert ("to make" in out) == good
    assert good or "rename the file" in err
    plan = tmp_path / f"plan {name}.toml"
    content = PLAN + json.dumps(str(data), ensure_ascii=not good) + "\n"
    if "\udcff" not in name:
        plan.write_text(content, encoding="utf-8")
        code, out, err = check("compare", "--plan", str(plan), "--dry-run")
        assert code == (0 if good else 2), err
    code, out, err = check("download", "mine", "--from", str(data))
    assert code == (0 if good else 3), err
    assert good or "rename it" in err
    assert check("list", "datasets")[0] == 0
    if good:  # a record that is made of it can be read
        spec = resolve(dataset=str(data), backbone="lightgcn", method="dense", sparsity=0.5, seed=0)
        changed = RUNS[1] | {"spec": RUNS[1]["spec"] | {"dataset": spec.dataset}}
        store.save(changed, [], {})
        assert store.read_all(pytest.fail)[0]["spec"]["dataset"] == str(data)
        for args in (["list", "runs"], ["report"], ["report", "--format", "markdown"]):
            assert check(*args)[0] == 0


def test_what_could_not_be_read_is_not_stored() -> None:
    for text in ("a\u202eb", "a\x1bb", "two\nlines"):
        with pytest.raises(RunError, match="cannot be stored"):
            store.save(RUNS[0] | {"environment": {"cpu": text}}, [], {})
        with pytest.raises(UsageError, match="cannot be printed"):
            resolve(dataset=text, backbone="lightgcn", method="dense", sparsity=0.5, seed=0)
    assert store.read_all(pytest.fail) == []


def test_text_of_files_is_cleaned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A header, a plan, members of an archive, and a catalog with what steers a terminal."""
    nasty = "\x1b]0;title\x07 \u202e"
    (tmp_path / "h.csv").write_text(f"user{nasty},who\n1,2\n3,4\n")
    (tmp_path / "h.toml").write_text('[columns]\nuser = "user"\nitem = "who"\n')
    assert check(*COMPARE, "--dataset", "h.csv")[0] in (0, 3)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DSLBENCH_HOME", str(tmp_path / "home"))
    code, _, err = check("download", "mine", "--from", "h.csv")
    assert code == 3 and r"no column 'user' among user\x1b]0;title\x07" in err
    (tmp_path / "p.toml").write_text(PLAN + json.dumps(f"x{nasty}") + "\nepoch = 2\n")
    assert check("compare", "--plan", "p.toml", "--dry-run")[0] == 2
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as box:
        for folder in ("a", "b"):
            box.writestr(f"{folder}{nasty}\n/ratings.dat", "1::2::3::4\n")
    code, _, err = check("download", "ml-1m", "--from", "z.zip")
    assert code == 3 and r"a\x1b]0;title" in err
    catalog = tmp_path / "catalog"
    catalog.mkdir()
    toy = (entries.CATALOG_FOLDER / "toy.toml").read_text(encoding="utf-8")
    (catalog / "toy.toml").write_text(toy)
    (catalog / "bad.toml").write_text(
        f'name = "bad"\ntitle = "t"\nformat = "csv"\ncitation = {json.dumps(nasty + "cite")}\n'
        f'terms = {json.dumps("two" + chr(10) + nasty)}\ndefault_protocol = "random"\n'
        '[[files]]\nname = "f.csv"\nrole = "all"\n'
    )
    monkeypatch.setattr(entries, "CATALOG_FOLDER", catalog)
    (tmp_path / "f.csv").write_text(CSV)
    code, out, err = check("download", "bad", "--from", "f.csv")
    assert code == 0, err
    assert r"cite: \x1b]0;title\x07 \u202ecite" in out and r"terms of use: two\n\x1b" in out


def test_names_are_no_markup_in_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    err = io.StringIO()
    with contextlib.redirect_stderr(err):
        output.console().print("[/x] [bold]a :smile: \x1b[2J\u202e", soft_wrap=True)
        output.say("two\nlines")
    assert err.getvalue() == "[/x] [bold]a :smile: \\x1b[2J\\u202e\ntwo\\nlines\n"


def test_colours_reach_terminals_only(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        tty = True

        def isatty(self) -> bool:
            return self.tty

    for tty, shown in ((True, "\x1b[1mbold\x1b[0m \\x1b[2J\n"),
                       (False, "\\x1b[1mbold\\x1b[0m \\x1b[2J\n")):  # fmt: skip
        stream = Terminal()
        stream.tty = tty
        monkeypatch.setattr("sys.stdout", stream)
        output.deliver("\x1b[1mbold\x1b[0m \x1b[2J\n")
        assert stream.getvalue() == shown


def process(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    found: Any = subprocess.run(
        ["sh", "-c", command, "sh", sys.executable], capture_output=True, text=True, check=False,
        env=os.environ | environment, timeout=60,
    )  # fmt: skip
    return found  # type: ignore[no-any-return]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_stdout_that_takes_nothing() -> None:
    done = process('"$1" -m dslbench --version >&-')
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("error: nothing can be printed: stdout is closed\n  try: ")
    done = process('"$1" -m dslbench --version > /dev/full')
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
    assert "No space left" in done.stderr
    done = process('"$1" -m dslbench report --table 77 2>&-')  # messages do not go to stdout
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.parametrize("name", ["~no_such_user_here/x", "~no_such_user_here"])
def test_a_home_of_nobody(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSLBENCH_HOME", name)
    for args in (["list", "runs"], ["report"], ["list", "datasets"], ["doctor"]):
        code, _, err = check(*args)
        assert code == 2 and "DSLBENCH_HOME is ~no_such_user_here" in err


def test_data_sets_are_listed_in_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for width in (40, 60, 100):
        monkeypatch.setenv("COLUMNS", str(width))
        _, out, _ = check("list", "datasets")
        assert max(map(len, out.splitlines())) <= width
        assert "amazon-book" in out and "2,984,108" in out and "interactions" in out
