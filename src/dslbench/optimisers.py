"""torch's optimisers without its compiler, and a rate of their own for some parameters.

torch marks the methods of optimisers as not to be compiled, and loads its whole compiler when the first of
them is called: a second and 70 MiB in each process. Nothing is compiled here, so these classes call what is
beneath the marks; where there are none, they are torch's own.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

_Class = TypeVar("_Class", bound=type[torch.optim.Optimizer])


def _unmarked(kind: _Class) -> _Class:
    """The class with plain methods in place of those that are marked."""
    for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict", "step"):
        method = inspect.getattr_static(kind, name)
        if inspect.isfunction(method):
            plain = inspect.unwrap(method)
            # The marks of `step` turn gradients off, too.
            setattr(kind, name, torch.no_grad()(plain) if name == "step" else plain)
    return kind


@_unmarked
class Adam(torch.optim.Adam):
    """Adam (Kingma & Ba, 2015)."""


@_unmarked
class SGD(torch.optim.SGD):
    """Stochastic gradient descent."""


@_unmarked
class Adagrad(torch.optim.Adagrad):
    """Adagrad (Duchi et al., 2011)."""


def own_rate(optimiser: torch.optim.Optimizer, parameters: Sequence[Tensor], factor: float) -> None:
    """Give parameters a learning rate of `factor` times the others', now and after each epoch."""
    chosen = {id(p) for p in parameters}
    for group in optimiser.param_groups:
        group["params"] = [p for p in group["params"] if id(p) not in chosen]
    rate = optimiser.param_groups[0]["lr"]
    optimiser.add_param_group({"params": parameters, "lr": factor * rate, "lr_factor": factor})
