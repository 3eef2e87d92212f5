"""Maps that repair probabilities, as estimators of scikit-learn."""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq, minimize
from scipy.special import expit, logsumexp, softmax
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.isotonic import IsotonicRegression
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from celib.calibration.error import Floats
from celib.scoring import labels, probabilities, refuse, weights


class _Calibrator(TransformerMixin, ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """What the four have in common: ``X`` is about classes 0 to C - 1, or about class 1 of two.

    ``X`` of shape (N) or (N, 1) is about class 1 of two, of shape (N, C) about C classes, whose
    labels are 0 to C - 1 in the order of the columns.
    """

    def __init__(self, *, input: str = "logits") -> None:
        self.input = input

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit the map to held-out predictions X and the classes y that came."""
        z = self._logits(X, reset=True)
        classes = 2 if z.ndim == 1 else z.shape[1]
        if y is None:
            raise ValueError("requires y to be passed, but the target y is None")
        y = column_or_1d(y, warn=True)
        try:
            target = labels("y", y, z.shape, classes).astype(np.int64)
        except ValueError as error:
            if type_of_target(y) in ("continuous", "unknown"):
                raise ValueError(f"Unknown label type: {error}") from None
            raise
        w = weights(sample_weight, target.size)
        self.classes_: NDArray[np.int64] = np.arange(classes)
        self._fit(z, target, np.ones(target.size) if w is None else w)
        return self

    def predict_proba(self, X: ArrayLike) -> Floats:
        """Calibrated probabilities of all classes, shape (N, C)."""
        check_is_fitted(self)
        return self._probabilities(self._logits(X, reset=False))

    def transform(self, X: ArrayLike) -> Floats:
        """Calibrated probabilities in the shape of X."""
        p = self.predict_proba(X)
        shape = np.asarray(X).shape
        if len(shape) == 2 and shape[1] > 1:
            return p
        return p[:, 1].reshape(shape)

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """The class of the greatest calibrated probability."""
        result: NDArray[np.int64] = self.predict_proba(X).argmax(1)
        return result

    def _logits(self, X: ArrayLike, *, reset: bool) -> Floats:
        """Log-odds of shape (N) or log-probabilities up to a constant of shape (N, C)."""
        if self.input not in ("logits", "probs"):
            raise ValueError(f"input = {self.input!r}, expected 'logits' or 'probs'")
        if reset and hasattr(self, "n_features_in_"):
            del self.n_features_in_
        # With axes of their own, classes are the features of scikit-learn, and it counts them.
        columns = np.asarray(X).ndim != 1 or hasattr(self, "n_features_in_")
        x: Floats = validate_data(
            self, X, reset=reset, dtype=np.float64, ensure_2d=columns, ensure_all_finite=False
        )
        if (
            not reset
            and (x.shape[1] if x.ndim == 2 and x.shape[1] > 1 else 2) != self.classes_.size
        ):
            raise ValueError(f"X has shape {x.shape}, expected {self.classes_.size} classes")
        if x.ndim == 2 and x.shape[1] == 1:
            x = x[:, 0]
        if self.input == "probs":
            x = probabilities("X", x)
            with np.errstate(divide="ignore"):
                z: Floats = np.log(x) if x.ndim == 2 else np.log(x) - np.log1p(-x)
                return z
        if (wrong := np.isnan(x) | (x == np.inf)).any():
            refuse("X", x, wrong, "a logit: not NaN, not inf")
        if x.ndim == 2 and (gone := np.isneginf(x).all(1)).any():
            raise ValueError(f"X[{int(gone.argmax())}] is -inf in every class")
        return x

    def _fit(self, z: Floats, y: NDArray[np.int64], w: Floats) -> None:
        raise NotImplementedError

    def _probabilities(self, z: Floats) -> Floats:
        raise NotImplementedError


class TemperatureScaling(_Calibrator):
    r"""One temperature for all logits, :math:`\mathrm{softmax}(z / T)`, with its proof.

    The mean log score is convex in :math:`\beta = 1 / T` (equation ``eq-temperature-fit``), so the
    sign of its derivative on both sides of a point proves that a minimum is between. Log-odds z of
    shape (N) are divided alike: :math:`\sigma(z / T)`. The class of the greatest probability does
    not change.

    Args:
        input: "logits" or "probs" (whose logarithms are taken), keyword only.

    Attributes:
        temperature_: T, always positive.
        bracket_: two values of beta around 1 / T.
        derivative_: the derivative of the mean log score by beta at these, the first negative and
            the second at least 0, unless ``at_bound_``.
        converged_: whether the bracket holds the minimum; false only with ``at_bound_``.
        at_bound_: whether no minimum exists at a positive and finite beta.
        status_: "optimal"; "separable": every logit of the true class is greatest in its row, and
            every greater beta is better; "uninformative": no beta beats 0, the uniform
            distribution. T is then 1e-4 or 1e4 times the widest difference of a row's logits.

    Raises:
        ValueError: as for :func:`celib.calibration.calibration_error`, or a true class has
            probability 0 (a logit of ``-inf``), which no temperature can mend.

    Source: Guo et al. (2017), arXiv:1706.04599.

    Example: logits three times too far apart.
        >>> rng = np.random.default_rng(0)
        >>> z = rng.standard_normal(5000)
        >>> y = rng.random(5000) < 1 / (1 + np.exp(-z))
        >>> fit = TemperatureScaling().fit(3 * z, y)
        >>> bool(2.7 < fit.temperature_ < 3.3), bool(fit.derivative_[0] < 0 <= fit.derivative_[1])
        (True, True)
        >>> TemperatureScaling().fit([-1.0, 2.0, 3.0], [0, 1, 1]).status_
        'separable'
    """

    def _fit(self, z: Floats, y: NDArray[np.int64], w: Floats) -> None:
        if z.ndim == 1:
            # The logit of the other class minus that of the true one is all that counts.
            rest = np.where(y == 1, -z, z)[:, None]
        else:
            with np.errstate(invalid="ignore"):
                rest = z - z[np.arange(y.size), y][:, None]
        lost = np.isnan(rest).any(1) | (rest == np.inf).any(1)
        if lost.any():
            row = int(lost.argmax())
            raise ValueError(f"y[{row}] = {y[row]} has probability 0 in X[{row}]")
        # A class that is masked out has no share at any temperature.
        allowed = np.isfinite(rest)
        gap = np.where(allowed, rest, 0.0)
        scale = float((gap.max(1).clip(0) - gap.min(1).clip(None, 0)).max())
        share = w / w.sum()
        binary = z.ndim == 1

        def derivative(beta: float) -> float:
            power = np.where(allowed, beta * gap, -np.inf)
            # In the binary case the true class, with a gap of 0, is not a column.
            odds = expit(power) if binary else softmax(power, axis=1)
            return math.fsum(share * (odds * gap).sum(1))

        self.at_bound_ = True
        self.converged_ = False
        if derivative(0.0) >= 0:
            self.status_ = "uninformative"
            beta = 1e-4 / scale if scale > 0 else 1.0
            self.bracket_: tuple[float, float] = (0.0, beta)
        elif bool((gap[share > 0] <= 0).all()):
            self.status_ = "separable"
            beta = 1e4 / scale
            self.bracket_ = (beta, math.inf)
        else:
            self.status_ = "optimal"
            self.at_bound_ = False
            self.converged_ = True
            high = 1.0 / scale
            while derivative(high) < 0:
                high *= 2
            low = high / 2
            while derivative(low) >= 0:
                low /= 2
            beta = float(brentq(derivative, low, high, xtol=1e-300, rtol=1e-14))
            self.bracket_ = self._narrow(derivative, beta, low, high)
        self.derivative_ = tuple(derivative(b) if b < math.inf else 0.0 for b in self.bracket_)
        self.temperature_ = 1.0 / beta

    @staticmethod
    def _narrow(derivative: Any, beta: float, low: float, high: float) -> tuple[float, float]:
        """The narrowest sign change around beta, opened until rounding does not blur it."""
        width = 1e-14
        below, above = beta * (1 - width), beta * (1 + width)
        while below > low and derivative(below) >= 0:
            width *= 4
            below = beta * (1 - width)
        width = 1e-14
        while above < high and derivative(above) < 0:
            width *= 4
            above = beta * (1 + width)
        return max(below, low), min(above, high)

    def _probabilities(self, z: Floats) -> Floats:
        if z.ndim == 1:
            return _both(z / self.temperature_)
        result: Floats = softmax(z / self.temperature_, axis=1)
        return result


class VectorScaling(_Calibrator):
    r"""A factor and an offset for each class, :math:`\mathrm{softmax}(a \odot z + b)`.

    Maximum likelihood, a convex problem. The offsets are fixed to sum to 0. Log-odds of shape (N)
    are the logits (0, z) of two classes. The factors see what softmax does not: with logits that
    differ by a constant of each row, such as log-probabilities, it is another model.

    Args:
        input: "logits" or "probs" (whose logarithms are taken), keyword only.

    Attributes:
        scale_: a, shape (C).
        offset_: b, shape (C).
        gradient_: the greatest absolute derivative of the mean log score at the result, by a times
            the spread of the logits and by b.
        converged_: whether that is below 1e-6.
        at_bound_: whether the examples are separated, so that no maximum exists: the mean log
            score at the result is below 1e-6.

    Raises:
        ValueError: as for :class:`TemperatureScaling`, a class has no example in y, or a logit is
            not finite.

    Source: Guo et al. (2017), arXiv:1706.04599.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> z = rng.standard_normal((4000, 3))
        >>> y = (z + rng.gumbel(size=z.shape)).argmax(1)
        >>> fit = VectorScaling().fit(z * [1, 2, 5], y)
        >>> [round(a, 1) for a in fit.scale_.tolist()], fit.converged_
        ([1.0, 0.5, 0.2], True)
    """

    def _fit(self, z: Floats, y: NDArray[np.int64], w: Floats) -> None:
        z = _two(z)
        _finite(z)
        _complete(y, w, z.shape[1])
        n, c = z.shape
        share = w / w.sum()
        spread = float(z.std()) or 1.0
        x = z / spread
        hot = np.zeros((n, c))
        hot[np.arange(n), y] = 1.0

        def objective(parameters: Floats) -> tuple[float, Floats]:
            a, b = parameters[:c], parameters[c:]
            logits = a * x + b
            lse = logsumexp(logits, axis=1)
            residual = share[:, None] * (np.exp(logits - lse[:, None]) - hot)
            value = float(share @ (lse - (logits * hot).sum(1)))
            return value, np.concatenate([(residual * x).sum(0), residual.sum(0)])

        start = np.concatenate([np.full(c, spread), np.zeros(c)])
        options = {"maxiter": 2000, "maxfun": 4000, "ftol": 1e-15, "gtol": 1e-9}
        found = minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
        a, b = found.x[:c], found.x[c:]
        self.scale_: Floats = a / spread
        self.offset_: Floats = b - b.mean()
        value, gradient = objective(found.x)
        self.gradient_ = float(np.abs(gradient).max())
        self.converged_ = self.gradient_ < 1e-6
        self.at_bound_ = value < 1e-6

    def _probabilities(self, z: Floats) -> Floats:
        result: Floats = softmax(self.scale_ * _two(z) + self.offset_, axis=1)
        return result


class PlattScaling(_Calibrator):
    r"""A logistic curve of the log-odds, :math:`\sigma(a z + b)`.

    For C classes, one curve a class, of its log-odds against the rest, and the C results divided by
    their sum.

    Args:
        input: "logits" or "probs", keyword only.
        prior: whether the targets are Platt's :math:`(N_+ + 1) / (N_+ + 2)` and
            :math:`1 / (N_- + 2)`, as in scikit-learn, instead of 1 and 0. They keep a and b finite
            where the classes are separated.

    Attributes:
        slope_: a, shape (1) for two classes and (C) for more.
        offset_: b, of the same shape.
        gradient_: the greatest absolute derivative of the mean log scores at the result.
        converged_: whether that is below 1e-8.

    Raises:
        ValueError: as for :class:`VectorScaling`; or without ``prior`` the classes are separated.

    Source: Platt (1999), Advances in Large Margin Classifiers; Lin, Lin and Weng (2007),
        doi:10.1007/s10994-007-5018-6.

    Example: separated classes have a finite curve.
        >>> fit = PlattScaling().fit([-2.0, -1.0, 1.0, 2.0], [0, 0, 1, 1])
        >>> [round(p, 4) for p in fit.transform([-2.0, 0.0, 2.0]).tolist()]
        [0.2062, 0.5, 0.7938]
    """

    def __init__(self, *, input: str = "logits", prior: bool = True) -> None:
        super().__init__(input=input)
        self.prior = prior

    def _fit(self, z: Floats, y: NDArray[np.int64], w: Floats) -> None:
        _finite(z)
        _complete(y, w, self.classes_.size)
        odds = _log_odds(z)
        first = self.classes_.size - odds.shape[1]
        curves = [self._curve(odds[:, k], y == first + k, w) for k in range(odds.shape[1])]
        self.slope_: Floats = np.array([a for a, _, _ in curves])
        self.offset_: Floats = np.array([b for _, b, _ in curves])
        self.gradient_ = max(g for _, _, g in curves)
        self.converged_ = self.gradient_ < 1e-8

    def _curve(self, z: Floats, hit: NDArray[np.bool_], w: Floats) -> tuple[float, float, float]:
        plus, minus = float(w[hit].sum()), float(w[~hit].sum())
        if self.prior:
            target = np.where(hit, (plus + 1) / (plus + 2), 1 / (minus + 2))
        else:
            target = hit.astype(np.float64)
            one, zero = z[hit & (w > 0)], z[~hit & (w > 0)]
            apart = one.min() >= zero.max() or one.max() <= zero.min()
            if apart and np.ptp(z) > 0:
                raise ValueError("y is separated by X: no maximum exists without prior")
        spread = float(z.std()) or 1.0
        design = np.stack([z / spread, np.ones_like(z)], axis=1)
        share = w / w.sum()

        def loss(v: Floats) -> float:
            t = design @ v
            return float(share @ (np.logaddexp(0.0, t) - target * t))

        v = np.zeros(2)
        for _ in range(100):
            p = expit(design @ v)
            gradient = design.T @ (share * (p - target))
            if np.abs(gradient).max() < 1e-13:
                break
            curvature = (design.T * (share * p * (1 - p))) @ design + 1e-12 * np.eye(2)
            step = np.linalg.solve(curvature, gradient)
            length, here = 1.0, loss(v)
            while length > 1e-8 and loss(v - length * step) > here + 1e-16:
                length /= 2
            v = v - length * step
        gradient = design.T @ (share * (expit(design @ v) - target))
        return float(v[0]) / spread, float(v[1]), float(np.abs(gradient).max())

    def _probabilities(self, z: Floats) -> Floats:
        _finite(z)
        t = self.slope_ * _log_odds(z) + self.offset_
        if t.shape[1] == 1:
            return _both(t[:, 0])
        log_p = -np.logaddexp(0.0, -t)
        result: Floats = softmax(log_p, axis=1)
        return result


class IsotonicCalibration(_Calibrator):
    """The monotone step function of the probability that fits best.

    scikit-learn's ``IsotonicRegression`` of the outcomes on the probabilities, with its linear
    interpolation between the steps. For C classes, one for each class against the rest, and the C
    results divided by their sum; where all of them are 0 the result is uniform.

    Args:
        input: "logits" or "probs", keyword only.

    Attributes:
        regressions_: the fitted ``IsotonicRegression``: one for two classes, C for more.

    Raises:
        ValueError: as for :class:`TemperatureScaling`, or a class has no example in y.

    Source: Zadrozny and Elkan (2002), doi:10.1145/775047.775151.

    Example: probabilities in the wrong order are averaged.
        >>> fit = IsotonicCalibration(input="probs").fit([0.1, 0.4, 0.6, 0.9], [0, 1, 0, 1])
        >>> fit.transform([0.1, 0.4, 0.5, 0.9]).tolist()
        [0.0, 0.5, 0.5, 1.0]
    """

    def _fit(self, z: Floats, y: NDArray[np.int64], w: Floats) -> None:
        _complete(y, w, self.classes_.size)
        p = _plain(z)
        first = self.classes_.size - p.shape[1]
        self.regressions_ = [
            IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(
                p[:, k], y == first + k, sample_weight=w
            )
            for k in range(p.shape[1])
        ]

    def _probabilities(self, z: Floats) -> Floats:
        p = _plain(z)
        fitted = [one.predict(p[:, k]) for k, one in enumerate(self.regressions_)]
        if len(fitted) == 1:
            return np.stack([1.0 - fitted[0], fitted[0]], axis=1)
        result = np.stack(fitted, axis=1)
        result[result.sum(1) == 0] = 1.0
        result /= result.sum(1, keepdims=True)
        return result


def _both(t: Floats) -> Floats:
    return np.stack([expit(-t), expit(t)], axis=1)


def _two(z: Floats) -> Floats:
    return np.stack([np.zeros_like(z), z], axis=1) if z.ndim == 1 else z


def _plain(z: Floats) -> Floats:
    """Probabilities: one column for two classes, C for more."""
    if z.ndim == 1:
        return np.asarray(expit(z))[:, None]
    p: Floats = softmax(z, axis=1)
    return p[:, 1:] if z.shape[1] == 2 else p


def _log_odds(z: Floats) -> Floats:
    """Log-odds of each class against the rest: one column for two classes, C for more."""
    if z.ndim == 1:
        return z[:, None]
    if z.shape[1] == 2:
        return z[:, 1:] - z[:, :1]
    columns = [z[:, k] - logsumexp(np.delete(z, k, axis=1), axis=1) for k in range(z.shape[1])]
    return np.stack(columns, axis=1)


def _finite(z: Floats) -> None:
    if (wrong := ~np.isfinite(z)).any():
        refuse("X", z, wrong, "a finite logit, or a probability above 0 and below 1")


def _complete(y: NDArray[np.int64], w: Floats, classes: int) -> None:
    missing = np.bincount(y, w, classes) == 0
    if missing.any():
        raise ValueError(
            f"y has no example of class {int(missing.argmax())}, expected the classes 0 to "
            f"{classes - 1}: one class alone, or a missing one, cannot be fitted"
        )
