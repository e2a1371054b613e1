"""What was saved: counted beside measured, and the bill by phase."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from dslbench.evaluation.metrics import SELECTION
from dslbench.report.columns import COLUMNS, Column, Record, seconds, size
from dslbench.report.comparable import dense_of, footer, label, row_label, rows, setting
from dslbench.report.references import is_reference
from dslbench.report.relative import mac_notes, setting_of
from dslbench.report.tables import (
    MISSING,
    NOT_APPLICABLE,
    Cell,
    TableModel,
    group,
    heading,
    mean,
)  # fmt: skip
from dslbench.words import percent

# A counted change smaller than this promises nothing that could be realised.
LEAST_PROMISE = 0.05


def stored_bytes(record: Record) -> float | None:
    """Bytes of all tables as they are stored; of older records, in the smallest of the forms."""
    if tables := record["budget"].get("tables"):
        return float(sum(table["bytes"] for table in tables))
    forms = record["cost"]["measured"].get("stored_bytes") or {}
    known = [v for v in forms.values() if isinstance(v, int | float)]
    return float(min(known)) if known else None


def short_time(value: float) -> str:
    """A duration that may be a fraction of a second."""
    return f"{1000 * value:.1f} ms" if value < 1 else seconds(value)


@dataclass(frozen=True)
class StoredSize(Column):
    """The stored size is a sum over tables, so it has no one path."""

    def value(self, record: Record) -> float | None:
        return stored_bytes(record)


@dataclass(frozen=True)
class LargestState(Column):
    """Tables and optimiser of the phase that needs most: training densely before pruning holds all."""

    def value(self, record: Record) -> float | None:
        found = [phase.get("state_bytes") for phase in _phases(record)]
        return max((one for one in found if one is not None), default=None)


_MEASURED = ("cost", "measured")

TEST_TIME = Column("Inference time", (*_MEASURED, "test_seconds"), "low", "measured", short_time)
ALL_PARAMS = Column("All params", ("budget", "total_params"), None, "counted", "{:,.0f}".format)
STORED = StoredSize("Stored size", (*_MEASURED, "stored_bytes"), "low", "measured", size)
STATE = LargestState("Training state", ("",), "low", "measured", size)
LATENCY = {
    users: Column(
        f"Top 20, {said}", (*_MEASURED, "top_k_latency", users, "p50_seconds"), "low",
        "measured", short_time,
    )
    for users, said in (("1", "1 user"), ("1024", "1,024 users"))
}  # fmt: skip


def energy(value: float) -> str:
    """Joules in the unit a reader needs."""
    return f"{value / 1000:.1f} kJ" if value >= 1000 else f"{value:.1f} J"


ENERGY = Column("Energy", (*_MEASURED, "energy_joules"), "low", "measured", energy)
ON_GPU = Column("GPU memory", (*_MEASURED, "peak_cuda_bytes"), "low", "measured", size)


@dataclass(frozen=True)
class CostKind:
    """A cost as the paper counts it, as we count it, and as it was measured."""

    name: str
    paper: Column | None
    exact: Column | None
    measured: Column


# The costs of the paper's Table 1, and beside them what can be measured only.
TABLE_1 = (
    CostKind("training", COLUMNS["train_macs"], COLUMNS["exact_train_macs"], COLUMNS["train_time"]),
    CostKind("inference", COLUMNS["infer_macs"], COLUMNS["exact_infer_macs"], TEST_TIME),
    CostKind("training memory", None, COLUMNS["params"], COLUMNS["memory"]),
    CostKind("stored size", None, ALL_PARAMS, STORED),
)
KINDS = (
    *TABLE_1,
    CostKind("tables, optimiser", None, COLUMNS["params"], STATE),
    CostKind("top 20, 1 user", None, None, LATENCY["1"]),
    CostKind("top 20, 1,024 users", None, None, LATENCY["1024"]),
    CostKind("memory on the GPU", None, COLUMNS["params"], ON_GPU),
    CostKind("energy", None, None, ENERGY),
)
# A change smaller than this is noise, and breaks nothing even.
LEAST_GAIN = 0.02


def kinds_of(records: Sequence[Record]) -> list[CostKind]:
    """The costs to show: energy and a GPU's memory only where a machine has them."""
    return [
        kind
        for kind in KINDS
        if kind.measured not in (ENERGY, ON_GPU)
        or any(kind.measured.value(r) is not None for r in records)
    ]


def shared_seeds(runs: Sequence[Record], dense: Sequence[Record]) -> set[int]:
    """Seeds that both have."""
    return {r["spec"]["seed"] for r in runs} & {r["spec"]["seed"] for r in dense}


