"""A student and its teacher."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import array_api_compat.torch as xp
import torch
from torch import Tensor

from celib.arguments import arrays
from celib.arguments.arrays import readable
from celib.arguments.errors import integer, number, one_of, refuse_dtype, refuse_shape
from celib.arguments.tensors import (
    autocast,
    for_arrays,
    layer,
    logits,
    positive,
    real,
    same_shape,
    sample_weights,
    tensors,
    wide,
)
from celib.kernels.divergence import DIVERGENCES, MIXED
from celib.kernels.divergence_operators import fused, fuses, reference
from celib.kernels.linear_divergence import loss_of_all
from celib.kernels.operators import is_transformed
from celib.losses.reduction import REDUCTIONS, mean_of, reduce

_REDUCTIONS = (*REDUCTIONS, "batchmean")


@for_arrays
def distillation_loss(
    input: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float | Tensor,
    divergence: str = "forward",
    beta: float | None = None,
    axis: int | None = None,
    mask: Tensor | None = None,
    reduction: str = "batchmean",
    sample_weight: Tensor | None = None,
    validate: bool = True,
) -> Tensor:
    r"""Divergence of a student from its teacher, by default :math:`T^2 D_{KL}(p \Vert s)`.

    Use it to train a small model on the whole distribution that a large one states, beside or in
    place of the labels. Where the logits come from linear layers and do not fit into memory, use
    :func:`linear_distillation_loss`.

    :math:`p = \mathrm{softmax}(v / T)` is the teacher, :math:`s = \mathrm{softmax}(z / T)` the
    student. The factor keeps the gradient, which is :math:`T (s - p)`, of one size as T grows. The
    divergences are, with :math:`m = \beta p + (1 - \beta) s`,

    - "forward": :math:`D_{KL}(p \Vert s)`, which makes the student cover all that the teacher
      holds possible;
    - "reverse": :math:`D_{KL}(s \Vert p)`, which keeps it from what the teacher holds impossible;
    - "jensen-shannon": :math:`\beta D_{KL}(p \Vert m) + (1 - \beta) D_{KL}(s \Vert m)`, which is
      finite for any two distributions. As :math:`\beta \to 0` it tends to
      :math:`\beta D_{KL}(p \Vert s)`, as :math:`\beta \to 1` to
      :math:`(1 - \beta) D_{KL}(s \Vert p)`: to 0. Libraries that follow Agarwal et al. take a beta
      of 0 for "forward", of 1 for "reverse", without these factors; here each has its own name.

    Computed from :math:`v - z`, not from two logarithms: the value, never negative, and the
    gradient keep their digits when the student is close to the teacher, and up to the addition of
    any constant to the logits. On a CPU with numba, for float32 and halves, the gradient is made
    with the loss, and is the only array of the size of the logits.

    Args:
        input: the student's logits z in nats, shape (C), (N, C), or with more axes.
        teacher_logits: the teacher's logits v, the shape of ``input``. They get a gradient if they
            want one.
        temperature: T, positive and finite; a tensor of one number may want a gradient.
        divergence: "forward", "reverse" or "jensen-shannon".
        beta: of "jensen-shannon" alone, the weight of the teacher, in (0, 1); None for 1 / 2.
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
        A number, or with "none" the shape of ``input`` without C. A class that both mask out adds
        nothing. If one of them does, "forward" is ``inf`` where that is the student, "reverse"
        where it is the teacher.

    Raises:
        ValueError: the shapes differ, an option is not as above, ``axis`` is needed, or a teacher's
            logit is NaN.

    Source: Hinton, Vinyals and Dean (2015), arXiv:1503.02531; for the other divergences Agarwal et
    al. (2024), arXiv:2306.13649.

    Example: the difference of logarithms has no digit right.
        >>> z = torch.tensor([0.0, 0.0], dtype=torch.float64)
        >>> v = torch.tensor([2.0**-40, 0.0], dtype=torch.float64)
        >>> f"{distillation_loss(z, v, temperature=1.0).item():.12e}"
        '1.033975765691e-25'
        >>> f"{distillation_loss(z, v, temperature=1.0, divergence='jensen-shannon').item():.12e}"
        '2.584939414228e-26'
    """
    kind, weight = _options(reduction, divergence, beta)
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
    at = -1
    if axis is not None and input.ndim:
        (at,) = arrays.resolve_axis(axis, input.ndim)
    z, v = _last("input", input, at), _last("teacher_logits", teacher_logits, at)
    t = positive("temperature", temperature, input)
    each = sample_weights(sample_weight, z.shape[:-1], wide(z, v), validate)
    counts = None if mask is None else _counts(mask, z.shape[:-1])
    if fuses(z, v, t):
        loss = _fused(z, v, t, kind, weight, counts, each, reduction)
        if validate and _has_nan(loss):
            _check_teacher(teacher_logits, counts, at)
        return loss
    if validate and readable(v):
        _check_teacher(teacher_logits, counts, at)
    return _reduced(reference(z, v, t, kind, weight, counts), counts, each, reduction)


@for_arrays
def linear_distillation_loss(
    input: Tensor,
    linear_weight: Tensor,
    teacher_input: Tensor,
    teacher_weight: Tensor,
    *,
    linear_bias: Tensor | None = None,
    teacher_bias: Tensor | None = None,
    temperature: float | Tensor,
    divergence: str = "forward",
    beta: float | None = None,
    mask: Tensor | None = None,
    reduction: str = "batchmean",
    sample_weight: Tensor | None = None,
    chunk_size: int | None = None,
    validate: bool = True,
) -> Tensor:
    r"""Divergence of a student from its teacher, without the logits of either.

    Use it when the vocabulary is so large that two matrices of logits do not fit into memory. If
    they do, :func:`distillation_loss` of them is the simpler way.

    The number is that of :func:`distillation_loss` for the logits ``linear(input, linear_weight,
    linear_bias)`` and ``linear(teacher_input, teacher_weight, teacher_bias)``. Of both,
    ``chunk_size`` rows exist at a time; the gradient of the student is computed with them, in three
    matrix products beside the teacher's one, and summed over chunks in float32. Under autocast the
    matrices are multiplied in its dtype.

    The teacher is a constant: one that wants a gradient is refused.

    Args:
        input: the student's last hidden state, shape (D), or (..., D).
        linear_weight: the student's head, shape (C, D).
        teacher_input: the teacher's last hidden state, shape (..., E), with the axes of ``input``
            before E.
        teacher_weight: the teacher's head, shape (C, E).
        linear_bias, teacher_bias: shape (C).
        mask: booleans of the shape of ``input`` without D, as for :func:`distillation_loss`. The
            hidden states of what does not count may be anything.
        chunk_size: at least 1; None for a number that suits the device. The logits take twice
            chunk_size * C numbers.
        temperature, divergence, beta, reduction, sample_weight, validate: as for
            :func:`distillation_loss`. ``reduction="none"``, transforms of :mod:`torch.func` and a
            derivative of the derivative need all logits at once.

    Returns:
        As :func:`distillation_loss`, with "none" the shape of ``input`` without D.

    Raises:
        ValueError: as for :func:`distillation_loss`, or a shape or dtype of a layer is not as
            above, or the teacher wants a gradient.

    Source: Agarwal et al. (2024), arXiv:2306.13649, for the losses; Wijmans et al. (2024),
    arXiv:2411.09009, for the problem.

    Example: hidden states of two sizes, three chunks, and the number of the whole.
        >>> x, h = torch.eye(3), 2 * torch.eye(3, 2)
        >>> student, teacher = torch.eye(4, 3), torch.ones(4, 2).cumsum(0)
        >>> options = {"temperature": 2.0, "chunk_size": 1}
        >>> round(linear_distillation_loss(x, student, h, teacher, **options).item(), 6)
        1.525076
        >>> round(distillation_loss(x @ student.T, h @ teacher.T, temperature=2.0).item(), 6)
        1.525076
    """
    kind, weight = _options(reduction, divergence, beta)
    if chunk_size is not None:
        chunk_size = integer("chunk_size", chunk_size, lambda n: 0 < n < 2**63, "at least 1")
    layers: dict[str, Any] = {
        "input": input,
        "linear_weight": linear_weight,
        "linear_bias": linear_bias,
        "teacher_input": teacher_input,
        "teacher_weight": teacher_weight,
        "teacher_bias": teacher_bias,
    }
    *found, mask, sample_weight = tensors(**layers, mask=mask, sample_weight=sample_weight)
    found = [a if a is None else real(name, a) for name, a in zip(layers, found, strict=True)]
    student: Any = tuple(found[:3])
    teacher: Any = tuple(found[3:])
    layer(*student)
    _check_teacher_layer(teacher, student[0].shape[:-1], len(student[1]))
    t = positive("temperature", temperature, student[0])
    shape, dtype = student[0].shape[:-1], wide(student[0], teacher[0])
    each = sample_weights(sample_weight, shape, dtype, validate)
    counts = None if mask is None else _counts(mask, shape)
    x, h = (a.reshape(-1, a.shape[-1]) for a in (student[0], teacher[0]))
    of_rows = None if counts is None else counts.reshape(-1)
    if of_rows is not None:  # what does not count may be NaN, which the products would spread
        x, h = (torch.where(of_rows[:, None], a, 0.0) for a in (x, h))
    student, teacher = autocast(x, *student[1:]), autocast(h, *teacher[1:])
    if reduction == "none" or is_transformed():
        z, v = (torch.nn.functional.linear(*of) for of in (student, teacher))
        if fuses(z, v, t):
            loss = fused(z, v, t, kind, weight, of_rows)
        else:
            loss = reference(z, v, t, kind, weight, of_rows)
        loss = _reduced(loss.view(shape), counts, each, reduction)
    else:
        factor = None if each is None else each.reshape(-1)
        loss = loss_of_all(student, teacher, t, kind, weight, of_rows, factor, chunk_size)
        loss = _divided(loss, counts, each, reduction, shape, x.shape[0])
    if validate and readable(loss) and _has_nan(loss):
        v = torch.nn.functional.linear(*teacher)
        _check_teacher(v.view(*shape, v.shape[-1]), counts, len(shape))
    return loss


def _options(reduction: str, divergence: str, beta: float | None) -> tuple[str, float]:
    """The divergence, and its beta, which is without a meaning for most."""
    if not (isinstance(reduction, str) and reduction in _REDUCTIONS):
        one_of("reduction", reduction, _REDUCTIONS)
    if not (isinstance(divergence, str) and divergence in DIVERGENCES):
        one_of("divergence", divergence, DIVERGENCES)
    if beta is None:
        return divergence, 0.5
    if divergence != MIXED:
        raise ValueError(f"beta = {beta}: expected None for divergence = {divergence!r}")
    return divergence, number("beta", beta, lambda b: 0 < b < 1, "a number in (0, 1)")


def _last(name: str, a: Tensor, axis: int) -> Tensor:
    """Logits with their classes last: as they are, where a view would change nothing but time."""
    if axis == -1 and a.ndim and a.shape[-1] and a.is_floating_point():
        return a
    return logits(name, a, axis)


def _has_nan(loss: Tensor) -> bool:
    return math.isnan(loss.item()) if loss.ndim == 0 else bool(loss.isnan().any())


def _counts(mask: Tensor, shape: Sequence[int]) -> Tensor:
    if mask.dtype != torch.bool:
        refuse_dtype("mask", mask.dtype, "booleans")
    if tuple(mask.shape) != tuple(shape):
        refuse_shape("mask", mask.shape, f"{tuple(shape)}, one for each distribution")
    return mask


def _check_teacher(teacher: Tensor, counts: Tensor | None, axis: int) -> None:
    """Refuse a NaN in a distribution that counts."""
    wrong = teacher.isnan()
    if wrong.any():
        wrong = wrong if counts is None else wrong & counts.unsqueeze(axis)
        arrays.check(xp, "teacher_logits", teacher, wrong, "a number")


def _check_teacher_layer(
    teacher: tuple[Tensor, Tensor, Tensor | None], shape: Sequence[int], classes: int
) -> None:
    """Check that the teacher's layer fits its input and the student's, and is a constant."""
    input, weight, bias = teacher
    given = {"teacher_input": input, "teacher_weight": weight, "teacher_bias": bias}
    for name, a in given.items():
        if a is not None and a.requires_grad and torch.is_grad_enabled():
            raise ValueError(f"{name} requires grad: expected a constant, such as {name}.detach()")
    if input.ndim == 0 or tuple(input.shape[:-1]) != tuple(shape):
        refuse_shape("teacher_input", input.shape, f"{(*shape, 'E')}, with the axes of input")
    if tuple(weight.shape) != (classes, input.shape[-1]):
        refuse_shape("teacher_weight", weight.shape, f"{(classes, input.shape[-1])}")
    if bias is not None and tuple(bias.shape) != (classes,):
        refuse_shape("teacher_bias", bias.shape, f"{(classes,)}")


def _fused(
    z: Tensor,
    v: Tensor,
    t: float | Tensor,
    kind: str,
    beta: float,
    counts: Tensor | None,
    each: Tensor | None,
    reduction: str,
) -> Tensor:
    """The loss of logits with their classes last, where they can be fused: see :func:`fuses`."""
    shape, classes = z.shape[:-1], z.shape[-1]
    if z.ndim != 2:
        z, v = z.reshape(-1, classes), v.reshape(-1, classes)
    of_rows, factor = (None if a is None else a.reshape(-1) for a in (counts, each))
    total = 1.0
    if reduction == "batchmean":
        total = float(shape[0]) if shape else 1.0
    elif reduction == "mean":
        share = _share(counts, each)
        total = float(len(z)) if share is None else share.double().sum().item()
    if reduction == "none" or total == 0.0 or (each is not None and each.requires_grad):
        loss = fused(z, v, t, kind, beta, of_rows)
        return _reduced(loss.view(shape), counts, each, reduction)
    return fused(z, v, t, kind, beta, of_rows, factor, 1.0 / total)


def _share(counts: Tensor | None, each: Tensor | None) -> Tensor | None:
    """What each distribution adds to the divisor of a mean; None for 1."""
    if counts is None or each is None:
        return each if counts is None else counts
    return counts * each


def _reduced(loss: Tensor, counts: Tensor | None, each: Tensor | None, reduction: str) -> Tensor:
    if reduction == "batchmean":
        return reduce(loss, "sum", None, each) / (loss.shape[0] if loss.ndim else 1)
    return reduce(loss, reduction, counts, each)


def _divided(
    total: Tensor,
    counts: Tensor | None,
    each: Tensor | None,
    reduction: str,
    shape: Sequence[int],
    rows: int,
) -> Tensor:
    """A sum over all distributions, of which there are ``rows``, reduced as it says."""
    if reduction == "sum":
        return total
    if reduction == "batchmean":
        return total / (shape[0] if shape else 1)
    share = _share(counts, each)
    return total / rows if share is None else mean_of(total, share.sum())
