"""The record of a run, and what else lies in its folder, checked on reading.

Files come from other machines, other versions and bad disks.

Each reader raises `ValueError` in one line that begins with the file's path.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, ValidationError

from dslbench.evaluation.metrics import METRICS, in_group
from dslbench.output import warn_once

FORMAT = 3  # of run.json; raised when a reader of older records would misread newer ones
_READABLE = (2, FORMAT)  # 2 lacks versions and bytes
_LARGEST = 10**30  # of any number in a record, far beyond what is counted or measured
_DEEPEST = 16

Count = Annotated[StrictInt, Field(ge=0)]
Number = Annotated[float, Field(strict=True)]  # takes whole numbers, too
Amount = Annotated[float, Field(strict=True, ge=0)]
Share = Annotated[float, Field(strict=True, ge=0, le=1)]
Digest = StrictStr | None


class _Part(BaseModel):
    """A section; what an older or newer version has beside it is kept, but means nothing here."""

    model_config = ConfigDict(frozen=True, extra="allow")


class Spec(_Part):
    """What was asked for: `dslbench.spec.RunSpec`, and two copies from `hyper`."""

    dataset: StrictStr = Field(description="name or path of the data set")
    backbone: StrictStr = Field(description="name of the backbone")
    method: StrictStr = Field(description="name of the method")
    variant: StrictStr = Field(description="named set of the method's options")
    protocol: StrictStr = Field(description="how the data is split, as it was asked for")
    preset: StrictStr = Field(description="name of the recipe")
    scale: StrictStr = Field(description="quick, laptop, paper or custom")
    sparsity: Annotated[float, Field(strict=True, ge=0, lt=1)] = Field(
        description="share of table entries to remove, 0 to 1; 0 for dense"
    )
    seed: Count = Field(description="seed of all random streams")
    epochs: Annotated[StrictInt, Field(ge=1)] = Field(description="epochs of each training")
    full_epochs: Annotated[StrictInt, Field(ge=1)] = Field(description="the preset's epochs")
    hyper: dict[str, Any] = Field(description="every hyper-parameter of the backbone, resolved")
    options: dict[str, Any] = Field(description="every option of the method, resolved")
    changed_hyper: dict[str, Any] = Field(description="hyper-parameters away from the preset")
    changed_options: dict[str, Any] = Field(description="options away from the variant")
    embedding_size: Count = Field(description="copy from `hyper`")
    layers: Count | None = Field(
        default=None, description="copy from `hyper`; null where there are none"
    )


class Data(_Part):
    """The data as it was split."""

    name: StrictStr = Field(description="name of the data set")
    protocol: StrictStr | None = Field(default=None, description="the protocol as resolved")
    users: Count = Field(description="number of users")
    items: Count = Field(description="number of items")
    train_pairs: Count = Field(description="number of pairs to train on")
    valid_pairs: Count | None = Field(default=None, description="number of validation pairs")
    test_pairs: Count | None = Field(default=None, description="number of test pairs")
    notes: list[StrictStr] = Field(description="sentences on how the split was made")
    train_digest: Digest = Field(
        description="sha256 of the pairs, see data/README.md; null for an empty part"
    )
    valid_digest: Digest = Field(description="the same of the validation pairs")
    test_digest: Digest = Field(description="the same of the test pairs")


class Selection(_Part):
    """Which epoch was kept."""

    epoch: Count | None = Field(default=None, description="epoch of the last phase that was kept")
    on: Literal["valid", "test"] = Field(description="part of the data that chose it")


class StoredPart(_Part):
    """One table as it is stored."""

    name: StrictStr = Field(description="the table's name")
    form: StrictStr = Field(description="its form in the model file")
    parameters: Count = Field(description="stored parameters, maps and codebooks included")
    bytes: Count = Field(description="bytes of its arrays on disk")


class Budget(_Part):
    """How small the model is."""

    dense_table_params: Count | None = Field(
        default=None, description="entries of the embedding tables at full size"
    )
    table_params: Count = Field(
        description="stored parameters of the embedding tables, maps of mixed sizes included"
    )
    achieved_sparsity: Annotated[Number, Field(le=1)] = Field(
        description="1 - table_params / dense_table_params"
    )
    dense_table_bytes: Count | None = Field(
        default=None, description="bytes of the embedding tables at full size, float32"
    )
    table_bytes: Count | None = Field(
        default=None, description="bytes of the embedding tables as they are stored"
    )
    total_params: Count | None = Field(
        default=None, description="all stored parameters of the model"
    )
    rows: Count | None = Field(default=None, description="rows of the embedding tables")
    empty_rows: Count | None = Field(
        default=None, description="how many of them have no entry left"
    )
    tables: list[StoredPart] | None = Field(
        default=None, description="every table of the model file"
    )


class CountedPhase(_Part):
    """MACs of one phase."""

    phase: StrictStr = Field(description="name of the phase")
    steps: Amount | None = Field(default=None, description="iterations")
    dense_gradient_steps: Amount | None = Field(
        default=None, description="those that needed the gradients of pruned entries"
    )
    macs_per_step: Amount | None = Field(default=None, description="MACs a step, on average")
    train_macs: Amount | None = Field(default=None, description="MACs, forward and backward")
    eval_macs: Amount | None = Field(default=None, description="MACs of choosing the epoch")


class Exact(_Part):
    """MACs from realised non-zeros."""

    train_macs: Amount | None = Field(
        default=None, description="MACs of all phases, forward and backward"
    )
    infer_macs: Amount | None = Field(
        default=None, description="MACs of one full ranking from the stored tables"
    )
    infer_users_counted: Count | None = Field(
        default=None, description="users that the ranking was counted on"
    )
    phases: list[CountedPhase] | None = Field(default=None, description="the bill by phase")


class Paper(_Part):
    """Costs by the paper's convention."""

    train_macs: Amount | None = Field(
        default=None, description="by the paper's convention; null where no formula is known"
    )
    infer_macs: Amount | None = Field(default=None, description="the same for inference")


