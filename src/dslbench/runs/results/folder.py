"""The folder of published runs: `DATASET/ID.json` each, and `index.json` with a digest over all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, StrictStr

from dslbench import paths
from dslbench.errors import DataError
from dslbench.output import put
from dslbench.runs.checks import check_shape, read_json
from dslbench.runs.results.submission import MOST_BYTES, as_record, read, text_of

INDEX = "index.json"


class Index(BaseModel):
    """What the folder consists of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1]
    digest: StrictStr  # sha256 over the lines "PATH SHA256"
    files: dict[StrictStr, StrictStr]  # sha256 by path, sorted


def files(folder: Path) -> list[str]:
    """Paths of the folder's files of records, sorted; what is hidden or no .json is none.

    Raises `DataError` where it is no folder.
    """
    if paths.kind(folder) != "folder":
        raise DataError(
            f"{folder} is no folder of records", "dslbench results add --dataset toy --to results"
        )
    found = (path.relative_to(folder) for path in folder.rglob("*.json"))
    kept = [path for path in found if not any(part.startswith(".") for part in path.parts)]
    return sorted(path.as_posix() for path in kept if path.as_posix() != INDEX)


def sha256(path: Path) -> str:
    """Of a file's bytes; raises `OSError`."""
    content = paths.read_bytes(path, MOST_BYTES + 1)  # a longer one is refused before it is read
    return hashlib.sha256(content).hexdigest()


def digest_of(digests: Mapping[str, str]) -> str:
    """The digest over all files."""
    lines = "".join(f"{path} {digests[path]}\n" for path in sorted(digests))
    return hashlib.sha256(lines.encode()).hexdigest()


def read_index(folder: Path) -> dict[str, str]:
    """The sha256 of each file; raises `ValueError` where the index is missing or damaged."""
    path = folder / INDEX
    found = read_json(path)
    check_shape(path, Index, found)
    known: dict[str, str] = found["files"]
    if found["digest"] != digest_of(known):
        raise ValueError(f"{path}: its digest is not that of its lines")
    return known


def write_index(folder: Path) -> str:
    """Write the index of what lies in the folder; returns the digest over all."""
    known = {path: sha256(folder / path) for path in files(folder)}
    digest = digest_of(known)
    index = {"format": 1, "digest": digest, "files": known}
    put(folder / INDEX, (json.dumps(index, indent=1, ensure_ascii=False) + "\n").encode())
    return digest


def place(found: Mapping[str, Any]) -> str:
    """Where in the folder a published run belongs."""
    return f"{found['record']['spec']['dataset']}/{found['record']['id']}.json"


def write(folder: Path, found: Mapping[str, Any]) -> str:
    """Write a published run; returns its path in the folder. Raises `UsageError` where that cannot be."""
    path = place(found)
    put(folder / path, text_of(found).encode())
    return path


def records(folder: Path, warn: Callable[[str], None]) -> list[dict[str, Any]]:
    """All readable records, for tables; others are reported through `warn`, as are files that changed.

    Raises `DataError` where the folder has none.
    """
    found = list(_readable(folder, warn))
    if not found:
        raise DataError(
            f"no records in {folder}", f"dslbench results add --dataset toy --to {folder}"
        )
    return sorted(found, key=lambda record: (str(record.get("finished")), str(record["id"])))


def _readable(folder: Path, warn: Callable[[str], None]) -> Iterable[dict[str, Any]]:
    names = files(folder)
    try:
        known = read_index(folder) if names else {}
    except ValueError as error:
        warn(f"{error}; dslbench results check {folder} says what is wrong")
        known = None
    for name in names:
        try:
            found = read(folder / name)
            if known is not None and known.get(name) != sha256(folder / name):
                raise ValueError(f"{folder / name}: not the file that the index was made of")
        except ValueError as error:
            warn(f"{error}; left out")
        else:
            yield as_record(found)
