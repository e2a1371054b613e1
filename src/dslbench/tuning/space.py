"""Which settings of a run are searched, and where."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from dslbench import registry
from dslbench.ranges import Range, ranges_of
from dslbench.spec import RunSpec

Keys = Literal["own", "all"]
Space = dict[str, Range]
_EDGE = 0.02  # share of a range that is its edge
_DIGITS = 4  # significant ones of a value that is tried


def space_of(
    spec: RunSpec, keys: Keys, settings: Sequence[str], iterations: float
) -> tuple[Space, str]:
    """The keys of `--set` that are searched for a run's method, and what is searched, in words.

    The dense run has those of its backbone. Other methods have their own, and with "all", or where they
    have none, the backbone's too; but not what makes another model, and where no training of their own
    would feel it, none. What the user has set is not searched.

    Args:
        iterations: of a training, for ranges that are shares of it.
    """
    kind = registry.method(spec.method)
    hyper = ranges_of(registry.backbone(spec.backbone).hyper_type)
    own = {f"{spec.method}.{key}": found for key, found in ranges_of(kind.options_type).items()}
    if spec.method == "dense":
        found, words = hyper, f"{spec.backbone}'s own settings"
    else:
        of_training = {key: one for key, one in hyper.items() if not one.model}
        found, words = dict(own), f"{spec.method}'s own settings"
        if keys == "all":
            found, words = own | of_training, f"{spec.method}'s own settings and {spec.backbone}'s"
        elif not own and not kind.needs_dense:
            found = of_training
            words = f"{spec.backbone}'s settings, as {spec.method} has none of its own to search"
        elif not own:
            words = f"nothing: {spec.method} has no setting to search, and its training is dense's"
    fixed = {setting.partition("=")[0].strip() for setting in settings}
    ranges = {key: one.within(iterations) for key, one in found.items() if key not in fixed}
    return {key: one for key, one in ranges.items() if one.choices or one.low != one.high}, words


def values_of(spec: RunSpec, space: Mapping[str, Range]) -> dict[str, Any]:
    """What a run has for the keys of a space, of those within it."""
    found = {}
    for key, one in space.items():
        owner, dot, option = key.partition(".")
        value = spec.options.get(option) if dot else spec.hyper.get(owner)
        if value is not None and _holds(one, value):
            found[key] = value
    return found


def rounded(one: Range, value: Any) -> Any:
    """A value as it is tried: with few digits, and within the range."""
    if one.choices or one.whole or one.low is None or one.high is None or not value:
        return value
    digits = _DIGITS - 1 - math.floor(math.log10(abs(value)))
    return min(max(round(float(value), digits), one.low), one.high)


def at_edge(one: Range, value: Any) -> bool:
    """Whether a value lies at an end of its range, so that a better one may lie beyond."""
    if one.choices or one.low is None or one.high is None or not _holds(one, value):
        return False
    if one.whole and not one.log:
        return value in (one.low, one.high)
    low, high, at = (math.log(x) if one.log else x for x in (one.low, one.high, value))
    return min(at - low, high - at) <= _EDGE * (high - low)


def _holds(one: Range, value: Any) -> bool:
    if one.choices:
        return value in one.choices
    return one.low is not None and one.high is not None and one.low <= value <= one.high
