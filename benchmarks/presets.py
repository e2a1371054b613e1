"""What a training of preset `fast` takes against the published recipe: an epoch of each, times its epochs.

The two take turns; of two epochs the second is taken, so that what happens once
(the compilation of a kernel, say) is left out. Data sets that are not downloaded are left out, and said.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from typing import Any

import torch
from tabulate import tabulate

from common import machine
from dslbench.errors import DslbenchError
from dslbench.runs.assemble import data_of, make_lab
from dslbench.spec import resolve

# backbone, data set, protocol, the published recipe
CASES = [
    ("multvae", "ml-1m", "default", "official"),
    ("cdae", "ml-1m", "default", "recbole"),
    ("neumf", "citeulike", "default", "official"),
    ("lightgcn", "citeulike", "default", "official"),
    ("lightgcn", "ml-1m-ultragcn", "default", "official"),
    ("lightgcn", "ml-1m", "default", "official"),
    ("lightgcn", "foursquare", "default", "official"),
    ("lightgcn", "gowalla", "paper", "official"),
    ("ultragcn", "ml-1m-ultragcn", "default", "official"),
    ("ultragcn", "citeulike", "default", "official"),
]


def epoch_seconds(backbone: str, dataset: str, protocol: str, preset: str) -> tuple[float, int]:
    """Seconds of training of one epoch, and the epochs of the whole recipe."""
    spec = resolve(
        dataset=dataset, backbone=backbone, method="dense", sparsity=0, seed=0, epochs=2,
        protocol=protocol, settings=[f"preset={preset}"],
    )  # fmt: skip
    found: list[float] = []

    def hear(event: dict[str, Any]) -> None:
        if event["event"] == "epoch":
            found.append(event["train_seconds"])

    lab = make_lab(spec, data_of(spec), torch.device("cpu"), hear)
    lab.fit(lab.build(), "train")
    return found[-1], spec.full_epochs


def main() -> str:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", help="a backbone; default: all")
    parser.add_argument("--rounds", type=int, default=2)
    asked = parser.parse_args()
    rows = []
    for backbone, dataset, protocol, published in CASES:
        if asked.only and backbone not in asked.only:
            continue
        seconds: dict[str, list[float]] = {published: [], "fast": []}
        epochs = {}
        try:
            for _ in range(asked.rounds):
                for preset, times in seconds.items():
                    one, epochs[preset] = epoch_seconds(backbone, dataset, protocol, preset)
                    times.append(one)
        except DslbenchError as error:
            print(f"left out: {backbone} on {dataset}: {error}", file=sys.stderr)
            continue
        own = {preset: statistics.median(times) for preset, times in seconds.items()}
        whole = {preset: one * epochs[preset] for preset, one in own.items()}
        rows.append([
            backbone, dataset, f"{published}: {epochs[published]} x {own[published]:.3g} s",
            f"{whole[published]:,.0f} s", f"{epochs['fast']} x {own['fast']:.3g} s",
            f"{whole['fast']:,.0f} s", f"{whole[published] / whole['fast']:.1f}",
        ])  # fmt: skip
        print(*rows[-1], sep=" | ", file=sys.stderr)
    head = ["backbone", "data", "published recipe", "takes", "`fast`", "takes", "times"]
    return f"{machine()}\n\n{tabulate(rows, head, tablefmt='github')}\n"


if __name__ == "__main__":
    print(main())
