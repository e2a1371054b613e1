"""What `dslbench tune` and `compare --tune` do: make trials, and write what was chosen."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import typer

from dslbench import home, paths, presets, registry
from dslbench.cli.datasets import say_what_was_read
from dslbench.cli.runner import Where, dataset_or_default
from dslbench.data.interactions import Interactions
from dslbench.errors import UnsuitableError, UsageError
from dslbench.evaluation.metrics import SELECTION
from dslbench.output import console, deliver, say, warn, write
from dslbench.presets import PresetFile
from dslbench.report import command, tuned
from dslbench.report.columns import seconds as duration
from dslbench.report.formats import render
from dslbench.runs import claims, failures, making, plan, stock, store
from dslbench.runs.assemble import check_has_validation
from dslbench.runs.progress import Part
from dslbench.spec import RunSpec, check_length, check_used
from dslbench.tuning import campaign
from dslbench.tuning.campaign import Result, Setting
from dslbench.tuning.space import space_of
from dslbench.tuning.study import Outcome, Search, check_installed
from dslbench.words import number


def file_name(backbone: str, dataset: str) -> str:
    """What a preset file is called where nobody named it."""
    return (
        f"{backbone}-{re.sub(r'[^A-Za-z0-9]+', '-', Path(dataset).stem).strip('-') or 'data'}.toml"
    )


def tune(
    setting: Setting,
    methods: Sequence[str] | None,
    where: Where,
    *,
    epochs: int | None,
    scale: str | None,
) -> Result:
    """Tune; what is stored of the trials is not made again.

    Args:
        methods: None: all that a comparison has.
    """
    check_length(epochs, scale)
    where.check()
    named = list(methods or registry.usual_methods())
    for method in named:
        if registry.is_reference(method):
            raise UsageError(
                f"{method} is a reference, which chooses its settings on validation by itself",
                f"dslbench train --method {method} --dataset '{setting.dataset}'",
            )
        registry.check_name("method", method)
    for method in dict.fromkeys(["dense", *named]):
        try:
            setting.run(method, {})
        except UnsuitableError:
            if methods:  # asked for by name: an error before anything is made
                raise
    check_used(setting.settings, ["dense", *named])
    store.put_back_replaced()
    claims.tidy_stored_runs()
    store.check_writable()
    trials = _Trials(where)
    trials.announce(setting, ["dense", *(name for name in named if name != "dense")])
    try:
        result = campaign.tune(setting, named, trials.make, say)
    except KeyboardInterrupt:
        say(
            "interrupted; the trials that were made are stored, and the same command goes on from there"
        )
        raise typer.Exit(130) from None
    for line in result.left_out:
        say(f"left out: {line}")
    say(trials.told())
    return result


def deliver_result(result: Result, target: Path, *, as_json: bool) -> None:
    """Write the preset file, and print what was found."""
    content = preset_of(result).text().encode()
    _keep_other(target.resolve() if target.is_symlink() else target, content)
    write(target, content)
    if as_json:
        deliver(json.dumps(tuned.plain(result), indent=1) + "\n")
        return
    width, color = command.looks(to_file=False)
    deliver(render.tables("terminal", tuned.tables(result), width=width, color=color))
    say(f"to use it: dslbench compare --backbone {result.setting.backbone} --dataset "
        f"'{result.setting.dataset}' --set {shlex.quote(f'preset={target}')}")  # fmt: skip


def _keep_other(path: Path, content: bytes) -> None:
    """Give a file that has other content another name: what was tuned before may have taken days."""
    if paths.kind(path) != "file" or paths.read_bytes(path) == content:
        return
    others = (path.with_name(f"{path.stem}-{n}{path.suffix}") for n in count(1))
    try:
        kept = path.rename(next(other for other in others if not other.exists()))
    except OSError as error:
        raise UsageError(
            f"cannot keep what is in {path}: {error.strerror}", "name another --output"
        ) from None
    say(f"what was there is kept: {kept}")


def preset_of(result: Result) -> PresetFile:
    """What was found, as a preset."""
    data = store.read(result.found[0].ended[0].outcome.run)["data"]
    digests = {part: data[f"{part}_digest"] for part in ("train", "valid")}
    return campaign.preset(result, digests | {"content": data.get("content_digest")})


def before_comparing(chosen: plan.Chosen, trials: int, where: Where) -> plan.Chosen:
    """Tune what a comparison names; the comparison with what was chosen."""
    check_installed()
    if chosen.backbone is None or len(chosen.sparsity or ()) > 1:
        raise UsageError("--tune is of one --backbone at one --sparsity", "dslbench tune")
    asked = chosen.method and [m for m in chosen.method if not registry.is_reference(m)]
    if chosen.method and not asked:
        raise UsageError("references choose their settings by themselves", "leave --tune out")
    dataset = dataset_or_default(chosen.dataset)
    sparsity = chosen.sparsity[0] if chosen.sparsity else 0.5
    setting = Setting(
        dataset=dataset, backbone=chosen.backbone, sparsity=sparsity, epochs=chosen.epochs,
        scale=chosen.scale, protocol=chosen.protocol or "default",
        settings=tuple(chosen.settings), search=Search(trials, 1000),
    )  # fmt: skip
    result = tune(setting, asked, where, epochs=chosen.epochs, scale=chosen.scale)
    content = preset_of(result).text().encode()
    with home.storing("what was chosen", home.home() / "presets", len(content)):
        target = presets.keep(file_name(chosen.backbone, dataset), content)
    say(f"what was chosen is kept as preset {target}")
    settings = [one for one in chosen.settings if one.partition("=")[0].strip() != "preset"]
    methods = [one.method for one in result.found]
    return replace(
        chosen, dataset=dataset, settings=(f"preset={target}", *settings),
        method=chosen.method or methods,
    )  # fmt: skip


class _Trials:
    """Makes trials, as `compare` makes runs."""

    def __init__(self, where: Where) -> None:
        self._where = where
        self._digests: stock.Digests = {}
        self._total: int | None = None
        self._settled = self._known = 0

    def announce(self, setting: Setting, methods: Sequence[str]) -> None:
        """Say how much it will be."""
        trials = setting.search.trials
        specs = []
        for method in methods:
            try:
                specs.append(setting.run(method, {}))
            except UsageError:
                continue
        if setting.search.pruner == "none":  # else some have shorter runs before theirs
            self._total = sum(self._most(setting, spec) for spec in specs)
        planned = self._planned(specs)
        said = f"{number(len(specs), 'method')}, {number(trials, 'trial')} each"
        if any(not run.done for run in planned):
            say("timing a few steps of each kind of run ...")
            workers = self._where.workers or 1
            found = making.estimate_seconds(planned, self._where.device, workers)
            if found is not None:
                said += f"; at most about {duration(found * trials)}"
        say(f"{said}; chosen on validation, no trial is given the test part")

    def make(self, specs: Sequence[RunSpec]) -> list[Outcome]:
        """What each comes to; what is stored, or is known to diverge, is not made again."""
        planned = self._planned(specs)
        missing = [run for run in planned if not run.done and not _diverged(run.id)]
        before = self._settled + len(planned) - len(missing)
        total = None if self._total is None else max(self._total, before + len(missing))
        making.make_missing(missing, self._where.open, console(), warn, Part(before, total))
        self._settled += len(planned)
        self._known += len(planned) - len(missing)
        ids = {json.dumps(run.spec.decisive()): run.id for run in planned}
        return [_outcome(ids[json.dumps(spec.decisive())]) for spec in specs]

    def told(self) -> str:
        """How many runs there were, and how many of them before."""
        made = self._settled - self._known
        return f"{number(self._settled, 'run')}: {self._known} known before, {made} made"

    @staticmethod
    def _most(setting: Setting, published: RunSpec) -> int:
        """Trials of a method at most: with nothing to search as published, and at dense's choice."""
        space, _ = space_of(published, setting.keys, setting.settings, 0)
        few = 1 if published.method == "dense" else 2
        return setting.search.trials if space else min(few, setting.search.trials)

    def _planned(self, specs: Sequence[RunSpec]) -> list[stock.WantedRun]:
        return stock.take_stock(specs, False, warn, _check_and_say, self._digests)


