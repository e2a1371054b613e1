"""The trials of one method: settings proposed by Optuna's samplers, made as stored runs.

Nothing of a study is kept but its runs. Proposals follow from the seed and from what earlier trials came to,
so that a study that was broken off is gone through again: what is stored is read, and the rest is made.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from dslbench.errors import UsageError
from dslbench.ranges import Range
from dslbench.spec import RunSpec
from dslbench.tuning.space import Space, rounded, values_of

if TYPE_CHECKING:
    import optuna

How = Literal["published", "carried", "searched"]
Sampler = Literal["tpe", "random"]
Pruner = Literal["none", "median", "halving"]
# Shares of the epochs after which a trial may be given up, by pruner.
RUNGS: dict[Pruner, tuple[float, ...]] = {"none": (), "median": (0.25,), "halving": (0.25, 0.5)}
_FIRST_SHARE = 0.25  # of the trials: so many are drawn at random before the sampler learns
_PATIENCE = 50  # proposals in a row that are no new run, until the space counts as searched through


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
        run: its id.
        quality: the metric that chooses, on validation; None: it came to no end.
        reason: why it did not.
        macs, seconds: of its own training, counted and measured; None where that is not known.
        shared: the same of each phase that it took from another run, by that run's id and the phase.
        iterations: of its training.
    """

    run: str
    quality: float | None
    reason: str = ""
    macs: int | None = None
    seconds: float | None = None
    shared: Mapping[tuple[str, str], tuple[int, float]] | None = None
    iterations: int = 0


@dataclass(frozen=True)
class Trial:
    """A setting that was tried.

    Attributes:
        how: published; carried: the published options with the dense run's choice; or searched.
        values: of the searched keys, as `--set` takes them.
        spec, outcome: of its run at full length, or of the last one where it was given up before.
        before: outcomes of its shorter runs.
        given_up: whether a shorter run decided that there is none at full length.
    """

    how: How
    values: dict[str, Any]
    spec: RunSpec
    outcome: Outcome
    before: tuple[Outcome, ...] = ()
    given_up: bool = False


@dataclass(frozen=True)
class Search:
    """How settings are proposed."""

    trials: int
    seed: int
    sampler: Sampler = "tpe"
    pruner: Pruner = "none"

    @property
    def first(self) -> int:
        """How many trials there are before the sampler learns from any."""
        return max(1, round(_FIRST_SHARE * self.trials))


Study = Generator[list[RunSpec], list[Outcome], list[Trial]]
Propose = Callable[[Mapping[str, Any]], RunSpec]


def check_installed() -> None:
    """Raise `UsageError` where Optuna is not installed."""
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise UsageError(
            "tuning needs Optuna, which is not installed", "pip install 'dslbench[tune]'"
        ) from None


def study(
    given: Sequence[tuple[How, RunSpec]], space: Space, propose: Propose, search: Search
) -> Study:
    """Yields runs that are to be made, takes their outcomes, and returns the trials.

    Args:
        given: the first trials.
        propose: the run with values of the space's keys; raises `UsageError` where that is none.
    """
    proposals = _Proposals(space, propose, search)
    found: list[Trial] = []
    for how, spec in given[: search.trials]:
        found += yield from _made([proposals.given(how, spec)], search)
    while space and len(found) < search.trials:
        # What is drawn at random needs no outcome: such runs may be made side by side.
        at_random = search.first - len(found) if search.pruner == "none" else 1
        asked = proposals.take(max(1, at_random), found)
        if not asked:
            break
        found += yield from _made(asked, search)
    return found


