"""CDAE (Wu et al., WSDM 2016): a denoising autoencoder of user rows with a vector for each user."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from dslbench.backbones._autoencoder import Autoencoder
from dslbench.backbones.base import Hyper
from dslbench.data.interactions import Interactions
from dslbench.ops.lookup import LookupScores
from dslbench.ops.norms import Norm
from dslbench.ops.output_loss import BinaryLoss
from dslbench.ops.scores import FullScores
from dslbench.ops.sparse_input import SparseInput, drop_entries
from dslbench.ranges import searched
from dslbench.sampling.rows import UserRows, UserRowSampler, take_rows
from dslbench.seeds import Streams
from dslbench.tables import MakeTable, Table, TableSpec
from dslbench.tables.linear import TableLinear
from dslbench.tables.spec import xavier_normal

_ACTIVATIONS = {"relu": torch.relu, "sigmoid": torch.sigmoid, "tanh": torch.tanh}


class CDAEHyper(Hyper):
    """CDAE's own hyper-parameters; `embedding_size` is the width K of the hidden layer."""

    dropout: float = Field(
        ge=0,
        lt=1,
        description="share of the input's items dropped in training",
        json_schema_extra=searched(0.2, 0.8),
    )
    reg: float = Field(ge=0, description="weight of the norms of the user and the encoder matrix")
    activation: Literal["relu", "sigmoid", "tanh"] = Field(description="of the hidden layer")
    user_projection: bool = Field(
        default=False, description="a K x K matrix between a user's vector and the hidden layer"
    )


class CDAE(Autoencoder):
    """h = act(W^T x + V_u + b), scores W' h + b', trained as in RecBole on all items.

    Tables: `encoder` W (M, K), `user` V (N, K), `decoder` W' (M, K); biases are never masked.
    The DSL paper's code for CDAE is not released; its counted costs imply K = 256 and one more
    K x K product, which is here a matrix P applied to the user's vector, act(W^T x + P V_u + b).

    Users are scored from their uncorrupted training items. A user's vector is learned in training,
    so users held out of it cannot be scored.
    """

    name = "cdae"
    label = "CDAE"
    hyper_type = CDAEHyper
    scores_from_pairs = True
    dense_gradients = False  # the user rows outside a batch have none to tell them apart
    sums_loss = True
    refuses: ClassVar[dict[str, str]] = dict.fromkeys(
        ("autoemb", "esapn"),
        "only its user matrix has rows that could have sizes of their own; the two item matrices "
        "would stay whole, and no budget over all three would be kept",
    )
    published_delta_t = 100  # Mult-VAE's: none is published for CDAE

    def __init__(
        self, data: Interactions, hyper: CDAEHyper, make_table: MakeTable, streams: Streams
    ) -> None:
        super().__init__(data, hyper, make_table, streams)
        self.hyper = hyper
        self._known = data.train
        rng, width = streams.fresh("init"), hyper.embedding_size

        def table(name: str, entity: str, rows: int) -> Table:
            return make_table(TableSpec(name, ((entity, rows),), width, xavier_normal), rng)

        self.encoder = table("encoder", "item", data.n_items)
        self.user = table("user", "user", data.n_users)
        self.decoder = table("decoder", "item", data.n_items)
        self.projection: TableLinear | None = None
        if hyper.user_projection:
            self.projection = TableLinear(
                make_table, "projection", width, width, rng,
                init=xavier_normal, bias=None, official=True, skips_zeros=True,
            )  # fmt: skip
        self.hidden_bias = nn.Parameter(torch.zeros(width))
        self.item_bias = nn.Parameter(torch.zeros(data.n_items))
        self.sparse_input = SparseInput()
        self.binary = BinaryLoss()
        self.lookup_scores = LookupScores()
        self.full_scores = FullScores(skips_zeros=False)
        self.norm = Norm()

    def sampler(
        self, data: Interactions, hyper: CDAEHyper, streams: Streams, device: torch.device
    ) -> UserRowSampler:
        return UserRowSampler(data.train, hyper.batch_size, streams, device)

    def loss(self, batch: UserRows) -> Tensor:
        """Binary cross-entropy summed over all items of all users, plus norms (RecBole's CDAE).

        sum_u sum_i BCE(sigmoid(s_ui), x_ui) + reg (|V|_F + |W|_F), the norms not squared.
        """
        fit: Tensor = self.binary(
            self.hidden(batch, self.hyper.dropout), self.decoder.full(), self.item_bias,
            batch.indptr, batch.items,
        )  # fmt: skip
        if self.hyper.reg == 0:
            return fit
        norms: Tensor = self.norm(self.user.entries()) + self.norm(self.encoder.entries())
        return fit + self.hyper.reg * norms

    def hidden(self, batch: UserRows, dropout: float = 0.0) -> Tensor:
        """Hidden layer of the users, (B, K)."""
        entries = drop_entries(
            batch.indptr, batch.items, torch.ones_like(batch.items, dtype=torch.float32), dropout,
            batch.noise("dropout"),
        )  # fmt: skip
        own = self.user.rows(batch.users)
        if self.projection is not None:
            own = self.projection(own)
        total = self.sparse_input(self.encoder.full(), *entries) + own + self.hidden_bias
        hidden: Tensor = _ACTIVATIONS[self.hyper.activation](total)
        return hidden

    def hidden_layer(self, users: Tensor) -> Tensor:
        return self.hidden(take_rows(self._known, users.cpu().numpy(), users.device))
