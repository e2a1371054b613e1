"""What `dslbench shrink` does: searches, writes the model and its evidence, and says what was chosen."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import typer

from dslbench.cli.exporting import exported
from dslbench.cli.runner import Where, dataset_or_default, judge_missing, make
from dslbench.data.interactions import Interactions
from dslbench.errors import RunError, UsageError
from dslbench.output import deliver, say, warn, write
from dslbench.report import command, shrunk
from dslbench.report.columns import seconds as duration
from dslbench.report.formats import render
from dslbench.runs import durations, equal_bytes, local, stock, store
from dslbench.runs.assemble import check_has_validation
from dslbench.runs.progress import Part
from dslbench.runs.shrinking import check_users, search
from dslbench.runs.smallest import Answer, Goal
from dslbench.spec import RunSpec, resolve
from dslbench.words import number

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
# The share of the time that the dense training may take, where nobody said how long it is.
_DENSE_SHARE = 0.25


@dataclass(frozen=True)
class Wish:
    """What is to be shrunk, and how far."""

    dataset: str | None
    backbone: str
    epochs: int | None
    settings: tuple[str, ...]
    protocol: str
    seed: int
    goal: Goal
    seconds: float


def goal_of(within: str | None, to: str | None, *, confident: bool = False) -> Goal:
    """The goal that `--within` or `--to` names; raises `UsageError` for what is none."""
    if within is not None and to is not None:
        raise UsageError("--within and --to exclude each other")
    if to is not None and confident:
        raise UsageError("--confident is of what may be lost, not of --to", "--within 1%")
    if to is not None:
        most, is_share = equal_bytes.parse(to, "--to")
        if most <= 1 and not is_share:
            raise UsageError(f"no model takes {to}", "--to 2MiB")
        return Goal(most=most)
    within = "1%" if within is None else within
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(%?)\s*", within)
    share = float(match[1]) / (100 if match[2] else 1) if match else 1.0
    if share >= 1:
        raise UsageError(f"--within {within} is no share of dense's quality", "--within 1%")
    return Goal(within=share, confident=confident)


def seconds_of(text: str) -> float:
    """A duration; raises `UsageError` for what is none."""
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([smhd])\s*", text)
    if match is None or float(match[1]) <= 0:
        raise UsageError(f"--time {text} is no duration", "--time 30m, or 2h")
    return float(match[1]) * _UNITS[match[2]]


def shrink(
    wish: Wish, *, where: Where, export: Path, with_seen: bool, evidence: Path, as_json: bool
) -> None:
    """Search, and write what was found; on an interruption, what was found by then."""
    format_name = command.chosen_format(None, evidence, figure=False)
    answers: list[Answer] = []
    code = 0
    try:
        searched(wish, where, answers.append)
    except (KeyboardInterrupt, typer.Exit):
        if not answers:
            say("interrupted before there was an answer; the same command goes on")
            raise
        say(
            "interrupted: what was found by now is judged on test and written; the same command goes on"
        )
        code = 130
    (found,) = answers
    tested = {
        (one.run, one.precision): tested_once(found, one.run, one.precision, where)
        for one in filter(None, (found.dense, found.chosen))
    }
    tables = shrunk.tables(found, tested)
    page = render.tables(format_name, tables, width=render.PIPE_WIDTH, color=False)
    write(evidence, page.encode())
    if found.chosen is not None:
        write(
            export,
            exported(store.read(found.chosen.run), found.chosen.precision, with_seen=with_seen),
        )
    if as_json:
        deliver(json.dumps(shrunk.plain(found, tested), indent=1) + "\n")
    else:
        width, color = command.looks(to_file=False)
        deliver(render.tables("terminal", tables[:1], width=width, color=color))
    if code:
        raise typer.Exit(code)
    if found.chosen is None:
        raise RunError("nothing that was tried fits", "more --time, or a goal that asks for less")


def searched(wish: Wish, where: Where, answer: Callable[[Answer], None]) -> Answer:
    """What was found; `answer` has it as soon as there is one, and keeps what comes."""
    where.check()
    dense = dense_of(wish, where)
    say(
        f"dense: {dense.title}, {dense.epochs} of {dense.full_epochs} epochs; then what is "
        f"made of it, then other trainings, {duration(wish.seconds)} of searching"
    )
    digests: stock.Digests = {}
    return search(
        dense, wish.goal, lambda spec: made(spec, where, digests),
        lambda record, precisions: validated(record, precisions, where),
        seconds=wish.seconds, say=say, answer=answer,
    )  # fmt: skip


def dense_of(wish: Wish, where: Where) -> RunSpec:
    """The dense run, for as many epochs as were asked for, or as the time has room for."""

    def spec(epochs: int | None) -> RunSpec:
        return resolve(
            dataset=dataset, backbone=wish.backbone, method="dense", sparsity=0.0, seed=wish.seed,
            epochs=epochs, protocol=wish.protocol, settings=wish.settings,
        )  # fmt: skip

    for setting in wish.settings:
        key = setting.partition("=")[0].strip()
        if "." in key or key == "variant":
            raise UsageError(
                f"--set {setting} has no effect: a method's own settings are those of the preset here",
                "--set preset=FILE, with a file that dslbench tune wrote",
            )
    dataset = dataset_or_default(wish.dataset)
    whole = spec(wish.epochs)
    digests: stock.Digests = {}
    stored = stock.take_stock([whole], False, warn, _check, digests)[-1].done
    if wish.epochs is not None and stored:
        return whole
    say("timing a few steps ...")
    pace = durations.pace(whole, where.device)
    if pace is None:  # the run will fail as well, and say why
        return whole

    def takes(epochs: int) -> float:
        return pace.seconds(whole.model_copy(update={"epochs": epochs}), trainings=1)

    def possible(seconds: float) -> int:
        fitting = (n for n in range(whole.epochs, 0, -1) if takes(n) <= seconds)
        return next(fitting, 0)

    needed = whole.epochs if wish.epochs is not None else 1
    if takes(needed) > wish.seconds:
        epochs = possible(wish.seconds)
        raise UsageError(
            f"--time is too short: the dense run alone takes about "
            f"{duration(takes(needed))} for {number(needed, 'epoch')}",
            (f"--epochs {epochs}, or " if epochs else "")
            + f"--time {math.ceil(4 * takes(needed))}s",
        )
    if wish.epochs is not None or takes(whole.epochs) <= _DENSE_SHARE * wish.seconds:
        return whole
    return spec(max(1, possible(_DENSE_SHARE * wish.seconds)))


def _check(data: Interactions) -> None:
    check_has_validation(data)
    check_users(int(np.count_nonzero(np.diff(data.valid.indptr))))


def made(spec: RunSpec, where: Where, digests: stock.Digests) -> dict[str, Any]:
    """The record of a run, which is made if it is missing; `digests` as those of `take_stock`."""
    (record,) = make(
        [spec], where=where, force=False, dry_run=False, show=False, expect=False,
        part=Part(tells_test=False), digests=digests,
    )  # fmt: skip
    return record


def validated(
    record: dict[str, Any], precisions: Any, where: Where, *, latency: bool = False
) -> list[dict[str, Any]]:
    """A run's model on validation at precisions."""
    job = {
        "task": "validate", "id": record["id"], "precisions": list(precisions), "latency": latency,
        "spec": record["spec"], "device": where.device,
    }  # fmt: skip
    models: list[dict[str, Any]] = local.Process().run(job)["models"]
    return models


def tested_once(
    found: Answer, run: str, precision: str, where: Where
) -> tuple[dict[str, Any], shrunk.Latency]:
    """The record of a run with its quality on test at a precision, and the latency there."""
    judge_missing([store.read(run)], [precision], where)
    record = store.read(run)
    (model,) = validated(record, [precision], where, latency=True)
    return record, model["latency"]
