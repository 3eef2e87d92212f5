"""Divergences of two rows of logits on a CPU: one row after another, with its gradients.

A row of the student and one of the teacher are read from memory once. They stay in the core's cache
between the sums of exponentials, the divergence and its gradients, which are made together with it.

Logits are float32 or a half, and everything in a row is computed in float64. There it takes few
terms of a series to keep the digits of two rows that nearly agree, and logarithms, where they do
not, have 29 bits to spare. The arithmetic is that of :mod:`celib.kernels.divergence`, the same
for all divergences: what is different is what is summed. Compiled at the first call, and cached.
"""

from __future__ import annotations

import ctypes
import math
import struct
from collections import namedtuple
from functools import cache
from typing import Any

import numpy as np
import torch
from numba import cfunc, njit
from numba.np.numpy_support import carray
from torch import Tensor

from celib.kernels import threads
from celib.kernels.memory import STREAM
from celib.kernels.vectors import BITS, SUMS, at, largest_key, like, of_key, single, streamed

# The arguments of a loop. An address is 0 if there is no such array; strides are in bytes. a is the
# row whose probabilities p weigh the logarithms, b the other one, with probabilities q. The beta of
# a Kullback-Leibler divergence is 0.
FRAME = np.dtype(
    [
        *((name, np.int64) for name in ("rows", "classes", "a", "stride_a", "b", "stride_b")),
        *((name, np.int64) for name in ("out_a", "stride_out_a", "out_b", "stride_out_b")),
        *((name, np.int64) for name in ("streams", "counts", "factor", "loss", "to_t")),
        *((name, np.float64) for name in ("temperature", "beta", "scale")),
    ]
)
_PACKED = struct.Struct("15q3d")  # the same

# What the loops over the classes of a row have to know of it: the largest logits; a - b at one
# class, with its rounding error; 1 / T; the mean under p of d, which is (a - b) / T less its value
# at that class; ``rest``, so that log(p / q) = (d - mean) + rest; and the logarithms of the two
# sums of exponentials relative to the largest.
_Row = namedtuple("_Row", "top_a top_b gap error cool mean rest log_a log_b")

# Below these the first terms of a series are right to 2^-28 and more; above them a difference in
# float64 is, too.
_NEAR, _SMALL = 2.0**-8, 2.0**-5

# Of log p from log q, where one of them masks a class out.
_FARTHEST = 1e4

# exp(r) = 1 + r + r^2 (1/2 + r/6 + ...), |r| <= log(2) / 2: Taylor's series, within 2^-47.
_SERIES = tuple(1.0 / math.factorial(k) for k in range(11, 1, -1))
_LOG2_E, _LN2 = 1.0 / math.log(2.0), math.log(2.0)
# Adding 1.5 2^52 to a number rounds it to an integer n, and leaves n in its last bits. With 1023
# more, they are the exponent of 2^n once they are moved to their place.
_ROUNDING, _EXPONENT = 1.5 * 2.0**52 + 1023.0, np.int64(52)
_LOWEST = -708.0


@njit(fastmath={"contract"}, forceinline=True, error_model="numpy", cache=True)
def _exp(x):
    """exp(x) for x < 700; 0 where that is below the normal numbers."""
    k = x * _LOG2_E + _ROUNDING
    n = k - _ROUNDING
    r = x - n * _LN2
    y = _SERIES[0]
    for c in _SERIES[1:]:
        y = y * r + c
    y = (y * r * r + r) + 1.0
    y *= np.int64(np.float64(k).view(np.int64) << _EXPONENT).view(np.float64)
    return 0.0 if x < _LOWEST else y


_HALF_SQRT = np.float64(math.sqrt(0.5)).view(np.int64)
_UNITS, _BINARY_POINT = np.int64(0x4330000000000000), 2.0**52  # the bits of 2^52, and it


