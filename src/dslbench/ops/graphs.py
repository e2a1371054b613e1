"""Polynomials of a graph's normalised adjacency, applied to its nodes' rows: on CPUs and elsewhere.

(x + A x + ... + A^L x) / (L + 1), for all nodes, for the nodes of a batch, and backward from these.
Written by Horner's rule, x + A (x + A (x + ...)), each hop is one product with one addition. A is
symmetric, so a gradient is the same polynomial of the gradient of the output.
"""

from __future__ import annotations

import weakref
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor

from dslbench.ops import coded_kernels, hop_kernels, kernels
from dslbench.ops.coded import CodedRows
from dslbench.ops.locality import order_by_neighbours
from dslbench.ops.threads import SMALL, balanced_bounds, even_bounds, run_rows

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]

_NOTHING = np.empty((0, 0), dtype=np.float32)
_NO_HALVES = np.empty((0, 0), dtype=np.uint16)
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


class Graph(Protocol):
    """A graph on one device; x is (n, d) with a row for each node, L at least 1."""

    def polynomial(self, x: Tensor | CodedRows, layers: int) -> Tensor:
        """All rows of the polynomial, (n, d); coded rows are on the CPU."""

    def some_rows(self, x: Tensor, rows: Tensor, layers: int, *, halves: bool = False) -> Tensor:
        """Rows (R,) of it, (R, d); repeats allowed.

        With `halves` each hop reads its neighbours' rows as bfloat16, which d has to be a multiple of 16 for.
        """

    def from_rows(
        self, rows: Tensor, gradient: Tensor, ego: Tensor, layers: int, *, halves: bool = False
    ) -> Tensor:
        """The gradient of x, (n, d).

        Args:
            gradient, ego: (R, d) gradients of the polynomial's and of x's own rows.
            halves: whether hops after the first read their neighbours' rows as bfloat16.
        """


_made: dict[tuple[int, torch.device], Graph] = {}


def graph_of(train: sparse.csr_matrix, device: torch.device) -> Graph:
    """The graph of training pairs (N, M) on a device.

    It is made once for all models of the same pairs, and kept as long as these are.
    """
    key = id(train), device
    if key not in _made:
        _made[key] = CpuGraph(train) if device.type == "cpu" else TorchGraph(train, device)
        weakref.finalize(train, _made.pop, key, None).atexit = False
    return _made[key]


