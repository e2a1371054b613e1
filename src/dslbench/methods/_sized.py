"""How the methods that choose a size for every row begin: rows, budget, and pairs held out of training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from dslbench.backbones.base import Backbone, Hyper
from dslbench.methods._controllers import HeldOutBatches, split_pairs
from dslbench.methods._sizes import (
    Budget,
    Group,
    SizeOptions,
    budget_of,
    embedding_only,
    find_groups,
    make_budget,
    start_pretrained,
)
from dslbench.methods.base import Allowance, Method
from dslbench.optimisers import own_rate
from dslbench.tables import CandidateTable, MakeTable, MixedTable, Table, TableSpec
from dslbench.tables.maps import map_parameters
from dslbench.tables.spec import unsigned
from dslbench.training.hooks import Hooks, Loop
from dslbench.training.lab import Lab


class MapsRate(Hooks):
    """Maps learn no faster than `maps_lr`: rates that suit rows of a table tear maps of all rows apart."""

    def __init__(self, options: SizeOptions) -> None:
        self.maps_lr = options.maps_lr

    def begin(self, loop: Loop) -> None:
        rate = float(loop.optimiser.param_groups[0]["lr"])
        tables = loop.model.tables().values()
        maps = [t.maps for t in tables if isinstance(t, CandidateTable | MixedTable)]
        chosen = [p for each in maps for p in each.parameters()]
        if chosen and rate > self.maps_lr:
            own_rate(loop.optimiser, chosen, self.maps_lr / rate)


class SizedMethod(Method):
    """A method of the AutoML family: a search with controllers, then training at the sizes found."""

    version = 2
    rows_differ: ClassVar[bool] = True
    family = "AutoML"
    options_type: ClassVar[type[SizeOptions]] = SizeOptions
    variants: ClassVar[dict[str, dict[str, Any]]] = {
        "default": {},
        "natural": {"budget": "natural"},
    }
    chain: ClassVar[bool]  # whether the map to a size leads over the sizes below it

    groups: list[Group]

    def mixed(self, spec: TableSpec, rng: np.random.Generator) -> Table:
        """A table of one size a row, at the start the smallest."""
        return MixedTable(spec, rng, self.options.candidates(spec.dim), chain=self.chain)

    def allowance(self, specs: Mapping[str, TableSpec], full: Hyper) -> Allowance:
        """Rows and maps within floor((1 - s) P), and less than a row below it; or as they come."""
        widths = sum(spec.n_rows * np.dtype(unsigned(spec.dim)).itemsize for spec in specs.values())
        if self.options.budget == "natural":
            return Allowance((0, None), (0, None))
        entries = sum(spec.n_rows * full.width(name) for name, spec in specs.items())
        most = budget_of(entries, self.sparsity)
        least = most - max(spec.dim for spec in specs.values())
        return Allowance((least, most), (4 * least + widths, 4 * most + widths))

    def never_rounded(self, specs: Mapping[str, TableSpec]) -> int:
        """The maps of all candidate sizes, used or not."""
        return sum(
            map_parameters(size, spec.dim, self.chain)
            for spec in specs.values()
            for _ in spec.segments
            for size in self.options.candidates(spec.dim)
        )

    def begin_search(
        self, lab: Lab, make: MakeTable, epochs: int | None = None
    ) -> tuple[Lab, Backbone, Budget, HeldOutBatches]:
        """Where to search, the model that is searched, its budget, and the controllers' batches.

        Args:
            make: the kind of table of users' and items' rows in the search.
            epochs: of the search; none: the lab's.
        """
        model_pairs, controller_pairs = split_pairs(
            lab.data, self.options.held_out, lab.streams["held-out"]
        )
        other = lab.variation(train=model_pairs, epochs=epochs)
        model = other.build(embedding_only(make), pretrained=False)
        tables = model.tables()
        self.groups = find_groups(tables, lab.data.train, self.options, chain=self.chain)
        budget = make_budget(self.groups, tables, self.options, self.sparsity)
        start_pretrained(other, model)
        return other, model, budget, HeldOutBatches(lab, model, controller_pairs)
