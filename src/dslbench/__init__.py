"""dslbench: compare ways of making recommenders small and cheap, and what each one really costs.

In Python: `import dslbench as ds`, then `ds.train(...)`, `ds.compare(...)`, `ds.shrink(...)`: docs/python.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dslbench.api import Model, Run, Shrunk, compare, load, shrink, table, train

__version__ = "0.1.0"
__all__ = ["Model", "Run", "Shrunk", "compare", "load", "shrink", "table", "train"]


def __getattr__(name: str) -> Any:
    """What `dslbench.api` has, imported when it is first asked for: the command line needs none of it."""
    if name not in __all__:
        raise AttributeError(f"module 'dslbench' has no attribute '{name}'")
    from dslbench import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
