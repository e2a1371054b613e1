"""How a backbone asks for a table."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
MaskScope = Literal["embeddings", "official", "all"]
Init = Callable[[np.random.Generator, int, int], Float32]


def normal(std: float) -> Init:
    """N(0, std^2), entry by entry."""
    return lambda rng, n, d: rng.standard_normal((n, d), dtype=np.float32) * np.float32(std)


def xavier_uniform(rng: np.random.Generator, n: int, d: int) -> Float32:
    """Uniform in +-sqrt(6 / (n + d)) over the whole (n, d) matrix."""
    bound = math.sqrt(6.0 / (n + d))
    return ((rng.random((n, d), dtype=np.float32) * 2 - 1) * np.float32(bound)).astype(np.float32)


def xavier_normal(rng: np.random.Generator, n: int, d: int) -> Float32:
    """N(0, 2 / (n + d)) over the whole (n, d) matrix."""
    return normal(math.sqrt(2.0 / (n + d)))(rng, n, d)


@dataclass(frozen=True)
class TableSpec:
    """A table that a backbone asks for.

    Attributes:
        name: unique within the model.
        segments: (entity, rows) in order, for example (("user", N), ("item", M)) for LightGCN's
            joint table. Rows of one table are ranked together unless a method ranks by segment.
        dim: embedding size d.
        init: draws the (n, d) initial values.
        role: "embedding" (rows belong to users or items) or "layer" (any other weight matrix).
        official: whether the paper's released code masks it; its choice differs by backbone.
    """

    name: str
    segments: tuple[tuple[str, int], ...]
    dim: int
    init: Init
    role: Literal["embedding", "layer"] = "embedding"
    official: bool = True

    def in_scope(self, scope: MaskScope) -> bool:
        """Whether a method with this scope makes the table small."""
        if scope == "all":
            return True
        return self.official if scope == "official" else self.role == "embedding"

    @property
    def n_rows(self) -> int:
        """Rows over all segments."""
        return sum(rows for _, rows in self.segments)


def keep_count(parameters: int, sparsity: float) -> int:
    """Exact number of surviving weights k* = P - floor(s P), at least one.

    The product is rounded to 9 places first, so that 0.7 * 10 prunes 7, not 6.
    """
    return max(1, parameters - math.floor(round(sparsity * parameters, 9)))


def unsigned(largest: int) -> type[np.unsignedinteger[Any]]:
    """The smallest unsigned type that holds a number."""
    return np.uint8 if largest < 256 else np.uint16 if largest < 65536 else np.uint32
