"""The data sets at hand: one folder each, raw files plus `manifest.json`.

A folder is put in place whole, once its files are verified, so what is there is complete. The
manifest says what the files are, which checks they passed and when they came.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from dslbench import home, paths
from dslbench.data.entries import DatasetEntry, catalog, first_problem
from dslbench.errors import DataError

MANIFEST = "manifest.json"


class StoredFile(BaseModel):
    """A file at hand: hashes of its bytes, and the checks it passed when it came.

    `same_bytes`: whether the bytes are the published ones; None where no hash of them is known.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    role: str
    origin: str
    bytes: int
    md5: str
    sha256: str
    git_blob: str
    pairs: int | None = None
    digest: str | None = None
    checks: tuple[str, ...] = ()
    same_bytes: bool | None = None


class Manifest(BaseModel):
    """What is in a data set's folder. `requested` maps each variant asked for to when it was."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = 1
    name: str
    how: str
    time: str
    files: tuple[StoredFile, ...]
    stats: dict[str, int]
    requested: dict[str, str]
    own: DatasetEntry | None = None

    @field_validator("stats")
    @classmethod
    def _complete(cls, stats: dict[str, int]) -> dict[str, int]:
        if not {"users", "items", "interactions"} <= stats.keys():
            raise ValueError("users, items or interactions are missing")
        return stats

    @property
    def verified(self) -> bool:
        """Whether every file proved to be the published one (never so for data of one's own)."""
        return self.own is None and all(file.checks for file in self.files)

    def file(self, name: str) -> StoredFile | None:
        """The file called `name`, if it is there."""
        return next((file for file in self.files if file.name == name), None)


def now() -> str:
    """The time in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def folder(store_name: str) -> Path:
    """Where the files of a data set are or would be."""
    return home.data_dir() / store_name


def write_manifest(where: Path, manifest: Manifest) -> None:
    """Write the manifest into a data set's folder."""
    text = json.dumps(manifest.model_dump(mode="json", exclude_none=True), indent=2) + "\n"
    home.write_atomic(where / MANIFEST, text.encode())


def read_manifest(store_name: str) -> Manifest | None:
    """Manifest of a data set at hand; None where it is not there; DataError where damaged."""
    where = folder(store_name)
    try:
        text = paths.read_text(where / MANIFEST)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise _damaged(store_name, getattr(error, "strerror", None) or str(error)) from None
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        raise _damaged(store_name, first_problem(error)) from None
    for file in manifest.files:
        path = where / file.name
        size = path.stat().st_size if path.is_file() else None
        if size != file.bytes:
            found = "missing" if size is None else f"{size:,} bytes"
            raise DataError(
                f"data set '{store_name}' is damaged: {file.name} is {found},"
                f" expected {file.bytes:,} bytes",
                hint=f"dslbench download {store_name} --force",
            )
    return manifest


def _damaged(store_name: str, problem: str) -> DataError:
    return DataError(
        f"data set '{store_name}' is damaged: {MANIFEST}: {problem}",
        hint=f"dslbench download {store_name} --force",
    )


def require(entry: DatasetEntry) -> Manifest:
    """Manifest of a data set that must be at hand; DataError with the command that gets it."""
    manifest = read_manifest(entry.store_name)
    if manifest is None:
        raise DataError(
            f"data set '{entry.name}' is not on this machine",
            hint=f"dslbench download {entry.name}",
        )
    missing = [
        file.name for file in entry.files if not file.optional and manifest.file(file.name) is None
    ]
    if missing:
        raise DataError(
            f"data set '{entry.name}' is incomplete: {', '.join(missing)} is not there",
            hint=f"dslbench download {entry.name} --force",
        )
    return manifest


def mark_requested(name: str, store_name: str) -> None:
    """Note that `name` was just asked for, so that it becomes the default data set."""
    manifest = read_manifest(store_name)
    if manifest is not None:
        requested = {**manifest.requested, name: now()}
        write_manifest(folder(store_name), manifest.model_copy(update={"requested": requested}))


def stored_names() -> list[str]:
    """Names of the folders in the store, damaged ones included."""
    root = home.data_dir()
    if not root.is_dir():
        return []
    return sorted(
        path.name
        for path in root.iterdir()
        if not path.name.startswith(".")
        and paths.kind(path / MANIFEST) not in ("nothing", "folder")
    )


def own_entries() -> dict[str, DatasetEntry]:
    """Entries of the imported data of the user's own; damaged ones are left out."""
    found: dict[str, DatasetEntry] = {}
    for name in stored_names():
        if name in catalog():
            continue
        try:
            manifest = read_manifest(name)
        except DataError:
            continue
        if manifest is not None and manifest.own is not None:
            found[name] = manifest.own
    return found


def default_dataset() -> tuple[str, str]:
    """(name, why): the data set most recently downloaded, else the embedded `toy`."""
    latest: tuple[str, str] | None = None
    damaged: list[str] = []
    for store_name in stored_names():
        try:
            manifest = read_manifest(store_name)
        except DataError:
            damaged.append(store_name)  # it cannot be a default
            continue
        for name, when in (manifest.requested if manifest else {}).items():
            latest = max(latest or ("", ""), (when, name))
    if latest is None:
        name, why = "toy", "no data set is downloaded, so the embedded synthetic one is used"
    else:
        name, why = latest[1], f"'{latest[1]}' is the data set most recently downloaded"
    if damaged:
        why += f"; damaged and left out: {', '.join(damaged)}, see dslbench doctor"
        why = why.replace("no data set is downloaded", "no intact data set is at hand")
    return name, why


def summary_of(manifest: Manifest) -> dict[str, Any]:
    """Where the files came from, for the records of runs; no machine paths."""
    return {
        "how": manifest.how,
        "time": manifest.time,
        "files": {file.name: file.sha256 for file in manifest.files},
        "checks": {file.name: list(file.checks) for file in manifest.files},
        "same_bytes": all(file.same_bytes for file in manifest.files),
    }
