"""Published results as typed records, read from `published.toml`."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from dslbench import registry
from dslbench.errors import UsageError

_PRINTED = re.compile(r"([+-]?\d+(?:\.(\d+))?)(?:e([+-]?\d+))?M?(?: \((\.\d+)\))?")


@dataclass(frozen=True)
class Figure:
    """A number as printed.

    Attributes:
        text: as printed, without the deviation.
        value: what it says.
        step: one unit of its last printed digit.
        spread: standard deviation (or error, where the source's note says so) where printed.
    """

    text: str
    value: float
    step: float
    spread: float | None = None

    @classmethod
    def parse(cls, printed: str) -> Figure:
        """Read "4.00e+19", "2103M", "+49.9" or "0.0642 (.0001)"; raises `ValueError` otherwise."""
        found = _PRINTED.fullmatch(printed)
        if found is None:
            raise ValueError(f"not a printed number: {printed!r}")
        mantissa, decimals, exponent, spread = found.groups()
        scale = int(exponent or 0)
        return cls(
            text=printed.partition(" ")[0],
            value=float(f"{mantissa}e{scale}"),
            step=float(f"1e{scale - len(decimals or '')}"),
            spread=None if spread is None else float(spread),
        )


class Setting(BaseModel):
    """What a result was measured on; None where the source does not say."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    backbone: str
    method: str
    embedding_size: int | None = None
    layers: int | None = None
    sparsity: float | None = None
    epochs: int | None = None
    decay: str | None = None


@dataclass(frozen=True)
class Result:
    """One published result: a row of a table.

    Attributes:
        source: short name; `citation` says where to find it.
        protocols: dslbench protocols whose runs are comparable.
        verified: whether the values were read in the source itself.
        note: what a reader must know to compare.
        values: printed numbers by quantity; a quantity that is not printed is not there.
    """

    source: str
    citation: str
    protocols: tuple[str, ...]
    verified: bool
    note: str
    setting: Setting
    values: dict[str, Figure]


class _Block(BaseModel):
    model_config = ConfigDict(extra="forbid")

    source: str
    citation: str
    protocols: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    all: dict[str, str] = Field(default_factory=dict)
    verified: bool = True
    note: str = ""

    def results(self) -> list[Result]:
        return [self._result(row) for row in self.rows]

    def _result(self, row: tuple[str, ...]) -> Result:
        cells: dict[str, Any] = dict(zip(self.columns, row, strict=True))
        setting = {k: cells.pop(k) for k in self.columns if k in Setting.model_fields}
        return Result(
            self.source,
            self.citation,
            self.protocols,
            self.verified,
            self.note,
            Setting.model_validate(self.all | setting),
            {name: Figure.parse(text) for name, text in cells.items() if text},
        )


@cache
def results() -> tuple[Result, ...]:
    """Every published result, in the order of the file."""
    text = files("dslbench.report").joinpath("published.toml").read_text(encoding="utf-8")
    blocks = [_Block.model_validate(block) for block in tomllib.loads(text)["block"]]
    return tuple(result for block in blocks for result in block.results())


def of(source: str) -> tuple[Result, ...]:
    """The results of one source, for example "DSL, Table 2"."""
    return tuple(result for result in results() if result.source == source)


def find(source: str, quantity: str, **setting: Any) -> Figure:
    """The one value of a source that has this setting; raises `LookupError` for none or several."""
    wanted = setting.items()
    found = [
        result.values[quantity]
        for result in of(source)
        if quantity in result.values and all(getattr(result.setting, k) == v for k, v in wanted)
    ]
    if len(found) != 1:
        raise LookupError(f"{len(found)} values of {quantity} in {source} with {setting}")
    return found[0]


def label(kind: str, name: str) -> str:
    """How a backbone or method is written in tables; a name that is not ours stays as it is."""
    try:
        found = registry.backbone(name) if kind == "backbone" else registry.row(name)
    except UsageError:
        return name
    return found.label
