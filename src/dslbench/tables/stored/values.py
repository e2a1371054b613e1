"""The values that a form keeps, row by row, at one of several precisions.

`fp32`, `fp16` and `bf16` keep each value by itself. `int8` to `int2` keep whole numbers of so many bits,
really packed, and one scale a row: x stands for q s, |q| <= 2^(b - 1) - 1, so that zero stays zero. The
scale is float16, times a power of two that all rows share (tables may have values near 1e-5).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dslbench.errors import UsageError
from dslbench.ops import low_bits
from dslbench.ops.coded import CodedRows
from dslbench.ops.coded_kernels import Coded
from dslbench.ops.lanes import has_expand
from dslbench.tables.base import Array, Int64, Parts
from dslbench.tables.spec import Float32

BITS = {
    "fp32": 32, "fp16": 16, "bf16": 16, "int8": 8, "int6": 6, "int4": 4, "int3": 3, "int2": 2,
}  # fmt: skip
_KINDS: dict[str, npt.DTypeLike] = {"fp32": np.float32, "fp16": np.float16, "bf16": np.uint16}
# Of fewer bits than this the least error is not had by a scale that reaches the largest value.
_WHOLE_RANGE_BITS = 4
# Between these the largest value of a table may lie, so that no scale leaves float32's normal range.
_LARGEST, _SMALLEST = 1e37, 1e-28


def check_precision(name: str) -> None:
    """Raise `UsageError` for a precision that there is not."""
    if name not in BITS:
        raise UsageError(f"unknown precision '{name}'", f"known: {', '.join(BITS)}")


def values_bytes(lengths: npt.NDArray[np.integer], precision: str) -> int:
    """Bytes of rows with so many values each, scales included."""
    bits = BITS[precision]
    if precision in _KINDS:
        return int(lengths.sum(dtype=np.int64)) * bits // 8
    return int(low_bits.row_bytes(lengths, bits).sum()) + 2 * len(lengths)


@dataclass(frozen=True)
class Values:
    """Values of n rows, one row after the other.

    Attributes:
        precision: a key of `BITS`.
        lengths: (n,) how many values each row has.
        kept: (k,) float32 or float16, the upper halves of float32 as uint16 (bf16), or packed codes.
        scale: (n,) float16 for codes, else None.
        exponent: of the power of two that all scales are multiplied by.
    """

    precision: str
    lengths: Int64
    kept: Array
    scale: npt.NDArray[np.float16] | None = None
    exponent: int = 0

    @classmethod
    def of(cls, values: npt.NDArray[Any], lengths: Int64, precision: str = "fp32") -> Self:
        """Values (k,), rounded to a precision.

        Raises `UsageError` for an unknown precision, `ValueError` for values that are no finite
        numbers or are beyond its range.
        """
        check_precision(precision)
        flat = np.ascontiguousarray(values, dtype=np.float32).reshape(-1)
        if precision == "fp32":
            return cls(precision, lengths, flat)
        if not np.isfinite(flat).all():
            raise ValueError("values that are no finite numbers cannot be rounded")
        if precision in _KINDS:
            kept = _halved(flat, precision)
            return cls(precision, lengths, kept)
        bits = BITS[precision]
        beyond = np.abs(flat).max(initial=0.0)
        if beyond > _LARGEST or 0 < beyond < _SMALLEST:
            raise ValueError(f"values of up to {beyond:g} are beyond the range of {precision}")
        scale, exponent = _scales(flat, lengths, bits)
        whole = scale.astype(np.float32) * np.float32(2.0**exponent)
        return cls(precision, lengths, low_bits.encode(flat, lengths, whole, bits), scale, exponent)

    @classmethod
    def on_grid(
        cls, codes: npt.NDArray[Any], lengths: Int64, steps: npt.NDArray[Any], precision: str
    ) -> Self:
        """Codes (n, d), |q| at most the precision's largest, times steps (n,), which are rounded to float16.

        Raises `ValueError` for steps that are not greater than zero, or out of range.
        """
        bits = BITS[precision]
        top = float(steps.max(initial=0.0))
        if len(steps) and not (np.isfinite(steps).all() and steps.min() > 0 and top < _LARGEST):
            raise ValueError("steps that are no numbers greater than zero")
        if len(steps) and top < _SMALLEST / 128:
            raise ValueError(f"steps of up to {top:g} are beyond the range of {precision}")
        exponent = min(max(math.frexp(top)[1] if top else 0, -110), 110)
        relative = steps.astype(np.float64) / 2.0**exponent
        scale = np.maximum(relative, np.finfo(np.float16).smallest_subnormal).astype(np.float16)
        whole = scale.astype(np.float32) * np.float32(2.0**exponent)
        flat = (codes.astype(np.float32) * whole[:, None]).reshape(-1)
        kept = low_bits.encode(flat, lengths, whole, bits)
        return cls(precision, lengths, kept, scale, exponent)

    def rounded(self, precision: str) -> Self:
        """The same values at another precision; raises as `of` does."""
        return type(self).of(self.flat(), self.lengths, precision)

    @property
    def count(self) -> int:
        """Number of values."""
        return int(self.lengths.sum(dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scales."""
        return self.kept.nbytes + (0 if self.scale is None else self.scale.nbytes)

    def arrays(self) -> dict[str, Array]:
        """`values`, or `codes` and `scale`."""
        if self.scale is None:
            return {"values": self.kept}
        return {"codes": self.kept, "scale": self.scale}

    def about(self) -> dict[str, Any]:
        """Nothing for fp32, whose file has been so from the start."""
        if self.precision == "fp32":
            return {}
        shared = {} if self.scale is None else {"exponent": self.exponent}
        return {"precision": self.precision} | shared

    @staticmethod
    def precision_of(about: Mapping[str, Any]) -> str:
        """What a file says; raises `ValueError` for what no form has."""
        found = about.get("precision", "fp32")
        if found not in BITS:
            raise ValueError(f"precision {found!r} is not known here (known: {', '.join(BITS)})")
        return str(found)

    @classmethod
    def read(cls, about: Mapping[str, Any], lengths: Int64, parts: Parts) -> Self:
        """What a file holds; raises `ValueError` where it is not as it is written."""
        precision, count = cls.precision_of(about), _total(lengths)
        if precision in _KINDS:
            kept = parts.take("values", _KINDS[precision])
            if kept.size != count:
                raise ValueError(f"{kept.size:,} values for {count:,} entries")
            found = cls(precision, lengths, kept)
            if precision == "bf16" and not np.isfinite(found.flat()).all():
                raise ValueError("values that are no finite numbers")
            return found
        exponent = about["exponent"]
        if type(exponent) is not int or not -126 <= exponent <= 127:
            raise ValueError(f"exponent {exponent!r} of the scales")
        codes = parts.take("codes", np.uint8)
        scale = parts.take("scale", np.float16, lengths.shape)
        if not (np.isfinite(scale).all() and (scale > 0).all()):
            raise ValueError("scales that are not greater than zero")
        bits = BITS[precision]
        if codes.size != int(low_bits.row_bytes(lengths, bits).sum()):
            raise ValueError(f"{codes.size} bytes of codes for {count} entries of {bits} bits")
        if not low_bits.are_written(codes, lengths, bits):
            raise ValueError("codes that are never written")
        found = cls(precision, lengths, codes, scale, exponent)
        whole, range_ = scale.astype(np.float64) * 2.0**exponent, np.finfo(np.float32)
        if len(whole) and not (
            whole.min() >= range_.tiny and whole.max() * low_bits.largest(bits) <= range_.max
        ):
            raise ValueError("scales beyond the range of float32")
        return found

    def _scale(self) -> Float32:
        assert self.scale is not None
        return self.scale.astype(np.float32) * np.float32(2.0**self.exponent)

    def flat(self) -> Float32:
        """All values, (k,) float32."""
        if self.precision == "bf16":
            return (self.kept.astype(np.uint32) << 16).view(np.float32)
        if self.scale is None:
            return self.kept.astype(np.float32)
        return low_bits.decode(self.kept, self.lengths, self._scale(), BITS[self.precision])


