"""What the training loop, the methods and the evaluation ask of a backbone."""

from __future__ import annotations

import inspect
import itertools
import math
import tomllib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from dslbench.data.interactions import Interactions
from dslbench.errors import UnsuitableError, UsageError
from dslbench.ops.scores import CandidateScorer, Scorer
from dslbench.optimisers import Adam
from dslbench.ranges import searched
from dslbench.sampling.triples import Sampler
from dslbench.seeds import Streams
from dslbench.tables import MakeTable, Table
from dslbench.words import percent


class Hyper(BaseModel):
    """Hyper-parameters every backbone has; presets fill them in."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    # Fields counted in epochs that shrink with a run's length unless the user sets them.
    follows_epochs: ClassVar[tuple[str, ...]] = ()
    # Fields that came after runs were published, each with the value at which all is as it was before:
    # a run has them only at another one, so that those made before keep their identity.
    added: ClassVar[dict[str, Any]] = {}

    embedding_size: int = Field(ge=1, description="embedding size d")
    epochs: int = Field(ge=1, description="epochs of the full protocol")
    batch_size: int = Field(ge=1, description="training examples per step")
    lr: float = Field(
        gt=0,
        description="learning rate at the start",
        json_schema_extra=searched(1e-4, 1e-2, log=True),
    )
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

    def width(self, table: str) -> int:
        """Width of the rows of an embedding table, by the table's name."""
        return self.embedding_size

    def widths_of_rows(self) -> tuple[int, ...]:
        """Widths of the rows of all embedding tables, each once."""
        return (self.embedding_size,)

    def narrowed(self, share: float) -> Self:
        """The same model with embedding rows of `share` of their width, rounded down.

        What lies between the tables keeps its widths. Raises `UnsuitableError` where nothing
        would be left of a row.
        """
        return self.model_copy(update={"embedding_size": narrow(self.embedding_size, share)})


def narrow(width: int, share: float) -> int:
    """floor(share * width); the product is rounded to 9 places first, so that 0.3 * 10 is 3."""
    found = math.floor(round(share * width, 9))
    if found < 1:
        raise UnsuitableError(
            f"{percent(share)} of an embedding size of {width} is less than 1",
            f"--set embedding_size={math.ceil(1 / share)} is the least at this sparsity",
        )
    return found


class Pretrainer(Protocol):
    """What trains simpler models first, where a recipe asks for it: the lab of the training loop."""

    hyper: Any

    def fit_other(
        self, backbone: type[Backbone], hyper: Any, phase: str, streams: Streams,
        start: Mapping[str, Tensor] | None = None, select: bool = True,
    ) -> Backbone:  # fmt: skip
        """Train another, dense backbone on the same data for `hyper.epochs` epochs."""


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
    # Whether scores are computed from training pairs too (a graph, a user's row), not from weights alone.
    scores_from_pairs: ClassVar[bool] = False
    # Whether users held out of training can be scored from what is folded in for them.
    folds_in: ClassVar[bool] = False
    # Methods that make no sense for the model, each with the reason.
    refuses: ClassVar[dict[str, str]] = {}
    # Whether `loss` adds up its examples instead of averaging them, and whether it compares pairs
    # of items (BPR) instead of fitting labels: added terms are scaled to match.
    sums_loss: ClassVar[bool] = False
    pairwise_loss: ClassVar[bool] = False
    # Published interval between explorations (DSL's delta T), in iterations.
    published_delta_t: ClassVar[int] = 2000

    # Loss of each example of the batch that `loss` took last, (B,), without regularisation, for
    # methods that look at single users and items; None where a loss has no such parts.
    example_losses: Tensor | None = None

    @classmethod
    def presets(cls) -> dict[str, Any]:
        """Recipes by name, and under `default` the name of one of them.

        A recipe is values of hyper-parameters, its `source`, under `dataset` what single data sets change,
        and under `by_size`, for other data sets, values for those of `up_to` so many interactions, the
        smallest first. A text in place of a recipe is another's name. By default read from
        `presets/NAME.toml` beside the file of the class.

        Raises `UsageError` where there is none.
        """
        path = Path(inspect.getfile(cls)).parent / "presets" / f"{cls.name}.toml"
        try:
            return tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError:
            raise UsageError(f"backbone '{cls.name}' has no presets: {path} is missing") from None
        except tomllib.TOMLDecodeError as error:
            raise UsageError(f"{path}: not valid TOML: {error}") from None

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
    def pretrain(cls, lab: Pretrainer, streams: Streams) -> dict[str, Tensor] | None:
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
        return Adam(self.parameters(), lr=hyper.lr, fused=True)

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

    def pair_scores(self, users: Tensor, items: Tensor) -> Tensor:
        """Scores of users (B,) with items of their own (B, C), as (B, C), differentiable."""
        raise UsageError(f"{self.name} has no scores of single pairs that can be trained")

    def vectors(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Final representations of users (U,) and of items (I,), (U, w) and (I, w), differentiable.

        They are what scores are computed from: propagated where the model propagates.
        """
        raise UsageError(f"{self.name} has no vectors of users and items")

    def loss_and_scores(
        self, batch: Any, users: Tensor, items: Tensor, others: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The batch's loss, and scores of pairs beside it, as in ranking: without dropout.

        Args:
            users: (B,).
            items: (B, C), scored with gradients.
            others: (B, D), scored without.

        A model that shares work between loss and scores overrides this.
        """
        loss = self.loss(batch)
        self.eval()
        scores = self.pair_scores(users, items)
        with torch.no_grad():
            apart = None if others is None else self.pair_scores(users, others)
        self.train()
        return loss, scores, apart

    def loss_and_vectors(
        self, batch: Any, users: Tensor, items: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The batch's loss, and `vectors` beside it; a model that shares work overrides this."""
        return self.loss(batch), *self.vectors(users, items)

    @torch.no_grad()
    def take(self, values: Mapping[str, Tensor]) -> None:
        """Copy the values of parameters by name; a method's table of another kind may have others."""
        for name, parameter in self.named_parameters():
            if name in values and values[name].shape == parameter.shape:
                parameter.copy_(values[name])

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        held = next(itertools.chain(self.parameters(), self.buffers()), None)
        return torch.device("cpu") if held is None else held.device

    def tables(self) -> dict[str, Table]:
        """The embedding tables by name: what methods make small."""
        found = (module for module in self.modules() if isinstance(module, Table))
        return {table.spec.name: table for table in found}

    def rest(self) -> dict[str, Tensor]:
        """Weights and buffers by name that do not belong to tables."""
        tables = tuple(
            f"{name}." for name, module in self.named_modules() if isinstance(module, Table)
        )
        return {k: v for k, v in self.state_dict().items() if not k.startswith(tables)}

    def other_parameters(self) -> int:
        """Number of parameters outside the tables."""
        in_tables = {id(p) for table in self.tables().values() for p in table.parameters()}
        return sum(p.numel() for p in self.parameters() if id(p) not in in_tables)
