"""Quality and cost of a model as it is stored: its file read back, its tables served as they lie there."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from dslbench import artefact
from dslbench.cost import counted, measured
from dslbench.evaluation.evaluate import Evaluation
from dslbench.runs.assemble import served
from dslbench.training.lab import Lab


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
