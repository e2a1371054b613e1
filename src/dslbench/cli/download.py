"""`dslbench download`: data sets, verified before use."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


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
) -> None:
    """Fetch data sets from their owners' addresses, verified before use."""
    from dslbench.cli import datasets

    datasets.download(names or [], all_, source, verify, force)
