"""References beside the methods: a run of one stands in every table of its data, whatever the backbone."""

from __future__ import annotations

import json
from collections.abc import Sequence

from dslbench import registry
from dslbench.report.columns import Record
from dslbench.report.relative import data_of, setting_of
from dslbench.report.tables import group


def is_reference(record: Record) -> bool:
    """Whether a run is of a reference."""
    return registry.is_reference(record["spec"]["method"])


def without(records: Sequence[Record]) -> list[Record]:
    """The runs of methods alone."""
    return [record for record in records if not is_reference(record)]


def beside(records: Sequence[Record]) -> list[Record]:
    """The records, each reference once in every setting of the same data, split alike.

    Where there is no such setting, the references of the data stand together. Done twice it changes
    nothing more.
    """
    trained = without(records)
    references = [r for r in records if is_reference(r)]
    found: list[Record] = []
    for part in group(trained, setting_of):
        found += part
        own = [r for r in references if data_of(r) == data_of(part[0])]
        found += _once([{**r, "beside": setting_of(part[0])} for r in own])
    used = {data_of(r) for r in trained}
    return found + [r for r in references if data_of(r) not in used]


def _once(records: Sequence[Record]) -> list[Record]:
    """Each run once: it may have stood beside several settings already."""
    return list({json.dumps(r["id"]): r for r in records}.values())