@njit(fastmath={"contract"}, forceinline=True, error_model="numpy", cache=True)
def _log(x):
    """log(x) for normal x > 0: 2 artanh((m - 1) / (m + 1)) and the exponent, within 2^-46."""
    bits = np.float64(x).view(np.int64) - _HALF_SQRT
    # The exponent, made positive by 1023, as a number: AVX2 converts no integers of 64 bits.
    n = np.int64(np.int64((bits >> _EXPONENT) + np.int64(1023)) | _UNITS).view(np.float64)
    n -= _BINARY_POINT + 1023.0
    m = np.int64(np.int64(bits & np.int64(0xFFFFFFFFFFFFF)) + _HALF_SQRT).view(np.float64)
    s = (m - 1.0) / (m + 1.0)
    t = s * s
    y = 2.0 / 15.0
    y = y * t + 2.0 / 13.0
    y = y * t + 2.0 / 11.0
    y = y * t + 2.0 / 9.0
    y = y * t + 2.0 / 7.0
    y = y * t + 2.0 / 5.0
    y = y * t + 2.0 / 3.0
    return n * _LN2 + (y * t * s + 2.0 * s)


# Not left out: what does not say how it rounds is compiled as its first caller is, and in a sum in
# any order what was lost would be lost.
@njit(fastmath=False, forceinline=True, error_model="numpy", cache=True)
def _gap(x, y):
    """x - y, and what was lost in rounding it (Knuth's TwoSum)."""
    d = x - y
    back = x - d
    return d, (x - (d + back)) + (back - y)


@njit(fastmath=False, forceinline=True, error_model="numpy", cache=True)
def _class(x, y, r):
    """Whether neither row masks the class out, the two logits below the largest, and d."""
    x, y = np.float64(x), np.float64(y)
    both = (x > -np.inf) & (y > -np.inf)
    d, error = _gap(x, y)
    d = ((d - r.gap) + (error - r.error)) * r.cool
    d = d if both else 0.0
    return both, (x - r.top_a) * r.cool, (y - r.top_b) * r.cool, d


@njit(fastmath={"contract"}, forceinline=True, error_model="numpy", cache=True)
def _excess(e, p, moved):
    """p (e^-e - 1 + e), never negative; ``moved`` is p e^-e."""
    series = 0.5 - e * (1 / 6 - e * (1 / 24 - e * (1 / 120 - e * (1 / 720))))
    near, far = p * e * e * series, moved - p * (1.0 - e)
    return near if abs(e) < _SMALL else far


@njit(fastmath={"contract"}, forceinline=True, error_model="numpy", cache=True)
def _rise(p, q, u, both):
    """q - p, with u = log(p / q)."""
    near = -p * u * (1.0 - u * (1 / 2 - u * (1 / 6 - u * (1 / 24))))
    close = both & (abs(u) < _NEAR)
    return near if close else q - p


@njit(fastmath={"contract"}, forceinline=True, error_model="numpy", cache=True)
def _mixture(p, q, u, both, beta):
    """Of m = beta p + (1 - beta) q: log(p / m), log(q / m), p log(p / m) - p + m, the same of q.

    The last two are not negative, and with the weights beta and 1 - beta p - m and q - m add up to
    0: so they are the terms of the divergences of p and of q from m.
    """
    m = beta * p + (1.0 - beta) * q
    some = m > 0.0
    x = -_rise(p, q, u, both) / (m if some else 1.0)
    x_p, x_q = (1.0 - beta) * x, -beta * x
    near_p = x_p * (1.0 - x_p * (1 / 2 - x_p * (1 / 3 - x_p * (1 / 4 - x_p * (1 / 5)))))
    near_q = x_q * (1.0 - x_q * (1 / 2 - x_q * (1 / 3 - x_q * (1 / 4 - x_q * (1 / 5)))))
    # Of the likelier of the two the logarithm is small, and keeps its digits.
    more = p >= q
    u = u if both else (_FARTHEST if more else -_FARTHEST)
    largest = p if more else q
    far = -_log(m / largest if some else 1.0)
    far_p, far_q = (far if more else far + u), (far - u if more else far)
    close = abs(x) < 2.0**-6
    log_p, log_q = (near_p if close else far_p), (near_q if close else far_q)
    return log_p, log_q, _excess(log_p, p, m), _excess(log_q, q, m)


