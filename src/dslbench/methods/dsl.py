"""Dynamic sparse learning (Wang et al., WSDM 2024): a mask of fixed size that moves while training."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from dslbench.backbones.base import Backbone
from dslbench.methods.rp import RandomPruning, RandomPruningOptions
from dslbench.tables import MaskedTable, select_largest
from dslbench.tables.select import kth_largest
from dslbench.train import Lab, Loop


class DSLOptions(RandomPruningOptions):
    """Settings of dynamic sparse learning; defaults follow the paper's Algorithm 1."""

    when: Literal["init"] = Field(default="init", description="the mask is drawn before training")
    rho0: float = Field(default=0.5, ge=0, le=1, description="update ratio at the first iteration")
    delta_t: int | None = Field(
        default=None,
        ge=1,
        description="iterations between explorations; none: as published, in runs too short for 40 "
        "explorations a 40th of the run, at least 20",
    )
    decay: Literal["cosine", "linear", "none"] = Field(
        default="cosine", description="how the update ratio falls (paper, Table 4)"
    )
    eta_min: float = Field(default=0.0, ge=0, le=1, description="update ratio at the end (cosine)")
    step_on_explore: bool = Field(
        default=False, description="also take the optimiser step in an exploring iteration"
    )
    mask_moments: bool = Field(
        default=True,
        description="keep optimiser state zero off the mask (else weights regrow warm)",
    )
    drop: Literal["exact", "threshold"] = Field(
        default="exact",
        description="drop exactly the counted weights, or all at or below the counted one's size",
    )
    grow_score: Literal["instant", "accum"] | None = Field(
        default=None,
        description="gradient of this batch, or |gradient| summed over about as many batches as visit "
        "every row once; none: accum where a batch touches only its own rows",
    )
    mask_init: Literal["exact", "bernoulli"] = Field(
        default="exact", description="exact count, or each entry by its own coin"
    )


