"""Mult-VAE (Liang et al., WWW 2018): a variational autoencoder of user rows, multinomial likelihood."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from dslbench.backbones._autoencoder import Autoencoder
from dslbench.backbones.base import Hyper, narrow
from dslbench.data.interactions import Interactions
from dslbench.ops.lookup import LookupScores
from dslbench.ops.output_loss import MultinomialLoss
from dslbench.ops.scores import FullScores
from dslbench.ops.sparse_input import SparseInput, drop_entries
from dslbench.ranges import searched
from dslbench.sampling.rows import UserRows, UserRowSampler, take_rows
from dslbench.seeds import Streams
from dslbench.tables import MakeTable, Table, TableSpec
from dslbench.tables.linear import TableLinear, truncated_normal
from dslbench.tables.spec import xavier_normal, xavier_uniform


class MultVAEHyper(Hyper):
    """Mult-VAE's own hyper-parameters; `embedding_size` is the width K of both hidden layers."""

    latent: int = Field(ge=1, description="size of the code z")
    dropout: float = Field(
        ge=0,
        lt=1,
        description="share of the input's items dropped in training",
        json_schema_extra=searched(0.2, 0.8),
    )
    anneal_cap: float = Field(
        ge=0, description="largest weight of the KL term", json_schema_extra=searched(0.0, 1.0)
    )
    anneal_steps: int = Field(
        ge=0, description="training steps in which the weight of the KL term would reach 1; 0: cap"
    )
    noise_std: float = Field(ge=0, description="standard deviation of the reparametrisation noise")
    init: Literal["xavier-uniform", "xavier-normal"] = Field(description="weights at the start")
    bias_std: float = Field(
        ge=0, description="standard deviation of the biases at the start, truncated at two of them"
    )

    def narrowed(self, share: float) -> Self:
        """Hidden layers of this share; the code stays as wide as it is, or as they are."""
        size = narrow(self.embedding_size, share)
        return self.model_copy(update={"embedding_size": size, "latent": min(self.latent, size)})


class MultVAE(Autoencoder):
    """M -> K (tanh) -> mean and log-variance of z -> K (tanh) -> M, over L2-normalised binary rows.

    Tables: the first and the last matrix hold one row per item, `encoder` (M, K) and `decoder`
    (M, K); the two around the code are layers. DSL's released code masks every parameter, biases
    included; biases are never masked here.

    Users are scored from their training items or, when held out of training (protocol `strong`),
    from the items folded in for them; z is then its mean.
    """

    name = "multvae"
    label = "MultVAE"
    hyper_type = MultVAEHyper
    scores_from_pairs = True
    dense_gradients = False  # the encoder's rows of items absent from a batch have none
    refuses: ClassVar[dict[str, str]] = dict.fromkeys(
        ("autoemb", "esapn"), "it has no table of users whose rows could have sizes of their own"
    )
    folds_in = True
    published_delta_t = 100
    updates: Tensor

    def __init__(
        self, data: Interactions, hyper: MultVAEHyper, make_table: MakeTable, streams: Streams
    ) -> None:
        super().__init__(data, hyper, make_table, streams)
        self.hyper = hyper
        # The items each user is scored from: held-out users have folded-in ones and no others.
        self._known = data.seen_before_valid
        rng, width = streams.fresh("init"), hyper.embedding_size
        init = xavier_uniform if hyper.init == "xavier-uniform" else xavier_normal
        bias = truncated_normal(hyper.bias_std)

        def item_table(name: str) -> Table:
            return make_table(TableSpec(name, (("item", data.n_items),), width, init), rng)

        def layer(name: str, n_in: int, n_out: int) -> TableLinear:
            return TableLinear(
                make_table, name, n_in, n_out, rng, init=init, bias=bias, official=True
            )

        def bias_vector(size: int) -> nn.Parameter:
            return nn.Parameter(torch.from_numpy(bias(rng, 1, size).reshape(-1)))

        self.encoder, self.encoder_bias = item_table("encoder"), bias_vector(width)
        self.to_code = layer("to_code", width, 2 * hyper.latent)
        self.from_code = layer("from_code", hyper.latent, width)
        self.decoder, self.item_bias = item_table("decoder"), bias_vector(data.n_items)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.sparse_input = SparseInput()
        self.multinomial = MultinomialLoss()
        self.lookup_scores = LookupScores()
        self.full_scores = FullScores(skips_zeros=False)

    def sampler(
        self, data: Interactions, hyper: MultVAEHyper, streams: Streams, device: torch.device
    ) -> UserRowSampler:
        return UserRowSampler(data.train, hyper.batch_size, streams, device)

    def kl_weight(self) -> float:
        """min(cap, updates / anneal_steps), `updates` the training steps done so far."""
        cap, steps = self.hyper.anneal_cap, self.hyper.anneal_steps
        return min(cap, int(self.updates) / steps) if steps else cap

    def loss(self, batch: UserRows) -> Tensor:
        """Negative multinomial log-likelihood plus the weighted KL term, means over the users.

        -mean_u sum_i x_ui log softmax(f(z_u))_i - w/2 mean_u sum_k (1 + l_k - m_k^2 - exp(l_k))
        with z = m + eps exp(l / 2) (Liang et al., Eq. 7). Counts as a training step when
        gradients are recorded.
        """
        size, weight = len(batch.users), self.kl_weight()
        mean, log_variance = self.encode(batch, self.hyper.dropout).chunk(2, dim=1)
        drawn = batch.noise("eps").standard_normal(tuple(mean.shape), dtype=np.float32)
        eps = torch.from_numpy(drawn).to(mean.device)
        code = mean + self.hyper.noise_std * eps * (0.5 * log_variance).exp()
        likelihood: Tensor = self.multinomial(
            self.decode(code), self.decoder.full(), self.item_bias, batch.indptr, batch.items
        )
        kl = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum()
        if self.training and torch.is_grad_enabled():
            self.updates += 1
        return (likelihood + weight * kl) / size

    def encode(self, batch: UserRows, dropout: float = 0.0) -> Tensor:
        """Means and log-variances of the users' codes, (B, 2 latent)."""
        counts = batch.indptr.diff()
        scale = counts.clamp(min=1).to(torch.float32).rsqrt().repeat_interleave(counts)
        entries = drop_entries(batch.indptr, batch.items, scale, dropout, batch.noise("dropout"))
        hidden = torch.tanh(self.sparse_input(self.encoder.full(), *entries) + self.encoder_bias)
        codes: Tensor = self.to_code(hidden)
        return codes

    def decode(self, code: Tensor) -> Tensor:
        """Last hidden layer, (B, K)."""
        return torch.tanh(self.from_code(code))

    def hidden_layer(self, users: Tensor) -> Tensor:
        """Last hidden layer of the users' uncorrupted rows, from the mean of the code."""
        rows = take_rows(self._known, users.cpu().numpy(), users.device)
        return self.decode(self.encode(rows)[:, : self.hyper.latent])
