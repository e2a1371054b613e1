"""A training that several runs have in common is made once, and every run ends as if it had made it."""

from __future__ import annotations

import io
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from cli_helpers import run as dslbench
from dslbench import registry
from dslbench.data.interactions import Interactions
from dslbench.errors import UsageError
from dslbench.runs import claims, plan, sharing, stock, store
from dslbench.runs.checkpoint import Checkpoints
from dslbench.runs.claims import Claims
from dslbench.runs.progress import Part, Quiet
from dslbench.runs.schedule import Schedule
from dslbench.runs.sharing import SharingKeeper, trainings_of
from dslbench.runs.worker.train import train as train_run
from dslbench.spec import RunSpec, resolve
from dslbench.training.progress import Keeper
from helpers import make_interactions
from record_helpers import record
from training_helpers import SETTINGS, same

CPU = torch.device("cpu")
OF = {
    "lightgcn": ["embedding_size=16"],  # packed tables
    "neumf": ["pretrain_epochs=1", "dropout=0.3", "batch_size=512"],
    "multvae": [],
}


def spec(backbone: str, method: str, *own: str, sparsity: float = 0.5, epochs: int = 2) -> RunSpec:
    return resolve(
        dataset="toy", backbone=backbone, method=method, sparsity=sparsity, seed=3, epochs=epochs,
        settings=[
            "embedding_size=7", "batch_size=32", *SETTINGS["small"].get(backbone, []), "lth_mrs.rounds=2",
            "wr.rounds=2", *OF[backbone], *own,
        ],
    )  # fmt: skip


def trained(wanted: RunSpec, data: Interactions, keeper: Keeper | None = None) -> dict[str, Any]:
    """All that a run comes to, its times aside."""
    model, method, lab = train_run(wanted, data, CPU, lambda event: None, keeper or Keeper())
    return {
        "weights": model.state_dict(),
        "stored": {name: table.arrays() for name, table in method.stored(model).items()},
        "history": [
            {k: v for k, v in row.items() if not k.endswith("seconds")}
            for phase in lab.phases
            for row in phase.history
        ],
        "phases": [
            (p.name, p.epochs, p.steps, p.selected_epoch, p.selected_value, p.state_bytes, p.ledger.state())
            for p in lab.phases
        ],
        "streams": lab.streams.root.state(),
        "diagnostics": method.diagnostics(),
        "shared": [p.run for p in lab.phases],
    }  # fmt: skip


def sharer(wanted: RunSpec, data: Interactions, said: list[str] | None = None) -> SharingKeeper:
    """Takes over, and keeps, all that a run may share."""
    run_id = wanted.identity(data.digests)
    own = trainings_of(wanted, wanted.as_dense.identity(data.digests))
    kept = Checkpoints(run_id, CPU, ([] if said is None else said).append, 0)
    return SharingKeeper(kept, run_id, own, {t.key for t in own if sharing.is_stored(t.key)}, CPU)


def equal(found: dict[str, Any], alone: dict[str, Any]) -> list[str | None]:
    """Check that runs are equal but for who trained what; says who did."""
    same(
        {k: v for k, v in found.items() if k != "shared"},
        {k: v for k, v in alone.items() if k != "shared"},
    )
    assert not any(alone["shared"])
    return list(found["shared"])


@pytest.mark.parametrize("backbone", OF)
def test_the_dense_training_is_the_same_bits_shared_or_not(backbone: str) -> None:
    data = make_interactions()
    before = len(registry.backbone(backbone).pretraining(resolve_hyper(spec(backbone, "dense"))))
    dense = spec(backbone, "dense")
    said: list[str] = []
    assert equal(trained(dense, data, sharer(dense, data)), trained(dense, data)) == [None] * (
        1 + before
    )
    by = dense.identity(data.digests)
    trainings = {"omp": 2, "wr": 3, "lth_mrs": 3, "pep": 2, "rp": 1}
    for method, phases in trainings.items():
        wanted = spec(backbone, method, "rp.variant=trained")
        who = equal(trained(wanted, data, sharer(wanted, data, said)), trained(wanted, data))
        first = None if method == "pep" else by  # its search is its own
        assert who == [by] * before + [first] + [None] * (phases - 1)
    assert len(said) == 5 * before + 4 and all(f"taken over from run {by}" in line for line in said)


