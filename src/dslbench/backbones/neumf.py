"""NeuMF (He et al., WWW 2017): an elementwise product and a perceptron over pairs, fused at the end."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, embedding, relu

from dslbench.backbones.base import Backbone, Hyper, Pretrainer, narrow
from dslbench.data.interactions import Interactions
from dslbench.ops.layers import Product, SeededDropout
from dslbench.ops.lookup import LookupScores
from dslbench.ops.scores import CandidateScorer, FullScores, Scorer
from dslbench.optimisers import SGD
from dslbench.ranges import searched
from dslbench.sampling.pairs import Grouped, GroupedSampler, Pointwise, PointwiseSampler
from dslbench.sampling.triples import Sampler
from dslbench.seeds import Streams
from dslbench.tables import MakeTable, Table, TableSpec
from dslbench.tables.linear import TableLinear, uniform
from dslbench.tables.spec import normal, xavier_uniform

# Bytes of the widest layer's activations while all items are scored: they stay near the cores.
_BLOCK_BYTES = 4 << 20


class NeuMFHyper(Hyper):
    """NeuMF's own hyper-parameters; `embedding_size` is that of the two GMF tables.

    Without `hidden` and `mlp_embedding_size` the shape follows the paper: n hidden layers that
    halve down to the GMF size f, over embeddings of f * 2^(n - 1) for each side.
    """

    hidden_layers: int = Field(default=3, ge=1, description="hidden layers n of the derived shape")
    hidden: tuple[PositiveInt, ...] | None = Field(
        default=None, min_length=1, description="widths of the hidden layers; none: derived"
    )
    mlp_embedding_size: int | None = Field(
        default=None, ge=1, description="size of the two MLP tables; none: derived"
    )
    negative_num: int = Field(
        ge=1,
        description="negatives drawn for each interaction",
        json_schema_extra=searched(1, 10, log=True),
    )
    loss: Literal["mixed", "balanced"] = Field(
        description="cross-entropy over a mix of pairs, or its mean over positives plus that over "
        "negatives"
    )
    dropout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="dropout after each hidden layer",
        json_schema_extra=searched(0.0, 0.5),
    )
    init_std: float = Field(gt=0, description="standard deviation of the embeddings' normal init")
    layer_init: Literal["keras", "torch"] = Field(
        description="Glorot uniform with zero biases (predict: LeCun), or PyTorch's default"
    )
    pretrain_epochs: int = Field(
        default=0,
        ge=0,
        description="epochs of GMF and MLP alone before they are joined and tuned with plain SGD",
    )

    follows_epochs: ClassVar[tuple[str, ...]] = ("pretrain_epochs",)

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of the hidden layers."""
        n = self.hidden_layers
        return self.hidden or tuple(self.embedding_size << (n - 1 - k) for k in range(n))

    @property
    def mlp_size(self) -> int:
        """Embedding size of each MLP table."""
        return self.mlp_embedding_size or self.embedding_size << (self.hidden_layers - 1)

    def widths_of_rows(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys((self.embedding_size, self.mlp_size)))

    def width(self, table: str) -> int:
        return self.mlp_size if table.startswith("mlp") else self.embedding_size

    def narrowed(self, share: float) -> Self:
        """Each table at this share of its own width; the hidden layers keep theirs."""
        return self.model_copy(
            update={
                "embedding_size": narrow(self.embedding_size, share),
                "mlp_embedding_size": narrow(self.mlp_size, share),
                "hidden": self.widths,
            }
        )


