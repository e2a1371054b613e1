"""The model file: live entries of every table, packed, with what is needed to rebuild the model.

A safetensors file (no code is executed on reading). A table `t` of shape (n, d) is kept as

* dense: `t.values`, n d float32;
* bitmap: `t.values`, the live entries row by row, float32; `t.bits`, (n, ceil(d / 8)) uint8, bit
  k of a row set where column k is live (little-endian within a byte); `t.counts`, live entries
  per row, in the smallest unsigned integer that holds d;
* csr: `t.values`; `t.columns`, in the smallest unsigned integer that holds d; `t.counts`;
* rows: `t.values`, rows of different widths one after the other, float32; `t.counts`, the width
  of each (its offset is the sum of those before); for each map of width w in segment s `t.map.s.w`
  and `t.bias.s.w`, see `tables.rows.StoredRows`. The metadata names the segments and the maps.

Other weights are `rest.NAME`. The metadata holds the format, the run's resolved spec, the data's
digests and the shapes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from dslbench.errors import DataError, UsageError
from dslbench.ranking import Ranker
from dslbench.tables import StoredRows, StoredTable

if TYPE_CHECKING:
    from dslbench.backbones.base import Backbone
    from dslbench.data.interactions import Interactions

Form = Literal["dense", "csr", "bitmap", "rows"]
Arrays = dict[str, npt.NDArray[Any]]
_FORMAT = "dslbench-model-1"
_HINT = (
    "write it again: dslbench train ... --export FILE (--fresh where the store's own is damaged)"
)


@dataclass(frozen=True)
class StoredModel:
    """What is kept of a trained model.

    Attributes:
        tables: packed tables by name.
        rest: all other weights and buffers by name.
        spec: the run's resolved spec as plain data.
        digests: the data's digests by part.
        name: what error messages call it: the file where it was read from one.
    """

    tables: Mapping[str, StoredTable]
    rest: Arrays
    spec: dict[str, Any]
    digests: dict[str, Any]
    name: str = "the model"


def stored(model: Backbone, spec: dict[str, Any], digests: Mapping[str, Any]) -> StoredModel:
    """Pack a trained model."""
    tables = {name: table.pack() for name, table in model.tables().items()}
    inside = _inside(model)
    rest = {k: v.cpu().numpy() for k, v in model.state_dict().items() if k not in inside}
    return StoredModel(tables, rest, spec, dict(digests))


def to_bytes(model: StoredModel, form: Form | None = None) -> bytes:
    """The file's content; `form` None packs every table in the form that suits it (`usual_form`)."""
    arrays: Arrays = {f"rest.{name}": np.asarray(x, order="C") for name, x in model.rest.items()}
    shapes: dict[str, dict[str, Any]] = {}
    for name, table in model.tables.items():
        chosen = form or usual_form(table)
        shapes[name] = {"shape": list(table.shape), "form": chosen}
        if isinstance(table, StoredRows) and chosen == "rows":
            maps = [list(key) for key in table.maps]
            shapes[name] |= {"segments": list(table.segments), "maps": maps}
        arrays |= {f"{name}.{part}": x for part, x in _pack(table, chosen).items()}
    about = {"format": _FORMAT, "tables": shapes, "spec": model.spec, "digests": model.digests}
    return bytes(save(arrays, metadata={"dslbench": json.dumps(about)}))


def usual_form(table: StoredTable) -> Form:
    """Rows of different widths as such, masked tables as bitmaps, full ones as they are."""
    if isinstance(table, StoredRows):
        return "rows"
    return "dense" if table.mask is None else "bitmap"


def table_bytes(model: StoredModel) -> dict[str, int | None]:
    """Bytes of the tables' arrays in each form, as they would lie on disk.

    Rows of different widths have no csr or bitmap form and other tables no rows: None. In a model
    that has the former, "rows" counts the latter in their usual form.
    """
    tables = model.tables.values()
    mixed = any(isinstance(table, StoredRows) for table in tables)
    forms: dict[str, list[Form] | None] = {
        "dense": ["dense" for _ in tables],
        "csr": None if mixed else ["csr" for _ in tables],
        "bitmap": None if mixed else ["bitmap" for _ in tables],
        "rows": [usual_form(table) for table in tables] if mixed else None,
    }
    return {
        name: None if chosen is None else sum(
            x.nbytes
            for table, form in zip(tables, chosen, strict=True)
            for x in _pack(table, form).values()
        )
        for name, chosen in forms.items()
    }  # fmt: skip


def empty_rows(packed: StoredModel, names: Iterable[str] | None = None) -> int:
    """Number of rows that have no entry left, over the tables of the given names (None: all).

    Such a row is all zeros: the model scores its user or item as if it knew nothing of it.
    """
    chosen = packed.tables if names is None else names
    return sum(int((_entries(packed.tables[name]) == 0).sum()) for name in chosen)


def read(path: Path | str) -> StoredModel:
    """Read a model file; raises `DataError` for one that is missing, damaged or not ours."""
    try:
        return from_bytes(Path(path).read_bytes(), str(path))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


