"""Presets: hyper-parameters with their source; a backbone's by name, and files that `tune` writes.

[hyper]                 # of the backbone, all of them
lr = 0.003

[method.dsl]            # what was found for one method
variant = "default"
options = { rho0 = 0.3 }
hyper = {}              # where they are others than the backbone's
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from dslbench import data as datasets
from dslbench import home, paths, registry
from dslbench.errors import DslbenchError, UsageError, did_you_mean, reason_of
from dslbench.output import warn_once

FORMAT = 1
_MARK = "@"  # between a file's path and its digest, in the name that a run keeps
_EARLIER = re.compile(r"-\d+$")


class Tuned(BaseModel):
    """What was found for a method, and what finding it took.

    Attributes:
        variant, options: of the method; options are those away from the variant.
        hyper: hyper-parameters where they are not those of the file.
        sparsity: at which it was tuned.
        validation, published: the metric that chooses, on validation: reached, and with the published
            setting; None where that one failed.
        trials, failed: how many there were, and how many of them came to no end.
        macs, seconds: of training in all trials, counted and measured; None where one is not known.
        runs: ids of the trials in their order.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    variant: str = "default"
    options: dict[str, Any] = {}
    hyper: dict[str, Any] = {}
    sparsity: float = 0.0
    validation: float
    published: float | None = None
    trials: int
    failed: int = 0
    macs: int | None = None
    seconds: float | None = None
    runs: list[str] = []


