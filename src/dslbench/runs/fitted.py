"""Models of stored runs at a precision; a reference's is fitted again at what its run chose, and read back.

The store keeps no model of a reference, which may have gigabytes and is the same whenever it is fitted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from dslbench import artefact, registry
from dslbench.artefact import StoredModel
from dslbench.data.interactions import Interactions
from dslbench.errors import RunError, UsageError, reason_of
from dslbench.references.base import Model
from dslbench.runs import store
from dslbench.runs.assemble import data_of, rounded
from dslbench.runs.fitting import check_fits
from dslbench.spec import RunSpec
from dslbench.tables.base import Parts


def model_of(record: Mapping[str, Any], precision: str = "fp32") -> StoredModel:
    """The model of a stored run, kept at a precision.

    Raises `RunError` where its values cannot be rounded to it, and as `fit_again` does for a reference.
    """
    if registry.is_reference(record["spec"]["method"]):
        return fit_again(record, precision)
    packed = artefact.from_bytes(
        store.model_bytes(record["id"]), f"the model of run {record['id']}"
    )
    # Data of one's own may lie elsewhere by now; the record knows.
    packed = replace(packed, spec=packed.spec | {"dataset": record["spec"]["dataset"]})
    if precision != "fp32":
        with _rounding(precision):
            packed = rounded(packed, precision, record["budget"])
    return packed


@contextmanager
def _rounding(precision: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise RunError(f"the model cannot be kept at {precision}: {error}") from None


@dataclass(frozen=True)
class Fitted:
    """A reference's model, and what it was fitted by and to.

    Attributes:
        options: complete.
    """

    spec: RunSpec
    options: Any
    data: Interactions
    model: Model


def refit(record: Mapping[str, Any]) -> Fitted:
    """A reference fitted again at the options that its run chose.

    Raises `RunError` where the data are others by now, or it does not fit into memory.
    """
    spec = RunSpec.of_record(record["spec"])
    kind, data = registry.reference(spec.method), data_of(spec)
    if spec.identity(data.digests) != record["id"]:
        raise RunError(
            f"{spec.title} was made of other data, or by another version", "--fresh makes it anew"
        )
    check_fits(spec, data.train)
    options = kind.filled(spec.method_options, record["diagnostics"]["chosen"])
    return Fitted(spec, options, data, kind.fit(data.train, options, spec.seed))


def fit_again(record: Mapping[str, Any], precision: str = "fp32") -> StoredModel:
    """The model of a reference's run, at the options that the run chose.

    Raises `RunError` where its values cannot be rounded, `UsageError` where its form has no file or no such
    precision, and as `refit` does.
    """
    found = refit(record)
    kind, model = registry.reference(found.spec.method), found.model
    if type(model) not in kind.models:
        raise UsageError(f"form '{model.form}' of {kind.label} is not kept in files")
    if precision != "fp32":
        with _rounding(precision):
            model = model.rounded(precision)
    about = {"form": model.form, "options": found.options.model_dump(mode="json")} | model.about()
    return StoredModel(
        {}, model.arrays(), found.spec.model_dump(mode="json"), dict(found.data.digests),
        reference=about,
    )  # fmt: skip


def read(packed: StoredModel, shape: tuple[int, int]) -> Model:
    """The reference in a model file, of (N, M) users and items; raises `DataError` where it is damaged."""
    arrays = {f"model.{name}": array for name, array in packed.rest.items()}
    form = packed.reference.get("form")
    try:
        kind = registry.reference(RunSpec.model_validate(packed.spec).method)
        found = next((one for one in kind.models if one.form == form), None)
        if found is None or packed.tables:
            raise ValueError(f"form {form!r} is none of {kind.label}'s")
        model = found.read(shape, packed.reference, Parts("model", arrays))
        if arrays:
            raise ValueError(f"'{min(arrays)}' belongs to nothing")
    except (ValidationError, UsageError, ValueError, KeyError, TypeError, OverflowError,
            MemoryError) as error:  # fmt: skip
        raise artefact.misfit(packed, reason_of(error)) from None
    return model
