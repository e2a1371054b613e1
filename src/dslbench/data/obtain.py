"""Getting a data set into the store: downloaded, or imported from what is at hand."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dslbench import home, paths
from dslbench.data import fetch, library
from dslbench.data.accept import accept
from dslbench.data.archives import extract, is_archive
from dslbench.data.entries import DatasetEntry, FileSpec
from dslbench.data.library import Manifest, StoredFile
from dslbench.data.published import publish, read_files
from dslbench.data.verify import compare, hash_file
from dslbench.errors import DataError


@dataclass(frozen=True)
class _Candidate:
    """A file that may be one of the data set's, and what to call where it came from."""

    path: Path
    origin: str
    vouched: tuple[str, ...] = ()


def download_entry(entry: DatasetEntry, advance: fetch.Advance) -> tuple[Manifest, list[str]]:
    """Download, verify and store; also warnings about optional files that could not be had."""
    warnings: list[str] = []
    files: list[StoredFile] = []
    with _staged(entry) as staging:
        for spec in entry.files:
            checked: list[StoredFile] = []

            def check(
                path: Path,
                url: str,
                vouched: Sequence[str],
                spec: FileSpec = spec,
                checked: list[StoredFile] = checked,
            ) -> None:
                checked[:] = [accept(entry, spec, path, url, vouched)]

            try:
                fetch.fetch(entry, spec, staging / spec.name, check, advance)
            except DataError as error:
                if not spec.optional:
                    raise
                warnings.append(error.message)
                continue
            files += checked
        manifest = _finish(entry, staging, files, "download")
    fetch.clear_partial(entry)
    return manifest, warnings


def import_entry(entry: DatasetEntry, source: Path) -> Manifest:
    """Take the files from a folder, a file or an archive at hand; verify and store them."""
    if (found := paths.kind(source)) in ("nothing", "other"):
        what = "does not exist" if found == "nothing" else "is not a plain file"
        raise DataError(f"{source} {what}", hint="give a folder, a file or an archive")
    files: list[StoredFile] = []
    with _staged(entry) as staging:
        unpacked = staging / "unpacked"
        unpacked.mkdir()
        candidates = _candidates(entry, source, unpacked)
        for spec in entry.files:
            candidate = candidates.get(spec.name)
            if candidate is None:
                continue
            stored = accept(entry, spec, candidate.path, candidate.origin, candidate.vouched)
            _copy(candidate.path, staging / spec.name)
            files.append(stored)
        missing = [
            spec.name for spec in entry.files if not spec.optional and spec.name not in candidates
        ]
        if missing:
            raise DataError(
                f"{source.name or source}: no {' and no '.join(missing)} found for '{entry.name}'",
                hint=f"give a folder or archive with {', '.join(_required(entry))}",
            )
        shutil.rmtree(unpacked)
        return _finish(entry, staging, files, "import")


def _required(entry: DatasetEntry) -> list[str]:
    return [spec.name for spec in entry.files if not spec.optional]


def _names(spec: FileSpec) -> tuple[str, ...]:
    return (spec.name, *spec.aliases)


def _candidates(entry: DatasetEntry, source: Path, unpacked: Path) -> dict[str, _Candidate]:
    if entry.own:
        from dslbench.data.own import describe

        _, folder = describe(source)
        return {spec.name: _Candidate(folder / spec.name, spec.name) for spec in entry.files}
    try:
        if source.is_dir():
            return _in_folder(entry, source)
        if is_archive(source):
            wanted = {spec.name: _names(spec) for spec in entry.files}
            vouched = _vouched(entry, source)
            sizes = {spec.name: fetch.most_bytes(entry, spec) for spec in entry.files}
            found = extract(source, wanted, unpacked, prefer=entry.store_name, most=sizes)
            return {
                name: _Candidate(unpacked / name, f"{source.name}/{member}", vouched)
                for name, member in found.items()
            }
        return _beside(entry, source)
    except OSError as error:
        raise DataError(f"{source} cannot be read: {error.strerror or error}") from None


def _vouched(entry: DatasetEntry, source: Path) -> tuple[str, ...]:
    """Checks that `source` passes as one of the archives published for the data set."""
    hashes = hash_file(source)
    for archive in {archive for spec in entry.files for archive in spec.archives}:
        passed, failed = compare(archive, hashes)
        if passed and not failed:
            return tuple(f"{label} of the archive" for label in passed)
    return ()


