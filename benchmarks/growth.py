"""How cost grows with the data: LightGCN on random data of Gowalla's shape and several times its size.

Users, items and pairs are multiplied alike. Each size is a process of its own, with one thread unless
told otherwise; seconds are of the processor, so that other work on the machine matters little; memory
is the largest resident size, less what the process takes before it has data.

    python benchmarks/growth.py [--scales 1 4 16] [--plot docs/growth.svg]

A training step passes over all pairs, so that it cannot grow more slowly than they do. A user's ranking
passes over all items.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from tabulate import tabulate

from common import alike, machine

RANKED_USERS = 2048
# What is shown, its key, and what it is expected to be in proportion to.
ROWS = [
    ("building graph and model, s", "build", "pairs"),
    ("drawing an epoch's triples, s", "draw", "pairs"),
    ("a training step (batch 2048), ms", "step", "pairs"),
    (f"ranking all items for {RANKED_USERS:,} users, s", "rank", "items"),
    ("largest memory, less the libraries', MiB", "memory", "pairs"),
]


def measure(scale: int) -> dict[str, float]:
    """Seconds of the processor, and MiB, at one size."""
    import torch

    from dslbench.cost.measured import peak_rss_bytes
    from dslbench.evaluation.evaluate import evaluate
    from dslbench.ops.graphs import graph_of
    from dslbench.runs.assemble import make_lab
    from dslbench.spec import resolve

    data = alike(scale)
    libraries = _resident_bytes()
    spec = resolve(dataset="gowalla", backbone="lightgcn", method="dense", sparsity=0.0, seed=0,
                   epochs=1, protocol="paper", settings=["batch_size=2048"])  # fmt: skip
    began = time.process_time()
    lab = make_lab(spec, data, torch.device("cpu"))
    model = lab.build(pretrained=False)
    optimiser = model.optimiser(lab.hyper)
    graph_of(data.train, lab.device)  # or the first step would make it
    build = time.process_time() - began
    sampler = model.sampler(data, lab.hyper, lab.streams, lab.device)
    steps: list[float] = []
    batches = sampler.epoch()
    for _ in range(9):
        batch = next(batches)
        began = time.process_time()
        optimiser.zero_grad(set_to_none=True)
        model.loss(batch).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        steps.append(time.process_time() - began)
    began = time.process_time()
    for _ in sampler.epoch():
        pass
    draw = time.process_time() - began
    truth = data.test[:RANKED_USERS].copy()
    truth.resize(data.test.shape)
    began = time.process_time()
    evaluate(model.eval().scorer(), truth, data.train)
    rank = time.process_time() - began
    return {
        "users": data.n_users, "items": data.n_items, "pairs": int(data.train.nnz), "build": build,
        "draw": draw, "step": statistics.median(steps[2:]) * 1e3, "rank": rank,
        "memory": ((peak_rss_bytes() or 0) - libraries) / 2**20,
    }  # fmt: skip


def _resident_bytes() -> int:
    text = Path("/proc/self/statm").read_text(encoding="ascii")
    return int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE")


def plot(found: list[dict[str, float]], file: Path) -> None:
    """Growth of each cost over that of the pairs, both logarithmic, and the diagonal."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "dslbench", "svg.fonttype": "none"}
    from matplotlib import pyplot as plt

    first = found[0]
    growth = [entry["pairs"] / first["pairs"] for entry in found]
    figure, axes = plt.subplots(figsize=(5, 3.6), layout="constrained")
    axes.loglog(growth, growth, color="0.6", linestyle="--", label="in proportion")
    for (label, key, _), marker in zip(ROWS, "osv^D", strict=True):
        axes.loglog(growth, [e[key] / first[key] for e in found], marker=marker, label=label)
    axes.set_xlabel("training pairs, times Gowalla's")
    axes.set_ylabel("times as much")
    axes.set_xticks(growth, [f"{g:.1f}" for g in growth], minor=False)
    axes.minorticks_off()
    axes.legend(fontsize=7)
    figure.savefig(file, metadata={"Date": None, "Creator": None})


def main() -> str:
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--scales", type=int, nargs="+", default=[1, 4], help="times Gowalla's size"
    )
    parser.add_argument("--plot", type=Path, help="draw the growth to this file (svg)")
    parser.add_argument("--one", type=int, help="measure this size in this process and print JSON")
    chosen = parser.parse_args()
    if chosen.one:
        return json.dumps(measure(chosen.one))
    found = []
    for scale in sorted(chosen.scales):
        out = subprocess.run(
            [sys.executable, __file__, "--one", str(scale)], capture_output=True, text=True,
            env={"DSLBENCH_THREADS": "1", "OMP_NUM_THREADS": "1"} | os.environ, check=False,
        )  # fmt: skip
        if out.returncode:
            raise SystemExit(f"size {scale} failed:\n{out.stderr[-2000:]}")
        found.append(json.loads(out.stdout))
    rows = [
        [f"{name}", *(f"{entry[name]:,}" for entry in found)]
        for name in ("users", "items", "pairs")
    ]
    for label, key, base in ROWS:
        grown = [entry[key] / found[0][key] for entry in found]
        per = [g / (e[base] / found[0][base]) for g, e in zip(grown, found, strict=True)]
        rows.append([
            f"{label} (growth over that of the {base})",
            *(f"{e[key]:,.1f} ({p:.2f})" for e, p in zip(found, per, strict=True)),
        ])  # fmt: skip
    if chosen.plot:
        plot(found, chosen.plot)
    headers = ["", *(f"{scale} times" for scale in sorted(chosen.scales))]
    title = "### LightGCN, d=64, L=3, random data of Gowalla's shape"
    return f"{title}\n\n{tabulate(rows, headers, tablefmt='github')}\n\nMachine: {machine()}\n"


if __name__ == "__main__":
    print(main())
