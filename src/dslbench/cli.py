"""The command line: arguments in, calls out. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dslbench.errors import DslbenchError, UsageError

if TYPE_CHECKING:
    from dslbench.spec import RunSpec

app = typer.Typer(
    name="dslbench",
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Compare ways of making recommenders small and cheap, and what each one really costs.",
    epilog="Start with `dslbench compare --backbone lightgcn --sparsity 0.5`: with no data "
    "downloaded it runs on an embedded data set.",
)

Backbone = Annotated[str, typer.Option("--backbone", help="Recommendation model.")]
Dataset = Annotated[
    str | None,
    typer.Option("--dataset", help="Data set; default: the one downloaded last, else toy."),
]
Epochs = Annotated[int | None, typer.Option("--epochs", help="Epochs of each training.")]
Scale = Annotated[
    str,
    typer.Option(
        "--scale",
        help="Epochs relative to the preset's: quick (1 %), laptop (10 %) or paper (all).",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="A setting: lr=0.01, preset=dsl, dsl.decay=linear, ..."
    ),
]
Protocol = Annotated[
    str,
    typer.Option(
        "--protocol",
        help="default, paper (as its code did), given, random, temporal, loo-random-99, "
        "strong, ...: see data/README.md",
    ),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
Format = Annotated[
    str, typer.Option("--format", help="terminal, markdown, latex, csv, html or json.")
]


@app.callback()
def root() -> None:
    """Options common to all commands would stand here."""


@app.command(epilog="Example: `dslbench download gowalla --from ~/LightGCN-PyTorch/data/gowalla`")
def download(
    names: Annotated[
        list[str] | None, typer.Argument(help="Data sets; see `dslbench list datasets`.")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every data set of the catalog.")] = False,
    source: Annotated[
        Path | None, typer.Option("--from", help="A folder, file or archive at hand.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check what is at hand, fetch nothing.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Fetch again what is at hand.")] = False,
) -> None:
    """Fetch data sets from their owners' addresses, verified before use."""
    from dslbench.data import commands

    commands.download(names or [], all_, source, verify, force)


@app.command(epilog="Example: `dslbench train --backbone lightgcn --method dsl --sparsity 0.8`")
def train(
    backbone: Backbone,
    method: Annotated[
        str, typer.Option("--method", help="Method; see `dslbench list methods`.")
    ] = "dense",
    dataset: Dataset = None,
    sparsity: Annotated[
        float, typer.Option("--sparsity", help="Share of table weights removed.")
    ] = 0.5,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of all random streams.")] = 0,
    epochs: Epochs = None,
    scale: Scale = "quick",
    set_: Settings = None,
    protocol: Protocol = "default",
    device: Device = "auto",
    export: Annotated[
        Path | None, typer.Option("--export", help="Also write the packed model to this file.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Train even if the run is stored.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the run's record.")] = False,
) -> None:
    """Train one model with one method and store the run."""
    name = _dataset(dataset)
    spec = _resolve(
        dataset=name, backbone=backbone, method=method, sparsity=sparsity, seed=seed, epochs=epochs,
        scale=scale, protocol=protocol, settings=set_ or (),
    )  # fmt: skip
    records = _make([spec], device=device, force=fresh, dry_run=False)
    if export is not None:
        from dslbench.runs import store

        _write(export, store.model_bytes(records[0]["id"]))
    if json_:
        import json

        _deliver(json.dumps(records[0], indent=1) + "\n")
    else:
        _print_table("terminal", "3", records)


