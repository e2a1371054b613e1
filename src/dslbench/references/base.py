"""What a reference is: options, a declared grid, a fit without a training loop, and what is stored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict
from scipy import sparse
from torch import Tensor

from dslbench.errors import UsageError
from dslbench.tables.base import Parts

Float32 = npt.NDArray[np.float32]
Array = npt.NDArray[Any]
Point = dict[str, Any]


class Options(BaseModel):
    """Settings of a reference; each field's description is its help text. None: chosen on validation."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Model(ABC):
    """A fitted reference as it is stored. It scores users from the items that they have.

    Attributes:
        form: how its arrays lie: csr, dense, factors, ...
    """

    form: ClassVar[str]

    @abstractmethod
    def arrays(self) -> dict[str, Array]:
        """What is stored, by name."""

    @abstractmethod
    def scores(self, known: sparse.csr_matrix) -> Float32:
        """Scores (B, M) of all items for users whose items are the rows of a binary CSR (B, M)."""

    @property
    @abstractmethod
    def parameters(self) -> int:
        """Number of stored values; what says where they belong is not counted."""

    def macs(self, known: sparse.csr_matrix) -> int | None:
        """Multiply-accumulates of scoring all items once for these users; None: there are none to count."""
        return None

    @property
    def precision(self) -> str:
        """How values are kept."""
        return "fp32"

    def rounded(self, precision: str) -> Model:
        """The same values at another precision.

        Raises `UsageError` where the form has no other, `ValueError` for values that cannot have it.
        """
        raise UsageError(f"form '{self.form}' has no precision {precision}")

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(array.nbytes for array in self.arrays().values())

    def about(self) -> dict[str, Any]:
        """What a model file has to say beside the arrays, as plain data."""
        return {}

    @classmethod
    def read(cls, shape: tuple[int, int], about: Mapping[str, Any], parts: Parts) -> Self:
        """What a file holds of a model of (N, M) users and items.

        Raises `ValueError`, `KeyError` or `TypeError` where it is not as it is written, `UsageError` where
        the form has no file.
        """
        raise UsageError(f"form '{cls.form}' is not kept in files")


def scorer_over(model: Model, known: sparse.csr_matrix) -> Callable[[Tensor], Tensor]:
    """From user ids (B,) to scores of all items (B, M), users having the rows of a binary CSR (N, M)."""
    return lambda users: torch.from_numpy(model.scores(known[users.numpy()]))


class Reference(ABC):
    """A model that needs no training loop. A subclass lives in `references/<name>.py`.

    An option that is None, and is a key of `grid`, is chosen on validation (Recall@20); where the
    protocol has no validation part, `usual` stands.
    """

    name: ClassVar[str]
    label: ClassVar[str]
    family: ClassVar[str] = "Reference"
    version: ClassVar[int] = 1  # of a run's identity: raise it when results or the grid change
    options_type: ClassVar[type[Options]] = Options
    # Choices of each option, in ascending order, and the point that a search starts from.
    grid: ClassVar[dict[str, tuple[Any, ...]]] = {}
    usual: ClassVar[Point] = {}
    # Ends of a grid beyond which nothing lies: a choice there is no sign of a range too narrow.
    natural_ends: ClassVar[dict[str, tuple[Any, ...]]] = {}
    # What `fit` may return: forms that a model file may have.
    models: ClassVar[tuple[type[Model], ...]] = ()
    # Whether anything is drawn at random; runs of all seeds are one where not.
    uses_seed: ClassVar[bool] = False

    @classmethod
    def check(cls, options: Any) -> None:
        """Raise `UsageError` for options that do not go together."""
        return

    @classmethod
    @abstractmethod
    def memory_needed(cls, train: sparse.csr_matrix, options: Any) -> int:
        """Bytes that fitting takes at its peak, beside the data and the libraries.

        Args:
            options: complete, see `filled`.
        """

    @classmethod
    @abstractmethod
    def fit(cls, train: sparse.csr_matrix, options: Any, seed: int) -> Model:
        """Fit to a binary CSR (N, M) of training pairs.

        Args:
            options: complete, see `filled`.
            seed: of what is drawn at random.

        Raises `RunError` where it cannot be done with these options.
        """

    @classmethod
    def train_macs(cls, train: sparse.csr_matrix, options: Any) -> int | None:
        """Multiply-accumulates of one fit; None where nobody counted them."""
        return None

    @classmethod
    def stored_size(cls, n_items: int, options: Any, precision: str) -> int | None:
        """Bytes of the model of so many items at a precision; None where the data decide."""
        return None

    @classmethod
    def searched(cls, options: Any) -> dict[str, tuple[Any, ...]]:
        """The part of the grid that the user left open."""
        return {key: cls.grid[key] for key in cls.grid if getattr(options, key) is None}

    @classmethod
    def filled(cls, options: Any, point: Mapping[str, Any] | None = None) -> Any:
        """The options with a point of the grid, else with the usual one, in place of None."""
        values = {**cls.usual, **(point or {})}
        return options.model_copy(
            update={k: values[k] for k in cls.grid if getattr(options, k) is None}
        )

    @classmethod
    def at_edge(cls, grid: Mapping[str, tuple[Any, ...]], point: Mapping[str, Any]) -> list[str]:
        """Keys whose choice is the first or last of several, where more could lie beyond."""
        return [
            key
            for key, choices in grid.items()
            if len(choices) > 1
            and point[key] in (choices[0], choices[-1])
            and point[key] not in cls.natural_ends.get(key, ())
        ]


@dataclass(frozen=True)
class Found:
    """What a search found: the best point, and every point with its value, in order."""

    point: Point
    tried: list[tuple[Point, float]]


def climb(
    grid: Mapping[str, tuple[Any, ...]], start: Point, value: Callable[[Point], float]
) -> Found:
    """The best point of a grid by steps to neighbours, key by key, as long as the value rises.

    Each point is tried once. Along one key that is the best of all where the value has one peak.
    """
    tried: list[tuple[Point, float]] = []

    def measured(point: Point) -> float:
        for known, found in tried:
            if known == point:
                return found
        tried.append((point, value(point)))
        return tried[-1][1]

    best, rises = {key: start[key] for key in grid}, True
    measured(best)
    while rises:
        rises = False
        for key, choices in grid.items():
            for step in (1, -1):
                place = choices.index(best[key]) + step
                while 0 <= place < len(choices):
                    candidate = best | {key: choices[place]}
                    if measured(candidate) <= measured(best):
                        break
                    best, rises = candidate, True
                    place += step
        rises = rises and len(grid) > 1
    return Found(best, tried)
