"""What is kept of a trained model, and whether it is as small as it was to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dslbench import artefact
from dslbench.artefact import StoredModel
from dslbench.backbones.base import Backbone
from dslbench.methods.base import Method
from dslbench.training.lab import Lab


@dataclass(frozen=True)
class Packed:
    """A packed model, and its sizes.

    Attributes:
        model: as it lies in the file.
        content: the file.
        budget: section `budget` of the record.
    """

    model: StoredModel
    content: bytes
    budget: dict[str, Any]


def pack(
    model: Backbone, method: Method, lab: Lab, spec: dict[str, Any], digests: Mapping[str, Any]
) -> Packed:
    """Pack a trained model; raises `RunError` where it is not within the method's allowance."""
    kept = artefact.pack(model, spec, digests, method.stored(model))
    specs = {n: t.spec for n, t in model.tables().items() if t.spec.role == "embedding"}
    own = [kept.tables[name] for name in specs]
    parameters, nbytes = sum(x.parameters for x in own), sum(x.nbytes for x in own)
    method.allowance(specs, lab.full_hyper).check(parameters, nbytes)
    dense = sum(spec.n_rows * lab.full_hyper.width(name) for name, spec in specs.items())
    stored = sum(table.parameters for table in kept.tables.values())
    budget = {
        "dense_table_params": dense,
        "table_params": parameters,
        "achieved_sparsity": 1 - parameters / dense,
        "dense_table_bytes": 4 * dense,
        "table_bytes": nbytes,
        "total_params": stored + model.other_parameters(),
        "rows": sum(spec.n_rows for spec in specs.values()),
        # A row without an entry is all zeros: its user or item is scored as if nothing were known of it.
        "empty_rows": sum(int((table.entries() == 0).sum()) for table in own),
        "tables": [
            {
                "name": n,
                "role": "embedding" if n in specs else "layer",
                "form": t.form,
                "parameters": t.parameters,
                "bytes": t.nbytes,
            }
            for n, t in kept.tables.items()
        ],
    }
    return Packed(kept, artefact.to_bytes(kept), budget)
