"""From a name to verified, split Interactions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from dslbench.data import protocols, store, synthetic
from dslbench.data.entries import DatasetEntry, catalog, entry
from dslbench.data.formats import Raw
from dslbench.data.interactions import Interactions
from dslbench.data.published import Published, publish, read_files
from dslbench.errors import DataError


def load(name: str, *, protocol: str = "default") -> Interactions:
    """Read, verify and split a data set; see `dslbench.data.load`."""
    found, where = locate(name)
    resolved = protocols.resolve(protocol, found)
    published, source = read_published(found, where)
    data = replace(protocols.split(found, published, resolved), source=source)
    _check_split(found, resolved.name, data)
    return data


def locate(name: str) -> tuple[DatasetEntry, Path | None]:
    """The entry behind a name or path, and the folder of its files where it is not the store."""
    known = catalog()
    if name in known:
        return known[name], None
    own = store.own_entries()
    if name in own:
        return own[name], None
    if looks_like_path(name):
        from dslbench.data.own import describe

        return describe(Path(name))
    if name in store.stored_names():
        store.read_manifest(name)  # raises, saying what is damaged
    return entry(name), None  # raises, with the closest name


def looks_like_path(name: str) -> bool:
    """Whether a data set's name is meant as a path."""
    return "/" in name or "\\" in name or Path(name).suffix != "" or Path(name).exists()


def read_published(found: DatasetEntry, where: Path | None) -> tuple[Published, dict[str, Any]]:
    """Read and verify the files of an entry; also where they came from."""
    digests: dict[str, str | None] = {file.role: file.digest for file in found.files}
    if found.generated:
        return publish(found, toy_files(), digests), {"how": "generated"}
    if where is not None:
        return publish(found, read_files(found, where), digests), {"how": "path"}
    manifest = store.require(found)
    for file in manifest.files:
        # what is not pinned by the catalog is pinned by what came
        digests[file.role] = digests.get(file.role) or file.digest
    raws = read_files(found, store.folder(found.store_name))
    try:
        return publish(found, raws, digests), store.summary_of(manifest)
    except DataError as error:
        error.hint = error.hint or f"dslbench download {found.name} --force"
        raise


def toy_files() -> dict[str, Raw]:
    """The embedded data set, in the shape of files."""
    shape = (synthetic.N_USERS, synthetic.N_ITEMS)
    parts = zip(("train", "test"), synthetic.generate(), strict=True)
    return {role: Raw("toy", *pairs, *shape) for role, pairs in parts}


def _check_split(found: DatasetEntry, protocol: str, data: Interactions) -> None:
    """Compare a derived split with the digests the catalog has for it."""
    expected = found.splits.get(protocol)
    for part, value in (expected.model_dump() if expected else {}).items():
        if value is not None and data.digests[part] != value:
            raise DataError(
                f"data set '{found.name}', protocol '{protocol}': the digest of {part} is"
                f" {data.digests[part]}, expected {value}",
                hint="this is a defect of dslbench or of its libraries; please report it",
            )
