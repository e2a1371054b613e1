"""Times as seconds since 1970: ISO 8601, epochs in four units, or a format that is given."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from dslbench.data.raw import Labels
from dslbench.errors import DataError

# From 1973 on, and before 2100: no rating and no count is as large.
_FIRST, _LAST = 1e8, 4.2e9
_RECENT = 788_918_400.0, 2_051_222_400.0  # 1995 to 2035
_UNITS = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
_ISO = re.compile(
    r"\d{4}-\d\d-\d\d([T ]\d\d(:?\d\d(:?\d\d([.,]\d+)?)?)?( ?(Z|UTC|[+-]\d\d(:?\d\d)?))?)?"
)
_ZONE = re.compile(r"\d[^-]*( ?(Z|UTC)|[+-]\d\d(:?\d\d)?)$")


def is_time(text: str) -> bool:
    """Whether a text is a date, with or without a time, in ISO 8601."""
    return _ISO.fullmatch(text) is not None


def looks_like_times(values: Sequence[str]) -> bool:
    """Whether all values are ISO times, or all epochs of one unit."""
    if not values:
        return False
    if all(map(is_time, values)):
        return True
    return _unit_of_texts(values) is not None


def are_recent(values: Sequence[str]) -> bool:
    """Whether all values are epochs of 1995 to 2035 in seconds or milliseconds: ids rarely are."""
    return _unit_of_texts(values, *_RECENT) in ("s", "ms")


def _unit_of_texts(values: Sequence[str], *between: float) -> str | None:
    try:
        return unit_of(np.array([float(value) for value in values]), *between)
    except ValueError:
        return None


def unit_of(
    numbers: npt.NDArray[np.float64], first: float = _FIRST, last: float = _LAST
) -> str | None:
    """The unit in which all numbers are times between 1973 and 2100, or others; None where there is none."""
    if not len(numbers) or not np.isfinite(numbers).all():
        return None
    least, most = float(numbers.min()), float(numbers.max())
    for unit, parts in _UNITS.items():
        if first * parts <= least and most <= last * parts:
            return unit
    return None


def seconds(
    labels: Labels, time_format: str | None
) -> tuple[npt.NDArray[np.float64] | None, int, str]:
    """Seconds since 1970 of distinct texts, and how they were read.

    Where one is no time: None, its position, and what is wrong with it. Numbers that are no epochs
    of one unit are kept as they are: only their order counts.
    """
    if time_format in _UNITS:
        values = floats(labels)
        bad = _first(~np.isfinite(values))
        if bad is not None:
            return None, bad, "is not a number"
        return values / _UNITS[time_format], 0, f"{time_format} since 1970, as described"
    if time_format is not None:
        try:
            times = pd.to_datetime(
                pd.Series(list(labels), dtype=object), format=time_format, utc=True, errors="coerce"
            )
        except (ValueError, TypeError) as error:
            raise DataError(f"time_format '{time_format}' is none: {error}") from None
        bad = _first(times.isna().to_numpy())
        if bad is not None:
            return None, bad, f"is not written as '{time_format}'"
        return _since_1970(times), 0, f"'{time_format}'"
    iso = np.array([is_time(label) for label in labels], dtype=bool)
    if iso.all() and len(labels):
        zoned = np.array([_ZONE.search(label[10:]) is not None for label in labels], dtype=bool)
        if zoned.any() and not zoned.all():
            return None, int(np.argmax(zoned != zoned[0])), "has a time zone where others have none"
        times = pd.to_datetime(
            pd.Series(list(labels), dtype=object), utc=True, format="ISO8601", errors="coerce"
        )
        bad = _first(times.isna().to_numpy())
        if bad is not None:
            return None, bad, "is not a time"
        return _since_1970(times), 0, "ISO 8601"
    values = floats(labels)
    bad = _first(~np.isfinite(values))
    if bad is not None:
        if 2 * iso.sum() > len(iso):
            return None, int(np.argmin(iso)), "is not a time as the others are"
        return None, bad, "is not a number"
    unit = unit_of(values)
    if unit is not None:
        return values / _UNITS[unit], 0, f"{unit} since 1970"
    large = values >= _FIRST
    if large.any() and not large.all():
        return None, int(np.argmin(large)), "is no time as the others are"
    if large.any():
        logs = np.log10(values)
        if logs.max() - logs.min() > 2.5:
            odd = int(np.argmax(np.abs(logs - np.median(logs))))
            return None, odd, "has another unit than the others"
    return values, 0, "numbers in ascending order of time"


def floats(labels: Labels) -> npt.NDArray[np.float64]:
    """Numbers of distinct texts; NaN where one is none."""

    def number(text: str) -> float:
        try:
            return float(text)
        except ValueError:
            return math.nan

    return np.array([number(label) for label in labels], dtype=np.float64)


def _first(wrong: npt.NDArray[np.bool_]) -> int | None:
    return int(np.argmax(wrong)) if wrong.any() else None


def _since_1970(times: pd.Series[pd.Timestamp]) -> npt.NDArray[np.float64]:
    epoch = pd.Timestamp(0, tz="UTC")
    return np.asarray((times - epoch) / pd.Timedelta(seconds=1), dtype=np.float64)
