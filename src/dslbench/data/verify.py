"""Hashes of files: md5, sha256 and git's blob id in one pass."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from dslbench.data.entries import Archive, FileSpec

_LABELS = {"md5": "md5", "sha256": "sha256", "git_blob": "git blob"}


@dataclass(frozen=True)
class Hashes:
    """Size and hashes of a file's bytes."""

    bytes: int
    md5: str
    sha256: str
    git_blob: str


def hash_file(path: Path) -> Hashes:
    """Read a file once and hash it three ways."""
    size = path.stat().st_size
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    blob = hashlib.sha1(f"blob {size}\0".encode("ascii"), usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            for hasher in (md5, sha256, blob):
                hasher.update(chunk)
    return Hashes(size, md5.hexdigest(), sha256.hexdigest(), blob.hexdigest())


def compare(spec: FileSpec | Archive, found: Hashes) -> tuple[list[str], list[str]]:
    """Which published hashes the bytes have, and a sentence for each one they have not."""
    passed: list[str] = []
    failed: list[str] = []
    for key, label in _LABELS.items():
        expected = getattr(spec, key, None)
        if expected is None:
            continue
        actual = getattr(found, key)
        if actual == expected:
            passed.append(label)
        else:
            failed.append(f"{label} is {actual}, expected {expected}")
    return passed, failed
