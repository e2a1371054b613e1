"""Members out of zip and tar archives, safely.

Only members asked for by name are read, and they are written under names of our choosing, so a
path in the archive decides nothing; links, devices and unsafe paths are refused, sizes bounded.
"""

from __future__ import annotations

import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from dslbench.errors import DataError

_BROKEN = (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, NotImplementedError)


@dataclass(frozen=True)
class _Member:
    path: str
    regular: bool
    size: int

    @property
    def name(self) -> str:
        return PurePosixPath(self.path).name

    @property
    def parent(self) -> str:
        return PurePosixPath(self.path).parent.name


def is_archive(path: Path) -> bool:
    """Whether a file is a zip or a (compressed) tar, by its content."""
    return zipfile.is_zipfile(path) or tarfile.is_tarfile(path)


def extract(
    archive: Path,
    wanted: dict[str, tuple[str, ...]],
    target: Path,
    *,
    prefer: str,
    most: Mapping[str, int],
) -> dict[str, str]:
    """Write members to `target`; returns member path by name written.

    `wanted` maps the name to write to the base names or paths it may have in the archive, best
    first; where several folders of the archive have one, the folder called `prefer` decides.
    `most` is how many bytes each may unpack to.
    What is not there is left out. Raises DataError for a broken or unsafe archive.
    """
    found: dict[str, str] = {}
    try:
        with _opened(archive) as box:
            members = box.members()
            for name, aliases in wanted.items():
                member = _choose(archive, members, aliases, prefer)
                if member is not None:
                    _copy(archive, box, member, target / name, most[name])
                    found[name] = member.path
    except _BROKEN as error:
        raise DataError(f"{archive.name} is a broken archive: {error}") from None
    except RuntimeError as error:  # zipfile's word for an encrypted member
        raise DataError(f"{archive.name} cannot be opened: {error}") from None
    return found


def _choose(
    archive: Path, members: list[_Member], aliases: tuple[str, ...], prefer: str
) -> _Member | None:
    for alias in aliases:
        exact = [member for member in members if member.path.removeprefix("./") == alias]
        matching = exact or [member for member in members if member.name == alias]
        if len(matching) > 1:
            preferred = [member for member in matching if member.parent == prefer]
            if len(preferred) != 1:
                paths = ", ".join(member.path for member in matching[:4])
                raise DataError(f"{archive.name} has several files called {alias}: {paths}")
            matching = preferred
        if matching:
            return matching[0]
    return None


def _copy(archive: Path, box: _Box, member: _Member, target: Path, most: int) -> None:
    path = PurePosixPath(member.path.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"{archive.name}: unsafe path {member.path!r} in the archive")
    if not member.regular:
        raise DataError(f"{archive.name}: {member.path} is a link or special file, not data")
    too_large = f"{archive.name}: {member.path} unpacks to more than {most:,} bytes"
    if member.size > most:
        raise DataError(too_large)
    written = 0
    with box.open(member) as source, target.open("wb") as out:
        while chunk := source.read(1 << 20):
            written += len(chunk)
            if written > most:
                raise DataError(too_large)
            out.write(chunk)


class _Box:
    """What zip and tar have in common."""

    def members(self) -> list[_Member]:
        raise NotImplementedError

    def open(self, member: _Member) -> IO[bytes]:
        raise NotImplementedError


class _Zip(_Box):
    def __init__(self, file: zipfile.ZipFile) -> None:
        self.file = file

    def members(self) -> list[_Member]:
        return [
            _Member(info.filename, _zip_regular(info), info.file_size)
            for info in self.file.infolist()
            if not info.is_dir()
        ]

    def open(self, member: _Member) -> IO[bytes]:
        return self.file.open(member.path)


def _zip_regular(info: zipfile.ZipInfo) -> bool:
    mode = info.external_attr >> 16
    return mode == 0 or stat.S_IFMT(mode) in (0, stat.S_IFREG)


class _Tar(_Box):
    def __init__(self, file: tarfile.TarFile) -> None:
        self.file = file

    def members(self) -> list[_Member]:
        return [
            _Member(info.name, info.isreg(), info.size)
            for info in self.file.getmembers()
            if not info.isdir()
        ]

    def open(self, member: _Member) -> IO[bytes]:
        handle = self.file.extractfile(member.path)
        if handle is None:
            raise tarfile.TarError(f"{member.path} cannot be read")
        return handle


@contextmanager
def _opened(archive: Path) -> Iterator[_Box]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            yield _Zip(zipped)
    else:
        with tarfile.open(archive) as tarred:
            yield _Tar(tarred)
