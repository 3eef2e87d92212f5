"""Whether probabilities can be believed: measured with its own noise, and repaired.

Arguments are scikit-learn's, ``(y_true, y_prob)``. What the numbers are is said, never guessed from
their values: ``y_prob`` (or ``y_proba``) are probabilities, ``logits=`` are logits, and the
estimators take ``input="logits"`` or ``input="probs"``; they warn where every logit lies in [0, 1].
What may hold the numbers is said in :mod:`celib.arguments`. A one-dimensional array is about class
1 of two, and its logits are log-odds; rows of C are about the classes 0 to C - 1, in this order.

Bins are ``(a, b]`` with 0 in the first, everywhere. Counts are of int64 and sums of float64, so
that more than 2^24 predictions are as exact as few. Everything that draws takes a ``seed``.

A calibration error is a float with fields: it stands where a metric of scikit-learn would.

The estimators need scikit-learn; the rest does not.
"""

from importlib import import_module
from typing import Any

from celib import _available, _missing
from celib.calibration.batches import CalibrationTable
from celib.calibration.bins import Bins
from celib.calibration.conventions import Convention, explain_ece
from celib.calibration.curve import ReliabilityCurve, reliability_curve
from celib.calibration.decomposition import Decomposition, decompose
from celib.calibration.error import CalibrationError, calibration_error
from celib.calibration.smooth import SmoothECE, smooth_ece

# Their base classes are scikit-learn's, which measuring does without.
_ESTIMATORS = {
    "CalibratedClassifier": "classifier",
    "IsotonicCalibration": "scaling",
    "PlattScaling": "scaling",
    "TemperatureScaling": "scaling",
    "VectorScaling": "scaling",
}

__all__ = [
    "Bins",
    "CalibratedClassifier",
    "CalibrationError",
    "CalibrationTable",
    "Convention",
    "Decomposition",
    "IsotonicCalibration",
    "PlattScaling",
    "ReliabilityCurve",
    "SmoothECE",
    "TemperatureScaling",
    "VectorScaling",
    "calibration_error",
    "decompose",
    "explain_ece",
    "reliability_curve",
    "smooth_ece",
]


def __getattr__(name: str) -> Any:
    if name not in _ESTIMATORS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    message = _missing(f"{__name__}.{name}")
    if message is not None:
        raise AttributeError(message)
    return getattr(import_module(f"{__name__}.{_ESTIMATORS[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_available(__name__, __all__))
