"""Dense layers whose weight is a table, so that a method can make it small like any other."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from dslbench.ops.base import Macs, Op, product_macs
from dslbench.tables.base import Float32, Init, MakeTable, TableSpec


def uniform(bound: float) -> Init:
    """Uniform in +-bound.

    PyTorch's `Linear` takes 1 / sqrt(in) for its weight and its bias, Keras' `lecun_uniform`
    sqrt(3 / in) for the weight.
    """

    def draw(rng: np.random.Generator, n: int, d: int) -> Float32:
        values = rng.random((n, d), dtype=np.float32) * 2 - 1
        return (values * np.float32(bound)).astype(np.float32)

    return draw


def truncated_normal(std: float) -> Init:
    """N(0, std^2), drawn again beyond two standard deviations, as TensorFlow's initialiser does."""

    def draw(rng: np.random.Generator, n: int, d: int) -> Float32:
        values = rng.standard_normal(n * d, dtype=np.float32)
        while len(outside := np.flatnonzero(np.abs(values) > 2)):
            values[outside] = rng.standard_normal(len(outside), dtype=np.float32)
        return values.reshape(n, d) * np.float32(std)

    return draw


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


class TableLinear(nn.Module):
    """y = x W^T + b, with W (out, in) a table of role "layer" and b an ordinary parameter.

    Args:
        make_table: of the method.
        name: of the table, unique within the model.
        in_features, out_features: widths.
        rng: draws the weight, then the bias.
        init: of the weight.
        bias: its constant initial value; an `Init`, called for a (1, out) matrix; or None for a
            layer without bias.
        official: whether the paper's released code masks the weight.
        skips_zeros: whether the input holds rows of tables, whose zeros cost nothing.
    """

    def __init__(
        self,
        make_table: MakeTable,
        name: str,
        in_features: int,
        out_features: int,
        rng: np.random.Generator,
        *,
        init: Init,
        bias: float | Init | None = 0.0,
        official: bool = False,
        skips_zeros: bool = False,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        spec = TableSpec(
            name=name,
            segments=(("unit", out_features),),
            dim=in_features,
            init=init,
            role="layer",
            official=official,
        )
        self.table = make_table(spec, rng)
        self.product = Product(skips_zeros)
        self.bias: nn.Parameter | None = None
        if bias is not None:
            start = (
                torch.from_numpy(bias(rng, 1, out_features).reshape(-1))
                if callable(bias)
                else torch.full((out_features,), float(bias))
            )
            self.bias = nn.Parameter(start)

    @property
    def weight(self) -> Tensor:
        """W, (out, in), as the method's table gives it."""
        return self.table.full()

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        y: Tensor = self.product(x, self.weight, self.bias)
        return y


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
