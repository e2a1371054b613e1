"""What the package declares is what it is: imports, versions of Python, entry points, version."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import dslbench

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def names(requirements: list[str]) -> set[str]:
    """Distribution names without versions and markers, as they are compared."""
    return {re.split(r"[^\w.-]", line)[0].lower().replace("_", "-") for line in requirements}


def test_every_import_is_declared() -> None:
    imported = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add((node.module or "").partition(".")[0])
    foreign = imported - set(sys.stdlib_module_names) - {"dslbench"}
    extras = PROJECT["optional-dependencies"]
    declared = names(PROJECT["dependencies"]) | names(extras["ray"]) | names(extras["tune"])
    declared |= {"triton"}  # comes with torch where there is CUDA, and is done without elsewhere
    known = packages_distributions()
    undeclared = {
        name for name in foreign if not names(known.get(name, [name])) & declared
    }  # fmt: skip
    assert undeclared == set()


def test_versions_of_python_are_said_alike_everywhere() -> None:
    of_classifiers = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    first, last = of_classifiers[0], of_classifiers[-1]
    assert PROJECT["requires-python"] == f">={first}"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"Python {first} to {last}" in readme
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert f"--python-version {last}" in makefile and f"Python {first} or newer" in makefile
    assert f"{sys.version_info.major}.{sys.version_info.minor}" in of_classifiers


def test_the_version_is_said_alike_everywhere() -> None:
    assert f"version: {dslbench.__version__}\n" in (ROOT / "CITATION.cff").read_text("utf-8")
    for command in (["-m", "dslbench"], ["-c", "from dslbench.cli.main import main; main()"]):
        done = subprocess.run(
            [sys.executable, *command, "--version"], capture_output=True, text=True, check=True
        )
        assert done.stdout == f"dslbench {dslbench.__version__}\n"


def test_the_shell_completes_commands() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from dslbench.cli.main import main; main()"],
        env={"_DSLBENCH_COMPLETE": "complete_bash", "COMP_WORDS": "dslbench rep", "COMP_CWORD": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.split() == ["reproduce", "report"]
