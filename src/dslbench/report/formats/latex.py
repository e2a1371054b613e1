"""Tables for a paper: LaTeX with booktabs."""

from __future__ import annotations

from collections.abc import Sequence

from dslbench.report.tables import Cell, TableModel

_ESCAPES = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
    "✓": r"$\checkmark$", "✗": r"$\times$", "±": r"$\pm$", "λ": r"$\lambda$",
    "≥": r"$\geq$", "≤": r"$\leq$", "Δ": r"$\Delta$",
    "\n": " ",
}  # fmt: skip

PREAMBLE = "% needs \\usepackage[T1]{fontenc}, \\usepackage{booktabs} and \\usepackage{amssymb}\n"


def escape(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return "".join(_ESCAPES.get(character, character) for character in text)


def latex(tables: Sequence[TableModel]) -> str:
    """One float per table; best bold, second underlined, deviations as subscripts."""
    return PREAMBLE + "\n".join(map(_table, tables))


def _table(model: TableModel) -> str:
    places = range(len(model.headers))
    alignment = "".join("l" if place < model.left_columns else "r" for place in places)
    lines = [
        r"\begin{table*}",
        r"\centering",
        rf"\caption{{{escape(model.title)}}}",
        r"\small",
        rf"\begin{{tabular}}{{{alignment}}}",
        r"\toprule",
        " & ".join(map(escape, model.headers)) + r" \\",
        r"\midrule",
    ]
    for place, row in enumerate(model.rows):
        lines.append(" & ".join(map(_cell, row)) + r" \\")
        if place in model.rules and place + 1 < len(model.rows):
            lines.append(r"\midrule")
    lines += [r"\bottomrule", r"\end{tabular}", ""]
    if model.footer:
        notes = " ".join(map(escape, model.footer))
        lines += [r"\par\smallskip", rf"{{\footnotesize {notes}\par}}"]
    return "\n".join([*lines, r"\end{table*}", ""])


def _cell(cell: Cell) -> str:
    shown = escape(cell.text)
    if cell.spread:
        shown += rf"$_{{({cell.spread})}}$"
    if cell.mark == "best":
        return rf"\textbf{{{shown}}}"
    return rf"\underline{{{shown}}}" if cell.mark == "second" else shown
