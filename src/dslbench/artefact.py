"""The model file: every table as it is stored, with what is needed to rebuild the model.

A safetensors file (no code is executed on reading). A table `t` lies in arrays `t.PART`, as its form
has them (`dslbench.tables.stored`), other weights in `rest.NAME`, and what an exported file says of its
data in `data.NAME` (`dslbench.known`). The metadata holds the format, the run's resolved spec, the data's
digests, for each table its shape, form and what the form says, and checksums of all that.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.numpy import load, save

from dslbench import checksums, paths
from dslbench.backbones.base import Backbone
from dslbench.errors import DataError, UsageError, reason_of
from dslbench.tables import MakeTable, Table, TableSpec
from dslbench.tables.stored import Parts, Stored, find
from dslbench.words import times

Arrays = dict[str, npt.NDArray[Any]]
_FORMAT = "dslbench-model-1"
_HINT = (
    "write it again: dslbench train ... --export FILE (--fresh where the store's own is damaged)"
)


@dataclass(frozen=True)
class StoredModel:
    """What is kept of a trained model.

    Attributes:
        tables: by name, as they are stored.
        rest: all other weights and buffers by name.
        spec: the run's resolved spec as plain data.
        digests: the data's digests by part.
        name: what error messages call it: the file where it was read from one.
        known: what it says of its data (`dslbench.known`); empty in the store's own files.
        reference: form of a reference's model, and what that says beside its arrays, which are `rest`;
            empty for trained models.
    """

    tables: Mapping[str, Stored]
    rest: Arrays
    spec: dict[str, Any]
    digests: dict[str, Any]
    name: str = "the model"
    known: Arrays = field(default_factory=dict)
    reference: dict[str, Any] = field(default_factory=dict)


def pack(
    model: Backbone, spec: dict[str, Any], digests: Mapping[str, Any],
    tables: Mapping[str, Stored] | None = None,
) -> StoredModel:  # fmt: skip
    """A trained model as it is kept; `tables` None: each as it packs itself."""
    if tables is None:
        tables = {name: table.pack() for name, table in model.tables().items()}
    rest = {name: weight.cpu().numpy() for name, weight in model.rest().items()}
    return StoredModel(tables, rest, spec, dict(digests))


def to_bytes(model: StoredModel) -> bytes:
    """The file's content."""
    arrays: Arrays = {f"rest.{name}": np.asarray(x, order="C") for name, x in model.rest.items()}
    tables: dict[str, dict[str, Any]] = {}
    for name, table in model.tables.items():
        tables[name] = {"shape": list(table.shape), "form": table.form} | table.about()
        arrays |= {f"{name}.{part}": x for part, x in table.arrays().items()}
    arrays |= {f"data.{name}": np.asarray(x, order="C") for name, x in model.known.items()}
    about = {"format": _FORMAT, "tables": tables, "spec": model.spec, "digests": model.digests}
    about |= {"reference": model.reference} if model.reference else {}
    about["crc32"] = checksums.of(arrays, json.dumps(about))
    return bytes(save(arrays, metadata={"dslbench": json.dumps(about)}))


def read(path: Path | str) -> StoredModel:
    """Read a model file; raises `DataError` for one that is missing, damaged or not ours."""
    try:
        return from_bytes(paths.read_bytes(Path(path)), str(path))
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror or error}",
            "dslbench train ... --export FILE writes a model file",
        ) from None


def from_bytes(content: bytes, name: str = "the model") -> StoredModel:
    """The model in a file's content; `name` stands in error messages.

    Raises `DataError` for what is no such file, or has parts that are missing, too many, of
    another type or shape than the form says, or not finite.
    """
    try:
        arrays = load(content)
        about = json.loads(_metadata(content).get("dslbench", "null"))
    except (SafetensorError, ValueError, LookupError, TypeError, AttributeError,
            RecursionError, MemoryError) as error:  # fmt: skip
        raise DataError(f"{name} is not a readable model file: {reason_of(error)}", _HINT) from None
    if not isinstance(about, dict) or about.get("format") != _FORMAT:
        raise DataError(
            f"{name} is a safetensors file, but not a model of dslbench ({_FORMAT})",
            "dslbench train ... --export FILE writes one",
        )
    try:
        if (sums := about.pop("crc32", None)) is not None:  # files before it have none
            checksums.check(arrays, json.dumps(about), sums)
        return _model(about, arrays, name)
    except UsageError as error:  # the package that brings a form is broken
        raise DataError(f"{name} cannot be read: {error.message}", error.hint) from None
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError,
            MemoryError) as error:  # fmt: skip
        raise DataError(f"{name} is a damaged model file: {reason_of(error)}", _HINT) from None


