"""Interactions as a file holds them, before they have numbers and parts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from dslbench.data.interactions import Int32, pairs_to_csr
from dslbench.data.understood import Understood
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
    understood: Understood | None = None

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
