"""Seconds and bytes of a run, and of its parts.

A step is a function that does its work between calls of ``mark``: the first before it begins, one
after each part. The same step is measured with a clock and with a meter of memory.
"""

from __future__ import annotations

import ctypes
import gc
import random
import sys
import time
from collections.abc import Callable, Hashable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from celib.kernels.memory import kept

Step = Callable[[Callable[[], None]], Any]


class Measured(NamedTuple):
    seconds: np.ndarray  # of each repeat: its parts, and last all of them together
    peaks: list[int | None]  # bytes beyond what was there when the part began


def measure(steps: dict[Hashable, Step], repeats: int, device: str) -> dict[Hashable, Measured]:
    """All steps, which take turns: what else happens on the machine happens to each of them.

    The order of a round is drawn anew, so that none always finds what the same other one left in
    the caches. Each step must have run before.
    """
    order, draw = list(steps), random.Random(0)
    peaks = {name: memory(step, device) for name, step in steps.items()}
    found: dict[Hashable, list[list[float]]] = {name: [] for name in steps}
    gc.collect()
    gc.freeze()  # so that looking for garbage, between the rounds, is quick
    gc.disable()
    try:
        for _ in range(1 + repeats):
            draw.shuffle(order)
            for name in order:
                found[name].append(seconds(steps[name], device))
            gc.collect()
    finally:
        gc.enable()
        gc.unfreeze()
    # The first round counts for nothing: in it the allocators take their memory from the system.
    return {name: Measured(np.array(found[name][1:]), peaks[name]) for name in steps}


def seconds(step: Step, device: str) -> list[float]:
    """On a GPU its own clock, starting with an L2 cache in which nothing of the input is left."""
    marks: list[Any] = []

    def mark() -> None:
        if device == "cpu":
            marks.append(time.perf_counter())
            return
        if not marks:
            _flush()
        marks.append(torch.cuda.Event(enable_timing=True))
        marks[-1].record()

    step(mark)
    if device == "cpu":
        parts = [b - a for a, b in pairwise(marks)]
    else:
        torch.cuda.synchronize()
        parts = [a.elapsed_time(b) / 1e3 for a, b in pairwise(marks)]
    return [*parts, sum(parts)]


def memory(step: Step, device: str) -> list[int | None]:
    """On a GPU what torch allocated; on a CPU the resident memory of the process, where Linux
    tells its peak, and elsewhere None."""
    readings: list[tuple[int, int]] = []
    _release(device)
    try:
        step(lambda: readings.append(_reading(device)))
    except OSError:
        step(lambda: readings.append((0, 0)))
        return [None] * len(readings)
    parts = [peak - before for (before, _), (_, peak) in pairwise(readings)]
    whole = max(peak for _, peak in readings[1:]) - readings[0][0]
    return [max(0, bytes_) for bytes_ in (*parts, whole)]


def _reading(device: str) -> tuple[int, int]:
    """The bytes in use, and the most since the last reading."""
    if device == "cuda":
        torch.cuda.synchronize()
        now = torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return now
    lines = Path("/proc/self/status").read_text().splitlines()
    status = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    return 1024 * int(status["VmRSS"][0]), 1024 * int(status["VmHWM"][0])


def _release(device: str) -> None:
    """Give back what is free but kept, so that its use again is seen."""
    gc.collect()
    kept.clear()
    if device == "cuda":
        torch.cuda.empty_cache()
    elif sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
        if trim is not None:
            trim(0)


def _flush() -> None:
    global _beyond_l2
    if _beyond_l2 is None:
        _beyond_l2 = torch.empty(2**28, dtype=torch.int8, device="cuda")
    _beyond_l2.zero_()


_beyond_l2: torch.Tensor | None = None


def bandwidth(device: str, size: int) -> float:
    """Bytes per second of a copy of ``size`` bytes: those read and those written."""
    source = torch.ones(size // 4, device=device)
    target = torch.ones_like(source)
    return 2 * size / _median(lambda: target.copy_(source), device)


def product(device: str, n: int) -> float:
    """Operations per second, 2 n^3 of them, of a matrix product: float32, on a GPU bfloat16."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    a, b = torch.randn(2, n, n, device=device, dtype=dtype)
    out = torch.empty_like(a)
    return 2 * n**3 / _median(lambda: torch.mm(a, b, out=out), device)


def _median(run: Callable[[], Any], device: str) -> float:
    def step(mark: Callable[[], None]) -> None:
        mark()
        run()
        mark()

    return float(np.median([seconds(step, device)[-1] for _ in range(12)][2:]))
