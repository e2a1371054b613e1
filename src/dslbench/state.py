"""What a training remembers, as plain trees that a checkpoint can keep.

A tree is made of None, numbers, strings, arrays and tensors, in lists, tuples and dicts. `capture`
makes one of an object's value, `restored` gives the value back; both leave alone what they don't know
(options, data, other objects), which is made again by running the same code.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from dslbench.hooks import Hooks, Loop, Phase
    from dslbench.seeds import Streams

Tree = Any


class Same:
    """Stands in a tree for a value that is not kept: it stays what it is."""


SAME: Final = Same()


@runtime_checkable
class Resumable(Protocol):
    """An object that says itself what is to be kept of it."""

    def progress(self) -> Tree:
        """A tree of all that changes."""

    def resume(self, found: Tree) -> None:
        """Become what the tree says."""


def capture(value: Any, known: Collection[nn.Module] = ()) -> Tree:
    """The tree of a value; tensors are not copied.

    Args:
        known: modules that are kept elsewhere.
    """
    if value is None or isinstance(value, bool | int | float | str | np.ndarray | np.generic):
        return value
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, nn.Module):
        if value in known:
            return SAME
        return {
            "weights": value.state_dict(),
            "more": [part.progress() for part in _resumable(value)],
        }
    if isinstance(value, torch.optim.Optimizer):
        return value.state_dict()
    if isinstance(value, Resumable):
        return value.progress()
    if type(value) in (list, tuple):
        return type(value)(capture(part, known) for part in value)
    if isinstance(value, dict):
        return {key: capture(part, known) for key, part in value.items()}
    return SAME


@torch.no_grad()
def restored(value: Any, found: Tree) -> Any:
    """What the tree stands for; `value` is what is there now.

    Modules, optimisers, parameters and stateful objects are changed in place, as others hold them;
    they must be there. Everything else is new.
    """
    if found is SAME:
        return value
    if isinstance(value, nn.Module):
        value.load_state_dict(restored(value.state_dict(), found["weights"]))
        for part, own in zip(_resumable(value), found["more"], strict=True):
            part.resume(restored(part.progress(), own))
        return value
    if isinstance(value, torch.optim.Optimizer):
        value.load_state_dict(restored(value.state_dict(), found))
        return value
    if isinstance(value, nn.Parameter) and isinstance(found, Tensor):
        return value.copy_(found)
    if isinstance(value, Resumable):
        value.resume(restored(value.progress(), found))
        return value
    if isinstance(found, list | tuple):
        now = list(value) if isinstance(value, list | tuple) else []
        now += [None] * (len(found) - len(now))
        return type(found)(restored(a, b) for a, b in zip(now, found, strict=False))
    if isinstance(found, dict):
        now_at = value if isinstance(value, dict) else {}
        return {key: restored(now_at.get(key), part) for key, part in found.items()}
    return found


def _resumable(module: nn.Module) -> list[Resumable]:
    """The modules that keep more than weights and buffers, in order."""
    return [part for part in module.modules() if isinstance(part, Resumable)]


def digests(tree: Tree) -> Tree:
    """The tree with a digest in place of each array."""
    if isinstance(tree, np.ndarray | Tensor):
        array = np.ascontiguousarray(tree.cpu().numpy() if isinstance(tree, Tensor) else tree)
        found = hashlib.blake2b(f"{array.dtype} {array.shape}".encode())
        found.update(array.reshape(-1).view(np.uint8).data)
        return found.digest()
    if isinstance(tree, list | tuple):
        return [digests(part) for part in tree]
    if isinstance(tree, dict):
        return {key: digests(part) for key, part in tree.items()}
    return None


def changed(tree: Tree, before: Tree) -> Tree:
    """The tree without the arrays that are what they were when the digests were taken."""
    if isinstance(tree, np.ndarray | Tensor):
        return SAME if before is not None and digests(tree) == before else tree
    if isinstance(tree, list | tuple):
        known = (
            before if isinstance(before, list) and len(before) == len(tree) else [None] * len(tree)
        )
        return type(tree)(changed(a, b) for a, b in zip(tree, known, strict=True))
    if isinstance(tree, dict):
        at = before if isinstance(before, dict) else {}
        return {key: changed(part, at.get(key)) for key, part in tree.items()}
    return tree


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
