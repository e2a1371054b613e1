"""Quality and cost of a model as it is stored: its file read back, its tables served as they lie there."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from dslbench import artefact
from dslbench.artefact import StoredModel
from dslbench.cost import counted, measured
from dslbench.errors import UsageError, reason_of
from dslbench.evaluation.evaluate import Evaluation
from dslbench.runs.assemble import served
from dslbench.training.lab import Lab

# A run is judged at these, too, where that takes at most so many seconds or this share of its training.
PRECISIONS = ("fp16", "int8", "int4")
CHEAP_SECONDS, CHEAP_SHARE = 5.0, 0.1


@dataclass(frozen=True)
class Judged:
    """What came out.

    Attributes:
        result: quality on test.
        test_seconds: of that ranking.
        infer_macs: MACs of scoring all items for all users once.
        infer_users: how many users these were counted on.
        latency: seconds of a top 20, by number of users.
    """

    result: Evaluation
    test_seconds: float
    infer_macs: int
    infer_users: int
    latency: dict[str, dict[str, float] | None]


@dataclass(frozen=True)
class Rounded:
    """A run's model at one precision.

    Attributes:
        row: an entry of the record's `stored`.
        result: quality on test; None where the values could not be rounded.
    """

    row: dict[str, Any]
    result: Evaluation | None


def judge(content: bytes, lab: Lab) -> Judged:
    """Judge a model file."""
    model = served(artefact.from_bytes(content), lab)
    began = time.perf_counter()
    result = lab.evaluate(model, "test")
    seconds = time.perf_counter() - began
    model.eval()
    macs, users = counted.full_ranking(model, lab.data.n_users, lab.data.n_items)
    latency: Any = measured.top_k_latency(model, lab.data.seen_before_test)
    return Judged(result, seconds, macs, users, latency)


def is_cheap(test_seconds: float, train_seconds: float) -> bool:
    """Whether rankings at the usual precisions are cheap beside the training."""
    return len(PRECISIONS) * test_seconds <= max(CHEAP_SECONDS, CHEAP_SHARE * train_seconds)


def judge_rounded(
    packed: StoredModel, names: Sequence[str], precisions: Sequence[str], lab: Lab
) -> list[Rounded]:
    """The model with its tables of these names at each precision: its bytes, and quality from its file."""
    found = []
    for precision in precisions:
        row: dict[str, Any] = {"precision": precision}
        try:
            tables = {name: packed.tables[name].rounded(precision) for name in names}
        except (ValueError, UsageError) as error:
            reason = reason_of(error)
            found.append(Rounded(row | {"bytes": None, "quality": None, "reason": reason}, None))
            continue
        smaller = replace(packed, tables={**packed.tables, **tables})
        model = served(artefact.from_bytes(artefact.to_bytes(smaller)), lab)
        result = lab.evaluate(model, "test")
        row["bytes"] = sum(table.nbytes for table in tables.values())
        row["quality"] = result.means | {"tied_users": result.ties}
        found.append(Rounded(row, result))
    return found
