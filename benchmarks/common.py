"""Shared by the benchmarks: data of the right shape, interleaved timing, a markdown table."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable

import numpy as np
from tabulate import tabulate

from dslbench import data as datasets
from dslbench.cost.measured import environment
from dslbench.data.interactions import Interactions, pairs_to_csr
from dslbench.errors import DslbenchError


def gowalla_or_alike() -> tuple[Interactions, str]:
    """Gowalla where it has been downloaded, else random pairs of its size and popularity skew."""
    try:
        return datasets.load("gowalla", protocol="paper"), "gowalla"
    except DslbenchError:
        pass
    return (
        alike(1),
        "random pairs of Gowalla's size (download gowalla for the real ones)",
    )


def alike(scale: int) -> Interactions:
    """Random pairs of Gowalla's shape and popularity skew, so many times its users, items and pairs."""
    users, items, pairs = 29_858 * scale, 40_981 * scale, 810_128 * scale
    rng = np.random.default_rng(0)

    def skewed(n: int, size: int) -> np.ndarray:
        weights = 1.0 / np.arange(20, n + 20)
        return rng.permutation(n)[rng.choice(n, size=size, p=weights / weights.sum())]

    u, i = skewed(users, 2 * pairs), skewed(items, 2 * pairs)
    held_out = rng.random(2 * pairs) < 0.2
    shape = (users, items)
    train = pairs_to_csr(u[~held_out][:pairs], i[~held_out][:pairs], shape)
    test = pairs_to_csr(u[held_out], i[held_out], shape)
    test = (test - test.multiply(train)).tocsr()
    test.eliminate_zeros()
    return Interactions("like-gowalla", "paper", train, pairs_to_csr([], [], shape), test)


def interleaved(
    contestants: dict[str, Callable[[], object]], rounds: int, warm_up: int = 2
) -> dict[str, list[float]]:
    """Seconds per call, contestants taking turns so that noise of the machine hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds + warm_up):
        for name, call in contestants.items():
            began = time.perf_counter()
            call()
            if turn >= warm_up:
                times[name].append(time.perf_counter() - began)
    return times


def table(title: str, times: dict[str, list[float]], reference: str) -> str:
    """Median, quartiles and the ratio of the reference's median to each."""
    base = statistics.median(times[reference])
    rows = []
    for name, values in times.items():
        quartiles = np.percentile(values, [25, 75]) * 1e3
        rows.append(
            [
                name,
                f"{statistics.median(values) * 1e3:.1f}",
                f"{quartiles[0]:.1f} to {quartiles[1]:.1f}",
                len(values),
                f"{base / statistics.median(values):.2f}",
            ]
        )
    headers = ["what", "median, ms", "quartiles, ms", "calls", "times faster than reference"]
    return f"### {title}\n\n{tabulate(rows, headers, tablefmt='github')}\n"


def machine() -> str:
    """One line on the machine and versions."""
    import torch

    facts = environment(torch.device("cpu"))
    return (
        f"{facts['cpu']}, {facts['threads']} threads, {platform.system()}, Python {facts['python']}, "
        f"torch {facts['torch']}, numba {facts['numba']}"
    )
