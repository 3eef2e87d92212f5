"""The kernel of a CPU: one row after another, each read from memory once, rows shared by threads.

A row stays in the core's cache between its largest logit, the sum of exponentials and, where the
gradient is wanted with the loss, the gradient: so it takes one exponential per logit, and the
backward pass has nothing to do but to hand the gradient on. Without that, and in place, the
backward pass computes the exponentials again.

The arithmetic is that of :mod:`celib.kernels.rows`: the target, or for probabilities the likeliest
class, is left out of the sum and joins at the end, in float64, which costs something per row and
not per logit. Compiled at the first call, and cached.
"""

from __future__ import annotations

import math
from array import array
from functools import cache
from struct import Struct
from typing import Any

import numpy as np
import torch
from numba import cfunc, njit
from numba.np.numpy_support import carray
from torch import Tensor

from celib.kernels import threads
from celib.kernels.family import (
    COUNT,
    ENTROPY,
    FOCAL,
    GENERALISED,
    LARGEST,
    LOG_PROB,
    LOSS,
    LSE,
    MASS,
    REST,
    SAVED,
    SHARE,
    SPREAD,
    STRAIGHT,
    TOTAL,
    Curve,
    Options,
    Rows,
)
from celib.kernels.memory import STREAM
from celib.kernels.vectors import (
    BITS,
    SUMS,
    at,
    exp,
    largest_key,
    like,
    of_key,
    single,
    streamed,
    tanh_and_slope,
)

# The arguments of a loop. An address is 0 if there is no such array; strides are in bytes.
_INTEGERS = (
    *("rows", "classes", "x", "stride_x", "out", "stride_out", "streams"),
    *("labels", "q", "stride_q", "weight", "results", "correct", "saved", "g", "ignore_index"),
    # Of a sum or mean: what multiplies each loss before and after the division, and what to divide
    # by, the number of the targets, the sum of their weights or 1.
    *("factor", "each", "over"),
    # Rows of probabilities that may not be a distribution: a flag each, and how many.
    *("suspect", "suspects"),
    "curve",
)
_FLOATS = (
    *("smoothing", "z_loss", "softcap", "scale", "entropy"),
    *("divisor", "curve_a", "curve_b", "loss"),
)
FRAME = np.dtype([*((n, np.int64) for n in _INTEGERS), *((n, np.float64) for n in _FLOATS)])
_PACKED = Struct(f"={len(_INTEGERS)}q{len(_FLOATS)}d")  # the same, which is quicker to fill
_OVER = {None: 0, "count": 1, "weight": 2}
_CHUNK = 256  # so many float32 lose few digits in a sum; the sums are added up in float64
_SUSPICIOUS = 2.0**-9  # far from what a check refuses, since a sum depends on its order
_ZERO, _ONE = np.float32(0.0), np.float32(1.0)


def can(x: Tensor, target: Tensor, o: Options) -> bool:
    return x.device.type == "cpu" and x.dtype in BITS


# Sums over a row.


@njit(nogil=True, fastmath=SUMS, error_model="numpy", cache=True)
def _short_sum(x, m, e):
    s = _ZERO
    for k in range(x.size):
        e[k] = exp(x[k] - m)
        s += e[k]
    return s


@njit(nogil=True, error_model="numpy", cache=True)
def _copy(x, out):
    for k in range(x.size):
        out[k] = x[k]


@njit(nogil=True, error_model="numpy", cache=True)
def _sum(x, c, m, e, some, hidden):
    """The sum of exp(x - m) over all classes but c; and the terms, into e, unless it is empty.

    e may be x, and its entry at c is left as it is, or 0. The chunk of c is copied with -inf in its
    place: to stop before c, and to go on behind it, would leave more ends that fill no vector.
    ``some`` takes the terms where e cannot: LLVM vectorises a loop only for arrays that do not
    overlap. So there is one loop for all cases, and one order of summation, and the loss has the
    same bits in all of them.
    """
    total = 0.0
    apart = e.size > 0 and e.ctypes.data != x.ctypes.data
    for k in range(0, x.size, _CHUNK):
        n = min(_CHUNK, x.size - k)
        given = x[k : k + n]
        if k <= c < k + n:
            _copy(given, hidden[:n])
            hidden[c - k] = -math.inf
            given = hidden[:n]
        to = e[k : k + n] if apart else some[:n]
        total += _short_sum(given, m, to)
        if e.size > 0 and not apart:
            at_c = x[c]
            _copy(to, e[k : k + n])
            x[c] = at_c
    return total