def _halved(flat: Float32, precision: str) -> Array:
    """In 16 bits each, rounded to the nearest."""
    if precision == "bf16":
        found = torch.from_numpy(flat).to(torch.bfloat16)
        halves: Array = found.view(torch.int16).numpy().view(np.uint16)
        finite = bool(found.isfinite().all())
    else:
        with np.errstate(over="ignore"):
            halves = flat.astype(np.float16)
        lost = (halves == 0) & (flat != 0) & (np.abs(flat) >= np.abs(flat).max(initial=0.0) / 100)
        finite = bool(np.isfinite(halves).all()) and not lost.any()
    if not finite:
        raise ValueError(
            f"values of up to {np.abs(flat).max():g} are beyond the range of {precision}"
        )
    return halves


def _scales(flat: Float32, lengths: Int64, bits: int) -> tuple[npt.NDArray[np.float16], int]:
    """A scale for each row, as float16 times a power of two.

    From four bits on the least that reaches the largest value of the row, so that no value is off by
    more than half a step; below, a few rounds of least squares from there. Rows of zeros have 1.
    """
    most = low_bits.largest(bits)
    rows = np.repeat(np.arange(len(lengths)), lengths)
    peak = np.zeros(len(lengths), dtype=np.float64)
    np.maximum.at(peak, rows, np.abs(flat))
    scale = peak / most
    if bits < _WHOLE_RANGE_BITS:
        scale = _least_squares(flat, rows, scale, most)
    live = scale > 0
    top = float(scale.max(initial=0.0))
    exponent = math.frexp(top)[1] if top else 0
    exponent = min(max(exponent, -110), 110)
    relative = np.where(live, scale / 2.0**exponent, 1.0)
    halves = np.maximum(relative, np.finfo(np.float16).smallest_subnormal).astype(np.float16)
    if bits >= _WHOLE_RANGE_BITS:  # rounded up: what was in reach stays there
        low = halves.astype(np.float64) < relative
        halves[low] = np.nextafter(halves[low], np.float16(np.inf))
    return halves, exponent


