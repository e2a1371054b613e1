"""A lab, and models, from a spec or from a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from pydantic import ValidationError

from dslbench import artefact, registry
from dslbench import data as datasets
from dslbench.artefact import StoredModel
from dslbench.backbones.base import Backbone, Hyper
from dslbench.data.interactions import Interactions
from dslbench.errors import DataError, DslbenchError, RunError, UsageError, reason_of
from dslbench.evaluation.metrics import lists_hold_all
from dslbench.runs import store
from dslbench.spec import RunSpec
from dslbench.training.hooks import Phase
from dslbench.training.lab import Lab
from dslbench.training.progress import Keeper


def choose_device(name: str) -> torch.device:
    """The device for "auto", "cpu" or "cuda"; raises `UsageError` when it is not there."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("no CUDA device on this machine", "use --device cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def check_parts(data: Interactions, judged_on: Literal["test", "valid"] = "test") -> None:
    """Raise `DataError` or `UsageError` where data lack a part that a run on them needs."""
    if judged_on == "valid":
        check_has_validation(data)
    elif not data.test.nnz:
        raise DataError(
            f"protocol {data.protocol} leaves no test pairs in '{data.name}'",
            "choose another --protocol, or data with more items per user",
        )
    elif not data.valid.nnz and data.protocol != "paper":
        raise DataError(
            f"protocol {data.protocol} leaves no validation pairs in '{data.name}': "
            "its users have too few items",
            "--protocol paper selects on test, and says so",
        )


def check_has_validation(data: Interactions) -> None:
    """Raise `UsageError` or `DataError` for data that have nothing to choose on."""
    if not data.valid.nnz:
        if data.protocol == "paper":
            raise UsageError(
                "protocol paper has no validation part to choose on", "--protocol default"
            )
        raise DataError(
            f"protocol {data.protocol} leaves no validation pairs in '{data.name}' to choose on: "
            "its users have too few items",
            "data with more items per user, or with a file of validation pairs",
        )
    if all_listed := lists_hold_all(data.n_users, data.n_items, data.train.nnz):
        raise DataError(
            f"nothing can be chosen by recall in '{data.name}': {all_listed}",
            "data with more items",
        )


def make_lab(
    spec: RunSpec,
    data: Interactions,
    device: torch.device,
    emit: Any = None,
    keeper: Keeper | None = None,
) -> Lab:
    """The training loop's surroundings for a run."""
    backbone = registry.backbone(spec.backbone)
    if data.fold_in is not None and not backbone.folds_in:
        raise UsageError(
            f"{spec.backbone} cannot score users it was not trained on, as protocol strong asks",
            "--protocol default",
        )
    check_parts(data, spec.judged_on)
    full, dense = full_hyper(spec), spec.teacher
    return Lab(
        data, backbone, sized_hyper(spec), epochs=spec.epochs, seed=spec.seed, device=device, emit=emit,
        full_hyper=full,
        find_teacher=None if dense is None else partial(stored_teacher, dense, data, device),
        keeper=keeper,
    )  # fmt: skip


def data_of(spec: RunSpec, dataset: str | None = None) -> Interactions:
    """The data of a run, by the name in its spec or by another; without test pairs for a trial."""
    name = dataset or spec.dataset
    return datasets.load(name, protocol=spec.protocol, test=spec.judged_on == "test")


def full_hyper(spec: RunSpec) -> Hyper:
    """Hyper-parameters of the dense model that a run is compared with."""
    given = spec.hyper | {"epochs": spec.epochs}
    return registry.backbone(spec.backbone).hyper_type.model_validate(given)


def sized_hyper(spec: RunSpec) -> Hyper:
    """Hyper-parameters of the model that a run trains: a student is narrower than its teacher."""
    return registry.method(spec.method).size(full_hyper(spec), spec.sparsity)


def precision_of(packed: StoredModel, budget: Mapping[str, Any]) -> str:
    """How the values of the tables of users and items are kept."""
    return ", ".join(dict.fromkeys(packed.tables[n].precision for n in _embeddings(budget)))


def table_bytes(packed: StoredModel, budget: Mapping[str, Any]) -> int:
    """Bytes of the tables of users and items."""
    return sum(packed.tables[name].nbytes for name in _embeddings(budget))


def _embeddings(budget: Mapping[str, Any]) -> list[str]:
    return [table["name"] for table in budget["tables"] if table["role"] == "embedding"]


