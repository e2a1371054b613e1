"""Trainings that several runs have in common: made by one of them, taken over by the others.

`runs/.shared/KEY.safetensors` holds what such a training ended with, in the layout of checkpoints. The
key says which training of which setting it is (`Method.lineage`), so that a plan knows of it before
anything is trained. Whether it really is the same is seen in the file: in what state the phase began,
which random streams it drew from, and from where. If all that is equal, so is the end, to the last bit,
on the CPU; on other devices nothing is shared.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from dslbench import home, registry
from dslbench.cost import measured
from dslbench.errors import UsageError
from dslbench.runs import checkpoint
from dslbench.runs.assemble import full_hyper, sized_hyper
from dslbench.runs.checkpoint import Checkpoints, MisfitError
from dslbench.spec import RunSpec
from dslbench.training.progress import Keeper, Progress
from dslbench.training.state import Tree


@dataclass(frozen=True)
class Training:
    """A training that other runs may have as well.

    Attributes:
        phase: of the run; the first of that name.
        key: which training it is.
        counts: whether it is one of the method's own, of the full number of epochs.
        usual: whether it is kept in any case; others only where a second run of the plan wants them.
    """

    phase: str
    key: str
    counts: bool
    usual: bool


class Sharer(Protocol):
    """A run, as far as sharing goes."""

    @property
    def shares(self) -> tuple[Training, ...]:
        """Those of its trainings that others may have, too."""

    @property
    def trainings(self) -> int:
        """How many it has."""

    @property
    def fresh(self) -> bool:
        """Whether it is made from its start, whatever there is."""


def trainings_of(spec: RunSpec, dense: str) -> tuple[Training, ...]:
    """Those of a run's trainings that others may have, too.

    Args:
        dense: id of the dense run of the same setting.
    """
    kind, backbone = registry.method(spec.method), registry.backbone(spec.backbone)

    def key(lineage: str) -> str:
        return f"{dense}-{hashlib.sha256(lineage.encode()).hexdigest()[:8]}"

    full = full_hyper(spec)
    before = backbone.pretraining(full) if sized_hyper(spec) == full else []
    phases = kind.phases(spec.method_options, spec.sparsity)
    own = zip(phases, kind.lineage(spec.method_options, spec.sparsity), strict=True)
    return (
        *(Training(phase, key(phase), counts=False, usual=True) for phase in before),
        *(
            Training(phase, key(lineage), counts=True, usual=lineage == "dense")
            for phase, lineage in own
            if lineage is not None
        ),
    )


def left(missing: Iterable[Sharer]) -> list[int]:
    """How many trainings of the full number of epochs each run has to make, in their order."""
    seen: set[str] = set()
    found = []
    for run in missing:
        counted = [training.key for training in run.shares if training.counts]
        known = [key for key in counted if key in seen or (not run.fresh and is_stored(key))]
        found.append(run.trainings - len(known))
        seen.update(counted)
    return found


def kept_by_plan(missing: Sequence[Sharer]) -> set[str]:
    """Keys of the trainings that are to be kept where one of these runs makes them."""
    wanted = Counter(training.key for run in missing for training in run.shares)
    usual = {training.key for run in missing for training in run.shares if training.usual}
    return usual | {key for key, number in wanted.items() if number > 1}


def folder() -> Path:
    """Where shared trainings are."""
    return home.runs_dir() / ".shared"


def file(key: str) -> Path:
    """Where one of them is."""
    return folder() / f"{key}.safetensors"


def is_stored(key: str) -> bool:
    """Whether it is there, be it damaged."""
    return file(key).is_file()


def remove(trainings: Iterable[Training]) -> None:
    """Delete what there is of these: they will be made again."""
    for training in trainings:
        with suppress(OSError):
            file(training.key).unlink()


def limit() -> int:
    """Bytes that shared trainings may take, by `DSLBENCH_SHARED_MIB`, else 1 GiB; 0: nothing is shared.

    Raises `UsageError` where that is no number.
    """
    text = os.environ.get("DSLBENCH_SHARED_MIB", "1024")
    if not text.isdecimal():
        raise UsageError(f"DSLBENCH_SHARED_MIB is '{text}', not a number of MiB")
    return int(text) << 20


def sizes() -> list[tuple[float, int, Path]]:
    """When each file was last used, its bytes and its place; the longest unused first."""
    found = []
    for path in folder().glob("*.safetensors"):
        with suppress(OSError):  # another process has removed it
            about = path.stat()
            found.append((about.st_mtime, about.st_size, path))
    return sorted(found)


def tidy(most: int) -> None:
    """Delete what was not used for the longest time until the others, or the last, are within a limit."""
    found = sizes()
    total = sum(size for _, size, _ in found)
    for _, size, path in found[:-1]:
        if total <= most:
            return
        with suppress(OSError):
            path.unlink()
        total -= size


class SharingKeeper(Keeper):
    """Takes phases over from other runs, keeps phases for them, and leaves the rest to checkpoints.

    Args:
        kept: the run's checkpoints.
        trainings: those of the run's trainings that are shared.
        expected: keys of what was there when the run was begun.
    """

    def __init__(
        self, kept: Checkpoints, run_id: str, trainings: Iterable[Training],
        expected: Collection[str], device: torch.device,
    ) -> None:  # fmt: skip
        self._kept, self._run, self._expected = kept, run_id, expected
        self._left = {training.phase: training for training in trainings}
        self._about = checkpoint.written_by(device) | {"cpu": str(measured.cpu_name())}
        self._say: Callable[[str], None] = kept.say
        self._open: tuple[Training, str, Tree] | None = None
        self._taken = False

    def enter(self, progress: Progress) -> None:
        """Take the phase over, else bring it to its newest checkpoint.

        Raises `MisfitError` for what doesn't fit: the run must start over.
        """
        self._taken = False
        training = self._left.pop(progress.record.name, None)
        if training is None or not progress.hooks.plain():
            self._open = None
            self._kept.enter(progress)
            return
        start = _digest(progress.beginning())
        self._energy = measured.Energy()
        self._open = training, start, progress.streams.root.state()
        self._kept.enter(progress)
        if not progress.finished:
            self._take(progress, *self._open)
        self._whole = progress.loop.epoch == 0

    def offer(self, progress: Progress, *, ended: bool = False) -> None:
        """Keep the phase where it is due; its end for other runs, too."""
        self._kept.offer(progress, ended=ended)
        if not ended or self._open is None or self._taken or progress.record.run is not None:
            return
        training, start, streams = self._open
        about = {
            "start": start, "run": self._run, "peaks": self._kept.peaks(), "resumed": self._kept.resumed,
            "joules": self._energy.joules() if self._whole else None,
        }  # fmt: skip
        try:
            packed = checkpoint.pack(progress.outcome(streams))
            checkpoint.write(file(training.key), self._about | about, packed)
            tidy(limit())
        except OSError as error:
            reason = error.strerror or error
            self._say(f"{training.phase} cannot be kept for other runs: {reason}")

    def _take(self, progress: Progress, training: Training, start: str, streams: Tree) -> None:
        path, phase = file(training.key), training.phase
        if not path.exists():
            if training.key in self._expected:
                self._say(f"the shared training of {phase} is gone, it is trained again")
            return
        try:
            about, found = checkpoint.read(path, self._about)
            alike = about["start"] == start and progress.draws_alike(found, streams)
        except (OSError, ValueError, KeyError, TypeError) as error:
            self._say(f"shared training {path} is ignored, {phase} is trained again: {error}")
            with suppress(OSError):
                path.unlink()
            return
        if not alike:
            self._open = None
            # What is pretrained may have been so on other pairs, and rightly begins otherwise.
            if training.counts:
                self._say(f"{phase} begins otherwise than {path} did, and is trained by itself")
            return
        try:
            progress.take_over(found, None if about["run"] == self._run else about["run"])
        except Exception as error:
            with suppress(OSError):
                path.unlink()
            text = str(error).partition("\n")[0]
            raise MisfitError(f"{path}: {type(error).__name__}: {text}") from error
        self._taken = True
        progress.record.joules = about["joules"]
        self._kept.add_peaks(about["peaks"])
        with suppress(OSError):
            os.utime(path)
        if about["run"] == self._run:
            self._kept.resumed = max(self._kept.resumed, about["resumed"] + 1)
            self._say(f"{phase}: trained before by this run, taken up at its end")
        else:
            self._say(f"{phase}: taken over from run {about['run']}, which trained the same")


def _digest(tree: Tree) -> str:
    """Digest of a tree with its arrays."""
    text, arrays = checkpoint.pack(tree)
    found = hashlib.blake2b(text.encode(), digest_size=20)
    for array in arrays:
        found.update(f"{array.dtype} {array.shape}".encode())
        found.update(array.reshape(-1).view("uint8").data)
    return found.hexdigest()
