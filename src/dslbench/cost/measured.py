"""Measured cost: memory of this process, latency, energy, and the machine it ran on."""

from __future__ import annotations

import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from scipy import sparse

import dslbench
from dslbench.backbones.base import Backbone
from dslbench.errors import printable
from dslbench.evaluation.ranking import Ranker
from dslbench.ops.scores import Scorer
from dslbench.ops.threads import thread_count


def peak_rss_bytes() -> int | None:
    """Largest resident memory this process ever had, in bytes; None where it can't be read.

    A process that has just been started counts from its own start on Linux only where the kernel
    keeps the peak per address space (VmHWM); `ru_maxrss` would inherit the parent's peak.
    """
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def peak_cuda_bytes(device: torch.device) -> int | None:
    """Largest memory allocated on a CUDA device, in bytes; None elsewhere."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def peaks(device: torch.device) -> dict[str, int | None]:
    """Peak memory of this process so far, as in the record."""
    return {"peak_rss_bytes": peak_rss_bytes(), "peak_cuda_bytes": peak_cuda_bytes(device)}


def state_bytes(model: Backbone, optimiser: torch.optim.Optimizer | None = None) -> int:
    """Bytes of the tables (values, masks, indices) and of the optimiser's state of all parameters.

    Without an optimiser those of the model alone.
    """
    kept: list[torch.Tensor] = list(model.parameters())
    kept += [buffer for table in model.tables().values() for buffer in table.buffers()]
    kept += [
        x
        for state in (optimiser.state.values() if optimiser else ())
        for x in state.values()
        if isinstance(x, torch.Tensor)
    ]
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in kept}
    return sum(storages.values())


# Seconds that measuring one latency may take, and the least number of calls that says something.
_PATIENCE, _LEAST_CALLS, _MOST_CALLS = 0.5, 5, 200


class Scoring(Protocol):
    """What can rank: a backbone, or what stands for one."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    def eval(self) -> Scoring:
        """Itself, as it is when it serves."""

    def scorer(self) -> Scorer:
        """See `Backbone.scorer`."""


def top_k_latency(
    model: Scoring, seen: sparse.csr_matrix, k: int = 20
) -> dict[str, dict[str, float] | None]:
    """Seconds of ranking the k best unseen items for 1 and for 1,024 users at a time.

    What all users share (a propagation) is done before, once. By number of users the median and the
    95th percentile of repeated calls; None where a few calls would take too long, or for fewer users
    than that.
    """
    rng = np.random.default_rng(0)
    device = model.device
    with torch.no_grad():
        ranker = Ranker(model.eval().scorer(), seen, k, device=device)
    found: dict[str, dict[str, float] | None] = {}
    each = 0.0
    for size in (1, 1024):
        if size > seen.shape[0] or each * size > 2 * _PATIENCE:
            found[str(size)] = None
            continue
        times: list[float] = []
        began = time.perf_counter()
        while len(times) <= _LEAST_CALLS or (
            len(times) < _MOST_CALLS and time.perf_counter() - began < _PATIENCE
        ):
            users = np.sort(rng.choice(seen.shape[0], size, replace=False))
            at = time.perf_counter()
            ranker(users)
            times.append(time.perf_counter() - at)
        p50, p95 = np.percentile(times[1:], [50, 95])
        found[str(size)] = {"p50_seconds": float(p50), "p95_seconds": float(p95)}
        each = float(p50) / size
    return found


class Energy:
    """Energy of the processor packages since this object was made, by Linux's RAPL counters.

    They count the whole machine, whatever runs on it.
    """

    def __init__(self) -> None:
        self._start = _rapl()

    def joules(self) -> float | None:
        """Joules since the start; None without counters, or without the right to read them."""
        now = _rapl()
        if not self._start or now.keys() != self._start.keys():
            return None
        used = (
            (now[zone][0] - start) % (wraps_at + 1)
            for zone, (start, wraps_at) in self._start.items()
        )
        return sum(used) / 1e6


def _rapl() -> dict[str, tuple[int, int]]:
    """Microjoules and the value they wrap at, by package."""
    found = {}
    for zone in sorted(Path("/sys/class/powercap").glob("intel-rapl:[0-9]")):
        try:
            value, most = ((zone / f).read_text() for f in ("energy_uj", "max_energy_range_uj"))
            found[zone.name] = int(value), int(most)
        except (OSError, ValueError):
            return {}
    return found


def environment(device: torch.device) -> dict[str, Any]:
    """The machine and the versions behind a measurement; nothing that names a person or a host."""
    packages = ("torch", "numpy", "scipy", "numba")
    return {
        "dslbench": dslbench.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": thread_count(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        **{name: version(name) for name in packages},
    }


def cpu_name() -> str:
    """The processor as the system names it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return printable(line.partition(":")[2].strip())
    except OSError:
        pass
    return platform.processor() or platform.machine()
