"""Plans: grids of runs in a TOML file, for `compare --plan`.

    title = "DSL's decay schedules on Gowalla"
    table = "4"                  # what is shown at the end; or figure = "2"

    [[grid]]
    dataset = "gowalla"
    backbone = ["lightgcn", "ultragcn"]
    method = "dsl"
    sparsity = [0.5, 0.8]
    seeds = 3
    set = { "dsl.decay" = ["cosine", "linear", "none"], lr = 0.001 }

A list is a choice: a grid is every combination (a setting that is itself a list stands in another
list: `hidden = [[32, 16]]`). What a grid does not name has the value that `compare` would use; what is
named on the command line replaces what the plan says.
"""

from __future__ import annotations

import itertools
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from dslbench import paths, registry
from dslbench.data import catalog, library, loading
from dslbench.errors import UnsuitableError, UsageError, did_you_mean
from dslbench.spec import RunSpec, check_length, check_used, resolve

_FOLDER = files("dslbench.runs") / "plans"

T = TypeVar("T")
_AXES = ("dataset", "backbone", "method", "sparsity", "epochs", "scale", "protocol")
Values = Annotated[list[T], Field(min_length=1)]


class Grid(BaseModel):
    """Choices of every field; the runs are their combinations. None: as `compare` would choose."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    dataset: Values[str] | None = None
    backbone: Values[str]
    method: Values[str] | None = None
    sparsity: Values[Annotated[float, Field(ge=0, lt=1, strict=True)]] = [0.5]
    seeds: int = Field(default=1, ge=1, strict=True)
    epochs: Values[Annotated[int, Field(ge=1, strict=True)]] | None = None
    scale: Values[str] | None = None
    protocol: Values[str] = ["default"]
    settings: dict[str, Values[Any]] = Field(default={}, alias="set")

    @field_validator(*_AXES, mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return value if isinstance(value, list) else [value]

    @field_validator("settings", mode="before")
    @classmethod
    def _lists(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {k: v if isinstance(v, list) else [v] for k, v in value.items()}

    @field_validator("scale")
    @classmethod
    def _one_length(cls, value: Any, others: ValidationInfo) -> Any:
        if value is not None and others.data.get("epochs") is not None:
            raise ValueError("leave it out or leave out epochs: both set their number")
        return value

    @field_validator("settings")
    @classmethod
    def _of_its_methods(cls, value: dict[str, Any], others: ValidationInfo) -> dict[str, Any]:
        methods = others.data.get("method")
        for key in value:
            owner, dot, _ = key.partition(".")
            known = [*registry.names("method"), *registry.names("reference")]
            if dot and methods and owner not in methods and owner in known:
                raise ValueError(f"'{key}' has no effect without method '{owner}'")
        return value


class Plan(BaseModel):
    """Grids of runs, and the table or figure that shows them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    table: str | None = None
    figure: str | None = None
    grid: list[Grid] = Field(min_length=1)

    @field_validator("figure")
    @classmethod
    def _one_is_shown(cls, value: Any, others: ValidationInfo) -> Any:
        if value is not None and others.data.get("table") is not None:
            raise ValueError("leave it out or leave out table: a plan ends in one of them")
        return value


@dataclass(frozen=True)
class PlanFile:
    """A plan and its text, so that an error can name the line."""

    name: str
    text: str
    plan: Plan

    def error(self, message: str, hint: str | None, grid: int = 0) -> UsageError:
        """The error, at the line that holds what its message quotes."""
        if not self.text:
            return UsageError(message, hint)
        return UsageError(f"{self.name}, line {_line(self.text, message, grid)}: {message}", hint)


def names() -> list[str]:
    """Plans that come with dslbench."""
    found = (Path(str(entry)) for entry in _FOLDER.iterdir())
    return sorted(path.stem for path in found if path.suffix == ".toml")


