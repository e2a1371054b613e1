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
        columns = min(2, len(figure.panels))
        lines = -(-len(figure.panels) // columns)
        page = Figure(figsize=(5.0 * columns, 3.6 * lines), layout="constrained")
        FigureCanvasAgg(page)
        page.suptitle("\n".join(textwrap.wrap(figure.title, 60 * columns)), fontsize=9)
        for number, panel in enumerate(figure.panels, start=1):
            _panel(page.add_subplot(lines, columns, number), panel)
        content = io.BytesIO()
        # A date, or the library's own name, would make the same figure differ between two runs.
        unset = {"svg": ("Date", "Creator"), "pdf": ("CreationDate",), "png": ()}[format_name]
        metadata = dict.fromkeys(unset)
        page.savefig(content, format=format_name, dpi=150, metadata=metadata)
    return content.getvalue()


def _panel(axes: object, panel: Panel) -> None:
    from matplotlib.axes import Axes

    assert isinstance(axes, Axes)
    if panel.title:
        axes.set_title(panel.title, fontsize=9)
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    if panel.heat is not None:
        axes.grid(visible=False)
        shown = np.ma.masked_invalid(panel.heat)
        axes.imshow(shown, aspect="auto", cmap="Greens", vmin=0, interpolation="nearest")
        return
    if panel.x_log:
        axes.set_xscale("log")
    for number, series in enumerate(panel.series):
        marker, colour = MARKERS[number % len(MARKERS)], f"C{number % 10}"
        if series.style == "level" and series.y:
            axes.axhline(series.y[0], color=colour, linestyle="--", linewidth=1, label=series.name)
            continue
        axes.errorbar(
            series.x, series.y, yerr=series.error if any(series.error) else None, color=colour,
            marker=marker if len(series.x) <= 25 else None, markersize=4, capsize=2, linewidth=1,
            linestyle="none" if series.style == "points" else "-", label=series.name,
        )  # fmt: skip
    axes.legend(fontsize=7)
