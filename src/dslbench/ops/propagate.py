"""LightGCN's propagation over the symmetric normalised user-item graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from dslbench.ops.base import Macs, Op, live_by_row, trained
from dslbench.ops.coded import CodedRows
from dslbench.ops.graphs import Graph, graph_of


class Propagate(Op):
    """Mean over the layers 0..L of A^l E, for all rows or for the rows of one batch.

    Counted is the whole propagation, L hops in either direction: what the kernels save on hops that
    are restricted to a batch, and spend on zeros of the table, is our implementation's and not the
    method's. Only the table itself has zeros; after one hop everything is dense.
    """

    def __init__(self, train: sparse.csr_matrix, layers: int, *, halves: bool = False) -> None:
        """With `halves` hops for a batch read neighbours as bfloat16 where d is a multiple of 16."""
        super().__init__()
        self.layers, self._halves = layers, halves
        self._train = train
        degrees = [np.bincount(train.indices, minlength=train.shape[1])]
        self._degrees = np.concatenate([np.diff(train.indptr), *degrees])

    def forward(
        self, table: Tensor | CodedRows, rows: Tensor | None = None
    ) -> Tensor | CodedRows | tuple[Tensor, Tensor]:
        """All propagated rows, or propagated and layer-0 rows of one batch.

        Args:
            table: (N + M, d) layer-0 embeddings, users first.
            rows: (R,) int64 row numbers, repeats allowed.

        Returns:
            Without `rows` (N + M, d), with them two (R, d) tensors: propagated rows, and rows of
            `table` itself; all differentiable with respect to `table`. Without layers coded rows
            stay as they are.
        """
        if isinstance(table, CodedRows):
            if rows is not None:
                return self.forward(table.full(), rows)
            if self.layers == 0:
                return table
            return graph_of(self._train, torch.device("cpu")).polynomial(table, self.layers)
        if self.layers == 0:
            return table.clone() if rows is None else (table[rows], table[rows])
        graph = graph_of(self._train, table.device)
        if rows is None:
            result: Tensor = _All.apply(table, graph, self.layers)  # type: ignore[no-untyped-call]
            return result
        halves = self._halves and table.shape[1] % 16 == 0
        propagated, ego = _Batch.apply(table, rows, graph, self.layers, halves)  # type: ignore[no-untyped-call]
        return propagated, ego

    def macs(self, table: Tensor | CodedRows, rows: Tensor | None = None) -> Macs:
        """sum_j degree(j) live(E_j) for the hop that reads E, nnz(A) d for each of the others.

        Backward as much: A is symmetric and there are no weights. The last hop backward gives the
        gradient of E, at its live entries only, or at all of them.
        """
        if self.layers == 0:
            return Macs(0)
        if isinstance(table, CodedRows):
            table = table.full()
        degrees = torch.from_numpy(self._degrees).to(table.device)
        whole = 2 * self._train.nnz * table.shape[1]
        total = int((degrees * live_by_row(table)).sum()) + (self.layers - 1) * whole
        return Macs(total, trained(table) * total, trained(table) * self.layers * whole)


class _All(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, graph: Graph, layers: int) -> Tensor:
        ctx.graph, ctx.layers = graph, layers
        return graph.polynomial(table.detach(), layers)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return ctx.graph.polynomial(gradients[0].contiguous(), ctx.layers), None, None


class _Batch(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, table: Tensor, rows: Tensor, graph: Graph, layers: int, halves: bool
    ) -> tuple[Tensor, Tensor]:
        ctx.graph, ctx.layers, ctx.halves = graph, layers, halves
        ctx.save_for_backward(rows)
        table = table.detach()
        found = graph.some_rows(table, rows, layers, halves=halves)
        return found, table.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        (rows,) = ctx.saved_tensors
        found = ctx.graph.from_rows(rows, *gradients, ctx.layers, halves=ctx.halves)
        return found, None, None, None, None
