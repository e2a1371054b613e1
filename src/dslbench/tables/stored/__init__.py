"""What is kept of a table, and served: one class a form, one file each."""

from dslbench.tables.base import Parts, Stored, sizes_by_form
from dslbench.tables.stored.bitmap import Bitmap
from dslbench.tables.stored.codes import Codes
from dslbench.tables.stored.csr import Csr
from dslbench.tables.stored.dense import Dense
from dslbench.tables.stored.factors import Factors
from dslbench.tables.stored.find import find, forms
from dslbench.tables.stored.prefix import Prefix
from dslbench.tables.stored.rows import Rows
from dslbench.tables.stored.values import BITS, Values, check_precision

__all__ = [
    "BITS",
    "Bitmap",
    "Codes",
    "Csr",
    "Dense",
    "Factors",
    "Parts",
    "Prefix",
    "Rows",
    "Stored",
    "Values",
    "check_precision",
    "find",
    "forms",
    "sizes_by_form",
]
