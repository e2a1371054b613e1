"""Make the runs that are missing, wherever they are to be made, and show runs as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import typer

from dslbench import data
from dslbench.cli.datasets import say_what_was_read
from dslbench.data.interactions import Interactions
from dslbench.errors import RunError, UsageError
from dslbench.output import console, deliver, result, say, warn
from dslbench.report import command
from dslbench.report.columns import seconds
from dslbench.report.formats import render
from dslbench.report.references import is_reference
from dslbench.runs import (
    checkpoint,
    claims,
    failures,
    local,
    making,
    sharing,
    stock,
    store,
)
from dslbench.runs.assemble import check_parts, choose_device
from dslbench.runs.progress import Part
from dslbench.spec import RunSpec
from dslbench.words import number

Record = dict[str, Any]


@dataclass(frozen=True)
class Where:
    """Where runs are made: the device, and how many at once on this machine or on a Ray cluster.

    `workers` None: one on this machine, as many as fit on a cluster. `address` is the cluster's.
    """

    device: str = "auto"
    workers: int | None = None
    executor: Literal["local", "ray"] = "local"
    address: str | None = None

    def check(self) -> None:
        """Raise `UsageError` for what makes no sense."""
        if self.device not in ("auto", "cpu", "cuda"):
            raise UsageError(f"unknown device '{self.device}'", "use auto, cpu or cuda")
        if self.address is not None and self.executor != "ray":
            raise UsageError("--address is that of a Ray cluster", "add --executor ray")
        if self.executor == "ray":
            from dslbench.runs import ray_executor

            ray_executor.check_installed()

    def shares_nothing(self) -> str | None:
        """Why trainings are not shared between runs here; None where they are."""
        if self.executor == "ray":
            return "each node of a cluster has a store of its own"
        if sharing.limit() == 0:
            return "DSLBENCH_SHARED_MIB is 0"
        if choose_device(self.device).type != "cpu":
            return "on a GPU the same training does not come to the same bits"
        return None

    def open(self) -> local.Executor:
        """The executor; raises `RunError` where a cluster cannot be reached."""
        if self.executor == "local":
            return local.LocalExecutor(self.device, self.workers or 1)
        from dslbench.runs.ray_executor import RayExecutor

        return RayExecutor(self.device, self.workers, self.address)


def make(
    specs: list[RunSpec], *, where: Where, force: bool, dry_run: bool, show: bool = True,
    expect: bool = True, precisions: Sequence[str] = (), part: Part | None = None,
    digests: stock.Digests | None = None,
) -> list[Record]:  # fmt: skip
    """Make the runs that are missing and return the records of all, in order.

    Where some fail, `show` prints the table of the others before the error. `expect` times a few steps
    before, and says how long it will take. Runs that are a `part` of something larger are not announced.
    Data whose `digests` are known are not read again, and what they were taken for is not said again.
    """
    where.check()
    planned = _planned(specs, where, force, dry_run, digests)
    missing = [run for run in planned if not run.done]
    _announce(planned, missing, where, dry_run=dry_run, expect=expect, part=part)
    if dry_run:
        for run in planned:
            result(f"{run.id}  {'stored' if run.done else 'to make':8} {run.spec.title}")
        return []
    try:
        failed_ones = making.make_missing(missing, where.open, console(), warn, part)
    except KeyboardInterrupt:
        if part is None:
            _say_interrupted(planned, show)
        raise typer.Exit(130) from None
    if failed_ones:
        made = stored(planned)
        if made and show:
            print_table("terminal", "3", [run.read() for run in made])
        raise RunError(
            f"{len(failed_ones)} of {len(missing)} runs failed, see above"
            if len(missing) > 1
            else failed_ones[0]
        )
    judge_missing([store.read(run.id) for run in planned if run.asked], precisions, where)
    return [run.read() for run in planned if run.asked]


def _planned(
    specs: list[RunSpec], where: Where, force: bool, dry_run: bool, digests: stock.Digests | None
) -> list[stock.WantedRun]:
    """What is wanted of the store, tidied before, and what of it is there."""
    if not dry_run:
        store.put_back_replaced()
        claims.tidy_stored_runs()
    planned = stock.take_stock(specs, force, warn, _look_at, digests)
    if not dry_run:
        stock.follow_data(planned, warn, say)
    if (why := where.shares_nothing()) is not None:
        missing = [run for run in planned if not run.done]
        if sum(sharing.left(missing)) < sum(run.trainings for run in missing):
            say(f"trainings are not shared between runs: {why}")
        planned = [replace(run, shares=()) for run in planned]
    return planned


def _announce(
    planned: Sequence[stock.WantedRun], missing: Sequence[stock.WantedRun], where: Where, *,
    dry_run: bool, expect: bool, part: Part | None,
) -> None:  # fmt: skip
    """Say what will be made, in which order, and how long it takes."""
    for run in missing:
        if not run.asked:
            say(f"not stored, made first as the teacher of the others: {run.spec.title}")
    for run in missing:
        if (failed := failures.read_or_none(run.id)) is not None:
            say(f"failed last time, tried again: {run.spec.title} ({failed.reason})")
    fits = sum(run.spec.is_reference for run in missing)
    summary = f"{number(len(planned), 'run')}: {len(planned) - len(missing)} stored, {len(missing)} to make"
    if missing:
        checkpoint.share_of_time()  # a setting that makes no sense is found out before training
        if not dry_run:
            store.check_writable()
        trained = len(missing) > fits
        said = [_trainings(missing)] if trained else []
        said += [number(fits, "reference")] if fits else []
        if expect and trained:
            said.append(_expected(missing, where))
        summary += f" ({', '.join(said)})"
    if part is None:
        say(summary)
    if len(missing) > 1 and not dry_run:
        rows = dict.fromkeys(run.spec.method for run in missing)
        say(f"in this order: {', '.join(rows)}; Ctrl-C keeps what is done and prints its table")


def _say_interrupted(planned: Sequence[stock.WantedRun], show: bool) -> None:
    """What there is of runs that were broken off."""
    made = stored(planned)
    if show and (shown := [run.read() for run in made if run.asked]):
        print_table("terminal", "3", shown)
    say(
        f"interrupted: {len(made)} of {number(len(planned), 'run')} "
        f"{'is' if len(planned) == 1 else 'are'} stored; "
        "the same command goes on from there"
    )


def _look_at(loaded: Interactions) -> None:
    """Say what own data were taken for; raise `DataError` where no run could be judged on data."""
    say_what_was_read(loaded)
    check_parts(loaded)


def _trainings(missing: Sequence[stock.WantedRun]) -> str:
    """How many trainings runs take, and how many of theirs are those of other runs."""
    to_make, total = sum(sharing.left(missing)), sum(run.trainings for run in missing)
    if to_make == total:
        return number(total, "training")
    return f"{number(to_make, 'training')}: sharing saves {total - to_make} of {total}"


def _expected(missing: Sequence[stock.WantedRun], where: Where) -> str:
    """How long runs will take, from a few steps of each kind."""
    say("estimating how long that takes ...")
    workers = where.workers or 1 if where.executor == "local" else 1
    try:
        expected = making.estimate_seconds(missing, where.device, workers)
    except KeyboardInterrupt:
        say("interrupted before the first run; nothing was changed")
        raise typer.Exit(130) from None
    at_once = f", {workers} at once" if workers > 1 else ""
    if expected is None:
        return f"a trial failed, how long it takes is not known{at_once}"
    return f"about {seconds(expected)} on this machine{at_once}"


def judge_missing(records: Sequence[Record], precisions: Sequence[str], where: Where) -> None:
    """Judge the stored models of runs at the precisions at which they were not yet; nothing is trained.

    Raises `RunError` where a run is of a version without bytes, or its model is gone.
    """
    for old in records:
        if is_reference(old):  # judged when they are fitted: the store has no model of theirs
            continue
        known = {row["precision"] for row in old.get("stored") or []}
        missing = [name for name in dict.fromkeys(precisions) if name not in known]
        if not missing:
            continue
        title = RunSpec.of_record(old["spec"]).title
        if not known:
            raise RunError(
                f"{title}: an older version made it, without bytes", "--force makes it anew"
            )
        with claims.Claims(warn) as held:
            claim = held.wait_for(old["id"], title, say)
            try:  # another process may have judged it meanwhile
                known = {row["precision"] for row in store.read(old["id"])["stored"]}
                missing = [name for name in missing if name not in known]
                if missing:
                    say(f"judging {title} at {', '.join(missing)} ...")
                    job = {"task": "judge", "id": old["id"], "precisions": missing}
                    local.Process().run(job | {"spec": old["spec"], "device": where.device})
            except KeyboardInterrupt:
                say("interrupted while judging; what was judged before is stored")
                raise typer.Exit(130) from None
            finally:
                claim.release()


def stored(planned: Sequence[stock.WantedRun]) -> list[stock.WantedRun]:
    """Those of the runs that the store has."""
    return [run for run in planned if store.has(run.id, warn)]


def print_table(
    format_name: str, table: str, records: Sequence[Record], precisions: Sequence[str] = ()
) -> None:
    """A table of these runs, and that of bytes where precisions were asked for; json is the records."""
    if format_name == "json":
        deliver(render.record_json(records))
        return
    width, color = command.looks(to_file=False)
    found = command.tables(table, records)
    if precisions and table != "bytes":
        found += command.tables("bytes", records)
    deliver(render.tables(format_name, found, width=width, color=color))


def dataset_or_default(name: str | None) -> str:
    """The data set to use; says so when it was not named."""
    if name is not None:
        return name
    chosen, why = data.default_dataset()
    say(f"data set: {chosen} ({why})")
    return chosen
