"""Tables of interactions: delimited text, MovieLens `::` files, RecBole `.inter`, npz, parquet.

Ids are kept as the text they are ('007' is not '7'). The fast path reads with pandas; only when
something looks wrong is the file read again line by line, to say where.
"""

from __future__ import annotations

import csv
import io
import math
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

from dslbench import paths
from dslbench.data.arrays import read_npz
from dslbench.data.entries import Columns, DatasetEntry
from dslbench.data.interactions import Int32
from dslbench.data.labels import rank_ids, sort_labels
from dslbench.data.parse import read_int_lines
from dslbench.data.raw import Labels, Raw
from dslbench.errors import DataError

_KNOWN_NAMES = {
    "user": ("user", "user_id", "userid", "uid", "reviewerid", "u"),
    "item": (
        *("item", "item_id", "itemid", "iid", "movie_id", "movieid", "asin", "business_id"),
        *("product_id", "location_id", "poi_id", "track_id", "book_id", "i"),
    ),
    "rating": ("rating", "score", "stars", "overall"),
    "timestamp": ("timestamp", "time", "date", "ts", "unixreviewtime", "datetime"),
}
_Columns = dict[str, tuple[Int32, Labels]]  # positions in distinct texts, and these
_CHUNK_ROWS = 1 << 17
_EPOCH_FLOOR = 1e8  # above any rating, below any Unix time since 1973


@dataclass(frozen=True)
class _Layout:
    """How a text is divided, and at which position each wanted column is."""

    separator: str
    header: bool
    positions: dict[str, int]
    notes: tuple[str, ...] = ()


def read_table(path: Path, entry: DatasetEntry) -> Raw:
    """Read a table of interactions. Raises DataError naming file and line."""
    if entry.format == "npz":
        return _read_npz(path)
    if entry.format == "parquet":
        return _read_parquet(path, entry)
    content = paths.read_bytes(path).removeprefix(b"\xef\xbb\xbf")
    if not content.strip():
        raise DataError(f"{path.name} is empty")
    if entry.format == "ratings":
        if b"\t" in content:
            line = content[: content.index(b"\t")].count(b"\n") + 1
            raise DataError(f"{path.name}, line {line}: a tab in a file divided by '::'")
        content = content.replace(b"::", b"\t")
    layout = _layout(content, path.name, entry)
    columns = _integers(content, layout) or _texts(content, path.name, layout)
    numbers: dict[str, npt.NDArray[np.float64] | None] = {"rating": None, "timestamp": None}
    for what in numbers:
        if what in columns:
            codes, labels = columns[what]
            values = _numbers(labels, dates=what == "timestamp")
            if values is None:
                _explain(content, path.name, layout, f"a {what} is not a number")
            numbers[what] = values[codes]
    rating, timestamp, notes = numbers["rating"], numbers["timestamp"], layout.notes
    guessed = entry.columns is None and not layout.header and timestamp is None
    if guessed and rating is not None and rating.min(initial=np.inf) > _EPOCH_FLOOR:
        rating, timestamp = None, rating
        notes = (*notes, "the third column is read as timestamps")
    return _raw(path.name, columns["user"], columns["item"], rating, timestamp, notes)


def _integers(content: bytes, layout: _Layout) -> _Columns | None:
    """The fast way, for plain integers in every column; None where the text is anything else."""
    if layout.header:
        content = content.lstrip().partition(b"\n")[2]
    if layout.separator != "whitespace" and b" " in content:
        return None  # blanks inside fields, or empty fields
    divided = content
    if layout.separator not in ("whitespace", "\t"):
        divided = content.replace(layout.separator.encode(), b" ")
    try:
        lines = read_int_lines(divided, "")
    except DataError:
        return None
    width = max(layout.positions.values()) + 1
    widths = lines.counts
    if lines.padded or not len(widths) or widths.min() != widths.max() or widths[0] < width:
        return None
    if len(lines.values) - len(widths) != _separators(divided, layout):
        return None
    table = lines.values.reshape(-1, widths[0])
    columns: _Columns = {}
    for what, at in layout.positions.items():
        known, codes = rank_ids(table[:, at])
        columns[what] = codes, known.astype(str).astype(object)
    return columns


def _separators(divided: bytes, layout: _Layout) -> int:
    return divided.count(b"\t") + divided.count(b" ")


