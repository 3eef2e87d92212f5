"""Binned calibration error, what calibrated forecasts would give, and reliability curves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from celib.scoring import (
    array,
    assign,
    bin_edges,
    labels,
    probabilities,
    refuse,
    weights,
)
from celib.stable import softmax

Floats = NDArray[Any]

EDGE_RULE = "(a, b], 0 in the first"
KINDS = ("binary", "confidence", "classwise")

# What _table sums in each bin, for misses and hits apart.
_SUMS = 6
COUNT, W, WP, W2, W2P, W2P2 = range(_SUMS)

# The loop over many predictions is compiled where this is possible.
_NUMBA = find_spec("numba") is not None
# A block of this many predictions stays in the cache, and the memory beside the input small.
_BLOCK = 2**16
# Up to this many probabilities the null is drawn label by label; beyond, bin by bin.
_DRAWN = 2**15
# A bin of up to this many predictions is always drawn label by label.
_SMALL = 200


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class CalibrationError:
    """A calibration error together with what it takes to read it.

    Attributes:
        value: the error; ``float`` of the result is this.
        null_mean, null_q95: mean and 95 % point of the error of forecasts that are calibrated, with
            these forecasts and labels drawn from them. A value below ``null_q95`` is no evidence of
            miscalibration. NaN with ``resamples=0``.
        ci: interval, nominally of 95 %, of the error of the population with these bins: the basic
            bootstrap, which takes off the bias that it sees, but from 0 where the null cannot be
            rejected, and never ending below ``value``. In simulations of 200 and 2000 predictions
            in 10 bins it covered in 0.87 to 0.99 of the cases.
        debiased_square: the square of the "l2" error without its bias (equation ``eq-debiased``),
            whatever the norm: the mean product of the residuals of two predictions in one bin.
            Unbiased for bins fixed in advance, given that each has at least two predictions or
            none; a bin of one adds 0. It may be negative.
        bins: the table.
        n_bins_effective: how many bins (of all classes) have a prediction in them.
        kind, norm, edge_rule: the convention.
    """

    value: float
    null_mean: float
    null_q95: float
    ci: tuple[float, float]
    debiased_square: float
    bins: Bins
    n_bins_effective: int
    kind: str
    norm: str
    edge_rule: str = EDGE_RULE

    def __float__(self) -> float:
        return self.value


def calibration_error(
    y_true: ArrayLike,
    y_prob: ArrayLike | None = None,
    *,
    logits: ArrayLike | None = None,
    kind: str | None = None,
    norm: int | float | str = "l1",
    bins: int | ArrayLike = 15,
    strategy: str = "uniform",
    sample_weight: ArrayLike | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> CalibrationError:
    r"""Binned calibration error, with its null and its uncertainty (equation ``eq-ece``).

    :math:`\mathrm{ECE} = \sum_b \frac{N_b}{N} \lvert \bar y_b - \bar p_b \rvert` for the norm
    "l1"; the root of the mean square for "l2"; the greatest gap for "max".

    Args:
        y_true: classes, integers of shape (N).
        y_prob: probabilities of class 1, shape (N), or of all classes, shape (N, C).
        logits: in place of ``y_prob``: log-odds of shape (N), or logits of shape (N, C).
        kind: "binary": the probability of class 1 of two. "confidence": the greatest
            probability, against whether its class (the first of equal ones) is right.
            "classwise": each class against the rest; the classes count alike. None is "binary" for
            shape (N), and refused for (N, C).
        norm: "l1" or 1, "l2" or 2, "max" or ``inf``.
        bins: how many, or their edges from 0 to 1.
        strategy: "uniform" for equal widths, "quantile" for equal counts. Quantiles that coincide
            are one edge.
        sample_weight: shape (N), at least 0.
        resamples: how often to draw for the null, and for the interval; 0 for neither.
        seed: of these draws.

    Returns:
        A :class:`CalibrationError`.

        The null is drawn label by label for up to 2^15 probabilities. Beyond, the number of hits
        of a bin is drawn from the binomial (with weights: the normal) distribution of its mean and
        variance, with the classes of "classwise" independent of each other. The bootstrap redraws
        the counts of the bins and, given them, gaps that are normal.

    Raises:
        ValueError: an argument is empty, of a wrong shape, NaN or out of its range, a row does not
            sum to 1, both or none of ``y_prob`` and ``logits`` are given, or ``kind`` is needed.

    Source: Naeini, Cooper and Hauskrecht (2015), doi:10.1609/aaai.v29i1.9602; Guo et al. (2017),
        arXiv:1706.04599; Bröcker and Smith (2007), doi:10.1175/WAF993.1, for the null; Kumar, Liang
        and Ma (2019), arXiv:1909.10155, for the debiased square.

    Example: one bin holds both predictions, and its mean is right; 1 in a bin of its own gives 1.
        >>> calibration_error([1, 0], [0.0, 1.0], bins=1).value
        0.0
        >>> p = np.random.default_rng(0).beta(5, 1, 100)
        >>> honest = calibration_error(np.random.default_rng(1).random(100) < p, p)
        >>> bool(honest.value < honest.null_q95)
        True
    """
    power = _power(norm)
    if resamples < 0:
        raise ValueError(f"resamples = {resamples}, expected at least 0")
    kind, y, p = sample(y_true, y_prob, logits, kind)
    w = weights(sample_weight, y.size)
    columns = list(_columns(kind, y, p))
    edges = [bin_edges(q, bins, strategy, w) for q, _ in columns]
    tables = [_table(q, hit, w, e) for (q, hit), e in zip(columns, edges, strict=True)]
    cells = np.concatenate(tables)

    count = cells[:, :, COUNT].sum(1)
    mass = cells[:, :, W].sum(1)
    used = count > 0
    share = mass[used] / mass.sum()
    predicted, hits = cells[used, :, WP].sum(1), cells[used, 1, W]
    gap = (hits - predicted) / np.where(mass[used] > 0, mass[used], 1.0)
    value = float(_norm(gap, share, power))

    null_mean = null_q95 = np.nan
    ci = (np.nan, np.nan)
    if resamples:
        rng = np.random.default_rng(seed)
        if p.size <= _DRAWN:
            drawn = _drawn(rng, kind, p, columns, edges, w, resamples)[:, used]
        else:
            drawn = _matched(rng, columns, edges, w, cells, resamples)[:, used]
        null_gap = (drawn - predicted) / np.where(mass[used] > 0, mass[used], 1.0)
        null = _norm(null_gap, share, power)
        null_mean, null_q95 = float(null.mean()), float(np.quantile(null, 0.95))
        again = _bootstrap(rng, cells[used], gap, power, resamples)
        low, high = np.quantile(again, [0.025, 0.975])
        # Near 0 an absolute value has no normal distribution, and the bootstrap misses 0 too often:
        # there the null decides.
        honest = value <= np.quantile(null, 0.975)
        ci = (
            0.0 if honest else float(max(2 * value - high, 0.0)),
            float(min(max(2 * value - low, value), 1.0)),
        )

    return CalibrationError(
        value,
        null_mean,
        null_q95,
        ci,
        _debiased_square(cells[used], gap, share),
        _described(tables, edges, kind),
        int(used.sum()),
        kind,
        {1: "l1", 2: "l2", np.inf: "max"}[power],
    )


@dataclass(frozen=True)
class ReliabilityCurve:
    """Points of a reliability diagram: arrays of one length, in increasing order of ``mean_prob``.

    Attributes:
        mean_prob: the forecast.
        frequency: how often the event came with it.
        lower, upper: where 95 % of the frequencies of calibrated forecasts are, point by point.
        count: how many predictions the point stands for.
    """

    mean_prob: Floats
    frequency: Floats
    lower: Floats
    upper: Floats
    count: NDArray[np.int64]


def reliability_curve(
    y_true: ArrayLike,
    y_prob: ArrayLike | None = None,
    *,
    logits: ArrayLike | None = None,
    kind: str | None = None,
    method: str = "binned",
    bins: int | ArrayLike = 15,
    strategy: str = "uniform",
    resamples: int = 200,
    seed: int = 0,
) -> ReliabilityCurve:
    r"""Observed frequency against forecast, with the band of calibrated forecasts.

    Args:
        y_true, y_prob, logits, kind, bins, strategy, seed: as for :func:`calibration_error`;
            ``kind`` is "binary" or "confidence".
        method: "binned": the mean forecast and the frequency of each bin that is not empty.
            "isotonic": the isotonic regression of the outcomes on the forecasts, at each of their
            values, as in CORP; it needs no bins (and scikit-learn).
        resamples: how often labels are drawn from the forecasts for the band; 0 for none (NaN).

    Returns:
        A :class:`ReliabilityCurve`.

    Raises:
        ValueError: as for :func:`calibration_error`.

    Source: Bröcker and Smith (2007), doi:10.1175/WAF993.1; Dimitriadis, Gneiting and Jordan
        (2021), doi:10.1073/pnas.2016191118.

    Example: the empty bins are not points of the curve.
        >>> curve = reliability_curve([0, 1, 1, 1], [0.1, 0.1, 0.9, 0.9], bins=10)
        >>> curve.mean_prob.tolist(), curve.frequency.tolist(), curve.count.tolist()
        ([0.1, 0.9], [0.5, 1.0], [2, 2])
    """
    if method not in ("binned", "isotonic"):
        raise ValueError(f"method = {method!r}, expected 'binned' or 'isotonic'")
    if resamples < 0:
        raise ValueError(f"resamples = {resamples}, expected at least 0")
    p, hit = events(y_true, y_prob, logits, kind)
    if method == "binned":
        _, which = np.unique(assign(p, bin_edges(p, bins, strategy)), return_inverse=True)
    else:
        _, which = np.unique(p, return_inverse=True)
    count = np.bincount(which)
    mean = np.bincount(which, p) / count

    def frequencies(outcome: Floats) -> Floats:
        rate = np.bincount(which, outcome) / count
        if method == "binned":
            return rate
        from sklearn.isotonic import isotonic_regression

        fitted: Floats = isotonic_regression(rate, sample_weight=count, y_min=0.0, y_max=1.0)
        return fitted

    band = np.full((2, count.size), np.nan)
    if resamples:
        rng = np.random.default_rng(seed)
        again = [frequencies(rng.random(p.size) < p) for _ in range(resamples)]
        band = np.quantile(again, [0.025, 0.975], axis=0)
    return ReliabilityCurve(mean, frequencies(hit), band[0], band[1], count)


def sample(
    y_true: ArrayLike, y_prob: ArrayLike | None, logits: ArrayLike | None, kind: str | None
) -> tuple[str, NDArray[Any], Floats]:
    """The kind, the labels and the probabilities that the arguments stand for."""
    if kind not in (None, *KINDS):
        raise ValueError(f"kind = {kind!r}, expected one of {', '.join(map(repr, KINDS))}")
    if (y_prob is None) == (logits is None):
        raise ValueError("expected one of y_prob and logits")
    if y_prob is not None:
        p = probabilities("y_prob", y_prob)
    else:
        z = array("logits", logits)  # type: ignore[arg-type]
        if z.ndim not in (1, 2) or (z.ndim == 2 and z.shape[1] < 2):
            raise ValueError(f"logits has shape {z.shape}, expected (N) or (N, C)")
        z = z.astype(np.float64, copy=False)
        p = expit(z) if z.ndim == 1 else softmax(z)
        if np.isnan(p).any():
            refuse("logits", z, np.isnan(p), "logits with a softmax: no NaN, no two of inf")
    y = labels("y_true", y_true, p.shape, 2 if p.ndim == 1 else p.shape[1])
    if p.ndim == 1:
        if kind == "classwise":
            p = np.stack([1.0 - p, p], axis=1)
        return kind or "binary", y, p
    if kind is None:
        raise ValueError(
            f"kind = None for shape {p.shape}, expected 'confidence' or 'classwise'"
            + (" or 'binary'" if p.shape[1] == 2 else "")
        )
    if kind == "binary":
        if p.shape[1] != 2:
            raise ValueError(f"kind = 'binary' for shape {p.shape}, expected two classes")
        p = p[:, 1]
    return kind, y, p


def events(
    y_true: ArrayLike, y_prob: ArrayLike | None, logits: ArrayLike | None, kind: str | None
) -> tuple[Floats, NDArray[np.bool_]]:
    """One probability a row, and whether its event happened."""
    kind, y, p = sample(y_true, y_prob, logits, kind)
    if kind == "classwise":
        raise ValueError("kind = 'classwise', expected 'binary' or 'confidence'")
    return next(_columns(kind, y, p))


def _columns(kind: str, y: NDArray[Any], p: Floats) -> Iterator[tuple[Floats, NDArray[np.bool_]]]:
    if kind == "binary":
        yield p, y == 1
    elif kind == "confidence" and p.ndim == 1:
        yield np.maximum(p, 1.0 - p), (p > 0.5) == (y == 1)
    elif kind == "confidence":
        yield p.max(1), p.argmax(1) == y
    else:
        for k in range(p.shape[1]):
            yield p[:, k], y == k


def _table(p: Floats, hit: NDArray[np.bool_], w: Floats | None, edges: Floats) -> Floats:
    """Sums by bin and outcome, in one pass: 1, w, w p, w^2, w^2 p, w^2 p^2."""
    cells = 2 * (edges.size - 1)
    sums = np.zeros((_SUMS, cells))
    large = p.size >= _BLOCK and p.dtype.itemsize >= 4 and w is None
    if large and _NUMBA and np.array_equal(edges, bin_edges(p, edges.size - 1, "uniform")):
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


def _power(norm: int | float | str) -> float:
    known: dict[object, float] = {"l1": 1, "l2": 2, "max": np.inf, 1: 1, 2: 2, np.inf: np.inf}
    if norm not in known:
        raise ValueError(f"norm = {norm!r}, expected 'l1', 'l2' or 'max'")
    return known[norm]


def _norm(gap: Floats, share: Floats, power: float) -> Any:
    gap = np.abs(gap)
    if power == np.inf:
        return np.where(share > 0, gap, 0.0).max(-1)
    return (share * gap**power).sum(-1) ** (1.0 / power)


def _drawn(
    rng: np.random.Generator,
    kind: str,
    p: Floats,
    columns: list[tuple[Floats, NDArray[np.bool_]]],
    edges: list[Floats],
    w: Floats | None,
    resamples: int,
) -> Floats:
    """Weights of the hits in each bin, for labels drawn from the forecasts."""
    sizes = [e.size - 1 for e in edges]
    first = np.concatenate([[0], np.cumsum(sizes)])
    cell = [assign(q, e) + k for (q, _), e, k in zip(columns, edges, first, strict=False)]
    if kind != "classwise":
        return _hits(rng, columns[0][0], cell[0], w, sizes[0], resamples)
    bounds = np.cumsum(p, axis=1, dtype=np.float64)[:, :-1]
    by_class = np.stack(cell, axis=1)
    rows = np.arange(p.shape[0])
    return np.stack(
        [
            np.bincount(
                by_class[rows, (bounds < rng.random((p.shape[0], 1))).sum(1)], w, int(first[-1])
            )
            for _ in range(resamples)
        ]
    )


def _hits(
    rng: np.random.Generator, p: Floats, cell: Any, w: Floats | None, size: int, resamples: int
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


def _matched(
    rng: np.random.Generator,
    columns: list[tuple[Floats, NDArray[np.bool_]]],
    edges: list[Floats],
    w: Floats | None,
    cells: Floats,
    resamples: int,
) -> Floats:
    """The same for many predictions, from a distribution of the mean and variance of the sum."""
    total = cells.sum(1)
    n, mean = total[:, COUNT], total[:, WP]
    if w is None:
        # The number of successes or failures, whichever is rarer: sum(q)^2 / sum(q^2) trials have
        # the mean and the variance of the sum of unequal ones.
        flip = mean > n / 2
        rare = np.where(flip, n - mean, mean)
        squares = np.where(flip, n - 2 * mean + total[:, W2P2], total[:, W2P2])
        trials = np.maximum(np.rint(rare**2 / np.where(squares > 0, squares, 1.0)), 1.0)
        trials = np.maximum(trials, np.ceil(rare))
        count = rng.binomial(trials.astype(np.int64), rare / trials, (resamples, n.size))
        result = np.where(flip, n - count, count).astype(np.float64)
    else:
        spread = np.sqrt(np.maximum(total[:, W2P] - total[:, W2P2], 0.0))
        result = mean + spread * rng.standard_normal((resamples, n.size))
    first = 0
    for (p, _), edge in zip(columns, edges, strict=True):
        size = edge.size - 1
        small = (n[first : first + size] > 0) & (n[first : first + size] <= _SMALL)
        if small.any():
            # Neighbouring small bins are one interval; the first bin holds 0 too.
            step = np.diff(small.astype(int), prepend=0, append=0)
            spans = zip(np.flatnonzero(step == 1), np.flatnonzero(step == -1), strict=True)
            inside = np.zeros(p.size, dtype=bool)
            for a, b in spans:
                inside |= (p > (edge[a] if a else -1)) & (p <= edge[b])
            q = p[inside]
            v = None if w is None else w[inside]
            exact = _hits(rng, q, assign(q, edge), v, size, resamples)
            result[:, first : first + size][:, small] = exact[:, small]
        first += size
    return result


def _squares(cells: Floats) -> Floats:
    """Sums of w^2 r^2 for the residual r = y - p."""
    hit = cells[:, 1]
    result: Floats = hit[:, W2] - 2 * hit[:, W2P] + cells[:, :, W2P2].sum(1)
    return result


def _debiased_square(cells: Floats, gap: Floats, share: Floats) -> float:
    """Mean over the pairs in a bin of the products of their residuals.

    For equal forecasts it is what Kumar et al. publish, the squared gap less the variance of the
    mean label. For unequal ones the variance of the labels is not that of the gap.
    """
    mass = cells[:, :, W].sum(1)
    pairs = mass**2 - cells[:, :, W2].sum(1)
    products = (gap * mass) ** 2 - _squares(cells)
    return float(share @ np.divide(products, pairs, out=np.zeros_like(pairs), where=pairs > 0))


def _bootstrap(
    rng: np.random.Generator,
    cells: Floats,
    gap: Floats,
    power: float,
    resamples: int,
) -> Floats:
    """Errors of resampled predictions: counts of the bins, and gaps with their variance."""
    total = cells.sum(1)
    n, mass = total[:, COUNT], total[:, W]
    hit = cells[:, 1]
    # Sum of w^2 r for the residual r = y - p.
    first = hit[:, W2] - total[:, W2P]
    variance = _squares(cells) - 2 * gap * first + gap**2 * total[:, W2]
    variance = np.maximum(variance, 0.0)
    count = rng.multinomial(int(n.sum()), n / n.sum(), resamples)
    spread = np.sqrt(variance) / np.where(mass > 0, mass, 1.0)
    noise = rng.standard_normal(count.shape) * spread * np.sqrt(n / np.maximum(count, 1.0))
    share = count * mass / n
    share /= share.sum(-1, keepdims=True)
    return np.asarray(_norm(gap + noise, share, power))


def _described(tables: list[Floats], edges: list[Floats], kind: str) -> Bins:
    width = max(len(table) for table in tables)

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
