"""LightGCN: a training step and a full-ranking evaluation against the usual PyTorch way.

The reference step is what LightGCN-PyTorch and RecBole do: a coalesced COO adjacency, one
`torch.sparse.mm` per layer over all rows, autograd through it, Adam with its defaults.

The two take turns, a process with a block of steps each: torch's threads wait as each one's user has them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time

import numpy as np
import torch
from torch.nn.functional import softplus

from backbones import own_settings, their_settings
from common import gowalla_or_alike, machine, table
from dslbench.backbones.lightgcn import LightGCN, LightGCNHyper
from dslbench.data.interactions import Interactions
from dslbench.evaluation.evaluate import evaluate
from dslbench.ops.graphs import normalised_adjacency
from dslbench.sampling.triples import Triples, TripleSampler
from dslbench.seeds import Streams
from dslbench.tables import DenseTable

BATCH, LAYERS, DIM, REG = 2048, 3, 64, 1e-4
OURS, COO, WARM_UP = "dslbench", "torch.sparse.mm, COO", 3


class CooLightGCN:
    """The reference."""

    def __init__(self, data: Interactions, initial: torch.Tensor) -> None:
        adjacency = normalised_adjacency(data.train).tocoo()
        indices = torch.from_numpy(np.stack([adjacency.row, adjacency.col]).astype(np.int64))
        self.adjacency = torch.sparse_coo_tensor(
            indices, torch.from_numpy(adjacency.data), adjacency.shape, check_invariants=False
        ).coalesce()
        self.n_users = data.n_users
        self.table = torch.nn.Parameter(initial.clone())
        self.optimiser = torch.optim.Adam([self.table], lr=1e-3)

    def loss(self, batch: Triples) -> torch.Tensor:
        layers = [self.table]
        for _ in range(LAYERS):
            layers.append(torch.sparse.mm(self.adjacency, layers[-1]))
        final = torch.stack(layers, dim=1).mean(dim=1)
        users, items = final[: self.n_users], final[self.n_users :]
        u, i, j = users[batch.users], items[batch.positives], items[batch.negatives]
        ego_users, ego_items = self.table[: self.n_users], self.table[self.n_users :]
        ego = (
            ego_users[batch.users].norm(2).pow(2)
            + ego_items[batch.positives].norm(2).pow(2)
            + ego_items[batch.negatives].norm(2).pow(2)
        )
        ranking = softplus((u * j).sum(1) - (u * i).sum(1)).mean()
        return ranking + REG * ego / (2 * len(batch.users))

    def step(self, batch: Triples) -> float:
        loss = self.loss(batch)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return float(loss.detach())


def ours(data: Interactions) -> tuple[LightGCN, torch.optim.Optimizer]:
    hyper = LightGCNHyper(
        embedding_size=DIM,
        epochs=1,
        batch_size=BATCH,
        lr=1e-3,
        layers=LAYERS,
        reg=REG,
        init="normal",
    )
    model = LightGCN(data, hyper, DenseTable, Streams(0))
    return model, model.optimiser(hyper)


def measure(which: str, steps: int, table_file: str) -> dict[str, list[float]]:
    """Seconds and losses of the first steps, from weights and batches that both have; in this process."""
    data, _ = gowalla_or_alike()
    model, optimiser = ours(data)
    reference = CooLightGCN(data, model.embedding.full().detach()) if which == COO else None
    batches = TripleSampler(data.train, BATCH, Streams(1), torch.device("cpu")).epoch()
    times, losses, ranking = [], [], []
    for _ in range(steps):
        batch = next(batches)
        began = time.perf_counter()
        if reference is not None:
            losses.append(reference.step(batch))
        else:
            loss = model.loss(batch)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
        times.append(time.perf_counter() - began)
    if reference is None:
        for _ in range(4):
            began = time.perf_counter()
            evaluate(model.scorer(), data.test, data.train)
            ranking.append(time.perf_counter() - began)
    trained = model.embedding.full() if reference is None else reference.table
    np.save(table_file, trained.detach().numpy())
    return {"steps": times[WARM_UP:], "losses": losses, "ranking": ranking[1:]}


def main() -> str:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15, help="steps of each block")
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--one", nargs=2, help="measure this in this process and print JSON")
    chosen = parser.parse_args()
    if chosen.one:
        return json.dumps(measure(chosen.one[0], chosen.rounds + WARM_UP, chosen.one[1]))
    data, source = gowalla_or_alike()
    environments = {OURS: own_settings(), COO: their_settings()}
    found: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(chosen.blocks):
            for which, environment in environments.items():
                command = [sys.executable, __file__, "--rounds", str(chosen.rounds)]
                command += ["--one", which, f"{folder}/{which}.npy"]
                out = subprocess.run(
                    command, env=environment, stdout=subprocess.PIPE, text=True, check=True
                ).stdout
                for key, values in json.loads(out).items():
                    found.setdefault(which, {}).setdefault(key, []).extend(values)
        tables = [np.load(f"{folder}/{which}.npy") for which in environments]
    pairs = list(zip(*(found[which]["losses"] for which in environments), strict=True))
    gap = max(abs(a - b) / abs(b) for a, b in pairs)
    if gap > 1e-4:
        raise SystemExit(f"the two models compute different losses (relative gap {gap:.1e})")
    apart = float(np.abs(tables[0] - tables[1]).max())
    parts = [
        table(
            f"LightGCN training step, {source}, batch {BATCH}, d={DIM}, L={LAYERS} "
            f"(after {chosen.rounds + WARM_UP} steps: largest difference of losses {gap:.0e} relative, "
            f"of table entries {apart:.0e})",
            {which: part["steps"] for which, part in found.items()},
            COO,
        ),
        table(
            f"Full ranking of {np.count_nonzero(np.diff(data.test.indptr)):,} users over "
            f"{data.n_items:,} items, top 20, {source}",
            {OURS: found[OURS]["ranking"]},
            OURS,
        ),
        f"Machine: {machine()}\n",
    ]
    return "\n".join(parts)


if __name__ == "__main__":
    print(main())
