"""Where `tune` searches: ranges that stand with the settings they belong to.

lr: float = Field(gt=0, description="...", json_schema_extra=searched(1e-4, 1e-2, log=True))
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pydantic import BaseModel
from pydantic.config import JsonDict

_KEY = "searched"
Unit = Literal["", "iterations"]


@dataclass(frozen=True)
class Range:
    """Where a setting is searched.

    Attributes:
        low, high: the ends, both included; None where `choices` are.
        log: whether values are drawn evenly in their logarithm.
        whole: whether they are whole numbers.
        unit: what the ends are shares of: the run's iterations; empty: they are values.
        model: whether the setting makes another model, and not only another training.
        least: no end lies below it, however small the unit: at an interval of a step or two DSL explores
            and never trains.
        choices: values in place of a range.
    """

    low: float | None = None
    high: float | None = None
    log: bool = False
    whole: bool = False
    unit: Unit = ""
    model: bool = False
    least: float = 1.0
    choices: tuple[str | int | float | bool, ...] = ()

    def within(self, unit: float) -> Range:
        """The range in values, for a unit of this size."""
        if not self.unit or self.low is None or self.high is None:
            return self
        low, high = max(self.least, self.low * unit), max(self.least, self.high * unit)
        if self.whole:
            low, high = float(round(low)), float(round(high))
        return Range(low, high, self.log, self.whole, "", self.model)

    def __str__(self) -> str:
        if self.choices:
            return " | ".join(map(str, self.choices))
        least = f", at least {self.least:g}" if self.unit and self.least > 1 else ""
        of = f" of the {self.unit}{least}" if self.unit else ""
        return f"{self.low:g} to {self.high:g}{of}{', log' if self.log else ''}"


def searched(
    low: float,
    high: float,
    *,
    log: bool = False,
    unit: Unit = "",
    model: bool = False,
    least: float = 1.0,
) -> JsonDict:
    """A range for `Field(json_schema_extra=...)`; see `Range`."""
    found: JsonDict = {
        "low": low, "high": high, "log": log, "unit": unit, "model": model, "least": least,
    }  # fmt: skip
    return {_KEY: found}


def searched_among(*choices: str | float | bool) -> JsonDict:
    """The same with values in place of a range."""
    return {_KEY: {"choices": list(choices)}}


def ranges_of(model: type[BaseModel]) -> dict[str, Range]:
    """The ranges that the fields of a class declare, by field."""
    found = {}
    for name, field in model.model_fields.items():
        extra = field.json_schema_extra
        declared: Any = extra.get(_KEY) if isinstance(extra, Mapping) else None
        if declared is not None:
            kinds = (field.annotation, *get_args(field.annotation))
            about = {**declared, "choices": tuple(declared.get("choices", ()))}
            found[name] = Range(**about, whole=int in kinds and float not in kinds)
    return found
