"""The reference: the backbone trained as it is, every entry of its tables live."""

from __future__ import annotations

from dslbench.backbones.base import Backbone
from dslbench.methods.base import Method
from dslbench.training.lab import Lab


class Dense(Method):
    """Train at full size with the backbone's own recipe. Sparsity is not used."""

    name = "dense"
    label = "Baseline"
    family = ""
    uses_sparsity = False

    def run(self, lab: Lab) -> Backbone:
        model = lab.build()
        lab.fit(model, "train", self)
        return model
