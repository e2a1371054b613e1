"""What the methods that keep a mask over a table have in common."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from dslbench.backbones.base import Backbone
from dslbench.methods.base import Method, Options
from dslbench.tables import (
    DenseTable,
    MaskedTable,
    MaskScope,
    Table,
    TableSpec,
    keep_count,
    segment_slices,
    select_largest,
)
from dslbench.train import Loop

Weights = dict[str, Tensor]


class MaskedOptions(Options):
    """Settings of all methods that mask."""

    mask_scope: MaskScope = Field(
        default="embeddings",
        description="what is made small: embedding tables, what the released code masks, or all",
    )
    ranking: Literal["joint", "segment"] = Field(
        default="joint",
        description="exact count over a whole table, or over its user and its item rows each",
    )


class MaskedMethod(Method):
    """A method over masked tables: gradients are masked before each step."""

    model: Backbone

    def make_table(self, spec: TableSpec, rng: np.random.Generator) -> Table:
        """A masked table where the scope has it, else a dense one."""
        kind = MaskedTable if spec.in_scope(self.options.mask_scope) else DenseTable
        return kind(spec, rng)

    @property
    def masked(self) -> list[MaskedTable]:
        """The tables under a mask."""
        return [table for table in self.model.tables().values() if isinstance(table, MaskedTable)]

    def groups(self, table: MaskedTable) -> list[slice]:
        """Row ranges of a table that are ranked together, each with its own exact count."""
        if self.options.ranking == "segment":
            return segment_slices(table.spec)
        return [slice(0, table.spec.n_rows)]

    def group_sizes(self, table: MaskedTable) -> list[int]:
        """Number of entries of each group."""
        return [(rows.stop - rows.start) * table.spec.dim for rows in self.groups(table)]

    def prune_by_magnitude(self, sparsity: float) -> None:
        """Keep the largest live weights of each group, exactly so many that `sparsity` is reached."""
        for table in self.masked:
            mask = table.mask.clone()
            for rows, size in zip(self.groups(table), self.group_sizes(table), strict=True):
                count = keep_count(size, sparsity)
                mask[rows] = select_largest(table.weight.detach()[rows], table.mask[rows], count)
            table.set_mask(mask)

    def after_backward(self, loop: Loop) -> bool:
        for table in self.masked:
            table.mask_gradient()
        return True

    def masks(self) -> list[Tensor]:
        """A copy of every mask."""
        return [table.mask.clone() for table in self.masked]

    def set_masks(self, masks: list[Tensor]) -> None:
        """Put masks in force."""
        for table, mask in zip(self.masked, masks, strict=True):
            table.set_mask(mask)


def copy_weights(model: Backbone) -> Weights:
    """The parameters of a model, bit for bit."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@torch.no_grad()
def restore_weights(model: Backbone, weights: Weights) -> None:
    """Rewind the parameters of a model; masks stay in force."""
    for name, p in model.named_parameters():
        p.copy_(weights[name])
    for table in model.tables().values():
        if isinstance(table, MaskedTable):
            table.apply_mask()
