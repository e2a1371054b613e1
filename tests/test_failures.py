"""What goes wrong with a run or with the disk: it is said in one line, and nothing stored is lost."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from cli_helpers import run as dslbench
from dslbench import home
from dslbench.errors import DslbenchError, RunError, StoreError
from dslbench.evaluation.evaluate import evaluate, evaluate_sampled, pairs_of_items
from dslbench.report import command
from dslbench.runs import claims, failures, local, stock, store
from dslbench.runs.claims import Claims
from dslbench.runs.local import CancelledError, OnEvent
from dslbench.runs.progress import Live, Part, Quiet
from dslbench.runs.schedule import Schedule
from dslbench.runs.stock import WantedRun
from dslbench.spec import RunSpec, resolve
from helpers import make_interactions
from process_helpers import WITHOUT_TRIAL, run_here
from record_helpers import RUNS, record

COMPARE = [
    "compare", "--backbone", "lightgcn", "--dataset", "toy", "--set", "embedding_size=8",
    "--method", "dense", "--method", "rp",
]  # fmt: skip


def spec(
    method: str = "dense", seed: int = 0, epochs: int = 2, settings: Sequence[str] = ()
) -> RunSpec:
    return resolve(
        dataset="toy", backbone="lightgcn", method=method, sparsity=0.5, seed=seed, epochs=epochs,
        settings=list(settings),
    )  # fmt: skip


class Scripted:
    """An executor that does as told: for each run an error to raise, or None for a run that is stored."""

    def __init__(self, slots: int, ends: dict[str, BaseException | None]) -> None:
        self.slots, self.ends = slots, ends
        self.order: list[str] = []
        self.at_once = self.most = 0
        self.lock = threading.Lock()
        self.stop = threading.Event()
        self.fails: RunError | None = None  # in place of the end of what is cancelled

    def make(
        self, run_id: str, spec: RunSpec, slot: int, on_event: OnEvent, shared: Any = None
    ) -> None:
        with self.lock:
            self.order.append(run_id)
            self.at_once += 1
            self.most = max(self.most, self.at_once)
        on_event({"event": "start", "phases": ["train"]})
        on_event({"event": "epoch", "phase": "train", "epoch": 1, "epochs": 2, "loss": 0.5})
        if run_id == "sleeps":
            self.stop.wait(30)
        time.sleep(0.05)
        with self.lock:
            self.at_once -= 1
        if self.stop.is_set():
            raise self.fails or CancelledError
        if (error := self.ends[run_id]) is not None:
            raise error
        store.save(record() | {"id": run_id}, [], {"users": np.arange(3)})

    def cancel(self, slot: int) -> None:
        self.stop.set()

    def close(self) -> None:
        pass


def make(
    runs: list[WantedRun], executor: Scripted, show: Quiet | None = None, **patience: float
) -> tuple[list[str], str]:
    text = io.StringIO()
    show = show or Quiet(Console(file=text, width=300), Part(total=len(runs)))
    with Claims(lambda line: None, **patience) as own:
        found = Schedule(runs, executor, own, show, lambda line: text.write(line)).run()
    return found, text.getvalue()


def test_a_failed_run_is_kept_with_its_reason_and_the_others_go_on() -> None:
    runs = [WantedRun(spec(seed=n), name, False) for n, name in enumerate("abc")]
    ends = {"a": None, "b": RunError("it broke\nbadly", "mend it"), "c": None}
    found, shown = make(runs, Scripted(1, ends))
    assert found == ["toy lightgcn dense seed 1: it broke\nbadly (mend it)"]
    assert "seed 1: FAILED: it broke" in shown
    assert {r["id"] for r in store.read_all(pytest.fail)} == {"a", "c"}
    (failure,) = failures.read_all(pytest.fail)
    assert (failure.id, failure.reason, failure.hint) == ("b", "it broke badly", "mend it")
    assert failure.spec == spec(seed=1)
    # It is named below the tables of its setting, and forgotten once the run is made.
    records = [r | {"spec": spec(seed=0).model_dump() | r["spec"] | {
        "epochs": 2, "hyper": spec().hyper}} for r in store.read_all(pytest.fail)]  # fmt: skip
    assert any(
        "Failed, so not above: toy lightgcn dense seed 1 (it broke badly)." in line
        for line in command.tables("3", records)[0].footer
    )
    again = replace(runs[1], failed_at=failure.time)
    found, _ = make([again], Scripted(1, {"b": None}))
    assert found == [] and failures.read_all(pytest.fail) == []


def test_remains_of_a_killed_process_are_removed_by_the_next_that_makes_the_run() -> None:
    for name in (".a.x1", ".a.old.x2", ".b.x3"):
        (home.runs_dir() / name).mkdir(parents=True)
        (home.runs_dir() / name / "run.json").write_text("{")
    logs = home.runs_dir() / ".logs"
    logs.mkdir()
    for name in ("a.123.log", "b.123.log"):
        (logs / name).write_text("killed\n")
    found, _ = make([WantedRun(spec(), "a", False)], Scripted(1, {"a": None}))
    assert [path.name for path in logs.iterdir()] == ["b.123.log"]
    assert found == [] and store.has("a", pytest.fail)
    assert {path.name for path in home.runs_dir().glob(".[ab].*")} == {".b.x3"}


def test_a_run_that_was_moved_aside_for_its_replacement_comes_back() -> None:
    store.save(record() | {"id": "a"}, [], {"users": np.arange(3)})
    old = home.runs_dir() / ".a.old.x1"
    old.mkdir()
    store.folder("a").rename(old / "replaced")
    assert store.read_all(pytest.fail) == []
    store.put_back_replaced()
    assert [r["id"] for r in store.read_all(pytest.fail)] == ["a"] and not old.exists()
    # Where the new one is in place, the old one stays aside.
    (old / "replaced").mkdir(parents=True)
    store.put_back_replaced()
    assert old.exists() and store.has("a", pytest.fail)


def test_a_replacement_keeps_the_old_folder_until_the_new_one_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, there = tmp_path / "a", []
    remove = shutil.rmtree

    def watched(path: Path, **how: Any) -> None:
        there.append((target / "new").exists())
        remove(path, **how)

    monkeypatch.setattr("dslbench.home.shutil.rmtree", watched)
    for name in ("old", "new"):
        with home.staged_folder(target) as staging:
            (staging / name).touch()
    assert [p.name for p in target.iterdir()] == ["new"] and [*tmp_path.iterdir()] == [target]
    assert there == [
        False,
        True,
        True,
    ]  # of the first one, and of the second one and what it replaced


def test_a_replacement_that_fails_half_way_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "a"
    with home.staged_folder(target) as staging:
        (staging / "old").touch()
    replace_, calls = os.replace, []

    def failing(source: Path, to: Path) -> None:
        calls.append(to)
        if len(calls) == 3:  # the new one's second try, the old one moved aside
            raise OSError(errno.EIO, "broken")
        replace_(source, to)

    monkeypatch.setattr("dslbench.home.os.replace", failing)
    with pytest.raises(OSError, match="broken"), home.staged_folder(target) as staging:
        (staging / "new").touch()
    assert [p.name for p in target.iterdir()] == ["old"] and [*tmp_path.iterdir()] == [target]


def test_students_wait_for_their_teacher_and_fail_with_it() -> None:
    teacher = WantedRun(spec(), "t", False, asked=False)
    students = [WantedRun(spec("rkd", n), f"s{n}", False, teacher="t") for n in range(2)]
    other = WantedRun(spec("rp"), "o", False)
    executor = Scripted(3, {"t": None, "s0": None, "s1": None, "o": None})
    found, _ = make([teacher, *students, other], executor)
    assert found == [] and executor.most == 2
    assert set(executor.order[:2]) == {"t", "o"}
    executor = Scripted(3, {"t": RunError("broken"), "o": None})
    again = [replace(r, stamp=store.stamp(r.id)) for r in (teacher, *students)]
    found, _ = make(again, executor)
    assert [line.partition(": ")[2] for line in found] == [
        "broken", "the run of its teacher failed", "the run of its teacher failed"
    ]  # fmt: skip


def test_never_more_at_once_than_there_are_slots() -> None:
    runs = [WantedRun(spec(seed=n), f"r{n}", False) for n in range(7)]
    executor = Scripted(3, dict.fromkeys((r.id for r in runs), None))
    live = Live(Console(file=io.StringIO(), force_terminal=True, width=100), Part(total=len(runs)))
    assert make(runs, executor, live)[0] == []
    assert executor.most == 3 and len(executor.order) == 7
    assert live.bars.tasks[0].completed == 7 and len(live.bars.tasks) == 1


def test_a_full_disk_ends_the_comparison_and_not_what_is_under_way() -> None:
    runs = [WantedRun(spec(seed=n), f"r{n}", False) for n in range(4)]
    ends: dict[str, BaseException | None] = {"r0": StoreError("full"), "r1": None}
    executor = Scripted(2, ends)
    with pytest.raises(StoreError, match="full"):
        make(runs, executor)
    assert set(executor.order) == {"r0", "r1"}
    assert [r["id"] for r in store.read_all(pytest.fail)] == ["r1"]
    assert failures.read_all(pytest.fail) == []  # it is not the run's fault


def test_a_run_that_another_process_made_or_failed_is_not_made_again() -> None:
    runs = [WantedRun(spec(seed=n), name, False) for n, name in enumerate("abc")]
    executor = Scripted(1, {"b": None})
    text = io.StringIO()
    with Claims(pytest.fail, beat=0.05) as theirs, Claims(pytest.fail) as ours:
        held = {name: theirs.take(name) for name in "ac"}

        def finish() -> None:
            time.sleep(1.5)
            store.save(record() | {"id": "a"}, [], {"users": np.arange(3)})
            failures.write("c", runs[2].spec, "broken there", None)
            for claim in held.values():
                assert claim is not None
                claim.release()

        other = threading.Thread(target=finish)
        schedule = Schedule(
            runs, executor, ours, Quiet(Console(file=text, width=300), Part(total=3)), pytest.fail
        )
        other.start()
        found = schedule.run()
        other.join()
    assert executor.order == ["b"]  # at once, while the others were held
    assert found == ["toy lightgcn dense seed 2: broken there"]
    assert "waiting for 2 runs that others are making: toy lightgcn dense seed 0 (process" in (
        text.getvalue()
    )
    assert "by another process: toy lightgcn dense seed 0: recall@20" in text.getvalue()


def test_a_run_that_another_process_made_while_a_trial_was_timed_is_not_made_again() -> None:
    (planned,) = stock.take_stock([spec(epochs=1)], False, pytest.fail)
    assert not planned.done
    store.save(record() | {"id": planned.id}, [], {"users": np.arange(3)})  # before a schedule
    executor = Scripted(1, {})
    found, shown = make([planned], executor)
    assert found == [] and executor.order == []
    assert "by another process" in shown
    assert stock.take_stock([spec(epochs=1)], False, pytest.fail)[0].done


def test_each_table_has_its_own_failures_below_it() -> None:
    failures.write("a", spec(method="rp"), "broken", None)
    records = [record() | {"spec": spec().model_dump() | {"embedding_size": 64, "layers": 3}}]
    other = json.loads(json.dumps(records[0]))
    other["spec"]["dataset"] = other["data"]["name"] = "gowalla"
    found = command.tables("3", [*records, other])
    assert [any("broken" in line for line in table.footer) for table in found] == [True, False]


def test_only_failures_of_a_tables_own_settings_stand_below_it() -> None:
    failures.write("a", spec(seed=1), "broken", None)
    failures.write("b", spec(seed=1, epochs=7), "broken at another length", None)
    failures.write("c", spec(settings=["embedding_size=8"]), "broken at another size", None)
    own = record() | {"spec": spec().model_dump()}
    lines = failures.footer([own], failures.read_all(pytest.fail))
    assert lines == [f"Failed, so not above: {spec(seed=1).title} (broken)."]


@pytest.mark.parametrize("fails", [False, True])
def test_a_run_whose_claim_is_lost_is_stopped_and_left_to_the_other(fails: bool) -> None:
    run = WantedRun(spec(), "sleeps", False)
    executor = Scripted(1, {})

    def rob() -> None:
        path = claims.folder() / "sleeps"
        while not (path.exists() and (content := path.read_text())):
            time.sleep(0.01)
        path.unlink()
        path.write_text(json.dumps(json.loads(content) | {"machine": "elsewhere"}))
        executor.stop.wait(20)
        store.save(record() | {"id": "sleeps"}, [], {"users": np.arange(3)})
        path.unlink()

    if fails:  # as when the other has taken what it needs away from under it
        executor.fails = RunError("its checkpoint is gone")
    thief = threading.Thread(target=rob)
    thief.start()
    found, shown = make([run], executor, beat=0.05)
    thief.join()
    assert found == [] and executor.order == ["sleeps"] and failures.read_all(pytest.fail) == []
    assert "another process has taken it over" in shown and "by another process" in shown


def children_of(pid: int) -> list[int]:
    return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()] + [
        int(n)
        for task in Path(f"/proc/{pid}/task").iterdir()
        if task.name != str(pid)
        for n in (task / "children").read_text().split()
    ]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
def test_a_worker_that_dies_is_a_failed_run(own_home: Path, runs_in_this_process: None) -> None:
    process = subprocess.Popen(
        [*WITHOUT_TRIAL, *COMPARE, "--epochs", "5"], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("[1/2]"):
            deadline = time.monotonic() + 20
            while not (found := children_of(process.pid)) and time.monotonic() < deadline:
                time.sleep(0.02)
            os.kill(found[0], signal.SIGKILL)
            break
    out, err = process.communicate(timeout=280)
    assert process.returncode == 1, err
    name = "SIGKILL, as the system does when memory runs out"
    assert f"dense (embedding_size=8) seed 0: FAILED: the run's process ended with {name}" in err
    assert "error: 1 of 2 runs failed, see above" in err and "Traceback" not in err
    assert len(store.read_all(pytest.fail)) == 1
    assert f"(the run's process ended with {name}" in " ".join(out.split())
    code, listed, _ = dslbench("list", "runs")
    assert code == 0 and f"FAILED {failures.read_all(pytest.fail)[0].time[:19]}" in listed
    parsed = json.loads(dslbench("list", "runs", "--json")[1])
    assert sorted(bool(run["failed"]) for run in parsed) == [False, True]
    # The next comparison tries it again.
    code, _, err = dslbench(*COMPARE, "--epochs", "5")
    assert code == 0 and "failed last time, tried again: toy lightgcn dense" in err
    assert failures.read_all(pytest.fail) == [] and len(store.read_all(pytest.fail)) == 2


# --- memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(), torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"),
    ],
)  # fmt: skip
def test_evaluation_shrinks_its_blocks_when_memory_runs_out(error: Exception) -> None:
    data = make_interactions(n_users=40, n_items=30)
    table = torch.from_numpy(np.random.default_rng(0).normal(size=(40, 30)).astype(np.float32))
    sizes = []

    def tight(users: torch.Tensor) -> torch.Tensor:
        sizes.append(len(users))
        if len(users) > 6:
            raise error
        return table[users].clone()

    seen = data.seen_before_test
    usual = evaluate(lambda users: table[users].clone(), data.test, seen)
    found = evaluate(tight, data.test, seen)
    assert sizes[0] > 6 >= sizes[-1] and found.ties == usual.ties
    for name, values in usual.values.items():
        np.testing.assert_array_equal(found.values[name], values)
    negatives = np.zeros((40, 2), dtype=np.int32)
    counts = pairs_of_items(data.train)
    few = evaluate_sampled(
        lambda u, i: tight(u).gather(1, i), data.test, negatives, popularity=counts
    )
    all_ = evaluate_sampled(
        lambda u, i: table[u].gather(1, i), data.test, negatives, popularity=counts
    )
    np.testing.assert_array_equal(few.values["recall@20"], all_.values["recall@20"])

    def none(users: torch.Tensor) -> torch.Tensor:
        raise error

    with pytest.raises(type(error)):
        evaluate(none, data.test, seen)

    def wrong(users: torch.Tensor) -> torch.Tensor:
        sizes.append(len(users))
        raise RuntimeError("shapes do not match")

    sizes.clear()
    with pytest.raises(RuntimeError, match="shapes"):
        evaluate(wrong, data.test, seen)
    assert len(sizes) == 1


# --- disks ---------------------------------------------------------------------------------------


@contextmanager
def disk(where: Path, size: str) -> Iterator[Callable[[str], Any]]:
    """A small file system of its own; the yielded function changes its options."""
    where.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "dslbench-test", str(where)],
        capture_output=True, check=False,
    ) if os.geteuid() == 0 else None  # fmt: skip
    if done is None or done.returncode != 0:
        pytest.skip("file systems cannot be mounted here")
    try:
        yield (
            lambda options: (
                subprocess.run(["mount", "-o", f"remount,{options}", str(where)], check=True)
                and None
            )
        )  # type: ignore[func-returns-value]
    finally:
        subprocess.run(["umount", str(where)], check=True)


def test_a_full_disk_is_one_line_and_the_store_still_reads(
    own_home: Path, no_trials: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    where, args = own_home, [*COMPARE, "--epochs", "2"]
    with disk(where, "100k") as change:
        code, _, err = dslbench(*args)
        errors = [line for line in err.splitlines() if line.startswith("error: ")]
        assert code == 1 and len(errors) == 1 and "Traceback" not in err
        assert "cannot be written in" in errors[0] and "No space left on device" in errors[0]
        assert str(where / "runs") in errors[0] and "KiB needed, " in errors[0]
        code, listed, err = dslbench("list", "runs")
        assert code == 0 and err == ""
        kept = len(listed.splitlines())
        assert [p.name for p in (where / "runs").iterdir() if p.name[0] != "."] == [
            line.split()[0] for line in listed.splitlines()
        ]
        assert not list(
            (where / "runs").glob(".[0-9a-f][0-9a-f][0-9a-f]*")
        )  # nothing half-written stays
        change("size=20m")
        monkeypatch.setattr(local.Process, "run", run_here)
        code, _, err = dslbench(*args)
        assert code == 0 and f"2 runs: {kept} stored" in err, err


def test_a_read_only_store_is_one_line_and_can_be_read(
    own_home: Path, runs_in_this_process: None
) -> None:
    where, args = own_home, [*COMPARE, "--epochs", "2"]
    with disk(where, "20m") as change:
        assert dslbench(*args)[0] == 0
        change("ro")
        code, _, err = dslbench(*args, "--seeds", "2")
        assert code == 1 and "Traceback" not in err
        errors = [line for line in err.splitlines() if line.startswith("error: ")]
        assert errors == [
            f"error: runs cannot be written in {where / 'runs'}: Read-only file system"
        ]
        assert "estimating how long" not in err  # said before anything is trained
        plan = [*args, "--seeds", "2", "--dry-run"]
        for reading in (args, plan, ["report"], ["list", "runs"], ["doctor"]):
            code, out, err = dslbench(*reading)
            assert code == 0, err
        assert "NOT WRITABLE" in out


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("survivors", range(4))
def test_whichever_file_does_not_fit_the_old_run_stays(
    number: int, survivors: int, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(RUNS[0], [], {"users": np.arange(3)}, b"model")
    calls = iter(range(100))

    def sync(handle: int) -> None:
        if next(calls) == survivors:
            raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", sync)
        with pytest.raises(StoreError) as caught:
            store.save(RUNS[0] | {"finished": "later"}, [], {"users": np.arange(3)}, b"other")
    assert os.strerror(number) in caught.value.message and "needed" in caught.value.message
    assert RUNS[0]["id"] in caught.value.message and caught.value.exit_code == 1
    assert store.read(RUNS[0]["id"]) == RUNS[0] and store.model_bytes(RUNS[0]["id"]) == b"model"
    assert [p.name for p in (own_home / "runs").iterdir()] == [RUNS[0]["id"]]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EPERM])
def test_writing_that_is_not_allowed_is_said_as_such(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(home.tempfile, "mkstemp", refuse)
    monkeypatch.setattr(home.tempfile, "mkdtemp", refuse)
    for write in (
        store.check_writable,
        lambda: store.save(RUNS[0], [], {"users": np.arange(3)}),
        lambda: failures.write("a", spec(), "reason", None),
    ):
        with pytest.raises(StoreError, match=os.strerror(number)) as caught:
            write()
        assert "DSLBENCH_HOME" in (caught.value.hint or "")


def test_other_errors_of_the_disk_stay_what_they_are() -> None:
    with pytest.raises(OSError, match="strange"), home.storing("x", home.home()):
        raise OSError(errno.EIO, "strange")
    assert issubclass(StoreError, DslbenchError)
