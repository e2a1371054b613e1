"""Where sparsity pays on LightGCN: a step, bytes kept, a hop and a look-up from packed rows.

Dense, DSL, and DSL with blocks of 8 and 16, each at several sparsities. All contestants of a table take
turns. With one thread times are of the processor (what else runs on the machine is left out), with
more they are of the wall.

A hop gathers one row of the table for each edge and direction. It is read

* dense: rows of d float32;
* spread: the packed table is made dense first, which is what a training step does;
* packed: bitmap, start and live values of each row, expanded in a register;
* blocks: one byte of live blocks a row, start and values, the left-over block filled up. The kernel adds
  blocks of 16 from where they lie or from zeros; blocks of 8 it expands by a table of 256 masks.

A look-up scores all items for one user as d-dimensional dot products, dense or from packed rows.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from tabulate import tabulate

from common import gowalla_or_alike, machine
from dslbench import artefact, registry
from dslbench.cost.measured import state_bytes
from dslbench.ops import hop_kernels, packed_kernels
from dslbench.ops.graphs import CpuGraph
from dslbench.ops.kernels import kernel
from dslbench.ops.lanes import (
    LANES_TYPE,
    _add_product,
    add_lanes,
    count_bits,
    expand,
    has_expand,
    lanes_of,
    load_lanes,
    pointer,
    store_lanes,
    zero_lanes,
)
from dslbench.ops.packed_kernels import PackedRows
from dslbench.ops.threads import even_bounds, run_rows, thread_count
from dslbench.runs.assemble import make_lab
from dslbench.spec import resolve
from dslbench.tables import PackedTable, TableSpec, random_masks
from dslbench.tables.spec import normal
from sparse_state import Contestant

D, FORMS = 64, ("none", "8", "16")
clock = time.thread_time if thread_count() == 1 else time.perf_counter
Times = dict[Any, list[float]]

# The 64 bits of a row from its byte of live blocks of 8.
HERE = np.empty(0, dtype=np.int32)  # rows are written where they are
_WORDS = np.array(
    [sum(0xFF << 8 * j for j in range(8) if byte >> j & 1) for byte in range(256)], dtype=np.uint64
).view(np.int64)


@intrinsic
def add_expanded(typing: Any, total: Any, factor: Any, bits: Any, values: Any, at: Any) -> Any:
    """total + factor times the packed values from `at` on, in the lanes whose bit is set (AVX-512)."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        total, factor, bits, *place = args
        address = pointer(context, builder, signature.args[3], *place)
        found = expand(builder, address, lanes_of(builder, bits))
        return _add_product(builder, total, factor, found)

    return LANES_TYPE(LANES_TYPE, types.float32, types.int64, values, types.int64), generate


@intrinsic
def count(typing: Any, bits: Any) -> Any:
    """Number of set bits."""
    return types.int64(types.int64), lambda context, builder, signature, args: count_bits(
        builder, args[0]
    )


