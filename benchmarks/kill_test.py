"""Kill a `compare` of toy runs at random moments, let it go on, and look whether anything changed.

    python benchmarks/kill_test.py --kills 50

Every method is run on one backbone, once undisturbed and once with the whole process group killed
(SIGKILL) after random times, each time started again. Records and histories must be equal, measured
times and memory aside. Exit code 1 if they are not.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TIMES = ("started", "finished", "environment")


def command(backbone: str, epochs: int) -> list[str]:
    return [
        sys.executable, "-m", "dslbench", "compare", "--backbone", backbone, "--dataset", "toy",
        "--epochs", str(epochs), "--set", "lth_mrs.rounds=2", "--set", "wr.rounds=2",
        "--set", "embedding_size=32", "--set", "dsl.delta_t=20", "--format", "json",
    ]  # fmt: skip


def start(args: list[str], home: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"DSLBENCH_HOME": str(home), "DSLBENCH_CHECKPOINT_SHARE": "0.5"}
    return subprocess.Popen(
        args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        start_new_session=True,
    )  # fmt: skip


def finish(args: list[str], home: Path) -> list[dict[str, Any]]:
    """The records in order, of all runs."""
    process = start(args, home)
    out, err = process.communicate()
    if process.returncode:
        sys.exit(f"compare ended with {process.returncode}:\n{err}")
    records: list[dict[str, Any]] = json.loads(out)
    return records


def deterministic(record: dict[str, Any], home: Path) -> str:
    """All of a record and its history that must not depend on how often the run was broken off."""
    kept = {name: part for name, part in record.items() if name not in TIMES}
    measured = kept["cost"]["measured"]
    kept["cost"] = {
        "counted": kept["cost"]["counted"],
        "stored_bytes": measured["stored_bytes"],
        "phases": [untimed(phase) for phase in measured["phases"]],
    }
    text = (home / "runs" / record["id"] / "history.json").read_text(encoding="utf-8")
    model = (home / "runs" / record["id"] / "model.safetensors").read_bytes()
    return json.dumps([kept, [untimed(row) for row in json.loads(text)], model.hex()])


def untimed(row: dict[str, Any]) -> dict[str, Any]:
    return {name: x for name, x in row.items() if not name.endswith("seconds")}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--backbone", default="lightgcn")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--least", type=float, help="seconds that each process lives at least")
    options = parser.parse_args()
    args, rng = command(options.backbone, options.epochs), random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole_home, killed_home = Path(folder, "whole"), Path(folder, "killed")
        began = time.monotonic()
        whole = finish(args, whole_home)
        lasted = time.monotonic() - began
        print(f"undisturbed: {len(whole)} runs in {lasted:.0f} s", flush=True)
        # Never before a process has had the time to start and to get somewhere.
        least = options.least or lasted / (2 * len(whole))
        kills = 0
        while kills < options.kills:
            process = start(args, killed_home)
            try:
                process.communicate(timeout=least + rng.expovariate(options.kills / lasted))
                if process.returncode:
                    sys.exit(f"compare ended with {process.returncode}")
                break
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                kills += 1
        killed = finish(args, killed_home)
        changed = 0
        for a, b in zip(whole, killed, strict=True):
            same = deterministic(a, whole_home) == deterministic(b, killed_home)
            changed += not same
            resumed = b["cost"]["measured"]["resumed"]
            title = f"{b['spec']['backbone']} {b['spec']['method']}"
            print(f"{title:20} resumed {resumed:3} times: {'the same' if same else 'CHANGED'}")
        runs = killed_home / "runs"
        stored = {path.name for path in runs.glob("[!.]*")}
        twice = len(stored) - len(whole)
        hidden = ".checkpoints/*", ".claims/[!.]*", ".failed/*", ".????????????.*"
        left = [path for pattern in hidden for path in runs.glob(pattern)]
    print(
        f"{kills} kills, {changed} of {len(whole)} records changed, {twice} more than there should be, "
        f"{len(left)} files left over"
    )
    return int(bool(changed or twice or left))


if __name__ == "__main__":
    sys.exit(main())