class DynamicSparseLearning(RandomPruning):
    """Algorithm 1: every delta_t iterations prune by magnitude and grow as many by gradient.

    Lines 4 to 7 are `explore`, line 9 the optimiser's step on live weights. The number of live
    weights never changes; weights pruned and grown again in the same exploration keep their value,
    newly grown ones start at 0.
    """

    name = "dsl"
    label = "DSL"
    options_type = DSLOptions
    # The released code: coin-flip masks, a step in exploring iterations too, ties dropped together,
    # Adam moments that go on moving off the mask, and a cosine that ends at 0.005.
    variants: ClassVar[dict[str, dict[str, Any]]] = {
        "default": {},
        "official": {
            "mask_init": "bernoulli",
            "step_on_explore": True,
            "mask_moments": False,
            "drop": "threshold",
            "eta_min": 0.005,
        },
    }

    def run(self, lab: Lab) -> Backbone:
        self.model = model = lab.build(self.make_table)
        self.mask_at_random(lab.streams)
        self.growth = lab.streams["growth"]
        lab.fit(model, "train", self)
        return model

    def draw_mask(self, table: MaskedTable, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
        if self.options.mask_init == "bernoulli":
            return rng.random(tuple(table.mask.shape)) >= self.sparsity
        return super().draw_mask(table, rng)

    def begin(self, loop: Loop) -> None:
        published = loop.model.published_delta_t
        self.delta_t = self.options.delta_t or min(published, max(20, round(loop.total / 40)))
        self.budget = [table.live() for table in self.masked]
        self.ever_active = [table.mask.clone() for table in self.masked]
        self.scores: list[Tensor] | None = None
        if (self.options.grow_score or self._default_score(loop)) == "accum":
            self.scores = [torch.zeros_like(table.weight) for table in self.masked]
            rows = max(table.spec.n_rows for table in self.masked)
            self.window = min(self.delta_t, -(-rows // loop.batch_size))
        self.explorations = self.grown = self.grown_without_gradient = 0

    def update_ratio(self, t: int, total: int) -> float:
        """rho_t: share of the live weights replaced at iteration t of `total` (paper, Eq. 2)."""
        rho0, end = self.options.rho0, self.options.eta_min
        if self.options.decay == "linear":
            return float(rho0 * (1 - t / total))
        if self.options.decay == "none":
            return float(rho0)
        return float(end + (rho0 - end) / 2 * (1 + math.cos(math.pi * t / total)))

    @staticmethod
    def _default_score(loop: Loop) -> str:
        return "instant" if loop.model.dense_gradients else "accum"

    def dense_gradient(self, loop: Loop) -> bool:
        """In exploring iterations, in those watched before them, and wherever moments are unmasked."""
        watched = 1 if self.scores is None else self.window
        return not self.options.mask_moments or -loop.t % self.delta_t < watched

    @torch.no_grad()
    def watch(self, loop: Loop) -> None:
        """Add |gradient| up over the last iterations before an exploration (`grow_score=accum`).

        In look-up models one batch has gradients in its own rows only, so that most growth by the
        gradient of a single batch would be arbitrary.
        """
        left = -loop.t % self.delta_t
        if self.scores is None or left >= self.window:
            return
        for score, table in zip(self.scores, self.masked, strict=True):
            if left == self.window - 1:
                score.zero_()
            if table.weight.grad is not None:
                score += table.weight.grad.abs()

    def after_backward(self, loop: Loop) -> bool:
        explored = False
        self.watch(loop)
        if not self.options.step_on_explore and loop.t % self.delta_t == 0:
            explored = self.explore(loop)
        if self.options.mask_moments:
            for table in self.masked:
                table.mask_gradient()
        return not explored

    def after_step(self, loop: Loop) -> None:
        if not self.options.mask_moments:
            for table in self.masked:
                table.apply_mask()
        if self.options.step_on_explore and loop.t % self.delta_t == 0:
            self.explore(loop)

    def explore(self, loop: Loop) -> bool:
        """Prune and grow in every table; returns whether any weight was up for replacement."""
        rho = self.update_ratio(loop.t, loop.total)
        replaced = 0
        for number, (table, budget) in enumerate(zip(self.masked, self.budget, strict=True)):
            before, active = table.mask.clone(), self.ever_active[number]
            score = table.weight.grad if self.scores is None else self.scores[number]
            assert score is not None
            for rows in self.groups(table):
                replaced += self.prune_and_grow(table, rows, rho, score[rows])
            table.apply_mask()
            if self.options.mask_moments:
                clear_moments(loop.optimiser, table)
            live = table.live()
            if live != budget:
                raise AssertionError(f"{live} live weights after exploring, budget {budget}")
            active |= table.mask
            loop.note("moved", float((table.mask & ~before).sum()) / budget)
            loop.note("itop_rate", float(active.float().mean()))
        if replaced:
            self.explorations += 1
            loop.note("update_ratio", rho)
        return replaced > 0

    @torch.no_grad()
    def prune_and_grow(self, table: MaskedTable, rows: slice, rho: float, score: Tensor) -> int:
        """Move the mask of one group; returns the number of weights dropped and grown.

        Candidates for growth are all entries off the mask, those dropped just now included.
        """
        mask, weight = table.mask[rows], table.weight.detach()[rows]
        live = int(mask.count_nonzero())
        if live == mask.numel():
            return 0  # nothing is off the mask, so nothing can be exchanged
        if self.options.drop == "threshold":
            kept = keep_above(weight, mask, math.ceil(rho * live))
        else:
            kept = select_largest(weight, mask, live - round(rho * live))
        count = live - int(kept.count_nonzero())
        if count == 0:
            return 0
        grown = select_largest(score, ~kept, count, self.growth)
        table.mask[rows] = kept | grown
        self.grown += count
        self.grown_without_gradient += int((score[grown] == 0).sum())
        return count

    def diagnostics(self) -> dict[str, Any]:
        """Explorations, ITOP rate (share of entries ever live), growth without a gradient."""
        rates = [float(active.float().mean()) for active in self.ever_active]
        sizes = [active.numel() for active in self.ever_active]
        return {
            "delta_t": self.delta_t,
            "explorations": self.explorations,
            "itop_rate": float(np.average(rates, weights=sizes)),
            "grown": self.grown,
            "zero_score_growth_fraction": self.grown_without_gradient / self.grown
            if self.grown
            else None,
        }


def keep_above(weight: Tensor, mask: Tensor, drop: int) -> Tensor:
    """The released code's rule: drop every live entry not above the `drop`-th smallest."""
    live = int(mask.count_nonzero())
    if drop == 0:
        return mask.clone()
    return mask & (weight.abs() > kth_largest(weight, mask, live - drop + 1))


def clear_moments(optimiser: torch.optim.Optimizer, table: MaskedTable) -> None:
    """Put the optimiser's state off the mask back to its start, so that a grown weight starts cold.

    Adam's moments start at 0, Adagrad's sum at the value it was given.
    """
    state = optimiser.state.get(table.weight, {})
    for name in ("exp_avg", "exp_avg_sq"):
        if name in state:
            state[name].mul_(table.mask)
    if "sum" in state:
        state["sum"].masked_fill_(~table.mask, optimiser.defaults["initial_accumulator_value"])
