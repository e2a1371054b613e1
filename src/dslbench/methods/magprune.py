"""Pruning a trained table without retraining, with a minimum for every row."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field

from dslbench.backbones.base import Backbone, Hyper
from dslbench.errors import UsageError
from dslbench.methods._masked import MaskedMethod, MaskedOptions
from dslbench.methods._trained import take_trained
from dslbench.methods.base import Options
from dslbench.training.hooks import Phase
from dslbench.training.lab import Lab


class MagnitudeOptions(MaskedOptions):
    """Settings of pruning without retraining."""

    min_per_row: int | None = Field(
        default=None,
        ge=0,
        description="largest entries protected in each row; none: the best on validation",
    )
    tries: int = Field(default=15, ge=1, description="evaluations of the search for min_per_row")


class MagnitudePruning(MaskedMethod):
    """The dense run's tables: in each row the m largest |weights| stay, then the largest of the rest.

    m is sought on validation (recall@20): evenly spaced values from 0 to the most that the budget
    allows, then their neighbours around the best, at most `tries` in all. Nothing is trained. At
    sparsity 0 the run is the dense one.
    """

    name = "magprune"
    label = "MagPrune"
    family = "Plain"
    needs_dense: ClassVar[bool] = True
    usual: ClassVar[bool] = False
    relative_time: ClassVar[float] = 0.1
    options_type: ClassVar[type[Options]] = MagnitudeOptions

    @classmethod
    def phases(cls, options: Any, sparsity: float) -> list[str]:
        return ["search"] if sparsity else ["train"]

    @classmethod
    def check(cls, options: Any, hyper: Hyper, epochs: int, sparsity: float) -> None:
        least, d = options.min_per_row or 0, min(hyper.widths_of_rows())
        if sparsity and least > (most := int((1 - sparsity) * d + 1e-9)):
            raise UsageError(
                f"min_per_row {least} keeps more than sparsity {sparsity:g} allows",
                f"--set magprune.min_per_row={most}",
            )

    def run(self, lab: Lab) -> Backbone:
        self.found: dict[int, float] = {}
        model = self.start(lab)
        if self.sparsity == 0:
            lab.fit(model, "train", self)
            return model
        take_trained(model, lab.teacher())
        trained = [table.dense().clone() for table in self.masked]
        search = Phase("search", epochs=0)
        lab.phases.append(search)

        def prune(least: int) -> None:
            for table, values in zip(self.masked, trained, strict=True):
                table.set_mask(torch.ones_like(table.mask))
                table.assign(values)
            self.prune_protecting(least)

        def judged(least: int) -> float:
            prune(least)
            self.found[least] = lab.trial(search, model)
            return self.found[least]

        chosen = self.options.min_per_row
        if chosen is None:
            chosen = best_of(judged, self.most_protected(), self.options.tries)
        prune(chosen)
        self.chosen = chosen
        return model

    def diagnostics(self) -> dict[str, Any]:
        """What was chosen, and the values that were tried."""
        if self.sparsity == 0:
            return {}
        tried = {str(least): value for least, value in sorted(self.found.items())}
        return {"min_per_row": self.chosen, "tried": tried}


def best_of(judged: Any, most: int, tries: int) -> int:
    """The number in 0..most for which `judged` is greatest, by a grid that is refined around its best."""
    step = max(1, -(-most // 8))
    known: dict[int, float] = {}

    def look(places: list[int]) -> None:
        for place in places:
            if 0 <= place <= most and place not in known and len(known) < tries:
                known[place] = judged(place)

    look([*range(0, most + 1, step), most])
    while step > 1 and len(known) < tries:
        step //= 2
        best = max(known, key=lambda place: known[place])
        look([best - step, best + step])
    return max(known, key=lambda place: (known[place], -place))
