"""Progress of one piece of work: a bar with the time left on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dslbench.errors import printable
from dslbench.output import console, say

_QUIET_FOR = 10.0  # seconds between lines


@contextmanager
def progress(title: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Gives a function that is told how much of `total` is done."""
    shown = console()
    if not shown.is_terminal:
        yield _Lines(title, total, unit)
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
        TextColumn(unit), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=shown, transient=True) as bars:
        task = bars.add_task(printable(title), total=total)
        yield lambda done: bars.update(task, completed=done)


class _Lines:
    def __init__(self, title: str, total: int, unit: str) -> None:
        self._title, self._total, self._unit = title, total, unit
        self._began = self._last = time.monotonic()

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        if now - self._last >= _QUIET_FOR and done:
            self._last = now
            left = (now - self._began) / done * (self._total - done)
            say(f"{self._title}: {done:,} of {self._total:,} {self._unit}, about {left:.0f} s left")
