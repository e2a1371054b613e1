"""Data of the user's own: a file, a folder with train and test, or a TOML that describes them.

Whatever a description leaves open is decided here, once, and stands in the entry: reading only
follows it.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from dslbench import paths
from dslbench.data import folders
from dslbench.data.content import stem
from dslbench.data.entries import (
    Columns,
    DatasetEntry,
    FileSpec,
    Filters,
    Missing,
    Role,
    catalog,
    first_problem,
)
from dslbench.data.sniff import OwnFormat, agree, sniff
from dslbench.errors import DataError, UsageError, harmless

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_TEXT = ("csv", "tsv", "ratings", "inter")
_DIVIDED = ("header", "separator", "quotes")
_OF_COLUMNS = ("columns", "where", "time_format", *_DIVIDED)
_WITHOUT_EFFECT = {
    "adjacency": ("min_rating", *_OF_COLUMNS), "counted": ("min_rating", *_OF_COLUMNS),
    "npz": ("encoding", *_OF_COLUMNS), "parquet": ("encoding", *_DIVIDED), "jsonl": _DIVIDED,
}  # fmt: skip


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
    quotes: bool | None = None
    encoding: str | None = None
    time_format: str | None = None
    where: dict[str, tuple[str, ...]] | None = None
    missing: Missing = "refuse"
    min_rating: float | None = None
    filters: Filters = Filters()
    protocol: str | None = None
    citation: str = ""
    terms: str = ""

    @field_validator("where", mode="before")
    @classmethod
    def _texts(cls, value: Any) -> Any:
        """One value or several, of any kind, as the texts that stand in the file."""
        if not isinstance(value, dict):
            return value
        many = {k: v if isinstance(v, list) else [v] for k, v in value.items()}
        return {
            key: tuple(str(one).lower() if isinstance(one, bool) else str(one) for one in values)
            for key, values in many.items()
        }

    @field_validator("separator")
    @classmethod
    def _one_mark(cls, value: str | None) -> str | None:
        known = {"tab": "\t", "\\t": "\t", "comma": ",", "blank": " ", "blanks": "whitespace"}
        value = known.get(value or "", value)
        if value is not None and len(value) != 1 and value not in ("::", "whitespace"):
            raise ValueError('one character, "::", or "whitespace"')
        if value is not None and value in '"\r\n':
            raise ValueError("quotes and line ends cannot divide fields")
        return value


def describe(path: Path) -> tuple[DatasetEntry, Path]:
    """(entry, folder of its files) for a path. Raises DataError naming what is wrong."""
    kind = paths.kind(path)
    if kind == "nothing":
        raise DataError(f"{path} does not exist", hint="dslbench list datasets")
    if kind == "other":
        raise DataError(f"{path} is not a plain file", hint="copy what it gives into a file")
    if kind == "folder":
        inner = path / "dataset.toml"
        if inner.is_file():
            return _from_toml(inner, default_name=path.resolve().name)
        files, unused = folders.parts_in(path)
        notes = (f"not used: {', '.join(unused)}",) if unused else ()
        name = path.resolve().name
        return _entry(Description(), files, path, name, "dataset.toml", notes), path
    if path.suffix == ".toml":
        return _from_toml(path, default_name=path.stem)
    for beside in dict.fromkeys(
        (path.with_name(f"{stem(path.name)}.toml"), path.with_suffix(".toml"))
    ):
        if paths.kind(beside) == "file":
            found, folder = _from_toml(beside, default_name=beside.stem, default_file=path.name)
            if path.name in {file.name for file in found.files}:
                return found, folder
            raise DataError(f"{beside.name} beside {path.name} describes other files")
    toml = f"{stem(path.name)}.toml"
    name = stem(path.name)
    return _entry(Description(), {"all": (path.name,)}, path.parent, name, toml), path.parent


def entry_for_import(name: str, source: Path) -> DatasetEntry:
    """Entry under which `source` is stored as data set `name`."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"'{name}' cannot be the name of a data set: letters, digits, . _ -")
    entry, _ = describe(source)
    return entry.model_copy(update={"name": name})


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
        description.file = default_file or _one_beside(path)
    files: dict[str, tuple[str, ...]] = {}
    for role, file in (
        ("all", description.file),
        ("train", description.train),
        ("valid", description.valid),
        ("test", description.test),
    ):
        if file is not None:
            files[role] = (file,)
    if not files:
        raise DataError(f"{path.name}: names no file", hint='file = "..." or train and test')
    name = description.name or default_name
    return _entry(description, files, path.parent, name, path.name), path.parent


