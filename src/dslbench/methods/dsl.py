"""Dynamic sparse learning (Wang et al., WSDM 2024): a mask of fixed size that moves while training."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, model_validator
from torch import Tensor

from dslbench.backbones.base import Backbone, Hyper
from dslbench.errors import UsageError
from dslbench.methods.rp import RandomPruning, RandomPruningOptions
from dslbench.ranges import searched, searched_among
from dslbench.tables import (
    MaskedTable,
    Table,
    TableSpec,
    WarmMaskedTable,
    random_masks,
    select_largest,
)
from dslbench.tables.select import blocks, keep_above
from dslbench.training.hooks import Loop
from dslbench.training.lab import Lab

# Of `growth=momentum`: weight of the past, and iterations that it looks back (further, below a fiftieth).
_MOMENTUM, _MOMENTUM_WINDOW = 0.9, 40


class DSLOptions(RandomPruningOptions):
    """Settings of dynamic sparse learning; defaults follow the paper's Algorithm 1."""

    when: Literal["init"] = Field(default="init", description="the mask is drawn before training")
    rho0: float = Field(
        default=0.5, ge=0, le=1, description="update ratio at the first iteration",
        json_schema_extra=searched(0.1, 0.7),
    )  # fmt: skip
    delta_t: int | None = Field(
        default=None, ge=1, description="iterations between explorations; none: as published, in runs "
        "too short for 40 explorations a 40th of the run, at least 20",
        json_schema_extra=searched(1 / 400, 1 / 20, log=True, unit="iterations", least=10),
    )  # fmt: skip
    decay: Literal["cosine", "linear", "none"] = Field(
        default="cosine", description="how the update ratio falls (paper, Table 4)"
    )
    eta_min: float = Field(default=0.0, ge=0, le=1, description="update ratio at the end (cosine)")
    prune: Literal["magnitude", "set", "taylor"] = Field(
        default="magnitude",
        description="drop the smallest |w|; as SET the same share of the positive and of the negative "
        "weights nearest to zero; or the smallest |w g|",
    )
    growth: Literal["gradient", "random", "momentum"] = Field(
        default="gradient",
        description="grow where |gradient| is largest, anywhere, or where the exponential mean of the "
        "gradient over the last iterations is largest",
    )
    step_on_explore: bool = Field(
        default=False, description="also take the optimiser step in an exploring iteration"
    )
    mask_moments: bool = Field(
        default=True, description="keep optimiser state zero off the mask (else weights regrow warm)"
    )  # fmt: skip
    drop: Literal["exact", "threshold"] = Field(
        default="exact",
        description="drop exactly the counted weights, or all at or below the counted one's size",
    )
    grow_score: Literal["instant", "accum"] | None = Field(
        default=None,
        description="gradient of this batch, or |gradient| summed over about as many batches as visit "
        "every row once; none: accum where a batch touches only its own rows",
        json_schema_extra=searched_among("instant", "accum"),
    )
    mask_init: Literal["exact", "bernoulli"] = Field(
        default="exact", description="exact count, or each entry by its own coin"
    )
    block: Literal["none", 8, 16] = Field(
        default="none",
        description="live entries come in blocks of so many neighbours of a row, which are dropped and "
        "grown whole; none: entry by entry",
    )

    @model_validator(mode="after")
    def _agree(self) -> DSLOptions:
        if self.drop == "threshold" and self.prune != "magnitude":
            raise ValueError("drop=threshold goes with prune=magnitude only")
        if self.block != "none" and self.prune == "set":
            raise ValueError("prune=set drops by sign, which a block does not have")
        if self.table_form == "packed" and not self.mask_moments:
            raise ValueError(
                "packed tables have no room for moments off the mask: mask_moments=false"
            )
        return self


