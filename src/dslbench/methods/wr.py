"""Iterative pruning without rewinding: prune a little, go on from the trained weights."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from dslbench.backbones.base import Backbone
from dslbench.methods._masked import copy_weights, restore_weights
from dslbench.methods.base import Options
from dslbench.methods.lth_mrs import IterativeOptions, IterativePruning
from dslbench.training.lab import Lab


class WithoutRewindingOptions(IterativeOptions):
    """Settings of pruning without rewinding."""

    init: Literal["continue", "reinit"] = Field(
        default="continue",
        description="go on from the trained survivors, or draw new initial weights each round",
    )


class WithoutRewinding(IterativePruning):
    """LTH-MRS's rounds, but survivors keep their trained values (Savarese et al., 2020).

    `reinit` is what LTH-MRS's code runs under this name: only the mask survives a round.
    """

    name = "wr"
    label = "WR"
    family = "MP"
    options_type: ClassVar[type[Options]] = WithoutRewindingOptions
    variants: ClassVar[dict[str, dict[str, Any]]] = {"default": {}, "reinit": {"init": "reinit"}}

    @classmethod
    def begins_with(cls, options: Any, number: int) -> str:
        return f"new weights {number}" if options.init == "reinit" else "go on"

    def start_again(self, lab: Lab, number: int) -> None:
        if self.options.init == "reinit":
            fresh: Backbone = lab.build(self.make_table, reinit=f"round {number}")
            restore_weights(self.model, copy_weights(fresh))
