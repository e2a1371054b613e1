"""`dslbench doctor`: what this machine is, what will be used, and what is missing."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator

from dslbench import home
from dslbench.errors import RunError
from dslbench.output import result
from dslbench.words import number


def doctor() -> None:
    """Say what this machine is, which kernels and devices are used, and what data is at hand."""
    for name, value in _facts():
        result(f"{name:14} {value}")


def _facts() -> Iterator[tuple[str, str]]:
    import torch

    from dslbench.cli import datasets
    from dslbench.cost import measured

    began = time.perf_counter()
    from dslbench.ops import kernels
    from dslbench.ops.base import triton_kernels

    _touch(kernels)
    kernel_seconds = time.perf_counter() - began
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    facts = measured.environment(device)
    for name in ("dslbench", "python", "torch", "numba", "system", "machine", "cpu"):
        yield name, str(facts[name])
    yield "cores", f"{facts['cores']}, kernels use {facts['threads']} (DSLBENCH_THREADS overrides)"
    if device.type == "cuda":
        by_triton = "with" if triton_kernels() is not None else "without"
        yield "cuda", f"{facts['device']}, {by_triton} Triton kernels"
    else:
        yield "cuda", "none; everything runs on the CPU"
    yield "kernels", f"compiled by numba; imported and loaded in {kernel_seconds:.2f} s"
    yield "MACs", _counting()
    yield "store", _store()
    yield from _checkpoints()
    statuses = datasets.dataset_status()
    for status in statuses:
        if status.problem:
            yield "data set", f"{status.name}: DAMAGED: {status.problem}"
        elif status.on_disk:
            state = "intact" if status.verified else "your own, intact"
            yield "data set", f"{status.name}: {state}, {status.interactions:,} interactions"
    missing = [s.name for s in statuses if not s.on_disk and not s.problem]
    if missing:
        yield "not at hand", f"{', '.join(missing)} (dslbench download NAME)"


def _checkpoints() -> Iterator[tuple[str, str]]:
    from dslbench.runs import checkpoint, sharing

    if files := sharing.sizes():
        yield (
            "shared",
            f"{sum(size for _, size, _ in files) / 2**20:.1f} MiB of "
            f"{number(len(files), 'training')} that runs take over from one another, at most "
            f"{sharing.limit() / 2**20:.0f} MiB (DSLBENCH_SHARED_MIB); {sharing.folder()} may be deleted",
        )
    if found := checkpoint.sizes():
        runs = number(len(found), "unfinished run")
        yield (
            "checkpoints",
            f"{sum(found.values()) / 2**20:.1f} MiB of {runs}; the command that "
            "began them goes on from there, and removes them at the end. For a run that is not wanted "
            f"any more delete its folder in {checkpoint.folder('')}",
        )


def _counting() -> str:
    from dslbench.cost import counted

    try:
        return f"counted by {counted.engine()}, with rules of our own"
    except RunError as error:
        return f"NOT POSSIBLE: {error.message} ({error.hint})"


def _touch(kernels: object) -> None:
    """Run one kernel, so that a compiler or cache at fault shows here and not in a run."""
    import numpy as np

    x = np.ones((1, 1), dtype=np.float32)
    kernels.mask_rows(0, 1, x, np.zeros((1, 1), dtype=bool))  # type: ignore[attr-defined]
    if x[0, 0] != 0:
        raise AssertionError("a compiled kernel gave a wrong result")


def _store() -> str:
    folder = home.home()
    while not folder.exists():
        folder = folder.parent
    free = f"{shutil.disk_usage(folder).free / 2**30:.1f} GiB free"
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        reason = error.strerror or error
        return f"{home.home()} ({free}; NOT WRITABLE: {reason}; DSLBENCH_HOME names another place)"
    return f"{home.home()} ({free})"
