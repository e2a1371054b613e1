"""What a search for a small model is asked for, what it has tried, and what it answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from dslbench import registry
from dslbench.spec import RunSpec
from dslbench.words import percent


@dataclass(frozen=True)
class Goal:
    """What is wanted: to lose at most `within` of dense's quality, or to take at most `most` bytes.

    Where `most` is not above 1 it is a share of dense's bytes. `confident`: the whole 95 % interval of what
    is lost must be within, and not only what was measured.
    """

    within: float | None = None
    most: float | None = None
    confident: bool = False


@dataclass(frozen=True)
class Tried:
    """A stored model, judged on validation.

    Attributes:
        spec, run: of the training it comes from.
        precision: how its tables are kept.
        nbytes: of the tables of users and items; of a reference, of all that it keeps.
        quality: mean over users of the metric that chooses.
        loss: share of dense's quality that is lost, with the ends of its 95 % interval (paired over users).
        seconds: of its training, with all that it needs before it: of what is made of dense, dense's.
    """

    spec: RunSpec
    run: str
    precision: str
    nbytes: int
    quality: float
    loss: float
    interval: tuple[float, float]
    seconds: float

    @property
    def name(self) -> str:
        """Method, sparsity and options, and precision."""
        return f"{name_of(self.spec)}, {self.precision}"


@dataclass
class Answer:
    """What a search came to.

    Attributes:
        left_out: what was not tried, and why.
        ended: whether the search came to its end, and was not interrupted.
    """

    dense: Tried
    goal: Goal
    tried: list[Tried] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    ended: bool = False

    def fits(self, one: Tried) -> bool:
        """Whether a model is what was asked for."""
        if self.goal.within is not None:
            return self.lost(one) <= self.goal.within
        return one.nbytes <= self.most

    def lost(self, one: Tried) -> float:
        """What of dense's quality a model counts as having lost, as a share."""
        return one.interval[1] if self.goal.confident else one.loss

    def surely_lost(self, one: Tried) -> float:
        """What of dense's quality it lost at the least, so that one that loses more need not be tried."""
        return one.loss if self.goal.confident else one.interval[0]

    @property
    def certain(self) -> bool | None:
        """Whether the users of one run tell that what was chosen loses no more than was asked for.

        None where nothing was chosen, or nothing was asked for but bytes.
        """
        chosen, within = self.chosen, self.goal.within
        return None if chosen is None or within is None else chosen.interval[1] <= within

    @property
    def most(self) -> float:
        """Bytes that are allowed."""
        most = self.goal.most or math.inf
        return most * self.dense.nbytes if most <= 1 else most

    @property
    def chosen(self) -> Tried | None:
        """The smallest that fits, and of equal ones the best; or the best that fits. None where none does."""
        fitting = [one for one in self.tried if self.fits(one)]
        if not fitting:
            return None
        if self.goal.within is not None:
            return min(fitting, key=lambda one: (one.nbytes, -one.quality))
        return max(fitting, key=lambda one: (one.quality, -one.nbytes))


def name_of(spec: RunSpec) -> str:
    """A method's label with its sparsity and options."""
    return named(spec.method, spec.sparsity, [f"{k}={v}" for k, v in spec.changed_options.items()])


def named(method: str, sparsity: float, special: Sequence[str]) -> str:
    """The same of its parts; `special` are options as they are shown."""
    at = f" {percent(sparsity)}" if sparsity else ""
    return registry.row(method).label + (f" ({', '.join(special)})" if special else "") + at
