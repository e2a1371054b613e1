"""Every number a table can show, declared once: its name, unit, direction, source and format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from dslbench.evaluation.metrics import METRICS

Record = Mapping[str, Any]
Provenance = Literal["counted", "measured"]


@dataclass(frozen=True)
class Column:
    """A quantity of a run.

    Attributes:
        title: header, with the unit.
        path: keys of the value in a record; a missing value is None and shown as "-".
        better: which direction is better; None where best values are not marked.
        provenance: how the number came about.
        show: formats a value.
    """

    title: str
    path: tuple[str, ...]
    better: Literal["high", "low"] | None
    provenance: Provenance
    show: Callable[[float], str]

    def value(self, record: Record) -> float | None:
        """The run's value, or None when it was not counted or measured."""
        node: Any = record
        for key in self.path:
            node = node.get(key) if isinstance(node, Mapping) else None
        return float(node) if isinstance(node, int | float) else None


def seconds(value: float) -> str:
    """A duration at the precision a reader needs."""
    if value < 100:
        return f"{value:.1f} s"
    if value < 100 * 60:
        return f"{value / 60:.1f} min"
    return f"{value / 3600:.1f} h"


def mebibytes(value: float) -> str:
    """Bytes as MiB."""
    return f"{value / 2**20:.0f} MiB"


_MEASURED = ("cost", "measured")
_PAPER = ("cost", "counted", "paper")
_EXACT = ("cost", "counted", "exact")


def size(value: float) -> str:
    """Bytes in the unit a reader needs."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if value >= unit:
            return f"{value / unit:.1f} {name}"
    return f"{value:.0f} B"


COLUMNS: dict[str, Column] = {
    "params": Column(
        "Table params", ("budget", "table_params"), None, "counted", lambda v: f"{v:,.0f}"
    ),
    "bytes": Column("Bytes", ("budget", "table_bytes"), "low", "counted", size),
    "train_macs": Column(
        "Paper MACs (Tr.)", (*_PAPER, "train_macs"), "low", "counted", "{:.2e}".format
    ),
    "infer_macs": Column(
        "Paper MACs (In.)", (*_PAPER, "infer_macs"), "low", "counted", "{:.2e}".format
    ),
    "exact_train_macs": Column(
        "Exact MACs (Tr.)", (*_EXACT, "train_macs"), "low", "counted", "{:.2e}".format
    ),
    "train_ratio": Column(
        "of dense (Tr.)", ("relative", "train_macs"), None, "counted", "{:.3f}x".format
    ),
    "exact_infer_macs": Column(
        "Exact MACs (In.)", (*_EXACT, "infer_macs"), "low", "counted", "{:.2e}".format
    ),
    "epochs": Column("Epochs", ("spec", "epochs"), None, "counted", "{:g}".format),
    "budget_share": Column(
        "of budget (Tr.)", ("equal_cost", "share"), None, "counted", "{:.1%}".format
    ),
    "tuned_macs": Column(
        "with tuning (Tr.)", ("tuning", "macs"), "low", "counted", "{:.2e}".format
    ),
    "tuned_gain": Column("Gain (valid.)", ("tuning", "gain"), None, "measured", "{:+.1%}".format),
    "memory": Column("Peak memory", (*_MEASURED, "peak_rss_bytes"), "low", "measured", mebibytes),
    "train_time": Column("Train time", (*_MEASURED, "train_seconds"), "low", "measured", seconds),
    **{
        name: Column(metric.label, ("quality", name), metric.better, "measured", metric.show)
        for name, metric in METRICS.items()
    },
}
