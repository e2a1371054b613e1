"""Where text goes: results to stdout or a file, everything else to stderr."""

from __future__ import annotations

import errno
import io
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from dslbench.errors import UsageError


def deliver(text: str, output: Path | None = None) -> None:
    """Print a result, or write it to a file."""
    if output is not None:
        write(output, text.encode("utf-8"))
        return
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a character shows "?"
    sys.stdout.write(text)


def write(path: Path, content: bytes) -> None:
    """Write a file and say so; raises `UsageError` where that cannot be done."""
    from dslbench import home

    try:
        home.write_atomic(path, content)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from None
    say(f"written: {path}")


def check_writable(path: Path) -> None:
    """Raise `UsageError` where a file cannot be written: better before a training than after it."""
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from None


def console() -> Any:
    """A console for progress, on stderr."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """A message beside the results."""
    print(text, file=sys.stderr)


def warn(text: str) -> None:
    """A warning, one line whatever is in it: names of files may hold anything."""
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    print(f"warning: {shown}", file=sys.stderr)


@cache
def warn_once(text: str) -> None:
    """A warning about something that is looked at many times."""
    warn(text)
