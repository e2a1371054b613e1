"""Several processes on one store: each run is made once, and a dead process holds nothing up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from cli_helpers import run as dslbench
from dslbench import home
from dslbench.errors import RunError
from dslbench.runs import checkpoint, claims, failures, store
from dslbench.runs.claims import Claims
from dslbench.runs.local import LocalExecutor
from process_helpers import WITHOUT_TRIAL

COMPARE = [
    "compare", "--backbone", "lightgcn", "--dataset", "toy", "--set", "embedding_size=8",
    "--set", "wr.rounds=2", "--method", "dense", "--method", "rp", "--method", "wr",
]  # fmt: skip


def quick(warn: Any = pytest.fail) -> Claims:
    return Claims(warn, beat=0.02, patience=0.3)


def started(*args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*WITHOUT_TRIAL, *COMPARE, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip


def wait_for(condition: Any, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def foreign(run_id: str, **changes: Any) -> Path:
    """A claim that some other machine's process left behind."""
    claims.folder().mkdir(parents=True, exist_ok=True)
    path = claims.folder() / run_id
    content = {
        "machine": "elsewhere", "host": "elsewhere", "pid": 1, "process_started": "5",
        "beat": "0000000001", "time": "2099-01-01T00:00:00+00:00",
    }  # fmt: skip
    path.write_text(json.dumps(content | changes))
    return path


def test_a_run_is_claimed_once_and_free_again_after_release() -> None:
    with quick() as ours, quick() as theirs:
        claim = ours.take("a")
        assert claim is not None
        assert theirs.take("a") is None
        assert f"process {os.getpid()} on" in theirs.holder("a")
        other = theirs.take("b")
        assert other is not None and ours.take("b") is None
        claim.release()
        assert theirs.take("a") is not None
    assert [p.name for p in claims.folder().iterdir() if p.name != ".lock"] == []


def test_a_living_holder_keeps_its_claim_past_everybodys_patience() -> None:
    with quick() as ours, quick() as theirs:
        claim = ours.take("a")
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            assert theirs.take("a") is None
            time.sleep(0.02)
        assert claim is not None and not claim.lost


def test_a_silent_claim_of_another_machine_is_taken_over_after_patience_whatever_its_clock_says() -> (
    None
):
    path, said = foreign("a"), []
    os.utime(path, (2**33, 2**33))  # its disk's clock is centuries ahead
    with quick(said.append) as ours:
        began = time.monotonic()
        wait_for(lambda: ours.take("a") is not None, 5)
        assert time.monotonic() - began >= 0.3
    assert said == ["run a: taken over from process 1 on 'elsewhere', which has stopped"]


def test_a_clock_that_goes_backwards_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    day = iter(range(10**9, 0, -86400))
    monkeypatch.setattr(time, "time", lambda: float(next(day)))
    with quick() as ours, quick() as theirs:
        claim = ours.take("a")
        assert claim is not None
        for _ in range(30):
            assert theirs.take("a") is None
            time.sleep(0.02)
        assert not claim.lost


def test_a_dead_process_of_this_machine_is_not_waited_for() -> None:
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    time.sleep(0.3)  # a zombie now: it has a number, and is gone all the same
    for pid, began in [(dead.pid, "1"), (os.getpid(), "1"), (2**22 + 5, "1")]:
        foreign("a", machine=claims.machine(), pid=pid, process_started=began)
        said: list[str] = []
        with Claims(said.append, beat=1, patience=1000) as ours:
            assert ours.take("a") is not None
        assert len(said) == 1
    dead.wait()


def test_what_a_process_killed_after_storing_left_is_removed() -> None:
    dead = {"machine": claims.machine(), "pid": os.getpid(), "process_started": "1"}
    stored = [foreign("stored", **dead), foreign("living"), foreign("damaged")]
    stored[2].write_bytes(b"{")
    unfinished = foreign("unfinished", **dead)
    for name in ("stored", "unfinished"):
        checkpoint.folder(name).mkdir(parents=True)
    for name in ("stored", "bare"):  # one without a claim
        (home.runs_dir() / f".{name}.x1").mkdir(parents=True)
        (home.runs_dir() / ".logs").mkdir(exist_ok=True)
        (home.runs_dir() / ".logs" / f"{name}.7.log").touch()
    for name in ("stored", "living", "damaged", "bare"):
        (home.runs_dir() / name).mkdir(parents=True, exist_ok=True)
        (home.runs_dir() / name / "run.json").touch()
    # Stored, made again by force, and failed: what its failure points to stays.
    failures.folder().mkdir()
    (failures.folder() / "again.json").touch()
    (home.runs_dir() / ".logs" / "again.7.log").touch()
    (home.runs_dir() / "again").mkdir()
    (home.runs_dir() / "again" / "run.json").touch()
    claims.tidy_stored_runs()
    assert [path.name for path in (home.runs_dir() / ".logs").iterdir()] == ["again.7.log"]
    assert list(home.runs_dir().glob(".*.x1")) == []
    assert [path.name for path in checkpoint.folder("").iterdir()] == ["unfinished"]
    assert [path.exists() for path in (*stored, unfinished)] == [False, True, True, True]


def test_a_holder_that_slept_too_long_learns_that_it_lost() -> None:
    with Claims(pytest.fail, beat=1000, patience=1000) as sleeper:
        claim = sleeper.take("a")
        assert claim is not None
        said: list[str] = []
        with Claims(said.append, beat=1000, patience=0.05) as ours:
            assert ours.take("a") is None
            time.sleep(0.1)
            taken = ours.take("a")
            assert taken is not None
            before = (claims.folder() / "a").read_bytes()
            claim.beat()
            assert claim.lost and (claims.folder() / "a").read_bytes() == before
            claim.release()  # not its own any more
            assert (claims.folder() / "a").read_bytes() == before
            taken.beat()
            assert not taken.lost


