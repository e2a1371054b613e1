"""Time of a step of AutoEmb's and ESAPN's phases against one of a dense training, preset as it is.

The trainings take turns, a few epochs each; medians of the steps, so that what an epoch does once (the first
compilation of a kernel, say) is left out.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from typing import Any

import torch
from tabulate import tabulate

from common import machine
from dslbench import registry
from dslbench.runs.assemble import data_of, make_lab
from dslbench.spec import resolve

METHODS = {"dense": 0.0, "autoemb": 0.5, "esapn": 0.5}


def main() -> str:
    parser = argparse.ArgumentParser()
    parser.add_argument("--backbone", default="lightgcn")
    parser.add_argument("--dataset", default="citeulike")
    parser.add_argument("--rounds", type=int, default=2, help="trainings of each method")
    parser.add_argument("--epochs", type=int, default=4, help="epochs of each training")
    asked = parser.parse_args()
    seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
    for _ in range(asked.rounds):
        for method, sparsity in METHODS.items():
            spec = resolve(
                dataset=asked.dataset, backbone=asked.backbone, method=method, sparsity=sparsity,
                seed=0, epochs=asked.epochs,
            )  # fmt: skip

            def hear(event: dict[str, Any], method: str = method) -> None:
                if event["event"] == "epoch":
                    seconds[method, event["phase"]].append(event["step_seconds"][1])

            lab = make_lab(spec, data_of(spec), torch.device("cpu"), hear)
            kind = registry.method(method)
            kind(kind.options_type.model_validate(spec.options), spec.sparsity).run(lab)
    dense = statistics.median(seconds["dense", "train"])
    rows = [
        [method, phase, f"{1e3 * statistics.median(found):.1f} ms", f"{statistics.median(found) / dense:.2f}"]
        for (method, phase), found in seconds.items()
    ]  # fmt: skip
    head = ["method", "phase", "a step, median", "of dense"]
    title = f"{asked.backbone}, {asked.dataset}, 50 %. {machine()}"
    return f"{title}\n\n{tabulate(rows, head, tablefmt='github')}\n"


if __name__ == "__main__":
    print(main())
