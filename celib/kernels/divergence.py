r"""Divergences of a student from its teacher, from the logits of both, with derivatives.

p is the softmax of the teacher's logits v / T, s that of the student's logits z / T. With
:math:`D_{KL}(p \Vert s) = \sum_k p_k \log (p_k / s_k)` and
:math:`m = \beta p + (1 - \beta) s` they are

- "forward": :math:`D_{KL}(p \Vert s)`;
- "reverse": :math:`D_{KL}(s \Vert p)`;
- "jensen-shannon": :math:`\beta D_{KL}(p \Vert m) + (1 - \beta) D_{KL}(s \Vert m)`, which is
  :math:`\beta (1 - \beta) / 2` times the variance of (v - z) / T where the two are close, and never
  more than the entropy of (beta, 1 - beta). Near that bound nearly nothing is left of its gradient,
  and so of the digits: the error is relative to the largest probability.

All are sums of terms that are not negative, taken from v - z. Here they are operations of torch,
for every device and dtype, whose derivatives of every order are written down as in
:mod:`celib.derivatives`; :mod:`celib.kernels.divergence_numba` is the loop for a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from celib.derivatives import Written, applied, softmax_of, softplus, split, surprise_of

FORWARD, REVERSE, MIXED = DIVERGENCES = "forward", "reverse", "jensen-shannon"


def divergence(z: Tensor, v: Tensor, temperature: Tensor, kind: str, beta: float) -> Tensor:
    """The divergences of rows, shape (...).

    Args:
        z, v: the logits of the student and of the teacher, shape (..., C), float32 or float64.
        temperature: T, of their dtype and one number.
        kind: one of ``DIVERGENCES``.
        beta: of "jensen-shannon", in (0, 1).
    """
    z, v = _one_hot_limit(z), _one_hot_limit(v)
    if kind == MIXED:
        return _jensen_shannon(z, v, temperature, beta)
    return _divergence(z, v, temperature) if kind == FORWARD else _divergence(v, z, temperature)


def value_and_slopes(
    z: Tensor, v: Tensor, temperature: Tensor, kind: str, beta: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The divergences, and their derivatives with respect to z / T and, shape (...), log T."""
    z, v = _one_hot_limit(z), _one_hot_limit(v)
    if kind == MIXED:
        value = _JensenShannon.forward(z, v, temperature, beta)
        to_z, _, to_log_t = _JensenShannon.slopes(z, v, temperature, beta)
    elif kind == FORWARD:
        value = _Divergence.forward(z, v, temperature)
        to_z, _, to_log_t = _Divergence.slopes(z, v, temperature)
    else:
        value = _Divergence.forward(v, z, temperature)
        _, to_z, to_log_t = _Divergence.slopes(v, z, temperature)
    return value, to_z, to_log_t


