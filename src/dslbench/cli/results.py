"""`dslbench results`: published runs as a folder of data: check it, add to it, make a row again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dslbench.cli import options

app = typer.Typer(help="Published runs as data: check them, add your own, make one again.")

Folder = Annotated[
    Path, typer.Argument(metavar="[FOLDER]", help="Folder of published runs.", show_default=True)
]


@app.command(epilog="Example: `dslbench results check results`")
def check(folder: Folder = Path("results")) -> None:
    """Check every record: its shape, sums, data, versions, command and file; names what is wrong."""
    from dslbench.cli import publishing

    publishing.check(folder)


@app.command(epilog="Example: `dslbench results add --dataset gowalla --to results`")
def add(
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN_ID]...", help="Stored runs; see `dslbench list runs`."),
    ] = None,
    to: Annotated[Path, typer.Option("--to", help="Folder to add to.")] = Path("results"),
    dataset: Annotated[str | None, typer.Option("--dataset", help="All of a data set.")] = None,
    backbone: Annotated[str | None, typer.Option("--backbone", help="All of a backbone.")] = None,
    method: Annotated[str | None, typer.Option("--method", help="All of a method.")] = None,
    protocol: Annotated[str | None, typer.Option("--protocol", help="All of a protocol.")] = None,
    scale: Annotated[str | None, typer.Option("--scale", help="All of a scale.")] = None,
) -> None:
    """Take runs out of the store: their records, no models and nothing of single users."""
    from dslbench.cli import publishing

    wanted = {
        "dataset": dataset, "backbone": backbone, "method": method, "protocol": protocol,
        "scale": scale,
    }  # fmt: skip
    publishing.add(runs or [], wanted, to)


@app.command(epilog="Example: `dslbench results rerun 1a2b3c4d5e6f --records results`")
def rerun(
    run: Annotated[str, typer.Argument(metavar="ID", help="Id of the row, or how it begins.")],
    records: Annotated[Path, typer.Option("--records", help="Folder of published runs.")] = Path(
        "results"
    ),
    within: Annotated[
        str, typer.Option("--within", help="How far the quality may differ, relative.")
    ] = "1%",
    device: options.Device = "auto",
) -> None:
    """Make the run of one row again, from its command, and compare what comes out."""
    from dslbench.cli import publishing

    publishing.rerun(run, records, within, device)
