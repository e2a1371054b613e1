"""Embedding tables: the one seam between methods and backbones."""

from dslbench.tables.base import MakeTable, MaskScope, StoredTable, Table, TableSpec, keep_count
from dslbench.tables.candidates import CandidateTable
from dslbench.tables.dense import DenseTable
from dslbench.tables.masked import (
    DenseMaskedTable,
    MaskedTable,
    PackedTable,
    WarmMaskedTable,
    random_masks,
    segment_slices,
)
from dslbench.tables.mixed import MixedTable
from dslbench.tables.rows import StoredRows
from dslbench.tables.select import select_largest

__all__ = [
    "CandidateTable",
    "DenseMaskedTable",
    "DenseTable",
    "MakeTable",
    "MaskScope",
    "MaskedTable",
    "MixedTable",
    "PackedTable",
    "StoredRows",
    "StoredTable",
    "Table",
    "TableSpec",
    "WarmMaskedTable",
    "keep_count",
    "random_masks",
    "segment_slices",
    "select_largest",
]
