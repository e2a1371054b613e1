"""Exporters: one function per format, from tables, figures or records to text."""

from __future__ import annotations

import csv as csv_library
import io
import json
from collections.abc import Callable, Sequence
from typing import Any

from dslbench.errors import UsageError, did_you_mean
from dslbench.report.columns import Record
from dslbench.report.figures import FigureModel
from dslbench.report.formats.escapes import csv_cell, markdown_cell, markdown_item
from dslbench.report.formats.escapes import markdown as markdown_text
from dslbench.report.formats.html import page
from dslbench.report.formats.latex import latex
from dslbench.report.formats.terminal import terminal
from dslbench.report.formats.text_plot import text_figure
from dslbench.report.tables import MISSING, Cell, TableModel

FORMATS = ("terminal", "markdown", "latex", "csv", "html", "json")
FIGURE_FORMATS = ("terminal", "csv", "html", "json")
PIPE_WIDTH = 160  # of what is not written to a terminal


def check_format(name: str, known: Sequence[str] = FORMATS) -> None:
    """Raise `UsageError` for a format that does not exist."""
    if name not in known:
        raise UsageError(f"unknown format '{name}'", did_you_mean(name, known))


def markdown(tables: Sequence[TableModel]) -> str:
    """GitHub-flavoured tables; best bold, second underlined, deviations as subscripts."""
    from tabulate import tabulate

    def text(cell: Cell) -> str:
        shown = markdown_cell(cell.text)
        if cell.spread:
            shown += f"<sub>({cell.spread})</sub>"
        if cell.mark == "best":
            return f"**{shown}**"
        return f"<u>{shown}</u>" if cell.mark == "second" else shown

    parts = []
    for model in tables:
        grid = tabulate(
            [[text(cell) for cell in row] for row in model.rows],
            headers=[markdown_cell(header) for header in model.headers],
            tablefmt="pipe",
            disable_numparse=True,
            colalign=[
                "left" if place < model.left_columns else "right"
                for place in range(len(model.headers))
            ]
            if model.rows
            else None,
        )
        notes = "\n".join(f"- {markdown_item(line)}" for line in model.footer)
        parts.append(f"**{markdown_text(model.title)}**\n\n{grid}\n\n{notes}\n")
    return "\n".join(parts)


def csv(tables: Sequence[TableModel]) -> str:
    """One line per row: the table's title, then each column's number, unrounded and in base units.

    A line stands by itself: names that a table shows once for several rows are in all of them.

    A column with deviations is followed by one named "... sd". Missing and not applicable numbers
    are empty. Text that a spreadsheet would compute has a ' before it. Tables with other columns share
    the file: a column that a table lacks is empty.
    """
    lines = [_line(model, row) for model in tables for row in model.rows]
    names = list(dict.fromkeys(name for line in lines for name in line))
    output = io.StringIO()
    writer = csv_library.DictWriter(output, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return output.getvalue()


def _line(model: TableModel, row: Sequence[Cell]) -> dict[str, Any]:
    line: dict[str, Any] = {"Table": csv_cell(model.title)}
    for header, cell in zip(map(csv_cell, unique_headers(model)), row, strict=True):
        number = cell.value is not None or cell.text in (MISSING, "n/a")
        text = csv_cell(cell.whole)
        line[header] = ("" if cell.value is None else repr(cell.value)) if number else text
        if cell.deviation is not None:
            line[f"{header} sd"] = repr(cell.deviation)
    return line


def unique_headers(model: TableModel) -> list[str]:
    """Headers in which a repeated one carries the header before it ("Measured vs dense")."""
    return [
        f"{model.headers[place - 1]} {header}" if model.headers.count(header) > 1 else header
        for place, header in enumerate(model.headers)
    ]


def table_json(tables: Sequence[TableModel]) -> str:
    """Tables as objects; a cell has its text, and null where there is no number."""
    return json.dumps(
        [
            {
                "title": model.title,
                "rows": [
                    {
                        header: {
                            "text": cell.whole, "value": cell.value, "sd": cell.deviation,
                            "runs": cell.runs or None, "mark": cell.mark or None,
                        }
                        for header, cell in zip(unique_headers(model), row, strict=True)
                    }
                    for row in model.rows
                ],
                "footer": model.footer,
            }
            for model in tables
        ],
        indent=1,
    ) + "\n"  # fmt: skip


def record_json(records: Sequence[Record]) -> str:
    """The records themselves."""
    return json.dumps(list(records), indent=1) + "\n"


def tables(
    format_name: str, models: Sequence[TableModel], *, width: int | None, color: bool
) -> str:
    """Tables in the given format."""
    check_format(format_name)
    renderers: dict[str, Callable[[], str]] = {
        "terminal": lambda: terminal(models, width, color),
        "markdown": lambda: markdown(models),
        "latex": lambda: latex(models),
        "csv": lambda: csv(models),
        "html": lambda: page(models[0].title, models),
        "json": lambda: table_json(models),
    }
    return renderers[format_name]()


def figures(format_name: str, models: Sequence[FigureModel], *, width: int) -> str:
    """Figures in the given format (pictures are files: `draw`)."""
    check_format(format_name, FIGURE_FORMATS)
    renderers: dict[str, Callable[[], str]] = {
        "terminal": lambda: "\n".join(text_figure(model, width) for model in models),
        "csv": lambda: figure_csv(models),
        "html": lambda: page(models[0].title, [], models),
        "json": lambda: json.dumps(list(_figure_objects(models)), indent=1) + "\n",
    }
    return renderers[format_name]()


def figure_csv(models: Sequence[FigureModel]) -> str:
    """One line per point."""
    output = io.StringIO()
    writer = csv_library.writer(output, lineterminator="\n")
    writer.writerow(["figure", "x label", "y label", "series", "x", "y", "sd"])
    for figure in _figure_objects(models):
        for panel in figure["panels"]:
            for s in panel["series"]:
                labels = s.get("labels", [""] * len(s["x"]))
                for x, y, error, label in zip(s["x"], s["y"], s["sd"], labels, strict=True):
                    sd = "" if error is None else repr(error)
                    name = f"{s['name']}: {label}" if label else s["name"]
                    words = (figure["title"], panel["x"], panel["y"], name)
                    writer.writerow([*map(csv_cell, words), repr(x), repr(y), sd])
    return output.getvalue()


def _figure_objects(models: Sequence[FigureModel]) -> list[dict[str, Any]]:
    """Figures as plain data; the cells of a heat map are left to its picture."""
    return [
        {
            "title": model.title,
            "panels": [
                {
                    "title": panel.title, "x": panel.x_label, "y": panel.y_label,
                    "series": [
                        {"name": s.name, "x": s.x, "y": s.y, "sd": s.error or [None] * len(s.x)}
                        | ({"labels": s.labels} if s.labels else {})
                        for s in panel.series
                    ],
                }
                for panel in model.panels
                if panel.heat is None
            ],
            "footer": model.footer,
        }
        for model in models
    ]  # fmt: skip