def from_bytes(content: bytes, name: str = "the model") -> StoredModel:
    """The model in a file's content; `name` stands in error messages.

    Raises `DataError` for what is no such file, or has parts that are missing, too many, of
    another type or shape than the format says, or not finite.
    """
    try:
        arrays = load(content)
        about = json.loads(_metadata(content).get("dslbench", "null"))
    except (SafetensorError, ValueError, LookupError, TypeError, AttributeError,
            RecursionError, MemoryError) as error:  # fmt: skip
        raise DataError(f"{name} is not a readable model file: {_reason(error)}", _HINT) from None
    if not isinstance(about, dict) or about.get("format") != _FORMAT:
        raise DataError(
            f"{name} is a safetensors file, but not a model of dslbench ({_FORMAT})",
            "dslbench train ... --export FILE writes one",
        )
    try:
        return _model(about, arrays, name)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError,
            MemoryError) as error:  # fmt: skip
        raise DataError(f"{name} is a damaged model file: {_reason(error)}", _HINT) from None


def fill(model: Backbone, packed: StoredModel) -> None:
    """Put stored weights into a model of the same shape.

    Raises `DataError` where the tables or the other weights are not those of the model.
    """
    tables = model.tables()
    _same_names(packed, "table", packed.tables, tables)
    for name, table in tables.items():
        expected, found = (table.spec.n_rows, table.spec.dim), packed.tables[name].shape
        if found != expected:
            raise _misfit(packed, f"table '{name}' is {_times(found)}, not {_times(expected)}")
    rest = {k: v for k, v in model.state_dict().items() if k not in _inside(model)}
    _same_names(packed, "weight", packed.rest, rest)
    given = {name: torch.from_numpy(np.array(x)) for name, x in packed.rest.items()}
    for name, weight in rest.items():
        if given[name].shape != weight.shape or given[name].dtype != weight.dtype:
            raise _misfit(
                packed,
                f"weight '{name}' is {_times(given[name].shape)} {given[name].dtype}, "
                f"not {_times(weight.shape)} {weight.dtype}",
            )
    model.load_state_dict(given, strict=False)
    for name, table in tables.items():
        table.load(packed.tables[name])


def rebuild(packed: StoredModel) -> Backbone:
    """The trained model, over its data set.

    Raises `DataError` when the data are not the same, or the file's spec is none or not that of
    its tables.
    """
    from dslbench import data as datasets
    from dslbench.runs.worker import make_lab
    from dslbench.spec import RunSpec

    try:
        spec = RunSpec.model_validate(packed.spec)
        data = datasets.load(spec.dataset, protocol=spec.protocol)
        if data.digests != packed.digests:
            raise DataError(
                f"{packed.name} was trained on other data than '{spec.dataset}' is here",
                "dslbench download brings the data sets of the catalog",
            )
        model = make_lab(spec, data, torch.device("cpu")).build(pretrained=False)
    except (ValidationError, UsageError) as error:
        raise _misfit(packed, f"its spec is not one of this version: {_reason(error)}") from None
    except (ValueError, TypeError, RuntimeError, MemoryError) as error:
        raise _misfit(packed, f"no model can be built by its spec: {_reason(error)}") from None
    fill(model, packed)
    return model.eval()


def top_k(model: Backbone, data: Interactions, users: Sequence[int], k: int) -> list[list[int]]:
    """The k best items of each user, best first, items known before testing left out.

    Raises `UsageError` for a user the model does not know, or a k below 1.
    """
    ids = np.asarray(users, dtype=np.int64)
    if len(ids) and not (ids.min() >= 0 and ids.max() < data.n_users):
        raise UsageError(f"users are numbered 0 to {data.n_users - 1}")
    items, _ = Ranker(model.scorer(), data.seen_before_test, k)(ids)
    return [row[row >= 0].tolist() for row in items]


def _inside(model: Backbone) -> set[str]:
    """Names of the weights that belong to tables."""
    tables = set(model.tables().values())
    return {
        f"{name}.{inner}"
        for name, module in model.named_modules()
        if module in tables
        for inner in module.state_dict()
    }


def _same_names(
    packed: StoredModel, what: str, found: Iterable[str], expected: Iterable[str]
) -> None:
    missing, foreign = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing:
        raise _misfit(packed, f"it lacks {what} '{missing[0]}'")
    if foreign:
        raise _misfit(packed, f"it has a {what} '{foreign[0]}' that the model has not")


def _misfit(packed: StoredModel, reason: str) -> DataError:
    return DataError(f"{packed.name} does not fit the model it names: {reason}", _HINT)


def _times(shape: Iterable[int]) -> str:
    return " x ".join(map(str, shape)) or "one number"


def _reason(error: BaseException) -> str:
    """An error in one line, whatever stands in the file."""
    text = str(error)
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        text = f"'{where}': {first['msg'].lower()}"
    if isinstance(error, KeyError):
        text = f"{error} is missing"
    line = (text or type(error).__name__).partition("\n")[0]
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line[:200])


