"""Finds methods and backbones by name: the files of their packages, then entry points.

Names and one-line descriptions are read without importing anything, so listing is cheap.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from functools import cache
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dslbench.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from dslbench.backbones.base import Backbone
    from dslbench.methods.base import Method

_KINDS = {"method": "dslbench.methods", "backbone": "dslbench.backbones"}


@cache
def _known(kind: str) -> dict[str, str]:
    """Name to "module" (own files) or "module:Class" (entry points of other packages)."""
    package = _KINDS[kind]
    own = (
        Path(str(entry)).stem for entry in files(package).iterdir() if entry.name.endswith(".py")
    )
    known = {
        name: f"{package}.{name}"
        for name in sorted(own)
        if name != "base" and not name.startswith("_")
    }
    for point in entry_points(group=package):
        if point.name in known:
            raise UsageError(f"{kind} '{point.name}' of {point.value} is already defined")
        known[point.name] = point.value
    return known


def names(kind: str) -> list[str]:
    """Known names of a kind ("method" or "backbone"); dense comes first among the methods."""
    return sorted(_known(kind), key=lambda name: (name != "dense", name))


def summary(kind: str, name: str) -> str:
    """First line of the module's docstring, read from its source without importing it."""
    target = _known(kind)[name].partition(":")[0]
    if not target.startswith(_KINDS[kind]):
        return f"from {target}"
    source = files(_KINDS[kind]).joinpath(f"{name}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def check_name(kind: str, name: str) -> None:
    """Raise `UsageError` with the closest match for an unknown name."""
    if name not in _known(kind):
        raise UsageError(f"unknown {kind} '{name}'", did_you_mean(name, _known(kind)))


def _load(kind: str, name: str, base: type[Any]) -> Any:
    check_name(kind, name)
    module_name, _, class_name = _known(kind)[name].partition(":")
    module = importlib.import_module(module_name)
    if class_name:
        found = getattr(module, class_name)
    else:
        own = (c for _, c in inspect.getmembers(module, inspect.isclass) if issubclass(c, base))
        found = next(c for c in own if c.__dict__.get("name") == name)
    if not issubclass(found, base):
        raise UsageError(f"{kind} '{name}' ({module_name}) is not a {base.__name__}")
    return found


def method(name: str) -> type[Method]:
    """The class of a method."""
    from dslbench.methods.base import Method

    found: type[Method] = _load("method", name, Method)
    return found


def backbone(name: str) -> type[Backbone]:
    """The class of a backbone."""
    from dslbench.backbones.base import Backbone

    found: type[Backbone] = _load("backbone", name, Backbone)
    return found