def test_of_many_that_find_a_stale_claim_one_gets_it() -> None:
    from concurrent.futures import ThreadPoolExecutor

    for _ in range(20):
        foreign("a")
        watchers = [Claims(lambda text: None, beat=1000, patience=0.0) for _ in range(8)]
        with ThreadPoolExecutor(8) as pool:
            for watcher in watchers:
                watcher.__enter__()
            taken = [c for c in pool.map(lambda w: w.take("a"), watchers) if c is not None]
            for claim in taken:
                claim.beat()
            assert len([c for c in taken if not c.lost]) == 1
            for watcher in watchers:
                watcher.__exit__()


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[]", b'{"pid": -1}', b"[" * 4000])
def test_a_damaged_claim_is_waited_out_then_taken_over(content: bytes) -> None:
    foreign("a").write_bytes(content)
    said: list[str] = []
    with quick(said.append) as ours:
        assert ours.take("a") is None
        wait_for(lambda: ours.take("a") is not None, 5)
    assert said == ["run a: taken over from an unreadable claim, which has stopped"]


def test_a_folder_in_place_of_a_claim_is_an_error_in_one_line() -> None:
    (claims.folder() / "a").mkdir(parents=True)
    with quick() as ours, pytest.raises(RunError, match="is a folder where a claim belongs"):
        ours.take("a")
    (claims.folder() / "b").symlink_to("nothing")
    with quick(lambda text: None) as ours:
        wait_for(lambda: ours.take("b") is not None, 5)


def test_three_compares_on_one_store_make_each_run_once(own_home: Path) -> None:
    processes = [started("--epochs", "3") for _ in range(3)]
    ends = [process.communicate(timeout=280) for process in processes]
    assert [p.returncode for p in processes] == [0] * 3, [err for _, err in ends]
    made = [
        line
        for _, err in ends
        for line in err.splitlines()
        if line.startswith("    toy") and "recall@20" in line
    ]
    assert len(made) == len({line.partition(":")[0] for line in made}) == 3, made
    assert len(store.read_all(pytest.fail)) == 3
    assert len({out for out, _ in ends}) == 1  # all show the same table
    assert [p.name for p in claims.folder().iterdir()] in ([], [".lock"])
    for _, err in ends:
        assert "warning" not in err and "Traceback" not in err


def test_what_a_killed_compare_held_is_made_by_another(
    own_home: Path, runs_in_this_process: None
) -> None:
    victim = started("--epochs", "2000")
    wait_for(lambda: any(claims.folder().glob("[!.]*")) if claims.folder().exists() else False)
    time.sleep(1.0)
    os.kill(victim.pid, signal.SIGKILL)
    victim.communicate()
    held = sorted(path.name for path in claims.folder().glob("[!.]*"))
    assert len(held) == 2 and held[1].startswith(
        f"{held[0]}-"
    )  # its dense training is for others, too

    def orphans() -> bool:
        own = str(own_home)
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if (
                    own.encode() in (entry / "environ").read_bytes()
                    and b"runs.worker" in (entry / "cmdline").read_bytes()
                ):
                    return True
            except OSError:
                continue
        return False

    wait_for(lambda: not orphans(), 30)  # a worker goes with its parent
    # The same run's claim, left by the dead process, for a comparison that is soon done.
    stale = next(claims.folder().glob("[!.]*")).read_text()
    code, out, _ = dslbench(*COMPARE, "--epochs", "2", "--dry-run")
    assert code == 0
    first = out.split()[0]
    (claims.folder() / first).write_text(stale)
    code, _, err = dslbench(*COMPARE, "--epochs", "2")
    assert code == 0, err
    assert f"warning: run {first}: taken over from process {victim.pid} on" in err
    assert len(store.read_all(pytest.fail)) == 3


def test_workers_make_several_runs_at_once_and_interrupting_loses_nothing(
    own_home: Path, no_trials: None
) -> None:
    own = ["--epochs", "5", "--workers", "2"]
    process = started(*own)
    runs = own_home / "runs"
    most = 0

    def stored() -> int:
        nonlocal most
        held = [path.name for path in claims.folder().glob("[!.]*")] if runs.exists() else []
        most = max(most, len([name for name in held if "-" not in name]))  # runs, not trainings
        return len(list(runs.glob("[!.]*/run.json"))) if runs.exists() else 0

    wait_for(lambda: stored() >= 1, 200)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert most == 2
    before = len(store.read_all(pytest.fail))
    assert f"interrupted: {before} of 3 runs are stored" in err
    assert list(claims.folder().glob("[!.]*")) == []
    code, _, err = dslbench(*COMPARE, *own)
    assert code == 0, err
    assert f"3 runs: {before} stored, {3 - before} to make" in err
    assert "2 at once" in err


def test_workers_share_cores_and_take_gpus_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSLBENCH_THREADS", "8")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert LocalExecutor("cpu", 1).environments == [{}]
    threads = {"DSLBENCH_THREADS": "2", "OMP_NUM_THREADS": "2"}
    assert LocalExecutor("cpu", 3).environments == [threads] * 3
    assert LocalExecutor("cpu", 20).environments[0]["OMP_NUM_THREADS"] == "1"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    seen = [e["CUDA_VISIBLE_DEVICES"] for e in LocalExecutor("auto", 3).environments]
    assert seen == ["0", "1", "0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5")
    seen = [e["CUDA_VISIBLE_DEVICES"] for e in LocalExecutor("cuda", 2).environments]
    assert seen == ["3", "GPU-5"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert "CUDA_VISIBLE_DEVICES" not in LocalExecutor("cuda", 2).environments[0]
