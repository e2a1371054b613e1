"""Make what is missing of a plan."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from rich.console import Console

from dslbench import registry
from dslbench.errors import RunError, StoreError
from dslbench.runs.claims import Claims
from dslbench.runs.local import Executor, LocalExecutor, Process
from dslbench.runs.progress import progress
from dslbench.runs.schedule import Schedule
from dslbench.runs.stock import WantedRun


def estimate_seconds(missing: Sequence[WantedRun], device: str, workers: int = 1) -> float | None:
    """Expected duration of the missing runs on this machine, from a short trial of each kind of run.

    With several workers the trial has one worker's share of the cores. None where a trial fails: the
    run will fail, too, and be noted with its reason, while others go on. References are not counted: how
    long these take nobody knows beforehand.
    """
    missing = [run for run in missing if not run.spec.is_reference]
    local = LocalExecutor(device, workers)
    known: dict[str, tuple[float, float]] = {}
    total = 0.0
    for run in missing:
        alike = json.dumps([run.spec.dataset, run.spec.backbone, run.spec.hyper], sort_keys=True)
        if alike not in known:
            job = {"task": "probe", "spec": run.spec.model_dump(), "device": device}
            try:
                trial = Process().run(job, environment=local.environments[0])
            except StoreError:
                raise
            except RunError:
                return None
            every = run.spec.hyper["eval_every"] or max(1, round(run.spec.epochs / 20))
            known[alike] = trial["epoch_seconds"], trial["eval_seconds"] / every
        train, evaluate = known[alike]
        train *= registry.method(run.spec.method).relative_time
        total += (train + evaluate) * run.spec.epochs * run.trainings
    return total / min(workers, max(1, len(missing)))


def make_missing(
    missing: Sequence[WantedRun],
    open_executor: Callable[[], Executor],
    console: Console,
    warn: Callable[[str], None],
) -> list[str]:
    """Make the runs; returns one line for each that failed. See `Schedule.run`."""
    if not missing:
        return []
    executor = open_executor()
    try:
        with Claims(warn) as claims, progress(console, len(missing)) as show:
            return Schedule(missing, executor, claims, show, warn).run()
    finally:
        executor.close()
