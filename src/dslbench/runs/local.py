"""Runs on this machine: a worker process for each, its cores and its GPU chosen by its slot."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from dslbench import home
from dslbench.errors import (
    DataError,
    DivergedError,
    DslbenchError,
    RunError,
    StoreError,
    UsageError,
)
from dslbench.ops.threads import thread_count
from dslbench.runs import store
from dslbench.spec import RunSpec

Event = dict[str, Any]
OnEvent = Callable[[Event], None]
Shared = Mapping[str, bool]


class CancelledError(Exception):
    """The run was stopped by us."""


class Executor(Protocol):
    """Where runs are made. `make` blocks; it is called from one thread per slot."""

    slots: int

    def make(
        self, run_id: str, spec: RunSpec, slot: int, on_event: OnEvent, shared: Shared
    ) -> None:
        """Make a run and have it in the store; raises a `DslbenchError`, or `CancelledError`.

        Args:
            shared: keys of trainings to be taken over, or kept for other runs, and whether they are there.
        """

    def cancel(self, slot: int) -> None:
        """Stop what runs in a slot; its `make` raises `CancelledError`."""

    def close(self) -> None:
        """Give back what was taken."""


class LocalExecutor:
    """Worker processes of this machine, at most `workers` at once.

    Several share the cores equally; where there are several GPUs each sees one of them, in turn.
    """

    def __init__(self, device: str, workers: int = 1) -> None:
        self.slots, self._device = workers, device
        self._processes: list[Process | None] = [None] * workers
        self.environments = [
            _shares(workers) | ({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {})
            for gpu in _gpus(device, workers)
        ]

    def make(
        self, run_id: str, spec: RunSpec, slot: int, on_event: OnEvent, shared: Shared
    ) -> None:
        """See `Executor`."""
        job = {
            "task": "run",
            "spec": spec.model_dump(),
            "device": self._device,
            "shared": dict(shared),
        }
        process = self._processes[slot] = Process()
        process.run(job, on_event, run_id=run_id, environment=self.environments[slot])

    def cancel(self, slot: int) -> None:
        """See `Executor`."""
        if (process := self._processes[slot]) is not None:
            process.cancel()

    def close(self) -> None:
        """See `Executor`."""


def _shares(workers: int) -> dict[str, str]:
    """Threads of each worker; one alone has what the environment says."""
    if workers == 1:
        return {}
    threads = str(max(1, thread_count() // workers))
    return {"DSLBENCH_THREADS": threads, "OMP_NUM_THREADS": threads}


def _gpus(device: str, workers: int) -> list[str]:
    """The GPU that each slot sees, in turn; "" for what the environment says."""
    if device == "cpu" or workers == 1:
        return [""] * workers
    import torch

    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = visible.split(",") if visible else [str(number) for number in range(count)]
    return [names[slot % count] if count > 1 else "" for slot in range(workers)]


# torch's threads sleep between operations. Left alone they wait for the next one awake, which is faster where
# nothing else runs, and 50 times slower where something does: each waits for one that has no core.
THREAD_SETTINGS = {"OMP_WAIT_POLICY": "PASSIVE"}


class Process:
    """A worker process, for one job."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._cancelled = False

    def cancel(self) -> None:
        """Kill the process, or keep it from starting."""
        with self._lock:
            self._cancelled = True
            if self._process is not None:
                self._process.kill()

    def run(
        self, job: Event, on_event: OnEvent = lambda event: None, *, run_id: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Event:  # fmt: skip
        """Start a worker, hand on its events, and return the last.

        What it says on stderr is kept in a log where it makes a run, `run_id`, and that fails.

        Raises what the worker says, `RunError` where it dies, `CancelledError` after `cancel`.
        """
        log = Path(os.devnull) if run_id is None else store.log(run_id)
        settings = THREAD_SETTINGS | os.environ | dict(environment or {})
        last: Event = {}
        with home.storing("the run's log", log.parent, 1 << 16):
            log.parent.mkdir(parents=True, exist_ok=True)
            errors = log.open("w", encoding="utf-8")
        with errors:
            with self._lock:
                if self._cancelled:
                    raise CancelledError
                process = self._process = subprocess.Popen(
                    [sys.executable, "-m", "dslbench.runs.worker"], text=True, env=settings,
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                )  # fmt: skip
            assert process.stdin is not None and process.stdout is not None
            try:
                # The pipe stays open: its end tells the worker that we are gone.
                process.stdin.write(json.dumps(job | {"attached": True}) + "\n")
                process.stdin.flush()
                for line in process.stdout:
                    try:
                        last = json.loads(line)
                    except ValueError:
                        errors.write(line)  # something a library printed
                        continue
                    on_event(last)
            except BrokenPipeError:
                pass  # it died before it read its job; its exit code says more
            except BaseException:
                process.kill()
                raise
            finally:
                code = process.wait()
                process.stdout.close()
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.close()
        failed = not self._cancelled and code != 0
        if run_id is not None and not failed:
            log.unlink(missing_ok=True)
        if self._cancelled:
            raise CancelledError
        if last.get("event") == "error":
            raise error_of(last)
        if failed:
            raise RunError(f"the run's process ended {_end(code)}", f"its messages are in {log}")
        return last


def error_of(event: Event) -> DslbenchError:
    """The error that a worker's last event tells of."""
    kinds: dict[int, type[DslbenchError]] = {2: UsageError, 3: DataError}
    kind = kinds.get(event["code"], RunError)
    if event.get("kind") == StoreError.__name__:
        kind = StoreError
    if event.get("kind") == DivergedError.__name__:
        diverged = DivergedError(event["message"], event["hint"])
        diverged.bill = event.get("bill")
        return diverged
    return kind(event["message"], event["hint"])


def _end(code: int) -> str:
    if code >= 0:
        return f"with exit code {code}"
    name = signal.Signals(-code).name
    killed = ", as the system does when memory runs out" if name == "SIGKILL" else ""
    return f"with {name}{killed}"