# Loops over a row that sum.


@njit(nogil=True, fastmath=SUMS, error_model="numpy", cache=True)
def _sums(a, b, r):
    """Of exp(a), of exp(b), each where both rows have the class and elsewhere; of exp(a) d; and how
    many classes only b masks out."""
    a_in, a_out, b_in, b_out, moment, lost = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for k in range(a.size):
        both, x, y, d = _class(a[k], b[k], r)
        p, q = _exp(x), _exp(y)
        a_in += p if both else 0.0
        a_out += 0.0 if both else p
        b_in += q if both else 0.0
        b_out += 0.0 if both else q
        moment += p * d
        lost += 0.0 if both | (x == -np.inf) else 1.0
    return a_in, a_out, b_in, b_out, moment, lost


@njit(nogil=True, fastmath=SUMS, error_model="numpy", cache=True)
def _sum_of_excess(a, b, r, log_in):
    """Of p (e^-e - 1 + e), p among the classes that both rows have: see ``_Divergence``."""
    total = 0.0
    for k in range(a.size):
        both, x, _, d = _class(a[k], b[k], r)
        e = d - r.mean
        # Behind far, p may underflow where p e^-e does not.
        term = _excess(e, _exp(x - log_in), _exp(x - log_in - e))
        total += term if both else 0.0
    return total


@njit(nogil=True, fastmath=SUMS, error_model="numpy", cache=True)
def _sums_of_mixture(a, b, r, beta):
    """The divergences of p and of q from beta p + (1 - beta) q."""
    of_p, of_q = 0.0, 0.0
    for k in range(a.size):
        both, x, y, d = _class(a[k], b[k], r)
        u = (d - r.mean) + r.rest
        _, _, t_p, t_q = _mixture(_exp(x - r.log_a), _exp(y - r.log_b), u, both, beta)
        of_p += t_p
        of_q += t_q
    return of_p, of_q


@njit(nogil=True, fastmath=SUMS, error_model="numpy", cache=True)
def _to_log_t(a, b, r):
    """The derivative of a Kullback-Leibler divergence with respect to log T."""
    total = 0.0
    for k in range(a.size):
        both, x, y, d = _class(a[k], b[k], r)
        e = d - r.mean
        u = e + r.rest
        p, q = _exp(x - r.log_a), _exp(y - r.log_b)
        to_a = p * e if both else 0.0
        near = p * (u * u * (1 / 2 - u * (1 / 6 - u * (1 / 24))) - r.rest)
        close = both & (abs(u) < _NEAR)
        sum_of_both = near if close else (q - p) + to_a
        total -= to_a * e + (sum_of_both * y if y > -np.inf else 0.0)
    return total


@njit(nogil=True, fastmath=SUMS, error_model="numpy", cache=True)
def _to_log_t_of_mixture(a, b, r, beta, of_p, of_q, apart):
    """The same of a Jensen-Shannon divergence; ``apart`` is a / T - b / T - (d - mean)."""
    total = 0.0
    for k in range(a.size):
        both, x, y, d = _class(a[k], b[k], r)
        e = d - r.mean
        p, q = _exp(x - r.log_a), _exp(y - r.log_b)
        log_p, log_q, t_p, t_q = _mixture(p, q, e + r.rest, both, beta)
        to_a, to_b = beta * p * (log_p - of_p), (1.0 - beta) * q * (log_q - of_q)
        sum_of_both = beta * (t_p - p * of_p) + (1.0 - beta) * (t_q - q * of_q)
        alone = to_a * (x - apart) if x > -np.inf else to_b * y
        alone = alone if (x > -np.inf) | (y > -np.inf) else 0.0
        total -= to_a * e + sum_of_both * y if both else alone
    return total


# Loops over a row that write.


@njit(nogil=True, error_model="numpy", cache=True)
def _to_b(a, b, r, factor, out):
    for k in range(a.size):
        both, x, y, d = _class(a[k], b[k], r)
        g = _rise(_exp(x - r.log_a), _exp(y - r.log_b), (d - r.mean) + r.rest, both)
        out[k] = np.float32(factor * g if y > -np.inf else 0.0)


