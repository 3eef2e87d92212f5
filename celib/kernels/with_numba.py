"""The kernel of a CPU: one row after another, each read from memory once, rows shared by threads.

For classes as targets. The row stays in the core's cache between its largest entry, the sum, and in
the backward pass the gradient; the loops are vectorised by LLVM, the exponential among them, which
is why it is written here. A row of bfloat16 is converted into a buffer that stays in the cache;
float16, and rows that are not side by side, are converted a block at a time. Compiled at the first
call, and cached.
"""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite.binding
import numpy as np
import torch
from numba import cfunc, njit, types
from numba.extending import intrinsic, overload
from numba.np.numpy_support import carray
from numpy.typing import NDArray
from torch import Tensor

from celib.kernels.family import Options
from celib.kernels.with_aten import PROCESS, blocks

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


def _single(row, buffer):
    """The row in float32: itself, or from the bits of bfloat16, the upper half of float32."""


@overload(_single)
def _(row, buffer):
    def itself(row, buffer):
        return row

    def converted(row, buffer):
        for k in range(row.size):
            buffer[k] = np.int32(np.int32(row[k]) << np.int32(16)).view(np.float32)
        return buffer

    return itself if row.dtype == types.float32 else converted


def _like(row, x):
    """The float32 x as a row holds it."""


@overload(_like)
def _(row, x):
    def itself(row, x):
        return x

    def rounded(row, x):  # to the nearest, of two to the even one; the bits of a NaN might run over
        bits = np.float32(x).view(np.int32)
        even = np.int32((bits >> np.int32(16)) & np.int32(1))
        nearest = np.int32(np.int32(bits + np.int32(0x7FFF)) + even) >> np.int32(16)
        return np.int16(nearest if x == x else np.int32(0x7FC0))

    return itself if row.dtype == types.float32 else rounded


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
        out[k] = _like(out, factor * _exp(x[k] - m))


@njit(nogil=True, error_model="numpy", cache=True)
def _scale_in_place(x, m, factor):
    # A loop of its own: LLVM does not vectorise one whose two arrays might overlap otherwise.
    for k in range(x.size):
        x[k] = factor * _exp(x[k] - m)


@njit(nogil=True, error_model="numpy", cache=True)
def _others(x, c):
    """The largest logit of all classes but c, and the sum of the exponentials relative to it."""
    bits = x.view(np.int32)
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
def _forward(x, y, w, ignored, z_loss, loss, lse, correct, numbers, start, first, last):
    """Rows from first up to last, without it; x begins with row start."""
    buffer = np.empty(x.shape[1], np.float32)
    for i in range(first, last):
        c = y[i]
        loss[i] = lse[i] = 0.0
        correct[i] = False
        numbers[:, i] = 0.0
        if c == ignored:
            continue
        if not 0 <= c < buffer.size:
            loss[i] = lse[i] = numbers[0, i] = math.nan
            continue
        # The rest is in float64, once a row. What is 1 without it is written so: inf - inf is not.
        row = _single(x[i - start], buffer)
        m, s = _others(row, c)
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
    buffer = np.empty(x.shape[1], np.float32)
    for i in range(first, last):
        to = out[i - start]
        c = y[i]
        if c == ignored:
            to[:] = _like(to, np.float32(0.0))
            continue
        m, total, rest, share = numbers[0, i], numbers[1, i], numbers[2, i], numbers[4, i]
        if math.isnan(m):
            to[:] = _like(to, m)
            continue
        row = _single(x[i - start], buffer)
        of_y = g_loss[i] * share
        of_p = of_y + g_lse[i]
        if z_loss > 0.0:
            of_p += g_loss[i] * 2.0 * z_loss * (m + math.log(total))
        z_y = row[c]
        p_y = (1.0 if z_y == m else math.exp(z_y - m)) / total
        factor = np.float32(of_p / total)
        if m == math.inf:
            for k in range(row.size):
                to[k] = _like(to, factor if row[k] == m else np.float32(0.0))
        elif in_place:
            _scale_in_place(row, m, factor)
        else:
            _scaled(row, m, factor, to)
        # p - 1, from 1 - p.
        dz = 0.0 if z_y == -math.inf else (of_p - of_y) * p_y - of_y * rest
        to[c] = _like(to, np.float32(dz))


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
    options = o.ignore_index, float(o.z_loss)
    for i, z in _blocks(x):
        _by_rows(_forward, n, i, *_arrays(z), y, factors, *options, *results)
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
    options = o.ignore_index, float(o.z_loss)
    for i, z in _blocks(x):
        # A block that was made here takes its own gradient.
        made = z is not x
        to = z if made else out[i]
        in_place = to.data_ptr() == z.data_ptr() and z.dtype == torch.float32
        _by_rows(_backward, len(x), i, *_arrays(z, to), in_place, y, *options, *vectors)
        if made:
            out[i] = z


