"""What `dslbench download` and `dslbench list datasets` do.

Results go to stdout, progress and warnings to stderr.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dslbench import paths
from dslbench.data import library
from dslbench.data.entries import DatasetEntry, catalog
from dslbench.errors import DataError, UsageError, did_you_mean, printable
from dslbench.output import check_apart, console, deliver, result, say, warn

if TYPE_CHECKING:
    from dslbench.data.fetch import Advance
    from dslbench.data.interactions import Interactions
    from dslbench.data.library import Manifest, StoredFile


@dataclass(frozen=True)
class DatasetStatus:
    """One line of `list datasets`; None where not known before the data set is at hand."""

    name: str
    title: str
    users: int | None
    items: int | None
    interactions: int | None
    density: float | None
    on_disk: bool
    verified: bool
    problem: str | None
    default_protocol: str
    own: bool


def download(names: list[str], all_: bool, source: Path | None, verify: bool, force: bool) -> None:
    """Get data sets by download, or from `source`; with `verify` check what is at hand instead.

    Prints what came, how it was verified, its terms of use and what to cite. Raises UsageError for
    a name that is not known, DataError where something cannot be had or proves wrong; with several
    names the others are still done.
    """
    wanted = _wanted(names, all_, source, verify)
    failures: list[tuple[str, DataError]] = []
    for entry in wanted:
        try:
            _obtain(entry, source, verify, force)
        except DataError as error:
            if len(wanted) == 1:
                raise
            say(f"{entry.name}: {error.message}")
            failures.append((entry.name, error))
    if failures:
        failed = ", ".join(name for name, _ in failures)
        raise DataError(
            f"{len(failures)} of {len(wanted)} data sets failed: {failed}", hint=failures[0][1].hint
        )


def _wanted(names: list[str], all_: bool, source: Path | None, verify: bool) -> list[DatasetEntry]:
    known = {**library.own_entries(), **catalog()}
    if all_ or (verify and not names):
        entries = [entry for entry in known.values() if entry.files_of is None and entry.files]
        entries = [entry for entry in entries if not entry.generated]
        if verify:
            entries = [entry for entry in entries if library.folder(entry.name).is_dir()]
        elif source is not None:
            entries = [entry for entry in entries if paths.kind(source / entry.name) == "folder"]
        else:
            entries = [entry for entry in entries if not entry.own]
        if not entries:
            raise DataError("no data set there", hint="dslbench list datasets")
        return entries
    if not names:
        raise UsageError("no data set named", hint=f"one of: {', '.join(sorted(catalog()))}")
    found: list[DatasetEntry] = []
    for name in names:
        if name in known and not (source is not None and known[name].own):
            found.append(known[name])
        elif source is not None:
            from dslbench.data.own import entry_for_import

            found.append(entry_for_import(name, source))
            hint = did_you_mean(name, catalog())
            if hint.startswith("did you mean"):
                say(f"'{name}' is not in the catalog ({hint}), so this is data of your own")
        else:
            raise UsageError(f"unknown data set '{name}'", hint=did_you_mean(name, known))
    return found


def _obtain(entry: DatasetEntry, source: Path | None, verify: bool, force: bool) -> None:
    from dslbench.data import obtain

    if entry.generated:
        result(f"{entry.name}: embedded, nothing to download")
        return
    if verify:
        _describe(entry, obtain.verify_stored(entry), "intact")
        return
    if source is not None:
        _describe(entry, obtain.import_entry(entry, source), f"imported from {source.name}")
        if entry.own:
            _print_statement(entry, library.folder(entry.store_name))
        return
    if not force and library.read_manifest(entry.store_name) is not None:
        library.require(entry)
        library.mark_requested(entry.name, entry.store_name)
        _describe(entry, library.require(entry), "already here")
        return
    if entry.own:
        raise DataError(
            f"'{entry.name}' is data of your own, with no address to download it from",
            hint=f"dslbench download {entry.name} --from PATH",
        )
    say(f"{entry.name}: terms of use: {entry.terms}")
    with _progress(entry.name) as advance:
        manifest, warnings = obtain.download_entry(entry, advance)
    for warning in warnings:
        warn(warning)
    _describe(entry, manifest, "downloaded")


def inspect(path: Path) -> None:
    """Print what a file, folder or TOML of the user's own is taken for. Raises DataError."""
    from dslbench.data.own import describe

    entry, folder = describe(path)
    _print_statement(entry, folder)


def _print_statement(entry: DatasetEntry, folder: Path) -> None:
    from dslbench.data.loading import read_published, told

    published, _ = read_published(entry, folder)
    for line in told(published)["statement"]:
        result(line)
    given = published.given or {}
    pairs = sum(part.nnz for part in given.values()) or len(published.log.users)
    users, items = published.shape
    result(f"{entry.name}: {users:,} users, {items:,} items, {pairs:,} pairs")