def serve(packed: StoredModel, build: Callable[[MakeTable], Backbone]) -> Backbone:
    """A model that scores from its tables as they are stored; not to be trained.

    Args:
        build: makes the model that the file names, over tables of a given kind.

    Raises `DataError` where the tables or the other weights are not those of the model.
    """
    made: list[str] = []

    def table(spec: TableSpec, rng: np.random.Generator) -> Table:
        if (stored := packed.tables.get(spec.name)) is None:
            raise misfit(packed, f"it lacks table '{spec.name}'")
        if stored.shape != (expected := (spec.n_rows, spec.dim)):
            shapes = f"{times(stored.shape)}, not {times(expected)}"
            raise misfit(packed, f"table '{spec.name}' is {shapes}")
        made.append(spec.name)
        return stored.table(spec)

    model = build(table)
    _same_names(packed, "table", packed.tables, made)
    rest = model.rest()
    _same_names(packed, "weight", packed.rest, rest)
    given = {name: torch.from_numpy(np.array(x)) for name, x in packed.rest.items()}
    for name, weight in rest.items():
        if given[name].shape != weight.shape or given[name].dtype != weight.dtype:
            raise misfit(
                packed,
                f"weight '{name}' is {times(given[name].shape)} {given[name].dtype}, "
                f"not {times(weight.shape)} {weight.dtype}",
            )
    model.load_state_dict(given, strict=False)
    return model.eval()


def misfit(packed: StoredModel, reason: str) -> DataError:
    """The error for a file that does not fit the model it names."""
    return DataError(f"{packed.name} does not fit the model it names: {reason}", _HINT)


def _same_names(
    packed: StoredModel, what: str, found: Iterable[str], expected: Iterable[str]
) -> None:
    for name in sorted(set(expected) ^ set(found)):
        if name in expected:
            raise misfit(packed, f"it lacks {what} '{name}'")
        raise misfit(packed, f"it has a {what} '{name}' that the model has not")


def _metadata(content: bytes) -> Any:
    """The header's free-form part; the library reads it from files only."""
    header = content[8 : 8 + int.from_bytes(content[:8], "little")]
    return json.loads(header).get("__metadata__", {})


def _model(about: dict[str, Any], arrays: Arrays, name: str) -> StoredModel:
    """The parts of a file put together; raises one of several errors where they don't fit."""
    for key, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"'{key}' has entries that are no finite numbers")
    left = dict(arrays)
    rest, known = (
        {k.removeprefix(start): left.pop(k) for k in arrays if k.startswith(start)}
        for start in ("rest.", "data.")
    )
    tables = {key: _table(key, entry, left) for key, entry in about["tables"].items()}
    if left:
        raise ValueError(f"'{min(left)}' belongs to no table")
    parts = {"reference": {}} | about
    for part in ("spec", "digests", "reference"):
        if not isinstance(parts[part], dict):
            raise ValueError(f"'{part}' is no table of values")
    return StoredModel(
        tables, rest, parts["spec"], parts["digests"], name, known, parts["reference"]
    )


def _table(name: str, entry: dict[str, Any], left: Arrays) -> Stored:
    """One table; its arrays are taken out of `left`."""
    n, d = entry["shape"]
    if not (isinstance(n, int) and isinstance(d, int) and n >= 0 and d >= 0):
        raise ValueError(f"table {name} has shape {entry['shape']}")
    try:
        return find(entry["form"]).read((n, d), entry, Parts(name, left))
    except ValueError as error:
        raise ValueError(f"table {name}: {error}") from None