@njit(nogil=True, fastmath=SUMS, error_model="numpy", cache=True)
def _short_heat(x, m):
    s = _ZERO
    for k in range(x.size):
        drop = m - x[k] if x[k] > np.float32(-np.inf) else _ZERO
        s += exp(x[k] - m) * drop
    return s


@njit(nogil=True, error_model="numpy", cache=True)
def _heat(x, m):
    """The sum of exp(x - m) (m - x)."""
    total = 0.0
    for k in range(0, x.size, _CHUNK):
        total += _short_heat(x[k : k + _CHUNK], m)
    return total


@njit(nogil=True, fastmath=SUMS, error_model="numpy", cache=True)
def _short_below(x, m, w):
    s = _ZERO
    for k in range(x.size):
        drop = m - x[k] if x[k] > np.float32(-np.inf) and x[k] != m else _ZERO
        s += w[k] * drop if w[k] != _ZERO else _ZERO
    return s


@njit(nogil=True, fastmath=SUMS, error_model="numpy", cache=True)
def _short_drop(x, m):
    s = _ZERO
    for k in range(x.size):
        s += m - x[k] if x[k] > np.float32(-np.inf) and x[k] != m else _ZERO
    return s


@njit(nogil=True, fastmath=SUMS, error_model="numpy", cache=True)
def _short_allowed(x):
    n = np.int32(0)
    for k in range(x.size):
        n += np.int32(x[k] > np.float32(-np.inf))
    return n


@njit(nogil=True, fastmath=SUMS, error_model="numpy", cache=True)
def _short_weight(x, w):
    s = _ZERO
    for k in range(x.size):
        s += w[k] if x[k] > np.float32(-np.inf) else _ZERO
    return s


@njit(nogil=True, error_model="numpy", cache=True)
def _spread(x, m, w):
    """Of the classes that are not masked out: sum of w (m - x), sum of w, and their number."""
    below, weight, count = 0.0, 0.0, 0
    for k in range(0, x.size, _CHUNK):
        some = x[k : k + _CHUNK]
        count += _short_allowed(some)
        if w.size:
            below += _short_below(some, m, w[k : k + _CHUNK])
            weight += _short_weight(some, w[k : k + _CHUNK])
        else:
            below += _short_drop(some, m)
    return below, (weight if w.size else float(count)), float(count)


@njit(nogil=True, fastmath=SUMS, error_model="numpy", cache=True)
def _short_products(x, m, q):
    s = _ZERO
    for k in range(x.size):
        s += q[k] * (m - x[k]) if q[k] != _ZERO and x[k] != m else _ZERO
    return s


@njit(nogil=True, fastmath=SUMS, error_model="numpy", cache=True)
def _short_weighted(x, m, q, w):
    s = _ZERO
    for k in range(x.size):
        u = q[k] * w[k]
        s += u * (m - x[k]) if u != _ZERO and x[k] != m else _ZERO
    return s


@njit(nogil=True, fastmath=SUMS, error_model="numpy", cache=True)
def _short_dot(q, w):
    s = _ZERO
    for k in range(q.size):
        s += q[k] * w[k]
    return s


@njit(nogil=True, fastmath=SUMS, error_model="numpy", cache=True)
def _short_total(q):
    s = _ZERO
    for k in range(q.size):
        s += q[k]
    return s


@njit(nogil=True, error_model="numpy", cache=True)
def _expected(x, m, q, w):
    """For a target q: sum of w q (m - x), sum of w q, and the same two without w."""
    below, mass, below_1, mass_1 = 0.0, 0.0, 0.0, 0.0
    for k in range(0, x.size, _CHUNK):
        some, here = x[k : k + _CHUNK], q[k : k + _CHUNK]
        below_1 += _short_products(some, m, here)
        mass_1 += _short_total(here)
        if w.size:
            below += _short_weighted(some, m, here, w[k : k + _CHUNK])
            mass += _short_dot(here, w[k : k + _CHUNK])
    if w.size:
        return below, mass, below_1, mass_1
    return below_1, mass_1, below_1, mass_1


@njit(nogil=True, cache=True)
def _no_negative(x):
    bits = x.view(np.int32)
    every = np.int32(0)
    for k in range(bits.size):
        every |= bits[k]
    return every >= 0


@njit(nogil=True, error_model="numpy", cache=True)
def _first(x, value):
    """The first place of a value, 0 if there is none."""
    for k in range(0, x.size, _CHUNK):
        n = min(_CHUNK, x.size - k)
        if _contains(x[k : k + n], value):
            for j in range(k, k + n):
                if x[j] == value:
                    return j
    return 0


