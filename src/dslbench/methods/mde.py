"""Sizes by popularity (mixed dimension embeddings), without a search."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from dslbench.backbones.base import Backbone, Hyper
from dslbench.errors import UnsuitableError
from dslbench.methods._degrees import degrees
from dslbench.methods._masked import MaskedMethod, MaskedOptions
from dslbench.methods.base import Allowance, Options
from dslbench.ranges import searched
from dslbench.tables import Stored, TableSpec, keep_count
from dslbench.tables.stored import Prefix
from dslbench.training.lab import Lab

Int64 = npt.NDArray[np.int64]


class MixedDimensionOptions(MaskedOptions):
    """Settings of sizes by popularity."""

    alpha: float = Field(
        default=0.3,
        ge=0,
        le=1,
        description="width ~ degree^alpha: 0 all alike, 1 proportional",
        json_schema_extra=searched(0.0, 1.0),
    )


class MixedDimensions(MaskedMethod):
    """Row r keeps its first w_r columns, w_r proportional to degree^alpha, between 1 and d.

    After Ginart et al. (2021), whose widths follow popularity by a power law; the linear maps that bring
    their rows to one width are left out, so that columns are shared in order, and the first is everybody's.
    Rows get the whole part of their share, and what is left goes to those of highest degree, so that the
    widths of each table sum to k*. Users and items of a joint table share its budget.
    """

    name = "mde"
    label = "MDE"
    family = "Plain"
    usual: ClassVar[bool] = False
    options_type: ClassVar[type[Options]] = MixedDimensionOptions

    @classmethod
    def check(cls, options: Any, hyper: Hyper, epochs: int, sparsity: float) -> None:
        d = min(hyper.widths_of_rows())
        if sparsity > 1 - 1 / d:
            raise UnsuitableError(
                f"at sparsity {sparsity:g} rows of {d} have less than one column each",
                f"--sparsity {1 - 1 / d:.6g} is the most",
            )

    def run(self, lab: Lab) -> Backbone:
        model = self.start(lab)
        self.widths: dict[str, Int64] = {}
        for table in self.masked:
            spec = table.spec
            of_rows = np.concatenate(degrees(spec, lab.data.train))
            widths = np.concatenate(
                [
                    widths_for(of_rows[rows], spec.dim, keep_count(size, self.sparsity),
                               self.options.alpha, self.lots)
                    for rows, size in zip(self.groups(table), self.group_sizes(table), strict=True)
                ]
            )  # fmt: skip
            self.widths[spec.name] = widths
            live = np.arange(spec.dim) < widths[:, None]
            table.set_mask(torch.from_numpy(live).to(lab.device))
        lab.fit(model, "train", self)
        return model

    def stored(self, model: Backbone) -> dict[str, Stored]:
        """Masks that are first columns need no bits."""
        kept = super().stored(model)
        tables = model.tables()
        for name, widths in self.widths.items():
            kept[name] = Prefix.of(tables[name].full().detach().cpu().numpy(), widths)
        return kept

    def allowance(self, specs: Mapping[str, TableSpec], full: Hyper) -> Allowance:
        """Exactly k* entries, with a width for each row."""
        masked = super().allowance(specs, full).parameters[0]
        own = [s for s in specs.values() if s.in_scope(self.options.mask_scope)]
        for spec in own:
            for n in self._group_rows(spec):
                check_one_each(keep_count(n * spec.dim, self.sparsity), n, spec.dim)
        counts = sum(Prefix.size(spec.n_rows, spec.dim, 0) for spec in own)
        return Allowance.exactly(masked, 4 * masked + counts)

    def diagnostics(self) -> dict[str, Any]:
        """How many rows have each width, by table."""
        return {
            "widths": {
                name: {
                    str(w): int(n) for w, n in zip(*np.unique(x, return_counts=True), strict=True)
                }
                for name, x in self.widths.items()
            }
        }


def check_one_each(budget: int, n: int, d: int) -> None:
    """Raise `UnsuitableError` where not each of n rows of d columns can have one of so many entries."""
    if budget < n:
        raise UnsuitableError(
            f"{budget:,} entries are not one for each of {n:,} rows",
            f"--sparsity {1 - 1 / d:.6g} is the most",
        )


def widths_for(
    degrees: Int64, d: int, budget: int, alpha: float, lots: np.random.Generator
) -> Int64:
    """(n,) widths from 1 to d that sum to the budget and grow as degree^alpha.

    The factor is found by bisection; what rounding down leaves goes to rows of highest degree, one
    column each, equal ones by lot. Raises `UnsuitableError` where not every row can have a column.
    """
    n = len(degrees)
    check_one_each(budget, n, d)
    shape = np.maximum(degrees, 1).astype(np.float64) ** alpha
    low, high = 0.0, d / float(shape.min())

    def widths(factor: float) -> Int64:
        return np.clip(np.floor(factor * shape), 1, d).astype(np.int64)

    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if widths(middle).sum() <= budget else (low, middle)
    if widths(high).sum() <= budget:
        low = high
    found = widths(low)
    order = np.lexsort((lots.permutation(n), -degrees))
    while (left := budget - int(found.sum())) > 0:
        open_rows = order[found[order] < d][:left]
        found[open_rows] += 1
    return found
