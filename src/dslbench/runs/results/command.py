"""A run as the command that makes it, there and back."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import Any

from dslbench import presets, registry
from dslbench.errors import UsageError
from dslbench.spec import RunSpec, resolve

_START = ["dslbench", "train"]
_OPTIONS = ("dataset", "backbone", "method", "sparsity", "seed", "epochs", "protocol", "set")


def command_of(spec: RunSpec) -> str:
    """The `dslbench train` that makes a run; `spec_of` reads it.

    Settings that follow from the preset are left out. Raises `UsageError` where no command makes the
    run: its method is not here, or a setting has a value that no option can give.
    """
    changed = dict(_changed(spec))
    for preset in _states(spec):
        command = _written(spec, changed | preset)
        made = spec_of(command)
        if made.decisive() == spec.decisive() and made.full_epochs == spec.full_epochs:
            return command
    # Epochs chosen by cost, or a preset that has changed since: what differs is named.
    made = spec_of(_written(spec, changed))
    then = made.hyper_in_full
    changed |= {k: v for k, v in spec.hyper_in_full.items() if then.get(k) != v}
    changed |= {
        f"{spec.method}.{k}": v for k, v in spec.options.items() if made.options.get(k) != v
    }
    command = _written(spec, changed)
    if spec_of(command).decisive() != spec.decisive():
        raise UsageError(f"{spec.title}: no command of today makes this run", "make it again")
    return command


def _states(spec: RunSpec) -> list[dict[str, Any]]:
    """The run's preset as it is now, and as it was."""
    if spec.is_reference:
        return [{}]
    return [{"preset": name} for name in presets.states(spec.backbone, spec.preset)]


def _changed(spec: RunSpec) -> Iterator[tuple[str, Any]]:
    if not spec.is_reference:
        yield "preset", spec.preset
    if spec.variant != "default":
        yield f"{spec.method}.variant", spec.variant
    yield from spec.changed_hyper.items()
    yield from ((f"{spec.method}.{key}", value) for key, value in spec.changed_options.items())


def _written(spec: RunSpec, settings: dict[str, Any]) -> str:
    words = [*_START, "--dataset", spec.dataset]
    words += [] if spec.is_reference else ["--backbone", spec.backbone]
    words += ["--method", spec.method]
    if not spec.is_reference and registry.method(spec.method).uses_sparsity:
        words += ["--sparsity", repr(spec.sparsity)]
    words += ["--seed", str(spec.seed)]
    words += [] if spec.is_reference else ["--epochs", str(spec.epochs)]
    words += ["--protocol", spec.protocol]
    for key, value in settings.items():
        text = value if isinstance(value, str) else json.dumps(value)
        words += ["--set", f"{key}={text}"]
    return shlex.join(words)


def spec_of(command: str) -> RunSpec:
    """The run that a command of `command_of` makes; nothing is carried out.

    Raises `UsageError` for any other command, and as `dslbench.spec.resolve` does.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UsageError(f"its command is none: {error}") from None
    if words[:2] != _START or len(words) % 2:
        raise UsageError("its command is not of the form dslbench train --OPTION VALUE ...")
    given: dict[str, str] = {}
    settings = []
    for option, value in zip(words[2::2], words[3::2], strict=True):
        name = option.removeprefix("--")
        if not option.startswith("--") or name not in _OPTIONS or name in given:
            raise UsageError(f"its command has an option that is none here, or twice: {option}")
        if name == "set":
            settings.append(value)
        else:
            given[name] = value
    method = given.get("method", "dense")
    if registry.is_reference(method):  # it has neither
        given |= {"backbone": "", "epochs": "1"}
    try:
        return resolve(
            dataset=given["dataset"], backbone=given["backbone"], method=method,
            sparsity=float(given.get("sparsity", 0.5)), seed=int(given.get("seed", 0)),
            epochs=int(given["epochs"]),
            protocol=given.get("protocol", "default"), settings=settings,
        )  # fmt: skip
    except KeyError as error:
        raise UsageError(f"its command lacks --{error.args[0]}") from None
    except ValueError as error:
        raise UsageError(f"its command has a value that is no number: {error}") from None
