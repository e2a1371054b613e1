"""Training for few bits, with learned step sizes."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from dslbench.backbones.base import Backbone, Hyper
from dslbench.methods._low import LowBits
from dslbench.methods.base import Options
from dslbench.tables import DenseTable, Table, TableSpec
from dslbench.tables.stepped import SteppedTable
from dslbench.training.hooks import Loop
from dslbench.training.lab import Lab


class StepOptions(Options):
    """Settings of learned step sizes."""

    precision: Literal["int8", "int6", "int4", "int3", "int2"] = Field(
        default="int4", description="what the model is trained for, and stored at"
    )
    warmup: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="share of the steps before weights are rounded, and steps set by them",
    )


class LearnedSteps(LowBits):
    """Weights are float32, and read as they will be stored, through a grid of each row whose step is learned.

    LSQ (Esser et al., ICLR 2020) with a step a row, trained as its logarithm, as Adam's steps know no
    scale; codes are symmetric. After a share of the training steps are set by the weights found so far. It
    saves nothing in training.
    """

    name = "lsq"
    label = "LSQ"
    relative_time: ClassVar[float] = 1.4
    options_type: ClassVar[type[Options]] = StepOptions
    variants: ClassVar[dict[str, dict[str, Any]]] = {
        "default": {},
        "int3": {"precision": "int3"},
        "int2": {"precision": "int2"},
    }

    def run(self, lab: Lab) -> Backbone:
        model = lab.build(self.make_table)
        lab.fit(model, "train", self)
        self.rounded = all(bool(t.rounds) for t in self.stepped)
        return model

    def make_table(self, spec: TableSpec, rng: np.random.Generator) -> Table:
        """Grids for users and items; layers stay float32."""
        if spec.role == "layer":
            return DenseTable(spec, rng)
        return SteppedTable(spec, rng, self.options.precision)

    def begin(self, loop: Loop) -> None:
        self.stepped = [t for t in loop.model.tables().values() if isinstance(t, SteppedTable)]

    def before_step(self, loop: Loop) -> None:
        if self.rounds_at(loop):
            for table in self.stepped:
                if not table.rounds:
                    table.start_steps()

    def may_be_selected(self, loop: Loop) -> bool:
        """Only once it rounds: before, what is judged is not what would be stored."""
        return self.rounds_at(loop)

    def rounds_at(self, loop: Loop) -> bool:
        """Whether values are read through their grids in this iteration."""
        return loop.t > float(self.options.warmup) * loop.total

    @classmethod
    def choices(cls, options: Any, full: Hyper) -> list[tuple[dict[str, Any], str | None]]:
        """The bits of a value, which it is then trained for."""
        return [({"precision": name}, None) for name in ("int2", "int3", "int4", "int6", "int8")]

    def diagnostics(self) -> dict[str, Any]:
        """Whether the epoch that was kept lies after the start of rounding."""
        return {"trained_rounded": self.rounded}