def _least_squares(
    flat: Float32, rows: npt.NDArray[np.int64], scale: npt.NDArray[np.float64], most: int
) -> npt.NDArray[np.float64]:
    """Scales with which q s is nearest to the values, by turns of q and s; no turn raises the error."""
    n = len(scale)
    for _ in range(15):
        q = np.clip(np.rint(flat / np.where(scale > 0, scale, 1)[rows]), -most, most)
        squares = np.bincount(rows, q * q, minlength=n)
        fitted = np.bincount(rows, q * flat, minlength=n)
        better = np.divide(fitted, squares, out=scale.copy(), where=squares > 0)
        if np.allclose(better, scale, rtol=1e-6, atol=0):
            break
        scale = better
    return scale


def as_tensor(array: Array) -> Tensor:
    """The array's own memory as a tensor's, not to be written to."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _small(numbers: Int64) -> Tensor:
    """Whole numbers, ascending, in 32 bits where they fit."""
    fits = int(numbers[-1]) <= np.iinfo(np.int32).max
    return torch.from_numpy(numbers.astype(np.int32) if fits else numbers)


class ServedValues(nn.Module):
    """Looks values up as they are kept: what lies in memory is what lies in the file, and is the same memory.

    Where all rows have as many values, nothing says where one begins.
    """

    kept: Tensor
    scale: Tensor
    _starts: Tensor
    _places: Tensor

    def __init__(self, values: Values) -> None:
        super().__init__()
        self.precision, self._bits = values.precision, BITS[values.precision]
        kept = values.kept.view(np.int16) if values.precision == "bf16" else values.kept
        self.register_buffer("kept", as_tensor(kept))
        lengths, none = values.lengths, torch.empty(0, dtype=torch.int32)
        self._n = len(lengths)
        same = len(lengths) > 0 and bool((lengths == lengths[0]).all())
        self._width = int(lengths[0]) if same else -1
        starts = places = none
        if not same:
            starts = places = _small(low_bits.starts_of(lengths))
            if self._is_coded and self._bits != 8:
                places = _small(low_bits.starts_of(low_bits.row_bytes(lengths, self._bits)))
        self.register_buffer("_starts", starts)
        self.register_buffer("_places", places)
        if values.scale is not None:
            self.register_buffer("scale", torch.from_numpy(values._scale()))

    @property
    def _is_coded(self) -> bool:
        return self.precision.startswith("int")

    @property
    def _stride(self) -> int:
        """Bytes of the codes of a row, where all have as many."""
        return -(-self._width * self._bits // 8)

    @property
    def starts(self) -> Tensor:
        """(n + 1,) values before each row."""
        if self._width < 0:
            return self._starts
        end = self._n * self._width
        kind = torch.int32 if end <= np.iinfo(np.int32).max else torch.int64
        return torch.arange(self._n + 1, dtype=kind, device=self.kept.device) * self._width

    def coded(self, d: int, live: Tensor | None = None) -> CodedRows | None:
        """The rows of d columns as operations on the CPU read them; None for what they don't read.

        Args:
            live: (n, ceil(d / 8)) bitmap of the columns that the values belong to; None: the first ones.
        """
        if not self._is_coded or self.kept.device.type != "cpu":
            return None
        bitmap = np.empty((0, 0), dtype=np.uint8) if live is None else live.numpy()
        arrays = self._starts.numpy(), self._places.numpy(), bitmap
        return CodedRows(
            Coded(
                self.kept.numpy(), self.scale.numpy(), self._bits, self._width, self._stride, *arrays,
                has_expand(),
            ),
            d,
        )  # fmt: skip

    def all_values(self) -> Tensor:
        """(k,) float32; for fp32 the buffer itself."""
        if self._is_coded:
            ids = torch.arange(self._n, device=self.kept.device)
            return self._decoded(ids, self.starts.long())
        return self._widened(self.kept)

    def of_rows(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The values of rows `ids` (B,), one after the other, and where each begins, (B + 1,)."""
        if self._width < 0:
            first = self._starts[ids].long()
            lengths = self._starts[ids + 1] - first
        else:
            first, lengths = ids * self._width, torch.full_like(ids, self._width)
        begin = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        if self._is_coded:
            return self._decoded(ids, begin), begin
        row = torch.arange(len(ids), device=ids.device).repeat_interleave(lengths)
        at = torch.arange(len(row), device=ids.device) - begin[row] + first[row]
        return self._widened(self.kept[at]), begin

    def _decoded(self, ids: Tensor, begin: Tensor) -> Tensor:
        places = ids * self._stride if self._width >= 0 else self._places[ids].long()
        return low_bits.decode_rows(self.kept, places, self.scale[ids], self._bits, begin)

    def _widened(self, kept: Tensor) -> Tensor:
        if self.precision == "bf16":
            return kept.view(torch.bfloat16).float()
        return kept.float() if self.precision == "fp16" else kept


def _total(lengths: Int64) -> int:
    """The sum of rows' lengths; of one length at once, as a file may claim more than could be added."""
    if len(lengths) and lengths.strides == (0,):
        return len(lengths) * int(lengths[0])
    return int(lengths.sum(dtype=np.int64))
