"""What the training loop, the methods and the evaluation ask of a backbone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from dslbench.data.interactions import Interactions
from dslbench.sampling import Sampler
from dslbench.seeds import Streams
from dslbench.tables import MakeTable, Table

if TYPE_CHECKING:
    from dslbench.train import Lab

Scorer = Callable[[Tensor], Tensor]
CandidateScorer = Callable[[Tensor, Tensor], Tensor]


class Hyper(BaseModel):
    """Hyper-parameters every backbone has; presets fill them in."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    # Fields counted in epochs that shrink with a run's length unless the user sets them.
    follows_epochs: ClassVar[tuple[str, ...]] = ()

    embedding_size: int = Field(ge=1, description="embedding size d")
    epochs: int = Field(ge=1, description="epochs of the full protocol")
    batch_size: int = Field(ge=1, description="training examples per step")
    lr: float = Field(gt=0, description="learning rate of Adam at the start")
    lr_end: float | None = Field(
        default=None,
        gt=0,
        description="learning rate after the last epoch (cosine); none: constant",
    )
    eval_every: int | None = Field(
        default=None,
        ge=1,
        description="epochs between evaluations; none: about 20 evaluations a run",
    )


class Backbone(nn.Module, ABC):
    """A recommender built from tables that a method provides.

    Subclasses set the class attributes, ask `make_table` for their tables in `__init__`, and
    implement `sampler`, `loss` and `scorer`.
    """

    name: ClassVar[str]
    label: ClassVar[str]
    version: ClassVar[int] = 1  # part of a run's identity: raise it when results change
    hyper_type: ClassVar[type[Hyper]]
    # Whether every batch has a gradient in every table entry; look-up models have it in few rows.
    dense_gradients: ClassVar[bool] = False
    # Whether users held out of training can be scored from what is folded in for them.
    folds_in: ClassVar[bool] = False
    # Methods that make no sense for the model, each with the reason.
    refuses: ClassVar[dict[str, str]] = {}
    # Published interval between explorations (DSL's delta T), in iterations.
    published_delta_t: ClassVar[int] = 2000

    # Loss of each example of the batch that `loss` took last, (B,), without regularisation, for
    # methods that look at single users and items; None where a loss has no such parts.
    example_losses: Tensor | None = None

    @abstractmethod
    def __init__(
        self, data: Interactions, hyper: Any, make_table: MakeTable, streams: Streams
    ) -> None:
        super().__init__()

    @classmethod
    def pretraining(cls, hyper: Any) -> list[str]:
        """Names of the phases that `pretrain` consists of."""
        return []

    @classmethod
    def pretrain(cls, lab: Lab, streams: Streams) -> dict[str, Tensor] | None:
        """Initial values by parameter name, where the recipe trains simpler models first.

        Called once for each set of initial values, before the first model is built from them;
        None: the model starts from its random ones.
        """
        return None

    @abstractmethod
    def sampler(
        self, data: Interactions, hyper: Any, streams: Streams, device: torch.device
    ) -> Sampler:
        """Source of the batches that `loss` takes."""

    def optimiser(self, hyper: Any) -> torch.optim.Optimizer:
        """Adam over all parameters, unless the model's recipe says otherwise."""
        return torch.optim.Adam(self.parameters(), lr=hyper.lr, fused=True)

    @abstractmethod
    def loss(self, batch: Any) -> Tensor:
        """Training loss of one batch, a scalar."""

    @abstractmethod
    def scorer(self) -> Scorer:
        """A function from user ids (B,) to scores of all items (B, M), without gradients.

        What all users share (a propagation, say) is computed here, once. The returned block may
        be overwritten by the function's next call, and its caller may write to it.
        """

    def candidate_scorer(self) -> CandidateScorer:
        """A function from users (B,) and items (B, C) to scores (B, C), without gradients.

        Models whose score of one pair is expensive compute just these; the others all items.
        """
        score = self.scorer()
        return lambda users, items: score(users).gather(1, items)

    def tables(self) -> dict[str, Table]:
        """The embedding tables by name: what methods make small."""
        found = (module for module in self.modules() if isinstance(module, Table))
        return {table.spec.name: table for table in found}

    def other_parameters(self) -> int:
        """Number of parameters outside the tables."""
        in_tables = {id(p) for table in self.tables().values() for p in table.parameters()}
        return sum(p.numel() for p in self.parameters() if id(p) not in in_tables)
