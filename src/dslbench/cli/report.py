"""`dslbench report`: tables and figures of stored runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dslbench.cli import options


def report(
    table: Annotated[
        str | None,
        typer.Option(
            "--table",
            help="1: what is saved; 2: backbones; 3: methods (default); 4: decays; cost; bytes: by "
            "precision; tail: rare items; pareto; stats; "
            "audit: the paper's own figures.",
        ),
    ] = None,
    figure: Annotated[
        str | None,
        typer.Option(
            "--figure",
            help="2: sparsity; 3: update interval; 4: where entries lie; 5: loss; pareto; bytes.",
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
            "html without a table is a page to explore, json without one the runs' records.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", help="File to write (figures: also png, svg, pdf)."),
    ] = None,
    records: Annotated[
        Path | None,
        typer.Option(
            "--records",
            help="Of a folder of published runs in place of the store: no data, models or values of users.",
        ),
    ] = None,
    dataset: Annotated[str | None, typer.Option("--dataset", help="Only this data set.")] = None,
    backbone: Annotated[str | None, typer.Option("--backbone", help="Only this backbone.")] = None,
    method: Annotated[str | None, typer.Option("--method", help="Only this method.")] = None,
    protocol: Annotated[str | None, typer.Option("--protocol", help="Only this protocol.")] = None,
    scale: Annotated[str | None, typer.Option("--scale", help="Only this scale.")] = None,
    stats: Annotated[
        bool, typer.Option("--stats", help="Add intervals and paired tests over seeds and users.")
    ] = False,
    references: options.StoredReferences = False,
) -> None:
    """Print tables and figures of stored runs, published results, or the audit; trains nothing."""
    from dslbench.report import command

    wanted = {
        "dataset": dataset, "backbone": backbone, "method": method, "protocol": protocol,
        "scale": scale,
    }  # fmt: skip
    command.report(
        wanted, source=records, table=table, figure=figure, published=published, format_name=format_,
        output=output, stats=stats, with_references=references,
    )  # fmt: skip
