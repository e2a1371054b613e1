"""The smallest stored model that is as good as dense, or the best within so many bytes.

Everything is chosen on validation. The dense run comes first; then what costs a ranking and no training (its
rounding, factors, codes, pruning), then a reference that is small by itself and other trainings, in order of
promise, as far as the time goes. Each way is tried at every precision, and left out where it is not expected
to be the answer: where its smallest form is not clearly smaller than what has been found, where the same
method surely lost too much where it was larger, or where it would be smaller only at a precision whose
rounding cost every model that fits without too much.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse

from dslbench import data as datasets
from dslbench import registry
from dslbench.errors import DataError, DslbenchError, RunError, UnsuitableError, UsageError
from dslbench.runs.assemble import full_hyper
from dslbench.runs.equal_bytes import tables_of
from dslbench.runs.record import USUAL
from dslbench.runs.smallest import Answer, Goal, Tried, name_of, named
from dslbench.spec import RunSpec, resolve
from dslbench.tables import TableSpec
from dslbench.tables.stored import BITS
from dslbench.words import number

Record = dict[str, Any]
Make = Callable[[RunSpec], Record]
Validate = Callable[[Record, Sequence[str]], list[dict[str, Any]]]

Way = tuple[str, float, tuple[str, ...]]

# Methods and references with their sparsity and settings, the cheap and promising first, those of several
# trainings last; of one method, the larger first.
WAYS: tuple[Way, ...] = (
    ("pq", 0.0, ()), ("svd", 0.5, ()), ("magprune", 0.5, ()), ("svd", 0.75, ()),
    ("ials", 0.0, ()), ("ials", 0.0, ("ials.d=32",)), ("ials", 0.0, ("ials.d=16",)),
    ("omp", 0.5, ()), ("lsq", 0.0, ("lsq.precision=int3",)), ("mde", 0.5, ()), ("narrow", 0.5, ()),
    ("dsl", 0.5, ()), ("omp", 0.8, ()), ("lsq", 0.0, ("lsq.precision=int2",)), ("mde", 0.75, ()),
    ("narrow", 0.75, ()), ("dsl", 0.8, ()), ("lth_mrs", 0.5, ()), ("wr", 0.5, ()),
)  # fmt: skip
# What a model that was not tried may be better than dense before it is rounded, as a share, where none that
# was tried is: of a backbone's own converged models in docs/results.md none is by more.
BETTER = 0.01
# Fits that the search over a reference's grid comes to: 6 to 10 on four data sets.
FITS = 9
# What a way must have of the best's bytes at the most: less is no gain, and its size is an estimate.
SMALLER = 0.97
SURE = 1.96  # of a 95 % interval
LEAST_USERS = 10  # of whom an interval can be made


def check_users(count: int) -> None:
    """Raise `DataError` where so many users of validation can tell nothing."""
    if count < LEAST_USERS:
        raise DataError(
            f"validation has {number(count, 'user')}, too few to tell what a model loses",
            "data with more users, or a protocol with more of them in validation",
        )


def search(
    dense: RunSpec, goal: Goal, make: Make, validate: Validate, *, seconds: float,
    say: Callable[[str], None], answer: Callable[[Answer], None],
) -> Answer:  # fmt: skip
    """Try ways of making a model small.

    Args:
        make: makes a run, or finds it; its record.
        validate: judges a run's model on validation at precisions.
        seconds: how long it may take; a training that is not expected to end in time is left out.
        say: takes a line of progress.
        answer: is given the answer as soon as there is one: what was found by then survives an interruption.

    Raises `UsageError` where the protocol has no validation part.
    """
    began = time.monotonic()
    check_reachable(dense, goal)
    record = make(dense)
    if not record["data"]["valid_pairs"]:
        raise UsageError(
            f"protocol {dense.protocol} has no validation part to choose on", "--protocol default"
        )
    models = validate(record, [*BITS])
    whole = np.array(next(m for m in models if m["precision"] == "fp32")["values"])
    check_users(len(whole))
    if not whole.any():
        raise RunError("the dense model has found nothing on validation", "more --epochs")
    tried = [_tried(dense, record, model, whole) for model in models]
    found = Answer(tried[0], goal, tried)
    answer(found)
    _progress(found, say)
    of_dense = float(record["cost"]["measured"]["train_seconds"])
    beside = max(0.0, time.monotonic() - began - of_dense)
    macs = float(record["cost"]["counted"]["exact"]["train_macs"])
    race = _Race(found, whole, of_dense, macs, beside, began + seconds, make, validate, say)
    left = list(WAYS)
    try:
        while left:
            if (reason := race.attempt(left[0])) is not None:
                found.left_out.append(f"{_title(left[0])}: {reason}")
            del left[0]
    finally:
        found.left_out += [f"{_title(way)}: interrupted before it was tried" for way in left]
        found.ended = not left
    return found


@dataclass(frozen=True)
class _Race:
    """What trying one way after the other needs.

    Attributes:
        whole: (n,) what dense comes to with each user.
        of_dense, macs: seconds and exact MACs of dense's training.
        beside: seconds that the run took beside it: processes start, and models are judged.
        until: when time is over, of `time.monotonic`.
    """

    found: Answer
    whole: Any
    of_dense: float
    macs: float
    beside: float
    until: float
    make: Make
    validate: Validate
    say: Callable[[str], None]

    def attempt(self, way: Way) -> str | None:
        """Try one way and add what comes of it; why it was left out, None where it was not."""
        method, sparsity, settings = way
        try:
            spec = like(self.found.dense.spec, method, sparsity, settings)
        except UnsuitableError as error:
            return error.message
        if (reason := _hopeless(self.found, spec)) is not None:
            return reason
        training, left = self.training_seconds(spec), self.until - time.monotonic()
        if (expected := training + self.beside) > left:
            return f"it takes about {expected:.0f} s, and {max(0, left):.0f} s are left"
        most = "" if spec.is_reference else "at most "
        self.say(f"next: {name_of(spec)}, {most}about {training:.1f} s of training")
        try:
            record = self.make(spec)
            own = record["stored"][0]["precision"]
            lower = [p for p in BITS if BITS[p] < BITS.get(own, 0)]
            if spec.is_reference:  # its model is not kept: on test it is what it was at its fit
                known = {row["precision"] for row in record["stored"] if row["quality"] is not None}
                lower = [p for p in lower if p in known]
            models = self.validate(record, [own, *lower])
        except (RunError, UnsuitableError) as error:
            return error.message
        self.found.tried += [_tried(spec, record, model, self.whole) for model in models]
        _progress(self.found, self.say)
        return None

    @cached_property
    def train(self) -> sparse.csr_matrix:
        """Training pairs (N, M), read when the first reference is expected."""
        dense = self.found.dense.spec
        return datasets.load(dense.dataset, protocol=dense.protocol).train

    def training_seconds(self, spec: RunSpec) -> float:
        """About how long a training takes: relative to dense's, or at the rate of its MACs."""
        if not spec.is_reference:
            method = registry.method(spec.method)
            trainings = method.trainings(spec.method_options, spec.sparsity)
            return self.of_dense * method.relative_time * trainings
        kind = registry.reference(spec.method)
        macs = kind.train_macs(self.train, kind.filled(spec.method_options))
        return self.of_dense * (1.0 if macs is None else FITS * macs / self.macs)


