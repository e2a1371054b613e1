"""What data sets and presets are called in tables: a user's own data by what they hold, not by a path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dslbench import presets


def names(records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """A name for each content digest: the data set's, with a part of the digest where others share it."""
    first: dict[str, str] = {}
    for record in records:
        digest = record["data"].get("content_digest")
        if digest is not None:
            first.setdefault(digest, record["data"]["name"])
    taken = [
        record["spec"]["dataset"] for record in records if not record["data"].get("content_digest")
    ]
    shared = [*first.values(), *dict.fromkeys(taken)]
    return {
        digest: name if shared.count(name) == 1 else f"{name}#{digest[:6]}"
        for digest, name in first.items()
    }


def labelled(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The records with the names of their data sets in place of paths, and of a preset's earlier state."""
    known = names(records)
    found = []
    for record in records:
        # To look up a preset for own data is to read them.
        if not record["data"].get("content_digest"):
            state = presets.state_of(record["spec"])
            record = {**record, "spec": {**record["spec"], "preset": state}}
        label = known.get(record["data"].get("content_digest") or "")
        if label is not None:
            record = {
                **record,
                "spec": {**record["spec"], "dataset": label},
                "data": {**record["data"], "name": label},
            }
        found.append(dict(record))
    return found


def is_called(record: Mapping[str, Any], wanted: str, known: Mapping[str, str]) -> bool:
    """Whether a record is of a data set that is asked for by name, label or path."""
    label = known.get(record["data"].get("content_digest") or "")
    own = (label, record["data"]["name"]) if label is not None else ()
    return wanted in (record["spec"]["dataset"], *own)
