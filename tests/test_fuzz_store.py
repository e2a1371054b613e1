"""Damaged and foreign files everywhere in the store: reported, skipped, and nothing else is lost.

Each case damages one file of a good store, runs the commands that read it, and puts it back.
DSLBENCH_FUZZ sets the number of cases (docs/reliability.md says what was run), DSLBENCH_FUZZ_SEED the seed.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dslbench import output
from dslbench.cli import main as cli
from dslbench.errors import DslbenchError
from dslbench.runs import claims, failures, store
from dslbench.runs.claims import Claims
from dslbench.runs.worker.run import make_run
from dslbench.spec import RunSpec, resolve

CASES = int(os.environ.get("DSLBENCH_FUZZ", "80"))
SEED = int(os.environ.get("DSLBENCH_FUZZ_SEED", "0"))
GROUPS = 8

WRONG: list[Any] = [
    None, True, False, -1, 0, 1, 2**63, 10**400, 1e308, -0.5, "", "x", "dense", "dsl", "\ud800", "\x1b[2J",
    "two\nlines", "../..", "\x00", [], [None], [[[]]], {}, {"": None}, {"a": {"b": []}}, float("nan"),
    float("inf"),
]  # fmt: skip


def spec(method: str, sparsity: float = 0.5) -> RunSpec:
    return resolve(
        dataset="toy", backbone="lightgcn", method=method, sparsity=sparsity, seed=0, epochs=1,
        settings=["embedding_size=4"],
    )  # fmt: skip


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with four real runs, a failure, and an imported data set."""
    root = tmp_path_factory.mktemp("template")
    own = root / "pairs.csv"
    lines = [f"u{u},i{(u * 7 + k * k) % 40}" for u in range(60) for k in range(12)]
    own.write_text("user,item\n" + "\n".join(lines) + "\n")
    before = os.environ.get("DSLBENCH_HOME")
    os.environ["DSLBENCH_HOME"] = str(root / "home")
    try:
        for method in ("dense", "rp", "dsl"):
            make_run(spec(method), torch.device("cpu"), lambda event: None)
        make_run(spec("dsl", 0.8), torch.device("cpu"), lambda event: None)
        failures.write("0123456789ab", spec("wr"), "it broke", "mend it")
        code, _, err = command("download", "mine", "--from", str(own))
        assert code == 0, err
    finally:
        if before is None:
            del os.environ["DSLBENCH_HOME"]
        else:
            os.environ["DSLBENCH_HOME"] = before
    return root / "home"


def command(*args: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command; an error that escapes it is one of the test's."""
    out, err = io.StringIO(), io.StringIO()
    output.warn_once.cache_clear()
    argv, sys.argv = sys.argv, ["dslbench", *args]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
        code = 0
    except SystemExit as error:
        code = int(error.code or 0)
    finally:
        sys.argv = argv
    return code, out.getvalue(), err.getvalue()


# --- damage --------------------------------------------------------------------------------------


def truncated(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content))]


def flipped(content: bytes, rng: random.Random) -> bytes:
    found = bytearray(content)
    for _ in range(rng.choice([1, 1, 3, 30])):
        found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
    return bytes(found)


def noise(content: bytes, rng: random.Random) -> bytes:
    return rng.randbytes(rng.choice([0, 1, 8, 100, 5000]))


def patched(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content))
    return content[:start] + rng.randbytes(rng.randrange(1, 20)) + content[start + 10 :]


def misshapen(content: bytes, rng: random.Random) -> bytes:
    """Valid JSON, but for a value or two that are missing or of another kind."""
    document = json.loads(content)
    for _ in range(rng.choice([1, 1, 2])):
        places = list(nodes(document))
        if not places:
            return json.dumps(rng.choice(WRONG)).encode()
        parent, key = rng.choice(places)
        if rng.random() < 0.25:
            del parent[key]
        else:
            parent[key] = rng.choice(WRONG)
    if rng.random() < 0.05:
        document = rng.choice(WRONG)
    return json.dumps(document).encode("utf-8", "surrogatepass")


def nodes(node: Any) -> list[tuple[Any, Any]]:
    children = list(node.items()) if isinstance(node, dict) else []
    children = list(enumerate(node)) if isinstance(node, list) else children
    return [(node, key) for key, _ in children] + [
        pair for _, child in children for pair in nodes(child)
    ]


DAMAGE: list[Callable[[bytes, random.Random], bytes]] = [truncated, flipped, noise, patched]
TABLES = ["1", "2", "3", "4", "cost", "pareto", "stats"]
FIGURES = ["2", "3", "5", "pareto"]


def readers(path: Path, rng: random.Random) -> list[list[str]]:
    """Commands that read the file."""
    if path.name == "run.json":
        some = [
            ["report", "--table", rng.choice(TABLES)], ["report", "--figure", rng.choice(FIGURES)],
            ["report", "--published"], ["report", "--format", "json"],
            ["report", "--format", "csv"],
        ]  # fmt: skip
        return [["list", "runs"], some[0], rng.choice(some[1:])]
    if path.name == "history.json":
        return [["report", "--figure", "5"]]
    if path.name == "users.npz":
        return [["report", "--table", "stats"]]
    if path.name == "model.safetensors":
        return [
            ["report", "--table", "1"],
            *([["report", "--figure", "4"]] * (rng.random() < 0.05)),
        ]
    if path.parent.name == ".failed":
        return [["list", "runs"], ["report"]]
    return [
        ["list", "datasets"],
        ["compare", "--backbone", "lightgcn", "--dataset", "mine", "--method", "dense", "--dry-run",
         "--epochs", "1"],
    ]  # fmt: skip


