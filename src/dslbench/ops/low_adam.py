"""Adam over tables that are kept at low precision between steps: decode, step, round at random.

Rounding at random is without bias: x goes to one of its two neighbours on the grid, the nearer the
likelier, so that steps smaller than half the grid are not lost. What is drawn is a function of a seed, the
row and the column, whatever the number of threads, and wherever it is computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dslbench.ops import low_adam_kernels as kernels
from dslbench.ops.threads import even_bounds, run_rows

Q = 127  # the largest |code| of 8 bits
ROOTS = 255  # the largest code of a root of a second moment
_MASK, _GOLDEN = 0xFFFFFFFF, 0x9E3779B9


@dataclass(frozen=True)
class Rate:
    """What Adam's step t takes: lr / (1 - beta1^t), the betas, eps, and 1 / sqrt(1 - beta2^t)."""

    step: float
    beta1: float
    beta2: float
    eps: float
    root: float

    @classmethod
    def at(cls, t: int, group: dict[str, Any]) -> Rate:
        """Of step t, from 1, by an optimiser's group of parameters."""
        beta1, beta2 = group["betas"]
        return cls(group["lr"] / (1 - beta1**t), beta1, beta2, group["eps"], (1 - beta2**t) ** -0.5)


def step_int8(
    gradient: Tensor, codes: Tensor, scale: Tensor, first: Tensor, first_scale: Tensor,
    second: Tensor, second_scale: Tensor, rate: Rate, seed: int,
) -> None:  # fmt: skip
    """One step on codes (n, d) int8 of weights, `scale` (n,) their grid, in place.

    The grid of a row changes when its largest weight leaves it, or fills less than a third of it; it is
    1, 1.25, 1.5 or 1.75 times a power of two.

    Args:
        gradient: (n, d) float32.
        first, first_scale: (n, d) int8 and (n,): first moments.
        second, second_scale: (n, d) uint8 and (n,): roots of second moments.
        seed: of what is drawn.
    """
    values = (rate.step, rate.beta1, rate.beta2, rate.eps, rate.root)
    if gradient.device.type == "cpu":
        arrays = (gradient, codes, scale, first, first_scale, second, second_scale)
        run_rows(
            kernels.step_int8, even_bounds(*gradient.shape),
            *(x.numpy() for x in arrays), *values, seed & _MASK, seed >> 32,
        )  # fmt: skip
        return
    moments = (first, first_scale, second, second_scale)
    int8_by_torch(gradient, codes, scale, *moments, rate, seed)


def int8_by_torch(
    gradient: Tensor, codes: Tensor, scale: Tensor, first: Tensor, first_scale: Tensor,
    second: Tensor, second_scale: Tensor, rate: Rate, seed: int,
) -> None:  # fmt: skip
    """`step_int8` without kernels."""
    m, root = _moments(gradient, first, first_scale, second, second_scale, rate)
    w = codes * scale.unsqueeze(1) - rate.step * m / (root * rate.root + rate.eps)
    grid = grids(w.abs().amax(dim=1), scale)
    u = _uniform(gradient, seed)
    scale.copy_(grid)
    codes.copy_(_rounded(w / grid.unsqueeze(1), u[0], -Q, Q))
    _keep(m, root, first, first_scale, second, second_scale, u)


def step_bf16(
    gradient: Tensor, halves: Tensor, first: Tensor, first_scale: Tensor, second: Tensor,
    second_scale: Tensor, rate: Rate, seed: int,
) -> None:  # fmt: skip
    """One step on weights (n, d) that are the upper halves of float32, as int16; see `step_int8`."""
    values = (rate.step, rate.beta1, rate.beta2, rate.eps, rate.root)
    if gradient.device.type == "cpu":
        arrays = (gradient, halves, first, first_scale, second, second_scale)
        run_rows(
            kernels.step_bf16, even_bounds(*gradient.shape),
            *(x.numpy() for x in arrays), *values, seed & _MASK, seed >> 32,
        )  # fmt: skip
        return
    bf16_by_torch(gradient, halves, first, first_scale, second, second_scale, rate, seed)


