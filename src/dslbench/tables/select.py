"""Choose exactly so many entries of largest magnitude, whatever the ties."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dslbench.ops import kernels
from dslbench.ops.threads import run_rows, thread_count


def kth_largest(score: Tensor, among: Tensor, k: int) -> float:
    """The k-th largest magnitude among the chosen entries; 1 <= k <= number of chosen entries.

    Args:
        score: (n, d) float32; its sign is ignored.
        among: (n, d) bool.

    On the CPU two passes of a histogram over the bits find it exactly, which is several times
    faster than sorting or partitioning a table.
    """
    if score.device.type != "cpu":
        chosen = score[among].abs()
        return float(torch.kthvalue(chosen, chosen.numel() - k + 1).values)
    bits = score.detach().numpy().view(np.int32)
    chosen_rows = among.numpy()
    upper, left = _bin_of(bits, chosen_rows, -1, 1 << 15, k)
    lower, _ = _bin_of(bits, chosen_rows, upper, 1 << 16, left)
    return float(np.array([upper << 16 | lower], dtype=np.uint32).view(np.float32)[0])


def _bin_of(bits: np.ndarray, among: np.ndarray, prefix: int, bins: int, k: int) -> tuple[int, int]:
    """The bin that holds the k-th largest entry, and its place from the top within the bin."""
    step, bounds = _by_thread(len(bits))
    counts = np.zeros((len(bounds) - 1, bins), dtype=np.int64)
    run_rows(kernels.magnitude_histogram, bounds, step, bits, among, prefix, counts)
    from_top = counts.sum(axis=0)[::-1].cumsum()
    place = int(np.searchsorted(from_top, k))
    return bins - 1 - place, k - (int(from_top[place - 1]) if place else 0)


def _by_thread(n: int) -> tuple[int, np.ndarray]:
    """Rows of each thread, and their ranges: a kernel counts rows [lo, hi) in place lo // step."""
    step = -(-n // thread_count())
    return step, np.append(np.arange(0, n, step), n)


def select_largest(score: Tensor, among: Tensor, count: int, rng: np.random.Generator) -> Tensor:
    """Mask of exactly `count` of the chosen entries, those of largest magnitude.

    Of equal magnitudes at the cut lots are drawn: by position would favour low user and item ids. All
    are taken where there are not more.

    Args:
        score: (n, d) float32; its sign is ignored.
        among: (n, d) bool.
    """
    available = int(among.count_nonzero())
    if count >= available:
        return among.clone()
    if count <= 0:
        return torch.zeros_like(among)
    threshold = kth_largest(score, among, count)
    chosen, surplus = _at_least(score, among, threshold, count)
    if surplus:
        tied = (chosen & (score.detach().abs() == threshold)).reshape(-1).nonzero().squeeze(1)
        missing = len(tied) - surplus
        chosen.view(-1)[_shuffled(tied, rng)[missing:]] = False
    return chosen


def _at_least(score: Tensor, among: Tensor, threshold: float, count: int) -> tuple[Tensor, int]:
    """Mask of the chosen entries of at least so large a magnitude, and by how many it exceeds `count`."""
    if score.device.type != "cpu":
        chosen = (score.detach().abs() >= threshold) & among
        return chosen, int(chosen.count_nonzero()) - count
    chosen = torch.empty(among.shape, dtype=torch.bool)
    bits = score.detach().numpy().view(np.int32)
    step, bounds = _by_thread(len(bits))
    found = np.zeros(len(bounds) - 1, dtype=np.int64)
    run_rows(
        kernels.at_least, bounds, step, bits, among.numpy(),
        np.float32(threshold).view(np.int32), chosen.numpy(), found,
    )  # fmt: skip
    return chosen, int(found.sum()) - count


def _shuffled(x: Tensor, rng: np.random.Generator) -> Tensor:
    return x[torch.from_numpy(rng.permutation(len(x))).to(x.device)]


def select_greatest(score: Tensor, count: int, rng: np.random.Generator) -> Tensor:
    """Mask of exactly `count` entries of greatest value, signs counted; ties by lot."""
    flat = score.reshape(-1)
    if count >= flat.numel():
        return torch.ones_like(score, dtype=torch.bool)
    threshold = torch.kthvalue(flat, flat.numel() - count + 1).values
    chosen = flat > threshold
    tied = (flat == threshold).nonzero().squeeze(1)
    missing = count - int(chosen.count_nonzero())
    chosen[tied if missing == len(tied) else _shuffled(tied, rng)[:missing]] = True
    return chosen.view_as(score)


def blocks(x: Tensor, size: int) -> Tensor:
    """(n, d) as (n, d / size, size): neighbouring entries of a row together."""
    return x.reshape(len(x), -1, size)


def keep_above(weight: Tensor, mask: Tensor, drop: int) -> Tensor:
    """The released code's rule: drop every live entry not above the `drop`-th smallest."""
    live = int(mask.count_nonzero())
    if drop == 0:
        return mask.clone()
    return mask & (weight.abs() > kth_largest(weight, mask, live - drop + 1))