def _in_folder(entry: DatasetEntry, source: Path) -> dict[str, _Candidate]:
    """Files by their names in a folder; else one that begins alike (train.full.txt)."""
    nested = source / entry.store_name
    if nested.is_dir() and (inside := _in_folder(entry, nested)):
        return inside
    found: dict[str, _Candidate] = {}
    for spec in entry.files:
        exact = [source / name for name in _names(spec) if (source / name).is_file()]
        stem, suffix = Path(spec.name).stem, Path(spec.name).suffix
        alike = sorted(path for path in source.glob(f"{stem}*{suffix}") if path.is_file())
        if exact or len(alike) == 1:
            path = exact[0] if exact else alike[0]
            found[spec.name] = _Candidate(path, path.name)
    return found


def _beside(entry: DatasetEntry, source: Path) -> dict[str, _Candidate]:
    """A single file, and its siblings under their own names."""
    required = [spec for spec in entry.files if not spec.optional]
    chosen = next((spec for spec in entry.files if source.name in _names(spec)), None)
    if chosen is None and len(required) == 1:
        chosen = required[0]  # whatever it is called, its content decides
    if chosen is None:
        raise DataError(
            f"{source.name} is not a file of '{entry.name}' by its name",
            hint=f"expected: {', '.join(_required(entry))}",
        )
    found = _in_folder(entry, source.parent) if len(entry.files) > 1 else {}
    return {**found, chosen.name: _Candidate(source, source.name)}


def _copy(source: Path, target: Path) -> None:
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        raise DataError(
            f"cannot write {target.name}: {error.strerror or error}",
            hint="free some space, or set DSLBENCH_HOME to another folder",
        ) from None


class _staged:
    """`home.staged_folder` for a data set, with errors of the disk told as such."""

    def __init__(self, entry: DatasetEntry) -> None:
        self.inner = home.staged_folder(library.folder(entry.store_name))

    def __enter__(self) -> Path:
        try:
            return self.inner.__enter__()
        except OSError as error:
            raise _no_room(error) from None

    def __exit__(self, *details: object) -> bool | None:
        try:
            return self.inner.__exit__(*details)  # type: ignore[arg-type]
        except OSError as error:
            raise _no_room(error) from None


def _no_room(error: OSError) -> DataError:
    return DataError(
        f"cannot write in {home.data_dir()}: {error.strerror or error}",
        hint="set DSLBENCH_HOME to a folder that can be written",
    )


def _finish(entry: DatasetEntry, staging: Path, files: list[StoredFile], how: str) -> Manifest:
    """Verify the whole in the staging folder and write its manifest."""
    from dslbench.data.entries import catalog

    base = catalog().get(entry.store_name, entry)
    digests = {file.role: file.digest for file in files}
    published = publish(base, read_files(base, staging), digests)
    given = published.given or {}
    stats = {"users": published.shape[0], "items": published.shape[1]}
    stats |= {role: part.nnz for role, part in given.items()}
    stats["interactions"] = sum(p.nnz for p in given.values()) or len(published.log.users)
    when = library.now()
    manifest = Manifest(
        name=entry.store_name,
        how=how,
        time=when,
        files=tuple(files),
        stats=stats,
        requested={entry.name: when},
        own=entry if entry.own else None,
    )
    try:
        library.write_manifest(staging, manifest)
    except OSError as error:
        raise _no_room(error) from None
    return manifest


def verify_stored(entry: DatasetEntry) -> Manifest:
    """Hash and read again what is in the store. Raises DataError where it changed."""
    manifest = library.require(entry)
    where = library.folder(entry.store_name)
    for file in manifest.files:
        spec = next((spec for spec in entry.files if spec.name == file.name), None)
        if spec is None:
            continue
        again = accept(entry, spec, where / file.name, file.name)
        if again.sha256 != file.sha256:
            raise DataError(
                f"{entry.store_name}: {file.name} changed since it came: sha256 is"
                f" {again.sha256}, expected {file.sha256}",
                hint=f"dslbench download {entry.name} --force",
            )
    publish(entry, read_files(entry, where), {file.role: file.digest for file in manifest.files})
    return manifest
