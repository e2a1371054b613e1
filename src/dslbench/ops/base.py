"""What a heavy operation is: a leaf module that knows what it costs.

One MAC is one multiplication whose product is added to a sum. Zeros that come from tables (pruned
entries) are left out; activations count as dense, as their zeros are others for each input. Look-ups,
elementwise work (activations, losses, norms of a batch's rows) and the optimiser count nothing.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dslbench.ops.kernels import count_live, count_live_by_column
from dslbench.ops.threads import even_bounds, run_rows


class Macs(NamedTuple):
    """Multiply-accumulates of one call.

    Attributes:
        forward: of the result.
        backward: of the gradients that the caller asks for, at live entries only.
        dense_backward: the same with the gradients of pruned entries, too.
    """

    forward: int
    backward: int = 0
    dense_backward: int = 0


class Op(nn.Module, ABC):
    """A heavy operation: without children, called with positional arguments only."""

    @abstractmethod
    def macs(self, *inputs: Any) -> Macs:
        """Cost of `forward` with the same arguments, in the present gradient mode."""


@cache
def triton_kernels() -> ModuleType | None:
    """The kernels for CUDA devices; None where Triton is not installed, or fails: it needs a C compiler."""
    try:
        from dslbench.ops import triton_kernels as found
    except ImportError:
        return None
    try:
        starts = torch.tensor([0, 1], dtype=torch.int32, device="cuda")
        found.spread(starts, starts[1:, None].to(torch.uint8), torch.ones(1, device="cuda"), 1)
    except (
        Exception
    ) as error:  # of Triton, its compiler or the driver; torch's operations do the same work
        warnings.warn(f"no Triton kernels, masked tables are slower: {error}", stacklevel=2)
        return None
    return found


def trained(x: Tensor) -> bool:
    """Whether a gradient with respect to `x` will be computed."""
    return x.requires_grad and torch.is_grad_enabled()


def live(x: Tensor) -> int:
    """Number of entries that are not zero."""
    if x.dtype != torch.float32 or x.dim() != 2:
        return int(x.count_nonzero())
    return int(live_by_row(x).sum())


def live_by_column(x: Tensor) -> Tensor:
    """Number of non-zero entries in each place of the last axis, int64."""
    x = x.detach().reshape(-1, x.shape[-1])
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return (x != 0).sum(dim=0)
    found = torch.zeros(x.shape[1], dtype=torch.int32)
    count_live_by_column(0, x.shape[1], x.contiguous().numpy(), found.numpy())
    return found.long()


def live_by_row(x: Tensor) -> Tensor:
    """Number of non-zero entries of each row of a matrix, int64.

    On the CPU by a kernel, because torch takes 2 to 8 times as long as reading the entries does.
    """
    x = x.detach()
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return (x != 0).sum(dim=1)
    found = torch.empty(len(x), dtype=torch.int64)
    run_rows(count_live, even_bounds(*x.shape), x.contiguous().numpy(), found.numpy())
    return found


def product_macs(x: Tensor, weight: Tensor, skips_zeros: bool) -> Macs:
    """Cost of x W^T for x (..., in) and W (out, in), or (in,) for one output.

    Forward every pair of x[b, k] and W[o, k] that are both live, and the same pairs once more for
    each of the two gradients. Those pairs are counted by columns, which is exact. With the gradients
    of pruned entries: each live x[b, k] for all of W[:, k], each live W[o, k] for all of x[:, k].

    Args:
        skips_zeros: whether the zeros of x are left out: where x holds rows of tables, but not
            where it is an activation.
    """
    weight = weight.reshape(-1, weight.shape[-1])
    rows = x.numel() // x.shape[-1]
    if skips_zeros:
        pairs = int((live_by_column(x) * live_by_column(weight)).sum())
        live_x = live(x)
    else:
        pairs, live_x = rows * live(weight), x.numel()
    dense = 0
    if trained(weight):
        dense += live_x * len(weight)
    if trained(x):
        dense += rows * live(weight)
    return Macs(pairs, pairs * (trained(weight) + trained(x)), dense)
