"""Figures in a terminal: characters on a grid."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from dslbench.report.figures import FigureModel, Panel, Series

MARKERS = "●▲■◆○△□◇+x*"
NAMES = "123456789abcdefghijklmnopqrstuvwxyz"  # of points that the legend names one by one
SHADES = "░▒▓█"
HEIGHT = 14
WIDEST = 100


def text_figure(figure: FigureModel, width: int) -> str:
    """A figure as lines of at most `width` characters, panels one below the other."""
    width = min(width, WIDEST)
    parts = ["\n".join(textwrap.wrap(figure.title, width))]
    parts += [
        _heat(panel, width) if panel.heat is not None else plot(panel, width)
        for panel in figure.panels
    ]
    footer = [part for line in figure.footer for part in textwrap.wrap(line, width)]
    return "\n\n".join([*parts, "\n".join(footer)]) + "\n"


def plot(panel: Panel, width: int, height: int = HEIGHT) -> str:
    """Lines and points of one panel with axes and a legend."""
    to_x: Callable[[float], float] = math.log10 if panel.x_log else float
    xs = [to_x(x) for s in panel.series if s.style != "level" for x in s.x]
    ys = [y for s in panel.series for y in s.y]
    x_low, x_high = _bounds(xs)
    y_low, y_high = _bounds(ys)
    top, bottom = f"{y_high:.4g}", f"{y_low:.4g}"
    margin = max(len(top), len(bottom))
    columns = max(10, width - margin - 2)
    grid = [[" "] * columns for _ in range(height)]

    def column(x: float) -> int:
        return round((x - x_low) / (x_high - x_low) * (columns - 1))

    def row(y: float) -> int:
        return (height - 1) - round((y - y_low) / (y_high - y_low) * (height - 1))

    for series in panel.series:
        if series.style == "level" and series.y:
            for place in range(columns):
                grid[row(series.y[0])][place] = "─" if place % 2 else " "
    for number, series in enumerate(panel.series):
        if series.style == "level":
            continue
        path = [(column(to_x(x)), row(y)) for x, y in zip(series.x, series.y, strict=True)]
        if series.style == "line":
            _join(grid, path)
        for place, (across, down) in enumerate(path):
            mark = NAMES[place % len(NAMES)] if series.labels else MARKERS[number % len(MARKERS)]
            grid[down][across] = mark
    lines = [f"{panel.y_label}" + (f"   {panel.title}" if panel.title else "")]
    for place, cells in enumerate(grid):
        tick = top if place == 0 else bottom if place == height - 1 else ""
        lines.append(f"{tick:>{margin}} │" + "".join(cells).rstrip())
    low, high = (10**x if panel.x_log else x for x in (x_low, x_high))
    ends = f"{low:.4g}", f"{high:.4g}"
    lines.append(" " * (margin + 1) + "└" + "─" * columns)
    label = panel.x_label + (" (log)" if panel.x_log else "")
    middle = label[: max(0, columns - len(ends[0]) - len(ends[1]) - 2)]
    room = columns - len(ends[0]) - len(ends[1])
    lines.append(" " * (margin + 2) + ends[0] + middle.center(room) + ends[1])
    return "\n".join([*lines, *_legend(panel.series, width)])


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    if low == high:
        half = abs(low) / 10 or 0.5
        return low - half, high + half
    return low, high


def _join(grid: list[list[str]], path: Sequence[tuple[int, int]]) -> None:
    """Dots between neighbouring points, where nothing is drawn yet."""
    for (x0, y0), (x1, y1) in itertools.pairwise(path):
        steps = max(abs(x1 - x0), abs(y1 - y0))
        for step in range(1, steps):
            across = x0 + round((x1 - x0) * step / steps)
            down = y0 + round((y1 - y0) * step / steps)
            if grid[down][across] in " ─":
                grid[down][across] = "·"


def _legend(series: Sequence[Series], width: int) -> list[str]:
    lines, line = [], ""
    entries = []
    for number, one in enumerate(series):
        mark = "─ ─" if one.style == "level" else MARKERS[number % len(MARKERS)]
        if one.labels:
            entries.append(f"{one.name}:")
            entries += [f"{NAMES[p % len(NAMES)]} {name}" for p, name in enumerate(one.labels)]
        else:
            entries.append(f"{mark} {one.name}")
    for entry in (one[:width] for one in entries):
        if line and len(line) + 3 + len(entry) > width:
            lines.append(line)
            line = ""
        line += ("   " if line else "") + entry
    return [*lines, line]


def _heat(panel: Panel, width: int) -> str:
    assert panel.heat is not None
    return "\n".join([panel.title[:width], *shade(panel.heat, width - 2)])


def shade(heat: npt.NDArray[np.float64], width: int) -> list[str]:
    """Rows of shaded cells, cut to the width; blank where a value is NaN."""
    shown = heat[:, :width]
    largest = float(np.nanmax(shown)) if np.isfinite(shown).any() else 1.0
    levels = np.nan_to_num(shown / (largest or 1.0) * (len(SHADES) - 1), nan=-1.0)
    return [
        "│" + "".join(" " if v < 0 else SHADES[round(float(v))] for v in row) + "│"
        for row in levels
    ]
