"""Runs on a real local Ray cluster of three nodes, one of which is lost on the way."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dslbench.errors import RunError, UsageError
from dslbench.runs import local, ray_executor, stock, store
from dslbench.runs.claims import Claims
from dslbench.runs.local import CancelledError
from dslbench.runs.progress import Quiet
from dslbench.runs.schedule import Schedule
from dslbench.spec import RunSpec, resolve


def specs(epochs: int) -> list[RunSpec]:
    return [
        resolve(
            dataset="toy", backbone="lightgcn", method=method, sparsity=0.5, seed=0, epochs=epochs,
            settings=["embedding_size=8"],
        )
        for method in ("dense", "rp", "wr", "dsl", "rkd")
    ]  # fmt: skip


def test_without_ray_the_option_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_executor.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="Ray is not installed") as caught:
        ray_executor.check_installed()
    assert caught.value.hint == "pip install 'dslbench[ray]'"


class Watch(Quiet):
    """Counts events by run, and when each run was begun in a worker."""

    def __init__(self, total: int) -> None:
        self.text = io.StringIO()
        super().__init__(Console(file=self.text, width=300), total)
        self.starts: dict[int, int] = {}
        self.epochs: set[int] = set()

    def event(self, slot: int, event: dict[str, Any]) -> None:
        if event["event"] == "start":
            self.starts[slot] = self.starts.get(slot, 0) + 1
        if event["event"] == "epoch":
            self.epochs.add(slot)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    found = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    yield found
    found.shutdown()


def schedule(planned: list[Any], executor: Any, show: Watch) -> list[str]:
    missing = [run for run in planned if not run.done]
    with Claims(pytest.fail) as claims:
        return Schedule(missing, executor, claims, show, pytest.fail).run()


def same(record: dict[str, Any]) -> dict[str, Any]:
    """All of a record that does not depend on the machine's speed."""
    kept = {key: record[key] for key in ("id", "spec", "data", "quality", "selection", "budget")}
    return kept | {"counted": record["cost"]["counted"], "diagnostics": record["diagnostics"]}


def test_a_lost_node_costs_no_run_and_both_executors_give_the_same_records(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    planned = stock.take_stock(specs(40), False, pytest.fail)
    executor = ray_executor.RayExecutor("cpu", None, cluster.address)
    assert executor.slots == 3
    show = Watch(len(planned))
    done: list[Any] = []

    def kill() -> None:
        deadline = time.monotonic() + 240
        while len(show.epochs) < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        cluster.remove_node(nodes[0], allow_graceful=False)
        done.append(len(store.read_all(pytest.fail)))

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        assert schedule(planned, executor, show) == []
    finally:
        killer.join()
        executor.close()
    assert len(show.epochs) == 3 and done[0] < 5  # three at once, and the node went before the end
    assert sum(show.starts.values()) > len(planned)  # something was begun again
    made = {record["id"]: record for record in store.read_all(pytest.fail)}
    assert set(made) == {run.id for run in planned}
    models = {name: store.model_bytes(name) for name in made}
    losses = {name: [row["loss"] for row in store.history(name) or ()] for name in made}

    monkeypatch.setenv("DSLBENCH_HOME", str(tmp_path / "local"))
    for name in (
        "DSLBENCH_THREADS",
        "OMP_NUM_THREADS",
    ):  # as tasks have: torch's sums of losses differ
        monkeypatch.setenv(name, "1")
    again = stock.take_stock(specs(40), False, pytest.fail)
    assert schedule(again, local.LocalExecutor("cpu"), Watch(len(again))) == []
    for record in store.read_all(pytest.fail):
        name = record["id"]
        assert same(record) == same(made[name])
        assert store.model_bytes(name) == models[name]
        assert [row["loss"] for row in store.history(name) or ()] == losses[name]


def test_what_fails_on_a_node_fails_here_and_cancelling_frees_it(cluster: Any) -> None:
    bad = resolve(
        dataset="toy", backbone="lightgcn", method="dense", sparsity=0.5, seed=0, epochs=2,
        settings=["embedding_size=8", "lr=1e30"],
    )  # fmt: skip
    (failing,) = stock.take_stock([bad], False, pytest.fail)
    (long,) = stock.take_stock(specs(100_000)[:1], False, pytest.fail)
    executor = ray_executor.RayExecutor("cpu", 1, cluster.address)
    try:
        with pytest.raises(RunError, match=r"stopped being numbers|the loss became"):
            executor.make(failing.id, failing.spec, 0, lambda event: None, {})
        begun = threading.Event()
        ended: list[BaseException] = []

        def run() -> None:
            try:
                executor.make(long.id, long.spec, 0, lambda event: begun.set(), {})
            except BaseException as error:
                ended.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        assert begun.wait(120)
        executor.cancel(0)
        thread.join(60)
        assert isinstance(ended[0], CancelledError)
    finally:
        executor.close()
    assert store.read_all(pytest.fail) == []


def test_the_command_line_on_a_cluster(cluster: Any, own_home: Path) -> None:
    command = [
        sys.executable, "-m", "dslbench", "compare", "--backbone", "lightgcn", "--dataset", "toy",
        "--set", "embedding_size=8", "--method", "dense", "--method", "rp", "--epochs", "2",
        "--executor", "ray", "--format", "json",
    ]  # fmt: skip
    nowhere = subprocess.run(
        [*command, "--address", "127.0.0.1:1"], capture_output=True, text=True, check=False
    )
    assert nowhere.returncode == 1 and "Traceback" not in nowhere.stderr, nowhere.stderr
    assert "error: no Ray cluster at 127.0.0.1:1" in nowhere.stderr
    found = subprocess.run(
        [*command, "--address", cluster.address], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    assert len(json.loads(found.stdout)) == 2