@dataclass(frozen=True)
class _Asked:
    """A trial before it is made; `trial` is Optuna's, None for one that it is not told of."""

    how: How
    values: dict[str, Any]
    spec: RunSpec
    study: optuna.Study
    trial: optuna.Trial | None

    def end(self, outcome: Outcome, before: Sequence[Outcome] = (), *, pruned: str = "") -> Trial:
        """Tell what it came to."""
        import optuna

        if self.trial is not None:
            states = optuna.trial.TrialState
            if pruned:
                self.study.tell(self.trial, state=states.PRUNED)
            elif outcome.quality is None:
                self.study.tell(self.trial, state=states.FAIL)
            else:
                self.study.tell(self.trial, outcome.quality)
        if pruned:
            outcome = replace(outcome, quality=None, reason=pruned)
        return Trial(self.how, self.values, self.spec, outcome, tuple(before), bool(pruned))


def _made(asked: Sequence[_Asked], search: Search) -> Study:
    """Trials from their runs; each goes by its shorter ones first where it may be given up."""
    rungs = RUNGS[search.pruner]
    if not rungs or len(asked) != 1 or asked[0].trial is None:
        outcomes = yield [one.spec for one in asked]
        return [one.end(outcome) for one, outcome in zip(asked, outcomes, strict=True)]
    (one,), before = asked, list[Outcome]()
    assert one.trial is not None
    for step, share in enumerate(rungs, start=1):
        short = one.spec.at_epochs(max(1, round(share * one.spec.epochs)))
        [outcome] = yield [short]
        if outcome.quality is None:
            return [one.end(outcome, before)]
        one.trial.report(outcome.quality, step)
        if one.trial.should_prune():
            return [one.end(outcome, before, pruned=f"given up after {short.epochs} epochs")]
        before.append(outcome)
    [outcome] = yield [one.spec]
    return [one.end(outcome, before)]


class _Proposals:
    """A study of Optuna's, in memory."""

    def __init__(self, space: Space, propose: Propose, search: Search) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        samplers, pruners = optuna.samplers, optuna.pruners
        sampler: optuna.samplers.BaseSampler = samplers.RandomSampler(seed=search.seed)
        if search.sampler == "tpe":
            sampler = samplers.TPESampler(seed=search.seed, n_startup_trials=search.first)
        pruner: optuna.pruners.BasePruner = pruners.NopPruner()
        if search.pruner == "median":
            pruner = pruners.MedianPruner(n_startup_trials=search.first)
        if search.pruner == "halving":
            pruner = pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
        self._study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)
        self._space, self._propose, self._search = space, propose, search
        self._distributions = {key: _distribution(one) for key, one in space.items()}

    def given(self, how: How, spec: RunSpec) -> _Asked:
        """A first trial. One that differs in what is not searched says nothing about what is."""
        values = values_of(spec, self._space)
        trial = None
        if spec.decisive() == self._propose(values).decisive():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._study.enqueue_trial(values)
            trial = self._study.ask({key: self._distributions[key] for key in values})
        return _Asked(how, values, spec, self._study, trial)

    def take(self, number: int, known: Sequence[Trial]) -> list[_Asked]:
        """New settings, at most so many; fewer where the space has no more."""
        import optuna

        tried = {_key(one.spec): one.outcome.quality for one in known}
        found: list[_Asked] = []
        for _ in range(_PATIENCE):
            if len(found) == number:
                break
            trial = self._study.ask(self._distributions)
            values = {key: rounded(self._space[key], value) for key, value in trial.params.items()}
            try:
                spec = self._propose(values)
            except UsageError:  # values that do not go together
                self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
                continue
            if (key := _key(spec)) not in tried:
                tried[key] = None
                found.append(_Asked("searched", values, spec, self._study, trial))
            elif (quality := tried[key]) is None:
                self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                self._study.tell(trial, quality)
        return found


def _key(spec: RunSpec) -> str:
    return json.dumps(spec.decisive(), sort_keys=True)


def _distribution(one: Range) -> optuna.distributions.BaseDistribution:
    from optuna import distributions

    if one.choices:
        return distributions.CategoricalDistribution(one.choices)
    assert one.low is not None and one.high is not None
    if one.whole:
        return distributions.IntDistribution(int(one.low), int(one.high), log=one.log)
    return distributions.FloatDistribution(one.low, one.high, log=one.log)
