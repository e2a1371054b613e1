"""Lottery tickets (LTH-MRS, Wang et al., 2022): prune a little, rewind to the start, train again."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

from pydantic import Field

from dslbench.backbones.base import Backbone, Hyper
from dslbench.errors import UsageError
from dslbench.methods._masked import MaskedMethod, MaskedOptions, copy_weights, restore_weights
from dslbench.methods.base import Options
from dslbench.training.hooks import Loop, acts_as
from dslbench.training.lab import Lab


class IterativeOptions(MaskedOptions):
    """Settings of iterative magnitude pruning."""

    rounds: int | None = Field(
        default=None, ge=1, description="pruning rounds R; none: as many as p takes to the sparsity"
    )
    p: float = Field(default=0.1, gt=0, lt=1, description="share of live weights pruned per round")
    schedule: Literal["geometric", "fraction"] = Field(
        default="geometric",
        description="equal factors from round to round, or p each time and a trimmed last round",
    )

    def round_count(self, sparsity: float) -> int:
        """Rounds of pruning; 0 when nothing is to be pruned."""
        if sparsity == 0:
            return 0
        return self.rounds or math.ceil(round(math.log(1 - sparsity) / math.log(1 - self.p), 9))

    def sparsity_after(self, done: int, sparsity: float) -> float:
        """Sparsity after so many rounds; exactly `sparsity` after the last."""
        rounds = self.round_count(sparsity)
        if done >= rounds:
            return sparsity
        if self.schedule == "fraction":
            return min(sparsity, 1 - float((1 - self.p) ** done))
        return 1 - float((1 - sparsity) ** (done / rounds))


class TicketOptions(IterativeOptions):
    """Settings of LTH-MRS."""

    rewind_epoch: int = Field(
        default=0,
        ge=0,
        description="epoch of the dense round to rewind to (0: the initial weights)",
    )


class IterativePruning(MaskedMethod):
    """Rounds of training and pruning; what a round starts from is the subclass's choice.

    Round 0 trains the dense model; round r trains the weights that survived r prunings, in a new
    optimiser and a new schedule. Each round prunes its selected epoch's weights.
    """

    @classmethod
    def phases(cls, options: Any, sparsity: float) -> list[str]:
        return [f"round {r}" for r in range(options.round_count(sparsity) + 1)]

    @classmethod
    def lineage(cls, options: Any, sparsity: float) -> list[str | None]:
        names = ["dense"]
        for r in range(1, options.round_count(sparsity) + 1):
            how, reached = cls.begins_with(options, r), options.sparsity_after(r, sparsity)
            names.append(cls.after_pruning(options, names[-1], how, reached))
        return [*names]

    @classmethod
    def begins_with(cls, options: Any, number: int) -> str:
        """Which weights round `number` starts from, in a word."""
        raise NotImplementedError

    def run(self, lab: Lab) -> Backbone:
        self.start(lab)
        self.initial = copy_weights(self.model)
        self.kept: list[int] = []
        for number, phase in enumerate(self.phases(self.options, self.sparsity)):
            if number:
                self.prune_by_magnitude(self.options.sparsity_after(number, self.sparsity))
                self.start_again(lab, number)
            self.kept.append(sum(table.live() for table in self.masked))
            lab.fit(self.model, phase, self)
        return self.model

    def start_again(self, lab: Lab, number: int) -> None:
        """Set the weights that round `number` starts from; the masks are in force."""
        raise NotImplementedError

    def diagnostics(self) -> dict[str, Any]:
        """Live weights of each round."""
        return {"kept_per_round": self.kept}


class LotteryTickets(IterativePruning):
    """Survivors are rewound bit for bit to the weights they had at the start (or at an epoch)."""

    name = "lth_mrs"
    label = "LTH-MRS"
    family = "MP"
    options_type: ClassVar[type[Options]] = TicketOptions

    @classmethod
    def check(cls, options: Any, hyper: Hyper, epochs: int, sparsity: float) -> None:
        if sparsity and options.rewind_epoch >= epochs:
            raise UsageError(
                f"{cls.name}.rewind_epoch={options.rewind_epoch} has no effect: a round has "
                f"{epochs} epochs",
                f"an epoch below {epochs}, or --epochs {options.rewind_epoch + 1} or more",
            )

    @classmethod
    def lineage(cls, options: Any, sparsity: float) -> list[str | None]:
        if options.rewind_epoch:  # the first round notes its weights on the way
            return [None] * len(cls.phases(options, sparsity))
        return super().lineage(options, sparsity)

    @classmethod
    def begins_with(cls, options: Any, number: int) -> str:
        return "rewind"

    def start_again(self, lab: Lab, number: int) -> None:
        restore_weights(self.model, self.initial)

    def plain(self) -> bool:
        return not self.options.rewind_epoch and acts_as(self, LotteryTickets)

    def after_step(self, loop: Loop) -> None:
        at = self.options.rewind_epoch * loop.total // loop.epochs
        if at and len(self.kept) == 1 and loop.t == at:
            self.initial = copy_weights(self.model)
