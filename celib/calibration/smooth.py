"""The calibration error of a kernel instead of bins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.fft import dct
from scipy.optimize import brentq

from celib.arguments.errors import integer, positive
from celib.arguments.samples import named_as_scikit_learn
from celib.calibration import null
from celib.calibration.bins import WP, W, bin_edges, table
from celib.calibration.inputs import Floats, events
from celib.calibration.results import Result

# The grid is doubled until the bandwidth spans this many of its steps: the error of rounding the
# forecasts to it is then about four parts in a million of the variance of the kernel.
_STEPS = 200
_COARSEST, _FINEST = 2**11, 2**18


# For the null a per cent or so is enough.
_STEPS_OF_NULL, _FINEST_OF_NULL = 8, 2**14


@dataclass(frozen=True, eq=False)
class SmoothECE(Result):
    """A smooth calibration error, a float, with the bandwidth that belongs to it and its null.

    Attributes:
        value: the error, as a plain float.
        bandwidth: the standard deviation of the kernel.
        null_mean, null_q95: mean and 95 % point of the error of forecasts that are calibrated, with
            these forecasts and labels drawn from them, each with its own automatic bandwidth. A
            value below ``null_q95`` is no evidence of miscalibration. NaN with ``resamples=0``.
    """

    value: float
    bandwidth: float
    null_mean: float
    null_q95: float


@named_as_scikit_learn
def smooth_ece(
    y_true: ArrayLike,
    y_prob: ArrayLike | None = None,
    *,
    logits: ArrayLike | None = None,
    kind: str | None = None,
    bandwidth: float | None = None,
    sample_weight: ArrayLike | None = None,
    resamples: int = 100,
    seed: int = 0,
) -> SmoothECE:
    r"""Mean absolute residual after smoothing (equation ``eq-smooth-ece``).

    Use it in place of :func:`calibration_error` where the number should not jump when an edge of a
    bin or a forecast moves a little. Like every such error it is positive for a perfect forecaster,
    so compare it with its null.

    :math:`\mathrm{smECE}_s = \int_0^1 \lvert \frac1N \sum_n \phi_s(t, \hat p_n) (y_n - \hat p_n)
    \rvert \, dt`, with :math:`\phi_s` the Gaussian kernel of standard deviation s reflected at 0
    and 1. It falls as s grows, and the automatic bandwidth is the s that it is equal to.

    The reflected kernel is the heat kernel of the interval, whose eigenfunctions are cosines: the
    residuals are put on a grid, and each s costs one discrete cosine transform.

    Args:
        y_true, y_prob, logits, kind, sample_weight: as for
            :func:`celib.calibration.calibration_error`; ``kind`` is "binary" or "confidence".
        bandwidth: s, greater than 0; None for the automatic one.
        resamples: how often to draw labels from the forecasts for the null; 0 for none. Beyond 2^15
            predictions the residuals are drawn for each point of the grid, from the distribution of
            their sum, so that the cost of a draw does not grow with their number.
        seed: of these draws.

    Returns:
        A :class:`SmoothECE`. Its value and bandwidth are 0 where the residuals are.

    Raises:
        TypeError, ValueError, UserWarning: as for :func:`celib.calibration.calibration_error`;
            ValueError also if the bandwidth is not positive.

    Source: Błasiok and Nakkiran (2024), arXiv:2309.12236.

    Example: the error of two bins jumps where the second forecast crosses an edge.
        >>> from celib.calibration import calibration_error
        >>> y, pairs = [0, 1], ([0.5, 0.49999], [0.5, 0.50001])
        >>> [round(float(calibration_error(y, p, bins=2)), 3) for p in pairs]
        [0.0, 0.5]
        >>> [round(float(smooth_ece(y, p)), 2) for p in pairs]
        [0.0, 0.0]
    """
    if bandwidth is not None:
        bandwidth = float(positive("bandwidth", bandwidth))
    resamples = integer("resamples", resamples, lambda n: n >= 0, "a whole number from 0 on")
    p, hit, w = events(y_true, y_prob, logits, kind, sample_weight)
    p = p.astype(np.float64, copy=False)
    share = np.full(p.size, 1.0 / p.size) if w is None else w / w.sum()
    value, width = _error(p, share * (hit - p), bandwidth)
    null_mean = null_q95 = np.nan
    if resamples:
        rng = null.generator(seed)
        null_mean, null_q95 = null.summary(_null(rng, p, w, share, bandwidth, resamples))
    return SmoothECE(value, width, null_mean, null_q95)


def _error(p: Floats, residual: Floats, bandwidth: float | None) -> tuple[float, float]:
    """The error and its bandwidth."""
    if not residual.any():
        return 0.0, bandwidth or 0.0
    steps = _COARSEST
    while True:
        modes = _cosines(p, residual, steps)
        width = bandwidth or _automatic(modes)
        if width * steps >= _STEPS or steps >= _FINEST:
            return _smoothed(modes, width), float(width)
        steps = min(_FINEST, max(2 * steps, 2 ** int(np.ceil(np.log2(_STEPS / max(width, 1e-9))))))


def _null(
    rng: np.random.Generator,
    p: Floats,
    w: Floats | None,
    share: Floats,
    bandwidth: float | None,
    resamples: int,
) -> Floats:
    """Errors for labels drawn from the forecasts."""
    found = np.zeros(resamples)
    variance = float((share**2 * p * (1.0 - p)).sum())
    if variance == 0.0:
        return found
    # The automatic bandwidth of white noise on [0, 1] of this variance.
    width = bandwidth or (0.18 * variance) ** (1 / 3)
    steps = int(np.clip(2.0 ** np.ceil(np.log2(_STEPS_OF_NULL / width)), 2**9, _FINEST_OF_NULL))
    if p.size <= null.DRAWN:
        for r in range(resamples):
            residual = share * ((rng.random(p.size) < p) - p)
            found[r] = _roughly(_cosines(p, residual, steps), width, bandwidth is None)
        return found
    # Forecasts between two points of the grid are as good as equal: they share their residual.
    cells = table(p, np.zeros(p.size, dtype=np.bool_), w, bin_edges(p, steps, "uniform", None))
    total = cells.sum(1)
    drawn = (null.from_sums(rng, cells, resamples) - total[:, WP]) / total[:, W].sum()
    for r in range(resamples):
        nodes = (np.pad(drawn[r], (0, 1)) + np.pad(drawn[r], (1, 0))) / 2
        found[r] = _roughly(_modes(nodes), width, bandwidth is None)
    return found


def _roughly(modes: Floats, width: float, automatic: bool) -> float:
    """The error of residuals without structure, for which it falls as the root of the width."""
    for _ in range(30):
        value = _smoothed(modes, width)
        if not automatic or abs(value - width) <= 1e-3 * width or value < 1e-12:
            break
        # The width that the error would be equal to, if it fell like that.
        width = min(max(value**2 * width, 1e-36) ** (1 / 3), 1.0)
    return value


def _cosines(p: Floats, mass: Floats, steps: int) -> Floats:
    """Cosine coefficients of the masses, shared by the two nodes beside each p."""
    place = p * steps
    left = np.minimum(place.astype(np.int64), steps - 1)
    share = place - left
    nodes = np.bincount(left, mass * (1.0 - share), steps + 1)
    return _modes(nodes + np.bincount(left + 1, mass * share, steps + 1))


def _modes(nodes: Floats) -> Floats:
    """Cosine coefficients of the masses at equally spaced points from 0 to 1."""
    ends = np.zeros(nodes.size)
    ends[[0, -1]] = nodes[[0, -1]]
    result: Floats = dct((nodes + ends) / 2.0, type=1)
    return result


def _smoothed(modes: Floats, width: float) -> float:
    frequency = np.pi * np.arange(modes.size) * width
    density = np.abs(dct(modes * np.exp(-0.5 * np.minimum(frequency, 40.0) ** 2), type=1))
    return float((density.sum() - 0.5 * (density[0] + density[-1])) / (modes.size - 1))


def _automatic(modes: Floats) -> float:
    # The value at width 1 is at most 1, and at width 0 it is at least 0.
    if _smoothed(modes, 1.0) >= 1.0:
        return 1.0
    low = 1e-12
    if _smoothed(modes, low) <= low:
        return low
    return float(brentq(lambda width: _smoothed(modes, width) - width, low, 1.0, xtol=1e-13))
