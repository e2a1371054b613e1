"""Runs that came to no end: why, in `runs/.failed/<id>.json`, until the run is made."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from dslbench import home, paths
from dslbench.errors import harmless
from dslbench.spec import RunSpec


def _one_line(text: str) -> str:
    if not harmless(text):
        raise ValueError("not a line of text")
    return text


class Failure(BaseModel):
    """A run that failed: `reason` is the error's one line, `hint` what to try, `time` in UTC.

    `bill` has what one cost that diverged, which is a result; None: it failed otherwise, or nobody knows.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    spec: RunSpec
    reason: Annotated[str, AfterValidator(_one_line)]
    hint: Annotated[str | None, AfterValidator(lambda text: text and _one_line(text))] = None
    time: Annotated[str, AfterValidator(_one_line)]
    bill: dict[str, float] | None = None


def folder() -> Path:
    """Where failures are kept."""
    return home.runs_dir() / ".failed"


def write(
    run_id: str, spec: RunSpec, reason: str, hint: str | None, bill: dict[str, float] | None = None
) -> None:
    """Note that a run failed; raises `OSError` or `StoreError` where that cannot be written."""
    now = datetime.now(UTC).isoformat(timespec="microseconds")
    lines = [
        text and "".join(c if c.isprintable() else " " for c in text) for text in (reason, hint)
    ]
    failure = Failure(
        id=run_id, spec=spec, reason=lines[0] or "", hint=lines[1], time=now, bill=bill
    )
    content = failure.model_dump_json(indent=1).encode()
    with home.storing(f"the failure of run {run_id}", folder(), len(content)):
        home.write_atomic(folder() / f"{run_id}.json", content)


def clear(run_id: str) -> None:
    """Forget a failure, as the run is made."""
    with contextlib.suppress(OSError):
        (folder() / f"{run_id}.json").unlink(missing_ok=True)


def read(run_id: str) -> Failure | None:
    """Why a run failed; None where it did not. Raises `ValueError` in one line where that is damaged."""
    path = folder() / f"{run_id}.json"
    try:
        failure = Failure.model_validate_json(paths.read_bytes(path))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except ValidationError as error:
        raise ValueError(
            f"{path}: not a failed run's reason ({error.errors()[0]['type']})"
        ) from None
    if not harmless(failure.spec.title):
        raise ValueError(f"{path}: has text that cannot be printed")
    if failure.id != run_id:
        raise ValueError(f"{path}: belongs to run {failure.id!r}")
    return failure


def read_or_none(run_id: str) -> Failure | None:
    """Why a run failed, where that can be read."""
    try:
        return read(run_id)
    except ValueError:
        return None


def time_of(run_id: str) -> str | None:
    """When a run failed; None where it did not."""
    failure = read_or_none(run_id)
    return failure.time if failure else None


def read_all(warn: Callable[[str], None]) -> list[Failure]:
    """All failures, oldest first; each damaged one is reported."""
    found = []
    for path in sorted(folder().glob("*.json")) if folder().is_dir() else ():
        try:
            failure = read(path.stem)
        except ValueError as error:
            warn(f"{error}; left out")
            continue
        if failure is not None:
            found.append(failure)
    return sorted(found, key=lambda failure: failure.time)


def footer(records: Sequence[Mapping[str, Any]], known: Sequence[Failure]) -> list[str]:
    """Lines below a table of these records: what failed with their settings, of equal length."""
    settings = [
        [r["spec"].get(key) for key in ("dataset", "backbone", "protocol", "epochs", "hyper")]
        for r in records
    ]
    return [
        f"Failed, so not above: {f.spec.title} ({f.reason})."
        for f in known
        if f.spec.judged_on == "test"
        and [f.spec.dataset, f.spec.backbone, f.spec.protocol, f.spec.epochs, f.spec.hyper]
        in settings
    ]