class Counted(_Part):
    """What was counted."""

    paper: Paper = Field(default=Paper(), description="by the paper's convention")
    exact: Exact = Field(default=Exact(), description="from realised non-zeros")


class StepSeconds(_Part):
    """Quartiles of the duration of a step."""

    q1: Amount = Field(description="lower quartile, seconds")
    median: Amount = Field(description="median, seconds")
    q3: Amount = Field(description="upper quartile, seconds")


class MeasuredPhase(_Part):
    """Time and memory of one phase."""

    phase: StrictStr = Field(description="name of the phase")
    epochs: Amount = Field(description="epochs")
    steps: Amount = Field(description="iterations")
    step_seconds: StepSeconds | None = Field(default=None, description="duration of a step")
    state_bytes: Amount | None = Field(
        default=None, description="bytes of tables and optimiser at the end"
    )
    train_seconds: Amount = Field(description="seconds of training")
    eval_seconds: Amount = Field(description="seconds of choosing the epoch")
    selected_epoch: Count | None = Field(default=None, description="epoch that was kept")
    shared_run: StrictStr | None = Field(
        default=None, description="id of the run (a teacher's) whose bill this is"
    )


class Latency(_Part):
    """Duration of ranking the 20 best items."""

    p50_seconds: Amount = Field(description="median, seconds")
    p95_seconds: Amount = Field(description="95th percentile, seconds")


class Measured(_Part):
    """What was measured."""

    train_seconds: Amount | None = Field(default=None, description="seconds of all phases")
    eval_seconds: Amount | None = Field(default=None, description="seconds of choosing the epoch")
    test_seconds: Amount | None = Field(
        default=None, description="seconds of one full ranking from the stored tables"
    )
    peak_rss_bytes: Amount | None = Field(
        default=None, description="bytes, peak memory of the run's own process"
    )
    peak_cuda_bytes: Amount | None = Field(default=None, description="bytes, the same on the GPU")
    resumed: Count | None = Field(
        default=None, description="how many times the run went on from a checkpoint"
    )
    top_k_latency: dict[str, Latency | None] | None = Field(
        default=None,
        description="of ranking from the stored tables for `1` and for `1024` users at a time; null "
        "where there are fewer users or it would take too long",
    )
    energy_joules: Amount | None = Field(
        default=None,
        description="joules of the whole machine's processors, by Linux's RAPL counters; null "
        "without them, and for a run that was resumed",
    )
    stored_bytes: dict[str, Amount | None] | None = Field(
        default=None,
        description="bytes of all tables in each form they could have; null where one has not",
    )
    phases: list[MeasuredPhase] | None = Field(default=None, description="the bill by phase")


