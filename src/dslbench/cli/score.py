"""`dslbench score`: lists that another tool made, judged on our split by our metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dslbench.cli import options
from dslbench.output import check_apart, deliver, say


def score(
    lists: Annotated[
        Path,
        typer.Option(
            "--lists",
            help="File of lists by original ids: columns user, item and rank or score, or JSON lines "
            '{"user": ..., "items": [...]}.',
        ),
    ],
    dataset: options.Dataset = None,
    protocol: options.Protocol = "default",
    format_: options.Format = "terminal",
    output: Annotated[
        Path | None, typer.Option("--output", help="File to write, in place of stdout.")
    ] = None,
) -> None:
    """Judge lists of recommendations that any tool made, on a data set's test part."""
    from dslbench import data as datasets
    from dslbench.cli.datasets import check_not_data
    from dslbench.cli.runner import dataset_or_default
    from dslbench.data.ranked import read_ranked
    from dslbench.report import command
    from dslbench.report.formats import render
    from dslbench.report.given_lists import judge, table

    render.check_format(format_)
    check_apart(output, lists, "file of lists")
    check_not_data(dataset, output)
    name = dataset_or_default(dataset)
    data = datasets.load(name, protocol=protocol)
    users, items = (
        {one: at for at, one in enumerate(ids)} for ids in (data.user_names, data.item_names)
    )
    ranked = read_ranked(lists, users, items)
    judged = judge(ranked, data)
    say(
        f"lists of {lists.name} ({ranked.order}), on the test part of {name}, protocol {data.protocol}"
    )
    found = [table(lists.name, name, judged)]
    width, color = command.looks(to_file=output is not None)
    deliver(render.tables(format_, found, width=width, color=color), output)
