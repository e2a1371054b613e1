"""Random pruning: a random mask, drawn once before training and kept."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from dslbench.backbones.base import Backbone
from dslbench.methods._masked import MaskedMethod, MaskedOptions
from dslbench.methods.base import Options
from dslbench.seeds import Streams
from dslbench.tables import MaskedTable, random_masks
from dslbench.training.lab import Lab


class RandomPruningOptions(MaskedOptions):
    """Settings of random pruning."""

    when: Literal["init", "trained"] = Field(
        default="init",
        description="mask the fresh table and train, or a trained one without retraining",
    )


class RandomPruning(MaskedMethod):
    """Keep a uniform random subset of exactly k* entries of each table, and train only those."""

    name = "rp"
    label = "RP"
    family = "MP"
    options_type: ClassVar[type[Options]] = RandomPruningOptions
    variants: ClassVar[dict[str, dict[str, Any]]] = {"default": {}, "trained": {"when": "trained"}}

    @classmethod
    def lineage(cls, options: Any, sparsity: float) -> list[str | None]:
        return ["dense"] if options.when == "trained" else [None]

    def run(self, lab: Lab) -> Backbone:
        model = self.start(lab)
        if self.options.when == "trained":
            lab.fit(model, "train")
            self.mask_at_random(lab.streams)
        else:
            self.mask_at_random(lab.streams)
            lab.fit(model, "train", self)
        return model

    def draw_mask(self, table: MaskedTable, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
        """A random (n, d) mask with an exact number of live entries in every group."""
        shape = (table.spec.n_rows, table.spec.dim)
        return random_masks(shape, self.groups(table), self.sparsity, rng)

    def mask_at_random(self, streams: Streams) -> None:
        """Draw a mask for each table."""
        for table in self.masked:
            table.set_mask(torch.from_numpy(self.draw_mask(table, streams["mask"])))
