"""The binned calibration error, its null and its uncertainty."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from celib.arguments.errors import integer, refuse
from celib.arguments.samples import named_as_scikit_learn
from celib.calibration import null
from celib.calibration.bins import (
    COUNT,
    EDGE_RULE,
    W2,
    Bins,
    W,
    bin_edges,
    described,
    gaps,
    table,
)
from celib.calibration.inputs import Floats, sample
from celib.calibration.results import Result

Norm = int | float | str


@dataclass(frozen=True, eq=False)
class CalibrationError(Result):
    """A calibration error, a float, together with what it takes to read it.

    Attributes:
        value: the error, as a plain float.
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
    bins: Bins = field(repr=False)
    n_bins_effective: int
    kind: str
    norm: str
    edge_rule: str = EDGE_RULE


@named_as_scikit_learn
def calibration_error(
    y_true: ArrayLike,
    y_prob: ArrayLike | None = None,
    *,
    logits: ArrayLike | None = None,
    kind: str | None = None,
    norm: Norm = "l1",
    bins: int | ArrayLike = 15,
    strategy: str = "uniform",
    sample_weight: ArrayLike | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> CalibrationError:
    r"""Binned calibration error, with its null and its uncertainty (equation ``eq-ece``).

    Use it to report how far stated probabilities are from observed frequencies, with a number that
    readers of the literature know. It is positive for a perfect forecaster, too, so compare it with
    ``null_q95`` and never with 0. Where the choice of bins should not matter, use
    :func:`smooth_ece`; to learn what recalibration would gain, :func:`decompose`; for predictions
    that come in batches, :class:`CalibrationTable`.

    :math:`\mathrm{ECE} = \sum_b \frac{N_b}{N} \lvert \bar y_b - \bar p_b \rvert` for the norm
    "l1"; the root of the mean square for "l2"; the greatest gap for "max".

    Args:
        y_true: classes, integers of shape (N).
        y_prob: probabilities of class 1, shape (N), or of all classes, shape (N, C); also under
            the name ``y_proba``.
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
        TypeError: an argument is of a type or dtype that holds no real numbers.
        ValueError: an argument is empty, of a wrong shape, NaN or out of its range, a row does not
            sum to 1, both or none of ``y_prob`` and ``logits`` are given, or ``kind`` is needed.

    Warns:
        UserWarning: every one of the ``logits`` lies in [0, 1], as probabilities do.

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
    power = power_of(norm)
    resamples = integer("resamples", resamples, lambda n: n >= 0, "a whole number from 0 on")
    given = sample(y_true, y_prob, logits, kind, sample_weight)
    columns = given.columns()
    edges = [bin_edges(p, bins, strategy, given.w) for p, _ in columns]
    tables = [table(p, hit, given.w, e) for (p, hit), e in zip(columns, edges, strict=True)]

    def hits(rng: np.random.Generator, cells: Floats) -> Floats:
        return null.hits(rng, given, columns, edges, cells, resamples)

    return measured(tables, edges, given.kind, power, hits, resamples, seed)


def measured(
    tables: list[Floats],
    edges: list[Floats],
    kind: str,
    power: float,
    hits: Callable[[np.random.Generator, Floats], Floats],
    resamples: int,
    seed: int,
) -> CalibrationError:
    """The error of these tables; ``hits`` draws the weights of the hits in each bin."""
    cells = np.concatenate(tables)
    used = cells[:, :, COUNT].sum(1) > 0
    filled = cells[used]
    mass = filled[:, :, W].sum(1)
    share = mass / mass.sum()
    gap = gaps(filled, filled[:, 1, W])
    value = float(_norm(gap, share, power))

    null_mean = null_q95 = np.nan
    ci = (np.nan, np.nan)
    if resamples:
        rng = null.generator(seed)
        calibrated = _norm(gaps(filled, hits(rng, cells)[:, used]), share, power)
        null_mean, null_q95 = null.summary(calibrated)
        again = _norm(*null.bootstrap(rng, filled, gap, resamples), power)
        ci = _interval(value, calibrated, again)

    return CalibrationError(
        value,
        null_mean,
        null_q95,
        ci,
        _debiased_square(filled, gap, share),
        described(tables, edges, kind),
        int(used.sum()),
        kind,
        {1: "l1", 2: "l2", np.inf: "max"}[power],
    )


def power_of(norm: Norm) -> float:
    """The p of an L_p norm by its name."""
    known: dict[object, float] = {"l1": 1, "l2": 2, "max": np.inf, 1: 1, 2: 2, np.inf: np.inf}
    if not isinstance(norm, int | float | str) or norm not in known:
        refuse("norm", (), repr(norm), "'l1', 'l2' or 'max'")
    return known[norm]


def _norm(gap: Floats, share: Floats, power: float) -> Any:
    gap = np.abs(gap)
    if power == np.inf:
        return np.where(share > 0, gap, 0.0).max(-1)
    return (share * gap**power).sum(-1) ** (1.0 / power)


def _interval(value: float, calibrated: Floats, again: Floats) -> tuple[float, float]:
    """The basic bootstrap, corrected near 0."""
    low, high = np.quantile(again, [0.025, 0.975])
    # Near 0 an absolute value has no normal distribution, and the bootstrap misses 0 too often:
    # there the null decides.
    honest = value <= np.quantile(calibrated, 0.975)
    return (
        0.0 if honest else float(max(2 * value - high, 0.0)),
        float(min(max(2 * value - low, value), 1.0)),
    )


def _debiased_square(cells: Floats, gap: Floats, share: Floats) -> float:
    """Mean over the pairs in a bin of the products of their residuals.

    For equal forecasts it is what Kumar et al. publish, the squared gap less the variance of the
    mean label. For unequal ones the variance of the labels is not that of the gap.
    """
    mass = cells[:, :, W].sum(1)
    pairs = mass**2 - cells[:, :, W2].sum(1)
    products = (gap * mass) ** 2 - null.squares(cells)
    return float(share @ np.divide(products, pairs, out=np.zeros_like(pairs), where=pairs > 0))
