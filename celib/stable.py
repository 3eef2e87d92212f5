"""Exponentials and logarithms that keep their digits: the ground the rest of celib stands on.

Every function takes what :mod:`celib.arguments` lets in: NumPy arrays, torch tensors, lists, data
frames. Tensors give tensors, on the same device, with gradients of every order, also under
``torch.func`` and ``torch.compile``; everything else gives NumPy arrays.
Integers and booleans become float64; float32 stays; float16 and bfloat16 are computed in float32
and rounded once. A NaN that is not masked comes out as NaN; an infinity never warns.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.special
from array_api_compat import is_numpy_namespace

from celib.arguments.arrays import (
    FEW,
    Array,
    Axis,
    broadcast,
    check,
    entry_tolerance,
    extremes,
    finish,
    floating,
    from_rows,
    is_tensor,
    like,
    mask,
    only_values,
    place_of,
    plain,
    plain_rows,
    quiet,
    ready,
    real,
    resolve_axis,
    same_labels,
    to_rows,
    widened,
)
from celib.arguments.errors import positive, refuse_shape

__all__ = ["expit", "log1mexp", "log1pexp", "log_softmax", "logit", "logsumexp", "softmax"]


def __dir__() -> list[str]:
    return sorted(__all__)


def logsumexp(
    x: Array,
    *,
    axis: Axis = -1,
    where: Array | None = None,
    weights: Array | None = None,
    keepdims: bool = False,
    return_bound: bool = False,
) -> Array:
    r"""Logarithm of a sum of exponentials, :math:`\log \sum_j w_j e^{x_j}`.

    Use it to add numbers that are known by their logarithms, such as probabilities of alternatives,
    and as the normaliser of a softmax.

    The largest term is split off, :math:`x_a + \log(1 + \sum_{j \ne a} e^{x_j - x_a})`: nothing
    overflows, and a sum that barely exceeds its largest term keeps the excess.

    Accuracy in float64, without weights: within 2 ulp, or within
    :math:`2^{-52} \max(1, \max_j |x_j|)` where the result is close to zero. Weights enter as
    :math:`x_j + \log w_j`, which takes the place of :math:`x_j` in the bound.

    Args:
        x: exponents, an array of any shape.
        axis: the axis or axes that are summed over; None for all.
        where: booleans that broadcast to the shape of ``x``: the terms to include. The others
            contribute nothing, whatever they hold, and get a zero gradient.
        weights: non-negative factors of the exponentials, broadcast to the shape of ``x``. A term
            of weight 0 is left out as by ``where``. The dtype of the result is that of ``x``.
        keepdims: keep the summed axes, with length 1.
        return_bound: return a bound on the error of the result too.

    Returns:
        The shape of ``x`` without ``axis``: ``-inf`` for an empty sum, or one whose terms are all
        ``-inf`` (with gradient 0), ``inf`` if a term is ``inf``.

    With ``return_bound``, a pair: beside the result an array of its shape, of float64 or float32,
        without gradients. The exact value, for the numbers given, is no farther from the result.
        In float64 it is :math:`u (H + \log(1 / s_a) + (k + 2)(1 - s_a) + |y|)`, and 1 percent for
        its own rounding, with s the softmax and :math:`H` its entropy, a the place of the largest
        entry, y the result, :math:`u = 2^{-53}` and k the longest chain of additions: at most
        :math:`24 + \log_2 n` in NumPy, n - 2 elsewhere (equation ``eq-entropy-bound``). It is 0
        for an infinite result, NaN for NaN, and ``inf`` where n is so large, in float32, that
        nothing is certain.

    Raises:
        ValueError: an axis is out of range, ``where`` or ``weights`` does not broadcast to ``x``,
            or a weight is negative or not finite.
        TypeError: data are complex or not numbers, or ``where`` is not boolean.

    Source: Blanchard, Higham and Higham (2021), doi:10.1093/imanum/draa038.

    Example: the plain form overflows at 1000, and loses the 4e-18 beside 1.
        >>> round(float(logsumexp([1000, 1000])), 10)
        1000.6931471806
        >>> f"{logsumexp([0, -40]):.12e}"
        '4.248354255292e-18'
        >>> float(logsumexp([float("nan"), 1.0], weights=[0, 1]))
        1.0

    Of the logarithms of a distribution it is 0 but for rounding, and the bound says so.
        >>> import numpy as np
        >>> value, bound = logsumexp(np.log([0.3, 0.7]), return_bound=True)
        >>> bool(abs(value) <= bound), f"{bound:.0e}"
        (True, '2e-16')
    """
    usual = where is None and weights is None and not keepdims and not return_bound
    if usual and (known := _near_rows(x, axis)) is not None:
        return like(x, logsumexp_of_near(*known))
    return _logsumexp_of_any(x, axis, where, weights, keepdims, return_bound)


@quiet
def _logsumexp_of_any(
    x: Array,
    axis: Axis,
    where: Array | None,
    weights: Array | None,
    keepdims: bool,
    return_bound: bool,
) -> Array:
    if where is not None:
        same_labels({"x": x, "where": where})
    xp, (x, *factors) = real({"x": x} if weights is None else {"x": x, "weights": weights})
    dtype, (x,) = widened(xp, [x])
    used = None if where is None else mask(xp, "where", where, x)
    if factors:
        _, (w,) = widened(xp, factors)
        w = broadcast(xp, "weights", w, x.shape)
        wrong = ~((w >= 0) & (w < math.inf))
        check(xp, "weights", w, wrong, "a finite number, at least 0")
        some = w != 0
        log_w = xp.log(xp.where(some, xp.where(wrong, math.nan, w), 1.0))
        x = x + log_w
        used = some if used is None else some & used
    if used is not None:
        x = xp.where(used, x, -math.inf)
    axes = resolve_axis(axis, x.ndim)
    shape = tuple(1 if i in axes else n for i, n in enumerate(x.shape) if keepdims or i not in axes)
    rows = to_rows(xp, x, axes)
    out = finish(xp, xp.reshape(_logsumexp(xp, rows), shape), dtype)
    if not return_bound:
        return out
    log_w = None if not factors else to_rows(xp, log_w, axes)
    bound = xp.reshape(_logsumexp_bound(xp, rows, log_w, dtype), shape)
    return out, (bound.detach() if is_tensor(x) else bound)[()]


def softmax(
    x: Array, *, axis: Axis = -1, temperature: Array = 1.0, where: Array | None = None
) -> Array:
    r"""The distribution that logits stand for, :math:`e^{x_i / T} / \sum_j e^{x_j / T}`.

    Use it when the probabilities themselves are wanted. In a loss use logits; for logarithms use
    :func:`log_softmax`.

    Accuracy in float64 for n logits: each entry within
    :math:`(n / 8 + 8 + 2 (\max_j x_j - \min_j x_j) / T) \, 2^{-53}` of its value. The last term is
    the rounding of :math:`x_i - \max_j x_j`. Subnormal entries are as accurate as such numbers are.

    Args:
        x: logits in nats, an array of any shape; ``-inf`` is a class of probability 0.
        axis: the axis or axes that are normalised together; None for all.
        temperature: T, positive and finite; a float, or an array of shape () or (1,).
        where: booleans that broadcast to the shape of ``x``: the entries to include. The others
            are exactly 0, whatever they hold, and get a zero gradient.

    Returns:
        The shape of ``x``. With one logit of ``inf``, the one-hot limit. NaN in a row whose
        included logits are all ``-inf``, or several of them ``inf``, or one NaN; 0 in a row with
        nothing included.

    Raises:
        ValueError: an axis or the temperature is out of range, or ``where`` does not broadcast.
        TypeError: ``x`` is complex or not numbers, or ``where`` is not boolean.

    Source: Blanchard, Higham and Higham (2021), doi:10.1093/imanum/draa038.

    Example:
        >>> softmax([1000.0, 1000.0, -float("inf")]).tolist()
        [0.5, 0.5, 0.0]
        >>> softmax([float("inf"), 0.0]).tolist()
        [1.0, 0.0]
        >>> softmax([3.0, float("nan")], where=[False, False]).tolist()
        [0.0, 0.0]
    """
    if where is None and _is_short(x, axis, temperature):
        out = x.softmax(-1)
        # A row with inf, which has a limit, and one without a softmax are NaN from end to end.
        if not math.isnan(extremes(out)[0]):
            return out
    if where is None and (known := _near_rows(x, axis, temperature)) is not None:
        return like(x, _softmax_of_near(*known, temperature))
    return _map_rows(_softmax, 0.0, x, axis, temperature, where)


def log_softmax(
    x: Array, *, axis: Axis = -1, temperature: Array = 1.0, where: Array | None = None
) -> Array:
    r"""Logarithm of the softmax, :math:`x_i / T - \log \sum_j e^{x_j / T}`.

    Use it in place of ``log(softmax(x))``, which is -inf where a probability has rounded to 0. For
    the loss itself, with its gradient, use :func:`celib.losses.cross_entropy`.

    The differences are taken before anything is rounded to the size of ``x``, and the largest entry
    is :math:`-\log(1 + \sum_{j \ne a} e^{(x_j - x_a) / T})`: the tiny loss of a confident and right
    answer keeps full relative accuracy.

    Accuracy in float64, with s the softmax, a the place of the largest entry and
    :math:`t_j = (x_j - x_a) / T`: each entry within 4 ulp, besides what the rounding of the t does,
    which is at most :math:`2^{-52} (|t_i| + \sum_{j \ne a} s_j |t_j|)`.

    Args:
        x, axis, temperature, where: as for :func:`softmax`.

    Returns:
        The shape of ``x``; ``-inf`` for logits of ``-inf`` and entries that are left out, NaN
        where :func:`softmax` is NaN.

    Raises:
        ValueError, TypeError: as for :func:`softmax`.

    Source: Blanchard, Higham and Higham (2021), doi:10.1093/imanum/draa038, for the shift.

    Example: a loss that is small, not 0.
        >>> f"{log_softmax([0.0, -40.0])[0]:.12e}"
        '-4.248354255292e-18'
        >>> log_softmax([float("inf"), 0.0]).tolist()
        [0.0, -inf]
    """
    if where is None and _is_short(x, axis, temperature):
        out = x.log_softmax(-1)
        # torch takes log(1 + others), which keeps its digits if the others make up half of the sum.
        if extremes(out)[1] < -math.log(2.0):
            return out
    if where is None and (known := _near_rows(x, axis, temperature)) is not None:
        return like(x, _log_softmax_of_near(*known, temperature))
    return _map_rows(_log_softmax, -math.inf, x, axis, temperature, where)


def log1mexp(x: Array) -> Array:
    r"""Logarithm of one minus an exponential, :math:`\log(1 - e^{-x})` for :math:`x > 0`.

    Use it for the logarithm of a complement, ``log(1 - p)``, when p is known by its logarithm;
    written out, it loses all digits when p is tiny or close to 1.

    Accuracy in float64: within 3 ulp.

    Args:
        x: an array of any shape.

    Returns:
        The shape of ``x``; ``-inf`` at 0, NaN below.

    Raises:
        TypeError: ``x`` is complex or not numbers.

    Source: Maechler (2012), Accurately computing ``log(1 - exp(-|a|))``, vignette of R's Rmpfr.

    Example: the plain form gives 0 and -inf.
        >>> [f"{y:.10e}" for y in log1mexp([50, 1e-300])]
        ['-1.9287498480e-22', '-6.9077552790e+02']
    """
    if (known := _plain_between(0.0, x, _FAR)) is not None:
        return like(x, _log1mexp_of_plain(*known))
    return _map_entries(_log1mexp, "x", x)


def log1pexp(x: Array) -> Array:
    r"""Logarithm of one plus an exponential (softplus), :math:`\log(1 + e^x)`.

    Use it for the loss of a binary logit. Written out, ``log(1 + exp(x))`` overflows for large x
    and is 0 for very negative ones.

    Accuracy in float64: within 2 ulp.

    Args:
        x: an array of any shape.

    Returns:
        The shape of ``x``; 0 at ``-inf``, ``inf`` at ``inf``.

    Raises:
        TypeError: ``x`` is complex or not numbers.

    Example: the logistic loss of a right answer; the plain form gives 0, and inf at 1000.
        >>> f"{log1pexp(-40.0):.12e}"
        '4.248354255292e-18'
        >>> float(log1pexp(1000.0))
        1000.0
    """
    if ready(x) and (is_tensor(x) or (x.size and x.item(x.argmin()) > -_FAR)):
        return np.logaddexp(x, 0.0) if type(x) is np.ndarray else _log1pexp(None, x)
    return _map_entries(_log1pexp, "x", x)


def logit(p: Array) -> Array:
    r"""Log-odds of a probability, :math:`\log(p / (1 - p))`.

    Use it to get from a stated probability back to a score, for instance before
    :class:`celib.calibration.TemperatureScaling`.

    Accuracy in float64: within 3 ulp.

    Args:
        p: probabilities, an array of any shape.

    Returns:
        The shape of ``p``, in nats; ``-inf`` at 0, ``inf`` at 1, NaN outside [0, 1]
        unless by rounding.

    Raises:
        TypeError: ``p`` is complex or not numbers.

    Example: near one half the plain form has no digit right.
        >>> f"{logit(0.5 + 2**-53):.12e}"
        '4.440892098501e-16'
    """
    if (known := _plain_between(2.0**-99, p, 1.0)) is not None:
        return like(p, _logit_of_inner(*known))
    return _logit_of_any(p)


@quiet
def _logit_of_any(p: Array) -> Array:
    xp, dtype, (p,) = floating(p=p)
    # Outside [0, 1] by rounding is at its end; what is farther outside becomes NaN below.
    beyond = entry_tolerance(float(xp.finfo(dtype).eps))
    p = xp.where((p < 0) & (p >= -beyond), 0.0, p)
    p = xp.where((p > 1) & (p <= 1.0 + beyond), 1.0, p)
    return finish(xp, _logit(xp, p), dtype)


def expit(x: Array) -> Array:
    r"""Logistic sigmoid, :math:`1 / (1 + e^{-x})`, the inverse of :func:`logit`.

    Use it for probabilities; for their logarithm use ``-log1pexp(-x)``, which does not round to 0
    first.

    SciPy's and torch's own, behind this module's rules for types.

    Args:
        x: log-odds in nats, an array of any shape.

    Returns:
        The shape of ``x``.

    Raises:
        TypeError: ``x`` is complex or not numbers.

    Example:
        >>> expit([-1000, 0, 1000]).tolist()
        [0.0, 0.5, 1.0]
    """
    return _expit(None, x) if ready(x) else _map_entries(_expit, "x", x)


# The usual arguments, which are what ``arguments.arrays.plain`` lets through, and near to each
# other: no exponential underflows, even in float32, and no number is infinite or NaN. So there is
# neither a case to tell apart nor a warning of NumPy to silence. What is computed is the same.

_FAR = 80.0
# Up to so many terms torch's own functions, which add them one by one in a few strands, are as
# accurate as a pairwise sum.
_SHORT = 128


def _near_rows(
    x: Array, axis: Axis, temperature: Array = 1.0
) -> tuple[Any, Array, Array, Any] | None:
    """NumPy or torch, plain rows of numbers that are near to each other, the largest of each row
    and its place."""
    if type(temperature) not in (float, int) or not 0 < temperature < math.inf:
        return None
    if (known := plain_rows(axis, x)) is None:
        return None
    xp, (x,) = known
    largest, at = largest_of_plain(x)
    spread = extremes(largest)[1] - extremes(x)[0]
    return (xp, x, largest, at) if spread < _FAR * min(temperature, 1.0) else None


def _is_short(x: Array, axis: Axis, temperature: Array) -> bool:
    """Whether it is a tensor of few numbers in short rows, along the last axis, and no more."""
    if not only_values(x) or not ready(x) or type(temperature) is not float or temperature != 1.0:
        return False
    along_last = x.ndim > 0 and type(axis) is int and axis in (-1, x.ndim - 1)
    return along_last and 0 < x.numel() < FEW and x.shape[-1] <= _SHORT and bool(x.is_cpu)


def _plain_between(low: float, x: Array, high: float) -> tuple[Any, Array] | None:
    """NumPy or torch, and plain numbers that are strictly between two others."""
    if (known := plain(x)) is None:
        return None
    xp, (x,) = known
    least, most = extremes(x)
    return (xp, x) if low < least and most < high else None


def largest_of_plain(x: Array) -> tuple[Array, Any]:
    """The largest entry of each row, and its place in all of x; of several, the first."""
    at = (x if type(x) is np.ndarray else x.numpy()).argmax(-1)
    if x.ndim == 1:
        return x[at], int(at)
    at = at.reshape(-1) + np.arange(at.size) * x.shape[-1]
    return x.reshape(-1)[at].reshape(*x.shape[:-1], 1), at


def sum_without(terms: Array, at: Any) -> Array:
    """The sum of each row without the entry at these places, which is set to 0."""
    terms.reshape(-1)[at] = 0.0
    others = terms.sum(-1)
    return others[..., None] if terms.ndim > 1 else others


def logsumexp_of_near(xp: Any, x: Array, largest: Array, at: Any) -> Array:
    terms = x - largest
    terms = xp.exp(terms, out=terms)
    out = largest + xp.log1p(sum_without(terms, at))
    return out[..., 0] if x.ndim > 1 else out


def _softmax_of_near(xp: Any, x: Array, largest: Array, at: Any, temperature: float) -> Array:
    terms = x - largest
    if temperature != 1.0:
        terms /= temperature
    terms = xp.exp(terms, out=terms)
    total = 1.0 + sum_without(terms, at)
    terms.reshape(-1)[at] = 1.0
    terms /= total
    return terms


def _log_softmax_of_near(xp: Any, x: Array, largest: Array, at: Any, temperature: float) -> Array:
    shifted = x - largest
    if temperature != 1.0:
        shifted /= temperature
    shifted -= xp.log1p(sum_without(xp.exp(shifted), at))
    return shifted


def _log1mexp_of_plain(xp: Any, x: Array) -> Array:
    """As ``_log1mexp``, step by step in place."""
    near = -x
    far = xp.exp(near)
    near = xp.expm1(near, out=near)
    near *= -1.0
    far *= -1.0
    return xp.where(x <= math.log(2.0), xp.log(near, out=near), xp.log1p(far, out=far))


def _logit_of_inner(xp: Any, p: Array) -> Array:
    r"""As ``_logit``: :math:`\pm \log(1 + |2p - 1| / \min(p, 1 - p))`, and 2p - 1 is exact."""
    half = p - 0.5
    least = 1.0 - p
    odds = abs(half)
    odds += odds
    odds /= xp.minimum(p, least, out=least)
    return xp.copysign(xp.log1p(odds, out=odds), half, out=odds)


# Numerics: rows along the last axis, nothing checked.


@quiet
def _map_entries(entrywise: Callable[[Any, Array], Array], name: str, x: Array) -> Array:
    xp, dtype, (x,) = floating(**{name: x})
    return finish(xp, entrywise(xp, x), dtype)


def _log1mexp(xp: Any, x: Array) -> Array:
    # Below log 2 the digits are in 1 - e^-x, above in e^-x (Maechler 2012, eq. 7).
    small = x <= math.log(2.0)
    near = xp.log(-xp.expm1(-x))
    far = xp.log1p(-xp.exp(-xp.where(small, 1.0, x)))
    return xp.where(small, near, far)


def _logit(xp: Any, p: Array) -> Array:
    # torch.special.logit is log(p / (1 - p)), which has no digit left near 1/2, where p / (1 - p)
    # rounds to 1. There 2p - 1 is exact.
    middle = (p > 0.25) & (p < 0.75)
    half = xp.where(middle, p, 0.5)
    p = xp.where(middle, 0.25, p)
    return xp.where(middle, xp.log1p((2.0 * half - 1.0) / (1.0 - half)), xp.log(p) - xp.log1p(-p))


def _log1pexp(xp: Any, x: Array) -> Array:
    if is_tensor(x):
        # Beyond the threshold it is x, as it is to 2^-57 of it.
        return sys.modules["torch"].nn.functional.softplus(x, threshold=40.0)
    return xp.logaddexp(x, xp.zeros_like(x))


def _expit(xp: Any, x: Array) -> Array:
    return (sys.modules["torch"] if is_tensor(x) else scipy).special.expit(x)


def _split(xp: Any, x: Array, temperature: Array = 1.0) -> tuple[Array, ...]:
    """The largest entry, and what the others are relative to it."""
    largest, is_top = largest_entry(xp, x)
    # The inner `where` keeps inf - inf out of the value, and 0 * inf out of the gradient.
    finite = ~is_top & (x != -math.inf)
    shifted = xp.where(finite, x - largest, 0.0) / temperature
    terms = xp.where(finite, xp.exp(shifted), 0.0)
    return largest, is_top, finite, shifted, terms, xp.sum(terms, axis=-1, keepdims=True)


def largest_entry(xp: Any, x: Array) -> tuple[Array, Array]:
    """The largest entry of each row, and a mask of its place; of several, the first.

    One entry, singled out by its index, not all that are equal to the largest: for a fixed index
    the formulas that split it off are identities in x, so that autograd is right at ties and in
    second order.
    """
    at = xp.argmax(x, axis=-1, keepdims=True)
    # torch's own take_along_axis fixes the number of rows of what is exported.
    largest = x.gather(-1, at) if is_tensor(x) else xp.take_along_axis(x, at, axis=-1)
    return largest, xp.arange(x.shape[-1], device=place_of(x)) == at


def _logsumexp(xp: Any, x: Array) -> Array:
    if x.shape[-1] == 0:
        return xp.sum(x, axis=-1) - math.inf
    largest, _, _, _, _, others = _split(xp, x)
    infinite = xp.where(largest > 0, largest, -math.inf)
    out = xp.where(xp.isinf(largest), infinite, largest + xp.log1p(others))
    return out[..., 0]


def _logsumexp_bound(xp: Any, x: Array, log_weights: Array | None, dtype: Any) -> Array:
    """What the roundings in ``_logsumexp`` come to at most, and the last one, to ``dtype``."""
    n = x.shape[-1]
    if n == 0:
        return xp.sum(x, axis=-1)
    unit, tiny = xp.finfo(x.dtype).eps / 2, xp.finfo(x.dtype).smallest_normal
    # exp, log and log1p are within 1 ulp in float64, NumPy's fast ones in float32 within 4.
    each = 2 if unit < 2.0**-50 else 8
    # NumPy's pairwise sum adds 8 strands of at most 16 terms, then strands, a rest of at most 7,
    # and halves. Of another order nothing is known, and it need not be.
    chain = max(n - 2, 0)
    if is_numpy_namespace(xp):
        chain = min(chain, 24 + math.ceil(math.log2(n)))
    y = xp.abs(_logsumexp(xp, x))
    if (chain + each) * unit >= 0.25:
        return xp.where(xp.isinf(y), 0.0, y + math.inf)
    _, is_top, _, shifted, terms, others = _split(xp, x)
    total = 1.0 + others
    spread = xp.sum(xp.where(terms > 0, -shifted * terms, 0.0), axis=-1, keepdims=True) / total
    count = spread + each * xp.log1p(others) + (each + chain) * others / total
    if log_weights is not None:
        rounded = xp.where(xp.isinf(x), 0.0, xp.abs(x) + each * xp.abs(log_weights))
        share = xp.where(is_top, 1.0, terms) / total
        count = count + xp.sum(share * rounded, axis=-1, keepdims=True)
    # Second-order terms and the roundings of this bound; then terms that underflow.
    units = 1.01 * unit / (1 - 2 * (chain + each) * unit)
    bound = units * (count[..., 0] + y) + (n - 1) * tiny
    if xp.finfo(dtype).bits < xp.finfo(x.dtype).bits:
        narrow = xp.finfo(dtype)
        bound = bound + (y + narrow.smallest_normal) * narrow.eps / 2
        bound = xp.where(y > narrow.max, math.inf, bound)
    return xp.where(xp.isinf(y), 0.0, bound)


def _softmax(xp: Any, x: Array, temperature: Array) -> Array:
    largest, is_top, _, _, terms, others = _split(xp, x, temperature)
    others = xp.where(largest > -math.inf, others, math.nan)
    return xp.where(is_top, 1.0, terms) / (1.0 + others)


def _log_softmax(xp: Any, x: Array, temperature: Array) -> Array:
    largest, is_top, finite, shifted, _, others = _split(xp, x, temperature)
    others = xp.where(largest > -math.inf, others, math.nan)
    return xp.where(is_top | finite, shifted, -math.inf) - xp.log1p(others)


@quiet
def _map_rows(
    rowwise: Callable[..., Array],
    masked: float,
    x: Array,
    axis: Axis,
    temperature: Array,
    where: Array | None,
) -> Array:
    if where is not None:
        same_labels({"x": x, "where": where})
    plain = isinstance(temperature, (int, float))
    xp, (x, *given) = real({"x": x} if plain else {"x": x, "temperature": temperature})
    dtype, (x,) = widened(xp, [x])
    axes = resolve_axis(axis, x.ndim)
    t = positive("temperature", temperature) if plain else _temperature(xp, given[0], x.dtype)
    used = None if where is None else mask(xp, "where", where, x)
    if math.prod(x.shape) == 0:
        return finish(xp, x + 0.0, dtype)
    rows = to_rows(xp, x if used is None else xp.where(used, x, -math.inf), axes)
    out = from_rows(xp, rowwise(xp, rows, t), axes, x.shape)
    return finish(xp, out if used is None else xp.where(used, out, masked), dtype)


def _temperature(xp: Any, t: Array, dtype: Any) -> Array:
    """An array of one number, which may want a gradient; NaN where it cannot be refused."""
    if tuple(t.shape) not in ((), (1,)):
        refuse_shape("temperature", t.shape, "one number")
    wrong = ~((t > 0) & (t < math.inf))
    check(xp, "temperature", t, wrong, "positive and finite")
    return xp.astype(xp.where(wrong, math.nan, t), dtype)
