"""Sums by bin and outcome in one pass over memory, for equal bins; where numba is installed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

# Sums of so many terms are added up before they are added to the total: the error stays small.
_BLOCK = 2**16


@njit(nogil=True, cache=True)
def sums(p: NDArray[Any], hit: NDArray[np.bool_], edges: NDArray[np.float64]) -> Any:
    """Number, sum of p and sum of p^2 by bin (a, b], 0 in the first, and outcome: (3, bins, 2).

    ``edges`` are k / bins, rounded. The loop has no branch, which a processor would have to guess.
    """
    bins = edges.size - 1
    above = edges.copy()
    above[0] = -1.0
    total, part = np.zeros(bins * 8), np.zeros(bins * 8)
    for start in range(0, p.size, _BLOCK):
        part[:] = 0.0
        for i in range(start, min(p.size, start + _BLOCK)):
            q = np.float64(p[i])
            b = np.uint64(q * bins)  # right, or by one too large: at an edge, or rounded up to it
            b -= np.uint64(q <= above[b])
            cell = b * np.uint64(8) + np.uint64(hit[i]) * np.uint64(4)
            part[cell] += 1.0
            part[cell + np.uint64(1)] += q
            part[cell + np.uint64(2)] += q * q
        total += part
    return total.reshape(bins, 2, 4)[:, :, :3].transpose(2, 0, 1)
