"""The kernel of a CPU: one row after another, each read from memory once, rows shared by threads.

For classes as targets. The row stays in the core's cache between its largest entry, the sum, and in
the backward pass the gradient; the loops are vectorised by LLVM, the exponential among them, which
is why it is written here. Logits of other dtypes than float32 are converted a block at a time.
Compiled at the first call, and cached.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from celib.kernels.family import Options
from celib.kernels.with_aten import blocks

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
def _short_sum(x, m):
    s = np.float32(0.0)
    for k in range(x.size):
        s += _exp(x[k] - m)
    return s


@njit(nogil=True, error_model="numpy", cache=True)
def _sum(x, m):
    # Short sums are exact but for a few units of the last place; they are added up in float64.
    total = 0.0
    for k in range(0, x.size, 256):
        total += _short_sum(x[k : k + 256], m)
    return total


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
    s = 0.0  # without classes 0, with certainties their number
    for k in range(x.size):
        if k != c and top != -math.inf and not x[k] < top:
            s += 1.0 if x[k] == top else x[k]
    return top, s


@njit(nogil=True, error_model="numpy", cache=True)
def _forward(x, bits, y, w, ignored, z_loss, loss, lse, correct, numbers, start, first, last):
    """Rows first to last of all, of which x begins with row start."""
    for i in range(first, last):
        row = x[i - start]
        c = y[i]
        loss[i] = lse[i] = 0.0
        correct[i] = False
        numbers[:, i] = 0.0
        if c == ignored:
            continue
        if not 0 <= c < row.size:
            loss[i] = lse[i] = numbers[0, i] = math.nan
            continue
        # The rest is in float64, once a row. What is 1 without it is written so: inf - inf is not.
        m, s = _others(row, bits[i - start], c)
        top, z_y = float(m), float(row[c])
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
def _backward(
    x, out, in_place, y, ignored, z_loss, numbers, g_loss, g_lse, start, first, last
):  # fmt: skip
    for i in range(first, last):
        row, to = x[i - start], out[i - start]
        c = y[i]
        if c == ignored:
            to[:] = 0.0
            continue
        m, total, rest, share = numbers[0, i], numbers[1, i], numbers[2, i], numbers[4, i]
        if math.isnan(m):
            to[:] = m
            continue
        of_y = g_loss[i] * share
        of_p = of_y + g_lse[i]
        if z_loss > 0.0:
            of_p += g_loss[i] * 2.0 * z_loss * (m + math.log(total))
        z_y = row[c]
        p_y = (1.0 if z_y == m else math.exp(z_y - m)) / total
        factor = np.float32(of_p / total)
        if m == math.inf:
            for k in range(row.size):
                to[k] = factor if row[k] == m else np.float32(0.0)
        elif in_place:
            _scale_in_place(row, m, factor)
        else:
            _scaled(row, m, factor, to)
        # p - 1, from 1 - p.
        to[c] = 0.0 if z_y == -math.inf else (of_p - of_y) * p_y - of_y * rest


def forward(
    x: Tensor, target: Tensor, weight: Tensor | None, o: Options
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As :func:`celib.kernels.with_aten.forward`."""
    n = len(x)
    loss, lse = (torch.empty(n, dtype=torch.float32) for _ in range(2))
    correct = torch.empty(n, dtype=torch.bool)
    numbers = torch.empty(6, n, dtype=torch.float32)
    w = numbers.new_empty(0) if weight is None else weight.float()
    y, factors, *results = _arrays(target.long(), w, loss, lse, correct, numbers)
    for i, z in _blocks(x):
        rows = _arrays(z, z.view(torch.int32))
        _by_rows(_forward, i, *rows, y, factors, o.ignore_index, o.z_loss, *results)
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
    y, *vectors = _arrays(target.long(), numbers, g_loss, g_lse)
    for i, z in _blocks(x):
        # A block that was made here takes its own gradient.
        made = z is not x
        to = z if made else out[i]
        in_place = to.data_ptr() == z.data_ptr()
        rows = z.numpy(), to.numpy()
        _by_rows(_backward, i, *rows, in_place, y, o.ignore_index, o.z_loss, *vectors)
        if made:
            out[i] = z


def _blocks(x: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Rows in float32, side by side: all at once, or copies of a block at a time."""
    if x.dtype == torch.float32 and x.is_contiguous():
        yield slice(0, len(x)), x
    else:
        parts = blocks(x)
        block = torch.empty(x[parts[0]].shape, dtype=torch.float32)
        for i in parts:
            yield i, block[: i.stop - i.start].copy_(x[i])


def _arrays(*tensors: Tensor) -> Iterator[NDArray[Any]]:
    return (a.contiguous().numpy() for a in tensors)


def _by_rows(kernel: Callable[..., None], rows: slice, *arguments: Any) -> None:
    """The kernel, on as many threads as torch would use; a small input is not worth a thread."""
    start, stop, workers = rows.start, rows.stop, torch.get_num_threads()
    step = -(-(stop - start) // workers)
    parts = [(start, i, min(stop, i + step)) for i in range(start, stop, max(step, 1))]
    if arguments[0].size < 2**16:
        parts = [(start, start, stop)]
    others: list[Future[None]] = []
    for part in parts[1:]:
        try:
            others.append(_pool(os.getpid(), workers).submit(kernel, *arguments, *part))
        except RuntimeError:  # the interpreter is ending: its threads take no more work
            kernel(*arguments, *part)
    for part in parts[:1]:
        kernel(*arguments, *part)
    for other in others:
        other.result()


@cache
def _pool(process: int, workers: int) -> ThreadPoolExecutor:
    # A process that was forked has the pool, but not its threads: each process makes its own.
    return ThreadPoolExecutor(workers, thread_name_prefix="celib")
