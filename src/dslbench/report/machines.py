"""Which times may be compared: those of one processor and device, with as many threads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from dslbench.report.columns import Record

Machine = tuple[Any, ...]
_TIMES = ("train_seconds", "eval_seconds", "test_seconds", "top_k_latency", "energy_joules")


def machine_of(record: Record) -> Machine:
    """Processor, cores, device and threads of a run."""
    environment = record["environment"]
    return tuple(environment.get(key) for key in ("cpu", "cores", "device", "threads"))


def with_comparable_times(records: Sequence[Record]) -> list[Record]:
    """The runs of one setting; times of others than the reference's machine are taken out, and marked.

    The reference is where most of the dense runs were made, or most runs where there is none dense.
    """
    if len({machine_of(r) for r in records}) < 2:
        return list(records)
    dense = [r for r in records if r["spec"]["method"] == "dense"]
    machines = Counter(map(machine_of, dense or records))
    reference = machines.most_common(1)[0][0]
    return [r if machine_of(r) == reference else _without_times(r, reference) for r in records]


def _without_times(record: Record, reference: Machine) -> Record:
    measured = {**record["cost"]["measured"], **dict.fromkeys(_TIMES)}
    cost = {**record["cost"], "measured": measured}
    return {**record, "cost": cost, "times_left_out": list(reference)}


def describe(machine: Sequence[Any]) -> str:
    """A machine in words."""
    cpu, cores, device, threads = machine
    used = f", {threads} used" if threads is not None else ""
    return f"{cpu}, {cores} cores{used}, {device}"
