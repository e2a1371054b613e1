"""What must be true of published runs; whatever is not is named with its reason."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dslbench import presets, registry
from dslbench.data.entries import catalog
from dslbench.data.pinned import pinned_digests
from dslbench.data.protocols import PROTOCOLS, resolve
from dslbench.errors import DslbenchError, reason_of
from dslbench.evaluation.metrics import METRICS, in_group
from dslbench.runs.record import Record, check_described
from dslbench.runs.results import folder as files
from dslbench.runs.results.command import spec_of
from dslbench.runs.results.submission import read
from dslbench.spec import RunSpec, current_versions
from dslbench.tables.stored import BITS

Found = Mapping[str, Any]
_PARTS = ("train", "valid", "test")


@dataclass(frozen=True)
class Bad:
    """A file that is not as it must be."""

    path: str
    reason: str


def check(folder: Path) -> tuple[list[dict[str, Any]], list[Bad]]:
    """Check a folder of published runs: each file, their index, and that none is there twice.

    Returns:
        the good ones, and what is wrong with the others.

    Raises `DataError` where it is no folder.
    """
    good: list[dict[str, Any]] = []
    bad: list[Bad] = []
    places: dict[str, str] = {}
    names = files.files(folder)
    try:
        known: dict[str, str] | None = files.read_index(folder) if names else {}
    except ValueError as error:
        known = None
        bad.append(Bad(files.INDEX, _without(folder / files.INDEX, error)))
    bad += [
        Bad(name, "in the index, but not in the folder") for name in sorted({*(known or ())} - {*names})
    ]  # fmt: skip
    for name in names:
        try:
            found = read(folder / name)
            _check_file(folder, name, found, known)
            first = places.setdefault(found["record"]["id"], name)
            if first != name:
                raise ValueError(f"the run is there already, as {first}")
            check_submission(found)
            if name != files.place(found):
                raise ValueError(f"its place is {files.place(found)}")
        except ValueError as error:
            bad.append(Bad(name, _without(folder / name, error)))
        else:
            good.append(found)
    return good, bad


def _without(path: Path, error: ValueError) -> str:
    return str(error).removeprefix(f"{path}").lstrip(":, ")


def _check_file(folder: Path, name: str, found: Found, known: Mapping[str, str] | None) -> None:
    if known is None:
        return
    if name not in known:
        raise ValueError("not in the index")
    if files.sha256(folder / name) != known[name]:
        raise ValueError("changed since the index was made: its sha256 is another")


def check_submission(found: Found) -> None:
    """Raise `ValueError` with the first thing that is wrong with a published run."""
    record = found["record"]
    try:
        check_described(Record.model_validate(record))
        spec = RunSpec.of_record(record["spec"])
    except (ValidationError, KeyError) as error:
        raise ValueError(f"its record: {reason_of(error)}") from None
    if unknown := sorted({*record["quality"]} - {*METRICS, "tied_users"}):
        raise ValueError(f"no metric '{unknown[0]}' is known")
    if spec.judged_on != "test":
        raise ValueError("it is a trial of tune: its quality is of validation")
    if presets.is_file(spec.preset):
        raise ValueError(
            "its preset is a file that others have not: make it by its values, as --set"
        )
    _check_data(record)
    _check_versions(record)
    _check_stored(record)
    if spec.is_reference:
        _check_reference(record, spec)
    else:
        _check_budget(record, spec)
    for row in record["stored"]:
        _check_row(row, record["budget"]["table_params"])
    _check_bill(record["cost"], may_be_unknown=spec.is_reference)
    _check_identity(found, spec)


def _check_data(record: Found) -> None:
    data, name = record["data"], record["spec"]["dataset"]
    if data.get("content_digest") is not None or name not in catalog():
        raise ValueError(f"data set '{name}' is not of the catalogue (dslbench list datasets)")
    if data["name"] != name:
        raise ValueError(f"its data are called {data['name']}, and {name} in its spec")
    entry, protocol = catalog()[name], record["spec"]["protocol"]
    if protocol not in PROTOCOLS:
        raise ValueError(f"no protocol '{protocol}' is known")
    resolved = resolve(protocol, entry)
    if data.get("protocol") != resolved.name:
        raise ValueError(f"protocol '{protocol}' is {resolved.name} here, not {data['protocol']}")
    chose, expected = record["selection"]["on"], "test" if resolved.select_on_test else "valid"
    nothing = chose is None and registry.is_reference(record["spec"]["method"])  # to choose
    if chose != expected and not nothing:
        raise ValueError(f"protocol '{protocol}' does not choose on {chose}")
    pinned = pinned_digests(entry, resolved)
    if pinned.get("test") is None:
        raise ValueError(f"the catalogue has no digests of '{name}' by protocol '{resolved.name}'")
    for part in _PARTS:
        if part in pinned and data[f"{part}_digest"] != pinned[part]:
            raise ValueError(f"the digest of {part} is not that of the catalogue's {name}")
    if data["train_pairs"] < 1:
        raise ValueError("it has no training pairs")
    for what in ("users", "items"):
        expected = getattr(entry.expect, what)
        if expected is not None and data[what] != expected:
            raise ValueError(f"{data[what]} {what}, the catalogue's {name} has {expected}")


def _check_versions(record: Found) -> None:
    made_by, spec = record.get("versions"), record["spec"]
    if made_by is None:
        raise ValueError("it does not say which versions of the code made it")
    try:
        now = current_versions(spec["backbone"], spec["method"])
    except DslbenchError as error:
        raise ValueError(error.message) from None
    if strange := sorted({*made_by} ^ {*now}):
        raise ValueError(f"its versions are not of the same parts as today's: '{strange[0]}'")
    for part, number in made_by.items():
        if not 1 <= number <= now[part]:
            raise ValueError(f"version {number} of '{part}' is not known, {now[part]} is today's")


def _check_row(row: Found, parameters: int) -> None:
    """A model at a precision: what could not be is named."""
    precision, nbytes = row["precision"], row["bytes"]
    least = parameters * BITS[precision] / 8 if precision in BITS else 1
    if nbytes is not None and nbytes < least:
        raise ValueError(f"{nbytes:,} bytes at {precision} are fewer than its values take")
    if not precision:
        raise ValueError("a precision has no name")
    quality = row["quality"]
    if quality is not None and (lacking := sorted({*in_group("quality")} - {*quality})):
        raise ValueError(f"its quality at {precision} lacks {lacking[0]}")
    for name in sorted({*METRICS} & {*(quality or {})}):
        value = quality[name]
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f"{name} {value!r} at {precision} is not between 0 and 1")


def _check_stored(record: Found) -> None:
    """Sizes add up."""
    budget, stored = record["budget"], record.get("stored")
    tables = budget.get("tables")
    if not tables or not stored or budget.get("table_bytes") is None:
        raise ValueError("its budget lacks tables, bytes or precisions: an older version made it")
    own = [table for table in tables if table["role"] == "embedding"]
    _same("parameters of its tables", sum(t["parameters"] for t in own), budget["table_params"])
    _same("bytes of its tables", sum(t["bytes"] for t in own), budget["table_bytes"])
    _same("bytes as trained", stored[0]["bytes"], budget["table_bytes"])
    whole = budget.get("total_params")
    if whole is not None and sum(t["parameters"] for t in tables) > whole:
        raise ValueError("its tables have more parameters than the whole model")
    _within("empty_rows", budget.get("empty_rows"), budget.get("rows"))
    if stored[0]["quality"] != record["quality"]:
        raise ValueError("the quality of the model as trained is not that of its record")
    if len({row["precision"] for row in stored}) < len(stored):
        raise ValueError("a precision is there twice")


def _check_reference(record: Found, spec: RunSpec) -> None:
    """No larger than a full matrix of items, or as many vectors as its options say; chosen as it says."""
    budget, items = record["budget"], record["data"]["items"]
    of_dense = ("dense_table_params", "dense_table_bytes", "achieved_sparsity")
    if strange := [key for key in of_dense if budget.get(key) is not None]:
        raise ValueError(f"a reference has no {strange[0]}")
    _same("parameters of the model", budget["table_params"], budget["total_params"])
    widths = [value for value in spec.options.values() if isinstance(value, int)]
    most, found = items * max([items, *widths]), budget["table_params"]
    if not 0 < found <= most:
        raise ValueError(f"{found:,} values, where {items:,} items have at most {most:,}")
    chosen = record.get("diagnostics") or {}
    grid, point = chosen.get("grid", {}), chosen.get("chosen")
    selection = record["selection"]
    if (selection["on"] == "valid") != bool(grid) or selection["epoch"] is not None:
        raise ValueError("its selection is not that of a grid")
    if point is None or any(point.get(key) not in choices for key, choices in grid.items()):
        raise ValueError("what it chose is not of its grid")


def _check_budget(record: Found, spec: RunSpec) -> None:
    budget = record["budget"]
    dense = budget.get("dense_table_params")
    if not dense:
        raise ValueError("its budget lacks the size of dense: an older version made it")
    _same("bytes of dense tables", 4 * dense, budget.get("dense_table_bytes"))
    _same("sparsity", 1 - budget["table_params"] / dense, budget["achieved_sparsity"])
    _within("epoch", record["selection"]["epoch"], spec.epochs)
    width = spec.hyper.get("embedding_size", 0)
    if not isinstance(width, int):
        raise ValueError(f"embedding_size {width!r} is no whole number")
    # Whole rows are what AutoEmb and ESAPN come near with; `natural` is free.
    most = dense - math.floor(spec.sparsity * dense) + width
    if spec.sparsity and spec.variant != "natural" and budget["table_params"] > most:
        raise ValueError(
            f"{budget['table_params']:,} parameters of {dense:,} are more than sparsity "
            f"{spec.sparsity:g} leaves"
        )


def _check_bill(cost: Found, *, may_be_unknown: bool) -> None:
    """Phases add up; MACs of some references cannot be counted."""
    exact, measured = cost["counted"].get("exact") or {}, cost["measured"]
    counted, timed = exact.get("phases"), measured.get("phases")
    if not counted or not timed:
        raise ValueError("it has no bill by phase")
    if [p["phase"] for p in counted] != [p["phase"] for p in timed]:
        raise ValueError("its counted and measured phases are not the same")
    macs = _sum(counted, "train_macs"), exact.get("train_macs")
    if not may_be_unknown or macs != (None, None):
        _same("MACs of its phases", *macs)
    _same("seconds of its phases", _sum(timed, "train_seconds"), measured.get("train_seconds"))


def _sum(phases: Sequence[Found], key: str) -> float | None:
    values = [phase.get(key) for phase in phases]
    return None if None in values else sum(value for value in values if value is not None)


def _same(what: str, found: float | None, said: float | None) -> None:
    if found is None or said is None or not math.isclose(found, said, rel_tol=1e-9, abs_tol=1e-12):
        raise ValueError(f"{what}: {found} in all, but its record says {said}")


def _within(what: str, value: int | None, most: int | None) -> None:
    if value is not None and most is not None and not 0 <= value <= most:
        raise ValueError(f"{what} {value:,}, where there are {most:,}")


def _differing(asked: Found, made: Found) -> str | None:
    """The first part in which two specs differ; a setting that is newer than the record is none."""
    for key, value in made.items():
        if key not in ("hyper", "options"):
            if asked.get(key) != value:
                return key
        elif any(inner not in asked[key] or asked[key][inner] != v for inner, v in value.items()):
            return key
    return None


def _check_identity(found: Found, spec: RunSpec) -> None:
    """The command makes the run, and the run has its id."""
    record = found["record"]
    try:
        asked = spec_of(found["command"])
    except (DslbenchError, ValidationError) as error:
        raise ValueError(getattr(error, "message", None) or reason_of(error)) from None
    if (other := _differing(asked.decisive(), spec.decisive())) is not None:
        raise ValueError(f"its command makes another run: '{other}' differs")
    sizes = spec.hyper.get("embedding_size"), spec.hyper.get("layers")
    if (record["spec"]["embedding_size"], record["spec"].get("layers")) != sizes:
        raise ValueError("its embedding size or layers are not those of its hyper-parameters")
    if asked.full_epochs != spec.full_epochs:
        raise ValueError(f"the preset has {asked.full_epochs} epochs, not {spec.full_epochs}")
    digests = {part: record["data"][f"{part}_digest"] for part in _PARTS}
    if record["data"].get("fold_in_digest") is not None:
        digests["fold_in"] = record["data"]["fold_in_digest"]
    if (made := spec.identity(digests, record["versions"])) != record["id"]:
        raise ValueError(f"its id is {record['id']}, but its spec, data and versions make {made}")
