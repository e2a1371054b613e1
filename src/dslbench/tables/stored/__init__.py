"""What is kept of a table, and served: one class a form, one file each."""

from dslbench.tables.base import Parts, Stored
from dslbench.tables.stored.bitmap import Bitmap
from dslbench.tables.stored.csr import Csr
from dslbench.tables.stored.dense import Dense
from dslbench.tables.stored.find import find, forms
from dslbench.tables.stored.rows import Rows

__all__ = ["Bitmap", "Csr", "Dense", "Parts", "Rows", "Stored", "find", "forms"]
