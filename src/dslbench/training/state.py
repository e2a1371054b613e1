"""What a training remembers, as plain trees that a checkpoint can keep.

A tree is made of None, numbers, strings, arrays and tensors, in lists, tuples and dicts. `capture`
makes one of an object's value, `restored` gives the value back; both leave alone what they don't know
(options, data, other objects), which is made again by running the same code.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

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
