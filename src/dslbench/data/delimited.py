"""Tables of interactions in text: delimited columns, MovieLens `::` files, RecBole `.inter`.

The fast ways are numpy for plain integers and pandas for all else; how the text is divided and
which column is what was decided before (`layout`), and every row is counted again here.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pandas as pd

from dslbench.data.content import Text, read_text
from dslbench.data.dialect import BLANKS, Dialect
from dslbench.data.entries import DatasetEntry
from dslbench.data.interactions import Int32
from dslbench.data.labels import rank_ids
from dslbench.data.layout import Layout, layout_of
from dslbench.data.parse import read_int_lines
from dslbench.data.raw import Labels, Raw
from dslbench.data.table import Table
from dslbench.data.values import interpret
from dslbench.errors import DataError

_Columns = dict[int, tuple[Int32, Labels]]  # by position: ranks in distinct texts, and these
_CHUNK_ROWS = 1 << 17
_FORMATS = {
    "csv": "text, one interaction a line",
    "tsv": "text, one interaction a line",
    "ratings": "MovieLens' lines, one interaction each",
    "inter": "RecBole's atomic file, one interaction a line",
}


def read_table(path: Path, entry: DatasetEntry) -> Raw:
    """Read a table of interactions. Raises DataError naming file and line."""
    if entry.format in ("npz", "parquet"):
        from dslbench.data import binary

        return (
            binary.read_npz(path, entry)
            if entry.format == "npz"
            else binary.read_parquet(path, entry)
        )
    text = read_text(path, entry.encoding)
    if entry.format == "jsonl":
        from dslbench.data.jsonlines import read_records

        return read_records(text, entry)
    layout = layout_of(text, entry)
    return interpret(
        _table(text, layout),
        layout,
        entry,
        encoding=text.encoding,
        packed=text.packed,
        format=_FORMATS[entry.format],
    )


def _table(text: Text, layout: Layout) -> Table:
    """The wanted columns of a text."""
    rows = len(text.line_numbers) - layout.header
    columns = _integers(text, layout)
    if columns is None:
        columns = _texts(text, layout, rows)
    return Table(text.name, rows, columns, lambda row: int(text.line_numbers[row + layout.header]))


def _integers(text: Text, layout: Layout) -> _Columns | None:
    """The fast way, for plain integers in every column; None where the text is anything else."""
    content = text.content
    separator = layout.dialect.separator
    if layout.header:
        content = content.lstrip().partition(b"\n")[2]
    if separator == "::":
        content = content.replace(b"::", b"\t")
    if separator != BLANKS and b" " in content:
        return None  # blanks inside fields, or empty fields
    divided = content
    if separator not in (BLANKS, "\t", "::"):
        divided = content.replace(separator.encode(), b" ")
    try:
        lines = read_int_lines(divided, "")
    except DataError:
        return None
    if lines.padded or not len(lines.counts) or (lines.counts != layout.width).any():
        return None
    marks = divided.count(b"\t") + divided.count(b" ")
    if separator != BLANKS and len(lines.values) - len(lines.counts) != marks:
        return None  # empty fields
    table = lines.values.reshape(-1, layout.width)
    columns: _Columns = {}
    for at in layout.wanted:
        known, codes = rank_ids(table[:, at])
        columns[at] = codes, known.astype(str).astype(object)
    return columns


def _texts(text: Text, layout: Layout, rows: int) -> _Columns:
    """The general way: every field as text, in chunks, coded as it is met."""
    content, dialect = text.content, layout.dialect
    if dialect.separator == "::":
        content = content.replace(b"::", b"\t")
        dialect = Dialect("\t", dialect.quotes)
    if len(text.line_numbers) != content.count(b"\n") + (not text.complete):
        lines = content.split(b"\n")
        content = b"\n".join([lines[number - 1] for number in text.line_numbers]) + b"\n"
    if layout.header:
        content = content.partition(b"\n")[2]
    seen: dict[int, dict[str, int]] = {at: {} for at in layout.wanted}
    coded: dict[int, list[Int32]] = {at: [] for at in layout.wanted}
    read = 0
    try:
        for frame in pd.read_csv(
            io.BytesIO(content),
            sep=r"\s+" if dialect.separator == BLANKS else dialect.separator,
            header=None,
            names=range(layout.width),
            index_col=False,
            usecols=sorted(layout.wanted),
            dtype=str,
            na_filter=False,
            skipinitialspace=dialect.quotes,
            skip_blank_lines=False,
            quoting=csv.QUOTE_MINIMAL if dialect.quotes else csv.QUOTE_NONE,
            chunksize=_CHUNK_ROWS,
        ):
            read += len(frame)
            for at in layout.wanted:
                codes, labels = pd.factorize(frame[at])
                table = seen[at]
                ranks = [
                    table.setdefault("" if label is None else str(label).strip(), len(table))
                    for label in labels
                ]
                coded[at].append(np.array(ranks, dtype=np.int32)[codes])
    except pd.errors.EmptyDataError:
        pass
    except (ValueError, UnicodeDecodeError) as error:
        raise DataError(f"{text.name} cannot be read: {str(error).splitlines()[0]}") from None
    if read != rows:
        raise DataError(
            f"{text.name}: {rows:,} lines give {read:,} rows; some quote or separator is wrong",
            hint="give separator and quotes in a TOML beside it",
        )
    return {
        at: (
            np.concatenate([np.zeros(0, np.int32), *coded[at]]),
            np.array([*seen[at]], dtype=object),
        )
        for at in layout.wanted
    }