@intrinsic
def load_word(typing: Any, bits: Any, at: Any) -> Any:
    """Bytes bits[at : at + 8] as one integer, the first one lowest."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address = pointer(context, builder, signature.args[0], *args)
        return builder.load(builder.bitcast(address, ir.IntType(64).as_pointer()), align=1)

    return types.int64(bits, types.int64), generate


@kernel
def spmm_packed(  # type: ignore[no-untyped-def]
    lo, hi, indptr, indices, values, starts, bits, packed, base, scale, out
):
    """`spmm` of a packed matrix (see `packed_kernels`) whose rows are a multiple of 64 entries (AVX-512).

    Lanes off the mask add products with 0, as they do in the dense form: the same bits come out.
    """
    d = out.shape[1]
    words, onto, into = bits.reshape(-1), base.reshape(-1), out.reshape(-1)
    bytes_ = d >> 3
    for r in range(lo, hi):
        o = np.int64(r) * d
        for c in range(0, d, 64):
            s0, s1 = load_lanes(onto, o + c), load_lanes(onto, o + c + 16)
            s2, s3 = load_lanes(onto, o + c + 32), load_lanes(onto, o + c + 48)
            for p in range(indptr[r], indptr[r + 1]):
                v = values[p]
                at = np.int64(indices[p]) * bytes_
                q = np.int64(starts[indices[p]])
                for before in range(0, c >> 3, 8):
                    q += count(load_word(words, at + before))
                word = load_word(words, at + (c >> 3))
                s0 = add_expanded(s0, v, word, packed, q)
                q1 = q + count(word & 0xFFFF)
                s1 = add_expanded(s1, v, word >> 16, packed, q1)
                q2 = q + count(word & 0xFFFFFFFF)
                s2 = add_expanded(s2, v, word >> 32, packed, q2)
                q3 = q + count(word & 0xFFFFFFFFFFFF)
                s3 = add_expanded(s3, v, word >> 48, packed, q3)
            store_lanes(s0, scale, into, o + c)
            store_lanes(s1, scale, into, o + c + 16)
            store_lanes(s2, scale, into, o + c + 32)
            store_lanes(s3, scale, into, o + c + 48)


@kernel
def spmm_blocks16(  # type: ignore[no-untyped-def]
    lo, hi, indptr, indices, values, starts, live, packed, base, out
):
    """`spmm_packed` of blocks of 16, d = 64; the last 16 entries of `packed` are zeros."""
    onto, to, nothing, one = base.reshape(-1), out.reshape(-1), len(packed) - 16, np.float32(1)
    for r in range(lo, hi):
        o = np.int64(r) * 64
        s0, s1 = load_lanes(onto, o), load_lanes(onto, o + 16)
        s2, s3 = load_lanes(onto, o + 32), load_lanes(onto, o + 48)
        for p in range(indptr[r], indptr[r + 1]):
            v, c = values[p], indices[p]
            m, q = np.int64(live[c]), np.int64(starts[c])
            s0 = add_lanes(s0, v, packed, q if m & 1 else nothing)
            q += (m & 1) << 4
            s1 = add_lanes(s1, v, packed, q if m & 2 else nothing)
            q += (m & 2) << 3
            s2 = add_lanes(s2, v, packed, q if m & 4 else nothing)
            q += (m & 4) << 2
            s3 = add_lanes(s3, v, packed, q if m & 8 else nothing)
        store_lanes(s0, one, to, o)
        store_lanes(s1, one, to, o + 16)
        store_lanes(s2, one, to, o + 32)
        store_lanes(s3, one, to, o + 48)


@kernel
def spmm_blocks8(  # type: ignore[no-untyped-def]
    lo, hi, indptr, indices, values, starts, live, packed, words, base, out
):
    """`spmm_packed` of blocks of 8, d = 64."""
    onto, to, one = base.reshape(-1), out.reshape(-1), np.float32(1)
    for r in range(lo, hi):
        o = np.int64(r) * 64
        s0, s1 = load_lanes(onto, o), load_lanes(onto, o + 16)
        s2, s3 = load_lanes(onto, o + 32), load_lanes(onto, o + 48)
        for p in range(indptr[r], indptr[r + 1]):
            v, c = values[p], indices[p]
            m, q = np.int64(live[c]), np.int64(starts[c])
            word = words[m]
            s0 = add_expanded(s0, v, word, packed, q)
            s1 = add_expanded(s1, v, word >> 16, packed, q + (count(m & 0x3) << 3))
            s2 = add_expanded(s2, v, word >> 32, packed, q + (count(m & 0xF) << 3))
            s3 = add_expanded(s3, v, word >> 48, packed, q + (count(m & 0x3F) << 3))
        store_lanes(s0, one, to, o)
        store_lanes(s1, one, to, o + 16)
        store_lanes(s2, one, to, o + 32)
        store_lanes(s3, one, to, o + 48)


@intrinsic
def multiply_expanded(typing, total, x, at, bits, values, start):  # type: ignore[no-untyped-def]
    """total + x[at : at + 16] times the packed values from `start` on."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        total, x, at, bits, values, start = args
        address = pointer(context, builder, signature.args[4], values, start)
        found = expand(builder, address, lanes_of(builder, bits))
        place = pointer(context, builder, signature.args[1], x, at)
        kind = ir.VectorType(ir.FloatType(), 16).as_pointer()
        other = builder.load(builder.bitcast(place, kind), align=4)
        product = builder.fmul(found, other, flags=("contract",))
        return builder.fadd(total, product, flags=("contract",))

    i64 = types.int64
    return LANES_TYPE(LANES_TYPE, x, i64, i64, values, i64), generate


