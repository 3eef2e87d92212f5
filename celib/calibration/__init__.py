"""Whether probabilities can be believed: measured with its own noise, and repaired.

Arguments are scikit-learn's, ``(y_true, y_prob)``. What the numbers are is said, never guessed from
their values: ``y_prob`` are probabilities, ``logits=`` are logits, and the estimators take
``input="logits"`` or ``input="probs"``. A one-dimensional array is about class 1 of two, and its
logits are log-odds; rows of C are about the classes 0 to C - 1, in this order.

Bins are ``(a, b]`` with 0 in the first, everywhere. Counts are of int64 and sums of float64, so
that more than 2^24 predictions are as exact as few. Everything that draws takes a ``seed``.

The estimators need scikit-learn; the rest does not.
"""

from typing import Any

from celib.calibration.conventions import Convention, explain_ece
from celib.calibration.error import (
    Bins,
    CalibrationError,
    ReliabilityCurve,
    calibration_error,
    reliability_curve,
)
from celib.calibration.smooth import SmoothECE, smooth_ece

_ESTIMATORS = ("IsotonicCalibration", "PlattScaling", "TemperatureScaling", "VectorScaling")

__all__ = [
    "Bins",
    "CalibrationError",
    "Convention",
    "IsotonicCalibration",
    "PlattScaling",
    "ReliabilityCurve",
    "SmoothECE",
    "TemperatureScaling",
    "VectorScaling",
    "calibration_error",
    "explain_ece",
    "reliability_curve",
    "smooth_ece",
]


def __getattr__(name: str) -> Any:
    # Their base classes are scikit-learn's, which measuring does without.
    if name in _ESTIMATORS:
        from celib.calibration import scaling

        return getattr(scaling, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
