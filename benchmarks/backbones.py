"""Steps and full ranking of every backbone against RecBole 1.2.1 on the same split and shape.

RecBole lives in an environment of its own (`.bench/recbole`, made from the package index at the first
run: it needs numpy < 2). The two tools take turns, a block of steps each, with as many threads.
UltraGCN is not in RecBole: `ultragcn.py` has it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from common import machine, table
from dslbench import data as datasets
from dslbench.data.interactions import Interactions
from dslbench.errors import DslbenchError
from dslbench.evaluate import evaluate
from dslbench.runs.worker import make_lab
from dslbench.spec import resolve

HERE = Path(__file__).parent
PEER = HERE.parent / ".bench" / "recbole"
PACKAGES = ["torch==2.13.0", "recbole==1.2.1", "numpy<2", "pandas<2.2", "scipy<1.13", "ray<2.7",
            "kmeans-pytorch", "pyyaml", "setuptools<81"]  # fmt: skip

# backbone, RecBole's model, steps a block, evaluations a block, our settings, RecBole's settings
PAIRS: list[tuple[str, str, int, int, list[str], dict[str, Any]]] = [
    ("lightgcn", "LightGCN", 8, 1, ["batch_size=2048"],
     {"train_batch_size": 2048, "embedding_size": 64, "n_layers": 3}),
    ("neumf", "NeuMF", 60, 1, ["preset=recbole"],
     {"train_batch_size": 2048, "train_neg_sample_args": {
         "distribution": "uniform", "sample_num": 1, "alpha": 1.0, "dynamic": False,
         "candidate_num": 0}}),
    ("convncf", "ConvNCF", 3, 0, ["batch_size=512", "pretrain_epochs=0"],
     {"train_batch_size": 512, "embedding_size": 64, "cnn_channels": [1] + [32] * 6,
      "cnn_kernels": [2] * 6, "cnn_strides": [2] * 6, "dropout_prob": 0.0, "train_method": "no_pretrain",
      "pre_model_path": "", "reg_weights": [0.1, 0.1]}),
    ("cdae", "CDAE", 12, 1, ["batch_size=256"],
     {"train_batch_size": 256, "train_neg_sample_args": None}),
    ("multvae", "MultiVAE", 8, 1, ["preset=recbole", "batch_size=500"],
     {"train_batch_size": 500, "train_neg_sample_args": None}),
]  # fmt: skip


def peer_python() -> Path:
    """RecBole's interpreter; makes its environment where there is none."""
    python = Path(os.environ.get("RECBOLE_PYTHON", PEER / "bin" / "python"))
    if not python.exists():
        print(f"making {PEER} with RecBole (some minutes)", file=sys.stderr)
        subprocess.check_call([sys.executable, "-m", "venv", str(PEER)])
        subprocess.check_call([str(python), "-m", "pip", "install", "-q", *PACKAGES])
    return python


def export(data: Interactions, folder: Path) -> None:
    """Write the three parts as RecBole reads them."""
    (folder / "split").mkdir()
    for part in ("train", "valid", "test"):
        pairs = getattr(data, part).tocoo()
        with (folder / "split" / f"split.{part}.inter").open("w", encoding="utf-8") as file:
            file.write("user_id:token\titem_id:token\n")
            file.writelines(f"{u}\t{i}\n" for u, i in zip(pairs.row, pairs.col, strict=True))


def our_block(data: Interactions, backbone: str, settings: list[str], steps: int, evaluations: int):  # type: ignore[no-untyped-def]
    """A function that times a block of our steps and evaluations, as RecBole's script does."""
    spec = resolve(dataset=data.name, backbone=backbone, method="dense", sparsity=0.0, seed=0,
                   epochs=1, settings=settings)  # fmt: skip
    lab = make_lab(spec, data, torch.device("cpu"))
    model = lab.build(pretrained=False)
    optimiser = model.optimiser(lab.hyper)
    sampler = model.sampler(data, lab.hyper, lab.streams, lab.device)

    def block() -> dict[str, list[float]]:
        times: list[float] = []
        while len(times) < steps:
            batches = sampler.epoch()
            while len(times) < steps:
                began = time.perf_counter()
                batch = next(batches, None)
                if batch is None:
                    break
                optimiser.zero_grad(set_to_none=True)
                model.loss(batch).backward()
                optimiser.step()
                times.append(time.perf_counter() - began)
        ranking = []
        for _ in range(evaluations):
            began = time.perf_counter()
            evaluate(model.eval().scorer(), data.valid, data.train)
            ranking.append(time.perf_counter() - began)
            model.train()
        return {"steps": times, "evaluations": ranking}

    block()  # kernels are compiled
    return block


def main() -> str:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--dataset", default="ml-1m")
    parser.add_argument("--only", action="append")
    chosen = parser.parse_args()
    try:
        data = datasets.load(chosen.dataset)
    except DslbenchError as error:
        return f"skipped: {error}\n"
    python = peer_python()
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
    parts = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export(data, folder)
        for backbone, model, steps, evaluations, settings, peer_settings in PAIRS:
            if chosen.only and backbone not in chosen.only:
                continue
            block = our_block(data, backbone, settings, steps, evaluations)
            ours: dict[str, list[float]] = {"steps": [], "evaluations": []}
            theirs: dict[str, list[float]] = {"steps": [], "evaluations": []}
            for _ in range(chosen.rounds):
                for key, values in block().items():
                    ours[key] += values
                out = subprocess.run(
                    [str(python), str(HERE / "peers" / "recbole_steps.py"), str(folder), model,
                     str(steps + 2), str(evaluations), json.dumps(peer_settings)],
                    env=environment, cwd=folder, capture_output=True, text=True,
                )  # fmt: skip
                if out.returncode:
                    raise SystemExit(f"RecBole's {model} failed:\n{out.stderr[-2000:]}")
                found = json.loads(out.stdout.strip().splitlines()[-1])
                theirs["steps"] += found["steps"][2:]
                theirs["evaluations"] += found["evaluations"]
            what = {"steps": "training step", "evaluations": "full ranking of the validation users"}
            for key, label in what.items():
                if ours[key]:
                    times = {"dslbench": ours[key], "RecBole 1.2.1": theirs[key]}
                    shape = ", ".join(settings) or "defaults"
                    title = f"{backbone} ({shape}): {label}, {chosen.dataset}"
                    parts.append(table(title, times, "RecBole 1.2.1"))
    return "\n".join([*parts, f"Machine: {machine()}\n"])


if __name__ == "__main__":
    print(main())
