"""What a method does within the training loop, and what the loop shows of itself."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dslbench.backbones.base import Backbone
from dslbench.cost import counted
from dslbench.evaluation.metrics import SELECTION
from dslbench.training.state import SAME, Tree, capture, restored


class Hooks:
    """What a method may do between the steps of a phase; the defaults do nothing."""

    def begin(self, loop: Loop) -> None:
        """Before the first step; the model and the optimiser are made."""

    def before_step(self, loop: Loop) -> None:
        """An iteration begins; nothing of it has been computed."""

    def loss(self, loop: Loop, batch: Any) -> Tensor:
        """The backbone's loss; a method that has something to do before or beside it does it here."""
        return loop.model.loss(batch)

    def extra_loss(self, loop: Loop, batch: Any) -> Tensor | None:
        """A term added to the backbone's loss."""
        return None

    def modules(self) -> Iterator[nn.Module]:
        """Modules that `loss` and `extra_loss` call, the model's aside: what runs in them is counted.

        By default all that are attributes of the hooks.
        """
        return (value for value in vars(self).values() if isinstance(value, nn.Module))

    def dense_gradient(self, loop: Loop) -> bool:
        """Whether this iteration uses the gradients of pruned entries, too; a question of cost."""
        return False

    def after_backward(self, loop: Loop) -> bool:
        """Gradients are there. Return False to leave out this iteration's optimiser step."""
        return True

    def after_step(self, loop: Loop) -> None:
        """The optimiser has stepped (or was left out)."""

    def may_be_selected(self, loop: Loop) -> bool:
        """Whether the model as it is at the end of this epoch could be stored; at the last one it must."""
        return True

    def selected(self, loop: Loop) -> None:
        """The model as it is now is the best so far, and will be stored if none is better."""

    def plain(self) -> bool:
        """Whether what they do in the coming phase follows from the state of model and streams alone.

        Then the phase may be taken over from another run that began it in the same state. By default
        where a subclass overrides none of them.
        """
        return acts_as(self, Hooks)

    def remembered(self, loop: Loop) -> dict[str, Tree]:
        """What a checkpoint keeps of the hooks at the end of an epoch.

        By default the attributes that are numbers, strings, arrays or tensors, lists, tuples or
        dicts of these, modules outside the model, optimisers, or `Resumable`. Everything else is
        made again by running `Method.run` and `begin`.
        """
        known = set(loop.model.modules())
        found = {name: capture(value, known) for name, value in vars(self).items()}
        return {name: tree for name, tree in found.items() if tree is not SAME}

    def recall(self, loop: Loop, found: dict[str, Tree]) -> None:
        """Put back what `remembered` gave; `begin` has been called."""
        for name, tree in found.items():
            setattr(self, name, restored(getattr(self, name, None), tree))


# All but the question itself; a hook that is added later is among them.
_HOOKS = tuple(name for name in vars(Hooks) if not name.startswith("_") and name != "plain")


def acts_as(hooks: Hooks, kind: type[Hooks]) -> bool:
    """Whether all that hooks do in a phase is what a class of them does, or nothing."""
    return all(
        getattr(type(hooks), name) in (getattr(kind, name), getattr(Hooks, name)) for name in _HOOKS
    )


@dataclass
class Loop:
    """State of a phase that hooks read.

    `t` counts iterations from 1 to `total`; `note` adds up a diagnostic within the epoch, whose
    mean goes into the history.
    """

    model: Backbone
    optimiser: torch.optim.Optimizer
    total: int
    batch_size: int
    epochs: int = 1
    t: int = 0
    epoch: int = 0
    stop: bool = False  # a hook sets it to end the phase after this iteration
    notes: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    step_seconds: list[float] = field(default_factory=list)  # of this epoch

    def note(self, name: str, value: float) -> None:
        """Record a diagnostic value for the current epoch."""
        self.notes[name].append(value)


def rise_of(history: Sequence[Mapping[str, Any]]) -> float | None:
    """By how much the best quality so far grew over the last fifth of the epochs, relative to what it was.

    Args:
        history: rows of a phase by epoch; those that were evaluated have the metric that selects epochs.

    None where fewer than four epochs before were evaluated, which says nothing, or nothing was found.
    """
    tried = [(row["epoch"], row[SELECTION]) for row in history if SELECTION in row]
    begin = 0.8 * history[-1]["epoch"] if history else 0
    before = [quality for epoch, quality in tried if epoch <= begin]
    if len(before) < 4 or max(before) == 0:
        return None
    return float(max(quality for _, quality in tried) / max(before) - 1)


@dataclass
class Phase:
    """What one phase did: its share of the bill, and its history by epoch."""

    name: str
    epochs: int
    steps: int = 0
    train_seconds: float = 0.0
    eval_seconds: float = 0.0
    selected_epoch: int | None = None
    selected_value: float | None = None
    rise: float | None = None  # see `rise_of`
    state_bytes: int | None = None  # of tables and optimiser, at the end
    history: list[dict[str, Any]] = field(default_factory=list)
    ledger: counted.Ledger = field(default_factory=counted.Ledger)
    run: str | None = None  # id of the stored run whose bill this is, shared by all that need it
    joules: float | None = None  # of that run

    def state(self) -> dict[str, Tree]:
        """What has been done so far."""
        return vars(self) | {"ledger": self.ledger.state()}

    def restore(self, found: dict[str, Tree]) -> None:
        """Take over what had been done; times and MACs are added to."""
        self.ledger.restore(found["ledger"])
        vars(self).update({name: part for name, part in found.items() if name != "ledger"})
