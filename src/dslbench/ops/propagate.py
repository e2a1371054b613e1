"""LightGCN's propagation over the symmetric normalised user-item graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor

from dslbench.ops import hop_kernels, kernels
from dslbench.ops.base import Macs, Op, live_by_row, trained
from dslbench.ops.locality import order_by_neighbours
from dslbench.ops.threads import balanced_bounds, even_bounds, run_rows

_NOTHING = np.empty((0, 0), dtype=np.float32)
_IN_PLACE = np.empty(0, dtype=np.int32)


def normalised_adjacency(train: sparse.csr_matrix) -> sparse.csr_matrix:
    """D^-1/2 A D^-1/2 of the bipartite graph, users first, without self loops.

    Shape (N + M, N + M), float32, int32 indices, rows sorted. A node without edges has an empty
    row (its d^-1/2 is taken as 0). LightGCN, Eq. 7.
    """
    n_users, n_items = train.shape
    transposed = train.T.tocsr()
    transposed.sort_indices()
    degrees = np.concatenate([np.diff(train.indptr), np.diff(transposed.indptr)])
    scale = np.zeros(len(degrees))
    np.divide(1.0, np.sqrt(degrees), out=scale, where=degrees > 0)
    indptr = np.concatenate([train.indptr, train.nnz + transposed.indptr[1:]]).astype(np.int32)
    indices = np.concatenate([train.indices + n_users, transposed.indices]).astype(np.int32)
    values = np.repeat(scale, degrees) * scale[indices]
    return sparse.csr_matrix(
        (values.astype(np.float32), indices, indptr), shape=(n_users + n_items,) * 2
    )


class Propagate(Op):
    """Mean over the layers 0..L of A^l E, for all rows or for the rows of one batch.

    Written by Horner's rule, E + A(E + A(E + ...)), each hop is one product with one addition.
    A is symmetric, so the gradient is the same polynomial applied to the gradient of the output.
    For a batch, the last hop forward computes only the batch's rows, and the first hop backward
    starts from those rows alone: with L = 3, four full hops and two small ones instead of six.

    The kernels know the nodes by their places in an order in which nodes with the same neighbours lie
    together, so that a core's cache holds more of the rows that it reads: the table is brought into
    that order first, and the last hop writes to the rows of the table. Sums of a row stay in the order
    of the neighbours' numbers, so that the result has the same bits in any order of the nodes.

    On the CPU this runs through compiled kernels, elsewhere through torch's sparse CSR product.

    Counted is the whole propagation, L hops in either direction: what the kernels save on hops that
    are restricted to a batch, and spend on zeros of the table, is our implementation's and not the
    method's. Only the table itself has zeros; after one hop everything is dense.
    """

    def __init__(self, train: sparse.csr_matrix, layers: int) -> None:
        super().__init__()
        self.layers = layers
        self._train = train
        adjacency = normalised_adjacency(train)
        self.n_rows = int(adjacency.shape[0])
        self.nnz = int(adjacency.nnz)
        self._degrees = np.diff(adjacency.indptr)
        # The table's row at each place, and the place of each row; empty: they are the same.
        order = order_by_neighbours(adjacency[: train.shape[0], train.shape[0] :].tocsr())
        self._row_at = _IN_PLACE if order is None else order
        self._place_of = np.argsort(self._row_at)
        if len(self._row_at):
            adjacency = adjacency[self._row_at]
            adjacency.indices = self._place_of[adjacency.indices].astype(np.int32)
        self._indptr: npt.NDArray[np.int32] = adjacency.indptr.astype(np.int32, copy=False)
        self._indices: npt.NDArray[np.int32] = adjacency.indices
        self._values: npt.NDArray[np.float32] = adjacency.data
        self._bounds = balanced_bounds(self._indptr)
        self._slot = np.full(self.n_rows, -1, dtype=np.int32)
        self._unique = np.empty(0, dtype=np.int64)
        self._work: dict[str, npt.NDArray[np.float32]] = {}
        self._torch_adjacency: Tensor | None = None

    def forward(self, table: Tensor, rows: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """All propagated rows, or propagated and layer-0 rows of one batch.

        Args:
            table: (N + M, d) layer-0 embeddings, users first.
            rows: (R,) int64 row numbers, repeats allowed.

        Returns:
            Without `rows` (N + M, d), with them two (R, d) tensors: propagated rows, and rows of
            `table` itself; all differentiable with respect to `table`.
        """
        if rows is not None and table.device.type == "cpu" and self.layers > 0:
            propagated, ego = _PropagateBatch.apply(table, rows, self)  # type: ignore[no-untyped-call]
            return propagated, ego
        result: Tensor = _PropagateAll.apply(table, self)  # type: ignore[no-untyped-call]
        return result if rows is None else (result[rows], table[rows])

    def macs(self, table: Tensor, rows: Tensor | None = None) -> Macs:
        """sum_j degree(j) live(E_j) for the hop that reads E, nnz(A) d for each of the others.

        Backward as much: A is symmetric and there are no weights. The last hop backward gives the
        gradient of E, at its live entries only, or at all of them.
        """
        if self.layers == 0:
            return Macs(0)
        degrees = torch.from_numpy(self._degrees).to(table.device)
        whole = self.nnz * table.shape[1]
        total = int((degrees * live_by_row(table)).sum()) + (self.layers - 1) * whole
        return Macs(total, trained(table) * total, trained(table) * self.layers * whole)

    def polynomial(self, x: Tensor) -> Tensor:
        """(x + A x + ... + A^L x) / (L + 1) without gradient tracking."""
        if self.layers == 0:
            return x.clone()
        if x.device.type != "cpu":
            return self._by_torch(x)
        out, (base, h) = torch.empty_like(x), self._before_last_hop(x.numpy())
        self._spmm(h, base, self._scale, self._row_at, out.numpy())
        return out

    def _before_last_hop(
        self, table: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """The table, and what the last hop reads, by places."""
        base = h = self._in_order(table)
        for layer in range(1, self.layers):
            target = self._buffer(f"hop{layer % 2}", table.shape)
            self._spmm(h, base, np.float32(1), _IN_PLACE, target)
            h = target
        return base, h

    def _in_order(self, table: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The table's rows by their places."""
        if not len(self._row_at):
            return table
        out = self._buffer("table", table.shape)
        run_rows(hop_kernels.take_rows, even_bounds(*table.shape), table, self._row_at, out)
        return out

    def _places(self, rows: Tensor) -> npt.NDArray[np.int64]:
        """Places of some of the table's rows."""
        found: npt.NDArray[np.int64] = rows.numpy()
        return self._place_of[found] if len(self._place_of) else found

    def _by_torch(self, x: Tensor) -> Tensor:
        """The polynomial through torch's sparse product, on any device."""
        adjacency, total = self._csr_on(x), x
        for _ in range(self.layers):
            total = torch.addmm(x, adjacency, total)
        return total / (self.layers + 1)

    @property
    def _scale(self) -> np.float32:
        return np.float32(1.0 / (self.layers + 1))

    def _spmm(self, x: Any, base: Any, scale: np.float32, to: Any, out: Any) -> None:
        """One hop of x."""
        graph = self._indptr, self._indices, self._values
        run_rows(hop_kernels.spmm, self._bounds, *graph, x, base, scale, to, out)

    def _buffer(self, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """Working memory kept between steps: fresh pages cost more than the arithmetic on them."""
        array = self._work.get(name)
        if array is None or array.shape != tuple(shape):
            array = self._work[name] = np.empty(shape, dtype=np.float32)
        return array

    def _csr_on(self, x: Tensor) -> Tensor:
        if self._torch_adjacency is None or self._torch_adjacency.device != x.device:
            adjacency = normalised_adjacency(self._train)
            self._torch_adjacency = torch.sparse_csr_tensor(
                torch.from_numpy(adjacency.indptr),
                torch.from_numpy(adjacency.indices),
                torch.from_numpy(adjacency.data),
                adjacency.shape,
                device=x.device,
            )
        return self._torch_adjacency

    def _forward_rows(self, table: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        base, h = self._before_last_hop(table.detach().numpy())
        places = self._places(rows)
        unique = self._number(places)
        small = self._buffer("rows", (len(unique), base.shape[1]))
        run_rows(
            hop_kernels.spmm_rows, even_bounds(len(unique), parts=64), unique, self._indptr, self._indices,
            self._values, h, base, self._scale, small,
        )  # fmt: skip
        slots = torch.from_numpy(self._slot[places])
        self._slot[unique] = -1
        # index_select copies rows; indexing gathers entries, which takes three times as long.
        return torch.from_numpy(small).index_select(0, slots), table.detach().index_select(0, rows)

    def _backward_rows(self, rows: Tensor, grad_final: Tensor, grad_ego: Tensor) -> Tensor:
        places = self._places(rows)
        unique = self._number(places)
        d = grad_final.shape[1]
        small = [np.zeros((len(unique), d), dtype=np.float32) for _ in range(2)]
        for gradient, total in zip((grad_final, grad_ego), small, strict=True):
            run_rows(
                kernels.add_by_slot, even_bounds(d, parts=2), places, self._slot,
                gradient.contiguous().numpy(), total,
            )  # fmt: skip
        out = torch.empty((self.n_rows, d), dtype=torch.float32)
        one, graph = np.float32(1), (self._indptr, self._indices, self._values)
        h: npt.NDArray[np.float32] = _NOTHING
        for layer in range(1, self.layers + 1):
            last = layer == self.layers
            target = out.numpy() if last else self._buffer(f"hop{layer % 2}", (self.n_rows, d))
            ends = (self._scale, small[1], self._row_at) if last else (one, _NOTHING, _IN_PLACE)
            if layer == 1:
                run_rows(
                    hop_kernels.spmm_from_slots,
                    self._bounds,
                    *graph,
                    self._slot,
                    small[0],
                    *ends,
                    target,
                )
            else:
                run_rows(
                    hop_kernels.spmm_onto_slots, self._bounds, *graph, h, self._slot, small[0], *ends,
                    target,
                )  # fmt: skip
            h = target
        self._slot[unique] = -1
        return out

    def _number(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Number the distinct places of a batch in `_slot`; the caller puts `_slot` back to -1."""
        if len(self._unique) < len(rows):
            self._unique = np.empty(len(rows), dtype=np.int64)
        return self._unique[: kernels.assign_slots(rows, self._slot, self._unique)]


class _PropagateAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, op: Propagate) -> Tensor:
        ctx.op = op
        return op.polynomial(table.detach())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.op.polynomial(gradients[0].contiguous()), None


class _PropagateBatch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor, op: Propagate) -> tuple[Tensor, Tensor]:
        ctx.op = op
        ctx.save_for_backward(rows)
        return op._forward_rows(table, rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (rows,) = ctx.saved_tensors
        return ctx.op._backward_rows(rows, gradients[0], gradients[1]), None, None