def change(column: Column | None, runs: Sequence[Record], dense: Sequence[Record]) -> float | None:
    """Relative change against dense (-0.5: half is saved), both as means over the seeds they share.

    A reference, which depends on no seed, is compared with all of dense's. None where none is shared, or
    either quantity is not known.
    """
    seeds = shared_seeds(runs, dense)
    if column is None or not seeds:
        return None
    if not any(is_reference(run) for run in runs):
        runs, dense = ([r for r in part if r["spec"]["seed"] in seeds] for part in (runs, dense))
    own, base = mean(column, runs), mean(column, dense)
    return None if own is None or not base else own / base - 1


def levelled(runs: Sequence[Record], dense: Sequence[Record]) -> float | None:
    """Recall@20 of a row, by its change against dense over the seeds that both have, at dense's mean.

    By it rows of one seed and of several can be put in order. Where no seed is shared, the row's mean.
    """
    column = COLUMNS[SELECTION]
    changed, whole = change(column, runs, dense), mean(column, dense)
    return mean(column, runs) if changed is None or whole is None else whole * (1 + changed)


def promised(kind: CostKind, runs: Sequence[Record], dense: Sequence[Record]) -> float | None:
    """Counted change: exact where it was counted, else by the paper's convention."""
    exact = change(kind.exact, runs, dense)
    return exact if exact is not None else change(kind.paper, runs, dense)


def realised(counted: float | None, measured: float | None) -> float | str:
    """Measured saving as a fraction of the counted one.

    Returns:
        the fraction, "n/a" where no saving was promised, "-" where one of the two is not known.
    """
    if counted is None or measured is None:
        return MISSING
    return NOT_APPLICABLE if counted > -LEAST_PROMISE else measured / counted + 0.0


def cost(records: Sequence[Record]) -> list[TableModel]:
    """Counted beside measured, each relative to dense; then the training bill by phase."""
    tables = []
    for part in group(records, setting_of):
        tables += [_cost(part), _bill(part)]
        if len({r["spec"]["sparsity"] for r in part if r["spec"]["sparsity"]}) > 1:
            tables.append(_break_even(part))
    return tables


def _cost(records: list[Record]) -> TableModel:
    table = TableModel(
        title=f"Cost: {setting(records[0])}",
        headers=[
            "Method", "Cost", "Counted (paper)", "vs dense", "Counted (exact)", "vs dense",
            "Measured", "vs dense", "Realised fraction",
        ],
        rows=[],
        left_columns=2,
    )  # fmt: skip
    dense = dense_of(records)
    for runs in rows(records):
        is_dense = runs[0]["spec"]["method"] == "dense"
        for place, kind in enumerate(kinds_of(records)):
            measured = change(kind.measured, runs, dense)
            counted = promised(kind, runs, dense)
            fraction = realised(0.0 if kind.paper is kind.exact is None else counted, measured)
            table.rows.append(
                [
                    heading(label(runs), place > 0),
                    Cell(kind.name),
                    *_number_and_change(kind.paper, runs, dense, is_dense),
                    *_number_and_change(kind.exact, runs, dense, is_dense),
                    *_number_and_change(kind.measured, runs, dense, is_dense),
                    Cell(NOT_APPLICABLE)
                    if is_dense
                    else Cell(fraction)
                    if isinstance(fraction, str)
                    else Cell(f"{fraction:.0%}", value=fraction),
                ]
            )
        table.rules.append(len(table.rows) - 1)
    table.rules = table.rules[:-1]
    notes = [
        "vs dense: means over the seeds that both have; '-': they share none, or it is not known.",
        "Realised fraction: measured saving / counted saving (exact where counted, else the paper's "
        "convention); below 0 %: costlier than dense. n/a: no saving is promised, or does not apply.",
        "Counted is MACs for training and inference, stored table entries for memory, all stored "
        "parameters for size; measured "
        "is training time, the time of one full ranking on test, the median time of ranking some users "
        "from the stored model, the peak memory of the run's process, the bytes that tables and "
        "optimiser hold at the end of the last training, and bytes of the tables as they are stored (of "
        "older records: in the smallest form).",
    ]
    shown = [kind.measured for kind in kinds_of(records)]
    if ENERGY in shown:
        notes.append("Energy is that of all the machine's processors during the run.")
    if ON_GPU in shown:
        notes.append("Memory on the GPU is the most that torch had allocated, rankings included.")
    if not dense:
        notes.append("No dense run with these settings is stored: nothing to compare with.")
    table.footer = footer(records, *notes)
    return table


