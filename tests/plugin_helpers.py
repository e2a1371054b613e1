"""Packages that are installed for a test, as `pip` would leave them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from process_helpers import WITHOUT_TRIAL, Done, each_in_one_process

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^```(\S*) ?(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def install(folder: Path, name: str, source: str, **groups: str) -> Path:
    """A folder with one module and its entry points, "name = object" by group."""
    about = folder / f"{name}-1.0.dist-info"
    about.mkdir(parents=True)
    (folder / f"{name}.py").write_text(source, encoding="utf-8")
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    points = "".join(f"[dslbench.{group}]\n{line}\n" for group, line in groups.items())
    (about / "entry_points.txt").write_text(points)
    return folder


def with_packages(*folders: Path) -> dict[str, str]:
    """The environment of a process that has these packages."""
    path = os.pathsep.join([*map(str, folders), *filter(None, sys.path)])
    return os.environ | {"PYTHONPATH": path}


def dslbench(*args: str, packages: tuple[Path, ...] = ()) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, with these packages installed."""
    return subprocess.run(
        [*WITHOUT_TRIAL, *args], env=with_packages(*packages),
        check=False, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def dslbench_each(*commands: list[str], packages: tuple[Path, ...] = ()) -> list[Done]:
    """Several commands in one process, with these packages installed."""
    return each_in_one_process(list(commands), with_packages(*packages))


def example(page: str, heading: str) -> tuple[str, dict[str, str]]:
    """The Python source under a heading of a page, and its entry points by group."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    (section,) = (part for part in text.split("\n## ") if part.startswith(heading))
    fences = FENCE.findall(section)
    source = next(content for language, _, content in fences if language == "python")
    points = re.findall(
        r'^\[project\.entry-points\."dslbench\.(\w+)"\]\n(\w+) = "(.*)"$', section, re.MULTILINE
    )
    return source, {group: f"{name} = {target}" for group, name, target in points}
