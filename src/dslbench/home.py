"""Where dslbench keeps data sets and runs: `DSLBENCH_HOME`, else the platform's user data folder."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import platformdirs

from dslbench.errors import StoreError, UsageError

# EFBIG: the process may not write files of this size (ulimit -f).
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EROFS, errno.EACCES, errno.EPERM}


def home() -> Path:
    """Root of everything stored; read anew on each call so that tests and shells can move it.

    Raises `UsageError` where DSLBENCH_HOME begins with the home of a user who does not exist.
    """
    configured = os.environ.get("DSLBENCH_HOME")
    if not configured:
        return Path(platformdirs.user_data_dir("dslbench"))
    try:
        return Path(configured).expanduser()
    except RuntimeError:
        raise UsageError(
            f"DSLBENCH_HOME is {configured}, but that home is not known on this machine",
            "write the folder's whole path",
        ) from None


def data_dir() -> Path:
    """Folder with one sub-folder per data set at hand."""
    return home() / "data"


def runs_dir() -> Path:
    """Folder with one sub-folder per run."""
    return home() / "runs"


@contextmanager
def storing(what: str, where: Path, needed: int = 0) -> Iterator[None]:
    """Say what could not be written, where, and the bytes it takes.

    Raises `StoreError` where the disk is full or writing is not allowed; any other error as it is.
    """
    try:
        yield
    except OSError as error:
        text = f"{what} cannot be written in {where}: {error.strerror}"
        if error.errno in _FORBIDDEN:
            raise StoreError(text, "DSLBENCH_HOME names another place to store") from None
        if error.errno not in _FULL:
            raise
        raise StoreError(
            f"{text}; {_size(needed)} needed, {_size(_free(where))} free",
            "make room, or DSLBENCH_HOME names another place; the same command goes on",
        ) from None


def _free(where: Path) -> int:
    while not where.exists():
        where = where.parent
    return shutil.disk_usage(where).free


def _size(number: int) -> str:
    return f"{number / 2**20:.1f} MiB" if number >= 2**20 else f"{number / 2**10:.1f} KiB"


def _shared(path: Path, mode: int) -> None:
    """Give what `tempfile` made private the permissions any other new file would have."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(mode & ~mask)


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that readers see the old content or the new, never a part of it."""
    with atomic_file(path) as file:
        file.write(content)


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, put in place of `path` whole; on any error nothing changes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Shortened: with what is added a name that a file can have would be too long.
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:60]}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _shared(Path(temporary), 0o666)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextmanager
def staged_folder(target: Path) -> Iterator[Path]:
    """Build a folder beside `target`, then put it in place whole; on any error nothing changes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    _shared(staging, 0o777)
    aside: list[Path] = []
    try:
        yield staging
        while True:
            try:
                os.replace(staging, target)  # works when nothing, or an empty folder, is there
                break
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            # What was there is kept until the new one is in its place: we may be killed in between.
            aside.append(Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.old.")))
            with suppress(FileNotFoundError):  # another process may have moved it first
                os.replace(target, aside[-1] / "replaced")
    except BaseException:
        for old in aside:
            if (old / "replaced").exists() and not target.exists():
                os.replace(old / "replaced", target)
        raise
    finally:
        for path in (staging, *aside):
            shutil.rmtree(path, ignore_errors=True)
