"""Which runs a comparison consists of, and which of them are stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from dslbench import artefact, registry
from dslbench.data.entries import catalog
from dslbench.data.interactions import Interactions
from dslbench.data.loading import locate
from dslbench.errors import DslbenchError
from dslbench.runs import claims, failures, sharing, store
from dslbench.runs.assemble import data_of
from dslbench.spec import RunSpec

Digests = dict[tuple[str, str, str], dict[str, str | None]]  # by data set, protocol and judged part


@dataclass(frozen=True)
class WantedRun:
    """A run with its identity, and whether the store has it already.

    `asked` is false for a run that is made only because others learn from it; it comes before
    them. `teacher` is the id of the run that it learns from. A `fresh` run is made from its start,
    whatever checkpoints there are. `shares` are those of its trainings that other runs may have, too.
    `stamp` and `failed_at` say what was stored of it when it was
    planned: what has changed since was made, or tried, by another process.
    """

    spec: RunSpec
    id: str
    done: bool
    asked: bool = True
    teacher: str | None = None
    fresh: bool = False
    stamp: tuple[int, ...] | None = None
    failed_at: str | None = None
    shares: tuple[sharing.Training, ...] = ()

    def read(self) -> dict[str, Any]:
        """The stored record, which says where its values came from as this run was asked for.

        Another command, with another preset file of the same values, say, may have made it.
        """
        record, asked = store.read(self.id), self.spec.model_dump(mode="json")
        return record | {"spec": record["spec"] | {name: asked[name] for name in RunSpec.ORIGINS}}

    @property
    def trainings(self) -> int:
        """Trainings of the full number of epochs that the run consists of; a reference has none."""
        if self.spec.is_reference:
            return 0
        method = registry.method(self.spec.method)
        return method.trainings(self.spec.method_options, self.spec.sparsity)


def take_stock(
    specs: Sequence[RunSpec],
    force: bool,
    warn: Callable[[str], None],
    loaded: Callable[[Interactions], None] = lambda data: None,
    digests: Digests | None = None,
) -> list[WantedRun]:
    """Identify the runs; equal ones are planned once.

    A run that is missing and learns from a teacher is preceded by the teacher's dense run: one
    that is stored with its model stands there as done. `loaded` is told of each data set. `digests`
    are those that are known already, and takes others: a data set is then read once for many calls.
    """
    digests = {} if digests is None else digests

    def identity(spec: RunSpec) -> str:
        key = (spec.dataset, spec.protocol, spec.judged_on)
        if key not in digests:
            data = data_of(spec)
            loaded(data)
            digests[key] = data.digests
        return spec.identity(digests[key])

    stamps: dict[str, tuple[int, ...] | None] = {}

    @cache
    def is_stored(run_id: str) -> bool:
        return stamp(run_id) is not None and store.has(run_id, warn)

    def stamp(run_id: str) -> tuple[int, ...] | None:
        """Taken once, before it is looked whether the run is stored."""
        return stamps.setdefault(run_id, store.stamp(run_id))

    @cache
    def model_is_readable(run_id: str) -> bool:
        try:
            artefact.from_bytes(store.model_bytes(run_id), f"the model of run {run_id}")
        except DslbenchError as error:
            warn(f"{error.message}; the run will be made again")
            return False
        return True

    asked = {identity(spec): spec for spec in specs}
    planned: dict[str, WantedRun] = {}
    for run_id, spec in asked.items():
        done = not force and is_stored(run_id)
        if not done and spec.teacher is not None:
            teacher = identity(spec.teacher)
            again = force and teacher in asked
            has_model = not again and is_stored(teacher) and model_is_readable(teacher)
            planned[teacher] = WantedRun(
                spec.teacher, teacher, has_model, teacher in asked, fresh=again
            )
            planned.setdefault(run_id, WantedRun(spec, run_id, done, teacher=teacher, fresh=force))
        planned.setdefault(run_id, WantedRun(spec, run_id, done, fresh=force))
    return [
        replace(
            run, stamp=stamp(run.id), failed_at=failures.time_of(run.id),
            shares=()
            if run.spec.is_reference
            else sharing.trainings_of(run.spec, identity(run.spec.as_dense)),
        )
        for run in planned.values()
    ]  # fmt: skip


def follow_data(
    planned: Sequence[WantedRun], warn: Callable[[str], None], say: Callable[[str], None]
) -> None:
    """Tell stored runs of data of one's own where these lie now: they may have been moved, or copied."""
    # The id of a run on the catalogue's data has their name: only one's own can have another.
    own = [run for run in planned if run.done and run.spec.dataset not in catalog()]
    moved = [run for run in own if store.read(run.id)["spec"]["dataset"] != run.spec.dataset]
    if moved:
        with claims.Claims(warn) as held:
            for run in moved:
                # One at a time: two commands with the runs in another order would wait for each other.
                claim = held.wait_for(run.id, run.spec.title, say)
                try:
                    entry, _ = locate(run.spec.dataset)
                    store.lies_at(run.id, run.spec.dataset, entry.name)
                finally:
                    claim.release()
