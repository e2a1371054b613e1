"""`dslbench download`: data sets, verified before use."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dslbench.errors import UsageError


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
    inspect: Annotated[
        Path | None,
        typer.Option("--inspect", help="Say what a file, folder or TOML is taken for, and stop."),
    ] = None,
) -> None:
    """Fetch data sets from their owners' addresses, verified before use."""
    from dslbench.cli import datasets

    if inspect is not None:
        if names or all_ or source is not None or verify or force:
            raise UsageError("--inspect goes alone", f"dslbench download --inspect {inspect}")
        datasets.inspect(inspect)
        return
    datasets.download(names or [], all_, source, verify, force)
