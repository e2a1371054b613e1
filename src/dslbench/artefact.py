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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.numpy import load, save

from dslbench.errors import DataError, UsageError
from dslbench.evaluate import rank_users
from dslbench.tables import StoredRows, StoredTable

if TYPE_CHECKING:
    from dslbench.backbones.base import Backbone
    from dslbench.data.interactions import Interactions

Form = Literal["dense", "csr", "bitmap", "rows"]
Arrays = dict[str, npt.NDArray[Any]]
_FORMAT = "dslbench-model-1"


@dataclass(frozen=True)
class StoredModel:
    """What is kept of a trained model.

    Attributes:
        tables: packed tables by name.
        rest: all other weights and buffers by name.
        spec: the run's resolved spec as plain data.
        digests: the data's digests by part.
    """

    tables: Mapping[str, StoredTable]
    rest: Arrays
    spec: dict[str, Any]
    digests: dict[str, Any]


def stored(model: Backbone, spec: dict[str, Any], digests: Mapping[str, Any]) -> StoredModel:
    """Pack a trained model."""
    tables = {name: table.pack() for name, table in model.tables().items()}
    inside = {
        key
        for name, module in model.named_modules()
        if module in model.tables().values()
        for key in (f"{name}.{inner}" for inner in module.state_dict())
    }
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


def read(path: Path) -> StoredModel:
    """Read a model file; raises `DataError` for one that is missing, damaged or not ours."""
    try:
        return from_bytes(path.read_bytes(), str(path))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


def from_bytes(content: bytes, name: str = "the model") -> StoredModel:
    """The model in a file's content; `name` stands in error messages."""
    try:
        arrays = load(content)
        about = json.loads(_metadata(content).get("dslbench", "null"))
    except (SafetensorError, ValueError, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{name} is not a readable model file: {reason}") from None
    if not isinstance(about, dict) or about.get("format") != _FORMAT:
        raise DataError(f"{name} is a safetensors file, but not a model of dslbench")
    try:
        tables = {key: _unpack(key, entry, arrays) for key, entry in about["tables"].items()}
        rest = {k.removeprefix("rest."): x for k, x in arrays.items() if k.startswith("rest.")}
        return StoredModel(tables, rest, about["spec"], about["digests"])
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise DataError(
            f"{name} is a damaged model file ({type(error).__name__}: {error})"
        ) from None


def fill(model: Backbone, packed: StoredModel) -> None:
    """Put stored weights into a model of the same shape."""
    rest = {name: torch.from_numpy(np.array(x)) for name, x in packed.rest.items()}
    model.load_state_dict(rest, strict=False)
    for name, table in model.tables().items():
        table.load(packed.tables[name])


def rebuild(packed: StoredModel) -> Backbone:
    """The trained model, over its data set; raises `DataError` when the data are not the same."""
    from dslbench import data as datasets
    from dslbench.runs.worker import make_lab
    from dslbench.spec import RunSpec

    spec = RunSpec.model_validate(packed.spec)
    data = datasets.load(spec.dataset, protocol=spec.protocol)
    if data.digests != packed.digests:
        raise DataError(f"the model was trained on other data than '{spec.dataset}' is here")
    model = make_lab(spec, data, torch.device("cpu")).build(pretrained=False)
    fill(model, packed)
    return model.eval()


def top_k(model: Backbone, data: Interactions, users: Sequence[int], k: int) -> list[list[int]]:
    """The k best items of each user, best first, items known before testing left out.

    Raises `UsageError` for a user the model does not know.
    """
    if k < 1:
        raise UsageError(f"k is {k}, not a number of items")
    ids = np.asarray(users, dtype=np.int64)
    if len(ids) and not (ids.min() >= 0 and ids.max() < data.n_users):
        raise UsageError(f"users are numbered 0 to {data.n_users - 1}")
    return [
        row[row >= 0].tolist() for row in rank_users(model.scorer(), ids, data.seen_before_test, k)
    ]


def _metadata(content: bytes) -> dict[str, str]:
    """The header's free-form part; the library reads it from files only."""
    size = int.from_bytes(content[:8], "little")
    found: dict[str, str] = json.loads(content[8 : 8 + size]).get("__metadata__", {})
    return found


def _pack(table: StoredTable, form: Form) -> Arrays:
    d = table.shape[1]
    if form == "dense":
        return {"values": table.unpack().reshape(-1)}
    if isinstance(table, StoredRows):
        if form != "rows":
            raise UsageError(f"rows of different widths have no form '{form}'", "dense or rows")
        arrays = {"values": table.values, "counts": table.widths.astype(_unsigned(d))}
        for (segment, width), (weight, bias) in table.maps.items():
            arrays |= {f"map.{segment}.{width}": weight, f"bias.{segment}.{width}": bias}
        return arrays
    if form == "rows":
        raise UsageError("a table without widths has no form 'rows'", "dense, csr or bitmap")
    mask = np.ones(table.shape, dtype=bool) if table.mask is None else table.mask
    arrays = {"values": table.values, "counts": mask.sum(axis=1).astype(_unsigned(d))}
    if form == "bitmap":
        return arrays | {"bits": np.packbits(mask, axis=1, bitorder="little")}
    return arrays | {"columns": np.nonzero(mask)[1].astype(_unsigned(d))}


def _unpack(name: str, entry: dict[str, Any], arrays: Arrays) -> StoredTable:
    n, d = (int(size) for size in entry["shape"])
    form, values = entry["form"], arrays[f"{name}.values"]
    if form == "dense":
        if values.size != n * d:
            raise ValueError(f"table {name} has {values.size} values, shape {n} x {d}")
        return StoredTable((n, d), values, None)
    counts = arrays[f"{name}.counts"].astype(np.int64)
    if form == "rows":
        maps = {
            (int(s), int(w)): (arrays[f"{name}.map.{s}.{w}"], arrays[f"{name}.bias.{s}.{w}"])
            for s, w in entry["maps"]
        }
        segments = tuple(int(size) for size in entry["segments"])
        rows = StoredRows((n, d), values, None, counts, segments, maps)
        rows.check()
        return rows
    if form == "bitmap":
        bits = arrays[f"{name}.bits"]
        mask = np.unpackbits(bits, axis=1, count=d, bitorder="little").astype(bool)
    else:
        mask = np.zeros((n, d), dtype=bool)
        mask[np.repeat(np.arange(n), counts), arrays[f"{name}.columns"]] = True
    if mask.shape != (n, d) or not np.array_equal(mask.sum(axis=1), counts):
        raise ValueError(f"live entries of table {name} don't add up")
    if values.size != int(counts.sum()):
        raise ValueError(f"table {name} has {values.size} values for {int(counts.sum())} entries")
    return StoredTable((n, d), values, mask)


def _unsigned(largest: int) -> type[np.unsignedinteger[Any]]:
    return np.uint8 if largest < 256 else np.uint16 if largest < 65536 else np.uint32
