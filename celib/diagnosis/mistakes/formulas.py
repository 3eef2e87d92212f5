"""The mistakes that a loss can have, each as a way of making it.

A formula makes a mistake in the loss of a row, a reduction makes one in what becomes of the rows,
and a slope makes one in the gradient alone. What no formula makes, such as a result that is no
number, is seen in :mod:`celib.diagnosis.losses`. What is said of each is in
:mod:`celib.diagnosis.mistakes.texts`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from celib.diagnosis.mistakes.probes import AHEAD, BEHIND, Probe, Setting, share_of_others
from celib.losses import binary_cross_entropy_with_logits, cross_entropy

# The loss of a row.

Seen = Callable[[str], float]  # what the loss in question returned for a probe of one row
Rows = Callable[..., Tensor]


@dataclass(frozen=True)
class Formula:
    """A way of computing the loss of each row from the logits and the truth."""

    causes: tuple[str, ...]
    says: str  #: in symbols or words; {0} is the parameter
    rows: Rows
    fit: Callable[[Seen, int], Any] | None = None  #: the parameter that fits, from what was seen

    def parameters(self, seen: Seen, classes: int) -> list[tuple[float, ...]]:
        """The parameters to try: none, or what fits, as people would write it and as it is."""
        if self.fit is None:
            return [()]
        try:
            found = self.fit(seen, classes)
        except (ArithmeticError, ValueError):  # no parameter gives what was seen
            return []
        found = found if isinstance(found, tuple) else (found,)
        if not all(map(math.isfinite, found)):
            return []
        short = tuple(map(_round, found))
        return [short, found]


def right(z: Tensor, t: Tensor) -> Tensor:
    """The cross-entropy of each row of logits and probabilities."""
    return F.cross_entropy(z, t, reduction="none")


def right_binary(z: Tensor, y: Tensor) -> Tensor:
    """The cross-entropy of each logit and probability of yes."""
    return F.binary_cross_entropy_with_logits(z, y, reduction="none")


def _exactly(z: Tensor, t: Tensor) -> Tensor:
    each: Tensor = cross_entropy(z, t, reduction="none", validate=False)
    return each


def _exactly_binary(z: Tensor, y: Tensor) -> Tensor:
    return binary_cross_entropy_with_logits(z, y, reduction="none", validate=False)


def _taken(x: Tensor, t: Tensor) -> Tensor:
    """What indexing with the label takes out of a row."""
    return torch.where(t > 0, t * x, 0.0).sum(1)


def _summed(x: Tensor, t: Tensor) -> Tensor:
    """What multiplying by a one-hot row takes: an infinite entry beside it gives NaN."""
    return (t * x).sum(1)


def _share(z: Tensor) -> Tensor:
    e = z.exp()
    return e / e.sum(1, keepdim=True)


def _p(z: Tensor) -> Tensor:
    return z.softmax(1)


def _lp(z: Tensor) -> Tensor:
    return z.log_softmax(1)


def _mix(t: Tensor, e: float) -> Tensor:
    return (1 - e) * t + e / t.shape[1]


def _mix_others(t: Tensor, e: float) -> Tensor:
    return (1 - e) * t + e / (t.shape[1] - 1) * (1 - t)


def _focal(z: Tensor, t: Tensor, gamma: float, factor: float = 1.0) -> Tensor:
    return -factor * _taken((1 - _p(z)) ** gamma * _lp(z), t)


def _hinge_sum(z: Tensor, t: Tensor, power: int = 1) -> Tensor:
    margin = (1 + z - (t * z).sum(1, keepdim=True)).clamp(min=0)
    return (margin**power * (1 - t)).sum(1)


def _hinge_max(z: Tensor, t: Tensor) -> Tensor:
    other = torch.where(t > 0, -math.inf, z).amax(1)
    return F.relu(1 + other - _taken(z, t))


def _errors(z: Tensor, t: Tensor) -> Tensor:
    return 1 - _taken(F.one_hot(z.argmax(1), z.shape[1]).to(z.dtype), t)


def _each(z: Tensor, t: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(z, t, reduction="none")


def _each_of_p(z: Tensor, t: Tensor) -> Tensor:
    return F.binary_cross_entropy(_p(z), t, reduction="none")


def _table(z: Tensor, t: Tensor) -> Tensor:
    """The log-sum-exp of every row with the target of every row."""
    return z.logsumexp(1)[:, None] - _taken(z, t)[None]


def _table_of_lp(z: Tensor, t: Tensor) -> Tensor:
    """The log-probabilities of every row with the target of every row."""
    return -(_lp(z) @ t.T)


def _fit_eps(seen: Seen, classes: int) -> float:
    return _within(math.exp(-seen("beyond")), 1e-310, 0.5)


def _fit_bound(seen: Seen, classes: int) -> float:
    return _round(_within(seen("beyond"), 1, 2e4))


def _fit_scale(seen: Seen, classes: int) -> float:
    return _not_0(seen("behind") / math.log(classes - 1 + math.exp(BEHIND)))


def _fit_clamp(seen: Seen, classes: int) -> float:
    return _within(_log_less(seen("beyond"), 1 + share_of_others(classes)), 0.5, 2e4)


def _log_less(a: float, part: float) -> float:
    """log(exp(a) - part), of an a that may be large."""
    return a + math.log1p(-part * math.exp(-a))


def _fit_temperature(seen: Seen, classes: int) -> float:
    return math.log(math.exp(seen("behind")) - classes + 1) / BEHIND


def _fit_smoothing(seen: Seen, classes: int, others: bool = False) -> float:
    nll = math.log(classes - 1 + math.exp(BEHIND))
    mean = nll - BEHIND / (classes - others)  # of the losses of the classes that are mixed in
    return _within((seen("behind") - nll) / (mean - nll), 1e-3, 0.999)


def _fit_focal(seen: Seen, classes: int) -> float:
    nll = math.log(classes - 1 + math.exp(BEHIND))
    return _within(math.log(seen("behind") / nll) / math.log1p(-math.exp(-nll)), 0.05, 20)


def _fit_focal_scaled(seen: Seen, classes: int) -> tuple[float, float]:
    behind = math.log(classes - 1 + math.exp(BEHIND))
    ahead = math.log1p((classes - 1) * math.exp(-AHEAD))
    return _line(
        (math.log1p(-math.exp(-behind)), math.log(seen("behind") / behind)),
        (math.log1p(-math.exp(-ahead)), math.log(seen("ahead") / ahead)),
    )


def _line(one: tuple[float, float], two: tuple[float, float]) -> tuple[float, float]:
    """The slope of a line through two points, and exp of its height at 0."""
    slope = _within((two[1] - one[1]) / (two[0] - one[0]), 0.05, 20)
    return slope, math.exp(one[1] - slope * one[0])


def _within(a: float, low: float, high: float) -> float:
    return a if low < a < high else math.nan


def _round(a: float) -> float:
    """As people write a constant."""
    return float(f"{a:.2g}")


def _not_0(a: float) -> float:
    return a if abs(a) > 1e-6 else math.nan


def _indexed(cause: str, says: str, log_p: Rows, fit: Any = None) -> Formula:
    """Minus a log-probability of the target, which is finite: an index and a product agree."""
    return Formula((cause,), says, lambda z, t, *a: -_taken(log_p(z, *a), t), fit)


def _both(cause: str, says: str, log_p: Rows) -> list[Formula]:
    """Minus a log-probability that may be infinite, taken by an index or by a product."""
    summed = Formula((cause,), says, lambda z, t: -_summed(log_p(z), t))
    return [_indexed(cause, says, log_p), summed]


MULTICLASS: list[Formula] = [
    Formula((), "the right loss", right),  # of which the reduction may be wrong
    *_both("log-of-softmax", "-log(softmax(z))", lambda z: _p(z).log()),
    _indexed("exp-unshifted", "-log(exp(z) / sum(exp(z)))", lambda z: _share(z).log()),
    _indexed("global-shift", "the loss of exp(z - max(z))", lambda z: _share(z - z.max()).log()),
    _indexed(
        "global-shift",
        "log(sum(exp(z - max(z)))) - (z - max(z))",
        lambda z: z - z.max() - (z - z.max()).exp().sum(1, True).log(),
    ),
    # First those with a round bound: others have the same values for one that is not round.
    _indexed(
        "log-clamped", "-log(p).clamp(min=-{0:.4g})", lambda z, b: _lp(z).clamp(min=-b), _fit_bound
    ),
    _indexed("eps-in-log", "-log(p + {0:.3g})", lambda z, e: (_p(z) + e).log(), _fit_eps),
    _indexed(
        "p-clamped", "-log(p.clamp(min={0:.3g}))", lambda z, e: _p(z).clamp(min=e).log(), _fit_eps
    ),
    _indexed(
        "p-clamped",
        "-log(p.clamp({0:.3g}, 1 - {0:.3g}))",
        lambda z, e: _p(z).clamp(e, 1 - e).log(),
        _fit_eps,
    ),
    _indexed(
        "logits-clamped",
        "the loss of z.clamp(-{0:.4g}, {0:.4g})",
        lambda z, b: _lp(z.clamp(-b, b)),
        _fit_clamp,
    ),
    _indexed(
        "logits-clamped",
        "the loss of z.clamp(max={0:.4g})",
        lambda z, b: _lp(z.clamp(max=b)),
        _fit_clamp,
    ),
    _indexed("softmax-twice", "-log(softmax(softmax(z)))", lambda z: _lp(_p(z))),
    _indexed("sigmoid-before-softmax", "-log(softmax(sigmoid(z)))", lambda z: _lp(z.sigmoid())),
    _indexed("no-softmax", "-z", lambda z: z),
    _indexed("no-log", "-softmax(z)", _p),
    Formula(("no-log",), "1 - softmax(z)", lambda z, t: 1 - _taken(_p(z), t)),
    _indexed("softmax-axis", "-log(softmax(z, dim=0))", lambda z: z.log_softmax(0)),
    _indexed("softmax-axis", "-log(softmax(z, dim=0))", lambda z: z.softmax(0).log()),
    _indexed(
        "softmax-axis",
        "-log(softmax(z.flatten()))",
        lambda z: z.flatten().log_softmax(0).view_as(z),
    ),
    Formula(("swapped",), "-(p * log(t)).sum()", lambda z, t: -(_p(z) * t.log()).sum(1)),
    Formula(("swapped",), "-(z * log(t)).sum()", lambda z, t: -(z * t.log()).sum(1)),
    Formula(
        ("swapped",),
        "-(p * log(t + {0:.3g})).sum()",
        lambda z, t, e: -(_p(z) * (t + e).log()).sum(1),
        _fit_eps,
    ),
    Formula(
        ("swapped",),
        "the cross-entropy of logits t and target z",
        lambda z, t: -(z * _lp(t)).sum(1),
    ),
    Formula(("target-ignored",), "-(p * log(p)).sum()", lambda z, t: -(_p(z) * _lp(z)).sum(1)),
    Formula(
        ("binary-for-multiclass",), "the mean over the classes", lambda z, t: _each(z, t).mean(1)
    ),
    Formula(
        ("binary-for-multiclass",), "the sum over the classes", lambda z, t: _each(z, t).sum(1)
    ),
    Formula(
        ("binary-for-multiclass",),
        "the mean over the classes, of softmax(z)",
        lambda z, t: _each_of_p(z, t).mean(1),
    ),
    Formula(
        ("binary-for-multiclass",),
        "the sum over the classes, of softmax(z)",
        lambda z, t: _each_of_p(z, t).sum(1),
    ),
    # A mean before a sum, which would need a reduction by the number of classes.
    Formula(("squared-error",), "mean((p - t)^2)", lambda z, t: (_p(z) - t).square().mean(1)),
    Formula(("squared-error",), "sum((p - t)^2)", lambda z, t: (_p(z) - t).square().sum(1)),
    Formula(("squared-error",), "mean((z - t)^2)", lambda z, t: (z - t).square().mean(1)),
    Formula(("squared-error",), "sum((z - t)^2)", lambda z, t: (z - t).square().sum(1)),
    Formula(("hinge",), "`multi_margin_loss`", lambda z, t: _hinge_sum(z, t) / z.shape[1]),
    Formula(("hinge",), "the sum over the other classes", _hinge_sum),
    Formula(("hinge",), "the best of the other classes", _hinge_max),
    Formula(
        ("hinge",),
        "`multi_margin_loss` with p=2",
        lambda z, t: _hinge_sum(z, t, 2) / z.shape[1],
    ),
    Formula(("hinge",), "the sum of the squares", lambda z, t: _hinge_sum(z, t, 2)),
    Formula(("hinge",), "the square of the best", lambda z, t: _hinge_max(z, t).square()),
    Formula(("perplexity",), "1 / p", lambda z, t: right(z, t).exp()),
    Formula(("argmax-inside",), "argmax(z) != target", _errors),
    _indexed("argmax-inside", "-log(round(softmax(z)))", lambda z: _p(z).round().log()),
    Formula(("labels-shifted",), "the class before", lambda z, t: right(z, t.roll(-1, 1))),
    Formula(("labels-shifted",), "the class after", lambda z, t: right(z, t.roll(1, 1))),
    Formula(("kl",), "KL(t || p)", lambda z, t: right(z, t) - torch.special.entr(t).sum(1)),
    # Its mean is right: the mean of all differences is the difference of the means.
    Formula(("broadcast",), "the sum of an (N, N) table", lambda z, t: _table(z, t).sum(1)),
    Formula(("broadcast",), "the mean of an (N, N) table", lambda z, t: _table_of_lp(z, t).mean(1)),
    Formula(("broadcast",), "the sum of an (N, N) table", lambda z, t: _table_of_lp(z, t).sum(1)),
    # With a parameter, the strange numbers: last, because they fit more.
    Formula(("wrong-sign",), "log(p)", lambda z, t: -right(z, t)),
    Formula(("base-2",), "-log2(p)", lambda z, t: right(z, t) / math.log(2)),
    Formula(("base-10",), "-log10(p)", lambda z, t: right(z, t) / math.log(10)),
    Formula(
        ("label-smoothing",),
        "the loss with label_smoothing={0:.3g}",
        lambda z, t, e: right(z, _mix(t, e)),
        _fit_smoothing,
    ),
    Formula(
        ("label-smoothing",),
        "the loss with the target {0:.3g} spread over the other classes",
        lambda z, t, e: right(z, _mix_others(t, e)),
        lambda seen, classes: _fit_smoothing(seen, classes, others=True),
    ),
    Formula(
        ("temperature",),
        "the loss of {0:.4g} * z",
        lambda z, t, a: right(a * z, t),
        _fit_temperature,
    ),
    Formula(("focal",), "(1 - p)^{0:.3g} * -log(p)", _focal, _fit_focal),
    Formula(("focal",), "{1:.3g} * (1 - p)^{0:.3g} * -log(p)", _focal, _fit_focal_scaled),
    Formula(
        ("scaled",), "{0:.4g} times the right loss", lambda z, t, k: k * right(z, t), _fit_scale
    ),
    # Two at once.
    Formula(
        ("exp-unshifted", "eps-in-log"),
        "-log(exp(z) / sum(exp(z)) + {0:.3g})",
        lambda z, t, e: -_taken((_share(z) + e).log(), t),
        _fit_eps,
    ),
]


# The loss of a yes or no. The arguments of `_sides` are log p and log(1 - p).


def _chosen(cause: str, says: str, log_yes: Rows, log_no: Rows, fit: Any = None) -> Formula:
    """The side of the answer, both of which are finite: a choice and a product agree."""

    def rows(z: Tensor, y: Tensor, *a: float) -> Tensor:
        return -torch.where(y > 0, log_yes(z, *a), log_no(z, *a))

    return Formula((cause,), says, rows, fit)


def _sides(cause: str, says: str, log_yes: Rows, log_no: Rows, fit: Any = None) -> list[Formula]:
    """The side of the answer, chosen by it or by a product with it: 0 * inf is NaN."""

    def summed(z: Tensor, y: Tensor, *a: float) -> Tensor:
        return -(y * log_yes(z, *a) + (1 - y) * log_no(z, *a))

    return [_chosen(cause, says, log_yes, log_no, fit), Formula((cause,), says, summed, fit)]


def _softplus_naive(z: Tensor) -> Tensor:
    return (1 + z.exp()).log()


def _p_right(z: Tensor, y: Tensor) -> Tensor:
    return torch.where(y > 0, z.sigmoid(), (-z).sigmoid())


def _focal_binary(z: Tensor, y: Tensor, gamma: float, yes: float, no: float) -> Tensor:
    factor = torch.where(y > 0, yes, no)
    return factor * (1 - _p_right(z, y)) ** gamma * right_binary(z, y)


def _weighted(z: Tensor, y: Tensor, v: float) -> Tensor:
    return torch.where(y > 0, v, 1.0) * right_binary(z, y)


def _table_of_yes(z: Tensor, y: Tensor) -> Tensor:
    """Every logit with every answer."""
    return right_binary(z[:, None].expand(-1, len(y)), y.expand(len(z), -1))


_LOST = math.log1p(math.exp(BEHIND))  # the loss of "behind", and that of "ahead"
_WON = math.log1p(math.exp(-AHEAD))


def _fit_scale_binary(seen: Seen, classes: int) -> float:
    return _not_0(seen("behind, no") / _LOST)


def _fit_clamp_binary(seen: Seen, classes: int) -> float:
    return _round(_within(_log_less(seen("beyond"), 1), 0.5, 2e4))


def _fit_temperature_binary(seen: Seen, classes: int) -> float:
    return math.log(math.expm1(seen("behind, no"))) / BEHIND


def _fit_pos_weight(seen: Seen, classes: int) -> float:
    return seen("behind") / _LOST


def _fit_smoothing_binary(seen: Seen, classes: int) -> float:
    return _within((_LOST - seen("behind")) / (BEHIND / 2), 1e-3, 0.999)


def _fit_focal_binary(seen: Seen, classes: int) -> tuple[float, float]:
    return _line(
        (math.log1p(-math.exp(-_LOST)), math.log(seen("behind") / _LOST)),
        (math.log1p(-math.exp(-_WON)), math.log(seen("ahead") / _WON)),
    )


BINARY: list[Formula] = [
    *_sides(
        "log-of-sigmoid",
        "-log(sigmoid(z)), -log(sigmoid(-z))",
        lambda z: z.sigmoid().log(),
        lambda z: (-z).sigmoid().log(),
    ),
    *_sides(
        "one-minus-sigmoid",
        "-log(sigmoid(z)), -log(1 - sigmoid(z))",
        lambda z: z.sigmoid().log(),
        lambda z: (1 - z.sigmoid()).log(),
    ),
    *_sides(
        "one-minus-sigmoid",
        "-logsigmoid(z), -log(1 - sigmoid(z))",
        F.logsigmoid,
        lambda z: (1 - z.sigmoid()).log(),
    ),
    Formula(
        ("naive-softplus",), "log(1 + exp(z)) - y * z", lambda z, y: _softplus_naive(z) - y * z
    ),
    Formula(
        ("naive-softplus",),
        "log(1 + exp(-z)) + (1 - y) * z",
        lambda z, y: _softplus_naive(-z) + (1 - y) * z,
    ),
    Formula(
        ("bce-on-sigmoid",),
        "`binary_cross_entropy(sigmoid(z), y)`",
        lambda z, y: F.binary_cross_entropy(z.sigmoid(), y, reduction="none"),
    ),
    # First those with a round bound: others have the same values for one that is not round.
    _chosen(
        "log-clamped",
        "-log(p).clamp(min=-{0:.4g}), or with z.clamp(-{0:.4g}, {0:.4g})",
        lambda z, b: z.sigmoid().log().clamp(min=-b),
        lambda z, b: (1 - z.sigmoid()).log().clamp(min=-b),
        _fit_bound,
    ),
    _chosen(
        "log-clamped",
        "-logsigmoid(z).clamp(min=-{0:.4g}), or with z.clamp(-{0:.4g}, {0:.4g})",
        lambda z, b: F.logsigmoid(z).clamp(min=-b),
        lambda z, b: F.logsigmoid(-z).clamp(min=-b),
        _fit_bound,
    ),
    Formula(
        ("logits-clamped",),
        "the loss of z.clamp(-{0:.4g}, {0:.4g})",
        lambda z, y, b: right_binary(z.clamp(-b, b), y),
        _fit_clamp_binary,
    ),
    _chosen(
        "eps-in-log",
        "-log(p + {0:.3g}), -log(1 - p + {0:.3g})",
        lambda z, e: (z.sigmoid() + e).log(),
        lambda z, e: (1 - z.sigmoid() + e).log(),
        _fit_eps,
    ),
    *_sides(
        "p-clamped",
        "p.clamp({0:.3g}, 1 - {0:.3g}) in place of p",
        lambda z, e: z.sigmoid().clamp(e, 1 - e).log(),
        lambda z, e: (1 - z.sigmoid().clamp(e, 1 - e)).log(),
        _fit_eps,
    ),
    _chosen(
        "p-clamped",
        "-log(p.clamp(min={0:.3g})), -log((1 - p).clamp(min={0:.3g}))",
        lambda z, e: z.sigmoid().clamp(min=e).log(),
        lambda z, e: (1 - z.sigmoid()).clamp(min=e).log(),
        _fit_eps,
    ),
    _chosen(
        "eps-in-log",
        "-log(sigmoid(z) + {0:.3g}), -log(sigmoid(-z) + {0:.3g})",
        lambda z, e: (z.sigmoid() + e).log(),
        lambda z, e: ((-z).sigmoid() + e).log(),
        _fit_eps,
    ),
    _chosen(
        "p-clamped",
        "-log(sigmoid(z).clamp(min={0:.3g})), -log(sigmoid(-z).clamp(min={0:.3g}))",
        lambda z, e: z.sigmoid().clamp(min=e).log(),
        lambda z, e: (-z).sigmoid().clamp(min=e).log(),
        _fit_eps,
    ),
    Formula(
        ("sigmoid-twice",), "the loss of sigmoid(z)", lambda z, y: right_binary(z.sigmoid(), y)
    ),
    Formula(("term-forgotten",), "-y * log(p)", lambda z, y: -y * F.logsigmoid(z)),
    Formula(("term-forgotten",), "-y * log(p)", lambda z, y: -y * z.sigmoid().log()),
    Formula(("term-forgotten",), "-(1 - y) * log(1 - p)", lambda z, y: (y - 1) * F.logsigmoid(-z)),
    Formula(
        ("term-forgotten",),
        "-(1 - y) * log(1 - p)",
        lambda z, y: (y - 1) * (1 - z.sigmoid()).log(),
    ),
    Formula(("labels-plus-minus",), "log(1 + exp(-y * z))", lambda z, y: F.softplus(-y * z)),
    Formula(
        ("labels-plus-minus",),
        "log(1 + exp(-y * z))",
        lambda z, y: _softplus_naive(-y * z),
    ),
    Formula(("labels-flipped",), "the loss of 1 - y", lambda z, y: right_binary(z, 1 - y)),
    *_sides(
        "logits-as-probabilities",
        "-log(z), -log(1 - z)",
        lambda z: z.log(),
        lambda z: (1 - z).log(),
    ),
    Formula(
        ("swapped",),
        "-(p * log(y) + (1 - p) * log(1 - y))",
        lambda z, y: -(z.sigmoid() * y.log() + (1 - z.sigmoid()) * (1 - y).log()),
    ),
    Formula(
        ("swapped",),
        "`binary_cross_entropy(y, sigmoid(z))`",
        lambda z, y: F.binary_cross_entropy(y, z.sigmoid(), reduction="none"),
    ),
    Formula(("swapped",), "the loss of logits y and target z", lambda z, y: F.softplus(y) - z * y),
    Formula(
        ("target-ignored",),
        "the entropy of p",
        lambda z, y: right_binary(z, z.sigmoid()),
    ),
    Formula(("no-log",), "1 - p", lambda z, y: 1 - _p_right(z, y)),
    Formula(("no-log",), "-p", lambda z, y: -_p_right(z, y)),
    Formula(("squared-error",), "(p - y)^2", lambda z, y: (z.sigmoid() - y).square()),
    Formula(("squared-error",), "(z - y)^2", lambda z, y: (z - y).square()),
    Formula(("hinge",), "max(0, 1 - (2y - 1) z)", lambda z, y: (1 - (2 * y - 1) * z).clamp(min=0)),
    Formula(
        ("hinge",),
        "max(0, 1 - (2y - 1) z)^2",
        lambda z, y: (1 - (2 * y - 1) * z).clamp(min=0).square(),
    ),
    Formula(
        ("hinge", "labels-plus-minus"),
        "max(0, 1 - y z)",
        lambda z, y: (1 - y * z).clamp(min=0),
    ),
    Formula(("perplexity",), "1 / p", lambda z, y: right_binary(z, y).exp()),
    Formula(
        ("argmax-inside",),
        "(p > 0.5) != y",
        lambda z, y: ((z.sigmoid() > 0.5) != (y > 0)).to(z.dtype),
    ),
    Formula(("argmax-inside",), "(p >= 0.5) != y", lambda z, y: ((z >= 0) != (y > 0)).to(z.dtype)),
    Formula(("wrong-sign",), "log(p)", lambda z, y: -right_binary(z, y)),
    Formula(("base-2",), "-log2(p)", lambda z, y: right_binary(z, y) / math.log(2)),
    Formula(("base-10",), "-log10(p)", lambda z, y: right_binary(z, y) / math.log(10)),
    Formula(("pos-weight",), "the loss with pos_weight={0:.4g}", _weighted, _fit_pos_weight),
    Formula(
        ("label-smoothing",),
        "the loss of y * (1 - {0:.3g}) + {0:.3g} / 2",
        lambda z, y, e: right_binary(z, y * (1 - e) + e / 2),
        _fit_smoothing_binary,
    ),
    Formula(
        ("temperature",),
        "the loss of {0:.4g} * z",
        lambda z, y, a: right_binary(a * z, y),
        _fit_temperature_binary,
    ),
    Formula(
        ("focal",),
        "{1:.3g} * (1 - p)^{0:.3g} * -log(p)",
        lambda z, y, gamma, a: _focal_binary(z, y, gamma, a, a),
        _fit_focal_binary,
    ),
    Formula(
        ("focal",),
        "(1 - p)^{0:.3g} * -log(p), times {1:.3g} for yes and 1 - {1:.3g} for no",
        lambda z, y, gamma, a: _focal_binary(z, y, gamma, a, 1 - a),
        _fit_focal_binary,
    ),
    Formula(
        ("scaled",),
        "{0:.4g} times the right loss",
        lambda z, y, k: k * right_binary(z, y),
        _fit_scale_binary,
    ),
]

_NO_MISTAKE = Formula((), "the right loss", right_binary)

_ONE_COLUMN: list[Formula] = [
    Formula(("softmax-axis",), "-y * log(softmax(z, dim=0))", lambda z, y: -y * z.log_softmax(0)),
    Formula(
        ("softmax-axis",),
        "the binary loss of softmax(z, dim=0)",
        lambda z, y: F.binary_cross_entropy(z.softmax(0), y, reduction="none"),
    ),
    Formula(
        ("softmax-axis",),
        "the softmax of one column",
        lambda z, y: (z[:, None].softmax(1).log() * y[:, None]).sum(1),
    ),
    Formula(
        ("broadcast",),
        "the mean of an (N, N) table",
        lambda z, y: _table_of_yes(z, y).mean(1),
    ),
    Formula(
        ("broadcast",),
        "the sum of an (N, N) table",
        lambda z, y: _table_of_yes(z, y).sum(1),
    ),
]

_MANY_COLUMNS: list[Formula] = [
    Formula(
        ("softmax-for-sigmoid",),
        "-(y * log(softmax(z))).sum(1)",
        lambda z, y: -(y * _lp(z)).sum(1),
    ),
    Formula(("softmax-for-sigmoid",), "the mean of -y * log(softmax(z))", lambda z, y: -y * _lp(z)),
    Formula(
        ("softmax-for-sigmoid",),
        "`binary_cross_entropy(softmax(z), y)`",
        lambda z, y: F.binary_cross_entropy(_p(z), y, reduction="none"),
    ),
    Formula(
        ("softmax-axis",),
        "`binary_cross_entropy(softmax(z, dim=0), y)`",
        lambda z, y: F.binary_cross_entropy(z.softmax(0), y, reduction="none"),
    ),
]

FORMULAS: dict[str, list[Formula]] = {
    "multiclass": MULTICLASS,
    "soft": MULTICLASS,
    "binary": [_NO_MISTAKE, *_ONE_COLUMN, *BINARY],
    "multilabel": [_NO_MISTAKE, *_MANY_COLUMNS, *BINARY],
}

# What is right to the last digits of float64, winners included; mistakes do not need that.
RIGHT: dict[str, Rows] = {
    "multiclass": _exactly,
    "soft": _exactly,
    "binary": _exactly_binary,
    "multilabel": _exactly_binary,
}


# What becomes of the rows.


@dataclass(frozen=True)
class Reduction:
    """A way from the losses of the rows to the loss."""

    cause: str | None  #: None for a right way
    says: str
    applies: Callable[[Setting], bool]
    value: Callable[[Tensor, Probe, Setting], Tensor]


def _usual(rows: Tensor, one: Probe, s: Setting) -> Tensor:
    """As torch has it: a mean is divided by the sum of the weights of the rows that count."""
    return _reduced(rows, one, s.reduction, one.weights)


def _reduced(rows: Tensor, one: Probe, reduction: str, weights: Tensor) -> Tensor:
    factors = (weights * one.counts).to(rows.dtype)
    if rows.ndim == 2:  # labels, which have no weights
        factors = factors[:, None].expand_as(rows)
    rows = factors * rows
    if reduction == "mean":
        return rows.sum() / factors.sum()
    return rows.sum() if reduction == "sum" else rows


def _by_example(rows: Tensor, one: Probe, s: Setting) -> Tensor:
    return _usual(rows.mean(1) if rows.ndim == 2 else rows, one, s)


def _over(count: Callable[[Probe], int]) -> Callable[[Tensor, Probe, Setting], Tensor]:
    return lambda rows, one, s: _usual(rows, one, s) / count(one)


REDUCTIONS: list[Reduction] = [
    Reduction(None, "", lambda s: True, _usual),
    # torch's multilabel_soft_margin_loss has the mean over the labels in each example.
    Reduction(None, "", lambda s: s.kind == "multilabel" and s.reduction != "mean", _by_example),
    Reduction(
        "sum-for-mean",
        "the sum of the rows",
        lambda s: s.reduction == "mean",
        lambda rows, one, s: _reduced(rows, one, "sum", one.weights),
    ),
    Reduction(
        "labels-summed",
        "the sum over the labels, and the mean over the examples",
        lambda s: s.kind == "multilabel" and s.reduction == "mean",
        lambda rows, one, s: _usual(rows, one, s) * one.width,
    ),
    Reduction(
        "labels-summed",
        "the sum over the labels",
        lambda s: s.kind == "multilabel" and s.reduction == "none",
        lambda rows, one, s: rows.sum(1) if rows.ndim == 2 else rows,
    ),
    Reduction(
        "mean-for-sum",
        "the mean of the rows",
        lambda s: s.reduction == "sum",
        lambda rows, one, s: _reduced(rows, one, "mean", one.weights),
    ),
    Reduction(
        "ignored-counted",
        "the sum divided by the number of all rows",
        lambda s: s.ignore_index is not None and s.reduction == "mean",
        lambda rows, one, s: _reduced(rows, one, "sum", one.weights) / len(rows),
    ),
    Reduction(
        "weights-ignored",
        "the loss without weights",
        lambda s: s.weight is not None,
        lambda rows, one, s: _reduced(rows, one, s.reduction, torch.ones_like(one.weights)),
    ),
    Reduction(
        "weights-over-n",
        "the weighted sum divided by the number of rows",
        lambda s: s.weight is not None and s.reduction == "mean",
        lambda rows, one, s: _reduced(rows, one, "sum", one.weights) / one.counts.sum(),
    ),
    Reduction(
        "divided-by-classes",
        "the loss divided by the number of classes",
        lambda s: s.kind in ("multiclass", "soft"),
        _over(lambda one: one.width),
    ),
    Reduction(
        "perplexity",
        "the exponential of the loss of the batch",
        lambda s: s.reduction != "none",
        lambda rows, one, s: _usual(rows, one, s).exp(),
    ),
    Reduction(
        "divided-twice",
        "the mean divided by the number of rows",
        lambda s: s.reduction == "mean",
        _over(lambda one: len(one.logits)),
    ),
]


# The gradient alone, of a loss whose value is right.


@dataclass(frozen=True)
class Slope:
    """A gradient, from the right one."""

    cause: str
    says: str
    gradient: Callable[[Tensor, Probe, Setting], Tensor]


def _share_of_rows(truth: Tensor, one: Probe, s: Setting, of_target: bool) -> Tensor:
    """The part of p - t that is p, or that is -t, with the factors of the rows."""
    z = one.logits.detach()
    p = z.softmax(1) if s.kind in ("multiclass", "soft") else z.sigmoid()
    part = -one.truth if of_target else p
    factors = one.weights * one.counts
    if s.reduction == "mean":
        factors = factors / (factors.sum() * (one.width if s.kind == "multilabel" else 1))
    return part * (factors[:, None] if part.ndim == 2 else factors)


SLOPES: list[Slope] = [
    Slope(
        "lse-detached",
        "minus the target",
        lambda g, one, s: _share_of_rows(g, one, s, of_target=True),
    ),
    Slope("target-detached", "p", lambda g, one, s: _share_of_rows(g, one, s, of_target=False)),
    Slope("gradient-sign", "minus the right one", lambda g, one, s: -g),
    Slope(
        "gradient-lacks-mean",
        "the right one times the number of rows that count",
        lambda g, one, s: g * one.counts.sum(),
    ),
]
