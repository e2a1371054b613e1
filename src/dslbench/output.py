"""Where text goes: results to stdout or a file, everything else to stderr.

Names of files, headers, archives and other people's records may hold anything. What is printed is
cleaned here, and nowhere else: control characters, and those that turn the direction of reading,
are spelled out; a message is one line.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from dslbench import home, paths
from dslbench.errors import RunError, UsageError, printable, without_harm

_COLOUR = re.compile(r"(\x1b\[[0-9;]*m)")
# What stands for a character that an output's encoding lacks; one for one, so that columns stay.
_PLAIN = dict(zip("✓✗─│└·●▲■◆○△□◇░▒▓█±λΔ≤≥…", "yn-|+.o^#%Ov@&.:=#~lD<>~", strict=True))


def deliver(text: str, output: Path | None = None) -> None:
    """Print a result, or write it to a file.

    Raises `RunError` where stdout takes nothing, `UsageError` where the file cannot be written.
    """
    if output is not None:
        write(output, text.encode("utf-8"))
        return
    if sys.stdout is None:
        raise RunError("nothing can be printed: stdout is closed", "add > FILE to the command")
    if sys.stdout.isatty():  # colours are for terminals only
        pieces = _COLOUR.split(text)
        pieces[::2] = map(without_harm, pieces[::2])
        text = "".join(pieces)
    else:
        text = without_harm(text)
    with _to_stdout():
        sys.stdout.write(spelled(text, getattr(sys.stdout, "encoding", None) or "utf-8"))
        sys.stdout.flush()


@contextlib.contextmanager
def streamed(output: Path | None) -> Iterator[Callable[[str], None]]:
    """Gives a function that takes a long result piece by piece; a file is put in place whole, at the end.

    Where they are no terminal, stdout and the file get the text as it is, in UTF-8: it is data.
    Raises as `deliver` does.
    """
    if output is not None and paths.kind(output) != "other":
        check_writable(output)
        with home.atomic_file(output.resolve()) as file:

            def put_in(text: str) -> None:
                file.write(text.encode())

            yield put_in
        say(f"written: {output}")
    elif output is not None:
        pieces: list[str] = []
        yield pieces.append
        write(output, "".join(pieces).encode())
    elif sys.stdout is None or sys.stdout.isatty():
        yield deliver
    else:
        yield _give
        with _to_stdout():
            sys.stdout.flush()


def _give(text: str) -> None:
    with _to_stdout():
        sys.stdout.buffer.write(text.encode())


@contextlib.contextmanager
def _to_stdout() -> Iterator[None]:
    """What goes wrong while printing, in words; a reader that has gone is no error, and the end."""
    try:
        yield
    except BrokenPipeError:
        leave_stdout()
        sys.exit(0)
    except OSError as error:
        leave_stdout()
        raise RunError(f"nothing can be printed: stdout: {error.strerror or error}") from None


def result(text: str) -> None:
    """One line of a result."""
    deliver(text.replace("\n", "\\n") + "\n")


def spelled(text: str, encoding: str) -> str:
    """The text in characters that an encoding has; ? where there is no other for one."""
    encode = codecs.getencoder(encoding)

    def has(character: str) -> bool:
        try:
            encode(character)
        except UnicodeEncodeError:
            return False
        return True

    lacking = {c for c in set(text) if not has(c)} if not text.isascii() else set()
    return text.translate({ord(c): _PLAIN.get(c, "?") for c in lacking})


def leave_stdout() -> None:
    """Print nothing more; without this the interpreter complains once more while closing."""
    with contextlib.suppress(OSError, ValueError):  # tests have no file there
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def occupy_closed() -> None:
    """Give closed standard streams a place, so that no file of ours gets their number."""
    while True:
        handle = os.open(os.devnull, os.O_RDWR)
        if handle > 2:
            os.close(handle)
            return


def write(path: Path, content: bytes) -> None:
    """Write a file that the user named, and say so; raises `UsageError` where that cannot be done."""
    put(path, content)
    say(f"written: {path}")


def put(path: Path, content: bytes) -> None:
    """Write a file that the user named, whole or not at all; raises `UsageError`.

    A link is followed: its target is written. Devices and pipes are written to as they are.
    """
    try:
        if paths.kind(path) == "other":
            paths.write_through(path, content)
        else:
            home.write_atomic(path.resolve(), content)
    except (OSError, ValueError, RuntimeError) as error:
        raise _cannot_write(path, error) from None


def check_apart(path: Path | None, read: Path, what: str) -> None:
    """Raise `UsageError` where a file that is to be written is one that is read, or of a folder that is."""
    with contextlib.suppress(OSError):
        if path is None or not path.exists():
            return
        if path.samefile(read) or read.resolve() in path.resolve().parents:
            raise UsageError(f"{path} is the {what} that is read", "name another file to write")


def check_writable(path: Path) -> None:
    """Raise `UsageError` where a file cannot be written: better before a training than after it."""
    try:
        found = paths.kind(path)
        if found == "folder":
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        if found == "other":
            paths.check_write_through(path)
            return
        target = path.resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            target.lstat()  # the name may be too long
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except (OSError, ValueError, RuntimeError) as error:
        raise _cannot_write(path, error) from None


def _cannot_write(path: Path, error: Exception) -> UsageError:
    """The error for a path; RuntimeError: a circle of links, ValueError: no name of a file."""
    reason = getattr(error, "strerror", None) or "a circle of links, or no name of a file"
    return UsageError(f"cannot write {path}: {reason}", "name another file")


def console() -> Any:
    """A console for progress, on stderr; what it prints is cleaned."""
    from rich.console import Console

    class Cleaning(Console):
        def print(self, *objects: Any, **options: Any) -> None:
            cleaned = (printable(one) if isinstance(one, str) else one for one in objects)
            super().print(*cleaned, **options)

    # In a notebook, too, progress is plain lines.
    return Cleaning(stderr=True, highlight=False, markup=False, emoji=False, force_jupyter=False)


def say(text: str) -> None:
    """A message beside the results, one line whatever is in it."""
    if sys.stderr is not None:  # closed: print would take stdout
        print(printable(text), file=sys.stderr)


def warn(text: str) -> None:
    """A warning, one line."""
    say(f"warning: {text}")


@cache
def warn_once(text: str) -> None:
    """A warning about something that is looked at many times."""
    warn(text)
