"""The losses of a sigmoid on a CPU: one pass over the logits and the targets, compiled.

The pass reads each logit and its target once, checks the target and the weights, adds up the loss,
and writes the gradient for the derivative that the caller of ``backward`` will most likely pass: 1.
So the backward pass has nothing to do but to hand the gradient on.

With t = abs(z) and e = exp(-t), the two softplus functions of a logit are log(1 + e) and
t + log(1 + e), and the two sigmoids e / (1 + e) and 1 / (1 + e). None of them cancels: a confident
prediction keeps all digits of a small loss, and of a small gradient.

The arrays are taken as flat. They are cut into units of a fixed length, whose sums are added in a
fixed order, so that a loss has the same bits on any number of threads; and each unit into chunks,
which stay in the cache of a core from the first of several short loops to the last.
"""

from __future__ import annotations

from array import array
from functools import cache
from struct import Struct
from typing import Any

import numpy as np
import torch
from numba import cfunc, njit
from numba.core import types
from numba.core.extending import overload
from numba.np.numpy_support import carray
from torch import Tensor

from celib.kernels import threads
from celib.kernels.binary import Given, Options
from celib.kernels.memory import STREAM
from celib.kernels.vectors import (
    BITS,
    SUMS,
    at,
    exp_with_subnormals,
    like,
    log1p,
    power,
    single,
    streamed,
)

# Operands beside the logits and the targets are float32, contiguous, and of one of these layouts.
# The last one repeats after a period, which is a multiple of the last axis.
FULL, ONE_NUMBER, PER_ROW, REPEATED = 1, 2, 3, 4
OPERANDS = "weight", "pos_weight", "sample_weight", "g"
# The arguments of a loop. An address is 0 if there is no such array.
FRAME = np.dtype(
    [
        *((name, np.int64) for name in ("size", "classes", "unit", "period")),
        *((name, np.int64) for name in ("x", "y", "out", "streams", "each", "rows", "focal")),
        *((name, np.float64) for name in ("alpha", "gamma", "factor")),
        *((name + part, np.int64) for name in OPERANDS for part in ("", "_layout")),
    ]
)
_PACK = Struct("11q3d8q").pack
# The frame is followed by the sum of each unit, and by how many numbers are wrong in it.
SUMS_OF_UNITS = np.dtype([("sum", np.float64), ("wrong", np.int64)])
_SUMS_AT = FRAME.itemsize
_FIRST_SUM = Struct("dq").unpack_from

_CHUNK = 1024
_UNIT = 16 * _CHUNK
_LABELS = {torch.bool: np.uint8, torch.uint8: np.uint8, torch.int64: np.int64}
TARGETS = BITS | _LABELS
_ZERO, _ONE, _TWO = np.float32(0.0), np.float32(1.0), np.float32(2.0)
_INF, _TINY = np.float32(np.inf), np.float32(2.0**-126)


# Loops over a chunk. LLVM vectorises one only if it reads and writes few arrays, because it has to
# compare the addresses of each pair of them; so there are several loops, each of few arrays.


@njit(fastmath=False, error_model="numpy", cache=True)
def _sides(z):
    """The surprise at yes and at no, and minus their slopes' sizes: the sigmoids of -z and of z."""
    t = abs(z)
    e = exp_with_subnormals(-t)
    likely = _ONE / (_ONE + e)
    unlikely = e * likely
    low = log1p(e)
    high = t + low
    if z > _ZERO:
        return low, high, unlikely, likely
    return high, low, likely, unlikely


@njit(fastmath=False, error_model="numpy", cache=True)
def _times_or_0(factor, value):
    """The product, in which 0 inf = 0."""
    return _ZERO if factor == _ZERO and value == _INF else factor * value


@njit(nogil=True, error_model="numpy", cache=True)
def _cross_entropy(x, y, yes, factor, loss, g):
    """The loss of each logit, and its derivative times a factor.

    ``yes`` is y times the weight of the yes. All have the length of the chunk, and are float32.
    """
    for k in range(x.size):
        if_yes, if_no, to_yes, to_no = _sides(x[k])
        a, b = yes[k], _ONE - y[k]
        loss[k] = _times_or_0(a, if_yes) + _times_or_0(b, if_no)
        g[k] = (b * to_no - a * to_yes) * factor


@njit(nogil=True, error_model="numpy", cache=True)
def _rest(x, y, r):
    """1 - p_t, the probability of what is not the target."""
    for k in range(x.size):
        _, _, to_yes, to_no = _sides(x[k])
        r[k] = (_ONE - y[k]) * to_no + y[k] * to_yes


