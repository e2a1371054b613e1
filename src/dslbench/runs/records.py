"""What lies in a run's folder, checked: files come from other machines, other versions and bad disks.

Each reader raises `ValueError` in one line that begins with the file's path.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, ValidationError

FORMAT = 2  # of run.json; raised when a reader of older records would misread newer ones
_LARGEST = 10**30  # of any number in a record, far beyond what is counted or measured
_DEEPEST = 16

Count = Annotated[StrictInt, Field(ge=0)]
Number = Annotated[float, Field(strict=True)]  # takes whole numbers, too
Amount = Annotated[float, Field(strict=True, ge=0)]
Share = Annotated[float, Field(strict=True, ge=0, le=1)]
Digest = StrictStr | None


class _Part(BaseModel):
    """What readers rely on; anything else may be there, and be missing."""

    model_config = ConfigDict(extra="allow")


class _Spec(_Part):
    dataset: StrictStr
    backbone: StrictStr
    method: StrictStr
    variant: StrictStr
    protocol: StrictStr
    preset: StrictStr
    scale: StrictStr
    sparsity: Annotated[float, Field(strict=True, ge=0, lt=1)]
    seed: Count
    epochs: Annotated[StrictInt, Field(ge=1)]
    full_epochs: Annotated[StrictInt, Field(ge=1)]
    embedding_size: Count
    layers: Count | None = None
    hyper: dict[str, Any]
    options: dict[str, Any]
    changed_hyper: dict[str, Any]
    changed_options: dict[str, Any]


class _Data(_Part):
    name: StrictStr
    users: Count
    items: Count
    train_pairs: Count
    notes: list[StrictStr]
    train_digest: Digest
    valid_digest: Digest
    test_digest: Digest


class _Selection(_Part):
    on: Literal["valid", "test"]
    epoch: Count | None = None


class _Budget(_Part):
    achieved_sparsity: Annotated[Number, Field(le=1)]
    table_params: Count
    total_params: Count | None = None
    rows: Count | None = None
    empty_rows: Count | None = None


class _CountedPhase(_Part):
    phase: StrictStr
    train_macs: Amount | None = None


class _Exact(_Part):
    train_macs: Amount | None = None
    infer_macs: Amount | None = None
    infer_users_counted: Count | None = None
    phases: list[_CountedPhase] | None = None


class _Paper(_Part):
    train_macs: Amount | None = None
    infer_macs: Amount | None = None


class _Counted(_Part):
    paper: _Paper = _Paper()
    exact: _Exact = _Exact()


class _MeasuredPhase(_Part):
    phase: StrictStr
    epochs: Amount
    steps: Amount
    train_seconds: Amount
    eval_seconds: Amount


class _Measured(_Part):
    train_seconds: Amount | None = None
    test_seconds: Amount | None = None
    peak_rss_bytes: Amount | None = None
    stored_bytes: dict[str, Amount | None] | None = None
    phases: list[_MeasuredPhase] | None = None


class _Cost(_Part):
    measured: _Measured
    counted: _Counted = _Counted()


class _Diagnostics(_Part):
    reached: StrictBool | None = None
    explorations: Count | None = None
    exact_share: StrictBool = True
    student_widths: dict[str, Count] = {}


class _Environment(_Part):
    cpu: StrictStr
    cores: Count
    device: StrictStr


class _Record(_Part):
    spec: _Spec
    data: _Data
    quality: dict[str, Number | None]
    selection: _Selection
    budget: _Budget
    cost: _Cost
    environment: _Environment
    id: StrictStr
    diagnostics: _Diagnostics | None = None
    finished: StrictStr | None = None


class _Epoch(_Part):
    phase: StrictStr
    epoch: Count
    loss: Number


def record(path: Path) -> dict[str, Any]:
    """A run's record."""
    found = _json(path)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        other = found.get("format") if isinstance(found, dict) else None
        raise ValueError(f"{path}: record format {other!r:.40}, this version reads {FORMAT}")
    if "equal_cost" in found or "relative" in found:
        raise ValueError(f"{path}: not a stored record, but one made for a table")
    _check(path, _Record, found)
    for key in ("recall@20", "ndcg@20", "hr@20"):
        if found["quality"].get(key) is None:
            raise ValueError(f"{path}: 'quality.{key}' is missing")
    for key, value in found["quality"].items():
        if key != "tied_users" and value is not None and not 0 <= value <= 1:
            raise ValueError(f"{path}: 'quality.{key}' is {value}, not between 0 and 1")
    return found


def history(path: Path) -> list[dict[str, Any]]:
    """A row per epoch."""
    found = _json(path)
    if not isinstance(found, list):
        raise ValueError(f"{path}: not a list of epochs")
    for row in found:
        _check(path, _Epoch, row)
    return found


def per_user(path: Path) -> dict[str, npt.NDArray[Any]]:
    """`users` (U,) ids, ascending, and (U,) values of each metric."""
    try:
        with np.load(path, allow_pickle=False) as kept:
            found = dict(kept)
    except Exception as error:  # of the zip, the compression or the arrays: any kind
        raise ValueError(f"{path}: cannot be read ({type(error).__name__})") from None
    users = found.get("users")
    if (
        users is None
        or users.ndim != 1
        or users.dtype.kind not in "iu"
        or (np.diff(users) <= 0).any()
    ):
        raise ValueError(f"{path}: has no users in ascending order")
    for name, values in found.items():
        if values.shape != users.shape or values.dtype.kind not in "iufb":
            raise ValueError(f"{path}: {name!r} does not have a number for each user")
        if not np.isfinite(values).all():
            raise ValueError(f"{path}: {name!r} is not a number for each user")
    return found


def _json(path: Path) -> Any:
    try:
        found = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
        _check_values(found, _DEEPEST)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a text file") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: not valid JSON ({error.msg})") from None
    except RecursionError:
        raise ValueError(f"{path}: nested too deeply, not a run record") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return found


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is not a number")


def _check_values(node: Any, depth: int) -> None:
    """What would break a table or a terminal wherever it stood."""
    if depth < 0:
        raise ValueError("nested too deeply")
    if isinstance(node, str) and not node.isprintable():
        raise ValueError("has text that cannot be printed")
    if isinstance(node, int | float) and not -_LARGEST <= node <= _LARGEST:  # NaN is neither
        raise ValueError("has a number out of range")
    if isinstance(node, Mapping):
        for key, value in node.items():
            _check_values(key, depth - 1)
            _check_values(value, depth - 1)
    if isinstance(node, list):
        for value in node:
            _check_values(value, depth - 1)


def _check(path: Path, kind: type[BaseModel], found: Any) -> None:
    try:
        kind.model_validate(found)
    except ValidationError as error:
        where = [str(part) for part in error.errors()[0]["loc"]]
        if not where:
            raise ValueError(f"{path}: not of the right shape") from None
        what = f"'{'.'.join(where)}'" if len(where) > 1 else f"section '{where[0]}'"
        raise ValueError(f"{path}: {what} is missing or damaged") from None
