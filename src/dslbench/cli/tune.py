"""`dslbench tune`: settings of all methods alike, chosen on validation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from dslbench.cli import options
from dslbench.output import check_writable

Trials = Annotated[
    int, typer.Option("--trials", min=1, help="Settings tried of each method, the published first.")
]


def tune(
    backbone: options.Backbone,
    dataset: options.Dataset = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method", help="Methods; default: all. The dense run is always tuned first."
        ),
    ] = None,
    trials: Trials = 20,
    sparsity: Annotated[
        float, typer.Option("--sparsity", help="Share of table weights removed.")
    ] = 0.5,
    seed: Annotated[
        int,
        typer.Option(
            "--seed",
            min=0,
            help="Seed of the search and of every training; by default none that `compare` uses.",
        ),
    ] = 1000,
    epochs: options.Epochs = None,
    scale: options.Scale = None,
    set_: options.Settings = None,
    protocol: options.Protocol = "default",
    sampler: Annotated[
        Literal["tpe", "random"], typer.Option("--sampler", help="How settings are proposed.")
    ] = "tpe",
    pruner: Annotated[
        Literal["none", "median", "halving"],
        typer.Option(
            "--pruner",
            help="Give up trials by a shorter run: after a quarter of the epochs (median), or a quarter and "
            "a half (halving). Only where a method has one training.",
        ),
    ] = "none",
    keys: Annotated[
        Literal["own", "all"],
        typer.Option(
            "--keys",
            help="What is searched of methods: own settings at the dense run's learning rate and "
            "regularisation, or these as well.",
        ),
    ] = "own",
    output: Annotated[
        Path | None,
        typer.Option("--output", help="The preset file; default: BACKBONE-DATASET.toml."),
    ] = None,
    device: options.Device = "auto",
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Runs at once, of several methods.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print what was found as data.")] = False,
) -> None:
    """Tune methods with the same number of trials each, and write what was chosen as a preset.

    Choices are made on validation: no trial is given the test part. Trials are stored runs: Ctrl-C at any
    time, and the same command goes on with the same trials. `--set preset=FILE` uses what was found.
    """
    from dslbench.cli import tuning
    from dslbench.cli.datasets import check_not_data
    from dslbench.cli.runner import Where, dataset_or_default
    from dslbench.tuning.campaign import Setting
    from dslbench.tuning.study import Search, check_installed

    check_installed()
    name = dataset_or_default(dataset)
    target = output or Path(tuning.file_name(backbone, name))
    check_writable(target)
    check_not_data(name, target)
    setting = Setting(
        dataset=name, backbone=backbone, sparsity=sparsity, epochs=epochs, scale=scale,
        protocol=protocol, settings=tuple(set_ or ()),
        search=Search(trials, seed, sampler, pruner), keys=keys,
    )  # fmt: skip
    result = tuning.tune(setting, method, Where(device, workers), epochs=epochs, scale=scale)
    tuning.deliver_result(result, target, as_json=json_)
