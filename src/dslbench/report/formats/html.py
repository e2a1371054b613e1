"""One self-contained page: tables and figures in a single file, nothing fetched, no scripts."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

from dslbench.report.figures import FigureModel
from dslbench.report.formats.draw import draw
from dslbench.report.tables import Cell, TableModel

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.45 system-ui, sans-serif; margin: 0 auto; padding: 1rem; max-width: 75rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.05rem; margin-top: 2.5rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
caption { text-align: left; }
th, td { padding: .25rem .6rem; text-align: right; white-space: nowrap; }
th { border-bottom: 2px solid; vertical-align: bottom; }
.left { text-align: left; }
tr.rule td { border-bottom: 1px solid #8888; }
td.best { font-weight: bold; } td.second { text-decoration: underline; }
sub { opacity: .7; font-weight: normal; }
img { max-width: 100%; height: auto; background: white; }
.notes { font-size: .8rem; opacity: .8; padding-left: 1.2rem; overflow-wrap: anywhere; }
"""


def page(
    title: str,
    tables: Sequence[TableModel],
    figures: Sequence[FigureModel] = (),
    notes: Sequence[str] = (),
) -> str:
    """The page as text: its tables, then its figures, then notes on what is not shown."""
    body = [f"<h1>{escape(title)}</h1>", *map(_table, tables), *map(_figure, figures)]
    if notes:
        body.append("<h2>Not shown</h2>" + _notes(notes))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _table(model: TableModel) -> str:
    def kind(place: int) -> str:
        return ' class="left"' if place < model.left_columns else ""

    head = "".join(
        f'<th scope="col"{kind(place)}>{escape(h)}</th>' for place, h in enumerate(model.headers)
    )
    body = []
    for number, row in enumerate(model.rows):
        cells = "".join(_cell(cell, place < model.left_columns) for place, cell in enumerate(row))
        ruled = ' class="rule"' if number in model.rules else ""
        body.append(f"<tr{ruled}>{cells}</tr>")
    lines = "\n".join(body)
    return (
        f'<section>\n<h2>{escape(model.title)}</h2>\n<div class="wide"><table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{lines}\n</tbody>\n</table></div>\n"
        f"{_notes(model.footer)}</section>"
    )


def _cell(cell: Cell, left: bool) -> str:
    kinds = " ".join(kind for kind in ("left" if left else "", cell.mark) if kind)
    spread = f"<sub>({escape(cell.spread)})</sub>" if cell.spread else ""
    marked = f' class="{kinds}"' if kinds else ""
    return f"<td{marked}>{escape(cell.text)}{spread}</td>"


def _figure(model: FigureModel) -> str:
    content = base64.b64encode(draw(model, "svg")).decode("ascii")
    return (
        f"<section>\n<h2>{escape(model.title)}</h2>\n"
        f'<img alt="{escape(model.title)}" src="data:image/svg+xml;base64,{content}">\n'
        f"{_notes(model.footer)}</section>"
    )


def _notes(lines: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<ul class="notes">{items}</ul>\n' if lines else ""
