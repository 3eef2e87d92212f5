"""Proper scores of probability forecasts, and what a mean score is made of.

Arguments come in the order and under the names of scikit-learn's metrics, ``(y_true, y_prob)``: the
observation first, as the reference comes first in :mod:`celib.information`, so that a score can
stand where a metric of scikit-learn stands. Every score is a loss: 0 for certainty that proves
right, and smaller is better.

``y_prob`` is of shape (N), the probabilities of class 1 of two, or (N, C), a distribution over the
classes 0 to C - 1 in each row. Nothing is guessed from its values, clipped or normalised; logits
belong into :mod:`celib.losses` or through :func:`celib.stable.softmax` first. Sums are of float64
and counts of int64, whatever the dtype of the input.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from celib.stable import sum_tolerance

__all__ = [
    "Decomposition",
    "brier_score",
    "decompose",
    "expected_score",
    "log_score",
    "spherical_score",
]

Floats = NDArray[Any]
Rule = str | Callable[[Floats], Floats]
# The loss where a is the probability of what happened, o the sum of squares of the others, and b,
# where it is known without rounding, 1 - a.
Losses = Callable[[Floats, Floats, Floats | None], Floats]


def log_score(
    y_true: ArrayLike,
    y_prob: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    reduction: str = "mean",
) -> Any:
    r"""Surprise at what happened, :math:`-\log \hat p_y` in nats (equation ``eq-log-score``).

    Args:
        y_true: classes, integers of shape (N).
        y_prob: probabilities of class 1, shape (N), or of all classes, shape (N, C).
        sample_weight: shape (N), at least 0, for the mean and the sum.
        reduction: "mean", "sum" or "none".

    Returns:
        A float, or with "none" an array of shape (N). ``inf`` where the probability of what
        happened is 0.

    Raises:
        ValueError: an argument is empty, of a wrong shape, NaN or out of its range, or a row of
            ``y_prob`` does not sum to 1.

    Source: Good (1952), doi:10.1111/j.2517-6161.1952.tb00104.x.

    Example: a clipped logarithm, as in scikit-learn, gives 36.04 for the first.
        >>> log_score([1], [0.0])
        inf
        >>> log_score([0], [1e-20])
        1e-20
    """
    y, p = _scored(y_true, y_prob)
    return _reduced(_score(_log, y, p), sample_weight, reduction)


def brier_score(
    y_true: ArrayLike,
    y_prob: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    scale: str | None = None,
    reduction: str = "mean",
) -> Any:
    r"""Squared distance to what happened (equation ``eq-brier``).

    :math:`\sum_k (\hat p_k - \mathbf 1\{y = k\})^2`, from 0 to 2, with ``scale="sum"``; half of it,
    from 0 to 1, with ``scale="half"``, which is :math:`(\hat p - y)^2` for two classes.

    Args:
        y_true, y_prob, sample_weight, reduction: as for :func:`log_score`.
        scale: "sum", "half", or None: "half" for ``y_prob`` of shape (N) and "sum" for (N, C).

    Returns:
        A float, or with "none" an array of shape (N).

    Raises:
        ValueError: as for :func:`log_score`, or ``scale`` is none of these.

    Source: Brier (1950), doi:10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2.

    Example: one forecast on the two scales.
        >>> brier_score([1], [0.75]), brier_score([1], [[0.25, 0.75]])
        (0.0625, 0.125)
    """
    _choice("scale", scale, (None, "sum", "half"))
    y, p = _scored(y_true, y_prob)
    factor = 2.0 if (scale or ("half" if p.ndim == 1 else "sum")) == "sum" else 1.0
    return _reduced(factor * _score(_half_brier, y, p), sample_weight, reduction)


def spherical_score(
    y_true: ArrayLike,
    y_prob: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    reduction: str = "mean",
) -> Any:
    r"""One minus the cosine to what happened (equation ``eq-spherical``).

    :math:`1 - \hat p_y / \lVert \hat p \rVert_2`, from 0 to 1.

    Args:
        y_true, y_prob, sample_weight, reduction: as for :func:`log_score`.

    Returns:
        A float, or with "none" an array of shape (N).

    Raises:
        ValueError: as for :func:`log_score`.

    Source: Gneiting and Raftery (2007), doi:10.1198/016214506000001437.

    Example: the formula as written gives 0 for the second.
        >>> round(spherical_score([1], [0.75]), 6)
        0.051317
        >>> f"{spherical_score([0], [1e-10]):.8e}"
        '5.00000000e-21'
    """
    y, p = _scored(y_true, y_prob)
    return _reduced(_score(_spherical, y, p), sample_weight, reduction)


def expected_score(rule: Rule, p: ArrayLike, q: ArrayLike) -> Any:
    r"""Mean score of the forecast q when outcomes follow p, :math:`\sum_i p_i S(q, i)`.

    Args:
        rule: "log", "brier" (on the scale from 0 to 2) or "spherical", or a function that takes
            distributions of shape (..., C) to the losses of the C outcomes, of the same shape.
        p: the reference, shape (..., C), or (C) for all forecasts.
        q: the forecasts, shape (..., C).

    Returns:
        The shape of ``q`` without the last axis. A rule is proper where no q gives less than p.

    Raises:
        ValueError: a row is no distribution, the shapes differ, the rule is not known or returns
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
    reference, forecast = _distributions("p", p), _distributions("q", q)
    if reference.shape not in (forecast.shape, forecast.shape[-1:]):
        raise ValueError(f"p has shape {reference.shape}, but q has shape {forecast.shape}")
    if callable(rule):
        losses = np.asarray(rule(forecast), dtype=np.float64)
        if losses.shape != forecast.shape:
            raise ValueError(f"rule returned shape {losses.shape}, expected {forecast.shape}")
    else:
        factor = 2.0 if rule == "brier" else 1.0
        losses = factor * _losses(rule)(forecast, _others(forecast**2), None)
    return _times(np.broadcast_to(reference, losses.shape), losses).sum(-1)[()]


