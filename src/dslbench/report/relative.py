"""Counted cost beside that of the dense run, and the words for runs at equal cost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from dslbench import presets, registry
from dslbench.errors import UsageError
from dslbench.ranges import ranges_of
from dslbench.report.columns import COLUMNS, Column, Record

EQUAL_COST = ["epochs", "budget_share"]  # columns that such a comparison has beside the usual ones
USERS_COUNTED = Column(
    "Users counted",
    ("cost", "counted", "exact", "infer_users_counted"),
    None,
    "counted",
    "{:.0f}".format,
)


def with_ratios(records: Sequence[Record]) -> list[Record]:
    """The records of one setting, each with its training MACs relative to its seed's dense run.

    The ratio is null where either is not known.
    """
    column = COLUMNS["exact_train_macs"]
    dense = {r["spec"]["seed"]: column.value(r) for r in records if r["spec"]["method"] == "dense"}

    def ratio(record: Record) -> float | None:
        own, whole = column.value(record), dense.get(record["spec"]["seed"])
        return None if own is None or not whole else own / whole

    return [{**r, "relative": {"train_macs": ratio(r)}} for r in records]


def without_epochs(spec: Record) -> dict[str, Any]:
    """A run's setting but for its epochs and what follows them."""
    try:
        follows = registry.backbone(spec["backbone"]).hyper_type.follows_epochs
    except UsageError:
        follows = ()
    hyper = {key: value for key, value in spec["hyper"].items() if key not in follows}
    return {**spec, "epochs": None, "hyper": hyper}


def is_equal_cost(record: Record) -> bool:
    """Whether the run's epochs were chosen for equal training MACs."""
    return "equal_cost" in record


def mac_notes(records: Sequence[Record]) -> list[str]:
    """What the exact MACs are, and the budget of an equal-cost comparison."""
    if all(COLUMNS["exact_train_macs"].value(r) is None for r in records):
        return []
    lines = [
        "Exact MACs: multiply-accumulates with realised non-zeros; training is forward and backward "
        "of all phases, inference one scoring of all items for all users."
    ]
    if any(
        r["spec"]["backbone"] == "lightgcn" and r["budget"]["achieved_sparsity"] for r in records
    ):
        lines.append(
            "Why the paper's savings on LightGCN are larger: its formula makes all layers but one "
            "sparse, but only the first of L reads the sparse table. Full ranking scores all items "
            "with propagated rows, which are dense, so that there is next to nothing to save."
        )
    sampled = [
        (users, record["data"]["users"])
        for record in records
        if (users := USERS_COUNTED.value(record)) and users < record["data"]["users"]
    ]
    for all_ in dict.fromkeys(all_ for _, all_ in sampled):
        counted = sorted({round(few) for few, whole in sampled if whole == all_})
        few = f"{counted[0]}" + (f" to {counted[-1]}" if len(counted) > 1 else "")
        lines.append(
            f"Inference MACs are extrapolated from {few} evenly spaced ones of {all_:,} users."
        )
    reached = {
        f"{r['spec']['method']} {r['equal_cost']['share']:.1%}": None
        for r in records
        if is_equal_cost(r)
    }
    if reached:
        budget = next(r["equal_cost"]["budget_macs"] for r in records if is_equal_cost(r))
        lines.append(
            f"Equal training MACs: budget {budget:.3e}, that of the costliest run at equal epochs; "
            f"epochs are scaled and rounded. Reached: {', '.join(reached)}."
        )
    return lines


def _tuned(backbone: str) -> set[str]:
    """Hyper-parameters that are searched."""
    try:
        return set(ranges_of(registry.backbone(backbone).hyper_type))
    except UsageError:
        return set()


def setting_of(record: Record) -> str:
    """What runs must share to stand in one table: all but method, variant, sparsity and seed.

    A reference has the setting that it stands beside (`report.references`), else that of its data.
    """
    if "beside" in record:
        return str(record["beside"])
    own = without_epochs(record["spec"]) if is_equal_cost(record) else record["spec"]
    spec = {k: own.get(k) for k in (
        "dataset", "backbone", "preset", "hyper", "epochs", "full_epochs", "protocol"
    )}  # fmt: skip
    if presets.is_file(own["preset"]):  # what was tuned may differ from method to method
        spec["hyper"] = {k: v for k, v in own["hyper"].items() if k not in _tuned(own["backbone"])}
    else:
        spec["preset"] = presets.of_identity(own["preset"])
    return json.dumps([spec, _digests(record)], sort_keys=True)


def data_of(record: Record) -> str:
    """The data and how they are split: what a reference shares with the runs that it stands beside."""
    spec = record["spec"]
    return json.dumps([spec["dataset"], spec["protocol"], _digests(record)], sort_keys=True)


def _digests(record: Record) -> dict[str, Any]:
    return {k: v for k, v in record["data"].items() if k.endswith("_digest") and v is not None}