@njit(nogil=True, error_model="numpy", cache=True)
def _to_a(a, b, r, factor, out):
    for k in range(a.size):
        both, x, _, d = _class(a[k], b[k], r)
        g = _exp(x - r.log_a) * (d - r.mean)
        out[k] = np.float32(factor * g if both else 0.0)


@njit(fastmath={"contract"}, forceinline=True, error_model="numpy", cache=True)
def _to_b_at(x, y, r, beta, of_q):
    both, x, y, d = _class(x, y, r)
    p, q = _exp(x - r.log_a), _exp(y - r.log_b)
    _, log_q, _, _ = _mixture(p, q, (d - r.mean) + r.rest, both, beta)
    return (1.0 - beta) * q * (log_q - of_q)


@njit(nogil=True, fastmath=SUMS, error_model="numpy", cache=True)
def _to_b_of_mixture(a, b, r, beta, of_q, factor, out):
    total = 0.0
    for k in range(a.size):
        g = _to_b_at(a[k], b[k], r, beta, of_q)
        total += g
        out[k] = np.float32(factor * g)
    return total


@njit(nogil=True, error_model="numpy", cache=True)
def _balanced(a, b, r, beta, of_q, factor, out):
    """The gradient of a Jensen-Shannon divergence with respect to b, whose sum is 0.

    At a class that is nearly certain it is a difference of two numbers that nearly agree, and so
    taken from the others.
    """
    total = _to_b_of_mixture(a, b, r, beta, of_q, factor, out)
    if r.log_b < math.log(2.0):
        k = _first(b, np.float32(r.top_b))
        out[k] = np.float32(factor * (_to_b_at(a[k], b[k], r, beta, of_q) - total))


@njit(nogil=True, error_model="numpy", cache=True)
def _as(g, out):
    for k in range(g.size):
        out[k] = like(out, g[k])


@njit(nogil=True, error_model="numpy", cache=True)
def _copy(g, out):
    for k in range(g.size):
        out[k] = g[k]


@njit(nogil=True, error_model="numpy", cache=True)
def _fill(out, x):
    for k in range(out.size):
        out[k] = like(out, np.float32(x))


@njit(nogil=True, error_model="numpy", cache=True)
def _store(g, rounded, streams, out):
    if g.ctypes.data == out.ctypes.data:
        return
    if streams:
        _as(g, rounded)
        streamed(rounded, 1, out)
    else:
        _as(g, out)


# A row.


@njit(nogil=True, error_model="numpy", cache=True)
def _first(x, value):
    for k in range(x.size):
        if x[k] == value:
            return k
    return 0


@njit(nogil=True, error_model="numpy", cache=True)
def _certain(x, buffer):
    """A row with a logit of inf, in the finite logits of the same softmax; with several, NaN."""
    count = 0
    for k in range(x.size):
        count += x[k] == np.inf
    one = np.float32(0.0) if count == 1 else np.float32(np.nan)
    for k in range(x.size):
        buffer[k] = one if x[k] == np.inf else np.float32(-np.inf)
    return one


@njit(nogil=True, error_model="numpy", cache=True)
def _likeliest(a, b):
    """The likeliest of the classes that both rows have; the first if there is none."""
    best = 0
    for k in range(a.size):
        if b[k] > -np.inf and a[k] > -np.inf and (not b[best] > -np.inf or not a[k] <= a[best]):
            best = k
    return best


