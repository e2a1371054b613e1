"""Whole numbers of few bits, row by row: into bytes and back.

A row's codes are one string of bits, code j in bits j b to j b + b - 1, the lowest first, and a row
begins at a byte. A code is the two's complement of q, and stands for q times the row's scale.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from numba import njit
from torch import Tensor

from dslbench.ops.kernels import kernel
from dslbench.ops.threads import balanced_bounds, even_bounds, run_rows

Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Codes = npt.NDArray[np.uint8]


def row_bytes(lengths: npt.NDArray[np.integer], bits: int) -> Int64:
    """Bytes of rows with so many codes each, (n,)."""
    found: Int64 = -(-lengths.astype(np.int64) * bits // 8)
    return found


def starts_of(lengths: npt.NDArray[np.integer]) -> Int64:
    """(n + 1,) where each row begins."""
    return np.append(0, np.cumsum(lengths, dtype=np.int64))


def largest(bits: int) -> int:
    """The largest |q| of symmetric codes."""
    return (1 << (bits - 1)) - 1


def encode(values: Float32, lengths: Int64, scale: Float32, bits: int) -> Codes:
    """Codes of values (k,), the rows one after the other, each rounded to the nearest of its row's grid.

    Args:
        lengths: (n,) values of each row.
        scale: (n,) distance of neighbouring values of a row.
    """
    starts, places = starts_of(lengths), starts_of(row_bytes(lengths, bits))
    codes = np.zeros(int(places[-1]), dtype=np.uint8)
    run_rows(_encode, balanced_bounds(starts), values, starts, places, scale, bits, codes)
    return codes


def decode(codes: Codes, lengths: Int64, scale: Float32, bits: int) -> Float32:
    """The values (k,) that codes stand for."""
    starts, places = starts_of(lengths), starts_of(row_bytes(lengths, bits))
    out = np.empty(int(starts[-1]), dtype=np.float32)
    run_rows(_decode, balanced_bounds(starts), codes, places, scale, bits, starts, out)
    return out


def decode_rows(codes: Tensor, places: Tensor, scale: Tensor, bits: int, starts: Tensor) -> Tensor:
    """The values of B rows, one after the other.

    Args:
        codes: uint8.
        places: (B,) where in them each row's begin.
        scale: (B,) float32, theirs.
        starts: (B + 1,) int64, where each of the rows is to begin in the result.
    """
    if codes.device.type != "cpu":
        return _decode_by_torch(codes, places, scale, bits, starts)
    out = torch.empty(int(starts[-1]), dtype=torch.float32)
    width = int(starts[-1]) // max(1, len(places))
    run_rows(
        _decode, even_bounds(len(places), max(1, width)), codes.numpy(), places.numpy(),
        scale.numpy(), bits, starts.numpy(), out.numpy(),
    )  # fmt: skip
    return out


def are_written(codes: Codes, lengths: Int64, bits: int) -> bool:
    """Whether `encode` could have written codes: none without an opposite, no bit set behind a row's end."""
    starts, places = starts_of(lengths), starts_of(row_bytes(lengths, bits))
    found = np.ones(len(lengths), dtype=np.bool_)
    run_rows(_are_written, balanced_bounds(starts), codes, places, bits, starts, found)
    return bool(found.all())


def _decode_by_torch(
    codes: Tensor, places: Tensor, scale: Tensor, bits: int, starts: Tensor
) -> Tensor:
    lengths = starts[1:] - starts[:-1]
    row = torch.arange(len(places), device=codes.device).repeat_interleave(lengths)
    first = (torch.arange(len(row), device=codes.device) - starts[row]) * bits
    found = torch.zeros_like(row)
    for b in range(bits):
        at = first + b
        byte = codes[places[row] + at // 8].to(torch.int64)
        found |= (byte >> (at % 8) & 1) << b
    signed = torch.where(found >= 2 ** (bits - 1), found - 2**bits, found)
    return signed.float() * scale[row]


@kernel
def _encode(lo, hi, values, starts, places, scale, bits, codes):  # type: ignore[no-untyped-def]
    most = (1 << (bits - 1)) - 1
    mask = (1 << bits) - 1
    for r in range(lo, hi):
        inverse = np.float32(1) / scale[r]
        held, filled, at = np.int64(0), 0, places[r]
        for p in range(starts[r], starts[r + 1]):
            q = np.int64(np.rint(values[p] * inverse))
            q = min(max(q, -most), most)
            held |= (q & mask) << filled
            filled += bits
            while filled >= 8:
                codes[at] = held & 255
                held >>= 8
                filled -= 8
                at += 1
        if filled:
            codes[at] = held & 255


# Without numba's counting of references, which a function of so little work would spend most of its time on:
# for functions that make no array.
uncounted = njit(nogil=True, error_model="numpy", _nrt=False)  # type: ignore[call-overload]


@uncounted
def decode_values(codes, at, count, bits, factor, out, o):  # type: ignore[no-untyped-def]
    """out[o : o + count] = factor times the codes of `bits` bits from byte `at` on.

    Eight and four bits have loops that the compiler makes vectors of, as slices begin at 0.
    """
    row, into = codes[at : at + (count * bits + 7) // 8], out[o : o + count]
    if bits == 8:
        for k in range(count):
            into[k] = np.float32(np.int8(row[k])) * factor
    elif bits == 4:
        for k in range(count // 2):
            both = np.int32(row[k])
            into[2 * k] = np.float32(((both & 15) ^ 8) - 8) * factor
            into[2 * k + 1] = np.float32(((both >> 4) ^ 8) - 8) * factor
        if count % 2:
            into[count - 1] = np.float32(((np.int32(row[count // 2]) & 15) ^ 8) - 8) * factor
    else:
        mask, sign = (1 << bits) - 1, 1 << (bits - 1)
        held, filled, at = np.int64(0), 0, 0
        for k in range(count):
            while filled < bits:
                held |= np.int64(row[at]) << filled
                filled += 8
                at += 1
            q = held & mask
            held >>= bits
            filled -= bits
            into[k] = np.float32((q ^ sign) - sign) * factor


@kernel
def _decode(lo, hi, codes, places, scale, bits, starts, out):  # type: ignore[no-untyped-def]
    for j in range(lo, hi):
        count = starts[j + 1] - starts[j]
        decode_values(codes, np.int64(places[j]), count, bits, scale[j], out, starts[j])


@kernel
def _are_written(lo, hi, codes, places, bits, starts, found):  # type: ignore[no-untyped-def]
    mask, least = (1 << bits) - 1, 1 << (bits - 1)
    for r in range(lo, hi):
        held, filled, at = np.int64(0), 0, places[r]
        fine = True
        for _ in range(starts[r], starts[r + 1]):
            while filled < bits:
                held |= np.int64(codes[at]) << filled
                filled += 8
                at += 1
            fine &= (held & mask) != least
            held >>= bits
            filled -= bits
        found[r] = fine and held == 0
