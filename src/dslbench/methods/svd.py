"""Factors of the trained table: what a low rank keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from dslbench.backbones.base import Backbone, Hyper
from dslbench.errors import UnsuitableError
from dslbench.methods._trained import take_trained
from dslbench.methods.base import Allowance, Method, Options
from dslbench.ops.affine import PrincipalAxes
from dslbench.tables import DenseTable, Table, TableSpec, keep_count
from dslbench.tables.factored import FactoredTable
from dslbench.tables.stored.values import values_bytes
from dslbench.training.lab import Lab


class FactorOptions(Options):
    """Settings of truncated factors."""

    retrain: Literal["none", "finetune"] = Field(
        default="none", description="leave the factors as they are, or train both on"
    )
    finetune_lr: float = Field(default=0.1, gt=0, description="learning rate factor of finetune")


class TruncatedSVD(Method):
    """The dense run's tables E, each as E V_k times V_k', V_k its k strongest right singular vectors.

    k is the largest rank whose two factors, k (n + d) numbers for n rows, are within the budget. Of all
    matrices of that rank it is the nearest to E (Eckart and Young, 1936). Nothing is centred: means
    would change dot products. At sparsity 0 the run is the dense one.
    """

    name = "svd"
    label = "SVD"
    family = "Plain"
    needs_dense: ClassVar[bool] = True
    usual: ClassVar[bool] = False
    relative_time: ClassVar[float] = 0.2
    options_type: ClassVar[type[Options]] = FactorOptions
    variants: ClassVar[dict[str, dict[str, Any]]] = {
        "default": {},
        "finetune": {"retrain": "finetune"},
    }

    @classmethod
    def phases(cls, options: Any, sparsity: float) -> list[str]:
        if sparsity == 0:
            return ["train"]
        return ["factors"] if options.retrain == "none" else ["factors", "finetune"]

    @classmethod
    def check(cls, options: Any, hyper: Hyper, epochs: int, sparsity: float) -> None:
        d = min(hyper.widths_of_rows())
        if sparsity and (1 - sparsity) * d < 1:  # however many rows there are
            raise UnsuitableError(
                f"factors of rank 1 of rows of {d} are over the budget",
                f"less than --sparsity {1 - 1 / d:.6g}",
            )

    def run(self, lab: Lab) -> Backbone:
        self.ranks: dict[str, int] = {}
        self.kept: dict[str, float] = {}
        if self.sparsity == 0:
            model = lab.build()
            lab.fit(model, "train")
            return model
        teacher = lab.teacher()
        axes = PrincipalAxes()
        trained = {n: t for n, t in teacher.tables().items() if t.spec.role == "embedding"}
        found = lab.work(
            "factors", lambda: {n: axes(t.full().detach()) for n, t in trained.items()}, axes
        )

        def factored(spec: TableSpec, rng: np.random.Generator) -> Table:
            if spec.role == "layer":
                return DenseTable(spec, rng)
            rank, (directions, coordinates) = self.rank_of(spec), found[spec.name]
            left, right = coordinates[:, :rank], directions[:, :rank].T
            self.ranks[spec.name] = rank
            self.kept[spec.name] = float(left.square().sum() / coordinates.square().sum())
            return FactoredTable(spec, left, right)

        model = lab.build(factored, pretrained=False)
        take_trained(model, teacher)
        if self.options.retrain == "finetune":
            lab.fit(model, "finetune", self, lr_factor=self.options.finetune_lr)
        return model

    def rank_of(self, spec: TableSpec) -> int:
        """The largest k with k (n + d) within the table's budget.

        Raises `UnsuitableError` where even 1 is too much.
        """
        n, d = spec.n_rows, spec.dim
        rank = min(d, keep_count(n * d, self.sparsity) // (n + d))
        if rank < 1:
            most = 1 - (n + d) / (n * d)
            raise UnsuitableError(
                f"factors of rank 1 of table '{spec.name}' are over the budget",
                f"--sparsity {most:.3f} is the most" if most > 0 else None,
            )
        return rank

    def allowance(self, specs: Mapping[str, TableSpec], full: Hyper) -> Allowance:
        """k (n + d) numbers of each table."""
        if self.sparsity == 0:
            return super().allowance(specs, full)
        ranks = [(self.rank_of(spec), spec) for spec in specs.values()]
        entries = sum(rank * (spec.n_rows + spec.dim) for rank, spec in ranks)
        return Allowance.exactly(entries, 4 * entries)

    def stored_size(
        self, specs: Mapping[str, TableSpec], full: Hyper, precision: str | None
    ) -> int:
        """Rows at a precision; what brings them to full width stays float32."""
        if self.sparsity == 0:
            return super().stored_size(specs, full, precision)
        ranks = [(self.rank_of(spec), spec) for spec in specs.values()]
        rows = sum(values_bytes(np.full(s.n_rows, k), precision or "fp32") for k, s in ranks)
        return rows + sum(4 * k * s.dim for k, s in ranks)

    def diagnostics(self) -> dict[str, Any]:
        """Rank and kept share of the squared norm, by table."""
        return {"ranks": self.ranks, "kept_energy": self.kept} if self.ranks else {}
