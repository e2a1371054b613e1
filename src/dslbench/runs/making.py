"""Make what is missing of a plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Console

from dslbench.runs import sharing
from dslbench.runs.claims import Claims
from dslbench.runs.durations import estimate_seconds
from dslbench.runs.local import Executor
from dslbench.runs.progress import Part, progress
from dslbench.runs.schedule import Schedule
from dslbench.runs.stock import WantedRun

__all__ = ["estimate_seconds", "make_missing"]


def make_missing(
    missing: Sequence[WantedRun],
    open_executor: Callable[[], Executor],
    console: Console,
    warn: Callable[[str], None],
    part: Part | None = None,
) -> list[str]:
    """Make the runs; returns one line for each that failed. See `Schedule.run`.

    Args:
        part: what they are of; None: they are all.
    """
    if not missing:
        return []
    for run in missing:
        if run.fresh:
            sharing.remove(run.shares)
    executor = open_executor()
    try:
        of = part or Part(total=len(missing))
        with Claims(warn) as claims, progress(console, of) as show:
            return Schedule(missing, executor, claims, show, warn).run()
    finally:
        executor.close()
