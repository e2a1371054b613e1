"""What the catalogue knows of the parts of a split, without the data."""

from __future__ import annotations

from dslbench.data.entries import DatasetEntry
from dslbench.data.protocols import Protocol


def pinned_digests(entry: DatasetEntry, protocol: Protocol) -> dict[str, str | None]:
    """Digest by part (train, valid, test) of a split, where the catalogue has one; None: it is empty."""
    found: dict[str, str | None] = {}
    if protocol.basic == "given":
        found = {file.role: file.digest for file in entry.files if file.digest is not None}
        found = {role: digest for role, digest in found.items() if role in ("train", "test")}
        if protocol.select_on_test:
            found["valid"] = None
        else:  # a part of the given train file is taken for validation
            found.pop("train", None)
    splits = entry.splits.get(protocol.name)
    return found | (splits.model_dump(exclude_none=True) if splits else {})
