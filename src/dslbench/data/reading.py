"""File formats: bytes into columns of interactions, in file order.

`adjacency`   `user item item ...`, ids from 0 (NGCF, LightGCN)
`counted`     line k is user k: `count item item ...` (CiteULike, VLDB'17 Foursquare)
`ratings`     `user::item::rating[::timestamp]` (MovieLens)
`csv`, `tsv`  delimited columns, with or without header; `inter` RecBole's typed header
`jsonl`       an object a line
`npz`         scipy sparse matrix; `parquet` a table, where pandas has an engine for it
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from dslbench import paths
from dslbench.data.content import read_text
from dslbench.data.entries import DatasetEntry
from dslbench.data.interactions import Int32
from dslbench.data.parse import IntLines, read_int_lines
from dslbench.data.raw import Raw
from dslbench.data.understood import Understood
from dslbench.errors import DataError


def read(path: Path, entry: DatasetEntry) -> Raw:
    """Read one data file in the entry's format. Raises DataError naming the file and the line."""
    try:
        if entry.format in ("adjacency", "counted"):
            counted = entry.format == "counted"
            if entry.own:
                return _own_lists(path, entry, counted)
            return read_lists(paths.read_bytes(path), path.name, counted=counted)
        from dslbench.data.delimited import read_table  # it imports pandas: a quarter of a second

        return read_table(path, entry)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except OSError as error:
        raise DataError(f"{path.name} cannot be read: {error.strerror or error}") from None


def _own_lists(path: Path, entry: DatasetEntry, counted: bool) -> Raw:
    """Lists of one's own, with the statement of what they were taken for."""
    text = read_text(path, entry.encoding)
    raw = read_lists(text.content, path.name, counted=counted, own=True)
    shape = "count item item ..., line k is user k" if counted else "user item item ..."
    assert raw.line_starts is not None
    return replace(
        raw,
        understood=Understood(
            file=path.name,
            format=f"lists of items ({shape}; {entry.why.get('format', 'as described')})",
            encoding=text.encoding,
            packed=text.packed,
            rows=len(raw.line_starts[0]),
            first=(str(raw.users[0]), str(raw.items[0])) if len(raw.users) else None,
        ),
    )


def read_lists(content: bytes, name: str, *, counted: bool, own: bool = False) -> Raw:
    """Read adjacency lists, or (`counted`) count-prefixed lists."""
    lines = read_int_lines(content, name)
    if own and lines.padded:
        raise DataError(
            f"{name}: ids with leading zeros, which lists of items would lose",
            hint="write pairs, one 'user,item' a line, and name the file *.csv",
        )
    starts = lines.starts
    heads = lines.values[starts]
    per_line = (lines.counts - 1).astype(np.int32)
    if counted:
        _check_counts(lines, heads, per_line, name)
        owners = np.arange(len(heads), dtype=np.int32)
    else:
        _check_users(lines, heads, name)
        owners = heads
    is_item = np.ones(len(lines.values), dtype=bool)
    is_item[starts] = False
    items = lines.values[is_item]
    return Raw(
        name,
        np.repeat(owners, per_line),
        items,
        n_users=int(owners.max(initial=-1)) + 1,
        n_items=int(items.max(initial=-1)) + 1,
        cut_note=lines.last_line_note(),
        line_starts=(per_line, lines.numbers),
    )


def _check_counts(lines: IntLines, heads: Int32, per_line: Int32, name: str) -> None:
    wrong = heads != per_line
    if wrong.any():
        index = int(np.argmax(wrong))
        cut = " (the file seems cut)" if index == len(heads) - 1 and not lines.complete else ""
        raise DataError(
            f"{name}, line {lines.numbers[index]}: the count says {heads[index]} items,"
            f" the line has {per_line[index]}{cut}"
        )


def _check_users(lines: IntLines, heads: Int32, name: str) -> None:
    order = np.argsort(heads, kind="stable")
    ranked = heads[order]
    again = order[1:][ranked[1:] == ranked[:-1]]
    if len(again):
        index = int(again.min())
        raise DataError(
            f"{name}, line {lines.numbers[index]}: user {heads[index]} already has a line"
        )
