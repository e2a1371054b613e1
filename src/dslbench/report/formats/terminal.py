"""Tables for a terminal, with rich."""

from __future__ import annotations

import io
from collections.abc import Sequence, Sized

from dslbench.report.tables import Cell, TableModel

# Where there is neither bold nor underline.
PLAIN_MARKS = {"best": "*", "second": "'", "": ""}


def terminal(tables: Sequence[TableModel], width: int | None, color: bool) -> str:
    """Tables for a terminal; `width` None asks the terminal itself.

    Numbers are never broken: a table too wide is shown in parts one below the other, each with the
    columns of text at its left. Without `color` (a pipe, a file) marks are characters.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    def text(cell: Cell, padded: bool) -> Text:
        style = {"best": "bold", "second": "underline", "": ""}[cell.mark] if color else ""
        shown = Text(cell.text, style=style)
        if cell.spread:
            shown.append(f" ±{cell.spread}", style="dim")
        if padded and not color:
            shown.append(PLAIN_MARKS[cell.mark] or " ")
        return shown

    console = Console(
        file=io.StringIO(), width=width, force_terminal=color, no_color=not color, highlight=False
    )
    for number, model in enumerate(tables):
        if number:
            console.print()
        console.print(Text(model.title, style="bold"))
        marked = [any(row[place].mark for row in model.rows) for place in range(len(model.headers))]
        cells = [
            [text(cell, pad) for cell, pad in zip(row, marked, strict=True)] for row in model.rows
        ]
        headers = [
            header.replace(" ", "\n") if place >= model.left_columns else header
            for place, header in enumerate(model.headers)
        ]
        for columns in _parts(headers, cells, model.left_columns, console.width):
            table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
            for place in columns:
                left = place < model.left_columns
                table.add_column(
                    headers[place],
                    justify="left" if left else "right",
                    no_wrap=not left,  # words may be broken, numbers not
                    overflow="fold",
                    vertical="bottom",
                )
            for place, row in enumerate(cells):
                table.add_row(*(row[c] for c in columns), end_section=place in model.rules)
            console.print(table)
        footer = list(model.footer)
        if any(marked) and not color:
            footer.insert(0, model.legend)
        for line in footer:
            console.print(Text(line, style="dim"), soft_wrap=width is None)
    output = console.file
    assert isinstance(output, io.StringIO)
    return "\n".join(line.rstrip() for line in output.getvalue().split("\n"))


def _parts(
    headers: Sequence[str], rows: Sequence[Sequence[Sized]], left: int, width: int
) -> list[list[int]]:
    """Columns of each part of a table that fits the width (one column at least)."""
    needed = [  # a space on either side and one between columns; two at the table's edges
        3 + max([*map(len, header.split("\n")), *(len(row[place]) for row in rows)])
        for place, header in enumerate(headers)
    ]
    fixed = list(range(left))
    # Long words at the left are broken rather than leave no room for a number.
    room = min(sum(needed[c] for c in fixed), max(20, width // 2))
    parts: list[list[int]] = [list(fixed)]
    used = room
    for place in range(left, len(headers)):
        if 2 + used + needed[place] > width and len(parts[-1]) > left:
            parts.append(list(fixed))
            used = room
        parts[-1].append(place)
        used += needed[place]
    return parts
