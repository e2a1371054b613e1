"""Measured cost: memory of this process, and the machine it ran on."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import dslbench
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


def environment(device: torch.device) -> dict[str, Any]:
    """The machine and the versions behind a measurement; nothing that names a person or a host."""
    packages = ("torch", "numpy", "scipy", "numba")
    return {
        "dslbench": dslbench.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": thread_count(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        **{name: version(name) for name in packages},
    }


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
