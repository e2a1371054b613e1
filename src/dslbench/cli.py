"""The command line: arguments in, calls out. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import os
import sys
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dslbench.errors import DslbenchError, UnsuitableError, UsageError

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

Sparsity = Annotated[
    list[float], typer.Option("--sparsity", help="Share of table weights removed, in [0, 1).")
]
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
Format = Annotated[str, typer.Option("--format", help="terminal, markdown or json.")]


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
    _print_report("json" if json_ else "terminal", "3", records[0] if json_ else records)


@app.command(epilog="Example: `dslbench compare --backbone lightgcn --sparsity 0.5 --seeds 3`")
def compare(
    backbone: Backbone,
    dataset: Dataset = None,
    sparsity: Sparsity = [0.5],  # noqa: B006 - typer copies it
    method: Annotated[
        list[str] | None, typer.Option("--method", help="Methods; default: all, dense first.")
    ] = None,
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, help="Runs per method: seeds 0 to N-1.")
    ] = 1,
    epochs: Epochs = None,
    scale: Scale = "quick",
    set_: Settings = None,
    protocol: Protocol = "default",
    device: Device = "auto",
    budget_by: Annotated[
        Literal["epochs", "macs"],
        typer.Option(
            "--budget-by",
            help="epochs: all train equally long; macs: then again, each for as many epochs as cost "
            "what the costliest one did.",
        ),
    ] = "epochs",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan only.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Run even what is stored.")] = False,
    format_: Format = "terminal",
) -> None:
    """Run the methods side by side, skip what is stored, and end with the table."""
    from dslbench import registry
    from dslbench.report.formats import check_format

    check_format(format_)
    name = _dataset(dataset)
    specs, left_out = [], {}
    for seed, s, m in product(range(seeds), sparsity, method or registry.names("method")):
        try:
            spec = _resolve(
                dataset=name, backbone=backbone, method=m, sparsity=s, seed=seed, epochs=epochs,
                scale=scale, protocol=protocol, settings=set_ or (),
            )  # fmt: skip
        except UnsuitableError as error:
            if method:  # it was asked for
                raise
            left_out[m, s] = error.message
        else:
            specs.append(spec)
    for (m, s), reason in left_out.items():
        _say(f"left out: {m} at sparsity {s:g} ({reason})")
    records = _make(specs, device=device, force=force, dry_run=dry_run)
    if dry_run:
        return
    if budget_by == "macs":
        from dslbench.runs import budget

        def make_longer(wanted: list[tuple[dict[str, Any], int]]) -> list[dict[str, Any]]:
            again = [
                _resolve(
                    **{key: r["spec"][key] for key in ("method", "sparsity", "seed")}, epochs=n,
                    dataset=name, backbone=backbone, protocol=protocol, settings=set_ or (),
                )
                for r, n in wanted
            ]  # fmt: skip
            return _make(again, device=device, force=force, dry_run=False)

        records = budget.equal_macs(records, make_longer)
    _print_report(format_, "3", records)


@app.command(epilog="Example: `dslbench report --table 3 --format markdown --output table3.md`")
def report(
    table: Annotated[
        str,
        typer.Option("--table", help="2: backbones; 3: methods; audit: the paper's own figures."),
    ] = "3",
    published: Annotated[
        bool, typer.Option("--published", help="Published results, with ours beside them.")
    ] = False,
    format_: Format = "terminal",
    output: Annotated[
        Path | None, typer.Option("--output", help="File to write; default: stdout.")
    ] = None,
    dataset: Annotated[str | None, typer.Option("--dataset", help="Only this data set.")] = None,
    backbone: Annotated[str | None, typer.Option("--backbone", help="Only this backbone.")] = None,
) -> None:
    """Print tables of the runs in the store, published results, or the audit of the paper."""
    from dslbench.runs import store

    if table == "audit":
        from dslbench.report import audit_tables

        figures = audit_tables.chosen(dataset, backbone)
        data = audit_tables.data(figures)
        _print_tables(format_, lambda: audit_tables.build(figures), data, output)
        return
    if published:
        from dslbench.report import published_tables

        rows = published_tables.rows(store.read_all(_warn), dataset, backbone)
        data = published_tables.data(rows)
        _print_tables(format_, lambda: published_tables.tables(rows), data, output)
        return
    wanted = {"dataset": dataset, "backbone": backbone}
    records = [
        record
        for record in store.read_all(_warn)
        if all(value in (None, record["spec"][key]) for key, value in wanted.items())
    ]
    if not records:
        chosen = [f"{key} '{value}'" for key, value in wanted.items() if value]
        raise UsageError(
            "no stored runs" + (f" of {' and '.join(chosen)}" if chosen else ""),
            "make some: dslbench compare --backbone lightgcn --sparsity 0.5",
        )
    _print_report(format_, table, records, output)


@app.command("list", epilog="Example: `dslbench list methods`")
def list_(
    what: Annotated[
        Literal["datasets", "backbones", "methods", "runs"], typer.Argument(help="What to list.")
    ],
    json_: Annotated[bool, typer.Option("--json", help="As JSON (data sets and runs).")] = False,
) -> None:
    """List data sets, backbones, methods or stored runs."""
    if what == "datasets":
        from dslbench.data import commands

        commands.list_datasets(json_)
    elif what == "runs":
        _list_runs(json_)
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


def _make(specs: list[RunSpec], *, device: str, force: bool, dry_run: bool) -> list[dict[str, Any]]:
    """Make the runs that are missing and return the records of all, in order."""
    from dslbench.errors import RunError
    from dslbench.report.columns import seconds
    from dslbench.runs import execute, store

    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"unknown device '{device}'", "use auto, cpu or cuda")
    planned = execute.plan(specs, force, _warn)
    missing = [run for run in planned if not run.done]
    for run in missing:
        if not run.asked:
            _say(f"not stored, made first as the teacher of the others: {run.spec.title}")
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
    if failures and made:
        _print_report("terminal", "3", [store.read(run.id) for run in made])
    if failures:
        raise RunError(
            f"{len(failures)} of {len(missing)} runs failed, see above"
            if len(missing) > 1
            else failures[0]
        )
    return [store.read(run.id) for run in planned if run.asked]


def _print_report(format_name: str, table: str, records: Any, output: Path | None = None) -> None:
    if isinstance(records, dict):
        import json

        _print(json.dumps(records, indent=1) + "\n", output)
    else:
        from dslbench.report.tables import build

        _print_tables(format_name, lambda: build(table, records), records, output)


def _print_tables(format_name: str, tables: Any, data: Any, output: Path | None) -> None:
    """Print what the function `tables` builds; for json, the data it shows."""
    from dslbench.report import formats

    to_terminal = output is None and sys.stdout.isatty()
    width = None if to_terminal else 160
    text = formats.render_tables(format_name, tables, data, width=width, color=to_terminal)
    _print(text, output)


def _print(text: str, output: Path | None) -> None:
    if output is None:
        sys.stdout.write(text)
        return
    _write(output, text.encode("utf-8"))


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
