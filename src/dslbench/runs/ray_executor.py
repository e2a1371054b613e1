"""Runs on a Ray cluster: a task for each, which starts the same worker process on its node.

Data sets and teachers travel to the task, the run's files come back as bytes, and the store is
written here only. A task whose node is lost is begun anew on another one by Ray.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import socket
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dslbench
from dslbench import home
from dslbench.data import library as data_store
from dslbench.data import loading
from dslbench.errors import DslbenchError, RunError, UsageError
from dslbench.runs import store
from dslbench.runs.local import CancelledError, Event, OnEvent, Process, Shared, error_of
from dslbench.spec import RunSpec

RETRIES = 3  # times that a run is begun anew after its node was lost
_POLL = 0.5  # seconds
_REACH = 10.0  # seconds until a cluster that does not answer is given up
Files = dict[str, bytes]  # content by path below the store's root


def check_installed() -> None:
    """Raise `UsageError` where Ray is missing."""
    if importlib.util.find_spec("ray") is None:
        raise UsageError("Ray is not installed", "pip install 'dslbench[ray]'")


class RayExecutor:
    """Tasks on a cluster: one CPU each, or as many as DSLBENCH_THREADS says, and a GPU where there is one.

    Raises `RunError` where the cluster cannot be reached or has no room for any task.
    """

    def __init__(self, device: str, workers: int | None, address: str | None) -> None:
        import ray
        from ray.util.queue import Queue
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._device = device
        self._began = not ray.is_initialized()
        if self._began:
            _check_reachable(address or os.environ.get("RAY_ADDRESS") or "")
            try:
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            except (ConnectionError, ValueError, RuntimeError) as error:
                reason = str(error).partition("\n")[0]
                raise RunError(
                    f"no Ray cluster at {address or 'RAY_ADDRESS'}: {reason}",
                    "--address HOST:PORT, or none for a cluster on this machine",
                ) from None
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        cpus = int(os.environ.get("DSLBENCH_THREADS") or 1)
        gpus = 1 if device != "cpu" and any(node.get("GPU", 0) >= 1 for node in nodes) else 0
        # A task runs on one node: what several have left over together is of no use.
        fit = int(
            sum(
                min(node.get("CPU", 0) // cpus, node.get("GPU", 0) if gpus else float("inf"))
                for node in nodes
            )
        )
        if fit < 1:
            self.close()
            raise RunError(
                f"no node of the Ray cluster has {cpus} free CPUs", "DSLBENCH_THREADS sets a task's"
            )
        self.slots = min(fit, workers) if workers else fit
        self._task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES)(_run_on_node)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._queue = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
        self._threads = str(cpus)
        self._listeners: dict[str, OnEvent] = {}
        self._running: dict[int, Any] = {}
        self._cancelled: set[int] = set()
        self._lock = threading.Lock()
        self._data: dict[str, Any] = {}
        self._closed = threading.Event()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def make(
        self, run_id: str, spec: RunSpec, slot: int, on_event: OnEvent, shared: Shared
    ) -> None:
        """See `Executor`; nothing is shared, as each node has a store of its own."""
        import ray

        job = {"task": "run", "spec": spec.model_dump(), "device": self._device}
        teacher = _teacher_files(spec)
        self._listeners[run_id] = on_event
        with self._lock:
            self._cancelled.discard(slot)
            reference = self._task.remote(
                run_id, job, dslbench.__version__, self._threads, self._data_files(spec), teacher,
                self._queue,
            )  # fmt: skip
            self._running[slot] = reference
        try:
            while not ray.wait([reference], timeout=_POLL)[0]:
                pass
            files, failure, log = ray.get(reference)
        except Exception as error:
            if slot in self._cancelled:
                raise CancelledError from None
            reason = str(error).strip().partition("\n")[0]
            raise RunError(f"the Ray task ended: {type(error).__name__}: {reason}") from None
        finally:
            self._listeners.pop(run_id, None)
            self._running.pop(slot, None)
        if failure is not None:
            raise _with_log(error_of(failure), run_id, log)
        if run_id not in _run_ids(files):
            raise RunError(
                "the node made another run than was asked for", "use the same dslbench on all nodes"
            )
        store.put(run_id, {Path(path).name: content for path, content in files.items()})

    def cancel(self, slot: int) -> None:
        """See `Executor`."""
        import ray

        with self._lock:
            self._cancelled.add(slot)
            reference = self._running.get(slot)
        if reference is not None:
            ray.cancel(reference, force=True)

    def close(self) -> None:
        """Leave the cluster, or end the one that was begun here."""
        import ray

        if hasattr(self, "_closed"):
            self._closed.set()
            self._listener.join(5)
            with contextlib.suppress(Exception):  # its node may be gone
                self._queue.shutdown(force=True)
        if self._began:
            ray.shutdown()

    def _data_files(self, spec: RunSpec) -> Any:
        """The data set's files, put into the cluster once."""
        import ray

        if spec.dataset not in self._data:
            entry, elsewhere = loading.locate(spec.dataset)
            where = data_store.folder(entry.store_name)
            files: Files = {}
            if elsewhere is None and not entry.generated:
                files = {
                    str(path.relative_to(home.home())): path.read_bytes()
                    for path in sorted(where.rglob("*"))
                    if path.is_file()
                }
            self._data[spec.dataset] = ray.put(files)
        return self._data[spec.dataset]

    def _listen(self) -> None:
        from ray.util.queue import Empty

        while not self._closed.is_set():
            try:
                run_id, event = self._queue.get(timeout=_POLL)
            except Empty:
                continue
            except Exception:
                return  # the cluster is gone; the tasks tell more
            if (listener := self._listeners.get(run_id)) is not None:
                listener(event)


