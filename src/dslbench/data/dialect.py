"""How a text is divided into rows and fields: one dialect for a file, decided over many lines."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

import numpy as np
import numpy.typing as npt

from dslbench.data.content import Text
from dslbench.errors import DataError

BLANKS = "whitespace"
_NAMES = {
    ",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars", "::": "'::'",
    BLANKS: "blanks and tabs", " ": "single blanks",
}  # fmt: skip
_CANDIDATES = ("\t", "::", ",", ";", "|")
_SAMPLED = 400  # lines at the start, in the middle and at the end each
_BLANKS = re.compile(r"[ \t\x0b\x0c]+")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Dialect:
    """What divides fields, and whether fields may stand in quotes (RFC 4180)."""

    separator: str
    quotes: bool = False

    @property
    def words(self) -> str:
        """For a reader: `commas, with quotes`."""
        shown = _NAMES.get(self.separator, repr(self.separator))
        return f"{shown}{', with quotes' if self.quotes else ''}"

    def split(self, line: str) -> list[str]:
        """Fields of one line, without their quotes and the blanks around."""
        if self.separator == BLANKS:
            return [field for field in _BLANKS.split(line) if field]
        if not self.quotes or '"' not in line:
            return [field.strip() for field in line.split(self.separator)]
        return [_unquoted(field) for field in _fields(self.separator, line)]


def _unquoted(field: str) -> str:
    field = field.strip()
    if len(field) > 1 and field[0] == field[-1] == '"':
        return field[1:-1].replace('""', '"').strip()
    return field


@lru_cache
def _patterns(separator: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Of one field, and of a whole line in which every opened quote is closed."""
    other = re.escape(separator)
    quoted = r'[ ]*+"(?:[^"]|"")*+"[ ]*+'
    plain = rf'(?![ ]*+")(?:(?!{other}).)*+'
    field = rf"(?:{quoted}|{plain})"
    return re.compile(field), re.compile(rf"{field}(?:{other}{field})*+")


def _fields(separator: str, line: str) -> list[str]:
    """Fields of a line that is well quoted."""
    field, _ = _patterns(separator)
    found, at = [], 0
    while (match := field.match(line, at)) is not None:
        found.append(match[0])
        at = match.end() + len(separator)
        if match.end() >= len(line):
            break
    return found


