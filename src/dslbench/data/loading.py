"""From a name to verified, split Interactions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dslbench import paths
from dslbench.data import library, protocols, synthetic
from dslbench.data.entries import DatasetEntry, catalog, entry
from dslbench.data.interactions import Interactions
from dslbench.data.published import Published, publish, read_files
from dslbench.data.raw import Labels, Raw
from dslbench.errors import DataError


def load(name: str, *, protocol: str = "default") -> Interactions:
    """Read, verify and split a data set; see `dslbench.data.load`."""
    found, where = locate(name)
    resolved = protocols.resolve(protocol, found)
    keep_log = resolved.basic != "given"
    published, source = read_published(found, where, keep_log=keep_log)
    if published.understood:
        source = {**source, **told(published)}
    data = replace(protocols.split(found, published, resolved), source=source)
    if resolved.basic == "dsl-loo" and not found.own and not source.get("same_bytes", True):
        order = "the copy at hand may list the pairs in another order than the published file"
        data = replace(data, notes=(*data.notes, f"{order}: this may not be the paper's split"))
    _check_split(found, resolved.name, data)
    return data


def told(published: Published) -> dict[str, Any]:
    """What files of one's own were taken for: as values, and as lines to print before anything else."""
    short = {one.short() for one in published.understood}
    lines = [line for one in published.understood for line in one.lines()]
    lines += [f"  {note}" for note in published.notes if note not in short]
    return {
        "understood": [one.to_dict() for one in published.understood],
        "statement": [*lines, f"  content {published.key[:12]}"],
    }


def locate(name: str) -> tuple[DatasetEntry, Path | None]:
    """The entry behind a name or path, and the folder of its files where it is not the store."""
    known = catalog()
    if name in known:
        return known[name], None
    own = library.own_entries()
    if name in own:
        return own[name], None
    if looks_like_path(name):
        from dslbench.data.own import describe

        return describe(Path(name))
    if name in library.stored_names():
        library.read_manifest(name)  # raises, saying what is damaged
    return entry(name), None  # raises, with the closest name


def looks_like_path(name: str) -> bool:
    """Whether a data set's name is meant as a path."""
    return (
        "/" in name
        or "\\" in name
        or Path(name).suffix != ""
        or paths.kind(Path(name)) != "nothing"
    )


def read_published(
    found: DatasetEntry, where: Path | None, *, keep_log: bool = True
) -> tuple[Published, dict[str, Any]]:
    """Read and verify the files of an entry; also where they came from."""
    digests: dict[str, str | None] = {file.role: file.digest for file in found.files}
    if found.generated:
        return publish(found, toy_files(), digests), {"how": "generated"}
    if where is not None:
        return publish(found, read_files(found, where), digests), {"how": "path"}
    manifest = library.require(found)
    for file in manifest.files:
        # what is not pinned by the catalog is pinned by what came
        digests[file.role] = digests.get(file.role) or file.digest
    folder = library.folder(found.store_name)
    try:
        raws = read_files(found, folder)
        published = publish(found, raws, digests, keep_log=keep_log)
        return _with_original_ids(found, published, folder), library.summary_of(manifest)
    except DataError as error:
        error.hint = error.hint or f"dslbench download {found.name} --force"
        raise


def _with_original_ids(found: DatasetEntry, published: Published, folder: Path) -> Published:
    """Add the ids of the raw data where the data set came with lists of them."""
    for file in found.files:
        path = folder / file.name
        if file.role == "users" and path.is_file():
            published = replace(published, user_ids=_id_list(path, published.shape[0]))
        elif file.role == "items" and path.is_file():
            published = replace(published, item_ids=_id_list(path, published.shape[1]))
    return published


def _id_list(path: Path, size: int) -> Labels:
    """Original id of each number, from lines `org_id remap_id` below a header."""
    ids = np.full(size, "", dtype=object)
    try:
        lines = paths.read_text(path).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise DataError(f"{path.name} cannot be read: {reason}") from None
    for number, line in enumerate(lines[1:], start=2):
        fields = line.split()
        if not fields:
            continue
        if len(fields) < 2 or not fields[1].isdecimal() or int(fields[1]) >= size:
            raise DataError(f"{path.name}, line {number}: expected an original id and its number")
        ids[int(fields[1])] = fields[0]
    return ids


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
