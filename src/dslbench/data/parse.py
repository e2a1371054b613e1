"""Text of whitespace-separated non-negative integers into arrays, a block of bytes at a time.

Vectorised over bytes with numpy alone: as fast as a compiled kernel on the files at stake, without
a compiler's start-up cost in every process. Temporary arrays are bounded by the block, so peak
memory stays at a few times the size of the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from dslbench.data.interactions import Int32
from dslbench.errors import DataError

BLOCK_BYTES = 1 << 18
INT32_MAX = 2**31 - 1

_SPACE, _DIGIT, _OTHER = 0, 1, 2
_KIND = np.full(256, _OTHER, dtype=np.uint8)
_KIND[[9, 10, 11, 12, 13, 32]] = _SPACE
_KIND[48:58] = _DIGIT
_NEWLINE, _ZERO = 10, 48

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class IntLines:
    """Non-blank lines of a text of integers.

    `values`: all integers in order; `counts`: how many on each non-blank line; `numbers`: line
    number of each non-blank line, from 1; `complete`: the text ends with a newline; `padded`: some
    integer is written with leading zeros.
    """

    values: Int32
    counts: Int32
    numbers: Int32
    complete: bool
    padded: bool = False

    @property
    def starts(self) -> npt.NDArray[np.int64]:
        """Position in `values` of the first integer of each line."""
        return np.cumsum(self.counts, dtype=np.int64) - self.counts

    def last_line_note(self) -> str:
        """What to say of the last line where a file holds less than it should."""
        if self.complete or not len(self.numbers):
            return ""
        return f"; line {self.numbers[-1]} has no newline and seems cut"


def read_int_lines(content: bytes, name: str) -> IntLines:
    """Parse `content`; `name` is the file name used in errors.

    CRLF line ends, blank lines, a byte-order mark and a missing final newline are fine. Raises
    DataError naming the line of the first token that is not an integer in 0..2^31-1.
    """
    text: Bytes = np.frombuffer(content, dtype=np.uint8)
    if content.startswith(b"\xef\xbb\xbf"):
        text = text[3:]
    values: list[Int32] = []
    counts: list[Int32] = []
    numbers: list[Int32] = []
    position, line, padded = 0, 1, False
    while position < len(text):
        block = text[position : _block_end(text, position)]
        found, per_line, zeros = _parse_block(block, line, name)
        padded |= zeros
        kept = np.flatnonzero(per_line)
        values.append(found)
        counts.append(per_line[kept])
        numbers.append((kept + line).astype(np.int32))
        line += len(per_line)
        position += len(block)
    return IntLines(
        np.concatenate([np.zeros(0, np.int32), *values]),
        np.concatenate([np.zeros(0, np.int32), *counts]),
        np.concatenate([np.zeros(0, np.int32), *numbers]),
        complete=len(text) == 0 or text[-1] == _NEWLINE,
        padded=padded,
    )


def _block_end(text: Bytes, start: int) -> int:
    """End of the block that starts at `start`: after a newline, or at the end of the text."""
    size = BLOCK_BYTES
    while start + size < len(text):
        newlines = np.flatnonzero(text[start : start + size] == _NEWLINE)
        if len(newlines):
            return start + int(newlines[-1]) + 1
        size *= 2  # one line longer than a block
    return len(text)


def _parse_block(block: Bytes, first_line: int, name: str) -> tuple[Int32, Int32, bool]:
    """Integers of whole lines, how many each line has, and whether some have leading zeros."""
    kind = _KIND[block]
    inside = np.zeros(len(block) + 2, dtype=np.int8)
    np.not_equal(kind, _SPACE, out=inside[1:-1].view(bool))
    steps = np.diff(inside)
    starts = np.flatnonzero(steps == 1).astype(np.int32)
    ends = np.flatnonzero(steps == -1).astype(np.int32)
    odd = int(np.argmax(kind == _OTHER)) if kind.max(initial=0) == _OTHER else -1
    lengths = ends - starts
    tokens = np.zeros(len(starts), dtype=np.int64)
    for power in range(min(int(lengths.max(initial=0)), 10)):
        digits = block[np.maximum(ends - 1 - power, 0)].astype(np.int64) - 48
        digits[lengths <= power] = 0
        tokens += digits * 10**power
    for index in np.flatnonzero(lengths > 10):  # leading zeros or far too large
        token = block[starts[index] : ends[index]].tobytes()
        if token.isdigit():
            tokens[index] = min(int(token[-4000:]), INT32_MAX + 1) if token.strip(b"0") else 0
    over = tokens > INT32_MAX
    large = int(starts[np.argmax(over)]) if over.any() else -1
    if odd >= 0 or large >= 0:
        wrong = min(at for at in (odd, large) if at >= 0)
        _refuse_token(block, starts, ends, wrong, first_line, name)
    newlines = np.flatnonzero(block == _NEWLINE)
    bounds = np.searchsorted(starts, newlines).astype(np.int32)
    if len(block) and block[-1] != _NEWLINE:
        bounds = np.append(bounds, np.int32(len(starts)))
    padded = bool(((block[starts] == _ZERO) & (lengths > 1)).any())
    return tokens.astype(np.int32), np.diff(bounds, prepend=np.int32(0)), padded


def _refuse_token(
    block: Bytes, starts: Int32, ends: Int32, at: int, first_line: int, name: str
) -> NoReturn:
    token_index = int(np.searchsorted(starts, at, side="right")) - 1
    raw = block[starts[token_index] : ends[token_index]].tobytes()
    shown = raw[:20].decode("utf-8", "replace") + ("..." if len(raw) > 20 else "")
    line = first_line + int(np.count_nonzero(block[:at] == _NEWLINE))
    if raw.isdigit():
        problem = f"id {shown} is larger than {INT32_MAX}"
    elif raw[:1] == b"-" and raw[1:].isdigit():
        problem = f"negative id {shown}"
    else:
        problem = f"{shown!r} is not a non-negative integer"
    raise DataError(f"{name}, line {line}: {problem}")
