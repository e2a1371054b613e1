"""The format of a file, by its content; by its suffix only where that says more than a separator.

A list file (`user item item ...`) has lines of many lengths and no first id twice; pairs sorted by user
or by time never have both. All lines are looked at, not the first ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from dslbench.data.content import Text, bare_name, read_text
from dslbench.data.parse import read_int_lines
from dslbench.data.times import unit_of
from dslbench.errors import DataError

OwnFormat = Literal[
    "adjacency", "counted", "ratings", "csv", "tsv", "inter", "npz", "parquet", "jsonl"
]
_BY_SUFFIX: dict[str, OwnFormat] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".inter": "inter",
    ".npz": "npz",
    ".parquet": "parquet",
    ".json": "jsonl",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
_START = 1 << 18
_MOSTLY = 0.9


@dataclass(frozen=True)
class Sniffed:
    """Formats that a file could have, best first, and how many fields its lines have (0: many)."""

    formats: tuple[OwnFormat, ...]
    width: int = 0
    why: str = ""


def sniff(path: Path, encoding: str | None = None) -> Sniffed:
    """What a file could be. Raises DataError for one that cannot be read."""
    known = _BY_SUFFIX.get(PurePosixPath(bare_name(path.name)).suffix.lower())
    if known is not None:
        return Sniffed((known,), why="by its suffix")
    text = read_text(path, encoding)
    return sniff_text(text)


def sniff_text(text: Text) -> Sniffed:
    """What a text could be."""
    start = text.content[:_START]
    lines = [line.split() for line in start.split(b"\n")]
    if len(start) < len(text.content):
        lines = lines[:-1] or lines
    lines = [line for line in lines if line]
    if start.lstrip()[:1] in (b"{", b"["):
        return Sniffed(("jsonl",), why="by its content")
    whole = [line for line in start.split(b"\n") if line.strip()][: len(lines)]
    if all(b"::" in line for line in whole) and not any(
        all(mark in line for line in whole) for mark in (b"\t", b",", b";", b"|")
    ):
        return Sniffed(("ratings",), why="by its content")
    tokens = [token for line in lines for token in line]
    numeric = sum(token.isdigit() for token in tokens) / len(tokens)
    if numeric == 1:
        try:
            return _of_integers(text)
        except DataError:
            pass  # a wrong token further down
    widths = {len(line) for line in lines}
    if numeric > _MOSTLY and len(widths) > 1:  # a wrong token gets an error with its line
        return Sniffed(("adjacency",), why="lines of integers of many lengths")
    return Sniffed(("tsv",) if b"," not in lines[0][0] else ("csv",), why="by its content")


def _of_integers(text: Text) -> Sniffed:
    found = read_int_lines(text.content, text.name)
    widths, heads = found.counts, found.values[found.starts]
    unique = len(np.unique(heads)) == len(heads)
    counts = bool((heads == widths - 1).all())
    if widths.min() != widths.max():
        if counts:
            return Sniffed(("counted",), why="each line begins with its number of items")
        return Sniffed(("adjacency",), why="lines of many lengths, no first id twice")
    width = int(widths[0])
    if width == 1:
        return Sniffed(("tsv",), 1)
    table = found.values.reshape(-1, width)
    if counts:
        return Sniffed(("tsv", "counted"), width)
    if not unique:
        return Sniffed(("tsv",), width, "first ids occur in several lines")
    timed = any(unit_of(table[:, at].astype(np.float64)) for at in range(2, width))
    if width == 2 or timed:
        return Sniffed(
            ("tsv", "adjacency"), 2, "two numbers a line" if width == 2 else "with times"
        )
    return Sniffed(("tsv", "adjacency"), width)


def agree(found: dict[str, Sniffed], toml: str) -> tuple[OwnFormat, str]:
    """The one format of all files of a data set, and why. Raises DataError where there is none."""
    sniffed = list(found.values())
    first = next(iter(found))
    common = [f for f in sniffed[0].formats if all(f in other.formats for other in sniffed)]
    if not common:
        listed = ", ".join(f"{name}: {' or '.join(s.formats)}" for name, s in found.items())
        raise DataError(
            f"the files have different formats ({listed})",
            hint=f'say which in {toml}: format = "{sniffed[0].formats[0]}"',
        )
    if common == ["tsv", "adjacency"] and len({s.width for s in sniffed}) > 1:
        return "adjacency", "lines of many lengths, no first id twice"
    if (
        "tsv" in common
        and len(common) > 1
        and any(s.width > 2 or "counted" in s.formats for s in sniffed)
    ):
        other = "a count and as many items" if "counted" in common else "a user and its items"
        second = "counted" if "counted" in common else "adjacency"
        raise DataError(
            f"{first}: {sniffed[0].width} numbers in every line: one interaction each, or {other}?",
            hint=f'say which in {toml}: format = "tsv" (one interaction a line), or format = "{second}"',
        )
    return common[0], sniffed[0].why
