"""A run that was broken off anywhere goes on, and ends with the same bits."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from cli_helpers import run as dslbench
from dslbench import data as datasets
from dslbench import registry
from dslbench.cli import runner
from dslbench.cost import counted
from dslbench.data.interactions import Interactions
from dslbench.errors import UsageError
from dslbench.runs import assemble, checkpoint, local, making, store
from dslbench.runs.checkpoint import Checkpoints
from dslbench.runs.worker.run import make_run
from dslbench.runs.worker.train import train as train_run
from dslbench.spec import RunSpec, resolve
from dslbench.training.hooks import Phase
from dslbench.training.lab import Lab
from dslbench.training.progress import Keeper
from dslbench.training.state import SAME
from helpers import make_interactions
from process_helpers import WITHOUT_TRIAL
from training_helpers import PAIRS, SETTINGS, TWO_ROUNDS, same

CPU = torch.device("cpu")
ALWAYS = 1e9  # share of time that makes every checkpoint due
EPOCHS = 3

# Everything that methods and backbones can be told to remember between epochs.
VARIANTS = [
    ("lightgcn", "dsl", ["dsl.delta_t=3", "dsl.growth=momentum"]),
    ("lightgcn", "dsl", ["dsl.variant=official", "dsl.delta_t=2"]),
    ("ultragcn", "dsl", ["dsl.delta_t=7", "dsl.grow_score=accum", "embedding_size=16"]),
    ("lightgcn", "dsl", ["dsl.delta_t=3", "dsl.growth=random", "embedding_size=17"]),
    ("lightgcn", "dsl", ["dsl.delta_t=3", "dsl.block=8", "embedding_size=24"]),
    ("lightgcn", "lth_mrs", ["lth_mrs.rewind_epoch=1", "lth_mrs.rounds=2"]),
    ("neumf", "wr", ["wr.variant=reinit", "wr.rounds=2", "dropout=0.3"]),
    ("neumf", "omp", ["pretrain_epochs=2", "dropout=0.3"]),
    ("neumf", "dense", ["loss=balanced", "dropout=0.5"]),
    ("convncf", "pep", ["pretrain_epochs=2", "pep.re_init=true"]),
    ("convncf", "esapn", ["pretrain_epochs=2", "esapn.last_loss=true"]),
    ("neumf", "autoemb", ["autoemb.last_loss=true", "pretrain_epochs=1"]),
    ("lightgcn", "autoemb", ["autoemb.last_loss=true", "autoemb.held_out=0.5"]),
    ("lightgcn", "tkd", ["tkd.variant=htd", "tkd.groups=3", "tkd.max_entities=20"]),
    ("multvae", "tkd", ["tkd.variant=htd", "tkd.groups=3", "anneal_steps=5"]),
    ("lightgcn", "rkd", ["rkd.static_epochs=1", "rkd.k=3"]),
    ("lightgcn", "rkd", ["rkd.variant=lcm"]),
    ("lightgcn", "rp", ["rp.variant=trained", "lr_end=0.0001", "eval_every=2"]),
]


class Killed(BaseException):
    """Stands for the end of the process."""


def run(
    backbone: str, method: str, own: list[str], keeper: Keeper, data: Interactions,
    epochs: int = EPOCHS,
) -> dict[str, Any]:  # fmt: skip
    """What must be the same: all that a run comes to, its times aside."""
    spec = resolve(
        dataset="toy", backbone=backbone, method=method, sparsity=0.5, seed=3, epochs=epochs,
        settings=[
            "embedding_size=7", "batch_size=32", *SETTINGS["small"].get(backbone, []), *TWO_ROUNDS,
            *own,
        ],
    )  # fmt: skip
    if spec.teacher is None:
        model, trained, lab = train_run(spec, data, CPU, lambda event: None, keeper)
    else:
        dense = spec.teacher

        def teacher() -> tuple[Any, Phase]:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(counted.Ledger, "step", STEP)  # its steps are not the run's
                model, _, lab = train_run(dense, data, CPU, lambda event: None, Keeper())
            return model, dataclasses.replace(lab.phases[-1], name="teacher")

        original = assemble.make_lab

        def make_lab(*args: Any) -> Lab:
            lab = original(*args)
            if lab.find_teacher is not None:
                lab.find_teacher = teacher
            return lab

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("dslbench.runs.worker.train.make_lab", make_lab)
            model, trained, lab = train_run(spec, data, CPU, lambda event: None, keeper)
    tables = {name: table.pack() for name, table in model.tables().items()}
    return {
        "weights": model.state_dict(),
        "values": {name: table.arrays() for name, table in tables.items()},
        "masks": {name: table.live() for name, table in tables.items()},
        "history": [
            {k: v for k, v in row.items() if not k.endswith("seconds")}
            for phase in lab.phases
            for row in phase.history
        ],
        "phases": [
            (p.name, p.epochs, p.steps, p.selected_epoch, p.selected_value, p.ledger.state())
            for p in lab.phases
        ],
        "diagnostics": trained.diagnostics(),
        "streams": lab.streams.root.state(),
    }


STEP = counted.Ledger.step


def stop_at(step: int, patch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Break off in the given training step (from 1); the function returned says how many there were."""
    done = 0

    def counting(self: counted.Ledger, *args: Any, **kwargs: Any) -> Any:
        nonlocal done
        done += 1
        if done == step:
            raise Killed
        return STEP(self, *args, **kwargs)

    patch.setattr(counted.Ledger, "step", counting)
    return lambda: done


