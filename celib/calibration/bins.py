"""Bins of probabilities: their edges, who is in which, and the sums in each."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
from numpy.typing import ArrayLike, NDArray

from celib.arguments.errors import integer, one_of, refuse, refuse_shape
from celib.arguments.samples import check, numbers
from celib.calibration.inputs import Floats

EDGE_RULE = "(a, b], 0 in the first"

# What a table sums in each bin, for misses and hits apart.
_SUMS = 6
COUNT, W, WP, W2, W2P, W2P2 = range(_SUMS)

# The loop over many predictions is compiled where this is possible.
_NUMBA = find_spec("numba") is not None
# A block of this many predictions stays in the cache, and the memory beside the input small.
_BLOCK = 2**16


@dataclass(frozen=True, eq=False)
class Bins:
    """The table behind a calibration error: arrays over the bins, or over classes and bins.

    ``mean_prob`` and ``frequency`` are NaN where the bin is empty.
    """

    lower: Floats
    upper: Floats
    count: NDArray[np.int64]
    weight: Floats
    mean_prob: Floats
    frequency: Floats


def bin_edges(p: Floats, bins: int | ArrayLike, strategy: str, weight: Floats | None) -> Floats:
    """Edges from 0 to 1, in the dtype of p: a float32 of 0.3 is the edge 0.3, not above it."""
    one_of("strategy", strategy, ("uniform", "quantile"))
    if np.ndim(bins) > 0:
        return _given(bins, p.dtype)
    count = integer(
        "bins", bins, lambda n: n >= 1, "a whole number from 1 on, or edges from 0 to 1"
    )
    # k / bins is rounded once; linspace multiplies a rounded step, and 3 * 0.1 is not 0.3.
    fractions = np.arange(count + 1) / float(count)
    if strategy == "uniform":
        return fractions.astype(p.dtype)
    inner = fractions[1:-1]
    if weight is None:
        ranks = np.ceil(np.arange(1, count) * p.size / count).astype(np.int64) - 1
        cuts = np.partition(p, ranks)[ranks]
    else:
        order = np.argsort(p)
        total = np.cumsum(weight[order])
        # A product that is rounded up may pass the sum that it is equal to.
        reached = np.searchsorted(total, inner * total[-1] * (1.0 - 1e-12))
        cuts = p[order][reached]
    cuts = np.unique(cuts[(cuts > 0) & (cuts < 1)])
    return np.concatenate([[0], cuts, [1]]).astype(p.dtype)


def _given(bins: ArrayLike, dtype: np.dtype) -> Floats:
    edges = numbers("bins", bins).astype(dtype)
    if edges.ndim != 1 or edges.size < 2:
        refuse_shape("bins", edges.shape, "at least the edges 0 and 1")
    for index, end in ((0, 0), (edges.size - 1, 1)):
        if edges[index] != end:
            refuse("bins", (index,), edges[index], f"{end}: edges begin with 0 and end with 1")
    # Not above the one before it; NaN is not either.
    check("bins", edges, ~(np.diff(edges, prepend=-1) > 0), "edges that increase")
    return edges


def assign(p: Floats, edges: Floats) -> NDArray[np.int64]:
    """Index of the bin (a, b] of each p; 0 is in the first."""
    inner = edges[1:-1]
    if inner.size > 64:
        result: NDArray[np.int64] = np.searchsorted(inner, p, side="left")
        return result
    # Few edges: as many comparisons of whole blocks are several times as fast as a search.
    which = np.zeros(p.shape, dtype=np.uint8)
    for edge in inner:
        which += p > edge
    return which.astype(np.int64)


def table(p: Floats, hit: NDArray[np.bool_], w: Floats | None, edges: Floats) -> Floats:
    """Sums by bin and outcome, in one pass: 1, w, w p, w^2, w^2 p, w^2 p^2.

    The shape is (bins, 2, 6), and tables of the same edges add up.
    """
    cells = 2 * (edges.size - 1)
    sums = np.zeros((_SUMS, cells))
    large = p.size >= _BLOCK and p.dtype.itemsize >= 4 and w is None
    if large and _NUMBA and np.array_equal(edges, bin_edges(p, edges.size - 1, "uniform", None)):
        from celib.calibration import counting

        number, of_p, of_squares = counting.sums(p, hit, edges.astype(np.float64))
        found = (number, number, of_p, number, of_p, of_squares)
        return np.stack(found).transpose(1, 2, 0)
    for start in range(0, p.size, _BLOCK):
        block = slice(start, start + _BLOCK)
        q = p[block]
        cell = 2 * assign(q, edges) + hit[block]
        q = q.astype(np.float64, copy=False)
        sums[COUNT] += np.bincount(cell, minlength=cells)
        if w is None:
            sums[WP] += np.bincount(cell, q, cells)
            sums[W2P2] += np.bincount(cell, q * q, cells)
        else:
            v = w[block]
            for row, factor in ((W, v), (WP, v * q), (W2, v * v), (W2P, v * v * q)):
                sums[row] += np.bincount(cell, factor, cells)
            sums[W2P2] += np.bincount(cell, (v * q) ** 2, cells)
    if w is None:
        sums[W] = sums[W2] = sums[COUNT]
        sums[W2P] = sums[WP]
    return np.moveaxis(sums.reshape(_SUMS, -1, 2), 0, -1)


def gaps(cells: Floats, hits: Floats) -> Floats:
    """Frequency minus mean forecast of each bin, if ``hits`` is the weight of the hits in it."""
    total = cells.sum(1)
    mass = total[:, W]
    result: Floats = (hits - total[:, WP]) / np.where(mass > 0, mass, 1.0)
    return result


def described(tables: list[Floats], edges: list[Floats], kind: str) -> Bins:
    """Tables as people read them."""
    width = max(len(one) for one in tables)

    def column(values: list[Floats], fill: float) -> Floats:
        rows = [np.pad(v, (0, width - v.size), constant_values=fill) for v in values]
        return np.stack(rows) if kind == "classwise" else rows[0]

    count = [t[:, :, COUNT].sum(1) for t in tables]
    mass = [t[:, :, W].sum(1) for t in tables]
    with np.errstate(invalid="ignore"):
        mean = [t[:, :, WP].sum(1) / m for t, m in zip(tables, mass, strict=True)]
        rate = [t[:, 1, W] / m for t, m in zip(tables, mass, strict=True)]
    return Bins(
        column([e[:-1].astype(np.float64) for e in edges], np.nan),
        column([e[1:].astype(np.float64) for e in edges], np.nan),
        column(count, 0).astype(np.int64),
        column(mass, 0.0),
        column(mean, np.nan),
        column(rate, np.nan),
    )
