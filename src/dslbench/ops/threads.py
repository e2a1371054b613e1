"""Run a kernel over ranges of rows on all cores.

The kernels release the interpreter lock, so Python threads are enough: no second OpenMP pool that
spins against torch's own. A kernel computes each row from start to end by itself, so the same bits
come out whatever the number of threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from dslbench.errors import UsageError

Bounds = npt.NDArray[np.int64]

# Entries on which one thread is done before another one is awake (some 0.1 ms).
SMALL = 1 << 20


def thread_count() -> int:
    """Cores this process may use; `DSLBENCH_THREADS` overrides."""
    configured = os.environ.get("DSLBENCH_THREADS")
    if configured:
        if not configured.isdecimal() or int(configured) < 1:
            raise UsageError(f"DSLBENCH_THREADS is '{configured}', not a number of threads")
        return int(configured)
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


@lru_cache(maxsize=4)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="dslbench-kernel")


def _worthwhile(work: int, least: int) -> int:
    """Parts to cut some work into: a few per thread, none smaller than handing it over is worth."""
    return max(1, min(4 * thread_count(), work // least))


def even_bounds(n_rows: int, width: int = 64, parts: int | None = None) -> Bounds:
    """Cut `n_rows` rows of about `width` entries into ranges of equal length."""
    parts = parts or _worthwhile(n_rows * width, 1 << 14)
    return _even(n_rows, min(parts, max(n_rows, 1)))


@lru_cache(maxsize=1024)  # steps ask for the same few all the time
def _even(n_rows: int, parts: int) -> Bounds:
    bounds = np.linspace(0, n_rows, parts + 1).astype(np.int64)
    bounds.flags.writeable = False
    return bounds


def balanced_bounds(indptr: npt.NDArray[np.signedinteger], parts: int | None = None) -> Bounds:
    """Cut the rows of a CSR matrix into ranges of about equal work (rows plus entries)."""
    work = indptr.astype(np.int64) + np.arange(len(indptr))
    parts = parts or _worthwhile(int(work[-1]), 8192)
    bounds = np.searchsorted(work, np.linspace(0, work[-1], parts + 1)).astype(np.int64)
    bounds[0], bounds[-1] = 0, len(indptr) - 1
    return bounds


def run_rows(kernel: Callable[..., Any], bounds: Bounds, *args: Any) -> None:
    """Call `kernel(lo, hi, *args)` for each range; errors of any range are raised.

    The calling thread works too, and each thread takes the next range when it is done with one.
    """
    if len(bounds) == 2:
        if bounds[0] < bounds[1]:
            kernel(int(bounds[0]), int(bounds[1]), *args)
        return
    ranges = iter([(lo, hi) for lo, hi in pairwise(bounds.tolist()) if lo < hi])

    def work() -> None:
        for lo, hi in ranges:  # a list's iterator hands each range to one thread only
            kernel(lo, hi, *args)

    helpers = min(thread_count(), len(bounds) - 1) - 1
    futures = [_pool(thread_count()).submit(work) for _ in range(helpers)]
    try:
        work()
    finally:
        wait(futures)
    for future in futures:
        future.result()
