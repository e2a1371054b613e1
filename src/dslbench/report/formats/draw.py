"""Figures as pictures, by matplotlib."""

from __future__ import annotations

import io
import textwrap

import numpy as np

from dslbench.report.figures import FigureModel, Panel

MARKERS = "o^sDvPX<>*h"


def draw(figure: FigureModel, format_name: str) -> bytes:
    """A picture of the figure: "png", "svg" or "pdf", the same bytes for the same figure."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": figure.title, "font.size": 9, "axes.grid": True,
                         "grid.alpha": 0.3}):  # fmt: skip
        columns = 3 if len(figure.panels) == 3 else min(2, len(figure.panels))
        lines = -(-len(figure.panels) // columns)
        names = dict.fromkeys(s.name for panel in figure.panels for s in panel.series)
        legend_lines = -(-len(names) // (2 * columns))
        page = Figure(
            figsize=(4.6 * columns, 3.4 * lines + 0.2 * legend_lines), layout="constrained"
        )
        FigureCanvasAgg(page)
        page.suptitle("\n".join(textwrap.wrap(figure.title, 60 * columns)), fontsize=9)
        for number, panel in enumerate(figure.panels, start=1):
            _panel(page.add_subplot(lines, columns, number), panel, list(names))
        entries = {
            label: handle
            for axes in page.axes
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        page.legend(
            list(entries.values()), list(entries), loc="outside lower center",
            ncols=2 * columns, fontsize=7,
        )  # fmt: skip
        content = io.BytesIO()
        # A date, or the library's own name, would make the same figure differ between two runs.
        unset = {"svg": ("Date", "Creator"), "pdf": ("CreationDate",), "png": ()}[format_name]
        metadata = dict.fromkeys(unset)
        page.savefig(content, format=format_name, dpi=150, metadata=metadata)
    return content.getvalue()


def _panel(axes: object, panel: Panel, names: list[str]) -> None:
    from matplotlib.axes import Axes

    assert isinstance(axes, Axes)
    if panel.title:
        axes.set_title(panel.title, fontsize=9)
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    if panel.heat is not None:
        axes.grid(visible=False)
        axes.set_yticks([])
        shown = np.ma.masked_invalid(panel.heat)
        axes.imshow(shown, aspect="auto", cmap="Greens", vmin=0, interpolation="nearest")
        return
    if panel.x_log:
        axes.set_xscale("log")
    for series in panel.series:
        number = names.index(series.name)  # the same colour in every panel
        marker, colour = MARKERS[number % len(MARKERS)], f"C{number % 10}"
        if series.style == "level" and series.y:
            axes.axhline(series.y[0], color=colour, linestyle="--", linewidth=1, label=series.name)
            continue
        # A point of one run has no deviation, so no bar; NaN draws none.
        error = [np.nan if e is None else e for e in series.error]
        known = any(e is not None for e in series.error)
        axes.errorbar(
            series.x, series.y, yerr=error if known else None, color=colour,
            marker=marker if len(series.x) <= 25 else None, markersize=4, capsize=2, linewidth=1,
            linestyle="none" if series.style == "points" else "-", label=series.name,
        )  # fmt: skip
