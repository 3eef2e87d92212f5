"""A student and its teacher."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from celib.kernels.derivatives import Written, softmax_of, softplus, surprise_of
from celib.losses.arguments import (
    REDUCTIONS,
    check,
    floating,
    logits,
    number,
    one_of,
    reduce,
    same_shape,
    wide,
)
from celib.stable import logsumexp


def distillation_loss(
    input: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float,
    reduction: str = "batchmean",
    validate: bool = True,
) -> Tensor:
    r"""Divergence of a student from its teacher, :math:`T^2 D_{KL}(p \Vert s)`.

    :math:`p = \mathrm{softmax}(v / T)` is the teacher, :math:`s = \mathrm{softmax}(z / T)` the
    student. The factor keeps the gradient, :math:`T (s - p)`, of one size as T grows.

    Computed from :math:`v - z`, not from two logarithms: the value, never negative, and the
    gradient keep their digits when the student is close to the teacher, and up to the addition of
    any constant to the logits.

    Args:
        input: the student's logits z in nats, shape (C), (N, C) or (N, C, d1, ...).
        teacher_logits: the teacher's logits v, the shape of ``input``. They get a gradient if they
            want one.
        temperature: T, positive and finite.
        reduction: "none"; "mean", over the distributions; "sum"; or "batchmean", the sum divided by
            N, which for (N, C) is the mean.
        validate: whether to check ``teacher_logits`` for NaN.

    Returns:
        A number, or with "none" the shape of ``input`` without C. 0 if the teacher and the student
        mask out the same class; ``inf`` if only the student does.

    Raises:
        ValueError: the shapes differ, an option is not as above, or a teacher's logit is NaN.

    Source: Hinton, Vinyals and Dean (2015), arXiv:1503.02531.

    Example: the difference of logarithms has no digit right.
        >>> z = torch.tensor([0.0, 0.0], dtype=torch.float64)
        >>> v = torch.tensor([2.0**-40, 0.0], dtype=torch.float64)
        >>> f"{distillation_loss(z, v, temperature=1.0).item():.12e}"
        '1.033975765691e-25'
    """
    one_of("reduction", reduction, (*REDUCTIONS, "batchmean"))
    number("temperature", temperature, 0 < temperature < math.inf, "positive and finite")
    floating("teacher_logits", teacher_logits)
    same_shape("teacher_logits", teacher_logits, "input", input)
    z, v = (logits(a).to(wide(input, teacher_logits)) for a in (input, teacher_logits))
    if validate:
        check("teacher_logits", teacher_logits, teacher_logits.isnan(), "a number")
    loss = temperature**2 * _divergence(_one_hot_limit(z), _one_hot_limit(v), temperature)
    if reduction == "batchmean":
        return loss.sum() / (input.shape[0] if input.ndim > 1 else 1)
    return reduce(loss, reduction)


class _Divergence(Written):
    r"""KL divergence of softmax(z / T) from softmax(v / T).

    With d = (v - z) / T, and e what d is above its mean under p, the teacher, it is the log of
    :math:`\sum p e^{-e}`, or log1p of :math:`\sum p (e^{-e} - 1 + e)`, whose terms are never
    negative.
    """

    @staticmethod
    def forward(z: Tensor, v: Tensor, temperature: float) -> Tensor:
        both, p, e = _compared(z, v, temperature)
        log_p = torch.where(both, -surprise_of(_cooled(v, temperature)), -math.inf)
        # Far behind -1, p may underflow where p e^-e does not.
        near = e >= -1.0
        terms = p * _excess(torch.where(near, e, 0.0))
        far_terms = torch.exp(log_p - e) - p * (1.0 - e)
        excess = torch.where(both, torch.where(near, terms, far_terms), 0.0).sum(-1)
        close = excess <= 1.0
        far = logsumexp(torch.where(both, log_p - e, -math.inf))
        out = torch.where(close, torch.log1p(torch.where(close, excess, 0.0)), far)
        # What the student spends on classes that the teacher masks out.
        student = _cooled(z, temperature)
        inside = logsumexp(torch.where(v == -math.inf, -math.inf, student))
        outside = logsumexp(torch.where(v == -math.inf, student, -math.inf))
        out = out + softplus(outside - inside)
        lost = ((v > -math.inf) & (z == -math.inf)).any(-1)
        undefined = p.isnan().any(-1) | inside.isnan() | student.isnan().any(-1)
        return torch.where(undefined, math.nan, torch.where(lost, math.inf, out))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None]:
        # s - p is p (e^u - 1) with u = log(s / p) = -(e + divergence), which is the better way as
        # long as the two are small. With respect to the teacher the derivative is p e.
        (z, v), (temperature,) = ctx.saved_tensors, ctx.constants
        both, p, e = _compared(z, v, temperature)
        student, _ = softmax_of(_cooled(z, temperature))
        divergence = _divergence(z, v, temperature)[..., None]
        near = both & (e.abs() + divergence <= 1.0)
        u = torch.where(near, -(e + divergence), 0.0)
        difference = torch.where(near, p * torch.expm1(u), student - p)
        g = g[..., None] / temperature
        to_student = torch.where(z == -math.inf, 0.0, g * difference)
        return to_student, torch.where(both, g * (p * e), 0.0), None


_divergence: Callable[[Tensor, Tensor, float], Tensor] = _Divergence.apply


def _one_hot_limit(z: Tensor) -> Tensor:
    """A row with one logit of inf, in the finite logits of the same softmax."""
    certain = z == math.inf
    some = certain.any(-1, keepdim=True)
    one = torch.where(certain.sum(-1, keepdim=True) > 1, math.nan, 0.0).to(z.dtype)
    return torch.where(some, torch.where(certain, one, -math.inf), z)


def _cooled(z: Tensor, temperature: float) -> Tensor:
    # The constant has no derivative in a softmax.
    return (z - z.detach().amax(-1, keepdim=True)) / temperature


def _compared(z: Tensor, v: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
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
    """e^-e - 1 + e, never negative, for e >= -1."""
    small = e.abs() <= 0.5
    near = torch.where(small, e, 0.0)
    series = torch.zeros_like(near)
    for coefficient in reversed(_EXCESS):
        series = series * near + coefficient
    return torch.where(small, near * near * series, torch.expm1(-e) + e)
