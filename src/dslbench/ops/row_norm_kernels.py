"""CPU kernels of batch normalisation over rows with a hyperbolic tangent behind it.

As in `kernels`: blocks [lo, hi) of rows, interpreter lock released. Sums over rows are made by block and
added up in float64, so the bits do not depend on the number of threads.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dslbench.ops.kernels import kernel

# Rows of a block: their sums of float32 keep all digits that matter.
BLOCK = 128


def _lambert(levels: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Coefficients by powers of y = x^2 of tanh(x) / x as a fraction, Lambert's 1/(1 + y/(3 + ...))."""
    above, below = [1], [2 * levels + 1]
    for odd in range(2 * levels - 1, 0, -2):
        lower = [odd * c for c in below] + [0] * (len(above) + 1 - len(below))
        above, below = below, [a + b for a, b in zip(lower, [0, *above], strict=True)]
    one = below[0]
    return tuple(np.array([c / one for c in row], dtype=np.float32) for row in (above, below))  # type: ignore[return-value]


# Twelve levels are within 3 * 2^-23 of it, relatively, up to where float32 has 1 (or 2^-22 more); all terms
# are positive.
_ABOVE, _BELOW = _lambert(12)
_A0, _A1, _A2, _A3, _A4, _A5, _A6 = _ABOVE
_B0, _B1, _B2, _B3, _B4, _B5, _B6 = _BELOW
_ONE_FROM = np.float32(9.01)


@kernel
def _tanh(x):  # type: ignore[no-untyped-def]
    """tanh of a float32; a number that is none stays none."""
    x = min(max(x, -_ONE_FROM), _ONE_FROM) if x == x else x
    y = x * x
    above = _A0 + y * (_A1 + y * (_A2 + y * (_A3 + y * (_A4 + y * (_A5 + y * _A6)))))
    below = _B0 + y * (_B1 + y * (_B2 + y * (_B3 + y * (_B4 + y * (_B5 + y * _B6)))))
    return x * above / below


@kernel
def column_sums(lo, hi, x, sums):  # type: ignore[no-untyped-def]
    """Add x - x[0] and its square, by column, to the sums (blocks, 2, d) of each block of rows."""
    n, d = x.shape
    for block in range(lo, hi):
        first, second = sums[block, 0], sums[block, 1]
        for r in range(block * BLOCK, min(n, (block + 1) * BLOCK)):
            for c in range(d):
                off = x[r, c] - x[0, c]
                first[c] += off
                second[c] += off * off


@kernel
def scale_rows(lo, hi, x, factor, offset, bend, out):  # type: ignore[no-untyped-def]
    """out = factor x + offset, or its tanh, by column."""
    n, d = x.shape
    for r in range(lo * BLOCK, min(n, hi * BLOCK)):
        if bend:
            for c in range(d):
                out[r, c] = _tanh(x[r, c] * factor[c] + offset[c])
        else:
            for c in range(d):
                out[r, c] = x[r, c] * factor[c] + offset[c]


@kernel
def _before(gradient, y, bend):  # type: ignore[no-untyped-def]
    """The gradient before the tanh that gave y, or as it is where there was none."""
    return gradient * (1 - y * y) if bend else gradient


@kernel
def gradient_sums(lo, hi, x, mean, y, bend, gradient, sums):  # type: ignore[no-untyped-def]
    """The same of the gradient before the tanh, u, and of u (x - mean)."""
    n, d = x.shape
    for block in range(lo, hi):
        first, second = sums[block, 0], sums[block, 1]
        for r in range(block * BLOCK, min(n, (block + 1) * BLOCK)):
            for c in range(d):
                u = _before(gradient[r, c], y[r, c], bend)
                first[c] += u
                second[c] += u * (x[r, c] - mean[c])


@kernel
def row_gradients(  # type: ignore[no-untyped-def]
    lo, hi, x, mean, y, bend, gradient, factor, level, slope, out
):
    """out = factor u - level - slope (x - mean), by column."""
    n, d = x.shape
    for r in range(lo * BLOCK, min(n, hi * BLOCK)):
        for c in range(d):
            u = _before(gradient[r, c], y[r, c], bend)
            out[r, c] = factor[c] * u - level[c] - slope[c] * (x[r, c] - mean[c])
