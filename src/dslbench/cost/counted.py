"""Counted cost: multiply-accumulates of what really runs, from realised non-zeros.

thop walks the operations and adds up; what each one costs is its own rule (`ops.base.Op.macs`).
thop's own rules are never used: they know no sparsity, no look-ups and no backward pass.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from dslbench.backbones.base import Backbone
from dslbench.errors import RunError
from dslbench.evaluation.ranking import users_per_block
from dslbench.ops.base import Macs, Op
from dslbench.ops.layers import SeededDropout
from dslbench.ops.row_norm import RowNorm

T = TypeVar("T")

# Modules that may run uncounted: they only pass on, or work entry by entry.
FREE: frozenset[type[nn.Module]] = frozenset(
    {nn.Dropout, nn.Flatten, nn.GELU, nn.Identity, nn.LeakyReLU, nn.ReLU, nn.Sequential}
    | {nn.Sigmoid, nn.SiLU, nn.Softmax, nn.LogSoftmax, nn.Softplus, nn.Tanh, RowNorm, SeededDropout}
)
# What multiplies matrices or convolves, by torch's names for it: only operations may do that.
PRODUCTS = frozenset(
    {"addbmm", "addmm", "addmv", "baddbmm", "bmm", "dot", "linear", "matmul", "mm", "mv", "vdot"}
    | {"convolution", "convolution_overrideable", "mkldnn_convolution", "mkldnn_linear"}
    | {"_cdist_forward", "_sparse_addmm", "_sparse_mm", "_weight_int8pack_mm"}
    | {"addr", "outer", "ger", "_addmm_activation", "_int_mm", "_trilinear", "sparse_sampled_addmm"}
    | {"linalg_matrix_exp", "matrix_exp", "lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell"}
    | {"_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention"}
    | {"_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention"}
)
_HINT = "write it as an operation with a rule: dslbench.ops.base.Op"
# A full ranking is counted on all users up to so many MACs, else on as many users as they buy.
RANKING_MACS = 10**11


def engine() -> str:
    """Name and version of the installed thop.

    Raises:
        RunError: when it cannot be imported, or when ultralytics-thop (AGPL-3.0, another package under the
            same import name) is installed: which of the two is imported cannot be told.
    """
    hint = "pip uninstall -y ultralytics-thop thop && pip install thop"
    try:
        fork = version("ultralytics-thop")
    except PackageNotFoundError:
        pass
    else:
        raise RunError(f"MACs are not counted with ultralytics-thop {fork}, only with thop", hint)
    try:
        import_module("thop")  # which needs distutils, gone from Python 3.12 but for setuptools
        return f"thop {version('thop')}"
    except ImportError as error:
        raise RunError(f"thop, which counts MACs, cannot be imported: {error}", hint) from None


def ops_of(*roots: nn.Module) -> list[Op]:
    """The operations below some modules, each once."""
    found = {id(m): m for root in roots for m in root.modules() if isinstance(m, Op)}
    return list(found.values())


def count(call: Callable[[], T], ops: list[Op]) -> tuple[T, Macs]:
    """Call a function, and count the operations that run in it.

    The call is made once, in the present gradient mode, and its result is that of an uncounted one:
    operations have no mode, and thop leaves no hook and no buffer behind, also when the call fails.

    Raises:
        RunError: when a module runs that has no rule, or an operation that is not among `ops`.
    """
    import thop

    probe = _Probe(call, ops)
    modes = [op.training for op in ops]
    backward = dense_backward = 0

    def rule(op: Any, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal backward, dense_backward
        macs = op.macs(*inputs)
        op.total_ops += macs.forward
        backward += macs.backward
        dense_backward += macs.dense_backward

    rules = {type(op): rule for op in ops}
    with _nothing_uncounted(ops):
        forward, _ = thop.profile(probe, inputs=(), custom_ops=rules, verbose=False)
    for op, mode in zip(ops, modes, strict=True):
        op.training = mode
    if probe.error is not None:
        raise probe.error
    # thop leaves the probe in a circle of references, which would keep the result for a while.
    result = probe.result
    del probe.result
    return result, Macs(int(forward), backward, dense_backward)


class _Probe(nn.Module, Generic[T]):
    """What thop profiles: the operations side by side, and a call that runs them.

    A flat list, because thop counts a module twice that is reached by two paths. The call's error
    is kept until thop is through, because thop cleans up only after a forward without errors.
    """

    result: T

    def __init__(self, call: Callable[[], T], ops: list[Op]) -> None:
        super().__init__()
        self.ops = nn.ModuleList(ops)
        self.call, self.gradients = call, torch.is_grad_enabled()
        self.error: BaseException | None = None

    def forward(self) -> None:
        try:
            with torch.set_grad_enabled(self.gradients):  # thop turns gradients off
                self.result = self.call()
        except BaseException as error:
            self.error = error


@contextmanager
def _nothing_uncounted(ops: list[Op]) -> Iterator[None]:
    """Raise an error from any module, and any matrix product or convolution, that would not be counted."""
    known, guard = {id(op) for op in ops}, _Guard()

    def enter(module: nn.Module, inputs: Any) -> None:
        guard.running.append(type(module))

    def check(module: nn.Module, inputs: Any, output: Any) -> None:
        kind = type(module)
        guard.running.pop()
        if id(module) in known or kind in FREE or kind is _Probe:
            return
        if isinstance(module, Op):
            raise RunError(
                f"{kind.__name__} runs outside the model and would not be counted",
                "keep it as an attribute of the model or of the method",
            )
        # A module of modules is seen through its parts, but torch's own also call functions.
        if not list(module.children()) or kind.__module__.startswith("torch.nn"):
            raise RunError(f"no rule says how many MACs {kind.__name__} takes", _HINT)

    handles = (
        nn.modules.module.register_module_forward_pre_hook(enter),
        nn.modules.module.register_module_forward_hook(check),
    )
    try:
        with guard:
            yield
    finally:
        for handle in handles:
            handle.remove()


class _Guard(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses products that no operation has made."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch loads its compiler: 70 MiB and a second in every run

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.running: list[type[nn.Module]] = []  # modules, the innermost last

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__.rstrip("_")  # in place alike
        if name in PRODUCTS and not self._is_billed():
            what = f"{name} at {_caller()}"
            if self.running and self.running[-1].__module__.startswith("torch.nn"):
                what = f"{self.running[-1].__name__} ({what})"
            raise RunError(f"no rule says how many MACs {what} takes", _HINT)
        return func(*args, **(kwargs or {}))

    def _is_billed(self) -> bool:
        """Whether an operation makes the product, or its backward pass, which its rule has in it."""
        in_backward = torch._C._current_autograd_node() is not None
        return in_backward or any(issubclass(kind, Op) for kind in self.running)


def _caller() -> str:
    """File and line of the code outside torch, and outside this file, that is running."""
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        if "torch" not in path.parts and frame.filename != __file__:
            return f"{path.name}, line {frame.lineno}"
    return "an unknown place"


class Ledger:
    """MACs of the steps and evaluations of one phase.

    Steps are counted now and then, the others taken as the last one counted. The last batch of an
    epoch is apart: it may be smaller.

    Attributes:
        steps: iterations.
        dense_steps: those that needed the gradients of pruned entries.
        train_macs: forward and backward of all steps.
        eval_macs: scoring for the selection of the epoch, which `train_macs` leaves out.
    """

    def __init__(self) -> None:
        self.steps = self.dense_steps = self.train_macs = self.eval_macs = 0
        self._usual = self._last = Macs(0)
        self._evaluation: int | None = None

    def step(
        self, loss: Callable[[], T], ops: list[Op], *, count_it: bool, last: bool, dense: bool
    ) -> T:
        """Compute the loss of a step and enter its cost.

        Args:
            count_it: count this step anew.
            last: whether it is the last of its epoch.
            dense: whether the step needs the gradients of pruned entries.
        """
        if count_it:
            value, macs = count(loss, ops)
            if last:
                self._last = macs
            else:
                self._usual = macs
        else:
            value = loss()
        macs = self._last if last else self._usual
        self.steps += 1
        self.dense_steps += dense
        self.train_macs += macs.forward + (macs.dense_backward if dense else macs.backward)
        return value

    def evaluation(self, evaluate: Callable[[], T], ops: list[Op]) -> T:
        """Evaluate and enter the cost; the phase's first evaluation is counted, others are like it."""
        if self._evaluation is None:
            value, macs = count(evaluate, ops)
            self._evaluation = macs.forward
        else:
            value = evaluate()
        self.eval_macs += self._evaluation
        return value

    def state(self) -> dict[str, Any]:
        """All numbers, those of the last counts too, for a checkpoint."""
        return {name: tuple(x) if isinstance(x, Macs) else x for name, x in vars(self).items()}

    def restore(self, found: dict[str, Any]) -> None:
        """Go on from these numbers."""
        vars(self).update(
            {name: Macs(*x) if isinstance(x, tuple) else x for name, x in found.items()}
        )

    def summary(self) -> dict[str, Any]:
        """Its numbers, for the record."""
        return {
            "steps": self.steps,
            "dense_gradient_steps": self.dense_steps,
            "macs_per_step": self.train_macs / self.steps if self.steps else None,
            "train_macs": self.train_macs,
            "eval_macs": self.eval_macs,
        }


def full_ranking(model: Backbone, n_users: int, n_items: int) -> tuple[int, int]:
    """MACs of scoring all items for all users once, and the number of users that were counted.

    What all users share (`Backbone.scorer`) is counted once. Where scoring everybody would take
    more than `RANKING_MACS`, as with ConvNCF, evenly spaced users stand for all.
    """
    ops, device = ops_of(model), model.device
    score, shared = count(model.scorer, ops)

    def cost(users: torch.Tensor) -> int:
        return count(lambda: score(users.to(device)), ops)[1].forward

    everybody = torch.arange(n_users)
    affordable = max(1, RANKING_MACS // max(1, cost(everybody[:1])))
    if affordable < n_users:
        everybody = torch.linspace(0, n_users - 1, affordable).long()
    block = users_per_block(n_items)
    counted = sum(cost(part) for part in torch.split(everybody, block))
    return shared.forward + counted * n_users // len(everybody), len(everybody)