@njit(nogil=True, cache=True)
def _contains(x, value):
    # Without a way out of the loop, so that it is vectorised.
    found = np.int32(0)
    for k in range(x.size):
        found |= np.int32(x[k] == value)
    return found != 0


@njit(nogil=True, error_model="numpy", cache=True)
def _product(factor, x):
    """The product, in which 0 inf = 0."""
    return 0.0 if factor == 0.0 else factor * x


# Loops over a row that write.


@njit(nogil=True, error_model="numpy", cache=True)
def _capped(x, scale, cap, z, slope):
    # Each rounded to float32 before the maximum is taken from them.
    if cap > 0.0:
        for k in range(x.size):
            t, s = tanh_and_slope(np.float32(x[k] * np.float32(scale / cap)))
            # A class that is masked out stays so.
            masked = x[k] == np.float32(-np.inf)
            z[k] = x[k] if masked else np.float32(cap) * t
            slope[k] = np.float32(scale) * s
    else:
        for k in range(x.size):
            z[k] = x[k] * np.float32(scale)


@njit(nogil=True, error_model="numpy", cache=True)
def _scaled_in_place(e, factor):
    for k in range(e.size):
        e[k] = factor * e[k]


@njit(nogil=True, error_model="numpy", cache=True)
def _exp_scaled(x, m, factor, out):
    for k in range(x.size):
        out[k] = like(out, np.float32(factor * exp(x[k] - m)))


@njit(nogil=True, error_model="numpy", cache=True)
def _exp_scaled_in_place(x, m, factor):
    for k in range(x.size):
        x[k] = factor * exp(x[k] - m)


@njit(nogil=True, error_model="numpy", cache=True)
def _exps(x, m, e):
    for k in range(x.size):
        e[k] = exp(x[k] - m)


@njit(nogil=True, error_model="numpy", cache=True)
def _scaled_by_surprise(e, z, factor, of_drop, m):
    # e *= factor + of_drop (m - z)
    for k in range(e.size):
        drop = m - z[k] if z[k] > np.float32(-np.inf) else _ZERO
        e[k] = e[k] * (factor + of_drop * drop)


@njit(nogil=True, error_model="numpy", cache=True)
def _less_even(d, z, factor, w):
    # d -= factor w, for classes that are not masked out
    if w.size:
        for k in range(d.size):
            d[k] -= factor * w[k] if z[k] > np.float32(-np.inf) else _ZERO
    else:
        for k in range(d.size):
            d[k] -= factor if z[k] > np.float32(-np.inf) else _ZERO


@njit(nogil=True, error_model="numpy", cache=True)
def _less_target(d, z, q, factor, w, plain):
    # d -= (factor w + plain) q
    if w.size:
        for k in range(d.size):
            t = (factor * w[k] + plain) * q[k]
            d[k] = d[k] - t if z[k] > np.float32(-np.inf) else _ZERO
    else:
        for k in range(d.size):
            t = (factor + plain) * q[k]
            d[k] = d[k] - t if z[k] > np.float32(-np.inf) else _ZERO


@njit(nogil=True, error_model="numpy", cache=True)
def _times_slope(d, slope):
    for k in range(d.size):
        d[k] *= slope[k]


@njit(nogil=True, error_model="numpy", cache=True)
def _as(d, out):
    for k in range(d.size):
        out[k] = like(out, d[k])


@njit(nogil=True, error_model="numpy", cache=True)
def _fill(out, x):
    for k in range(out.size):
        out[k] = like(out, np.float32(x))


# A row.


@njit(nogil=True, error_model="numpy", cache=True)
def _logits(f, raw, z, slope):
    """The logits of a row in float32: the row itself if nothing has to be done to it."""
    x = single(raw, z)
    if f.softcap > 0.0 or f.scale != 1.0:
        _capped(x, f.scale, f.softcap, z, slope)
        return z
    return x


@njit(nogil=True, error_model="numpy", cache=True)
def _largest_but(z, c):
    """The largest logit of all classes but c; -inf if there is none."""
    return of_key(max(largest_key(z[:c]), largest_key(z[c + 1 :])))


@njit(nogil=True, error_model="numpy", cache=True)
def _others(z, c, top, e, some, hidden):
    """The sum of exp(z - top) over all classes but c; and the terms, into e, unless it is empty."""
    if -math.inf < top < math.inf:
        return _sum(z, c, top, e, some, hidden)
    s = 0.0  # without classes 0, with certainties their number
    for k in range(z.size):
        certain = k != c and top != -math.inf and not z[k] < top
        x = _ZERO if not certain else _ONE if z[k] == top else z[k]
        s += x
        if e.size and k != c:
            e[k] = x
    return s


