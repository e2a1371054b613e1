"""One run in a process of its own: `python -m dslbench.runs.worker`, a job on stdin, events on stdout.

A process per run keeps peak memory honest and one crash from taking others along.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import threading
import time
import traceback
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
import torch

from dslbench import artefact, registry
from dslbench import data as datasets
from dslbench.backbones.base import Backbone
from dslbench.cost import counted, measured, paper
from dslbench.data.interactions import Interactions
from dslbench.errors import DataError, DslbenchError, RunError, UsageError
from dslbench.hooks import Phase
from dslbench.methods.base import Method
from dslbench.runs import checkpoint, store
from dslbench.spec import RunSpec
from dslbench.state import Keeper
from dslbench.train import Lab


def choose_device(name: str) -> torch.device:
    """The device for "auto", "cpu" or "cuda"; raises `UsageError` when it is not there."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("no CUDA device on this machine", "use --device cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def make_lab(
    spec: RunSpec,
    data: Interactions,
    device: torch.device,
    emit: Any = None,
    keeper: Keeper | None = None,
) -> Lab:
    """The training loop's surroundings for a run."""
    backbone = registry.backbone(spec.backbone)
    if data.fold_in is not None and not backbone.folds_in:
        raise UsageError(
            f"{spec.backbone} cannot score users it was not trained on, as protocol strong asks",
            "--protocol default",
        )
    if data.test.nnz == 0:
        raise DataError(
            f"protocol {spec.protocol} leaves no test pairs in '{spec.dataset}'",
            "choose another --protocol, or data with more items per user",
        )
    if data.valid.nnz == 0 and spec.protocol != "paper":
        raise DataError(
            f"protocol {spec.protocol} leaves no validation pairs in '{spec.dataset}': "
            "its users have too few items",
            "--protocol paper selects on test, and says so",
        )
    full = backbone.hyper_type.model_validate(spec.hyper | {"epochs": spec.epochs})
    dense = spec.teacher
    return Lab(
        data, backbone, full if dense is None else full.narrowed(1 - spec.sparsity),
        epochs=spec.epochs, seed=spec.seed, device=device, emit=emit, full_hyper=full,
        find_teacher=None if dense is None else partial(stored_teacher, dense, data, device),
        keeper=keeper,
    )  # fmt: skip


def stored_teacher(
    spec: RunSpec, data: Interactions, device: torch.device
) -> tuple[Backbone, Phase]:
    """The model of a stored run, and the run's whole bill as one phase.

    Raises `RunError` when the store has it no longer.
    """
    run_id = spec.identity(data.digests)
    try:
        record, packed = store.read(run_id), artefact.from_bytes(store.model_bytes(run_id))
    except (ValueError, DslbenchError) as error:
        raise RunError(
            f"the teacher ({spec.title}, run {run_id}) cannot be read: {error}",
            f"train it again: dslbench train --backbone {spec.backbone} --fresh, other settings alike",
        ) from None
    model = make_lab(spec, data, device).build(pretrained=False)
    artefact.fill(model, packed)
    phases = record["cost"]["measured"]["phases"]
    bill = Phase("teacher", sum(phase["epochs"] for phase in phases), run=run_id)
    bill.steps = sum(phase["steps"] for phase in phases)
    bill.train_seconds = sum(phase["train_seconds"] for phase in phases)
    bill.eval_seconds = sum(phase["eval_seconds"] for phase in phases)
    bill.selected_epoch = record["selection"]["epoch"]
    bill.joules = record["cost"]["measured"]["energy_joules"]
    for phase in record["cost"]["counted"]["exact"]["phases"]:
        bill.ledger.steps += phase["steps"]
        bill.ledger.dense_steps += phase["dense_gradient_steps"]
        bill.ledger.train_macs += phase["train_macs"]
        bill.ledger.eval_macs += phase["eval_macs"]
    return model, bill


def train(
    spec: RunSpec, data: Interactions, device: torch.device, emit: Any, keeper: Keeper
) -> tuple[Backbone, Method, Lab]:
    """Train the run's model, from where it was kept last; model, method and its surroundings."""
    lab = make_lab(spec, data, device, emit, keeper)
    method_type = registry.method(spec.method)
    method = method_type(method_type.options_type.model_validate(spec.options), spec.sparsity)
    phases = method_type.phases(method.options, spec.sparsity)
    emit({"event": "start", "phases": [*lab.backbone.pretraining(lab.hyper), *phases]})
    return method.run(lab), method, lab