def resolve_hyper(wanted: RunSpec) -> Any:
    return registry.backbone(wanted.backbone).hyper_type.model_validate(
        wanted.hyper | {"epochs": 1}
    )


def test_rounds_on_the_way_to_several_sparsities_are_shared_where_the_schedule_makes_them_so() -> (
    None
):
    data, backbone = make_interactions(), "lightgcn"
    options = [f"{m}.{o}" for m in ("lth_mrs", "wr") for o in ("schedule=fraction", "p=0.25")]

    def rounds(method: str, sparsity: float) -> RunSpec:
        found = spec(backbone, method, *options, sparsity=sparsity)
        return found.model_copy(update={"options": found.options | {"rounds": None}})

    # By quarters: 25, 44, 58 %; the last round is trimmed to 50 and 55 %.
    who = {}
    for method in ("lth_mrs", "wr"):
        for sparsity in (0.25, 0.5, 0.55):
            wanted = rounds(method, sparsity)
            who[method, sparsity] = equal(
                trained(wanted, data, sharer(wanted, data)), trained(wanted, data)
            )
    by = {key: rounds(*key).identity(data.digests) for key in who}
    quarter, half = (by["lth_mrs", s] for s in (0.25, 0.5))
    assert who["lth_mrs", 0.25] == [None, None]
    assert who["lth_mrs", 0.5] == [quarter, quarter, None, None]
    assert who["lth_mrs", 0.55] == [quarter, quarter, half, None]
    assert who["wr", 0.25] == [
        quarter,
        None,
    ]  # its own first round: it goes on from trained weights
    assert who["wr", 0.55] == [quarter, by["wr", 0.25], by["wr", 0.5], None]
    # OMP is LTH-MRS with one round.
    omp = spec(backbone, "omp", sparsity=0.25)
    assert equal(trained(omp, data, sharer(omp, data)), trained(omp, data)) == [quarter, quarter]
    # In the usual schedule all rounds but the first depend on where they lead.
    names = [
        {t.key for t in trainings_of(spec(backbone, "lth_mrs", sparsity=s), "x")}
        for s in (0.5, 0.6)
    ]
    assert len(names[0] & names[1]) == 1


def test_what_a_method_shares_is_done_by_plain_hooks() -> None:
    for name in registry.names("method"):
        kind = registry.method(name)
        for variant in kind.variants.values():
            options = kind.options_type(**variant)
            for sparsity in (0.0, 0.5):
                lineage = kind.lineage(options, sparsity)
                assert len(lineage) == len(kind.phases(options, sparsity))
                if any(lineage):
                    assert kind(options, sparsity).plain()
    assert not registry.method("dsl")(registry.method("dsl").options_type(), 0.5).plain()
    tickets = registry.method("lth_mrs")
    late = tickets.options_type(rewind_epoch=1)
    assert not tickets(late, 0.5).plain() and set(tickets.lineage(late, 0.5)) == {None}


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        ("gone", "the shared training of dense is gone, it is trained again"),
        ("cut", "is ignored, dense is trained again: damaged"),
        ("older", "is ignored, dense is trained again: made with dslbench 0.0.1"),
        ("other begin", "and is trained by itself"),
    ],
)
def test_a_shared_training_that_cannot_be_taken_is_made_again_and_said(
    fault: str, line: str, interactions: Interactions
) -> None:
    dense, wanted = spec("lightgcn", "dense"), spec("lightgcn", "omp")
    maker = sharer(dense, interactions)
    if fault == "older":
        maker._about["dslbench"] = "0.0.1"
    with pytest.MonkeyPatch.context() as patch:
        if fault == "other begin":
            patch.setattr("dslbench.runs.sharing._digest", lambda tree: "other")
        trained(dense, interactions, maker)
    ((_, _, path),) = sharing.sizes()
    said: list[str] = []
    keeper = sharer(wanted, interactions, said)
    if fault == "gone":
        path.unlink()
    if fault == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    who = equal(trained(wanted, interactions, keeper), trained(wanted, interactions))
    assert who == [None, None]
    assert len(said) == 1 and line in said[0]
    if fault != "other begin":  # it was kept again
        assert equal(
            trained(
                spec("lightgcn", "wr"), interactions, sharer(spec("lightgcn", "wr"), interactions)
            ),
            trained(spec("lightgcn", "wr"), interactions),
        )[0] == wanted.identity(interactions.digests)


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("at", ["in the shared training", "at its end", "after it"])
def test_whoever_is_killed_goes_on(at: str, interactions: Interactions) -> None:
    """The run that makes the shared training, and one that takes it over."""

    class Stopped(SharingKeeper):
        def offer(self, progress: Any, *, ended: bool = False) -> None:
            super().offer(progress, ended=ended)
            first = progress.record.name == "dense"
            where = {
                "in the shared training": first and not ended and progress.loop.epoch == 1,
                "at its end": first and ended,
                "after it": not first and not ended,
            }
            if where[at]:
                raise Killed

    wanted = spec("lightgcn", "omp")
    own = trainings_of(wanted, wanted.as_dense.identity(interactions.digests))
    alone = trained(wanted, interactions)

    def keeper(kind: type[SharingKeeper], run_id: str) -> SharingKeeper:
        kept = Checkpoints(run_id, CPU, print, 1e9)
        return kind(kept, run_id, own, set(), CPU)

    for run_id in ("a", "b"):
        with pytest.raises(Killed):
            trained(wanted, interactions, keeper(Stopped, run_id))
    assert equal(trained(wanted, interactions, keeper(SharingKeeper, "b")), alone)[0] in (None, "a")
    ended = keeper(SharingKeeper, "a")
    who = equal(trained(wanted, interactions, ended), alone)
    assert who[0] == ("b" if at == "in the shared training" else None)
    assert ended._kept.resumed == 1