@njit(nogil=True, error_model="numpy", cache=True)
def _gradient(
    f, z, d, ready, top, slope, rounded, out, c, q, w,
    m, total, rest, mass, share, count, entropy, g_loss, g_lse, g_log_prob, g_entropy,
):  # fmt: skip
    """The derivative of a row with respect to x, into out.

    Args:
        z: the logits. They are needed, apart from z[c], unless the row is ``_plain``.
        d: where the exponentials relative to top are, if they are ``ready``, or else come, and
            then the gradient with respect to z: float32. It may be out, and in a plain row also z.
        rounded: room for the gradient in the dtype of out, if that is a half and streamed.
        c: the class that is left out, the target or for probabilities q the likeliest.
        m to entropy: as they are saved; share is not needed for probabilities.
    """
    of_p = g_loss * mass + g_lse - g_log_prob - g_entropy * entropy
    log_total = 0.0
    if f.z_loss > 0.0 or g_entropy != 0.0:
        log_total = math.log(total)
    if f.z_loss > 0.0:
        of_p += g_loss * 2.0 * f.z_loss * (m + log_total)
    of_q = g_loss * (1.0 - f.smoothing)
    of_each = g_loss * f.smoothing / count
    soft = q.size > 0
    z_c = float(z[c])
    p_c = (1.0 if z_c == m else math.exp(z_c - m)) / total
    w_c = float(w[c]) if w.size else 1.0
    # p - 1, from 1 - p.
    of_c = (of_q * w_c - g_log_prob) * float(q[c]) if soft else of_q * share - g_log_prob
    if soft:
        at_c = (of_p - of_c) - of_p * rest if z_c == m else of_p * p_c - of_c
    else:
        at_c = (of_p - of_c) * p_c - of_c * rest
    if g_entropy != 0.0 and z_c > -math.inf:
        at_c += g_entropy * p_c * ((0.0 if z_c == m else m - z_c) + log_total)
    at_c = 0.0 if z_c == -math.inf else at_c - of_each * w_c
    # The exponentials are relative to top, which may be below m.
    lift = m - top if -math.inf < top < m < math.inf else 0.0
    to_p = 1.0 / total if top == m or m < math.inf else 0.0
    if lift > 0.0:
        to_p *= math.exp(-lift)
    factor = np.float32((of_p + g_entropy * (lift + log_total)) * to_p)
    plain, special = _plain(f), not -math.inf < top < math.inf
    if special and not ready:
        for k in range(z.size):
            d[k] = _ONE if z[k] == top and top == math.inf else _ZERO
    elif not ready and not plain:
        _exps(z, np.float32(top), d)
    elif not ready and d.ctypes.data == z.ctypes.data:
        _exp_scaled_in_place(z, np.float32(top), factor)
    elif not ready:
        _exp_scaled(z, np.float32(top), factor, d)
    factor = _ONE if plain and not special and not ready else factor
    if plain and f.streams and rounded.size == 0:
        streamed(d, factor, out)
        out[c] = at_c
        return
    if g_entropy != 0.0:
        _scaled_by_surprise(d, z, factor, np.float32(g_entropy * to_p), np.float32(top))
    elif factor != _ONE:
        _scaled_in_place(d, factor)
    if soft:
        _less_target(d, z, q, np.float32(of_q), w, np.float32(-g_log_prob))
    if f.smoothing > 0.0:
        _less_even(d, z, np.float32(of_each), w)
    d[c] = np.float32(at_c)
    if slope.size:
        _times_slope(d, slope)
    elif f.scale != 1.0:
        _scaled_in_place(d, np.float32(f.scale))
    if d.ctypes.data == out.ctypes.data:
        return
    if rounded.size:
        _as(d, rounded)
        streamed(rounded, 1, out)
    elif f.streams:
        streamed(d, _ONE, out)
    else:
        _as(d, out)


@njit(nogil=True, error_model="numpy", cache=True)
def _curved(s, kind, a, b):
    """The loss at a surprise, and its derivative: see family.Curve."""
    small = -math.expm1(-s)
    if kind == FOCAL:
        # Of subnormal s the derivative of the power may overflow, but not its product with s.
        slope = 1.0 + a * (s / math.expm1(s)) if s >= 2.0**-1022 else 1.0
        return small**a * s, small**a * slope
    if kind == GENERALISED:
        return -math.expm1(-a * s) / a, math.exp(-a * s)
    return _product(a, s) + b * small, a + b * math.exp(-s)