@pytest.mark.parametrize(
    ("backbone", "method", "own"),
    [(*pair, []) for pair in PAIRS] + VARIANTS,
    ids=lambda x: "-".join(x) if isinstance(x, list) else None,
)
def test_interrupted_is_uninterrupted(backbone: str, method: str, own: list[str]) -> None:
    """And the same seed gives the same bits, as nothing else ties the two trainings together."""
    data = make_interactions()
    with pytest.MonkeyPatch.context() as patch:
        steps = stop_at(0, patch)
        whole = run(backbone, method, own, Keeper(), data, 2)
        total = steps()
    if not total:  # it trains nothing
        same(run(backbone, method, own, Keeper(), data, 2), whole)
        return
    # In the first half, at once after that, and in one of the last steps.
    rng = random.Random(f"{backbone} {method} {own}")
    said: list[str] = []
    early = rng.randrange(1, total // 2)
    for chosen in (early, 1, total - early):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            stop_at(chosen, patch)
            run(backbone, method, own, Checkpoints("r", CPU, said.append, ALWAYS), data, 2)
    found = run(backbone, method, own, Checkpoints("r", CPU, said.append, ALWAYS), data, 2)
    same(found, whole)
    assert all(line.startswith("continues at epoch ") for line in said)


def test_every_epoch_boundary_will_do(interactions: Interactions) -> None:
    """Broken off right after each checkpoint of three phases in turn, 9 times in all."""

    class Once(Checkpoints):
        def offer(self, *args: Any, **kwargs: Any) -> None:
            super().offer(*args, **kwargs)
            if not kwargs:
                raise Killed

    own, said = ["dsl.delta_t=3"], list[str]()
    whole = run("lightgcn", "lth_mrs", own, Keeper(), interactions)
    kills = 0
    while True:
        try:
            keeper = Once("r", CPU, said.append, ALWAYS)
            found = run("lightgcn", "lth_mrs", own, keeper, interactions)
            break
        except Killed:
            kills += 1
    same(found, whole)
    assert kills == 9 and keeper.resumed == 9
    assert said == [
        f"continues at epoch {epoch} of round {phase}"
        for phase, epoch in [(0, 2), (0, 3), (1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)]
    ]


def interrupted(backbone: str, method: str, at: int, data: Interactions) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stop_at(at, patch)
        with pytest.raises(Killed):
            run(backbone, method, [], Checkpoints("r", CPU, lambda line: None, ALWAYS), data)


def test_files_are_few_and_the_ends_of_phases_stay(interactions: Interactions) -> None:
    interrupted("lightgcn", "lth_mrs", 1 + 7 * 8, interactions)
    names = [path.stem for path in sorted(checkpoint.folder("r").iterdir())]
    assert len(names) <= 4
    assert names[0] == "0001-end" and sum(name.endswith("end") for name in names) == 2


@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(where=st.floats(0, 1), what=st.binary(min_size=0, max_size=40), cut=st.booleans())
def test_a_damaged_checkpoint_is_left_for_the_one_before(
    where: float, what: bytes, cut: bool
) -> None:
    data = make_interactions()
    checkpoint.remove("r")
    interrupted("lightgcn", "dense", 2 * 8 + 3, data)
    newest = sorted(checkpoint.folder("r").iterdir())[-1]
    content = newest.read_bytes()
    place = int(where * len(content))
    rest = b"" if cut else content[place + len(what) :]
    newest.write_bytes(content[:place] + what + rest)
    damaged = newest.read_bytes() != content
    said: list[str] = []
    found = run("lightgcn", "dense", [], Checkpoints("r", CPU, said.append, ALWAYS), data)
    same(found, run("lightgcn", "dense", [], Keeper(), data))
    assert (f"checkpoint {newest} is ignored: damaged" in said) == damaged
    assert len(said) == 1 + damaged and said[-1].startswith("continues at epoch")


def test_what_others_wrote_is_ignored_with_a_line(
    interactions: Interactions, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run("lightgcn", "omp", [], Keeper(), interactions)
    for name, value in [("run", "other"), ("torch", "1.0"), ("format", "else"), ("device", "cuda")]:
        checkpoint.remove("r")
        with pytest.MonkeyPatch.context() as patch:
            stop_at(20, patch)
            keeper = Checkpoints("r", CPU, lambda line: None, ALWAYS)
            keeper._about[name] = value
            with pytest.raises(Killed):
                run("lightgcn", "omp", [], keeper, interactions)
        files = len(list(checkpoint.folder("r").iterdir()))
        said: list[str] = []
        keeper = Checkpoints("r", CPU, said.append, ALWAYS)
        same(run("lightgcn", "omp", [], keeper, interactions), whole)
        assert len(said) == files > 0 and all(value in line for line in said)
        assert keeper.resumed == 0


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(body=st.binary(max_size=200), whole=st.booleans())
def test_anything_else_is_no_checkpoint(own_home: Path, body: bytes, whole: bool) -> None:
    """Nor is what has a right digest, by whoever."""
    path = own_home / "x.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = save({"a": np.arange(3), "b": np.frombuffer(body, np.uint8)})
    for content in (body, arrays):
        digest = hashlib.blake2b(content, digest_size=32).digest() if whole else b""
        path.write_bytes(content + digest)
        with pytest.raises(ValueError, match="not a checkpoint" if whole else "damaged"):
            checkpoint.read(path, {})


def test_a_tree_comes_back_as_it_was() -> None:
    tree = {
        ("a", "b"): [1, 2.5, float("inf"), None, True, "x", SAME],
        3: (torch.arange(3), np.array([[True]]), np.int64(4), 2**127, torch.tensor(1.5)),
        "empty": {"tensor": torch.zeros(0, 3), "list": [], "dict": {}},
    }
    text, arrays = checkpoint.pack(tree)
    found = checkpoint.unpack(text, lambda number: arrays[int(number)].copy())
    assert found[3][0].data_ptr() != tree[3][0].data_ptr()  # type: ignore[index,union-attr]
    same(found, tree)


def test_a_share_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSLBENCH_CHECKPOINT_SHARE", "often")
    with pytest.raises(UsageError, match="not a share"):
        checkpoint.share_of_time()


def spec_of(method: str, epochs: int) -> Any:
    return resolve(
        dataset="toy", backbone="lightgcn", method=method, sparsity=0.5, seed=0, epochs=epochs,
        settings=["embedding_size=8", "lth_mrs.rounds=2"],
    )  # fmt: skip


def test_checkpoints_that_do_not_fit_start_the_run_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole files of the right run, but hooks have other parts now: one line, and the same result."""
    monkeypatch.setenv("DSLBENCH_CHECKPOINT_SHARE", "1")
    monkeypatch.setattr(checkpoint, "_FIRST_WRITE", 0.0)
    spec, events = spec_of("rp", 4), list[dict[str, Any]]()
    with pytest.MonkeyPatch.context() as patch:
        stop_at(30, patch)
        with pytest.raises(Killed):
            make_run(spec, CPU, lambda event: None)

    def misfit(*args: Any) -> None:
        raise KeyError("gone")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry.method("rp"), "recall", misfit)
        record = make_run(spec, CPU, events.append)
    notes = [event["text"] for event in events if event["event"] == "note"]
    assert len(notes) == 1 and "do not fit, the run starts over: KeyError: 'gone'" in notes[0]
    assert record["cost"]["measured"]["resumed"] == 0
    assert not checkpoint.folder(record["id"]).exists()


def test_a_full_disk_ends_the_checkpoints_not_the_run(
    interactions: Interactions, own_home: Path
) -> None:
    checkpoint.folder("r").parent.mkdir(parents=True)
    keeper = Checkpoints("r", CPU, (said := list[str]()).append, ALWAYS)
    checkpoint.folder("r").write_text("a file, not a folder")
    found = run("lightgcn", "omp", [], keeper, interactions)
    same(found, run("lightgcn", "omp", [], Keeper(), interactions))
    assert len(said) == 1 and said[0].startswith("no more checkpoints: ")


@pytest.mark.parametrize("force", [False, True])
def test_force_starts_over(force: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of("rp", 1)
    kept = checkpoint.folder(spec.identity(datasets.load("toy").digests))
    kept.mkdir(parents=True)
    seen: list[bool] = []

    def make_none(*args: Any) -> None:
        seen.append(kept.exists())
        raise KeyboardInterrupt

    monkeypatch.setattr(making, "estimate_seconds", lambda *args: 0.0)
    monkeypatch.setattr(local.LocalExecutor, "make", make_none)
    with pytest.raises(typer.Exit):
        runner.make([spec], where=runner.Where("cpu"), force=force, dry_run=False)
    assert seen == [not force]


def timeless(record: dict[str, Any]) -> dict[str, Any]:
    """A record without what was measured, and when and where."""
    left = {k: v for k, v in record.items() if k not in ("started", "finished", "environment")}
    exact = record["cost"]["counted"]
    phases = [
        {k: v for k, v in phase.items() if not k.endswith("seconds")}
        for phase in record["cost"]["measured"]["phases"]
    ]
    return left | {"cost": exact, "phases": phases}


def test_a_killed_worker_goes_on(
    own_home: Path,
    runs_in_this_process: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A real SIGKILL of the process that trains, in the midst of a compare."""
    monkeypatch.setenv("DSLBENCH_CHECKPOINT_SHARE", "1")
    command = [
        "compare", "--backbone", "lightgcn", "--dataset", "toy",
        "--epochs", "5", "--set", "embedding_size=8", "--set", "lth_mrs.rounds=2",
        "--method", "lth_mrs",
    ]  # fmt: skip
    process = subprocess.Popen(
        [*WITHOUT_TRIAL, *command], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    kept, deadline = own_home / "runs" / ".checkpoints", time.monotonic() + 120
    while not list(kept.glob("*/0002-0*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    children = list(Path(f"/proc/{process.pid}/task").glob("*/children"))
    if not children:
        pytest.skip("child processes cannot be listed here")
    for child in (pid for file in children for pid in file.read_text().split()):
        os.kill(int(child), signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "SIGKILL" in err
    code, _, err = dslbench(*command)  # goes on in another process: this one
    assert code == 0, err
    assert "continues at epoch " in err and " of round " in err
    (run_id,) = [path.name for path in (own_home / "runs").glob("[!.]*")]
    resumed, history = store.read(run_id), store.history(run_id)
    assert resumed["cost"]["measured"]["resumed"] == 1
    assert not (kept / run_id).exists()

    monkeypatch.setenv("DSLBENCH_HOME", str(own_home / "other"))
    whole = make_run(RunSpec.of_record(resumed["spec"]), CPU, lambda event: None)
    assert json.dumps(timeless(whole)) == json.dumps(timeless(resumed))
    assert json.dumps(_without_times(store.history(run_id))) == json.dumps(_without_times(history))


def _without_times(history: Any) -> Any:
    return [{k: v for k, v in row.items() if not k.endswith("seconds")} for row in history]
