"""Topology distillation (TKD, Kang et al., KDD 2021): a small model learns who is similar to whom."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from dslbench.backbones.base import Backbone
from dslbench.methods._student import Student, entities
from dslbench.methods.base import Options
from dslbench.ops.topology import GroupTopologyDistance, MixedMaps, TopologyDistance
from dslbench.optimisers import Adam
from dslbench.ranges import searched
from dslbench.tables import DenseTable
from dslbench.tables.linear import TableLinear, uniform
from dslbench.training.hooks import Loop


class TopologyOptions(Options):
    """Settings of topology distillation."""

    form: Literal["auto", "ftd", "htd"] = Field(
        default="auto",
        description="all pairs (FTD), or pairs within learned groups (HTD); auto: FTD for a "
        "student of at least half the teacher's size",
    )
    weight: float = Field(
        default=1e-3,
        ge=0,
        description="lambda: weight of the term, a sum, beside a summed loss",
        json_schema_extra=searched(1e-4, 1.0, log=True),
    )
    max_entities: int = Field(
        default=4096,
        ge=2,
        description="users and items of a batch that are compared; more are drawn from at random",
    )
    groups: int = Field(default=30, ge=1, description="HTD: groups K of users, and of items")
    balance: float = Field(
        default=0.5, ge=0, le=1, description="HTD: share of the topology beside the assignment loss"
    )
    tau_end: float = Field(
        default=1e-10,
        gt=0,
        le=1,
        description="HTD: temperature of the Gumbel-softmax in the last epoch, geometrically from 1",
    )
    lr: float = Field(
        default=1e-3, gt=0, description="HTD: learning rate (Adam) of the assignment's networks"
    )


class TopologyDistillation(Student):
    """base + lambda L over the distinct users and items of a batch, L a sum as in the paper.

    FTD: the squared difference of teacher's and student's cosine similarities, over all pairs. HTD:
    a TD + (1 - a) GA. Its groups are argmax of a linear map of the teacher's rows; TD compares
    pairs within a group that the teacher finds similar, and all entities with the groups' means. GA
    reconstructs the teacher's row from the student's through one network for each group, mixed by
    the Gumbel-softmax of the same linear map. Users and items have networks of their own, which are
    dropped at the end.

    A base loss that is a mean over the batch gets lambda L divided by the batch's size. FTD costs
    b (d^2 + d e + e^2) multiplications for b entities, not the published b^2 (d + e): see
    `ops.topology`. HTD costs the sum of b_g^2 (d + e) over its groups, and h (d + e), h = (d + e) / 2, for
    each entity and each group it is mixed from.
    """

    name = "tkd"
    label = "TKD"
    options_type: ClassVar[type[Options]] = TopologyOptions
    variants: ClassVar[dict[str, dict[str, Any]]] = {
        "default": {},
        "ftd": {"form": "ftd"},
        "htd": {"form": "htd"},
    }

    def prepare(self, model: Backbone, teacher: Backbone) -> None:
        data, device = self.lab.data, self.lab.device
        users, items = (torch.arange(n, device=device) for n in (data.n_users, data.n_items))
        with torch.no_grad():
            self.of_users, self.of_items = self.lab.work(
                "teacher's vectors", lambda: teacher.vectors(users, items), teacher
            )
            e = model.eval().vectors(users[:1], items[:1])[0].shape[1]
            model.train()
        form = self.options.form
        if form == "auto":
            form = "ftd" if self.sparsity <= 0.5 else "htd"
        self.found["form"] = form
        self.distance = TopologyDistance()
        self.grouping: Grouping | None = None
        if form == "htd":
            rng = self.lab.streams["distillation"]
            self.grouping = Grouping(self.options, self.of_users.shape[1], e, rng).to(device)
            self.networks = Adam(self.grouping.parameters(), lr=self.options.lr, fused=True)

    def loss(self, loop: Loop, batch: Any) -> Tensor:
        """Both models' vectors of the batch's entities, the student's beside its own loss."""
        users, items = self.drawn(*entities(batch))
        loss, *student = loop.model.loss_and_vectors(batch, users, items)
        teacher = [self.of_users[users], self.of_items[items]]
        if self.grouping is None:
            term = self.distance(torch.cat(teacher), torch.cat(student))
        else:
            progress = (loop.epoch - 1) / max(1, loop.epochs - 1)
            term = self.grouping(teacher, student, self.options.tau_end**progress)
        if not loop.model.sums_loss:
            term = term / len(batch.users)
        loop.note("distillation", float(term.detach()))
        total: Tensor = loss + self.options.weight * term
        return total

    def drawn(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """The entities, or a random part of them where they are more than `max_entities`."""
        count, most = len(users) + len(items), self.options.max_entities
        if count <= most:
            return users, items
        rng = self.lab.streams["entities"]
        kept = torch.from_numpy(np.sort(rng.choice(count, most, replace=False))).to(users.device)
        return users[kept[kept < len(users)]], items[kept[kept >= len(users)] - len(users)]

    def after_step(self, loop: Loop) -> None:
        if self.grouping is not None:
            self.networks.step()
            self.networks.zero_grad()


class Grouping(nn.Module):
    """HTD's term: groups of users and of items, and what is compared within them.

    Args:
        options: K groups for each, and the balance a.
        d: width of the teacher's vectors.
        e: width of the student's.
        rng: draws the networks, then the Gumbel noise.
    """

    def __init__(self, options: TopologyOptions, d: int, e: int, rng: np.random.Generator) -> None:
        super().__init__()
        self.k, self.balance, self.rng = options.groups, options.balance, rng
        bound = uniform(d**-0.5)
        self.assign = nn.ModuleList(
            TableLinear(DenseTable, f"assign_{name}", d, self.k, rng, init=bound, bias=bound)
            for name in ("user", "item")
        )
        self.restore = nn.ModuleList(MixedMaps(self.k, e, d, rng) for _ in range(2))
        self.distance = GroupTopologyDistance()

    def forward(self, teacher: list[Tensor], student: list[Tensor], tau: float) -> Tensor:
        """Vectors of users and of items, [(U, d), (I, d)] and [(U, e), (I, e)], to a scalar."""
        assignment, groups = student[0].new_zeros(()), []
        for side, (t, s) in enumerate(zip(teacher, student, strict=True)):
            logits = self.assign[side](t)
            groups.append(logits.detach().argmax(dim=1) + side * self.k)
            noise = self.rng.gumbel(size=tuple(logits.shape)).astype(np.float32)
            mixed = ((logits + torch.from_numpy(noise).to(logits.device)) / tau).softmax(dim=1)
            # Shares below float32's resolution of their sum, 1, are cut: most become zeros.
            mixed = mixed * (mixed > 1e-8)
            assignment = assignment + (t - self.restore[side](s, mixed)).square().sum()
        topology = self.distance(torch.cat(teacher), torch.cat(student), torch.cat(groups))
        total: Tensor = self.balance * topology + (1 - self.balance) * assignment
        return total
