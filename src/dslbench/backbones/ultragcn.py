"""UltraGCN (Mao et al., CIKM 2021): the limit of infinitely many graph layers as weights of a loss."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from scipy import sparse
from torch import Tensor
from torch.nn.functional import softplus

from dslbench.backbones.base import Backbone, Hyper
from dslbench.data.interactions import Interactions
from dslbench.ops import lookup_kernels
from dslbench.ops.lookup import LookupScores
from dslbench.ops.norms import SquaredNorm
from dslbench.ops.scores import FullScores, ProductScorer, Scorer
from dslbench.ops.threads import balanced_bounds, run_rows
from dslbench.ranges import searched
from dslbench.sampling.pairs import Grouped, GroupedSampler
from dslbench.seeds import Streams
from dslbench.tables import MakeTable, TableSpec
from dslbench.tables.spec import normal


class UltraGCNHyper(Hyper):
    """UltraGCN's own hyper-parameters, with the names of the released configurations."""

    w1: float = Field(ge=0, description="constant part of a positive pair's weight")
    w2: float = Field(ge=0, description="factor of beta_u beta_i in a positive pair's weight")
    w3: float = Field(ge=0, description="constant part of a negative pair's weight")
    w4: float = Field(ge=0, description="factor of beta_u beta_j in a negative pair's weight")
    negative_num: int = Field(
        ge=1,
        description="negatives drawn for each interaction",
        json_schema_extra=searched(100, 1500, log=True),
    )
    negative_weight: float = Field(ge=0, description="weight of the negatives' mean loss")
    gamma: float = Field(
        ge=0,
        description="weight of the squared norm of both whole tables",
        json_schema_extra=searched(1e-5, 10, log=True),
    )
    lambda_: float = Field(
        ge=0,
        description="weight of the item-item loss (lambda)",
        json_schema_extra=searched(1e-5, 10, log=True),
    )
    neighbours: int = Field(default=10, ge=0, description="item-item neighbours kept (ii_K)")
    init_std: float = Field(gt=0, description="standard deviation of the normal init")


