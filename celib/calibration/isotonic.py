"""Isotonic regression of outcomes on forecasts; equal forecasts are one point of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from celib.calibration.inputs import Floats


@dataclass(frozen=True)
class Levels:
    """The distinct forecasts in increasing order, with their weights.

    ``which`` is the level of each prediction, and ``share`` the weight of each level, above 0.
    """

    forecast: Floats
    which: NDArray[np.int64]
    share: Floats

    @classmethod
    def of(cls, p: Floats, w: Floats) -> Levels:
        """The levels of forecasts whose weights are above 0."""
        forecast, which = np.unique(p, return_inverse=True)
        return cls(forecast, which, np.bincount(which, w))

    def sums(self, values: Floats) -> Floats:
        """Sums over the predictions of each level."""
        result: Floats = np.bincount(self.which, values, self.forecast.size)
        return result

    def fitted(self, hits: Floats) -> Floats:
        """The isotonic frequency of each level, from the weight of its hits."""
        fit = isotonic_regression(hits / self.share, weights=self.share)
        result: Floats = np.clip(fit.x, 0.0, 1.0)
        return result

    def regression(self, hits: Floats) -> Any:
        """The same as an estimator of scikit-learn, which interpolates between the levels."""
        from sklearn.isotonic import IsotonicRegression

        return IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(
            self.forecast, hits / self.share, sample_weight=self.share
        )
