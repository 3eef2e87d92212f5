"""Information measures of discrete distributions, exact to the last digits.

Every function takes what :mod:`celib.arguments` lets in (NumPy arrays, torch tensors, lists, data
frames), treats ``axis`` as the outcomes and all other axes as a batch, and returns NumPy arrays, or
for tensors a tensor, with gradients, also under ``torch.func`` and ``torch.compile``. Results are
in nats, or in units of ``base``: 2 gives bits.

With ``validate=True`` each row has to be a distribution, up to rounding: entries in [0, 1] within
2^-17 (the spacing at 1 of a dtype that is coarser), and a sum within 2^-7 of 1. An entry that is
outside by rounding counts as 0 or 1; nothing else is changed, and nothing is normalised. Where
nothing can be raised (on a GPU, or under a compiler, a tracer or ``vmap``) the result of such a row
is NaN. ``validate=False`` skips all of this; shapes are always checked. ``0 log 0 = 0``.

The derivative of ``-p log p`` at 0 is infinite. Here an entry equal to 0 stays out of its own
logarithm, and so out of that gradient, which is finite, as for a class that is masked out.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from celib.arguments.arrays import (
    SUM_TOLERANCE,
    Array,
    Axis,
    alike,
    check,
    clipped,
    distributions,
    extremes,
    finish,
    floating,
    is_tensor,
    like,
    outcomes,
    plain,
    plain_rows,
    probabilities,
    quiet,
    readable,
    real,
    resolve_axis,
    same_labels,
    spoil,
    to_rows,
    to_tensor,
    widened,
    within,
)
from celib.arguments.errors import number, one_of, refuse_shape
from celib.arguments.samples import labels_of_any_kind, weights
from celib.stable import (
    largest_entry,
    largest_of_plain,
    logsumexp,
    logsumexp_of_near,
    sum_without,
)

__all__ = [
    "conditional_entropy",
    "cross_entropy",
    "entropy",
    "entropy_from_counts",
    "joint_distribution",
    "js_divergence",
    "kl_divergence",
    "mutual_information",
    "perplexity",
    "renyi_entropy",
    "self_information",
]


def __dir__() -> list[str]:
    return sorted(__all__)


def self_information(p: Array, *, base: float | None = None) -> Array:
    r"""Surprise at an outcome, :math:`I = -\log p` (equation ``eq-self-information``).

    Use it for the surprise of single outcomes; its mean is :func:`entropy`.

    Args:
        p: probabilities of single outcomes, an array of any shape; they need not sum to 1.
        base: of the logarithm, greater than 1; None for nats.

    Returns:
        The shape of ``p``; ``inf`` at 0.

    Raises:
        ValueError: an entry is NaN or outside [0, 1], or ``base`` is not greater than 1.

    Source: Shannon (1948), doi:10.1002/j.1538-7305.1948.tb01338.x.

    Example:
        >>> self_information([1.0, 0.125, 0.0], base=2).tolist()
        [0.0, 3.0, inf]
    """
    if (known := plain(p)) is not None and _inner(*known[1]):
        xp, (inner,) = known
        nats = 0.0 - xp.log(inner)
        return like(p, nats if base is None else nats / _nats(base))
    return _self_information(p, base)


@quiet
def _self_information(p: Array, base: float | None) -> Array:
    unit = _nats(base)
    xp, (p,) = real({"p": p})
    eps = float(xp.finfo(p.dtype).eps)
    dtype, (p,) = widened(xp, [p])
    wrong = probabilities(xp, "p", p, eps)
    p = within(xp, p)
    return finish(xp, spoil(xp, (0.0 - xp.log(p)) / unit, wrong), dtype)


def entropy(
    p: Array, *, axis: Axis = -1, base: float | None = None, validate: bool = True
) -> Array:
    r"""Mean surprise, :math:`H(P) = -\sum_x p(x) \log p(x)` (equation ``eq-entropy``).

    Use it for a distribution that is known. From counts of a sample it comes out too small on
    average: use :func:`entropy_from_counts`.

    Args:
        p: an array of any shape, probabilities along ``axis``.
        axis: the axis or axes of the outcomes; None for all.
        base: of the logarithm, greater than 1; None for nats.
        validate: whether to check that each row is a distribution.

    Returns:
        The shape of ``p`` without ``axis``.

    Raises:
        ValueError: a row is no distribution, an axis is out of range or empty, or ``base`` is not
            greater than 1.

    Source: Shannon (1948), doi:10.1002/j.1538-7305.1948.tb01338.x.

    Example: the plain form gives nan for the first.
        >>> float(entropy([1.0, 0.0]))
        0.0
        >>> f"{entropy([1.0, 1e-20], base=2):.10e}"
        '6.6438561898e-19'
    """
    return _measure(_entropy, _cross_entropy_of_inner, axis, base, validate, p, zeros=True)


def cross_entropy(
    p: Array, q: Array, *, axis: Axis = -1, base: float | None = None, validate: bool = True
) -> Array:
    r"""Mean surprise of one who believes q while outcomes follow p.

    Use it for two distributions that are given as probabilities. To train a model on logits use
    :func:`celib.losses.cross_entropy`, which never forms the probabilities; for what q costs in
    excess of the entropy use :func:`kl_divergence`, which does not lose it in a difference.

    :math:`H(P, Q) = -\sum_x p(x) \log q(x)` (equation ``eq-cross-entropy``)

    Args:
        p, q: arrays of equal shape, probabilities along ``axis``; the reference comes first.
        axis, base, validate: as for :func:`entropy`.

    Returns:
        The shape of ``p`` without ``axis``; ``inf`` if an outcome has p > 0 and q = 0.

    Raises:
        ValueError: as for :func:`entropy`, or the shapes differ: nothing is broadcast.

    Source: Cover and Thomas (2006), Elements of Information Theory.

    Example: an outcome that neither can produce adds nothing; the plain form gives nan.
        >>> round(float(cross_entropy([0.5, 0.5, 0.0], [0.25, 0.75, 0.0], base=2)), 6)
        1.207519
        >>> float(cross_entropy([0.5, 0.5], [1.0, 0.0]))
        inf
    """
    return _measure(_cross_entropy, _cross_entropy_of_inner, axis, base, validate, p, q, zeros=True)


def kl_divergence(
    p: Array, q: Array, *, axis: Axis = -1, base: float | None = None, validate: bool = True
) -> Array:
    r"""Relative entropy of p with respect to q (Kullback-Leibler divergence).

    Use it for what it costs to believe q while outcomes follow p, or for how fast observations tell
    p from q. The order matters. It is ``inf`` where q excludes what p does not;
    :func:`js_divergence` is finite and symmetric.

    :math:`D_{KL}(P \Vert Q) = \sum_x p(x) \log (p(x) / q(x))` (equation ``eq-kl``)

    Close distributions are where that sum fails: at a relative distance of 1e-9 the value is near
    1e-18, and the terms, near 1e-9, cancel. Summed here is :math:`p \log(p / q) - p + q`, which is
    never negative and has the same sum if p and q have. Rounded probabilities have not: what their
    sums add, the divergence of one sum from the other, is subtracted. So the value is that of the
    distributions :math:`p / \sum p` and :math:`q / \sum q`, to about 1e-15 of itself unless their
    distance is itself rounding, never negative, and 0 if p and q are equal. So is the gradient:
    with respect to q, :math:`1 - p / q`, which is :math:`-p / q` up to a constant that no change
    along the simplex can see.

    Args:
        p, q: arrays of equal shape, probabilities along ``axis``; the reference comes first.
        axis, base, validate: as for :func:`entropy`.

    Returns:
        The shape of ``p`` without ``axis``; ``inf`` if an outcome has p > 0 and q = 0.

    Raises:
        ValueError: as for :func:`cross_entropy`.

    Source: Cover and Thomas (2006), Elements of Information Theory.

    Example: in the first the plain sum has no digit right.
        >>> f"{kl_divergence([0.5 + 2**-40, 0.5 - 2**-40], [0.5, 0.5]):.12e}"
        '1.654361225106e-24'
        >>> f"{kl_divergence([0.5, 0.5], [1.0, 1e-300]):.12f}"
        '344.694616768547'
    """
    return _measure(_kl_divergence, _kl_divergence_of_inner, axis, base, validate, p, q)


def js_divergence(
    p: Array, q: Array, *, axis: Axis = -1, base: float | None = None, validate: bool = True
) -> Array:
    r"""Mean relative entropy with respect to the average (Jensen-Shannon divergence).

    Use it to compare two distributions of equal standing, above all where each may exclude what the
    other holds possible: it stays finite. Where one of them is the truth or the reference, use
    :func:`kl_divergence`.

    :math:`JS(P, Q) = \frac12 D_{KL}(P \Vert M) + \frac12 D_{KL}(Q \Vert M)`, with
    :math:`M = \frac12 (P + Q)` (equation ``eq-js``). The divergence, not its square root.

    Symmetric to the last bit, between 0 and log 2, 0 if p and q are equal, and as accurate for
    close distributions as :func:`kl_divergence`.

    Args:
        p, q: arrays of equal shape, probabilities along ``axis``.
        axis, base, validate: as for :func:`entropy`.

    Returns:
        The shape of ``p`` without ``axis``.

    Raises:
        ValueError: as for :func:`cross_entropy`.

    Source: Lin (1991), doi:10.1109/18.61115.

    Example:
        >>> float(js_divergence([1.0, 0.0], [0.0, 1.0], base=2))
        1.0
        >>> f"{js_divergence([0.5 + 2**-40, 0.5 - 2**-40], [0.5, 0.5]):.12e}"
        '4.135903062765e-25'
    """
    return _measure(_js_divergence, _js_divergence_of_inner, axis, base, validate, p, q)


def renyi_entropy(
    p: Array,
    order: float,
    *,
    axis: Axis = -1,
    base: float | None = None,
    validate: bool = True,
) -> Array:
    r"""Rényi entropy: Hartley's at order 0, Shannon's at 1, min-entropy at infinity.

    Use it where rare outcomes should count more (order below 1) or less (above 1) than in
    :func:`entropy`, for instance for the guessing probability of a key, at infinity.

    :math:`H_\alpha(P) = \frac{1}{1 - \alpha} \log \sum_x p(x)^\alpha` (equation ``eq-renyi``)

    Continuous in the order through 1. Near it, :math:`\sum_x p^\alpha - 1` is summed from ``expm1``
    of :math:`(\alpha - 1) \log p`, which takes the sum of p to be 1.

    Args:
        p: an array of any shape, probabilities along ``axis``.
        order: :math:`\alpha`, at least 0; may be ``inf``.
        axis, base, validate: as for :func:`entropy`.

    Returns:
        The shape of ``p`` without ``axis``.

    Raises:
        ValueError: as for :func:`entropy`, or ``order`` is negative or NaN.

    Source: Rényi (1961), On measures of entropy and information, Proc. 4th Berkeley Symp. 1.

    Example: the plain form divides the rounding error of the sum by 1e-15.
        >>> f"{renyi_entropy([0.9, 0.1], 1 + 1e-15, base=2):.12f}"
        '0.468995593589'
        >>> float(renyi_entropy([0.5, 0.25, 0.25], float("inf"), base=2))
        1.0
    """
    order = float(number("order", order, lambda a: a >= 0, "at least 0"))
    numerics = functools.partial(_renyi_entropy, order=order)
    of_inner = functools.partial(_renyi_entropy_of_inner, order=order)
    return _measure(numerics, of_inner, axis, base, validate, p)


def mutual_information(joint: Array, *, base: float | None = None, validate: bool = True) -> Array:
    r"""What one variable tells about the other.

    Use it to measure dependence of any kind between two discrete variables. From a small sample the
    plug-in value is too large: :func:`joint_distribution` says more.

    :math:`I(X; Y) = \sum_{x, y} p(x, y) \log \frac{p(x, y)}{p(x) p(y)}` (equation
    ``eq-mutual-information``)

    Summed, as :func:`kl_divergence` is, from terms that are never negative. At a relative distance
    d from independence the relative error is about 1e-16 / d, from the rounding of p(x) and p(y);
    that of :math:`H(X) + H(Y) - H(X, Y)` is 1e-16 / d^2.

    Args:
        joint: shape (..., x, y), probabilities along the last two axes together.
        base, validate: as for :func:`entropy`.

    Returns:
        The shape of ``joint`` without its last two axes.

    Raises:
        ValueError: as for :func:`entropy`, or ``joint`` has fewer than two axes.

    Source: Cover and Thomas (2006), Elements of Information Theory.

    Example: weak dependence, which the difference of entropies cannot see.
        >>> e = 2.0**-30
        >>> f"{mutual_information([[0.25 + e, 0.25 - e], [0.25 - e, 0.25 + e]]):.12e}"
        '6.938893903907e-18'
    """
    return _measure_of_joint(
        _mutual_information, _mutual_information_of_inner, joint, base, validate
    )


def conditional_entropy(joint: Array, *, base: float | None = None, validate: bool = True) -> Array:
    r"""Mean surprise at Y of one who knows X.

    Use it to say how uncertain Y remains once X is known. For what X takes away use
    :func:`mutual_information`.

    :math:`H(Y \mid X) = -\sum_{x, y} p(x, y) \log p(y \mid x)` (equation
    ``eq-conditional-entropy``)

    Args:
        joint: shape (..., x, y), probabilities along the last two axes together. A row of zeros is
            a value that X does not take.
        base, validate: as for :func:`entropy`.

    Returns:
        The shape of ``joint`` without its last two axes.

    Raises:
        ValueError: as for :func:`entropy`, or ``joint`` has fewer than two axes.

    Source: Cover and Thomas (2006), Elements of Information Theory.

    Example: H(X, Y) - H(X) gives 0.
        >>> f"{conditional_entropy([[0.5, 1e-20], [0.0, 0.5]]):.10e}"
        '4.6358554679e-19'
    """
    return _measure_of_joint(
        _conditional_entropy, _conditional_entropy_of_inner, joint, base, validate
    )


def joint_distribution(x: Array, y: Array, *, sample_weight: Array | None = None) -> Array:
    r"""Joint table of two columns of labels, :math:`\hat p(x, y)`.

    Use it to get from two columns of a data set to the functions of this module.

    The table that :func:`mutual_information` and :func:`conditional_entropy` take. What they make
    of it is a plug-in estimate: of a small sample it is too large for the first, too small for the
    second.

    Args:
        x, y: labels of any kind, numbers or text, both of shape (N), with N at least 1.
        sample_weight: shape (N), at least 0.

    Returns:
        The share of each pair in the sample, of float64: a row for each distinct label of ``x`` and
        a column for each of ``y``, in sorted order. A tensor if ``x`` is one.

    Raises:
        ValueError: the shapes differ, nothing is there, a label is missing, numbers are among text,
            or the weights want a gradient.

    Source: Cover and Thomas (2006), Elements of Information Theory.

    Example: a forecast of rain that is right three times in four.
        >>> table = joint_distribution(["dry", "rain", "dry", "rain"], [0, 1, 0, 0])
        >>> table.tolist()
        [[0.5, 0.0], [0.25, 0.25]]
        >>> round(float(mutual_information(table, base=2)), 6)
        0.311278
    """
    same_labels({"x": x, "y": y, "sample_weight": sample_weight})
    columns = [labels_of_any_kind(name, a) for name, a in (("x", x), ("y", y))]
    size = columns[0].size
    if columns[1].size != size:
        refuse_shape("y", columns[1].shape, f"that of x, ({size},)")
    if getattr(sample_weight, "requires_grad", False):
        raise ValueError("sample_weight requires grad: expected constants, since shares have none")
    weight = weights(sample_weight, size)
    (rows, which_row), (cols, which_col) = (np.unique(a, return_inverse=True) for a in columns)
    table = np.bincount(which_row * cols.size + which_col, weight, rows.size * cols.size)
    shares = (table / table.sum()).reshape(rows.size, cols.size)
    return to_tensor("table", shares, x.device) if is_tensor(x) else shares


def perplexity(
    p: Array, *, q: Array | None = None, axis: Axis = -1, validate: bool = True
) -> Array:
    r"""Number of equally likely outcomes that would surprise as much.

    Use it to report an entropy or the loss of a language model on a scale that people can picture.
    Perplexities of models with different vocabularies are not comparable.

    :math:`e^{H(P)}`, or :math:`e^{H(P, Q)}` if q is given (equation ``eq-perplexity``)

    Args:
        p: an array of any shape, probabilities along ``axis``.
        q: what is believed, if not p itself: an array of the shape of ``p``.
        axis, validate: as for :func:`entropy`.

    Returns:
        The shape of ``p`` without ``axis``; a number of outcomes, whatever the unit of entropy.

    Raises:
        ValueError: as for :func:`cross_entropy`.

    Source: Jelinek, Mercer, Bahl and Baker (1977), doi:10.1121/1.2016299.

    Example:
        >>> round(float(perplexity([0.25, 0.25, 0.25, 0.25, 0.0])), 12)
        4.0
        >>> float(perplexity([1.0, 0.0], q=[0.0, 1.0]))
        inf
    """
    given = (p,) if q is None else (p, q)
    return _measure(_perplexity, _perplexity_of_inner, axis, None, validate, *given, zeros=True)


def entropy_from_counts(
    counts: Array, *, axis: Axis = -1, base: float | None = None, method: str = "miller-madow"
) -> Array:
    r"""Estimate of the entropy of the distribution that a sample was drawn from.

    Use it in place of ``entropy(counts / counts.sum())``. The correction is good when the sample is
    several times larger than the number of outcomes; with fewer observations no estimate of this
    kind can be trusted.

    :math:`\hat H + (\hat K - 1) / (2 N)` (equation ``eq-miller-madow``), with N the sample size,
    :math:`\hat K` the number of different outcomes in it, and the plug-in estimate
    :math:`\hat H = -\sum_x \frac{n_x}{N} \log \frac{n_x}{N}`, which on average is too small by
    about the second term.

    Args:
        counts: an array of whole numbers, how often each outcome along ``axis`` was seen.
        axis, base: as for :func:`entropy`.
        method: "miller-madow", or "plugin" for :math:`\hat H`.

    Returns:
        The shape of ``counts`` without ``axis``.

    Raises:
        ValueError: an entry is negative, fractional or not finite, a row has no observation, the
            method is unknown, or ``axis`` or ``base`` as for :func:`entropy`.

    Source: Miller (1955), Note on the bias of information estimates, in Information Theory in
    Psychology.

    Example: a coin thrown four times.
        >>> [round(float(entropy_from_counts([3, 1], method=m, base=2)), 4)
        ...  for m in ("plugin", "miller-madow")]
        [0.8113, 0.9916]
    """
    unit = _nats(base)
    one_of("method", method, ("miller-madow", "plugin"))
    if (known := plain_rows(axis, counts)) is not None:
        xp, (rows,) = known
        low, high = extremes(rows)
        if low >= 1.0 and high < 2.0**53 and extremes(rows - xp.round(rows)) == (0.0, 0.0):
            size, seen = rows.sum(-1), rows.shape[-1]
            bias = (seen - 1.0) / (2.0 * size) if method == "miller-madow" else 0.0
            return like(counts, (_surprise_of_inner(xp, rows) / size + bias) / unit)
    return _entropy_from_counts(counts, axis, unit, method)


@quiet
def _entropy_from_counts(counts: Array, axis: Axis, unit: float, method: str) -> Array:
    xp, dtype, (counts,) = floating(counts=counts)
    axes = resolve_axis(axis, counts.ndim)
    outcomes("counts", counts.shape, axes)
    bad = ~((counts >= 0) & (counts < math.inf) & (counts == xp.round(counts)))
    check(xp, "counts", counts, bad, "a whole number, at least 0")
    rows = to_rows(xp, counts, axes)
    size = xp.sum(rows, axis=-1)
    check(xp, "the sum of counts", size, size == 0, "at least one observation")
    wrong = None if readable(counts) else xp.any(bad, axis=axes) | (size == 0)
    out = xp.sum(rows * _surprise(xp, rows), axis=-1) / size
    if method == "miller-madow":
        seen = xp.sum(xp.astype(rows > 0, rows.dtype), axis=-1)
        out = out + (seen - 1.0) / (2.0 * size)
    return finish(xp, spoil(xp, out / unit, wrong), dtype)


# Numerics: rows along the last axis, nothing checked, nats.


def _entropy(xp: Any, p: Array) -> Array:
    return _cross_entropy(xp, p, p)


def _perplexity(xp: Any, p: Array, q: Array | None = None) -> Array:
    return xp.exp(_cross_entropy(xp, p, p if q is None else q))


def _cross_entropy(xp: Any, p: Array, q: Array) -> Array:
    both_zero = (p == 0) & (q == 0)
    # 0 - x, not -x: the entropy of a certain outcome is 0.0, not -0.0.
    return 0.0 - xp.sum(p * xp.log(xp.where(both_zero, 1.0, q)), axis=-1)


# (atanh(s) / s - 1) / s^2 = 1/3 + s^2/5 + ...: for |s| <= 1/4 the rest is below 2^-57.
_ATANH = tuple(1.0 / (2 * k + 3) for k in range(13))


def _close(s: Array) -> Array:
    """(1 + s) atanh(s) - s, for small s."""
    square = s * s
    series = square * _ATANH[-1]
    for coefficient in _ATANH[-2:0:-1]:
        series = (series + coefficient) * square
    return square * (1.0 + s * (1.0 + s) * (series + _ATANH[0]))


def _excess(xp: Any, p: Array, q: Array, difference: Array) -> Array:
    """p log(p / q) - p + q, never negative, to about 16 units of 2^-53 at worst.

    ``difference`` is p - q, for callers that know it better than by subtraction.

    With s = (p - q) / (p + q), log(p / q) = 2 atanh(s), and the expression is
    (p + q) (s atanh(s) + atanh(s) - s). For small s its leading terms cancel on paper, in the
    series of atanh, instead of in floating point.
    """
    total = p + q
    s = difference / xp.where(total > 0, total, 1.0)
    near = xp.abs(s) <= 0.25
    s = xp.where(near, s, 0.0)
    close = total * _close(s)

    # Far apart, the two parts differ by a factor and the plain form loses a few units at most.
    used = ~near & (p > 0)
    p = xp.where(used, p, 1.0)
    q = xp.where(used, q, 1.0)
    tiny = q < xp.finfo(q.dtype).tiny  # p / q may overflow; q = 0 gives inf on this path, too
    log_ratio = xp.log(xp.where(tiny, p, p / xp.where(tiny, 1.0, q)))
    log_ratio = log_ratio - xp.log(xp.where(tiny, q, 1.0))
    apart = xp.where(used, p * log_ratio, 0.0) - difference
    return xp.where(near, close, apart)


def _kl_divergence(xp: Any, p: Array, q: Array, excess: Callable[..., Array] = _excess) -> Array:
    # The grouping property: the terms of rows with different sums contain the divergence of the
    # sums. p - q is exact for close p and q, so its sum is the difference of the sums.
    difference = p - q
    p_sum, q_sum = xp.sum(p, axis=-1), xp.sum(q, axis=-1)
    of_sums = excess(xp, p_sum, q_sum, xp.sum(difference, axis=-1))
    out = (xp.sum(excess(xp, p, q, difference), axis=-1) - of_sums) / p_sum
    return clipped(xp, out, 0.0, None)


def _js_divergence(xp: Any, p: Array, q: Array, excess: Callable[..., Array] = _excess) -> Array:
    def both(p: Array, q: Array, half: Array) -> Array:
        mean = 0.5 * (p + q)
        return excess(xp, p, mean, half) + excess(xp, q, mean, -half)

    half = 0.5 * (p - q)
    p_sum, q_sum = xp.sum(p, axis=-1), xp.sum(q, axis=-1)
    of_sums = both(p_sum, q_sum, xp.sum(half, axis=-1))
    out = (xp.sum(both(p, q, half), axis=-1) - of_sums) / (p_sum + q_sum)
    return clipped(xp, out, 0.0, math.log(2.0))


def _renyi_entropy(xp: Any, p: Array, order: float) -> Array:
    if order == 1:
        return _cross_entropy(xp, p, p)
    if order == 0:
        return xp.log(xp.sum(xp.astype(p > 0, p.dtype), axis=-1))
    # H_inf <= H_a <= a / (a - 1) H_inf: beyond 2 / eps they are the same number.
    if order * xp.finfo(p.dtype).eps > 2:
        return 0.0 - xp.log(xp.max(p, axis=-1))
    used = p > 0
    log_p = xp.log(xp.where(used, p, 1.0))
    # p^order - p, from the end where expm1 has a negative argument and cannot overflow.
    gap = xp.exp(min(order, 1.0) * log_p) * xp.expm1(abs(order - 1.0) * log_p)
    change = math.copysign(1.0, order - 1.0) * xp.sum(xp.where(used, gap, 0.0), axis=-1)
    # When most of the sum is gone, 1 + change would be what is left of a cancellation.
    near = change > -0.5
    log_sum = logsumexp(order * log_p, where=used)
    log_sum = xp.where(near, xp.log1p(xp.where(near, change, 0.0)), log_sum)
    return log_sum / (1.0 - order) + 0.0


def _mutual_information(xp: Any, joint: Array) -> Array:
    # Row by row, p(x) times the divergence of p(y | x) from p(y): the product p(x) p(y) could
    # underflow where p(x, y) does not.
    p_x = xp.sum(joint, axis=-1, keepdims=True)
    p_y = xp.sum(to_rows(xp, joint, (joint.ndim - 2,)), axis=-1)[..., None, :]
    total = xp.sum(p_x, axis=-2, keepdims=True)
    given_x = joint / xp.where(p_x > 0, p_x, 1.0)
    p_y = xp.broadcast_to(p_y / total, joint.shape)
    terms = p_x / total * _excess(xp, given_x, p_y, given_x - p_y)
    return xp.sum(to_rows(xp, terms, (joint.ndim - 2, joint.ndim - 1)), axis=-1)


def _conditional_entropy(xp: Any, joint: Array) -> Array:
    return xp.sum(xp.sum(joint * _surprise(xp, joint), axis=-1), axis=-1)


def _surprise(xp: Any, weights: Array) -> Array:
    """-log of each weight's share of its row, 0 where the weight is 0.

    The share of the largest can round to 1 while its surprise, log(1 + others / largest), does not
    round to 0.
    """
    largest, is_top = largest_entry(xp, weights)
    # The divisor itself has to be safe: a choice afterwards leaves autograd with 0 times nan.
    largest = xp.where(largest > 0, largest, 1.0)
    others = xp.sum(xp.where(is_top, 0.0, weights), axis=-1, keepdims=True)
    share = xp.where((weights > 0) & ~is_top, weights / (largest + others), 1.0)
    return xp.where(is_top, xp.log1p(others / largest), 0.0 - xp.log(share))


# The same of inner points of the simplex, which nearly all are: see ``arguments.arrays.plain``. No
# entry is 0 or so close to it that anything over- or underflows, so that there is neither a case to
# tell apart nor a warning of NumPy to silence.

_TINY = 2.0**-99
_BLOCK = 2**14


def _inner(*arrays: Array) -> bool:
    """Whether all numbers are in (0, 1], and none tiny."""
    for p in arrays:
        low, high = extremes(p)
        if not (low > _TINY and high <= 1.0):
            return False
    return True


def _sums_to_one(p: Array) -> bool:
    low, high = extremes(p.sum(-1))
    return low >= 1.0 - SUM_TOLERANCE and high <= 1.0 + SUM_TOLERANCE


def _sum_of_products(p: Array, terms: Array) -> Array:
    """Pairwise, but for short sums, where that is no better. Writes over ``terms``."""
    if p.ndim == 1 and p.shape[0] <= 128:
        return p.dot(terms)
    terms *= p
    return terms.sum(-1)


def _cross_entropy_of_inner(xp: Any, p: Array, q: Array | None = None) -> Array:
    return 0.0 - _sum_of_products(p, xp.log(p if q is None else q))


def _perplexity_of_inner(xp: Any, p: Array, q: Array | None = None) -> Array:
    return xp.exp(_cross_entropy_of_inner(xp, p, q))


def _excess_of_inner(xp: Any, p: Array, q: Array, difference: Array) -> Array:
    """As ``_excess``. Its many steps are taken block by block, which stays in the cache."""
    size = math.prod(p.shape)
    if size <= _BLOCK:
        total = p + q
        s = difference / total
        apart = xp.log(p / q)
        apart = p * apart - difference
        return xp.where(abs(s) <= 0.25, total * _close(s), apart)
    out = xp.empty_like(p)
    flat = [a.reshape(-1) for a in (out, p, q, difference)]
    for start in range(0, size, _BLOCK):
        into, *block = [a[start : start + _BLOCK] for a in flat]
        into[:] = _excess_of_inner(xp, *block)
    return out


def _kl_divergence_of_inner(xp: Any, p: Array, q: Array) -> Array:
    r"""The plain sum, if the distributions are far apart.

    Its rounding errors are at most a few units of :math:`\sum p |\log (p / q)| \le D + 2`, which is
    no loss beside a divergence D of the size of 1.
    """
    ratios = p / q
    p_sum = p.sum(-1)
    out = _sum_of_products(p, xp.log(ratios, out=ratios)) / p_sum - xp.log(p_sum / q.sum(-1))
    return out if extremes(out)[0] > 0.5 else _kl_divergence(xp, p, q, _excess_of_inner)


@quiet
def _js_divergence_of_inner(xp: Any, p: Array, q: Array) -> Array:
    """The plain sum, too, with s = (p - q) / (p + q) in p / m = 1 + s and q / m = 1 - s."""

    def twice(total: Array, s: Array) -> Array:
        terms = xp.log1p(s)
        terms *= 1.0 + s
        other = xp.log1p(-s)
        other *= 1.0 - s
        terms += other
        terms *= total
        return terms

    total = p + q
    s = p - q
    s /= total
    p_sum, q_sum = p.sum(-1), q.sum(-1)
    both = p_sum + q_sum
    out = 0.5 * (twice(total, s).sum(-1) - twice(both, (p_sum - q_sum) / both)) / both
    return out if extremes(out)[0] > 0.1 else _js_divergence(xp, p, q, _excess_of_inner)


def _renyi_entropy_of_inner(xp: Any, p: Array, order: float) -> Array | None:
    if order == 1:
        return _cross_entropy_of_inner(xp, p)
    log_p = xp.log(p)
    low, high = extremes(log_p)
    if not 0 < order < 2.0**20 or order * (high - low) > 80.0:  # too far apart for exponentials
        return None
    if order > 1:
        powers = order * log_p
        log_sum = logsumexp_of_near(xp, powers, *largest_of_plain(powers))
        if extremes(log_sum)[1] < -math.log(2.0):
            return log_sum / (1.0 - order)
    gap = xp.expm1(abs(order - 1.0) * log_p)
    gap *= xp.exp(min(order, 1.0) * log_p)
    change = math.copysign(1.0, order - 1.0) * gap.sum(-1)
    return xp.log1p(change) / (1.0 - order) + 0.0 if extremes(change)[0] > -0.5 else None


def _mutual_information_of_inner(xp: Any, joint: Array) -> Array:
    *batch, x, y = tuple(joint.shape)
    p_x = joint.sum(-1)[..., None]
    total = p_x.sum(-2)[..., None]
    # Contiguous rows, of which sums are pairwise.
    p_y = joint.swapaxes(-1, -2).reshape(-1).reshape(*batch, y, x).sum(-1)[..., None, :] / total
    given_x = joint / p_x
    terms = _excess_of_inner(xp, given_x, xp.broadcast_to(p_y, joint.shape), given_x - p_y)
    terms *= p_x / total
    return terms.reshape(*batch, x * y).sum(-1)


def _conditional_entropy_of_inner(xp: Any, joint: Array) -> Array:
    return _surprise_of_inner(xp, joint).sum(-1)


def _surprise_of_inner(xp: Any, weights: Array) -> Array:
    """The sum of each row of weights times ``_surprise``."""
    if weights.ndim == 1:
        return _surprise_of_inner(xp, weights[None])[0]
    largest, at = largest_of_plain(weights)
    shares = weights * 1.0
    others = sum_without(shares, at)
    shares = xp.divide(weights, largest + others, out=shares)
    logs = xp.log(shares, out=shares)
    logs.reshape(-1)[at] = -xp.log1p(others / largest).reshape(-1)
    logs *= weights
    return 0.0 - logs.sum(-1)


# Arguments.


def _measure(
    numerics: Callable[..., Array],
    of_inner: Callable[..., Array | None],
    axis: Axis,
    base: float | None,
    validate: bool,
    *given: Array,
    zeros: bool = False,
) -> Array:
    """A measure of rows of p, or of p and q, by the short way if it is open.

    ``zeros``: p may have some on that way, if beside it there is something to take logarithms of.
    """
    if (known := plain_rows(axis, *given)) is not None:
        xp, rows = known
        inner = _inner(*rows)
        if not inner and zeros:
            p, *q = rows
            filled = p + (p == 0.0)  # 1 in place of 0
            inner, rows = _inner(filled, *q), [p, *(q or [filled])]
        if inner and (not validate or all([_sums_to_one(p) for p in rows[: len(given)]])):
            nats = of_inner(xp, *rows)
            if nats is not None:
                return like(given[0], nats if base is None else nats / _nats(base))
    return _in_general(numerics, axis, base, validate, *given)


@quiet
def _in_general(
    numerics: Callable[..., Array],
    axis: Axis,
    base: float | None,
    validate: bool,
    *given: Array,
) -> Array:
    unit = _nats(base)
    xp, dtype, rows, wrong = _rows(axis, validate, **dict(zip("pq", given, strict=False)))
    return finish(xp, spoil(xp, numerics(xp, *rows) / unit, wrong), dtype)


def _measure_of_joint(
    numerics: Callable[..., Array],
    of_inner: Callable[..., Array],
    joint: Array,
    base: float | None,
    validate: bool,
) -> Array:
    if (known := plain(joint)) is not None:
        xp, (table,) = known
        flat = table.reshape(*table.shape[:-2], -1)
        if table.ndim > 1 and _inner(table) and (not validate or _sums_to_one(flat)):
            nats = of_inner(xp, table)
            return like(joint, nats if base is None else nats / _nats(base))
    return _joint_in_general(numerics, joint, base, validate)


@quiet
def _joint_in_general(
    numerics: Callable[..., Array], joint: Array, base: float | None, validate: bool
) -> Array:
    unit = _nats(base)
    xp, dtype, table, wrong = _joint(joint, validate)
    return finish(xp, spoil(xp, numerics(xp, table) / unit, wrong), dtype)


def _nats(base: float | None) -> float:
    """How many nats the unit is: the logarithm of the base."""
    if base is None:
        return 1.0
    base = number("base", base, lambda b: 1 < b < math.inf, "a finite number greater than 1")
    return math.log(base)


def _rows(axis: Axis, validate: bool, **given: Array) -> tuple[Any, Any, list[Array], Array | None]:
    """The namespace, the dtype of the result, the arguments as rows, and which rows are wrong.

    Rows are along the last axis. Those that are wrong are named where nothing can be raised.
    """
    xp, arrays = real(given)
    shapes = {name: tuple(a.shape) for name, a in zip(given, arrays, strict=True)}
    if any(tuple(a.shape) != tuple(arrays[0].shape) for a in arrays):
        found = " and ".join(f"{name} has shape {shape}" for name, shape in shapes.items())
        raise ValueError(
            f"{found}: expected equal shapes; broadcast_to compares one with many, if that is meant"
        )
    axes = resolve_axis(axis, arrays[0].ndim)
    # The tolerance is that of the dtype in which an argument came.
    spacings = [float(xp.finfo(a.dtype).eps) for a in arrays]
    dtype, arrays = widened(xp, arrays)
    wrong = None
    for i, (name, eps) in enumerate(zip(given, spacings, strict=True)):
        outcomes(name, shapes[name], axes)
        if validate:
            bad = distributions(xp, name, arrays[i], eps, axes)
            arrays[i] = within(xp, arrays[i])
            wrong = bad if wrong is None or bad is None else wrong | bad
    return xp, dtype, [to_rows(xp, a, axes) for a in arrays], wrong


def _joint(joint: Array, validate: bool) -> tuple[Any, Any, Array, Array | None]:
    _, (table,) = alike({"joint": joint})
    shape = tuple(table.shape)
    if len(shape) < 2:
        refuse_shape("joint", shape, "(..., x, y)")
    xp, dtype, (rows,), wrong = _rows((-2, -1), validate, joint=table)
    return xp, dtype, xp.reshape(rows, shape), wrong
