"""What is shown while runs are made: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from dslbench.evaluation.metrics import METRICS, SELECTION
from dslbench.runs import store
from dslbench.spec import RunSpec

Event = dict[str, Any]


# Seconds after which a log hears again of a training that goes on.
PATIENCE = 30.0


@dataclass(frozen=True)
class Part:
    """Runs as a part of something larger.

    Attributes:
        before, total: runs before these, and in all; None: nobody knows, and runs are not numbered.
        tells_test: whether what a run comes to on test may be said: not while something is to be chosen.
    """

    before: int = 0
    total: int | None = None
    tells_test: bool = True


class Quiet:
    """Progress for logs and pipes: a line where a run begins, now and then where it is, and where it ends."""

    def __init__(self, console: Console, part: Part) -> None:
        self._console, self._part, self._begun = console, part, part.before
        self._courses: dict[int, _Course] = {}

    def say(self, text: str) -> None:
        """A line beside the progress."""
        self._console.print(text, markup=False, soft_wrap=True)

    def begin(self, slot: int, spec: RunSpec) -> None:
        """A run begins."""
        self._begun += 1
        self._courses[slot] = _Course(spec)
        count = f"[{self._begun}/{self._part.total}] " if self._part.total else ""
        self.say(f"{count}{spec.title} ...")

    def event(self, slot: int, event: Event) -> None:
        """Something happened in a slot's run."""
        if event["event"] == "note":
            self.say(f"    {event['text']}")
        course = self._courses.get(slot)
        if course is not None and course.event(event) and (line := course.line(event)) is not None:
            self.say(f"    {line}")

    def end(
        self,
        slot: int | None,
        run_id: str,
        spec: RunSpec,
        failed: str | None,
        elsewhere: bool = False,
    ) -> None:
        """A run is settled: one of a slot, or one that was not begun here."""
        where = "    by another process: " if elsewhere else "    "
        self.say(where + outcome(run_id, spec, failed, tells_test=self._part.tells_test))

    def leave(self, slot: int, spec: RunSpec, why: str) -> None:
        """A slot's run is given up, and not settled."""
        self._begun -= 1
        self.say(f"    {spec.title}: {why}")


class Live(Quiet):
    """Progress for terminals: all runs, and a bar for each that is being made."""

    def __init__(self, console: Console, part: Part) -> None:
        super().__init__(console, part)
        self.bars = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(bar_width=None),
            TextColumn("{task.fields[note]}", markup=False), TimeElapsedColumn(), TimeRemainingColumn(),
            console=console, transient=True,
        )  # fmt: skip
        self._all = self.bars.add_task(
            "all runs", total=part.total, visible=part.total is not None, note=""
        )
        self._slots: dict[int, _Bar] = {}
        self._ended = part.before

    def begin(self, slot: int, spec: RunSpec) -> None:
        self._slots[slot] = _Bar(self.bars, spec)

    def event(self, slot: int, event: Event) -> None:
        super().event(slot, event)
        self._slots[slot].event(event)
        self._update()

    def end(
        self,
        slot: int | None,
        run_id: str,
        spec: RunSpec,
        failed: str | None,
        elsewhere: bool = False,
    ) -> None:
        if slot is not None:
            self.bars.remove_task(self._slots.pop(slot).task)
        self._ended += 1
        self._update()
        super().end(slot, run_id, spec, failed, elsewhere)

    def leave(self, slot: int, spec: RunSpec, why: str) -> None:
        self.bars.remove_task(self._slots.pop(slot).task)
        super().leave(slot, spec, why)

    def _update(self) -> None:
        parts = sum(bar.share for bar in self._slots.values())
        self.bars.update(self._all, completed=self._ended + parts)


class _Course:
    """How far one run has come, over its phases.

    Attributes:
        total, completed: epochs.
        note: the phase and where it is, in words.
    """

    def __init__(self, spec: RunSpec) -> None:
        self._epochs, self._said = spec.epochs, time.monotonic()
        self._start(["train"])

    def _start(self, phases: list[str]) -> None:
        self._phase, self._seen, self.note = 0, "", "starting"
        self.total, self.completed = self._epochs * len(phases), 0.0
        self._first: tuple[float, float] | None = (
            None  # when we first heard of it, and how far it was
        )

    @property
    def share(self) -> float:
        """Of the whole, from 0 to 1."""
        return min(1.0, self.completed / self.total)

    def event(self, event: Event) -> bool:
        """Take note of an event; whether the run has come further."""
        if event["event"] == "start":  # once more where the run was begun anew elsewhere
            self._start(event["phases"])
        if event["event"] not in ("step", "epoch"):
            return False
        if event["phase"] != self._seen:
            self._phase += 1 if self._seen else 0
            self._seen = event["phase"]
        done = event["done"] if event["event"] == "step" else event["epoch"]
        self.note = (
            f"{event['phase']} epoch {int(done + 0.999)}/{event['epochs']} loss {event['loss']:.4f}"
        )
        if SELECTION in event:
            self.note += f" {METRICS[SELECTION].label} {METRICS[SELECTION].show(event[SELECTION])}"
        self.completed = self._phase * self._epochs + done
        self._first = self._first or (time.monotonic(), self.completed)
        return True

    def line(self, event: Event) -> str | None:
        """For a log: where the run is and how long it will take; None: it was said not long ago.

        At an evaluation, and at any epoch where none has come for twice as long: searches have none.
        """
        now = time.monotonic()
        quiet = PATIENCE if SELECTION in event else 2 * PATIENCE
        if event["event"] != "epoch" or now - self._said < quiet or self._first is None:
            return None
        self._said = now
        began, before = self._first
        if self.completed <= before:
            return self.note
        left = (now - began) * max(0.0, self.total - self.completed) / (self.completed - before)
        return f"{self.note}, {now - began:.0f} s, about {left:.0f} s left"


class _Bar:
    """The epochs of one run on a terminal."""

    def __init__(self, bars: Progress, spec: RunSpec) -> None:
        self._bars, self._course = bars, _Course(spec)
        self.task: TaskID = bars.add_task(spec.title, total=self._course.total, note="starting")

    @property
    def share(self) -> float:
        return self._course.share

    def event(self, event: Event) -> None:
        course = self._course
        course.event(event)
        self._bars.update(
            self.task, total=course.total, completed=course.completed, note=course.note
        )


def outcome(run_id: str, spec: RunSpec, failed: str | None, *, tells_test: bool = True) -> str:
    """What became of a run, in one line.

    Args:
        tells_test: whether with its quality on test.
    """
    if failed:
        return f"{spec.title}: FAILED: {failed}"
    record = store.read(run_id)
    seconds = record["cost"]["measured"]["train_seconds"]
    if not tells_test and spec.judged_on == "test":
        return f"{spec.title}: trained {seconds:.0f} s"
    reached = METRICS[SELECTION].show(record["quality"][SELECTION])
    if spec.is_reference:
        chosen = (record.get("diagnostics") or {}).get("chosen") or {}
        at = "".join(f", {key}={value:g}" for key, value in chosen.items())
        return f"{spec.title}: {SELECTION} {reached}{at}, fitted in {seconds:.1f} s"
    on = " on validation" if spec.judged_on == "valid" else ""
    return (
        f"{spec.title}: {SELECTION} {reached}{on}, "
        f"trained {seconds:.0f} s, epoch {record['selection']['epoch']} selected"
    )


@contextmanager
def progress(console: Console, part: Part) -> Iterator[Quiet]:
    """The progress that suits the console."""
    if not console.is_terminal:
        yield Quiet(console, part)
        return
    live = Live(console, part)
    with live.bars:
        yield live