@njit(nogil=True, error_model="numpy", cache=True)
def _known(a, b, top_a, top_b, cool, mixed):
    """The ``_Row``, whether a class is lost (see ``_sums``), and the class that gap is from."""
    j = _first(a, top_a)
    j = j if b[j] > -np.inf else _likeliest(a, b)
    gap, error = _gap(np.float64(a[j]), np.float64(b[j]))
    if not math.isfinite(gap):  # no class in common
        gap, error = 0.0, 0.0
    top_a, top_b = np.float64(top_a), np.float64(top_b)
    r = _Row(top_a, top_b, gap, error, cool, 0.0, 0.0, 0.0, 0.0)
    a_in, a_out, b_in, b_out, moment, lost = _sums(a, b, r)
    log_a, log_b = math.log(a_in + a_out), math.log(b_in + b_out)
    base = a_in if mixed else a_in + a_out
    mean = moment / base if base > 0.0 else 0.0
    _, x, y, _ = _class(a[j], b[j], r)
    rest = mean + (x - y) + (log_b - log_a)
    within = mean + (x - y) + (math.log(b_in) - math.log(a_in))
    r = _Row(top_a, top_b, gap, error, cool, mean, rest, log_a, log_b)
    if within < _NEAR and a_in > 0.0 and b_in > 0.0:
        within = math.log1p(_sum_of_excess(a, b, r, math.log(a_in)))
        rest = within + math.log1p(b_out / b_in) - math.log1p(a_out / a_in)
    elif not math.isfinite(rest):
        rest = 0.0
    r = _Row(top_a, top_b, gap, error, cool, mean, rest, log_a, log_b)
    return r, lost > 0.0, j


@njit(nogil=True, error_model="numpy", cache=True)
def _loop(f, dtype, first, last):
    n, classes, t, beta = f.rows, f.classes, f.temperature, f.beta
    mixed, single_precision = beta > 0.0, np.empty(0, dtype).itemsize == 4
    a_buffer, b_buffer = np.empty(classes, np.float32), np.empty(classes, np.float32)
    buffer = np.empty(classes, np.float32)
    rounded = np.empty(classes if f.streams else 0, dtype)
    loss = carray(at(f.loss, np.float64), n)
    factor = carray(at(f.factor, np.float64), n if f.factor != 0 else 0)
    counts = carray(at(f.counts, np.bool_), n if f.counts != 0 else 0)
    to_t = carray(at(f.to_t, np.float64), n if f.to_t != 0 else 0)
    for i in range(first, last):
        raw_a = carray(at(f.a + i * f.stride_a, dtype), classes)
        raw_b = carray(at(f.b + i * f.stride_b, dtype), classes)
        out_a = carray(at(f.out_a + i * f.stride_out_a, dtype), classes if f.out_a != 0 else 0)
        out_b = carray(at(f.out_b + i * f.stride_out_b, dtype), classes if f.out_b != 0 else 0)
        if counts.size and not counts[i]:
            loss[i] = 0.0
            if to_t.size:
                to_t[i] = 0.0
            _fill(out_a, 0.0)
            _fill(out_b, 0.0)
            continue
        a, b = single(raw_a, a_buffer), single(raw_b, b_buffer)
        top_a, top_b = of_key(largest_key(a)), of_key(largest_key(b))
        if top_a == np.inf:
            top_a = _certain(a, a_buffer)
            a = a_buffer
        if top_b == np.inf:
            top_b = _certain(b, b_buffer)
            b = b_buffer
        r, lost, j = _known(a, b, top_a, top_b, 1.0 / t, mixed)
        # The logarithm of a sum is NaN if the row has a NaN, or nothing but -inf.
        if math.isnan(r.log_a) or math.isnan(r.log_b):
            loss[i] = np.nan
            if to_t.size:
                to_t[i] = np.nan
            _fill(out_a, np.nan)
            _fill(out_b, np.nan)
            continue
        of_p, of_q = _sums_of_mixture(a, b, r, beta) if mixed else (0.0, 0.0)
        value = beta * of_p + (1.0 - beta) * of_q if mixed else r.rest
        if lost and not mixed:
            value = np.inf
            r = _Row(r.top_a, r.top_b, r.gap, r.error, r.cool, r.mean, value, r.log_a, r.log_b)
        loss[i] = t * t * value
        if to_t.size:
            if mixed:
                _, x, y, d = _class(a[j], b[j], r)
                apart = (x - y) - (d - r.mean) if math.isfinite(x - y) else 0.0
                slope = _to_log_t_of_mixture(a, b, r, beta, of_p, of_q, apart)
            else:
                slope = _to_log_t(a, b, r)
            to_t[i] = t * (2.0 * value + slope)
        # Of T^2 D(a / T, b / T).
        scale = f.scale * t * factor[i] if factor.size else f.scale * t
        if out_b.size:
            direct = single_precision and not f.streams and f.out_b != f.b
            g = carray(at(f.out_b + i * f.stride_out_b, np.float32), classes) if direct else buffer
            if mixed:
                _balanced(a, b, r, beta, of_q, scale, g)
            else:
                _to_b(a, b, r, scale, g)
            _store(g, rounded, f.streams, out_b)
        if out_a.size:
            direct = single_precision and not f.streams and f.out_a != f.a
            g = carray(at(f.out_a + i * f.stride_out_a, np.float32), classes) if direct else buffer
            if mixed:  # the other way round it is the same divergence
                r = _Row(
                    *(r.top_b, r.top_a, -r.gap, -r.error, r.cool),
                    *(-r.mean, -r.rest, r.log_b, r.log_a),
                )
                _balanced(b, a, r, 1.0 - beta, of_p, scale, g)
            else:
                _to_a(a, b, r, scale, g)
            _store(g, rounded, f.streams, out_a)