@kernel
def score_packed(lo, hi, starts, bits, packed, user, out):  # type: ignore[no-untyped-def]
    """out[r] = row r of the packed matrix times `user`, d = 64."""
    words, sums, one = bits.reshape(-1), np.empty(16, dtype=np.float32), np.float32(1)
    for r in range(lo, hi):
        q, word = np.int64(starts[r]), load_word(words, np.int64(r) * 8)
        s = multiply_expanded(zero_lanes(), user, 0, word, packed, q)
        s = multiply_expanded(s, user, 16, word >> 16, packed, q + count(word & 0xFFFF))
        s = multiply_expanded(s, user, 32, word >> 32, packed, q + count(word & 0xFFFFFFFF))
        q += count(word & 0xFFFFFFFFFFFF)
        s = multiply_expanded(s, user, 48, word >> 48, packed, q)
        store_lanes(s, one, sums, 0)
        total = np.float32(0)
        for k in range(16):
            total += sums[k]
        out[r] = total


def interleaved(calls: dict[Any, Callable[[], object]], rounds: int) -> Times:
    """Seconds of each call, all taking turns; the first two turns are left out."""
    times: Times = {name: [] for name in calls}
    for turn in range(rounds + 2):
        for name, call in calls.items():
            began = clock()
            call()
            if turn >= 2:
                times[name].append(clock() - began)
    return times


def shown(seconds: Sequence[float], digits: int = 1) -> str:
    """Median and quartiles in ms."""
    low, middle, high = np.percentile(seconds, [25, 50, 75]) * 1e3
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def label(form: str, sparsity: float) -> str:
    return f"DSL {sparsity:.0%}" if form == "none" else f"DSL block {form}, {sparsity:.0%}"


def random_table(n: int, sparsity: float, form: str) -> PackedTable:
    """A table under the mask that DSL starts with."""
    table = PackedTable(TableSpec("t", (("row", n),), D, normal(0.1)), np.random.default_rng(0))
    block = 1 if form == "none" else int(form)
    rng = np.random.default_rng(1)
    table.set_mask(torch.from_numpy(random_masks((n, D), [slice(0, n)], sparsity, rng, block)))
    return table