def check_reachable(dense: RunSpec, goal: Goal) -> None:
    """Raise `UsageError` where nothing that could be tried is as small as the goal; nothing is trained."""
    if goal.most is None:
        return
    tables, full = tables_of(dense), full_hyper(dense)
    whole = sum(4 * spec.n_rows * full.width(name) for name, spec in tables.items())
    most = goal.most * whole if goal.most <= 1 else goal.most
    sizes: list[tuple[int, str]] = []
    for method, sparsity, settings in (("dense", 0.0, ()), *WAYS):
        try:
            spec = like(dense, method, sparsity, settings)
            sizes += [(nbytes, name_of(spec)) for nbytes in _sizes(spec, tables).values()]
        except DslbenchError:  # it makes no sense here
            continue
    least, name = min(sizes)
    if least > most:
        raise UsageError(
            f"no model here takes {most:,.0f} bytes or fewer: the least is about {least:,} ({name})",
            f"--to {least}B, or a smaller --set embedding_size",
        )


def _sizes(spec: RunSpec, tables: dict[str, TableSpec]) -> dict[str, int]:
    """Bytes of a run's tables at each precision that it has; of a form without, under its method's name.

    Empty for a reference whose size is not known before it is fitted.
    """
    if spec.is_reference:
        of = registry.reference(spec.method)
        rows = dict(segment for table in tables.values() for segment in table.segments)
        if "item" not in rows:
            return {}
        found = {p: of.stored_size(rows["item"], spec.method_options, p) for p in ("fp32", *USUAL)}
        return {precision: size for precision, size in found.items() if size is not None}
    kind = registry.method(spec.method)
    method, full = kind(spec.method_options, spec.sparsity), full_hyper(spec)
    if not kind.has_precisions:
        return {spec.method: method.stored_size(tables, full, None)}
    own = BITS[spec.options.get("precision", "fp32")]
    return {
        precision: method.stored_size(tables, full, precision)
        for precision, bits in BITS.items()
        if bits <= own
    }


