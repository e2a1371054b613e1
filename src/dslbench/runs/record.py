"""The record of a run: one model, by which it is written, read and described."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr

FORMAT = 3  # of run.json; raised when a reader of older records would misread newer ones
# Precisions that a run is judged at beside its own, where that is cheap; a reference where it is not vast.
USUAL = ("fp16", "int8", "int4")

Count = Annotated[StrictInt, Field(ge=0)]
Number = StrictInt | StrictFloat  # whole numbers stay whole: MACs are beyond what a float counts
Amount = Annotated[StrictInt | StrictFloat, Field(ge=0)]
Digest = StrictStr | None


class Part(BaseModel):
    """A section; what an older or newer version has beside it is kept, but means nothing here."""

    model_config = ConfigDict(frozen=True, extra="allow")


class Spec(Part):
    """What was asked for: `dslbench.spec.RunSpec`, and two copies from `hyper`."""

    dataset: StrictStr = Field(description="name or path of the data set")
    backbone: StrictStr = Field(description="name of the backbone; none: a reference has none")
    method: StrictStr = Field(description="name of the method, or of the reference")
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
    judged_on: Literal["test", "valid"] = Field(
        default="test",
        description="what `quality` is of: test; a trial of `tune` was given no test part, its is of "
        "validation",
    )
    embedding_size: Count | None = Field(
        default=None, description="copy from `hyper`; null for a reference"
    )
    layers: Count | None = Field(
        default=None, description="copy from `hyper`; null where there are none"
    )


class Data(Part):
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
    fold_in_digest: Digest = Field(
        default=None, description="the same of what is folded in for users held out of training"
    )
    content_digest: Digest = Field(
        default=None,
        description="of data of one's own: sha256 over pairs and original ids, whatever the file is called",
    )


class Selection(Part):
    """Which epoch was kept."""

    epoch: Count | None = Field(default=None, description="epoch of the last phase that was kept")
    on: Literal["valid", "test"] | None = Field(
        description="part of the data that chose it, of a reference its options; null: nothing was chosen"
    )
    rise: StrictFloat | None = Field(
        default=None,
        description="growth of the best recall@20 of that phase, on the part that chose, over the last "
        "fifth of its epochs; above 0.01 it still rose; null where too few were evaluated before",
    )


class StoredPart(Part):
    """One table as it is stored."""

    name: StrictStr = Field(description="the table's name")
    role: StrictStr = Field(description="embedding (rows of users or items) or layer")
    form: StrictStr = Field(description="its form in the model file")
    parameters: Count = Field(description="stored parameters, maps and codebooks included")
    bytes: Count = Field(description="bytes of its arrays on disk")


class StoredForm(Part):
    """The run's model with its embedding tables at one precision, read back and judged as stored."""

    precision: StrictStr = Field(description="fp32, fp16, bf16, int8, int6, int4, int3 or int2")
    bytes: Count | None = Field(
        description="bytes of the embedding tables on disk; null where values could not be rounded"
    )
    quality: dict[str, Number | None] | None = Field(description="as `quality`, of this model")
    reason: StrictStr | None = Field(default=None, description="why there is none")


class Budget(Part):
    """How small the model is."""

    dense_table_params: Count | None = Field(
        default=None, description="entries of the embedding tables at full size"
    )
    table_params: Count = Field(
        description="stored parameters of the embedding tables, maps of mixed sizes included"
    )
    achieved_sparsity: Annotated[Number, Field(le=1)] | None = Field(
        description="1 - table_params / dense_table_params; null for a reference"
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


class CountedPhase(Part):
    """MACs of one phase."""

    phase: StrictStr = Field(description="name of the phase")
    steps: Amount | None = Field(default=None, description="iterations")
    dense_gradient_steps: Amount | None = Field(
        default=None, description="those that needed the gradients of pruned entries"
    )
    macs_per_step: Amount | None = Field(default=None, description="MACs a step, on average")
    train_macs: Amount | None = Field(default=None, description="MACs, forward and backward")
    eval_macs: Amount | None = Field(default=None, description="MACs of choosing the epoch")


class Exact(Part):
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


class Paper(Part):
    """Costs by the paper's convention."""

    train_macs: Amount | None = Field(
        default=None, description="by the paper's convention; null where no formula is known"
    )
    infer_macs: Amount | None = Field(default=None, description="the same for inference")


class Counted(Part):
    """What was counted."""

    paper: Paper = Field(default=Paper(), description="by the paper's convention")
    exact: Exact = Field(default=Exact(), description="from realised non-zeros")


class StepSeconds(Part):
    """Quartiles of the duration of a step."""

    q1: Amount = Field(description="lower quartile, seconds")
    median: Amount = Field(description="median, seconds")
    q3: Amount = Field(description="upper quartile, seconds")


class MeasuredPhase(Part):
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
        default=None,
        description="id of the run that trained it and whose bill this is: a teacher's, or one with the "
        "same training",
    )


class Latency(Part):
    """Duration of ranking the 20 best items."""

    p50_seconds: Amount = Field(description="median, seconds")
    p95_seconds: Amount = Field(description="95th percentile, seconds")


class Measured(Part):
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


class Cost(Part):
    """What the run cost."""

    counted: Counted = Field(default=Counted(), description="counted costs")
    measured: Measured = Field(description="measured costs")


class Diagnostics(Part):
    """What the method found out; each method adds its own."""

    reached: StrictBool | None = Field(
        default=None, description="whether a search came down to the budget by itself"
    )
    explorations: Count | None = Field(
        default=None, description="moves of the mask up to the epoch that is stored"
    )
    explorations_in_all: Count | None = Field(
        default=None, description="moves of the mask in the whole training"
    )
    exact_share: StrictBool = Field(
        default=True, description="whether a student has exactly its share of columns"
    )
    chosen: dict[str, Any] = Field(
        default={},
        description="of a reference: options that the user left open, as they were chosen",
    )
    points: list[dict[str, Any]] = Field(
        default=[],
        description="of a reference: points of its grid with their Recall@20 on validation",
    )
    at_edge: list[StrictStr] = Field(
        default=[],
        description="of a reference: options whose best value lies at the edge of their grid",
    )
    student_widths: dict[str, Count] = Field(
        default={}, description="columns of a student's rows by table"
    )


class Environment(Part):
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


class Record(Part):
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
        description="metrics on test (`spec.judged_on`) of the model read back from its file, see below; "
        "`tied_users`: users whose list the tie-break decided in part"
    )
    stored: list[StoredForm] | None = Field(
        default=None, description="every precision that the stored model was judged at"
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
    check_described(found)
    return found.model_dump(mode="json", exclude_unset=True)


def check_described(found: Record) -> None:
    """Raise `ValueError` for a part of a record that this version does not describe."""
    for path, part in _parts(found):
        if part.model_extra and not isinstance(part, Diagnostics):
            raise ValueError(f"the record's '{path}{min(part.model_extra)}' is described nowhere")


def _parts(part: Part, path: str = "") -> Iterator[tuple[str, Part]]:
    yield path, part
    for name in type(part).model_fields:
        inner = getattr(part, name)
        for each in inner if isinstance(inner, list) else [inner]:
            if isinstance(each, Part):
                yield from _parts(each, f"{path}{name}.")


def describe(part: type[BaseModel] = Record, path: str = "") -> Iterator[tuple[str, str]]:
    """Every field of a record in order, and what it means."""
    for name, field in part.model_fields.items():
        inner = next((t for t in _types(field.annotation) if issubclass(t, Part)), None)
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
