"""Outcomes and what was forecast of them: the arguments of every function that measures."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from celib.arguments.arrays import same_labels
from celib.arguments.errors import one_of, refuse, refuse_shape
from celib.arguments.samples import check, column, forecasts, labels, numbers, weights
from celib.stable import softmax

Floats = NDArray[Any]
Column = tuple[Floats, NDArray[np.bool_]]

KINDS = ("binary", "confidence", "classwise")


@dataclass(frozen=True, eq=False)
class Sample:
    """Labels ``y`` of shape (N), forecasts ``p`` of shape (N) or (N, C), and weights or None."""

    kind: str
    y: NDArray[Any]
    p: Floats
    w: Floats | None

    def columns(self) -> list[Column]:
        """Probabilities of events, and whether they happened; "classwise" has C such columns."""
        y, p = self.y, self.p
        if self.kind == "binary":
            return [(p, y == 1)]
        if self.kind == "confidence" and p.ndim == 1:
            return [(np.maximum(p, 1.0 - p), (p > 0.5) == (y == 1))]
        if self.kind == "confidence":
            return [(p.max(1), p.argmax(1) == y)]
        return [(p[:, k], y == k) for k in range(p.shape[1])]


def sample(
    y_true: ArrayLike,
    y_prob: ArrayLike | None,
    logits: ArrayLike | None,
    kind: str | None,
    sample_weight: ArrayLike | None,
) -> Sample:
    """The labels, the probabilities and the kind that the arguments stand for."""
    one_of("kind", kind, (None, *KINDS))
    if (y_prob is None) == (logits is None):
        found = "both" if logits is not None else "neither"
        raise ValueError(f"expected one of y_prob and logits: {found} given")
    if y_prob is not None:
        y, p, w = forecasts(y_true, y_prob, sample_weight)
    else:
        same_labels({"logits": logits, "y_true": y_true, "sample_weight": sample_weight})
        p = _of_logits(logits)
        y = labels("y_true", y_true, p.shape[0], 2 if p.ndim == 1 else p.shape[1])
        w = weights(sample_weight, p.shape[0])
    if w is not None and not w.all():  # what has no weight is not there
        y, p, w = y[w > 0], p[w > 0], w[w > 0]
    if p.ndim == 1:
        if kind == "classwise":
            p = np.stack([1.0 - p, p], axis=1)
        return Sample(kind or "binary", y, p, w)
    allowed = "'confidence' or 'classwise'" + (" or 'binary'" if p.shape[1] == 2 else "")
    if kind is None or (kind == "binary" and p.shape[1] != 2):
        refuse("kind", (), repr(kind), f"{allowed} for shape {p.shape}")
    return Sample(kind, y, p[:, 1] if kind == "binary" else p, w)


def events(
    y_true: ArrayLike,
    y_prob: ArrayLike | None,
    logits: ArrayLike | None,
    kind: str | None,
    sample_weight: ArrayLike | None,
) -> tuple[Floats, NDArray[np.bool_], Floats | None]:
    """One probability for each row, whether its event happened, and the weights."""
    if kind == "classwise":
        one_of("kind", kind, ("binary", "confidence"))
    given = sample(y_true, y_prob, logits, kind, sample_weight)
    (p, hit) = given.columns()[0]
    return p, hit, given.w


def _of_logits(given: Any) -> Floats:
    z = column(numbers("logits", given)).astype(np.float64, copy=False)
    if z.ndim not in (1, 2):
        refuse_shape("logits", z.shape, "(N) or (N, C)")
    p: Floats = expit(z) if z.ndim == 1 else softmax(z)
    # A whole row is NaN where one logit is to blame.
    wrong = np.isnan(p) & ~np.isfinite(z)
    check("logits", z, wrong, "a logit of a softmax: no NaN, no two inf, not -inf alone")
    warn_of_probabilities("logits", z, "pass them as y_prob")
    return p


def warn_of_probabilities(name: str, z: Floats, instead: str) -> None:
    """Warn if what is called logits may be probabilities: no value can contradict that."""
    if z.min() >= 0.0 and z.max() <= 1.0:
        warnings.warn(
            f"every value of {name}, which is said to be logits, lies in [0, 1]: if they are "
            f"probabilities, {instead}",
            UserWarning,
            stacklevel=2,
        )
