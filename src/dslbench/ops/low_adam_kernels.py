"""Kernels of `low_adam`: each row is decoded, stepped and rounded by itself."""

from __future__ import annotations

import math

import numpy as np

from dslbench.ops.kernels import kernel

_U = np.uint32
_LOW, _S16, _S15 = _U(0xFFFF), _U(16), _U(15)
_GOLDEN, _MIX, _MIX2 = _U(0x9E3779B9), _U(0x7FEB352D), _U(0x846CA68B)
_F = np.float32
_HALF, _UNIT = _F(0.5), _F(1 / 65536)


@kernel
def _mixed(x):  # type: ignore[no-untyped-def]
    """32 bits that look random, of 32 that count (a bijection)."""
    x = _U((x ^ (x >> _S16)) * _MIX)  # products are 64 bits wide
    x = _U((x ^ (x >> _S15)) * _MIX2)
    return x ^ (x >> _S16)


@kernel
def _seed_of_row(low, high, r):  # type: ignore[no-untyped-def]
    return _mixed(_mixed(_U(low + _U(r) * _GOLDEN)) ^ high)


@kernel
def _drawn(bits):  # type: ignore[no-untyped-def]
    """From (0, 1), by the lower 16 bits."""
    return (_F(np.int32(bits & _LOW)) + _HALF) * _UNIT


@kernel
def _peak(bits):  # type: ignore[no-untyped-def]
    """The largest magnitude of float32 numbers, seen as whole numbers: those are compared faster."""
    found = np.int32(0)
    for j in range(len(bits)):
        found = max(found, np.int32(bits[j] & np.int32(0x7FFFFFFF)))
    return found


@kernel
def _moments(g, first, fs, second, ss, beta1, beta2, m, root):  # type: ignore[no-untyped-def]
    """Moments after a row of gradients, into m and root."""
    rest1, rest2 = _F(1) - beta1, _F(1) - beta2
    for j in range(len(g)):
        m[j] = beta1 * (_F(first[j]) * fs) + rest1 * g[j]
    for j in range(len(g)):
        old = _F(second[j]) * ss
        root[j] = np.sqrt(beta2 * old * old + rest2 * g[j] * g[j])


@kernel
def _inverse(scale):  # type: ignore[no-untyped-def]
    return _F(1) / scale if scale > 0 else _F(0)


@kernel
def _draw(seed, bits):  # type: ignore[no-untyped-def]
    for j in range(len(bits)):
        bits[j] = _mixed(_U(seed + _U(j) * _GOLDEN))


@kernel
def _keep_moments(bits, m, by_m, root, by_root, first, second):  # type: ignore[no-untyped-def]
    for j in range(len(bits)):
        x = np.int32(np.floor(m[j] * by_m + _drawn(bits[j] >> _S16)))
        first[j] = np.int8(min(max(x, np.int32(-127)), np.int32(127)))
    for j in range(len(bits)):
        x = np.int32(np.floor(root[j] * by_root + _drawn(_U(bits[j] * _MIX) >> _S16)))
        # Never 0: beside a first moment that is none, the next step would be divided by eps alone.
        second[j] = np.uint8(max(np.int32(1), min(x, np.int32(255))))


@kernel
def step_int8(  # type: ignore[no-untyped-def]
    lo, hi, gradient, codes, scale, first, first_scale, second, second_scale, step, beta1, beta2, eps,
    root_factor, low, high,
):  # fmt: skip
    """See `low_adam.step_int8`; rows [lo, hi)."""
    d = gradient.shape[1]
    w, m, root, bits = np.empty(d, _F), np.empty(d, _F), np.empty(d, _F), np.empty(d, _U)
    one = np.empty(1, np.int32)
    step, beta1, beta2 = _F(step), _F(beta1), _F(beta2)
    eps, root_factor, low, high = _F(eps), _F(root_factor), _U(low), _U(high)
    for r in range(lo, hi):
        g, own = gradient[r], codes[r]
        _moments(g, first[r], first_scale[r], second[r], second_scale[r], beta1, beta2, m, root)
        grid = scale[r]
        for j in range(d):
            w[j] = _F(own[j]) * grid - step * m[j] / (root[j] * root_factor + eps)
        one[0] = _peak(w.view(np.int32))
        peak = one.view(_F)[0]
        reach = grid * _F(127)
        if peak > 0 and (peak > reach or peak * _F(3) < reach):
            mantissa, exponent = math.frexp(peak * _F(1.25) / _F(127))
            grid = _F(math.ldexp(math.ceil(mantissa * 8.0) / 8.0, exponent))
            scale[r] = grid
        one[0] = _peak(m.view(np.int32))
        first_scale[r] = one.view(_F)[0] / _F(127)
        one[0] = _peak(root.view(np.int32))
        second_scale[r] = one.view(_F)[0] / _F(255)
        _draw(_seed_of_row(low, high, r), bits)
        by_w = _inverse(grid)
        for j in range(d):
            x = np.int32(np.floor(w[j] * by_w + _drawn(bits[j])))
            own[j] = np.int8(min(max(x, np.int32(-127)), np.int32(127)))
        _keep_moments(
            bits, m, _inverse(first_scale[r]), root, _inverse(second_scale[r]), first[r], second[r]
        )


@kernel
def step_bf16(  # type: ignore[no-untyped-def]
    lo, hi, gradient, halves, first, first_scale, second, second_scale, step, beta1, beta2, eps,
    root_factor, low, high,
):  # fmt: skip
    """See `low_adam.step_bf16`; rows [lo, hi)."""
    d = gradient.shape[1]
    m, root, bits = np.empty(d, _F), np.empty(d, _F), np.empty(d, _U)
    w, one = np.empty(d, _F), np.empty(1, np.int32)
    whole = w.view(np.uint32)
    step, beta1, beta2 = _F(step), _F(beta1), _F(beta2)
    eps, root_factor, low, high = _F(eps), _F(root_factor), _U(low), _U(high)
    for r in range(lo, hi):
        g, own = gradient[r], halves[r]
        _moments(g, first[r], first_scale[r], second[r], second_scale[r], beta1, beta2, m, root)
        for j in range(d):
            whole[j] = _U(np.uint16(own[j])) << _S16
        for j in range(d):
            w[j] -= step * m[j] / (root[j] * root_factor + eps)
        one[0] = _peak(m.view(np.int32))
        first_scale[r] = one.view(_F)[0] / _F(127)
        one[0] = _peak(root.view(np.int32))
        second_scale[r] = one.view(_F)[0] / _F(255)
        _draw(_seed_of_row(low, high, r), bits)
        for j in range(d):
            own[j] = np.int16(np.uint16(_U(whole[j] + (bits[j] & _LOW)) >> _S16))
        _keep_moments(
            bits, m, _inverse(first_scale[r]), root, _inverse(second_scale[r]), first[r], second[r]
        )


@kernel
def decode_int8(lo, hi, codes, grid, out):  # type: ignore[no-untyped-def]
    """Rows [lo, hi) of codes, each times its grid."""
    d = codes.shape[1]
    for r in range(lo, hi):
        own, into, step = codes[r], out[r], grid[r]
        for j in range(d):
            into[j] = _F(own[j]) * step