@dataclass(frozen=True)
class Decomposition:
    """The parts of a mean score; ``score`` is their signed sum.

    ``score = miscalibration - discrimination + uncertainty + within_bin``, and
    ``within_bin = within_bin_variance - within_bin_covariance``. The last three are 0 for CORP.
    Where both of these two are ``inf``, ``within_bin`` still is the sum of their differences.
    """

    score: float
    miscalibration: float
    discrimination: float
    uncertainty: float
    within_bin: float = 0.0
    within_bin_variance: float = 0.0
    within_bin_covariance: float = 0.0


def decompose(
    y_true: ArrayLike,
    y_prob: ArrayLike,
    *,
    rule: str = "brier",
    method: str = "corp",
    bins: int | ArrayLike = 15,
    strategy: str = "uniform",
    sample_weight: ArrayLike | None = None,
) -> Decomposition:
    r"""Mean score = miscalibration - discrimination + uncertainty + within-bin terms.

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
        rule: "log", "brier" (scaled as by :func:`brier_score`) or "spherical".
        method: "corp" or "binned".
        bins, strategy: as for :func:`celib.calibration.calibration_error`.
        sample_weight: shape (N), at least 0.

    Returns:
        A :class:`Decomposition`. An infinite log score makes an infinite miscalibration ("corp"),
        or an infinite within-bin term unless the bin's mean is 0 or 1 itself ("binned").

    Raises:
        ValueError: as for :func:`log_score`, ``y_prob`` has two axes and ``rule`` is not "brier",
            or an option is not known.

    Source: Dimitriadis, Gneiting and Jordan (2021), doi:10.1073/pnas.2016191118, for CORP;
        Stephenson, Coelho and Jolliffe (2008), doi:10.1175/2007WAF2006116.1, for the bins.

    Example: a vote of few trees says 0, and is wrong once in six.
        >>> y, p = [0, 1, 0, 1, 1, 1], [0.0, 0.0, 0.5, 0.5, 1.0, 1.0]
        >>> parts = decompose(y, p, rule="log")
        >>> parts.score, parts.miscalibration, round(parts.discrimination, 4)
        (inf, inf, 0.1744)
    """
    _choice("method", method, ("corp", "binned"))
    losses = _losses(rule)
    y, p = _scored(y_true, y_prob)
    if p.ndim == 2:
        if rule != "brier":
            raise ValueError(f"y_prob has shape {p.shape}, expected (N) for rule = {rule!r}")
        options: dict[str, Any] = {"method": method, "bins": bins, "strategy": strategy}
        each_class = (
            decompose(y == k, p[:, k], sample_weight=sample_weight, **options)
            for k in range(p.shape[1])
        )
        return Decomposition(*map(sum, zip(*map(astuple, each_class), strict=True)))
    weight = weights(sample_weight, y.shape[0])
    w = np.full(y.shape, 1.0 / y.size) if weight is None else weight / weight.sum()

    def mean(target: Floats, forecast: Floats) -> Floats:
        """Score of each forecast if 1 came with the frequency that is the target."""
        other = 1.0 - forecast
        one, zero = losses(forecast, other**2, other), losses(other, forecast**2, forecast)
        return _times(target, one) + _times(1.0 - target, zero)

    observed = y.astype(np.float64)
    each = mean(observed, p)
    score = float(_times(w, each).sum())
    base = np.clip((w * observed).sum(keepdims=True), 0.0, 1.0)
    uncertainty = float(mean(base, base)[0])
    if method == "corp":
        recalibrated = _isotonic(p, observed, w)
        best = float(_times(w, mean(observed, recalibrated)).sum())
        return Decomposition(
            score, max(score - best, 0.0), max(uncertainty - best, 0.0), uncertainty
        )

    which = assign(p, bin_edges(p, bins, strategy, weight))
    used, which = np.unique(which, return_inverse=True)
    share, mass, hits = (
        np.bincount(which, v, minlength=used.size) for v in (w, w * p, w * observed)
    )
    some = np.where(share > 0, share, 1.0)
    centre, rate = np.clip(mass / some, 0.0, 1.0), np.clip(hits / some, 0.0, 1.0)
    best = float((share * mean(rate, rate)).sum())
    binned = float(_times(share, mean(rate, centre)).sum())
    within = float(_times(w, _minus(each, mean(observed, centre[which]))).sum())
    unrelated = mean(rate[which], p)
    return Decomposition(
        score,
        max(binned - best, 0.0),
        max(uncertainty - best, 0.0),
        uncertainty,
        within,
        float(_times(w, _minus(unrelated, mean(rate, centre)[which])).sum()),
        float(_times(w, _minus(unrelated, each)).sum()),
    )