class Cost(_Part):
    """What the run cost."""

    counted: Counted = Field(default=Counted(), description="counted costs")
    measured: Measured = Field(description="measured costs")


class Diagnostics(_Part):
    """What the method found out; each method adds its own."""

    reached: StrictBool | None = Field(
        default=None, description="whether a search came down to the budget by itself"
    )
    explorations: Count | None = Field(default=None, description="moves of the mask")
    exact_share: StrictBool = Field(
        default=True, description="whether a student has exactly its share of columns"
    )
    student_widths: dict[str, Count] = Field(
        default={}, description="columns of a student's rows by table"
    )


class Environment(_Part):
    """The machine; nothing that names a person or a host."""

    cpu: StrictStr = Field(description="name of the processor")
    cores: Count = Field(description="its cores")
    threads: Count | None = Field(default=None, description="threads of the kernels")
    device: StrictStr = Field(description="cpu, or the name of the GPU")
    dslbench: StrictStr | None = Field(default=None, description="version of this package")
    python: StrictStr | None = Field(default=None, description="version of Python")
    torch: StrictStr | None = Field(default=None, description="version of torch")
    numpy: StrictStr | None = Field(default=None, description="version of numpy")
    scipy: StrictStr | None = Field(default=None, description="version of scipy")
    numba: StrictStr | None = Field(default=None, description="version of numba")
    system: StrictStr | None = Field(default=None, description="operating system")
    machine: StrictStr | None = Field(default=None, description="architecture")


class Record(_Part):
    """All that is known of a finished run. A missing number is null, never 0."""

    format: StrictInt = Field(default=FORMAT, description="of the record; 2 is read, too")
    id: StrictStr = Field(
        description="12 hexadecimal digits: hash over what decides the result (spec, data digests, "
        "versions)"
    )
    versions: dict[str, StrictInt] | None = Field(
        default=None, description="of the code that decides the result, part by part"
    )
    spec: Spec = Field(description="what was asked for")
    data: Data = Field(description="the data as it was split")
    quality: dict[str, Number | None] = Field(
        description="metrics on test of the model read back from its file, see below; `tied_users`: "
        "users whose list the tie-break decided in part"
    )
    selection: Selection = Field(description="which epoch was kept")
    budget: Budget = Field(description="how small the model is")
    diagnostics: Diagnostics | None = Field(default=None, description="what the method found out")
    cost: Cost = Field(description="what the run cost")
    environment: Environment = Field(description="the machine and the versions")
    started: StrictStr | None = Field(default=None, description="UTC, ISO 8601")
    finished: StrictStr | None = Field(default=None, description="UTC, ISO 8601")


def written(record: Mapping[str, Any]) -> dict[str, Any]:
    """A new record, checked; raises `ValueError` for a part that is wrong, missing or not described."""
    found = Record.model_validate(record)
    for path, part in _parts(found):
        if part.model_extra and not isinstance(part, Diagnostics):
            raise ValueError(f"the record's '{path}{min(part.model_extra)}' is described nowhere")
    return found.model_dump(mode="json", exclude_unset=True)


def _parts(part: _Part, path: str = "") -> Iterator[tuple[str, _Part]]:
    yield path, part
    for name in type(part).model_fields:
        inner = getattr(part, name)
        for each in inner if isinstance(inner, list) else [inner]:
            if isinstance(each, _Part):
                yield from _parts(each, f"{path}{name}.")


def describe(part: type[BaseModel] = Record, path: str = "") -> Iterator[tuple[str, str]]:
    """Every field of a record in order, and what it means."""
    for name, field in part.model_fields.items():
        inner = next((t for t in _types(field.annotation) if issubclass(t, _Part)), None)
        if inner is None:
            yield f"{path}{name}", field.description or ""
        else:
            many = any(issubclass(t, list) for t in _types(field.annotation))
            yield from describe(inner, f"{path}{name}{'[]' if many else ''}.")


def _types(annotation: Any) -> Iterator[type]:
    """The classes that an annotation is made of; of a dictionary only that it is one."""
    if get_origin(annotation) in (list, dict):
        yield get_origin(annotation)
        if get_origin(annotation) is dict:
            return
    if isinstance(annotation, type) and get_origin(annotation) is None:
        yield annotation
    for part in get_args(annotation):
        yield from _types(part)


