"""Low-precision training: a small training state from start to end, without a mask."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from dslbench.backbones.base import Backbone, Hyper
from dslbench.errors import UnsuitableError
from dslbench.methods._low import LowBits
from dslbench.methods.base import Options
from dslbench.tables import DenseTable, Table, TableSpec
from dslbench.tables.low_precision import LowPrecisionTable
from dslbench.training.hooks import Loop
from dslbench.training.lab import Lab


class LowPrecisionOptions(Options):
    """Settings of low-precision training."""

    precision: Literal["fp32", "bf16", "int8"] = Field(
        default="int8", description="what weights are kept at between steps"
    )


class LowPrecisionTraining(LowBits):
    """Weights are int8 (a grid a row) or bf16 between steps, Adam's moments 8 bits each, with a scale a row.

    After each step weights and moments are rounded at random, without bias: steps below half the grid are
    not lost. It is what keeps a training state small without pruning: 3.2 bytes a weight at int8 and d = 64,
    beside 12 of float32. ALPT (Li et al., AAAI 2023) learns its grids by gradients in a second pass; here
    a grid is widened when a weight leaves it, and narrowed when two thirds of it lie idle. Precision fp32 is
    the dense run.
    """

    name = "lpt"
    label = "LPT"
    version = 2
    relative_time: ClassVar[float] = 1.3
    options_type: ClassVar[type[Options]] = LowPrecisionOptions
    variants: ClassVar[dict[str, dict[str, Any]]] = {
        "default": {},
        "bf16": {"precision": "bf16"},
    }

    @classmethod
    def check(cls, options: Any, hyper: Hyper, epochs: int, sparsity: float) -> None:
        if options.precision != "fp32" and getattr(hyper, "pretrain_epochs", 0):
            raise UnsuitableError(
                "low-precision training is Adam's, and after pretraining another optimiser goes on",
                "--set pretrain_epochs=0",
            )

    def run(self, lab: Lab) -> Backbone:
        self.rounding = lab.streams["rounding"]
        self.model = lab.build(self.make_table)
        lab.fit(self.model, "train", self)
        return self.model

    def make_table(self, spec: TableSpec, rng: np.random.Generator) -> Table:
        """Low precision for users and items; layers stay float32."""
        if spec.role == "layer" or self.options.precision == "fp32":
            return DenseTable(spec, rng)
        return LowPrecisionTable(spec, rng, self.options.precision)

    def begin(self, loop: Loop) -> None:
        self.low = [t for t in loop.model.tables().values() if isinstance(t, LowPrecisionTable)]
        if self.low and not isinstance(loop.optimiser, torch.optim.Adam):
            raise UnsuitableError(
                "low-precision training is Adam's; this model has another optimiser"
            )

    def after_backward(self, loop: Loop) -> bool:
        group = loop.optimiser.param_groups[0]
        for table in self.low:
            table.step(loop.t, group, int(self.rounding.integers(2**63)))
        return True

    @classmethod
    def choices(cls, options: Any, full: Hyper) -> list[tuple[dict[str, Any], str | None]]:
        """Trained at 8 bits, and rounded afterwards where that is more than there is."""
        low = [({"precision": "int8"}, name) for name in ("int2", "int3", "int4", "int6")]
        return [*low, ({"precision": "int8"}, None), ({"precision": "bf16"}, None)]
