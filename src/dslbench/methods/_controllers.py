"""Controllers that choose sizes, and the held-out pairs they learn on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from dslbench.backbones.base import Backbone
from dslbench.data.interactions import Interactions, masked_csr
from dslbench.errors import DataError
from dslbench.methods._sizes import Group, SizeOptions
from dslbench.ops.affine import Affine
from dslbench.ops.row_norm import RowNorm
from dslbench.sampling.pairs import Grouped, Pointwise
from dslbench.sampling.triples import Triples
from dslbench.seeds import Streams
from dslbench.training.lab import Lab

# Rows that a controller looks at together when all are asked: bounds the memory.
_CHUNK = 8192


class Controller(nn.Module):
    """Popularity embedding and what else is known of a row, to logits.

    Embedding of the bucket, normalised, beside the rest; Linear, batch normalisation, tanh, Linear.
    """

    def __init__(
        self, buckets: int, known: int, outputs: int, options: SizeOptions, rng: np.random.Generator
    ) -> None:
        super().__init__()
        size = options.popularity_size
        drawn = rng.standard_normal((buckets, size), dtype=np.float32)
        self.popularity = nn.Parameter(torch.from_numpy(drawn))
        self.norm = RowNorm(size)
        self.first = Affine(size + known, options.hidden, rng)
        self.hidden_norm = RowNorm(options.hidden, bend=True)
        self.second = Affine(options.hidden, outputs, rng)

    def forward(self, buckets: Tensor, known: Tensor, counts: Tensor | None = None) -> Tensor:
        """(B,) int64 and (B, known) to logits (B, outputs).

        Args:
            counts: (B,) how many rows of a table are in each of these states; none: one.
        """
        popularity = self.norm(nn.functional.embedding(buckets, self.popularity), counts)
        hidden = self.first(torch.cat([popularity, known], dim=1))
        logits: Tensor = self.second(self.hidden_norm(hidden, counts))
        return logits


def make_controllers(
    groups: list[Group], known: Sequence[int], outputs: Sequence[int], options: SizeOptions,
    streams: Streams, device: torch.device,
) -> nn.ModuleList:  # fmt: skip
    """A controller for each group, from a random stream of their own."""
    rng = streams["controllers"]
    return nn.ModuleList(
        Controller(int(g.buckets.max()) + 1, a + options.last_loss, b, options, rng)
        for g, a, b in zip(groups, known, outputs, strict=True)
    ).to(device)


def in_chunks(n: int, of_rows: Callable[[Tensor], Tensor], device: torch.device) -> Tensor:
    """A function of row numbers, asked for all n rows in parts."""
    return torch.cat(
        [of_rows(part) for part in torch.split(torch.arange(n, device=device), _CHUNK)]
    )


def split_pairs(
    data: Interactions, share: float, rng: np.random.Generator
) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """Training pairs for the model and those held out for the controllers.

    A user keeps at least one pair for the model. Raises `DataError` where nothing could be held out.
    """
    train = data.train
    held = rng.random(train.nnz) < share
    users = np.flatnonzero(np.diff(train.indptr))
    held[train.indptr[users]] = False
    if not held.any():
        raise DataError(
            "no training pairs can be held out for the controllers: users have one pair each",
            "sizes are chosen on data with more items per user",
        )
    return masked_csr(train, ~held), masked_csr(train, held)


class HeldOutBatches:
    """Batches of other training pairs, without end."""

    def __init__(self, lab: Lab, model: Backbone, train: sparse.csr_matrix) -> None:
        other, self.streams = lab.variation(train=train), lab.streams.child("controllers")
        self.sampler = model.sampler(other.data, lab.hyper, self.streams, lab.device)
        self._begin()

    def _begin(self) -> None:
        """Start an epoch, and remember from where."""
        self._drawn, self._from = 0, self.streams.state()
        self._epoch = self.sampler.epoch()

    def __next__(self) -> Any:
        if self._drawn == self.sampler.steps:
            self._begin()
        self._drawn += 1
        return next(self._epoch)

    def progress(self) -> dict[str, Any]:
        """Where the streams stood when the epoch began, and the batches drawn since."""
        return {"from": self._from, "drawn": self._drawn}

    def resume(self, found: dict[str, Any]) -> None:
        """Begin that epoch again, and pass over its first batches."""
        self.streams.restore(found["from"])
        self._begin()
        for _ in range(found["drawn"]):
            next(self)


def occurrences(batch: Any) -> dict[str, tuple[Tensor, Tensor]]:
    """Users and items of a batch, each (R,) ids and (R,) number of the example they are in.

    Of the many negatives of one positive only the first counts, so that the controllers' work is in
    proportion to the batch, and of negatives that examples share only one's own.
    """
    example = torch.arange(len(batch.users), device=batch.users.device)
    if isinstance(batch, Triples):
        items = torch.cat([batch.positives, batch.negatives])
    elif isinstance(batch, Grouped):
        items = torch.cat([batch.positives, batch.negatives[:, 0].long()])
    else:
        assert isinstance(batch, Pointwise)
        items = batch.items
    return {
        "user": (batch.users, example),
        "item": (items, example.repeat(len(items) // len(example))),
    }


def distinct(found: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Distinct ids (U,) of some occurrences, and (R,) which of them each occurrence is."""
    ids, which = torch.unique(found[0], return_inverse=True)
    return ids, which


def mean_losses(found: tuple[Tensor, Tensor], losses: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct ids (U,) of some occurrences, and the mean loss of each one's examples (U,)."""
    ids, which = distinct(found)
    sums = torch.zeros(len(ids), device=losses.device)
    sums.index_add_(0, which, losses[found[1]])
    return ids, sums / torch.bincount(which, minlength=len(ids))


@contextmanager
def frozen(model: Backbone) -> Iterator[None]:
    """No parameter of the model has a gradient, and no running statistics move."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    norms = [module for module in model.modules() if isinstance(module, RowNorm)]
    momenta = [norm.momentum for norm in norms]
    for p in parameters:
        p.requires_grad_(False)
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for p in parameters:
            p.requires_grad_(True)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
