"""Quality and cost of a model as it is stored: its file read back, its tables served as they lie there."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch

from dslbench import artefact
from dslbench.artefact import StoredModel
from dslbench.cost import counted, measured
from dslbench.errors import RunError, UsageError, reason_of
from dslbench.evaluation.evaluate import Evaluation
from dslbench.evaluation.metrics import SELECTION
from dslbench.runs import store
from dslbench.runs.assemble import data_of, make_lab, rounded, served, table_bytes
from dslbench.runs.record import USUAL, StoredForm
from dslbench.spec import RunSpec
from dslbench.training.lab import Lab

# A run is judged at the usual precisions, too, where that takes so many seconds at most, or this share of its
# training.
CHEAP_SECONDS, CHEAP_SHARE = 5.0, 0.1


@dataclass(frozen=True)
class Judged:
    """What came out.

    Attributes:
        result: quality on the part that the run is judged on.
        test_seconds: of that ranking.
        infer_macs: MACs of scoring all items for all users once.
        infer_users: how many users these were counted on.
        latency: seconds of a top 20, by number of users; None for a trial.
    """

    result: Evaluation
    test_seconds: float
    infer_macs: int
    infer_users: int
    latency: dict[str, dict[str, float] | None] | None


@dataclass(frozen=True)
class Rounded:
    """A run's model at one precision.

    Attributes:
        row: an entry of the record's `stored`.
        result: quality on test; None where the values could not be rounded.
    """

    row: dict[str, Any]
    result: Evaluation | None


def judge(content: bytes, lab: Lab, part: str) -> Judged:
    """Judge a model file on "test", or that of a trial on "valid"."""
    model = served(artefact.from_bytes(content), lab)
    began = time.perf_counter()
    result = lab.evaluate(model, part)
    seconds = time.perf_counter() - began
    model.eval()
    macs, users = counted.full_ranking(model, lab.data.n_users, lab.data.n_items)
    latency: Any = None
    if part == "test":
        latency = measured.top_k_latency(model, lab.data.seen_before_test)
    return Judged(result, seconds, macs, users, latency)


def is_cheap(test_seconds: float, train_seconds: float) -> bool:
    """Whether rankings at the usual precisions are cheap beside the training."""
    return len(USUAL) * test_seconds <= max(CHEAP_SECONDS, CHEAP_SHARE * train_seconds)


def judge_rounded(
    packed: StoredModel, budget: Mapping[str, Any], precisions: Sequence[str], lab: Lab
) -> list[Rounded]:
    """The model at each precision: bytes of its tables of users and items, and quality from its file.

    Args:
        budget: that section of the run's record.
    """
    found = []
    for precision in precisions:
        row: dict[str, Any] = {"precision": precision}
        try:
            smaller = rounded(packed, precision, budget)
        except (ValueError, UsageError) as error:
            reason = reason_of(error)
            found.append(Rounded(row | {"bytes": None, "quality": None, "reason": reason}, None))
            continue
        model = served(artefact.from_bytes(artefact.to_bytes(smaller)), lab)
        result = lab.evaluate(model, "test")
        row["bytes"] = table_bytes(smaller, budget)
        row["quality"] = result.means | {"tied_users": result.ties}
        found.append(Rounded(row, result))
    return found


def judge_again(run_id: str, precisions: Sequence[str], device: torch.device) -> None:
    """Judge a stored run's model at more precisions, and add them to its record.

    The caller holds the run's claim. Raises `RunError` where the store has not the run's model any
    longer, or the values by user are damaged: nothing is written then.
    """
    record, users = store.read(run_id), store.per_user(run_id)
    if users is None:
        raise RunError(f"run {run_id} has no readable values by user", "--force makes it anew")
    packed, lab = _kept(record, device)
    found = judge_rounded(packed, record["budget"], precisions, lab)
    kept = [row for row in record["stored"] if row["precision"] not in precisions]
    rows = [StoredForm.model_validate(one.row).model_dump(exclude_unset=True) for one in found]
    store.change(record | {"stored": [*kept, *rows]}, users | of_users(found))


def validate(
    run_id: str, precisions: Sequence[str], device: torch.device, *, latency: bool
) -> list[dict[str, Any]]:
    """A stored run's model at precisions, on validation: what is to be chosen by has not seen test.

    Args:
        latency: whether the time of ranking is measured, too.

    Returns:
        For each precision that its values can have: `precision`, `bytes` of the tables of users and items,
        `values` of the metric that chooses, by user, and `latency`.
    """
    record = store.read(run_id)
    packed, lab = _kept(record, device)
    found = []
    for precision in precisions:
        try:
            smaller = rounded(packed, precision, record["budget"])
        except (ValueError, UsageError):
            continue
        model = served(artefact.from_bytes(artefact.to_bytes(smaller)), lab)
        values = lab.evaluate(model, "valid").values[SELECTION]
        took = measured.top_k_latency(model.eval(), lab.data.seen_before_test) if latency else None
        nbytes = table_bytes(smaller, record["budget"])
        row = {"precision": precision, "bytes": nbytes, "values": values.tolist(), "latency": took}
        found.append(row)
    return found


def _kept(record: Mapping[str, Any], device: torch.device) -> tuple[StoredModel, Lab]:
    """A stored run's model, and the lab it was trained in."""
    spec = RunSpec.of_record(record["spec"])
    lab = make_lab(spec, data_of(spec), device)
    content = store.model_bytes(record["id"])
    return artefact.from_bytes(content, f"the model of run {record['id']}"), lab


def of_users(found: Sequence[Rounded]) -> dict[str, npt.NDArray[Any]]:
    """Values by user of each precision, `METRIC|PRECISION`."""
    return {
        f"{name}|{one.row['precision']}": values
        for one in found
        if one.result is not None
        for name, values in one.result.values.items()
    }
