"""Whether a file is the published one: by its bytes, or by the pairs it holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dslbench.data import reading
from dslbench.data.entries import DatasetEntry, FileSpec
from dslbench.data.interactions import digest
from dslbench.data.library import StoredFile
from dslbench.data.published import canonical
from dslbench.data.verify import compare, hash_file
from dslbench.errors import DataError


def accept(
    entry: DatasetEntry, spec: FileSpec, path: Path, origin: str, vouched: Sequence[str] = ()
) -> StoredFile:
    """Check one file; returns what the manifest keeps of it. Raises DataError when it is wrong.

    `vouched` are checks that the archive it came from has passed.

    Bytes that differ from the published ones are accepted where the pairs have the published
    digest: the same data, written in another order.
    """
    try:
        hashes = hash_file(path)
    except OSError as error:
        raise DataError(f"{path.name} cannot be read: {error.strerror or error}") from None
    passed, failed = compare(spec, hashes)
    passed = [*vouched, *passed]
    shown = Path(origin).name
    stored = StoredFile(
        name=spec.name,
        role=spec.role,
        origin=origin,
        bytes=hashes.bytes,
        md5=hashes.md5,
        sha256=hashes.sha256,
        git_blob=hashes.git_blob,
        same_bytes=False if failed else True if passed else None,
    )
    if not spec.holds_pairs:
        if failed:
            raise DataError(f"{shown} is not {entry.store_name}'s {spec.name}: {failed[0]}")
        return stored.model_copy(update={"checks": tuple(passed)})
    bytes_wrong = f" ({failed[0]})" if failed else ""
    try:
        raw = replace(reading.read(path, entry), name=shown)
        matrix = canonical(entry, spec, raw)
    except DataError as error:
        message = (
            error.message.replace(path.name, shown, 1) if path.name != shown else error.message
        )
        raise DataError(message + bytes_wrong, hint=_hint(entry)) from None
    if spec.pairs is not None and matrix.nnz != spec.pairs:
        raise DataError(
            f"{shown} is not {entry.store_name}'s {spec.name}: expected {spec.pairs:,} pairs,"
            f" found {matrix.nnz:,}{raw.cut_note}{bytes_wrong}",
            hint=_hint(entry),
        )
    found = digest(matrix)
    if spec.digest is not None and found == spec.digest:
        passed.append("digest")
    elif spec.digest is not None or failed:
        problems = failed
        if spec.digest is not None:
            problems = [*failed, f"digest of the pairs is {found}, expected {spec.digest}"]
        raise DataError(
            f"{shown} is not {entry.store_name}'s {spec.name}: {'; '.join(problems)}",
            hint=_hint(entry),
        )
    # with the bytes proven wrong only the digest speaks for the file
    checks = tuple(passed) if not failed else ("digest",)
    return stored.model_copy(update={"checks": checks, "pairs": matrix.nnz, "digest": found})


def _hint(entry: DatasetEntry) -> str | None:
    if entry.own:
        return None
    return f"as data of your own, under another name: dslbench download my-{entry.name} --from PATH"
