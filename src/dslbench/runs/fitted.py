"""Models of references as files: fitted again at what a stored run chose, and read back.

The store keeps no model of a reference, which may have gigabytes and is the same whenever it is fitted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from dslbench import artefact, registry
from dslbench.artefact import StoredModel
from dslbench.errors import RunError, UsageError, reason_of
from dslbench.references.base import Model
from dslbench.runs.assemble import data_of
from dslbench.runs.fitting import check_fits
from dslbench.spec import RunSpec
from dslbench.tables.base import Parts


def fit_again(record: Mapping[str, Any], precision: str = "fp32") -> StoredModel:
    """The model of a reference's run, at the options that the run chose.

    Raises `RunError` where the data are others by now, it does not fit into memory, or its values cannot
    be rounded, `UsageError` where its form has no file or no such precision.
    """
    spec = RunSpec.of_record(record["spec"])
    kind, data = registry.reference(spec.method), data_of(spec)
    if spec.identity(data.digests) != record["id"]:
        raise RunError(
            f"{spec.title} was made of other data, or by another version", "--fresh makes it anew"
        )
    check_fits(spec, data.train)
    options = kind.filled(spec.method_options, record["diagnostics"]["chosen"])
    model = kind.fit(data.train, options, spec.seed)
    if type(model) not in kind.models:
        raise UsageError(f"form '{model.form}' of {kind.label} is not kept in files")
    if precision != "fp32":
        try:
            model = model.rounded(precision)
        except ValueError as error:
            raise RunError(f"the model cannot be kept at {precision}: {error}") from None
    about = {"form": model.form, "options": options.model_dump(mode="json")} | model.about()
    return StoredModel(
        {}, model.arrays(), spec.model_dump(mode="json"), dict(data.digests), reference=about
    )


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
