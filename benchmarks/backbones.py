"""Steps and full ranking of every backbone against RecBole 1.2.1 on the same split and shape.

RecBole lives in an environment of its own (`.bench/recbole`, made from the package index at the first
run: it needs numpy < 2). The two tools take turns, a process with a block of steps each, with as many
threads, and each with the settings of threads that it chooses itself.
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
from dslbench.evaluation.evaluate import evaluate
from dslbench.runs.assemble import make_lab
from dslbench.runs.local import THREAD_SETTINGS
from dslbench.spec import resolve

HERE = Path(__file__).parent
THREADS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
WARM_UP = 3
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


def own_settings() -> dict[str, str]:
    """The environment of a process of ours, as runs have it."""
    return their_settings() | THREAD_SETTINGS


def their_settings() -> dict[str, str]:
    """That of a process of RecBole, which sets nothing."""
    return {k: v for k, v in os.environ.items() if k not in THREADS}


def ours(dataset: str, backbone: str) -> dict[str, list[float]]:
    """Seconds of our steps and evaluations in this process, as RecBole's script takes them."""
    ((steps, evaluations, settings),) = (pair[2:5] for pair in PAIRS if pair[0] == backbone)
    data = datasets.load(dataset)
    spec = resolve(dataset=data.name, backbone=backbone, method="dense", sparsity=0.0, seed=0,
                   epochs=1, settings=settings)  # fmt: skip
    lab = make_lab(spec, data, torch.device("cpu"))
    model = lab.build(pretrained=False)
    optimiser = model.optimiser(lab.hyper)
    sampler = model.sampler(data, lab.hyper, lab.streams, lab.device)
    times: list[float] = []
    while len(times) < steps + WARM_UP:
        batches = sampler.epoch()
        while len(times) < steps + WARM_UP:
            began = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                break
            optimiser.zero_grad(set_to_none=True)
            loss = model.loss(batch)
            loss.item()
            loss.backward()
            optimiser.step()
            times.append(time.perf_counter() - began)
    ranking = []
    for _ in range(evaluations and evaluations + 1):  # kernels are loaded in the first
        began = time.perf_counter()
        evaluate(model.eval().scorer(), data.valid, data.train)
        ranking.append(time.perf_counter() - began)
    return {"steps": times[WARM_UP:], "evaluations": ranking[1:]}


def theirs(
    python: Path, folder: Path, model: str, steps: int, evaluations: int, settings: dict[str, Any]
) -> dict[str, Any]:
    """What RecBole's script says."""
    out = subprocess.run(
        [str(python), str(HERE / "peers" / "recbole_steps.py"), str(folder), model, str(steps),
         str(evaluations), json.dumps(settings)],
        env=their_settings(), cwd=folder, capture_output=True, text=True,
    )  # fmt: skip
    if out.returncode:
        raise SystemExit(f"RecBole's {model} failed:\n{out.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(out.stdout.strip().splitlines()[-1])
    return found


def main() -> str:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--dataset", default="ml-1m")
    parser.add_argument("--only", action="append")
    parser.add_argument("--one", help="measure this backbone in this process and print JSON")
    chosen = parser.parse_args()
    if chosen.one:
        return json.dumps(ours(chosen.dataset, chosen.one))
    try:
        data = datasets.load(chosen.dataset)
    except DslbenchError as error:
        return f"skipped: {error}\n"
    python = peer_python()
    parts = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export(data, folder)
        for backbone, model, steps, evaluations, settings, peer_settings in PAIRS:
            if chosen.only and backbone not in chosen.only:
                continue
            found: dict[str, dict[str, list[float]]] = {
                key: {"dslbench": [], "RecBole 1.2.1": []} for key in ("steps", "evaluations")
            }
            own = [sys.executable, __file__, "--one", backbone, "--dataset", chosen.dataset]
            for _ in range(chosen.rounds):
                out = subprocess.run(own, env=own_settings(), stdout=subprocess.PIPE,
                                     text=True, check=True).stdout  # fmt: skip
                other = theirs(python, folder, model, steps + WARM_UP, evaluations, peer_settings)
                other["steps"] = other["steps"][WARM_UP:]
                for tool, part in zip(found["steps"], (json.loads(out), other), strict=True):
                    for key, values in found.items():
                        values[tool] += part[key]
            what = {"steps": "training step", "evaluations": "full ranking of the validation users"}
            for key, label in what.items():
                if found[key]["dslbench"]:
                    shape = ", ".join(settings) or "defaults"
                    title = f"{backbone} ({shape}): {label}, {chosen.dataset}"
                    parts.append(table(title, found[key], "RecBole 1.2.1"))
    return "\n".join([*parts, f"Machine: {machine()}\n"])


if __name__ == "__main__":
    print(main())
