"""Figures as pictures, by matplotlib."""

from __future__ import annotations

import io
import textwrap
from itertools import pairwise

import numpy as np

from dslbench.report.figures import FigureModel, Panel

MARKERS = "o^sDvPX<>*h"
# Where a name may stand, in points from its own: near before far, left before right, above before below.
_OFFSETS = [
    (across, up)
    for step in range(12)
    for up in (4 + 8 * step, -4 - 8 * step)
    for across in (-4, 4, -8 * step, 8 * step)
]
_ROOM = 0.12  # of the axes, around points that have names


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
        named = any(s.labels for panel in figure.panels for s in panel.series)
        wide, high = (7.0, 4.8) if named else (4.6, 3.4)  # names need room
        page = Figure(
            figsize=(wide * columns, high * lines + 0.2 * legend_lines), layout="constrained"
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
        for panel, axes in zip(figure.panels, page.axes, strict=True):
            label_points(axes, panel)
        content = io.BytesIO()
        # A date, or the library's own name, would make the same figure differ between two runs.
        unset = {"svg": ("Date", "Creator"), "pdf": ("CreationDate",), "png": ()}[format_name]
        metadata = dict.fromkeys(unset)
        page.savefig(content, format=format_name, dpi=150, metadata=metadata)
    return content.getvalue()


def _panel(axes: object, panel: Panel, names: list[str]) -> None:
    from matplotlib.axes import Axes
    from matplotlib.ticker import LogLocator, NullFormatter

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
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    for series in panel.series:
        number = names.index(series.name)  # the same colour in every panel
        marker, colour = MARKERS[number % len(MARKERS)], f"C{number % 10}"
        if series.style == "level" and series.y:
            axes.axhline(series.y[0], color=colour, linestyle="--", linewidth=1, label=series.name)
            continue
        points = series.style == "points"
        # A point of one run has no deviation, so no bar; NaN draws none.
        error = [np.nan if e is None else e for e in series.error]
        known = any(e is not None for e in series.error)
        axes.errorbar(
            series.x, series.y, yerr=error if known else None, color=colour,
            marker=marker if points or len(series.x) <= 25 else None, markersize=4, capsize=2, linewidth=1,
            linestyle="none" if points else "-", label=series.name,
        )  # fmt: skip


def label_points(axes: object, panel: Panel) -> list[object]:
    """Write the names of points beside them, off other names, points, their line and the ends of the axes.

    Above and to the left first: there is nothing above the front of what is small and good. A name that finds
    no place within some lines' distance is left out. Returns the names' texts.
    """
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

    assert isinstance(axes, Axes)
    named = [
        (x, y, name)
        for s in panel.series
        if s.labels
        for x, y, name in zip(s.x, s.y, s.labels, strict=True)
    ]
    if not named:
        return []
    axes.margins(_ROOM)
    page = axes.get_figure(root=True)
    assert page is not None and isinstance(page.canvas, FigureCanvasAgg)
    page.draw_without_rendering()  # only then is it known where things are
    page.set_layout_engine("none")
    pixels = page.dpi / 72
    places = [(x, y) for s in panel.series for x, y in zip(s.x, s.y, strict=True)]
    centres = axes.transData.transform(places)
    taken = [
        Bbox.from_extents(x - 3 * pixels, y - 3 * pixels, x + 3 * pixels, y + 3 * pixels)
        for x, y in centres
    ]
    for series in panel.series:
        if series.labels:
            line = axes.transData.transform(list(zip(series.x, series.y, strict=True)))
            for start, end in pairwise(line):
                count = int(np.hypot(*(end - start)) / (4 * pixels)) + 1
                for x, y in np.linspace(start, end, count):
                    taken.append(Bbox.from_extents(x - pixels, y - pixels, x + pixels, y + pixels))
    inside, written = axes.get_window_extent(), []
    for x, y, name in named:
        text = axes.annotate(
            name, (x, y), (0, 0), textcoords="offset points", fontsize=6.5,
            arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": "0.5", "shrinkB": 2},
        )  # fmt: skip
        for across, up in _OFFSETS:
            text.set_position((across, up))
            text.set_horizontalalignment("right" if across < 0 else "left")
            text.set_verticalalignment("bottom" if up > 0 else "top")
            text.update_positions(page.canvas.get_renderer())  # type: ignore[no-untyped-call]
            # Of the text alone: the line that leads to it may cross what it likes.
            box = Text.get_window_extent(text)
            fits = inside.contains(box.x0, box.y0) and inside.contains(box.x1, box.y1)
            if fits and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                written.append(text)
                break
        else:
            text.remove()
    return list(written)
