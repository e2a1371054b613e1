"""ConvNCF (He et al., IJCAI 2018): a convolutional tower over the outer product of two embeddings."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.nn.functional import relu, softplus

from dslbench.backbones.base import Backbone, Hyper, Pretrainer, narrow
from dslbench.data.interactions import Interactions
from dslbench.errors import UnsuitableError
from dslbench.ops.outer import OuterMap
from dslbench.ops.scores import CandidateScorer, FullScores, PairScores, ProductScorer, Scorer
from dslbench.optimisers import Adagrad
from dslbench.ranges import searched
from dslbench.sampling.pairs import Grouped, GroupedSampler
from dslbench.seeds import Streams
from dslbench.tables import MakeTable, TableSpec
from dslbench.tables.linear import TableLinear, truncated_normal
from dslbench.words import percent

# Bytes of the widest layer's activations while pairs are scored: they stay near the cores.
_BLOCK_BYTES = 8 << 20


class ConvNCFHyper(Hyper):
    """ConvNCF's own hyper-parameters; `embedding_size` is a power of two, the size of the map."""

    # Adagrad, published at 0.05: another range than Adam's.
    lr: float = Field(
        gt=0,
        description="learning rate at the start",
        json_schema_extra=searched(1e-3, 0.2, log=True),
    )
    channels: int = Field(default=32, ge=1, description="channels of every convolution")
    reg_embedding: float = Field(ge=0, description="weight of the batch rows' squared norm")
    reg_output: float = Field(ge=0, description="weight of the output layer's squared norm")
    reg_network: float = Field(ge=0, description="weight of the squared norm of all layers")
    accumulator: float = Field(
        default=0.1, ge=0, description="start of Adagrad's accumulator (TensorFlow's; torch has 0)"
    )
    pretrain_epochs: int = Field(
        ge=0, description="epochs of matrix factorisation by BPR that the tables start from"
    )
    pretrain_lr: float = Field(gt=0, description="learning rate of the matrix factorisation")
    warm_up_epochs: int = Field(
        default=0, ge=0, description="dense epochs after that, without regularisation"
    )
    warm_up_lr: float = Field(default=0.01, gt=0, description="learning rate of these")

    follows_epochs: ClassVar[tuple[str, ...]] = ("pretrain_epochs",)

    @field_validator("embedding_size")
    @classmethod
    def _is_power_of_two(cls, size: int) -> int:
        if size < 2 or size & (size - 1):
            raise ValueError(
                "ConvNCF halves its map down to one cell: take 2, 4, 8, 16, 32, 64 ..."
            )
        return size

    def narrowed(self, share: float) -> Self:
        """The largest power of two within the share; channels stay."""
        size = 1 << (narrow(self.embedding_size, share).bit_length() - 1)
        if size < 2:
            raise UnsuitableError(
                f"{percent(share)} of an embedding size of {self.embedding_size} leaves ConvNCF no map",
                "it takes an embedding size of 2 or more at this sparsity",
            )
        return self.model_copy(update={"embedding_size": size})


