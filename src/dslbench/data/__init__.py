"""Data sets: catalog, download and import, reading, splitting.

Everything heavy is imported inside the functions: naming a data set must not cost a second.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dslbench.data.entries import DatasetEntry
    from dslbench.data.interactions import Interactions

__all__ = ["catalog", "default_dataset", "load", "size"]


def load(name: str, *, protocol: str = "default", test: bool = True) -> Interactions:
    """Read, verify and split a data set.

    `name` is a catalog name, the name of imported data of one's own, or a path (a data file, a
    folder with train and test files, or a TOML description). `protocol` is `default`, `paper` or a
    named protocol (see `dslbench.data.protocols`). Without `test` its test pairs are withheld: that
    part is empty. Raises DataError (not at hand, malformed, not
    what it claims to be) or UsageError (unknown name or protocol).
    """
    from dslbench.data.loading import load as implementation

    found = implementation(name, protocol=protocol)
    return found if test else found.without_test()


def size(name: str, *, protocol: str = "default") -> int:
    """Interactions of a data set: as published for the catalog's, else counted; raises as `load` does."""
    known = catalog().get(name)
    if known is not None and known.expect.interactions is not None:
        return known.expect.interactions
    return _counted(name, protocol, _stamps(name))


@cache
def _counted(name: str, protocol: str, stamps: tuple[tuple[str, int, int], ...]) -> int:
    """Read once as long as the files are the same: each run of a comparison asks."""
    data = load(name, protocol=protocol)
    return int(data.train.nnz + data.valid.nnz + data.test.nnz)


def _stamps(name: str) -> tuple[tuple[str, int, int], ...]:
    """Place, time and size of the files that data of one's own may consist of."""
    from dslbench.data import library, loading

    where = Path(name) if loading.looks_like_path(name) else library.folder(name)
    # A description names files that lie beside it.
    inside = where.parent if where.suffix == ".toml" else where
    places = sorted(inside.rglob("*")) if inside.is_dir() else [where]
    found = [(str(place), place.stat()) for place in places if place.is_file()]
    return tuple((place, about.st_mtime_ns, about.st_size) for place, about in found)


def catalog() -> dict[str, DatasetEntry]:
    """Every data set dslbench knows by name."""
    from dslbench.data.entries import catalog as implementation

    return implementation()


def default_dataset() -> tuple[str, str]:
    """Name of the data set used where none is given, and a sentence saying why it is that one."""
    from dslbench.data.library import default_dataset as implementation

    return implementation()