@njit(nogil=True, error_model="numpy", cache=True)
def _plain(f):
    """Whether a gradient is a multiple of the exponentials, but for the target."""
    options = f.smoothing > 0.0 or f.softcap > 0.0 or f.scale != 1.0 or f.entropy > 0.0
    return not options and f.q == 0


@njit(nogil=True, error_model="numpy", cache=True)
def _view(room, first, size):
    return carray(at(room.ctypes.data + 4 * first, np.float32), size)


@njit(nogil=True, error_model="numpy", cache=True)
def _gradient_in(f, dtype):
    """Whether the gradient can be computed where it belongs, and else whether it is rounded first.

    Only float32 can be; but if it is streamed it is computed in the cache, in a buffer of its own.
    """
    single_precision = np.empty(0, dtype).itemsize == 4
    return single_precision and not f.streams, f.streams and not single_precision


@njit(nogil=True, error_model="numpy", cache=True)
def _parts(f, room, dtype):
    """Buffers for a row's logits, gradient, slopes of the softcap and rounded gradient, and two for
    a chunk: views without an owner, because slices of an array of numba's would count references.
    """
    n = f.classes
    _, rounds = _gradient_in(f, dtype)
    return (
        _view(room, 0, n),
        _view(room, n, n),
        _view(room, 2 * n, n if f.softcap > 0.0 else 0),
        carray(at(room.ctypes.data + 12 * n, dtype), n if rounds else 0),
        _view(room, 4 * n, _CHUNK),
        _view(room, 4 * n + _CHUNK, _CHUNK),
    )


@njit(nogil=True, error_model="numpy", cache=True)
def _places(f, i, z, direct, plain, z_buffer, d_buffer):
    """Where the gradient of row i is computed, and the logits, moved if they would be in its way.

    That is the gradient itself, or a buffer from which it can be rounded or streamed.
    """
    d = carray(at(f.out + i * f.stride_out, np.float32), f.classes if direct else 0)
    if not direct:
        return (z_buffer if plain and z.ctypes.data == z_buffer.ctypes.data else d_buffer), z
    if not plain and z.ctypes.data == d.ctypes.data:
        _copy(z, z_buffer)
        return d, z_buffer
    return d, z


