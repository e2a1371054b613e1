"""What `dslbench report` prints or writes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from dslbench import paths
from dslbench.errors import UsageError
from dslbench.output import console, deliver, warn, write
from dslbench.report import (
    audit_tables,
    beside,
    build,
    exploring,
    naming,
    published_tables,
    references,
    statistics,
)
from dslbench.report.columns import Record
from dslbench.report.comparable import latest, tested
from dslbench.report.formats import explorer, render
from dslbench.report.formats.draw import draw
from dslbench.report.relative import data_of, setting_of
from dslbench.report.tables import TableModel, group
from dslbench.runs import failures, store
from dslbench.runs.results import folder

LEAST_WIDTH = 30
PICTURES = ("png", "svg", "pdf")
_SUFFIXES = {
    "md": "markdown", "tex": "latex", "csv": "csv", "html": "html", "htm": "html", "json": "json",
    "txt": "terminal", **{name: name for name in PICTURES},
}  # fmt: skip


def report(
    wanted: Mapping[str, str | None],
    *,
    source: Path | None = None,
    table: str | None,
    figure: str | None,
    published: bool,
    format_name: str | None,
    output: Path | None,
    stats: bool,
    with_references: bool,
) -> None:
    """Print or write what was asked for: of stored runs, published results, or the audit.

    Args:
        wanted: values of the spec's keys that runs must have; None: any.
        source: a folder of published runs; None: the store.

    Raises:
        UsageError: for what does not exist, does not go together, or lacks the runs it needs.
    """
    named = {"--table": table, "--figure": figure, "--published": published or None}
    asked = [option for option, value in named.items() if value is not None]
    if len(asked) > 1:
        raise UsageError(f"{' and '.join(asked)} exclude each other", "leave one of them out")
    chosen = chosen_format(format_name, output, figure is not None)
    if table is not None:
        build.check_table(table)
    if figure is not None:
        build.check_figure(figure)
    if published or (table is not None and not build.TABLES[table].needs_runs):
        unused = [f"--{key}" for key in ("method", "protocol", "scale") if wanted[key]]
        unused += ["--stats"] * stats + ["--references"] * with_references
        if unused:
            raise UsageError(
                f"{asked[0]} cannot be combined with {unused[0]}", "use --dataset or --backbone"
            )
        if source is not None and not published:
            raise UsageError(
                f"{asked[0]} {table or ''}".rstrip() + " shows no runs", "leave --records out"
            )
        runs = latest(stored(source, warn), warn) if published else []
        text = literature(runs, published, chosen, wanted["dataset"], wanted["backbone"], output)
        deliver(text, output)
        return
    if chosen == "html" and table is None and figure is None and (with_references or stats):
        raise UsageError(
            "--references and --stats add to a table, and the page shows runs",
            "--table 3 --format html",
        )
    records = select(warn, source, with_references=with_references, **wanted)
    width, color = looks(output is not None)
    if figure is not None and chosen in PICTURES:
        assert output is not None
        contents = pictures(figure, chosen, records)
        if len(contents) > 1 and paths.kind(output) == "other":
            raise UsageError(
                f"{len(contents)} pictures do not go into {output}",
                "name a file, or choose one setting: --dataset, --backbone",
            )
        for path, content in zip(numbered(output, len(contents)), contents, strict=True):
            write(path, content)
        return
    if figure is not None:
        models = build.build_figure(figure, records)
        text = render.figures(chosen, models, width=width or console().width)
    elif chosen == "html" and table is None:
        text = explorer.page(exploring.content(records))
    elif chosen == "json" and table is None:
        text = render.record_json(records)
    else:
        found = tables(table or "3", records, stats=stats)
        text = render.tables(chosen, found, width=width, color=color)
    deliver(text, output)


def literature(
    runs: Sequence[Record],
    published: bool,
    chosen: str,
    dataset: str | None,
    backbone: str | None,
    output: Path | None,
) -> str:
    """Published results beside ours, or the audit of the paper; json is the data behind them."""
    if published:
        rows = published_tables.rows(runs, dataset, backbone)
        data, models = published_tables.data(rows), published_tables.tables(rows)
    else:
        entries = audit_tables.chosen(dataset, backbone)
        data, models = audit_tables.data(entries), audit_tables.build(entries)
    if chosen == "json":
        return render.record_json(data)
    width, color = looks(output is not None)
    return render.tables(chosen, models, width=width, color=color)


def chosen_format(name: str | None, output: Path | None, figure: bool) -> str:
    """The format asked for, else the one the output's suffix means, without a suffix terminal.

    Raises `UsageError` for one that does not exist, or not for a figure (or a table).
    """
    suffix = output.suffix.lower().lstrip(".") if output else ""
    if name is None and suffix and suffix not in _SUFFIXES:
        raise UsageError(
            f"the suffix of {output} means no format: {', '.join(_SUFFIXES)} do",
            "name the file otherwise, or add --format",
        )
    found = name or _SUFFIXES.get(suffix, "terminal")
    if figure:
        if found in render.FORMATS and found not in render.FIGURE_FORMATS:
            known = ", ".join((*render.FIGURE_FORMATS, *PICTURES))
            raise UsageError(f"a figure has no format '{found}'", f"known: {known}")
        if found in PICTURES and output is None:
            raise UsageError(f"a {found} picture needs a file", f"--output figure.{found}")
        render.check_format(found, (*render.FIGURE_FORMATS, *PICTURES))
    elif found in PICTURES:
        raise UsageError(f"a table has no format '{found}'", "--figure 2, or another --format")
    else:
        render.check_format(found)
    return found


def stored(source: Path | None, warn: Callable[[str], None]) -> list[Record]:
    """All runs of a folder of published ones (None: of the store); the damaged are told of.

    Trials of `tune` are not among them: they were not judged on test.
    """
    return tested(store.read_all(warn) if source is None else list(folder.records(source, warn)))


def select(
    warn: Callable[[str], None], source: Path | None = None, *, with_references: bool = False,
    **wanted: str | None,
) -> list[Record]:  # fmt: skip
    """The runs whose spec has the wanted values; raises `UsageError` where there are none.

    Args:
        source: a folder of published runs; None: the store.
        with_references: whether references of the same data are among them, whatever is wanted.
    """
    unreadable: list[str] = []

    def bad(text: str) -> None:
        unreadable.append(text)
        warn(text)

    found = stored(source, bad)
    records, hint = found, "make some: dslbench compare --backbone lightgcn --sparsity 0.5"
    for key, value in wanted.items():
        if value is None or not records:
            continue
        fitting = (
            naming.called(records, value) if key == "dataset"
            else [r for r in records if r["spec"][key] == value]
        )  # fmt: skip
        if not fitting:
            hint = _there_are(key, records)
        records = fitting
    if records and with_references:
        data, chosen_ids = {data_of(r) for r in records}, {r["id"] for r in records}
        more = [r for r in found if references.is_reference(r) and data_of(r) in data]
        if not more:
            raise UsageError(
                "no references of these data are stored",
                "make them: dslbench compare --references, other options alike",
            )
        records += [r for r in more if r["id"] not in chosen_ids]
    if records:
        return latest(records, warn)
    chosen = [f"{key} '{value}'" for key, value in wanted.items() if value]
    why = f" ({len(unreadable)} could not be read, see above)" if unreadable else ""
    what = "no stored runs" if source is None else f"no runs in {source}"
    raise UsageError(what + (f" of {' and '.join(chosen)}" if chosen else "") + why, hint)


def _there_are(key: str, records: Sequence[Record]) -> str:
    """Which values of a spec's key runs have, as a hint."""
    known = naming.names(records)
    there = {
        naming.name_of(r, known) if key == "dataset" else str(r["spec"][key])
        for r in records
        if key != "backbone" or not references.is_reference(r)
    }
    return f"--{key} {' or '.join(sorted(there))}" if there else f"leave --{key} out"


