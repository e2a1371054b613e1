"""CPU kernels of the outer product of two embeddings, laid out for 2x2 convolutions.

As in `kernels`: rows [lo, hi) of the output, interpreter lock released, a fixed order of sums.
"""

from __future__ import annotations

from dslbench.ops.kernels import kernel


@kernel
def outer(lo, hi, p, q, row_of, column_of, out):  # type: ignore[no-untyped-def]
    """out[b, t] = p[b, row_of[t]] * q[b, column_of[t]]."""
    for b in range(lo, hi):
        for t in range(out.shape[1]):
            out[b, t] = p[b, row_of[t]] * q[b, column_of[t]]


@kernel
def outer_gradients(  # type: ignore[no-untyped-def]
    lo, hi, gradient, p, q, row_of, column_of, on_p, on_q
):
    """Gradients of `outer`: on_p[b, r] = sum_{t: row r} gradient[b, t] q[b, column], and on_q alike."""
    for b in range(lo, hi):
        for k in range(p.shape[1]):
            on_p[b, k] = 0
            on_q[b, k] = 0
        for t in range(gradient.shape[1]):
            r, c, g = row_of[t], column_of[t], gradient[b, t]
            on_p[b, r] += g * q[b, c]
            on_q[b, c] += g * p[b, r]