def test_plans_say_what_sharing_saves(own_home: Path) -> None:
    def trainings(name: str, *settings: str) -> tuple[int, int]:
        chosen = plan.Chosen(
            dataset="toy", backbone=None, method=None, sparsity=None, seeds=None, epochs=None,
            scale="quick", protocol=None, settings=settings,
        )  # fmt: skip
        runs = stock.take_stock(plan.runs(plan.read(name), chosen, "")[0], False, pytest.fail)
        return sum(sharing.left(runs)), sum(run.trainings for run in runs)

    # The first training of 9 OMP and 9 LTH-MRS; and OMP at 10 % is LTH-MRS with one round.
    together, alone = trainings("figure2")
    assert (together, alone) == (106, 125)
    # All rounds but the last are on one way to all sparsities.
    assert trainings("figure2", "lth_mrs.schedule=fraction")[0] < 60
    together, alone = trainings("table3")
    assert (
        alone - together == 5 * 2 * 3
    )  # OMP, WR and LTH-MRS have a dense training in each setting


class Fake:
    """Makes runs that share by sleeping, and notes what was made."""

    slots = 2

    def __init__(self) -> None:
        self.made: list[str] = []
        self.order: list[str] = []
        self.there: dict[str, dict[str, bool]] = {}

    def make(
        self, run_id: str, spec: RunSpec, slot: int, on_event: Any, shared: dict[str, bool]
    ) -> None:
        self.order.append(spec.method)
        self.there[spec.method] = dict(shared)
        for key, there in shared.items():
            if not there:
                time.sleep(0.3)
                self.made.append(key)
                sharing.file(key).parent.mkdir(exist_ok=True, parents=True)
                sharing.file(key).write_bytes(b"x")
        store.save(record() | {"id": run_id}, [], {"users": np.arange(3)})

    def cancel(self, slot: int) -> None: ...

    def close(self) -> None: ...


def planned(*methods: str) -> list[stock.WantedRun]:
    specs = [spec("lightgcn", method) for method in methods]
    return stock.take_stock(specs, False, pytest.fail)


def made_by(executor: Fake, runs: list[stock.WantedRun]) -> str:
    text = io.StringIO()
    with Claims(pytest.fail) as own:
        show = Quiet(Console(file=text, width=300), Part(total=len(runs)))
        assert Schedule(runs, executor, own, show, pytest.fail).run() == []
    assert [path.name for path in claims.folder().iterdir()] == [".lock"]
    return text.getvalue()


def test_two_workers_make_a_shared_training_once() -> None:
    executor = Fake()
    runs = planned("dense", "omp", "lth_mrs", "rp")
    made_by(executor, runs)
    key = runs[0].shares[0].key
    assert executor.made == [key]  # rounds that nobody else has are not kept
    assert executor.order[:2] == ["dense", "rp"]  # the others wait for the first
    assert executor.there == {
        "dense": {key: False}, "rp": {}, "omp": {key: True}, "lth_mrs": {key: True}
    }  # fmt: skip