def _check_and_say(data: Interactions) -> None:
    """Say what own data were taken for; raise `UsageError` for data that have nothing to choose on."""
    say_what_was_read(data)
    check_has_validation(data)


def _diverged(run_id: str) -> bool:
    failure = failures.read_or_none(run_id)
    return failure is not None and failure.bill is not None


def _outcome(run_id: str) -> Outcome:
    if not store.has(run_id, warn):
        failure = failures.read_or_none(run_id)
        bill = (failure.bill if failure else None) or {}
        macs = bill.get("macs")
        return Outcome(
            run_id, None, failure.reason if failure else "it was not made",
            None if macs is None else int(macs), bill.get("seconds"),
        )  # fmt: skip
    record: dict[str, Any] = store.read(run_id)
    cost = record["cost"]
    own, shared = list[tuple[int, float, int]](), dict[tuple[str, str], tuple[int, float]]()
    for counted, measured in zip(
        cost["counted"]["exact"]["phases"], cost["measured"]["phases"], strict=True
    ):
        took = measured["train_seconds"] + measured["eval_seconds"]
        if measured["shared_run"] is None:
            own.append((counted["train_macs"], took, measured["steps"]))
        else:
            shared[measured["shared_run"], measured["phase"]] = counted["train_macs"], took
    return Outcome(
        run_id, record["quality"][SELECTION], "", sum(one[0] for one in own),
        sum(one[1] for one in own), shared, max((one[2] for one in own), default=0),
    )  # fmt: skip
