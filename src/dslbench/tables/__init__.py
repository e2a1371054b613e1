"""Embedding tables: the one seam between methods and backbones."""

from dslbench.tables.base import MakeTable, Stored, Table
from dslbench.tables.candidates import CandidateTable
from dslbench.tables.dense import DenseTable
from dslbench.tables.masked import (
    DenseMaskedTable,
    MaskedTable,
    WarmMaskedTable,
    random_masks,
    segment_slices,
)
from dslbench.tables.mixed import MixedTable
from dslbench.tables.packed import PackedTable
from dslbench.tables.select import select_largest
from dslbench.tables.spec import MaskScope, TableSpec, keep_count

__all__ = [
    "CandidateTable",
    "DenseMaskedTable",
    "DenseTable",
    "MakeTable",
    "MaskScope",
    "MaskedTable",
    "MixedTable",
    "PackedTable",
    "Stored",
    "Table",
    "TableSpec",
    "WarmMaskedTable",
    "keep_count",
    "random_masks",
    "segment_slices",
    "select_largest",
]
