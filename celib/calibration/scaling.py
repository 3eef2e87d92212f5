"""Maps that repair probabilities, as estimators of scikit-learn."""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq, minimize
from scipy.special import expit, log_expit, log_softmax, logsumexp, softmax
from sklearn.base import BaseEstimator, ClassifierMixin, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, check_is_fitted, column_or_1d, validate_data

from celib.arguments import arrays
from celib.arguments.errors import non_negative, number, one_of, refuse, refuse_dtype, refuse_shape
from celib.arguments.samples import check, column, numbers, probabilities, weights
from celib.calibration.inputs import Floats, warn_of_probabilities
from celib.calibration.isotonic import Levels


class _Calibrator(OneToOneFeatureMixin, TransformerMixin, ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """What the four have in common: the columns of ``X`` are classes, in the order of their labels.

    ``X`` of shape (N) or (N, 1) is about the second of two classes; of shape (N, C), about C
    classes. It comes in what :mod:`celib.arguments` lets in, and is judged by its tolerance; where
    scikit-learn asks more of an estimator (which errors it raises for complex numbers, for arrays
    of other dimensions, or without rows), that holds.

    ``classes_`` are the labels of the columns. If ``y`` has as many distinct labels as there are
    columns, they are these in sorted order, of any kind, as everywhere in scikit-learn. If it has
    fewer, which column is missing cannot be told from them: the labels then have to be the integers
    0 to C - 1 (or the booleans), each that of its column.
    """

    def __init__(self, *, input: str = "logits", clip: float | None = None) -> None:
        self.input = input
        self.clip = clip

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit the map to held-out predictions X and the classes y that came."""
        arrays.same_labels({"X": X, "y": y, "sample_weight": sample_weight})
        z = self._logits(self._columns(X, reset=True))
        target = self._encode(y, z)
        w = weights(sample_weight, target.size)
        if self.input == "logits":
            warn_of_probabilities("X", z, f"use {type(self).__name__}(input='probs')")
        if w is None:
            self._fit(z, target, np.ones(target.size))
        else:  # what has no weight is not there: its class may even have probability 0
            self._fit(z[w > 0], target[w > 0], w[w > 0])
        return self

    def predict_proba(self, X: ArrayLike) -> Floats:
        """Calibrated probabilities of all classes, shape (N, C), in the order of ``classes_``."""
        return self._probabilities(self._seen(X))

    def predict_log_proba(self, X: ArrayLike) -> Floats:
        """Their logarithms, which keep their digits where a probability rounds to 0 or 1."""
        return self._log_probabilities(self._seen(X))

    def transform(self, X: ArrayLike) -> Floats:
        """Calibrated probabilities in the shape of X."""
        check_is_fitted(self)
        x = self._columns(X, reset=False)
        p = self._probabilities(self._logits(x))
        return p if x.ndim == 2 and x.shape[1] > 1 else p[:, 1].reshape(x.shape)

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The label of the greatest calibrated probability."""
        best = self.predict_proba(X).argmax(1)
        result: NDArray[Any] = self.classes_[best]
        return result

    def get_feature_names_out(self, input_features: ArrayLike | None = None) -> NDArray[Any]:
        """The names of the columns of X; "x0" if it had none, and no second axis."""
        check_is_fitted(self)
        if hasattr(self, "n_features_in_"):
            names: NDArray[Any] = super().get_feature_names_out(input_features)
            return names
        return np.array(["x0"], dtype=object)

    def _seen(self, X: ArrayLike) -> Floats:
        check_is_fitted(self)
        return self._logits(self._columns(X, reset=False))

    def _columns(self, X: ArrayLike, *, reset: bool) -> Floats:
        """X as an array, in its own dtype where that is one of numbers, its columns counted."""
        found = arrays.values("X", X)
        if not isinstance(found, np.ndarray):
            found = numbers("X", found)
        # scikit-learn would read numbers from text.
        text = found.dtype.kind == "O" and any(isinstance(v, str) for v in found.flat)
        if text or found.dtype.kind in "USMm":
            refuse_dtype("X", found.dtype)
        for known in ("n_features_in_", "feature_names_in_"):
            if reset and hasattr(self, known):
                delattr(self, known)
        # With axes of their own, classes are the features of scikit-learn, and it counts them.
        features = found.ndim != 1 or hasattr(self, "n_features_in_")
        x: Floats = check_array(
            found,
            dtype=np.float64,
            ensure_2d=features,
            ensure_all_finite=False,
            input_name="X",
            estimator=self,
        )
        if features:
            validate_data(self, X, reset=reset, skip_check_array=True)
        if not reset and not hasattr(self, "n_features_in_") and x.size != x.shape[0]:
            refuse_shape("X", x.shape, "(N) or (N, 1), as in fit")
        return found if found.dtype.kind in "biuf" else x

    def _logits(self, x: Floats) -> Floats:
        """Log-odds of shape (N) or log-probabilities up to a constant of shape (N, C)."""
        one_of("input", self.input, ("logits", "probs"))
        if self.input == "probs":
            return _of_probabilities(x, self.clip)
        if self.clip is not None:
            refuse("clip", (), self.clip, "None for input = 'logits'")
        z = column(x).astype(np.float64, copy=False)
        # Log-odds of inf are certainty, as those of -inf; in a softmax two of them are nothing.
        wrong = np.isnan(z) if z.ndim == 1 else np.isnan(z) | (z == np.inf)
        check("X", z, wrong, "a logit: not NaN" + ("" if z.ndim == 1 else ", not inf"))
        if z.ndim == 2 and (gone := np.isneginf(z).all(1)).any():
            refuse("X", (int(gone.argmax()),), "-inf in every class", "a class that is possible")
        return z

    def _encode(self, y: Any, z: Floats) -> NDArray[np.int64]:
        """The columns of the labels y; sets ``classes_``."""
        if y is None:
            raise ValueError("requires y to be passed, but the target y is None")
        y = arrays.values("y", y)
        if not isinstance(y, np.ndarray):
            y = numbers("y", y)
        y = column_or_1d(y, warn=True)
        if y.shape != z.shape[:1]:
            refuse_shape("y", y.shape, f"({z.shape[0]},)")
        if y.dtype.kind == "f":
            # Not NaN and whole; the words before the first colon are scikit-learn's.
            check("Unknown label type: y", y, y != np.floor(y), "a class")
        check_classification_targets(y)
        columns = 2 if z.ndim == 1 else z.shape[1]
        found, which = np.unique(y, return_inverse=True)
        if found.size > columns:
            raise ValueError(
                f"y has {found.size} distinct labels: expected no more than {columns}, the classes "
                f"that X of shape {z.shape} is about"
            )
        if found.size == columns:
            self.classes_: NDArray[Any] = found
            return np.asarray(which, dtype=np.int64)
        if y.dtype.kind == "b":
            self.classes_ = np.array([False, True])
            return np.asarray(y, dtype=np.int64)
        expected = f"a class from 0 to {columns - 1}, since y has {found.size} labels of {columns}"
        if y.dtype.kind not in "iuf":
            refuse("y", (0,), repr(y[0]), expected)
        check("y", y, (y < 0) | (y >= columns), expected)
        self.classes_ = np.arange(columns)
        return np.asarray(y, dtype=np.int64)

    def _fit(self, z: Floats, y: NDArray[np.int64], w: Floats) -> None:
        """Fit to logits z and columns y, whose weights w are above 0."""
        raise NotImplementedError

    def _probabilities(self, z: Floats) -> Floats:
        raise NotImplementedError

    def _log_probabilities(self, z: Floats) -> Floats:
        raise NotImplementedError

    def _finite(self, z: Floats) -> None:
        """Refuse what a straight line of the logits cannot be fitted to."""
        if self.input == "logits":
            check("X", z, ~np.isfinite(z), "a finite logit")
        # Of the logits of probabilities only those of 0 and 1 are infinite.
        p = np.exp(np.minimum(z, 0.0))
        check("X", p, ~np.isfinite(z), f"a probability above 0 and below 1, {_CLIP}")

    def _complete(self, y: NDArray[np.int64], w: Floats) -> None:
        missing = np.bincount(y, w, self.classes_.size) == 0
        if missing.any():
            label = self.classes_[int(missing.argmax())]
            raise ValueError(
                f"y has no example of class {label}: expected some of each of the "
                f"{self.classes_.size}, since one class alone, or a missing one, cannot be fitted"
            )


# What to do about probabilities of 0.
_CLIP = "or clip=1e-6, say, to let none be smaller"


def _of_probabilities(x: Floats, clip: float | None) -> Floats:
    p = probabilities("X", x).astype(np.float64, copy=False)
    if clip is not None:
        most = 1.0 / max(p.shape[1:], default=2)
        least = number("clip", clip, lambda c: 0 < c < most, f"None, or between 0 and {most:.3g}")
        if p.ndim == 1:
            p = p.clip(least, 1.0 - least)
        else:
            p = np.maximum(p, least)
            p = p / p.sum(1, keepdims=True)
    with np.errstate(divide="ignore"):
        z: Floats = np.log(p) if p.ndim == 2 else np.log(p) - np.log1p(-p)
    return z


class TemperatureScaling(_Calibrator):
    r"""One temperature for all logits, :math:`\mathrm{softmax}(z / T)`, with its proof.

    Use it first for a network trained by cross-entropy: one number is fitted, so few examples are
    enough, and no prediction changes its class. It cannot mend a class that is predicted too often;
    :class:`VectorScaling` can.

    The mean log score is convex in :math:`\beta = 1 / T` (equation ``eq-temperature-fit``), so the
    sign of its derivative on both sides of a point proves that a minimum is between. Log-odds z of
    shape (N) are divided alike: :math:`\sigma(z / T)`. The class of the greatest probability does
    not change.

    Args:
        input: "logits" or "probs" (whose logarithms are taken), keyword only.
        clip: with "probs", what counts as the least probability, such as 1e-6: smaller ones are
            raised to it, and the rows divided by their sums; of one number p, 1 - p likewise. None
            leaves a probability of 0, which no temperature can mend if it comes.

    Attributes:
        classes_: the labels of the columns.
        temperature_: T, always positive.
        bracket_: two values of beta around 1 / T.
        derivative_: the derivative of the mean log score with respect to beta at these, the first
            negative and the second at least 0, unless ``at_bound_``.
        converged_: whether the bracket holds the minimum; false only with ``at_bound_``.
        at_bound_: whether no minimum exists at a positive and finite beta.
        status_: "optimal"; "separable": every logit of the true class is greatest in its row, and
            every greater beta is better; "uninformative": no beta beats 0, the uniform
            distribution. T is then 1e-4 or 1e4 times the widest difference of a row's logits.

    Raises:
        TypeError: X, y or the weights are of a type or dtype that :mod:`celib.arguments` refuses.
        ValueError: as for :func:`celib.calibration.calibration_error`; a true class has probability
            0 (a logit of ``-inf``), which no temperature can mend; or the labels are not such as
            the columns allow.

    Warns:
        UserWarning: with ``input="logits"``, if every value of X lies in [0, 1], as the
            ``predict_proba`` of a classifier does.

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
            remedy = f", {_CLIP}" if self.input == "probs" else ""
            expected = f"a class that X[{row}] gives a probability above 0{remedy}"
            refuse("y", (row,), self.classes_[y[row]], expected)
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
        if derivative(0.0) >= 0 or scale < np.finfo(np.float64).tiny:
            self.status_ = "uninformative"
            beta = 1e-4 / scale if scale > 1e-300 else 1.0
            self.bracket_: tuple[float, float] = (0.0, beta)
        elif bool((gap <= 0).all()):
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

    def _log_probabilities(self, z: Floats) -> Floats:
        if z.ndim == 1:
            return _log_both(z / self.temperature_)
        result: Floats = log_softmax(z / self.temperature_, axis=1)
        return result


class VectorScaling(_Calibrator):
    r"""A factor and an offset for each class, :math:`\mathrm{softmax}(a \odot z + b)`.

    Use it when some classes are predicted too often or too rarely and there are examples enough for
    two numbers per class. With fewer examples use :class:`TemperatureScaling`, or a penalty ``l2``.

    Maximum likelihood, a convex problem. The offsets are fixed to sum to 0. Log-odds of shape (N)
    are the logits (0, z) of two classes. The factors see what softmax does not: with logits that
    differ by a constant of each row, such as log-probabilities, it is another model.

    With ``l2``, :math:`\frac{\lambda}{2} (\lVert a - 1 \rVert^2 + \lVert b \rVert^2)` is added to
    the sum (not the mean) of the log scores. The result is then the most probable one after these
    examples if before them every factor is normal around 1, every offset around 0, and all with
    variance :math:`1 / \lambda`: without a penalty the logits are free, and with a large one they
    stay as they are.

    Args:
        input, clip: as for :class:`TemperatureScaling`.
        l2: :math:`\lambda`, at least 0.

    Attributes:
        scale_: a, shape (C).
        offset_: b, shape (C).
        gradient_: the greatest absolute derivative of the objective, divided by the total weight,
            at the result, with respect to a times the spread of the logits and to b.
        converged_: whether that is below 1e-6.
        at_bound_: whether the examples are separated, so that no maximum exists: the mean log
            score at the result is below 1e-6, and there is no penalty.

    Raises: as for :class:`TemperatureScaling`; ValueError also if a logit is not finite, or
        if without a penalty a class has no example in y.

    Source: Guo et al. (2017), arXiv:1706.04599.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> z = rng.standard_normal((4000, 3))
        >>> y = (z + rng.gumbel(size=z.shape)).argmax(1)
        >>> fit = VectorScaling().fit(z * [1, 2, 5], y)
        >>> [round(a, 1) for a in fit.scale_.tolist()], fit.converged_
        ([1.0, 0.5, 0.2], True)
        >>> VectorScaling(l2=1e9).fit(z * [1, 2, 5], y).scale_.round(3).tolist()
        [1.0, 1.0, 1.0]
    """

    def __init__(
        self, *, input: str = "logits", clip: float | None = None, l2: float = 0.0
    ) -> None:
        super().__init__(input=input, clip=clip)
        self.l2 = l2

    def _fit(self, z: Floats, y: NDArray[np.int64], w: Floats) -> None:
        penalty = float(non_negative("l2", self.l2)) / float(w.sum())
        self._finite(z)
        z = _two(z)
        if not penalty:
            self._complete(y, w)
        n, c = z.shape
        share = w / w.sum()
        spread = _spread(z)
        # What is a million units away is masked, and as far away as it needs to be.
        x = (z / spread).clip(-1e6, 1e6)
        hot = np.zeros((n, c))
        hot[np.arange(n), y] = 1.0

        def objective(parameters: Floats) -> tuple[float, Floats]:
            a, b = parameters[:c], parameters[c:]
            logits = a * x + b
            lse = logsumexp(logits, axis=1)
            residual = share[:, None] * (np.exp(logits - lse[:, None]) - hot)
            value = float(share @ (lse - (logits * hot).sum(1)))
            gradient = np.concatenate([(residual * x).sum(0), residual.sum(0)])
            away = np.concatenate([a / spread - 1.0, b])
            value += penalty / 2 * float(away @ away)
            return value, gradient + penalty * away / np.concatenate([spread, np.ones(c)])

        start = np.concatenate([spread, np.zeros(c)])
        options = {"maxiter": 2000, "maxfun": 4000, "ftol": 1e-15, "gtol": 1e-9}
        found = minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
        a, b = found.x[:c], found.x[c:]
        self.scale_: Floats = a / spread
        self.offset_: Floats = b - b.mean()
        value, gradient = objective(found.x)
        self.gradient_ = float(np.abs(gradient).max())
        self.converged_ = self.gradient_ < 1e-6
        self.at_bound_ = value < 1e-6 and not penalty

    def _probabilities(self, z: Floats) -> Floats:
        result: Floats = softmax(self._scaled(z), axis=1)
        return result

    def _log_probabilities(self, z: Floats) -> Floats:
        result: Floats = log_softmax(self._scaled(z), axis=1)
        return result

    def _scaled(self, z: Floats) -> Floats:
        self._finite(z)
        scaled: Floats = self.scale_ * _two(z) + self.offset_
        return scaled


class PlattScaling(_Calibrator):
    r"""A logistic curve of the log-odds, :math:`\sigma(a z + b)`.

    Use it for scores of a binary classifier that were never probabilities, such as the margin of a
    support vector machine. For a network trained by cross-entropy try :class:`TemperatureScaling`
    first, and where the curve has another shape :class:`IsotonicCalibration`.

    For C classes, one curve for each class, of its log-odds against the rest, and the C results
    divided by their sum.

    Args:
        input, clip: as for :class:`TemperatureScaling`.
        prior: whether the targets are Platt's :math:`(N_+ + 1) / (N_+ + 2)` and
            :math:`1 / (N_- + 2)`, as in scikit-learn, instead of 1 and 0. They keep a and b finite
            where the classes are separated.

    Attributes:
        slope_: a, shape (1) for two classes and (C) for more.
        offset_: b, of the same shape.
        gradient_: the greatest absolute derivative of the mean log scores at the result.
        converged_: whether that is below 1e-8.

    Raises: as for :class:`VectorScaling` without a penalty; ValueError also if without
        ``prior`` the classes are separated.

    Source: Platt (1999), Advances in Large Margin Classifiers; Lin, Lin and Weng (2007),
        doi:10.1007/s10994-007-5018-6.

    Example: separated classes have a finite curve.
        >>> fit = PlattScaling().fit([-2.0, -1.0, 1.0, 2.0], [0, 0, 1, 1])
        >>> [round(p, 4) for p in fit.transform([-2.0, 0.0, 2.0]).tolist()]
        [0.2062, 0.5, 0.7938]
    """

    def __init__(
        self, *, input: str = "logits", clip: float | None = None, prior: bool = True
    ) -> None:
        super().__init__(input=input, clip=clip)
        self.prior = prior

    def _fit(self, z: Floats, y: NDArray[np.int64], w: Floats) -> None:
        self._finite(z)
        self._complete(y, w)
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
            one, zero = z[hit], z[~hit]
            apart = one.min() >= zero.max() or one.max() <= zero.min()
            if apart and np.ptp(z) > 0:
                raise ValueError("y is separated by X: expected prior = True, or classes that mix")
        spread = float(_spread(z))
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
        t = self._curves(z)
        if t.shape[1] == 1:
            return _both(t[:, 0])
        result: Floats = softmax(log_expit(t), axis=1)
        return result

    def _log_probabilities(self, z: Floats) -> Floats:
        t = self._curves(z)
        if t.shape[1] == 1:
            return _log_both(t[:, 0])
        result: Floats = log_softmax(log_expit(t), axis=1)
        return result

    def _curves(self, z: Floats) -> Floats:
        self._finite(z)
        curves: Floats = self.slope_ * _log_odds(z) + self.offset_
        return curves


class IsotonicCalibration(_Calibrator):
    """The monotone step function of the probability that fits best.

    Use it when there are many examples and nothing is known about the shape of the distortion. With
    few it fits noise. A step of 0 or 1 costs an infinite log score at the first exception, which
    ``clip`` prevents. :class:`PlattScaling` and :class:`TemperatureScaling` need fewer examples.

    scikit-learn's ``IsotonicRegression`` of the outcomes on the probabilities, with its linear
    interpolation between the steps; logits whose probabilities round to 0 or 1 keep their order.
    For C classes, one for each class against the rest, and the C
    results divided by their sum; where all of them are 0 the result is uniform.

    Args:
        input, clip: as for :class:`TemperatureScaling`; probabilities of 0 need no ``clip`` here.

    Attributes:
        classes_: the labels of the columns.
        regressions_: the fitted ``IsotonicRegression``: one for two classes, C for more.

    Raises: as for :class:`TemperatureScaling`; ValueError also if a class has no example in
        y.

    Source: Zadrozny and Elkan (2002), doi:10.1145/775047.775151.

    Example: probabilities in the wrong order are averaged.
        >>> fit = IsotonicCalibration(input="probs").fit([0.1, 0.4, 0.6, 0.9], [0, 1, 0, 1])
        >>> fit.transform([0.1, 0.4, 0.5, 0.9]).tolist()
        [0.0, 0.5, 0.5, 1.0]
    """

    def _fit(self, z: Floats, y: NDArray[np.int64], w: Floats) -> None:
        self._complete(y, w)
        p = _places(z)
        first = self.classes_.size - p.shape[1]
        levels = [Levels.of(one, w) for one in p.T]
        self.regressions_ = [
            one.regression(one.sums(w * (y == first + k))) for k, one in enumerate(levels)
        ]

    def _probabilities(self, z: Floats) -> Floats:
        p = _places(z)
        fitted = [one.predict(p[:, k]) for k, one in enumerate(self.regressions_)]
        if len(fitted) == 1:
            return np.stack([1.0 - fitted[0], fitted[0]], axis=1)
        result = np.stack(fitted, axis=1)
        result[result.sum(1) == 0] = 1.0
        result /= result.sum(1, keepdims=True)
        return result

    def _log_probabilities(self, z: Floats) -> Floats:
        with np.errstate(divide="ignore"):
            result: Floats = np.log(self._probabilities(z))
        return result


def _spread(z: Floats) -> Floats:
    """A unit for each column, in which its logits are about 1 apart.

    From the quartiles: a few logits of -1e9, such as of masked classes, do not enter it.
    """
    low, high = np.quantile(z, [0.25, 0.75], axis=0)
    wide = np.where(high > low, high - low, z.std(axis=0))
    result: Floats = np.where(wide > 0, wide, 1.0)
    return result


def _both(t: Floats) -> Floats:
    return np.stack([expit(-t), expit(t)], axis=1)


def _log_both(t: Floats) -> Floats:
    return np.stack([log_expit(-t), log_expit(t)], axis=1)


def _two(z: Floats) -> Floats:
    return np.stack([np.zeros_like(z), z], axis=1) if z.ndim == 1 else z


def _places(z: Floats) -> Floats:
    """Probabilities as places on a line, in order also where they round to 0 or to 1.

    One column for two classes, C for more. Beyond log-odds of 30 in size the line goes on, with a
    slope that is too small to be seen between probabilities.
    """
    odds = _log_odds(z).clip(-1e6, 1e6)
    beyond = np.sign(odds) * np.maximum(np.abs(odds) - 30.0, 0.0)
    places: Floats = expit(odds) + 1e-9 * beyond
    return places


def _log_odds(z: Floats) -> Floats:
    """Log-odds of each class against the rest: one column for two classes, C for more."""
    if z.ndim == 1:
        return z[:, None]
    if z.shape[1] == 2:
        return z[:, 1:] - z[:, :1]
    columns = [z[:, k] - logsumexp(np.delete(z, k, axis=1), axis=1) for k in range(z.shape[1])]
    return np.stack(columns, axis=1)
