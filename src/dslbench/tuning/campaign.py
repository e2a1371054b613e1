"""Tuning methods alike: the dense run first, then each method at its choice; and what was found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dslbench import registry
from dslbench.errors import RunError, UnsuitableError
from dslbench.presets import PresetFile, Tuned
from dslbench.ranges import Range
from dslbench.spec import RunSpec, resolve
from dslbench.tuning.space import Keys, Space, at_edge, space_of
from dslbench.tuning.study import How, Outcome, Search, Study, Trial, study
from dslbench.words import number

Make = Callable[[Sequence[RunSpec]], list[Outcome]]


@dataclass(frozen=True)
class Setting:
    """What is tuned: one backbone on one data set, at one sparsity, for some epochs.

    Attributes:
        settings: the user's, as `--set` takes them: they hold in every trial.
        keys: "own": of methods their own settings; "all": those of the backbone, too.
    """

    dataset: str
    backbone: str
    sparsity: float
    epochs: int | None
    scale: str | None
    protocol: str
    settings: tuple[str, ...]
    search: Search
    keys: Keys = "own"

    def run(self, method: str, values: Mapping[str, Any], *, epochs: int | None = None) -> RunSpec:
        """A trial, with values beside the user's settings."""
        chosen = [f"{key}={json.dumps(value)}" for key, value in values.items()]
        spec = resolve(
            dataset=self.dataset, backbone=self.backbone, method=method, sparsity=self.sparsity,
            seed=self.search.seed, epochs=epochs or self.epochs, scale=self.scale, protocol=self.protocol,
            settings=[*self.settings, *chosen],
        )  # fmt: skip
        return spec.model_copy(update={"judged_on": "valid"})


@dataclass(frozen=True)
class Found:
    """What came of one method's trials.

    Attributes:
        searched: what was searched, in words.
        space: where.
    """

    method: str
    searched: str
    space: Space
    trials: list[Trial]
    dense: tuple[str, ...] = ()  # ids of the dense run's trials, whose bill is theirs

    @property
    def chosen(self) -> Trial:
        """The best on validation, of equal ones the first."""
        return max(self.ended, key=lambda one: one.outcome.quality or 0.0)

    @property
    def ended(self) -> list[Trial]:
        """Trials that have a quality."""
        return [one for one in self.trials if one.outcome.quality is not None]

    @property
    def failed(self) -> list[Trial]:
        """Trials that came to no end by themselves."""
        return [one for one in self.trials if one.outcome.quality is None and not one.given_up]

    @property
    def published(self) -> float | None:
        """Quality of the published setting."""
        return self.trials[0].outcome.quality

    @property
    def gain(self) -> float | None:
        """How much better the choice is than the published setting, as a share of that."""
        best = self.chosen.outcome.quality
        return best / self.published - 1 if best is not None and self.published else None

    @property
    def at_edges(self) -> list[str]:
        """Keys whose chosen value is at an end of its range."""
        values = self.chosen.values
        return [
            key for key, one in self.space.items() if key in values and at_edge(one, values[key])
        ]

    @property
    def cost(self) -> tuple[int | None, float | None]:
        """MACs and seconds of all trials; of runs that they learned from, once each, but dense's trials."""
        outcomes = [one for trial in self.trials for one in (*trial.before, trial.outcome)]
        if any(one.macs is None or one.seconds is None for one in outcomes):
            return None, None
        shared = {phase: bill for one in outcomes for phase, bill in (one.shared or {}).items()}
        bills = [bill for (run, _), bill in shared.items() if run not in self.dense]
        macs = sum(one.macs or 0 for one in outcomes) + sum(bill[0] for bill in bills)
        return macs, sum(one.seconds or 0 for one in outcomes) + sum(bill[1] for bill in bills)


@dataclass
class Result:
    """All methods, dense first."""

    setting: Setting
    found: list[Found] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def tune(
    setting: Setting, methods: Sequence[str], make: Make, say: Callable[[str], None]
) -> Result:
    """Tune the dense run, then the methods at what was chosen for it, side by side.

    Args:
        methods: those that make no sense here are left out, and said.
        make: makes runs, or finds them; what each came to, in order.
        say: takes a line of progress.

    Raises `RunError` where no trial of the dense run came to an end.
    """
    result = Result(setting)
    others = []
    for method in dict.fromkeys(methods):
        try:
            setting.run(method, {})
        except UnsuitableError as error:
            result.left_out.append(f"{method}: {error.message}")
        else:
            others += [method] if method != "dense" else []
    dense = _dense(setting, say)
    trials = _drive({"dense": dense[2]}, make, say)["dense"]
    result.found.append(Found("dense", dense[0], dense[1], trials))
    if not result.found[0].ended:
        raise RunError("no trial of the dense run came to an end", trials[0].outcome.reason or None)
    best = result.found[0].chosen
    _say_chosen(result.found[0], say)
    runs = tuple(one.run for trial in trials for one in (*trial.before, trial.outcome))
    iterations = next(t.outcome.iterations for t in trials if t.outcome.iterations)
    begun = {method: _of_method(setting, method, best, iterations, say) for method in others}
    done = _drive({method: one[2] for method, one in begun.items()}, make, say)
    for method, (words, space, _) in begun.items():
        found = Found(method, words, space, done[method], runs)
        if found.ended:
            result.found.append(found)
            _say_chosen(found, say)
        else:
            reason = found.trials[0].outcome.reason
            result.left_out.append(f"{method}: no trial came to an end ({reason})")
    return result


