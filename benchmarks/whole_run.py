"""Reading and splitting text files, and peak memory of a LightGCN run, against RecBole 1.2.1.

Both read the same file of pairs and split it 8:1:1 for each user; then each trains a few steps and
ranks all items for the validation users. Every measurement is a process of its own: seconds of reading
leave out imports, memory is the largest resident size of the process.

    python benchmarks/whole_run.py [--dataset gowalla] [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from backbones import PAIRS, own_settings, peer_python
from backbones import theirs as recbole
from common import machine, table
from dslbench import data as datasets
from dslbench.errors import DslbenchError

HERE = Path(__file__).parent
STEPS = 5


def ours(file: str) -> dict[str, float]:
    """In a process of its own: seconds of reading, ranking, and peak bytes."""
    import torch

    from dslbench.cost.measured import peak_rss_bytes
    from dslbench.evaluation.evaluate import evaluate
    from dslbench.runs.assemble import make_lab
    from dslbench.spec import resolve

    began = time.perf_counter()
    data = datasets.load(file)
    read = time.perf_counter() - began
    spec = resolve(dataset=file, backbone="lightgcn", method="dense", sparsity=0.0, seed=0, epochs=1,
                   settings=["batch_size=2048"])  # fmt: skip
    lab = make_lab(spec, data, torch.device("cpu"))
    model = lab.build(pretrained=False)
    optimiser = model.optimiser(lab.hyper)
    batches = model.sampler(data, lab.hyper, lab.streams, lab.device).epoch()
    for _, batch in zip(range(STEPS), batches, strict=False):
        optimiser.zero_grad(set_to_none=True)
        model.loss(batch).backward()
        optimiser.step()
    optimiser.zero_grad(set_to_none=True)  # as the training loop does before it ranks
    times = []
    for _ in range(2):  # kernels are loaded in the first
        began = time.perf_counter()
        evaluate(model.eval().scorer(), data.valid, data.train)
        times.append(time.perf_counter() - began)
    return {"read": read, "rank": times[-1], "peak": peak_rss_bytes() or 0}


def theirs(python: Path, folder: Path) -> dict[str, float]:
    """The same of RecBole's script."""
    (settings,) = (pair[5] for pair in PAIRS if pair[0] == "lightgcn")
    settings = settings | {"benchmark_filename": None}
    found = recbole(python, folder, "LightGCN", STEPS, 1, settings)
    return {"read": found["read"], "rank": found["evaluations"][0], "peak": found["peak_rss_bytes"]}


def main() -> str:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset", default="gowalla")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", help="measure this file in this process and print JSON")
    chosen = parser.parse_args()
    if chosen.one:
        return json.dumps(ours(chosen.one))
    try:
        data = datasets.load(chosen.dataset)
    except DslbenchError as error:
        return f"skipped: {error}\n"
    python = peer_python()
    names = "dslbench", "RecBole 1.2.1"
    found: dict[str, dict[str, list[float]]] = {
        key: {name: [] for name in names} for key in ("read", "rank", "peak")
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "split").mkdir()
        pairs = (data.train + data.valid + data.test).tocoo()
        text = "".join(f"{u}\t{i}\n" for u, i in zip(pairs.row, pairs.col, strict=True))
        (folder / "pairs.tsv").write_text("user\titem\n" + text, encoding="utf-8")
        (folder / "split" / "split.inter").write_text(
            "user_id:token\titem_id:token\n" + text, encoding="utf-8"
        )
        own = [sys.executable, __file__, "--one", str(folder / "pairs.tsv")]
        for _ in range(chosen.rounds):
            out = subprocess.run(own, env=own_settings(), capture_output=True, text=True,
                                 check=True).stdout  # fmt: skip
            for tool, values in zip(names, (json.loads(out), theirs(python, folder)), strict=True):
                for key, value in values.items():
                    found[key][tool].append(value)
    parts = [
        table(
            f"Reading and splitting {pairs.nnz:,} pairs, {chosen.dataset}", found["read"], names[1]
        ),
        table(f"Full ranking of the validation users, {chosen.dataset}", found["rank"], names[1]),
    ]
    peaks = {tool: sorted(values)[len(values) // 2] for tool, values in found["peak"].items()}
    parts.append(
        f"Peak memory of a LightGCN run, {chosen.dataset} (median): "
        + ", ".join(f"{tool} {value / 2**20:,.0f} MiB" for tool, value in peaks.items())
        + f"; ratio {peaks[names[0]] / peaks[names[1]]:.2f}\n"
    )
    return "\n".join([*parts, f"Machine: {machine()}\n"])


if __name__ == "__main__":
    print(main())
