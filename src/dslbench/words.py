"""Shares and numbers in words: percentages that never round up to 100 %, nouns that agree."""

from __future__ import annotations

import math
from collections.abc import Iterable


def percent(share: float) -> str:
    """A share that somebody chose, with all of its digits: 0.5 is "50%", 0.9995 "99.95%"."""
    return f"{round(100 * share, 9):.12g}%"


def percent_reached(share: float) -> str:
    """A share that came out of a run: one decimal, and one more for each nine beyond 99 %.

    0.5 is "50.0%", 0.998 "99.8%", 0.99949 "99.95%".
    """
    nines = -math.log10(1 - share) if share < 1 else 0.0
    places = max(1, math.floor(round(nines, 9)) - 1)
    return f"{share:.{places}%}"


def number(count: int, noun: str) -> str:
    """`1 run`, `2 runs`, `1,000 runs`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def times(shape: Iterable[int]) -> str:
    """`40 x 64`, of an array's shape; `one number` where it has no axes."""
    return " x ".join(map(str, shape)) or "one number"