def tables(name: str, records: Sequence[Record], *, stats: bool = False) -> list[TableModel]:
    """The tables of a name, with statistics where asked for; references stand beside the methods."""
    records = references.beside(records)
    found = build.build(name, records)
    alone = any(map(beside.is_published, records))
    parts, failed = group(records, setting_of), [] if alone else failures.read_all(warn)
    if len(found) == len(parts):  # a table for each setting, which has its own failures below it
        for table, part in zip(found, parts, strict=True):
            table.footer += failures.footer(part, failed)
    elif found:
        found[0].footer += failures.footer(records, failed)
    if stats and name != "stats":
        found += statistics.table(records)
    return found


def pictures(name: str, format_name: str, records: Sequence[Record]) -> list[bytes]:
    """The figures of a name as pictures, one per setting."""
    return [draw(model, format_name) for model in build.build_figure(name, records)]


def numbered(path: Path, count: int) -> list[Path]:
    """`path` itself, then path-2, path-3, ... with the same suffix."""
    return [path, *(path.with_stem(f"{path.stem}-{n}") for n in range(2, count + 1))]


def looks(to_file: bool) -> tuple[int | None, bool]:
    """Width (None: the terminal's own) and colour of what is printed; a pipe has that of COLUMNS."""
    if to_file:
        return render.PIPE_WIDTH, False
    if sys.stdout is None or not sys.stdout.isatty():
        asked = os.environ.get("COLUMNS", "")
        return max(LEAST_WIDTH, int(asked)) if asked.isdecimal() else render.PIPE_WIDTH, False
    return None, not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