def packed_blocks(table: PackedTable, block: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Starts, byte of live blocks by row, and whole blocks, with 16 zeros behind the last."""
    n = table.spec.n_rows
    live = table.mask.numpy().reshape(n, -1, block).any(axis=2)
    values = table.dense().numpy().reshape(n, -1, block)[live].ravel()
    starts = np.zeros(n + 1, dtype=np.int32)
    np.cumsum(live.sum(axis=1) * block, out=starts[1:])
    return (
        starts,
        np.packbits(live, axis=1, bitorder="little").ravel(),
        np.append(values, np.zeros(16, dtype=np.float32)),
    )


def hops(graph_: CpuGraph, sparsities: Sequence[float], rounds: int) -> str:
    """Time of the first hop in each form, and the bytes of the rows it gathers."""
    graph, one = (graph_.indptr, graph_.indices, graph_.values), np.float32(1)
    n = len(graph_.indptr) - 1
    calls: dict[Any, Callable[[], object]] = {}
    outs: dict[Any, np.ndarray] = {}
    moved: dict[Any, float] = {}

    def add(name: Any, kernel_: Any, out: np.ndarray, row_bytes: float, *args: Any) -> None:
        outs[name], moved[name] = out, len(graph_.indices) * (row_bytes + 8) / 1e6
        calls[name] = lambda: run_rows(kernel_, graph_.bounds, *graph, *args)

    for form in FORMS:
        for s in sparsities:
            table = random_table(n, s, form)
            packed = arrays(table)
            x = table.dense().numpy()
            spread, out, through, direct, whole = (np.empty_like(x) for _ in range(5))
            values_bytes = 4 * D * (1 - s)
            add((form, s, "dense"), hop_kernels.spmm, out, 4 * D, x, x, one, HERE, out)

            def expand_first(
                packed: Any = packed, spread: Any = spread, through: Any = through, n: int = n
            ) -> None:
                run_rows(packed_kernels.spread_rows, even_bounds(n, D), True, *packed, spread)
                run_rows(
                    hop_kernels.spmm, graph_.bounds, *graph, spread, spread, one, HERE, through
                )

            name = (form, s, "spread")
            calls[name], outs[name] = expand_first, through
            moved[name] = moved[form, s, "dense"] + n * (12 + values_bytes + 4 * D) / 1e6
            add((form, s, "packed"), spmm_packed, direct, 12 + values_bytes,
                *packed, x, one, direct)  # fmt: skip
            if form != "none":
                starts, live, values = packed_blocks(table, int(form))
                which: Any = spmm_blocks16 if form == "16" else spmm_blocks8
                words = () if form == "16" else (_WORDS,)
                add((form, s, "blocks"), which, whole, 5 + values_bytes,
                    starts, live, values, *words, x, whole)  # fmt: skip
    times = interleaved(calls, rounds)
    rows = []
    for form in FORMS:
        for s in sparsities:
            dense = statistics.median(times[form, s, "dense"])
            cells: list[Any] = [label(form, s)]
            for how in ("dense", "spread", "packed", "blocks"):
                name = (form, s, how)
                if name not in times:
                    cells.append("-")
                    continue
                if not np.array_equal(outs[name], outs[form, s, "dense"]):
                    raise SystemExit(f"{name} computes something else")
                ratio = statistics.median(times[name]) / dense
                cells.append(f"{shown(times[name])}; {ratio:.2f}; {moved[name]:.0f} MB")
            rows.append(cells)
    headers = ["table", "dense", "spread, then dense", "packed", "blocks"]
    return (
        f"### First hop: ms (quartiles); relative to dense; bytes it must gather at least\n\n"
        f"{tabulate(rows, headers, tablefmt='github')}\n"
    )


def arrays(table: PackedTable) -> PackedRows:
    """A table as the kernels read it."""
    assert table.bits is not None
    return PackedRows(table.starts.numpy(), table.bits.numpy(), table.weight.detach().numpy())


def look_ups(n_items: int, sparsities: Sequence[float], rounds: int) -> str:
    """Scores of all items for one user."""
    user = np.random.default_rng(2).standard_normal(D).astype(np.float32)
    calls: dict[Any, Callable[[], object]] = {}
    bounds, given, moved = even_bounds(n_items, D), torch.from_numpy(user), {}
    for form in FORMS:
        for s in sparsities:
            table = random_table(n_items, s, form)
            packed, dense = arrays(table), table.dense()
            out, expected = np.empty(n_items, dtype=np.float32), torch.empty(n_items)
            calls[form, s, "dense"] = lambda dense=dense, out=expected: torch.mv(
                dense, given, out=out
            )
            calls[form, s, "packed"] = lambda packed=packed, out=out: run_rows(
                score_packed, bounds, *packed, user, out
            )
            calls[form, s, "packed"]()
            calls[form, s, "dense"]()
            if not np.allclose(out, expected.numpy(), rtol=1e-4, atol=1e-5):
                raise SystemExit(f"{form} {s}: scores differ")
            moved[form, s] = n_items * (12 + 4 * D * (1 - s)) / 1e6
    times = interleaved(calls, 4 * rounds)
    rows = []
    for form in FORMS:
        for s in sparsities:
            dense, packed_ = times[form, s, "dense"], times[form, s, "packed"]
            ratio = statistics.median(packed_) / statistics.median(dense)
            rows.append([label(form, s), shown(dense, 2), shown(packed_, 2), f"{ratio:.2f}",
                         f"{n_items * 4 * D / 1e6:.1f}", f"{moved[form, s]:.1f}"])  # fmt: skip
    headers = [
        "item table",
        "dense, ms",
        "packed, ms",
        "relative to dense",
        "dense, MB",
        "packed, MB",
    ]
    return (
        f"### Scores of {n_items:,} items for one user, d={D}\n\n"
        f"{tabulate(rows, headers, tablefmt='github')}\n"
    )


def steps(data: Any, sparsities: Sequence[float], rounds: int) -> str:
    """Training steps between explorations, and bytes in memory and in the file."""
    contestants: dict[str, Contestant] = {}
    for form, s in [("none", 0.0), *((f, s) for f in FORMS for s in sparsities)]:
        name = "dsl" if s else "dense"
        spec = resolve(
            dataset="gowalla", backbone="lightgcn", method=name, sparsity=s, seed=0, epochs=1,
            protocol="paper", settings=[f"dsl.block={form}", "dsl.delta_t=1000000"],
        )  # fmt: skip
        kind = registry.method(name)
        method = kind(kind.options_type.model_validate(spec.options), s) if s else None
        lab = make_lab(spec, data, torch.device("cpu"))
        title = label(form, s) if s else "dense"
        contestants[title] = Contestant(lab, method, 10 * rounds)
    calls: dict[Any, Callable[[], object]] = {name: c.step for name, c in contestants.items()}
    times = interleaved(calls, rounds)
    dense, rows = contestants["dense"], []
    most = state_bytes(dense.model, dense.optimiser)
    dense_step, dense_file = statistics.median(times["dense"]), None
    for name, c in contestants.items():
        packed = artefact.pack(c.model, {}, {})
        sizes = artefact.sizes_by_form(packed)
        size = sizes["dense" if name == "dense" else "bitmap"]
        assert size is not None
        dense_file = dense_file or size
        state = state_bytes(c.model, c.optimiser)
        rows.append([name, shown(times[name]), f"{statistics.median(times[name]) / dense_step:.3f}",
                     f"{state / 2**20:.2f}", f"{state / most:.3f}",
                     f"{size / 2**20:.2f}", f"{size / dense_file:.3f}"])  # fmt: skip
    headers = ["table", "step, ms", "relative", "table + optimiser, MiB", "relative",
               "file, MiB", "relative"]  # fmt: skip
    return (
        f"### Training step (batch {dense.lab.hyper.batch_size}), memory of the state, file\n\n"
        f"{tabulate(rows, headers, tablefmt='github')}\n"
    )


def main() -> str:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=11, help="timed calls of each contestant")
    parser.add_argument(
        "--sparsity",
        type=float,
        action="append",
        help="again for more; default 0.5, 0.8, 0.9, 0.95",
    )
    parser.add_argument("--only", choices=["hops", "look-ups", "steps"])
    chosen = parser.parse_args()
    if not has_expand():
        return "this processor cannot expand packed rows in a register (AVX-512)"
    sparsities = chosen.sparsity or [0.5, 0.8, 0.9, 0.95]
    data, source = gowalla_or_alike()
    parts = {
        "hops": lambda: hops(CpuGraph(data.train), sparsities, chosen.rounds),
        "look-ups": lambda: look_ups(data.n_items, sparsities, chosen.rounds),
        "steps": lambda: steps(data, sparsities, chosen.rounds),
    }
    found = [make() for name, make in parts.items() if chosen.only in (None, name)]
    kind = "processor time" if thread_count() == 1 else "wall time"
    return "\n".join(
        [
            f"LightGCN, {source}, d={D}, L=3; {kind}, medians (quartiles).\n",
            *found,
            f"Machine: {machine()}\n",
        ]
    )


if __name__ == "__main__":
    print(main())