class CpuGraph:
    """Through compiled kernels.

    For a batch, the last hop forward computes only the batch's rows, and the first hop backward
    starts from those rows alone: with L = 3, four full hops and two small ones instead of six.

    The kernels know the nodes by their places in an order in which nodes with the same neighbours lie
    together, so that a core's cache holds more of the rows that it reads: x is brought into that order
    first, and the last hop writes to the rows of the result. Sums of a row stay in the order of the
    neighbours' numbers, so that the result has the same bits in any order of the nodes.
    """

    def __init__(self, train: sparse.csr_matrix) -> None:
        adjacency = normalised_adjacency(train)
        # The node at each place, and the place of each node; empty: they are the same.
        order = order_by_neighbours(adjacency[: train.shape[0], train.shape[0] :].tocsr())
        self._row_at = _IN_PLACE if order is None else order
        self._place_of = np.argsort(self._row_at)
        if len(self._row_at):
            adjacency = adjacency[self._row_at]
            adjacency.indices = self._place_of[adjacency.indices].astype(np.int32)
        self.indptr: Int32 = adjacency.indptr.astype(np.int32, copy=False)
        self.indices: Int32 = adjacency.indices
        self.values: Float32 = adjacency.data
        self.bounds = balanced_bounds(self.indptr)
        self._slot = np.full(len(self.indptr) - 1, -1, dtype=np.int32)
        self._unique = np.empty(0, dtype=np.int64)
        self._work: dict[str, npt.NDArray[Any]] = {}

    def polynomial(self, x: Tensor | CodedRows, layers: int) -> Tensor:
        out = torch.empty(tuple(x.shape))
        self._work[f"hop{layers % 2}"] = out.numpy()  # which the last hop does not read
        if isinstance(x, CodedRows):
            self._coded_hops(x, layers, out.numpy())
        else:
            base, h = self._before_last_hop(x.numpy(), layers)
            self._hop(h, base, _scale(layers), self._row_at, out.numpy())
        self._work.clear()  # all rows are asked for to rank by them, which needs memory of its own
        return out

    def some_rows(self, x: Tensor, rows: Tensor, layers: int, *, halves: bool = False) -> Tensor:
        base, h = self._before_last_hop(x.numpy(), layers, halves)
        places = self._places(rows)
        unique = self._number(places)
        small = self._buffer("rows", (len(unique), base.shape[1]))
        run_rows(
            hop_kernels.spmm_rows, even_bounds(len(unique), parts=64), unique, self.indptr, self.indices,
            self.values, h, base, _scale(layers), small,
        )  # fmt: skip
        slots = torch.from_numpy(self._slot[places])
        self._slot[unique] = -1
        # index_select copies rows; indexing gathers entries, which takes three times as long.
        return torch.from_numpy(small).index_select(0, slots)

    def from_rows(
        self, rows: Tensor, gradient: Tensor, ego: Tensor, layers: int, *, halves: bool = False
    ) -> Tensor:
        places = self._places(rows)
        unique = self._number(places)
        n, d = len(self._slot), gradient.shape[1]
        small = [np.zeros((len(unique), d), dtype=np.float32) for _ in range(2)]
        parts = 1 if gradient.numel() < SMALL else 2
        run_rows(
            kernels.add_by_slot, even_bounds(d, parts=parts), places, self._slot,
            gradient.contiguous().numpy(), ego.contiguous().numpy(), *small,
        )  # fmt: skip
        out = torch.empty((n, d), dtype=torch.float32)
        one, graph = np.float32(1), (self.indptr, self.indices, self.values)
        h: npt.NDArray[Any] = _NOTHING
        for layer in range(1, layers + 1):
            last = layer == layers
            target = out.numpy() if last else self._buffer(f"hop{layer % 2}", (n, d), halves)
            ends = (_scale(layers), small[1], self._row_at) if last else (one, _NOTHING, _IN_PLACE)
            if layer == 1:
                run_rows(
                    hop_kernels.spmm_from_slots,
                    self.bounds,
                    *graph,
                    self._slot,
                    small[0],
                    *ends,
                    target,
                )
            else:
                run_rows(
                    hop_kernels.spmm_onto_slots, self.bounds, *graph, h, self._slot, small[0], *ends,
                    target,
                )  # fmt: skip
            h = target
        self._slot[unique] = -1
        return out

    def _before_last_hop(
        self, x: Float32, layers: int, halves: bool = False
    ) -> tuple[Float32, npt.NDArray[Any]]:
        """The rows of x, and what the last hop reads, by places."""
        base, h = self._in_order(x, halves)
        for layer in range(1, layers):
            target = self._buffer(f"hop{layer % 2}", x.shape, halves)
            self._hop(h, base, np.float32(1), _IN_PLACE, target)
            h = target
        return base, h

    def _coded_hops(self, x: CodedRows, layers: int, out: Float32) -> None:
        """`polynomial` of rows that are read as they are stored, also where they are added in later hops."""
        graph = self.indptr, self.indices, self.values
        h: Float32 = _NOTHING
        for layer in range(1, layers + 1):
            last = layer == layers
            target = out if last else self._buffer(f"hop{layer % 2}", x.shape)
            ends = (_scale(layers), self._row_at) if last else (np.float32(1), _IN_PLACE)
            kernel, read = (
                (coded_kernels.hop, graph) if layer == 1 else (coded_kernels.hop_onto, (*graph, h))
            )
            run_rows(kernel, self.bounds, *read, x.stored, self._row_at, *ends, target)
            h = target

    def _in_order(self, x: Float32, halves: bool) -> tuple[Float32, npt.NDArray[Any]]:
        """The rows of x by their places, and what the first hop reads of them."""
        if not len(self._row_at) and not halves:
            return x, x
        rows = self._row_at if len(self._row_at) else np.arange(len(x), dtype=np.int32)
        out = self._buffer("table", x.shape)
        read = self._buffer("table in halves", x.shape, True) if halves else _NO_HALVES
        run_rows(hop_kernels.take_rows, even_bounds(*x.shape), x, rows, out, read)
        return out, read if halves else out

    def _places(self, rows: Tensor) -> npt.NDArray[np.int64]:
        """Places of some of the nodes."""
        found: npt.NDArray[np.int64] = rows.numpy()
        return self._place_of[found] if len(self._place_of) else found

    def _hop(
        self,
        x: npt.NDArray[Any],
        base: Float32,
        scale: np.float32,
        to: Int32,
        out: npt.NDArray[Any],
    ) -> None:
        """One hop of x."""
        graph = self.indptr, self.indices, self.values
        run_rows(hop_kernels.spmm, self.bounds, *graph, x, base, scale, to, out)

    def _buffer(self, name: str, shape: tuple[int, ...], halves: bool = False) -> npt.NDArray[Any]:
        """Working memory kept between steps: fresh pages cost more than the arithmetic on them."""
        array, kind = self._work.get(name), np.uint16 if halves else np.float32
        if array is None or array.shape != tuple(shape) or array.dtype != kind:
            array = self._work[name] = np.empty(shape, dtype=kind)
        return array

    def _number(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Number the distinct places of a batch in `_slot`; the caller puts `_slot` back to -1."""
        if len(self._unique) < len(rows):
            self._unique = np.empty(len(rows), dtype=np.int64)
        return self._unique[: kernels.assign_slots(rows, self._slot, self._unique)]


class TorchGraph:
    """Through torch's product of a sparse CSR matrix, on any device; always L whole hops.

    On a GPU a step is bound by what the host has to launch, and not by these hops: kernels of our own with
    restricted hops took a fifth less time on the device and none less in all.
    """

    def __init__(self, train: sparse.csr_matrix, device: torch.device) -> None:
        adjacency = normalised_adjacency(train)
        self._adjacency = torch.sparse_csr_tensor(
            torch.from_numpy(adjacency.indptr), torch.from_numpy(adjacency.indices),
            torch.from_numpy(adjacency.data), adjacency.shape, device=device,
            check_invariants=False,
        )  # fmt: skip

    def polynomial(self, x: Tensor | CodedRows, layers: int) -> Tensor:
        whole = x if isinstance(x, Tensor) else x.full()
        return self._polynomial(whole, layers, exact=layers)

    def some_rows(self, x: Tensor, rows: Tensor, layers: int, *, halves: bool = False) -> Tensor:
        return self._polynomial(x, layers, exact=0 if halves else layers)[rows]

    def from_rows(
        self, rows: Tensor, gradient: Tensor, ego: Tensor, layers: int, *, halves: bool = False
    ) -> Tensor:
        x = gradient.new_zeros((self._adjacency.shape[0], gradient.shape[1]))
        x.index_add_(0, rows, gradient)
        found = self._polynomial(x, layers, exact=1 if halves else layers)
        return found.index_add_(0, rows, ego)

    def _polynomial(self, x: Tensor, layers: int, exact: int) -> Tensor:
        """After `exact` hops what a hop reads is rounded as the CPU's kernels round it; no time is saved."""
        total = x
        for layer in range(layers):
            read = total if layer < exact else total.bfloat16().float()
            total = torch.addmm(x, self._adjacency, read)
        return total / (layers + 1)


def _scale(layers: int) -> np.float32:
    return np.float32(1.0 / (layers + 1))
