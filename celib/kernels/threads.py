"""Compiled loops on the threads that torch itself uses.

A loop is a native function of (frame, first, last): the address of its arguments, and the rows to
work on. Who starts the threads matters. After every operation the threads of torch's OpenMP,
libgomp, spin for a while in the hope of more work. A pool beside them would compete for the same
cores and get half of each. So the loops run on libgomp's own threads, through its entry point
``GOMP_parallel``, which is what a compiler makes of ``#pragma omp parallel``.

That is not possible in a child process: libgomp's threads do not survive a fork, and a team of
threads that no longer exist would wait for ever. Nor is it possible where torch is built with
another OpenMP. There a pool of Python's threads does the work; the loops run without the GIL.
"""

from __future__ import annotations

import ctypes
import os
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite.binding
import torch
from llvmlite import ir
from numba import cfunc, types
from numba.core.extending import intrinsic
from numba.np.numpy_support import carray

from celib.kernels import PROCESS

LOOP = types.void(types.int64, types.int64, types.int64)  # of frame, first, last
_Loop = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)


def run(loop: Any, frame: int, rows: int, size: int) -> None:
    """The loop over all rows, on as many threads as torch would use.

    Args:
        loop: compiled by ``numba.cfunc(LOOP)``.
        frame: the address of its arguments.
        rows: how many there are.
        size: of the numbers to work on; few of them are not worth a thread.
    """
    number = workers(size)
    if number == 1:
        once(loop, frame, rows)
    elif os.getpid() == PROCESS and (openmp := _openmp()) is not None:
        data = (ctypes.c_int64 * 4)(loop.address, frame, rows, number)
        # Always all threads: for another number libgomp would end threads and begin new ones.
        openmp.GOMP_parallel(_team().address, data, torch.get_num_threads(), 0)
    else:
        _in_threads_of_python(_function(loop.address), frame, rows, number)


def workers(size: int) -> int:
    """How many threads so many numbers are worth."""
    return min(torch.get_num_threads(), 1 + size // 2**16)


def once(loop: Any, frame: int, rows: int) -> None:
    """The loop over all rows, in this thread."""
    _function(loop.address)(frame, 0, rows)


@cache
def _function(address: int) -> Any:
    """The loop as ctypes calls it: without the GIL."""
    return _Loop(address)


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


@intrinsic
def _call(_context, address, frame, first, last):
    """Call the function of (frame, first, last) at that address."""

    def generate(context, builder, _signature, arguments):
        number = ir.IntType(64)
        function = ir.FunctionType(ir.VoidType(), [number] * 3)
        builder.call(builder.inttoptr(arguments[0], function.as_pointer()), arguments[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


@cache
def _team() -> Any:
    """What every thread of the team runs. OpenMP may give fewer threads than were asked for."""

    @cfunc(types.void(types.CPointer(types.int64)), cache=True)
    def body(data):
        a = carray(data, 4)
        loop, frame, rows, workers = a[0], a[1], a[2], a[3]
        step = -(-rows // workers)
        for k in range(_thread(), workers, _threads()):
            _call(loop, frame, k * step, min(rows, k * step + step))

    return body


def _in_threads_of_python(function: Any, frame: int, rows: int, workers: int) -> None:
    step = -(-rows // workers)
    parts = [(k * step, min(rows, k * step + step)) for k in range(workers)]
    others: list[Future[None]] = []
    for part in parts[1:]:
        try:
            others.append(_pool(os.getpid(), workers).submit(function, frame, *part))
        except RuntimeError:  # the interpreter is ending: its threads take no more work
            function(frame, *part)
    function(frame, *parts[0])
    for other in others:
        other.result()


@cache
def _pool(process: int, workers: int) -> ThreadPoolExecutor:
    # A process that was forked has the pool, but not its threads: each process makes its own.
    return ThreadPoolExecutor(workers, thread_name_prefix="celib")