def read(name: str) -> PlanFile:
    """A plan by its name or its file.

    Raises `UsageError` for one that does not exist, or with the line of what is wrong in it.
    """
    path = Path(name)
    if name in names():
        text = _FOLDER.joinpath(f"{name}.toml").read_text(encoding="utf-8")
    elif path.suffix == ".toml" or paths.kind(path) != "nothing":
        try:
            text = paths.read_text(path)
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not a text file"
            raise UsageError(
                f"plan {path} cannot be read: {reason}", "dslbench list plans"
            ) from None
    else:
        raise UsageError(f"unknown plan '{name}'", did_you_mean(name, names()))
    found = parse(name, text)
    return found if name in names() else _beside(found, path.parent)


def _beside(file: PlanFile, folder: Path) -> PlanFile:
    """The plan with paths of data sets as seen from here; in the plan they are relative to it."""

    def seen(name: str) -> str:
        known = name in catalog() or name in library.stored_names()
        if known or Path(name).is_absolute():
            return name
        there = folder / name
        return str(there) if loading.looks_like_path(name) or there.exists() else name

    grids = [
        grid.model_copy(update={"dataset": [seen(name) for name in grid.dataset]})
        if grid.dataset is not None
        else grid
        for grid in file.plan.grid
    ]
    return PlanFile(file.name, file.text, file.plan.model_copy(update={"grid": grids}))


def of_command_line(backbone: str) -> PlanFile:
    """The plan of a `compare` without one: all that its options do not say."""
    grid = Grid.model_validate({"backbone": backbone})
    return PlanFile("", "", Plan(title="compare", table="3", grid=[grid]))


def parse(name: str, text: str) -> PlanFile:
    """Parse a plan; `name` stands in error messages."""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        where = re.search(r"line (\d+)", str(error))
        line = where[1] if where else str(text.count("\n") + 1)
        reason = re.sub(r" \(at .*\)$", "", str(error)).lower()
        raise UsageError(f"{name}, line {line}: not valid TOML: {reason}") from None
    try:
        return PlanFile(name, text, Plan.model_validate(content))
    except ValidationError as error:
        raise _invalid(name, text, error) from None


def check_datasets(file: PlanFile) -> None:
    """Raise `UsageError` where the plan names a data set that nobody knows."""
    for number, grid in enumerate(file.plan.grid):
        for name in grid.dataset or []:
            if not loading.looks_like_path(name):  # what is wrong with a file is not the plan's
                try:
                    loading.locate(name)
                except UsageError as error:
                    raise file.error(error.message, error.hint, number) from None


def _invalid(name: str, text: str, error: ValidationError) -> UsageError:
    # A misspelt key is unknown, and what it should have been is missing: the first says more.
    first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    place = [str(part) for part in first["loc"] if not isinstance(part, int)]
    number = next((part for part in first["loc"] if isinstance(part, int)), 0)
    key = place[-1] if place else "title"
    inside = "grid" in place[:-1] or len(place) > 1
    if first["type"] == "extra_forbidden":
        known = ["set", *(k for k in Grid.model_fields if k != "settings")] if inside else [
            *Plan.model_fields
        ]  # fmt: skip
        hint = did_you_mean(key, known)
        if inside and not hint.startswith("did you mean"):
            hint = f"settings of a model or method go into set = {{ {key} = ... }}"
        message = f"unknown key '{key}'"
    elif first["type"] == "missing":
        message, hint = f"'{key}' is missing", None
    elif first["type"] == "too_short":
        message, hint = f"'{key}' is an empty list", f"name a value, or leave {key} out"
    elif first["type"] == "value_error":
        message, hint = f"'{key}': {first['ctx']['error']}", None
    else:
        reason = first["msg"].lower()
        message, hint = f"'{key}': {reason} (got {first['input']!r})", None
        if first["type"] in ("float_type", "int_type") and isinstance(first["input"], str):
            hint = "numbers stand without quotes"
    line = _line(text, message, int(number) if "grid" in place else -1)
    return UsageError(f"{name}, line {line}: {message}", hint)


def _line(text: str, message: str, grid: int) -> int:
    """The first line (of a grid's part; -1: of the whole) with a word that the message quotes.

    A grid starts at its n-th [[grid]]; where no such word is found, that line is meant.
    """
    lines = text.splitlines()
    heads = [n for n, line in enumerate(lines) if re.match(r"\s*\[\[\s*grid\s*\]\]", line)]
    start = heads[grid] if 0 <= grid < len(heads) else 0
    end = heads[grid + 1] if 0 <= grid < len(heads) - 1 else len(lines)
    for word in re.findall(r"'([^']+)'", message):
        for number in range(start, end):
            code = lines[number].partition("#")[0]
            if re.search(rf"(?<![\w.-]){re.escape(word)}(?![\w.-])", code):
                return number + 1
            if re.search(rf"[\w-]+\.{re.escape(word)}\b", code):  # an option of a method
                return number + 1
    return start + 1


