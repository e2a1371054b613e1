"""Data of the user's own: a file, a folder with train and test, or a TOML that describes them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from dslbench import paths
from dslbench.data.entries import (
    Columns,
    DatasetEntry,
    FileSpec,
    Filters,
    Role,
    catalog,
    first_problem,
)
from dslbench.errors import DataError, UsageError, harmless

OwnFormat = Literal["adjacency", "counted", "ratings", "csv", "tsv", "inter", "npz", "parquet"]
_BY_SUFFIX: dict[str, OwnFormat] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".inter": "inter",
    ".npz": "npz",
    ".parquet": "parquet",
}
_SNIFFED_LINES, _SNIFFED_BYTES = 200, 1 << 18
_MOSTLY = 0.9
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Description(BaseModel):
    """The TOML beside one's own data. Files are named relative to it and lie beside it."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = None
    title: str = ""
    file: str | None = None
    train: str | None = None
    valid: str | None = None
    test: str | None = None
    format: OwnFormat | None = None
    columns: Columns | None = None
    header: bool | None = None
    separator: str | None = None
    filters: Filters = Filters()
    protocol: str | None = None
    citation: str = ""
    terms: str = ""


def describe(path: Path) -> tuple[DatasetEntry, Path]:
    """(entry, folder of its files) for a path. Raises DataError naming what is wrong."""
    found = paths.kind(path)
    if found == "nothing":
        raise DataError(f"{path} does not exist", hint="dslbench list datasets")
    if found == "other":
        raise DataError(f"{path} is not a plain file", hint="copy what it gives into a file")
    if found == "folder":
        inner = path / "dataset.toml"
        if inner.is_file():
            return _from_toml(inner, default_name=path.resolve().name)
        return _entry(Description.model_validate(_parts_in(path)), path, path.resolve().name), path
    if path.suffix == ".toml":
        return _from_toml(path, default_name=path.stem)
    beside = path.with_suffix(".toml")
    if paths.kind(beside) == "file":
        entry, folder = _from_toml(beside, default_name=path.stem, default_file=path.name)
        if path.name in {file.name for file in entry.files}:
            return entry, folder
        raise DataError(f"{beside.name} beside {path.name} describes other files")
    return _entry(Description(file=path.name), path.parent, path.stem), path.parent