def bf16_by_torch(
    gradient: Tensor, halves: Tensor, first: Tensor, first_scale: Tensor, second: Tensor,
    second_scale: Tensor, rate: Rate, seed: int,
) -> None:  # fmt: skip
    """`step_bf16` without kernels."""
    m, root = _moments(gradient, first, first_scale, second, second_scale, rate)
    w = (
        halves.view(torch.bfloat16).float() - rate.step * m / (root * rate.root + rate.eps)
    ).contiguous()
    bits = _hashed(gradient, seed)
    moved = w.view(torch.int32).to(torch.int64) + (bits & 0xFFFF)
    halves.copy_((moved >> 16).to(torch.int16))
    _keep(m, root, first, first_scale, second, second_scale, _uniform(gradient, seed))


def _moments(
    gradient: Tensor,
    first: Tensor,
    first_scale: Tensor,
    second: Tensor,
    second_scale: Tensor,
    rate: Rate,
) -> tuple[Tensor, Tensor]:
    """First moments, and roots of the second, after a gradient."""
    m = first * first_scale.unsqueeze(1)
    root = second * second_scale.unsqueeze(1)
    m = rate.beta1 * m + (1 - rate.beta1) * gradient
    return m, (rate.beta2 * root.square() + (1 - rate.beta2) * gradient.square()).sqrt()


def _keep(
    m: Tensor, root: Tensor, first: Tensor, first_scale: Tensor, second: Tensor, second_scale: Tensor,
    u: tuple[Tensor, Tensor, Tensor],
) -> None:  # fmt: skip
    first_scale.copy_(m.abs().amax(dim=1) / Q)
    second_scale.copy_(root.amax(dim=1) / ROOTS)
    # A root is never kept as 0: the next step would be divided by eps alone.
    for kept, x, scale, drawn, low, high in (
        (first, m, first_scale, u[1], -Q, Q),
        (second, root, second_scale, u[2], 1, ROOTS),
    ):
        divisor = scale.where(scale > 0, 1.0).unsqueeze(1)
        kept.copy_(_rounded(x / divisor, drawn, low, high))


def _rounded(x: Tensor, u: Tensor, low: int, high: int) -> Tensor:
    return torch.floor(x + u).clamp(low, high)


def grids(peak: Tensor, scale: Tensor) -> Tensor:
    """(n,) grids for rows with these largest weights, from those that they have."""
    reach = scale * Q
    keeps = (peak <= reach) & (peak * 3 >= reach)
    mantissa, exponent = torch.frexp(peak * 1.25 / Q)  # mantissa in [.5, 1)
    steps = torch.ceil(mantissa * 8) / 8
    return torch.where(keeps | (peak == 0), scale, torch.ldexp(steps, exponent))


def _uniform(like: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Three draws from (0, 1) for each entry."""
    bits = _hashed(like, seed)
    parts = (bits, bits >> 16, (bits * 0x7FEB352D & _MASK) >> 16)
    one, two, three = (((part & 0xFFFF).float() + 0.5) / 65536 for part in parts)
    return one, two, three


def _hashed(like: Tensor, seed: int) -> Tensor:
    """32 random bits for each entry, as int64."""
    n, d = like.shape
    rows, columns = (torch.arange(x, device=like.device, dtype=torch.int64) for x in (n, d))
    of_rows = _mixed(_mixed(rows * _GOLDEN + (seed & _MASK) & _MASK) ^ (seed >> 32))
    return _mixed(of_rows.unsqueeze(1) + columns * _GOLDEN & _MASK)


def _mixed(x: Tensor) -> Tensor:
    x = (x ^ (x >> 16)) * 0x7FEB352D & _MASK
    x = (x ^ (x >> 15)) * 0x846CA68B & _MASK
    return x ^ (x >> 16)


def decode(codes: Tensor, grid: Tensor, out: Tensor) -> None:
    """Codes (n, d) int8, each row times its grid (n,), into `out` (n, d) float32."""
    if codes.device.type != "cpu":
        torch.mul(codes, grid.unsqueeze(1), out=out)
        return
    arrays = codes.numpy(), grid.numpy(), out.numpy()
    run_rows(kernels.decode_int8, even_bounds(*codes.shape), *arrays)
