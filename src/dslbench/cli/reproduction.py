"""`dslbench reproduce`: get the data, run the plans, write one report. Repeating it goes on with the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dslbench import home, paths
from dslbench.cli import datasets
from dslbench.errors import DataError, DslbenchError, RunError, UsageError, did_you_mean
from dslbench.output import put, warn
from dslbench.report import build, command
from dslbench.report import references as beside_methods
from dslbench.report.formats import draw, render
from dslbench.report.formats.html import page
from dslbench.runs import failures, fitting, plan, stock, store
from dslbench.runs.plan import Chosen, PlanFile
from dslbench.spec import RunSpec

FALLBACK = "toy"
Make = Callable[[list[RunSpec]], Any]
Say = Callable[[str], None]

_ALL = ("table2", "table3", "table4", "figure2", "figure3", "figure4", "figure5")
PLANS: dict[str, tuple[str, ...]] = {"quick": ("toy", "quick"), "laptop": _ALL, "paper": _ALL}


@dataclass
class _Sources:
    """Where data comes from, and what could not be had, so that nothing is asked for twice."""

    folder: Path | None
    say: Say

    def __post_init__(self) -> None:
        self.known: dict[str, bool] = {FALLBACK: True}

    def has(self, name: str) -> bool:
        """Whether a data set is at hand, after trying to get it; says so where it is not."""
        if name not in self.known:
            try:
                own = self.folder / name if self.folder else None
                source = own if own is not None and paths.kind(own) != "nothing" else None
                datasets.download([name], False, source, False, False)
                self.known[name] = True
            except DataError as error:
                self.say(f"{name} cannot be had: {error.message}")
                self.known[name] = False
        return self.known[name]


def with_data_at_hand(file: PlanFile, has: Callable[[str], bool], say: Say) -> PlanFile:
    """The plan over those of its data sets that can be had; the embedded one in place of none."""
    grids = []
    for grid in file.plan.grid:
        kept = [name for name in grid.dataset or [FALLBACK] if has(name)]
        if not kept:
            say(
                f"{file.name}: the embedded data set '{FALLBACK}' stands in for "
                f"{', '.join(grid.dataset or [])}: these numbers say nothing about them"
            )
        grids.append(grid.model_copy(update={"dataset": kept or [FALLBACK]}))
    return replace(file, plan=file.plan.model_copy(update={"grid": grids}))


def reproduce(scale: str, source: Path | None, output: Path, make: Make, say: Say) -> None:
    """Run the plans of a scale and write the report into `output`.

    Args:
        source: a folder with one sub-folder per data set, in place of a download.
        make: makes those of the runs that are missing.

    Raises:
        UsageError: for an unknown scale, or where `output` cannot be written; before any training.
        RunError: when everything else is done, where runs failed.
    """
    if scale not in PLANS:
        raise UsageError(f"unknown scale '{scale}'", did_you_mean(scale, PLANS))
    if source is not None and paths.kind(source) != "folder":
        raise DataError(
            f"{source} is not a folder", "IMPORT names a folder with gowalla/, ml-1m/, ..."
        )
    try:
        (output / "tables").mkdir(parents=True, exist_ok=True)
        home.write_atomic(output / "tables" / ".write-test", b"")
        (output / "tables" / ".write-test").unlink()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot write {output}: {reason}", "--output names a folder") from None
    sources = _Sources(source, say)
    failed: list[str] = []
    records: dict[str, Any] = {}
    for name in PLANS[scale]:
        file = with_data_at_hand(plan.read(name), sources.has, say)
        # The published recipe, or what comes to its quality in less time.
        published = ("preset=official",) if scale == "paper" else ()
        chosen = Chosen(settings=published, references=True)
        specs, left_out = plan.runs(file, chosen, FALLBACK)
        specs, too_large = fitting.those_that_fit(specs, lambda run_id: store.has(run_id, say))
        left_out += too_large
        say("")
        say(f"== {file.plan.title} (plan {name}): {len(specs)} runs")
        for line in left_out:
            say(f"left out: {line}")
        try:
            make(specs)
        except RunError as error:
            failed.append(f"plan {name}: {error.message}")
        planned = stock.take_stock(specs, force=False, warn=say)
        records |= {run.id: store.read(run.id) for run in planned if run.done and run.asked}
    if not records:
        raise RunError("no run succeeded", "the messages above say why")
    write(list(records.values()), scale, output, say)
    if failed:
        raise RunError("; ".join(failed), "the same command tries the failed runs again")


def write(records: Sequence[Any], scale: str, output: Path, say: Say) -> None:
    """The report's files: report.html, tables/*.md and figures/*.svg."""
    title = f"dslbench reproduce, scale {scale}"
    put(output / "report.html", whole(title, records).encode("utf-8"))
    say("")
    say(f"written: {output / 'report.html'}")
    for name in build.TABLES:
        try:
            text = render.markdown(build.build(name, records))
        except DslbenchError as error:
            say(f"no table {name}: {error.message}")
            continue
        path = output / "tables" / f"table-{name}.md"
        put(path, text.encode("utf-8"))
        say(f"written: {path}")
    for name in build.FIGURES:
        try:
            models = build.build_figure(name, records)
        except DslbenchError as error:
            say(f"no figure {name}: {error.message}")
            continue
        first = output / "figures" / f"figure-{name}.svg"
        for path, model in zip(command.numbered(first, len(models)), models, strict=True):
            put(path, draw.draw(model, "svg"))
            say(f"written: {path}")


def whole(title: str, records: Sequence[Any]) -> str:
    """One HTML page of every table and figure that the records have the runs for."""
    found, drawn, missing = [], [], []
    records = beside_methods.beside(records)
    for name in build.TABLES:
        try:
            found += build.build(name, records)
        except DslbenchError as error:
            missing.append(f"Table {name}: {error.message} ({error.hint})")
    missing += failures.footer(records, failures.read_all(warn))
    for name in build.FIGURES:
        try:
            drawn += build.build_figure(name, records)
        except DslbenchError as error:
            missing.append(f"Figure {name}: {error.message} ({error.hint})")
    return page(title, found, drawn, missing)