def _dense(setting: Setting, say: Callable[[str], None]) -> tuple[str, Space, Study]:
    published = setting.run("dense", {})
    space, words = space_of(published, setting.keys, setting.settings, 0)
    _say_space("dense", words, space, say)
    propose = lambda values: setting.run("dense", values)  # noqa: E731
    return words, space, study([("published", published)], space, propose, setting.search)


def _of_method(
    setting: Setting, method: str, dense: Trial, iterations: int, say: Callable[[str], None]
) -> tuple[str, Space, Study]:
    """A method's study: first as published, then with dense's choice and its own published options."""
    published = setting.run(method, {})
    space, words = space_of(published, setting.keys, setting.settings, iterations)
    _say_space(method, words, space, say)

    def propose(values: Mapping[str, Any]) -> RunSpec:
        return setting.run(method, {**dense.values, **values})

    given: list[tuple[How, RunSpec]] = [("published", published)]
    if (carried := propose({})).decisive() != published.decisive():
        given.append(("carried", carried))
    search = setting.search
    if search.pruner != "none" and len(registry.method(method).phases(
        published.method_options, published.sparsity)) > 1:  # fmt: skip
        say(f"  {method}: no trial is given up early: it has several trainings")
        search = replace(search, pruner="none")
    return words, space, study(given, space, propose, search)


def _drive(
    studies: Mapping[str, Study], make: Make, say: Callable[[str], None]
) -> dict[str, list[Trial]]:
    """Go on with all studies side by side: the next runs of each are made together."""
    wanted: dict[str, list[RunSpec]] = {}
    done: dict[str, list[Trial]] = {}
    outcomes: dict[str, list[Outcome]] = {}
    while len(done) < len(studies):
        for method, one in studies.items():
            if method in done:
                continue
            try:
                wanted[method] = one.send(outcomes[method]) if method in outcomes else next(one)
            except StopIteration as end:
                done[method] = end.value
                wanted.pop(method, None)
        if not wanted:
            break
        flat = iter(make([spec for specs in wanted.values() for spec in specs]))
        outcomes = {method: [next(flat) for _ in specs] for method, specs in wanted.items()}
    return done


def preset(result: Result, data: Mapping[str, Any]) -> PresetFile:
    """What was found, as a file that `--set preset=FILE` takes.

    Args:
        data: digests of the parts.
    """
    setting, search = result.setting, result.setting.search
    base = result.found[0].trials[0].spec
    best = _whole(setting, result.found[0].chosen, "dense")
    methods = {}
    for one in result.found:
        spec, values = one.chosen.spec, _whole(setting, one.chosen, one.method)
        kind = registry.method(one.method)
        usual = kind.options_type.model_validate(kind.variants[spec.variant]).model_dump(
            mode="json"
        )
        macs, seconds = one.cost
        quality = one.chosen.outcome.quality
        assert quality is not None
        methods[one.method] = Tuned(
            variant=spec.variant,
            options={key: value for key, value in spec.options.items() if value != usual[key]},
            hyper={key: value for key, value in values.items() if value != best.get(key)},
            sparsity=spec.sparsity, validation=quality, published=one.published,
            trials=len(one.trials), failed=len(one.failed), macs=macs, seconds=seconds,
            runs=[trial.outcome.run for trial in one.trials],
        )  # fmt: skip
    runs = " ".join(run for one in methods.values() for run in one.runs)
    digest = hashlib.sha256(runs.encode()).hexdigest()[:12]
    return PresetFile(
        source=f"tuned: {number(search.trials, 'trial')} of each method at {number(base.epochs, 'epoch')}, "
        f"{search.sampler}, seed {search.seed}, pruner {search.pruner}, on validation; digest {digest}",
        backbone=setting.backbone, dataset=setting.dataset, protocol=setting.protocol,
        base=base.preset, data={k: v for k, v in data.items() if v is not None and k != "test"},
        epochs=base.epochs, seed=search.seed, hyper=best, method=methods,
    )  # fmt: skip


def _whole(setting: Setting, trial: Trial, method: str) -> dict[str, Any]:
    """A trial's hyper-parameters as a recipe has them: for all of its epochs."""
    values = {key: trial.spec.hyper_in_full[key] for key in trial.spec.changed_hyper}
    full = setting.run(method, values, epochs=trial.spec.full_epochs)
    values = full.hyper | {"epochs": full.epochs}
    return {key: value for key, value in values.items() if value is not None}


def _say_space(
    method: str, words: str, space: Mapping[str, Range], say: Callable[[str], None]
) -> None:
    ranges = "; ".join(f"{key} {one}" for key, one in space.items())
    say(f"{method}: searches {words}" + (f": {ranges}" if ranges else ""))


def _say_chosen(found: Found, say: Callable[[str], None]) -> None:
    best = found.chosen
    values = ", ".join(f"{key}={value}" for key, value in best.values.items())
    gain = "" if found.gain is None else f", {found.gain:+.1%} over the published setting"
    say(
        f"{found.method}: chosen: {values or best.how} (validation {best.outcome.quality:.4f}{gain})"
    )
    for key in found.at_edges:
        say(f"  {key}={best.values[key]} is at the edge of its range ({found.space[key]})")
