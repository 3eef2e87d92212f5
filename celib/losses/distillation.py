"""A student and its teacher."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import array_api_compat.torch as xp
import torch
from torch import Tensor

from celib.arguments import arrays
from celib.arguments.arrays import readable
from celib.arguments.errors import integer, one_of, refuse_dtype, refuse_shape
from celib.arguments.tensors import (
    for_arrays,
    logits,
    positive,
    real,
    same_shape,
    sample_weights,
    tensors,
    wide,
)
from celib.derivatives import Written, applied, softmax_of, softplus, split, surprise_of
from celib.losses.reduction import REDUCTIONS, reduce


@for_arrays
def distillation_loss(
    input: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float | Tensor,
    axis: int | None = None,
    mask: Tensor | None = None,
    reduction: str = "batchmean",
    sample_weight: Tensor | None = None,
    validate: bool = True,
) -> Tensor:
    r"""Divergence of a student from its teacher, :math:`T^2 D_{KL}(p \Vert s)`.

    :math:`p = \mathrm{softmax}(v / T)` is the teacher, :math:`s = \mathrm{softmax}(z / T)` the
    student. The factor keeps the gradient, :math:`T (s - p)`, of one size as T grows.

    Computed from :math:`v - z`, not from two logarithms: the value, never negative, and the
    gradient keep their digits when the student is close to the teacher, and up to the addition of
    any constant to the logits.

    Args:
        input: the student's logits z in nats, shape (C), (N, C), or with more axes.
        teacher_logits: the teacher's logits v, the shape of ``input``. They get a gradient if they
            want one.
        temperature: T, positive and finite; a tensor of one number may want a gradient.
        axis: which axis holds the classes. None is the last of one or two axes. With more it has
            to be said: 1 for images (N, C, H, W), -1 for tokens (N, tokens, C), whose values do
            not tell the one from the other.
        mask: booleans of the shape of ``input`` without the classes: which distributions count,
            such as the tokens that are no padding. The others have loss 0 and gradient 0, whatever
            their logits are.
        reduction: "none"; "mean", over the distributions that count; "sum"; or "batchmean", the sum
            divided by N, which for (N, C) without a mask is the mean.
        sample_weight: a factor for each distribution, of the shape of ``mask``; a mean is then the
            weighted one.
        validate: whether to check ``teacher_logits`` for NaN, and the values of the other
            arguments.

    Returns:
        A number, or with "none" the shape of ``input`` without C. 0 if the teacher and the student
        mask out the same class; ``inf`` if only the student does.

    Raises:
        ValueError: the shapes differ, an option is not as above, ``axis`` is needed, or a teacher's
            logit is NaN.

    Source: Hinton, Vinyals and Dean (2015), arXiv:1503.02531.

    Example: the difference of logarithms has no digit right.
        >>> z = torch.tensor([0.0, 0.0], dtype=torch.float64)
        >>> v = torch.tensor([2.0**-40, 0.0], dtype=torch.float64)
        >>> f"{distillation_loss(z, v, temperature=1.0).item():.12e}"
        '1.033975765691e-25'
    """
    one_of("reduction", reduction, (*REDUCTIONS, "batchmean"))
    input, teacher_logits, mask, sample_weight = tensors(
        input=input, teacher_logits=teacher_logits, mask=mask, sample_weight=sample_weight
    )
    same_shape("teacher_logits", teacher_logits, "input", input)
    if axis is not None:
        axis = integer("axis", axis, lambda _: True, "an integer")
    elif input.ndim > 2:
        raise ValueError(
            f"axis = None: expected the axis of the classes for input of shape "
            f"{tuple(input.shape)}, such as 1 for images or -1 for tokens"
        )
    (at,) = arrays.resolve_axis(-1 if axis is None else axis, input.ndim) if input.ndim else (-1,)
    input, teacher_logits = real("input", input), real("teacher_logits", teacher_logits)
    dtype = wide(input, teacher_logits)
    z = logits("input", input, at).to(dtype)
    v = logits("teacher_logits", teacher_logits, at).to(dtype)
    t = positive("temperature", temperature, input)
    t = t.to(dtype) if isinstance(t, Tensor) else torch.full((), t, dtype=dtype, device=z.device)
    each = sample_weights(sample_weight, z.shape[:-1], dtype, validate)
    counts = None if mask is None else _counts(mask, z.shape[:-1])
    if counts is not None:
        z, v = (torch.where(counts[..., None], a, 0.0) for a in (z, v))
    if validate and readable(v) and v.isnan().any():
        wrong = teacher_logits.isnan()
        if counts is not None:
            wrong = wrong & counts.unsqueeze(at)
        arrays.check(xp, "teacher_logits", teacher_logits, wrong, "a number")
    loss: Tensor = t**2 * _divergence(_one_hot_limit(z), _one_hot_limit(v), t)
    if reduction == "batchmean":
        return reduce(loss, "sum", None, each) / (input.shape[0] if input.ndim > 1 else 1)
    return reduce(loss, reduction, counts, each)


def _counts(mask: Tensor, shape: Sequence[int]) -> Tensor:
    if mask.dtype != torch.bool:
        refuse_dtype("mask", mask.dtype, "booleans")
    if tuple(mask.shape) != tuple(shape):
        refuse_shape("mask", mask.shape, f"{tuple(shape)}, one for each distribution")
    return mask


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
        to_student, to_teacher, to_log_t = _Divergence.slopes(z, v, temperature)
        # A class that is masked out has no share of a change, even of one that is not a number.
        t_z, t_v = (torch.where(a == -math.inf, 0.0, t) for a, t in ((z, t_z), (v, t_v)))
        rise = (to_student * t_z + to_teacher * t_v).sum(-1) + to_log_t * t_temperature
        rate: Tensor = rise / temperature
        return rate


_divergence: Callable[[Tensor, Tensor, Tensor], Tensor] = applied(_Divergence)


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
