"""CPU kernels of the pairwise loss of Bayesian personalised ranking, and its gradients.

As in `kernels`: examples [lo, hi), interpreter lock released, a fixed order of sums for each example.
"""

from __future__ import annotations

import math

from dslbench.ops.kernels import kernel
from dslbench.ops.lookup_kernels import dot_kernel


@dot_kernel
def bpr_losses(lo, hi, count, rows, own, losses, slopes, norms):  # type: ignore[no-untyped-def]
    """Of each example its loss, the loss's derivative by the margin, and the squares of its own rows."""
    d = rows.shape[1]
    for b in range(lo, hi):
        user, positive, negative = rows[b], rows[count + b], rows[2 * count + b]
        first, second, third = own[b], own[count + b], own[2 * count + b]
        liked = user[0] * positive[0]
        other = user[0] * negative[0]
        squares = first[0] * first[0] + second[0] * second[0] + third[0] * third[0]
        for k in range(1, d):
            liked += user[k] * positive[k]
            other += user[k] * negative[k]
            squares += first[k] * first[k] + second[k] * second[k] + third[k] * third[k]
        margin = other - liked
        small = math.exp(-abs(margin))
        losses[b] = max(margin, 0.0) + math.log1p(small)
        slopes[b] = (1.0 if margin >= 0 else small) / (1.0 + small)
        norms[b] = squares


@kernel
def bpr_gradients(  # type: ignore[no-untyped-def]
    lo, hi, count, rows, own, slopes, scale, decay, on_rows, on_own
):
    """Gradients of sum_b scale * loss_b + decay / 2 * |own rows|^2."""
    for b in range(lo, hi):
        user, positive, negative = rows[b], rows[count + b], rows[2 * count + b]
        weight = slopes[b] * scale
        for k in range(rows.shape[1]):
            on_rows[b, k] = weight * (negative[k] - positive[k])
            on_rows[count + b, k] = -weight * user[k]
            on_rows[2 * count + b, k] = weight * user[k]
        for r in (b, count + b, 2 * count + b):
            for k in range(own.shape[1]):
                on_own[r, k] = decay * own[r, k]
