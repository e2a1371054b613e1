"""Where a phase of training stands, and who keeps it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dslbench.cost import measured
from dslbench.seeds import Streams
from dslbench.tables import DenseMaskedTable, DenseTable, PackedTable
from dslbench.training.hooks import Hooks, Loop, Phase
from dslbench.training.state import Tree, capture, changed, digests, restored


class Progress:
    """All that decides how a phase goes on from the end of an epoch.

    Made before the first step, when the hooks have begun. What hooks hold and have not changed since
    `mark_start` is not kept: running the same code makes it again.
    """

    def __init__(self, loop: Loop, hooks: Hooks, record: Phase, streams: Streams) -> None:
        self.loop, self.hooks, self.record, self.streams = loop, hooks, record, streams
        self.best: dict[str, Tensor] | None = None  # the model at its selected epoch
        self.setting: dict[str, Tree] = {}  # what decides the phase, but for state and hooks
        self._at_start: Tree = None

    @property
    def finished(self) -> bool:
        """Whether all epochs are done."""
        return self.loop.stop or self.loop.epoch >= self.record.epochs

    def mark_start(self) -> None:
        """Note what hooks hold at the start, to tell what changes."""
        self._at_start = digests(self.hooks.remembered(self.loop))

    def keep_best(self) -> None:
        """Remember the model as it is."""
        self.best = {name: x.detach().clone() for name, x in self.loop.model.state_dict().items()}

    def take_best(self) -> None:
        """Put the remembered model in place, if there is one."""
        if self.best is not None:
            self.loop.model.load_state_dict(self.best)
            self.best = None

    def state(self, *, ended: bool) -> Tree:
        """The tree; at the end of a phase without optimiser and best epoch."""
        loop, record = self.loop, self.record
        tree = {
            "loop": {"t": loop.t, "epoch": loop.epoch, "stop": loop.stop},
            "record": record.state(),
            "model": capture(loop.model),
            "hooks": changed(self.hooks.remembered(loop), self._at_start),
            "streams": self.streams.root.state(),
        }
        if not ended:
            tree |= {"optimiser": loop.optimiser.state_dict(), "best": self.best}
        return tree

    def restore(self, found: Tree) -> None:
        """Become what the tree says. Raises whatever a tree that doesn't fit leads to."""
        vars(self.loop).update(found["loop"])
        self.record.restore(found["record"])
        self.hooks.recall(self.loop, found["hooks"])
        restored(self.loop.model, found["model"])
        self.streams.root.restore(found["streams"])
        if "optimiser" in found:
            restored(self.loop.optimiser, found["optimiser"])
            self.best = found["best"]

    def beginning(self) -> Tree:
        """All that decides a phase of plain hooks, besides the random streams it draws from.

        To be asked for before the first step. A mask that leaves all entries live is left out: such a
        table is trained as a dense one.
        """
        model = self.loop.model
        parts = {name: _nature(part) for name, part in model.named_modules()}
        return {
            "setting": self.setting,
            "parts": parts,
            "state": _without_full_masks(capture(model)),
        }

    def outcome(self, drawn_from: Tree) -> Tree:
        """What the phase ended with, for others that begin it in the same state.

        Args:
            drawn_from: where the random streams stood at its beginning.
        """
        model, record, streams = self.loop.model, self.record, self.streams.root
        moved = {
            path: (start, end)
            for path, end in streams.state().items()
            if (start := drawn_from.get(path) or streams.at_start(path)) != end
        }
        optimiser = (record.state_bytes or 0) - measured.state_bytes(model)
        return {
            "loop": {"t": self.loop.t, "epoch": self.loop.epoch, "stop": self.loop.stop},
            "record": record.state() | {"state_bytes": optimiser},
            "model": _without_full_masks(capture(model)),
            "streams": moved,
        }

    def draws_alike(self, found: Tree, drawn_from: Tree) -> bool:
        """Whether random streams stood at the beginning where those of that outcome's phase did."""
        streams = self.streams.root
        return all(
            start == (drawn_from.get(path) or streams.at_start(path))
            for path, (start, _) in found["streams"].items()
        )

    def take_over(self, found: Tree, run: str | None) -> None:
        """Become what the same phase ended with before; its whole bill is ours.

        Args:
            run: the id of the run that trained it, None where it was this one.
        """
        loop, name = self.loop, self.record.name
        history = [row | {"phase": name} for row in found["record"]["history"]]
        vars(loop).update(found["loop"])
        own = capture(loop.model)
        weights = own["weights"] | found["model"]["weights"]
        restored(loop.model, found["model"] | {"weights": weights})
        self.streams.root.restore({path: end for path, (_, end) in found["streams"].items()})
        self.best = None
        held = measured.state_bytes(loop.model) + found["record"]["state_bytes"]
        self.record.restore(
            found["record"] | {"name": name, "history": history, "state_bytes": held, "run": run}
        )


def _nature(part: torch.nn.Module) -> tuple[str, Tree]:
    """What a module is besides its state: its class, and the numbers and words it was made with."""
    kind = type(part)
    known = kind in (DenseTable, DenseMaskedTable, PackedTable)
    if known and isinstance(part, DenseTable) and part.live() == part.spec.n_rows * part.spec.dim:
        return "table", part.spec.name
    words = {
        name: value
        for name, value in vars(part).items()
        if isinstance(value, bool | int | float | str) and name != "training"
    }
    return f"{kind.__module__}.{kind.__qualname__}", words


def _without_full_masks(tree: dict[str, Any]) -> dict[str, Any]:
    kept = {
        name: x for name, x in tree["weights"].items() if x.dtype != torch.bool or not bool(x.all())
    }
    return tree | {"weights": kept}


class Keeper:
    """Keeps the progress of a run's phases; this one keeps nothing."""

    def enter(self, progress: Progress) -> None:
        """A phase begins: bring it to where it was kept last."""

    def offer(self, progress: Progress, *, ended: bool = False) -> None:
        """An epoch is done, or the phase is: keep it if that is due."""
