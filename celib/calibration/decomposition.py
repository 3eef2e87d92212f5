"""What a mean score is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from celib.arguments.errors import integer, one_of, refuse_shape
from celib.arguments.samples import forecasts, named_as_scikit_learn
from celib.calibration import null
from celib.calibration.bins import WP, W, assign, bin_edges, table
from celib.calibration.inputs import Column, Floats, Sample
from celib.calibration.isotonic import Levels
from celib.scoring import losses_of, times

# The score of each forecast in the second array if 1 comes with the frequency in the first.
Score = Callable[[Floats, Floats], Floats]


@dataclass(frozen=True)
class Decomposition:
    """The parts of a mean score; ``score`` is their signed sum.

    ``score = miscalibration - discrimination + uncertainty + within_bin``, and
    ``within_bin = within_bin_variance - within_bin_covariance``. The last three are 0 for CORP.
    Where both of these two are ``inf``, ``within_bin`` still is the sum of their differences.

    ``null_mean`` and ``null_q95`` are the mean and the 95 % point of the miscalibration of
    forecasts that are calibrated: these forecasts, with labels drawn from them. A miscalibration
    below ``null_q95`` is no evidence of any. NaN with ``resamples=0``.
    """

    score: float
    miscalibration: float
    discrimination: float
    uncertainty: float
    within_bin: float = 0.0
    within_bin_variance: float = 0.0
    within_bin_covariance: float = 0.0
    null_mean: float = np.nan
    null_q95: float = np.nan

    def __add__(self, other: Decomposition) -> Decomposition:
        """Part by part, as the Brier score of classes adds up; a sum has no null of its own."""
        if not isinstance(other, Decomposition):
            return NotImplemented
        parts = (a + b for a, b in zip(astuple(self), astuple(other), strict=True))
        return replace(Decomposition(*parts), null_mean=np.nan, null_q95=np.nan)


@named_as_scikit_learn
def decompose(
    y_true: ArrayLike,
    y_prob: ArrayLike,
    *,
    rule: str = "brier",
    method: str = "corp",
    bins: int | ArrayLike = 15,
    strategy: str = "uniform",
    sample_weight: ArrayLike | None = None,
    resamples: int = 100,
    seed: int = 0,
) -> Decomposition:
    r"""Mean score = miscalibration - discrimination + uncertainty + within-bin terms.

    Use it to learn why a mean score is as large as it is. The miscalibration is what a
    recalibration can gain; the discrimination is what only a better model can raise; the
    uncertainty belongs to the outcomes.

    (equation ``eq-decomposition-score``) With :math:`\bar y` the base rate and
    :math:`\tilde y_n` a recalibrated forecast, the uncertainty is the mean score of
    :math:`\bar y`, and the discrimination what :math:`\tilde y` gains on it.

    - "corp": :math:`\tilde y` is the isotonic regression of the outcomes on the forecasts, and the
      miscalibration is what it gains on the forecasts. No bins, and both parts are at least 0.
    - "binned": :math:`\tilde y` is the frequency in the bin, and the miscalibration is what it
      gains on the mean forecast :math:`\bar p_b` of the bin. The forecast is not its bin's mean:
      the mean of :math:`S(\hat p_n, y_n) - S(\bar p_b, y_n)` is the within-bin term. Its "variance"
      is the same with the frequency of the bin in place of :math:`y_n`; the "covariance", which is
      subtracted, is what the forecasts know about the outcomes inside the bins. For the Brier
      score they are those of Stephenson et al.

    The Brier score of C classes is a sum over the classes, and so is each of its parts: those of
    every class against the rest. Their miscalibration is class-wise: it does not see whether whole
    distributions are right. The other scores are no such sums.

    Args:
        y_true: classes, integers of shape (N).
        y_prob: probabilities of class 1 of two, shape (N); for "brier" also of all classes, shape
            (N, C).
        rule: "log", "brier" (scaled as by :func:`celib.scoring.brier_score`) or "spherical".
        method: "corp" or "binned".
        bins, strategy: as for :func:`celib.calibration.calibration_error`.
        sample_weight: shape (N), at least 0.
        resamples: how often to draw labels from the forecasts for the null of the miscalibration; 0
            for none. With "corp" each takes new labels and an isotonic regression, which together
            make most of the time for many predictions (4 s of 10^6); with "binned" the hits are
            drawn as for :func:`celib.calibration.calibration_error`.
        seed: of these draws.

    Returns:
        A :class:`Decomposition`. An infinite log score makes an infinite miscalibration ("corp"),
        or an infinite within-bin term unless the bin's mean is 0 or 1 itself ("binned").

    Raises:
        TypeError, ValueError: as for :func:`celib.scoring.log_score`; ValueError also if ``y_prob``
            has two axes and ``rule`` is not "brier", or an option is not known.

    Source: Dimitriadis, Gneiting and Jordan (2021), doi:10.1073/pnas.2016191118, for CORP;
        Stephenson, Coelho and Jolliffe (2008), doi:10.1175/2007WAF2006116.1, for the bins.

    Example: a vote of few trees says 0, and is wrong once in six.
        >>> y, p = [0, 1, 0, 1, 1, 1], [0.0, 0.0, 0.5, 0.5, 1.0, 1.0]
        >>> parts = decompose(y, p, rule="log")
        >>> parts.score, parts.miscalibration, round(parts.discrimination, 4)
        (inf, inf, 0.1744)
    """
    one_of("method", method, ("corp", "binned"))
    losses = losses_of(rule)
    resamples = integer("resamples", resamples, lambda n: n >= 0, "a whole number from 0 on")
    y, p, w = forecasts(y_true, y_prob, sample_weight)
    if p.ndim == 2 and rule != "brier":
        refuse_shape("y_prob", p.shape, f"(N) for rule = {rule!r}")
    if w is not None:
        # What has no weight has no part in a mean, whatever its score.
        y, p, w = y[w > 0], p[w > 0], w[w > 0]
    given = Sample("binary" if p.ndim == 1 else "classwise", y, p, w)
    columns = given.columns()
    share = np.full(y.size, 1.0 / y.size) if w is None else w / w.sum()

    def score(target: Floats, forecast: Floats) -> Floats:
        other = 1.0 - forecast
        one, zero = losses(forecast, other**2, other), losses(other, forecast**2, forecast)
        return times(target, one) + times(1.0 - target, zero)

    edges = [bin_edges(p, bins, strategy, w) for p, _ in columns] if method == "binned" else []
    if method == "corp":
        each = [_corp(column, share, score) for column in columns]
    else:
        each = [_binned(c, share, e, score) for c, e in zip(columns, edges, strict=True)]
    total = sum(each[1:], each[0])
    if not resamples:
        return total
    rng = null.generator(seed)
    if method == "corp":
        calibrated = _corp_null(rng, given, share, score, resamples)
    else:
        calibrated = _binned_null(rng, given, edges, score, resamples)
    null_mean, null_q95 = null.summary(calibrated)
    return replace(total, null_mean=null_mean, null_q95=null_q95)


def _scores(column: Column, w: Floats, score: Score) -> tuple[Floats, Floats, float]:
    """The outcomes as numbers, the score of each, and the score of the base rate."""
    p, hit = column
    observed = hit.astype(np.float64)
    base = np.clip((w * observed).sum(keepdims=True), 0.0, 1.0)
    return observed, score(observed, p), float(score(base, base)[0])


def _corp(column: Column, w: Floats, score: Score) -> Decomposition:
    """With the isotonic regression for the recalibrated forecasts."""
    p, _ = column
    observed, each, uncertainty = _scores(column, w, score)
    levels = Levels.of(p, w)
    recalibrated = levels.fitted(levels.sums(w * observed))[levels.which]
    mean = float(times(w, each).sum())
    best = float(times(w, score(observed, recalibrated)).sum())
    return Decomposition(mean, max(mean - best, 0.0), max(uncertainty - best, 0.0), uncertainty)


def _corp_null(
    rng: np.random.Generator, given: Sample, w: Floats, score: Score, resamples: int
) -> Floats:
    """Miscalibrations for labels drawn from the forecasts."""
    if given.kind == "binary":  # In order, so that sums over levels run through memory once.
        order = np.argsort(given.p)
        given, w = replace(given, p=given.p[order]), w[order]
    columns = [Levels.of(p, w) for p, _ in given.columns()]
    # The score of a forecast is linear in the label: what it is if 0 comes, and what 1 adds. It is
    # infinite only for labels that these forecasts do not let be drawn.
    zeros = [_finite(score(np.zeros(one.share.size), one.forecast)) for one in columns]
    ones = [_finite(score(np.ones(one.share.size), one.forecast)) for one in columns]
    found = np.zeros(resamples)
    for r, labels in enumerate(null.labels(rng, given, resamples)):
        for k, levels in enumerate(columns):
            hits = levels.sums(w * labels[:, k])
            raw = (hits * (ones[k] - zeros[k])).sum() + (levels.share * zeros[k]).sum()
            # The fitted frequencies are constant on a few blocks of levels, and means of these.
            fitted = levels.fitted(hits)
            start = np.flatnonzero(np.diff(fitted, prepend=-1.0))
            rate = fitted[start]
            best = (np.add.reduceat(levels.share, start) * score(rate, rate)).sum()
            found[r] += max(float(raw - best), 0.0)
    return found


def _binned(column: Column, w: Floats, edges: Floats, score: Score) -> Decomposition:
    """With the frequency of the bin for the recalibrated forecasts."""
    p, _ = column
    observed, each, uncertainty = _scores(column, w, score)
    used, which = np.unique(assign(p, edges), return_inverse=True)
    share, mass, hits = (
        np.bincount(which, v, minlength=used.size) for v in (w, w * p, w * observed)
    )
    centre, rate = np.clip(mass / share, 0.0, 1.0), np.clip(hits / share, 0.0, 1.0)
    best = float((share * score(rate, rate)).sum())
    binned = float(times(share, score(rate, centre)).sum())
    within = float(times(w, _minus(each, score(observed, centre[which]))).sum())
    unrelated = score(rate[which], p)
    return Decomposition(
        float(times(w, each).sum()),
        max(binned - best, 0.0),
        max(uncertainty - best, 0.0),
        uncertainty,
        within,
        float(times(w, _minus(unrelated, score(rate, centre)[which])).sum()),
        float(times(w, _minus(unrelated, each)).sum()),
    )


def _binned_null(
    rng: np.random.Generator, given: Sample, edges: list[Floats], score: Score, resamples: int
) -> Floats:
    """Miscalibrations for labels drawn from the forecasts."""
    columns = given.columns()
    tables = [table(*column, given.w, e) for column, e in zip(columns, edges, strict=True)]
    cells = np.concatenate(tables)
    total = cells.sum(1)
    used = total[:, W] > 0
    mass = total[used, W]
    hits = null.hits(rng, given, columns, edges, cells, resamples)[:, used]
    rate = np.clip(hits / mass, 0.0, 1.0)
    centre = np.broadcast_to(np.clip(total[used, WP] / mass, 0.0, 1.0), rate.shape)
    lost = np.maximum(score(rate, centre) - score(rate, rate), 0.0)
    result: Floats = (lost * mass).sum(1) / (mass.sum() / len(columns))
    return result


def _finite(x: Floats) -> Floats:
    return np.where(np.isfinite(x), x, 0.0)


def _minus(x: Floats, y: Floats) -> Floats:
    """Difference in which equal infinities cancel."""
    return np.subtract(x, y, out=np.zeros(np.shape(x)), where=x != y)