def _one_beside(toml: Path) -> str | None:
    """The data file that a description is named after, or the only one of its folder."""
    if toml.name == "dataset.toml":
        found = [path.name for path in toml.parent.iterdir() if folders.looks_like_data(path)]
    else:
        found = [path.name for path in toml.parent.glob(f"{toml.stem}.*") if path != toml]
    return found[0] if len(found) == 1 else None


def _entry(
    description: Description,
    named: dict[str, tuple[str, ...]],
    folder: Path,
    name: str,
    toml: str,
    notes: tuple[str, ...] = (),
) -> DatasetEntry:
    if ("all" in named) == ("train" in named) or ("train" in named) != ("test" in named):
        raise DataError(f"data set '{name}': give either one file, or train and test")
    filters = description.filters
    if description.min_rating is not None:
        filters = filters.model_copy(update={"min_rating": description.min_rating})
    needing = set(filters.model_dump(exclude_none=True)) - {"min_rating"}
    if "train" in named and needing:
        raise DataError(
            f"data set '{name}': filters ({', '.join(sorted(needing))}) need all interactions in one"
            " file"
        )
    files = [file for found in named.values() for file in found]
    for file in files:
        if (kind := paths.kind(folder / file)) != "file":
            what = "does not exist" if kind == "nothing" else "is not a plain file"
            raise DataError(f"{file} {what} in {folder}")
        if not harmless(file):
            raise DataError(
                f"the name of {file} has a character that cannot be printed", hint="rename it"
            )
    if len(set(files)) < len(files):
        again = next(file for at, file in enumerate(files) if file in files[:at])
        if not needing:
            raise DataError(f"data set '{name}': {again} is named for two parts")
    format_, why = description.format, "as described"
    if format_ is None:
        format_, why = agree(
            {file: sniff(folder / file, description.encoding) for file in files}, toml
        )
    said = {key for key, value in description if value is not None} | (
        {"min_rating"} if filters.min_rating is not None else set()
    )
    if useless := sorted(said & set(_WITHOUT_EFFECT.get(format_, ()))):
        raise DataError(
            f"data set '{name}': {', '.join(useless)} in {toml} says nothing about files of format {format_}",
            hint="leave it out, or name another format",
        )
    try:
        found = DatasetEntry(
            name=_free_name(name),
            title=description.title or f"your own data ({', '.join(files)})",
            format=format_,
            separator=description.separator,
            quotes=description.quotes,
            encoding=description.encoding,
            time_format=description.time_format,
            where=description.where,
            missing=description.missing,
            files=tuple(
                FileSpec(name=file, role=role)
                for role in get_args(Role)
                for file in named.get(role, ())
            ),
            filters=filters,
            columns=description.columns,
            header=description.header,
            default_protocol=description.protocol or ("given" if "train" in named else "random"),
            citation=description.citation,
            terms=description.terms,
            notes=notes,
            why={"format": why} if why else {},
            described_in=toml,
            own=True,
        )
    except ValidationError as error:
        raise DataError(f"data set '{name}': {first_problem(error)}") from None
    if format_ in _TEXT:
        from dslbench.data.agree import settle_texts

        return settle_texts(found, folder)
    return found


def _free_name(name: str) -> str:
    """A name that no table can mistake for a verified data set's."""
    clean = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "data"
    return f"own-{clean}" if clean in catalog() else clean
