"""Interactions in binary files: scipy's sparse matrices, parquet."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse

from dslbench.data import arrays
from dslbench.data.dialect import Dialect
from dslbench.data.doubts import leave_out_under, refuse_no
from dslbench.data.entries import DatasetEntry
from dslbench.data.interactions import Int32
from dslbench.data.layout import settle, toml_for
from dslbench.data.raw import Labels, Raw
from dslbench.data.table import Table
from dslbench.data.understood import Understood
from dslbench.data.values import interpret
from dslbench.errors import DataError

_HEAD = 300


def read_npz(path: Path, entry: DatasetEntry) -> Raw:
    """A sparse matrix of users x items, saved by scipy; its values are ratings."""
    try:
        matrix = sparse.coo_matrix(sparse.load_npz(arrays.read_npz(path)))
    except MemoryError:
        raise DataError(f"{path.name}: there is not enough memory for its arrays") from None
    except (ValueError, KeyError, zipfile.BadZipFile, zlib.error, EOFError, TypeError,
            IndexError, AttributeError, NotImplementedError) as error:  # fmt: skip
        raise DataError(f"{path.name} is not a sparse matrix saved by scipy: {error}") from None
    values = np.asarray(matrix.data)
    if values.dtype.kind not in "biuf" or not np.isfinite(values.astype(np.float64)).all():
        raise DataError(f"{path.name}: values are not finite numbers")
    rows, columns = np.asarray(matrix.row), np.asarray(matrix.col)
    for what, found, bound in (
        ("row", rows, matrix.shape[0]),
        ("column", columns, matrix.shape[1]),
    ):
        if len(found) and (found.min() < 0 or found.max() >= bound or bound > 2**31 - 1):
            raise DataError(f"{path.name}: a {what} number is outside 0..{bound - 1}")
    ratings, kept = values.astype(np.float64), values != 0
    left_out = {"stored zeros": int((~kept).sum())}
    if entry.own:
        table, least = Table(path.name, len(values), {}), entry.filters.min_rating
        if least is not None:
            kept = leave_out_under(table, least, ratings, kept, left_out)
        else:
            refuse_no(table, "the matrix", ratings, kept, toml_for(entry, path.name))
    users, items = rows[kept].astype(np.int32), columns[kept].astype(np.int32)
    return Raw(
        path.name,
        users,
        items,
        n_users=matrix.shape[0],
        n_items=matrix.shape[1],
        ratings=ratings[kept],
        repeats_allowed=True,
        understood=Understood(
            path.name,
            f"a sparse matrix of scipy, {matrix.shape[0]:,} users x {matrix.shape[1]:,} items",
            rows=len(values),
            left_out={reason: count for reason, count in left_out.items() if count},
            first=(str(users[0]), str(items[0])) if len(users) else None,
        ),
    )


def read_parquet(path: Path, entry: DatasetEntry) -> Raw:
    """A table in parquet, where pandas has an engine for it."""
    try:
        # Whole numbers with gaps would be floats, which hold no id beyond 2^53.
        frame = pd.read_parquet(path, dtype_backend="numpy_nullable")
    except ImportError:
        raise DataError(
            f"{path.name}: reading parquet needs pyarrow or fastparquet", hint="pip install pyarrow"
        ) from None
    except Exception as error:  # engines have no common base for theirs
        reason = str(error).partition("\n")[0]
        raise DataError(f"{path.name} is not a parquet file: {reason}") from None
    names = [str(name) for name in frame.columns]
    step = max(1, len(frame) // _HEAD)
    values = [[_text(value) for value in row] for row in frame.iloc[::step].itertuples(index=False)]
    layout = settle(path.name, entry, Dialect(""), (True, ""), names, len(names), values)
    columns: dict[int, tuple[Int32, Labels]] = {}
    for at in layout.wanted:
        if at in (layout.positions["user"], layout.positions["item"]):
            _refuse_no_ids(path.name, names[at], frame.iloc[:, at])
        codes, found = pd.factorize(frame.iloc[:, at], use_na_sentinel=False)
        texts: dict[str, int] = {}
        ranks = [texts.setdefault(_text(value), len(texts)) for value in found]
        columns[at] = np.array(ranks, dtype=np.int32)[codes], np.array([*texts], dtype=object)
    return interpret(
        Table(path.name, len(frame), columns),
        layout,
        entry,
        format="parquet, one interaction a row",
    )


def _refuse_no_ids(name: str, column: str, values: pd.Series) -> None:
    """Refuse cells that hold more than one value, and whole numbers that floats may have changed."""
    if values.dtype == object and any(isinstance(v, list | dict | np.ndarray) for v in values):
        raise DataError(
            f"{name}: '{column}' holds lists or records: one row is many interactions",
            hint=f"make it flat, with pandas: frame.explode('{column}').to_parquet('flat.parquet')",
        )
    if values.dtype.kind == "f" and (values.abs() >= 2**53).any():
        raise DataError(
            f"{name}: '{column}' holds floats beyond 2^53, which cannot hold every whole number",
            hint="write ids as whole numbers or as text",
        )


def _text(value: object) -> str:
    """A cell as text: no value is none, whole floats of a column with gaps are whole numbers."""
    if isinstance(value, list | dict | np.ndarray):
        return repr(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="backslashreplace").strip()
    if value is None or value is pd.NA or value is pd.NaT or value != value:
        return ""
    if isinstance(value, float | np.floating):
        return str(int(value)) if float(value).is_integer() else str(value)
    if isinstance(value, pd.Timestamp):
        return value.isoformat(sep=" ")
    return str(value).strip()