class PresetFile(BaseModel):
    """A preset in a file of its own.

    Attributes:
        source: where the values come from, one sentence.
        base: the preset that was the published setting.
        data: digests of the pairs that were trained and chosen on.
        epochs: of every trial; `hyper` has those of the whole recipe.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    source: str
    backbone: str
    dataset: str
    protocol: str
    base: str
    data: dict[str, str] = {}
    epochs: int
    seed: int
    hyper: dict[str, Any]
    method: dict[str, Tuned] = {}

    def text(self) -> str:
        """The file, as TOML."""
        content = self.model_dump(mode="json")
        found = ["# Made by `dslbench tune`; --set preset=FILE uses it.\n"]
        found += _lines({k: v for k, v in content.items() if not isinstance(v, dict)})
        found += ["\n[data]\n", *_lines(content["data"]), "\n[hyper]\n", *_lines(content["hyper"])]
        for name, one in content["method"].items():
            found += [f"\n[method.{name}]\n", *_lines(one)]
        return "".join(found)


@dataclass(frozen=True)
class Preset:
    """Values of a preset for a data set and a method, without their sources."""

    name: str
    hyper: dict[str, Any]
    variant: str = "default"
    options: dict[str, Any] = field(default_factory=dict)


def find(
    backbone: str, dataset: str, method: str, name: str | None, *, protocol: str = "default"
) -> Preset:
    """A preset by name or file; None: the backbone's default.

    A text in place of values is another preset's name. A data set that the preset does not name has
    the values of the first of its `by_size` whose `up_to` is not below the number of interactions.

    Raises `UsageError` where there is none, or where a file is another backbone's, damaged, or not the
    one that a run names.
    """
    if name is not None and is_file(name):
        return _of_file(backbone, dataset, method, name)
    found = registry.backbone(backbone).presets()
    asked = name or "default"
    name = found[asked] if isinstance(found.get(asked), str) else asked
    if not isinstance(found.get(name), dict):
        known = [key for key in found if key != "default"]
        raise UsageError(f"unknown preset '{asked}' of {backbone}", did_you_mean(asked, known))
    values = dict(found[name])
    by_name, by_size = values.pop("dataset", {}), values.pop("by_size", [])
    if dataset in by_name:
        values |= by_name[dataset]
    elif by_size:
        size = datasets.size(dataset, protocol=protocol)
        values |= next(tier for tier in by_size if size <= tier.get("up_to", math.inf))
    for about in ("source", "up_to"):
        values.pop(about, None)
    return Preset(name, values)


def is_file(name: str) -> bool:
    """Whether a preset is meant as a file, and not as a recipe of the backbone."""
    return _MARK in name or "/" in name or "\\" in name or name.endswith(".toml")


def read(name: str) -> tuple[PresetFile, str]:
    """A file by its path, with or without its digest; and the path with it.

    Raises `UsageError` where it cannot be read, is no preset, or is not of that digest.
    """
    path, _, wanted = name.rpartition(_MARK) if _MARK in name else (name, "", "")
    kept = home.home() / "presets" / path
    try:
        content = paths.read_bytes(kept if _is_bare(path) and kept.is_file() else Path(path))
    except OSError as error:
        raise UsageError(
            f"preset {path} cannot be read: {error.strerror or error}",
            "dslbench tune makes one; dslbench list settings BACKBONE has the others",
        ) from None
    digest = hashlib.sha256(content).hexdigest()[:8]
    if wanted and wanted != digest:
        raise UsageError(f"preset {path} has changed: its digest is {digest}, not {wanted}")
    return _parsed(path, content), f"{path}{_MARK}{digest}"


@cache
def _parsed(path: str, content: bytes) -> PresetFile:
    try:
        found = PresetFile.model_validate(tomllib.loads(content.decode("utf-8")))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, ValidationError) as error:
        raise UsageError(
            f"{path} is no preset: {reason_of(error)}", "dslbench tune makes one"
        ) from None
    if found.format > FORMAT:
        raise UsageError(f"{path} is a preset of a newer version of dslbench")
    return found


def _of_file(backbone: str, dataset: str, method: str, name: str) -> Preset:
    found, named = read(name)
    path = named.rpartition(_MARK)[0]
    if found.backbone != backbone:
        raise UsageError(
            f"preset {path} was tuned for {found.backbone}, not for {backbone}",
            f"dslbench tune --backbone {backbone}",
        )
    if found.dataset != dataset:
        warn_once(f"preset {path} was tuned on '{found.dataset}', not on '{dataset}'")
    own = found.method.get(method)
    if own is None:
        if found.method and method != "dense":
            warn_once(f"preset {path} has nothing of {method}: its published options are used")
        return Preset(named, found.hyper)
    return Preset(named, found.hyper | own.hyper, own.variant, own.options)


def keep(name: str, content: bytes) -> str:
    """Put a file where it is found by its name from any folder; returns the name, which has a digest."""
    digest = hashlib.sha256(content).hexdigest()[:8]
    found = f"{Path(name).stem}-{digest}.toml"
    home.write_atomic(home.home() / "presets" / found, content)
    return found


def _is_bare(path: str) -> bool:
    return Path(path).name == path and not Path(path).exists()


def of_identity(name: str) -> str:
    """What of a preset's name decides a run: of a file nothing, as its values stand in the run.

    A preset that was changed stays as it was under its name and a number, `fast-1`; its runs are those
    that were made by its name then.
    """
    return "tuned" if is_file(name) else _EARLIER.sub("", name)


def states(backbone: str, name: str) -> list[str]:
    """A preset and what there is of its earlier states, by name."""
    same = [key for key in registry.backbone(backbone).presets() if of_identity(key) == name]
    return [name, *(key for key in same if key != name)]


def state_of(spec: Mapping[str, Any]) -> str:
    """The state of a run's preset, by the values in its record's `spec`: `fast`, or `fast-1`.

    What none has, or what cannot be looked up as its data are not here, keeps the name.
    """
    name = str(spec["preset"])
    try:
        kind = registry.backbone(spec["backbone"]).hyper_type
        known = states(spec["backbone"], name)
        if len(known) == 1:
            return name
        has = kind.added | spec["hyper"] | {"epochs": spec["full_epochs"]}
        given = {*spec["changed_hyper"], *kind.follows_epochs}
        for state in known:
            values = _in_full(spec["backbone"], spec["dataset"], spec["protocol"], state)
            if all(has.get(key) == value for key, value in values.items() if key not in given):
                return state
    except DslbenchError:
        pass
    return name


@cache
def _in_full(backbone: str, dataset: str, protocol: str, name: str) -> dict[str, Any]:
    """A recipe's values, with those that came later; many records ask for the same few."""
    found = find(backbone, dataset, "dense", name, protocol=protocol)
    return registry.backbone(backbone).hyper_type.added | found.hyper


def is_earlier(name: str) -> bool:
    """Whether a preset is named as what it was before a change."""
    return of_identity(name) not in (name, "tuned")


def _lines(values: Mapping[str, Any]) -> list[str]:
    return [f"{key} = {_toml(value)}\n" for key, value in values.items() if value is not None]


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(line.strip() for line in _lines(value)) + " }" if value else "{}"
    return json.dumps(value, ensure_ascii=False)
