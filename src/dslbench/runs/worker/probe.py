"""How long a run will take, from a short trial."""

from __future__ import annotations

import statistics
import time

import torch

from dslbench.runs.assemble import data_of, make_lab
from dslbench.spec import RunSpec

# Steps that warm caches up, and seconds after which enough is known of each part.
_WARM_UP, _ENOUGH = 3, 1.0


def probe(spec: RunSpec, device: torch.device) -> dict[str, float]:
    """Seconds one training epoch and one evaluation of this run take, and the trial itself.

    The first steps and the first evaluation, which load kernels and touch memory, are not counted.
    """
    started = time.perf_counter()
    data = data_of(spec)
    lab = make_lab(spec, data, device)
    model = lab.build(pretrained=False)
    sampler = model.sampler(data, lab.hyper, lab.streams, device)
    optimiser = model.optimiser(lab.hyper)

    def step(batch: object) -> None:
        loss = model.loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        float(loss.detach())  # waits for a device

    for _, batch in zip(range(_WARM_UP), sampler.epoch(), strict=False):
        step(batch)
    drawn: list[float] = []  # what epochs draw before their first step
    times: list[float] = []
    while len(times) <= _WARM_UP or sum(drawn) + sum(times) < _ENOUGH:  # short epochs, several
        began = time.perf_counter()
        batches = iter(sampler.epoch())
        batch = next(batches)
        drawn.append(time.perf_counter() - began)
        while batch is not None and (len(times) <= _WARM_UP or sum(times) < _ENOUGH):
            began = time.perf_counter()
            step(batch)
            batch = next(batches, None)
            times.append(time.perf_counter() - began)
    rankings: list[float] = []
    while len(rankings) < 2 or (len(rankings) < 4 and sum(rankings) < _ENOUGH):
        began = time.perf_counter()
        lab.evaluate(model, lab.selects_on)
        rankings.append(time.perf_counter() - began)
    return {
        "epoch_seconds": min(drawn) + statistics.median(times) * sampler.steps,
        "eval_seconds": min(rankings),
        "trial_seconds": time.perf_counter() - started,
    }
