"""Proper scores of probability forecasts.

Arguments come in the order and under the names of scikit-learn's metrics, ``(y_true, y_prob)``: the
observation first, as the reference comes first in :mod:`celib.information`, so that a score can
stand where a metric of scikit-learn stands; ``y_proba`` is taken for ``y_prob``. Every score is a
loss: 0 for certainty that proves right, and smaller is better.

``y_prob`` is of shape (N) or (N, 1), the probabilities of class 1 of two, or (N, C), a distribution
over the classes 0 to C - 1 in each row. Nothing is guessed from its values, clipped or normalised;
logits belong into :mod:`celib.losses` or through :func:`celib.stable.softmax` first. What may hold
the numbers is said in :mod:`celib.arguments`. Sums are of float64 and counts of int64, whatever the
dtype of the input.

What a mean score is made of, ``decompose``, is in :mod:`celib.calibration`, and found here too.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from celib.arguments.arrays import same_labels
from celib.arguments.errors import one_of, refuse_shape
from celib.arguments.samples import distributions, forecasts, named_as_scikit_learn

__all__ = ["brier_score", "expected_score", "log_score", "spherical_score"]


def __getattr__(name: str) -> Any:
    # On first use: the decomposition stands on the scores, and is imported from above them.
    if name in ("Decomposition", "decompose"):
        return getattr(import_module("celib.calibration"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


Floats = NDArray[Any]
Rule = str | Callable[[Floats], Floats]
# The loss where a is the probability of what happened, o the sum of squares of the others, and b,
# where it is known without rounding, 1 - a.
Losses = Callable[[Floats, Floats, Floats | None], Floats]


@named_as_scikit_learn
def log_score(
    y_true: ArrayLike,
    y_prob: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    reduction: str = "mean",
) -> Any:
    r"""Surprise at what happened, :math:`-\log \hat p_y` in nats (equation ``eq-log-score``).

    Use it to evaluate stated probabilities; it is the cross-entropy loss, on probabilities. In
    training use :func:`celib.losses.cross_entropy` on logits, which does not round them to 0 first.

    Args:
        y_true: classes, integers of shape (N).
        y_prob: probabilities of class 1, shape (N), or of all classes, shape (N, C).
        sample_weight: shape (N), at least 0, for the mean and the sum.
        reduction: "mean", "sum" or "none".

    Returns:
        A float, or with "none" an array of shape (N). ``inf`` where the probability of what
        happened is 0.

    Raises:
        TypeError: an argument is of a type or dtype that holds no real numbers.
        ValueError: an argument is empty, of a wrong shape, NaN or out of its range, or a row of
            ``y_prob`` does not sum to 1.

    Source: Good (1952), doi:10.1111/j.2517-6161.1952.tb00104.x.

    Example: a clipped logarithm, as in scikit-learn, gives 36.04 for the first.
        >>> log_score([1], [0.0])
        inf
        >>> log_score([0], [1e-20])
        1e-20
    """
    y, p, w = forecasts(y_true, y_prob, sample_weight)
    return _reduced(_score(_log, y, p), w, reduction)


@named_as_scikit_learn
def brier_score(
    y_true: ArrayLike,
    y_prob: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    scale: str | None = None,
    reduction: str = "mean",
) -> Any:
    r"""Squared distance to what happened (equation ``eq-brier``).

    Use it to compare forecasts when a single confident error should cost a bounded amount.
    :func:`log_score` is what training minimises, and is infinite for an outcome of stated
    probability 0.

    :math:`\sum_k (\hat p_k - \mathbf 1\{y = k\})^2`, from 0 to 2, with ``scale="sum"``; half of it,
    from 0 to 1, with ``scale="half"``, which is :math:`(\hat p - y)^2` for two classes.

    Args:
        y_true, y_prob, sample_weight, reduction: as for :func:`log_score`.
        scale: "sum", "half", or None: "half" for ``y_prob`` of shape (N) and "sum" for (N, C).

    Returns:
        A float, or with "none" an array of shape (N).

    Raises:
        TypeError, ValueError: as for :func:`log_score`, or ``scale`` is not one of these.

    Source: Brier (1950), doi:10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2.

    Example: one forecast on the two scales.
        >>> brier_score([1], [0.75]), brier_score([1], [[0.25, 0.75]])
        (0.0625, 0.125)
    """
    one_of("scale", scale, (None, "sum", "half"))
    y, p, w = forecasts(y_true, y_prob, sample_weight)
    factor = 2.0 if (scale or ("half" if p.ndim == 1 else "sum")) == "sum" else 1.0
    return _reduced(factor * _score(_half_brier, y, p), w, reduction)


@named_as_scikit_learn
def spherical_score(
    y_true: ArrayLike,
    y_prob: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    reduction: str = "mean",
) -> Any:
    r"""One minus the cosine to what happened (equation ``eq-spherical``).

    Use it as a third proper score beside :func:`log_score` and :func:`brier_score`, to see whether
    a ranking of models hangs on the rule.

    :math:`1 - \hat p_y / \lVert \hat p \rVert_2`, from 0 to 1.

    Args:
        y_true, y_prob, sample_weight, reduction: as for :func:`log_score`.

    Returns:
        A float, or with "none" an array of shape (N).

    Raises:
        TypeError, ValueError: as for :func:`log_score`.

    Source: Gneiting and Raftery (2007), doi:10.1198/016214506000001437.

    Example: the formula as written gives 0 for the second.
        >>> round(spherical_score([1], [0.75]), 6)
        0.051317
        >>> f"{spherical_score([0], [1e-10]):.8e}"
        '5.00000000e-21'
    """
    y, p, w = forecasts(y_true, y_prob, sample_weight)
    return _reduced(_score(_spherical, y, p), w, reduction)


def expected_score(rule: Rule, p: ArrayLike, q: ArrayLike) -> Any:
    r"""Mean score of the forecast q when outcomes follow p, :math:`\sum_i p_i S(q, i)`.

    Use it to examine a rule: a proper one is least, for each p, at q = p.

    Args:
        rule: "log", "brier" (on the scale from 0 to 2) or "spherical", or a function that takes
            distributions of shape (..., C) to the losses of the C outcomes, of the same shape.
        p: the reference, shape (..., C), or (C) for all forecasts.
        q: the forecasts, shape (..., C).

    Returns:
        The shape of ``q`` without the last axis. A rule is proper where no q gives less than p.

    Raises:
        TypeError: ``p`` or ``q`` is of a type or dtype that holds no real numbers.
        ValueError: a row is not a distribution, the shapes differ, the rule is not known or returns
            another shape.

    Source: Gneiting and Raftery (2007), doi:10.1198/016214506000001437.

    Example: honesty costs less than exaggeration, unless the rule is focal loss.
        >>> def focal(q):
        ...     return -((1 - q) ** 2) * np.log(q)
        >>> p, bold, shy = [0.9, 0.1], [0.99, 0.01], [0.69, 0.31]
        >>> [round(float(expected_score("log", p, q)), 4) for q in (p, bold, shy)]
        [0.3251, 0.4696, 0.4511]
        >>> bool(expected_score(focal, p, shy) < expected_score(focal, p, p))
        True
    """
    same_labels({"q": q, "p": p})
    reference, forecast = (
        distributions(name, a).astype(np.float64, copy=False) for name, a in (("p", p), ("q", q))
    )
    if reference.shape not in (forecast.shape, forecast.shape[-1:]):
        refuse_shape("p", reference.shape, f"{forecast.shape}, like q, or {forecast.shape[-1:]}")
    if callable(rule):
        losses = np.asarray(rule(forecast), dtype=np.float64)
        if losses.shape != forecast.shape:
            refuse_shape("the result of rule", losses.shape, str(forecast.shape))
    else:
        factor = 2.0 if rule == "brier" else 1.0
        losses = factor * losses_of(rule)(forecast, _others(forecast**2), None)
    return times(np.broadcast_to(reference, losses.shape), losses).sum(-1)[()]


def _log(a: Floats, o: Floats, b: Floats | None) -> Floats:
    with np.errstate(divide="ignore"):
        if b is None:
            return 0.0 - np.log(a)
        # 1 - b would round b away where it is small.
        return 0.0 - np.where(a > 0.5, np.log1p(-np.minimum(b, 0.5)), np.log(a))


def _half_brier(a: Floats, o: Floats, b: Floats | None) -> Floats:
    return ((1.0 - a) ** 2 + o) / 2.0 if b is None else o


def _spherical(a: Floats, o: Floats, b: Floats | None) -> Floats:
    # 1 - a / r = (r^2 - a^2) / (r (r + a)), without the cancellation.
    r = np.sqrt(a * a + o)
    result: Floats = o / (r * (r + a))
    return result


_RULES: dict[str, Losses] = {"log": _log, "brier": _half_brier, "spherical": _spherical}


def losses_of(rule: object) -> Losses:
    """The losses of a rule by its name."""
    one_of("rule", rule, tuple(_RULES))
    return _RULES[str(rule)]


def times(share: Floats, value: Floats) -> Floats:
    """Product in which a share of 0 leaves an infinite value out."""
    return np.multiply(share, value, out=np.zeros(np.shape(value)), where=share != 0)


def _score(losses: Losses, y: NDArray[Any], p: Floats) -> Floats:
    p = p.astype(np.float64, copy=False)
    if p.ndim == 1:
        other = 1.0 - p
        hit = y == 1
        a, b = np.where(hit, p, other), np.where(hit, other, p)
        return losses(a, b * b, b)
    rows = np.arange(y.size)
    y = y.astype(np.int64, copy=False)  # booleans would select instead of index
    a = p[rows, y]
    if losses is _log:
        return _log(a, a, None)
    others = p.copy()
    others[rows, y] = 0.0
    return losses(a, np.einsum("nc,nc->n", others, others), None)


def _others(x: Floats) -> Floats:
    """Sums over the other entries of the last axis, from both ends: nothing cancels."""
    result = np.zeros_like(x)
    result[..., 1:] = np.cumsum(x[..., :-1], -1)
    result[..., :-1] += np.cumsum(x[..., :0:-1], -1)[..., ::-1]
    return result


def _reduced(score: Floats, w: Floats | None, reduction: str) -> Any:
    one_of("reduction", reduction, ("mean", "sum", "none"))
    if reduction == "none":
        if w is not None:
            raise ValueError("sample_weight is given: expected None for reduction = 'none'")
        return score
    total = float(score.sum() if w is None else times(w, score).sum())
    if reduction == "sum":
        return total
    return total / (score.shape[0] if w is None else float(w.sum()))
