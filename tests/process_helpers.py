"""The command line in processes of its own, for less than `python -m dslbench` costs.

A process takes seconds to import everything, and `compare` starts one to time a few steps before it
starts one for each run. Where neither is what a test is about:

* `WITHOUT_TRIAL` in place of `python -m dslbench` expects every run to take no time;
* `each_in_one_process` gives several commands one process;
* the fixture `runs_in_this_process` makes runs without a worker's process.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

WITHOUT_TRIAL = [
    sys.executable, "-c",
    "from dslbench.cli.main import main; from dslbench.runs import making; "
    "making.estimate_seconds = lambda *_: 0.0; main()",
]  # fmt: skip

_EACH = """
import contextlib, io, json, sys, traceback
from dslbench import output
from dslbench.cli.main import main
from dslbench.runs import making

making.estimate_seconds = lambda *_: 0.0
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
    """Commands one after another in one process, without trials, as if each had its own."""
    done = subprocess.run(
        [sys.executable, "-c", _EACH], input=json.dumps(commands), env=environment,
        check=False, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [Done(*json.loads(line)) for line in done.stdout.splitlines()]
