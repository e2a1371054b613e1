"""How long a run will take, from a short trial."""

from __future__ import annotations

import time

import torch

from dslbench.runs.assemble import data_of, make_lab
from dslbench.spec import RunSpec


def probe(spec: RunSpec, device: torch.device) -> dict[str, float]:
    """Seconds one training epoch and one evaluation of this run take, from a short trial."""
    data = data_of(spec)
    lab = make_lab(spec, data, device)
    model = lab.build(pretrained=False)
    sampler = model.sampler(data, lab.hyper, lab.streams, device)
    optimiser = model.optimiser(lab.hyper)
    times = []
    for _, batch in zip(range(12), sampler.epoch(), strict=False):
        began = time.perf_counter()
        model.loss(batch).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        times.append(time.perf_counter() - began)
    steady = sorted(times[2:] or times)
    began = time.perf_counter()
    lab.evaluate(model, lab.selects_on)
    return {
        "epoch_seconds": steady[len(steady) // 2] * sampler.steps,
        "eval_seconds": time.perf_counter() - began,
    }
