"""Catalog entries: what a data set is, where it comes from and how it is known to be genuine.

One TOML file per data set in `catalog/`; the same model describes data of the user's own. Only
pydantic and tomllib are imported here, so that listing names stays cheap.
"""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from dslbench.errors import DataError, UsageError, did_you_mean

CATALOG_FOLDER = Path(__file__).parent / "catalog"

Role = Literal["train", "valid", "test", "all", "users", "items"]
Format = Literal[
    "adjacency", "counted", "ratings", "csv", "tsv", "inter", "npz", "parquet", "jsonl", "toy"
]
Missing = Literal["refuse", "drop", "keep"]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _checked_url(url: str) -> str:
    parts = urlsplit(url)
    loopback = parts.hostname in ("127.0.0.1", "::1", "localhost")
    if parts.scheme != "https" and not (parts.scheme == "http" and loopback):
        raise ValueError(f"only https addresses are fetched, not {url}")
    return url


class Archive(_Model):
    """An archive on a server that holds the file as one of its members."""

    url: str
    member: str
    bytes: int | None = None
    md5: str | None = None
    sha256: str | None = None

    _url = field_validator("url")(_checked_url)


class FileSpec(_Model):
    """One published file: where it comes from, and the hashes that prove it."""

    name: str = Field(pattern=r"^[^./\\\x00-\x1f][^/\\\x00-\x1f]*$", description="no folders")
    role: Role
    bytes: int | None = None
    md5: str | None = None
    sha256: str | None = None
    git_blob: str | None = Field(default=None, description="sha1 of 'blob <size>\\0' + content")
    digest: str | None = Field(default=None, description="canonical digest of the file's pairs")
    shape: tuple[int, int] | None = Field(
        default=None, description="users x items of the digest, where not those of the data set"
    )
    pairs: int | None = None
    urls: tuple[str, ...] = ()
    archives: tuple[Archive, ...] = ()
    aliases: tuple[str, ...] = Field(default=(), description="other names taken by --from")
    optional: bool = False

    @field_validator("urls")
    @classmethod
    def _check_urls(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_checked_url(url) for url in urls)

    @property
    def holds_pairs(self) -> bool:
        """Whether the file holds interactions (and not a list of original ids)."""
        return self.role not in ("users", "items")


class Expected(_Model):
    """Statistics a data set must have after its filters; checked on every load."""

    users: int | None = None
    items: int | None = None
    interactions: int | None = None
    train: int | None = None
    test: int | None = None
    digest: str | None = Field(default=None, description="of all interactions, after the filters")


class SplitDigests(_Model):
    """Digests a derived split must have; checked on every load."""

    train: str | None = None
    valid: str | None = None
    test: str | None = None


class Filters(_Model):
    """What is left out before ids are assigned, in this order."""

    min_rating: float | None = None
    min_user_items: int | None = Field(default=None, ge=1, description="one pass over the users")
    k_core: int | None = Field(default=None, ge=1, description="users then items, to a fixed point")


class Columns(_Model):
    """Columns of delimited files: names where there is a header, else positions from 0.

    Users and items that are not said are found as where nothing is.
    """

    user: str | int | None = None
    item: str | int | None = None
    rating: str | int | None = None
    timestamp: str | int | None = None

    @field_validator("*")
    @classmethod
    def _check_position(cls, column: str | int | None) -> str | int | None:
        if isinstance(column, int) and column < 0:
            raise ValueError(f"{column} is no position: they begin at 0")
        return column


class DatasetEntry(_Model):
    """A data set: its files, format, filters, protocols, and what must be true of it."""

    name: str
    title: str
    format: Format
    files: tuple[FileSpec, ...] = ()
    files_of: str | None = Field(
        default=None, description="name of the data set whose files this variant uses"
    )
    filters: Filters = Filters()
    columns: Columns | None = None
    header: bool | None = Field(default=None, description="delimited files; found out if not said")
    separator: str | None = None
    quotes: bool | None = Field(default=None, description="fields may stand in quotes (RFC 4180)")
    encoding: str | None = None
    time_format: str | None = Field(
        default=None, description="of the timestamps: as strptime, or s, ms, us, ns since 1970"
    )
    where: dict[str, tuple[str, ...]] | None = Field(
        default=None, description="rows that count: values of a column (by name or position)"
    )
    missing: Missing = Field(default="refuse", description="rows without a user or item")
    why: dict[str, str] = Field(default={}, description="why a column became what it is")
    remarks: tuple[str, ...] = Field(default=(), description="on columns, for a reader")
    described_in: str = Field(default="", description="the TOML that can say more")
    default_protocol: str = "random"
    expect: Expected = Expected()
    splits: dict[str, SplitDigests] = {}
    citation: str = ""
    terms: str = ""
    homepage: str = ""
    notes: tuple[str, ...] = ()
    own: bool = Field(default=False, description="data of the user's own: ids are compacted")

    @property
    def store_name(self) -> str:
        """Name of the folder that holds the files."""
        return self.files_of or self.name

    @property
    def is_given(self) -> bool:
        """Whether the data set comes with its own train and test files."""
        return any(file.role == "train" for file in self.files)

    @property
    def generated(self) -> bool:
        """Whether the data set is made by the program itself and needs no files."""
        return self.format == "toy"


def parse_entry(text: str, where: str) -> DatasetEntry:
    """Read one entry; `where` names the file in errors. Raises DataError."""
    try:
        return DatasetEntry.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"{where}: not valid TOML: {error}") from None
    except ValidationError as error:
        raise DataError(f"{where}: {first_problem(error)}") from None


def first_problem(error: ValidationError) -> str:
    """The first problem pydantic found, as 'key.sub: message'."""
    problem = error.errors()[0]
    place = ".".join(str(part) for part in problem["loc"])
    return f"{place}: {problem['msg'].removeprefix('Value error, ')}"


@cache
def _read_catalog(folder: Path) -> dict[str, DatasetEntry]:
    entries: dict[str, DatasetEntry] = {}
    for path in sorted(folder.glob("*.toml")):
        entry = parse_entry(path.read_text(encoding="utf-8"), path.name)
        entries[entry.name] = entry
    for name, entry in entries.items():
        if entry.files_of is not None:
            base = entries[entry.files_of]
            entries[name] = entry.model_copy(update={"files": base.files})
    return entries


def catalog() -> dict[str, DatasetEntry]:
    """Every data set known by name; variants carry the files of their base."""
    return dict(_read_catalog(CATALOG_FOLDER))


def entry(name: str) -> DatasetEntry:
    """The entry called `name`; raises UsageError with the closest name."""
    entries = catalog()
    if name not in entries:
        raise UsageError(f"unknown data set '{name}'", hint=did_you_mean(name, entries))
    return entries[name]