def check_lines(err: str) -> None:
    assert "Traceback" not in err
    for line in err.splitlines():
        known = (
            "warning: ",
            "error: ",
            "  try: ",
            "data set: ",
            "timing ",
            "left out: ",
            "1 run: ",
            "mine: ",
        )
        assert line.startswith(known) and line.isprintable(), line


@pytest.mark.parametrize("group", range(GROUPS))
def test_one_damaged_file(
    group: int, template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "home"
    shutil.copytree(template, root)
    monkeypatch.setenv("DSLBENCH_HOME", str(root))
    # A trial would train; whether the data can be read is known by then.
    from dslbench.runs import making

    monkeypatch.setattr(making, "estimate_seconds", lambda *args: 1.0)
    files = sorted(p for p in root.rglob("*") if p.is_file() and ".logs" not in p.parts)
    intact = {path: path.read_bytes() for path in files}
    weights = [6 if p.name == "run.json" else 2 for p in files]
    ids = {path.parent.name for path in files if path.name == "run.json"}
    outcomes: dict[int, int] = {}
    problems: list[str] = []
    for number in range(group, CASES, GROUPS):
        rng = random.Random(f"{SEED}/{number}")
        path = rng.choices(files, weights)[0]
        how = misshapen if path.suffix == ".json" and rng.random() < 0.6 else rng.choice(DAMAGE)
        content = how(intact[path], rng)
        path.write_bytes(content)
        for args in readers(path, rng):
            context = f"case {number}: {how.__name__} {path.relative_to(root)}, {' '.join(args)}"
            try:
                code, out, err = command(*args)
                assert code in (0, 1, 2, 3), "exit code"
                check_lines(err)
                if args == ["list", "runs"]:
                    left = ids - {path.parent.name}
                    assert code == 0 and left <= {line[:12] for line in out.splitlines()}, out
            except Exception as error:  # an assertion's, or one that escaped the command
                problems.append(f"{context}: {type(error).__name__}: {error}")
                continue
            outcomes[code] = outcomes.get(code, 0) + 1
        for other, before in intact.items():
            assert other == path or other.read_bytes() == before, number
        assert path.read_bytes() == content, number
        path.write_bytes(intact[path])
    assert not problems, f"{len(problems)} problems:\n" + "\n".join(problems)
    assert outcomes.get(0, 0) > 0
    code, out, err = command("list", "runs")
    assert code == 0 and err == "" and ids <= {line[:12] for line in out.splitlines()}


def test_damaged_claims_hold_nothing_up_for_good() -> None:
    with Claims(lambda text: None) as ours:
        claim = ours.take("a")
        assert claim is not None
        good = (claims.folder() / "a").read_bytes()
    for number in range(400):
        rng = random.Random(f"claim {SEED}/{number}")
        how = misshapen if rng.random() < 0.5 else rng.choice(DAMAGE)
        (claims.folder() / "b").write_bytes(how(good, rng))
        said: list[str] = []
        with Claims(said.append, patience=0.0) as ours:
            assert ours.holder("b").isprintable()
            assert ours.take("b") is not None, number
        assert len(said) == 1 and said[0].isprintable()


def test_foreign_things_in_every_place(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "home"
    shutil.copytree(template, root)
    monkeypatch.setenv("DSLBENCH_HOME", str(root))
    (root / "runs" / "notes.txt").write_text("mine")
    (root / "runs" / "empty").mkdir()
    (root / "runs" / "two\nlines").mkdir()
    (root / "runs" / "folder" / "run.json").mkdir(parents=True)
    (root / "runs" / "link").symlink_to("/does/not/exist")
    (root / "runs" / "loop").symlink_to("loop")
    (root / "runs" / ".failed" / "x.json").mkdir()
    (root / "data" / "stray").write_text("mine")
    (root / "data" / "hollow").mkdir()
    os.mkfifo(root / "runs" / "pipe")
    code, out, err = command("list", "runs")
    assert code == 0 and len(out.splitlines()) == 5
    check_lines(err)
    assert len(err.splitlines()) == 4  # empty, two\nlines, folder, x.json
    for args in (["report"], ["list", "datasets"], ["doctor"], ["report", "--stats"]):
        code, _, err = command(*args)
        assert code == 0, err
        check_lines(err)


@pytest.mark.parametrize("place", ["runs", "data", "runs/.claims", "runs/.failed", "."])
def test_a_file_where_a_folder_belongs_is_one_line(
    place: str, template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "home"
    monkeypatch.setenv("DSLBENCH_HOME", str(root))
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    (root / place).write_text("a file")
    for args in (["list", "runs"], ["report"], ["list", "datasets"]):
        code, _, err = command(*args)
        assert code in (0, 1, 2, 3)
        check_lines(err)
    with contextlib.suppress(DslbenchError, OSError):
        store.check_writable()


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("history.json", ["report", "--figure", "5"]),
        ("users.npz", ["report", "--table", "stats"]),
        ("model.safetensors", ["report", "--table", "1"]),
        ("model.safetensors", ["report", "--figure", "4"]),
    ],
)
def test_what_is_left_out_is_named_once(
    name: str, args: list[str], template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "home"
    shutil.copytree(template, root)
    monkeypatch.setenv("DSLBENCH_HOME", str(root))
    (run,) = (r for r in store.read_all(pytest.fail) if r["spec"]["sparsity"] == 0.8)
    damaged = store.folder(run["id"]) / name
    damaged.write_bytes(damaged.read_bytes()[:200])
    code, _, err = command(*args)
    assert code == 0, err
    (line,) = (line for line in err.splitlines() if "left out" in line)
    assert run["id"] in line and line.startswith("warning: ")
