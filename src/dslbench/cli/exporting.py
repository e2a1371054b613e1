"""Model files of stored runs, as `train --export` and `shrink` write them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dslbench import artefact
from dslbench.known import Known
from dslbench.output import say
from dslbench.report.references import is_reference
from dslbench.runs import fitted
from dslbench.runs.assemble import trained_on


def exported(record: Mapping[str, Any], precision: str, *, with_seen: bool) -> bytes:
    """The model file of a run at a precision, with the ids of its data.

    Args:
        with_seen: whether what users have seen goes with it.

    Raises `RunError` where it cannot be rounded to that precision.
    """
    if is_reference(record):
        say("fitting it again, as the store keeps no models of references ...")
    packed = fitted.model_of(record, precision)
    known = Known.of(trained_on(packed), pairs=with_seen)
    if with_seen:
        say("what users have seen is in the model file")
    elif is_reference(record):
        say(
            "what users have seen, from which a reference scores them, is not in the model file: --with-seen "
            "adds it"
        )
    else:
        say("what users have seen is not in the model file; --with-seen adds it")
    return artefact.to_bytes(replace(packed, known=known.arrays()))
