"""Which references fit into the memory of this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from functools import cache
from pathlib import Path

from scipy import sparse

from dslbench import data as datasets
from dslbench import registry
from dslbench.errors import RunError
from dslbench.spec import RunSpec
from dslbench.words import number


def free_memory() -> int:
    """Bytes of memory that can be had without swapping, within the limit of a container."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                found = int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        most, used = (
            Path("/sys/fs/cgroup", f"memory.{name}").read_text(encoding="ascii").strip()
            for name in ("max", "current")
        )
        found = min(found, int(most) - int(used))  # "max" is no number: there is no limit
    except (OSError, ValueError):
        pass
    return max(found, 0)


def gib(nbytes: int) -> str:
    """Bytes in GiB."""
    return f"{nbytes / 2**30:.1f} GiB"


def needed(spec: RunSpec, train: sparse.csr_matrix) -> int:
    """Bytes that a reference takes at the usual point of its grid, beside data and libraries."""
    kind = registry.reference(spec.method)
    return kind.memory_needed(train, kind.filled(spec.method_options))


def check_fits(spec: RunSpec, train: sparse.csr_matrix) -> None:
    """Raise `RunError` where a reference does not fit into memory, with those that would."""
    own, free = needed(spec, train), free_memory()
    if own <= free:
        return
    label = registry.reference(spec.method).label
    others = {
        name: kind.memory_needed(train, kind.filled(kind.options_type()))
        for name in registry.working("reference")
        if name != spec.method and (kind := registry.reference(name))
    }
    fit = [f"{name} {gib(size)}" for name, size in others.items() if size <= free]
    raise RunError(
        f"{label} needs {gib(own)} for {number(int(train.shape[1]), 'item')}, {gib(free)} are free",
        f"what fits: {', '.join(fit)} (--method NAME)" if fit else None,
    )


def those_that_fit(
    specs: Sequence[RunSpec], is_stored: Callable[[str], bool], asked: Collection[str] = ()
) -> tuple[list[RunSpec], list[str]]:
    """The runs without those references that do not fit into memory, and a line on each of these.

    Args:
        is_stored: whether a run of an id is stored, and so needs no memory.
        asked: references that were named.

    Raises `RunError` where one that was named does not fit.
    """

    @cache
    def pairs(dataset: str, protocol: str) -> tuple[sparse.csr_matrix, dict[str, str | None]]:
        data = datasets.load(dataset, protocol=protocol)
        return data.train, data.digests

    kept, lines = [], []
    for spec in specs:
        if spec.is_reference:
            train, digests = pairs(spec.dataset, spec.protocol)
            own, free = needed(spec, train), free_memory()
            if own > free and not is_stored(spec.identity(digests)):
                if spec.method in asked:
                    check_fits(spec, train)
                lines.append(
                    f"{spec.title}: needs {gib(own)} for {number(int(train.shape[1]), 'item')}, "
                    f"{gib(free)} are free"
                )
                continue
        kept.append(spec)
    return kept, lines
