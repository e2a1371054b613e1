"""Random pruning: a random mask, drawn once before training and kept."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from dslbench.backbones.base import Backbone
from dslbench.methods.base import Method, Options
from dslbench.seeds import Streams
from dslbench.tables import (
    DenseTable,
    MaskedTable,
    MaskScope,
    Table,
    TableSpec,
    random_masks,
    segment_slices,
)
from dslbench.train import Lab, Loop


class RandomPruningOptions(Options):
    """Settings of random pruning."""

    when: Literal["init", "trained"] = Field(
        default="init",
        description="mask the fresh table and train, or a trained one without retraining",
    )
    mask_scope: MaskScope = Field(
        default="embeddings",
        description="what is made small: embedding tables, what the released code masks, or all",
    )
    ranking: Literal["joint", "segment"] = Field(
        default="joint",
        description="exact count over a whole table, or over its user and its item rows each",
    )


class RandomPruning(Method):
    """Keep a uniform random subset of exactly k* entries of each table, and train only those."""

    name = "rp"
    label = "RP"
    family = "MP"
    options_type: ClassVar[type[Options]] = RandomPruningOptions
    variants: ClassVar[dict[str, dict[str, Any]]] = {"default": {}, "trained": {"when": "trained"}}

    def run(self, lab: Lab) -> Backbone:
        self.model = model = lab.build(self.make_table)
        if self.options.when == "trained":
            lab.fit(model, "train")
            self.mask_at_random(lab.streams)
        else:
            self.mask_at_random(lab.streams)
            lab.fit(model, "train", self)
        return model

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

    def draw_mask(self, table: MaskedTable, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
        """A random (n, d) mask with an exact number of live entries in every group."""
        shape = (table.spec.n_rows, table.spec.dim)
        return random_masks(shape, self.groups(table), self.sparsity, rng)

    def mask_at_random(self, streams: Streams) -> None:
        """Draw a mask for each table."""
        for table in self.masked:
            table.set_mask(torch.from_numpy(self.draw_mask(table, streams["mask"])))

    def after_backward(self, loop: Loop) -> bool:
        for table in self.masked:
            table.mask_gradient()
        return True