@njit(nogil=True, error_model="numpy", cache=True)
def _forward(f, dtype, first, last):
    n, classes = f.rows, f.classes
    direct, _ = _gradient_in(f, dtype)
    plain, soft = _plain(f), f.q != 0
    nothing = np.empty(0, np.float32)
    room = np.empty(4 * classes + 2 * _CHUNK, np.float32)
    z_buffer, d_buffer, slope, rounded, some, hidden = _parts(f, room, dtype)
    w = carray(at(f.weight, np.float32), classes if f.weight != 0 else 0)
    labels = carray(at(f.labels, np.int64), 0 if soft else n)
    correct = carray(at(f.correct, np.bool_), n if f.correct != 0 else 0)
    results = carray(at(f.results, np.float32), (4, n))
    saved = carray(at(f.saved, np.float32), (SAVED, n))
    suspect = carray(at(f.suspect, np.bool_), n if f.suspect != 0 else 0)
    g = carray(at(f.g, np.float32), n if f.out != 0 else 0)
    for i in range(first, last):
        raw = carray(at(f.x + i * f.stride_x, dtype), classes)
        out = carray(at(f.out + i * f.stride_out, dtype), classes if f.out != 0 else 0)
        q = carray(at(f.q + i * f.stride_q, np.float32), classes if soft else 0)
        c = -1 if soft else labels[i]
        if (not soft and not 0 <= c < classes) or (c == f.ignore_index and not soft):
            missing = 0.0 if c == f.ignore_index else math.nan
            results[:, i] = missing
            saved[:, i] = missing
            if correct.size:
                correct[i] = False
            _fill(out, missing)
            continue
        z = _logits(f, raw, z_buffer, slope)
        if soft:
            c = _first(z, of_key(largest_key(z)))
        d = nothing  # where the exponentials go
        if f.out != 0:
            d, z = _places(f, i, z, direct, plain, z_buffer, d_buffer)
        z_c = z[c]
        # Before the exponentials, which may take the place of the logits.
        likely = z_c
        if soft and correct.size:
            likely = z[_first(q, of_key(largest_key(q)))]
        top = z_c if soft else _largest_but(z, c)
        m = max(float(top), float(z_c))
        below = weight = count = heat = expected = mass = expected_1 = mass_1 = 0.0
        finite = -math.inf < top < math.inf
        if f.smoothing > 0.0:
            b_1, w_1, n_1 = _spread(z[:c], top, w[:c])
            b_2, w_2, n_2 = _spread(z[c + 1 :], top, w[c + 1 :])
            below, weight, count = b_1 + b_2, w_1 + w_2, n_1 + n_2
        if f.entropy > 0.0 and finite:
            heat = _heat(z[:c], top) + _heat(z[c + 1 :], top)
        if soft:
            expected, mass, expected_1, mass_1 = _expected(z, np.float32(m), q, w)
            if f.suspect != 0:
                suspect[i] = not (abs(mass_1 - 1.0) <= _SUSPICIOUS and _no_negative(q))
        s = _others(z, c, top, d, some, hidden)
        # From here on in float64: once per row, not per logit. exp(0) is written as 1, because
        # inf - inf is NaN.
        lift = 0.0 if top == m else m - top
        scale_top = 1.0 if top == m else math.exp(top - m)
        e_c = 1.0 if z_c == m else math.exp(z_c - m)
        rest = s * scale_top
        total = rest + e_c
        log_total = math.log1p(rest) if z_c == m else math.log(total)
        broken = m == -math.inf or (m == math.inf and total > 1.0) or math.isnan(total)
        if broken or math.isnan(z_c):
            results[:, i] = math.nan
            saved[:, i] = math.nan
            saved[SHARE, i] = mass if soft else (float(w[c]) if w.size else 1.0)
            if correct.size:
                correct[i] = False
            _fill(out, math.nan)
            continue
        surprise = 0.0 if z_c == m else m - z_c
        surprise += log_total
        if soft:
            loss = expected + _product(mass, log_total)
            at_target = expected_1 + _product(mass_1, log_total)
            share = mass
        else:
            share = float(w[c]) if w.size else 1.0
            at_target, bend, rise = surprise, surprise, 1.0
            if f.curve != STRAIGHT:
                bend, rise = _curved(surprise, f.curve, f.curve_a, f.curve_b)
            loss = _product(share, bend)
            share = mass = share * rise
        number = 1.0
        if f.smoothing > 0.0:
            mine = (float(w[c]) if w.size else 1.0) if z_c > -math.inf else 0.0
            number = count + (1.0 if z_c > -math.inf else 0.0)
            even = below + _product(weight, lift + log_total) + _product(mine, surprise)
            loss = _product(1.0 - f.smoothing, loss) + f.smoothing * (even / number)
            mass = (1.0 - f.smoothing) * mass + f.smoothing * ((weight + mine) / number)
        lse = m + log_total
        if f.z_loss > 0.0:
            loss += f.z_loss * lse * lse
        entropy = 0.0
        if f.entropy > 0.0:
            hot = _product(scale_top, heat + _product(s, lift)) + _product(
                e_c, 0.0 if z_c == m else m - float(z_c)
            )
            entropy = log_total + hot / total
        results[LOSS, i], results[LSE, i] = loss, lse
        results[LOG_PROB, i], results[ENTROPY, i] = -at_target, entropy
        if correct.size:
            correct[i] = likely == m
        saved[LARGEST, i], saved[TOTAL, i], saved[REST, i] = m, total, rest / total
        saved[MASS, i], saved[SHARE, i], saved[COUNT, i] = mass, share, number
        saved[SPREAD, i] = entropy
        if f.out != 0:
            _gradient(
                f, z, d, True, top, slope, rounded, out, c, q, w,
                float(saved[LARGEST, i]), float(saved[TOTAL, i]), float(saved[REST, i]),
                float(saved[MASS, i]), float(saved[SHARE, i]), float(saved[COUNT, i]),
                float(saved[SPREAD, i]), float(g[i]), 0.0, 0.0, 0.0,
            )  # fmt: skip
    room[0] = 0.0  # it is needed until here


