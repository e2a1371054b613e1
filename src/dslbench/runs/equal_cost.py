"""Comparisons at equal training cost: each run gets the epochs that the costliest one's MACs buy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dslbench.errors import RunError

Record = dict[str, Any]


def train_macs(record: Mapping[str, Any]) -> int:
    """Exact training MACs of a run; raises `RunError` where it was made before they were counted."""
    macs = record["cost"].get("counted", {}).get("exact", {}).get("train_macs")
    if not macs:
        title = f"{record['spec']['method']}, seed {record['spec']['seed']}"
        raise RunError(
            f"the MACs of run {record['id']} ({title}) were not counted", "make it again: --force"
        )
    return int(macs)


def equal_macs(
    records: Sequence[Record], make: Callable[[list[tuple[Record, int]]], list[Record]]
) -> list[Record]:
    """Runs whose training MACs are as near as whole epochs allow to the costliest run's.

    Args:
        records: runs at equal epochs.
        make: makes runs like the given ones but for their epochs, and returns them in order.

    Returns:
        One run for each of the given ones, with `equal_cost` {budget_macs, share} beside what is
        stored; a run that has the right epochs already is used as it is.
    """
    budget = max(train_macs(record) for record in records)
    epochs = [scaled_epochs(record, budget) for record in records]
    others = [(r, e) for r, e in zip(records, epochs, strict=True) if e != r["spec"]["epochs"]]
    made = iter(make(others) if others else [])
    chosen = [
        record if wanted == record["spec"]["epochs"] else next(made)
        for record, wanted in zip(records, epochs, strict=True)
    ]
    return [
        {**record, "equal_cost": {"budget_macs": budget, "share": train_macs(record) / budget}}
        for record in chosen
    ]


def scaled_epochs(record: Mapping[str, Any], budget: int) -> int:
    """Whole epochs, at least one, at which the run's MACs come nearest to the budget."""
    return max(1, round(int(record["spec"]["epochs"]) * budget / train_macs(record)))
