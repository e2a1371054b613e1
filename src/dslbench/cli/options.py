"""Command-line options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Backbone = Annotated[str, typer.Option("--backbone", help="Recommendation model.")]
Dataset = Annotated[
    str | None,
    typer.Option("--dataset", help="Data set; default: the one downloaded last, else toy."),
]
Epochs = Annotated[int | None, typer.Option("--epochs", help="Epochs of each training.")]
Scale = Annotated[
    str | None,
    typer.Option(
        "--scale",
        help="Epochs relative to the preset's, in place of --epochs: quick (1 %, for a look), "
        "laptop (10 %) or paper (all, the default).",
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
Precisions = Annotated[
    list[str] | None,
    typer.Option(
        "--precision",
        help="Also judge stored models at fp16, bf16, int8, int6, int4, int3 or int2; by default fp16, "
        "int8 and int4 where that is cheap. See `dslbench report --table bytes`.",
    ),
]
Format = Annotated[
    str, typer.Option("--format", help="terminal, markdown, latex, csv, html or json.")
]
References = Annotated[
    bool,
    typer.Option(
        "--references",
        help="Also run the references that fit into memory: item popularity, neighbours, closed forms and "
        "linear models (`dslbench list references`).",
    ),
]
StoredReferences = Annotated[
    bool,
    typer.Option(
        "--references",
        help="Have stored references of the same data among the runs, whatever is chosen.",
    ),
]