@njit(nogil=True, error_model="numpy", cache=True)
def _backward(f, dtype, first, last):
    n, classes = f.rows, f.classes
    direct, _ = _gradient_in(f, dtype)
    plain, soft = _plain(f), f.q != 0
    room = np.empty(4 * classes + 2 * _CHUNK, np.float32)
    z_buffer, d_buffer, slope, rounded, _, _ = _parts(f, room, dtype)
    w = carray(at(f.weight, np.float32), classes if f.weight != 0 else 0)
    labels = carray(at(f.labels, np.int64), 0 if soft else n)
    saved = carray(at(f.saved, np.float32), (SAVED, n))
    g = carray(at(f.g, np.float32), (4, n))
    for i in range(first, last):
        raw = carray(at(f.x + i * f.stride_x, dtype), classes)
        out = carray(at(f.out + i * f.stride_out, dtype), classes)
        q = carray(at(f.q + i * f.stride_q, np.float32), classes if soft else 0)
        c = -1 if soft else labels[i]
        if not soft and c == f.ignore_index:
            _fill(out, 0.0)
            continue
        m = float(saved[LARGEST, i])
        if math.isnan(m):
            _fill(out, m)
            continue
        z = _logits(f, raw, z_buffer, slope)
        d, z = _places(f, i, z, direct, plain, z_buffer, d_buffer)
        if soft:
            c = _first(z, np.float32(m))
        # As in the forward pass, so that both make the same bits. If the target is not the largest,
        # the largest of the others is.
        top = np.float32(m) if soft or z[c] != m else _largest_but(z, c)
        _gradient(
            f, z, d, False, top, slope, rounded, out, c, q, w,
            m, float(saved[TOTAL, i]), float(saved[REST, i]), float(saved[MASS, i]),
            float(saved[SHARE, i]), float(saved[COUNT, i]), float(saved[SPREAD, i]),
            float(g[LOSS, i]), float(g[LSE, i]), float(g[LOG_PROB, i]), float(g[ENTROPY, i]),
        )  # fmt: skip
    room[0] = 0.0


@njit(nogil=True, error_model="numpy", cache=True)
def _divide(f):
    """Find the divisor, and what multiplies each loss: its factor by the divisor."""
    n, soft = f.rows, f.q != 0
    labels = carray(at(f.labels, np.int64), 0 if soft else n)
    w = carray(at(f.weight, np.float32), f.classes if f.weight != 0 else 0)
    factor = carray(at(f.factor, np.float32), n if f.factor != 0 else 0)
    each = carray(at(f.each, np.float32), n)
    total = 0.0
    for i in range(n):
        share = float(factor[i]) if factor.size else 1.0
        each[i] = share
        if not soft:
            c = labels[i]
            if c == f.ignore_index:
                continue
            # A class that does not exist makes its loss NaN, whatever the divisor is.
            if f.over == 2 and w.size and 0 <= c < f.classes:
                share *= float(w[c])
        total += share
    f.divisor = total if f.over > 0 else 1.0
    for i in range(n):
        # The gradient of a mean over nothing is 0.
        each[i] = np.float32(float(each[i]) / f.divisor) if f.divisor > 0.0 else _ZERO


@njit(nogil=True, error_model="numpy", cache=True)
def _add_up(f):
    n = f.rows
    loss, each = carray(at(f.results, np.float32), n), carray(at(f.each, np.float32), n)
    total = 0.0
    for i in range(n):
        total += 0.0 if each[i] == _ZERO and not math.isnan(loss[i]) else float(each[i] * loss[i])
    f.loss = total if f.divisor > 0.0 else math.nan
    suspect = carray(at(f.suspect, np.bool_), n if f.suspect != 0 else 0)
    for i in range(suspect.size):
        f.suspects += suspect[i]


def forward(x: Tensor, target: Tensor, weight: Tensor | None, o: Options) -> Rows:
    return _run(x, target, weight, o)


def both(
    x: Tensor, target: Tensor, weight: Tensor | None, o: Options, g: Tensor, out: Tensor
) -> Rows:
    return _run(x, target, weight, o, g, out)


def reduced(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None,
    o: Options,
    factor: Tensor | None,
    over: str | None,
    curve: Curve | None,
    out: Tensor | None,
) -> tuple[float, Tensor, bool]:
    n, soft = x.shape[0], target.is_floating_point()
    lines = x.new_empty((4 + SAVED + 1 + soft, n), dtype=torch.float32)
    line, results = 4 * n, lines.data_ptr()
    saved = results + 4 * line
    each = saved + SAVED * line
    factor = None if factor is None else factor.float().contiguous()
    frame, _kept = _frame(
        *(x, target, weight, o, out, results, 0, saved, each),
        *(_address(factor), each, _OVER[over], each + line if soft else 0, curve),
    )
    address, dtype = frame.buffer_info()[0], BITS[x.dtype]
    if threads.workers(x.numel()) == 1:
        threads.once(_reduced_loop(dtype), address, n)
    else:
        threads.once(_divide_loop(), address, n)
        threads.run(_forward_loop(dtype), address, n, x.numel())
        threads.once(_add_up_loop(), address, n)
    suspects, *_, loss = _PACKED.unpack(frame)[_INTEGERS.index("suspects") :]
    return loss, lines[4 : 4 + SAVED + 1], suspects > 0 or math.isnan(loss)


