"""Calibration errors: of 10^7 predictions in 15 bins, and the smooth one of 10^5."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from benchmarks.cross_entropy import reason, summary
from benchmarks.timing import Step, measure
from celib.calibration import calibration_error, smooth_ece

BINS = 15
Value = Callable[[np.ndarray, np.ndarray], Any]


def _celib() -> Value:
    return lambda y, p: float(calibration_error(y, p, bins=BINS, resamples=0))


def _celib_null() -> Value:
    """With the null and the interval, which no other one gives."""
    return lambda y, p: float(calibration_error(y, p, bins=BINS))


def _torchmetrics() -> Value:
    from torchmetrics.functional.classification import binary_calibration_error

    def value(y: np.ndarray, p: np.ndarray) -> float:  # no copy is made of the arrays
        return float(binary_calibration_error(torch.from_numpy(p), torch.from_numpy(y), BINS))

    return value


def _netcal() -> Value:
    from netcal.metrics import ECE

    return lambda y, p: ECE(BINS).measure(p, y)


def _relplot() -> Value:
    from relplot.metrics import binnedECE

    return lambda y, p: binnedECE(p, y, BINS)


def _scikit_learn() -> Value:
    from sklearn.calibration import calibration_curve

    def value(y: np.ndarray, p: np.ndarray) -> float:
        frequency, mean = calibration_curve(y, p, n_bins=BINS)
        count = np.histogram(p, BINS, (0.0, 1.0))[0]
        return float(np.sum(count[count > 0] * np.abs(frequency - mean)) / p.size)

    return value


def _celib_smooth() -> Value:
    return lambda y, p: float(smooth_ece(y, p, resamples=0))


def _relplot_smooth() -> Value:
    from relplot import smECE

    return lambda y, p: smECE(p, y)


BINNED = {
    "celib": _celib,
    "celib-null": _celib_null,
    "torchmetrics": _torchmetrics,
    "netcal": _netcal,
    "relplot": _relplot,
    "scikit-learn": _scikit_learn,
}
SMOOTH = {"celib": _celib_smooth, "relplot": _relplot_smooth}


def times(quick: bool, repeats: int, skipped: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Of float64 probabilities that are too extreme, and int64 labels."""
    rows = 10**4 if quick else 10**7
    for name, makers, n in (
        ("calibration_error", BINNED, rows),
        ("smooth_ece", SMOOTH, min(rows, 10**5)),
    ):
        draw = np.random.default_rng(0)
        p = draw.random(n)
        y = (draw.random(n) < 0.1 + 0.8 * p).astype(np.int64)
        steps: dict[Any, Step] = {}
        expected = None
        for peer, make in makers.items():
            try:
                value = make()
                found = float(value(y, p))
                expected = found if expected is None else expected  # of the first, which is celib
                if not abs(found - expected) <= 0.02 * expected:
                    raise ValueError(f"gives {found:.5f}, celib {expected:.5f}")
                steps[peer] = _step(value, y, p)
            except Exception as error:
                skipped[peer if isinstance(error, ImportError) else f"{peer}: {name}"] = reason(
                    error
                )
        for peer, a in measure(steps, repeats, "cpu").items():
            yield {
                "peer": peer,
                "rows": n,
                "classes": 2,
                "features": None,
                "dtype": "float64",
                "chunk": None,
                "pass": name,
                **summary(a, -1),
            }


def _step(value: Value, y: np.ndarray, p: np.ndarray) -> Step:
    def step(mark: Callable[[], None]) -> None:
        mark()
        value(y, p)
        mark()

    return step
