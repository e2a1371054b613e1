"""Finds methods, backbones and references by name: the files of their packages, then entry points.

Names and one-line descriptions of what is in this package are read without importing anything, so
listing is cheap. What another package brings under the entry point group `dslbench.methods`,
`dslbench.backbones` or `dslbench.references` is imported when it is used; what cannot be imported is one
line and hurts nobody else.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dslbench import plugins
from dslbench.errors import UsageError, did_you_mean
from dslbench.output import warn_once

if TYPE_CHECKING:
    from dslbench.backbones.base import Backbone
    from dslbench.methods.base import Method
    from dslbench.references.base import Reference

Kind = Literal["method", "backbone", "reference"]
KINDS: tuple[Kind, ...] = ("backbone", "method", "reference")
# What stands in a spec for the backbone of a run that has none.
NO_BACKBONE = "none"


def _package(kind: Kind) -> str:
    return f"dslbench.{kind}s"


@cache
def _own(kind: Kind) -> tuple[str, ...]:
    """Names of the files of this package."""
    entries = (Path(str(entry)) for entry in files(_package(kind)).iterdir())
    names = (path.stem for path in entries if path.suffix == ".py")
    return tuple(sorted(n for n in names if n != "base" and not n.startswith("_")))


@cache
def _foreign(kind: Kind) -> tuple[str, ...]:
    """Names that other packages bring; one that is taken already is left out with a line."""
    found = []
    for name, point in plugins.points(_package(kind)).items():
        if name in _own(kind):
            warn_once(f"the plug-in {kind} '{name}' ({point.value}) is left out: the name is taken")
        else:
            found.append(name)
    return tuple(found)


def names(kind: Kind) -> list[str]:
    """Known names of a kind; dense comes first among the methods."""
    return sorted([*_own(kind), *_foreign(kind)], key=lambda name: (name != "dense", name))


def working(kind: Kind) -> list[str]:
    """The names without those of plug-ins that cannot be loaded, each of which is a line."""
    found = []
    for name in names(kind):
        try:
            if name in _foreign(kind):
                _load(kind, name)
        except UsageError as error:
            warn_once(f"{error.message}; left out ({error.hint})" if error.hint else error.message)
        else:
            found.append(name)
    return found


def usual_methods() -> list[str]:
    """Methods that a comparison has where none are named."""
    return [name for name in working("method") if method(name).usual]


def summary(kind: Kind, name: str) -> str:
    """First line of the module's docstring, read from its source without importing it."""
    if name in _foreign(kind):
        return f"from {plugins.points(_package(kind))[name].value.partition(':')[0]}"
    source = files(_package(kind)).joinpath(f"{name}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def check_name(kind: Kind, name: str) -> None:
    """Raise `UsageError` with the closest match for an unknown name."""
    if name not in names(kind):
        # A reference goes where a method does.
        meant = [*names(kind), *(names("reference") if kind == "method" else ())]
        raise UsageError(f"unknown {kind} '{name}'", did_you_mean(name, meant))


def _load(kind: Kind, name: str) -> Any:
    check_name(kind, name)
    base: Any = getattr(importlib.import_module(f"{_package(kind)}.base"), kind.capitalize())
    if name in _foreign(kind):
        point = plugins.points(_package(kind))[name]
        found: Any = plugins.load(point)
        if not (
            inspect.isclass(found)
            and issubclass(found, base)
            and getattr(found, "name", "") == name
        ):
            raise UsageError(
                f"the plug-in {kind} '{name}' ({point.value}) is no {base.__name__} of that name",
                f"name a subclass of {base.__name__} with name = '{name}' as the entry point",
            )
        return found
    module = importlib.import_module(f"{_package(kind)}.{name}")
    own = (c for _, c in inspect.getmembers(module, inspect.isclass) if issubclass(c, base))
    return next(c for c in own if c.__dict__.get("name") == name)


def method(name: str) -> type[Method]:
    """The class of a method; raises `UsageError` for a name or a plug-in that is none."""
    found: type[Method] = _load("method", name)
    return found


def backbone(name: str) -> type[Backbone]:
    """The class of a backbone; raises `UsageError` for a name or a plug-in that is none."""
    found: type[Backbone] = _load("backbone", name)
    return found


def is_reference(name: str) -> bool:
    """Whether a run's method is a reference: a model of its own, without a backbone or a training loop."""
    return name in names("reference")


def reference(name: str) -> type[Reference]:
    """The class of a reference; raises `UsageError` for a name or a plug-in that is none."""
    found: type[Reference] = _load("reference", name)
    return found


def row(name: str) -> type[Method] | type[Reference]:
    """The class of what a row of a table is: a method, or a reference; raises `UsageError` for neither."""
    return reference(name) if is_reference(name) else method(name)
