"""What the methods that train for values of few bits have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from dslbench.backbones.base import Hyper
from dslbench.methods.base import Allowance, Method
from dslbench.tables import TableSpec
from dslbench.tables.stored.values import values_bytes


class LowBits(Method):
    """Every entry is kept, at the precision of the options."""

    family = "Plain"
    uses_sparsity: ClassVar[bool] = False
    usual: ClassVar[bool] = False

    def stored_size(
        self, specs: Mapping[str, TableSpec], full: Hyper, precision: str | None
    ) -> int:
        """Every entry at a precision; None is that of training."""
        kept = precision or self.options.precision
        return sum(values_bytes(np.full(s.n_rows, s.dim), kept) for s in specs.values())

    def allowance(self, specs: Mapping[str, TableSpec], full: Hyper) -> Allowance:
        """Every entry, at the precision of training."""
        entries = sum(spec.n_rows * spec.dim for spec in specs.values())
        return Allowance.exactly(entries, self.stored_size(specs, full, None))
