"""Pipes, devices and links where files are read or written; headers that promise too much."""

from __future__ import annotations

import io
import os
import signal
import stat
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from cli_helpers import run
from dslbench import output, paths
from dslbench.cli import exporting, runner
from dslbench.errors import UsageError
from dslbench.runs import claims, failures, store
from dslbench.runs.checkpoint import read as read_checkpoint
from dslbench.runs.claims import Claims
from record_helpers import RUNS

REPORT = ["report", "--format", "markdown", "--output"]
DRY = ["compare", "--backbone", "lightgcn", "--method", "dense", "--epochs", "1", "--dry-run"]


@pytest.fixture(autouse=True)
def no_waiting() -> Iterator[None]:
    """What waits for a pipe fails."""

    def stop(*_: object) -> None:
        raise AssertionError("waits for a pipe")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def runs() -> None:
    for number, r in enumerate(RUNS):
        store.save(r, [{"phase": "train", "epoch": 1, "loss": 0.5}], {"users": np.arange(3)},
                   None if number else b"")  # fmt: skip


def one_line(*args: str) -> tuple[int, str]:
    output.warn_once.cache_clear()
    code, _, err = run(*args)
    assert "Traceback" not in err
    return code, err


# --- written -----------------------------------------------------------------------------------------


def test_links_are_followed(runs: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "make", lambda *args, **options: [{"id": "x"}])
    monkeypatch.setattr(exporting, "exported", lambda *args, **options: b"a model")
    (tmp_path / "real").mkdir()
    for name, target in (("there", "real/a"), ("dangling", "real/new/b"), ("twice", "there")):
        link = tmp_path / name
        link.symlink_to(target)
        if name == "there":
            (tmp_path / "real" / "a").write_text("old")
        for args in (
            [*REPORT, str(link)],
            [
                "train",
                "--backbone",
                "lightgcn",
                "--dataset",
                "toy",
                "--json",
                "--export",
                str(link),
            ],
        ):
            code, err = one_line(*args)
            assert code == 0, err
            assert link.is_symlink() and link.resolve().is_file()
            assert link.read_bytes().startswith(b"**Table 3" if args[0] == "report" else b"a model")
        assert link.readlink() == Path(target)
    (tmp_path / "circle").symlink_to("circle")
    code, err = one_line(*REPORT, str(tmp_path / "circle"))
    assert code == 2 and err.startswith("error: cannot write ")