def _break_even(records: list[Record]) -> TableModel:
    """The lowest sparsity at which each cost is measured to be lower than dense's."""
    table = TableModel(
        title=f"Break-even sparsity: {setting(records[0])}",
        headers=["Method", "Sparsities", *(kind.name for kind in kinds_of(records))],
        rows=[],
    )
    dense = dense_of(records)
    for runs in group(
        [r for r in records if r["spec"]["sparsity"]],
        lambda r: (r["spec"]["method"], r["spec"]["variant"], str(r["spec"]["options"])),
    ):
        by_sparsity = sorted(
            group(runs, lambda r: r["spec"]["sparsity"]), key=lambda g: g[0]["spec"]["sparsity"]
        )
        if len(by_sparsity) < 2:
            continue
        levels = [g[0]["spec"]["sparsity"] for g in by_sparsity]
        cells = [Cell(row_label(runs[0]["spec"])), Cell(", ".join(f"{percent(s)}" for s in levels))]
        for kind in kinds_of(records):
            changes = [change(kind.measured, same, dense) for same in by_sparsity]
            if any(found is None for found in changes):
                cells.append(Cell(MISSING))
                continue
            gains = [
                s for s, found in zip(levels, changes, strict=True) if (found or 0) < -LEAST_GAIN
            ]
            cells.append(Cell(f"{percent(gains[0])}", value=gains[0]) if gains else Cell("none"))
        table.rows.append(cells)
    table.footer = footer(
        records,
        f"The lowest of the sparsities run at which the measured cost is at least {LEAST_GAIN:.0%} below "
        "dense's over the seeds that both have; none: at none of them.",
    )
    return table


def _number_and_change(
    column: Column | None, runs: Sequence[Record], dense: Sequence[Record], is_dense: bool
) -> list[Cell]:
    if column is None:
        return [Cell(NOT_APPLICABLE), Cell(NOT_APPLICABLE)]
    own, relative = mean(column, runs), change(column, runs, dense)
    number = Cell(MISSING) if own is None else Cell(column.show(own), value=own, runs=len(runs))
    if is_dense:
        return [number, Cell(NOT_APPLICABLE)]
    return [
        number,
        Cell(MISSING) if relative is None else Cell(f"{relative:+.1%}", value=relative),
    ]


def _bill(records: list[Record]) -> TableModel:
    """Measured time of each training a run consists of."""
    table = TableModel(
        title=f"Training bill by phase: {setting(records[0])}",
        headers=[
            "Method",
            "Phase",
            "Epochs",
            "Steps",
            "Training",
            "Share",
            "Evaluation",
            "Exact MACs",
        ],
        rows=[],
        left_columns=2,
    )
    for runs in rows(records):
        names = [[p["phase"] for p in _phases(run)] for run in runs]
        if not names[0] or any(other != names[0] for other in names):
            table.rows.append([Cell(label(runs)), *(Cell(MISSING) for _ in table.headers[1:])])
            continue
        whole = statistics.fmean(sum(p["train_seconds"] for p in _phases(run)) for run in runs)
        for place, name in enumerate(names[0]):
            of_runs = [_phases(run)[place] for run in runs]
            means = {
                key: statistics.fmean(p[key] for p in of_runs)
                for key in ("epochs", "steps", "train_seconds", "eval_seconds")
            }
            share = means["train_seconds"] / whole if whole else 0.0
            table.rows.append(
                [
                    heading(label(runs), place > 0),
                    Cell(name),
                    Cell(f"{means['epochs']:,.0f}", value=means["epochs"]),
                    Cell(f"{means['steps']:,.0f}", value=means["steps"]),
                    Cell(seconds(means["train_seconds"]), value=means["train_seconds"]),
                    Cell(f"{share:.0%}", value=share),
                    Cell(seconds(means["eval_seconds"]), value=means["eval_seconds"]),
                    _macs_of_phase(runs, place, name),
                ]
            )
        table.rules.append(len(table.rows) - 1)
    table.rules = table.rules[:-1]
    table.footer = footer(
        records,
        "Seconds are measured, MACs counted; means over seeds.",
        *mac_notes(records),
    )
    return table


def _macs_of_phase(runs: Sequence[Record], place: int, name: str) -> Cell:
    """Exact training MACs of the phase at a place, where every run has counted that phase."""
    found = []
    for run in runs:
        phases = (run["cost"].get("counted") or {}).get("exact", {}).get("phases") or []
        if place >= len(phases) or phases[place].get("phase") != name:
            return Cell(MISSING)
        found.append(phases[place].get("train_macs"))
    if any(value is None for value in found):
        return Cell(MISSING)
    average = statistics.fmean(found)
    return Cell(COLUMNS["exact_train_macs"].show(average), value=average, runs=len(runs))


def _phases(record: Record) -> list[Record]:
    found: list[Record] = record["cost"]["measured"].get("phases") or []
    return found
