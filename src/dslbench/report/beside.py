"""What lies beside a record: in the store, or published with it and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dslbench import artefact
from dslbench.artefact import StoredModel
from dslbench.errors import RunError, UsageError
from dslbench.report.columns import Record
from dslbench.runs import store
from dslbench.runs.results import submission
from dslbench.runs.results.command import command_of
from dslbench.spec import RunSpec

_BESIDE = "submission"  # what `runs.results` puts beside a published record


def is_published(run: Record) -> bool:
    """Whether the record came alone: without model and values of users."""
    return _BESIDE in run


def per_user(run: Record) -> dict[str, npt.NDArray[np.generic]] | None:
    """Values by user of a run, see `store.per_user`; None of a published one."""
    return None if is_published(run) else store.per_user(run["id"])


def history(run: Record) -> list[dict[str, Any]]:
    """Epochs of a run with phase, epoch and loss; of a published one, some of them."""
    if not is_published(run):
        return store.history(run["id"]) or []
    return [
        {"phase": part["phase"], "epoch": epoch, "loss": loss}
        for part in run[_BESIDE]["curve"]
        for epoch, loss in zip(part["epoch"], part["loss"], strict=True)
    ]


def curve(run: Record) -> list[dict[str, Any]]:
    """How a run's phases went at a few epochs, see `runs.results.submission.Curve`."""
    if is_published(run):
        published: list[dict[str, Any]] = run[_BESIDE]["curve"]
        return published
    return submission.curve(store.history(run["id"]) or [])


def command(run: Record) -> str | None:
    """The command that makes a run; None where no command of today does."""
    if is_published(run):
        return str(run[_BESIDE]["command"])
    try:
        return command_for(RunSpec.of_record(run["spec"]))
    except (ValueError, KeyError):
        return None


def command_for(spec: RunSpec) -> str | None:
    """The same of a run by its setting."""
    try:
        return command_of(spec)
    except UsageError:
        return None


def has_model(run: Record) -> bool:
    """Whether something is there as the run's packed model, be it damaged."""
    return not is_published(run) and store.has_model(run["id"])


def model(run: Record) -> StoredModel:
    """The packed model of a run; raises `RunError` where it is not at hand, `DslbenchError` if damaged."""
    if is_published(run):
        raise RunError(f"run {run['id']} was published without its model", "make it again")
    return artefact.from_bytes(store.model_bytes(run["id"]), f"the model of run {run['id']}")
