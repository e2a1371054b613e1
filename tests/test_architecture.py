"""The layout is that of docs/architecture.md: imports go down, and in no circle."""

from __future__ import annotations

import ast
import re
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
FILES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (SOURCE / "dslbench").rglob("*.py")
}


@cache
def imports(module: str) -> set[str]:
    """Modules of ours that a module imports anywhere, for types or within functions, too."""
    found = set()
    for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in FILES}
        elif isinstance(node, ast.ImportFrom) and node.module in FILES:
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in FILES else node.module for name in whole}
    return found - {module, "dslbench"}


def package(module: str) -> str:
    return module.split(".")[1]


def test_imports_go_to_floors_below() -> None:
    (block,) = re.findall(r"```floors\n(.*?)```", PAGE, re.DOTALL)
    floor = {name: n for n, line in enumerate(block.splitlines()) for name in line.split()}
    modules = set(FILES) - {"dslbench", "dslbench.__main__"}
    assert {package(module) for module in modules} == set(floor)
    upward = [
        f"{module} imports {other}"
        for module in sorted(modules)
        for other in sorted(imports(module))
        if package(module) != package(other) and floor[package(module)] >= floor[package(other)]
    ]
    assert upward == []


def test_no_module_imports_itself_by_way_of_others() -> None:
    TopologicalSorter({module: imports(module) for module in FILES}).prepare()


def test_core_files_are_short() -> None:
    lines = {m: len(p.read_text(encoding="utf-8").splitlines()) for m, p in FILES.items()}
    assert {module: n for module, n in lines.items() if n > 400} == {}
    assert lines["dslbench.artefact"] <= 220