@dataclass(frozen=True)
class Chosen:
    """What the command line names, in place of the plan; None or empty: as the plan says."""

    dataset: str | None = None
    backbone: str | None = None
    method: Sequence[str] | None = None
    sparsity: Sequence[float] | None = None
    seeds: int | None = None
    epochs: int | None = None
    scale: str | None = None
    protocol: str | None = None
    settings: Sequence[str] = ()
    references: bool = False  # whether every reference is run beside the methods

    @property
    def methods_are_references(self) -> bool:
        """Whether nothing that is named needs a backbone."""
        if not self.method:
            return self.references
        return all(registry.is_reference(name) for name in self.method)


def runs(file: PlanFile, chosen: Chosen, default_dataset: str) -> tuple[list[RunSpec], list[str]]:
    """Every run of a plan, each once, in order; and sentences on what was left out.

    Raises `UsageError` at the line of a value that does not exist.
    """
    check_length(chosen.epochs, chosen.scale)
    specs: dict[str, RunSpec] = {}
    left_out: list[str] = []
    for number, grid in enumerate(file.plan.grid):
        try:
            for spec in _grid_runs(grid, chosen, default_dataset, left_out):
                specs[spec.model_dump_json()] = spec
        except UsageError as error:
            raise file.error(error.message, error.hint, number) from None
    named = [_methods(grid, chosen) for grid in file.plan.grid]
    check_used(chosen.settings, itertools.chain(*named))
    return list(specs.values()), list(dict.fromkeys(left_out))


def _methods(grid: Grid, chosen: Chosen) -> list[str]:
    """The methods of a grid, references last."""
    found = [*(chosen.method or grid.method or registry.usual_methods())]
    more = registry.working("reference") if chosen.references else []
    return found + [name for name in more if name not in found]


def _grid_runs(
    grid: Grid, chosen: Chosen, default_dataset: str, left_out: list[str]
) -> Iterator[RunSpec]:
    def one(value: Any, planned: Any, fallback: list[Any]) -> list[Any]:
        if value is not None and value != ():
            return list(value) if isinstance(value, list | tuple) else [value]
        return list(planned) if planned is not None else fallback

    backbones = one(chosen.backbone, grid.backbone, [])
    for backbone, method in itertools.product(backbones, _methods(grid, chosen)):
        for dataset, protocol, scale, epochs, settings, sparsity, seed in itertools.product(
            one(chosen.dataset, grid.dataset, [default_dataset]),
            one(chosen.protocol, grid.protocol, []),
            one(chosen.scale, grid.scale, [None]),
            [None] if chosen.scale else one(chosen.epochs, grid.epochs, [None]),
            _settings(grid.settings, method),
            one(chosen.sparsity, grid.sparsity, []),
            range(chosen.seeds or grid.seeds),
        ):
            try:
                spec = resolve(
                    dataset=dataset, backbone=backbone, method=method, sparsity=sparsity, seed=seed,
                    epochs=chosen.epochs or epochs, scale=scale, protocol=protocol,
                    settings=[*settings, *chosen.settings],
                )  # fmt: skip
            except UnsuitableError as error:
                if chosen.method:  # it was asked for by name
                    raise
                left_out.append(f"{method} at sparsity {sparsity:g} ({error.message})")
            else:
                yield spec


def _settings(choices: Mapping[str, Sequence[Any]], method: str) -> Iterator[list[str]]:
    """Every combination as KEY=VALUE; options of other methods don't multiply a method's runs."""
    own = {k: v if k.partition(".")[0] == method or "." not in k else v[:1]
           for k, v in choices.items()}  # fmt: skip
    for values in itertools.product(*own.values()):
        yield [f"{k}={json.dumps(v)}" for k, v in zip(own, values, strict=True)]
