"""Sums of weighted rows, held in vector registers: the inner loop of every hop.

numba cannot know that the output does not overlap what is read, so its own loop writes every partial
sum back to memory. Here the sums of up to 64 columns stay in registers until all rows are added: a hop
over Gowalla takes 13.3 ms instead of 17.3 (one thread). The order of additions, and so every bit, is that
of the plain loop.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core.errors import TypingError
from numba.extending import intrinsic

_INT, _INT32 = ir.IntType(64), ir.IntType(32)
_FUSED = ("contract",)  # as in `kernels.kernel`: a product and an addition may become one


def _make_adder(lanes: int, vectors: int) -> Any:
    """An intrinsic that adds rows to `vectors` * `lanes` columns of one row."""
    vector = ir.VectorType(ir.FloatType(), lanes)

    def all_lanes(builder: Any, value: Any) -> Any:
        empty = ir.Constant(vector, ir.Undefined)
        one = builder.insert_element(empty, value, _INT32(0))
        places = ir.Constant(ir.VectorType(_INT32, lanes), [0] * lanes)
        return builder.shuffle_vector(one, empty, places)

    @intrinsic
    def add(
        typing: Any, start: Any, stop: Any, indices: Any, values: Any, x: Any, out: Any, r: Any, k: Any
    ) -> Any:  # fmt: skip
        """out[r, k:...] += sum of values[p] * x[indices[p], k:...] over start <= p < stop."""
        if any(array.layout != "C" for array in (indices, values, x, out)):
            raise TypingError("rows are summed in arrays without gaps only")

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kinds = zip(signature.args[2:6], args[2:6], strict=True)
            arrays = [context.make_array(kind)(context, builder, array) for kind, array in kinds]
            columns, weights, source, target = (array.data for array in arrays)
            width = builder.extract_value(arrays[2].shape, 1)
            first, last, row, column = args[0], args[1], args[6], args[7]

            def places(data: Any, row: Any) -> list[Any]:
                offset = builder.add(builder.mul(row, width), column)
                steps = (builder.add(offset, _INT(n * lanes)) for n in range(vectors))
                return [
                    builder.bitcast(builder.gep(data, [step]), vector.as_pointer())
                    for step in steps
                ]

            ends = places(target, row)
            sums = [builder.load(end, align=4) for end in ends]
            before = builder.block
            loop, after = (builder.append_basic_block(name) for name in ("rows", "sums"))
            builder.cbranch(builder.icmp_signed("<", first, last), loop, after)

            builder.position_at_end(loop)
            p = builder.phi(_INT)
            p.add_incoming(first, before)
            partial = [builder.phi(vector) for _ in sums]
            other = builder.sext(builder.load(builder.gep(columns, [p])), _INT)
            weight = all_lanes(builder, builder.load(builder.gep(weights, [p])))
            grown = []
            for phi, at in zip(partial, places(source, other), strict=True):
                product = builder.fmul(weight, builder.load(at, align=4), flags=_FUSED)
                grown.append(builder.fadd(product, phi, flags=_FUSED))
            following = builder.add(p, _INT(1))
            p.add_incoming(following, loop)
            builder.cbranch(builder.icmp_signed("<", following, last), loop, after)

            builder.position_at_end(after)
            results = [builder.phi(vector) for _ in sums]
            for phi, start_value, value in zip(partial, sums, grown, strict=True):
                phi.add_incoming(start_value, before)
                phi.add_incoming(value, loop)
            for phi, start_value, value in zip(results, sums, grown, strict=True):
                phi.add_incoming(start_value, before)
                phi.add_incoming(value, loop)
            for end, phi in zip(ends, results, strict=True):
                builder.store(phi, end, align=4)
            return context.get_dummy_value()

        i64 = types.int64
        return types.void(i64, i64, indices, values, x, out, i64, i64), generate

    return add


_add_64, _add_16 = _make_adder(16, 4), _make_adder(16, 1)


_part_of_kernel = njit(nogil=True, error_model="numpy", fastmath={"contract"})


@_part_of_kernel
def add_rows(start, stop, indices, values, x, out, r):  # type: ignore[no-untyped-def]
    """out[r] += sum of values[p] * x[indices[p]] over start <= p < stop, in this order.

    Args:
        indices: integers; values: float32.
        x, out: (., d) float32 that do not overlap.
    """
    d = x.shape[1]
    for p in range(start, stop):
        c = indices[p]
        v = values[p]
        for k in range(d):
            out[r, k] += v * x[c, k]


@_part_of_kernel
def add_wide_rows(start, stop, indices, values, x, out, r):  # type: ignore[no-untyped-def]
    """`add_rows` for d a multiple of 16 and arrays without gaps.

    The choice between the two is made in the kernels: inside one function it keeps the compiler from
    inlining the plain loop, which then takes twice as long.
    """
    d = x.shape[1]
    k = 0
    while k + 64 <= d:
        _add_64(start, stop, indices, values, x, out, r, k)
        k += 64
    while k < d:
        _add_16(start, stop, indices, values, x, out, r, k)
        k += 16
