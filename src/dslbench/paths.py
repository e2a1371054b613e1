"""Paths that others named: what is there, read without waiting, written without destroying.

A name may be of a device, of a pipe that nobody writes to, of a link, or too long to be a file's.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Literal

Kind = Literal["nothing", "file", "folder", "other"]


def kind(path: Path) -> Kind:
    """What is at a path, links followed; nothing where the name cannot be a file's."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return "nothing"
    if stat.S_ISREG(mode):
        return "file"
    return "folder" if stat.S_ISDIR(mode) else "other"


def read_bytes(path: Path, most: int | None = None) -> bytes:
    """A file's content, or its first `most` bytes.

    Raises `OSError` where it cannot be read or is no plain file: a pipe would be waited for.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except ValueError:  # a NUL
        raise OSError(errno.EINVAL, "no name of a file", str(path)) from None
    with os.fdopen(handle, "rb") as file:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "not a plain file", str(path))
        return file.read(-1 if most is None else most)


def read_text(path: Path) -> str:
    """A file's text, in UTF-8; raises `OSError` as `read_bytes` does, `UnicodeDecodeError`."""
    text = read_bytes(path).decode("utf-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def check_write_through(path: Path) -> None:
    """Raise `OSError` for what `write_through` would refuse, as far as can be told unopened."""
    mode = path.stat().st_mode
    if stat.S_ISBLK(mode) or stat.S_ISSOCK(mode):
        what = "disk" if stat.S_ISBLK(mode) else "socket"
        raise OSError(errno.EINVAL, f"it is a {what}", str(path))
    if not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def write_through(path: Path, content: bytes) -> None:
    """Write to a device or a pipe that is there already.

    Raises `OSError`, too, for a disk, whose file system it would destroy, and for a pipe that nobody
    reads, which would be waited for.
    """
    check_write_through(path)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise OSError(errno.ENXIO, "nobody reads from it", str(path)) from None
        raise
    with os.fdopen(handle, "wb") as file:
        os.set_blocking(handle, True)
        file.write(content)