def _isotonic(x: Floats, y: Floats, w: Floats) -> Floats:
    """Isotonic regression of y on x at the points of x; equal x get equal values."""
    from sklearn.isotonic import isotonic_regression

    levels, which = np.unique(x, return_inverse=True)
    share, hits = np.bincount(which, w), np.bincount(which, w * y)
    kept = share > 0
    fitted = np.zeros(levels.size)
    fitted[kept] = isotonic_regression(
        hits[kept] / share[kept], sample_weight=share[kept], y_min=0.0, y_max=1.0
    )
    result: Floats = fitted[which]
    return result


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


def _losses(rule: object) -> Losses:
    _choice("rule", rule, tuple(_RULES))
    return _RULES[str(rule)]


def _score(losses: Losses, y: NDArray[np.int64], p: Floats) -> Floats:
    p = p.astype(np.float64, copy=False)
    if p.ndim == 1:
        other = 1.0 - p
        hit = y == 1
        a, b = np.where(hit, p, other), np.where(hit, other, p)
        return losses(a, b * b, b)
    rows = np.arange(y.size)
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


def _times(share: Floats, value: Floats) -> Floats:
    """Product in which a share of 0 leaves an infinite value out."""
    return np.multiply(share, value, out=np.zeros(np.shape(value)), where=share != 0)


def _minus(x: Floats, y: Floats) -> Floats:
    """Difference in which equal infinities cancel."""
    return np.subtract(x, y, out=np.zeros(np.shape(x)), where=x != y)


def _reduced(score: Floats, sample_weight: ArrayLike | None, reduction: str) -> Any:
    _choice("reduction", reduction, ("mean", "sum", "none"))
    if sample_weight is not None and reduction == "none":
        raise ValueError("sample_weight: expected None with reduction='none'")
    w = weights(sample_weight, score.shape[0])
    if reduction == "none":
        return score
    total = float(score.sum() if w is None else _times(w, score).sum())
    if reduction == "sum":
        return total
    return total / (score.shape[0] if w is None else float(w.sum()))


