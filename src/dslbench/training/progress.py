"""Where a phase of training stands, and who keeps it."""

from __future__ import annotations

from torch import Tensor

from dslbench.seeds import Streams
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


class Keeper:
    """Keeps the progress of a run's phases; this one keeps nothing."""

    def enter(self, progress: Progress) -> None:
        """A phase begins: bring it to where it was kept last."""

    def offer(self, progress: Progress, *, ended: bool = False) -> None:
        """An epoch is done, or the phase is: keep it if that is due."""
