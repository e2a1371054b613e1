"""Products with a weight, and dropout from a stream of its own."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from dslbench.ops.base import Macs, Op, product_macs


class Product(Op):
    """y = x W^T + b.

    Args:
        skips_zeros: whether zeros of x are left out of the count: where x holds rows of tables.
    """

    def __init__(self, skips_zeros: bool = False) -> None:
        super().__init__()
        self.skips_zeros = skips_zeros

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """(..., in), (out, in) and (out,) to (..., out); a weight (in,) gives (...)."""
        return nn.functional.linear(x, weight, bias)

    def macs(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Macs:
        """A matrix product; the bias is an addition."""
        return product_macs(x, weight, self.skips_zeros)


class SeededDropout(nn.Module):
    """Inverted dropout that draws from a stream of its own instead of torch's global generator.

    Sixteen random bits an entry, so that p is a multiple of 2^-16; a quarter of the drawing that
    torch's own dropout does, which takes longer than a small layer.
    """

    def __init__(self, p: float, rng: np.random.Generator) -> None:
        super().__init__()
        self.p = min(round(p * 2**16), 2**16 - 1) / 2**16
        self._seed = int(rng.integers(1 << 62))
        self._generator: torch.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Zero each entry with probability p and divide the others by 1 - p; in training only."""
        if not self.training or self.p == 0:
            return x
        if self._generator is None or self._generator.device != x.device:
            self._generator = torch.Generator(x.device).manual_seed(self._seed)
        words = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device)
        words.random_(-(2**63), None, generator=self._generator)
        bits = words.view(torch.int16)[: x.numel()].view(x.shape)
        kept = bits >= round(self.p * 2**16) - 2**15
        return x * kept.to(x.dtype).div_(1 - self.p)

    def progress(self) -> tuple[str, Tensor] | None:
        """Device and state of its stream, once it was drawn from: for a checkpoint."""
        g = self._generator
        return None if g is None else (str(g.device), g.get_state())

    def resume(self, found: tuple[str, Tensor] | None) -> None:
        """Go on from there."""
        self._generator = None if found is None else torch.Generator(found[0]).set_state(found[1])
