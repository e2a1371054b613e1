"""The run store: a directory `runs/<id>/` for each run, put in place whole.

It holds run.json (the record), history.json, users.npz (values per user) and model.safetensors.

Records can be copied between machines and merged by copying folders. Reading never fails because
of one bad folder: it is reported and left out.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dslbench import home
from dslbench.errors import RunError

FORMAT = 2  # of run.json; raised when a reader of older records would misread newer ones
# What readers rely on; anything else may be missing.
_REQUIRED: dict[str, dict[str, type | tuple[type, ...]]] = {
    "spec": {
        "dataset": str, "backbone": str, "method": str, "variant": str, "protocol": str,
        "preset": str, "scale": str, "sparsity": (int, float), "seed": int, "epochs": int,
        "full_epochs": int, "embedding_size": int, "hyper": dict, "options": dict,
        "changed_hyper": dict, "changed_options": dict,
    },
    "data": {
        "name": str, "users": int, "items": int, "train_pairs": int, "notes": list,
        "train_digest": (str, type(None)), "valid_digest": (str, type(None)),
        "test_digest": (str, type(None)),
    },
    "quality": {"recall@20": (int, float), "ndcg@20": (int, float), "hr@20": (int, float)},
    "selection": {"on": str},
    "budget": {"achieved_sparsity": (int, float), "table_params": int},
    "cost": {"measured": dict},
    "environment": {"cpu": str, "cores": int, "device": str},
}  # fmt: skip


def folder(run_id: str) -> Path:
    """Where a run is kept."""
    return home.runs_dir() / run_id


def save(
    record: Mapping[str, Any],
    history: list[dict[str, Any]],
    users: Mapping[str, npt.NDArray[Any]],
    model: bytes | None = None,
) -> None:
    """Store a finished run; readers see all of it or nothing."""
    with home.staged_folder(folder(record["id"])) as staging:
        np.savez_compressed(staging / "users.npz", **dict(users))  # type: ignore[arg-type]
        if model is not None:
            (staging / "model.safetensors").write_bytes(model)
        (staging / "history.json").write_text(json.dumps(history, indent=1), encoding="utf-8")
        (staging / "run.json").write_text(
            json.dumps(record, indent=1, allow_nan=False), encoding="utf-8"
        )


def model_bytes(run_id: str) -> bytes:
    """The packed model of a stored run; raises `RunError` where it was not kept."""
    path = folder(run_id) / "model.safetensors"
    try:
        return path.read_bytes()
    except OSError as error:
        raise RunError(
            f"{path} cannot be read: {error.strerror or error}", "train again with --fresh"
        ) from None


def has_model(run_id: str) -> bool:
    """Whether a run's packed model is there."""
    return (folder(run_id) / "model.safetensors").exists()


def history(run_id: str) -> list[dict[str, Any]] | None:
    """A row per epoch of a stored run; None where they were not kept or can't be read."""
    try:
        rows = json.loads((folder(run_id) / "history.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return rows if isinstance(rows, list) else None


def per_user(run_id: str) -> dict[str, npt.NDArray[Any]] | None:
    """`users` (ids) and values per user of each metric; None where not kept or unreadable."""
    try:
        with np.load(folder(run_id) / "users.npz", allow_pickle=False) as kept:
            return dict(kept)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None


def read(run_id: str) -> dict[str, Any]:
    """A stored record; raises `ValueError` in one line when it is damaged or not one of ours."""
    path = folder(run_id) / "run.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a text file") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: not valid JSON ({error.msg})") from None
    except RecursionError:
        raise ValueError(f"{path}: not a run record") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        found = record.get("format") if isinstance(record, dict) else None
        raise ValueError(f"{path}: record format {found!r}, this version reads {FORMAT}")
    for section, fields in _REQUIRED.items():
        if not isinstance(record.get(section), dict):
            raise ValueError(f"{path}: section '{section}' is missing")
        for name, kind in fields.items():
            if not isinstance(record[section].get(name), kind):
                raise ValueError(f"{path}: '{section}.{name}' is missing or damaged")
    if record.get("id") != run_id:
        raise ValueError(f"{path}: a copy of run {record.get('id')}, under another name")
    return record


def has(run_id: str, warn: Callable[[str], None]) -> bool:
    """Whether a run is stored and readable; a damaged one counts as missing, and is reported."""
    if not (folder(run_id) / "run.json").exists():
        return False
    try:
        read(run_id)
    except ValueError as error:
        warn(f"{error}; the run will be made again")
        return False
    return True


def read_all(warn: Callable[[str], None]) -> list[dict[str, Any]]:
    """All readable records, oldest first; each unreadable one is reported through `warn`."""
    root = home.runs_dir()
    records = []
    if root.is_dir():
        for path in sorted(root.iterdir()):
            if path.name.startswith(".") or not path.is_dir():
                continue
            try:
                records.append(read(path.name))
            except ValueError as error:
                warn(f"{error}; left out")
    return sorted(records, key=lambda record: str(record.get("finished")))
