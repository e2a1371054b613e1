"""What a published run consists of: its record without the machine's details, its command, its curve."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StrictStr

from dslbench.evaluation.metrics import SELECTION
from dslbench.runs.checks import check_record, check_shape, read_json
from dslbench.runs.record import Count, Number
from dslbench.runs.results.command import command_of
from dslbench.spec import RunSpec

FORMAT = 1
MOST_BYTES = 128 << 10
_POINTS = 12  # of a phase's curve: for the eye, the run's own history has all
# Of the machine what times depend on, and the versions that numbers may depend on.
_ENVIRONMENT = (
    "cpu", "cores", "threads", "device", "dslbench", "python", "torch", "numpy", "scipy", "numba",
)  # fmt: skip
_NUMBERS = re.compile(r"\[\s+((?:[-+.\deE]+|null)(?:,\s+(?:[-+.\deE]+|null))*)\s+\]")


class Curve(BaseModel):
    """How one phase went, at some of its epochs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    phase: StrictStr = Field(description="name of the phase")
    epoch: list[Count] = Field(description="epochs, ascending")
    loss: list[Number] = Field(description="training loss of each, as the backbone defines it")
    quality: list[Number | None] = Field(
        description="Recall@20 on the part that selects; null where the epoch was not judged"
    )


class Submission(BaseModel):
    """The file of a published run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = Field(description="of this file")
    command: StrictStr = Field(description="what makes the run")
    curve: list[Curve] = Field(description="the training, a few epochs of each phase")
    record: dict[str, Any] = Field(description="the run's record")


def submission(record: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A stored run as it is published.

    Raises `UsageError` where no command of today makes the run.
    """
    command = command_of(RunSpec.of_record(record["spec"]))
    return {"format": FORMAT, "command": command, "curve": curve(history), "record": lean(record)}


def lean(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record without what only says where and when exactly the run was made."""
    kept = {k: v for k, v in record["environment"].items() if k in _ENVIRONMENT}
    found = {k: v for k, v in record.items() if k not in ("started", "finished")}
    day = {"finished": record["finished"][:10]} if record.get("finished") else {}
    return found | {"environment": kept} | day


def curve(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Loss and quality of each phase at the epochs that were judged, and at some others."""
    phases: dict[str, list[Mapping[str, Any]]] = {}
    for row in history:
        phases.setdefault(row["phase"], []).append(row)
    found = []
    for phase, rows in phases.items():
        judged = [place for place, row in enumerate(rows) if row.get(SELECTION) is not None]
        kept = sorted({*_spread(judged), *_spread(range(len(rows)))})
        points = [(r["epoch"], _short(r["loss"]), _short(r.get(SELECTION)))
                  for r in (rows[place] for place in kept)]  # fmt: skip
        epoch, loss, quality = (list(values) for values in zip(*points, strict=True))
        found.append({"phase": phase, "epoch": epoch, "loss": loss, "quality": quality})
    return found


def _spread(places: Sequence[int]) -> list[int]:
    """At most `_POINTS` of the places, the first and the last among them."""
    chosen = np.linspace(0, len(places) - 1, min(_POINTS, len(places))).round()
    return [places[int(place)] for place in chosen]


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")


def text_of(found: Mapping[str, Any]) -> str:
    """The file's text: a line for each value, one for each list of numbers."""
    text = json.dumps(found, indent=1, allow_nan=False, ensure_ascii=False)
    return _NUMBERS.sub(lambda m: f"[{' '.join(m[1].split())}]", text) + "\n"


def read(path: Path) -> dict[str, Any]:
    """A published run; raises `ValueError` in one line that begins with the path."""
    found = read_json(path, MOST_BYTES)
    if isinstance(found, dict) and found.get("format") != FORMAT:
        raise ValueError(f"{path}: format {found.get('format')!r:.40}, this version reads {FORMAT}")
    check_shape(path, Submission, found)
    check_record(path, found["record"])
    for part in found["curve"]:
        if not len(part["epoch"]) == len(part["loss"]) == len(part["quality"]) > 0:
            raise ValueError(f"{path}: the curve of '{part['phase']}' has not a value each epoch")
    kept: dict[str, Any] = found
    return kept


def as_record(found: Mapping[str, Any]) -> dict[str, Any]:
    """The record for tables, with the rest of the file beside it."""
    beside = {"command": found["command"], "curve": found["curve"]}
    return {**found["record"], "submission": beside}
