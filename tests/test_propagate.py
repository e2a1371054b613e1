"""Propagation against a dense float64 reference, and the bits against the number of threads."""

from __future__ import annotations

import dataclasses
import gc
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba.core.errors import TypingError
from scipy import sparse

from dslbench.data.interactions import Interactions, pairs_to_csr
from dslbench.ops import graphs, hop_kernels, locality, threads
from dslbench.ops.graphs import CpuGraph, TorchGraph, normalised_adjacency
from dslbench.ops.locality import order_by_neighbours
from dslbench.ops.propagate import Propagate
from helpers import make_interactions

HERE = np.empty(0, dtype=np.int32)  # rows are written where they are


def dense_adjacency(data: Interactions) -> np.ndarray:
    r = data.train.toarray().astype(np.float64)
    n, m = r.shape
    a = np.block([[np.zeros((n, n)), r], [r.T, np.zeros((m, m))]])
    degrees = a.sum(axis=1)
    scale = np.array([d**-0.5 if d else 0.0 for d in degrees])
    return scale[:, None] * a * scale


def reference(data: Interactions, table: np.ndarray, layers: int) -> np.ndarray:
    a, h, total = dense_adjacency(data), table.astype(np.float64), table.astype(np.float64)
    for _ in range(layers):
        h = a @ h
        total = total + h
    return total / (layers + 1)


@given(
    seed=st.integers(0, 10_000),
    d=st.sampled_from([1, 3, 8, 16, 17, 64, 80]),
    layers=st.integers(0, 4),
    n_users=st.integers(1, 50),
    n_items=st.integers(2, 60),
)
@settings(max_examples=40, deadline=None)
def test_batch_and_full_match_the_dense_reference(
    seed: int, d: int, layers: int, n_users: int, n_items: int
) -> None:
    data = make_interactions(n_users, n_items, 0.2, seed)
    rng = np.random.default_rng(seed)
    n = n_users + n_items
    table = torch.from_numpy(rng.standard_normal((n, d)).astype(np.float32)).requires_grad_()
    rows = torch.from_numpy(rng.integers(0, n, size=37))  # repeats are certain for small n
    out_weights = rng.standard_normal((37, d)).astype(np.float32)
    ego_weights = rng.standard_normal((37, d)).astype(np.float32)
    op = Propagate(data.train, layers)

    full = op(table)
    expected = reference(data, table.detach().numpy(), layers)
    np.testing.assert_allclose(full.detach().numpy(), expected, rtol=1e-5, atol=1e-5)

    final, ego = op(table, rows)
    np.testing.assert_allclose(final.detach().numpy(), expected[rows.numpy()], rtol=1e-5, atol=1e-5)
    assert torch.equal(ego, table[rows])

    (final * torch.from_numpy(out_weights)).sum().add(
        (ego * torch.from_numpy(ego_weights)).sum()
    ).backward()
    upstream = np.zeros((n, d))
    np.add.at(upstream, rows.numpy(), out_weights.astype(np.float64))
    gradient = reference(data, upstream, layers)  # the polynomial is symmetric
    np.add.at(gradient, rows.numpy(), ego_weights.astype(np.float64))
    assert table.grad is not None
    np.testing.assert_allclose(table.grad.numpy(), gradient, rtol=1e-5, atol=1e-5)


def test_same_bits_whatever_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_interactions(300, 200, 0.1)
    rng = np.random.default_rng(1)
    values = rng.standard_normal((500, 64)).astype(np.float32)
    rows = torch.from_numpy(rng.integers(0, 500, size=100))
    results = []
    for count in ("1", "2", "5"):
        monkeypatch.setenv("DSLBENCH_THREADS", count)
        table = torch.from_numpy(values.copy()).requires_grad_()
        graphs._made.clear()  # each has its own ranges of rows
        op = Propagate(data.train, 3)
        final, ego = op(table, rows)
        (final.square().sum() + ego.sum()).backward()
        assert table.grad is not None
        results.append((op(table).detach(), final.detach(), table.grad))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("d", [5, 32])
