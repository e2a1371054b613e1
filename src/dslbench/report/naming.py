"""What data sets and presets are called in tables: a user's own data by what they hold, not by a path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dslbench import presets


def names(records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """A name for each content digest: the data set's, with a part of the digest where others share it."""
    first: dict[str, str] = {}
    for record in records:
        digest = _digest(record)
        if digest is not None:
            first.setdefault(digest, record["data"]["name"])
    taken = [record["spec"]["dataset"] for record in records if not _digest(record)]
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
        if not _digest(record):
            state = presets.state_of(record["spec"])
            record = {**record, "spec": {**record["spec"], "preset": state}}
        label = known.get(_digest(record) or "")
        if label is not None:
            record = {
                **record,
                "spec": {**record["spec"], "dataset": label},
                "data": {**record["data"], "name": label},
            }
        found.append(dict(record))
    return found


def called(records: Sequence[Mapping[str, Any]], wanted: str) -> list[Mapping[str, Any]]:
    """Those of a data set that is asked for by name, label or path.

    Data of one's own are what they hold: with one run of a name or path all of the same data are meant.
    """
    known = names(records)
    meant = {
        _digest(r) for r in records
        if wanted in (r["spec"]["dataset"], r["data"]["name"], known.get(_digest(r) or ""))
    } - {None}  # fmt: skip
    return [r for r in records if _digest(r) in meant or wanted == r["spec"]["dataset"]]


def name_of(record: Mapping[str, Any], known: Mapping[str, str]) -> str:
    """What a run's data set is called, where `known` has the names of one's own."""
    return known.get(_digest(record) or "") or str(record["spec"]["dataset"])


def _digest(record: Mapping[str, Any]) -> str | None:
    """Of the content of data of one's own."""
    found: str | None = record["data"].get("content_digest")
    return found
