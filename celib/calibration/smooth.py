"""The calibration error of a kernel instead of bins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.fft import dct
from scipy.optimize import brentq

from celib.calibration.error import events
from celib.scoring import weights

# The grid is doubled until the bandwidth spans this many of its steps: the error of rounding the
# forecasts to it is then about four parts in a million of the variance of the kernel.
_STEPS = 200
_COARSEST, _FINEST = 2**11, 2**18


@dataclass(frozen=True)
class SmoothECE:
    """A smooth calibration error and the bandwidth that belongs to it."""

    value: float
    bandwidth: float

    def __float__(self) -> float:
        return self.value


def smooth_ece(
    y_true: ArrayLike,
    y_prob: ArrayLike | None = None,
    *,
    logits: ArrayLike | None = None,
    kind: str | None = None,
    bandwidth: float | None = None,
    sample_weight: ArrayLike | None = None,
) -> SmoothECE:
    r"""Mean absolute residual after smoothing (equation ``eq-smooth-ece``).

    :math:`\mathrm{smECE}_s = \int_0^1 \lvert \frac1N \sum_n \phi_s(t, \hat p_n) (y_n - \hat p_n)
    \rvert \, dt`, with :math:`\phi_s` the Gaussian kernel of standard deviation s reflected at 0
    and 1. It falls as s grows, and the automatic bandwidth is the s that it is equal to.

    The reflected kernel is the heat kernel of the interval, whose eigenfunctions are cosines: the
    residuals are put on a grid, and each s costs one discrete cosine transform.

    Args:
        y_true, y_prob, logits, kind, sample_weight: as for
            :func:`celib.calibration.calibration_error`; ``kind`` is "binary" or "confidence".
        bandwidth: s, greater than 0; None for the automatic one.

    Returns:
        A :class:`SmoothECE`, which ``float`` turns into its value. Both are 0 where the residuals
        are.

    Raises:
        ValueError: as for :func:`celib.calibration.calibration_error`, or the bandwidth is not
            positive.

    Source: Błasiok and Nakkiran (2024), arXiv:2309.12236.

    Example: the error of two bins jumps where the second forecast crosses an edge.
        >>> from celib.calibration import calibration_error
        >>> y, pairs = [0, 1], ([0.5, 0.49999], [0.5, 0.50001])
        >>> [round(float(calibration_error(y, p, bins=2)), 3) for p in pairs]
        [0.0, 0.5]
        >>> [round(float(smooth_ece(y, p)), 2) for p in pairs]
        [0.0, 0.0]
    """
    if bandwidth is not None and not 0 < bandwidth < np.inf:
        raise ValueError(f"bandwidth = {bandwidth}, expected a number greater than 0")
    p, hit = events(y_true, y_prob, logits, kind)
    p = p.astype(np.float64, copy=False)
    w = weights(sample_weight, p.size)
    share = np.full(p.size, 1.0 / p.size) if w is None else w / w.sum()
    residual = share * (hit - p)
    if not residual.any():
        return SmoothECE(0.0, bandwidth or 0.0)
    steps = _COARSEST
    while True:
        modes = _cosines(p, residual, steps)
        width = bandwidth or _automatic(modes)
        if width * steps >= _STEPS or steps >= _FINEST:
            return SmoothECE(_smoothed(modes, width), float(width))
        steps = min(_FINEST, max(2 * steps, 2 ** int(np.ceil(np.log2(_STEPS / max(width, 1e-9))))))


def _cosines(p: NDArray[np.float64], mass: NDArray[np.float64], steps: int) -> NDArray[np.float64]:
    """Cosine coefficients of the masses, shared by the two nodes beside each p."""
    place = p * steps
    left = np.minimum(place.astype(np.int64), steps - 1)
    share = place - left
    nodes = np.bincount(left, mass * (1.0 - share), steps + 1)
    nodes = nodes + np.bincount(left + 1, mass * share, steps + 1)
    ends = np.zeros(steps + 1)
    ends[[0, -1]] = nodes[[0, -1]]
    result: NDArray[np.float64] = dct((nodes + ends) / 2.0, type=1)
    return result


def _smoothed(modes: NDArray[np.float64], width: float) -> float:
    frequency = np.pi * np.arange(modes.size) * width
    density = np.abs(dct(modes * np.exp(-0.5 * np.minimum(frequency, 40.0) ** 2), type=1))
    return float((density.sum() - 0.5 * (density[0] + density[-1])) / (modes.size - 1))


def _automatic(modes: NDArray[np.float64]) -> float:
    # The value at width 1 is at most 1, and at width 0 it is at least 0.
    if _smoothed(modes, 1.0) >= 1.0:
        return 1.0
    low = 1e-12
    if _smoothed(modes, low) <= low:
        return low
    return float(brentq(lambda width: _smoothed(modes, width) - width, low, 1.0, xtol=1e-13))
