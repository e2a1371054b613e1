"""The command line in processes of its own, for less than `python -m dslbench` costs.

A process takes seconds to import everything, and `compare` starts one to time a few steps before it
starts one for each run. Where neither is what a test is about:

* `WITHOUT_TRIAL` in place of `python -m dslbench` expects every run to take no time;
* `each_in_one_process` gives several commands one process, and their runs no other;
* the fixture `runs_in_this_process` makes runs without a worker's process.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dslbench.runs import local


def run_here(
    self: local.Process, job: local.Event, on_event: local.OnEvent = lambda event: None, **_: Any
) -> local.Event:
    """`local.Process.run` without a process."""
    from dslbench.runs.worker.__main__ import perform

    last: local.Event = {}

    def tell(event: local.Event) -> None:
        last.update(json.loads(json.dumps(event)))
        on_event(json.loads(json.dumps(event)))

    stored = perform(json.loads(json.dumps(job)), tell)
    return last if stored is None else {"event": "done", "id": stored}


WITHOUT_TRIAL = [
    sys.executable, "-c",
    "from dslbench.cli.main import main; from dslbench.runs import durations, making; "
    "making.estimate_seconds = lambda *_: 0.0; durations.pace = lambda *_: None; main()",
]  # fmt: skip

_EACH = """
import contextlib, io, json, sys, traceback
sys.path.insert(0, TESTS)
from process_helpers import run_here
from dslbench.runs import local
from dslbench import output
from dslbench.cli.main import main
from dslbench.runs import durations, making

making.estimate_seconds = lambda *_: 0.0
durations.pace = lambda *_: None
local.Process.run = run_here
for args in json.loads(sys.stdin.read()):
    output.warn_once.cache_clear()
    sys.argv, code = ["dslbench", *args], 0
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        except Exception:
            traceback.print_exc()
            code = 1
    print(json.dumps([code, out.getvalue(), err.getvalue()]))
"""


@dataclass(frozen=True)
class Done:
    """What a command came to."""

    returncode: int
    stdout: str
    stderr: str


def each_in_one_process(commands: list[list[str]], environment: Mapping[str, str]) -> list[Done]:
    """Commands one after another in one process, runs and all, without trials, as if each had its own."""
    program = f"TESTS = {str(Path(__file__).parent)!r}\n{_EACH}"
    done = subprocess.run(
        [sys.executable, "-c", program], input=json.dumps(commands), env=environment,
        check=False, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [Done(*json.loads(line)) for line in done.stdout.splitlines()]
