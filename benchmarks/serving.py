"""Serving from rows of few bits: memory, time to be ready and time to answer, relative to float32.

One LightGCN and one UltraGCN model of a few epochs, exported at each precision. Every measurement is a
process of its own that loads a model file; answers are timed in one process, in turn. Bytes are those that
tables, and vectors made of them, hold while it serves; memory is the largest resident size of the
process, less what it had before the file was read.

    python benchmarks/serving.py [--dataset gowalla] [--rounds 3] [--models FOLDER]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from common import interleaved, machine

PRECISIONS = ("fp32", "int8", "int4")
SETTINGS = {
    "lightgcn": ["--epochs", "4", "--set", "lr=0.004", "--set", "batch_size=8192"],
    "ultragcn": ["--epochs", "2", "--set", "batch_size=2048", "--set", "negative_num=300"],
}
CALLS = {1: 41, 1024: 7}


def arrays_of(found: Any) -> Iterator[np.ndarray]:
    """The arrays of whole rows below an object of ours."""
    import torch

    from dslbench.ops.coded import CodedRows
    from dslbench.tables import Stored

    if isinstance(found, torch.Tensor):
        yield found.view(torch.int16).numpy() if found.dtype == torch.bfloat16 else found.numpy()
    elif isinstance(found, np.ndarray):
        yield found
    elif isinstance(found, CodedRows):
        yield from arrays_of(list(found.stored))
    elif isinstance(found, Stored):
        yield from arrays_of(list(found.arrays().values()))
    elif isinstance(found, list | tuple):
        for one in found:
            yield from arrays_of(one)


def nbytes(found: Any, without: Any = ()) -> int:
    """Bytes of memory below an object, each counted once, less what is below another."""

    def spans(of: Any) -> list[tuple[int, int]]:
        edges = []
        for start, end in sorted((x.ctypes.data, x.ctypes.data + x.nbytes) for x in arrays_of(of)):
            if edges and start <= edges[-1][1]:
                edges[-1] = edges[-1][0], max(end, edges[-1][1])
            else:
                edges.append((start, end))
        return edges

    def total(of: Any) -> int:
        return sum(end - start for start, end in spans(of))

    return total([found, without]) - total(without)


def one(file: str) -> dict[str, float]:
    """In a process of its own."""
    from dslbench.cost.measured import peak_rss_bytes
    from dslbench.serving import Recommender

    at_start = peak_rss_bytes() or 0
    began = time.perf_counter()
    known = Recommender.load(file)
    known.recommend(known.users[:1], 20)
    ready = time.perf_counter() - began
    found: dict[str, float] = {"ready": ready}
    stored = list(known._packed.tables.values())
    scorer: Any = known._scorer
    rank: Any = known._ranker[1]._rank if known._ranker else None
    coded = [x for x in (scorer.users, scorer.items) if not hasattr(x, "dtype")]
    vectors = [scorer.users, scorer.items]
    screen = [getattr(rank, "_items", []), getattr(rank, "_table", [])]
    found["stored"] = nbytes([stored, coded])
    found["vectors"] = nbytes(vectors, [stored, coded])
    found["screen"] = nbytes(screen, [stored, vectors])
    found["peak"] = (peak_rss_bytes() or 0) - at_start
    return found


def latency(files: dict[str, str]) -> dict[str, dict[str, float]]:
    """Median seconds of a top 20 by precision and number of users, the models taking turns."""
    from dslbench.serving import Recommender

    models = {precision: Recommender.load(file) for precision, file in files.items()}
    names, rng = next(iter(models.values())).users, np.random.default_rng(0)
    found: dict[str, dict[str, float]] = {precision: {} for precision in files}
    for size, calls in CALLS.items():
        users = [names[row] for row in rng.choice(len(names), size, replace=False)]
        contestants = {p: partial(model.recommend, users, 20) for p, model in models.items()}
        for precision, took in interleaved(contestants, calls).items():
            found[precision][f"top{size}"] = statistics.median(took)
    return found


def export(folder: Path, dataset: str) -> None:
    for backbone, settings in SETTINGS.items():
        for precision in PRECISIONS:
            subprocess.run(
                [sys.executable, "-m", "dslbench", "train", "--backbone", backbone, "--dataset",
                 dataset, *settings, "--precision", precision, "--with-seen", "--export",
                 str(folder / f"{backbone}.{precision}")],
                check=True, stdout=subprocess.DEVNULL,
            )  # fmt: skip


def main() -> str:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset", default="gowalla")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", type=Path, help="exported before, BACKBONE.PRECISION")
    parser.add_argument("--one", help="measure this file in this process and print JSON")
    chosen = parser.parse_args()
    if chosen.one:
        return json.dumps(one(chosen.one))
    with tempfile.TemporaryDirectory() as name:
        folder = chosen.models or Path(name)
        if chosen.models is None:
            export(folder, chosen.dataset)
        parts = [f"Machine: {machine()}\n"]
        for backbone in SETTINGS:
            files = {p: f"{folder / backbone}.{p}" for p in PRECISIONS}
            runs: dict[str, list[dict[str, float]]] = {p: [] for p in PRECISIONS}
            for _ in range(chosen.rounds):
                for precision in PRECISIONS:
                    command = [
                        sys.executable,
                        __file__,
                        "--one",
                        files[precision],
                    ]
                    done = subprocess.run(command, check=True, capture_output=True, text=True)
                    runs[precision].append(json.loads(done.stdout))
            parts.append(table(f"{backbone}, {chosen.dataset}", runs, latency(files)))
    return "\n".join(parts)


def table(
    title: str, runs: dict[str, list[dict[str, float]]], took: dict[str, dict[str, float]]
) -> str:
    medians = {
        precision: {key: statistics.median(run[key] for run in found) for key in found[0]}
        | took[precision]
        for precision, found in runs.items()
    }
    base, rows = medians["fp32"], []
    for precision, found in medians.items():
        row = [
            precision,
            f"{found['stored'] / 2**20:.2f} MiB ({found['stored'] / base['stored']:.3f})",
        ]
        row += [f"{found[key] / 2**20:.1f} MiB" for key in ("vectors", "screen")]
        row.append(f"{found['peak'] / 2**20:.0f} MiB ({found['peak'] / base['peak']:.2f})")
        row.append(f"{found['ready']:.2f} s ({found['ready'] / base['ready']:.2f})")
        for size in CALLS:
            seconds = found[f"top{size}"]
            row.append(f"{seconds * 1e3:.1f} ms ({seconds / base[f'top{size}']:.2f})")
        rows.append(row)
    headers = ["", "stored tables", "float32 vectors beside", "rounded for screening", "peak memory",
               "ready", "top 20 of 1 user", "of 1,024 users"]  # fmt: skip
    return f"### {title}\n\n{tabulate(rows, headers, tablefmt='github')}\n"


if __name__ == "__main__":
    print(main())
