"""Memory on a CPU: rows in blocks that stay in the caches, and large arrays on large pages."""

from __future__ import annotations

import mmap
import weakref

import numpy as np
import torch
from torch import Tensor

# Per thread: a smaller block pays more for calls, a larger one leaves the cache of the core.
BLOCK_BYTES = 2**21
# From here on the allocator asks the system for fresh pages at every call.
LARGE_BYTES = 2**21
# From here on no cache is expected to keep a gradient for its reader: it is written past them.
STREAM = 2**25
_PAGES = hasattr(mmap, "MADV_HUGEPAGE") and hasattr(mmap, "MADV_FREE")  # Linux


def blocks(x: Tensor) -> list[slice]:
    """The rows of x, shape (N, C), in blocks that fit the caches; on other devices all at once."""
    n, classes = x.shape
    if x.device.type != "cpu":
        return [slice(0, n)]
    size = max(x.element_size(), 4)
    rows = max(1, BLOCK_BYTES * torch.get_num_threads() // (classes * size))
    return [slice(i, min(n, i + rows)) for i in range(0, max(n, 1), rows)]


def empty_like(x: Tensor) -> Tensor:
    """A contiguous array for the gradient of x.

    The first touch of a fresh page costs a CPU more than everything that a kernel computes for the
    numbers in it, because the system clears the page. So on Linux a large array is made of pages of
    2 MB, where the system offers them, and the memory of the last one that is no longer used is
    kept for the next. It is marked as free (``MADV_FREE``): when memory runs short, the system
    takes its pages back before it takes anything else.
    """
    size = x.numel() * x.element_size()
    if size < LARGE_BYTES or x.device.type != "cpu" or not _PAGES:
        return torch.empty_like(x, memory_format=torch.contiguous_format)
    pages = _taken(size)
    array = np.frombuffer(pages, np.uint8, size)
    # torch holds the array as long as the memory is used.
    weakref.finalize(array, _given_back, pages).atexit = False
    return torch.from_numpy(array).view(x.dtype).view(x.shape)


kept: list[mmap.mmap] = []  # the memory of the last gradient: at most one


def _taken(size: int) -> mmap.mmap:
    try:
        pages = kept.pop()
    except IndexError:
        pages = None
    if pages is None or not size <= len(pages) <= size + size // 4:
        pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        pages.madvise(mmap.MADV_HUGEPAGE)
    return pages


def _given_back(pages: mmap.mmap) -> None:
    pages.madvise(mmap.MADV_FREE)
    kept[:] = [pages]
