"""What sparse training really costs: step time, explorations, memory of the state.

Dense, RP and DSL train side by side, taking turns step by step, each with its own hooks, optimiser and
batches; RP also with its masked tables held in full. Memory is that of all tensors that a table and its
optimiser hold between two steps. LightGCN on Gowalla unless told otherwise.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
from tabulate import tabulate

from common import gowalla_or_alike, machine
from dslbench import data as datasets
from dslbench import registry
from dslbench.cost.measured import state_bytes
from dslbench.runs.assemble import make_lab
from dslbench.spec import resolve
from dslbench.tables import DenseMaskedTable
from dslbench.training.hooks import Hooks, Loop
from dslbench.training.lab import Lab


class Contestant:
    """A method in the midst of its training."""

    def __init__(self, lab: Lab, method: Any, total: int) -> None:
        self.lab, self.hooks, self.times, self.explorations = lab, method or Hooks(), [], []
        if method is None:
            model = lab.build()
        else:
            model = method.model = lab.build(method.make_table)
            if hasattr(method, "mask_at_random"):
                method.mask_at_random(lab.streams)
            method.growth = lab.streams["growth"]
            method.rounding = lab.streams["rounding"]
        self.model, self.optimiser = model, model.optimiser(lab.hyper)
        self.sampler = model.sampler(lab.data, lab.hyper, lab.streams, lab.device)
        self.loop = Loop(model, self.optimiser, total, lab.hyper.batch_size)
        self.hooks.begin(self.loop)
        self.batches = iter(self.sampler.epoch())

    def step(self) -> None:
        batch = next(self.batches, None)
        if batch is None:
            self.batches = iter(self.sampler.epoch())
            batch = next(self.batches)
        began = time.perf_counter()
        self.loop.t += 1
        self.hooks.before_step(self.loop)
        loss = self.model.loss(batch)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if self.hooks.after_backward(self.loop):
            self.optimiser.step()
        self.hooks.after_step(self.loop)
        seconds = time.perf_counter() - began
        explores = self.hooks.dense_gradient(self.loop)
        (self.explorations if explores else self.times).append(seconds)


def main() -> str:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=60, help="steps of each contestant")
    parser.add_argument("--every", type=int, default=20, help="iterations between explorations")
    parser.add_argument("--backbone", default="lightgcn")
    parser.add_argument("--dataset", help="a downloaded data set; default: Gowalla, or alike")
    parser.add_argument("--only", action="append", help="a method beside dense; may be repeated")
    chosen = parser.parse_args()
    if chosen.dataset is None:
        (data, source), protocol = gowalla_or_alike(), "paper"
    else:
        data, source, protocol = datasets.load(chosen.dataset), chosen.dataset, "default"
    contestants: dict[str, Contestant] = {}
    entrants: list[tuple[str, float, bool, list[str]]] = [
        ("dense", 0.0, False, []), ("rp", 0.5, False, []), ("rp", 0.5, True, []),
        ("dsl", 0.5, False, [f"dsl.delta_t={chosen.every}"]), ("rp", 0.9, False, []),
        ("rp", 0.9, True, []), ("dsl", 0.9, False, [f"dsl.delta_t={chosen.every}"]),
        ("lpt", 0.0, False, []), ("lpt", 0.0, False, ["lpt.precision=bf16"]),
    ]  # fmt: skip
    if chosen.only:
        entrants = [one for one in entrants if one[0] in ("dense", *chosen.only)]
    for name, sparsity, in_full, settings in entrants:
        spec = resolve(
            dataset=chosen.dataset or "gowalla", backbone=chosen.backbone, method=name,
            sparsity=sparsity, seed=0, epochs=1, protocol=protocol,
            settings=settings,
        )  # fmt: skip
        kind = registry.method(name)
        method: Any = kind(kind.options_type.model_validate(spec.options), sparsity)
        if in_full:
            method.table_type = lambda spec: DenseMaskedTable
        lab = make_lab(spec, data, torch.device("cpu"))
        label = f"{name} {sparsity:.0%}" if sparsity else " ".join([name, *settings])
        label += ", tables in full" if in_full else ""
        contestants[label] = Contestant(
            lab, None if name == "dense" else method, 10 * chosen.rounds
        )
    for turn in range(chosen.rounds + 3):
        for contestant in contestants.values():
            contestant.step()
        if turn == 2:
            for contestant in contestants.values():
                contestant.times.clear()
    dense = contestants["dense"]
    usual, rows = statistics.median(dense.times), []
    for label, c in contestants.items():
        # Where each iteration is watched for the next exploration, there is no other.
        step = statistics.median(c.times or c.explorations)
        explore = statistics.median(c.explorations) if c.times and c.explorations else None
        # Seconds of one iteration, an exploration among every so many of them.
        mean = step if explore is None else step + (explore - step) / chosen.every
        rows.append([
            label, f"{step * 1e3:.1f}", "-" if explore is None else f"{explore * 1e3:.1f}",
            f"{mean / usual:.3f}", f"{state_bytes(c.model, c.optimiser) / 2**20:.1f}",
            f"{state_bytes(c.model, c.optimiser) / state_bytes(dense.model, dense.optimiser):.3f}",
        ])  # fmt: skip
    headers = ["method", "step, ms (median)", "exploring iteration, ms",
               f"time an iteration, one in {chosen.every} exploring, relative to dense",
               "table + optimiser, MiB", "relative to dense"]  # fmt: skip
    title = f"### {chosen.backbone}, {source}, batch {dense.lab.hyper.batch_size}: sparse training state"
    return f"{title}\n\n{tabulate(rows, headers, tablefmt='github')}\n\nMachine: {machine()}\n"


if __name__ == "__main__":
    print(main())