class UltraGCN(Backbone):
    """A user and an item table; a score is a dot product, the graph is in the loss alone."""

    name = "ultragcn"
    label = "UltraGCN"
    hyper_type = UltraGCNHyper
    sums_loss = True

    beta_users: Tensor
    beta_items: Tensor
    neighbours: Tensor
    omega: Tensor

    def __init__(
        self, data: Interactions, hyper: UltraGCNHyper, make_table: MakeTable, streams: Streams
    ) -> None:
        super().__init__(data, hyper, make_table, streams)
        self.hyper = hyper
        rng = streams.fresh("init")
        sides = (("user", data.n_users), ("item", data.n_items))
        self.user, self.item = (
            make_table(
                TableSpec(
                    name=entity,
                    segments=((entity, rows),),
                    dim=hyper.embedding_size,
                    init=normal(hyper.init_std),
                ),
                rng,
            )
            for entity, rows in sides
        )
        beta_users, beta_items = degree_weights(data.train)
        neighbours, omega = item_graph(data.train, min(hyper.neighbours, data.n_items))
        # Constants of the training data: built again with the model, not stored with it.
        for name, array in (
            ("beta_users", beta_users),
            ("beta_items", beta_items),
            ("neighbours", neighbours),
            ("omega", omega),
        ):
            self.register_buffer(name, torch.from_numpy(array), persistent=False)
        self.lookup_scores = LookupScores()
        self.full_scores = FullScores()
        self.squared_norm = SquaredNorm()

    def sampler(
        self, data: Interactions, hyper: UltraGCNHyper, streams: Streams, device: torch.device
    ) -> GroupedSampler:
        return GroupedSampler(
            data.train, hyper.batch_size, hyper.negative_num, streams, device, filtered=False
        )

    def loss(self, batch: Grouped) -> Tensor:
        """L_C + gamma L_reg + lambda L_I, summed over the batch (UltraGCN, Eqs. 10, 13 and 15).

        L_C = sum_b w+ softplus(-s_ui) + negative_weight * mean_j w- softplus(s_uj)
        L_I = sum_b sum_{k in top(i)} Omega_ik softplus(-s_uk)
        L_reg = 1/2 (|E_U|^2 + |E_I|^2), both tables whole, in every batch
        """
        h, items = self.hyper, self.item.full()
        near = self.neighbours[batch.positives]
        looked_up = torch.cat([batch.positives.int().unsqueeze(1), near, batch.negatives], dim=1)
        scores = self.lookup_scores(self.user.rows(batch.users), items, looked_up)
        wanted, unwanted = scores[:, : 1 + near.shape[1]], scores[:, 1 + near.shape[1] :]
        beta = self.beta_users[batch.users]
        positive = h.w1 + h.w2 * beta * self.beta_items[batch.positives]
        weights = torch.cat([positive.unsqueeze(1), h.lambda_ * self.omega[batch.positives]], dim=1)
        negative = h.w3 + h.w4 * beta.unsqueeze(1) * self.beta_items[batch.negatives]
        pull, push = weights * softplus(-wanted), negative * softplus(unwanted)
        scale = h.negative_weight / unwanted.shape[1]
        self.example_losses = (pull.sum(dim=1) + push.sum(dim=1) * scale).detach()
        pulled, pushed = pull.sum(), push.sum() * scale
        norms = self.squared_norm(self.user.entries()) + self.squared_norm(self.item.entries())
        total: Tensor = pulled + pushed + h.gamma / 2 * norms
        return total

    def pair_scores(self, users: Tensor, items: Tensor) -> Tensor:
        scores: Tensor = self.lookup_scores(self.user.rows(users), self.item.full(), items.int())
        return scores

    def vectors(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        return self.user.rows(users), self.item.rows(items)

    @torch.no_grad()
    def scorer(self) -> Scorer:
        return ProductScorer(self.full_scores, self.user.operand(), self.item.operand())


def degree_weights(
    train: sparse.csr_matrix,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """beta_u = sqrt(d_u + 1) / d_u and beta_i = 1 / sqrt(d_i + 1) (UltraGCN, Eq. 6), float32.

    (N,) and (M,). beta_u is 0 for users without items: they are in no batch.
    """
    users = np.diff(train.indptr).astype(np.float64)
    items = np.bincount(train.indices, minlength=train.shape[1]).astype(np.float64)
    beta = np.zeros(len(users))
    np.divide(np.sqrt(users + 1), users, out=beta, where=users > 0)
    return beta.astype(np.float32), (1 / np.sqrt(items + 1)).astype(np.float32)


def item_graph(
    train: sparse.csr_matrix, top: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """The strongest `top` neighbours of each item and their weights, (M, top) each.

    G = R^T R with its diagonal, as the released code has it (the paper takes it out);
    Omega_ij = G_ij / g_i * sqrt((g_i + 1) / (g_j + 1)) with row sums g (Eq. 11). Equal weights are
    ordered by item id. An item with fewer neighbours is filled up with itself at weight 0.

    G itself is never stored: it is dense for popular items.
    """
    n_items = int(train.shape[1])
    by_item = train.T.tocsr()
    sums = np.asarray(by_item @ np.diff(train.indptr), dtype=np.float64)
    neighbours = np.repeat(np.arange(n_items, dtype=np.int32)[:, None], top, axis=1)
    omega = np.zeros((n_items, top), dtype=np.float32)
    if top:
        work = np.append(0, np.cumsum(sums)).astype(np.int64)
        run_rows(
            lookup_kernels.top_neighbours, balanced_bounds(work),
            by_item.indptr, by_item.indices, train.indptr, train.indices, sums, neighbours, omega,
        )  # fmt: skip
    return neighbours, omega
