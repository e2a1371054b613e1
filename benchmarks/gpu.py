"""LightGCN on a CUDA device: epochs, ranking and memory of dense, RP and DSL, and of RecBole 1.2.1.

Every contender is a process of its own, so that each has its own peak of memory. Skipped where there is no
CUDA device.

    python benchmarks/gpu.py [--dataset gowalla] [--epochs 3]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate

from backbones import export, own_settings, peer_python
from backbones import theirs as recbole
from common import machine
from dslbench import data as datasets
from dslbench.errors import DslbenchError
from dslbench.evaluation.evaluate import evaluate
from dslbench.runs.worker.train import train
from dslbench.spec import resolve
from dslbench.training.progress import Keeper

CUDA = torch.device("cuda")
METHODS = {"dense": 0.0, "rp": 0.5, "dsl": 0.5}


def ours(dataset: str, method: str, epochs: int) -> dict[str, Any]:
    """Seconds of each epoch and of two rankings, and bytes on the device, of a run in this process."""
    data = datasets.load(dataset)
    spec = resolve(dataset=dataset, backbone="lightgcn", method=method, sparsity=METHODS[method], seed=0,
                   epochs=epochs, settings=["batch_size=2048", f"eval_every={epochs}"])  # fmt: skip
    rows: list[dict[str, Any]] = []
    model, _, lab = train(spec, data, CUDA, rows.append, Keeper())
    peak = torch.cuda.max_memory_allocated()
    found = [row for row in rows if row["event"] == "epoch"]
    ranking = []
    for _ in range(2):
        began = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        began[0].record()
        evaluate(model.eval().scorer(), data.valid, data.train, device=CUDA)
        began[1].record()
        torch.cuda.synchronize()
        ranking.append(began[0].elapsed_time(began[1]) / 1e3)
    return {"epochs": [row["train_seconds"] for row in found], "losses": [row["loss"] for row in found],
            "steps": lab.phases[-1].steps // epochs, "rank": ranking[-1], "peak": peak,
            "state": lab.phases[-1].state_bytes}  # fmt: skip


def theirs(python: Path, folder: Path, epochs: int, batches: int) -> dict[str, Any]:
    """The same of RecBole: the sum of its steps is an epoch."""
    settings = {"train_batch_size": 2048, "embedding_size": 64, "n_layers": 3, "use_gpu": True}
    found = recbole(python, folder, "LightGCN", epochs * batches, 2, settings)
    steps = np.array(found["steps"][: epochs * batches]).reshape(epochs, batches)
    return {"epochs": steps.sum(axis=1).tolist(), "steps": found["batches"],
            "rank": found["evaluations"][-1], "peak": found["peak_cuda_bytes"], "state": None}  # fmt: skip


def main() -> str:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset", default="gowalla")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=1, help="not used here")
    parser.add_argument("--one", help="measure this method in this process and print JSON")
    chosen = parser.parse_args()
    if not torch.cuda.is_available():
        return "skipped: no CUDA device\n"
    if chosen.one:
        return json.dumps(ours(chosen.dataset, chosen.one, chosen.epochs))
    try:
        data = datasets.load(chosen.dataset)
    except DslbenchError as error:
        return f"skipped: {error}\n"
    found: dict[str, dict[str, Any]] = {}
    for method in METHODS:
        own = [sys.executable, __file__, "--one", method, "--dataset", chosen.dataset]
        own += ["--epochs", str(chosen.epochs)]
        out = subprocess.run(own, env=own_settings(), stdout=subprocess.PIPE, text=True,
                             check=True).stdout  # fmt: skip
        found[f"dslbench, {method}"] = json.loads(out.strip().splitlines()[-1])
        print(method, found[f"dslbench, {method}"], file=sys.stderr)
    with tempfile.TemporaryDirectory() as name:
        export(data, Path(name))
        batches = found["dslbench, dense"]["steps"]
        found["RecBole 1.2.1"] = theirs(peer_python(), Path(name), chosen.epochs, batches)
    base = min(found["RecBole 1.2.1"]["epochs"])
    rows = [
        [
            name,
            f"{min(part['epochs']):.3f}",
            ", ".join(f"{x:.3f}" for x in part["epochs"]),
            part["steps"],
            f"{base / min(part['epochs']):.1f}",
            f"{part['rank']:.3f}",
            f"{part['peak'] / 2**20:,.0f}",
            "-" if part["state"] is None else f"{part['state'] / 2**20:,.1f}",
        ]
        for name, part in found.items()
    ]
    headers = [
        "what", "fastest epoch, s", "epochs in turn, s", "steps an epoch", "times faster than RecBole",
        "ranking, s", "peak on the device, MiB", "tables and optimiser, MiB",
    ]  # fmt: skip
    return (
        f"### LightGCN on {torch.cuda.get_device_name()}: {chosen.dataset}, batch 2048, d=64, L=3\n\n"
        f"{tabulate(rows, headers, tablefmt='github')}\n\nMachine: {machine()}\n"
    )


if __name__ == "__main__":
    print(main())