@njit(nogil=True, error_model="numpy", cache=True)
def _power(r, gamma):
    for k in range(r.size):
        r[k] = power(r[k], gamma)


@njit(nogil=True, error_model="numpy", cache=True)
def _focal(x, y, powers, alpha, gamma, factor, loss, g):
    """The focal loss of each logit, and its derivative times a factor.

    With r = 1 - p_t and the cross-entropy L, the loss is r^gamma L, and its derivative
    r^gamma (L' + gamma L r' / r), times a factor that depends on alpha. If gamma is 0, 1 or 2, the
    powers of r are taken here, and ``powers`` may hold anything.
    """
    zero, one, two = gamma == _ZERO, gamma == _ONE, gamma == _TWO
    balanced = alpha < _ZERO
    for k in range(x.size):
        if_yes, if_no, to_yes, to_no = _sides(x[k])
        a, b = y[k], _ONE - y[k]
        surprise = _times_or_0(a, if_yes) + _times_or_0(b, if_no)
        r = b * to_no + a * to_yes
        p = r * r if two else r if one else _ONE if zero else powers[k]
        p *= _ONE if balanced else alpha * a + (_ONE - alpha) * b
        # Where r is below the normal numbers, so is the derivative, unless gamma is 0.
        rate = (b - a) * (to_yes * to_no) / (r if r >= _TINY else _ONE)
        loss[k] = _times_or_0(p, surprise)
        slope = (b * to_no - a * to_yes) + gamma * _times_or_0(rate, surprise)
        g[k] = p * slope * factor


@njit(nogil=True, error_model="numpy", cache=True)
def _weighted(w, loss, g):
    for k in range(w.size):
        loss[k] = _times_or_0(w[k], loss[k])
        g[k] *= w[k]


@njit(nogil=True, error_model="numpy", cache=True)
def _product(a, b, out):
    for k in range(a.size):
        out[k] = a[k] * b[k]


@njit(nogil=True, error_model="numpy", cache=True)
def _times(w, g):
    for k in range(w.size):
        g[k] *= w[k]


@njit(nogil=True, error_model="numpy", cache=True)
def _fill(out, value):
    for k in range(out.size):
        out[k] = value


@njit(nogil=True, error_model="numpy", cache=True)
def _rounded(x, out):
    for k in range(x.size):
        out[k] = like(out, x[k])


@njit(nogil=True, fastmath=SUMS, error_model="numpy", cache=True)
def _sum(x):
    s = _ZERO
    for k in range(x.size):
        s += x[k]
    return s


@njit(nogil=True, error_model="numpy", cache=True)
def _outside(y, most):
    """How many numbers are not from 0 to ``most``; NaN is not."""
    n = np.int32(0)
    for k in range(y.size):
        n += np.int32(0) if y[k] >= _ZERO and y[k] <= most else np.int32(1)
    return n


_MOST = np.float32(np.finfo(np.float32).max)


def _read(chunk, buffer):
    """A chunk of targets in float32: probabilities in any precision, or integers."""


@overload(_read)
def _(chunk, buffer):
    def of_integers(chunk, buffer):
        for k in range(chunk.size):
            buffer[k] = np.float32(chunk[k])
        return buffer

    def of_numbers(chunk, buffer):
        return single(chunk, buffer)

    return of_integers if chunk.dtype in (types.uint8, types.int64) else of_numbers


