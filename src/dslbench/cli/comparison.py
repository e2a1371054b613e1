"""What `dslbench compare` does: the runs of a plan, at equal epochs, bytes or MACs, and their table."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from dslbench import registry
from dslbench.cli.runner import (
    Record,
    Where,
    dataset_or_default,
    judge_missing,
    make,
    print_table,
    stored,
)
from dslbench.errors import UsageError
from dslbench.output import console, deliver, say, warn
from dslbench.report import build, command
from dslbench.report import sizes as sizes_report
from dslbench.report.formats import render
from dslbench.report.references import is_reference
from dslbench.report.relative import setting_of
from dslbench.report.tables import group
from dslbench.runs import equal_bytes, equal_cost, fitting, plan, stock, store
from dslbench.spec import RunSpec
from dslbench.tables.stored import check_precision


def compare(
    plan_name: str | None,
    chosen: plan.Chosen,
    format_name: str,
    *,
    budget_by: Literal["epochs", "macs"],
    where: Where,
    force: bool,
    dry_run: bool,
    precisions: Sequence[str] = (),
    sizes: Sequence[str] = (),
) -> None:
    """Make the runs of a plan, or of what the command line names, and print its table or figure."""
    render.check_format(format_name)
    asked = chosen.method or ()
    for precision in precisions:
        check_precision(precision)
    if plan_name is not None:
        file = plan.read(plan_name)
        check_shown(file)
        if chosen.dataset is None:
            plan.check_datasets(file)
        if file.plan.figure is not None:
            render.check_format(format_name, render.FIGURE_FORMATS)
    elif chosen.backbone is not None:
        file = plan.of_command_line(chosen.backbone)
    elif chosen.methods_are_references:
        file = plan.of_command_line(registry.NO_BACKBONE)
        chosen = replace(chosen, method=chosen.method or registry.working("reference"))
    else:
        raise UsageError("name a --backbone or a --plan", "dslbench list backbones (or plans)")
    needs_default = chosen.dataset is None and any(grid.dataset is None for grid in file.plan.grid)
    specs, left_out = plan.runs(file, chosen, dataset_or_default(None) if needs_default else "")
    specs, too_large = fitting.those_that_fit(
        specs, lambda run_id: not force and store.has(run_id, warn), asked
    )
    left_out += too_large
    if sizes:
        for option, given in (("--sparsity", chosen.sparsity), ("--precision", precisions),
                              ("--budget-by macs", budget_by == "macs"),
                              ("--references", any(s.is_reference for s in specs))):  # fmt: skip
            if given:
                raise UsageError(
                    f"--bytes chooses what {option} would say", f"leave {option} out, or --bytes"
                )
        ways, more = equal_bytes.ways(specs, sizes)
        left_out = [re.sub(r" at sparsity [0-9.e-]+", "", line) for line in left_out] + more
        compare_bytes(ways, left_out, format_name, where=where, force=force, dry_run=dry_run)
        return
    for line in left_out:
        say(f"left out: {line}")
    records = make(specs, where=where, force=force, dry_run=dry_run, precisions=precisions)
    if dry_run:
        return
    if budget_by == "macs":
        trained = [r for r in records if not is_reference(r)]
        records = [
            *at_equal_macs(trained, where=where, force=force),
            *filter(is_reference, records),
        ]
    if file.plan.figure is not None and format_name != "json":
        models = build.build_figure(file.plan.figure, records)
        width = command.looks(to_file=False)[0] or console().width
        deliver(render.figures(format_name, models, width=width))
    else:
        print_table(format_name, file.plan.table or "3", records, precisions)


def compare_bytes(
    ways: Sequence[equal_bytes.Way], left_out: Sequence[str], format_name: str, *, where: Where,
    force: bool, dry_run: bool,
) -> None:  # fmt: skip
    """Make runs that come to a number of bytes, judge them as stored so, and print their table."""
    for line in left_out:
        say(f"left out: {line}")
    for way in ways:
        if way.spec.seed == min(other.spec.seed for other in ways):
            say(f"{way.spec.method}: {way.words}")
    records = make([way.spec for way in ways], where=where, force=force, dry_run=dry_run)
    if dry_run:
        return
    by_spec = {json.dumps(RunSpec.of_record(r["spec"]).decisive()): r for r in records}
    shown: dict[str, list[str]] = {}
    for way in ways:
        record = by_spec[json.dumps(way.spec.decisive())]
        shown.setdefault(record["id"], []).append(way.precision or record["stored"][0]["precision"])
    for record_id, of_run in shown.items():
        judge_missing([store.read(record_id)], of_run, where)
    as_asked = {record["id"]: record["spec"] for record in records}
    records = [store.read(one) | {"spec": as_asked[one]} for one in shown]
    if format_name == "json":
        deliver(render.record_json(records))
        return
    width, color = command.looks(to_file=False)
    found = sizes_report.table([*records, *_dense_beside(records)], shown)
    deliver(render.tables(format_name, found, width=width, color=color))


def _dense_beside(records: Sequence[Record]) -> list[Record]:
    """The dense runs of the same settings, where they are stored: what others are compared with."""
    specs = {RunSpec.of_record(r["spec"]).as_dense.model_dump_json() for r in records}
    dense = [RunSpec.model_validate_json(spec) for spec in sorted(specs)]
    known = {record["id"] for record in records}
    found = stored(stock.take_stock(dense, False, warn))
    return [run.read() for run in found if run.id not in known]


def at_equal_macs(records: Sequence[Record], *, where: Where, force: bool) -> list[Record]:
    """Runs at equal training MACs in place of those at equal epochs, for each setting by itself."""

    def longer(wanted: list[tuple[Record, int]]) -> list[Record]:
        specs = [RunSpec.of_record(r["spec"]).at_epochs(epochs) for r, epochs in wanted]
        # A teacher's run comes before its students, so the order is not that of the specs.
        made = [
            (RunSpec.of_record(r["spec"]).decisive(), r)
            for r in make(specs, where=where, force=force, dry_run=False)
        ]
        return [next(r for own, r in made if own == spec.decisive()) for spec in specs]

    return [
        record
        for part in group(records, setting_of)
        for record in equal_cost.equal_macs([dict(r) for r in part], longer)
    ]


def check_shown(file: plan.PlanFile) -> None:
    """Raise `UsageError` where the plan ends in a table or figure that does not exist."""
    try:
        if file.plan.table is not None:
            build.check_table(file.plan.table)
        if file.plan.figure is not None:
            build.check_figure(file.plan.figure)
    except UsageError as error:
        raise file.error(error.message, error.hint, -1) from None
