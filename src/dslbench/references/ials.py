"""iALS (Hu et al., ICDM 2008), regularised by frequency as in Rendle et al. (RecSys 2022)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy import sparse

from dslbench.ops.threads import balanced_bounds, run_rows
from dslbench.references import _kernels
from dslbench.references._models import Valued, at_least, finite
from dslbench.references.base import Float32, Model, Options, Reference
from dslbench.seeds import Streams
from dslbench.tables.base import Parts
from dslbench.tables.stored import Values
from dslbench.tables.stored.values import values_bytes


class IALSOptions(Options):
    """Size, weights and length of the alternation."""

    d: int = Field(default=64, ge=1, description="factors of each user and item")
    alpha: float | None = Field(
        default=None, gt=0, description="weight of all pairs, beside 1 of those that were seen"
    )
    reg: float | None = Field(default=None, gt=0, description="weight lambda of the squared norms")
    nu: float = Field(
        default=1, ge=0, le=1, description="exponent of the frequency in the regularisation"
    )
    epochs: int = Field(default=16, ge=1, description="solutions of all users and then all items")
    std: float = Field(
        default=0.1, gt=0, description="standard deviation of a starting vector: std / sqrt(d) an entry"
    )  # fmt: skip


@dataclass(frozen=True)
class ItemFactors(Valued):
    """Items' vectors H (M, d); a user's is solved for from the items that they have, by the same equation."""

    form: ClassVar[str] = "factors"

    alpha: float
    reg: float
    nu: float

    def about(self) -> dict[str, Any]:
        d = self.values.count // max(len(self.values.lengths), 1)
        return super().about() | {"d": d, "alpha": self.alpha, "reg": self.reg, "nu": self.nu}

    @classmethod
    def read(cls, shape: tuple[int, int], about: Mapping[str, Any], parts: Parts) -> Self:
        lengths = _lengths(shape[1], at_least(about, "d", 1))
        alpha, reg, nu = (finite(about, key) for key in ("alpha", "reg", "nu"))
        if not (alpha > 0 and reg > 0 and 0 <= nu <= 1):
            raise ValueError(f"alpha {alpha}, reg {reg}, nu {nu}")
        return cls(Values.read(about, lengths, parts), alpha, reg, nu)

    @cached_property
    def _items(self) -> tuple[Float32, Float32]:
        """H (M, d), and alpha H'H (d, d); made once."""
        items = self.values.flat().reshape(len(self.values.lengths), -1)
        return items, np.float32(self.alpha) * (items.T @ items)

    def scores(self, known: sparse.csr_matrix) -> Float32:
        items, gram = self._items
        sizes = np.diff(known.indptr)
        users = solve(known, items, gram, penalty(sizes, len(items), self.alpha, self.reg, self.nu))
        return users @ items.T

    def macs(self, known: sparse.csr_matrix) -> int:
        """For each user |I_u| d^2 + d^3 / 6 for their vector, and M d for the scores."""
        items, _ = self._items
        d, users = items.shape[1], int(known.shape[0])
        total: int = int(known.nnz) * d * d + users * (d**3 // 6 + d * d + len(items) * d)
        return total


def _lengths(n_items: int, d: int) -> npt.NDArray[np.int64]:
    """Values of each row of H."""
    return np.full(n_items, d, dtype=np.int64)


def penalty(sizes: Any, others: int, alpha: float, reg: float, nu: float) -> Float32:
    """lambda (|I_u| + alpha M)^nu for rows with so many pairs, of `others` possible ones."""
    found: Float32 = (reg * (sizes + alpha * others) ** nu).astype(np.float32)
    return found


def solve(pairs: sparse.csr_matrix, others: Float32, gram: Float32, penalties: Float32) -> Float32:
    """For each row of pairs w = (gram + sum h h' + penalty I)^-1 sum h over its pairs' vectors h; (B, d).

    Args:
        others: (M, d) vectors h.
        gram: alpha H'H.
    """
    found = np.zeros((pairs.shape[0], others.shape[1]), dtype=np.float32)
    bounds = balanced_bounds(pairs.indptr)
    run_rows(
        _kernels.solve, bounds, pairs.indptr, pairs.indices, np.ascontiguousarray(others),
        np.ascontiguousarray(gram), penalties, found,
    )  # fmt: skip
    return found


class IALS(Reference):
    """min sum_S (y - 1)^2 + a sum_all y^2 + lambda (sum_u (|I_u| + a M)^nu |w_u|^2 + items alike).

    y = w_u h_i. Users and items are solved for in turn, exactly. Items' vectors alone are stored.
    """

    name = "ials"
    label = "iALS"
    options_type = IALSOptions
    models = (ItemFactors,)
    uses_seed = True
    grid: ClassVar[dict[str, tuple[Any, ...]]] = {
        "alpha": (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
        "reg": (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3),
    }
    usual: ClassVar[dict[str, Any]] = {"alpha": 0.1, "reg": 0.003}

    @classmethod
    def memory_needed(cls, train: sparse.csr_matrix, options: IALSOptions) -> int:
        n, m = (int(side) for side in train.shape)
        return 4 * 3 * (n + m) * options.d + 40 * int(train.nnz)

    @classmethod
    def train_macs(cls, train: sparse.csr_matrix, options: IALSOptions) -> int:
        """An epoch: 2 |S| d^2 + (N + M) (d^3 / 6 + d^2), and H'H of both sides."""
        n, m, d = *(int(side) for side in train.shape), options.d
        epoch = 2 * int(train.nnz) * d * d + (n + m) * (d**3 // 6 + 2 * d * d)
        return options.epochs * epoch

    @classmethod
    def stored_size(cls, n_items: int, options: IALSOptions, precision: str) -> int:
        return values_bytes(_lengths(n_items, options.d), precision)

    @classmethod
    def fit(cls, train: sparse.csr_matrix, options: IALSOptions, seed: int) -> Model:
        _, items = alternate(train, options, seed)
        lengths = _lengths(*items.shape)
        return ItemFactors(
            Values.of(items, lengths), options.alpha or 0.0, options.reg or 0.0, options.nu
        )


def alternate(
    train: sparse.csr_matrix, options: Any, seed: int,
    tell: Callable[[Float32, Float32], None] = lambda users, items: None,
) -> tuple[Float32, Float32]:  # fmt: skip
    """Vectors of users (N, d) and items (M, d) after `options.epochs`; `tell` has them after each half."""
    n, m = (int(side) for side in train.shape)
    rng = Streams(seed).fresh("init")
    items = rng.standard_normal((m, options.d), dtype=np.float32)
    items *= np.float32(options.std / np.sqrt(options.d))
    columns = sparse.csr_matrix(train.T)
    of_users = penalty(np.diff(train.indptr), m, options.alpha, options.reg, options.nu)
    of_items = penalty(np.diff(columns.indptr), n, options.alpha, options.reg, options.nu)
    alpha = np.float32(options.alpha)
    for _ in range(options.epochs):
        users = solve(train, items, alpha * (items.T @ items), of_users)
        tell(users, items)
        items = solve(columns, users, alpha * (users.T @ users), of_items)
        tell(users, items)
    return users, items
