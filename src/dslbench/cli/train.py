"""`dslbench train`: one run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dslbench.cli import options
from dslbench.errors import UsageError
from dslbench.output import check_writable, deliver, warn, write


def train(
    backbone: Annotated[
        str | None,
        typer.Option("--backbone", help="Recommendation model; a reference has none."),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            "--method",
            help="Method or reference; see `dslbench list methods` and `list references`.",
        ),
    ] = "dense",
    dataset: options.Dataset = None,
    sparsity: Annotated[
        float | None,
        typer.Option("--sparsity", help="Share of table weights removed; default: 0.5."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of all random streams.")] = 0,
    epochs: options.Epochs = None,
    scale: options.Scale = None,
    set_: options.Settings = None,
    protocol: options.Protocol = "default",
    device: options.Device = "auto",
    export: Annotated[
        Path | None, typer.Option("--export", help="Also write the packed model to this file.")
    ] = None,
    precision: Annotated[
        str,
        typer.Option(
            "--precision",
            help="How the exported model keeps its tables: fp32, fp16, bf16, int8, int6, int4, int3, int2.",
        ),
    ] = "fp32",
    with_seen: Annotated[
        bool,
        typer.Option(
            "--with-seen",
            help="The exported model holds what users have seen, too: `dslbench recommend` then needs "
            "no data set.",
        ),
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Train from the start, even if the run is stored.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the run's record.")] = False,
) -> None:
    """Train one model with one method and store the run."""
    from dslbench import registry
    from dslbench.cli.datasets import check_not_data
    from dslbench.cli.exporting import exported
    from dslbench.cli.runner import Where, dataset_or_default, make, print_table
    from dslbench.runs import store
    from dslbench.runs.fitting import those_that_fit
    from dslbench.spec import check_length, check_used, resolve
    from dslbench.tables.stored import check_precision

    check_length(epochs, scale)
    reference = registry.is_reference(method)
    if backbone is None and not reference:
        registry.row(method)  # a name that nobody has is the first thing to say
        raise UsageError(f"{method} needs a --backbone", "dslbench list backbones")
    if reference:
        unused = {"--backbone": backbone, "--epochs": epochs, "--scale": scale}
        for option in (name for name, given in unused.items() if given is not None):
            raise UsageError(
                f"{option} means nothing to {method}, a reference", f"leave {option} out"
            )
    spec = resolve(
        dataset=dataset_or_default(dataset), backbone=backbone or registry.NO_BACKBONE, method=method,
        sparsity=0.5 if sparsity is None else sparsity, seed=seed, epochs=epochs,
        scale=scale, protocol=protocol, settings=set_ or (),
    )  # fmt: skip
    check_used(set_ or (), [method])
    check_precision(precision)
    if sparsity and method != "dense" and (reference or not registry.method(method).uses_sparsity):
        raise UsageError(f"a sparsity means nothing to {method}", "leave --sparsity out")
    if precision != "fp32" and not reference and not registry.method(method).has_precisions:
        raise UsageError(
            f"what {method} stores has no precisions", f"dslbench list settings {method}"
        )
    if precision != "fp32" and export is None:
        raise UsageError("--precision is that of an exported model", "add --export FILE")
    if with_seen and export is None:
        raise UsageError("--with-seen is of an exported model", "add --export FILE")
    if export is not None:
        check_writable(export)
        check_not_data(dataset, export)
    if reference:
        those_that_fit([spec], lambda run_id: not fresh and store.has(run_id, warn), asked=[method])
    extra = () if precision == "fp32" else (precision,)
    records = make([spec], where=Where(device), force=fresh, dry_run=False, precisions=extra)
    if export is not None:
        write(export, exported(records[0], precision, with_seen=with_seen))
    if json_:
        import json

        deliver(json.dumps(records[0], indent=1) + "\n")
    else:
        print_table("terminal", "3", records, extra)
