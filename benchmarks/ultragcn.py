"""UltraGCN: a training step against the straightforward one in PyTorch, equal weights and batches.

The reference gathers the items' rows, (B, 1 + negatives, d), multiplies and sums, takes binary cross
entropies with weights, and the norms of the whole tables, as released code does.
"""

from __future__ import annotations

import argparse

import torch
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from common import gowalla_or_alike, interleaved, machine, table
from dslbench.backbones.ultragcn import UltraGCN
from dslbench.runs.assemble import make_lab
from dslbench.sampling.pairs import Grouped
from dslbench.spec import resolve


class PlainUltraGCN:
    """The reference, with the constants of ours."""

    def __init__(self, model: UltraGCN) -> None:
        self.ours = model
        self.users, self.items = (
            torch.nn.Parameter(t.full().detach().clone()) for t in (model.user, model.item)
        )
        self.optimiser = torch.optim.Adam([self.users, self.items], lr=model.hyper.lr)

    def loss(self, batch: Grouped) -> torch.Tensor:
        h, ours = self.ours.hyper, self.ours
        users, negatives = self.users[batch.users], batch.negatives.long()
        beta = ours.beta_users[batch.users]
        scores = (users * self.items[batch.positives]).sum(-1)
        apart = (users.unsqueeze(1) * self.items[negatives]).sum(-1)
        near = ours.neighbours[batch.positives].long()
        beside = (users.unsqueeze(1) * self.items[near]).sum(-1)
        weight = h.w1 + h.w2 * beta * ours.beta_items[batch.positives]
        weights = h.w3 + h.w4 * beta.unsqueeze(1) * ours.beta_items[negatives]
        pulled = cross_entropy(scores, torch.ones_like(scores), weight, reduction="none")
        pushed = cross_entropy(apart, torch.zeros_like(apart), weights, reduction="none")
        constraint = (pulled + pushed.mean(1) * h.negative_weight).sum()
        similar = -(ours.omega[batch.positives] * torch.sigmoid(beside).log()).sum()
        norms = (self.users**2).sum() / 2 + (self.items**2).sum() / 2
        return constraint + h.gamma * norms + h.lambda_ * similar

    def step(self, batch: Grouped) -> float:
        self.optimiser.zero_grad()
        loss = self.loss(batch)
        loss.backward()
        self.optimiser.step()
        return float(loss.detach())


def main() -> str:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    data, source = gowalla_or_alike()
    spec = resolve(dataset="gowalla", backbone="ultragcn", method="dense", sparsity=0.0, seed=0,
                   epochs=1, protocol="paper")  # fmt: skip
    lab = make_lab(spec, data, torch.device("cpu"))
    model = lab.build()
    assert isinstance(model, UltraGCN)
    optimiser, plain = model.optimiser(lab.hyper), PlainUltraGCN(model)
    batches = model.sampler(data, lab.hyper, lab.streams, lab.device).epoch()
    current: list[Grouped] = []
    losses: dict[str, list[float]] = {"ours": [], "plain": []}

    def our_step() -> None:
        current[:] = [next(batches)]
        optimiser.zero_grad(set_to_none=True)
        loss = model.loss(current[0])
        loss.backward()
        optimiser.step()
        losses["ours"].append(float(loss.detach()))

    def plain_step() -> None:
        losses["plain"].append(plain.step(current[0]))

    name = "gather, multiply, sum"
    times = interleaved({"dslbench": our_step, name: plain_step}, rounds)
    gap = max(abs(a - b) / abs(b) for a, b in zip(*losses.values(), strict=True))
    if gap > 1e-4:
        raise SystemExit(f"the two models compute different losses (relative gap {gap:.1e})")
    h = model.hyper
    title = (
        f"UltraGCN training step, {source}, batch {h.batch_size}, {h.negative_num} negatives, "
        f"d={h.embedding_size} (largest difference of losses {gap:.0e} relative)"
    )
    return f"{table(title, times, name)}\nMachine: {machine()}\n"


if __name__ == "__main__":
    print(main())
