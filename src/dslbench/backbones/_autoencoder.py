"""What the autoencoders have in common: a score is a hidden layer times a row of the decoder."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from dslbench.backbones.base import Backbone
from dslbench.ops.lookup import LookupScores
from dslbench.ops.scores import FullScores, Scorer
from dslbench.tables import Table


class Autoencoder(Backbone):
    """Scores and vectors from `hidden_layer`, `decoder` and `item_bias`, which subclasses set."""

    decoder: Table
    item_bias: nn.Parameter
    lookup_scores: LookupScores
    full_scores: FullScores

    @abstractmethod
    def hidden_layer(self, users: Tensor) -> Tensor:
        """Last hidden layer of the users' uncorrupted rows, (U, K), differentiable."""

    def pair_scores(self, users: Tensor, items: Tensor) -> Tensor:
        hidden = self.hidden_layer(users)
        scores: Tensor = self.lookup_scores(hidden, self.decoder.full(), items.int())
        return scores + self.item_bias[items]

    def vectors(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Last hidden layer, and rows of the decoder, of the same width."""
        return self.hidden_layer(users), self.decoder.rows(items)

    @torch.no_grad()
    def scorer(self) -> Scorer:
        items = self.decoder.full()

        @torch.no_grad()
        def score(users: Tensor) -> Tensor:
            block: Tensor = self.full_scores(self.hidden_layer(users), items)
            return block.add_(self.item_bias)

        return score
