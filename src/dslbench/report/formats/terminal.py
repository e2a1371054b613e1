"""Tables for a terminal, with rich."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence, Sized

from dslbench.errors import printable
from dslbench.report.tables import Cell, TableModel

# Where there is neither bold nor underline.
PLAIN_MARKS = {"best": "*", "second": "'", "": ""}


def terminal(tables: Sequence[TableModel], width: int | None, color: bool) -> str:
    """Tables for a terminal; `width` None asks the terminal itself.

    Numbers are never broken: a table too wide is shown in parts one below the other, each with the
    columns of text at its left, the columns that matter most in the first. Without `color` (a pipe, a
    file) marks are characters.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    def text(cell: Cell, padded: bool) -> Text:
        style = {"best": "bold", "second": "underline", "": ""}[cell.mark] if color else ""
        shown = Text(printable(cell.text), style=style)
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
        if model.title:
            console.print(Text(printable(model.title), style="bold"))
        marked = [any(row[place].mark for row in model.rows) for place in range(len(model.headers))]
        cells = [
            [text(cell, pad) for cell, pad in zip(row, marked, strict=True)] for row in model.rows
        ]
        longest = max(12, console.width - max(20, console.width // 2) - 5)
        headers = [
            _stacked(printable(header), longest) if place >= model.left_columns else header
            for place, header in enumerate(model.headers)
        ]
        for columns in _parts(headers, cells, model, console.width):
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
            console.print(Text(printable(line), style="dim"))
    output = console.file
    assert isinstance(output, io.StringIO)
    return "\n".join(line.rstrip() for line in output.getvalue().split("\n"))


def _stacked(header: str, longest: int) -> str:
    """A header with a word a line, words longer than `longest` in pieces."""
    pieces = [textwrap.wrap(word, longest) for word in header.split(" ")]
    return "\n".join(piece for part in pieces for piece in part)


def _parts(
    headers: Sequence[str], rows: Sequence[Sequence[Sized]], model: TableModel, width: int
) -> list[list[int]]:
    """Columns of each part of a table that fits the width (one column at least)."""
    needed = [  # a space on either side and one between columns; two at the table's edges
        3 + max([*map(len, header.split("\n")), *(len(row[place]) for row in rows)])
        for place, header in enumerate(headers)
    ]
    left = model.left_columns
    fixed, others = list(range(left)), list(range(left, len(headers)))
    # Long words at the left are broken rather than leave no room for a number.
    room = min(sum(needed[c] for c in fixed), max(20, width // 2))
    if 2 + room + sum(needed[c] for c in others) > width:
        others = list(dict.fromkeys([*model.first, *others]))
    parts: list[list[int]] = [list(fixed)]
    used = room
    for place in others:
        if 2 + used + needed[place] > width and len(parts[-1]) > left:
            parts.append(list(fixed))
            used = room
        parts[-1].append(place)
        used += needed[place]
    return parts
