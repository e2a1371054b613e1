"""Figure 4: where a trained model's live entries lie, against how popular its users and items are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dslbench import data as datasets
from dslbench.artefact import StoredModel
from dslbench.errors import DslbenchError, UsageError
from dslbench.output import warn_once
from dslbench.report import beside
from dslbench.report.columns import Record
from dslbench.report.comparable import footer, label, rows, setting
from dslbench.report.figures import FigureModel, Panel, Series
from dslbench.report.relative import setting_of
from dslbench.report.tables import group
from dslbench.runs.assemble import rebuild

Float64 = npt.NDArray[np.float64]
GROUPS = 10
LEVELS = ("least popular", "median", "most popular")
ROWS_PER_LEVEL = 8


@dataclass(frozen=True)
class EntityRows:
    """The rows of all users, or of all items, of a stored model.

    Attributes:
        popularity: (n,) training pairs of each.
        live: (n, D) bool, over all tables that hold the entity, side by side.
        weights: (n, D) float, 0 where not live.
    """

    popularity: npt.NDArray[np.int64]
    live: npt.NDArray[np.bool_]
    weights: Float64

    @property
    def density(self) -> Float64:
        """(n,) share of live entries of each row."""
        return np.asarray(self.live.mean(axis=1), dtype=np.float64)

    @property
    def rank_correlation(self) -> float | None:
        """Spearman's correlation of density with popularity; None where one of them is constant."""
        density = self.density
        if np.ptp(density) == 0 or np.ptp(self.popularity) == 0:
            return None
        from scipy import stats  # half a second to import

        return float(stats.spearmanr(density, self.popularity).statistic)

    def sparsity_by_group(self, groups: int = GROUPS) -> list[float]:
        """Mean sparsity of equally large groups of rows, the least popular first."""
        order = np.argsort(self.popularity, kind="stable")
        parts = np.array_split(order, min(groups, len(order)))
        return [float(1 - self.density[part].mean()) for part in parts]

    def rows_by_level(self, count: int = ROWS_PER_LEVEL) -> Float64:
        """(3 count, D) |weights| of the least, middle and most popular rows; NaN where not live."""
        order = np.argsort(self.popularity, kind="stable")
        middle = max(0, (len(order) - count) // 2)
        chosen = np.concatenate([order[:count], order[middle : middle + count], order[-count:]])
        return np.where(self.live[chosen], np.abs(self.weights[chosen]), np.nan)


def entity_rows(packed: StoredModel) -> dict[str, EntityRows]:
    """Rows of users and items of a stored model.

    Raises `DataError` where the data is not at hand or not the same.
    """
    model = rebuild(packed)
    spec = packed.spec
    data = datasets.load(spec["dataset"], protocol=spec["protocol"])
    found = {}
    for entity, axis in (("user", 1), ("item", 0)):
        live, weights = [], []
        for name, table in model.tables().items():
            if table.spec.role != "embedding":
                continue
            start, kept = 0, packed.tables[name]
            mask, full = kept.live(), kept.unpack()
            for segment, n in table.spec.segments:
                if segment == entity:
                    live.append(mask[start : start + n])
                    weights.append(full[start : start + n])
                start += n
        popularity = np.asarray(data.train.sum(axis=axis)).ravel().astype(np.int64)
        if live and all(len(part) == len(popularity) for part in live):
            found[entity] = EntityRows(popularity, np.hstack(live), np.hstack(weights))
    return found


def figure4(records: Sequence[Record]) -> list[FigureModel]:
    """Sparsity by popularity group, and rows by popularity (paper, Figure 4): one per DSL row.

    The first seed of each is shown. Raises `UsageError` where no DSL run is among the records.
    """
    kept = [r for r in records if r["spec"]["method"] == "dsl" and r["spec"]["sparsity"] > 0]
    if not kept:
        raise UsageError("figure 4 needs runs of dsl", "dslbench compare --plan figure4")
    # A sweep over an option would be many alike figures; it is shown only where it is all there is.
    kept = [r for r in kept if not r["spec"]["changed_options"]] or kept
    figures, problems = [], []
    for part in group(kept, setting_of):
        for runs in rows(part):
            try:
                figures.append(_figure4(runs))
            except DslbenchError as error:
                problems.append(error)
    if not figures:
        raise problems[0]
    for problem in problems:
        warn_once(f"{problem.message}; left out")
    return figures


def _figure4(runs: Sequence[Record]) -> FigureModel:
    run = runs[0]
    of_entities = entity_rows(beside.model(run))
    lines, notes, heat_maps = [], [], []
    for entity, found in of_entities.items():
        shares = found.sparsity_by_group()
        correlation = found.rank_correlation
        known = f" (rank correlation {correlation:+.2f})" if correlation is not None else ""
        groups = [float(n + 1) for n in range(len(shares))]
        lines.append(Series(f"{entity}s{known}", groups, shares))
        notes.append(
            f"{entity.capitalize()}s: rank correlation (Spearman) of row density with popularity "
            + (f"{correlation:+.2f}." if correlation is not None else "not defined.")
        )
        heat_maps.append(
            Panel(
                f"{entity} rows: {', '.join(LEVELS)}", "embedding entry", f"{entity} rows",
                heat=found.rows_by_level(),
            )
        )  # fmt: skip
    left = Panel("", "popularity group (last: most popular)", "mean sparsity", lines)
    notes.append("Heat maps: magnitude of the weights; white: pruned.")
    if len(runs) > 1:
        notes.append(f"Shown is seed {run['spec']['seed']} of {len(runs)}.")
    return FigureModel(
        f"Figure 4: where the entries lie, {label(runs)}, {setting(run)}",
        [left, *heat_maps],
        footer([run], *notes),
    )