def rows(text: Text, dialect: Dialect) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of each line that is not blank."""
    for number, line in enumerate(text.content.split(b"\n"), start=1):
        if line and not line.isspace():
            yield number, dialect.split(line.decode("utf-8"))


def sample(text: Text) -> list[str]:
    """Lines that are not blank, from the start, the middle and the end of the file."""
    content, size = text.content, len(text.content)
    window = 1 << 17
    if size <= 4 * window:
        chosen = [line for line in content.split(b"\n") if line and not line.isspace()]
        if len(chosen) > 3 * _SAMPLED:
            middle = len(chosen) // 2
            chosen = [
                *chosen[:_SAMPLED], *chosen[middle : middle + _SAMPLED], *chosen[-_SAMPLED:]
            ]  # fmt: skip
        return [line.decode("utf-8") for line in chosen]
    parts: list[bytes] = []
    for start in (0, size // 2, size - window):
        lines = content[start : start + window].split(b"\n")
        lines = lines if start == 0 else lines[1:]  # the first and last may be cut by us
        whole = lines[:-1] or ([content.split(b"\n", 1)[0]] if start == 0 else [])
        parts += islice((line for line in whole if line and not line.isspace()), _SAMPLED)
    return [line.decode("utf-8") for line in parts]


def find(
    text: Text, lines: list[str], separator: str | None, quotes: bool | None, toml: str
) -> Dialect:
    """The one dialect in which all lines have as many fields, and more than one.

    `separator` and `quotes` are what is known; `toml` is the file that could say more. Raises
    DataError where several dialects fit and mean different things.
    """
    if separator is not None:
        return Dialect(separator, _has_quotes(text, separator, quotes, toml))
    fitting = []
    for candidate in _CANDIDATES:
        if not all(candidate in line for line in lines):
            continue
        quoted = Dialect(candidate, quotes is not False)
        widths = Counter(len(quoted.split(line)) for line in lines)
        if len(widths) == 1 and min(widths) > 1:
            fitting.append(candidate)
    if "\t" in fitting:
        return _tabs_or_blanks(text, lines, quotes, toml)
    if fitting == ["::"]:
        return Dialect("::", _has_quotes(text, "::", quotes, toml))
    if len(fitting) > 1:  # a comma before a blank is one of a sentence
        fitting = [c for c in fitting if not all(f"{c} " in line for line in lines)] or fitting
    if len(fitting) > 1:
        raise DataError(
            f"{text.name}: fields could be divided by {' or by '.join(_NAMES[c] for c in fitting)}",
            hint=f'say which in {toml}: separator = "{next(c for c in fitting if c != "::")}"',
        )
    if fitting:
        return Dialect(fitting[0], _has_quotes(text, fitting[0], quotes, toml))
    widths = Counter(len(line.split()) for line in lines)
    if len(widths) == 1 and min(widths) > 1:
        return Dialect(BLANKS, _has_quotes(text, BLANKS, quotes, toml))
    # no dialect fits all lines: the one that fits most of them, so that the others can be named
    best = max(_CANDIDATES, key=lambda c: (_agreement(lines, c), -_CANDIDATES.index(c)))
    if _agreement(lines, best) > 0:
        return Dialect(best, _has_quotes(text, best, quotes, toml))
    usual = widths.most_common(1)[0][0] if widths else 1
    return Dialect(BLANKS if usual > 1 else ",")


def _agreement(lines: list[str], separator: str) -> float:
    """Share of the lines that have the most frequent number of fields, where that is over one."""
    widths = Counter(line.count(separator) for line in lines)
    widths.pop(0, None)
    return max(widths.values(), default=0) / max(len(lines), 1)


def _tabs_or_blanks(text: Text, lines: list[str], quotes: bool | None, toml: str) -> Dialect:
    """Tabs divide; but where fields then hold several numbers, blanks divide as well."""
    if all(_NUMBER.fullmatch(field) for line in lines for field in line.split()):
        mixed = {len(line.split()) for line in lines}
        if len(mixed) == 1 and mixed != {len(line.split("\t")) for line in lines}:
            if any("" in (f.strip() for f in line.split("\t")) for line in lines):
                return Dialect("\t", _has_quotes(text, "\t", quotes, toml))
            return Dialect(BLANKS)
    return Dialect("\t", _has_quotes(text, "\t", quotes, toml))


def _has_quotes(text: Text, separator: str, quotes: bool | None, toml: str) -> bool:
    """Whether fields stand in quotes; refuses quotes that are not closed in their line."""
    if quotes is False or b'"' not in text.content:
        return False
    if separator in (BLANKS, "::"):
        _refuse_quotes(text, separator, toml)
        return False
    _, whole = _patterns(separator)
    opening = re.compile(rf'(?:^|{re.escape(separator)})[ ]*"')
    bad: int | None = None
    good = False
    for number, line in enumerate(text.content.split(b"\n"), start=1):
        if b'"' not in line:
            continue
        shown = line.decode("utf-8")
        if opening.search(shown) is None:
            continue
        if whole.fullmatch(shown) is not None:
            good = True
        elif bad is None:
            bad = number
    if bad is not None:
        raise text.refuse(
            bad,
            "a quote that is not closed in its line",
            f"where quotes are part of the text, say so in {toml}: quotes = false",
        )
    return good


def _refuse_quotes(text: Text, separator: str, toml: str) -> None:
    """Blanks and `::` know no quotes: where a field begins with one it cannot be told what it is."""
    mark = rb"[ \t]" if separator == BLANKS else b"::"
    found = re.search(rb'(?:^|%s)"' % mark, text.content, re.MULTILINE)
    if found is not None:
        raise text.refuse(
            text.content[: found.end()].count(b"\n") + 1,
            f"a field in quotes, where fields are divided by {_NAMES[separator]}",
            f"where quotes are part of the text, say so in {toml}: quotes = false",
        )


def check_widths(text: Text, dialect: Dialect) -> int:
    """Number of fields of every row. Raises DataError with the first line that has another."""
    counts = _counts(text, dialect)
    if not len(counts):
        raise DataError(f"{text.name} is empty")
    usual = np.bincount(counts)
    width = int(counts[0]) if usual[counts[0]] * 2 >= len(counts) else int(usual.argmax())
    wrong = np.flatnonzero(counts != width)
    if len(wrong):
        row = int(wrong[0])
        line = int(text.line_numbers[row])
        found = int(counts[row])
        hint = (
            f"fields are divided by {dialect.words}; {len(wrong):,} of {len(counts):,} lines have"
            f" another number of them than {width}"
        )
        if row == 0 and len(wrong) == 1 and found == width - 1:
            below = [fields for _, fields in rows(text, dialect)][1:]
            if all(not fields[-1] for fields in below):
                hint = "all other lines end in an empty field: add one here, or take it out of them"
            else:
                hint = "the header lacks a name, as R writes row names: write.csv(..., row.names = FALSE)"
        cut = " (cut?)" if row == len(counts) - 1 and not text.complete else ""
        raise text.refuse(
            line,
            f"{found} column{'' if found == 1 else 's'}, expected {width}{cut}",
            hint,
        )
    return width


def _counts(text: Text, dialect: Dialect) -> npt.NDArray[np.int64]:
    """Fields of each line that is not blank."""
    if dialect.separator == BLANKS or dialect.quotes or len(dialect.separator) > 1:
        lines: Iterable[bytes] = (
            line for line in text.content.split(b"\n") if line and not line.isspace()
        )
        if dialect.separator == BLANKS:
            return np.array([len(line.split()) for line in lines], dtype=np.int64)
        mark = dialect.separator.encode()
        return np.array(
            [
                len(_fields(dialect.separator, line.decode("utf-8")))
                if dialect.quotes and b'"' in line
                else line.count(mark) + 1
                for line in lines
            ],
            dtype=np.int64,
        )
    data = np.frombuffer(text.content, dtype=np.uint8)
    ends = np.flatnonzero(data == 10)
    if not text.complete:
        ends = np.append(ends, len(data))
    marks = np.flatnonzero(data == ord(dialect.separator))
    counts = np.diff(np.searchsorted(marks, ends), prepend=0) + 1
    lengths = np.diff(ends, prepend=-1) - 1
    if lengths.min(initial=1) > 0 and counts.min(initial=2) > 1:
        return counts.astype(np.int64)  # no line can be blank
    kept = text.line_numbers - 1
    found: npt.NDArray[np.int64] = counts[kept]
    return found
