"""Dynamic sparse learning without a training: one table, one method."""

from __future__ import annotations

import numpy as np
import torch

from dslbench.methods.dsl import DSLOptions, DynamicSparseLearning
from dslbench.tables import PackedTable, TableSpec


def small_table(weights: list[list[float]], mask: list[list[int]]) -> PackedTable:
    array = np.array(weights, dtype=np.float32)
    spec = TableSpec(
        "t", (("user", 1), ("item", len(weights) - 1)), array.shape[1], lambda *_: array
    )
    table = PackedTable(spec, np.random.default_rng(0))
    table.set_mask(torch.tensor(mask, dtype=torch.bool))
    return table


def explorer(options: DSLOptions, sparsity: float = 0.5) -> DynamicSparseLearning:
    method = DynamicSparseLearning(options, sparsity)
    method.growth = np.random.default_rng(0)
    method.grown = method.grown_without_gradient = 0
    return method
