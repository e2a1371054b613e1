"""What other packages bring under an entry point group; one that fails hurts nobody else."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from dslbench.errors import UsageError


@cache
def points(group: str) -> dict[str, EntryPoint]:
    """The entry points of a group by name; of two with one name the first counts."""
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=group):
        found.setdefault(point.name, point)
    return found


def load(point: EntryPoint) -> Any:
    """What an entry point names.

    Raises `UsageError` in one line where its package cannot be imported or has no such thing.
    """
    try:
        return point.load()
    except (Exception, SystemExit) as error:  # whatever a module does when it is imported
        reason = " ".join(str(error).split()) or "no reason given"
        raise UsageError(
            f"the plug-in '{point.name}' ({point.value}) cannot be loaded: "
            f"{type(error).__name__}: {reason[:200]}",
            "mend or uninstall the package that brings it",
        ) from None
