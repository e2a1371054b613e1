"""Finds stored forms by name, and what several of them need."""

from __future__ import annotations

import inspect
from functools import cache
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any

from dslbench import plugins
from dslbench.errors import UsageError
from dslbench.tables.base import Stored

GROUP = "dslbench.forms"
_PACKAGE = "dslbench.tables.stored"


@cache
def _own() -> dict[str, str]:
    """Module names of this package's forms."""
    names = (Path(str(entry)).stem for entry in files(_PACKAGE).iterdir())
    return {
        name: f"{_PACKAGE}.{name}"
        for name in names
        if name not in ("find", "values") and not name.startswith("_")
    }


def forms() -> list[str]:
    """Names of all forms that are known here."""
    return sorted({*_own(), *plugins.points(GROUP)})


def find(form: Any) -> type[Stored]:
    """The class of a form: a file of this package, else an entry point of another's.

    Raises `UsageError` for a form nobody here knows, or where its package is broken.
    """
    found: Any
    if isinstance(form, str) and form in _own():
        module = import_module(_own()[form])
        own = (c for _, c in inspect.getmembers(module, inspect.isclass) if issubclass(c, Stored))
        return next(c for c in own if c.__dict__.get("form") == form)
    if isinstance(form, str) and form in plugins.points(GROUP):
        found = plugins.load(plugins.points(GROUP)[form])
        if not (inspect.isclass(found) and issubclass(found, Stored)):
            raise UsageError(
                f"the plug-in for form '{form}' is no stored form",
                "name a subclass of dslbench.tables.Stored as the entry point",
            )
        return found
    raise UsageError(
        f"form '{form}' of a table is not known here (known are {', '.join(forms())})",
        "install the package that brings it, or the version of dslbench that wrote the file",
    )
