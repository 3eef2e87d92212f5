"""The kernel of a CPU: one row after another, each read from memory once, rows shared by threads.

For float32 logits and classes as targets. The row stays in the core's cache between its largest
entry, the sum, and in the backward pass the gradient; the loops are vectorised by LLVM, the
exponential among them, which is why it is written here. Compiled at the first call, and cached.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from celib.kernels.family import Options

# Sums may be taken in any order, so that they are taken in vectors; NaN and inf keep their meaning.
_SUMS = {"reassoc", "nsz", "contract"}
_LOG2_E = np.float32(1.0 / math.log(2.0))
# The logarithm of 2 in two parts: the first has so few digits that its multiples are exact.
_LN2_HIGH = np.float32(0.693359375)
_LN2_LOW = np.float32(math.log(2.0) - 0.693359375)
_LOWEST = np.float32(-87.33654)  # the logarithm of the smallest normal number
# exp(r) = 1 + r + r^2 (1/2 + r/6 + ...), |r| <= log(2) / 2: Taylor's series, as far as float32.
_SERIES = tuple(np.float32(1.0 / math.factorial(k)) for k in range(7, 1, -1))
# Adding 1.5 2^23 to a float rounds it to an integer n, and leaves n in its last bits. With 127
# more, they are the exponent of 2^n once they are moved to their place.
_ROUNDING = np.float32(1.5 * 2**23 + 127)
_EXPONENT = np.int32(23)
_ONE = np.float32(1.0)


@njit(fastmath={"contract"}, error_model="numpy", cache=True)
def _exp(x):
    """exp(x) for x <= 0, within 1 ulp; 0 where that is below the normal numbers."""
    k = np.float32(x * _LOG2_E + _ROUNDING)
    n = k - _ROUNDING
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    p = _SERIES[0]
    p = p * r + _SERIES[1]
    p = p * r + _SERIES[2]
    p = p * r + _SERIES[3]
    p = p * r + _SERIES[4]
    p = p * r + _SERIES[5]
    y = (p * r * r + r) + _ONE
    y *= np.int32(np.float32(k).view(np.int32) << _EXPONENT).view(np.float32)
    return np.float32(0.0) if x < _LOWEST else y


@njit(nogil=True, cache=True)
def _key(bits):
    """An integer for the bits of a float32, in the order of the floats; its own inverse."""
    return np.int32(bits ^ np.int32(np.int32(bits >> np.int32(31)) & np.int32(0x7FFFFFFF)))


@njit(nogil=True, cache=True)
def _largest(bits):
    # Integers, because LLVM does not vectorise a comparison that has to think of NaN. A NaN has the
    # largest of keys, or with a minus sign the smallest; then the sum finds it.
    best = np.int32(-2139095041)  # the key of -inf
    for k in range(bits.size):
        best = np.int32(max(best, _key(bits[k])))
    return best


@njit(nogil=True, fastmath=_SUMS, error_model="numpy", cache=True)
def _sum(x, m):
    s = np.float32(0.0)
    for k in range(x.size):
        s += _exp(x[k] - m)
    return s


@njit(nogil=True, error_model="numpy", cache=True)
def _scaled(x, m, factor, out):
    for k in range(x.size):
        out[k] = factor * _exp(x[k] - m)


@njit(nogil=True, error_model="numpy", cache=True)
def _scale_in_place(x, m, factor):
    # A loop of its own: LLVM does not vectorise one whose two arrays might overlap otherwise.
    for k in range(x.size):
        x[k] = factor * _exp(x[k] - m)


@njit(nogil=True, error_model="numpy", cache=True)
def _others(x, bits, c):
    """The largest logit of all classes but c, and the sum of the exponentials relative to it."""
    best = max(_largest(bits[:c]), _largest(bits[c + 1 :]))
    top = np.int32(_key(best)).view(np.float32)
    if -math.inf < top < math.inf:
        return top, _sum(x[:c], top) + _sum(x[c + 1 :], top)
    s = np.float32(0.0)  # without classes 0, with certainties their number
    for k in range(x.size):
        if k != c and top != -math.inf and not x[k] < top:
            s += _ONE if x[k] == top else x[k]
    return top, s


@njit(nogil=True, error_model="numpy", cache=True)
def _forward(x, bits, y, w, ignored, z_loss, loss, lse, correct, numbers, first, last):
    for i in range(first, last):
        c = y[i]
        loss[i] = lse[i] = 0.0
        correct[i] = False
        numbers[:, i] = 0.0
        if c == ignored:
            continue
        if not 0 <= c < x.shape[1]:
            loss[i] = lse[i] = numbers[0, i] = math.nan
            continue
        # The rest is in float64, once a row. What is 1 without it is written so: inf - inf is not.
        m, s = _others(x[i], bits[i], c)
        top, z_y = float(m), float(x[i, c])
        largest = max(top, z_y)
        rest = s * (1.0 if top == largest else math.exp(top - largest))
        total = rest + (1.0 if z_y == largest else math.exp(z_y - largest))
        surprise = math.log1p(rest) if z_y == largest else (largest - z_y) + math.log(total)
        broken = largest == -math.inf or (largest == math.inf and total > 1.0)
        if broken or math.isnan(total):
            largest = surprise = math.nan
        share = float(w[c]) if w.size > 0 else 1.0
        log_sum = largest + math.log(total)
        loss[i] = 0.0 if share == 0.0 and surprise == math.inf else share * surprise
        if z_loss > 0.0:
            loss[i] += z_loss * log_sum * log_sum
        lse[i] = log_sum
        correct[i] = z_y == largest
        numbers[0, i], numbers[1, i], numbers[2, i] = largest, total, rest / total
        numbers[3, i], numbers[4, i], numbers[5, i] = share, share, 1.0


@njit(nogil=True, error_model="numpy", cache=True)
def _backward(x, y, ignored, z_loss, numbers, g_loss, g_lse, out, in_place, first, last):
    for i in range(first, last):
        c = y[i]
        if c == ignored:
            out[i] = 0.0
            continue
        m, total, rest, share = numbers[0, i], numbers[1, i], numbers[2, i], numbers[4, i]
        if math.isnan(m):
            out[i] = m
            continue
        of_y = g_loss[i] * share
        of_p = of_y + g_lse[i]
        if z_loss > 0.0:
            of_p += g_loss[i] * 2.0 * z_loss * (m + math.log(total))
        z_y = x[i, c]
        p_y = (1.0 if z_y == m else math.exp(z_y - m)) / total
        factor = np.float32(of_p / total)
        if m == math.inf:
            for k in range(x.shape[1]):
                out[i, k] = factor if x[i, k] == m else np.float32(0.0)
        elif in_place:
            _scale_in_place(x[i], m, factor)
        else:
            _scaled(x[i], m, factor, out[i])
        # p - 1, from 1 - p.
        out[i, c] = 0.0 if z_y == -math.inf else (of_p - of_y) * p_y - of_y * rest


def forward(
    x: Tensor, target: Tensor, weight: Tensor | None, o: Options
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As :func:`celib.kernels.with_aten.forward`."""
    x, n = x.contiguous(), len(x)  # or the loops would not be vectorised
    loss, lse, correct = torch.empty(n), torch.empty(n), torch.empty(n, dtype=torch.bool)
    numbers = torch.empty(6, n)
    w = torch.empty(0) if weight is None else weight.float().contiguous()
    arrays = (a.numpy() for a in (x, x.view(torch.int32), target.long().contiguous(), w))
    results = (a.numpy() for a in (loss, lse, correct, numbers))
    _by_rows(_forward, x, *arrays, o.ignore_index, o.z_loss, *results)
    return loss, lse, correct, numbers


