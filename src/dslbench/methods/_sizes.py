"""What the methods that choose a size for every row have in common: candidates, budget, controllers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, PositiveInt
from scipy import sparse, stats
from torch import Tensor

from dslbench.backbones.base import Backbone
from dslbench.errors import UsageError
from dslbench.methods.base import Options
from dslbench.tables import CandidateTable, DenseTable, MakeTable, MixedTable, Table
from dslbench.tables.maps import Sizes, map_parameters
from dslbench.training.lab import Lab

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
Places = list[Int64]  # by group: the place of each row's width among the candidates


class SizeOptions(Options):
    """Settings of the methods that choose sizes."""

    budget: Literal["exact", "natural"] = Field(
        default="exact",
        description="rows and maps within the sparsity's budget, or whatever the method comes to",
    )
    sizes: tuple[PositiveInt, ...] | None = Field(
        default=None, min_length=1, description="candidate sizes; none: d/32, d/16, ..., d/2, d"
    )
    held_out: float = Field(
        default=0.1, gt=0, lt=1, description="share of the training pairs that controllers learn on"
    )
    controller_lr: float = Field(default=1e-4, gt=0, description="learning rate of the controllers")
    maps_lr: float = Field(
        default=1e-3, gt=0,
        description="learning rate that maps between sizes start with, where the model's is larger",
    )  # fmt: skip
    hidden: int = Field(default=512, ge=1, description="hidden units of a controller")
    popularity_size: int = Field(
        default=32, ge=1, description="embedding size of a popularity bucket in a controller"
    )
    last_loss: bool = Field(
        default=False, description="whether controllers also see a row's last loss"
    )

    def candidates(self, dim: int) -> Sizes:
        """Candidate sizes of a table, ascending; those above its d are left out."""
        if self.sizes is None:
            return tuple(sorted({max(1, dim >> k) for k in range(6)}))
        found = tuple(sorted({size for size in self.sizes if size <= dim}))
        if not found:
            raise UsageError(
                f"none of the candidate sizes {list(self.sizes)} fits an embedding size of {dim}"
            )
        return found


@dataclass
class Group:
    """The rows of one entity in one table, which share their maps and their controller.

    Attributes:
        table, segment: where the rows are; `first` is the number of the first one.
        entity: "user" or "item".
        sizes: candidate sizes; `cost` has the parameters of each one's map.
        degrees: (n,) training pairs of each row.
        buckets: (n,) popularity as floor(log2(degree + 1)).
    """

    table: str
    segment: int
    entity: str
    first: int
    sizes: Int64
    cost: Int64
    degrees: Int64
    buckets: Tensor

    @property
    def name(self) -> str:
        """Its name in the record."""
        return self.entity if self.table in (self.entity, "embedding") else self.table

    def __len__(self) -> int:
        return len(self.degrees)


def find_groups(
    tables: dict[str, Table], train: sparse.csr_matrix, options: SizeOptions, chain: bool
) -> list[Group]:
    """All rows that get a size, by table and entity."""
    degrees = {
        "user": np.diff(train.indptr).astype(np.int64),
        "item": np.bincount(train.indices, minlength=train.shape[1]).astype(np.int64),
    }
    groups = []
    for name, table in tables.items():
        if table.spec.role != "embedding":
            continue
        sizes, first = options.candidates(table.spec.dim), 0
        for segment, (entity, rows) in enumerate(table.spec.segments):
            cost = [map_parameters(width, table.spec.dim, chain) for width in sizes]
            own = degrees[entity]
            groups.append(
                Group(
                    table=name,
                    segment=segment,
                    entity=entity,
                    first=first,
                    sizes=np.array(sizes),
                    cost=np.array(cost),
                    degrees=own,
                    buckets=torch.from_numpy(np.floor(np.log2(own + 1)).astype(np.int64)),
                )
            )
            first += rows
    return groups


# Moves of all rows of a group: the place each would go to (its own: none), and what that gains.
Moves = Callable[[int, Int64, list[int], int], tuple[Int64, Float64]]


@dataclass
class Budget:
    """Which sizes fit a number of parameters, maps included.

    The maps of all `allowed` sizes of a group count, used or not: so the sum of the rows alone
    decides, and it falls with every row made smaller.

    Attributes:
        limit: most parameters of rows and maps; None: no limit.
        slack: parameters by which the sum may stay below it, the largest row.
    """

    groups: list[Group]
    limit: int | None
    allowed: list[list[int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.allowed = [list(range(len(g.sizes))) for g in self.groups]
        self.slack = max(int(g.sizes.max()) for g in self.groups)
        if self.limit is None:
            return
        # Maps of large sizes are the dear ones. Give up the dearest until the smallest rows fit.
        while self.least(self.allowed) > self.limit:
            last = [
                int(g.cost[a[-1]]) if len(a) > 1 else 0
                for g, a in zip(self.groups, self.allowed, strict=True)
            ]
            if not any(last):
                raise UsageError(
                    f"rows of the smallest size and their maps take {self.least(self.allowed):,} "
                    f"parameters, the budget is {self.limit:,}",
                    "a lower --sparsity, smaller candidate sizes, or --set variant=natural",
                )
            self.allowed[int(np.argmax(last))].pop()
        if not self.reachable(self.allowed):
            raise UsageError(
                f"no choice among the candidate sizes comes within a row of {self.limit:,} "
                "parameters: the maps of larger sizes don't fit",
                "more candidate sizes, or --set variant=natural",
            )

    def maps(self, allowed: list[list[int]]) -> int:
        """Parameters of the maps of some sizes."""
        return sum(int(g.cost[a].sum()) for g, a in zip(self.groups, allowed, strict=True))

    def least(self, allowed: list[list[int]]) -> int:
        """Parameters when every row has the smallest of some sizes."""
        pairs = zip(self.groups, allowed, strict=True)
        return self.maps(allowed) + sum(len(g) * int(g.sizes[a[0]]) for g, a in pairs)

    def reachable(self, allowed: list[list[int]]) -> bool:
        """Whether rows of these sizes come within the slack of the limit."""
        if self.limit is None:
            return True
        pairs = zip(self.groups, allowed, strict=True)
        most = self.maps(allowed) + sum(len(g) * int(g.sizes[a[-1]]) for g, a in pairs)
        return self.least(allowed) <= self.limit and most >= self.limit - self.slack

    def total(self, places: Places) -> int:
        """Parameters of rows of these sizes and of the maps of allowed ones."""
        rows = sum(int(g.sizes[p].sum()) for g, p in zip(self.groups, places, strict=True))
        return rows + self.maps(self.allowed)

    def used(self, places: Places) -> list[list[int]]:
        """The sizes that occur, by group."""
        return [np.unique(p).tolist() for p in places]

    def settle(self, solve: Callable[[], Places]) -> Places:
        """Solve, give up the maps of sizes that no row came to have, and solve with what that saves."""
        places = solve()
        while (used := self.used(places)) != self.allowed and self.reachable(used):
            self.allowed = used
            places = solve()
        return places

    def spend(self, places: Places, moves: Moves) -> Places:
        """Make rows larger, the best gain first, until no move fits what is left.

        Of equal gains the row with more training pairs comes first.
        """
        assert self.limit is not None
        places = [p.copy() for p in places]
        while (left := self.limit - self.total(places)) > 0:
            found: list[list[npt.NDArray[Any]]] = []
            for k, (g, p, a) in enumerate(zip(self.groups, places, self.allowed, strict=True)):
                to, gain = moves(k, p, a, left)
                price = g.sizes[to] - g.sizes[p]
                rows = np.flatnonzero((price > 0) & (price <= left))
                group = np.full(len(rows), k)
                found.append([group, rows, to[rows], price[rows], g.degrees[rows], gain[rows]])
            group, rows, to, price, degree, gain = map(np.concatenate, zip(*found, strict=True))
            if len(rows) == 0:
                break
            order = np.lexsort((-degree, -gain))
            taken = order[: np.searchsorted(np.cumsum(price[order]), left, side="right")]
            for k, p in enumerate(places):
                own = taken[group[taken] == k]
                p[rows[own]] = to[own]
        return places


def choose_by_penalty(budget: Budget, log_weights: Sequence[Float64]) -> tuple[Places, float]:
    """Each row's size argmax_k (log a_k - lambda d_k) at the least lambda within the limit.

    The sum of sizes falls as lambda rises, so lambda is found by bisection.

    Args:
        log_weights: by group, (n, K).

    Returns:
        Places of the sizes by group, and lambda (0 where there is no limit or it is not reached).
    """

    def at(penalty: float) -> Places:
        chosen = []
        for g, a, log_a in zip(budget.groups, budget.allowed, log_weights, strict=True):
            score = log_a[:, a] - penalty * g.sizes[a]
            chosen.append(np.asarray(a)[score.argmax(axis=1)])
        return chosen

    places = at(0.0)
    if budget.limit is None or budget.total(places) <= budget.limit:
        return places, 0.0
    low, high = 0.0, 1e-6
    while budget.total(at(high)) > budget.limit:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if budget.total(at(middle)) > budget.limit else (low, middle)
    return at(high), high


def gain_per_parameter(log_weights: Sequence[Float64], groups: Sequence[Group]) -> Moves:
    """Moves to the size with the largest increase of log a for each parameter it takes."""

    def moves(k: int, places: Int64, allowed: list[int], left: int) -> tuple[Int64, Float64]:
        g, log_a, rows = groups[k], log_weights[k], np.arange(len(places))
        price = g.sizes[None, :] - g.sizes[places][:, None]
        open_ = (price > 0) & (price <= left) & np.isin(np.arange(len(g.sizes)), allowed)
        gain = np.full(price.shape, -np.inf)
        np.divide(log_a - log_a[rows, places][:, None], price, out=gain, where=open_)
        to = np.where(open_.any(axis=1), gain.argmax(axis=1), places)
        return to, gain[rows, to]

    return moves


def budget_of(parameters: int, sparsity: float) -> int:
    """floor((1 - s) P); the product is rounded to 9 places first."""
    return parameters - math.ceil(round(sparsity * parameters, 9))


def make_budget(
    groups: list[Group], tables: dict[str, Table], options: SizeOptions, sparsity: float
) -> Budget:
    """The budget floor(rho P) over all tables that get sizes; none where the size is natural."""
    if options.budget == "natural":
        return Budget(groups, None)
    names = {g.table for g in groups}
    specs = [tables[name].spec for name in names]
    parameters = sum(spec.n_rows * spec.dim for spec in specs)
    return Budget(groups, budget_of(parameters, sparsity))


def parameters_of(groups: Sequence[Group], places: Places) -> int:
    """Parameters of rows of these sizes and of the maps they need."""
    pairs = zip(groups, places, strict=True)
    return sum(int(g.sizes[p].sum() + g.cost[np.unique(p)].sum()) for g, p in pairs)


def describe(groups: Sequence[Group], places: Places) -> dict[str, Any]:
    """Sizes of the rows: how many of each, and their rank correlation with popularity."""
    histogram, correlation = {}, {}
    for g, p in zip(groups, places, strict=True):
        widths = g.sizes[p]
        size, count = np.unique(widths, return_counts=True)
        histogram[g.name] = dict(zip(map(str, size.tolist()), count.tolist(), strict=True))
        varied = len(size) > 1 and len(np.unique(g.degrees)) > 1
        rho = float(stats.spearmanr(widths, g.degrees).statistic) if varied else None
        correlation[g.name] = rho
    return {"sizes": histogram, "size_popularity_rank_correlation": correlation}


def resize_tables(
    tables: dict[str, Table], groups: Sequence[Group], places: Places, allowed: list[list[int]]
) -> None:
    """Give the rows of mixed tables their sizes."""
    for name, table in tables.items():
        if isinstance(table, MixedTable):
            own = [k for k, g in enumerate(groups) if g.table == name]
            chosen = np.concatenate([places[k] for k in own])
            table.allowed = [allowed[k] for k in own]
            table.resize(torch.from_numpy(chosen).to(table.place.device))


def embedding_only(make: MakeTable) -> MakeTable:
    """One kind of table for rows of users and items, a dense one for layers."""
    return lambda spec, rng: (make if spec.role == "embedding" else DenseTable)(spec, rng)


def start_pretrained(lab: Lab, model: Backbone) -> None:
    """Give a new model with tables of several sizes the start that its recipe pretrains, if any."""
    if not lab.backbone.pretraining(lab.hyper):
        return
    dense = lab.build()
    model.take(dict(dense.named_parameters()))
    tables = dense.tables()

    @torch.no_grad()
    def start() -> None:
        for name, table in model.tables().items():
            if isinstance(table, CandidateTable | MixedTable):
                table.start(tables[name].full())

    lab.work("start of the sizes", start, model)
