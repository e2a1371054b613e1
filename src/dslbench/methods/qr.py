"""Compositional embeddings: rows put together from a quotient's and a remainder's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from dslbench.backbones.base import Backbone, Hyper
from dslbench.errors import UnsuitableError
from dslbench.methods._degrees import degrees
from dslbench.methods.base import Allowance, Method, Options
from dslbench.tables import DenseTable, Table, TableSpec, keep_count
from dslbench.tables.composed import ComposedTable
from dslbench.tables.stored.quotient import Plan
from dslbench.tables.stored.values import values_bytes
from dslbench.training.lab import Lab


class QuotientOptions(Options):
    """Settings of quotient and remainder."""

    combine: Literal["mult", "add"] = Field(
        default="mult", description="what is done with the two rows, entry by entry"
    )
    m: int | None = Field(
        default=None,
        ge=1,
        description="remainders; none: the fewest, from 2, that the budget has room for",
    )


class QuotientRemainder(Method):
    """Row r is Q[p // m] o R[p mod m], p its place in a mixed order (Shi et al., KDD 2020).

    Users and items have tables Q (ceil(n / m) rows) and R (m rows) of their own. Two rows are made of no
    same pair. What the budget has left over goes to the rows of highest degree, which get one of their
    own; so does all of it at sparsity 0.
    """

    name = "qr"
    label = "QR"
    family = "Plain"
    usual: ClassVar[bool] = False
    options_type: ClassVar[type[Options]] = QuotientOptions
    variants: ClassVar[dict[str, dict[str, Any]]] = {"default": {}, "add": {"combine": "add"}}

    def run(self, lab: Lab) -> Backbone:
        lots = lab.streams.fresh("lots")

        def composed(spec: TableSpec, rng: np.random.Generator) -> Table:
            if spec.role == "layer" or self.sparsity == 0:
                return DenseTable(spec, rng)
            own, start = [], 0
            sizes = self.sizes(spec)
            for of_rows, (_, owners) in zip(degrees(spec, lab.data.train), sizes, strict=True):
                n = len(of_rows)
                order = np.lexsort((lots.permutation(n), -of_rows))
                own.append(start + np.sort(order[:owners]))
                start += n
            plan = Plan(
                tuple(n for _, n in spec.segments), tuple(m for m, _ in sizes),
                np.concatenate(own).astype(np.int32),
            )  # fmt: skip
            return ComposedTable(spec, plan, self.options.combine, rng)

        model = lab.build(composed)
        lab.fit(model, "train", self)
        return model

    def sizes(self, spec: TableSpec) -> list[tuple[int, int]]:
        """m and how many rows have one of their own, for each segment."""
        return [
            shares(n, keep_count(n * spec.dim, self.sparsity) // spec.dim, self.options.m, entity)
            for entity, n in spec.segments
        ]

    def allowance(self, specs: Mapping[str, TableSpec], full: Hyper) -> Allowance:
        """Within a row of the budget of each segment, and four bytes for each row of its own."""
        if self.sparsity == 0:
            return super().allowance(specs, full)
        entries = nbytes = 0
        for spec in specs.values():
            for (_, n), (m, own) in zip(spec.segments, self.sizes(spec), strict=True):
                rows = rows_of(n, m, own)
                entries += rows * spec.dim
                nbytes += 4 * rows * spec.dim + 4 * own
        return Allowance.exactly(entries, nbytes)

    def stored_size(
        self, specs: Mapping[str, TableSpec], full: Hyper, precision: str | None
    ) -> int:
        """The rows that are stored, and which rows have one of their own."""
        if self.sparsity == 0:
            return super().stored_size(specs, full, precision)
        total = 0
        for spec in specs.values():
            for (_, n), (m, own) in zip(spec.segments, self.sizes(spec), strict=True):
                rows = np.full(rows_of(n, m, own), spec.dim)
                total += values_bytes(rows, precision or "fp32") + 4 * own
        return total


def rows_of(n: int, m: int, own: int) -> int:
    """Stored rows for n rows, of which some have one of their own."""
    return own + (-(-(n - own) // m) + m if own < n else 0)


def shares(n: int, rows: int, m: int | None, entity: str) -> tuple[int, int]:
    """m, and how many of n rows can have one of their own in a budget of stored rows.

    Raises `UnsuitableError` where the budget is below what any m takes.
    """
    tried = [m] if m is not None else list(range(2, int(np.sqrt(n)) + 2))
    fitting = next((k for k in tried if rows_of(n, k, 0) <= rows), None)
    if fitting is None:
        least = min(tried, key=lambda k: rows_of(n, k, 0))
        if rows_of(n, least, 0) >= n:
            raise UnsuitableError(
                f"{least} remainders for {n} of '{entity}' save nothing", "leave --set qr.m out"
            )
        raise UnsuitableError(
            f"{rows} rows are too few to put {n} of '{entity}' together from",
            f"{rows_of(n, least, 0)} would do: --sparsity {1 - rows_of(n, least, 0) / n:.3f}",
        )
    low, high = 0, n
    while low < high:  # the most that fit; a row of its own costs more than a shared one
        middle = (low + high + 1) // 2
        low, high = (middle, high) if rows_of(n, fitting, middle) <= rows else (low, middle - 1)
    return fitting, low
