"""Dense layers whose weight is a table, so that a method can make it small like any other."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from dslbench.ops.layers import Product
from dslbench.tables.base import MakeTable
from dslbench.tables.spec import Float32, Init, TableSpec


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
