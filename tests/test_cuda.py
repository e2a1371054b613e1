"""A GPU computes what the CPU does; skipped where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dslbench import artefact
from dslbench import data as datasets
from dslbench.backbones.base import Backbone
from dslbench.data.interactions import Interactions
from dslbench.errors import RunError
from dslbench.ops.base import triton_kernels
from dslbench.ops.graphs import CpuGraph, graph_of
from dslbench.runs import assemble, store
from dslbench.runs.assemble import rebuild
from dslbench.runs.checkpoint import Checkpoints
from dslbench.runs.worker.run import make_run
from dslbench.runs.worker.train import train as train_run
from dslbench.spec import RunSpec, resolve
from dslbench.tables import PackedTable, TableSpec, masked
from dslbench.tables.spec import normal
from dslbench.training.progress import Keeper
from helpers import make_interactions
from training_helpers import BACKBONES, SETTINGS

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
# Draws on a device are its own.
NO_DROPOUT = {name: ["dropout=0"] for name in ("neumf", "cdae", "multvae")}


def both(*found: torch.Tensor, rtol: float = 1e-4, atol: float = 1e-6) -> None:
    torch.testing.assert_close(*(x.detach().cpu() for x in found), rtol=rtol, atol=atol)


def test_kernels_run_where_triton_is_installed() -> None:
    pytest.importorskip("triton")
    assert triton_kernels() is not None


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("d", [1, 7, 64, 100])
def test_graphs_on_the_device_are_the_cpus(layers: int, d: int) -> None:
    data = make_interactions(300, 200, 0.1)
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((500, d), dtype=np.float32))
    rows = torch.from_numpy(rng.integers(0, 500, 90))
    gradients = [torch.from_numpy(rng.standard_normal((90, d), dtype=np.float32)) for _ in range(2)]
    ours = CpuGraph(data.train)
    other, on = graph_of(data.train, CUDA), [t.to(CUDA) for t in (x, rows, *gradients)]
    both(other.polynomial(on[0], layers), ours.polynomial(x, layers), atol=1e-5)
    both(other.some_rows(on[0], on[1], layers), ours.some_rows(x, rows, layers), atol=1e-5)
    both(other.from_rows(*on[1:], layers), ours.from_rows(rows, *gradients, layers), atol=1e-5)


@pytest.mark.parametrize("d", [1, 7, 16, 64, 300, 600])
@pytest.mark.parametrize("density", [0.02, 0.5])
@pytest.mark.parametrize("ours_or_torch", [triton_kernels, lambda: None])
def test_packed_tables_are_the_cpus(
    monkeypatch: pytest.MonkeyPatch, ours_or_torch: Any, d: int, density: float
) -> None:
    monkeypatch.setattr(masked, "triton_kernels", ours_or_torch)
    spec = TableSpec("t", (("user", 90),), d, normal(1.0))
    mask = np.random.default_rng(1).random((90, d)) < density
    mask[0], mask[1] = False, True
    tables = []
    for device in (CPU, CUDA):
        table = PackedTable(spec, np.random.default_rng(0)).to(device)
        table.set_mask(torch.from_numpy(mask).to(device))
        ids = torch.tensor([[0, 1, 1], [5, 89, 7]], device=device)
        weights = torch.linspace(-1, 1, 90 * d, device=device).view(90, d)
        loss = (table.full() * weights).sum() + (table.rows(ids) * weights[:6].view(2, 3, d)).sum()
        loss.backward()
        assert table.weight.grad is not None
        tables.append((table, loss))
    (ours, a), (other, b) = tables
    assert torch.equal(other.mask.cpu(), torch.from_numpy(mask))
    assert torch.equal(other.dense().cpu(), ours.dense())
    both(b, a, rtol=1e-3)
    both(other.weight.grad, ours.weight.grad, atol=1e-5)


def labs(data: Interactions, backbone: str) -> list[tuple[Backbone, Any]]:
    found = []
    spec = resolve(
        dataset="toy", backbone=backbone, method="dense", sparsity=0, seed=0, epochs=1,
        settings=["embedding_size=8", "batch_size=64", *SETTINGS["small"].get(backbone, []),
                  *NO_DROPOUT.get(backbone, [])],
    )  # fmt: skip
    for device in (CPU, CUDA):
        lab = assemble.make_lab(spec, data, device)
        model = lab.build()
        found.append((model, next(model.sampler(data, lab.hyper, lab.streams, device).epoch())))
    return found


@pytest.mark.parametrize("backbone", BACKBONES)
def test_losses_gradients_and_scores_are_the_cpus(
    interactions: Interactions, backbone: str
) -> None:
    (ours, batch), (other, same) = labs(interactions, backbone)
    for a, b in zip(same, batch, strict=True):
        if isinstance(a, torch.Tensor):
            assert torch.equal(a.cpu(), b)
    losses = other.loss(same), ours.loss(batch)
    both(*losses)
    for loss in losses:
        loss.backward()  # type: ignore[no-untyped-call]
    for (name, a), b in zip(other.named_parameters(), ours.parameters(), strict=True):
        assert a.grad is not None and b.grad is not None, name
        both(a.grad, b.grad, rtol=1e-3, atol=1e-5)
    users = torch.arange(interactions.n_users)
    ours.eval(), other.eval()
    both(other.scorer()(users.to(CUDA)), ours.scorer()(users), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", ["dense", "dsl"])
def test_a_run_on_the_device_says_so_and_its_model_is_read_anywhere(
    own_home: Path, method: str
) -> None:
    record = make_run(small_run(method), CUDA, lambda event: None)
    measured = record["cost"]["measured"]
    assert record["environment"]["device"] == torch.cuda.get_device_name()
    assert measured["peak_cuda_bytes"] > 1000 * 8 * 4
    assert measured["top_k_latency"]["1"]["p50_seconds"] > 0
    packed = artefact.read(store.folder(record["id"]) / "model.safetensors")
    lab = assemble.make_lab(small_run(method), datasets.load("toy"), CPU)
    again = lab.evaluate(rebuild(packed), "test")
    for name, value in again.means.items():
        assert record["quality"][name] == pytest.approx(value, abs=2e-3)  # sums of other orders


def test_what_was_broken_off_on_the_device_goes_on_there(own_home: Path) -> None:
    spec, said = small_run("dsl"), list[str]()
    data = datasets.load("toy")
    keeper = Checkpoints("r", CUDA, said.append, 1e9)
    whole = train_run(spec, data, CUDA, lambda event: None, Keeper())[2]

    def stop(event: dict[str, Any]) -> None:
        if event.get("epoch") == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_run(spec, data, CUDA, stop, keeper)
    keeper = Checkpoints("r", CUDA, said.append, 1e9)
    found = train_run(spec, data, CUDA, lambda event: None, keeper)[2]
    assert len(said) == 1 and said[0].startswith("continues at epoch 2")
    losses = [[row["loss"] for row in lab.phases[0].history] for lab in (whole, found)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_a_loss_that_is_no_number_is_found_within_some_steps() -> None:
    spec = small_run("dense", "lr=1e30")
    with pytest.raises(RunError, match=r"the loss became (nan|inf)|weights of the model stopped"):
        train_run(spec, datasets.load("toy"), CUDA, lambda event: None, Keeper())


def small_run(method: str, *own: str) -> RunSpec:
    return resolve(
        dataset="toy", backbone="lightgcn", method=method, sparsity=0.5 * (method != "dense"), seed=0,
        epochs=3, settings=["embedding_size=8", "batch_size=512", *own],
    )  # fmt: skip
