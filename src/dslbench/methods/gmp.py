"""Gradual magnitude pruning: the smallest weights leave step by step while the model trains."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from dslbench.backbones.base import Backbone
from dslbench.methods._masked import MaskedMethod, MaskedOptions
from dslbench.methods.base import Options
from dslbench.training.hooks import Loop
from dslbench.training.lab import Lab

# Prunings of a ramp whose interval is not given.
_PRUNINGS = 40


class GradualOptions(MaskedOptions):
    """Settings of gradual magnitude pruning."""

    table_form: Literal["full"] = Field(
        default="full", description="tables start dense, and are held in full to the end"
    )
    start: float = Field(
        default=0.0, ge=0, lt=1, description="share of the iterations before pruning"
    )
    end: float = Field(
        default=0.5, gt=0, le=1, description="share of the iterations at which k* entries are left"
    )
    every: int | None = Field(
        default=None,
        ge=1,
        description=f"iterations between prunings; none: a {_PRUNINGS}th of the ramp",
    )

    @model_validator(mode="after")
    def _agree(self) -> GradualOptions:
        if self.start >= self.end:
            raise ValueError(f"start={self.start:g} is not before end={self.end:g}")
        return self


class GradualPruning(MaskedMethod):
    """One training, in which the share of pruned entries rises along a cubic (Zhu and Gupta, 2017, Eq. 1).

    At iteration t the smallest |w| leave until s (1 - (1 - x)^3) of the entries are gone, x = (t - t0) /
    (t1 - t0). What has left does not come back. The epoch is chosen among those with k* entries at their end.
    """

    name = "gmp"
    label = "GMP"
    family = "Plain"
    usual: ClassVar[bool] = False
    options_type: ClassVar[type[Options]] = GradualOptions

    def run(self, lab: Lab) -> Backbone:
        model = self.start(lab)
        lab.fit(model, "train", self)
        return model

    def begin(self, loop: Loop) -> None:
        self.first = round(self.options.start * loop.total)
        self.last = max(self.first + 1, round(self.options.end * loop.total))
        self.every = self.options.every or max(1, (self.last - self.first) // _PRUNINGS)
        self.densities = 0.0  # summed over the iterations
        self.steps = 0

    def share_pruned(self, t: int) -> float:
        """Of the entries, at iteration t."""
        x = min(max((t - self.first) / (self.last - self.first), 0.0), 1.0)
        return float(self.sparsity * (1 - (1 - x) ** 3))

    def after_step(self, loop: Loop) -> None:
        on_ramp = self.first < loop.t < self.last and (loop.t - self.first) % self.every == 0
        if self.sparsity and (on_ramp or loop.t == self.last):
            share = self.share_pruned(loop.t)
            for table in self.masked:
                table.move_mask(self.largest(table, share), loop.optimiser)
        sizes = [table.spec.n_rows * table.spec.dim for table in self.masked]
        if on_ramp or loop.t == self.last or not self.steps:
            self.density = sum(table.live() for table in self.masked) / max(1, sum(sizes))
            loop.note("density", self.density)
        self.densities += self.density
        self.steps += 1

    def may_be_selected(self, loop: Loop) -> bool:
        return not self.sparsity or loop.t >= self.last

    def diagnostics(self) -> dict[str, Any]:
        """Mean share of live entries over the training."""
        return {"mean_density": self.densities / self.steps}