def run(
    a: Tensor,
    b: Tensor,
    temperature: float,
    beta: float,
    counts: Tensor | None,
    factor: Tensor | None,
    scale: float,
    out_a: Tensor | None,
    out_b: Tensor | None,
    to_t: Tensor | None,
) -> Tensor:
    """T^2 times the divergence of b from a, row by row, and the derivatives that are wanted.

    Args:
        a, b: logits of one dtype, a key of ``vectors.BITS``, shape (N, C). With p and q their
            softmax at the temperature T it is the Kullback-Leibler divergence of q from p if
            ``beta`` is 0, and else the Jensen-Shannon divergence in which p has the weight beta.
        counts: booleans, shape (N): which rows count. The others have loss and derivatives 0.
        factor: of the gradients, float64, shape (N), or None for 1; and with it ``scale``.
        out_a, out_b: where the gradients go, with contiguous rows. One of them alone may be the
            logits themselves.
        to_t: where the derivative with respect to T goes, without these: float64, shape (N).

    Returns:
        The losses, float64, shape (N).
    """
    n, classes = a.shape
    # Kept until the end: the frame knows only addresses.
    a, b = _rows(a), _rows(b)
    counts = None if counts is None else counts.contiguous()
    factor = None if factor is None else factor.contiguous()
    loss, size = torch.empty(n, dtype=torch.float64, device="cpu"), a.element_size()
    out = out_a if out_b is None else out_b
    streams = False
    if out is not None and size * n * classes >= STREAM:
        streams = out.data_ptr() not in (a.data_ptr(), b.data_ptr())
    # A small call is worth a thought: this is a third of the time that NumPy would take.
    frame = ctypes.create_string_buffer(
        _PACKED.pack(
            *(n, classes, a.data_ptr(), a.stride(0) * size, b.data_ptr(), b.stride(0) * size),
            *(_address(out_a), 0 if out_a is None else out_a.stride(0) * size),
            *(_address(out_b), 0 if out_b is None else out_b.stride(0) * size),
            *(streams, _address(counts), _address(factor), loss.data_ptr(), _address(to_t)),
            *(temperature, beta, scale),
        )
    )
    # Two exponentials in float64 are more work than what a row of a cross-entropy takes.
    threads.run(_compiled(BITS[a.dtype]), ctypes.addressof(frame), n, 4 * n * classes)
    return loss


def _rows(a: Tensor) -> Tensor:
    """With contiguous entries in each row; the rows may be anywhere."""
    return a if a.stride(1) == 1 or a.shape[1] == 1 else a.contiguous()


def _address(a: Tensor | None) -> int:
    return 0 if a is None else a.data_ptr()


@cache
def _compiled(dtype: Any) -> Any:
    @cfunc(threads.LOOP, cache=True)
    def body(frame, first, last):
        _loop(carray(at(frame, FRAME), 1)[0], dtype, first, last)

    return body
