"""Exporters: one function per format, from table models or records to text."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence, Sized
from typing import Any

from dslbench.errors import UsageError, did_you_mean
from dslbench.report.columns import Record
from dslbench.report.tables import Cell, TableModel, build


def terminal(tables: Sequence[TableModel], width: int | None, color: bool) -> str:
    """Tables for a terminal; `width` None asks the terminal itself.

    Numbers are never broken: a table too wide is shown in parts one below the other, each with the
    columns of text at its left.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    def text(cell: Cell) -> Text:
        style = {"best": "bold", "second": "underline", "": ""}[cell.mark]
        shown = Text(cell.text, style=style)
        return shown.append(f" ±{cell.spread}", style="dim") if cell.spread else shown

    console = Console(
        file=io.StringIO(), width=width, force_terminal=color, no_color=not color, highlight=False
    )
    for number, model in enumerate(tables):
        if number:
            console.print()
        console.print(Text(model.title, style="bold"))
        cells = [[text(cell) for cell in row] for row in model.rows]
        headers = [header.replace(" ", "\n") for header in model.headers]
        for columns in _parts(headers, cells, model.left_columns, console.width):
            table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
            for place in columns:
                left = place < model.left_columns
                table.add_column(
                    headers[place],
                    justify="left" if left else "right",
                    no_wrap=True,
                    vertical="bottom",
                )
            for place, row in enumerate(cells):
                table.add_row(*(row[c] for c in columns), end_section=place in model.rules)
            console.print(table)
        for line in model.footer:
            console.print(Text(line, style="dim"), soft_wrap=width is None)
    output = console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue()


def _parts(
    headers: Sequence[str], rows: Sequence[Sequence[Sized]], left: int, width: int
) -> list[list[int]]:
    """Columns of each part of a table that fits the width (one column at least)."""
    needed = [  # a space on either side and one between columns; two at the table's edges
        3 + max([*map(len, header.split("\n")), *(len(row[place]) for row in rows)])
        for place, header in enumerate(headers)
    ]
    fixed = list(range(left))
    parts: list[list[int]] = [list(fixed)]
    for place in range(left, len(headers)):
        used = 2 + sum(needed[c] for c in parts[-1])
        if used + needed[place] > width and len(parts[-1]) > left:
            parts.append(list(fixed))
        parts[-1].append(place)
    return parts


def markdown(tables: Sequence[TableModel]) -> str:
    """GitHub-flavoured tables; best bold, second underlined, deviations as subscripts."""
    from tabulate import tabulate

    def text(cell: Cell) -> str:
        shown = cell.text.replace("|", "\\|")
        if cell.spread:
            shown += f"<sub>({cell.spread})</sub>"
        if cell.mark == "best":
            return f"**{shown}**"
        return f"<u>{shown}</u>" if cell.mark == "second" else shown

    parts = []
    for model in tables:
        grid = tabulate(
            [[text(cell) for cell in row] for row in model.rows],
            headers=model.headers,
            tablefmt="pipe",
            disable_numparse=True,
            colalign=[
                "left" if place < model.left_columns else "right"
                for place in range(len(model.headers))
            ],
        )
        notes = "\n".join(f"- {line}" for line in model.footer)
        parts.append(f"**{model.title}**\n\n{grid}\n\n{notes}\n")
    return "\n".join(parts)


FORMATS = ("terminal", "markdown", "json")


def check_format(name: str) -> None:
    """Raise `UsageError` for a format that does not exist."""
    if name not in FORMATS:
        raise UsageError(f"unknown format '{name}'", did_you_mean(name, FORMATS))


def render(
    format_name: str, number: str, records: Sequence[Record], *, width: int | None, color: bool
) -> str:
    """A table (or, for json, the records themselves) in the given format."""
    return render_tables(
        format_name, lambda: build(number, records), list(records), width=width, color=color
    )


def render_tables(
    format_name: str,
    tables: Callable[[], Sequence[TableModel]],
    data: Sequence[Any],
    *,
    width: int | None,
    color: bool,
) -> str:
    """Tables (or, for json, the data they show) in the given format."""
    renderers: dict[str, Callable[[], str]] = {
        "terminal": lambda: terminal(tables(), width, color),
        "markdown": lambda: markdown(tables()),
        "json": lambda: json.dumps(data, indent=1) + "\n",
    }
    check_format(format_name)
    return renderers[format_name]()