def test_pipes_are_written_through(runs: None, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    code, err = one_line(*REPORT, str(pipe))
    assert code == 2 and "nobody reads from it" in err  # and is not waited for
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(pipe.read_bytes()), daemon=True)
    reader.start()
    output.check_writable(pipe)  # the reader is not sent away
    for _ in range(200):
        code, err = one_line(*REPORT, str(pipe))
        if code == 0:  # the reader has come
            break
        reader.join(0.02)
    reader.join(10)
    assert code == 0 and found[0].startswith(b"**Table 3")
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_devices_stay_devices(runs: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With calls that would replace or write watched, as no test may write to a real one."""
    opened: list[str] = []
    real = os.open

    def watched(path: str, flags: int, mode: int = 0o777) -> int:
        if str(path) == os.devnull and flags & os.O_WRONLY:
            opened.append(str(path))
            return real(tmp_path / "stands in", os.O_WRONLY | os.O_CREAT, 0o600)
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", watched)
    monkeypatch.setattr(os, "replace", lambda *args: pytest.fail(f"replaces {args}"))
    output.check_writable(Path(os.devnull))
    output.put(Path(os.devnull), b"text")
    assert opened == [os.devnull] and (tmp_path / "stands in").read_bytes() == b"text"
    link = tmp_path / "link"
    link.symlink_to(os.devnull)
    output.put(link, b"")
    assert link.is_symlink()
    monkeypatch.setattr(stat, "S_ISBLK", lambda mode: True)
    with pytest.raises(UsageError, match="it is a disk"):
        output.put(Path(os.devnull), b"text")
    with pytest.raises(UsageError, match="it is a disk"):
        output.check_writable(Path(os.devnull))


def test_several_pictures_do_not_go_into_one_pipe(
    runs: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dslbench.report import command

    monkeypatch.setattr(command, "pictures", lambda *args: [b"1", b"2"])
    os.mkfifo(tmp_path / "p.png")
    code, err = one_line("report", "--figure", "5", "--output", str(tmp_path / "p.png"))
    assert code == 2 and "2 pictures do not go into" in err
    assert [path.name for path in tmp_path.glob("p*")] == ["p.png"]


# --- read --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", store.FILES)
def test_pipes_in_a_run_are_named_and_left_out(name: str, runs: None) -> None:
    victim = RUNS[0]["id"]
    path = store.folder(victim) / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    code, out, err = run("list", "runs")
    assert code == 0 and (victim in out) == (name != "run.json"), err
    seen = err
    for args in (["--stats"], ["--table", "1"], ["--figure", "5"], ["--figure", "4"],
                 ["--format", "html"]):  # fmt: skip
        code, err = one_line("report", *args)
        assert code in (0, 1, 2), err
        seen += err
    assert f"{name}: not a plain file" in seen or f"{name} cannot be read: not a plain" in seen
    assert all(line.startswith(("warning: ", "error: ", "  try: ")) for line in seen.splitlines())
    if name == "run.json":
        assert not store.has(victim, lambda text: None)


def test_pipes_elsewhere_in_the_store(runs: None, own_home: Path) -> None:
    for place in ("runs/.failed/x.json", "runs/.claims/x", "runs/.claims/.lock", "data/d/manifest.json",
                  "runs/.checkpoints/x/0001-end.safetensors"):  # fmt: skip
        (own_home / place).parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(own_home / place)
    for args in (["list", "runs"], ["report"], ["list", "datasets"], ["list", "runs", "--json"]):
        code, err = one_line(*args)
        assert code == 0 and len(err.splitlines()) == 1 and "not a plain file" in err, err
    said: list[str] = []
    with Claims(said.append, patience=0.0) as ours, claims.takeover_lock(claims.folder()):
        pass
    with Claims(said.append, patience=0.0) as ours:
        ours.take("x")
    with pytest.raises(ValueError, match="not a plain file"):
        read_checkpoint(own_home / "runs/.checkpoints/x/0001-end.safetensors", {})
    assert failures.read_or_none("x") is None


def test_pipes_that_are_named(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.toml"
    os.mkfifo(pipe)
    for args, code in (
        (["compare", "--plan", str(pipe), "--dry-run"], 2), ([*DRY, "--dataset", str(pipe)], 3),
        (["download", "mine", "--from", str(pipe)], 3), (["download", "ml-1m", "--from", str(pipe)], 3),
    ):  # fmt: skip
        found, err = one_line(*args)
        assert found == code and "not a plain file" in err, err
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("dataset.toml", "ratings.dat"):
        os.mkfifo(folder / name)
    for name in ("mine", "ml-1m"):
        assert one_line("download", name, "--from", str(folder))[0] == 3


def test_kinds(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    kinds = [paths.kind(Path(p)) for p in (__file__, tmp_path, os.devnull, tmp_path / "loop",
                                           "x" * 5000, "a\0b")]  # fmt: skip
    assert kinds == ["file", "folder", "other", "nothing", "nothing", "nothing"]
    with pytest.raises(OSError, match="no name of a file"):
        paths.read_bytes(Path("a\0b"))
    with pytest.raises(IsADirectoryError):
        paths.read_bytes(tmp_path)


# --- promises ----------------------------------------------------------------------------------------


def promising(path: Path, name: str, arrays: dict[str, np.ndarray]) -> None:  # type: ignore[type-arg]
    """An npz in which one array's header promises 15 TB."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": (2 * 10**12,)}
    )
    np.savez(path, **arrays)  # type: ignore[arg-type]
    with zipfile.ZipFile(path, "a") as box:
        box.writestr(f"{name}.npy", header.getvalue() + bytes(80))


def test_arrays_that_promise_too_much(
    runs: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def allocating(*args: object, **options: object) -> None:
        pytest.fail("arrays are made before the header is checked")

    path = store.folder(RUNS[0]["id"]) / "users.npz"
    promising(path, "recall@20", {"users": np.arange(3)})
    with monkeypatch.context() as patched:
        patched.setattr(np, "load", allocating)
        assert store.per_user(RUNS[0]["id"]) is None
    code, err = one_line("report", "--table", "stats")
    assert code == 0 and err.count("users.npz: cannot be read") == 1, err
    matrix = sparse.csr_matrix(np.eye(5))
    own = tmp_path / "pairs.npz"
    promising(own, "data", {"indices": matrix.indices, "indptr": matrix.indptr,
                            "shape": np.array(matrix.shape), "format": np.array(b"csr")})  # fmt: skip
    code, err = one_line("download", "mine", "--from", str(own))
    assert code == 3 and "promises 16,000,000,000,000 bytes" in err, err
    code, err = one_line(*DRY, "--dataset", str(own))
    assert code == 3 and len(err.splitlines()) == 1, err
    sparse.save_npz(tmp_path / "good.npz", matrix)
    code, err = one_line("download", "good", "--from", str(tmp_path / "good.npz"))
    assert "promises" not in err
