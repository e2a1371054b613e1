"""One run from its spec to its record in the store."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch

from dslbench.cost import counted, measured, paper
from dslbench.runs import store
from dslbench.runs.assemble import data_of, precision_of
from dslbench.runs.record import FORMAT, USUAL, written
from dslbench.runs.worker.fit import make_reference
from dslbench.runs.worker.judge import is_cheap, judge, judge_rounded, of_users
from dslbench.runs.worker.pack import pack
from dslbench.runs.worker.train import train_on
from dslbench.spec import RunSpec
from dslbench.tables.stored import BITS, sizes_by_form
from dslbench.training.hooks import Phase


def make_run(
    spec: RunSpec, device: torch.device, emit: Any, shared: Mapping[str, bool] | None = None
) -> dict[str, Any]:
    """Make one run, judge the model as it is stored, and return its record.

    A run that was broken off goes on from its last checkpoint; a reference's has none.

    Args:
        shared: keys of the trainings to be taken over, or kept for other runs, and whether they were there.
    """
    if spec.is_reference:
        return make_reference(spec, emit)
    started, energy = datetime.now(UTC), measured.Energy()
    counted.engine()
    data = data_of(spec)
    (model, method, lab), kept = train_on(spec, data, device, emit, shared or {})
    packed = pack(model, method, lab, spec.model_dump(mode="json"), data.digests)
    diagnostics = method.diagnostics()
    del model, method  # so that the peak of memory is that of training, not of two models
    gc.collect()
    judged = judge(packed.content, lab, spec.judged_on)
    train_seconds = sum(phase.train_seconds for phase in lab.phases)
    own_bits = BITS.get(precision_of(packed.model, packed.budget), 0)
    narrower = tuple(name for name in USUAL if BITS[name] < own_bits)
    usual = spec.judged_on == "test" and is_cheap(judged.test_seconds, train_seconds)
    wanted = narrower if usual else ()
    rounded = judge_rounded(packed.model, packed.budget, wanted, lab)
    # A run in several processes has been counted in the last of them only.
    joules = [None if kept.resumed else energy.joules(), *(p.joules for p in lab.phases if p.run)]
    record = written({
        "format": FORMAT,
        "id": spec.identity(data.digests),
        "versions": spec.versions(),
        "spec": spec.model_dump()
        | {"embedding_size": spec.hyper["embedding_size"], "layers": spec.hyper.get("layers")},
        "data": data.summary(),
        "quality": judged.result.means | {"tied_users": judged.result.ties},
        "stored": [
            {
                "precision": precision_of(packed.model, packed.budget),
                "bytes": packed.budget["table_bytes"],
                "quality": judged.result.means | {"tied_users": judged.result.ties},
            },
            *(found.row for found in rounded),
        ],
        "selection": _selection(lab.phases) | {"on": lab.selects_on},
        "budget": packed.budget,
        "diagnostics": diagnostics,
        "cost": {
            "counted": {
                "paper": paper.paper_costs(spec, data)._asdict(),
                "exact": {
                    "train_macs": sum(phase.ledger.train_macs for phase in lab.phases),
                    "infer_macs": judged.infer_macs,
                    "infer_users_counted": judged.infer_users,
                    "phases": [
                        {"phase": phase.name} | phase.ledger.summary() for phase in lab.phases
                    ],
                },
            },
            "measured": {
                "train_seconds": train_seconds,
                "eval_seconds": sum(phase.eval_seconds for phase in lab.phases),
                "test_seconds": judged.test_seconds,
                **kept.peaks(),
                "resumed": kept.resumed,
                "top_k_latency": judged.latency,
                "energy_joules": _sum_of_known(joules),
                "stored_bytes": sizes_by_form(packed.model.tables.values()),
                "phases": [_phase_summary(phase) for phase in lab.phases],
            },
        },
        "environment": measured.environment(device),
        "started": started.isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    })  # fmt: skip
    history = [row for phase in lab.phases for row in phase.history]
    values = {"users": judged.result.users} | judged.result.values | of_users(rounded)
    # Of trials only the dense ones may be somebody's teacher.
    is_kept = spec.judged_on == "test" or spec.method == "dense"
    store.save(record, history, values, packed.content if is_kept else None)
    kept.remove()
    return record


def _sum_of_known(values: list[float | None]) -> float | None:
    """The sum; None where a part is not known."""
    return None if None in values else sum(value for value in values if value is not None)


def _step_seconds(phase: Phase) -> dict[str, float] | None:
    """Quartiles of a step's seconds: medians of each epoch's own."""
    quartiles = [row["step_seconds"] for row in phase.history if "step_seconds" in row]
    if not quartiles:
        return None
    q1, median, q3 = np.median(quartiles, axis=0)
    return {"q1": float(q1), "median": float(median), "q3": float(q3)}


def _phase_summary(phase: Phase) -> dict[str, Any]:
    return {
        "phase": phase.name,
        "epochs": phase.epochs,
        "steps": phase.steps,
        "step_seconds": _step_seconds(phase),
        "state_bytes": phase.state_bytes,
        "train_seconds": phase.train_seconds,
        "eval_seconds": phase.eval_seconds,
        "selected_epoch": phase.selected_epoch,
        "shared_run": phase.run,
    }


def _selection(phases: list[Phase]) -> dict[str, Any]:
    """Of the epoch that was kept last; what comes after a training may have none."""
    chosen = [phase for phase in phases if phase.selected_epoch is not None]
    last = chosen[-1] if chosen else None
    return {"epoch": last and last.selected_epoch, "rise": last and last.rise}
