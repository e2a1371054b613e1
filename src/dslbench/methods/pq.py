"""Product quantisation of the trained table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from dslbench.backbones.base import Backbone, Hyper
from dslbench.errors import UnsuitableError
from dslbench.methods._trained import take_trained
from dslbench.methods.base import Allowance, Method, Options
from dslbench.ops.clusters import NearestRows
from dslbench.tables import DenseTable, Table, TableSpec
from dslbench.tables.coded import CodedTable
from dslbench.tables.stored import Codes
from dslbench.tables.stored.codes import part_of_column
from dslbench.training.lab import Lab


class CodeOptions(Options):
    """Settings of product quantisation."""

    parts: int | None = Field(
        default=None, ge=1, description="codes of a row, a byte each; none: a quarter of its width"
    )
    centroids: int = Field(
        default=256, ge=1, le=256, description="centroids K of each part, at most the rows"
    )
    rounds: int = Field(default=25, ge=1, description="rounds of k-means")
    retrain: Literal["none", "finetune"] = Field(
        default="none", description="leave the centroids as they are, or train them on"
    )
    finetune_lr: float = Field(default=0.1, gt=0, description="learning rate factor of finetune")


class ProductQuantisation(Method):
    """The dense run's tables with each part of a row replaced by the nearest of K centroids.

    Jégou et al. (2011): columns are cut into parts, and k-means (Lloyd's rounds from random distinct
    rows) finds the centroids of each. A sparsity means nothing to it: its bytes are a code for each part of
    a row, and the centroids.
    """

    name = "pq"
    label = "PQ"
    family = "Plain"
    needs_dense: ClassVar[bool] = True
    uses_sparsity: ClassVar[bool] = False
    usual: ClassVar[bool] = False
    has_precisions: ClassVar[bool] = False
    relative_time: ClassVar[float] = 0.1
    options_type: ClassVar[type[Options]] = CodeOptions
    variants: ClassVar[dict[str, dict[str, Any]]] = {
        "default": {},
        "finetune": {"retrain": "finetune"},
    }

    @classmethod
    def phases(cls, options: Any, sparsity: float) -> list[str]:
        return ["codes"] if options.retrain == "none" else ["codes", "finetune"]

    @classmethod
    def check(cls, options: Any, hyper: Hyper, epochs: int, sparsity: float) -> None:
        if options.parts is not None and options.parts > (least := min(hyper.widths_of_rows())):
            raise UnsuitableError(
                f"{options.parts} parts are more than the {least} columns of a row",
                f"--set pq.parts={least} is the most",
            )

    def run(self, lab: Lab) -> Backbone:
        teacher, rng, nearest = lab.teacher(), lab.streams.fresh("centroids"), NearestRows()
        trained = {n: t for n, t in teacher.tables().items() if t.spec.role == "embedding"}
        self.errors: dict[str, float] = {}

        def coded(spec: TableSpec) -> Codes:
            rows = trained[spec.name].full().detach()
            return quantised(
                rows, self.parts_of(spec), self.options.centroids, self.options.rounds, rng, nearest
            )

        found = lab.work("codes", lambda: {n: coded(t.spec) for n, t in trained.items()}, nearest)
        for name, table in trained.items():
            rows = table.full().detach().cpu().numpy()
            off = float(np.square(rows - found[name].unpack(), dtype=np.float64).sum())
            self.errors[name] = off / float(np.square(rows, dtype=np.float64).sum())

        def make_table(spec: TableSpec, rng: np.random.Generator) -> Table:
            return (
                DenseTable(spec, rng)
                if spec.role == "layer"
                else CodedTable(spec, found[spec.name])
            )

        model = lab.build(make_table, pretrained=False)
        take_trained(model, teacher)
        if self.options.retrain == "finetune":
            lab.fit(model, "finetune", self, lr_factor=self.options.finetune_lr)
        return model

    def parts_of(self, spec: TableSpec) -> int:
        """Codes of a row of a table."""
        return min(spec.dim, self.options.parts or max(1, spec.dim // 4))

    def allowance(self, specs: Mapping[str, TableSpec], full: Hyper) -> Allowance:
        """The centroids, and a byte for each part of each row."""
        entries = nbytes = 0
        for spec in specs.values():
            k = min(self.options.centroids, spec.n_rows)
            entries += k * spec.dim
            nbytes += Codes.size(spec.n_rows, spec.dim, self.parts_of(spec), k)
        return Allowance.exactly(entries, nbytes)

    @classmethod
    def choices(cls, options: Any, full: Hyper) -> list[tuple[dict[str, Any], str | None]]:
        """The codes of a row."""
        return [({"parts": parts}, None) for parts in range(1, min(full.widths_of_rows()) + 1)]

    def diagnostics(self) -> dict[str, Any]:
        """Squared error beside the squared norm, by table, before anything is trained on."""
        return {"relative_error": self.errors}


def quantised(
    rows: Tensor, parts: int, k: int, rounds: int, rng: np.random.Generator, nearest: NearestRows
) -> Codes:
    """Codes and centroids of (n, d) rows; exact where no part has more than k distinct values."""
    n, d = rows.shape
    k = min(k, n)
    of_column = part_of_column(d, parts)
    codes, centroids = np.empty((n, parts), dtype=np.uint8), np.zeros((k, d), dtype=np.float32)
    for part in range(parts):
        columns = np.flatnonzero(of_column == part)
        points = rows[:, columns].contiguous()
        own, chosen = clustered(points, k, rounds, rng, nearest)
        codes[:, part] = chosen.cpu().numpy()
        centroids[:, columns] = own.cpu().numpy()
    return Codes((n, d), codes, centroids)


def clustered(
    points: Tensor, k: int, rounds: int, rng: np.random.Generator, nearest: NearestRows
) -> tuple[Tensor, Tensor]:
    """Centroids (k, w) of points (n, w) by k-means, and the nearest of each point, (n,).

    Starts from distinct points drawn at random. A centroid without a point moves to the point that is
    farthest from its own.
    """
    distinct = torch.unique(points, dim=0)
    drawn = rng.permutation(len(distinct))[:k]
    centroids = points.new_zeros((k, points.shape[1]))
    centroids[: len(drawn)] = distinct[torch.from_numpy(np.sort(drawn)).to(points.device)]
    chosen = nearest(points, centroids)
    if len(distinct) <= k:
        return centroids, chosen
    for _ in range(rounds):
        counts = torch.bincount(chosen, minlength=k)
        sums = torch.zeros_like(centroids, dtype=torch.float64).index_add_(
            0, chosen, points.double()
        )
        centroids = (sums / counts.clamp(min=1).unsqueeze(1)).float()
        empty = (counts == 0).nonzero().squeeze(1)
        if len(empty):
            far = (points - centroids[chosen]).square().sum(dim=1).topk(len(empty)).indices
            centroids[empty] = points[far]
        before, chosen = chosen, nearest(points, centroids)
        if torch.equal(before, chosen):
            break
    return centroids, chosen
