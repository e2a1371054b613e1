"""First layer of an autoencoder: sparse user rows times an item table."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor, nn

from dslbench.ops.base import Macs, Op, live_by_row, trained
from dslbench.ops.hop_kernels import products
from dslbench.ops.threads import balanced_bounds, run_rows


class SparseInput(Op):
    """X @ table for a sparse (B, M) X and an (M, K) table; no dense (B, M) input is made.

    The gradient of the table is dense, (M, K). On the CPU both directions run through one compiled
    kernel, backward with X transposed, and give the same bits whatever the number of threads.
    """

    def forward(self, table: Tensor, indptr: Tensor, items: Tensor, values: Tensor) -> Tensor:
        """(M, K), (B + 1,) int64, (nnz,) int64 and (nnz,) float32 to (B, K)."""
        if table.device.type == "cpu":
            out: Tensor = _SparseInput.apply(table, indptr, items, values)  # type: ignore[no-untyped-call]
            return out
        return nn.functional.embedding_bag(
            items, table, indptr, mode="sum", per_sample_weights=values, include_last_offset=True
        )

    def macs(self, table: Tensor, indptr: Tensor, items: Tensor, values: Tensor) -> Macs:
        """The live entries of each row that is added, twice: the input has no gradient."""
        rows, times = torch.unique(items, return_counts=True)
        added = int((live_by_row(table[rows]) * times).sum())
        return Macs(added, trained(table) * added, trained(table) * len(items) * table.shape[1])


class _SparseInput(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, indptr: Tensor, items: Tensor, values: Tensor) -> Tensor:
        ctx.save_for_backward(indptr, items, values)
        ctx.n_items = len(table)
        return _product(indptr.numpy(), items.numpy(), values.numpy(), table.detach())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        indptr, items, values = (x.numpy() for x in ctx.saved_tensors)
        shape = (len(indptr) - 1, ctx.n_items)
        columns = sparse.csr_matrix((values, items, indptr), shape=shape).tocsc()
        gradient = gradients[0].contiguous()
        return _product(columns.indptr, columns.indices, columns.data, gradient), None, None, None


def _product(
    indptr: npt.NDArray[Any], indices: npt.NDArray[Any], values: npt.NDArray[np.float32], x: Tensor
) -> Tensor:
    out = torch.empty((len(indptr) - 1, x.shape[1]), dtype=torch.float32)
    run_rows(products, balanced_bounds(indptr), indptr, indices, values, x.numpy(), out.numpy())
    return out


def drop_entries(
    indptr: Tensor, items: Tensor, values: Tensor, rate: float, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Inverted dropout on the entries of sparse rows; what is dropped is taken out.

    Each entry stays with probability 1 - rate and is divided by it. Zeros of the dense row stay
    zero either way, so this is dropout of the dense row. The draws are made on the CPU.
    """
    if rate == 0:
        return indptr, items, values
    kept = torch.from_numpy(rng.random(len(items), dtype=np.float32) >= rate).to(items.device)
    before = torch.zeros(len(items) + 1, dtype=torch.int64, device=items.device)
    torch.cumsum(kept, dim=0, out=before[1:])
    return before[indptr], items[kept], values[kept] / (1 - rate)