class DynamicSparseLearning(RandomPruning):
    """Algorithm 1: every delta_t iterations prune by magnitude and grow as many by gradient.

    Lines 4 to 7 are `explore`, line 9 the optimiser's step on live weights. The number of live
    weights never changes; weights pruned and grown again in the same exploration keep their value,
    newly grown ones start at 0.

    With `block` b a mask is floor(k* / b) aligned blocks of b entries in each group that is ranked,
    and one block that is live in its first k* mod b entries and stays in its place. Whole blocks are
    exchanged: dropped by their sum of |w| (or |w g|), grown by their sum of |gradient|. All have as
    many live entries, so that sums rank as means do.
    """

    name = "dsl"
    label = "DSL"
    options_type = DSLOptions
    # The released code: coin-flip masks, a step in exploring iterations too, ties dropped together,
    # Adam moments that go on moving off the mask, and a cosine that ends at 0.005.
    variants: ClassVar[dict[str, dict[str, Any]]] = {
        "default": {},
        "official": {
            "mask_init": "bernoulli",
            "step_on_explore": True,
            "mask_moments": False,
            "drop": "threshold",
            "eta_min": 0.005,
        },
        # Sparse evolutionary training (Mocanu et al., 2018): no gradient of pruned entries is ever needed.
        "set": {"growth": "random", "prune": "set", "rho0": 0.3, "decay": "none"},
        "rigl": {"rho0": 0.3, "delta_t": 100},  # constants of Evci et al. (2020)
    }

    @classmethod
    def check(cls, options: Any, hyper: Hyper, epochs: int, sparsity: float) -> None:
        block = 1 if options.block == "none" else int(options.block)
        for width in hyper.widths_of_rows():
            if width % block:
                raise UsageError(
                    f"rows of {width} entries are not a multiple of dsl.block={options.block}",
                    f"--set embedding_size={-(-hyper.embedding_size // block) * block} "
                    "or --set dsl.block=none",
                )

    def __init__(self, options: Any, sparsity: float) -> None:
        super().__init__(options, sparsity)
        self.drawn: dict[str, int] = {}  # live entries of tables whose masks coins drew

    def run(self, lab: Lab) -> Backbone:
        model = self.start(lab)
        self.mask_at_random(lab.streams)
        if self.options.mask_init == "bernoulli":
            self.drawn = {table.spec.name: table.live() for table in self.masked}
        self.growth = lab.streams["growth"]
        lab.fit(model, "train", self)
        return model

    @property
    def block(self) -> int:
        """Entries that are live or not together."""
        return 1 if self.options.block == "none" else int(self.options.block)

    def make_table(self, spec: TableSpec, rng: np.random.Generator) -> Table:
        table = super().make_table(spec, rng)
        if isinstance(table, MaskedTable) and spec.dim % self.block:
            raise UsageError(
                f"rows of table '{spec.name}' have {spec.dim} entries, which is not a multiple of "
                f"dsl.block={self.block}",
                "--set dsl.mask_scope=embeddings or --set dsl.block=none"
                if spec.role == "layer"
                else f"--set embedding_size={-(-spec.dim // self.block) * self.block} "
                "or --set dsl.block=none",
            )
        return table

    def draw_mask(self, table: MaskedTable, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
        n, d = table.spec.n_rows, table.spec.dim
        if self.options.mask_init == "bernoulli":
            return (rng.random((n, d // self.block)) >= self.sparsity).repeat(self.block, axis=1)
        return random_masks((n, d), self.groups(table), self.sparsity, rng, self.block)

    def table_type(self, spec: TableSpec) -> type[MaskedTable]:
        """Moments off the mask need a table that has a place for them."""
        return super().table_type(spec) if self.options.mask_moments else WarmMaskedTable

    def live_entries(self, spec: TableSpec) -> int:
        """As of every mask; where coins were thrown, what they came to."""
        return self.drawn[spec.name] if spec.name in self.drawn else super().live_entries(spec)

    def begin(self, loop: Loop) -> None:
        published = loop.model.published_delta_t
        self.delta_t = self.options.delta_t or min(published, max(20, round(loop.total / 40)))
        self.budget = [table.live() for table in self.masked]
        self.ever_active = [_bits(table.mask) for table in self.masked]
        self.sums: list[Tensor] | None = None
        self.window = self.score_window(loop)
        self.explorations = self.grown = self.grown_without_gradient = 0
        self.kept: dict[str, Any] = {}

    def score_window(self, loop: Loop) -> int:
        """Iterations up to an exploration whose gradients score the growth; 0: none are needed."""
        if self.options.growth == "random":
            return int(self.options.prune == "taylor")
        if self.options.growth == "momentum":
            return min(self.delta_t, _MOMENTUM_WINDOW)
        usual = "instant" if loop.model.dense_gradients else "accum"
        if (self.options.grow_score or usual) == "instant":
            return 1
        rows = max(table.spec.n_rows for table in self.masked)
        return min(self.delta_t, -(-rows // loop.batch_size))

    def update_ratio(self, t: int, total: int) -> float:
        """rho_t: share of the live weights replaced at iteration t of `total` (paper, Eq. 2)."""
        rho0, end = self.options.rho0, self.options.eta_min
        if self.options.decay == "linear":
            return float(rho0 * (1 - t / total))
        if self.options.decay == "none":
            return float(rho0)
        return float(end + (rho0 - end) / 2 * (1 + math.cos(math.pi * t / total)))

    def dense_gradient(self, loop: Loop) -> bool:
        """In exploring iterations, in those watched before them, and wherever moments are unmasked."""
        return not self.options.mask_moments or -loop.t % self.delta_t < self.window

    def before_step(self, loop: Loop) -> None:
        for table in self.masked:
            table.keep_gradient(self.dense_gradient(loop))

    @torch.no_grad()
    def watch(self, loop: Loop) -> None:
        """Gather what scores the growth over the last iterations before an exploration.

        In look-up models one batch has gradients in its own rows only, so that most growth by the
        gradient of a single batch would be arbitrary: |gradient| is summed (`grow_score=accum`).
        """
        left = -loop.t % self.delta_t
        if self.window < 2 or left >= self.window:
            return
        if self.sums is None:
            self.sums = [torch.zeros_like(table.dense()) for table in self.masked]
        for total, table in zip(self.sums, self.masked, strict=True):
            gradient = table.gradient()
            if self.options.growth == "momentum":
                total.mul_(_MOMENTUM)
                if gradient is not None:
                    total.add_(gradient, alpha=1 - _MOMENTUM)
            elif gradient is not None:
                total.add_(gradient.abs())

    def after_backward(self, loop: Loop) -> bool:
        explored = False
        self.watch(loop)
        if loop.t % self.delta_t == 0:
            if not self.options.step_on_explore:
                explored = self.explore(loop)
            elif self.window == 1:  # whole for the exploration, which comes after the masked step
                found = [(table, table.gradient()) for table in self.masked]
                self.sums = [
                    torch.zeros_like(t.dense()) if g is None else g.clone() for t, g in found
                ]
        for table in self.masked:
            table.mask_gradient()
        return not explored

    def after_step(self, loop: Loop) -> None:
        for table in self.masked:
            if isinstance(table, WarmMaskedTable):
                table.apply_mask()
        if self.options.step_on_explore and loop.t % self.delta_t == 0:
            self.explore(loop)

    def explore(self, loop: Loop) -> bool:
        """Prune and grow in every table; returns whether there was a mask to move at all.

        Where rho comes to nothing (linear decay in the last iteration) nothing moves, and there is no
        step either: Algorithm 1 has none in an exploring iteration, whatever it exchanges.
        """
        rho = self.update_ratio(loop.t, loop.total)
        replaced = 0
        for number, (table, budget) in enumerate(zip(self.masked, self.budget, strict=True)):
            score = table.gradient() if self.sums is None else self.sums[number]
            before, weight = table.mask, table.dense()
            if score is None:  # random growth asks for none; or no batch had one
                score = torch.zeros_like(weight)
            after = before.clone()
            for rows in self.groups(table):
                after[rows], count = self.prune_and_grow(
                    weight[rows], before[rows], score[rows], rho
                )
                replaced += count
            moved = int((after & ~before).count_nonzero())
            if moved:
                table.move_mask(after, loop.optimiser)
            table.keep_gradient(False)
            if table.live() != budget:
                raise AssertionError(f"{table.live()} live weights after exploring, not {budget}")
            self.ever_active[number] |= _bits(after)
            loop.note("moved", moved / budget)
            loop.note("itop_rate", self.itop_rate(number))
        self.sums = None
        if replaced:
            self.explorations += 1
            loop.note("update_ratio", rho)
        return self.can_move

    @torch.no_grad()
    def prune_and_grow(
        self, weight: Tensor, mask: Tensor, score: Tensor, rho: float
    ) -> tuple[Tensor, int]:
        """The new mask of one group, and the number of entries, or blocks, dropped and grown.

        Args:
            weight, mask, score: (n, d) values, live entries and gradient of the group.
            rho: share of the live weights to drop.
        """
        size = weight * score if self.options.prune == "taylor" else weight
        if self.block == 1:
            return self.exchange(size, score, mask, rho)
        live = blocks(mask, self.block)
        whole = live.all(dim=2)
        size, score = (blocks(x.abs(), self.block).sum(dim=2) for x in (size, score))
        # What is live in part only, and so is neither dropped nor grown.
        part = live.any(dim=2) & ~whole
        after, count = self.exchange(size, score, whole, rho, part)
        return (after.unsqueeze(2) | live & part.unsqueeze(2)).view_as(mask), count

    def exchange(
        self, size: Tensor, score: Tensor, mask: Tensor, rho: float, fixed: Tensor | None = None
    ) -> tuple[Tensor, int]:
        """Drop the share `rho` of the mask that is smallest, and grow as many of largest score.

        Candidates for growth are all off the mask, those dropped just now included, but for `fixed`.
        """
        live = int(mask.count_nonzero())
        if live == mask.numel():
            return mask, 0  # nothing is off the mask, so nothing can be exchanged
        kept = self.prune(size, mask, rho, live)
        count = live - int(kept.count_nonzero())
        if count == 0:
            return mask, 0
        free = ~kept if fixed is None else ~(kept | fixed)
        if self.options.growth == "random":
            grown = select_largest(torch.zeros_like(score), free, count, self.growth)
        else:
            grown = select_largest(score, free, count, self.growth)
            without = int((grown & (score == 0)).count_nonzero())
            self.grown_without_gradient += without * self.block
        self.grown += count * self.block
        return kept | grown, count

    def prune(self, size: Tensor, mask: Tensor, rho: float, live: int) -> Tensor:
        """What of a mask is not dropped, by `size`."""
        if self.options.drop == "threshold":
            return keep_above(size, mask, math.ceil(rho * live))
        if self.options.prune == "set":
            # Sparse evolutionary training (Mocanu et al., 2018) drops by sign. A live zero, just
            # grown, counts as positive: the smallest of them.
            kept = torch.zeros_like(mask)
            for side in (mask & (size >= 0), mask & (size < 0)):
                of_side = int(side.count_nonzero())
                kept |= select_largest(size, side, of_side - round(rho * of_side), self.lots)
            return kept
        return select_largest(size, mask, live - round(rho * live), self.lots)

    @property
    def can_move(self) -> bool:
        """Whether any mask leaves something out."""
        return self.sparsity > 0 and any(
            live < table.spec.n_rows * table.spec.dim
            for live, table in zip(self.budget, self.masked, strict=True)
        )

    def selected(self, loop: Loop) -> None:
        self.kept = self.progress_so_far()

    def itop_rate(self, number: int) -> float:
        """Share of a table's entries that were ever live."""
        entries = self.masked[number].spec.n_rows * self.masked[number].spec.dim
        return float(np.bitwise_count(self.ever_active[number]).sum(dtype=np.int64)) / entries

    def diagnostics(self) -> dict[str, Any]:
        """Explorations, ITOP rate and growth up to the epoch that is stored, and explorations in all."""
        found = self.kept or self.progress_so_far()
        return found | {"explorations_in_all": self.explorations}

    def progress_so_far(self) -> dict[str, Any]:
        """Explorations, ITOP rate (share of entries ever live), growth without a gradient."""
        rates = [self.itop_rate(number) for number in range(len(self.masked))]
        sizes = [table.spec.n_rows * table.spec.dim for table in self.masked]
        return {
            "delta_t": self.delta_t,
            "explorations": self.explorations,
            "itop_rate": float(np.average(rates, weights=sizes)),
            "grown": self.grown,
            "zero_score_growth_fraction": self.grown_without_gradient / self.grown
            if self.grown and self.options.growth != "random"
            else None,
        }


def _bits(mask: Tensor) -> npt.NDArray[np.uint8]:
    """A mask at a bit an entry."""
    return np.packbits(mask.cpu().numpy())
