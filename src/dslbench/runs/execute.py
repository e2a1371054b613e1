"""Plan runs, make what is missing, one process each, and show how it goes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from dslbench import data as datasets
from dslbench import home, registry
from dslbench.errors import DataError, DslbenchError, RunError, UsageError
from dslbench.runs import store
from dslbench.spec import RunSpec

Event = dict[str, Any]


@dataclass(frozen=True)
class PlannedRun:
    """A run with its identity, and whether the store has it already.

    `asked` is false for a run that is made only because others learn from it; it comes before
    them.
    """

    spec: RunSpec
    id: str
    done: bool
    asked: bool = True

    @property
    def trainings(self) -> int:
        """Trainings of the full number of epochs that the run consists of."""
        method = registry.method(self.spec.method)
        options = method.options_type.model_validate(self.spec.options)
        return len(method.phases(options, self.spec.sparsity))


def plan(specs: Sequence[RunSpec], force: bool, warn: Callable[[str], None]) -> list[PlannedRun]:
    """Identify the runs; equal ones are planned once.

    A run that is missing and learns from a teacher is preceded by the teacher's dense run: one
    that is stored with its model stands there as done.
    """
    digests: dict[tuple[str, str], dict[str, str | None]] = {}

    def identity(spec: RunSpec) -> str:
        key = (spec.dataset, spec.protocol)
        if key not in digests:
            digests[key] = datasets.load(spec.dataset, protocol=spec.protocol).digests
        return spec.identity(digests[key])

    @cache
    def is_stored(run_id: str) -> bool:
        return store.has(run_id, warn)

    asked = {identity(spec): spec for spec in specs}
    planned: dict[str, PlannedRun] = {}
    for run_id, spec in asked.items():
        done = not force and is_stored(run_id)
        if not done and spec.teacher is not None:
            teacher = identity(spec.teacher)
            again = force and teacher in asked
            has_model = not again and is_stored(teacher) and store.has_model(teacher)
            planned[teacher] = PlannedRun(spec.teacher, teacher, has_model, teacher in asked)
        planned.setdefault(run_id, PlannedRun(spec, run_id, done))
    return list(planned.values())


def estimate_seconds(missing: Sequence[PlannedRun], device: str) -> float:
    """Expected duration of the missing runs, from a short trial of each kind of run among them."""
    known: dict[str, float] = {}
    total = 0.0
    for run in missing:
        alike = json.dumps([run.spec.dataset, run.spec.backbone, run.spec.hyper], sort_keys=True)
        if alike not in known:
            trial = _call({"task": "probe", "spec": run.spec.model_dump(), "device": device})
            every = run.spec.hyper["eval_every"] or max(1, round(run.spec.epochs / 20))
            known[alike] = trial["epoch_seconds"] + trial["eval_seconds"] / every
        total += known[alike] * run.spec.epochs * run.trainings
    return total


def execute(missing: Sequence[PlannedRun], device: str, console: Console) -> list[str]:
    """Make the runs one after the other; returns one line for each that failed.

    KeyboardInterrupt stops the run in progress; what was finished before it is stored.
    """
    failures = []
    with _progress(console, len(missing)) as show:
        for run in missing:
            show.begin(run)
            try:
                _call(
                    {"task": "run", "spec": run.spec.model_dump(), "device": device},
                    show.event,
                    log_name=run.id,
                )
            except DslbenchError as error:
                hint = f" ({error.hint})" if error.hint else ""
                failures.append(f"{run.spec.title}: {error.message}{hint}")
                show.end(run, failed=error.message)
            else:
                show.end(run)
    return failures


def _call(
    job: Event, on_event: Callable[[Event], None] = lambda event: None, log_name: str = "trial"
) -> Event:
    """Run a worker process on a job and return its last event."""
    logs = home.runs_dir() / ".logs"
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{log_name}.{os.getpid()}.log"  # another process may make the same run
    # A thread that waits for work should sleep, not spin on a core that the kernels could use.
    environment = {"OMP_WAIT_POLICY": "PASSIVE"} | os.environ
    last: Event = {}
    with log.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "dslbench.runs.worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment,
        )  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.close()
            for line in process.stdout:
                try:
                    last = json.loads(line)
                except ValueError:
                    errors.write(line)  # something a library printed
                    continue
                on_event(last)
            code = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
    if last.get("event") == "error":
        kind = {2: UsageError, 3: DataError}.get(last["code"], RunError)
        raise kind(last["message"], last["hint"])
    if code != 0:
        reason = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        raise RunError(f"the run's process ended with {reason}", f"its messages are in {log}")
    log.unlink(missing_ok=True)
    return last


class _Quiet:
    """Progress for logs and pipes: one line a run."""

    def __init__(self, console: Console, total: int) -> None:
        self._console, self._total, self._count = console, total, 0

    def begin(self, run: PlannedRun) -> None:
        self._count += 1
        self._console.print(f"[{self._count}/{self._total}] {run.spec.title} ...", markup=False)

    def event(self, event: Event) -> None:
        if event["event"] == "note":
            self._console.print(f"    {event['text']}", markup=False)

    def end(self, run: PlannedRun, failed: str | None = None) -> None:
        self._console.print(f"    {_outcome(run, failed)}", markup=False)


class _Live(_Quiet):
    """Progress for terminals: the runs, and the epochs of the run in progress."""

    def __init__(self, console: Console, total: int) -> None:
        super().__init__(console, total)
        self.bars = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=None),
            TextColumn("{task.fields[note]}"), TimeElapsedColumn(), TimeRemainingColumn(),
            console=console, transient=True,
        )  # fmt: skip
        self._all = self.bars.add_task("all runs", total=total, note="")
        self._run = self.bars.add_task("", total=1, note="")
        self._phases: list[str] = ["train"]

    def begin(self, run: PlannedRun) -> None:
        self.bars.reset(
            self._run, description=run.spec.title, total=run.spec.epochs, note="starting"
        )
        self._phase, self._epochs, self._seen = 0, run.spec.epochs, ""

    def event(self, event: Event) -> None:
        super().event(event)
        if event["event"] == "start":
            self._phases = event["phases"]
            self.bars.update(self._run, total=self._epochs * len(self._phases))
        if event["event"] not in ("step", "epoch"):
            return
        if event["phase"] != self._seen:
            self._phase += 1 if self._seen else 0
            self._seen = event["phase"]
        done = event["done"] if event["event"] == "step" else event["epoch"]
        note = (
            f"{event['phase']} epoch {int(done + 0.999)}/{event['epochs']} loss {event['loss']:.4f}"
        )
        if "recall@20" in event:
            note += f" R@20 {event['recall@20']:.4f}"
        completed = self._phase * self._epochs + done
        self.bars.update(self._run, completed=completed, note=note)
        whole = self._epochs * len(self._phases)
        self.bars.update(self._all, completed=self._count + completed / whole)

    def end(self, run: PlannedRun, failed: str | None = None) -> None:
        self._count += 1
        self.bars.update(self._all, completed=self._count)
        super().end(run, failed)


def _outcome(run: PlannedRun, failed: str | None) -> str:
    if failed:
        return f"{run.spec.title}: FAILED: {failed}"
    record = store.read(run.id)
    seconds = record["cost"]["measured"]["train_seconds"]
    return (
        f"{run.spec.title}: recall@20 {record['quality']['recall@20']:.4f}, "
        f"trained {seconds:.0f} s, epoch {record['selection']['epoch']} selected"
    )


@contextmanager
def _progress(console: Console, total: int) -> Iterator[_Quiet]:
    if not console.is_terminal:
        yield _Quiet(console, total)
        return
    live = _Live(console, total)
    with live.bars:
        yield live
