"""Which size rows of each popularity would be best at, after AutoEmb's search, and what it chose.

For all rows of one popularity (a power of two of training pairs) the weights of the sizes are replaced
by one size, and the loss on the controllers' held-out pairs is compared with that of the soft sizes.
With `--equal` the controllers stay at equal weights, so that every size is trained alike; with
`--start-equal` they start from them.

    python benchmarks/size_study.py --dataset ml-1m-ultragcn --backbone lightgcn --epochs 8 \
        --set batch_size=4096 --set lr=0.004 [--equal]
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from tabulate import tabulate
from torch import Tensor
from torch.nn.functional import one_hot

from common import machine
from dslbench import data as datasets
from dslbench.methods._controllers import frozen, occurrences
from dslbench.methods.autoemb import AutoEmb, _Search
from dslbench.ops.threads import thread_count
from dslbench.runs.assemble import make_lab
from dslbench.spec import resolve

MOST_BATCHES, LEAST_EXAMPLES = 40, 1000


class Study:
    """A finished search and held-out batches."""

    def __init__(self, method: AutoEmb, model: Any, batches: list[Any]) -> None:
        self.groups, self.model, self.batches = method.groups, model, batches

    def losses(self, weights: list[Tensor]) -> list[Tensor]:
        """Loss of each example of each batch under some weights of the sizes (n, K), by group."""
        whole: dict[Any, Tensor] = {}
        for g, w in zip(self.groups, weights, strict=True):
            table: Any = self.model.tables()[g.table]
            rows = whole.setdefault(table, torch.zeros(table.spec.n_rows, len(g.sizes)))
            rows[g.first : g.first + len(g)] = w
        found = []
        with torch.no_grad(), frozen(self.model):
            for batch in self.batches:
                for table, rows in whole.items():
                    table.mix(rows)
                self.model.loss(batch)
                found.append(self.model.example_losses.clone())
        return found

    def examples_of(self, entity: str, rows: Tensor) -> list[Tensor]:
        """Which examples of each batch contain one of the rows, chosen by (n,) bool."""
        found = []
        for batch in self.batches:
            ids, example = occurrences(batch)[entity]
            hit = torch.zeros(len(batch.users), dtype=torch.bool)
            hit[example[rows[ids]]] = True
            found.append(hit)
        return found


def mean(losses: list[Tensor], chosen: list[Tensor]) -> float:
    return float(torch.cat([x[c] for x, c in zip(losses, chosen, strict=True)]).mean())


def main() -> str:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--dataset", default="ml-1m-ultragcn")
    parser.add_argument("--backbone", default="lightgcn")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--equal", action="store_true", help="controllers stay at equal weights")
    parser.add_argument("--start-equal", action="store_true", help="they start from equal weights")
    chosen = parser.parse_args()
    torch.set_num_threads(thread_count())
    torch.set_flush_denormal(True)
    data = datasets.load(chosen.dataset)
    spec = resolve(dataset=chosen.dataset, backbone=chosen.backbone, method="autoemb", sparsity=0.5,
                   seed=0, epochs=chosen.epochs, settings=chosen.set)  # fmt: skip
    lab = make_lab(spec, data, torch.device("cpu"))
    method = AutoEmb(AutoEmb.options_type.model_validate(spec.options), 0.5)
    other, model, _, held_out = method.begin_search(lab, method.candidates)
    search = _Search(method, lab, model, held_out)
    if chosen.equal or chosen.start_equal:
        for controller in search.controllers:
            torch.nn.init.zeros_(controller.second.weight)
    if chosen.equal:
        search.step.param_groups[0]["lr"] = 0.0
    other.fit(model, "search", search, select=False)
    batches = [next(held_out) for _ in range(min(held_out.sampler.steps, MOST_BATCHES))]
    study = Study(method, model.train(), batches)
    soft = [torch.from_numpy(np.exp(x)).float() for x in search.log_weights()]
    base = study.losses(soft)
    parts = []
    for k, g in enumerate(method.groups):
        expected = (soft[k].numpy() * g.sizes).sum(axis=1)
        rows = []
        for bucket in range(int(g.buckets.max()) + 1):
            inside = g.buckets == bucket
            hit = study.examples_of(g.entity, inside)
            if sum(int(h.sum()) for h in hit) < LEAST_EXAMPLES:
                continue
            now, changes = mean(base, hit), []
            for place in range(len(g.sizes)):
                changed = [w.clone() for w in soft]
                changed[k][inside] = one_hot(torch.tensor(place), len(g.sizes)).float()
                changes.append(mean(study.losses(changed), hit) - now)
            rows.append([f"{2**bucket - 1} to {2 ** (bucket + 1) - 2}", int(inside.sum()),
                         f"{expected[inside.numpy()].mean():.1f}",
                         int(g.sizes[np.argmin(changes)]), *(f"{x:+.4f}" for x in changes)])  # fmt: skip
        correlation = "" if chosen.equal else (
            f"; rank correlation with popularity {spearmanr(expected, g.degrees).statistic:+.2f}"
        )  # fmt: skip
        head = ["training pairs", "rows", "size asked for", "best size",
                *(f"loss at {size}" for size in g.sizes)]  # fmt: skip
        parts.append(f"### {g.name}{correlation}\n\n" + tabulate(rows, head, tablefmt="github"))
    return "\n\n".join([*parts, machine(), ""])


if __name__ == "__main__":
    print(main())