class ConvNCF(Backbone):
    """A user and an item table, log2(d) convolutions over p q^T, a linear output.

    Each convolution is 2x2 with stride 2; on a map in Z-order it is a matrix product of weight
    (channels, 4 * channels before), see `ops.outer`. The four columns of a weight that belong to
    one channel before are `channels` apart: top left, top right, bottom left, bottom right.
    """

    name = "convncf"
    label = "ConvNCF"
    hyper_type = ConvNCFHyper
    refuses: ClassVar[dict[str, str]] = {
        "qr": "its rows start from a pretrained model's, which rows that others share cannot take",
        "lpt": "its optimiser is Adagrad, and low-precision training is Adam's",
    }
    sums_loss = True
    pairwise_loss = True

    def __init__(
        self, data: Interactions, hyper: ConvNCFHyper, make_table: MakeTable, streams: Streams
    ) -> None:
        super().__init__(data, hyper, make_table, streams)
        self.hyper, self.n_items = hyper, data.n_items
        rng = streams.fresh("init")
        self.user, self.item = (
            make_table(
                TableSpec(
                    name=entity,
                    segments=((entity, rows),),
                    dim=hyper.embedding_size,
                    init=truncated_normal(0.01),
                ),
                rng,
            )
            for entity, rows in (("user", data.n_users), ("item", data.n_items))
        )
        self.full_scores = FullScores()
        self.add_network(hyper, make_table, streams)

    def add_network(self, hyper: ConvNCFHyper, make_table: MakeTable, streams: Streams) -> None:
        """The convolutions and the output layer, from a random stream of their own."""
        rng = streams.fresh("network")
        d, c = hyper.embedding_size, hyper.channels
        self.outer = OuterMap(d)
        start = truncated_normal(0.1)
        self.convolutions = nn.ModuleList(
            TableLinear(
                make_table, f"conv{k}", 4 * before, c, rng, init=start, bias=0.1, skips_zeros=k == 1
            )
            for k, before in enumerate([1] + [c] * (d.bit_length() - 2), start=1)
        )
        self.head = TableLinear(make_table, "head", c, 1, rng, init=start, bias=start)

    @classmethod
    def pretraining(cls, hyper: ConvNCFHyper) -> list[str]:
        return ["pretrain MF"] * bool(hyper.pretrain_epochs) + ["warm up"] * bool(
            hyper.warm_up_epochs
        )

    @classmethod
    def pretrain(cls, lab: Pretrainer, streams: Streams) -> dict[str, Tensor] | None:
        """Tables of a matrix factorisation trained by BPR (ConvNCF, section 4.1), then a warm-up.

        The warm-up is the first epoch of the released code: the norms of the layers, whose weights
        do not grow with the batch, would else outweigh a ranking loss that cannot fall yet, and drive
        the network to zero, from where it does not come back.
        """
        hyper = lab.hyper
        assert isinstance(hyper, ConvNCFHyper)
        alone = hyper.model_copy(update={"pretrain_epochs": 0, "warm_up_epochs": 0})
        start = None
        for phase in cls.pretraining(hyper):
            mf = phase == "pretrain MF"
            changes = (
                {"epochs": hyper.pretrain_epochs, "lr": hyper.pretrain_lr}
                if mf
                else {"epochs": hyper.warm_up_epochs, "lr": hyper.warm_up_lr}
                | dict.fromkeys(("reg_embedding", "reg_output", "reg_network"), 0.0)
            )
            model = lab.fit_other(
                MatrixFactorisation if mf else cls, alone.model_copy(update=changes), phase, streams,
                start, select=mf,
            )  # fmt: skip
            start = {name: p.detach() for name, p in model.named_parameters()}
        return start

    def optimiser(self, hyper: ConvNCFHyper) -> torch.optim.Optimizer:
        """Adagrad, started as TensorFlow starts it."""
        return Adagrad(self.parameters(), lr=hyper.lr, initial_accumulator_value=hyper.accumulator)

    def sampler(
        self, data: Interactions, hyper: ConvNCFHyper, streams: Streams, device: torch.device
    ) -> GroupedSampler:
        return GroupedSampler(
            data.train, hyper.batch_size, 1, streams, device, filtered=True, drop_last=True
        )

    def loss(self, batch: Grouped) -> Tensor:
        """BPR summed over the batch, and squared norms (ConvNCF, Eqs. 8 and 9).

        sum softplus(s_uj - s_ui) + reg_embedding (|p_u|^2 + |q_i|^2 + |q_j|^2)
        + reg_output |output layer|^2 + reg_network |all layers|^2

        The output layer is in both of the last two, as in the released code.
        """
        p = self.user.rows(batch.users)
        items = torch.cat([batch.positives, batch.negatives.squeeze(1).long()])
        q = self.item.rows(items)
        scores = self.score_pairs(torch.cat([p, p]), q)
        wanted, unwanted = scores[: len(p)], scores[len(p) :]
        losses = softplus(unwanted - wanted)
        self.example_losses = losses.detach()
        ranking = losses.sum()
        norms = p.square().sum() + q.square().sum()
        return ranking + self.hyper.reg_embedding * norms + self.network_norms()

    def network_norms(self) -> Tensor:
        """The weighted squared norms of the layers, a scalar."""
        norms = [
            layer.weight.square().sum() + layer.bias.square().sum()
            for layer in (*self.convolutions, self.head)
        ]
        h = self.hyper
        total: Tensor = h.reg_output * norms[-1] + h.reg_network * torch.stack(norms).sum()
        return total

    def pair_scores(self, users: Tensor, items: Tensor) -> Tensor:
        p = self.user.rows(users).repeat_interleave(items.shape[1], dim=0)
        q = self.item.rows(items.reshape(-1))
        if torch.is_grad_enabled():
            return self.score_pairs(p, q).view(items.shape)
        return self._score_in_blocks(p, q).view(items.shape)

    def vectors(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        return self.user.rows(users), self.item.rows(items)

    def score_pairs(self, p: Tensor, q: Tensor) -> Tensor:
        """Scores of embeddings (B, d) of users and (B, d) of items, as (B,)."""
        cells = self.outer(p, q)
        for layer in self.convolutions:
            # Rows are 2x2 squares: four neighbours in Z-order, each with its channels.
            cells = relu(layer(cells.view(-1, layer.in_features)), inplace=True)
        scores: Tensor = self.head(cells).squeeze(1)
        return scores

    @torch.no_grad()
    def _score_in_blocks(self, p: Tensor, q: Tensor) -> Tensor:
        """`score_pairs` in blocks whose widest activations are bounded."""
        d = self.hyper.embedding_size
        step = max(1, _BLOCK_BYTES // (self.hyper.channels * d * d))
        return torch.cat(
            [
                self.score_pairs(a, b)
                for a, b in zip(torch.split(p, step), torch.split(q, step), strict=True)
            ]
        )

    @torch.no_grad()
    def scorer(self) -> Scorer:
        users, items = self.user.full().detach(), self.item.full().detach()

        def score(ids: Tensor) -> Tensor:
            rows = (self._score_in_blocks(users[u].expand_as(items), items) for u in ids)
            return torch.stack(list(rows))

        return score

    def candidate_scorer(self) -> CandidateScorer:
        """Scores of the given pairs alone: a pair costs over a million multiplications at d = 64."""
        users, items = self.user.full().detach(), self.item.full().detach()

        def score(ids: Tensor, candidates: Tensor) -> Tensor:
            p = users[ids].repeat_interleave(candidates.shape[1], dim=0)
            return self._score_in_blocks(p, items[candidates.reshape(-1)]).view(candidates.shape)

        return score


class MatrixFactorisation(ConvNCF):
    """The dot product of the same tables, trained by BPR: what ConvNCF starts from."""

    name = "convncf-mf"

    def add_network(self, hyper: ConvNCFHyper, make_table: MakeTable, streams: Streams) -> None:
        """None; scores are dot products."""
        self.dot = PairScores()

    @classmethod
    def pretraining(cls, hyper: ConvNCFHyper) -> list[str]:
        return []

    def network_norms(self) -> Tensor:
        return torch.zeros((), device=self.user.full().device)

    def score_pairs(self, p: Tensor, q: Tensor) -> Tensor:
        scores: Tensor = self.dot(p, q)
        return scores

    @torch.no_grad()
    def scorer(self) -> Scorer:
        return ProductScorer(self.full_scores, self.user.operand(), self.item.operand())
