"""Reliability curves, and where the curves of calibrated forecasts are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from celib.arguments.errors import integer, one_of
from celib.arguments.samples import named_as_scikit_learn
from celib.calibration import null
from celib.calibration.bins import COUNT, WP, W, assign, bin_edges, table
from celib.calibration.inputs import Column, Floats, Sample, sample
from celib.calibration.isotonic import Levels

# The curves of an isotonic null are kept at no more points; between two of them a curve is between
# its frequencies there, since it increases.
_POINTS = 1024


@dataclass(frozen=True, eq=False)
class ReliabilityCurve:
    """Points of a reliability diagram: arrays of one length, in increasing order of ``mean_prob``.

    Attributes:
        mean_prob: the forecast.
        frequency: how often the event came with it.
        lower, upper: where 95 % of the frequencies of calibrated forecasts are, point by point: of
            20 points of calibrated forecasts one is expected outside.
        lower_all, upper_all: where 95 % of the whole curves of calibrated forecasts are: a curve
            that leaves this band anywhere is evidence of miscalibration.
        count: how many predictions the point stands for.
    """

    mean_prob: Floats
    frequency: Floats
    lower: Floats
    upper: Floats
    lower_all: Floats
    upper_all: Floats
    count: NDArray[np.int64]


@named_as_scikit_learn
def reliability_curve(
    y_true: ArrayLike,
    y_prob: ArrayLike | None = None,
    *,
    logits: ArrayLike | None = None,
    kind: str | None = None,
    method: str = "binned",
    bins: int | ArrayLike = 15,
    strategy: str = "uniform",
    sample_weight: ArrayLike | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> ReliabilityCurve:
    r"""Observed frequency against forecast, with two bands of calibrated forecasts.

    Use it to see where forecasts are off, and in which direction, with bands that say how much of
    that is chance. For one number use :func:`calibration_error` or :func:`smooth_ece`.

    Args:
        y_true, y_prob, logits, kind, bins, strategy, sample_weight, seed: as for
            :func:`calibration_error`; ``kind`` is "binary" or "confidence".
        method: "binned": the mean forecast and the frequency of each bin that is not empty.
            "isotonic": the isotonic regression of the outcomes on the forecasts, at each of their
            values, as in CORP; it needs no bins.
        resamples: how often a curve of calibrated forecasts is drawn for the bands; 0 for none
            (NaN).

    Returns:
        A :class:`ReliabilityCurve`.

        The band that holds for all points at once reaches as far as the farthest point of 95 % of
        the drawn curves, in units of the spread of each point: that of the arc sine of the root of
        a frequency, which is nearly the same for rare and for common events. For bins, hits are
        drawn bin by bin, as for :func:`calibration_error`, and from their exact distribution where
        a bin has up to 200 predictions: the cost hardly grows with their number. For the isotonic
        curve every draw has new labels and a new regression, of which 1024 points are kept: between
        them its bands are a little wider. Beyond 2^15 predictions it is the regression of so many
        groups of neighbouring forecasts.

    Raises:
        TypeError, ValueError, UserWarning: as for :func:`calibration_error`.

    Source: Bröcker and Smith (2007), doi:10.1175/WAF993.1; Dimitriadis, Gneiting and Jordan
        (2021), doi:10.1073/pnas.2016191118.

    Example: the empty bins are not points of the curve.
        >>> curve = reliability_curve([0, 1, 1, 1], [0.1, 0.1, 0.9, 0.9], bins=10)
        >>> curve.mean_prob.tolist(), curve.frequency.tolist(), curve.count.tolist()
        ([0.1, 0.9], [0.5, 1.0], [2, 2])
    """
    one_of("method", method, ("binned", "isotonic"))
    if kind == "classwise":
        one_of("kind", kind, ("binary", "confidence"))
    resamples = integer("resamples", resamples, lambda n: n >= 0, "a whole number from 0 on")
    given = sample(y_true, y_prob, logits, kind, sample_weight)
    [column] = given.columns()
    rng = null.generator(seed)
    if method == "binned":
        return _binned(given, column, bin_edges(column[0], bins, strategy, given.w), rng, resamples)
    return _isotonic(given, column, rng, resamples)


def _binned(
    given: Sample, column: Column, edges: Floats, rng: np.random.Generator, resamples: int
) -> ReliabilityCurve:
    cells = table(*column, given.w, edges)
    total = cells.sum(1)
    used = total[:, W] > 0
    mass = total[used, W]
    drawn = np.zeros((0, mass.size))
    if resamples:
        hits = null.bin_by_bin(rng, [column], [edges], given.w, cells, resamples)
        drawn = (hits[:, used] / mass).clip(0.0, 1.0)
    return ReliabilityCurve(
        total[used, WP] / mass,
        cells[used, 1, W] / mass,
        *_bands(drawn),
        total[used, COUNT].astype(np.int64),
    )


def _isotonic(
    given: Sample, column: Column, rng: np.random.Generator, resamples: int
) -> ReliabilityCurve:
    p, hit = column
    w = np.ones(p.size) if given.w is None else given.w
    kept = w > 0
    levels = Levels.of(p[kept], w[kept])
    if p.size > null.DRAWN:
        drawn, below, above = _by_group(given, column, levels, rng, resamples)
    else:
        points = np.unique(np.linspace(0, levels.share.size - 1, _POINTS).round().astype(int))
        curves = [
            levels.fitted(levels.sums((w * labels[:, 0])[kept]))[points]
            for labels in null.labels(rng, given, resamples)
        ]
        drawn = np.array(curves).reshape(-1, points.size)
        # The last point that is not above a level, and the first that is not below it.
        every = np.arange(levels.share.size)
        below = np.searchsorted(points, every, side="right") - 1
        above = np.searchsorted(points, every, side="left")
    lower, upper, lower_all, upper_all = _bands(drawn)
    return ReliabilityCurve(
        levels.forecast.astype(np.float64),
        levels.fitted(levels.sums((w * hit)[kept])),
        lower[below],
        upper[above],
        lower_all[below],
        upper_all[above],
        np.bincount(levels.which),
    )


def _by_group(
    given: Sample, column: Column, levels: Levels, rng: np.random.Generator, resamples: int
) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]]:
    """Isotonic curves of groups of neighbours, and the groups below and above each level."""
    edges = null.group_edges(levels.forecast, _POINTS)
    cells = table(*column, given.w, edges)
    total = cells.sum(1)
    used = total[:, W] > 0
    mass = total[used, W]
    groups = Levels(total[used, WP] / mass, np.zeros(0, np.int64), mass)
    hits = null.from_sums(rng, cells, resamples)[:, used].clip(0.0, mass)
    drawn = np.array([groups.fitted(row) for row in hits]).reshape(-1, mass.size)
    group = np.cumsum(used)[assign(levels.forecast, edges)] - 1
    return drawn, np.maximum(group - 1, 0), np.minimum(group + 1, mass.size - 1)


def _bands(drawn: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """The ends of the pointwise and of the simultaneous band of the curves in the rows."""
    resamples, points = drawn.shape
    if not resamples:
        nothing = np.full(points, np.nan)
        return nothing, nothing, nothing, nothing
    drawn = np.ascontiguousarray(drawn.T)  # a row for each point, so that loops are long
    ordered = np.sort(drawn)
    lower, upper = _quantile(ordered, 0.025), _quantile(ordered, 0.975)
    # Each point counts as a frequency among so many independent trials as have its variance. The
    # arc sine of its root then varies alike for rare and for common events, so that no bin with a
    # few predictions decides alone how far the farthest point of a curve is.
    mean, variance = drawn.mean(1), drawn.var(1)
    trials = np.divide(mean * (1 - mean), variance, out=np.zeros(points), where=variance > 0)
    angle, centre = np.arcsin(np.sqrt(drawn)), np.arcsin(np.sqrt(mean))
    distance = np.abs(angle - centre[:, None])
    distance *= 2 * np.sqrt(trials)[:, None]
    reach = np.quantile(distance.max(0), 0.95) / (2 * np.sqrt(np.maximum(trials, 1e-300)))
    reach = np.where(variance > 0, reach, 0.0)
    lowest = np.sin(np.maximum(centre - reach, 0.0)) ** 2
    highest = np.sin(np.minimum(centre + reach, np.pi / 2)) ** 2
    return lower, upper, np.minimum(lowest, lower), np.maximum(highest, upper)


def _quantile(ordered: Floats, share: float) -> Floats:
    """That of each row of sorted numbers, interpolated as by ``np.quantile``, which sorts anew."""
    below, part = divmod(share * (ordered.shape[1] - 1), 1.0)
    k = int(below)
    low, high = ordered[:, k], ordered[:, min(k + 1, ordered.shape[1] - 1)]
    result: Floats = low + part * (high - low)
    return result