class _Divergence(Written):
    r"""KL divergence of softmax(z / T) from softmax(v / T), with T a tensor of one number.

    With d = (v - z) / T, and e what d is above its mean under p, the teacher, it is the log of
    :math:`\sum p e^{-e}`, or log1p of :math:`\sum p (e^{-e} - 1 + e)`, whose terms are never
    negative.
    """

    @staticmethod
    def forward(z: Tensor, v: Tensor, temperature: Tensor) -> Tensor:
        both, p, e = _compared(z, v, temperature)
        log_p = torch.where(both, -surprise_of(_cooled(v, temperature)), -math.inf)
        # Far behind -1, p may underflow where p e^-e does not.
        near = e >= -1.0
        terms = p * _excess(torch.where(near, e, 0.0))
        far_terms = torch.exp(log_p - e) - p * (1.0 - e)
        excess = torch.where(both, torch.where(near, terms, far_terms), 0.0).sum(-1)
        close = excess <= 1.0
        far = _log_sum(torch.where(both, log_p - e, -math.inf))
        out = torch.where(close, torch.log1p(torch.where(close, excess, 0.0)), far)
        # What the student spends on classes that the teacher masks out.
        student = _cooled(z, temperature)
        inside = _log_sum(torch.where(v == -math.inf, -math.inf, student))
        outside = _log_sum(torch.where(v == -math.inf, student, -math.inf))
        out = out + softplus(outside - inside)
        lost = ((v > -math.inf) & (z == -math.inf)).any(-1)
        undefined = p.isnan().any(-1) | inside.isnan() | student.isnan().any(-1)
        return torch.where(undefined, math.nan, torch.where(lost, math.inf, out))

    @staticmethod
    def slopes(z: Tensor, v: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The derivatives with respect to z / T, v / T and, of shape (...), log T."""
        # s - p is p (e^u - 1) with u = log(s / p) = -(e + divergence), which is the better way as
        # long as the two are small. With respect to the teacher the derivative is p e.
        both, p, e = _compared(z, v, temperature)
        cooled = _cooled(z, temperature)
        student, _ = softmax_of(cooled)
        divergence = _divergence(z, v, temperature)[..., None]
        near = both & (e.abs() + divergence <= 1.0)
        u = torch.where(near, -(e + divergence), 0.0)
        to_student = torch.where(near, p * torch.expm1(u), student - p)
        to_student = torch.where(z == -math.inf, 0.0, to_student)
        to_teacher = torch.where(both, p * e, 0.0)
        # The divergence depends on z / T and v / T, so that its derivative with respect to log T is
        # minus the sum of the two derivatives times these. Taken together with v - z = T e and a
        # constant, what remains is their sum, which is of second order, times z / T.
        both_slopes = torch.where(near, p * (_excess(-u) - divergence), to_student + to_teacher)
        cooled = torch.where(z == -math.inf, 0.0, cooled)
        to_log_t = -(to_teacher * e + both_slopes * cooled).sum(-1)
        return to_student, to_teacher, to_log_t

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z, v, temperature = ctx.saved_tensors
        to_student, to_teacher, to_log_t = _Divergence.slopes(z, v, temperature)
        g = g / temperature
        to_temperature = (g * to_log_t).sum()
        return g[..., None] * to_student, g[..., None] * to_teacher, to_temperature

    @staticmethod
    def tangent(ctx: Any, t_z: Tensor, t_v: Tensor, t_temperature: Tensor) -> Tensor:
        z, v, temperature = ctx.saved_tensors
        slopes = _Divergence.slopes(z, v, temperature)
        return _rate(z, v, temperature, slopes, (t_z, t_v, t_temperature))


_divergence: Callable[[Tensor, Tensor, Tensor], Tensor] = applied(_Divergence)


class _JensenShannon(Written):
    r"""Jensen-Shannon divergence, in which the teacher p has the weight beta and the student s the
    rest.

    With a = p / m and b = s / m, which have the mean 1 in each class,
    :math:`\sum m (a \log a - a + 1)` is the divergence of p from m, and the same of b that of s. A
    term is also :math:`p (e^{-l} - 1 + l)` with l = log a. Where p and s are close, log a is taken
    from a - 1, and that from r = log(p / s).
    """

    @staticmethod
    def forward(z: Tensor, v: Tensor, temperature: Tensor, beta: float) -> Tensor:
        _, _, p, s, _, _, of_p, of_s = _mixture(z, v, temperature, beta)
        out = beta * of_p.sum(-1) + (1.0 - beta) * of_s.sum(-1)
        return torch.where(p.isnan().any(-1) | s.isnan().any(-1), math.nan, out)

    @staticmethod
    def slopes(
        z: Tensor, v: Tensor, temperature: Tensor, beta: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The derivatives with respect to z / T, v / T and, of shape (...), log T."""
        both, e, p, s, log_a, log_b, of_p, of_s = _mixture(z, v, temperature, beta)
        all_p, all_s = of_p.sum(-1, keepdim=True), of_s.sum(-1, keepdim=True)
        to_student = _balanced((1.0 - beta) * s * (log_b - all_s), s)
        to_teacher = _balanced(beta * p * (log_a - all_p), p)
        # As for the Kullback-Leibler divergence: of the two derivatives, what is of first order
        # cancels, and their sum is taken from terms of second order. v / T is z / T + e and a
        # constant, which has to be the same for classes that the student alone masks out.
        both_slopes = beta * (of_p - p * all_p) + (1.0 - beta) * (of_s - s * all_s)
        of_z, of_v = (_cooled(a, temperature) for a in (z, v))
        of_z, of_v = (torch.where(a == -math.inf, 0.0, a) for a in (of_z, of_v))
        at = torch.where(both, v, -math.inf).argmax(-1, keepdim=True)
        apart = torch.where(both, of_v - (of_z + e), 0.0).gather(-1, at)
        alone = torch.where(v > -math.inf, to_teacher * (of_v - apart), to_student * of_z)
        shares = torch.where(both, to_teacher * e + both_slopes * of_z, alone)
        return to_student, to_teacher, -shares.sum(-1)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        z, v, temperature = ctx.saved_tensors
        slopes = _JensenShannon.slopes(z, v, temperature, *ctx.constants)
        to_student, to_teacher, to_log_t = slopes
        g = g / temperature
        to_temperature = (g * to_log_t).sum()
        return g[..., None] * to_student, g[..., None] * to_teacher, to_temperature, None

    @staticmethod
    def tangent(ctx: Any, t_z: Tensor, t_v: Tensor, t_temperature: Tensor, _: None) -> Tensor:
        z, v, temperature = ctx.saved_tensors
        slopes = _JensenShannon.slopes(z, v, temperature, *ctx.constants)
        return _rate(z, v, temperature, slopes, (t_z, t_v, t_temperature))


_jensen_shannon: Callable[[Tensor, Tensor, Tensor, float], Tensor] = applied(_JensenShannon)

# Of log p from log s; beyond, one of p and s is 0 beside the other.
_FARTHEST = 1e4


def _mixture(z: Tensor, v: Tensor, temperature: Tensor, beta: float) -> tuple[Tensor, ...]:
    """See ``_JensenShannon``: the classes that neither masks out, e as in ``_Divergence``, p, s,
    log a, log b, and the terms of the divergences of p and of s from m."""
    both = (z > -math.inf) & (v > -math.inf)
    # Among the classes that both have; where there are none, of a row without a meaning.
    some = both.any(-1, keepdim=True)
    inner_z, inner_v = (torch.where(some, torch.where(both, a, -math.inf), 0.0) for a in (z, v))
    _, _, e = _compared(inner_z, inner_v, temperature)
    within = _divergence(inner_z, inner_v, temperature)[..., None]
    of_z, of_v = (_cooled(a, temperature) for a in (z, v))
    (p, _), (s, _) = softmax_of(of_v), softmax_of(of_z)
    r = e + within + _log_mass(p, both) - _log_mass(s, both)
    near = both & (r.abs() <= 1.0)
    r = torch.where(near, r, 0.0)
    # Far apart, the two logarithms have the digits; a class that one masks out is the farthest.
    far = (surprise_of(of_z) - surprise_of(of_v)).clamp(-_FARTHEST, _FARTHEST)
    far = torch.where(both, far, torch.where(v == -math.inf, -_FARTHEST, _FARTHEST))
    far = torch.where(near, 0.0, far)
    m = beta * p + (1.0 - beta) * s
    x = torch.where(near, -p * torch.expm1(-r) / torch.where(near, m, 1.0), 0.0)  # a - b
    w, more = torch.exp(-far.abs()), far >= 0.0
    # The logarithm of the likelier one is small, and keeps its digits.
    likelier = -torch.log(torch.where(more, beta + (1.0 - beta) * w, (1.0 - beta) + beta * w))
    log_a = torch.where(more, likelier, likelier + far)
    log_b = torch.where(more, likelier - far, likelier)
    log_a = torch.where(near, torch.log1p((1.0 - beta) * x), log_a)
    log_b = torch.where(near, torch.log1p(-beta * x), log_b)
    return both, e, p, s, log_a, log_b, _term(p, m, log_a), _term(s, m, log_b)


def _term(p: Tensor, m: Tensor, log: Tensor) -> Tensor:
    """p log(p / m) - p + m, never negative."""
    near = log >= -1.0
    return torch.where(near, p * _excess(torch.where(near, log, 0.0)), (m - p) + p * log)


def _log_mass(p: Tensor, inside: Tensor) -> Tensor:
    """The logarithm of the probability of some classes, from that of the others if it is small."""
    most, least = torch.where(inside, p, 0.0), torch.where(inside, 0.0, p)
    most, least = most.sum(-1, keepdim=True), least.sum(-1, keepdim=True)
    near = least < 0.5
    far = torch.log(most.clamp(min=torch.finfo(p.dtype).tiny))
    return torch.where(near, torch.log1p(-torch.where(near, least, 0.0)), far)


def _balanced(g: Tensor, p: Tensor) -> Tensor:
    """Rows of a gradient whose sum is 0: for a class that is nearly certain, from all others.

    There it is the difference of two numbers that nearly agree.
    """
    at = p.argmax(-1, keepdim=True)
    others = g.scatter(-1, at, 0.0).sum(-1, keepdim=True)
    return g.scatter(-1, at, torch.where(p.gather(-1, at) > 0.5, -others, g.gather(-1, at)))


def _rate(
    z: Tensor,
    v: Tensor,
    temperature: Tensor,
    slopes: tuple[Tensor, Tensor, Tensor],
    tangents: tuple[Tensor, Tensor, Tensor],
) -> Tensor:
    """The rate of a divergence along tangents of z, v and T."""
    to_student, to_teacher, to_log_t = slopes
    t_z, t_v, t_temperature = tangents
    # A class that is masked out has no share of a change, even of one that is not a number.
    t_z, t_v = (torch.where(a == -math.inf, 0.0, t) for a, t in ((z, t_z), (v, t_v)))
    rise = (to_student * t_z + to_teacher * t_v).sum(-1) + to_log_t * t_temperature
    rate: Tensor = rise / temperature
    return rate


def _one_hot_limit(z: Tensor) -> Tensor:
    """A row with one logit of inf, in the finite logits of the same softmax."""
    certain = z == math.inf
    some = certain.any(-1, keepdim=True)
    one = torch.where(certain.sum(-1, keepdim=True) > 1, math.nan, 0.0).to(z.dtype)
    return torch.where(some, torch.where(certain, one, -math.inf), z)


def _log_sum(z: Tensor) -> Tensor:
    """Log-sum-exp of rows without inf, for values alone."""
    largest, _, _, others = split(z)
    return torch.where(largest == -math.inf, -math.inf, largest + torch.log1p(others))[..., 0]


def _cooled(z: Tensor, temperature: Tensor) -> Tensor:
    # The constant has no derivative in a softmax.
    return (z - z.detach().amax(-1, keepdim=True)) / temperature


def _compared(z: Tensor, v: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The classes that neither masks out, p, and e: see ``_Divergence``."""
    both = (z > -math.inf) & (v > -math.inf)
    z, at = torch.where(both, z, 0.0), v.argmax(-1, keepdim=True)
    p, _ = softmax_of(_cooled(v, temperature))
    v = torch.where(both, v, 0.0)
    d = v - z
    # Knuth's error of the subtraction: logits that differ by a large constant lose nothing to it.
    with torch.no_grad():
        back = v - d
        error = (v - (d + back)) + (back - z)
        error = error - error.gather(-1, at)
    apart = torch.where(
        d.isfinite().all(-1, keepdim=True),
        (d - d.gather(-1, at)) + error,
        (v - v.gather(-1, at)) - (z - z.gather(-1, at)),
    )
    d = torch.where(both, apart / temperature, 0.0)
    return both, p, d - (p * d).sum(-1, keepdim=True)


# (e^-e - 1 + e) / e^2 = 1/2 - e/6 + e^2/24 - ...: for |e| <= 1/2 the rest is below 2^-57.
_EXCESS = tuple((-1.0) ** k / math.factorial(k + 2) for k in range(15))


def _excess(e: Tensor) -> Tensor:
    """e^-e - 1 + e, never negative; for e below -1 it may overflow."""
    small = e.abs() <= 0.5
    near = torch.where(small, e, 0.0)
    series = torch.zeros_like(near)
    for coefficient in reversed(_EXCESS):
        series = series * near + coefficient
    return torch.where(small, near * near * series, torch.expm1(-e) + e)
