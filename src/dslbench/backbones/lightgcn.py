"""LightGCN (He et al., SIGIR 2020): embeddings propagated over the interaction graph, nothing else."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from dslbench.backbones.base import Backbone, Hyper
from dslbench.data.interactions import Interactions
from dslbench.ops.bpr import BprLoss
from dslbench.ops.lookup import LookupScores, distinct
from dslbench.ops.propagate import Propagate
from dslbench.ops.scores import FullScores, ProductScorer, Scorer
from dslbench.ranges import searched
from dslbench.sampling.triples import Triples, TripleSampler
from dslbench.seeds import Streams
from dslbench.tables import MakeTable, TableSpec
from dslbench.tables.spec import normal, xavier_uniform


class LightGCNHyper(Hyper):
    """LightGCN's own hyper-parameters."""

    # Many negatives allow `fast` a rate of 0.1: the search must reach beyond it.
    lr: float = Field(
        gt=0,
        description="learning rate at the start",
        json_schema_extra=searched(1e-4, 0.5, log=True),
    )
    layers: int = Field(
        ge=0, description="propagation layers L", json_schema_extra=searched(1, 4, model=True)
    )
    reg: float = Field(
        ge=0,
        description="weight of the squared norm of the batch's ego embeddings",
        json_schema_extra=searched(1e-6, 1e-2, log=True),
    )
    init: Literal["normal", "xavier"] = Field(description="normal(0, init_std), or joint Xavier")
    init_std: float = Field(default=0.1, gt=0, description="standard deviation of the normal init")
    precision: Literal["fp32", "bf16"] = Field(
        default="fp32",
        description="of what hops read of neighbours in training, where rows have a multiple of 16 entries; "
        "sums, tables and rankings are fp32",
    )
    negatives: int = Field(
        default=1,
        ge=1,
        le=1024,
        description="negatives of a training pair: its own, and those of the pairs beside it in the batch",
    )

    added: ClassVar[dict[str, Any]] = {"negatives": 1}


class LightGCN(Backbone):
    """One joint table of N user and M item rows; a score is a dot product of propagated rows."""

    name = "lightgcn"
    label = "LightGCN"
    version = 2
    hyper_type = LightGCNHyper
    scores_from_pairs = True
    dense_gradients = True  # propagation reaches every row
    pairwise_loss = True
    published_delta_t = 3000

    def __init__(
        self, data: Interactions, hyper: LightGCNHyper, make_table: MakeTable, streams: Streams
    ) -> None:
        super().__init__(data, hyper, make_table, streams)
        self.n_users, self.n_items, self.reg = data.n_users, data.n_items, hyper.reg
        spec = TableSpec(
            name="embedding",
            segments=(("user", data.n_users), ("item", data.n_items)),
            dim=hyper.embedding_size,
            init=normal(hyper.init_std) if hyper.init == "normal" else xavier_uniform,
        )
        self.embedding = make_table(spec, streams.fresh("init"))
        self.propagate = Propagate(data.train, hyper.layers, halves=hyper.precision == "bf16")
        self.bpr_loss = BprLoss()
        self.lookup_scores = LookupScores()
        self.full_scores = FullScores()

    def sampler(
        self, data: Interactions, hyper: LightGCNHyper, streams: Streams, device: torch.device
    ) -> TripleSampler:
        return TripleSampler(data.train, hyper.batch_size, streams, device, hyper.negatives)

    def loss(self, batch: Triples) -> Tensor:
        """BPR on propagated rows plus L2 on the batch's layer-0 rows (LightGCN, Eq. 15).

        mean softplus(s_uj - s_ui) + reg / (2 B) * (|e_u|^2 + |e_i|^2 + |e_j|^2), the mean over examples
        and, where they share them, over their negatives.
        """
        return self._loss_and_rows(batch, batch.users[:0])[0]

    def _propagated(self, rows: Tensor | None = None) -> Any:
        """All rows propagated, or those given, and these of the table itself."""
        return self.propagate(self.embedding.operand(), rows)

    def _loss_and_rows(self, batch: Triples, more: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and more rows (R,) out of the same propagation, (R, d)."""
        size = len(batch.users)
        rows = torch.cat(
            [batch.users, batch.positives + self.n_users, batch.negatives + self.n_users, more]
        )
        propagated, own = self._propagated(rows)
        loss, self.example_losses = self.bpr_loss(propagated, own, size, self.reg, batch.known)
        return loss, propagated[3 * size :]

    def loss_and_scores(
        self, batch: Triples, users: Tensor, items: Tensor, others: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        wanted = items if others is None else torch.cat([items, others], dim=1)
        found, places = distinct(wanted, self.n_items)
        loss, of_users, of_items = self.loss_and_vectors(batch, users, found)
        scores = self.lookup_scores(of_users, of_items, places[:, : items.shape[1]])
        if others is None:
            return loss, scores, None
        apart = of_users.detach(), of_items.detach(), places[:, items.shape[1] :]
        return loss, scores, self.lookup_scores(*apart)

    def loss_and_vectors(
        self, batch: Triples, users: Tensor, items: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        loss, rows = self._loss_and_rows(batch, torch.cat([users, items + self.n_users]))
        return loss, rows[: len(users)], rows[len(users) :]

    def pair_scores(self, users: Tensor, items: Tensor) -> Tensor:
        found, places = distinct(items, self.n_items)
        scores: Tensor = self.lookup_scores(*self.vectors(users, found), places)
        return scores

    def vectors(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        wanted = torch.cat([users, items + self.n_users])
        rows = self._propagated(wanted)[0]
        return rows[: len(users)], rows[len(users) :]

    @torch.no_grad()
    def scorer(self) -> Scorer:
        final = self._propagated()
        return ProductScorer(self.full_scores, final[: self.n_users], final[self.n_users :])
