"""What the methods that keep a mask over a table have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from dslbench.backbones.base import Backbone, Hyper
from dslbench.errors import UsageError
from dslbench.methods.base import Allowance, Method, Options
from dslbench.tables import (
    DenseMaskedTable,
    DenseTable,
    MaskedTable,
    MaskScope,
    PackedTable,
    Table,
    TableSpec,
    keep_count,
    segment_slices,
    select_largest,
)
from dslbench.tables.stored import Bitmap
from dslbench.training.hooks import Loop, acts_as
from dslbench.training.lab import Lab

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
    table_form: Literal["auto", "packed", "full"] = Field(
        default="auto",
        description="how training holds masked tables: packed takes (1 - s) of the memory; "
        "auto: packed where a step is not slower for it (rows of 16 to 256 entries)",
    )


class MaskedMethod(Method):
    """A method over masked tables: gradients are masked before each step."""

    rows_differ: ClassVar[bool] = True
    model: Backbone

    def __init__(self, options: Any, sparsity: float) -> None:
        super().__init__(options, sparsity)
        # Decides between entries of equal size; a run has a stream for it.
        self.lots = np.random.default_rng(0)

    def start(self, lab: Lab) -> Backbone:
        """The model, every entry live; the first thing a run does."""
        self.lots = lab.streams["lots"]
        self.model = lab.build(self.make_table)
        return self.model

    def make_table(self, spec: TableSpec, rng: np.random.Generator) -> Table:
        """A masked table where the scope has it, else a dense one."""
        in_scope = spec.in_scope(self.options.mask_scope)
        return (self.table_type(spec) if in_scope else DenseTable)(spec, rng)

    def table_type(self, spec: TableSpec) -> type[MaskedTable]:
        """Packed or in full, as the options have it.

        Sixteen entries are unpacked at a time, so that shorter rows gain nothing. Tables of wide rows
        are read whole in each step, and outgrow the caches.
        """
        form = self.options.table_form
        if form == "auto":
            form = "packed" if 16 <= spec.dim <= 256 else "full"
        return PackedTable if form == "packed" else DenseMaskedTable

    @staticmethod
    def after_pruning(options: Any, before: str, how: str, sparsity: float) -> str:
        """Name in `lineage` of a training that follows on another by pruning, then by `how`."""
        kind = f"{options.mask_scope} {options.ranking} {options.table_form}"
        return f"{before} > {sparsity!r} of {kind}, {how}"

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

    def allowance(self, specs: Mapping[str, TableSpec], full: Hyper) -> Allowance:
        """Exactly k* entries of each group of a masked table, with a bit for each entry of the table."""
        entries = nbytes = 0
        for spec in specs.values():
            n, d = spec.n_rows, spec.dim
            if spec.in_scope(self.options.mask_scope):
                kept = self.live_entries(spec)
                nbytes += Bitmap.size(n, d, kept)
            else:
                kept = n * d
                nbytes += 4 * kept
            entries += kept
        return Allowance.exactly(entries, nbytes)

    def live_entries(self, spec: TableSpec) -> int:
        """Of a masked table: exactly k* of each group."""
        return sum(keep_count(n * spec.dim, self.sparsity) for n in self._group_rows(spec))

    def _group_rows(self, spec: TableSpec) -> list[int]:
        """Numbers of rows that are ranked together."""
        if self.options.ranking == "segment":
            return [rows for _, rows in spec.segments]
        return [spec.n_rows]

    def prune_by_magnitude(self, sparsity: float, least: int = 0) -> None:
        """Keep the `largest` live weights of every table, before an optimiser is made."""
        for table in self.masked:
            table.set_mask(self.largest(table, sparsity, least))

    def largest(self, table: MaskedTable, sparsity: float, least: int = 0) -> Tensor:
        """The mask of the largest live weights of each group, exactly so many that `sparsity` is reached.

        Args:
            least: how many of the largest of each row stay in any case; no more than there is room for.
        """
        values, before = table.dense(), table.mask
        mask = torch.zeros_like(before)
        for rows, size in zip(self.groups(table), self.group_sizes(table), strict=True):
            safe = torch.zeros_like(before[rows])
            if least:
                safe.scatter_(1, values[rows].abs().topk(least, dim=1).indices, True)
            left = keep_count(size, sparsity) - int(safe.count_nonzero())
            mask[rows] = safe | select_largest(values[rows], before[rows] & ~safe, left, self.lots)
        return mask

    def most_protected(self) -> int:
        """How many entries of every row can be protected within the budget."""
        return min(
            keep_count(size, self.sparsity) // int(rows.stop - rows.start)
            for table in self.masked
            for rows, size in zip(self.groups(table), self.group_sizes(table), strict=True)
        )

    def prune_protecting(self, least: int) -> None:
        """Keep each row's `least` largest entries, then the largest of the rest, k* in all.

        Raises `UsageError` where the protected entries alone are over the budget.
        """
        if least > (most := self.most_protected()):
            raise UsageError(
                f"min_per_row {least} keeps more than sparsity {self.sparsity:g} allows",
                f"--set {self.name}.min_per_row={most}",
            )
        self.prune_by_magnitude(self.sparsity, least)

    def after_backward(self, loop: Loop) -> bool:
        for table in self.masked:
            table.mask_gradient()
        return True

    def plain(self) -> bool:
        return acts_as(self, MaskedMethod)  # the masks are part of the model's state

    def masks(self) -> list[Tensor]:
        """A copy of every mask."""
        return [table.mask.clone() for table in self.masked]

    def set_masks(self, masks: list[Tensor]) -> None:
        """Put masks in force."""
        for table, mask in zip(self.masked, masks, strict=True):
            table.set_mask(mask)


def copy_weights(model: Backbone) -> Weights:
    """The parameters of a model, bit for bit; of masked tables the (n, d) values.

    With them the buffers that a training moves, such as the steps that Mult-VAE's annealing has done.
    """
    tables = _masked_tables(model)
    weights = {
        name: tables[name].dense().clone() if name in tables else p.detach().clone()
        for name, p in model.named_parameters()
    }
    return weights | {name: buffer.clone() for name, buffer in _moved_buffers(model).items()}


@torch.no_grad()
def restore_weights(model: Backbone, weights: Weights) -> None:
    """Rewind the parameters of a model; masks stay in force."""
    tables = _masked_tables(model)
    for name, p in model.named_parameters():
        if name in tables:
            tables[name].assign(weights[name])
        else:
            p.copy_(weights[name])
    for name, buffer in _moved_buffers(model).items():
        buffer.copy_(weights[name])


def _moved_buffers(model: Backbone) -> dict[str, Tensor]:
    """The buffers by name that are part of what is stored, but for those of tables."""
    kept = model.rest()
    return {name: buffer for name, buffer in model.named_buffers() if name in kept}


def _masked_tables(model: Backbone) -> dict[str, MaskedTable]:
    """The masked tables by the name of their parameter in the model."""
    return {
        f"{name}.weight": module
        for name, module in model.named_modules()
        if isinstance(module, MaskedTable)
    }