def execute(spec: RunSpec, device: torch.device, emit: Any) -> dict[str, Any]:
    """Make one run, judge the model rebuilt from its stored tables, and return its record.

    A run that was broken off goes on from its last checkpoint.
    """
    started, energy = datetime.now(UTC), measured.Energy()
    counted.engine()
    data = datasets.load(spec.dataset, protocol=spec.protocol)

    def checkpoints() -> checkpoint.Checkpoints:
        return checkpoint.Checkpoints(
            spec.identity(data.digests), device, lambda text: emit({"event": "note", "text": text}),
            checkpoint.share_of_time(),
        )  # fmt: skip

    kept = checkpoints()
    try:
        model, method, lab = train(spec, data, device, emit, kept)
    except checkpoint.MisfitError as error:
        kept.say(f"checkpoints in {kept.folder} do not fit, the run starts over: {error}")
        kept.remove()
        kept = checkpoints()
        model, method, lab = train(spec, data, device, emit, kept)
    except DslbenchError:
        kept.remove()  # it would come to the same end again
        raise
    packed = artefact.stored(model, spec.model_dump(mode="json"), data.digests)
    content = artefact.to_bytes(packed)
    embeddings = {n: t.spec for n, t in model.tables().items() if t.spec.role == "embedding"}
    dense_params = sum(t.n_rows * lab.full_hyper.width(n) for n, t in embeddings.items())
    table_params = sum(packed.tables[name].stored for name in embeddings)
    all_params = sum(table.stored for table in packed.tables.values()) + model.other_parameters()
    diagnostics, empty_rows = method.diagnostics(), artefact.empty_rows(packed, embeddings)
    del model, method  # so that the peak of memory is that of training, not of two models
    gc.collect()
    rebuilt = lab.build(pretrained=False)
    artefact.fill(rebuilt, artefact.from_bytes(content))
    began = time.perf_counter()
    result = lab.evaluate(rebuilt, "test")
    test_seconds = time.perf_counter() - began
    infer_macs, users_counted = counted.full_ranking(rebuilt.eval(), data.n_users, data.n_items)
    # A run in several processes has been counted in the last of them only.
    joules = [None if kept.resumed else energy.joules(), *(p.joules for p in lab.phases if p.run)]
    final = lab.phases[-1]
    record = {
        "format": store.FORMAT,
        "id": spec.identity(data.digests),
        "spec": spec.model_dump()
        | {"embedding_size": spec.hyper["embedding_size"], "layers": spec.hyper.get("layers")},
        "data": data.summary(),
        "quality": result.means | {"tied_users": result.ties},
        "selection": {"epoch": final.selected_epoch, "on": lab.selects_on},
        "budget": {
            "dense_table_params": dense_params,
            "table_params": table_params,
            "achieved_sparsity": 1 - table_params / dense_params,
            "total_params": all_params,
            "rows": sum(spec.n_rows for spec in embeddings.values()),
            "empty_rows": empty_rows,
        },
        "diagnostics": diagnostics,
        "cost": {
            "counted": {
                "paper": paper.paper_costs(spec, data)._asdict(),
                "exact": {
                    "train_macs": sum(phase.ledger.train_macs for phase in lab.phases),
                    "infer_macs": infer_macs,
                    "infer_users_counted": users_counted,
                    "phases": [
                        {"phase": phase.name} | phase.ledger.summary() for phase in lab.phases
                    ],
                },
            },
            "measured": {
                "train_seconds": sum(phase.train_seconds for phase in lab.phases),
                "eval_seconds": sum(phase.eval_seconds for phase in lab.phases),
                "test_seconds": test_seconds,
                **kept.peaks(),
                "resumed": kept.resumed,
                "top_k_latency": measured.top_k_latency(rebuilt, data.seen_before_test),
                "energy_joules": _sum_of_known(joules),
                "stored_bytes": artefact.table_bytes(packed),
                "phases": [_phase_summary(phase) for phase in lab.phases],
            },
        },
        "environment": measured.environment(device),
        "started": started.isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    history = [row for phase in lab.phases for row in phase.history]
    store.save(record, history, {"users": result.users} | result.values, content)
    kept.remove()
    return record


def probe(spec: RunSpec, device: torch.device) -> dict[str, float]:
    """Seconds one training epoch and one evaluation of this run take, from a short trial."""
    data = datasets.load(spec.dataset, protocol=spec.protocol)
    lab = make_lab(spec, data, device)
    model = lab.build(pretrained=False)
    sampler = model.sampler(data, lab.hyper, lab.streams, device)
    optimiser = model.optimiser(lab.hyper)
    times = []
    for _, batch in zip(range(12), sampler.epoch(), strict=False):
        began = time.perf_counter()
        model.loss(batch).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        times.append(time.perf_counter() - began)
    steady = sorted(times[2:] or times)
    began = time.perf_counter()
    lab.evaluate(model, lab.selects_on)
    return {
        "epoch_seconds": steady[len(steady) // 2] * sampler.steps,
        "eval_seconds": time.perf_counter() - began,
    }


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


def _end_with_parent() -> None:
    """Wait for the end of stdin, which the parent holds open, and go: nobody wants the run any more."""
    while os.read(sys.stdin.fileno(), 1 << 10):
        pass
    os._exit(1)


def main() -> int:
    """Do the job read from stdin; every line on stdout is one JSON event."""
    # The parent decides what an interrupt means; a half-done run goes on from its checkpoints.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A network that regularisation drives to zero would else compute hundreds of times slower.
    torch.set_flush_denormal(True)
    job = json.loads(sys.stdin.readline())
    if job.get("attached"):
        threading.Thread(target=_end_with_parent, daemon=True).start()

    def emit(event: dict[str, Any]) -> None:
        print(json.dumps(event), flush=True)

    try:
        spec = RunSpec.model_validate(job["spec"])
        device = choose_device(job["device"])
        if job["task"] == "probe":
            emit({"event": "probe"} | probe(spec, device))
        else:
            record = execute(spec, device, emit)
            emit({"event": "done", "id": record["id"]})
    except BrokenPipeError:
        return 1  # nobody is listening any more
    except DslbenchError as error:
        emit(
            {
                "event": "error",
                "message": error.message,
                "hint": error.hint,
                "code": error.exit_code,
                "kind": type(error).__name__,
            }
        )
        return error.exit_code
    except Exception as error:
        traceback.print_exc()
        text = str(error).partition("\n")[0]
        emit(
            {
                "event": "error",
                "message": f"{type(error).__name__}: {text}",
                "hint": None,
                "code": 1,
            }
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
