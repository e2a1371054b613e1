"""Ranking distillation (RKD, Tang and Wang, KDD 2018): a small model learns its teacher's top lists."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from scipy import sparse
from torch import Tensor
from torch.nn.functional import softplus

from dslbench.backbones.base import Backbone
from dslbench.evaluation.ranking import Ranker
from dslbench.methods._student import Student, learning_users
from dslbench.methods.base import Options
from dslbench.ops.lookup import count_higher
from dslbench.ops.scores import Scorer
from dslbench.ranges import searched
from dslbench.sampling.triples import draw_unseen
from dslbench.tables import DenseTable, MakeTable, Table, TableSpec
from dslbench.tables.projected import ProjectedTable
from dslbench.training.hooks import Loop


class RankingOptions(Options):
    """Settings of ranking distillation."""

    form: Literal["ranking", "projection"] = Field(
        default="ranking",
        description="learn the teacher's lists, or (LCM) a linear map of its frozen tables instead",
    )
    k: int = Field(
        default=10,
        ge=1,
        description="items K of the teacher's list per user",
        json_schema_extra=searched(10, 100, log=True),
    )
    alpha: float | None = Field(
        default=None,
        ge=0,
        description="weight of the term; none: 0.1 beside a loss of pairs (BPR), else 1",
        json_schema_extra=searched(1e-3, 1.0, log=True),
    )
    decay: float = Field(
        default=1.0,
        gt=0,
        description="lambda: place k of the list weighs exp(-k / lambda)",
        json_schema_extra=searched(1.0, 20.0),
    )
    mu: float = Field(
        default=0.1, ge=0, description="sharpness of the weights by the student's rank"
    )
    sampled: int = Field(
        default=100, ge=1, description="items |D| from which the student's rank is estimated"
    )
    static_epochs: int = Field(
        default=10, ge=0, description="first epochs e0 in which places alone decide the weights"
    )
    normalise: bool = Field(
        default=False, description="scale the weights of a list to sum 1 after e0, too"
    )


class RankingDistillation(Student):
    """base + alpha mean_u sum_k w_k softplus(-y(u, pi_uk)) over the teacher's top K unseen items.

    w_k is exp(-k / lambda) scaled to sum 1 over the list (section 3.3, position importance); after
    e0 epochs times max(0, tanh(mu (r_k - k))), r_k the rank the student gives the item, estimated
    from |D| random unseen items (ranking discrepancy; both counted from 0, as in the released
    code). Users with fewer than K unseen items have shorter lists. Losses that are sums over the
    batch get the term's sum, not its mean.

    `lcm` is what explains the RKD row of DSL's Table 3: tables E W + b with the teacher's E frozen
    and one W and b for users and one for items, no term; stored is the finished product.
    """

    name = "rkd"
    label = "RKD"
    options_type: ClassVar[type[Options]] = RankingOptions
    variants: ClassVar[dict[str, dict[str, Any]]] = {"default": {}, "lcm": {"form": "projection"}}

    def make_table(self, teacher: Backbone) -> MakeTable:
        if self.options.form == "ranking":
            return DenseTable
        tables = teacher.tables()

        def projected(spec: TableSpec, rng: np.random.Generator) -> Table:
            if spec.role == "layer":
                return DenseTable(spec, rng)
            return ProjectedTable(spec, tables[spec.name].full(), rng)

        return projected

    def prepare(self, model: Backbone, teacher: Backbone) -> None:
        if self.options.form == "projection":
            return
        data, device = self.lab.data, self.lab.device
        lists = self.lab.work(
            "teacher's lists",
            lambda: top_lists(teacher.scorer(), data.seen_before_valid, self.options.k, device),
            teacher,
        )
        present = lists >= 0
        self.lists = torch.from_numpy(np.maximum(lists, 0)).to(device, torch.int64)
        places = np.exp(-np.arange(lists.shape[1]) / self.options.decay) * present
        total = places.sum(axis=1, keepdims=True)
        places = np.divide(places, total, out=np.zeros_like(places), where=total > 0)
        self.places = torch.from_numpy(places.astype(np.float32)).to(device)
        self.without_list = bool((total == 0).any())
        default = 0.1 if model.pairwise_loss else 1.0
        self.alpha = default if self.options.alpha is None else self.options.alpha
        self.found |= {
            "alpha": self.alpha,
            "users_with_short_lists": int((present.sum(axis=1) < self.options.k).sum()),
        }

    def loss(self, loop: Loop, batch: Any) -> Tensor:
        """Teacher's lists are scored beside the backbone's loss, which may share work with them."""
        if self.options.form == "projection":
            return loop.model.loss(batch)
        users = learning_users(batch)
        size, others = len(users), None
        if self.without_list:
            users = users[self.places[users, 0] > 0]
        if not len(users):  # a small batch may be all negatives
            return loop.model.loss(batch)
        if loop.epoch > self.options.static_epochs:
            others = self.draw_others(users)
        loss, scores, apart = loop.model.loss_and_scores(batch, users, self.lists[users], others)
        weights = self.places[users]
        if apart is not None:
            weights = weights * discrepancy(
                scores.detach(), apart, self.lab.data.n_items, self.options.mu
            )
            if self.options.normalise:
                weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-12)
        term = (weights * softplus(-scores)).sum()
        if not loop.model.sums_loss:
            term = term / size
        loop.note("distillation", float(term.detach()))
        return loss + self.alpha * term

    def draw_others(self, users: Tensor) -> Tensor:
        """Random unseen items of each user, (B, |D|)."""
        each, rng = self.options.sampled, self.lab.streams["distillation"]
        drawn = draw_unseen(self.lab.data.train, users.cpu().numpy(), rng, np.int64, each)
        return torch.from_numpy(drawn).view(len(users), each).to(users.device)

    def finished(self, model: Backbone) -> Backbone:
        """The model over ordinary tables: a projection is multiplied out, its teacher dropped."""
        if self.options.form == "ranking":
            return model
        plain = self.lab.build(pretrained=False)
        plain.load_state_dict(model.state_dict(), strict=False)
        with torch.no_grad():
            for name, table in model.tables().items():
                plain.tables()[name].full().copy_(table.full())
        return plain


def top_lists(
    scorer: Scorer, seen: sparse.csr_matrix, k: int, device: torch.device
) -> npt.NDArray[np.int32]:
    """The K best unseen items of every user, (N, K), best first, -1 where there are fewer.

    Scored in blocks of users: memory N K beside one block.
    """
    ranker = Ranker(scorer, seen, k, device=device)
    users, block = np.arange(seen.shape[0], dtype=np.int64), ranker.users_at_once
    return np.concatenate(
        [ranker(users[start : start + block])[0] for start in range(0, len(users), block)]
    )


def discrepancy(scores: Tensor, others: Tensor, n_items: int, mu: float) -> Tensor:
    """max(0, tanh(mu (r_k - k))) for the items of a list, k from 0 (section 3.3.2), (B, K).

    r_k = floor((M - 1) share) with the share of the others (B, D) that score higher than the item.
    """
    # In whole numbers: the share as a float may fall just below what it stands for.
    ranks = count_higher(scores, others) * (n_items - 1) // others.shape[1]
    places = torch.arange(scores.shape[1], device=scores.device)
    return torch.tanh(mu * (ranks - places)).clamp(min=0)