def markdown() -> str:
    """The table of `describe`, for docs/file-format.md."""
    rows = [f"| `{path}` | {text} |" for path, text in describe()]
    return "\n".join(["| field | meaning, unit |", "|---|---|", *rows])


class _Epoch(_Part):
    phase: StrictStr
    epoch: Count
    loss: Number


def read_record(path: Path) -> dict[str, Any]:
    """A run's record."""
    found = _json(path)
    if not isinstance(found, dict) or found.get("format") not in _READABLE:
        other = found.get("format") if isinstance(found, dict) else None
        newer = isinstance(other, int) and other > FORMAT
        raise ValueError(
            f"{path}: record format {other!r:.40}, this version reads {_READABLE[0]} to {FORMAT}"
            + ("; a newer dslbench wrote it" if newer else "")
        )
    if "equal_cost" in found or "relative" in found:
        raise ValueError(f"{path}: not a stored record, but one made for a table")
    _check(path, Record, found)
    for key in in_group("quality"):
        if found["quality"].get(key) is None:
            raise ValueError(f"{path}: 'quality.{key}' is missing")
    strange = sorted(key for key in found["quality"] if key not in METRICS and key != "tied_users")
    if strange:
        warn_once(f"{path}: this version does not know the metric '{strange[0]}'; it is not shown")
    for key, value in found["quality"].items():
        least, most = METRICS[key].range if key in METRICS else (-math.inf, math.inf)
        if value is not None and not least <= value <= most:
            raise ValueError(
                f"{path}: 'quality.{key}' is {value}, not between {least:g} and {most:g}"
            )
    return found


def read_history(path: Path) -> list[dict[str, Any]]:
    """A row per epoch."""
    found = _json(path)
    if not isinstance(found, list):
        raise ValueError(f"{path}: not a list of epochs")
    for row in found:
        _check(path, _Epoch, row)
    return found


def read_per_user(path: Path) -> dict[str, npt.NDArray[Any]]:
    """`users` (U,) ids, ascending, and (U,) values of each metric."""
    try:
        with np.load(path, allow_pickle=False) as kept:
            found = dict(kept)
    except Exception as error:  # of the zip, the compression or the arrays: any kind
        raise ValueError(f"{path}: cannot be read ({type(error).__name__})") from None
    users = found.get("users")
    if (
        users is None
        or users.ndim != 1
        or users.dtype.kind not in "iu"
        or (np.diff(users) <= 0).any()
    ):
        raise ValueError(f"{path}: has no users in ascending order")
    for name, values in found.items():
        if values.shape != users.shape or values.dtype.kind not in "iufb":
            raise ValueError(f"{path}: {name!r} does not have a number for each user")
        if not np.isfinite(values).all():
            raise ValueError(f"{path}: {name!r} is not a number for each user")
    return found


def _json(path: Path) -> Any:
    try:
        found = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
        _check_values(found, _DEEPEST)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a text file") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: not valid JSON ({error.msg})") from None
    except RecursionError:
        raise ValueError(f"{path}: nested too deeply, not a run record") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return found


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is not a number")


def _check_values(node: Any, depth: int) -> None:
    """What would break a table or a terminal wherever it stood."""
    if depth < 0:
        raise ValueError("nested too deeply")
    if isinstance(node, str) and not node.isprintable():
        raise ValueError("has text that cannot be printed")
    if isinstance(node, int | float) and not -_LARGEST <= node <= _LARGEST:  # NaN is neither
        raise ValueError("has a number out of range")
    if isinstance(node, Mapping):
        for key, value in node.items():
            _check_values(key, depth - 1)
            _check_values(value, depth - 1)
    if isinstance(node, list):
        for value in node:
            _check_values(value, depth - 1)


def _check(path: Path, kind: type[BaseModel], found: Any) -> None:
    try:
        kind.model_validate(found)
    except ValidationError as error:
        where = [str(part) for part in error.errors()[0]["loc"]]
        if not where:
            raise ValueError(f"{path}: not of the right shape") from None
        what = f"'{'.'.join(where)}'" if len(where) > 1 else f"section '{where[0]}'"
        raise ValueError(f"{path}: {what} is missing or damaged") from None
