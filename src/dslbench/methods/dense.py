"""The reference: the backbone trained as it is, every entry of its tables live."""

from __future__ import annotations

from typing import Any

from dslbench.backbones.base import Backbone
from dslbench.methods.base import Method
from dslbench.training.lab import Lab


class Dense(Method):
    """Train at full size with the backbone's own recipe. Sparsity is not used."""

    name = "dense"
    label = "Baseline"
    family = ""
    uses_sparsity = False

    @classmethod
    def lineage(cls, options: Any, sparsity: float) -> list[str | None]:
        return ["dense"]

    def run(self, lab: Lab) -> Backbone:
        model = lab.build()
        lab.fit(model, "train", self)
        return model
