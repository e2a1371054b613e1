"""LightGCN: a training step and a full-ranking evaluation against the usual PyTorch way.

The reference step is what LightGCN-PyTorch and RecBole do: a coalesced COO adjacency, one
`torch.sparse.mm` per layer over all rows, autograd through it, Adam with its defaults.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from torch.nn.functional import softplus

from common import gowalla_or_alike, interleaved, machine, table
from dslbench.backbones.lightgcn import LightGCN, LightGCNHyper
from dslbench.data.interactions import Interactions
from dslbench.evaluate import evaluate
from dslbench.ops.graphs import normalised_adjacency
from dslbench.sampling import Triples, TripleSampler
from dslbench.seeds import Streams
from dslbench.tables import DenseTable

BATCH, LAYERS, DIM, REG = 2048, 3, 64, 1e-4


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


def main() -> str:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    data, source = gowalla_or_alike()
    model, optimiser = ours(data)
    reference = CooLightGCN(data, model.embedding.full().detach())
    batches = TripleSampler(data.train, BATCH, Streams(1), torch.device("cpu")).epoch()
    current: list[Triples] = []
    losses: dict[str, list[float]] = {"ours": [], "coo": []}

    def our_step() -> None:
        current.append(next(batches))
        loss = model.loss(current[-1])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        losses["ours"].append(float(loss.detach()))

    def reference_step() -> None:
        losses["coo"].append(reference.step(current[-1]))

    steps = interleaved({"dslbench": our_step, "torch.sparse.mm, COO": reference_step}, rounds)
    pairs = list(zip(losses["ours"], losses["coo"], strict=True))
    gap = max(abs(a - b) / abs(b) for a, b in pairs)
    if gap > 1e-4:
        raise SystemExit(f"the two models compute different losses (relative gap {gap:.1e})")
    apart = float((model.embedding.full().detach() - reference.table.detach()).abs().max())

    def full_ranking() -> None:
        evaluate(model.scorer(), data.test, data.train)

    ranking = interleaved({"dslbench": full_ranking}, max(3, rounds // 3), warm_up=1)
    parts = [
        table(
            f"LightGCN training step, {source}, batch {BATCH}, d={DIM}, L={LAYERS} "
            f"(after {len(losses['coo'])} steps: largest difference of losses {gap:.0e} relative, "
            f"of table entries {apart:.0e})",
            steps,
            "torch.sparse.mm, COO",
        ),
        table(f"Full ranking of {np.count_nonzero(np.diff(data.test.indptr)):,} users over "
              f"{data.n_items:,} items, top 20, {source}", ranking, "dslbench"),
        f"Machine: {machine()}\n",
    ]  # fmt: skip
    return "\n".join(parts)


if __name__ == "__main__":
    print(main())