def test_same_bits_in_any_order_of_the_nodes(
    monkeypatch: pytest.MonkeyPatch, layers: int, d: int
) -> None:
    data = make_interactions(90, 60, 0.1)
    rng = np.random.default_rng(1)
    values = rng.standard_normal((150, d)).astype(np.float32)
    rows = torch.from_numpy(rng.integers(0, 150, size=80))
    results = []
    for order in (None, rng.permutation(150).astype(np.int32), order_of(data)):
        monkeypatch.setattr(graphs, "order_by_neighbours", lambda graph, order=order: order)
        graphs._made.clear()
        table = torch.from_numpy(values.copy()).requires_grad_()
        op = Propagate(data.train, layers)
        final, ego = op(table, rows)
        (final.square().sum() + ego.sum()).backward()
        assert table.grad is not None
        results.append((op(table).detach(), final.detach(), ego.detach(), table.grad))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def order_of(data: Interactions) -> np.ndarray | None:
    n = data.train.shape[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(locality, "_LEAST", 0)
        patch.setattr(locality, "_CLUSTER", 8)
        return order_by_neighbours(normalised_adjacency(data.train)[:n, n:].tocsr())


def test_the_order_brings_those_with_the_same_neighbours_together() -> None:
    """Four communities, their members scattered over all numbers, come out one after another."""
    rng = np.random.default_rng(0)
    mine, theirs = rng.integers(0, 4, 240), rng.integers(0, 4, 160)
    chance = np.where(mine[:, None] == theirs, 0.3, 0.005)
    train = sparse.csr_matrix((rng.random((240, 160)) < chance).astype(np.float32))
    data = make_interactions(240, 160)
    order = order_of(dataclasses.replace(data, train=train))
    assert order is not None and sorted(order[:240]) == list(range(240))
    assert sorted(order[240:]) == list(range(240, 400))
    for of, community in ((order[:240], mine), (order[240:] - 240, theirs)):
        assert np.count_nonzero(np.diff(community[of])) <= 40  # by chance some 180 and 120


def test_small_and_narrow_graphs_keep_their_order() -> None:
    assert order_by_neighbours(sparse.csr_matrix((30, 40), dtype=np.float32)) is None
    wide = sparse.random_array((4, 20_000), density=0.1, format="csr", dtype=np.float32, rng=0)
    assert order_by_neighbours(wide) is None


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_other_devices_graph_equals_the_kernels(layers: int) -> None:
    data, cpu = make_interactions(30, 40), torch.device("cpu")
    torch.manual_seed(0)
    x, rows = torch.randn(70, 8), torch.randint(70, (50,))
    gradients = torch.randn(50, 8), torch.randn(50, 8)
    ours, other = CpuGraph(data.train), TorchGraph(data.train, cpu)
    for a, b in (
        (graph.polynomial(x, layers) for graph in (ours, other)),
        (graph.some_rows(x, rows, layers) for graph in (ours, other)),
        (graph.from_rows(rows, *gradients, layers) for graph in (ours, other)),
    ):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_a_graph_is_made_once_and_goes_with_its_pairs() -> None:
    data, cpu = make_interactions(), torch.device("cpu")
    first = graphs.graph_of(data.train, cpu)
    assert graphs.graph_of(data.train, cpu) is first
    other = make_interactions(seed=1).train
    assert graphs.graph_of(other, cpu) is not first
    gone = weakref.ref(graphs.graph_of(other, cpu))
    del other
    gc.collect()
    assert gone() is None and graphs.graph_of(data.train, cpu) is first


def test_isolated_node_keeps_a_share_of_its_own_row() -> None:
    train = pairs_to_csr([0, 1], [0, 0], (2, 3))  # items 1 and 2 occur nowhere
    op = Propagate(train, 3)
    table = torch.randn(5, 4)
    torch.testing.assert_close(op(table)[3:], table[3:] / 4)


def test_errors_in_a_kernel_thread_are_raised() -> None:
    def broken(lo: int, hi: int) -> None:
        raise RuntimeError("kernel")

    with pytest.raises(RuntimeError, match="kernel"):
        threads.run_rows(broken, threads.even_bounds(100, 4))


def test_balanced_bounds_cover_all_rows() -> None:
    data = make_interactions(100, 50)
    indptr = normalised_adjacency(data.train).indptr
    bounds = threads.balanced_bounds(indptr, 7)
    assert bounds[0] == 0 and bounds[-1] == 150
    assert (np.diff(bounds) >= 0).all()


@pytest.mark.parametrize("d", [16, 48, 64, 144])
def test_sums_in_registers_have_the_bits_of_sums_in_order(d: int) -> None:
    rng = np.random.default_rng(d)
    matrix = sparse.random_array((40, 30), density=0.2, format="csr", rng=rng, dtype=np.float32)
    x, base = (rng.standard_normal((n, d), dtype=np.float32) for n in (30, 40))
    graph = matrix.indptr, matrix.indices, matrix.data
    whole, thin = np.empty((40, d), np.float32), np.empty((40, d + 1), np.float32)
    hop_kernels.spmm(0, 40, *graph, x, base, np.float32(0.5), HERE, whole)
    # A width that is no multiple of 16 takes the plain loop.
    wider = [np.concatenate([a, a[:, :1]], axis=1) for a in (x, base)]
    hop_kernels.spmm(0, 40, *graph, *wider, np.float32(0.5), HERE, thin)
    assert np.array_equal(whole, thin[:, :d])
    np.testing.assert_allclose(whole, 0.5 * (base + matrix @ x), rtol=1e-5, atol=1e-5)


def test_a_table_with_gaps_is_refused_and_not_misread() -> None:
    x = np.zeros((3, 32), np.float32)[:, ::2]
    graph = np.array([0, 1, 1, 1]), np.array([2]), np.ones(1, np.float32)
    with pytest.raises(TypingError, match="contiguous array only"):
        hop_kernels.spmm(0, 3, *graph, x, x, np.float32(1), HERE, np.empty((3, 16), np.float32))


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("ordered", [False, True])
def test_hops_may_read_halves(monkeypatch: pytest.MonkeyPatch, layers: int, ordered: bool) -> None:
    data = make_interactions(90, 60, 0.1)
    rng = np.random.default_rng(1)
    order = rng.permutation(150).astype(np.int32) if ordered else None
    monkeypatch.setattr(graphs, "order_by_neighbours", lambda graph: order)
    table, gradient, ego = (
        torch.from_numpy(rng.standard_normal((n, 32)).astype(np.float32)) for n in (150, 80, 80)
    )
    rows = torch.from_numpy(rng.integers(0, 150, size=80))
    ours, other = CpuGraph(data.train), TorchGraph(data.train, torch.device("cpu"))
    for one, rounded, exact in (
        (
            ours.some_rows(table, rows, layers, halves=True),
            other.some_rows(table, rows, layers, halves=True),
            ours.some_rows(table, rows, layers),
        ),
        (
            ours.from_rows(rows, gradient, ego, layers, halves=True),
            other.from_rows(rows, gradient, ego, layers, halves=True),
            ours.from_rows(rows, gradient, ego, layers),
        ),
    ):
        # Sums in another order may be rounded to the other side: half a step of 2^-8.
        np.testing.assert_allclose(one, rounded, rtol=2e-3, atol=2e-3)
        np.testing.assert_allclose(one, exact, rtol=1e-2, atol=1e-2)
        is_the_same = layers == 1 and one.shape == (150, 32)  # one hop back reads no halves
        assert torch.equal(one, exact) == is_the_same


def test_halves_are_rounded_as_torch_rounds_them() -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, size=64 * 64, dtype=np.uint32)
    x = bits.view(np.float32).reshape(64, 64)
    x[~np.isfinite(x)] = 1.0
    x[0, :3] = np.array([0x3F808000, 0x3F818000, 0x80000001], dtype=np.uint32).view(np.float32)
    out, halves = np.empty_like(x), np.empty(x.shape, dtype=np.uint16)
    hop_kernels.take_rows(0, 64, x, np.arange(64, dtype=np.int32), out, halves)
    expected = torch.from_numpy(x).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    np.testing.assert_array_equal(halves, expected)
    np.testing.assert_array_equal(out, x)


def test_rows_of_other_widths_are_read_whole() -> None:
    data, rows = make_interactions(30, 20, 0.2), torch.arange(20)
    table = torch.from_numpy(np.random.default_rng(0).standard_normal((50, 20)).astype(np.float32))
    halved, whole = (
        Propagate(data.train, 3, halves=halves)(table, rows)[0] for halves in (True, False)
    )
    assert torch.equal(halved, whole)