@app.command(epilog="Example: `dslbench compare --backbone lightgcn --sparsity 0.5 --seeds 3`")
def compare(
    backbone: Annotated[
        str | None, typer.Option("--backbone", help="Recommendation model (or use --plan).")
    ] = None,
    dataset: Dataset = None,
    sparsity: Annotated[
        list[float] | None,
        typer.Option("--sparsity", help="Share of table weights removed; default: 0.5."),
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option("--method", help="Methods; default: all, dense first.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option("--seeds", min=1, help="Runs per method: seeds 0 to N-1.")
    ] = None,
    epochs: Epochs = None,
    scale: Annotated[
        str | None,
        typer.Option(
            "--scale", help="Epochs relative to the preset's: quick (default), laptop, paper."
        ),
    ] = None,
    set_: Settings = None,
    protocol: Annotated[
        str | None, typer.Option("--protocol", help="default, paper, ...: see data/README.md")
    ] = None,
    plan: Annotated[
        str | None,
        typer.Option("--plan", help="A plan's name or file; other options replace what it says."),
    ] = None,
    device: Device = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan only.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Run even what is stored.")] = False,
    references: Annotated[
        bool, typer.Option("--references", help="Add item popularity, ItemKNN and EASE.")
    ] = False,
    format_: Format = "terminal",
) -> None:
    """Run the methods side by side, skip what is stored, and end with the table."""
    from dslbench import plan as plans
    from dslbench.report import formats

    formats.check_format(format_)
    chosen = plans.Chosen(
        dataset=dataset, backbone=backbone, method=method, sparsity=sparsity, seeds=seeds,
        epochs=epochs, scale=scale, protocol=protocol, settings=tuple(set_ or ()),
    )  # fmt: skip
    if plan is not None:
        file = plans.read(plan)
        plans.check_shown(file)
        if file.plan.figure is not None:
            formats.check_format(format_, formats.FIGURE_FORMATS)
    elif backbone is not None:
        file = plans.of_command_line(backbone)
    else:
        raise UsageError("name a --backbone or a --plan", "dslbench list backbones (or plans)")
    needs_default = dataset is None and any(grid.dataset is None for grid in file.plan.grid)
    specs, left_out = plans.runs(file, chosen, _dataset(None) if needs_default else "")
    for line in left_out:
        _say(f"left out: {line}")
    records = _make(specs, device=device, force=force, dry_run=dry_run)
    if dry_run:
        return
    if file.plan.figure is not None and format_ != "json":
        from dslbench.report import build, command

        models = build.build_figure(file.plan.figure, records)
        width = command.looks(to_file=False)[0] or _console().width
        _deliver(formats.figures(format_, models, width=width))
    else:
        _print_table(format_, file.plan.table or "3", records, reference=references)


@app.command(epilog="Example: `dslbench reproduce --scale quick --import ~/data`")
def reproduce(
    scale: Annotated[
        str, typer.Option("--scale", help="quick (minutes), laptop (days) or paper (weeks).")
    ] = "quick",
    source: Annotated[
        Path | None, typer.Option("--import", help="Folder with gowalla/, ml-1m/, ... at hand.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", help="Folder of the report.")] = Path(
        "reproduction"
    ),
    device: Device = "auto",
) -> None:
    """Get the data, run the plans, and write one HTML report with its tables and figures."""
    from dslbench.reproduce import reproduce as implementation

    implementation(
        scale, source, output,
        lambda specs: _make(specs, device=device, force=False, dry_run=False, show=False), _say,
    )  # fmt: skip


@app.command(epilog="Example: `dslbench report --table 3 --output table3.tex`")
def report(
    table: Annotated[
        str | None,
        typer.Option(
            "--table",
            help="1: what is saved; 2: backbones; 3: methods (default); 4: decays; cost; pareto; stats.",
        ),
    ] = None,
    figure: Annotated[
        str | None,
        typer.Option(
            "--figure",
            help="2: sparsity; 3: update interval; 4: where entries lie; 5: loss; pareto.",
        ),
    ] = None,
    format_: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="terminal, markdown, latex, csv, html or json; default: by the output's suffix. "
            "html without a table is the whole report, json without one the runs' records.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", help="File to write (figures: also png, svg, pdf)."),
    ] = None,
    dataset: Annotated[str | None, typer.Option("--dataset", help="Only this data set.")] = None,
    backbone: Annotated[str | None, typer.Option("--backbone", help="Only this backbone.")] = None,
    method: Annotated[str | None, typer.Option("--method", help="Only this method.")] = None,
    protocol: Annotated[str | None, typer.Option("--protocol", help="Only this protocol.")] = None,
    scale: Annotated[str | None, typer.Option("--scale", help="Only this scale.")] = None,
    stats: Annotated[
        bool, typer.Option("--stats", help="Add intervals and paired tests over seeds and users.")
    ] = False,
    references: Annotated[
        bool, typer.Option("--references", help="Add item popularity, ItemKNN and EASE.")
    ] = False,
) -> None:
    """Print tables and figures of the runs in the store; nothing is trained."""
    from dslbench.report import build, command, formats

    if table is not None and figure is not None:
        raise UsageError("--table and --figure exclude each other", "leave one of them out")
    chosen = command.chosen_format(format_, output, figure is not None)
    if table is not None:
        build.check_table(table)
    if figure is not None:
        build.check_figure(figure)
    records: Any = []
    if table is None or build.TABLES[table].needs_runs:
        records = command.select(
            _warn, dataset=dataset, backbone=backbone, method=method, protocol=protocol, scale=scale
        )
    width, color = command.looks(output is not None)
    if figure is not None and chosen in command.PICTURES:
        assert output is not None
        contents = command.pictures(figure, chosen, records)
        for path, content in zip(command.numbered(output, len(contents)), contents, strict=True):
            _write(path, content)
        return
    if figure is not None:
        models = build.build_figure(figure, records)
        text = formats.figures(chosen, models, width=width or _console().width)
    elif chosen == "html" and table is None:
        text = command.whole("dslbench report", records, stats=True, reference=references)
    elif chosen == "json" and table is None:
        text = formats.record_json(records)
    else:
        found = command.tables(table or "3", records, stats=stats, reference=references)
        text = formats.tables(chosen, found, width=width, color=color)
    _deliver(text, output)


