"""What lies in a run's folder, checked: files come from other machines, other versions and bad disks.

Each reader raises `ValueError` in one line that begins with the file's path.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, StrictStr, ValidationError

from dslbench import paths
from dslbench.data.arrays import read_npz
from dslbench.errors import harmless
from dslbench.evaluation.metrics import METRICS, in_group
from dslbench.output import warn_once
from dslbench.runs.record import FORMAT, Count, Number, Part, Record

_READABLE = (2, FORMAT)  # 2 lacks versions and bytes
_LARGEST = 10**30  # of any number in a record, far beyond what is counted or measured
_DEEPEST = 16
_MOST_BYTES = 2**31  # of all values per user: a million users of 30 metrics have 0.2 of that


class _Epoch(Part):
    phase: StrictStr
    epoch: Count
    loss: Number


class NewerRecordError(ValueError):
    """A record of a later version, which is not ours to replace."""


def read_record(path: Path) -> dict[str, Any]:
    """A run's record."""
    return check_record(path, read_json(path))


def check_record(path: Path, found: Any) -> dict[str, Any]:
    """What a file holds, as a run's record; `path` names the file in errors."""
    if not isinstance(found, dict) or found.get("format") not in _READABLE:
        other = found.get("format") if isinstance(found, dict) else None
        text = f"{path}: record format {other!r:.40}, this version reads {_READABLE[0]} to {FORMAT}"
        if isinstance(other, int) and other > FORMAT:
            raise NewerRecordError(f"{text}; a newer dslbench wrote it")
        raise ValueError(text)
    if "equal_cost" in found or "relative" in found:
        raise ValueError(f"{path}: not a stored record, but one made for a table")
    check_shape(path, Record, found)
    for key in in_group("quality"):
        if found["quality"].get(key) is None:
            raise ValueError(f"{path}: 'quality.{key}' is missing")
    strange = sorted(key for key in found["quality"] if key not in METRICS and key != "tied_users")
    if strange:
        warn_once(f"{path}: this version does not know the metric '{strange[0]}'; it is not shown")
    for key, value in found["quality"].items():
        least, most = METRICS[key].range if key in METRICS else (-math.inf, math.inf)
        if value is not None and not least <= value <= most:
            raise ValueError(
                f"{path}: 'quality.{key}' is {value}, not between {least:g} and {most:g}"
            )
    return found


def read_history(path: Path) -> list[dict[str, Any]]:
    """A row per epoch."""
    found = read_json(path)
    if not isinstance(found, list):
        raise ValueError(f"{path}: not a list of epochs")
    for row in found:
        check_shape(path, _Epoch, row)
    return found


def read_per_user(path: Path) -> dict[str, npt.NDArray[Any]]:
    """`users` (U,) ids, ascending, and (U,) values of each metric."""
    try:
        with np.load(read_npz(path, _MOST_BYTES), allow_pickle=False) as kept:
            found = dict(kept)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from None
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


def read_json(path: Path, most: int | None = None) -> Any:
    """A file's values, all of them harmless; one of more than `most` bytes is not read."""
    try:
        if most is not None and len(paths.read_bytes(path, most + 1)) > most:
            raise ValueError(f"more than {most >> 10} KiB, not a record")
        found = json.loads(paths.read_text(path), parse_constant=_no_number)
        check_values(found)
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


def check_values(node: Any, depth: int = _DEEPEST) -> None:
    """Raise `ValueError` for what would break a table or a terminal wherever it stood."""
    if depth < 0:
        raise ValueError("nested too deeply")
    if isinstance(node, str) and not harmless(node):
        raise ValueError("has text that cannot be printed")
    if isinstance(node, int | float) and not -_LARGEST <= node <= _LARGEST:  # NaN is neither
        raise ValueError("has a number out of range")
    if isinstance(node, Mapping):
        for key, value in node.items():
            check_values(key, depth - 1)
            check_values(value, depth - 1)
    if isinstance(node, list):
        for value in node:
            check_values(value, depth - 1)


def check_shape(path: Path, kind: type[BaseModel], found: Any) -> None:
    """Raise `ValueError` where values are not those that a class describes."""
    try:
        kind.model_validate(found)
    except ValidationError as error:
        # Of a number that may be whole or not the place has its type as well.
        where = [str(part) for part in error.errors()[0]["loc"] if part not in ("int", "float")]
        if not where:
            raise ValueError(f"{path}: not of the right shape") from None
        what = f"'{'.'.join(where)}'" if len(where) > 1 else f"section '{where[0]}'"
        raise ValueError(f"{path}: {what} is missing or damaged") from None
