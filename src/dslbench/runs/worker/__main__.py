"""`python -m dslbench.runs.worker`: a job on stdin, events on stdout.

A process per run keeps peak memory honest and one crash from taking others along.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

import torch

from dslbench.errors import DslbenchError
from dslbench.runs.assemble import choose_device
from dslbench.runs.worker.fit import validate_reference
from dslbench.runs.worker.judge import judge_again, validate
from dslbench.runs.worker.probe import probe
from dslbench.runs.worker.run import make_run
from dslbench.spec import RunSpec

Emit = Callable[[dict[str, Any]], None]


def _end_with_parent() -> None:
    """Wait for the end of stdin, which the parent holds open, and go: nobody wants the run any more."""
    while os.read(sys.stdin.fileno(), 1 << 10):
        pass
    os._exit(1)


def perform(job: dict[str, Any], emit: Emit) -> str | None:
    """Do a job and tell of it: make a run, judge a stored one, or time a few steps.

    Returns:
        id of the run that is stored, None where none is.
    """
    spec = RunSpec.of_record(job["spec"])
    device = choose_device(job["device"])
    if job["task"] == "probe":
        emit({"event": "probe"} | probe(spec, device))
        return None
    if job["task"] == "validate":
        if spec.is_reference:
            found = validate_reference(job["id"], job["precisions"], latency=job["latency"])
        else:
            found = validate(job["id"], job["precisions"], device, latency=job["latency"])
        emit({"event": "validated", "models": found})
        return None
    if job["task"] == "judge":
        judge_again(job["id"], job["precisions"], device)
        return str(job["id"])
    return str(make_run(spec, device, emit, job.get("shared", {}))["id"])


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
        if (stored := perform(job, emit)) is not None:
            emit({"event": "done", "id": stored})
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
                "bill": getattr(error, "bill", None),
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