@app.command("list", epilog="Example: `dslbench list methods`")
def list_(
    what: Annotated[
        Literal["datasets", "backbones", "methods", "plans", "runs"],
        typer.Argument(help="What to list."),
    ],
    json_: Annotated[bool, typer.Option("--json", help="As JSON (data sets and runs).")] = False,
) -> None:
    """List data sets, backbones, methods, plans or stored runs."""
    if what == "datasets":
        from dslbench.data import commands

        commands.list_datasets(json_)
    elif what == "runs":
        _list_runs(json_)
    elif what == "plans":
        from dslbench import plan

        for name in plan.names():
            print(f"{name:12} {plan.read(name).plan.title}")
    else:
        from dslbench import registry

        kind = what.rstrip("s")
        for name in registry.names(kind):
            print(f"{name:12} {registry.summary(kind, name)}")


@app.command()
def doctor() -> None:
    """Say what this machine is, which kernels and devices are used, and what data is at hand."""
    from dslbench.doctor import report_machine

    report_machine()


def _list_runs(as_json: bool) -> None:
    import json

    from dslbench.runs import store

    records = store.read_all(_warn)
    if as_json:
        print(json.dumps([{"id": r["id"], "spec": r["spec"]} for r in records], indent=1))
        return
    for r in records:
        s = r["spec"]
        print(
            f"{r['id']}  {s['dataset']} {s['backbone']} {s['method']} {s['variant']} "
            f"{s['sparsity']:g} seed {s['seed']} {s['epochs']} epochs  "
            f"recall@20 {r['quality']['recall@20']:.4f}"
        )


def _dataset(name: str | None) -> str:
    """The data set to use; says so when it was not named."""
    from dslbench import data

    if name is not None:
        return name
    chosen, why = data.default_dataset()
    _say(f"data set: {chosen} ({why})")
    return chosen


def _resolve(**arguments: Any) -> RunSpec:
    from dslbench.spec import resolve

    return resolve(**arguments)


def _make(
    specs: list[RunSpec], *, device: str, force: bool, dry_run: bool, show: bool = True
) -> list[dict[str, Any]]:
    """Make the runs that are missing and return the records of all, in order.

    Where some fail, `show` prints the table of the others before the error.
    """
    from dslbench.errors import RunError
    from dslbench.report.columns import seconds
    from dslbench.runs import execute, store

    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"unknown device '{device}'", "use auto, cpu or cuda")
    planned = execute.plan(specs, force, _warn)
    missing = [run for run in planned if not run.done]
    trainings = sum(run.trainings for run in missing)
    summary = f"{len(planned)} runs: {len(planned) - len(missing)} stored, {len(missing)} to make"
    if missing:
        _say("timing a few steps of each kind of run ...")
        duration = seconds(execute.estimate_seconds(missing, device))
        summary += f" ({trainings} trainings, about {duration} on this machine)"
    _say(summary)
    if dry_run:
        for run in planned:
            print(f"{run.id}  {'stored' if run.done else 'to make':8} {run.spec.title}")
        return []
    try:
        failures = execute.execute(missing, device, _console())
    except KeyboardInterrupt:
        done = sum((store.folder(run.id) / "run.json").exists() for run in planned)
        _say(
            f"interrupted: {done} of {len(planned)} runs are stored; "
            "the same command goes on with the rest"
        )
        raise typer.Exit(130) from None
    made = [run for run in planned if (store.folder(run.id) / "run.json").exists()]
    if failures and made and show:
        _print_table("terminal", "3", [store.read(run.id) for run in made])
    if failures:
        raise RunError(
            f"{len(failures)} of {len(missing)} runs failed, see above"
            if len(missing) > 1
            else failures[0]
        )
    return [store.read(run.id) for run in planned]


def _print_table(format_name: str, table: str, records: Any, *, reference: bool = False) -> None:
    """A table of these runs; json is the records themselves."""
    from dslbench.report import command, formats

    if format_name == "json":
        _deliver(formats.record_json(records))
        return
    width, color = command.looks(to_file=False)
    found = command.tables(table, records, reference=reference)
    _deliver(formats.tables(format_name, found, width=width, color=color))


def _deliver(text: str, output: Path | None = None) -> None:
    if output is not None:
        _write(output, text.encode("utf-8"))
        return
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a character shows "?"
    sys.stdout.write(text)


def _write(path: Path, content: bytes) -> None:
    from dslbench import home

    try:
        home.write_atomic(path, content)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from None
    _say(f"written: {path}")


def _console() -> Any:
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)


def main() -> None:
    """Entry point: errors become one line and their exit code."""
    try:
        code = app(args=sys.argv[1:] or ["--help"], standalone_mode=False, prog_name="dslbench")
    except DslbenchError as error:
        _say(f"error: {error.message}" + (f"\n  try: {error.hint}" if error.hint else ""))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _say("interrupted")
        sys.exit(130)
    except BrokenPipeError:
        # The reader has gone; without this the interpreter complains once more while closing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _say(f"error: {where}{error.strerror or error}\n  try: DSLBENCH_HOME names where to store")
        sys.exit(1)
    except Exception as error:
        # The argument parser's own errors; where their classes live depends on Typer's version.
        explain = getattr(error, "format_message", None)
        if explain is None:
            raise
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "dslbench"
        _say(f"error: {explain()}\n  try: {command} --help")
        sys.exit(2)
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
