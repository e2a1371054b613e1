"""The run store: a directory `runs/<id>/` for each run, put in place whole.

It holds run.json (the record), history.json, users.npz (values per user) and model.safetensors.

Records can be copied between machines and merged by copying folders. Reading never fails because
of one bad folder: it is reported and left out.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dslbench import home, paths
from dslbench.errors import RunError
from dslbench.output import warn_once
from dslbench.runs import failures
from dslbench.runs.checks import (
    NewerRecordError,
    check_values,
    read_history,
    read_per_user,
    read_record,
)
from dslbench.runs.record import FORMAT

__all__ = ["FORMAT"]
FILES = ("run.json", "history.json", "users.npz", "model.safetensors")


def folder(run_id: str) -> Path:
    """Where a run is kept."""
    return home.runs_dir() / run_id


def save(
    record: Mapping[str, Any],
    history: list[dict[str, Any]],
    users: Mapping[str, npt.NDArray[Any]],
    model: bytes | None = None,
) -> None:
    """Store a finished run; readers see all of it or nothing.

    Raises `StoreError` where the disk is full or read-only, and `RunError` for a record that could
    not be read again; what was stored before stays.
    """
    try:
        check_values(record)
    except ValueError as error:
        raise RunError(
            f"the record of run {record['id']} cannot be stored: it {error}",
            "settings (--set) nearer to the usual ones: dslbench list settings",
        ) from None
    values = io.BytesIO()
    np.savez_compressed(values, **dict(users))  # type: ignore[arg-type]
    files = {
        "users.npz": values.getvalue(),
        "history.json": json.dumps(history, indent=1).encode(),
        "run.json": json.dumps(record, indent=1, allow_nan=False).encode(),
    }
    put(record["id"], files | ({} if model is None else {"model.safetensors": model}))


def change(record: Mapping[str, Any], users: Mapping[str, npt.NDArray[Any]]) -> None:
    """Replace a stored run's record and values by user; its other files stay as they are.

    Raises as `save` does. For the holder of the run's claim.
    """
    values = io.BytesIO()
    np.savez_compressed(values, **dict(users))  # type: ignore[arg-type]
    with home.storing(f"run {record['id']}", home.runs_dir(), len(values.getvalue())):
        home.write_atomic(folder(record["id"]) / "users.npz", values.getvalue())
        _replace(record)


def lies_at(run_id: str, dataset: str, name: str) -> None:
    """Note where the data of a stored run were found now, and their name there.

    Data of one's own may be moved, or copied, and are the same. Raises as `save` does. For the holder of the
    run's claim.
    """
    record = read(run_id)
    spec, data = record["spec"] | {"dataset": dataset}, record["data"] | {"name": name}
    with home.storing(f"run {run_id}", home.runs_dir(), 1):
        _replace(record | {"spec": spec, "data": data})


def _replace(record: Mapping[str, Any]) -> None:
    text = json.dumps(record, indent=1, allow_nan=False)
    home.write_atomic(folder(record["id"]) / "run.json", text.encode())


def put(run_id: str, files: Mapping[str, bytes]) -> None:
    """Store the files of a finished run; raises as `save` does."""
    needed = sum(map(len, files.values()))
    with (
        home.storing(f"run {run_id}", home.runs_dir(), needed),
        home.staged_folder(folder(run_id)) as staging,
    ):
        for name, content in files.items():
            with (staging / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
    failures.clear(run_id)


def remove_remains(run_id: str) -> None:
    """Delete what processes that were killed while making the run left beside it, and old logs.

    For the holder of the run's claim: what nobody else may be writing.
    """
    for path in home.runs_dir().glob(f".{run_id}.*"):
        shutil.rmtree(path, ignore_errors=True)
    for path in log(run_id).parent.glob(f"{run_id}.*"):
        with contextlib.suppress(OSError):
            path.unlink()


def put_back_replaced() -> None:
    """Put back runs whose replacement was broken off between moving the old aside and the new in."""
    for old in home.runs_dir().glob(".*.old.*/replaced"):
        target = folder(old.parent.name.split(".")[1])
        if not target.exists():
            with contextlib.suppress(OSError):
                old.rename(target)
                old.parent.rmdir()


def log(run_id: str) -> Path:
    """Where this process keeps what the worker of a run says; another may be making the same run."""
    return home.runs_dir() / ".logs" / f"{run_id}.{os.getpid()}.log"


def files_of(run_id: str) -> dict[str, bytes]:
    """The content of a stored run's files by name."""
    return {name: path.read_bytes() for name in FILES if (path := folder(run_id) / name).is_file()}


def check_writable() -> None:
    """Raise `StoreError` where nothing can be stored: better before a training than after it."""
    with home.storing("runs", home.runs_dir(), 1):
        home.write_atomic(home.runs_dir() / ".write-test", b"")
        (home.runs_dir() / ".write-test").unlink(missing_ok=True)


def stamp(run_id: str) -> tuple[int, ...] | None:
    """Changes when a run is stored (again); None where there is none."""
    try:
        found = (folder(run_id) / "run.json").stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def model_bytes(run_id: str) -> bytes:
    """The packed model of a stored run; raises `RunError` where it was not kept."""
    path = folder(run_id) / "model.safetensors"
    try:
        return paths.read_bytes(path)
    except OSError as error:
        raise RunError(
            f"{path} cannot be read: {error.strerror or error}", "train again with --fresh"
        ) from None


def has_model(run_id: str) -> bool:
    """Whether something is there as a run's packed model, be it damaged."""
    return paths.kind(folder(run_id) / "model.safetensors") != "nothing"


def history(run_id: str) -> list[dict[str, Any]] | None:
    """A row per epoch of a stored run; None where they were not kept, or are damaged (reported)."""
    path = folder(run_id) / "history.json"
    if not path.exists():
        return None
    try:
        return read_history(path)
    except ValueError as error:
        warn_once(f"{error}; left out")
        return None


def per_user(run_id: str) -> dict[str, npt.NDArray[Any]] | None:
    """`users` (ids) and values per user of each metric; None where not kept, or damaged (reported)."""
    path = folder(run_id) / "users.npz"
    if not path.exists():
        return None
    try:
        return read_per_user(path)
    except ValueError as error:
        warn_once(f"{error}; left out")
        return None


def read(run_id: str) -> dict[str, Any]:
    """A stored record; raises `ValueError` in one line when it is damaged or not one of ours."""
    path = folder(run_id) / "run.json"
    record = read_record(path)
    if record["id"] != run_id:
        raise ValueError(f"{path}: a copy of run {record['id']}, under another name")
    return record


def has(run_id: str, warn: Callable[[str], None]) -> bool:
    """Whether a run is stored and readable; a damaged one counts as missing, and is reported.

    Raises `RunError` for a run that a newer version stored: it is not replaced unasked.
    """
    if not (folder(run_id) / "run.json").exists():
        return False
    try:
        read(run_id)
    except NewerRecordError as error:
        raise RunError(
            str(error), "install that version, or replace the run with --force"
        ) from None
    except ValueError as error:
        warn(f"{error}; the run will be made again")
        return False
    return True


def read_all(warn: Callable[[str], None]) -> list[dict[str, Any]]:
    """All readable records, oldest first; each unreadable one is reported through `warn`."""
    root = home.runs_dir()
    found = []
    if root.is_dir():
        for path in sorted(root.iterdir()):
            if path.name.startswith(".") or not path.is_dir():
                continue
            try:
                found.append(read(path.name))
            except ValueError as error:
                warn(f"{error}; left out")
    return sorted(found, key=lambda record: str(record.get("finished")))
