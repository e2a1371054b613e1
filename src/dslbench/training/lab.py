"""The training loop: one, for every backbone and method. Methods act through its hooks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from dslbench.backbones.base import Backbone, Hyper
from dslbench.cost import counted, measured
from dslbench.data.interactions import Interactions
from dslbench.errors import DivergedError, RunError
from dslbench.evaluation.evaluate import Evaluation, evaluate, evaluate_sampled, pairs_of_items
from dslbench.evaluation.metrics import SELECTION
from dslbench.sampling.triples import Sampler
from dslbench.seeds import Streams
from dslbench.tables import DenseTable, MakeTable
from dslbench.training.hooks import Hooks, Loop, Phase, rise_of
from dslbench.training.progress import Keeper, Progress

T = TypeVar("T")
Emit = Callable[[dict[str, Any]], None]


class Lab:
    """What a method works with: data, a way to build the backbone, and the training loop.

    `hyper` is the size of the models that are built, `full_hyper` that of the dense run they are
    compared with. `find_teacher` returns that run's trained model, and its bill as one phase.

    With a `keeper` a run that was broken off goes on: the method runs again from its start, and each
    `fit` takes up its phase where it was kept last, at its end if it was done.
    """

    def __init__(
        self,
        data: Interactions,
        backbone: type[Backbone],
        hyper: Hyper,
        *,
        epochs: int,
        seed: int,
        device: torch.device | None = None,
        emit: Emit | None = None,
        full_hyper: Hyper | None = None,
        find_teacher: Callable[[], tuple[Backbone, Phase]] | None = None,
        keeper: Keeper | None = None,
    ) -> None:
        self.full_hyper, self.find_teacher = full_hyper or hyper, find_teacher
        self.data, self.hyper, self.epochs, self.seed = data, hyper, epochs, seed
        self.backbone, self.keeper = backbone, keeper or Keeper()
        self.streams = Streams(seed)
        self.device = device or torch.device("cpu")
        self.phases: list[Phase] = []
        self._pretrained: dict[str, dict[str, Tensor] | None] = {}
        self._emit = emit or (lambda event: None)

    @property
    def selects_on(self) -> str:
        """Which part chooses the epoch: validation, or test where the protocol has no validation."""
        return "valid" if self.data.valid.nnz else "test"

    def build(
        self, make_table: MakeTable = DenseTable, reinit: str = "", *, pretrained: bool = True
    ) -> Backbone:
        """A new, seeded backbone over tables of the given kind, on the lab's device.

        Its initial values are the same each time; `reinit` names others. They include what the
        backbone pretrains, unless `pretrained` is false: for a model that is filled otherwise.
        """
        streams = self.streams.child(reinit) if reinit else self.streams
        model = self.backbone(self.data, self.hyper, make_table, streams).to(self.device)
        if pretrained:
            if reinit not in self._pretrained:
                self._pretrained[reinit] = self.backbone.pretrain(self, streams)
            model.take(self._pretrained[reinit] or {})
        return model

    def fit_other(
        self, backbone: type[Backbone], hyper: Hyper, phase: str, streams: Streams,
        start: Mapping[str, Tensor] | None = None, select: bool = True,
    ) -> Backbone:  # fmt: skip
        """Train another, dense backbone on the same data for `hyper.epochs` epochs; its bill is ours.

        Args:
            start: values of parameters by name to begin from.
            select: whether the best epoch is kept, or the last.
        """
        other = Lab(
            self.data, backbone, hyper, epochs=hyper.epochs, seed=self.seed, device=self.device,
            emit=self._emit, keeper=self.keeper,
        )  # fmt: skip
        other.streams, other.phases = streams.child(phase), self.phases
        model = other.build()
        model.take(start or {})
        other.fit(model, phase, select=select)
        return model

    def teacher(self) -> Backbone:
        """The trained model of the dense run of the same setting, frozen; its bill is ours too.

        Raises `RunError` where there is none.
        """
        if self.find_teacher is None:
            raise RunError("this training has no teacher to learn from")
        model, bill = self.find_teacher()
        self.phases.append(bill)
        return model.eval().requires_grad_(False)

    def work(self, phase: str, call: Callable[[], T], *modules: nn.Module) -> T:
        """Work outside a training loop, billed as a phase without steps; its result.

        What runs in operations of `modules` is counted.
        """
        record = Phase(phase, epochs=0)
        self.phases.append(record)
        began = time.perf_counter()
        result, macs = counted.count(call, counted.ops_of(*modules))
        record.train_seconds = time.perf_counter() - began
        record.ledger.train_macs = macs.forward
        return result

    def variation(
        self, *, train: sparse.csr_matrix | None = None, epochs: int | None = None
    ) -> Lab:
        """The same lab with other training pairs, or for another number of epochs; one bill."""
        other = Lab(
            self.data if train is None else replace(self.data, train=train),
            self.backbone, self.hyper, epochs=epochs or self.epochs, seed=self.seed,
            device=self.device, emit=self._emit, full_hyper=self.full_hyper, keeper=self.keeper,
        )  # fmt: skip
        other.streams, other.phases = self.streams, self.phases
        return other

    def evaluate(self, model: Backbone, part: str) -> Evaluation:
        """Rank on "valid" or "test": all items but those of earlier parts, or the sampled ones."""
        data = self.data
        truth, seen = (
            (data.valid, data.seen_before_valid)
            if part == "valid"
            else (data.test, data.seen_before_test)
        )
        model.eval()
        popularity = pairs_of_items(data.train)
        if data.negatives is not None:
            result = evaluate_sampled(
                model.candidate_scorer(), truth, data.negatives, popularity=popularity,
                seed=self.seed, device=self.device,
            )  # fmt: skip
        else:
            result = evaluate(
                model.scorer(), truth, seen, popularity=popularity, seed=self.seed,
                device=self.device,
            )  # fmt: skip
        model.train()
        return result

    def fit(
        self,
        model: Backbone,
        phase: str = "train",
        hooks: Hooks | None = None,
        *,
        select: bool = True,
        lr_factor: float = 1.0,
    ) -> Phase:
        """Train for the lab's epochs and leave the model at its best epoch.

        Optimiser and schedule are new in each phase; the schedule spans exactly the epochs that
        are run. Without `select` nothing is evaluated and the model stays as it is at the end.
        Raises `DivergedError` when the loss stops being a number.
        """
        hooks = hooks or Hooks()
        record = Phase(phase, self.epochs)
        self.phases.append(record)
        sampler = model.sampler(self.data, self.hyper, self.streams, self.device)
        optimiser = model.optimiser(self.hyper)
        loop = Loop(
            model, optimiser, self.epochs * sampler.steps, self.hyper.batch_size, self.epochs
        )
        hooks.begin(loop)
        model.train()
        progress = Progress(loop, hooks, record, self.streams)
        progress.setting = {
            "data": self.data.digests, "protocol": self.data.protocol, "seed": self.seed,
            "streams": self.streams.path, "hyper": self.hyper.model_dump(mode="json"),
            "epochs": self.epochs, "select": select, "lr_factor": lr_factor,
        }  # fmt: skip
        self.keeper.enter(progress)
        if record.history:
            self._report(record)
        while not progress.finished:
            loop.epoch += 1
            rate = lr_factor * learning_rate(self.hyper, loop.epoch, self.epochs)
            row: dict[str, Any] = {"phase": phase, "epoch": loop.epoch}
            row |= self._train_epoch(loop, sampler, hooks, record, rate)
            if select and self._is_due(loop.epoch) and hooks.may_be_selected(loop):
                optimiser.zero_grad(set_to_none=True)  # their memory is for the ranking
                before, result = record.eval_seconds, self._tried(record, model)
                row |= result.means | {"eval_seconds": record.eval_seconds - before}
                reached = result.mean(SELECTION)
                if record.selected_value is None or reached > record.selected_value:
                    record.selected_epoch, record.selected_value = loop.epoch, reached
                    progress.keep_best()
                    hooks.selected(loop)
            record.history.append(row)
            self._report(record)
            self.keeper.offer(progress)
        record.rise = rise_of(record.history)
        if record.state_bytes is None:
            record.state_bytes = measured.state_bytes(model, optimiser)
        progress.take_best()
        self.keeper.offer(progress, ended=True)
        return record

    def trial(self, record: Phase, model: Backbone) -> float:
        """What chooses epochs, of a model as it is; billed to a phase."""
        return self._tried(record, model).mean(SELECTION)

    def _tried(self, record: Phase, model: Backbone) -> Evaluation:
        began = time.perf_counter()
        result = record.ledger.evaluation(
            lambda: self.evaluate(model, self.selects_on), counted.ops_of(model)
        )
        record.eval_seconds += time.perf_counter() - began
        return result

    def _report(self, record: Phase) -> None:
        self._emit({"event": "epoch", "epochs": self.epochs} | record.history[-1])

    def _train_epoch(
        self, loop: Loop, sampler: Sampler, hooks: Hooks, record: Phase, rate: float
    ) -> dict[str, Any]:
        """Train for an epoch at a learning rate; its row of the history."""
        for group in loop.optimiser.param_groups:
            group["lr"] = rate * group.get("lr_factor", 1.0)
        began = time.perf_counter()
        before = loop.t
        try:
            loss = self._epoch(loop, sampler, hooks, record.ledger)
        finally:  # one that diverges has a bill, too
            seconds = time.perf_counter() - began
            record.train_seconds += seconds
            record.steps += loop.t - before
        if not all(bool(p.isfinite().all()) for p in loop.model.parameters()):
            raise DivergedError(
                f"weights of the model stopped being numbers in epoch {loop.epoch}",
                f"lower the learning rate: --set lr={self.hyper.lr / 10:g}",
            )
        row: dict[str, Any] = {"loss": loss, "lr": rate}
        row |= {name: sum(values) / len(values) for name, values in loop.notes.items()}
        row["step_seconds"] = np.percentile(loop.step_seconds, [25, 50, 75]).tolist()
        loop.notes.clear()
        loop.step_seconds.clear()
        return row | {"train_seconds": seconds}

    def _is_due(self, epoch: int) -> bool:
        every = self.hyper.eval_every or self._twentieth
        return epoch % every == 0 or epoch == self.epochs

    @property
    def _twentieth(self) -> int:
        """Epochs between what is done about 20 times a phase."""
        return max(1, round(self.epochs / 20))

    def _epoch(self, loop: Loop, sampler: Sampler, hooks: Hooks, ledger: counted.Ledger) -> float:
        """One pass; returns the mean loss over its batches.

        Cost is counted in the first and the last batch of every so many epochs: live weights move.
        """
        ops = counted.ops_of(loop.model, *hooks.modules())
        due = (loop.epoch - 1) % self._twentieth == 0
        total, last_report, ended = 0.0, time.monotonic(), time.perf_counter()
        unseen: list[Tensor] = []
        for step, batch in enumerate(sampler.epoch(), start=1):
            loop.t += 1
            hooks.before_step(loop)
            last, explores = step == sampler.steps, hooks.dense_gradient(loop)
            loss = ledger.step(
                partial(_loss, loop, hooks, batch), ops, count_it=due and (last or step == 1),
                last=last, dense=explores,
            )  # fmt: skip
            unseen.append(loss.detach())
            look = last or explores or len(unseen) >= self._patience
            if look:
                total += self._sum(unseen, loop, step)
            loop.optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            if hooks.after_backward(loop):
                loop.optimiser.step()
            hooks.after_step(loop)
            if loop.stop and not look:
                total += self._sum(unseen, loop, step)
            if look or loop.stop:
                began, ended = ended, time.perf_counter()
                loop.step_seconds += [(ended - began) / len(unseen)] * len(unseen)
                unseen.clear()
            if loop.stop:
                return total / step
            if look and time.monotonic() - last_report > 0.2:
                last_report = time.monotonic()
                done = loop.epoch - 1 + step / sampler.steps
                self._emit(
                    {"event": "step", "phase": self.phases[-1].name, "done": done,
                     "epochs": self.epochs, "loss": total / step}
                )  # fmt: skip
        return total / sampler.steps

    @property
    def _patience(self) -> int:
        """Steps after which the loss is looked at: to look is to wait for all that a device was told."""
        return 1 if self.device.type == "cpu" else 32

    def _sum(self, losses: list[Tensor], loop: Loop, step: int) -> float:
        """The sum of the losses up to this step; raises `DivergedError` where one is not a number."""
        values: list[float] = torch.stack([loss.reshape(()) for loss in losses]).tolist()
        for back, value in zip(range(len(values) - 1, -1, -1), values, strict=True):
            if not math.isfinite(value):
                raise DivergedError(
                    f"the loss became {value} at epoch {loop.epoch}, step {step - back} "
                    f"(iteration {loop.t - back})",
                    f"lower the learning rate: --set lr={self.hyper.lr / 10:g}",
                )
        return sum(values)


def _loss(loop: Loop, hooks: Hooks, batch: Any) -> Tensor:
    """The backbone's loss of a batch and what the method adds to it."""
    loss, extra = hooks.loss(loop, batch), hooks.extra_loss(loop, batch)
    return loss if extra is None else loss + extra


def learning_rate(hyper: Hyper, epoch: int, epochs: int) -> float:
    """Rate of an epoch (from 1): constant, or a cosine from lr to lr_end over the epochs run."""
    if hyper.lr_end is None:
        return hyper.lr
    progress = (epoch - 1) / max(1, epochs)
    return hyper.lr_end + 0.5 * (hyper.lr - hyper.lr_end) * (1 + math.cos(math.pi * progress))
