"""Records of runs, written by hand."""

from __future__ import annotations

from typing import Any

from dslbench.runs import store
from dslbench.spec import current_versions


def record(
    method: str = "dense", recall: float = 0.1, seed: int = 0, **spec_changes: Any
) -> dict[str, Any]:
    sparsity = 0.0 if method == "dense" else 0.5
    spec = {
        "dataset": "toy", "backbone": "lightgcn", "method": method, "variant": "default",
        "sparsity": sparsity, "seed": seed, "epochs": 10, "scale": "quick", "full_epochs": 1000,
        "protocol": "default", "preset": "official", "embedding_size": 64, "layers": 3,
        "hyper": {"lr": 0.001}, "options": {}, "changed_hyper": {}, "changed_options": {},
    } | spec_changes  # fmt: skip
    quality = {"recall@20": recall, "ndcg@20": recall / 2, "hr@20": recall * 3, "tied_users": 0}
    return {
        "format": store.FORMAT,
        "versions": current_versions("lightgcn", "dense"),
        "id": f"{method}{seed}{spec['epochs']}{spec['protocol']}",
        "spec": spec,
        "data": {
            "name": "toy", "users": 1000, "items": 800, "train_pairs": 22855, "valid_pairs": 1,
            "test_pairs": 2, "train_digest": "a" * 64, "valid_digest": "b" * 64,
            "test_digest": "c" * 64, "notes": [],
        },
        "quality": quality,
        "stored": [
            {"precision": name, "bytes": int(size * (1 - sparsity)), "quality": quality}
            for name, size in (("fp32", 460_800), ("int4", 61_200))
        ],
        "selection": {"epoch": 10, "on": "valid"},
        "budget": {
            "dense_table_params": 115200, "table_params": int(115200 * (1 - sparsity)),
            "achieved_sparsity": sparsity, "total_params": 115200,
            "dense_table_bytes": 460_800, "table_bytes": int(460_800 * (1 - sparsity)),
        },
        "cost": {
            "counted": {"paper": {"train_macs": None, "infer_macs": None}},
            "measured": {"train_seconds": 12.5, "peak_rss_bytes": 2**29},
        },
        "environment": {"cpu": "Some CPU", "cores": 2, "device": "cpu"},
        "finished": f"2026-01-0{1 + seed}T00:00:00",
    }  # fmt: skip


RUNS = [
    record("rp", 0.08), record("dense", 0.10), record("dsl", 0.09),
    record("dsl", 0.094, seed=1), record("rp", 0.081, seed=1), record("dense", 0.101, seed=1),
]  # fmt: skip
