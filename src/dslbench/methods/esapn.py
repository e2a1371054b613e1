"""ESAPN (Liu et al., SIGIR 2020): a policy makes rows larger, one size at a time, while they learn."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from dslbench.backbones.base import Backbone
from dslbench.methods._controllers import (
    HeldOutBatches,
    frozen,
    in_chunks,
    make_controllers,
    mean_losses,
    occurrences,
)
from dslbench.methods._sized import MapsRate, SizedMethod
from dslbench.methods._sizes import (
    Budget,
    Float64,
    Int64,
    Places,
    SizeOptions,
    describe,
    embedding_only,
    parameters_of,
)
from dslbench.optimisers import Adam
from dslbench.tables import MixedTable
from dslbench.tables.masked import cold_start
from dslbench.training.hooks import Loop
from dslbench.training.lab import Lab

STAY, ENLARGE = 0, 1


class ESAPNOptions(SizeOptions):
    """Settings of ESAPN."""

    search_share: float = Field(
        default=0.5, gt=0, lt=1, description="share of the epochs in which the policy runs"
    )
    last_losses: int = Field(
        default=5, ge=1, description="losses of a row whose mean a reward is measured against"
    )


class ESAPN(SizedMethod):
    """Hard sizes that only grow, chosen by a policy that is rewarded for falling losses.

    Search: in every iteration, (1) on held-out pairs the policy samples who grows, the rows grow for
    the time of one loss, and REINFORCE steps the policy by how far each row's loss is below the mean
    of its last ones; (2) on training pairs those grow for good for whom growing is likelier than
    not, and the model steps. Then the sizes are frozen, and training goes on with all pairs.

    A row that grows is mapped, and stands for the same vector until it is trained on. So a reward
    says how a row's loss develops, not what growing did to it.

    Budget: nobody grows beyond it; rows with the larger margin of the two logits come first. What is
    left of it when the search ends is given out by the same margin.
    """

    name = "esapn"
    label = "ESAPN"
    chain = True
    share_epochs = True
    relative_time = 2.0  # measured on LightGCN
    options_type: ClassVar[type[SizeOptions]] = ESAPNOptions

    @classmethod
    def phases(cls, options: Any, sparsity: float) -> list[str]:
        return ["search", "train"]

    def run(self, lab: Lab) -> Backbone:
        epochs = max(1, round(self.options.search_share * lab.epochs))
        other, growing, budget, held_out = self.begin_search(lab, self.mixed, epochs)
        search = _Search(self, lab, growing, held_out, budget)
        other.fit(growing, "search", search, select=False)
        self.natural_params = parameters_of(self.groups, search.places())
        search.finish()
        self.places = search.places()
        model = lab.build(embedding_only(self.mixed), pretrained=False)
        model.load_state_dict(growing.state_dict())
        tables = growing.tables()
        for name, table in model.tables().items():
            if isinstance(table, MixedTable):
                table.allowed = cast(MixedTable, tables[name]).allowed
        lab.variation(epochs=max(1, lab.epochs - epochs)).fit(
            model, "train", MapsRate(self.options)
        )
        return model

    def diagnostics(self) -> dict[str, Any]:
        """What sizes came out, and how much the policy alone came to."""
        return {"natural_params": self.natural_params, **describe(self.groups, self.places)}


class _Search(MapsRate):
    """The iterations of policy and model."""

    def __init__(
        self, method: ESAPN, lab: Lab, model: Backbone, held_out: HeldOutBatches, budget: Budget
    ) -> None:
        super().__init__(method.options)
        self.options, self.groups, self.held_out = method.options, method.groups, held_out
        self.budget = budget
        self.controllers = make_controllers(
            self.groups, [len(g.sizes) for g in self.groups], [2] * len(self.groups),
            self.options, lab.streams, lab.device,
        )  # fmt: skip
        self.step = Adam(self.controllers.parameters(), lr=self.options.controller_lr, fused=True)
        self.buckets = [g.buckets.to(lab.device) for g in self.groups]
        self.actions = lab.streams["actions"]
        tables = model.tables()
        self.tables = [cast(MixedTable, tables[g.table]) for g in self.groups]
        # The last losses of each row, newest first; not a number where there are fewer.
        self.losses = [
            torch.full((len(g), self.options.last_losses), torch.nan, device=lab.device)
            for g in self.groups
        ]
        self.left = None if budget.limit is None else budget.limit - budget.total(self.places())

    def places(self) -> Places:
        """The place of every row's size, by group."""
        return [
            table.place[g.first : g.first + len(g)].cpu().numpy().copy()
            for g, table in zip(self.groups, self.tables, strict=True)
        ]

    def loss(self, loop: Loop, batch: Any) -> Tensor:
        loop.note("reward", self.policy_step(loop.model, next(self.held_out)))
        found = occurrences(batch)
        self.grow(loop, [torch.unique(found[g.entity][0]) for g in self.groups])
        loss = loop.model.loss(batch)
        assert loop.model.example_losses is not None
        for g, known in zip(self.groups, self.losses, strict=True):
            ids, means = mean_losses(found[g.entity], loop.model.example_losses)
            known[ids] = torch.cat([means.unsqueeze(1), known[ids, :-1]], dim=1)
        loop.note("rows_and_maps", float(self.budget.total(self.places())))
        return loss

    def policy_step(self, model: Backbone, batch: Any) -> float:
        """Explore on a batch, step the policies, and return the mean reward; the model stays as it is."""
        found = occurrences(batch)
        asked = [torch.unique(found[g.entity][0]) for g in self.groups]
        logits = [self.logits(k, ids) for k, ids in enumerate(asked)]
        sampled = []
        for k, (ids, answer) in enumerate(zip(asked, logits, strict=True)):
            chance = answer.detach().softmax(dim=1)[:, ENLARGE].cpu().numpy()
            action = torch.from_numpy(self.actions.random(len(ids)) < chance).to(ids.device)
            sampled.append(action & self.may_grow(k, ids))
        losses = self.explore(model, batch, [ids[a] for ids, a in zip(asked, sampled, strict=True)])
        total, rewards = torch.zeros((), device=losses.device), []
        for k, (g, ids) in enumerate(zip(self.groups, asked, strict=True)):
            _, now = mean_losses(found[g.entity], losses)
            reward = self.losses[k][ids].nanmean(dim=1) - now
            reward = reward.nan_to_num(0.0)  # a row without losses yet has nothing to compare
            taken = cross_entropy(logits[k], sampled[k].long(), reduction="none")
            total = total + (taken * reward).sum()
            rewards.append(reward)
        self.step.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        self.step.step()
        return float(torch.cat(rewards).mean())

    @torch.no_grad()
    def explore(self, model: Backbone, batch: Any, growing: list[Tensor]) -> Tensor:
        """Loss of each example while some rows are one size larger; then they are as before."""
        before = []
        for g, table, ids in zip(self.groups, self.tables, growing, strict=True):
            rows = g.first + ids
            before.append((table, rows, table.weight[rows].clone()))
            table.enlarge(rows)
        with frozen(model):
            model.loss(batch)
        for table, rows, vectors in before:
            table.shrink(rows, vectors)
        assert model.example_losses is not None
        return model.example_losses

    @torch.no_grad()
    def grow(self, loop: Loop, asked: list[Tensor]) -> None:
        """Enlarge those for whom the policy says so, the largest margins first, within the budget."""
        margins, prices, rows, owner = [], [], [], []
        for k, ids in enumerate(asked):
            margin = self.margin(k, ids)
            wanted = (margin > 0) & self.may_grow(k, ids)
            ids = ids[wanted]
            sizes = torch.from_numpy(self.groups[k].sizes).to(ids.device)
            place = self.tables[k].place[self.groups[k].first + ids]
            prices.append(sizes[place + 1] - sizes[place])
            margins.append(margin[wanted])
            rows.append(ids)
            owner.append(torch.full_like(ids, k))
        chosen = torch.sort(torch.cat(margins), descending=True, stable=True).indices
        price = torch.cat(prices)[chosen]
        if self.left is not None:
            fits = int((price.cumsum(0) <= self.left).sum())
            chosen, price = chosen[:fits], price[:fits]
            self.left -= int(price.sum())
        ids, group = torch.cat(rows)[chosen], torch.cat(owner)[chosen]
        for k, (g, table) in enumerate(zip(self.groups, self.tables, strict=True)):
            larger = g.first + ids[group == k]
            table.enlarge(larger)
            clear_moments(loop.optimiser, table, larger)

    @torch.no_grad()
    def finish(self) -> None:
        """Spend what is left of the budget by the policy's margin, and settle which maps are kept."""
        self.controllers.eval()
        self.budget.settle(self.fill)
        for name in {g.table for g in self.groups}:
            own = [k for k, g in enumerate(self.groups) if g.table == name]
            self.tables[own[0]].allowed = [self.budget.allowed[k] for k in own]

    def fill(self) -> Places:
        """Enlarge rows as far as the budget goes; their sizes then."""
        if self.budget.limit is not None:
            self.enlarge_to(self.budget.spend(self.places(), self.moves))
        return self.places()

    def moves(self, k: int, places: Int64, allowed: list[int], left: int) -> tuple[Int64, Float64]:
        """The next allowed size of each row, and the margin by which the policy wants it."""
        after = np.append(np.asarray(allowed), -1)
        to = after[np.searchsorted(np.asarray(allowed), places, side="right")]
        to = np.where(to < 0, places, to)
        device = self.buckets[k].device
        sizes = torch.from_numpy(places).to(device)
        margin = in_chunks(len(places), lambda ids: self.margin(k, ids, sizes[ids]), device)
        return to, margin.double().cpu().numpy()

    def enlarge_to(self, places: Places) -> None:
        """Enlarge rows step by step until they have these sizes."""
        for g, table, wanted in zip(self.groups, self.tables, places, strict=True):
            goal = torch.from_numpy(wanted).to(table.place.device)
            while True:
                now = table.place[g.first : g.first + len(g)]
                rows = (now < goal).nonzero().squeeze(1)
                if not len(rows):
                    break
                table.enlarge(g.first + rows)

    def may_grow(self, k: int, ids: Tensor) -> Tensor:
        """Whether there is a larger size for each row."""
        return self.tables[k].place[self.groups[k].first + ids] < self.budget.allowed[k][-1]

    def margin(self, k: int, ids: Tensor, place: Tensor | None = None) -> Tensor:
        """logit of growing minus logit of staying, (B,)."""
        answer = self.logits(k, ids, place)
        return answer[:, ENLARGE] - answer[:, STAY]

    def logits(self, k: int, ids: Tensor, place: Tensor | None = None) -> Tensor:
        """What the policy of a group says about some of its rows, at present sizes or others."""
        g = self.groups[k]
        if place is None:
            place = self.tables[k].place[g.first + ids]
        buckets, sizes = self.buckets[k][ids], len(g.sizes)
        answer: Tensor
        if self.options.last_loss:
            last = self.losses[k][ids, :1].nan_to_num(1.0)
            known = torch.cat([one_hot(place, sizes).float(), last], dim=1)
            answer = self.controllers[k](buckets, known)
            return answer
        # Bucket and size are all that a policy sees of a row: it is asked once for all in one state.
        states, state, counts = torch.unique(
            buckets * sizes + place, return_inverse=True, return_counts=True
        )
        known = one_hot(states % sizes, sizes).float()
        answer = self.controllers[k](states // sizes, known, counts)
        return answer.index_select(0, state)


@torch.no_grad()
def clear_moments(optimiser: torch.optim.Optimizer, table: MixedTable, rows: Tensor) -> None:
    """Put the optimiser's state of some rows back to its start: their vectors are new ones."""
    for name, x in optimiser.state.get(table.weight, {}).items():
        if x.shape == table.weight.shape:
            x[rows] = cold_start(optimiser, name)