def _blocks(x: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Rows side by side: all at once, or copies in float32 of a block at a time."""
    if x.dtype in (torch.float32, torch.bfloat16) and x.is_contiguous():
        yield slice(0, len(x)), x
    else:
        parts = blocks(x)
        block = torch.empty(x[parts[0]].shape, dtype=torch.float32)
        for i in parts:
            yield i, block[: i.stop - i.start].copy_(x[i])


def _arrays(*tensors: Tensor) -> Iterator[NDArray[Any]]:
    # NumPy has no bfloat16: its bits.
    return (
        (a.view(torch.int16) if a.dtype == torch.bfloat16 else a).contiguous().numpy()
        for a in tensors
    )


def _by_rows(
    kernel: Callable[..., None], n: int, rows: slice, x: NDArray[Any], *others: Any
) -> None:
    """The kernel, on as many threads as torch would use; a small input is not worth a thread."""
    start, stop = rows.start, rows.stop
    workers = min(torch.get_num_threads(), 1 + x.size // 2**16)

    def part(k: int) -> None:
        kernel(x, *others, start, *_part_of(k, workers, start, stop))

    if workers == 1:
        part(0)
    elif os.getpid() == PROCESS and (openmp := _openmp()) is not None:
        # After an operation the threads of torch wait for the next one with their cores held:
        # beside them, threads of our own would get half of a core.
        dtype: Any = x.dtype.type
        body = (_forward_part if kernel is _forward else _backward_part)(dtype)
        numbers = [workers, start, stop, n, x.shape[1], *map(_bits, (x, *others))]
        data = (ctypes.c_int64 * len(numbers))(*numbers)
        # Always all of them: for another number it would end threads and begin new ones.
        openmp.GOMP_parallel(body.address, data, torch.get_num_threads(), 0)
    else:
        _in_threads_of_python(part, workers)


@njit(nogil=True, cache=True)
def _part_of(k, workers, start, stop):
    """The first and the last row of part k, without the last, of parts of the same size."""
    step = -(-(stop - start) // workers)
    first = start + k * step
    return first, min(stop, first + step)


def _bits(a: NDArray[Any] | float) -> int:
    """An argument of a kernel as 64 bits: of an array the address, 0 if it is empty."""
    if isinstance(a, np.ndarray):
        return a.ctypes.data if a.size else 0
    return int(np.float64(a).view(np.int64)) if isinstance(a, float) else int(a)


@cache
def _openmp() -> ctypes.CDLL | None:
    """The OpenMP that torch runs on, where it has the entry point of GNU's: on Linux."""
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        for name in ("omp_get_thread_num", "omp_get_num_threads"):
            address = ctypes.cast(getattr(library, name), ctypes.c_void_p).value
            llvmlite.binding.add_symbol(f"celib_{name}", address)
        pointer = ctypes.c_void_p
        library.GOMP_parallel.argtypes = [pointer, pointer, ctypes.c_uint, ctypes.c_uint]
        library.GOMP_parallel.restype = None
    except (OSError, AttributeError):
        return None
    return library


_thread = types.ExternalFunction("celib_omp_get_thread_num", types.int32())
_threads = types.ExternalFunction("celib_omp_get_num_threads", types.int32())
_PART = types.void(types.CPointer(types.int64))


@intrinsic
def _at(_context, address, dtype):
    """The address of numbers of that dtype, as a pointer to them."""
    pointer = types.CPointer(dtype.dtype)

    def generate(context, builder, _signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(pointer))

    return pointer(address, dtype), generate


@cache
def _forward_part(dtype: Any) -> Any:
    """What each thread of OpenMP runs; the numbers are those of _by_rows."""

    @cfunc(_PART, cache=True)
    def body(data):
        a = carray(data, 14)
        workers, start, stop, n, count = a[0], a[1], a[2], a[3], a[4]
        x = carray(_at(a[5], dtype), (stop - start, count))
        y, w = carray(_at(a[6], np.int64), n), carray(_at(a[7], np.float32), count * (a[7] != 0))
        z_loss = np.int64(a[9]).view(np.float64)
        loss, lse = carray(_at(a[10], np.float32), n), carray(_at(a[11], np.float32), n)
        correct = carray(_at(a[12], np.bool_), n)
        numbers = carray(_at(a[13], np.float32), (6, n))
        for k in range(_thread(), workers, _threads()):
            first, last = _part_of(k, workers, start, stop)
            _forward(x, y, w, a[8], z_loss, loss, lse, correct, numbers, start, first, last)

    return body


@cache
def _backward_part(dtype: Any) -> Any:
    @cfunc(_PART, cache=True)
    def body(data):
        a = carray(data, 14)
        workers, start, stop, n, count = a[0], a[1], a[2], a[3], a[4]
        x = carray(_at(a[5], dtype), (stop - start, count))
        out = carray(_at(a[6], dtype), (stop - start, count))
        in_place, y = a[7] != 0, carray(_at(a[8], np.int64), n)
        z_loss = np.int64(a[10]).view(np.float64)
        numbers = carray(_at(a[11], np.float32), (6, n))
        g_loss, g_lse = carray(_at(a[12], np.float32), n), carray(_at(a[13], np.float32), n)
        for k in range(_thread(), workers, _threads()):
            first, last = _part_of(k, workers, start, stop)
            _backward(
                x, out, in_place, y, a[9], z_loss, numbers, g_loss, g_lse, start, first, last
            )  # fmt: skip

    return body


def _in_threads_of_python(part: Callable[[int], None], workers: int) -> None:
    others: list[Future[None]] = []
    for k in range(1, workers):
        try:
            others.append(_pool(os.getpid(), workers).submit(part, k))
        except RuntimeError:  # the interpreter is ending: its threads take no more work
            part(k)
    part(0)
    for other in others:
        other.result()


@cache
def _pool(process: int, workers: int) -> ThreadPoolExecutor:
    # A process that was forked has the pool, but not its threads: each process makes its own.
    return ThreadPoolExecutor(workers, thread_name_prefix="celib")
