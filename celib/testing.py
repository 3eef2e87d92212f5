"""References and inputs to test numerical code against, this library's or any other.

>>> import math
>>> plain = math.log(math.exp(0.0) + math.exp(-40.0))
>>> reference = oracle("logsumexp", [0.0, -40.0])
>>> float(ulp_error(plain, reference)) > 1e15
True
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import mpmath as mp
import numpy as np

__all__ = ["ORACLES", "nasty_distributions", "nasty_logits", "oracle", "ulp_error"]


def __dir__() -> list[str]:
    return sorted(__all__)


# Textbook formulas, right because of the digits they are evaluated with: 1 + 5e-324, the smallest
# positive float beside 1, takes 324 digits to write down, and 50 are to be right.
_WORKING_DIGITS = 400
_DIGITS = 50

Row = list[Any]


def _logsumexp(x: Row, weights: Row | None = None) -> Any:
    return mp.log(mp.fsum(w * mp.exp(t) for w, t in zip(weights or [1] * len(x), x, strict=True)))


def _log_softmax(x: Row, temperature: Any = 1) -> Row:
    x = [t / temperature for t in x]
    lse = _logsumexp(x)
    return [t - lse for t in x]


def _share(p: Row) -> Row:
    total = mp.fsum(p)
    return [a / total for a in p]


def _cross_entropy(p: Row, q: Row) -> Any:
    if any(a > 0 and b == 0 for a, b in zip(p, q, strict=True)):
        return mp.inf
    return -mp.fsum(a * mp.log(b) for a, b in zip(p, q, strict=True) if a > 0)


def _kl_divergence(p: Row, q: Row) -> Any:
    p, q = _share(p), _share(q)
    return _cross_entropy(p, q) - _cross_entropy(p, p)


def _js_divergence(p: Row, q: Row) -> Any:
    p, q = _share(p), _share(q)
    mean = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    return (_kl_divergence(p, mean) + _kl_divergence(q, mean)) / 2


def _renyi_entropy(p: Row, order: Any) -> Any:
    p = [a for a in _share(p) if a > 0]
    if order == 1:
        return _cross_entropy(p, p)
    if order == mp.inf:
        return -mp.log(max(p))
    return mp.log(mp.fsum(a**order for a in p)) / (1 - order)


def _mutual_information(joint: list[Row]) -> Any:
    rows = _share([mp.fsum(row) for row in joint])
    columns = _share([mp.fsum(column) for column in zip(*joint, strict=True)])
    return _kl_divergence([a for row in joint for a in row], [r * c for r in rows for c in columns])


def _conditional_entropy(joint: list[Row]) -> Any:
    return mp.fsum(_cross_entropy(row, _share(row)) for row in joint if any(row))


#: What :func:`oracle` can compute, by name: formulas of mpmath.
ORACLES: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        "logsumexp": _logsumexp,
        "log_softmax": _log_softmax,
        "softmax": lambda x, temperature=1: [mp.exp(t) for t in _log_softmax(x, temperature)],
        "log1mexp": lambda x: mp.log(1 - mp.exp(-x)),
        "log1pexp": lambda x: mp.log(1 + mp.exp(x)),
        "logit": lambda p: mp.log(p / (1 - p)),
        "expit": lambda x: 1 / (1 + mp.exp(-x)),
        "self_information": lambda p: -mp.log(p),
        "entropy": lambda p: _cross_entropy(p, p),
        "cross_entropy": _cross_entropy,
        "perplexity": lambda p, q=None: mp.exp(_cross_entropy(p, q or p)),
        "kl_divergence": _kl_divergence,
        "js_divergence": _js_divergence,
        "renyi_entropy": _renyi_entropy,
        "mutual_information": _mutual_information,
        "conditional_entropy": _conditional_entropy,
    }
)


def _exact(value: Any) -> Any:
    if hasattr(value, "tolist"):  # of NumPy and torch; float32 and float16 widen exactly
        value = value.tolist()
    return list(map(_exact, value)) if isinstance(value, list | tuple) else mp.mpf(value)


def oracle(name: str, *args: Any, **kwargs: Any) -> Any:
    """The value of a function of :mod:`celib`, to 50 digits, for exactly the floats given.

    Use it in tests, where it is the reference; it is far slower than what it checks.

    The divergences, the mutual information and the Rényi entropy are those of the floats divided
    by their sum, the other functions those of the floats as they are.

    Args:
        name: one of the keys of ``ORACLES``.
        args, kwargs: finite numbers, or lists or arrays of them: one row, for a joint
            distribution one matrix. In nats.

    Returns:
        An ``mpmath.mpf``, or a list of them. mpmath rounds further arithmetic to its own working
        precision, 15 digits unless it is told otherwise.

    Raises:
        ValueError: the name is unknown.

    Example:
        >>> import mpmath
        >>> mpmath.nstr(oracle("log_softmax", [0.0, -40.0])[0], 30)
        '-4.24835425529158898630497784363e-18'
    """
    if name not in ORACLES:
        raise ValueError(f"name = {name!r}: expected one of {sorted(ORACLES)}")
    with mp.workdps(_WORKING_DIGITS):
        value = ORACLES[name](*map(_exact, args), **{k: _exact(v) for k, v in kwargs.items()})
    with mp.workdps(_DIGITS):
        return [+v for v in value] if isinstance(value, list) else +value


def ulp_error(actual: Any, reference: Any) -> np.ndarray:
    """Distance from a reference, in units in its last place.

    Use it to state an accuracy that does not depend on how large the value is.

    Args:
        actual: a float or an array; its dtype sets the unit.
        reference: a number, an mpmath number or a (nested) list of them, of the same shape.

    Returns:
        An array of float64 of that shape: 0 where both are NaN or the same infinity, ``inf`` where
        only one is.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> float(ulp_error(1.0 + 2**-52, 1))
        1.0
        >>> float(ulp_error(np.float32(1.0) + np.float32(2**-23), 1))
        1.0
        >>> ulp_error([0.0, np.inf], [1.0, np.inf]).tolist()
        [4503599627370496.0, 0.0]
    """
    actual = np.asarray(actual)
    actual = actual if actual.dtype.kind == "f" else actual.astype(np.float64)
    wanted = np.asarray(reference, dtype=object)
    if wanted.shape != actual.shape:
        raise ValueError(f"reference has shape {wanted.shape}: expected {actual.shape}")
    out = np.empty(actual.shape)
    with mp.workdps(_DIGITS):
        for i in np.ndindex(actual.shape):
            found, want = mp.mpf(float(actual[i])), mp.mpf(wanted[i])
            if mp.isfinite(found) and mp.isfinite(want):
                unit = np.spacing(np.abs(actual.dtype.type(float(want))))
                out[i] = float(abs(found - want) / mp.mpf(float(unit)))
            else:
                out[i] = 0.0 if found == want or (mp.isnan(found) and mp.isnan(want)) else np.inf
    return out


def nasty_logits() -> dict[str, list[float]]:
    """Rows of finite logits, each of which breaks some way of computing a softmax or its log.

    Use it to test an implementation of your own, with :func:`oracle` as the reference.

    Example:
        >>> nasty_logits()["hidden excess"]
        [0.0, -40.0]
    """
    return {
        "overflow": [1000.0, 1000.0],
        "underflow": [-1000.0, -1000.0],
        "hidden excess": [0.0, -40.0],
        "hidden excess, winner last": [-745.0, -36.5, 0.25],
        "tie": [2.0, 2.0, 2.0],
        "near tie": [1.0, 1.0 + 2**-52, 1.0 - 2**-53],
        "offset": [1e8 + 0.1, 1e8 - 0.7, 1e8 + 1.3],
        "negative offset": [-1e4 + 0.3, -1e4 - 2.2, -1e4],
        "wide": [-300.0, 250.0, 40.0, 249.0],
        "beyond exp": [0.0, -800.0],
        "extreme": [1e308, -0.7e308],
        "tiny": [1e-300, -1e-300, 5e-324],
        "sum near one": [-1.2039728043259361, -0.35667494393873245],
        "single": [-3.5],
        "many small": [0.0, *([-37.0] * 1000)],
    }


def nasty_distributions() -> dict[str, tuple[list[float], list[float]]]:
    """Pairs of probability vectors, each of which breaks some way of computing a divergence.

    Use it to test an implementation of your own, with :func:`oracle` as the reference.

    Example:
        >>> nasty_distributions()["subnormal"]
        ([0.5, 0.5], [1.0, 5e-324])
    """
    e = 2.0**-40
    return {
        "equal": ([0.2, 0.3, 0.5], [0.2, 0.3, 0.5]),
        "close": ([0.5 + e, 0.5 - e], [0.5, 0.5]),
        "one bit apart": ([0.1, 0.2, 0.7], [0.10000000000000002, 0.2, 0.7]),
        "sums that round": ([0.7, 0.2, 0.1], [0.1 + 0.6, 0.2 + 1e-9, 0.1 - 1e-9]),
        "close, uneven": ([1.0, 1e-12], [1.0, 1.1e-12]),
        "factor two": ([2 / 3, 1 / 3], [1 / 3, 2 / 3]),
        "at the switch": ([0.625, 0.375], [0.375, 0.625]),
        "far": ([1.0, 1e-30], [1e-30, 1.0]),
        "tiny": ([0.5, 0.5], [1.0, 1e-300]),
        "subnormal": ([0.5, 0.5], [1.0, 5e-324]),
        "both subnormal": ([1.0, 5e-324, 1e-310], [1.0, 1e-310, 5e-324]),
        "zero in p": ([1.0, 0.0], [0.5, 0.5]),
        "zero in q": ([0.5, 0.5], [1.0, 0.0]),
        "zero in both": ([0.5, 0.5, 0.0], [0.25, 0.75, 0.0]),
        "disjoint": ([1.0, 0.0], [0.0, 1.0]),
        "certain": ([1.0], [1.0]),
    }