def _texts(content: bytes, name: str, layout: _Layout) -> _Columns:
    """The general way: every field as text, in chunks, coded as it is met."""
    seen: dict[str, dict[str, int]] = {what: {} for what in layout.positions}
    coded: dict[str, list[Int32]] = {what: [] for what in layout.positions}
    try:
        for frame in pd.read_csv(
            io.BytesIO(content),
            sep=r"\s+" if layout.separator == "whitespace" else layout.separator,
            header=None,
            skiprows=1 if layout.header else 0,
            dtype=str,
            na_filter=False,
            quoting=csv.QUOTE_MINIMAL if layout.separator == "," else csv.QUOTE_NONE,
            chunksize=_CHUNK_ROWS,
        ):
            if frame[len(frame.columns) - 1].isin(["", None]).any():
                _explain(content, name, layout, "lines of different length")
            for what, at in layout.positions.items():
                if at >= len(frame.columns):
                    _explain(content, name, layout, f"there is no column {at}")
                codes, labels = pd.factorize(frame[at])
                table = seen[what]
                ranks = [table.setdefault(str(label).strip(), len(table)) for label in labels]
                if (codes < 0).any() or "" in table:
                    _explain(content, name, layout, f"a {what} is missing")
                coded[what].append(np.array(ranks, dtype=np.int32)[codes])
    except (ValueError, UnicodeDecodeError) as error:
        _explain(content, name, layout, str(error))
    return {
        what: (
            np.concatenate([np.zeros(0, np.int32), *coded[what]]),
            np.array(list(seen[what]), dtype=object),
        )
        for what in layout.positions
    }


def _raw(
    name: str,
    user: tuple[Int32, Labels],
    item: tuple[Int32, Labels],
    ratings: npt.NDArray[np.float64] | None,
    timestamps: npt.NDArray[np.float64] | None,
    notes: tuple[str, ...] = (),
) -> Raw:
    users, user_labels = _sorted_codes(*user)
    items, item_labels = _sorted_codes(*item)
    return Raw(
        name,
        users,
        items,
        n_users=len(user_labels),
        n_items=len(item_labels),
        user_labels=user_labels,
        item_labels=item_labels,
        ratings=ratings,
        timestamps=timestamps,
        repeats_allowed=True,
        notes=notes,
    )


def _sorted_codes(codes: Int32, labels: Labels) -> tuple[Int32, Labels]:
    """Codes into labels in their order, instead of any order."""
    known = sort_labels(labels)
    position = {label: rank for rank, label in enumerate(known)}
    ranks = np.array([position[label] for label in labels], dtype=np.int32)
    return ranks[codes] if len(ranks) else codes, known


def _numbers(labels: Labels, *, dates: bool) -> npt.NDArray[np.float64] | None:
    """Values of texts (dates in seconds since 1970), or None where one is neither."""
    try:
        values: npt.NDArray[np.float64] = np.array([float(label) for label in labels])
    except ValueError:
        if not dates:
            return None
        times = pd.to_datetime(pd.Series(labels), utc=True, format="ISO8601", errors="coerce")
        if times.isna().any():
            return None
        epoch = pd.Timestamp(0, tz="UTC")
        values = np.asarray((times - epoch) / pd.Timedelta(seconds=1), dtype=np.float64)
    return values if np.isfinite(values).all() else None


def _layout(content: bytes, name: str, entry: DatasetEntry) -> _Layout:
    separator = entry.separator or ("," if entry.format == "csv" else "\t")
    rows = _rows(content, name, separator)
    _, first = next(rows, (0, []))
    if not first:
        raise DataError(f"{name} is empty")
    second = next(rows, (0, first))[1]
    if entry.format == "inter":
        names = [field.partition(":")[0] for field in first]
        return _Layout(separator, True, _by_name(names, name, entry.columns or _recbole(names)))
    header = entry.header
    if header is None and entry.format != "ratings":
        named = entry.columns is not None and any(
            isinstance(value, str) for value in entry.columns.model_dump().values()
        )
        header = named or _looks_like_header(first, second)
    if header and (entry.columns is None or isinstance(entry.columns.user, str)):
        return _Layout(separator, True, _by_name(first, name, entry.columns))
    positions: dict[str, int] = {}
    chosen = entry.columns or Columns(
        rating=2 if len(first) > 2 else None, timestamp=3 if len(first) > 3 else None
    )
    for what, column in chosen.model_dump().items():
        if isinstance(column, str):
            raise DataError(f"{name}: column '{column}' is named, but there is no header")
        if column is not None:
            positions[what] = column
    if max(positions.values()) >= len(first):
        raise DataError(
            f"{name}, line 1: {len(first)} column{'s' if len(first) > 1 else ''},"
            f" expected at least {max(positions.values()) + 1}"
        )
    return _Layout(separator, bool(header), positions)


def _looks_like_header(first: list[str], second: list[str]) -> bool:
    names = {name for group in _KNOWN_NAMES.values() for name in group if len(name) > 1}
    if sum(field.strip().lower() in names for field in first) >= 2:
        return True
    return any(
        _is_number(below) and not _is_number(above)
        for above, below in zip(first, second, strict=False)
    )


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _recbole(names: list[str]) -> Columns:
    return Columns(
        user="user_id",
        item="item_id",
        rating="rating" if "rating" in names else None,
        timestamp="timestamp" if "timestamp" in names else None,
    )


