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

from celib.kernels.family import Options, lookup
from celib.kernels.with_aten import factor_of_p, finish

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
def _forward(x, bits, y, m, s, first, last):
    for i in range(first, last):
        c = y[i]
        if c < 0:
            continue
        best = max(_largest(bits[i, :c]), _largest(bits[i, c + 1 :]))
        top = np.int32(_key(best)).view(np.float32)
        m[i] = top
        if -math.inf < top < math.inf:
            s[i] = _sum(x[i, :c], top) + _sum(x[i, c + 1 :], top)
        elif math.isnan(top):
            s[i] = top
        else:
            s[i] = 0.0
            for k in range(x.shape[1]):
                if k != c and top > 0 and not x[i, k] < top:
                    s[i] += _ONE if x[i, k] == top else x[i, k]


@njit(nogil=True, error_model="numpy", cache=True)
def _backward(x, y, m, factor, at_y, out, in_place, first, last):
    for i in range(first, last):
        c = y[i]
        if c < 0:
            out[i] = 0.0
            continue
        if not m[i] < math.inf:
            elsewhere = m[i] if math.isnan(m[i]) else np.float32(0.0)
            for k in range(x.shape[1]):
                out[i, k] = factor[i] if x[i, k] == m[i] else elsewhere
        elif in_place:
            _scale_in_place(x[i], m[i], factor[i])
        else:
            _scaled(x[i], m[i], factor[i], out[i])
        out[i, c] = at_y[i]


def forward(
    x: Tensor, target: Tensor, weight: Tensor | None, o: Options
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As :func:`celib.kernels.with_aten.forward`."""
    x = x.contiguous()  # or the loops would not be vectorised
    y, kept, wrong = lookup(target, x.shape[1], o)
    m, s = torch.zeros(2, len(x))
    rows = torch.where(kept, y, -1).numpy()
    _by_rows(_forward, x, x.numpy(), x.view(torch.int32).numpy(), rows, m.numpy(), s.numpy())
    z_y = x.gather(-1, y[:, None])[:, 0]
    share = torch.where(kept, 1.0 if weight is None else weight.float()[y], 0.0)
    return finish(m, s, z_y, share.float(), kept, wrong, None, o)


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
    x = x.contiguous()
    y, kept, _ = lookup(target, x.shape[1], o)
    m, total, rest, _, share, _ = numbers
    of_p = factor_of_p(o, numbers, g_loss, g_lse)
    z_y = x.gather(-1, y[:, None])[:, 0]
    p_y = torch.where(z_y == m, 1.0, torch.exp(z_y - m)) / total
    at_y = (of_p - g_loss * share) * p_y - (g_loss * share) * rest
    at_y = torch.where(z_y == -math.inf, 0.0, at_y)
    rows = torch.where(kept, y, -1).numpy()
    vectors = (a.float().numpy() for a in (m, of_p / total, at_y))
    _by_rows(_backward, x, x.numpy(), rows, *vectors, out.numpy(), out.data_ptr() == x.data_ptr())


def _by_rows(kernel: Callable[..., None], x: Tensor, *arguments: NDArray[Any] | bool) -> None:
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
