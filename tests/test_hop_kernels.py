"""Hops in registers against plain loops over the same sums, to the last bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numba import njit
from scipy import sparse

from dslbench.ops import graphs, hop_kernels
from helpers import make_interactions
from training_helpers import parameters, train

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


def test_training_in_an_order_of_the_nodes_has_the_bits_of_training_in_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At 90 %, explorations and rankings included."""
    data = make_interactions()
    own = ["dsl.delta_t=3", "embedding_size=64", "batch_size=16"]
    order = np.random.default_rng(0).permutation(sum(data.train.shape)).astype(np.int32)
    ends = []
    for found in (None, order):
        monkeypatch.setattr(graphs, "order_by_neighbours", lambda graph, found=found: found)
        graphs._made.clear()
        model, _, lab = train(data, "lightgcn", "dsl", 0.9, 4, *own)
        ends.append((parameters(model), [row["loss"] for row in lab.phases[-1].history]))
    assert ends[0][1] == ends[1][1]
    assert all(torch.equal(x, ends[1][0][name]) for name, x in ends[0][0].items())