@njit(nogil=True, error_model="numpy", cache=True)
def _operand(f, address, layout, start, place, buffer):
    """A chunk of an operand, from the flat index ``start`` on: as it is, or spread in the buffer.

    ``place`` is the index in the period, and the buffer is as long as the chunk.
    """
    n = buffer.size
    if layout == FULL:
        return carray(at(address + 4 * start, np.float32), n)
    if layout == REPEATED:
        return carray(at(address + 4 * place, np.float32), n)
    if layout == ONE_NUMBER:
        _fill(buffer, carray(at(address, np.float32), 1)[0])
        return buffer
    row = start // f.classes
    a = carray(at(address + 4 * row, np.float32), 1 + (start + n - 1) // f.classes - row)
    for i in range(a.size):
        begin = (row + i) * f.classes - start
        _fill(buffer[max(0, begin) : begin + f.classes], a[i])
    return buffer


@njit(nogil=True, error_model="numpy", cache=True)
def _add_to_rows(rows, start, classes, loss, total):
    """Add a chunk of losses to those of the rows, and return what the last row has so far.

    A chunk is a part of one row, or some whole rows. ``total`` is the sum of the row so far.
    """
    for begin in range(0, loss.size, classes):
        total += _sum(loss[begin : begin + classes])
        end = start + min(begin + classes, loss.size)
        if end % classes == 0:
            rows[end // classes - 1] = total / classes
            total = 0.0
    return total


@njit(nogil=True, error_model="numpy", cache=True)
def _units(f, sums, x_type, y_type, first, last):
    """The units from ``first`` to ``last``: see the fields of FRAME.

    x, y: the logits and the targets, of ``size`` numbers.
    out: where the gradient goes, in the dtype of x.
    each, rows: where the losses of all numbers go, or the means of all rows: float32.
    sums: for each unit its sum, and how many targets and weights are not what they should be.
    """
    buffers = np.empty((7, _CHUNK), np.float32)
    x_buffer, y_buffer, w_buffer, yes_buffer = buffers[0], buffers[1], buffers[2], buffers[3]
    l_buffer, g_buffer, powers = buffers[4], buffers[5], buffers[6]
    rounded = np.empty(_CHUNK, x_type)
    whole = np.empty(0, x_type).itemsize == 4
    wide, narrow = np.empty(0, x_type).itemsize, np.empty(0, y_type).itemsize
    row_sums = carray(at(f.rows, np.float32), f.size // f.classes if f.rows != 0 else 0)
    factor, alpha, gamma = np.float32(f.factor), np.float32(f.alpha), np.float32(f.gamma)
    takes_power = f.focal != 0 and f.gamma != 0.0 and f.gamma != 1.0 and f.gamma != 2.0
    for unit in range(first, last):
        total, in_row, wrong = 0.0, 0.0, 0
        for begin in range(unit * f.unit, min((unit + 1) * f.unit, f.size), f.period):
            for place in range(0, f.period, _CHUNK):
                start = begin + place
                n = min(_CHUNK, f.period - place, f.size - start)
                if n <= 0:
                    break
                x = single(carray(at(f.x + wide * start, x_type), n), x_buffer[:n])
                y = _read(carray(at(f.y + narrow * start, y_type), n), y_buffer[:n])
                loss = l_buffer[:n]
                if f.each != 0:
                    loss = carray(at(f.each + 4 * start, np.float32), n)
                out = carray(at(f.out + wide * start, x_type), n if f.out != 0 else 0)
                g = g_buffer[:n]
                if whole and f.out != 0 and f.streams == 0:
                    g = carray(at(f.out + wide * start, np.float32), n)
                w = w_buffer[:n]
                wrong += _outside(y, _ONE)
                yes = y
                if f.pos_weight != 0:
                    yes = yes_buffer[:n]
                    v = _operand(f, f.pos_weight, f.pos_weight_layout, start, place, w)
                    wrong += _outside(v, _MOST)
                    _product(v, y, yes)
                if f.focal == 0:
                    _cross_entropy(x, y, yes, factor, loss, g)
                else:
                    p = powers[:n]
                    if takes_power:
                        _rest(x, y, p)
                        _power(p, f.gamma)
                    _focal(x, y, p, alpha, gamma, factor, loss, g)
                if f.weight != 0:
                    v = _operand(f, f.weight, f.weight_layout, start, place, w)
                    wrong += _outside(v, _MOST)
                    _weighted(v, loss, g)
                if f.sample_weight != 0:
                    v = _operand(f, f.sample_weight, f.sample_weight_layout, start, place, w)
                    wrong += _outside(v, _MOST)
                    _weighted(v, loss, g)
                if f.g != 0:
                    _times(_operand(f, f.g, f.g_layout, start, place, w), g)
                if f.rows != 0:
                    in_row = _add_to_rows(row_sums, start, f.classes, loss, in_row)
                elif f.each == 0:
                    total += _sum(loss)
                if f.out == 0 or (whole and f.streams == 0):
                    continue
                if whole:
                    streamed(g, _ONE, out)
                elif f.streams != 0:
                    _rounded(g, rounded[:n])
                    streamed(rounded[:n], 1, out)
                else:
                    _rounded(g, out)
        sums[unit].sum = total
        sums[unit].wrong = wrong


@cache
def of(x: torch.dtype, y: torch.dtype) -> Any:
    """The loop for logits and targets of these dtypes, and the same as ctypes calls it.

    None if there is none.
    """
    if x not in BITS or y not in TARGETS:
        return None
    loop = _loop(BITS[x], TARGETS[y])
    return loop, loop.ctypes


def _loop(x_type: Any, y_type: Any) -> Any:
    @cfunc(threads.LOOP, cache=True)
    def body(frame, first, last):
        f = carray(at(frame, FRAME), 1)[0]
        sums = carray(at(frame + _SUMS_AT, SUMS_OF_UNITS), -(-f.size // f.unit))
        _units(f, sums, x_type, y_type, first, last)

    return body


def run(
    loop: Any,
    given: Given,
    o: Options,
    share: float,
    out: Tensor | None,
    result: Tensor | None,
    g: Tensor | None,
    checked: bool,
) -> float | None:
    """The sum of all losses; and what is asked for into ``out`` and ``result``.

    None if an operand has an unusual layout, or if something is wrong in the input.

    Args:
        loop: that of the dtypes of logits and targets, from :func:`of`.
        given, o: the arrays and the options.
        share: what the gradient is multiplied by.
        out: where it goes, contiguous, of the shape and dtype of the logits.
        result: where the losses of all logits go, or of all rows, contiguous, float32.
        g: what the gradient is multiplied by too, of the shape of the result.
        checked: whether there is no sum if a target is not in [0, 1], or a weight is not finite or
            below 0.
    """
    x, y, weight, pos_weight, sample_weight = given
    # Kept until the end: the frame knows only addresses.
    x = x if x.is_contiguous() else x.detach().contiguous()
    y = y if y.is_contiguous() else y.detach().contiguous()
    size, classes = x.numel(), x.shape[-1] if x.ndim else 1
    unit = period = _UNIT
    operands = _NO_OPERANDS
    kept: list[Tensor] = []
    plain = weight is None and pos_weight is None and sample_weight is None and g is None
    if o.by_row or not plain:
        # Chunks begin and end where rows do, or lie within one.
        period = max(1, _CHUNK // classes) * classes
        unit = max(1, _UNIT // period) * period
    if not plain:
        found = _operands((weight, pos_weight, sample_weight, g), x, period, o, kept)
        if found is None:
            return None
        operands = found
    gradient = each = rows = 0
    streams = False
    if out is not None:
        gradient, streams = out.data_ptr(), size * out.itemsize >= STREAM
    if result is not None:
        each, rows = (0, result.data_ptr()) if o.by_row else (result.data_ptr(), 0)
    frame = _PACK(
        # In the order of FRAME, and without intermediate tuples, which cost as much as all of it.
        size, classes, unit, period, x.data_ptr(), y.data_ptr(), gradient, streams, each,
        rows, o.focal, o.alpha, o.gamma, share, *operands,
    )  # fmt: skip
    if size <= unit:
        memory = array("q", frame + _NO_SUM)
        loop[1](memory.buffer_info()[0], 0, 1)
        total, wrong = _FIRST_SUM(memory, _SUMS_AT)
        return None if checked and wrong else total
    units = -(-size // unit)
    memory = array("q", frame + units * _NO_SUM)
    threads.run(loop[0], memory.buffer_info()[0], units, size)
    sums = np.frombuffer(memory, SUMS_OF_UNITS, units, _SUMS_AT)
    return None if checked and sums["wrong"].any() else float(sums["sum"].sum())


_NO_SUM = bytes(SUMS_OF_UNITS.itemsize)
_NO_OPERANDS = (0,) * (2 * len(OPERANDS))


def _operands(
    given: tuple[Tensor | None, ...], x: Tensor, period: int, o: Options, kept: list[Tensor]
) -> tuple[int, ...] | None:
    """The address and the layout of each operand, which is put into ``kept`` as a loop takes it.

    None if one has another layout.
    """
    found: list[int] = []
    for name, a in zip(OPERANDS, given, strict=True):
        if a is None:
            found += 0, 0
            continue
        layout = _layout(a, x, o.by_row and name in ("sample_weight", "g"))
        if layout is None or a.is_complex() or a.is_quantized:
            return None
        a = a.detach().to(torch.float32)
        a = a.reshape(-1).repeat(period // a.numel()) if layout == REPEATED else a.contiguous()
        kept.append(a)
        found += a.data_ptr(), layout
    return tuple(found)


def _layout(a: Tensor, x: Tensor, by_row: bool) -> int | None:
    """How an operand is spread over x: ``by_row`` if it has the shape of x without the last axis.

    None if it does not fit, or not so simply.
    """
    if by_row:
        return PER_ROW if a.shape == x.shape[:-1] else None
    if a.shape == x.shape:
        return FULL
    if a.ndim > x.ndim:
        return None
    if a.numel() == 1:
        return ONE_NUMBER
    if a.ndim and a.numel() == a.shape[-1] == x.shape[-1]:
        return REPEATED
    return PER_ROW if a.shape == (*x.shape[:-1], 1) else None