def _run(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None,
    o: Options,
    g: Tensor | None = None,
    out: Tensor | None = None,
) -> Rows:
    n = x.shape[0]
    found = Rows(
        x.new_empty((4, n), dtype=torch.float32),
        x.new_empty(n, dtype=torch.bool),
        x.new_empty((SAVED, n), dtype=torch.float32),
    )
    _loop(_forward_loop, x, target, weight, o, *found, g, out)
    return found


def backward(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None,
    o: Options,
    saved: Tensor,
    g: Tensor,
    out: Tensor,
) -> None:
    _loop(_backward_loop, x, target, weight, o, None, None, saved, g, out)


def _loop(
    loop: Any,
    x: Tensor,
    target: Tensor,
    weight: Tensor | None,
    o: Options,
    results: Tensor | None,
    correct: Tensor | None,
    saved: Tensor,
    g: Tensor | None,
    out: Tensor | None,
) -> None:
    g = None if g is None else g.float().contiguous()
    frame, _kept = _frame(
        *(x, target, weight, o, out),
        *(_address(results), _address(correct), _address(saved), _address(g)),
    )
    threads.run(loop(BITS[x.dtype]), frame.buffer_info()[0], x.shape[0], x.numel())


def _frame(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None,
    o: Options,
    out: Tensor | None,
    results: int,
    correct: int,
    saved: int,
    g: int,
    factor: int = 0,
    each: int = 0,
    over: int = 0,
    suspect: int = 0,
    curve: Curve | None = None,
) -> tuple[array[int], tuple[Tensor | None, ...]]:
    """The arguments of a loop, and arrays to keep while it runs: a frame knows only addresses."""
    n, classes = x.shape
    labels = q = w = None
    if target.is_floating_point():
        q = _rows(target.float())
    else:
        labels = target.long().contiguous()
    if weight is not None:
        w = weight.float().contiguous()
    x = _rows(x)
    size = x.element_size()
    kind, a, b = (STRAIGHT, 0.0, 0.0) if curve is None else curve[:3]
    to = stride_out = streams = 0
    if out is not None:
        to, stride_out = out.data_ptr(), out.stride(0) * size
        streams = to != x.data_ptr() and size * x.numel() >= STREAM
    packed = _PACKED.pack(
        *(n, classes, x.data_ptr(), x.stride(0) * size, to, stride_out, streams),
        *(_address(labels), _address(q), 0 if q is None else q.stride(0) * 4, _address(w)),
        *(results, correct, saved, g, o.ignore_index, factor, each, over, suspect, 0, kind),
        *(o.label_smoothing, o.z_loss, o.softcap, o.scale, o.entropy, 0.0, a, b, 0.0),
    )
    return array("q", packed), (x, q, labels, w)


def _rows(a: Tensor) -> Tensor:
    """With contiguous entries in each row; the rows may be anywhere."""
    return a if a.stride(1) == 1 or a.shape[1] == 1 else a.contiguous()


def _address(a: Tensor | None) -> int:
    return 0 if a is None else a.data_ptr()


@cache
def _forward_loop(dtype: Any) -> Any:
    @cfunc(threads.LOOP, cache=True)
    def body(frame, first, last):
        _forward(carray(at(frame, FRAME), 1)[0], dtype, first, last)

    return body


@cache
def _reduced_loop(dtype: Any) -> Any:
    @cfunc(threads.LOOP, cache=True)
    def body(frame, first, last):
        f = carray(at(frame, FRAME), 1)[0]
        _divide(f)
        _forward(f, dtype, first, last)
        _add_up(f)

    return body


@cache
def _divide_loop() -> Any:
    @cfunc(threads.LOOP, cache=True)
    def body(frame, first, last):
        _divide(carray(at(frame, FRAME), 1)[0])

    return body


@cache
def _add_up_loop() -> Any:
    @cfunc(threads.LOOP, cache=True)
    def body(frame, first, last):
        _add_up(carray(at(frame, FRAME), 1)[0])

    return body


@cache
def _backward_loop(dtype: Any) -> Any:
    @cfunc(threads.LOOP, cache=True)
    def body(frame, first, last):
        _backward(carray(at(frame, FRAME), 1)[0], dtype, first, last)

    return body
