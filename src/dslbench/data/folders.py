"""The files of a folder: which are train, validation and test, and which are neither."""

from __future__ import annotations

import re
from pathlib import Path

from dslbench.data.content import read_text
from dslbench.errors import DataError

_WORDS = {
    "train": ("train", "training", "trn", "base"),
    "valid": ("valid", "validation", "val", "dev", "eval", "development", "vali", "vad"),
    "test": ("test", "testing", "tst"),
}
_ENDS = (
    *("csv", "tsv", "txt", "dat", "data", "inter", "parquet", "json", "jsonl", "npz", "base"),
    *("rating", "ratings", "tab", "list", "ndjson"),
)
_PACKED = ("gz", "bz2", "xz", "zst", "zip")
# What stands beside the interactions in data sets that are in wide use.
_BESIDE = re.compile(
    r"(readme|licen[cs]e|citation|changelog|user_list|item_list|entity_list|relation_list|kg_final)\b.*",
    re.IGNORECASE,
)
_START = 1 << 16


def looks_like_data(path: Path) -> bool:
    """Whether a file could hold interactions, by its name."""
    if not path.is_file() or path.name[0] in "._" or _BESIDE.fullmatch(path.name):
        return False
    ends = path.name.lower().split(".")
    if ends[-1] in _PACKED:
        return len(ends) == 2 or ends[-2] in _ENDS or roles_of(path.name) != []
    return (
        ends[-1] in _ENDS or (len(ends) == 1) or (roles_of(path.name) != [] and ends[-1] != "toml")
    )


def roles_of(name: str) -> list[str]:
    """Parts that a file's name speaks of: `ml-1m.valid.inter` of `valid`."""
    words = re.split(r"[^a-z]+", re.sub(r"([a-z])([A-Z])", r"\1.\2", name).lower())
    return [role for role, known in _WORDS.items() if any(word in known for word in words)]


def parts_in(folder: Path) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """(files by role, files that are not used). Raises DataError where it cannot be told."""
    try:
        everything = sorted(path for path in folder.iterdir() if path.is_file())
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror or error}") from None
    data = [path for path in everything if looks_like_data(path)]
    shown = folder.name or str(folder)
    by_role: dict[str, list[str]] = {}
    for path in data:
        roles = roles_of(path.name)
        if len(roles) > 1:
            raise DataError(
                f"{shown}: {path.name} could be {' or '.join(roles)}", hint=_say("...", "...")
            )
        if roles:
            by_role.setdefault(roles[0], []).append(path.name)
    for role, found in by_role.items():
        if len(found) > 1:
            raise DataError(
                f"{shown}: several files could be {role}: {', '.join(found[:4])}",
                hint=_say(
                    *(min(by_role.get(part, ["..."]), key=len) for part in ("train", "test"))
                ),
            )
    parts: dict[str, tuple[str, ...]] = {role: (found[0],) for role, found in by_role.items()}
    if "train" in parts and "test" in parts:
        used = {name for names in parts.values() for name in names}
        others = [path for path in data if path.name not in used]
        for path in others:
            if _alike(folder / parts["train"][0], path):
                raise DataError(
                    f"{shown}: {path.name} looks like {parts['train'][0]} but is not used: is it a"
                    " part?",
                    hint=_say(parts["train"][0], parts["test"][0])
                    + f', valid = "{path.name}"; or take it out of the folder',
                )
        return parts, tuple(path.name for path in others)
    shards = [path.name for path in data if path.suffix == ".parquet"]
    if not parts and len(shards) > 1 and len(shards) == len(data):
        return {"all": tuple(shards)}, ()
    if len(data) == 1:
        return {"all": (data[0].name,)}, ()
    listed = ", ".join(path.name for path in data[:6])
    raise DataError(
        f"{shown}: no train and test files there" + (f", but {listed}" if listed else ""),
        hint=f"name one file, or write {folder / 'dataset.toml'}:"
        + (f' file = "{data[0].name}"' if data else ' file = "..."')
        + '; or train = "...", test = "..."',
    )


def _say(train: str, test: str) -> str:
    return f'say which in a dataset.toml there: train = "{train}", test = "{test}"'


def _alike(train: Path, other: Path) -> bool:
    """Whether a file starts like the train file: the same header, or as many fields of its kind."""
    try:
        first, second = (read_text(path).content[:_START].split(b"\n") for path in (train, other))
    except DataError:
        return train.suffix == other.suffix and train.suffix in (".npz", ".parquet")
    if first[0] == second[0]:
        return True
    if first[0].strip()[:1].isdigit() != second[0].strip()[:1].isdigit():
        return False
    return _kind(first) == _kind(second)


def _kind(lines: list[bytes]) -> object:
    """How the lines of a file are: fields a line where that is one number, else whether integers."""
    lines = [line for line in lines if line.strip()][:50]
    for mark in (b"\t", b"::", b",", b";"):
        counts = {line.count(mark) for line in lines}
        if len(counts) == 1 and counts != {0}:
            return mark, counts.pop()
    return all(token.isdigit() for line in lines for token in line.split())