def backward(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None,
    o: Options,
    numbers: Tensor,
    g_loss: Tensor,
    g_lse: Tensor,
    out: Tensor,
) -> None:
    """As :func:`celib.kernels.with_aten.backward`."""
    in_place = out.data_ptr() == x.data_ptr() and x.is_contiguous()
    inputs = (a.contiguous().numpy() for a in (x, target.long()))
    vectors = (a.contiguous().numpy() for a in (numbers, g_loss, g_lse))
    _by_rows(_backward, x, *inputs, o.ignore_index, o.z_loss, *vectors, out.numpy(), in_place)


def _by_rows(kernel: Callable[..., None], x: Tensor, *arguments: NDArray[Any] | float) -> None:
    """The kernel, on as many threads as torch would use; a small input is not worth a thread."""
    n, workers = len(x), torch.get_num_threads()
    if workers == 1 or x.numel() < 2**16:
        kernel(*arguments, 0, n)
        return
    step = -(-n // workers)
    pool = _pool(os.getpid(), workers)
    parts = [pool.submit(kernel, *arguments, i, min(n, i + step)) for i in range(0, n, step)]
    for part in parts:
        part.result()


@cache
def _pool(process: int, workers: int) -> ThreadPoolExecutor:
    # A process that was forked has the pool, but not its threads: each process makes its own.
    return ThreadPoolExecutor(workers, thread_name_prefix="celib")