def _by_name(header: list[str], name: str, columns: Columns | None) -> dict[str, int]:
    fields = [field.strip() for field in header]
    lowered = [field.lower() for field in fields]
    positions: dict[str, int] = {}
    for what, aliases in _KNOWN_NAMES.items():
        wanted = None if columns is None else getattr(columns, what)
        if columns is None:
            position = next((lowered.index(alias) for alias in aliases if alias in lowered), None)
        elif wanted is None:
            continue
        elif wanted in fields:
            position = fields.index(wanted)
        elif isinstance(wanted, int) and wanted < len(fields):
            position = wanted
        else:
            raise DataError(f"{name}: no column '{wanted}' among {', '.join(fields)}")
        if position is not None:
            positions[what] = position
        elif what in ("user", "item"):
            raise DataError(
                f"{name}: which column is the {what}? The header has {', '.join(fields)}",
                hint=f'say so in a TOML beside the file: [columns] {what} = "..."',
            )
    return positions


def _rows(content: bytes, name: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of each line that is not blank."""
    for number, line in enumerate(content.split(b"\n"), start=1):
        try:
            text = line.decode("utf-8").rstrip("\r")
        except UnicodeDecodeError:
            raise DataError(f"{name}, line {number}: not UTF-8 text") from None
        if "\0" in text:
            raise DataError(f"{name}, line {number}: binary data, not text")
        if text.strip():
            if separator == "whitespace":
                yield number, text.split()
            elif '"' in text and separator != "\t":
                yield number, next(csv.reader([text], delimiter=separator))
            else:
                yield number, text.split(separator)


def _explain(content: bytes, name: str, layout: _Layout, otherwise: str) -> NoReturn:
    """Find the first wrong line and raise DataError for it."""
    rows = _rows(content, name, layout.separator)
    width = None
    for number, fields in rows:
        if width is None:
            width = len(fields)
            if layout.header:
                continue
        if len(fields) != width:
            last = "" if content.endswith(b"\n") or number <= content.count(b"\n") else " (cut?)"
            raise DataError(f"{name}, line {number}: {len(fields)} columns, expected {width}{last}")
        for what, at in layout.positions.items():
            value = fields[at].strip() if at < len(fields) else ""
            if not value:
                raise DataError(f"{name}, line {number}: no {what}")
            if what in ("rating", "timestamp"):
                label = np.array([value], dtype=object)
                if _numbers(label, dates=what == "timestamp") is None:
                    raise DataError(f"{name}, line {number}: {what} {value[:20]!r} is not a number")
    raise DataError(f"{name}: {otherwise.splitlines()[0] if otherwise else 'cannot be read'}")


def _read_npz(path: Path) -> Raw:
    try:
        matrix = sparse.coo_matrix(sparse.load_npz(read_npz(path)))
    except MemoryError:
        raise DataError(f"{path.name}: there is not enough memory for its arrays") from None
    except (ValueError, KeyError, zipfile.BadZipFile, zlib.error, EOFError, TypeError,
            IndexError, AttributeError, NotImplementedError) as error:  # fmt: skip
        raise DataError(f"{path.name} is not a sparse matrix saved by scipy: {error}") from None
    values = np.asarray(matrix.data)
    if values.dtype.kind not in "biuf" or not np.isfinite(values.astype(np.float64)).all():
        raise DataError(f"{path.name}: values are not finite numbers")
    rows, columns = np.asarray(matrix.row), np.asarray(matrix.col)
    for what, ids, bound in (("row", rows, matrix.shape[0]), ("column", columns, matrix.shape[1])):
        if len(ids) and (ids.min() < 0 or ids.max() >= bound or bound > 2**31 - 1):
            raise DataError(f"{path.name}: a {what} number is outside 0..{bound - 1}")
    kept = values != 0
    return Raw(
        path.name,
        rows[kept].astype(np.int32),
        columns[kept].astype(np.int32),
        n_users=matrix.shape[0],
        n_items=matrix.shape[1],
        ratings=values[kept].astype(np.float64),
        repeats_allowed=True,
    )


def _read_parquet(path: Path, entry: DatasetEntry) -> Raw:
    try:
        frame = pd.read_parquet(path)
    except ImportError:
        raise DataError(
            f"{path.name}: reading parquet needs pyarrow", hint="pip install pyarrow"
        ) from None
    except Exception as error:  # engines have no common base for theirs
        raise DataError(f"{path.name} is not a parquet file: {error}") from None
    positions = _by_name([str(name) for name in frame.columns], path.name, entry.columns)
    columns: dict[str, Any] = {what: frame.iloc[:, at] for what, at in positions.items()}
    for what, column in columns.items():
        if column.isna().any():
            raise DataError(f"{path.name}: {what} is missing in {int(column.isna().sum()):,} rows")
    codes = {what: pd.factorize(columns[what].astype(str)) for what in ("user", "item")}
    numbers = {
        what: _numbers(columns[what].astype(str).to_numpy(dtype=object), dates=what == "timestamp")
        for what in ("rating", "timestamp")
        if what in columns
    }
    if any(values is None for values in numbers.values()):
        raise DataError(f"{path.name}: a rating or timestamp is not a number")
    user, item = (
        (codes[what][0].astype(np.int32), np.asarray(codes[what][1], dtype=object))
        for what in ("user", "item")
    )
    return _raw(path.name, user, item, numbers.get("rating"), numbers.get("timestamp"))
