"""`dslbench compare`: methods side by side, and their table."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from dslbench.cli import options
from dslbench.errors import UsageError


def compare(
    backbone: Annotated[
        str | None,
        typer.Option(
            "--backbone", help="Recommendation model (or use --plan); a reference has none."
        ),
    ] = None,
    dataset: options.Dataset = None,
    sparsity: Annotated[
        list[float] | None,
        typer.Option("--sparsity", help="Share of table weights removed; default: 0.5."),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option("--method", help="Methods, references; default: all methods, dense first."),
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
    precision: options.Precisions = None,
    bytes_: Annotated[
        list[str] | None,
        typer.Option(
            "--bytes",
            metavar="SIZE",
            help="In place of --sparsity: each method chooses sparsity, width, bits or codes for so many "
            "stored bytes; a share of dense's (0.133) or a size (2MiB).",
        ),
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
    tune: Annotated[
        int | None,
        typer.Option(
            "--tune",
            min=1,
            metavar="TRIALS",
            help="First tune every method with so many trials, on validation (`dslbench tune`), then compare "
            "them at what was chosen.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan only.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Run all from the start, even what is stored.")
    ] = False,
    references: options.References = False,
    format_: options.Format = "terminal",
) -> None:
    """Run the methods side by side, skip what is stored, and end with the table."""
    from dslbench.cli import comparison
    from dslbench.cli.runner import Where
    from dslbench.runs.plan import Chosen

    chosen = Chosen(
        dataset=dataset, backbone=backbone, method=method, sparsity=sparsity, seeds=seeds,
        epochs=epochs, scale=scale, protocol=protocol, settings=tuple(set_ or ()),
        references=references,
    )  # fmt: skip
    where = Where(device, workers, executor, address)
    if tune is not None:
        chosen = _tuned(chosen, tune, where, plan=plan, dry_run=dry_run, bytes_=bytes_)
    comparison.compare(
        plan, chosen, format_, budget_by=budget_by,
        where=where, force=force,
        dry_run=dry_run, precisions=tuple(precision or ()),
        sizes=tuple(bytes_ or ()),
    )  # fmt: skip


def _tuned(
    chosen: Any,
    trials: int,
    where: Any,
    *,
    plan: str | None,
    dry_run: bool,
    bytes_: list[str] | None,
) -> Any:
    for option, given in (("--plan", plan), ("--dry-run", dry_run), ("--bytes", bytes_)):
        if given:
            raise UsageError(f"--tune does not go with {option}", "dslbench tune, then compare")
    from dslbench.cli import tuning

    return tuning.before_comparing(chosen, trials, where)
