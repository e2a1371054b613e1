"""Narrow rows: the backbone at a share of its width, and nothing else."""

from __future__ import annotations

from typing import ClassVar

from dslbench.backbones.base import Backbone
from dslbench.methods.base import Method
from dslbench.training.lab import Lab


class Narrow(Method):
    """Rows of floor((1 - s) d), trained like the dense model.

    What every other method is to be measured against: a student without a teacher, a size without a
    search. MACs fall with the width, in training and in ranking.
    """

    name = "narrow"
    label = "Narrow"
    family = "Plain"
    narrows: ClassVar[bool] = True

    def run(self, lab: Lab) -> Backbone:
        model = lab.build()
        lab.fit(model, "train", self)
        return model