def like(dense: RunSpec, method: str, sparsity: float, settings: Sequence[str]) -> RunSpec:
    """The run of another method, or of a reference, at the setting of a dense run."""
    own: list[str] = []
    if not registry.is_reference(method):  # which has no backbone, and so none of its settings
        own = [f"preset={dense.preset}"]
        own += [f"{key}={json.dumps(value)}" for key, value in dense.changed_hyper.items()]
    return resolve(
        dataset=dense.dataset, backbone=dense.backbone, method=method, sparsity=sparsity,
        seed=dense.seed, epochs=dense.epochs, protocol=dense.protocol,
        settings=[*own, *settings],
    )  # fmt: skip


def _hopeless(found: Answer, spec: RunSpec) -> str | None:
    """Why a way cannot beat what was found; None where it may."""
    try:
        sizes = _sizes(spec, tables_of(found.dense.spec))
    except DslbenchError as error:
        return error.message
    if not sizes:
        return None
    least, within = min(sizes.values()), found.goal.within
    if within is None:
        too_large = f"its least, about {least:,} bytes, is more than {found.most:,.0f}"
        return too_large if least > found.most else None
    larger = [one for one in found.tried if one.spec.method == spec.method]
    if larger and all(found.surely_lost(one) > within for one in larger):
        least_lost = min(larger, key=lambda one: one.loss)
        return f"{least_lost.name}, which is larger, lost {least_lost.loss:.1%}"
    best = found.chosen
    if best is None:
        return None
    smaller = [name for name, nbytes in sizes.items() if nbytes < SMALLER * best.nbytes]
    if not smaller:
        return f"its least, about {least:,} bytes, is not clearly smaller than what was found"
    # It learns to be rounded; or is no table like those that were.
    if spec.options.get("precision") in smaller or spec.is_reference:
        return None
    rounding = _rounding(found)
    gain = max([BETTER, *(-one.loss for one in _tables(found) if one.precision == "fp32")])
    if all(rounding.get(precision, 0.0) > within + gain for precision in smaller):
        cost = min(rounding[precision] for precision in smaller)
        return (
            f"it is smaller than what was found at {', '.join(smaller)} only, where rounding had cost "
            f"every model that fits without {cost:.1%} or more"
        )
    return None


def _tables(found: Answer) -> list[Tried]:
    """What was tried of the backbone itself: a reference says nothing of its tables."""
    return [one for one in found.tried if not one.spec.is_reference]


def _rounding(found: Answer) -> dict[str, float]:
    """The least that each precision has cost a model that fits at fp32, as a share of its own quality there.

    What has lost much already loses little more by rounding, and says nothing of what can be the answer.
    """
    whole = {
        one.run: one.quality
        for one in _tables(found)
        if one.precision == "fp32" and found.fits(one)
    }
    least: dict[str, float] = {}
    for one in _tables(found):
        if whole.get(one.run):
            cost = 1 - one.quality / whole[one.run]
            least[one.precision] = min(cost, least.get(one.precision, cost))
    return least


def _tried(spec: RunSpec, record: Record, model: dict[str, Any], whole: Any) -> Tried:
    values = np.array(model["values"])
    mean, difference = float(whole.mean()), whole - values
    half = SURE * float(difference.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    loss = float(difference.mean())
    return Tried(
        spec, record["id"], model["precision"], model["bytes"], float(values.mean()), loss / mean,
        ((loss - half) / mean, (loss + half) / mean),
        sum(phase["train_seconds"] for phase in record["cost"]["measured"]["phases"]),
    )  # fmt: skip


def _progress(found: Answer, say: Callable[[str], None]) -> None:
    best = found.chosen
    if best is None:
        say("nothing fits yet")
    else:
        share = best.nbytes / found.dense.nbytes
        say(
            f"best so far: {best.name}: {best.nbytes:,} bytes, {share:.3f} of dense, "
            f"{-best.loss:+.1%} on validation"
        )


def _title(way: Way) -> str:
    """The same of a way, which may be none on this backbone."""
    method, sparsity, settings = way
    return named(method, sparsity, [one.removeprefix(f"{method}.") for one in settings])