def rounded(packed: StoredModel, precision: str, budget: Mapping[str, Any]) -> StoredModel:
    """A stored model with the tables of users and items at a precision; at its own it is as it is.

    Args:
        budget: that section of the run's record, which says which tables these are.

    Raises `UsageError` for a precision that there is not, or that a form has not, and `ValueError` for
    values that cannot be rounded to it.
    """
    if precision == precision_of(packed, budget):
        return packed
    tables = {name: packed.tables[name].rounded(precision) for name in _embeddings(budget)}
    return replace(packed, tables={**packed.tables, **tables})


def served(packed: StoredModel, lab: Lab) -> Backbone:
    """The model of a file on a lab's device, over its tables as they are stored.

    Raises `DataError` where they are not those of the lab's model.
    """
    return artefact.serve(packed, lambda make_table: lab.build(make_table, pretrained=False))


def rebuild(packed: StoredModel, data: Interactions | None = None) -> Backbone:
    """The trained model as it is stored.

    Args:
        data: what it is built over; None: the data set that the file names, if it is the same here.

    Raises `DataError` when the data are not the same, or the file's spec is none or not that of
    its tables.
    """
    try:
        spec = RunSpec.model_validate(packed.spec)
        if data is None:
            data = trained_on(packed)
        lab = Lab(
            data,
            registry.backbone(spec.backbone),
            sized_hyper(spec),
            epochs=spec.epochs,
            seed=spec.seed,
        )
        return served(packed, lab)
    except (ValidationError, UsageError) as error:
        reason = f"its spec is not one of this version: {reason_of(error)}"
    except (ValueError, TypeError, RuntimeError, MemoryError) as error:
        reason = f"no model can be built by its spec: {reason_of(error)}"
    raise artefact.misfit(packed, reason)


def trained_on(packed: StoredModel, dataset: str | None = None) -> Interactions:
    """The data that a model was trained on, found by the name in its file or by another.

    Raises `DataError` where they are other data, or are not here.
    """
    return _same(RunSpec.model_validate(packed.spec), packed.digests, packed.name, dataset)


def data_of_record(record: Mapping[str, Any]) -> Interactions:
    """The data that a stored run was made on; raises `DataError` as `trained_on`."""
    digests = {
        k.removesuffix("_digest"): v for k, v in record["data"].items() if k.endswith("_digest")
    }
    return _same(RunSpec.of_record(record["spec"]), digests, f"run {record['id']}", None)


def _same(
    spec: RunSpec, digests: Mapping[str, str | None], what: str, dataset: str | None
) -> Interactions:
    """The data of a run, by the name in its spec or by another, where they are those of the digests."""
    try:
        data = data_of(spec, dataset)
    except DataError as error:
        raise DataError(f"{what}: {error.message}", error.hint) from None
    if any(digests.get(part) != data.digests.get(part) for part in {*digests, *data.digests}):
        raise DataError(
            f"{what} was trained on other data than '{dataset or spec.dataset}' is here",
            "dslbench download brings the data sets of the catalog",
        )
    return data


def stored_teacher(
    spec: RunSpec, data: Interactions, device: torch.device
) -> tuple[Backbone, Phase]:
    """The model of a stored run, and the run's whole bill as one phase.

    Raises `RunError` when the store has it no longer.
    """
    run_id = spec.identity(data.digests)
    try:
        record, packed = store.read(run_id), artefact.from_bytes(store.model_bytes(run_id))
    except (ValueError, DslbenchError) as error:
        raise RunError(
            f"the teacher ({spec.title}, run {run_id}) cannot be read: {error}",
            f"train it again: dslbench train --backbone {spec.backbone} --fresh, other settings alike",
        ) from None
    model = served(packed, make_lab(spec, data, device))
    phases = record["cost"]["measured"]["phases"]
    bill = Phase("teacher", sum(phase["epochs"] for phase in phases), run=run_id)
    bill.steps = sum(phase["steps"] for phase in phases)
    bill.train_seconds = sum(phase["train_seconds"] for phase in phases)
    bill.eval_seconds = sum(phase["eval_seconds"] for phase in phases)
    bill.selected_epoch = record["selection"]["epoch"]
    bill.rise = record["selection"].get("rise")
    bill.joules = record["cost"]["measured"]["energy_joules"]
    for phase in record["cost"]["counted"]["exact"]["phases"]:
        bill.ledger.steps += phase["steps"]
        bill.ledger.dense_steps += phase["dense_gradient_steps"]
        bill.ledger.train_macs += phase["train_macs"]
        bill.ledger.eval_macs += phase["eval_macs"]
    return model, bill