def _check_reachable(address: str) -> None:
    """Raise `RunError` where nobody listens at HOST:PORT; Ray itself would try for several minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return  # "auto", "local" or none: Ray looks for a cluster on this machine
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH).close()
    except (OSError, OverflowError) as error:
        raise RunError(
            f"no Ray cluster at {address}: {getattr(error, 'strerror', None) or error}",
            "--address HOST:PORT, or none for a cluster on this machine",
        ) from None


def _run_on_node(
    run_id: str, job: Event, version: str, threads: str, data: Files, teacher: Files, events: Any
) -> tuple[Files, Event | None, str]:
    """Make a run in a store of its own: its files, or what failed and the worker's messages."""
    if dslbench.__version__ != version:
        message = f"a node has dslbench {dslbench.__version__}, not {version}"
        return {}, {"message": message, "hint": "use the same on all nodes", "code": 1}, ""
    with tempfile.TemporaryDirectory(prefix="dslbench-") as root:
        for path, content in (data | teacher).items():
            (Path(root) / path).parent.mkdir(parents=True, exist_ok=True)
            (Path(root) / path).write_bytes(content)
        before, os.environ["DSLBENCH_HOME"] = os.environ.get("DSLBENCH_HOME"), root
        environment = {"DSLBENCH_THREADS": threads, "OMP_NUM_THREADS": threads}

        def tell(event: Event) -> None:
            with contextlib.suppress(Exception):  # progress is not worth a run
                events.put((run_id, event), block=False)

        try:
            Process().run(job, tell, run_id=run_id, environment=environment)
            return (
                {f"runs/{run_id}/{name}": x for name, x in store.files_of(run_id).items()},
                None,
                "",
            )
        except DslbenchError as error:
            text = ""
            with contextlib.suppress(FileNotFoundError):
                text = store.log(run_id).read_text(encoding="utf-8", errors="replace")
            failure = {
                "message": error.message, "hint": error.hint, "code": error.exit_code,
                "kind": type(error).__name__, "bill": getattr(error, "bill", None),
            }  # fmt: skip
            return {}, failure, text
        finally:
            if before is None:
                del os.environ["DSLBENCH_HOME"]
            else:
                os.environ["DSLBENCH_HOME"] = before


def _teacher_files(spec: RunSpec) -> Files:
    """What a student's worker reads of its teacher's run."""
    if spec.teacher is None:
        return {}
    from dslbench.runs.assemble import data_of

    teacher = spec.teacher.identity(data_of(spec).digests)
    return {f"runs/{teacher}/{name}": x for name, x in store.files_of(teacher).items()}


def _run_ids(files: Mapping[str, bytes]) -> set[str]:
    return {Path(path).parent.name for path in files if path.endswith("/run.json")}


def _with_log(error: DslbenchError, run_id: str, log: str) -> DslbenchError:
    """Keep the worker's messages here: those on the node are gone."""
    if not log:
        return error
    path = store.log(run_id)
    with contextlib.suppress(OSError):
        home.write_atomic(path, log.encode())
        error.hint = (
            f"its messages are in {path}" if "messages are in" in (error.hint or "") else error.hint
        )
    return error
