"""Rows that are put together from two shared ones, beside rows of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import gcd
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dslbench.tables.base import Array, Int64, Parts, Table
from dslbench.tables.spec import Float32, TableSpec
from dslbench.tables.stored._valued import Served, Valued
from dslbench.tables.stored.values import Values

Combine = Literal["mult", "add"]


@dataclass(frozen=True)
class Plan:
    """Which rows of the stored ones each row is made of.

    In a segment of n rows those in `own` have a row each. The others have places p = 0, 1, ... in an order
    that is mixed by (a p + a) mod n', a prime to their number n' and near .618 n', as neighbouring ids
    are alike in popularity; place p is made of quotient row p // m and remainder row p mod m. Stored
    are, by segment, own rows, quotients, remainders.

    Attributes:
        segments: rows of each segment; `remainders`: m of each.
        own: rows that have one of their own, ascending, of the whole table.
    """

    segments: tuple[int, ...]
    remainders: tuple[int, ...]
    own: npt.NDArray[np.int32]

    def places(self) -> tuple[Int64, Int64, int]:
        """(n,) first and second stored row of each row, -1 for none, and how many are stored."""
        n = sum(self.segments)
        first, second = np.empty(n, dtype=np.int64), np.full(n, -1, dtype=np.int64)
        at = 0
        for (start, end), m in zip(
            pairwise(np.cumsum([0, *self.segments])), self.remainders, strict=True
        ):
            low, high = np.searchsorted(self.own, [start, end])
            here = self.own[low:high].astype(np.int64)
            first[here] = at + np.arange(len(here))
            at += len(here)
            shared = np.setdiff1d(np.arange(start, end), here, assume_unique=True)
            if len(shared):
                place = _mixed(len(shared))
                quotients = -(-len(shared) // m)
                first[shared] = at + place // m
                second[shared] = at + quotients + place % m
                at += quotients + m
        return first, second, at


def _mixed(n: int) -> Int64:
    """0..n-1 in an order that is the same everywhere."""
    step = max(1, round(0.618 * n))
    while gcd(step, n) > 1:
        step += 1
    found: Int64 = (np.arange(n, dtype=np.int64) * step + step) % n
    return found


@dataclass(frozen=True)
class Quotient(Valued):
    """`values`, the rows that are stored; `own`, int32, the rows that have one of their own.

    The header says the segments' sizes, m of each, and how two rows are put together.
    """

    form: ClassVar[str] = "quotient"
    shares_rows: ClassVar[bool] = True

    plan: Plan
    combine: Combine

    @classmethod
    def of(cls, base: Float32, plan: Plan, combine: Combine, precision: str = "fp32") -> Self:
        """From the (r, d) rows that are stored."""
        r, d = base.shape
        values = Values.of(np.array(base), np.full(r, d, dtype=np.int64), precision)
        return cls((sum(plan.segments), d), values, plan, combine)

    def arrays(self) -> dict[str, Array]:
        return self.values.arrays() | {"own": self.plan.own}

    def about(self) -> dict[str, Any]:
        shown = {
            "segments": list(self.plan.segments), "remainders": list(self.plan.remainders),
            "combine": self.combine,
        }  # fmt: skip
        return shown | self.values.about()

    @classmethod
    def read(cls, shape: tuple[int, int], about: Mapping[str, Any], parts: Parts) -> Self:
        n, d = shape
        sizes, remainders = about["segments"], about["remainders"]
        whole = all(type(x) is int and x >= 0 for x in (*sizes, *remainders))
        if not whole or sum(sizes) != n or len(sizes) != len(remainders) or not all(remainders):
            raise ValueError(f"segments {sizes} with remainders {remainders} for {n} rows")
        if about["combine"] not in ("mult", "add"):
            raise ValueError(f"rows put together by {about['combine']!r}")
        own = parts.take("own", np.int32)
        if (np.diff(own) <= 0).any() or (len(own) and not (own[0] >= 0 and own[-1] < n)):
            raise ValueError("rows of their own that are none, or not in order")
        plan = Plan(tuple(sizes), tuple(remainders), own)
        rows = plan.places()[2]
        values = Values.read(about, np.full(rows, d, dtype=np.int64), parts)
        return cls(shape, values, plan, about["combine"])

    def entries(self) -> Int64:
        return np.full(self.shape[0], self.shape[1], dtype=np.int64)

    def live(self) -> npt.NDArray[np.bool_]:
        return np.ones(self.shape, dtype=bool)

    def unpack(self) -> Float32:
        base = torch.from_numpy(self.values.flat().reshape(-1, self.shape[1]))
        first, second, _ = (torch.as_tensor(x) for x in self.plan.places())
        return combined(base[first], base[second.clamp(min=0)], second, self.combine).numpy()

    def table(self, spec: TableSpec) -> Table:
        return ServedQuotient(spec, self)


def combined(first: Tensor, second: Tensor, places: Tensor, how: Combine) -> Tensor:
    """Rows (B, d) from their two parts; where there is no second place (-1) the first alone."""
    alone = (places < 0).unsqueeze(1)
    if how == "mult":
        return first * second.masked_fill(alone, 1.0)
    return first + second.masked_fill(alone, 0.0)


class ServedQuotient(Served):
    """Puts the rows that are asked for together."""

    first: Tensor
    second: Tensor

    def __init__(self, spec: TableSpec, stored: Quotient) -> None:
        super().__init__(spec, stored)
        self._combine: Combine = stored.combine
        first, second, _ = stored.plan.places()
        self.register_buffer("first", torch.from_numpy(first))
        self.register_buffer("second", torch.from_numpy(second))

    def full(self) -> Tensor:
        base = self.values.all_values().view(-1, self.spec.dim)
        parts = base[self.first], base[self.second.clamp(min=0)]
        return combined(*parts, self.second, self._combine)

    def rows(self, ids: Tensor) -> Tensor:
        flat, d = ids.reshape(-1), self.spec.dim
        second = self.second[flat]
        one, other = (
            self.values.of_rows(place)[0].view(-1, d)
            for place in (self.first[flat], second.clamp(min=0))
        )
        return combined(one, other, second, self._combine).view(*ids.shape, d)
