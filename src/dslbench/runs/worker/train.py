"""The training of a run, from where it was kept last."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from dslbench import registry
from dslbench.backbones.base import Backbone
from dslbench.data.interactions import Interactions
from dslbench.errors import DivergedError, DslbenchError
from dslbench.methods.base import Method
from dslbench.runs import checkpoint, sharing
from dslbench.runs.assemble import make_lab
from dslbench.spec import RunSpec
from dslbench.training.lab import Lab
from dslbench.training.progress import Keeper

Trained = tuple[Backbone, Method, Lab]


def train(
    spec: RunSpec, data: Interactions, device: torch.device, emit: Any, keeper: Keeper
) -> Trained:
    """Train the run's model, from where it was kept last; model, method and its surroundings."""
    lab = make_lab(spec, data, device, emit, keeper)
    method_type = registry.method(spec.method)
    method = method_type(spec.method_options, spec.sparsity)
    phases = method_type.phases(method.options, spec.sparsity)
    emit({"event": "start", "phases": [*lab.backbone.pretraining(lab.hyper), *phases]})
    try:
        return method.run(lab), method, lab
    except DivergedError as error:
        own = [phase for phase in lab.phases if phase.run is None]
        error.bill = {
            "macs": sum(phase.ledger.train_macs for phase in own),
            "seconds": sum(phase.train_seconds + phase.eval_seconds for phase in own),
        }
        raise


def train_on(
    spec: RunSpec, data: Interactions, device: torch.device, emit: Any, shared: Mapping[str, bool]
) -> tuple[Trained, checkpoint.Checkpoints]:
    """`train` from the run's last checkpoint, or from its start where that does not fit.

    Args:
        shared: keys of the trainings to be taken over, or kept for other runs, and whether they were there.
    """
    run_id = spec.identity(data.digests)

    def keeper(kept: checkpoint.Checkpoints) -> Keeper:
        if not shared or device.type != "cpu":
            return kept
        own = sharing.trainings_of(spec, spec.as_dense.identity(data.digests))
        there = {key for key, was_there in shared.items() if was_there}
        wanted = [training for training in own if training.key in shared]
        return sharing.SharingKeeper(kept, run_id, wanted, there, device)

    def checkpoints() -> checkpoint.Checkpoints:
        return checkpoint.Checkpoints(
            run_id, device, lambda text: emit({"event": "note", "text": text}),
            checkpoint.share_of_time(),
        )  # fmt: skip

    kept = checkpoints()
    try:
        return train(spec, data, device, emit, keeper(kept)), kept
    except checkpoint.MisfitError as error:
        kept.say(f"checkpoints in {kept.folder} do not fit, the run starts over: {error}")
        kept.remove()
        kept = checkpoints()
        return train(spec, data, device, emit, keeper(kept)), kept
    except DslbenchError:
        kept.remove()  # it would come to the same end again
        raise
