"""PEP (Liu et al., ICLR 2021): learn soft thresholds, then retrain what they leave."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from dslbench.backbones.base import Backbone
from dslbench.methods._masked import MaskedMethod, MaskedOptions, copy_weights, restore_weights
from dslbench.methods.base import Options
from dslbench.optimisers import own_rate
from dslbench.ranges import searched
from dslbench.tables import DenseTable, Table, TableSpec, keep_count
from dslbench.tables.select import select_greatest
from dslbench.tables.soft import Granularity, SoftThresholdTable
from dslbench.training.hooks import Hooks, Loop
from dslbench.training.lab import Lab

# How far below the weights thresholds start at least: sigmoid(t) a hundredth of their size. Nearer,
# weights that pass through zero stay there, and the search prunes by chance before it has learned.
_LEAST_PATH = math.log(100)


class PEPOptions(MaskedOptions):
    """Settings of PEP."""

    granularity: Granularity = Field(
        default="feature_dim", description="thresholds: global, per dimension, per row or per entry"
    )
    threshold_init: float | None = Field(
        default=None,
        description="t at the start; none: such that decay alone reaches the weights half-way, from "
        "thresholds at most a hundredth of the weights",
        json_schema_extra=searched(-50.0, -5.0),
    )
    threshold_lr: float | None = Field(
        default=None,
        gt=0,
        description="learning rate of t; none: that of the model, in short runs as much more as it "
        "takes to reach the weights half-way",
        json_schema_extra=searched(1e-3, 1.0, log=True),
    )
    threshold_decay: float = Field(default=1e-5, ge=0, description="coupled decay of t")
    value_decay: float = Field(
        default=0.0, ge=0, description="coupled decay of the values, besides the backbone's own"
    )
    check_every: int | None = Field(
        default=None,
        ge=1,
        description="iterations between counts of live weights; none: 1/200 of all",
    )
    re_init: bool = Field(default=False, description="retrain from new weights, not the first ones")


class SoftThresholds(MaskedMethod):
    """Search with thresholds until at most k* entries are alive, then retrain exactly k* of them.

    The mask holds the k* largest margins |v| - sigmoid(t): those few just below the threshold that
    the last check left out come back, and the budget is met to the last parameter. Where the steps
    end before the budget is reached, the same projection is made and `reached` is false.
    """

    name = "pep"
    label = "PEP"
    family = "MP"
    options_type: ClassVar[type[Options]] = PEPOptions

    @classmethod
    def phases(cls, options: Any, sparsity: float) -> list[str]:
        return ["search", "retrain"] if sparsity else ["retrain"]

    @classmethod
    def lineage(cls, options: Any, sparsity: float) -> list[str | None]:
        return [None, None] if sparsity else ["dense"]

    def run(self, lab: Lab) -> Backbone:
        self.start(lab)
        if self.sparsity:
            self.search(lab)
        lab.fit(self.model, "retrain", self)
        return self.model

    def search(self, lab: Lab) -> None:
        """Find the masks; leaves the model at its first weights with the masks in force."""
        searched = lab.build(self.soft_table)
        finder = _Search(self, searched)
        lab.fit(searched, "search", finder, select=False)
        self.reached, self.search_steps = finder.reached, finder.steps
        if self.options.re_init:
            fresh = lab.build(self.make_table, reinit="retrain")
            restore_weights(self.model, copy_weights(fresh))
        self.set_masks(finder.masks_by_margin())

    def soft_table(self, spec: TableSpec, rng: np.random.Generator) -> Table:
        """A table with thresholds where the scope has it, else a dense one."""
        if not spec.in_scope(self.options.mask_scope):
            return DenseTable(spec, rng)
        return SoftThresholdTable(spec, rng, self.options.granularity, 0.0)

    def diagnostics(self) -> dict[str, Any]:
        """Whether the search itself came down to the budget, and after how many iterations."""
        if not self.sparsity:
            return {}
        return {"reached": self.reached, "search_steps": self.search_steps}


class _Search(Hooks):
    """The search phase: decay on values and thresholds, and a count every so often."""

    def __init__(self, method: SoftThresholds, model: Backbone) -> None:
        self.method, self.options = method, method.options
        self.tables = [t for t in model.tables().values() if isinstance(t, SoftThresholdTable)]
        self.budgets = [
            [keep_count(size, method.sparsity) for size in method.group_sizes(table)]
            for table in method.masked
        ]
        self.reached, self.steps = False, 0

    def begin(self, loop: Loop) -> None:
        self.check_every = self.options.check_every or max(1, loop.total // 200)
        rate = float(loop.optimiser.param_groups[0]["lr"])
        # Under Adam a decaying t moves by about its learning rate an iteration, whatever the decay.
        path = max(0.5 * rate * loop.total, _LEAST_PATH)
        faster = (self.options.threshold_lr or path / (0.5 * loop.total)) / rate
        for table in self.tables:
            table.threshold.detach().fill_(self.start(table, path))
        own_rate(loop.optimiser, [table.threshold for table in self.tables], faster)

    def start(self, table: SoftThresholdTable, path: float) -> float:
        """t0 = logit(w) - path, for weights of typical size w."""
        if self.options.threshold_init is not None:
            return float(self.options.threshold_init)
        typical = float(table.weight.detach().abs().mean())
        typical = min(max(typical, 1e-6), 1 - 1e-6)
        return math.log(typical / (1 - typical)) - path

    @torch.no_grad()
    def after_backward(self, loop: Loop) -> bool:
        for table in self.tables:
            decays = (self.options.value_decay, self.options.threshold_decay)
            for parameter, decay in zip((table.weight, table.threshold), decays, strict=True):
                if decay and parameter.grad is not None:
                    parameter.grad.add_(parameter, alpha=decay)
        return True

    def after_step(self, loop: Loop) -> None:
        self.steps = loop.t
        if loop.t % self.check_every:
            return
        live = [table.live() for table in self.tables]
        loop.note("live", float(sum(live)))
        if all(n <= sum(b) for n, b in zip(live, self.budgets, strict=True)):
            self.reached = loop.stop = True

    def masks_by_margin(self) -> list[Tensor]:
        """Exactly k* entries of largest margin in every group of every table."""
        masks = []
        for table, own, counts in zip(self.tables, self.method.masked, self.budgets, strict=True):
            margin = table.margin()
            mask = torch.zeros_like(margin, dtype=torch.bool)
            for rows, count in zip(self.method.groups(own), counts, strict=True):
                mask[rows] = select_greatest(margin[rows], count, self.method.lots)
            masks.append(mask)
        return masks