def test_what_another_process_trains_is_waited_for() -> None:
    executor = Fake()
    runs = planned("omp", "rp")
    key = runs[0].shares[0].key
    with Claims(pytest.fail) as theirs:
        held = theirs.take(key)
        assert held is not None

        def finish() -> None:
            time.sleep(1.2)
            sharing.file(key).parent.mkdir(parents=True)
            sharing.file(key).write_bytes(b"x")
            held.release()

        other = threading.Thread(target=finish)
        other.start()
        said = made_by(executor, runs)
        other.join()
    assert executor.order == ["rp", "omp"] and executor.there["omp"] == {key: True}
    assert executor.made == []
    assert "waiting for 1 run that others are making" in said


def timeless(found: dict[str, Any]) -> str:
    """A record without what was measured, when, and who trained what."""
    left = {k: v for k, v in found.items() if k not in ("started", "finished", "environment")}
    phases = [
        {k: v for k, v in p.items() if not k.endswith("seconds") and k != "shared_run"}
        for p in found["cost"]["measured"]["phases"]
    ]
    # Whether other precisions are judged as well depends on how long that takes.
    stored = found["stored"][:1]
    return json.dumps(left | {"cost": found["cost"]["counted"], "phases": phases, "stored": stored})


def test_compare_shares_says_so_and_bills_all(
    own_home: Path, runs_in_this_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [
        "compare", "--backbone", "lightgcn", "--dataset", "toy", "--epochs", "2",
        "--set", "embedding_size=16", "--method", "dense", "--method", "omp", "--format", "json",
    ]  # fmt: skip
    code, out, err = dslbench(*command)
    assert code == 0, err
    assert "2 runs: 0 stored, 2 to make (2 trainings: sharing saves 1 of 3, about" in err
    dense, omp = json.loads(out)
    assert f"dense: taken over from run {dense['id']}, which trained the same" in err
    own, first = (r["cost"]["measured"]["phases"][0] for r in (dense, omp))
    assert (
        first == own | {"phase": "dense", "shared_run": dense["id"]} and own["shared_run"] is None
    )
    bill = omp["cost"]["measured"]
    assert bill["train_seconds"] == sum(p["train_seconds"] for p in bill["phases"])

    # Anew, where that is asked for; both together have one dense training, a new one.
    code, out, err = dslbench(*command, "--force")
    assert code == 0 and "2 trainings: sharing saves 1 of 3" in err
    again = json.loads(out)
    assert again[0]["cost"]["measured"]["phases"][0]["train_seconds"] != own["train_seconds"]
    assert again[1]["cost"]["measured"]["phases"][0]["shared_run"] == dense["id"]
    # One run alone takes over what there is, or trains it.
    code, _, err = dslbench("train", *command[1:7], "--set", "embedding_size=16", "--method", "wr",
                            "--set", "wr.rounds=1")  # fmt: skip
    assert code == 0 and "1 training: sharing saves 1 of 2" in err and "round 0: taken over" in err

    monkeypatch.setenv("DSLBENCH_SHARED_MIB", "0")
    code, out, err = dslbench(*command, "--force")
    assert code == 0 and "3 trainings, about" in err and "DSLBENCH_SHARED_MIB is 0" in err
    alone = json.loads(out)
    assert (
        [timeless(r) for r in alone]
        == [timeless(r) for r in again]
        == [timeless(dense), timeless(omp)]
    )
    assert not any(p["shared_run"] for r in alone for p in r["cost"]["measured"]["phases"])


def test_what_was_not_used_for_long_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(4):
        path = sharing.file(f"k{n}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(100))
        os.utime(path, (100 - n, 100 - n))
    sharing.tidy(250)
    assert [path.stem for _, _, path in sharing.sizes()] == ["k1", "k0"]
    sharing.tidy(50)
    assert [path.stem for _, _, path in sharing.sizes()] == ["k0"]  # the last stays in any case
    monkeypatch.setenv("DSLBENCH_SHARED_MIB", "much")
    with pytest.raises(UsageError, match="not a number of MiB"):
        sharing.limit()