def _describe(entry: DatasetEntry, manifest: Manifest, how: str) -> None:
    stats = manifest.stats
    state = "verified" if manifest.verified else "your own data, nothing to verify it against"
    result(
        f"{entry.name}: {how}, {state}: {stats['users']:,} users, {stats['items']:,} items,"
        f" {stats['interactions']:,} interactions"
        + (f" (files of {manifest.name})" if manifest.name != entry.name else "")
    )
    for file in manifest.files:
        pairs = f"{file.pairs:,} pairs; " if file.pairs is not None else ""
        result(f"  {file.name}: {pairs}{_checks(file, entry)}")
    if entry.terms:
        result(f"  terms of use: {entry.terms}")
    if entry.citation:
        result(f"  cite: {entry.citation}")


def _checks(file: StoredFile, entry: DatasetEntry) -> str:
    if file.checks and file.same_bytes is False:
        return (
            "passed: digest of the pairs (the bytes differ from the published file,"
            " the data are the same)"
        )
    if file.checks:
        return f"passed: {', '.join(file.checks)}"
    return "no published checksum" if not entry.own else "digest recorded"


@contextmanager
def _progress(name: str) -> Iterator[Advance]:
    """A progress bar on stderr with size and speed, where stderr is a terminal."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    shown = console()
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=shown, disable=not shown.is_terminal) as progress:
        task = progress.add_task(printable(name), total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def dataset_status() -> list[DatasetStatus]:
    """State of every data set known or at hand; cheap (manifests and sizes, no hashing)."""
    known = {**catalog(), **library.own_entries()}
    rows = [_status(entry) for entry in known.values()]
    for name in library.stored_names():
        if name not in known:
            rows.append(_damaged(name))
    return rows


def _damaged(name: str) -> DatasetStatus:
    try:
        library.read_manifest(name)
        problem = f"data set '{name}' is not in the catalog of this version"
    except DataError as error:
        problem = error.message
    return DatasetStatus(name, "", None, None, None, None, True, False, problem, "", True)


def _status(entry: DatasetEntry) -> DatasetStatus:
    manifest, problem = None, None
    if not entry.generated:
        try:
            manifest = library.read_manifest(entry.store_name)
            if manifest is not None:
                library.require(entry)
        except DataError as error:
            problem = error.message
    expect = entry.expect
    users, items, count = expect.users, expect.items, expect.interactions
    if count is None and expect.train is not None and expect.test is not None:
        count = expect.train + expect.test
    if manifest is not None and entry.files_of is None:
        stats = manifest.stats
        users, items = users or stats["users"], items or stats["items"]
        count = count or stats["interactions"]
    density = count / (users * items) if users and items and count else None
    return DatasetStatus(
        name=entry.name,
        title=entry.title,
        users=users,
        items=items,
        interactions=count,
        density=density,
        on_disk=entry.generated or manifest is not None or problem is not None,
        verified=entry.generated
        or (manifest is not None and manifest.verified and problem is None),
        problem=problem,
        default_protocol=entry.default_protocol,
        own=entry.own,
    )


def list_datasets(as_json: bool) -> None:
    """Print the data sets known and at hand, as a table or (`as_json`) as JSON."""
    rows = dataset_status()
    if as_json:
        deliver(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
        return
    from rich.console import Console

    from dslbench.report.formats.terminal import terminal
    from dslbench.report.tables import Cell, TableModel

    table = TableModel(
        title="",
        headers=["name", *_COUNTS, "density", "on disk", "verified", "protocol"],
        rows=[[Cell(text) for text in _shown(row)] for row in rows],
        first=[5, 6],
    )
    screen = Console()
    deliver(terminal([table], screen.width, screen.is_terminal and not screen.no_color))
    for row in rows:
        if row.problem:
            say(f"{row.name}: {row.problem}")


_COUNTS = ("users", "items", "interactions")


def _shown(row: DatasetStatus) -> list[str]:
    counts = (getattr(row, name) for name in _COUNTS)
    return [
        row.name,
        *("-" if count is None else f"{count:,}" for count in counts),
        "-" if row.density is None else f"{row.density:.3%}",
        "built in" if row.name == "toy" else "yes" if row.on_disk else "no",
        _verified(row),
        row.default_protocol,
    ]


def _verified(row: DatasetStatus) -> str:
    if row.problem:
        return "DAMAGED"
    if row.verified:
        return "yes"
    return "own data" if row.own else "no" if row.on_disk else "-"


def check_not_data(dataset: str | None, *targets: Path | None) -> None:
    """Raise `UsageError` where a file that is to be written is one of the user's data."""
    from dslbench.data.loading import looks_like_path

    if dataset is not None and looks_like_path(dataset):
        for path in targets:
            check_apart(path, Path(dataset), "data")


def say_what_was_read(loaded: Interactions) -> None:
    """What a file of the user's own was taken for; an imported one was told of when it came."""
    if loaded.source.get("how") == "path":
        for line in loaded.source.get("statement", ()):
            say(f"data: {line}")
