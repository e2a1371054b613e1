"""The tables and figures by name; adding one is one line here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dslbench.errors import UsageError, did_you_mean
from dslbench.report import (
    audit_tables,
    costs,
    evidence,
    figures,
    paper_tables,
    pareto,
    references,
    sizes,
    sparsity,
    statistics,
)
from dslbench.report.columns import Record
from dslbench.report.figures import FigureBuilder, FigureModel
from dslbench.report.machines import with_comparable_times
from dslbench.report.naming import labelled
from dslbench.report.relative import setting_of
from dslbench.report.tables import Builder, TableModel, group


@dataclass(frozen=True)
class TableKind:
    """How a table is made.

    Attributes:
        needs_runs: false for one that stands without any stored run.
        has_references: false for one that is about making tables small.
    """

    build: Builder
    needs_runs: bool = True
    has_references: bool = True


TABLES: dict[str, TableKind] = {
    "1": TableKind(evidence.table1, has_references=False),
    "2": TableKind(paper_tables.table2, has_references=False),
    "3": TableKind(paper_tables.table3),
    "4": TableKind(paper_tables.table4, has_references=False),
    "cost": TableKind(costs.cost),
    "bytes": TableKind(sizes.table),
    "tail": TableKind(paper_tables.tail),
    "pareto": TableKind(pareto.pareto),
    "stats": TableKind(statistics.table),
    "audit": TableKind(lambda _: audit_tables.build(audit_tables.chosen()), needs_runs=False),
}
FIGURES: dict[str, FigureBuilder] = {
    "2": figures.figure2,
    "3": figures.figure3,
    "4": sparsity.figure4,
    "5": figures.figure5,
    "pareto": figures.pareto,
    "bytes": sizes.figure,
}


# Figures in which references are points like others; those of the paper are about sparsity.
_WITH_REFERENCES = ("pareto", "bytes")


def _comparable(records: Sequence[Record]) -> list[Record]:
    """The records, without times that may not be compared within their setting."""
    parts = group(records, setting_of)
    found = {
        id(r): new
        for part in parts
        for r, new in zip(part, with_comparable_times(part), strict=True)
    }
    return [found[id(record)] for record in records]


def check_table(name: str) -> None:
    """Raise `UsageError` for a table that does not exist."""
    if name not in TABLES:
        raise UsageError(f"no table '{name}'", did_you_mean(name, TABLES))


def check_figure(name: str) -> None:
    """Raise `UsageError` for a figure that does not exist."""
    if name not in FIGURES:
        raise UsageError(f"no figure '{name}'", did_you_mean(name, FIGURES))


def build(name: str, records: Sequence[Record]) -> list[TableModel]:
    """The tables of the given name from these records; raises `UsageError` where they lack what it needs."""
    check_table(name)
    return TABLES[name].build(_prepared(records, TABLES[name].has_references))


def build_figure(name: str, records: Sequence[Record]) -> list[FigureModel]:
    """The figures of the given name; raises `UsageError` where the records lack what it needs."""
    check_figure(name)
    return FIGURES[name](_prepared(records, name in _WITH_REFERENCES))


def _prepared(records: Sequence[Record], has_references: bool) -> list[Record]:
    """As a table takes them: with names, references beside methods or left out, times that compare."""
    named = labelled(records)
    chosen = references.beside(named) if has_references else references.without(named)
    return _comparable(chosen)