def entry_for_import(name: str, source: Path) -> DatasetEntry:
    """Entry under which `source` is stored as data set `name`."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"'{name}' cannot be the name of a data set: letters, digits, . _ -")
    entry, _ = describe(source)
    return entry.model_copy(update={"name": name})


def _parts_in(folder: Path) -> dict[str, str]:
    """The train, validation and test files of a folder."""
    parts: dict[str, str] = {}
    for role in ("train", "valid", "test"):
        found = sorted(
            path.name
            for path in folder.glob(f"{role}*")
            if path.is_file() and path.suffix != ".toml" and not path.name.startswith(".")
        )
        if len(found) > 1:
            raise DataError(
                f"{folder.name}: several files could be {role}: {', '.join(found[:4])}",
                hint='say which in a dataset.toml there: train = "...", test = "..."',
            )
        if found:
            parts[role] = found[0]
    if "train" in parts and "test" in parts:
        return parts
    files = sorted(p.name for p in folder.iterdir() if p.is_file() and p.name[0] != ".")
    if len(files) == 1:
        return {"file": files[0]}
    raise DataError(
        f"{folder.name or folder}: no train and test files there",
        hint="name one file, or describe them in a dataset.toml there",
    )


def _from_toml(
    path: Path, *, default_name: str, default_file: str | None = None
) -> tuple[DatasetEntry, Path]:
    try:
        values: dict[str, Any] = tomllib.loads(paths.read_text(path))
        description = Description.model_validate(values)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path.name}: not valid TOML: {error}") from None
    except ValidationError as error:
        raise DataError(f"{path.name}: {first_problem(error)}") from None
    except OSError as error:
        raise DataError(f"{path.name} cannot be read: {error.strerror or error}") from None
    if description.file is None and description.train is None:
        description.file = default_file
    if description.file is None and description.train is None:
        raise DataError(f"{path.name}: names no file", hint='file = "..." or train and test')
    return _entry(description, path.parent, description.name or default_name), path.parent


def _entry(description: Description, folder: Path, name: str) -> DatasetEntry:
    roles = {
        "all": description.file,
        "train": description.train,
        "valid": description.valid,
        "test": description.test,
    }
    named = {role: file for role, file in roles.items() if file is not None}
    if ("all" in named) == ("train" in named) or ("train" in named) != ("test" in named):
        raise DataError(f"data set '{name}': give either one file, or train and test")
    filters = description.filters.model_dump(exclude_none=True)
    if "train" in named and filters:
        raise DataError(
            f"data set '{name}': filters ({', '.join(filters)}) need all interactions in one file"
        )
    for file in named.values():
        if paths.kind(folder / file) != "file":
            missing = paths.kind(folder / file) == "nothing"
            what = "does not exist" if missing else "is not a plain file"
            raise DataError(f"{file} {what} in {folder}")
        if not harmless(file):
            raise DataError(
                f"the name of {file} has a character that cannot be printed", hint="rename it"
            )
    format_, separator = description.format, description.separator
    if format_ is None:
        format_, found = sniff(folder / (description.file or description.train or ""))
        separator = separator or found
    try:
        return DatasetEntry(
            name=_free_name(name),
            title=description.title or f"your own data ({', '.join(named.values())})",
            format=format_,
            separator=separator,
            files=tuple(
                FileSpec(name=named[role], role=role) for role in get_args(Role) if role in named
            ),
            filters=description.filters,
            columns=description.columns,
            header=description.header,
            default_protocol=description.protocol or ("given" if "train" in named else "random"),
            citation=description.citation,
            terms=description.terms,
            own=True,
        )
    except ValidationError as error:
        raise DataError(f"data set '{name}': {first_problem(error)}") from None


def _free_name(name: str) -> str:
    """A name that no table can mistake for a verified data set's."""
    clean = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "data"
    return f"own-{clean}" if clean in catalog() else clean


def sniff(path: Path) -> tuple[OwnFormat, str | None]:
    """Format and separator of a file, by its suffix, else by its first lines."""
    known = _BY_SUFFIX.get(path.suffix.lower())
    if known is not None:
        return known, None
    try:
        with path.open("rb") as file:
            start = file.read(_SNIFFED_BYTES)
    except OSError as error:
        raise DataError(f"{path.name} cannot be read: {error.strerror or error}") from None
    lines = [line.decode("utf-8", "replace").split() for line in start.split(b"\n")]
    if len(start) == _SNIFFED_BYTES:
        lines = lines[:-1] or lines  # the last one is cut by us
    lines = [line for line in lines[:_SNIFFED_LINES] if line]
    if not lines:
        raise DataError(f"{path.name} is empty")
    if b"::" in start:
        return "ratings", None
    if b"," in start.partition(b"\n")[0]:
        return "csv", None
    tokens = [token for line in lines for token in line]
    numeric = sum(token.isdigit() for token in tokens) / len(tokens)
    if numeric == 1 and all(int(line[0]) == len(line) - 1 for line in lines):
        return "counted", None
    widths = {len(line) for line in lines}
    heads = [line[0] for line in lines]
    if numeric == 1 and len(set(heads)) == len(heads):
        return "adjacency", None
    if len(widths) == 1 and widths <= {2, 3, 4}:
        return "tsv", "\t" if b"\t" in start else "whitespace"
    if numeric > _MOSTLY:  # a wrong token among them gets an error with its line
        return "adjacency", None
    raise DataError(
        f"{path.name}: the format cannot be told from its first lines",
        hint=f'say so in {path.stem}.toml beside it: format = "adjacency" (or counted, ratings, csv'
        ", tsv, inter, npz)",
    )
