"""Run every benchmark of this folder, each in a process of its own, and print its table."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from dslbench.runs.local import THREAD_SETTINGS

HERE = Path(__file__).parent


def main() -> int:
    environment = THREAD_SETTINGS | os.environ  # as runs do
    failed = 0
    for path in sorted(HERE.glob("*.py")):
        if path.stem in ("run", "common", "kill_test"):
            continue
        print(f"## {path.stem}\n", flush=True)
        failed |= subprocess.call([sys.executable, str(path), *sys.argv[1:]], env=environment)
    return failed


if __name__ == "__main__":
    sys.exit(main())
