"""Narrow rows: the backbone at a share of its width, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping

from dslbench.backbones.base import Backbone, Hyper
from dslbench.methods.base import Allowance, Method
from dslbench.tables import TableSpec
from dslbench.training.lab import Lab


class Narrow(Method):
    """Rows of floor((1 - s) d), trained like the dense model.

    What every other method is to be measured against: a student without a teacher, a size without a
    search. MACs fall with the width, in training and in ranking.
    """

    name = "narrow"
    label = "Narrow"
    family = "Plain"

    @classmethod
    def size(cls, full: Hyper, sparsity: float) -> Hyper:
        """Rows of floor((1 - s) d), or of the nearest width below that the backbone takes."""
        return full.narrowed(1 - sparsity) if sparsity else full

    def run(self, lab: Lab) -> Backbone:
        model = lab.build()
        lab.fit(model, "train", self)
        return model

    def allowance(self, specs: Mapping[str, TableSpec], full: Hyper) -> Allowance:
        """Every entry of the narrower rows."""
        return super().allowance(specs, self.size(full, self.sparsity))
