"""What `dslbench results` does: check published runs, take stored ones out, make one of them again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dslbench.cli import runner, shrinking
from dslbench.errors import DataError, UsageError, did_you_mean
from dslbench.evaluation.metrics import METRICS, in_group
from dslbench.output import result, say, warn
from dslbench.report import command
from dslbench.report.columns import COLUMNS, size
from dslbench.report.comparable import other_versions
from dslbench.report.machines import describe, machine_of
from dslbench.runs import store
from dslbench.runs.results import check as checking
from dslbench.runs.results import folder as files
from dslbench.runs.results.command import spec_of
from dslbench.runs.results.submission import submission
from dslbench.words import number, percent

Found = Mapping[str, Any]


def check(folder: Path) -> None:
    """Say what is wrong with each published run; raises `DataError` where anything is."""
    good, bad = checking.check(folder)
    for one in bad:
        result(f"{one.path}: {one.reason}")
    if bad:
        raise DataError(
            f"{number(len(bad), 'fault')} in {folder}; {number(len(good), 'record')} good",
            "dslbench results add RUN_ID --to FOLDER writes a record and the index anew",
        )
    if not good:
        raise DataError(
            f"no records in {folder}", f"dslbench results add --dataset toy --to {folder}"
        )
    old = sum(bool(other_versions(found["record"])) for found in good)
    said = f" ({old} made by earlier versions of the code)" if old else ""
    result(f"{number(len(good), 'record')} checked, all good{said}")


def add(ids: Sequence[str], wanted: Mapping[str, Any], to: Path) -> None:
    """Write stored runs into a folder of published ones, and its index.

    Raises `UsageError` where none is named or stored, `DataError` where one that was named, or all
    that were meant, cannot be published.
    """
    if ids and any(wanted.values()):
        raise UsageError("name runs, or what they have in common", "leave one of them out")
    if not ids and not any(wanted.values()):
        raise UsageError("name the runs to add", "dslbench results add --dataset toy (or RUN_ID)")
    records = (
        [_stored(run_id) for run_id in ids]
        if ids
        else command.select(warn, None, with_references=False, **wanted)
    )
    taken, refused = [], []
    for record in records:
        try:
            found = submission(record, store.history(record["id"]) or [])
            checking.check_submission(found)
        except (UsageError, ValueError) as error:
            refused.append(f"{record['id']} cannot be published: {error}")
        else:
            taken.append(found)
    if refused and (ids or not taken):
        for line in refused[:-1]:
            warn(line)
        raise DataError(refused[-1], "dslbench list runs")
    for line in refused:
        warn(line)
    for found in taken:
        files.write(to, found)
    digest = files.write_index(to)
    result(f"{number(len(taken), 'record')} written to {to}; digest over all {digest[:12]}")


def _stored(run_id: str) -> dict[str, Any]:
    try:
        return store.read(run_id)
    except ValueError as error:
        raise UsageError(f"run '{run_id}': {error}", "dslbench list runs") from None


def rerun(run_id: str, folder: Path, within: str, device: str) -> None:
    """Make a published run again and print both beside each other.

    Raises `DataError` where what comes out is not what was published.
    """
    most = shrinking.goal_of(within, None).within or 0.0
    published = _published(run_id, folder)
    old = published["record"]
    say(f"making again: {published['command']}")
    if text := other_versions(old):
        say(f"made by other versions of the code ({text})")
    spec = spec_of(published["command"])
    (new,) = runner.make(
        [spec], where=runner.Where(device), force=True, dry_run=False, expect=False,
        precisions=[row["precision"] for row in (old["stored"] or [])[1:] if row["quality"]],
    )  # fmt: skip
    result(f"published on {describe(machine_of(old))}; made again on {describe(machine_of(new))}")
    result(f"{'':24}{'published':>14}{'again':>14}{'difference':>12}")
    worst = 0.0
    for name in in_group("quality"):
        a, b = old["quality"][name], new["quality"][name]
        apart = abs(b / a - 1) if a else float(b != a)
        if name in in_group("compared"):
            worst = max(worst, apart)
        _line(METRICS[name].label, METRICS[name].show(a), METRICS[name].show(b), apart)
    a, b = old["budget"]["table_bytes"], new["budget"]["table_bytes"]
    _line("Bytes", size(a), size(b), abs(b / a - 1))
    for key in ("exact_train_macs", "exact_infer_macs", "train_time"):
        first, second = COLUMNS[key].value(old), COLUMNS[key].value(new)
        if first and second:
            shown = COLUMNS[key].show
            _line(COLUMNS[key].title, shown(first), shown(second), abs(second / first - 1))
    if worst > most:
        raise DataError(
            f"run {old['id']} did not come out again: its quality differs by {worst:.2%}, "
            f"more than {percent(most)}",
            "numbers of dense layers differ by rounding between machines, hardly by so much",
        )
    same = "to the last bit" if new["quality"] == old["quality"] else f"within {percent(most)}"
    result(f"run {old['id']} came out again, its quality {same}")


def _line(what: str, published: str, again: str, apart: float) -> None:
    result(f"{what:24}{published:>14}{again:>14}{'same' if apart == 0 else f'{apart:.2%}':>12}")


def _published(run_id: str, folder: Path) -> dict[str, Any]:
    """The one good record whose id begins so."""
    good, bad = checking.check(folder)
    fitting = [found for found in good if found["record"]["id"].startswith(run_id)]
    if len(fitting) == 1:
        return fitting[0]
    for one in bad:
        if Path(one.path).stem.startswith(run_id):
            raise DataError(
                f"{folder / one.path}: {one.reason}", f"dslbench results check {folder}"
            )
    if fitting:
        raise UsageError(f"{len(fitting)} records begin with '{run_id}'", "name more of the id")
    known = [found["record"]["id"] for found in good]
    hint = did_you_mean(run_id, known) if len(known) < 20 else f"dslbench results check {folder}"
    raise UsageError(f"no record '{run_id}' in {folder}", hint)
