"""`dslbench shrink`: the smallest model of one's data that is as good."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dslbench.cli import options
from dslbench.errors import UsageError
from dslbench.output import check_writable


def shrink(
    backbone: options.Backbone,
    dataset: options.Dataset = None,
    within: Annotated[
        str | None,
        typer.Option(
            "--within", help="Most of dense's validation quality that may be lost; default: 1%."
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="SIZE",
            help="In its place: the best model within a share of dense's bytes, or a size (2MiB).",
        ),
    ] = None,
    confident: Annotated[
        bool,
        typer.Option(
            "--confident",
            help="Take only what is within it at the worse end of the 95 % interval, too.",
        ),
    ] = False,
    time_: Annotated[str, typer.Option("--time", help="How long it may take: 30m, 2h.")] = "2h",
    epochs: Annotated[
        int | None,
        typer.Option(
            "--epochs",
            help="Epochs of each training; default: the preset's, or what a quarter of --time has room for.",
        ),
    ] = None,
    set_: options.Settings = None,
    protocol: options.Protocol = "default",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of all random streams.")] = 0,
    export: Annotated[
        Path, typer.Option("--export", help="The model file that is written.")
    ] = Path("shrunk.safetensors"),
    with_seen: Annotated[
        bool, typer.Option("--with-seen", help="The model holds what users have seen, too.")
    ] = False,
    evidence: Annotated[
        Path,
        typer.Option(
            "--evidence", help="The page that is written: .md, .html, .txt, .tex or .csv."
        ),
    ] = Path("shrunk.md"),
    device: options.Device = "auto",
    json_: Annotated[bool, typer.Option("--json", help="Print the answer as data.")] = False,
) -> None:
    """Find the smallest stored model that is as good as dense, and write it with the evidence.

    Everything is chosen on validation; test is looked at once, at the end. Ctrl-C writes what was found by
    then, and the same command goes on.
    """
    from dslbench.cli import shrinking
    from dslbench.cli.datasets import check_not_data
    from dslbench.cli.runner import Where

    goal = shrinking.goal_of(within, to, confident=confident)
    seconds = shrinking.seconds_of(time_)
    for path in (export, evidence):
        check_writable(path)
    check_not_data(dataset, export, evidence)
    if export.resolve() == evidence.resolve():
        raise UsageError("--export and --evidence name one file", "name two")
    shrinking.shrink(
        shrinking.Wish(
            dataset=dataset, backbone=backbone, epochs=epochs, settings=tuple(set_ or ()), protocol=protocol,
            seed=seed, goal=goal, seconds=seconds,
        ),
        where=Where(device), export=export, with_seen=with_seen, evidence=evidence, as_json=json_,
    )  # fmt: skip
