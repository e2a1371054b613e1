"""The evidence for one small model: what was tried, what was chosen, and what it is worth on test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dslbench.evaluation.metrics import METRICS, SELECTION, in_group
from dslbench.report.beside import command_for
from dslbench.report.columns import COLUMNS, Record, seconds, size
from dslbench.report.comparable import footer, setting
from dslbench.report.costs import short_time
from dslbench.report.sizes import at_precision
from dslbench.report.tables import MISSING, Cell, TableModel
from dslbench.runs.smallest import Answer, Tried
from dslbench.words import percent

Latency = Mapping[str, Mapping[str, float] | None] | None
Tested = Mapping[tuple[str, str], tuple[Record, Latency]]

NO_USERS = (
    "What was chosen is no model of that backbone, and keeps no rows of users: its bytes are of items alone. "
    "It scores a user from the items that they have, which are not counted and must be there when it serves "
    "(--with-seen, or the data set). Its settings were searched on validation, dense's were not."
)
INTERRUPTED = "The search was interrupted: not all was tried; the same command goes on."


def sentence(found: Answer, tested: Tested | None = None) -> str:
    """What was chosen and, where that is known, what it is on test; or that nothing was chosen."""
    chosen, goal = found.chosen, found.goal
    wanted = (
        f"within {percent(goal.within)} of dense"
        if goal.within is not None
        else f"in {size(found.most)}"
    )
    if chosen is None:
        least = min(found.tried, key=lambda one: one.nbytes)
        return f"Nothing that was tried is {wanted}; the smallest is {least.name}, {size(least.nbytes)}."
    share = chosen.nbytes / found.dense.nbytes
    said = (
        f"{chosen.name}: {size(chosen.nbytes)} in place of {size(found.dense.nbytes)} ({share:.3f}), "
        f"{_change(chosen)} of dense's {METRICS[SELECTION].label} on validation"
    )
    if goal.within is None:
        said = f"The best {wanted}: {said}"
    if tested and (on_test := _change_on_test(found, tested)) is not None:
        said += f", {on_test:+.1%} on test"
    if found.certain is False:
        said += (
            f". The users of one run cannot tell that it is {wanted}: the interval reaches "
            f"{-chosen.interval[1]:+.1%}"
        )
    smaller = [one for one in found.tried if one.nbytes < chosen.nbytes]
    if goal.within is not None and smaller:
        next_one = min(smaller, key=lambda one: one.loss)
        said += (
            f". The best of the {len(smaller)} smaller ones that were tried is {next_one.name} "
            f"({next_one.nbytes / found.dense.nbytes:.3f}): {_change(next_one)}"
        )
    return said + "."


def _change_on_test(found: Answer, tested: Tested) -> float | None:
    """Quality on test of what was chosen, relative to dense; None where that is not known."""
    if found.chosen is None:
        return None
    dense, chosen = (
        _on_test(tested[one.run, one.precision][0], one.precision)
        for one in (found.dense, found.chosen)
    )
    return chosen / dense - 1 if dense and chosen is not None else None


def _on_test(record: Record, precision: str) -> float | None:
    at = at_precision(record, precision)
    return None if at is None else COLUMNS[SELECTION].value(at)


def tables(found: Answer, tested: Tested) -> list[TableModel]:
    """What is kept, on test; and all that was tried, on validation.

    Args:
        tested: of dense and of what was chosen, by run and precision: its record, and seconds of a top 20.
    """
    chosen = found.chosen
    shown = [found.dense, *([chosen] if chosen is not None else [])]
    records = list({record["id"]: record for record, _ in tested.values()}.values())
    head = TableModel(
        f"The answer, on test: {setting(records[0])}",
        ["Model", "Bytes", "of dense", *(METRICS[name].label for name in in_group("compared")),
         "vs dense", "Top 20, 1 user", "Top 20, 1,024 users"], [],
    )  # fmt: skip
    on_test = _change_on_test(found, tested)
    for one in shown:
        record, latency = tested[one.run, one.precision]
        at = at_precision(record, one.precision)
        head.rows.append([
            Cell(one.name), *_sizes(one, found),
            *(_quality(at, name) for name in in_group("compared")),
            Cell(MISSING) if one is found.dense or on_test is None
            else Cell(f"{on_test:+.1%}", value=on_test),
            *(_latency(latency, users) for users in ("1", "1024")),
        ])  # fmt: skip
    head.footer = footer(
        records,
        sentence(found, tested),
        *(() if found.ended else (INTERRUPTED,)),
        *(() if chosen is None or not chosen.spec.is_reference else (NO_USERS,)),
        "Test was looked at once, for these rows; all choices were made on validation, where what is chosen "
        f"out of many looks better than it is. vs dense: {METRICS[SELECTION].label}, relative to dense. "
        "Bytes are counted, of the tables of users and items on disk; quality and times are measured, of the "
        "model as stored.",
    )
    body = TableModel(
        "What was tried, on validation",
        ["Model", "Bytes", "of dense", METRICS[SELECTION].label, "vs dense (95 %)", "Training", "Fits"], [],
    )  # fmt: skip
    for one in sorted(found.tried, key=lambda one: (one.nbytes, one.name)):
        mark = "chosen" if one is chosen else "yes" if found.fits(one) else ""
        body.rows.append([
            Cell(one.name), *_sizes(one, found),
            Cell(METRICS[SELECTION].show(one.quality), value=one.quality),
            Cell(_change(one), value=-one.loss), Cell(seconds(one.seconds), value=one.seconds), Cell(mark),
        ])  # fmt: skip
    body.footer = [
        "vs dense: relative to dense at fp32, with the 95 % interval of the paired difference over users. "
        "Training: measured, with all that a method needs before it.",
        *(f"Left out: {line}." for line in found.left_out),
        "What makes each training again; dslbench compare with --precision judges it at other precisions:",
        *filter(None, _commands(found).values()),
    ]
    return [head, body]


def plain(found: Answer, tested: Tested) -> dict[str, Any]:
    """The same as data."""
    commands = _commands(found)

    def row(one: Tried) -> dict[str, Any]:
        return {
            "method": one.spec.method, "sparsity": one.spec.sparsity, "options": one.spec.changed_options,
            "precision": one.precision, "run": one.run, "bytes": one.nbytes,
            "of_dense": one.nbytes / found.dense.nbytes,
            "validation": {SELECTION: one.quality, "loss": one.loss, "interval": list(one.interval)},
            "train_seconds": one.seconds, "fits": found.fits(one), "command": commands[one.run],
        }  # fmt: skip

    def judged(one: Tried) -> dict[str, Any]:
        record, latency = tested[one.run, one.precision]
        at = at_precision(record, one.precision)
        quality = None if at is None else at["quality"]
        return row(one) | {"quality": quality, "top_k_latency": latency}

    return {
        "answer": sentence(found, tested),
        "ended": found.ended,
        "certain": found.certain,
        "dense": judged(found.dense),
        "chosen": None if found.chosen is None else judged(found.chosen),
        "tried": [row(one) for one in found.tried],
        "left_out": found.left_out,
    }


def _commands(found: Answer) -> dict[str, str | None]:
    """What makes each training again, by its run."""
    return {
        run: command_for(spec) for run, spec in {one.run: one.spec for one in found.tried}.items()
    }


def _change(one: Tried) -> str:
    low, high = one.interval
    lost, least, most = (0 - value for value in (one.loss, high, low))  # and not -0.0
    return f"{lost:+.1%} ({least:+.1%} to {most:+.1%})"


def _sizes(one: Tried, found: Answer) -> list[Cell]:
    share = one.nbytes / found.dense.nbytes
    return [Cell(size(one.nbytes), value=one.nbytes), Cell(f"{share:.3f}", value=share)]


def _quality(record: Record | None, name: str) -> Cell:
    value = None if record is None else COLUMNS[name].value(record)
    return Cell(MISSING) if value is None else Cell(METRICS[name].show(value), value=value)


def _latency(found: Latency, users: str) -> Cell:
    took = (found or {}).get(users)
    if took is None:
        return Cell(MISSING)
    return Cell(short_time(took["p50_seconds"]), value=took["p50_seconds"])
