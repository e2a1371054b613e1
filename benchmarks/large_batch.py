"""A step of LightGCN at a large batch: where its time goes with hops in float32 and bfloat16, and its floor.

The two take turns, step by step, in one process, on the same batches. The floor is the time in which the
bytes that the hops and Adam have to read and write, each once, move at the speed of a plain copy: rows that
a core's cache holds are read faster than that, so hops may be below it.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict

import numpy as np
import torch

from common import machine
from dslbench import data as datasets
from dslbench.backbones.lightgcn import LightGCN, LightGCNHyper
from dslbench.sampling.triples import TripleSampler
from dslbench.seeds import Streams
from dslbench.tables import DenseTable

LAYERS, DIM, WARM_UP = 3, 64, 3
PARTS = ("sampling", "forward", "backward", "Adam")


def seconds_a_byte() -> float:
    """Of a copy of 256 MiB, reading and writing counted."""
    source, target = torch.ones(1 << 26), torch.empty(1 << 26)
    times = []
    for _ in range(5):
        began = time.perf_counter()
        target.copy_(source)
        times.append(time.perf_counter() - began)
    return float(np.median(times)) / (2 * source.nbytes)


def main() -> str:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset", default="gowalla")
    parser.add_argument("--batch", type=int, default=16384)
    parser.add_argument("--negatives", type=int, default=1, help="of each pair")
    parser.add_argument("--rounds", type=int, default=30, help="steps of each")
    chosen = parser.parse_args()
    data = datasets.load(chosen.dataset)
    models = {}
    for precision in ("fp32", "bf16"):
        hyper = LightGCNHyper(
            embedding_size=DIM, epochs=1, batch_size=chosen.batch, lr=1e-2, layers=LAYERS, reg=1e-4,
            init="normal", precision=precision, negatives=chosen.negatives,
        )  # fmt: skip
        model = LightGCN(data, hyper, DenseTable, Streams(0))
        models[precision] = model, model.optimiser(hyper)
    sampler = TripleSampler(
        data.train, chosen.batch, Streams(1), torch.device("cpu"), chosen.negatives
    )
    times: dict[str, dict[str, list[float]]] = {p: defaultdict(list) for p in models}
    batches = sampler.epoch()
    for step in range(chosen.rounds + WARM_UP):
        began = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            batches = sampler.epoch()
            batch = next(batches)
        drawn = time.perf_counter() - began
        for precision, (model, optimiser) in models.items():
            marks = [time.perf_counter()]
            loss = model.loss(batch)
            marks.append(time.perf_counter())
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            marks.append(time.perf_counter())
            optimiser.step()
            marks.append(time.perf_counter())
            if step >= WARM_UP:
                for part, spent in zip(PARTS, [drawn, *np.diff(marks)], strict=True):
                    times[precision][part].append(1e3 * spent)
    entries, rows = 2 * data.train.nnz, data.n_users + data.n_items
    a_byte = 1e3 * seconds_a_byte()
    lines = [
        "| hops | " + " | ".join(f"{part}, ms" for part in PARTS) + " | step, ms | floor, ms |"
    ]
    lines.append("|---" * (len(PARTS) + 3) + "|")
    whole: dict[str, float] = {}
    for precision, found in times.items():
        size = 2 if precision == "bf16" else 4
        # Four whole hops: each reads a row for each entry and its own, and writes one; indices and weights.
        hops = 4 * (entries * (DIM * size + 8) + rows * DIM * (4 + size))
        adam = 7 * rows * DIM * 4  # reads table, gradient and two moments, writes three
        medians = [float(np.median(found[part])) for part in PARTS]
        whole[precision] = float(np.median(np.sum([found[part] for part in PARTS], axis=0)))
        cells = [f"{value:.1f}" for value in [*medians, whole[precision], (hops + adam) * a_byte]]
        lines.append(f"| {precision} | " + " | ".join(cells) + " |")
    lines += [
        "",
        f"{chosen.dataset}, batch {chosen.batch:,}, negatives {chosen.negatives}, d={DIM}, L={LAYERS}; "
        f"medians of {chosen.rounds} steps; "
        f"bf16 takes {whole['bf16'] / whole['fp32']:.2f} of fp32's time. A copy moves "
        f"{1e-6 / a_byte:.1f} GB/s.",
        f"Machine: {machine()}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(main())
