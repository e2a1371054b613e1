"""The interaction map of ConvNCF: an outer product in the order its convolutions read it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dslbench.ops import outer_kernels
from dslbench.ops.base import Macs, Op, live, live_by_row, trained
from dslbench.ops.threads import even_bounds, run_rows

Int64 = npt.NDArray[np.int64]


def z_order(d: int) -> tuple[Int64, Int64]:
    """Row and column of each place of a (d, d) map in Z-order, each (d * d,); d a power of two.

    The bits of row and column alternate, so every aligned 2x2 square takes four places in a row,
    and so do the four results of four neighbouring squares. A 2x2 convolution of stride 2 is then
    a plain matrix product on a view, at every layer, without collecting patches.
    """
    places = np.arange(d * d)
    rows, columns = np.zeros_like(places), np.zeros_like(places)
    for bit in range(d.bit_length() - 1):
        columns |= (places >> (2 * bit) & 1) << bit
        rows |= (places >> (2 * bit + 1) & 1) << bit
    return rows, columns


class OuterMap(Op):
    """p q^T for each pair, (B, d * d), in Z-order (ConvNCF, Eq. 5)."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.rows, self.columns = z_order(d)

    def forward(self, p: Tensor, q: Tensor) -> Tensor:
        """(B, d) and (B, d) to (B, d * d), differentiable with respect to both."""
        if p.device.type != "cpu":
            return p[:, self.rows] * q[:, self.columns]
        result: Tensor = _OuterMap.apply(p, q, self)  # type: ignore[no-untyped-call]
        return result

    def macs(self, p: Tensor, q: Tensor) -> Macs:
        """The cells with two live factors, and those again for each gradient."""
        d = p.shape[1]
        cells = int((live_by_row(p) * live_by_row(q)).sum())
        dense = d * (trained(p) * live(q) + trained(q) * live(p))
        return Macs(cells, cells * (trained(p) + trained(q)), dense)


class _OuterMap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, p: Tensor, q: Tensor, op: OuterMap) -> Tensor:
        p, q = p.contiguous(), q.contiguous()
        ctx.op = op
        ctx.save_for_backward(p, q)
        out = torch.empty((len(p), len(op.rows)))
        run_rows(
            outer_kernels.outer, even_bounds(len(p)),
            p.detach().numpy(), q.detach().numpy(), op.rows, op.columns, out.numpy(),
        )  # fmt: skip
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        p, q = (x.detach() for x in ctx.saved_tensors)
        on_p, on_q = torch.empty_like(p), torch.empty_like(q)
        run_rows(
            outer_kernels.outer_gradients, even_bounds(len(p)),
            gradients[0].contiguous().numpy(), p.numpy(), q.numpy(),
            ctx.op.rows, ctx.op.columns, on_p.numpy(), on_q.numpy(),
        )  # fmt: skip
        return on_p, on_q, None
