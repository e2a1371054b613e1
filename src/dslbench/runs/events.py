"""Events of runs for other packages: entry point group `dslbench.events`, a function that takes one.

In the process of the command, not in the workers:

    {"event": "start", "run": ID, "spec": {...}}
    {"event": "epoch", "run": ID, "phase": "train", "epoch": 3, "epochs": 30, "recall@20": 0.1, ...}
    {"event": "end", "run": ID, "record": {...}, "failed": None}

An epoch has the metrics only where it was evaluated. A run that failed has no record, and the reason in
`failed`; so has one that another process has taken over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dslbench import plugins
from dslbench.errors import UsageError, reason_of
from dslbench.spec import RunSpec

Event = dict[str, Any]
Listener = Callable[[Event], None]
GROUP = "dslbench.events"


class Listeners:
    """Those who listen; one that cannot be loaded, or fails, is a line and hears no more."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._known: dict[str, Listener] = {}
        for name, point in plugins.points(GROUP).items():
            try:
                found = plugins.load(point)
            except UsageError as error:
                warn(f"{error.message}; left out ({error.hint})")
                continue
            if callable(found):
                self._known[name] = found
            else:
                warn(f"the plug-in '{name}' ({point.value}) is no function of events; left out")

    def start(self, run_id: str, spec: RunSpec) -> None:
        """A run begins."""
        self._tell({"event": "start", "run": run_id, "spec": spec.model_dump(mode="json")})

    def epoch(self, run_id: str, event: Event) -> None:
        """A run's worker says something; epochs are handed on."""
        if event.get("event") == "epoch":
            self._tell({"event": "epoch", "run": run_id, **event})

    def end(self, run_id: str, record: Event | None, failed: str | None) -> None:
        """A run that had begun is stored, has failed, or is left to others."""
        self._tell({"event": "end", "run": run_id, "record": record, "failed": failed})

    def _tell(self, event: Event) -> None:
        for name, listener in list(self._known.items()):
            try:
                listener(event)
            except Exception as error:  # whatever it does is its own affair, not the run's
                del self._known[name]
                self._warn(
                    f"the plug-in '{name}' failed and hears no more events: "
                    f"{type(error).__name__}: {reason_of(error)}"
                )
