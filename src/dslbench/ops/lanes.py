# mypy: disable-error-code="no-untyped-call"
"""Sixteen float32 as one value in compiled kernels, so that a row's sum stays in registers.

A loop `out[k] += v * x[k]` over a row, repeated for each neighbour, stores and loads `out` every time,
and the next neighbour waits for it. Sums held in `Lanes` don't: a hop of LightGCN takes .55 of the
time. Lanes are vectors of LLVM, which makes of them what the processor has: one AVX-512 register, two
of AVX, four of NEON or SSE.

Offsets count entries of a flat, contiguous array. Nothing is checked against its length. An array of uint16
holds the upper halves of float32 (bfloat16): half the bytes to read, widened in the register, and rounded
to the nearest, ties to even, where they are stored.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

WIDTH = 16
LANES = ir.VectorType(ir.FloatType(), WIDTH)
BITS = ir.VectorType(ir.IntType(1), WIDTH)
POINTER = ir.FloatType().as_pointer()
_I32, _I64 = ir.IntType(32), ir.IntType(64)
_HALVES, _WHOLES = ir.VectorType(ir.IntType(16), WIDTH), ir.VectorType(_I32, WIDTH)


class Lanes(types.Type):
    """Sixteen float32."""

    def __init__(self) -> None:
        super().__init__("Lanes")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, LANES)


LANES_TYPE = Lanes()


def has_expand() -> bool:
    """Whether the processor can expand and compress packed values in a register."""
    return bool(llvm.get_host_cpu_features().get("avx512f", False))


def pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    """Address of an entry of an array."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [index])


def lanes_of(builder: Any, bits: Any) -> Any:
    """The lowest 16 bits of an integer, a lane each."""
    return builder.bitcast(builder.trunc(bits, ir.IntType(WIDTH)), BITS)


def count_bits(builder: Any, bits: Any) -> Any:
    """Number of set bits of a 64-bit integer."""
    kind = ir.FunctionType(_I64, [_I64])
    count = cgutils.get_or_insert_function(builder.module, kind, "llvm.ctpop.i64")
    return builder.call(count, [bits])


def expand(builder: Any, address: Any, lanes: Any) -> Any:
    """Values from an address on, in order, into the lanes that are set; 0 in the others."""
    kind = ir.FunctionType(LANES, [POINTER, BITS, LANES])
    load = cgutils.get_or_insert_function(builder.module, kind, "llvm.masked.expandload.v16f32")
    return builder.call(load, [address, lanes, ir.Constant(LANES, None)])


def _load(builder: Any, address: Any, array: Any) -> Any:
    if array.dtype != types.uint16:
        return builder.load(builder.bitcast(address, LANES.as_pointer()), align=4)
    halves = builder.load(builder.bitcast(address, _HALVES.as_pointer()), align=2)
    wide = builder.shl(builder.zext(halves, _WHOLES), ir.Constant(_WHOLES, [16] * WIDTH))
    return builder.bitcast(wide, LANES)


def _store(builder: Any, found: Any, address: Any, array: Any) -> None:
    if array.dtype != types.uint16:
        builder.store(found, builder.bitcast(address, LANES.as_pointer()), align=4)
        return
    bits, half = builder.bitcast(found, _WHOLES), ir.Constant(_WHOLES, [16] * WIDTH)
    odd = builder.and_(builder.lshr(bits, half), ir.Constant(_WHOLES, [1] * WIDTH))
    nearest = builder.add(builder.add(bits, ir.Constant(_WHOLES, [0x7FFF] * WIDTH)), odd)
    halves = builder.trunc(builder.lshr(nearest, half), _HALVES)
    builder.store(halves, builder.bitcast(address, _HALVES.as_pointer()), align=2)


def _everywhere(builder: Any, value: Any) -> Any:
    nothing = ir.Constant(LANES, ir.Undefined)
    first = builder.insert_element(nothing, value, ir.Constant(_I32, 0))
    places = ir.Constant(ir.VectorType(_I32, WIDTH), [0] * WIDTH)
    return builder.shuffle_vector(first, nothing, places)


def _add_product(builder: Any, total: Any, factor: Any, x: Any) -> Any:
    """total + factor x, fused where the processor can, as `contract` allows it in plain loops."""
    product = builder.fmul(_everywhere(builder, factor), x, flags=("contract",))
    return builder.fadd(total, product, flags=("contract",))


@intrinsic
def zero_lanes(typing: Any) -> Any:
    """Zeros."""
    return LANES_TYPE(), lambda context, builder, signature, args: ir.Constant(LANES, None)


@intrinsic
def load_lanes(typing: Any, x: Any, at: Any) -> Any:
    """x[at : at + 16]."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address = pointer(context, builder, signature.args[0], *args)
        return _load(builder, address, signature.args[0])

    return LANES_TYPE(x, types.int64), generate


@intrinsic
def add_lanes(typing: Any, total: Any, factor: Any, x: Any, at: Any) -> Any:
    """total + factor x[at : at + 16]."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        total, factor, *place = args
        address = pointer(context, builder, signature.args[2], *place)
        found = _load(builder, address, signature.args[2])
        return _add_product(builder, total, factor, found)

    return LANES_TYPE(LANES_TYPE, types.float32, x, types.int64), generate


@intrinsic
def store_lanes(typing: Any, total: Any, scale: Any, out: Any, at: Any) -> Any:
    """out[at : at + 16] = scale total."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        total, scale, *place = args
        address = pointer(context, builder, signature.args[2], *place)
        scaled = builder.fmul(total, _everywhere(builder, scale))
        _store(builder, scaled, address, signature.args[2])
        return context.get_dummy_value()

    return types.void(LANES_TYPE, types.float32, out, types.int64), generate


@intrinsic
def prefetch(typing: Any, x: Any, at: Any) -> Any:
    """Ask for the cache line of x[at], which need not exist."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        byte = ir.IntType(8).as_pointer()
        address = builder.bitcast(pointer(context, builder, signature.args[0], *args), byte)
        kind = ir.FunctionType(ir.VoidType(), [byte, _I32, _I32, _I32])
        call = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        # To be read, into all caches, data.
        builder.call(call, [address, *(ir.Constant(_I32, number) for number in (0, 3, 1))])
        return context.get_dummy_value()

    return types.void(x, types.int64), generate
