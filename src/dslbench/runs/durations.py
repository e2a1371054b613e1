"""How long runs will take: from what runs took before on this machine, else from a short trial."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dslbench import registry
from dslbench.cost import measured
from dslbench.errors import RunError, StoreError
from dslbench.ops.threads import thread_count
from dslbench.runs import sharing, store
from dslbench.runs.assemble import choose_device
from dslbench.runs.local import LocalExecutor, Process
from dslbench.runs.stock import WantedRun
from dslbench.spec import RunSpec

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Pace:
    """Seconds of an epoch of training, of an evaluation, and of all that comes before and after."""

    epoch: float
    evaluation: float
    beside: float

    def quieter(self, other: Pace) -> Pace:
        """The shortest of both: other work on the machine only adds to what a run takes by itself."""
        return Pace(
            min(self.epoch, other.epoch),
            min(self.evaluation, other.evaluation),
            min(self.beside, other.beside),
        )

    def seconds(self, spec: RunSpec, trainings: int) -> float:
        """Expected duration of a run of so many trainings."""
        each = self.epoch * spec.epochs + self.evaluation * evaluations(spec.hyper, spec.epochs)
        return self.beside + trainings * each


def evaluations(hyper: Mapping[str, Any], epochs: int) -> int:
    """How many times a training of so many epochs is evaluated."""
    return -(-epochs // (hyper["eval_every"] or max(1, round(epochs / 20))))


def of_record(record: Record) -> Pace | None:
    """What a stored run took for the trainings that it made itself; None where it made none."""
    spec, costs = record["spec"], record["cost"]["measured"]
    own = [p for p in costs["phases"] if p["shared_run"] is None and p["epochs"] and p["steps"]]
    if not own or costs["resumed"]:
        return None
    epochs = sum(p["epochs"] for p in own)
    ranked = [p for p in own if p["selected_epoch"] is not None]
    times = sum(evaluations(spec["hyper"], p["epochs"]) for p in ranked)
    trained, evaluated = (sum(p[f"{what}_seconds"] for p in own) for what in ("train", "eval"))
    ended, began = (datetime.fromisoformat(record[key]) for key in ("finished", "started"))
    beside = (ended - began).total_seconds() - trained - evaluated
    return Pace(trained / epochs, evaluated / max(1, times), max(0.0, beside))


class Expected:
    """Expected durations of runs on this machine.

    A run is expected to take the least that one of its method and setting took, at whatever length, sparsity
    or seed; else what a dense run of its setting took, or a trial, times how much longer its method took than
    dense on that backbone, or is said to take.

    Args:
        records: stored runs.
        device: where runs are made.
        workers: how many at once; they share the cores.
    """

    def __init__(self, records: Iterable[Record], device: str, workers: int = 1) -> None:
        self._device, self._local = device, LocalExecutor(device, workers)
        threads = self._local.environments[0].get("DSLBENCH_THREADS", thread_count())
        here = measured.environment(choose_device(device))
        self._paces: dict[tuple[str, str], Pace] = {}  # by setting, then method
        self._settings: dict[str, str] = {}  # each one's backbone
        for record in records:
            there = record["environment"]
            alike = all(there.get(key) == here[key] for key in ("cpu", "cores", "device"))
            if alike and there.get("threads") == int(threads) and (pace := of_record(record)):
                setting = _setting(record["spec"])
                at = setting, record["spec"]["method"]
                self._paces[at] = pace.quieter(self._paces.get(at, pace))
                self._settings[setting] = record["spec"]["backbone"]

    def pace(self, spec: RunSpec) -> Pace:
        """Expected pace of a run; raises `RunError` where its trial fails."""
        setting = _setting(spec.model_dump())
        if (found := self._paces.get((setting, spec.method))) is not None:
            return found
        dense = self._paces.get((setting, "dense"))
        if dense is None:
            dense = self._paces[setting, "dense"] = self._trial(spec)
        return Pace(self._relative(spec) * dense.epoch, dense.evaluation, dense.beside)

    def _relative(self, spec: RunSpec) -> float:
        """Time of the method's epoch, dense's being 1."""
        found = [
            self._paces[setting, spec.method].epoch / dense.epoch
            for setting, backbone in self._settings.items()
            if backbone == spec.backbone and (setting, spec.method) in self._paces
            if (dense := self._paces.get((setting, "dense"))) is not None and dense.epoch
        ]
        return statistics.median(found) if found else registry.method(spec.method).relative_time

    def _trial(self, spec: RunSpec) -> Pace:
        job = {"task": "probe", "spec": spec.model_dump(), "device": self._device}
        began = time.monotonic()
        trial = Process().run(job, environment=self._local.environments[0])
        start = max(0.0, time.monotonic() - began - trial["trial_seconds"])
        # At the end the stored model is judged, at usually three other precisions too.
        return Pace(
            trial["epoch_seconds"], trial["eval_seconds"], start + 4 * trial["eval_seconds"]
        )


def pace(spec: RunSpec, device: str) -> Pace | None:
    """Expected pace of a run on this machine; None where its trial fails: the run will fail, too."""
    return _pace(_expected(device), spec)


def estimate_seconds(missing: Sequence[WantedRun], device: str, workers: int = 1) -> float | None:
    """Expected duration of the missing runs on this machine.

    With several workers each has its share of the cores. None where a trial fails: the run will fail,
    too, and be noted with its reason, while others go on. References are not counted: how long these take
    nobody knows beforehand.
    """
    missing = [run for run in missing if not run.spec.is_reference]
    if not missing:
        return 0.0
    expected = _expected(device, workers)
    total = 0.0
    for run, trainings in zip(missing, sharing.left(missing), strict=True):
        found = _pace(expected, run.spec)
        if found is None:
            return None
        total += found.seconds(run.spec, trainings)
    return total / min(workers, len(missing))


def _expected(device: str, workers: int = 1) -> Expected:
    return Expected(store.read_all(lambda line: None), device, workers)


def _pace(expected: Expected, spec: RunSpec) -> Pace | None:
    try:
        return expected.pace(spec)
    except StoreError:
        raise
    except RunError:
        return None


def _setting(spec: Mapping[str, Any]) -> str:
    """What decides how long an epoch of a method takes: data and hyper-parameters."""
    parts = [spec[key] for key in ("dataset", "protocol", "backbone", "hyper")]
    return json.dumps(parts, sort_keys=True)
