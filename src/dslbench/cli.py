"""The command line: arguments in, calls out. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from dslbench import options
from dslbench.errors import DslbenchError, UsageError
from dslbench.output import check_writable, deliver, say, warn, write

app = typer.Typer(
    name="dslbench",
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Compare ways of making recommenders small and cheap, and what each one really costs.",
    epilog="Start with `dslbench compare --backbone lightgcn --sparsity 0.5`: with no data "
    "downloaded it runs on an embedded data set.",
)


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
    backbone: options.Backbone,
    method: Annotated[
        str, typer.Option("--method", help="Method; see `dslbench list methods`.")
    ] = "dense",
    dataset: options.Dataset = None,
    sparsity: Annotated[
        float, typer.Option("--sparsity", help="Share of table weights removed.")
    ] = 0.5,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of all random streams.")] = 0,
    epochs: options.Epochs = None,
    scale: options.Scale = None,
    set_: options.Settings = None,
    protocol: options.Protocol = "default",
    device: options.Device = "auto",
    export: Annotated[
        Path | None, typer.Option("--export", help="Also write the packed model to this file.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Train from the start, even if the run is stored.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the run's record.")] = False,
) -> None:
    """Train one model with one method and store the run."""
    from dslbench.compare import Where, dataset_or_default, make, print_table
    from dslbench.spec import check_length, check_used, resolve

    check_length(epochs, scale)
    spec = resolve(
        dataset=dataset_or_default(dataset), backbone=backbone, method=method,
        sparsity=sparsity, seed=seed, epochs=epochs, scale=scale or "quick", protocol=protocol,
        settings=set_ or (),
    )  # fmt: skip
    check_used(set_ or (), [method])
    if export is not None:
        check_writable(export)
    records = make([spec], where=Where(device), force=fresh, dry_run=False)
    if export is not None:
        from dslbench.runs import store

        write(export, store.model_bytes(records[0]["id"]))
    if json_:
        import json

        deliver(json.dumps(records[0], indent=1) + "\n")
    else:
        print_table("terminal", "3", records)


@app.command(epilog="Example: `dslbench compare --backbone lightgcn --sparsity 0.5 --seeds 3`")
def compare(
    backbone: Annotated[
        str | None, typer.Option("--backbone", help="Recommendation model (or use --plan).")
    ] = None,
    dataset: options.Dataset = None,
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
    epochs: options.Epochs = None,
    scale: options.Scale = None,
    set_: options.Settings = None,
    protocol: Annotated[
        str | None, typer.Option("--protocol", help="default, paper, ...: see data/README.md")
    ] = None,
    plan: Annotated[
        str | None,
        typer.Option("--plan", help="A plan's name or file; other options replace what it says."),
    ] = None,
    device: options.Device = "auto",
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            min=1,
            help="Runs at once, which share the cores and take the GPUs in turn; default: 1, "
            "on a cluster as many as fit.",
        ),
    ] = None,
    executor: Annotated[
        Literal["local", "ray"],
        typer.Option("--executor", help="local: this machine; ray: a Ray cluster."),
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            help="The Ray cluster's address; default: RAY_ADDRESS, else a new one here.",
        ),
    ] = None,
    budget_by: Annotated[
        Literal["epochs", "macs"],
        typer.Option(
            "--budget-by",
            help="epochs: all train equally long; macs: then again, each for as many epochs as cost "
            "what the costliest one did.",
        ),
    ] = "epochs",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan only.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Run all from the start, even what is stored.")
    ] = False,
    references: options.References = False,
    format_: options.Format = "terminal",
) -> None:
    """Run the methods side by side, skip what is stored, and end with the table."""
    from dslbench import compare as implementation
    from dslbench.plan import Chosen

    chosen = Chosen(
        dataset=dataset, backbone=backbone, method=method, sparsity=sparsity, seeds=seeds,
        epochs=epochs, scale=scale, protocol=protocol, settings=tuple(set_ or ()),
    )  # fmt: skip
    implementation.compare(
        plan, chosen, format_, budget_by=budget_by,
        where=implementation.Where(device, workers, executor, address), force=force,
        dry_run=dry_run, references=references,
    )  # fmt: skip


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
    device: options.Device = "auto",
) -> None:
    """Get the data, run the plans, and write one HTML report with its tables and figures."""
    from dslbench.compare import Where, make
    from dslbench.reproduce import reproduce as implementation

    implementation(
        scale, source, output,
        lambda specs: make(specs, where=Where(device), force=False, dry_run=False, show=False), say,
    )  # fmt: skip


@app.command(epilog="Example: `dslbench report --table 3 --output table3.tex`")
def report(
    table: Annotated[
        str | None,
        typer.Option(
            "--table",
            help="1: what is saved; 2: backbones; 3: methods (default); 4: decays; cost; pareto; stats; "
            "audit: the paper's own figures.",
        ),
    ] = None,
    figure: Annotated[
        str | None,
        typer.Option(
            "--figure",
            help="2: sparsity; 3: update interval; 4: where entries lie; 5: loss; pareto.",
        ),
    ] = None,
    published: Annotated[
        bool, typer.Option("--published", help="Published results, with ours beside them.")
    ] = False,
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
    references: options.References = False,
) -> None:
    """Print tables and figures of stored runs, published results, or the audit; trains nothing."""
    from dslbench.report import command

    wanted = {
        "dataset": dataset, "backbone": backbone, "method": method, "protocol": protocol,
        "scale": scale,
    }  # fmt: skip
    command.report(
        wanted, table=table, figure=figure, published=published, format_name=format_,
        output=output, stats=stats, references=references,
    )  # fmt: skip


@app.command("list", epilog="Example: `dslbench list methods`")
def list_(
    what: Annotated[
        Literal["datasets", "backbones", "methods", "settings", "plans", "runs"],
        typer.Argument(help="What to list."),
    ],
    name: Annotated[
        str | None, typer.Argument(help="Backbone or method whose settings are listed.")
    ] = None,
    json_: Annotated[
        bool, typer.Option("--json", help="As JSON (data sets, settings and runs).")
    ] = False,
) -> None:
    """List data sets, backbones, methods, what `--set` takes, plans or stored runs."""
    if name is not None and what != "settings":
        raise UsageError(f"a name goes with settings only: {name}", f"dslbench list {what}")
    if what == "settings":
        _list_settings(name, json_)
    elif what == "datasets":
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


def _list_settings(name: str | None, as_json: bool) -> None:
    import dataclasses
    import json

    from dslbench import registry, settings

    owners = [name] if name else [*registry.names("backbone"), *registry.names("method")]
    if as_json:
        found = [dataclasses.asdict(s) for owner in owners for s in settings.of(owner)]
        print(json.dumps(found, indent=1))
        return
    print("\n\n".join("\n".join(settings.lines(owner)) for owner in owners))


def _list_runs(as_json: bool) -> None:
    import json

    from dslbench.runs import failures, store

    records, failed = store.read_all(warn), failures.read_all(warn)
    if as_json:
        found: list[dict[str, Any]] = [
            {"id": r["id"], "spec": r["spec"], "failed": None} for r in records
        ]
        found += [{"id": f.id, "spec": f.spec.model_dump(), "failed": f.reason} for f in failed]
        print(json.dumps(found, indent=1))
        return
    for r in records:
        print(f"{r['id']}  {_described(r['spec'])}  recall@20 {r['quality']['recall@20']:.4f}")
    for f in failed:
        hint = f" ({f.hint})" if f.hint else ""
        described = _described(f.spec.model_dump())
        print(f"{f.id}  {described}  FAILED {f.time[:19]}: {f.reason}{hint}")


def _described(spec: dict[str, Any]) -> str:
    from dslbench.words import number

    epochs = number(spec["epochs"], "epoch")
    changed = {**(spec.get("changed_hyper") or {}), **(spec.get("changed_options") or {})}
    return " ".join(
        [
            f"{spec['dataset']} {spec['backbone']} {spec['method']} {spec['variant']}",
            f"{spec['sparsity']:g} seed {spec['seed']} {epochs}",
            *(f"{key}={value}" for key, value in changed.items()),
        ]
    )


def main() -> None:
    """Entry point: errors become one line and their exit code."""
    try:
        code = app(args=sys.argv[1:] or ["--help"], standalone_mode=False, prog_name="dslbench")
    except DslbenchError as error:
        say(f"error: {error.message}" + (f"\n  try: {error.hint}" if error.hint else ""))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        say("interrupted")
        sys.exit(130)
    except BrokenPipeError:
        # The reader has gone; without this the interpreter complains once more while closing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        say(f"error: {where}{error.strerror or error}\n  try: DSLBENCH_HOME names where to store")
        sys.exit(1)
    except Exception as error:
        # The argument parser's own errors; where their classes live depends on Typer's version.
        explain = getattr(error, "format_message", None)
        if explain is None:
            raise
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "dslbench"
        say(f"error: {explain()}\n  try: {command} --help")
        sys.exit(2)
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
