"""What calibrated forecasts would give: labels drawn from the forecasts, and resampled bins."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from celib.arguments.errors import integer
from celib.calibration.bins import COUNT, W2, W2P, W2P2, WP, W, assign
from celib.calibration.inputs import Column, Floats, Sample

# Up to this many probabilities the null is drawn label by label; beyond, bin by bin.
DRAWN = 2**15
# In a bin of up to this many predictions the number of hits is always drawn from its own
# distribution, not from one of the same mean and variance.
SMALL = 200


def generator(seed: int) -> np.random.Generator:
    """The source of the draws, by the seed that a caller gave."""
    return np.random.default_rng(
        integer("seed", seed, lambda n: n >= 0, "a whole number from 0 on")
    )


def hits(
    rng: np.random.Generator,
    given: Sample,
    columns: list[Column],
    edges: list[Floats],
    cells: Floats,
    resamples: int,
) -> Floats:
    """Weights of the hits in each bin for labels drawn from the forecasts: (resamples, bins).

    ``columns`` and ``edges`` are those of ``given``, and ``cells`` its tables, one after the other.
    """
    if given.p.size <= DRAWN:
        return label_by_label(rng, given, columns, edges, resamples)
    return bin_by_bin(rng, columns, edges, given.w, cells, resamples)


def labels(rng: np.random.Generator, given: Sample, resamples: int) -> Iterator[NDArray[np.bool_]]:
    """Whether the events of each column happen, drawn from the forecasts: (N, columns)."""
    if given.kind != "classwise":
        [(p, _)] = given.columns()
        for _ in range(resamples):
            yield (rng.random(p.size) < p)[:, None]
        return
    for drawn in _classes(rng, given.p, resamples):
        yield drawn[:, None] == np.arange(given.p.shape[1])


def _classes(rng: np.random.Generator, p: Floats, resamples: int) -> Iterator[NDArray[np.int64]]:
    """Classes drawn from distributions of shape (N, C)."""
    bounds = np.cumsum(p, axis=1, dtype=np.float64)[:, :-1]
    for _ in range(resamples):
        yield (bounds < rng.random((p.shape[0], 1))).sum(1)


def label_by_label(
    rng: np.random.Generator,
    given: Sample,
    columns: list[Column],
    edges: list[Floats],
    resamples: int,
) -> Floats:
    """As ``hits``, for few predictions."""
    w = given.w
    sizes = [e.size - 1 for e in edges]
    first = np.concatenate([[0], np.cumsum(sizes)])
    cell = [assign(q, e) + k for (q, _), e, k in zip(columns, edges, first, strict=False)]
    if given.kind != "classwise":
        return _of_one_column(rng, columns[0][0], cell[0], w, sizes[0], resamples)
    by_class = np.stack(cell, axis=1)
    rows = np.arange(given.y.size)
    drawn = _classes(rng, given.p, resamples)
    return np.stack([np.bincount(by_class[rows, k], w, int(first[-1])) for k in drawn])


def _of_one_column(
    rng: np.random.Generator,
    p: Floats,
    cell: NDArray[np.int64],
    w: Floats | None,
    size: int,
    resamples: int,
) -> Floats:
    order = np.argsort(cell, kind="stable")
    cell, p = cell[order], p[order]
    used, start = np.unique(cell, return_index=True)
    result = np.zeros((resamples, size))
    step = max(1, 2**20 // p.size)
    for k in range(0, resamples, step):
        rows = min(step, resamples - k)
        hit = (rng.random((rows, p.size)) < p).astype(np.float64)
        if w is not None:
            hit *= w[order]
        result[k : k + rows, used] = np.add.reduceat(hit, start, axis=1)
    return result


def _of_few(
    rng: np.random.Generator, p: Floats, cell: NDArray[np.int64], size: int, resamples: int
) -> Floats:
    """The same without weights, for few predictions in each bin: from the chances of each number.

    These are the coefficients of a polynomial in z, the product of 1 - p + p z over the predictions
    of a bin, which is taken at the roots of unity (Hong 2013, doi:10.1016/j.csda.2012.10.006).
    """
    order = np.argsort(cell, kind="stable")
    cell = cell[order]
    start = np.flatnonzero(np.diff(cell, prepend=-1))
    count = np.diff(start, append=cell.size)
    # A column for each bin; below the last of its predictions are some that never hit.
    trials = np.zeros((count.max(), count.size))
    row = np.arange(cell.size) - np.repeat(start, count)
    trials[row, np.repeat(np.arange(count.size), count)] = p[order]
    length = len(trials) + 1
    roots = np.exp(-2j * np.pi / length * np.arange(length // 2 + 1))
    result = np.zeros((size, resamples))
    step = max(1, 2**20 // length**2)  # so many bins at once do not need much memory
    for k in range(0, count.size, step):
        here = trials[:, k : k + step]
        product = np.multiply.reduce(1.0 + here[..., None] * (roots - 1.0))
        chance = np.fft.irfft(product, length).clip(0.0)
        # How often each number is drawn, and then in which order: that of random numbers, of which
        # those drawn are the last bits.
        times = rng.multinomial(resamples, chance / chance.sum(1, keepdims=True))
        keys = rng.integers(2**40, size=(len(times), resamples)) << 23
        keys |= np.tile(np.arange(length), len(times)).repeat(times.ravel()).reshape(keys.shape)
        keys.sort()
        result[cell[start[k : k + step]]] = keys & (2**23 - 1)
    return result.T


def from_sums(rng: np.random.Generator, cells: Floats, resamples: int) -> Floats:
    """As ``hits``, from the sums of each bin alone: of many predictions, or of nearly equal ones.

    The number of hits is a sum of unequal trials. It is drawn from the binomial distribution of its
    mean and variance; with weights, from the normal one.
    """
    total = cells.sum(1)
    n, mean = total[:, COUNT], total[:, WP]
    if np.array_equal(n, total[:, W]) and np.array_equal(n, total[:, W2]):  # every weight is 1
        # The number of successes or failures, whichever is rarer: sum(q)^2 / sum(q^2) trials have
        # the mean and the variance of the sum of unequal ones.
        flip = mean > n / 2
        rare = np.where(flip, n - mean, mean)
        squares = np.where(flip, n - 2 * mean + total[:, W2P2], total[:, W2P2])
        trials = np.maximum(np.rint(rare**2 / np.where(squares > 0, squares, 1.0)), 1.0)
        trials = np.maximum(trials, np.ceil(rare))
        count = rng.binomial(trials.astype(np.int64), rare / trials, (resamples, n.size))
        return np.where(flip, n - count, count).astype(np.float64)
    spread = np.sqrt(np.maximum(total[:, W2P] - total[:, W2P2], 0.0))
    result: Floats = mean + spread * rng.standard_normal((resamples, n.size))
    return result


def group_edges(p: Floats, groups: int) -> Floats:
    """Edges of bins in which neighbouring forecasts are as good as equal, for an isotonic fit.

    The fit has long steps in the middle and short ones at the ends, where the groups are small.
    """
    share = np.sin(np.linspace(0.0, np.pi / 2, groups + 1)[1:-1]) ** 2
    inner = np.sort(p)[(share * p.size).astype(np.int64)]
    inner = np.unique(inner[(inner > 0) & (inner < 1)])
    return np.concatenate([[0.0], inner, [1.0]]).astype(p.dtype)


def bin_by_bin(
    rng: np.random.Generator,
    columns: list[Column],
    edges: list[Floats],
    w: Floats | None,
    cells: Floats,
    resamples: int,
) -> Floats:
    """As ``hits``, for many predictions: exact for small bins, and from sums for the others."""
    n = cells[:, :, COUNT].sum(1)
    few = (n > 0) & (n <= SMALL)
    result = np.zeros((n.size, resamples)).T  # columns are what is written and read
    if not few.all():
        result[:, ~few] = from_sums(rng, cells[~few], resamples)
    first = 0
    for (p, _), edge in zip(columns, edges, strict=True):
        size = edge.size - 1
        small = few[first : first + size]
        if small.any():
            # Neighbouring small bins are one interval; the first bin holds 0 too.
            step = np.diff(small.astype(int), prepend=0, append=0)
            spans = zip(np.flatnonzero(step == 1), np.flatnonzero(step == -1), strict=True)
            inside = np.zeros(p.size, dtype=bool)
            for a, b in spans:
                inside |= (p > (edge[a] if a else -1)) & (p <= edge[b])
            q = p[inside]
            v = None if w is None else w[inside]
            cell = assign(q, edge)
            if v is None:
                exact = _of_few(rng, q, cell, size, resamples)
            else:
                exact = _of_one_column(rng, q, cell, v, size, resamples)
            result[:, first : first + size][:, small] = exact[:, small]
        first += size
    return result


def squares(cells: Floats) -> Floats:
    """Sums of w^2 r^2 in each bin, for the residual r = y - p."""
    hit = cells[:, 1]
    result: Floats = hit[:, W2] - 2 * hit[:, W2P] + cells[:, :, W2P2].sum(1)
    return result


def bootstrap(
    rng: np.random.Generator, cells: Floats, gap: Floats, resamples: int
) -> tuple[Floats, Floats]:
    """Gaps and shares of the bins for resampled predictions, each of shape (resamples, bins).

    The counts of the bins are drawn, and given them gaps that are normal with their variance.
    """
    total = cells.sum(1)
    n, mass = total[:, COUNT], total[:, W]
    hit = cells[:, 1]
    # Sum of w^2 r for the residual r = y - p.
    first = hit[:, W2] - total[:, W2P]
    variance = squares(cells) - 2 * gap * first + gap**2 * total[:, W2]
    variance = np.maximum(variance, 0.0)
    count = rng.multinomial(int(n.sum()), n / n.sum(), resamples)
    spread = np.sqrt(variance) / np.where(mass > 0, mass, 1.0)
    noise = rng.standard_normal(count.shape) * spread * np.sqrt(n / np.maximum(count, 1.0))
    share = count * mass / n
    share /= share.sum(-1, keepdims=True)
    return gap + noise, share


def summary(drawn: Floats) -> tuple[float, float]:
    """Mean and 95 % point."""
    return float(drawn.mean()), float(np.quantile(drawn, 0.95))
