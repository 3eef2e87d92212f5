"""Outcomes, forecasts and their weights, as NumPy arrays: what scores and calibration take.

A tensor is taken off its graph and its device: a score is a number to report, and has no gradient.
"""

from __future__ import annotations

import functools
import inspect
import math
import sys
from collections.abc import Callable
from typing import Any, TypeVar, cast

import array_api_compat.numpy as xp
import numpy as np
from numpy.typing import NDArray

from celib.arguments import arrays
from celib.arguments.errors import refuse, refuse_dtype, refuse_shape

Numbers = NDArray[Any]
F = TypeVar("F", bound=Callable[..., Any])


def numbers(name: str, given: Any) -> Numbers:
    """An array of real numbers, with at least one of them, in its own dtype."""
    found = arrays.values(name, given)
    if arrays.is_tensor(found):
        found = _of_tensor(name, found)
    result = np.asarray(found)
    if result.dtype.kind not in "biuf":
        refuse_dtype(name, result.dtype)
    if result.dtype.itemsize > 8:
        result = result.astype(np.float64)
    if result.size == 0:
        refuse_shape(name, result.shape, "at least one number")
    return result


def _of_tensor(name: str, a: Any) -> Any:
    torch = sys.modules["torch"]
    a = a.detach()
    if a.is_complex() or a.is_quantized:
        refuse_dtype(name, a.dtype)
    if a.device.type != "meta":
        a = a.cpu()
    if a.device.type == "meta" or not arrays.readable(a):
        raise ValueError(f"{name} is a tensor that holds no values here: expected numbers")
    # NumPy has no bfloat16.
    a = a.float() if a.dtype == torch.bfloat16 else a
    return a.resolve_neg()  # NumPy does not know of a sign that is still to be applied


def column(a: Numbers) -> Numbers:
    """One column is the same as none."""
    return a[:, 0] if a.ndim == 2 and a.shape[1] == 1 else a


def check(name: str, a: Numbers, wrong: NDArray[np.bool_], expected: str) -> None:
    """Raise for the first entry that is wrong."""
    arrays.check(xp, name, a, wrong, expected)


def distributions(name: str, given: Any) -> Numbers:
    """Distributions of shape (..., C), in their own dtype."""
    p = numbers(name, given)
    if p.ndim == 0:
        refuse_shape(name, p.shape, "(..., C)")
    p = p if p.dtype.kind == "f" else p.astype(np.float64)
    arrays.distributions(xp, name, p, float(np.finfo(p.dtype).eps), (p.ndim - 1,))
    return cast(Numbers, arrays.within(xp, p))


def probabilities(name: str, given: Any) -> Numbers:
    """Probabilities of shape (N), or rows of shape (N, C) that sum to 1, in their own dtype.

    (N, 1) becomes (N).
    """
    p = column(numbers(name, given))
    if p.ndim == 2:
        return distributions(name, p)
    if p.ndim != 1:
        refuse_shape(name, p.shape, "(N) or (N, C)")
    p = p if p.dtype.kind == "f" else p.astype(np.float64)
    arrays.probabilities(xp, name, p, float(np.finfo(p.dtype).eps))
    return cast(Numbers, arrays.within(xp, p))


def labels(name: str, given: Any, rows: int, classes: int) -> NDArray[Any]:
    """Classes 0 to ``classes - 1``, one for each of the N rows, as integers or booleans."""
    y = column(numbers(name, given))
    if y.shape != (rows,):
        refuse_shape(name, y.shape, f"({rows},)")
    expected = f"a class from 0 to {classes - 1}"
    if not (y.min() >= 0 and y.max() < classes):
        check(name, y, ~((y >= 0) & (y < classes)), expected)
    if y.dtype.kind == "f":
        check(name, y, y != np.floor(y), expected)
        y = y.astype(np.int64)
    return y


def labels_of_any_kind(name: str, given: Any) -> NDArray[Any]:
    """A column of labels that are told apart and sorted, and need not be numbers."""
    found = arrays.values(name, given)
    found = column(np.asarray(_of_tensor(name, found) if arrays.is_tensor(found) else found))
    if found.ndim != 1 or found.size == 0:
        refuse_shape(name, found.shape, "(N), with N at least 1")
    if found.dtype.kind == "c":
        refuse_dtype(name, found.dtype, "numbers or text")
    # NumPy makes text of a number in a list of text: the list still knows.
    items = list(given) if isinstance(given, (list, tuple)) else found.tolist()
    for i, label in enumerate(items):
        missing = label is None or type(label).__name__ in ("NAType", "NaTType")
        if missing or label != label:
            refuse(name, (i,), label, "a label")
        if isinstance(label, str) != isinstance(items[0], str):
            refuse(name, (i,), repr(label), f"a label of the kind of {items[0]!r}")
    return found


def weights(given: Any, rows: int) -> Numbers | None:
    """Weights of shape (N): finite, at least 0, and not all 0."""
    if given is None:
        return None
    w = column(numbers("sample_weight", given)).astype(np.float64, copy=False)
    if w.shape != (rows,):
        refuse_shape("sample_weight", w.shape, f"({rows},)")
    if not (w.min() >= 0.0 and w.max() < math.inf):
        wrong = ~((w >= 0.0) & (w < math.inf))
        check("sample_weight", w, wrong, "a finite number, at least 0")
    if not w.any():
        refuse("the sum of sample_weight", (), 0.0, "a weight that is not zero")
    return w


def forecasts(
    y_true: Any, y_prob: Any, sample_weight: Any = None
) -> tuple[NDArray[Any], Numbers, Numbers | None]:
    """Outcomes, probabilities and weights that belong together."""
    arrays.same_labels({"y_prob": y_prob, "y_true": y_true, "sample_weight": sample_weight})
    p = probabilities("y_prob", y_prob)
    y = labels("y_true", y_true, p.shape[0], 2 if p.ndim == 1 else p.shape[1])
    return y, p, weights(sample_weight, p.shape[0])


def named_as_scikit_learn(function: F) -> F:
    """Take ``y_proba`` for ``y_prob``: scikit-learn's metrics have the one name and the other."""

    place = list(inspect.signature(function).parameters).index("y_prob")

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if "y_proba" in kwargs:
            if "y_prob" in kwargs or len(args) > place:
                raise TypeError(f"{function.__name__}: expected one of y_prob and y_proba")
            kwargs["y_prob"] = kwargs.pop("y_proba")
        return function(*args, **kwargs)

    return cast(F, call)
