"""AutoEmb (Zhao et al., ICDM 2021): learn how much of each candidate size a row needs, keep one."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar, cast

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from dslbench.backbones.base import Backbone
from dslbench.methods._controllers import (
    HeldOutBatches,
    distinct,
    frozen,
    in_chunks,
    make_controllers,
    mean_losses,
    occurrences,
)
from dslbench.methods._sized import MapsRate, SizedMethod
from dslbench.methods._sizes import (
    Budget,
    Float64,
    Places,
    SizeOptions,
    choose_by_penalty,
    describe,
    embedding_only,
    gain_per_parameter,
    parameters_of,
    resize_tables,
)
from dslbench.optimisers import Adam
from dslbench.tables import CandidateTable, MixedTable, Table, TableSpec
from dslbench.training.hooks import Loop
from dslbench.training.lab import Lab


class AutoEmbOptions(SizeOptions):
    """Settings of AutoEmb."""

    retrain: bool = Field(
        default=True, description="train on with the sizes fixed; soft to hard loses accuracy"
    )


class AutoEmb(SizedMethod):
    """Soft sizes in a bilevel search, then the hard size of largest weight within the budget.

    Search (Alg. 1, first order): in every iteration the controllers step on held-out pairs with the
    model frozen, then the model steps on training pairs with the controllers frozen. Only the rows
    of the batch ask their controller; the others keep their last weights.

    Sizes: argmax_k (log a_k - lambda d_k), lambda by bisection; what is left of the budget goes to
    the rows that gain most for it. Vector and map of that size, and the norm, are trained on.
    """

    name = "autoemb"
    label = "AutoEmb"
    chain = False
    relative_time = 4.0  # measured on LightGCN: 6.4 and 1.3
    options_type: ClassVar[type[SizeOptions]] = AutoEmbOptions

    @classmethod
    def phases(cls, options: Any, sparsity: float) -> list[str]:
        return ["search", "retrain"] if options.retrain else ["search"]

    def run(self, lab: Lab) -> Backbone:
        other, soft, budget, held_out = self.begin_search(lab, self.candidates)
        search = _Search(self, lab, soft, held_out)
        other.fit(soft, "search", search, select=False)
        self.places = self.choose(budget, search.log_weights())
        model = lab.build(embedding_only(self.mixed), pretrained=False)
        self.harden(soft, model, budget)
        if self.options.retrain:
            lab.fit(model, "retrain", MapsRate(self.options))
        return model

    def candidates(self, spec: TableSpec, rng: np.random.Generator) -> Table:
        """A table of all candidate sizes."""
        return CandidateTable(spec, rng, self.options.candidates(spec.dim))

    def choose(self, budget: Budget, log_weights: list[Float64]) -> Places:
        """Each row's size within the budget, from its log weights (n, K) by group."""
        natural = [log_a.argmax(axis=1) for log_a in log_weights]
        self.natural_params = parameters_of(self.groups, natural)

        def solve() -> Places:
            places, self.penalty = choose_by_penalty(budget, log_weights)
            if budget.limit is None:
                return places
            return budget.spend(places, gain_per_parameter(log_weights, self.groups))

        return budget.settle(solve)

    @torch.no_grad()
    def harden(self, soft: Backbone, model: Backbone, budget: Budget) -> None:
        """Move the weights over: of every row the vector of its size, and all that is shared."""
        resize_tables(model.tables(), self.groups, self.places, budget.allowed)
        found = dict(soft.named_parameters())
        for name, parameter in model.named_parameters():
            if found[name].shape == parameter.shape:  # all but the vectors
                parameter.copy_(found[name])
        for name, table in model.tables().items():
            if not isinstance(table, MixedTable):
                continue
            vectors = torch.split(
                cast(CandidateTable, soft.tables()[name]).weight, list(table.sizes), dim=1
            )
            for place, (width, x) in enumerate(zip(table.sizes, vectors, strict=True)):
                rows = (table.place == place).nonzero().squeeze(1)
                table.weight[rows, :width] = x[rows]
            table.estimate_norms()

    def diagnostics(self) -> dict[str, Any]:
        """What sizes came out, and how far they were from the budget."""
        return {
            "natural_params": self.natural_params,
            "penalty": self.penalty,
            **describe(self.groups, self.places),
        }


class _Search(MapsRate):
    """The bilevel iterations."""

    def __init__(
        self, method: AutoEmb, lab: Lab, model: Backbone, held_out: HeldOutBatches
    ) -> None:
        super().__init__(method.options)
        self.options, self.groups, self.held_out = method.options, method.groups, held_out
        outputs = [len(g.sizes) for g in self.groups]
        self.controllers = make_controllers(
            self.groups, outputs, outputs, self.options, lab.streams, lab.device
        )
        self.step = Adam(self.controllers.parameters(), lr=self.options.controller_lr, fused=True)
        tables = model.tables()
        self.tables = [cast(CandidateTable, tables[g.table]) for g in self.groups]
        self.device = lab.device
        self.buckets = [g.buckets.to(lab.device) for g in self.groups]
        # AutoEmb takes 1 for the last loss of what has none yet.
        self.losses = [torch.ones(len(g), device=lab.device) for g in self.groups]

    def loss(self, loop: Loop, batch: Any) -> Tensor:
        loop.note("controller_loss", self.controller_step(loop.model, next(self.held_out)))
        with torch.no_grad():
            found = occurrences(batch)
            for table, weights in self.weights_with(found).items():
                table.keep(weights)
        loss = loop.model.loss(batch)
        if self.options.last_loss:
            assert loop.model.example_losses is not None
            for g, known in zip(self.groups, self.losses, strict=True):
                ids, means = mean_losses(found[g.entity], loop.model.example_losses)
                known[ids] = means
        return loss

    def controller_step(self, model: Backbone, batch: Any) -> float:
        """One step of the controllers, the model and its running statistics frozen."""
        for table, weights in self.weights_with(occurrences(batch)).items():
            table.mix(weights)
        with frozen(model):
            loss = model.loss(batch)
            self.step.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
        self.step.step()
        return float(loss.detach())

    def weights_with(self, found: dict[str, tuple[Tensor, Tensor]]) -> dict[CandidateTable, Tensor]:
        """Weights (n, K) of the tables: new ones for the batch's rows, the last ones for others."""
        weights: dict[CandidateTable, Tensor] = {}
        for k, (g, table) in enumerate(zip(self.groups, self.tables, strict=True)):
            ids, _ = distinct(found[g.entity])
            new = self.logits(k, ids).softmax(dim=1)
            base = weights.get(table, table.weights)
            weights[table] = base.index_copy(0, g.first + ids, new)
        return weights

    def logits(self, k: int, ids: Tensor) -> Tensor:
        """What the controller of a group says about some of its rows, (B,) to (B, K)."""
        g = self.groups[k]
        known = self.tables[k].weights[g.first + ids]
        if self.options.last_loss:
            known = torch.cat([known, self.losses[k][ids].unsqueeze(1)], dim=1)
        answer: Tensor = self.controllers[k](self.buckets[k][ids], known)
        return answer

    @torch.no_grad()
    def log_weights(self) -> list[Float64]:
        """log a of all rows by group, (n, K), in ranking mode."""
        self.controllers.eval()
        return [
            in_chunks(len(g), partial(self.logits, k), self.device)
            .log_softmax(dim=1)
            .double()
            .cpu()
            .numpy()
            for k, g in enumerate(self.groups)
        ]