def _choice(name: str, value: object, known: tuple[object, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} = {value!r}, expected one of {', '.join(map(repr, known))}")


# What a sample has to be like, and its bins: celib.calibration asks the same.


def array(name: str, values: ArrayLike) -> NDArray[Any]:
    """An array of real numbers; a tensor of torch is taken off its graph and its device."""
    detach = getattr(values, "detach", None)
    if detach is not None:
        tensor = detach().cpu()
        values = tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor
    result = np.asarray(values)
    if result.dtype.kind not in "biuf":
        raise ValueError(f"{name} has dtype {result.dtype}, expected real numbers")
    if result.size == 0:
        raise ValueError(f"{name} is empty: shape {result.shape}")
    return result


def probabilities(name: str, values: ArrayLike) -> NDArray[Any]:
    """Probabilities of shape (N), or rows of shape (N, C) that sum to 1, in their own dtype."""
    p = array(name, values)
    if p.dtype.kind != "f":
        p = p.astype(np.float64)
    if p.ndim not in (1, 2) or (p.ndim == 2 and p.shape[1] < 2):
        raise ValueError(f"{name} has shape {p.shape}, expected (N) or (N, C) with C of at least 2")
    # NaN makes both comparisons false, and nothing of the size of p is allocated.
    if not (p.min() >= 0.0 and p.max() <= 1.0):
        refuse(name, p, ~((p >= 0.0) & (p <= 1.0)), "a probability in [0, 1]")
    if p.ndim == 2:
        total = p.sum(1, dtype=np.float64)
        tolerance = sum_tolerance(p.shape[1], float(np.finfo(p.dtype).eps))
        off = np.abs(total - 1.0) > tolerance
        if off.any():
            row = int(off.argmax())
            raise ValueError(f"{name}[{row}] sums to {total[row]}, expected 1")
    return p


def labels(name: str, values: ArrayLike, shape: tuple[int, ...], classes: int) -> NDArray[Any]:
    """Classes 0 to ``classes - 1``, one for each of the N rows, as integers."""
    y = array(name, values)
    if y.shape != shape[:1]:
        raise ValueError(f"{name} has shape {y.shape}, expected {shape[:1]}")
    if not (y.min() >= 0 and y.max() < classes):
        refuse(name, y, ~((y >= 0) & (y < classes)), f"a class from 0 to {classes - 1}")
    if y.dtype.kind == "f":
        if (wrong := y != np.floor(y)).any():
            refuse(name, y, wrong, f"a class from 0 to {classes - 1}")
        y = y.astype(np.int64)
    return y


def weights(values: ArrayLike | None, n: int) -> Floats | None:
    """Weights of shape (N): finite, at least 0, and not all 0."""
    if values is None:
        return None
    w = array("sample_weight", values).astype(np.float64, copy=False)
    if w.shape != (n,):
        raise ValueError(f"sample_weight has shape {w.shape}, expected ({n},)")
    if not (w.min() >= 0.0 and w.max() < math.inf):
        refuse("sample_weight", w, ~((w >= 0.0) & (w < math.inf)), "finite and at least 0")
    if not w.any():
        raise ValueError("sample_weight is zero everywhere")
    return w


def bin_edges(
    p: NDArray[Any], bins: int | ArrayLike, strategy: str, weight: Floats | None = None
) -> NDArray[Any]:
    """Edges from 0 to 1, in the dtype of p: a float32 of 0.3 is the edge 0.3, not above it."""
    _choice("strategy", strategy, ("uniform", "quantile"))
    if not isinstance(bins, (int, np.integer)):
        edges = array("bins", bins).astype(p.dtype)
        if edges.ndim != 1 or edges.size < 2 or edges[0] != 0 or edges[-1] != 1:
            raise ValueError(f"bins = {edges}, expected edges that begin with 0 and end with 1")
        if (wrong := np.diff(edges) <= 0).any():
            refuse("bins", edges[1:], wrong, "edges that increase")
        return edges
    if bins < 1:
        raise ValueError(f"bins = {bins}, expected at least 1")
    # k / bins is rounded once; linspace multiplies a rounded step, and 3 * 0.1 is not 0.3.
    fractions = np.arange(bins + 1) / float(bins)
    if strategy == "uniform":
        return fractions.astype(p.dtype)
    inner = fractions[1:-1]
    if weight is None:
        ranks = np.ceil(np.arange(1, bins) * p.size / bins).astype(np.int64) - 1
        cuts = np.partition(p, ranks)[ranks]
    else:
        order = np.argsort(p)
        total = np.cumsum(weight[order])
        cuts = p[order][np.searchsorted(total, inner * total[-1])]
    cuts = np.unique(cuts[(cuts > 0) & (cuts < 1)])
    return np.concatenate([[0], cuts, [1]]).astype(p.dtype)


def assign(p: NDArray[Any], edges: NDArray[Any]) -> NDArray[np.int64]:
    """Index of the bin (a, b] of each p; 0 is in the first."""
    inner = edges[1:-1]
    if inner.size > 64:
        result: NDArray[np.int64] = np.searchsorted(inner, p, side="left")
        return result
    # Few edges: as many comparisons of whole blocks are several times as fast as a search.
    which = np.zeros(p.shape, dtype=np.uint8)
    for edge in inner:
        which += p > edge
    return which.astype(np.int64)


def refuse(name: str, values: NDArray[Any], wrong: NDArray[Any], expected: str) -> None:
    """Raise for the first entry that is wrong."""
    index = tuple(int(i) for i in np.unravel_index(int(wrong.argmax()), wrong.shape))
    place = ", ".join(map(str, index))
    raise ValueError(f"{name}[{place}] = {values[index]}, expected {expected}")


def _scored(y_true: ArrayLike, y_prob: ArrayLike) -> tuple[NDArray[Any], Floats]:
    p = probabilities("y_prob", y_prob)
    return labels("y_true", y_true, p.shape, 2 if p.ndim == 1 else p.shape[1]), p


def _distributions(name: str, values: ArrayLike) -> Floats:
    p = array(name, values)
    rows = probabilities(name, p.reshape(-1, p.shape[-1]) if p.ndim else p)
    return rows.astype(np.float64, copy=False).reshape(p.shape)