def _metadata(content: bytes) -> dict[str, str]:
    """The header's free-form part; the library reads it from files only."""
    size = int.from_bytes(content[:8], "little")
    found: dict[str, str] = json.loads(content[8 : 8 + size]).get("__metadata__", {})
    return found


def _entries(table: StoredTable) -> npt.NDArray[np.int64]:
    """Stored entries of each row, (n,)."""
    if isinstance(table, StoredRows):
        return table.widths
    mask = np.ones(table.shape, dtype=bool) if table.mask is None else table.mask
    return np.asarray(mask.sum(axis=1), dtype=np.int64)


def _pack(table: StoredTable, form: Form) -> Arrays:
    d = table.shape[1]
    if form == "dense":
        return {"values": table.unpack().reshape(-1)}
    if isinstance(table, StoredRows):
        if form != "rows":
            raise UsageError(f"rows of different widths have no form '{form}'", "dense or rows")
        arrays = {"values": table.values, "counts": _entries(table).astype(_unsigned(d))}
        for (segment, width), (weight, bias) in table.maps.items():
            arrays |= {f"map.{segment}.{width}": weight, f"bias.{segment}.{width}": bias}
        return arrays
    if form == "rows":
        raise UsageError("a table without widths has no form 'rows'", "dense, csr or bitmap")
    mask = np.ones(table.shape, dtype=bool) if table.mask is None else table.mask
    arrays = {"values": table.values, "counts": _entries(table).astype(_unsigned(d))}
    if form == "bitmap":
        return arrays | {"bits": np.packbits(mask, axis=1, bitorder="little")}
    columns = np.broadcast_to(np.arange(d, dtype=_unsigned(d)), mask.shape)
    return arrays | {"columns": columns[mask]}


def _model(about: dict[str, Any], arrays: Arrays, name: str) -> StoredModel:
    """The parts of a file put together; raises one of several errors where they don't fit."""
    for key, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"'{key}' has entries that are no finite numbers")
    left = dict(arrays)
    rest = {k.removeprefix("rest."): left.pop(k) for k in arrays if k.startswith("rest.")}
    tables = {key: _unpack(key, entry, left) for key, entry in about["tables"].items()}
    if left:
        raise ValueError(f"'{min(left)}' belongs to no table")
    for part in ("spec", "digests"):
        if not isinstance(about[part], dict):
            raise ValueError(f"'{part}' is no table of values")
    return StoredModel(tables, rest, about["spec"], about["digests"], name)


def _unpack(name: str, entry: dict[str, Any], left: Arrays) -> StoredTable:
    """One table; its arrays are taken out of `left`."""
    n, d = entry["shape"]
    if not (isinstance(n, int) and isinstance(d, int) and n >= 0 and d >= 0):
        raise ValueError(f"table {name} has shape {entry['shape']}")
    form = entry["form"]

    def take(part: str, kind: npt.DTypeLike, shape: tuple[int, ...] | None = None) -> Any:
        """An array of the table; `shape` None: any, with one axis."""
        array = left.pop(f"{name}.{part}")
        if array.dtype != kind or array.ndim != (1 if shape is None else len(shape)):
            raise ValueError(f"'{name}.{part}' is {array.dtype} with {array.ndim} axes")
        if shape is not None and array.shape != shape:
            raise ValueError(f"'{name}.{part}' is {_times(array.shape)}, not {_times(shape)}")
        return array

    if form == "dense":
        return StoredTable((n, d), take("values", np.float32, (n * d,)), None)
    if form not in ("bitmap", "csr", "rows"):
        raise ValueError(f"table {name} has the unknown form {form!r}")
    values = take("values", np.float32)
    counts = take("counts", _unsigned(d), (n,)).astype(np.int64)
    if form == "rows":
        maps = {
            (int(s), int(w)): (left.pop(f"{name}.map.{s}.{w}"), left.pop(f"{name}.bias.{s}.{w}"))
            for s, w in entry["maps"]
        }
        segments = tuple(int(size) for size in entry["segments"])
        rows = StoredRows((n, d), values, None, counts, segments, maps)
        rows.check()
        return rows
    if values.size != int(counts.sum()):
        raise ValueError(f"table {name} has {values.size} values for {int(counts.sum())} entries")
    # What is packed again must be what was read: in order, nothing twice, no bit beyond a row's end.
    if form == "bitmap":
        bits = take("bits", np.uint8, (n, -(-d // 8)))
        mask = np.unpackbits(bits, axis=1, count=d, bitorder="little").astype(bool)
        same = np.array_equal(np.packbits(mask, axis=1, bitorder="little"), bits)
    else:
        columns = take("columns", _unsigned(d), values.shape)
        mask = np.zeros((n, d), dtype=bool)
        mask[np.repeat(np.arange(n), counts), columns] = True
        same = np.array_equal(np.nonzero(mask)[1], columns)
    if not same or not np.array_equal(mask.sum(axis=1), counts):
        raise ValueError(f"live entries of table {name} don't add up")
    return StoredTable((n, d), values, mask)


def _unsigned(largest: int) -> type[np.unsignedinteger[Any]]:
    return np.uint8 if largest < 256 else np.uint16 if largest < 65536 else np.uint32
