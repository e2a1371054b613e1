"""Hops in registers against plain loops over the same sums, to the last bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numba import njit
from scipy import sparse

from conftest import make_interactions
from dslbench.ops import hop_kernels, propagate
from dslbench.ops.lanes import has_expand
from dslbench.tables import PackedTable, TableSpec
from dslbench.tables.base import normal
from test_contract import parameters, train

N = 40
HERE = np.empty(0, dtype=np.int32)  # rows are written where they are


@njit(error_model="numpy", fastmath={"contract"})  # type: ignore[untyped-decorator]
def plain(indptr, indices, values, x, base, scale, out):  # type: ignore[no-untyped-def]
    for r in range(len(out)):
        for k in range(x.shape[1]):
            out[r, k] = base[r, k]
        for p in range(indptr[r], indptr[r + 1]):
            for k in range(x.shape[1]):
                out[r, k] += values[p] * x[indices[p], k]
        for k in range(x.shape[1]):
            out[r, k] *= scale


def graph(rng: np.random.Generator) -> tuple[Any, Any, Any]:
    """Rows of 0 to some 30 entries, the last one empty."""
    entries = rng.random((N, N)).astype(np.float32) * (rng.random((N, N)) < 0.4)
    entries[3] = entries[N - 1] = 0
    a = sparse.csr_matrix(entries)
    return a.indptr, a.indices, a.data


@pytest.mark.parametrize("scale", [1.0, 0.25, 1 / 3])
@pytest.mark.parametrize("d", [1, 7, 8, 16, 17, 48, 64, 70, 128, 150])
def test_hops_have_the_bits_of_plain_loops(d: int, scale: float) -> None:
    rng = np.random.default_rng(d)
    csr, factor = graph(rng), np.float32(scale)
    x, base = (rng.standard_normal((N, d)).astype(np.float32) for _ in range(2))
    expected, found = np.empty_like(x), np.full_like(x, np.nan)
    plain(*csr, x, base, factor, expected)
    to = rng.permutation(N).astype(np.int32)
    hop_kernels.spmm(0, N, *csr, x, base, factor, HERE, found)
    assert np.array_equal(found, expected)
    hop_kernels.spmm(0, N, *csr, x, base, factor, to, found)
    assert np.array_equal(found[to], expected)

    rows = rng.permutation(N)[:9].astype(np.int64)
    few = np.full((9, d), np.nan, dtype=np.float32)
    hop_kernels.spmm_rows(0, 9, rows, *csr, x, base, factor, few)
    assert np.array_equal(few, expected[rows])

    slot = np.full(N, -1, dtype=np.int32)
    slot[rows] = np.arange(9)
    onto = np.zeros_like(base)
    onto[rows] = base[rows]
    plain(*csr, x, onto, factor, expected)
    for extra in (np.empty((0, 0), dtype=np.float32), few):
        more = expected.copy()
        if len(extra):
            more[rows] += few
        for where, of in ((HERE, slice(None)), (to, to)):
            hop_kernels.spmm_onto_slots(
                0, N, *csr, x, slot, base[rows], factor, extra, where, found
            )
            assert np.array_equal(found[of], more)


@pytest.mark.skipif(not has_expand(), reason="the processor has no AVX-512")
@pytest.mark.parametrize("density", [0.02, 0.5, 0.97])
@pytest.mark.parametrize("d", [64, 128, 192])
def test_a_hop_from_packed_rows_has_the_bits_of_one_from_dense_rows(d: int, density: float) -> None:
    rng = np.random.default_rng(d)
    csr, scale = graph(rng), np.float32(0.5)
    table = PackedTable(TableSpec("t", (("user", N),), d, normal(1.0)), rng)
    mask = rng.random((N, d)) < density
    mask[0], mask[1] = False, True
    table.set_mask(torch.from_numpy(mask))
    x = table.dense().numpy()
    expected, found = np.empty_like(x), np.full_like(x, np.nan)
    plain(*csr, x, x, scale, expected)
    assert table.bits is not None
    packed = table.starts.numpy(), table.bits.numpy(), table.weight.detach().numpy()
    for to in (HERE, rng.permutation(N).astype(np.int32)):
        hop_kernels.spmm_packed(0, N, *csr, *packed, x, scale, to, found)
        assert np.array_equal(found[to] if len(to) else found, expected)


@pytest.mark.skipif(not has_expand(), reason="the processor has no AVX-512")
def test_training_from_packed_rows_has_the_bits_of_training_from_dense_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At 90 %, explorations and rankings included; the first hop reads packed rows, or none does."""
    ends, used = [], []
    order = np.random.default_rng(0).permutation(sum(make_interactions().train.shape))
    monkeypatch.setattr(propagate, "order_by_neighbours", lambda graph: order.astype(np.int32))
    original = hop_kernels.spmm_packed
    for most in (1.0, 0.0):
        monkeypatch.setattr(propagate, "PACKED_DENSITY", most)
        monkeypatch.setattr(
            hop_kernels, "spmm_packed", lambda *args, m=most: (used.append(m), original(*args))
        )
        data = make_interactions()
        own = ["dsl.delta_t=3", "embedding_size=64", "batch_size=16"]
        model, _, lab = train(data, "lightgcn", "dsl", 0.9, 4, *own)
        ends.append((parameters(model), [row["loss"] for row in lab.phases[-1].history]))
    assert set(used) == {1.0}
    assert ends[0][1] == ends[1][1]
    assert all(torch.equal(x, ends[1][0][name]) for name, x in ends[0][0].items())
