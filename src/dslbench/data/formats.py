"""File formats: bytes into columns of interactions, in file order.

`adjacency`   `user item item ...`, ids from 0 (NGCF, LightGCN)
`counted`     line k is user k: `count item item ...` (CiteULike, VLDB'17 Foursquare)
`ratings`     `user::item::rating[::timestamp]` (MovieLens)
`csv`, `tsv`  delimited columns, with or without header; `inter` RecBole's typed header
`npz`         scipy sparse matrix; `parquet` a table, where pandas has an engine for it
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from dslbench.data.entries import DatasetEntry
from dslbench.data.interactions import Int32, pairs_to_csr
from dslbench.data.parse import IntLines, read_int_lines
from dslbench.errors import DataError

Labels = npt.NDArray[Any]


@dataclass(frozen=True)
class Raw:
    """Interactions as a file holds them, in file order, repeats included.

    `users` and `items` are ids as written where the `*_labels` are None, else positions in these
    labels. `n_users` counts listed users too that have no items. `ratings` and `timestamps` are
    None where the file has none.
    """

    name: str
    users: Int32
    items: Int32
    n_users: int
    n_items: int
    user_labels: Labels | None = None
    item_labels: Labels | None = None
    ratings: npt.NDArray[np.float64] | None = None
    timestamps: npt.NDArray[np.float64] | None = None
    repeats_allowed: bool = False
    notes: tuple[str, ...] = ()
    cut_note: str = ""
    line_starts: tuple[Int32, Int32] | None = field(default=None, repr=False)

    def line(self, pair: int) -> int | None:
        """Line number of a pair, for errors; None where the format has no lines."""
        if self.line_starts is None:
            return None
        per_line, numbers = self.line_starts
        return int(numbers[np.searchsorted(np.cumsum(per_line), pair, side="right")])

    def place(self, pair: int) -> str:
        """File name and line of a pair, as errors begin."""
        line = self.line(pair)
        return self.name if line is None else f"{self.name}, line {line}"

    def to_csr(self, shape: tuple[int, int]) -> sparse.csr_matrix:
        """Distinct pairs as CSR of `shape`; DataError for ids out of range or forbidden repeats."""
        for what, ids, bound in (("user", self.users, shape[0]), ("item", self.items, shape[1])):
            if len(ids) and ids.max() >= bound:
                first = int(np.argmax(ids >= bound))
                raise DataError(
                    f"{self.place(first)}: {what} {ids[first]} is outside 0..{bound - 1}"
                )
        matrix = pairs_to_csr(self.users, self.items, shape)
        if matrix.nnz < len(self.users) and not self.repeats_allowed:
            keys = self.users.astype(np.int64) * shape[1] + self.items
            order = np.argsort(keys, kind="stable")
            again = order[1:][keys[order][1:] == keys[order][:-1]]
            first = int(again.min())
            raise DataError(
                f"{self.place(first)}: item {_label(self.items, self.item_labels, first)}"
                f" appears twice for user {_label(self.users, self.user_labels, first)}"
            )
        return matrix


def _label(ids: Int32, labels: Labels | None, pair: int) -> object:
    return ids[pair] if labels is None else labels[ids[pair]]


def read(path: Path, entry: DatasetEntry) -> Raw:
    """Read one data file in the entry's format. Raises DataError naming the file and the line."""
    try:
        if entry.format in ("adjacency", "counted"):
            return read_lists(path.read_bytes(), path.name, counted=entry.format == "counted")
        from dslbench.data.delimited import read_table

        return read_table(path, entry)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except OSError as error:
        raise DataError(f"{path.name} cannot be read: {error.strerror or error}") from None


def read_lists(content: bytes, name: str, *, counted: bool) -> Raw:
    """Read adjacency lists, or (`counted`) count-prefixed lists."""
    lines = read_int_lines(content, name)
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
