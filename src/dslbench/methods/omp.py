"""One-shot magnitude pruning: train, keep the largest weights, train again."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from dslbench.backbones.base import Backbone
from dslbench.methods._masked import MaskedMethod, MaskedOptions, copy_weights, restore_weights
from dslbench.methods.base import Options
from dslbench.training.lab import Lab


class OneShotOptions(MaskedOptions):
    """Settings of one-shot magnitude pruning."""

    init: Literal["rewind", "finetune", "none"] = Field(
        default="rewind",
        description="retrain from the original weights, go on from the trained ones, or don't retrain",
    )
    finetune_lr: float = Field(default=0.1, gt=0, description="learning rate factor of finetune")
    min_per_row: int = Field(default=0, ge=0, description="largest entries protected in each row")


class OneShotPruning(MaskedMethod):
    """Train dense, mask all but the k* largest |weights|, and retrain the survivors.

    `rewind` retrains from the initial weights as LTH-MRS's code for this baseline does; `finetune`
    goes on from the trained weights (Han et al., 2015, which the paper cites).
    """

    name = "omp"
    label = "OMP"
    family = "MP"
    options_type: ClassVar[type[Options]] = OneShotOptions
    variants: ClassVar[dict[str, dict[str, Any]]] = {
        "default": {},
        "finetune": {"init": "finetune"},
        "no-retrain": {"init": "none"},
    }

    @classmethod
    def phases(cls, options: Any, sparsity: float) -> list[str]:
        return ["dense"] if options.init == "none" or sparsity == 0 else ["dense", "retrain"]

    @classmethod
    def lineage(cls, options: Any, sparsity: float) -> list[str | None]:
        if sparsity == 0 or options.init == "none":
            return ["dense"]
        if options.init == "finetune":
            return ["dense", None]
        how = f"{options.min_per_row} protected, rewind" if options.min_per_row else "rewind"
        return ["dense", cls.after_pruning(options, "dense", how, sparsity)]

    def run(self, lab: Lab) -> Backbone:
        model = self.start(lab)
        initial = copy_weights(model)
        lab.fit(model, "dense", self)
        if self.sparsity == 0:
            return model
        self.prune_protecting(self.options.min_per_row)
        if self.options.init == "rewind":
            restore_weights(model, initial)
            lab.fit(model, "retrain", self)
        elif self.options.init == "finetune":
            lab.fit(model, "retrain", self, lr_factor=self.options.finetune_lr)
        return model