class NeuMF(Backbone):
    """Four tables: a user's and an item's for the product (GMF), another two for the perceptron.

    logit = predict [ gmf_u * gmf_i ; h_n ], h_k = relu(W_k h_{k-1} + b_k), h_0 = [ mlp_u ; mlp_i ].
    The first layer is computed as W_u mlp_u + W_i mlp_i, so that its user half is computed (and
    counted) once for all of a user's items. The released DSL code masks the two MLP tables only.
    """

    name = "neumf"
    label = "NeuMF"
    hyper_type = NeuMFHyper
    version = 2
    parts: ClassVar[tuple[str, ...]] = ("gmf", "mlp")

    def __init__(
        self, data: Interactions, hyper: NeuMFHyper, make_table: MakeTable, streams: Streams
    ) -> None:
        super().__init__(data, hyper, make_table, streams)
        self.balanced = hyper.loss == "balanced"
        self.n_items, self.widths = data.n_items, hyper.widths
        rng = streams.fresh("init")

        def sides(part: str, dim: int) -> list[Table]:
            return [
                make_table(
                    TableSpec(
                        name=f"{part}_{entity}",
                        segments=((entity, rows),),
                        dim=dim,
                        init=normal(hyper.init_std),
                        official=part == "mlp",
                    ),
                    rng,
                )
                for entity, rows in (("user", data.n_users), ("item", data.n_items))
            ]

        def layer(name: str, width: int, out: int) -> TableLinear:
            if hyper.layer_init == "torch":
                start = uniform(1 / math.sqrt(width))
                return TableLinear(make_table, name, width, out, rng, init=start, bias=start)
            init = uniform(math.sqrt(3 / width)) if name == "predict" else xavier_uniform
            return TableLinear(make_table, name, width, out, rng, init=init)

        joined = 0
        if "gmf" in self.parts:
            self.gmf_user, self.gmf_item = sides("gmf", hyper.embedding_size)
            joined += hyper.embedding_size
        if "mlp" in self.parts:
            self.mlp_user, self.mlp_item = sides("mlp", hyper.mlp_size)
            widths = (2 * hyper.mlp_size, *hyper.widths)
            self.layers = nn.ModuleList(
                layer(f"layer{k}", widths[k - 1], widths[k]) for k in range(1, len(widths))
            )
            joined += widths[-1]
        self.predict = layer("predict", joined, 1)
        self.dropout = SeededDropout(hyper.dropout, streams.fresh("dropout"))
        self.lookup_scores = LookupScores()
        self.project, self.head_scores = Product(skips_zeros=True), Product()
        self.full_scores = FullScores()

    @classmethod
    def pretraining(cls, hyper: NeuMFHyper) -> list[str]:
        return ["pretrain GMF", "pretrain MLP"] if hyper.pretrain_epochs else []

    @classmethod
    def pretrain(cls, lab: Pretrainer, streams: Streams) -> dict[str, Tensor] | None:
        """GMF and MLP trained apart, half of each one's prediction (NeuMF, section 3.4.1)."""
        hyper = lab.hyper
        assert isinstance(hyper, NeuMFHyper)
        if not hyper.pretrain_epochs or len(cls.parts) < 2:
            return None
        alone = hyper.model_copy(update={"epochs": hyper.pretrain_epochs, "pretrain_epochs": 0})
        gmf, mlp = (
            dict(lab.fit_other(kind, alone, phase, streams).named_parameters())
            for kind, phase in zip((GMF, MLP), cls.pretraining(hyper), strict=True)
        )
        start = {name: p.detach() for name, p in (gmf | mlp).items()}
        heads = [gmf["predict.table.weight"].detach(), mlp["predict.table.weight"].detach()]
        start["predict.table.weight"] = 0.5 * torch.cat(heads, dim=1)
        start["predict.bias"] = 0.5 * (gmf["predict.bias"] + mlp["predict.bias"]).detach()
        return start

    def optimiser(self, hyper: NeuMFHyper) -> torch.optim.Optimizer:
        """Adam; plain SGD after pretraining, whose Adam moments are gone (section 3.4.1)."""
        if hyper.pretrain_epochs:
            return SGD(self.parameters(), lr=hyper.lr)
        return super().optimiser(hyper)

    def sampler(
        self, data: Interactions, hyper: NeuMFHyper, streams: Streams, device: torch.device
    ) -> Sampler:
        args = (data.train, hyper.batch_size, hyper.negative_num, streams, device)
        return GroupedSampler(*args, filtered=True) if self.balanced else PointwiseSampler(*args)

    def loss(self, batch: Any) -> Tensor:
        """Binary cross-entropy of the logits (NeuMF, Eq. 7).

        mixed: mean over a batch of positives and negatives. balanced (DSL's code): mean over the
        positives plus mean over their negatives.
        """
        if isinstance(batch, Pointwise):
            logits = self.logits(batch.users, batch.items.unsqueeze(1)).squeeze(1)
            losses = binary_cross_entropy_with_logits(logits, batch.labels, reduction="none")
            self.example_losses = losses.detach()
            return losses.mean()
        assert isinstance(batch, Grouped)
        items = torch.cat([batch.positives.unsqueeze(1), batch.negatives], dim=1)
        logits = self.logits(batch.users, items)
        wanted, unwanted = logits[:, 0], logits[:, 1:]
        pull, push = nn.functional.softplus(-wanted), nn.functional.softplus(unwanted)
        self.example_losses = (pull + push.mean(dim=1)).detach()
        return pull.mean() + push.mean()

    def logits(self, users: Tensor, items: Tensor) -> Tensor:
        """Logits of users (B,) with items of their own (B, C), as (B, C)."""
        of_gmf, of_mlp = self._heads()
        total: Tensor | None = self.predict.bias
        assert total is not None
        if of_gmf is not None:
            weighted = self.gmf_user.rows(users) * of_gmf
            total = total + self.lookup_scores(weighted, self.gmf_item.full(), items.int())
        if of_mlp is not None:
            on_user, on_item, bias = self._first_layer()
            user_part = self.project(self.mlp_user.rows(users), on_user, bias)
            flat = items.reshape(-1)
            if len(flat) < self.n_items:
                item_part = self.project(self.mlp_item.rows(flat), on_item)
            else:  # fewer items than pairs: project each item once
                item_part = embedding(flat, self.project(self.mlp_item.full(), on_item))
            first = user_part.unsqueeze(1) + item_part.view(*items.shape, item_part.shape[-1])
            total = total + self._upper_layers(first, of_mlp)
        return total

    def pair_scores(self, users: Tensor, items: Tensor) -> Tensor:
        return self.logits(users, items)

    def vectors(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """The rows of GMF and MLP side by side."""
        return (
            torch.cat([self.gmf_user.rows(users), self.mlp_user.rows(users)], dim=1),
            torch.cat([self.gmf_item.rows(items), self.mlp_item.rows(items)], dim=1),
        )

    def _heads(self) -> tuple[Tensor | None, Tensor | None]:
        """The parts of predict's weight that belong to GMF and to the last hidden layer, (width,)."""
        weight = self.predict.weight.squeeze(0)
        if self.parts == ("gmf",):
            return weight, None
        if self.parts == ("mlp",):
            return None, weight
        d = self.gmf_user.spec.dim
        return weight[:d], weight[d:]

    def _first_layer(self) -> tuple[Tensor, Tensor, Tensor | None]:
        first = self.layers[0]
        assert isinstance(first, TableLinear)
        weight, d = first.weight, self.mlp_user.spec.dim
        return weight[:, :d], weight[:, d:], first.bias

    def _upper_layers(self, first: Tensor, head: Tensor) -> Tensor:
        """From the first layer's sums (..., width), which may be overwritten, to logits (...)."""
        hidden = self.dropout(relu(first, inplace=True))
        for layer in self.layers[1:]:
            hidden = self.dropout(relu(layer(hidden), inplace=True))
        logits: Tensor = self.head_scores(hidden, head)
        return logits

    @torch.no_grad()
    def scorer(self) -> Scorer:
        of_gmf, of_mlp = self._heads()
        bias = self.predict.bias
        assert bias is not None
        if of_gmf is not None:
            gmf_users, gmf_items = self.gmf_user.full() * of_gmf, self.gmf_item.full()
        if of_mlp is not None:
            on_user, on_item, first_bias = self._first_layer()
            user_part = self.project(self.mlp_user.full(), on_user, first_bias)
            item_part = self.project(self.mlp_item.full(), on_item)
            step = max(1, _BLOCK_BYTES // (4 * self.n_items * max(self.widths)))

        @torch.no_grad()
        def score(ids: Tensor) -> Tensor:
            if of_gmf is not None:
                block: Tensor = self.full_scores(gmf_users[ids], gmf_items)
            else:
                block = torch.zeros((len(ids), self.n_items), device=ids.device)
            block += bias
            if of_mlp is not None:
                for rows, part in zip(
                    torch.split(block, step), torch.split(user_part[ids], step), strict=True
                ):
                    rows += self._upper_layers(part.unsqueeze(1) + item_part, of_mlp)
            return block

        return score

    def candidate_scorer(self) -> CandidateScorer:
        return torch.no_grad()(self.logits)


class GMF(NeuMF):
    """The elementwise product alone, for pretraining."""

    name = "neumf-gmf"
    parts = ("gmf",)


class MLP(NeuMF):
    """The perceptron alone, for pretraining."""

    name = "neumf-mlp"
    parts = ("mlp",)
