"""Errors a user sees: one line saying what and where, and the next command to type.

Exit codes are part of the command line's contract: 0 done, 1 a run failed, 2 wrong usage,
3 data could not be verified or found.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable

_JOINERS = "\u200c\u200d"  # within words of some scripts, and within emoji


class DslbenchError(Exception):
    """Base of every error meant for the user; `hint` is the next thing to try."""

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class RunError(DslbenchError):
    """A training or evaluation failed."""

    exit_code = 1


class DivergedError(RunError):
    """A loss, or weights, that stopped being numbers; `bill` has what it cost until then, if known.

    Its keys: `macs` of training, counted, and `seconds` of training and of choosing epochs.
    """

    bill: dict[str, float] | None = None


class StoreError(RunError):
    """The store cannot be written: full or read-only, so that no other run could be stored either."""


class UsageError(DslbenchError):
    """The command, an option or a setting makes no sense."""

    exit_code = 2


class UnsuitableError(UsageError):
    """A method that makes no sense for the backbone or the sparsity; comparisons leave it out."""


class DataError(DslbenchError):
    """Data is missing, malformed, or not what it claims to be."""

    exit_code = 3


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint naming the closest known name, or all of them when none is close."""
    names = sorted(known)
    close = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(names)}"


def reason_of(error: BaseException) -> str:
    """An error of any library in one printable line of at most 200 characters."""
    text = str(error)
    if (errors := getattr(error, "errors", None)) is not None:  # pydantic's: the first of them
        first = errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        text = f"'{where}': {first['msg'].lower()}"
    if isinstance(error, KeyError):
        text = f"{error} is missing"
    line = (text or type(error).__name__).partition("\n")[0]
    return printable(line[:200])


def printable(text: str) -> str:
    """Any text in one line of a message: what could not be seen in it is spelled out."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def harmless(text: str) -> bool:
    """Whether a text may be stored and shown as it is.

    It has nothing that steers a terminal, breaks a line, turns the direction of reading, or is half
    a character. Spaces of any width, and characters newer than this Python, are harmless.
    """
    return text.isprintable() or all(map(_harmless, text))


def without_harm(text: str) -> str:
    """A text with what is not `harmless` spelled out; line ends stay."""
    if harmless(text):
        return text
    return "".join(c if c == "\n" or _harmless(c) else repr(c)[1:-1] for c in text)


def _harmless(character: str) -> bool:
    kinds = ("Zs", "Co", "Cn")
    return (
        character.isprintable() or character in _JOINERS or unicodedata.category(character) in kinds
    )
