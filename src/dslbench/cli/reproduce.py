"""`dslbench reproduce`: the paper's tables and figures in one go."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dslbench.cli import options
from dslbench.output import say


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
    from dslbench.cli.reproduction import reproduce as implementation
    from dslbench.cli.runner import Where, make

    implementation(
        scale, source, output,
        lambda specs: make(specs, where=Where(device), force=False, dry_run=False, show=False), say,
    )  # fmt: skip
