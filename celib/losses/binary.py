"""Yes or no, once or for each of several labels: losses of a sigmoid."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import array_api_compat.torch as xp
import torch
from torch import Tensor

from celib.arguments.arrays import within
from celib.arguments.errors import non_negative, number, one_of, refuse_shape
from celib.arguments.tensors import (
    factors,
    for_arrays,
    probabilities,
    real,
    same_shape,
    sample_weights,
    spoil,
    tensors,
    wide,
)
from celib.derivatives import Written, applied, sigmoid, softplus, times
from celib.losses.reduction import REDUCTIONS, reduce


@for_arrays
def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
    validate: bool = True,
) -> Tensor:
    r"""Surprise of a sigmoid at a yes or no (equation ``eq-bce``).

    :math:`\ell = w (v y \log(1 + e^{-z}) + (1 - y) \log(1 + e^z))`

    Accuracy in float64, for targets of 0 and 1: within 4 ulp, as is the derivative; infinite
    logits are right.

    Args:
        input: log-odds z in nats, any shape.
        target: the probability y of yes, in [0, 1], the shape of ``input``.
        weight: factors w that broadcast to ``input``, finite and at least 0.
        reduction: "none", "mean" or "sum". The mean is over all elements, whatever the weights.
        pos_weight: factors v of the yes that broadcast to ``input``, finite and at least 0.
        sample_weight: a factor for each element, of the shape of ``input``. A mean is then the
            weighted one, which it is not with ``weight``.
        validate: whether to check the values of ``target`` and the weights.

    Returns:
        A number, or with "none" the shape of ``input``.

    Raises:
        ValueError: a shape or an option is not as above, a target is NaN or outside [0, 1], or a
            weight is negative or not finite.

    Example: torch gives nan for the first row, and -11.95 for a target of 5.
        >>> z = torch.tensor([torch.inf, -torch.inf, torch.inf])
        >>> y = torch.tensor([1.0, 0.0, 0.0])
        >>> binary_cross_entropy_with_logits(z, y, reduction="none").tolist()
        [0.0, 0.0, inf]
        >>> binary_cross_entropy_with_logits(torch.tensor([3.0]), torch.tensor([5.0]))
        Traceback (most recent call last):
        ValueError: target[0] = 5.0: expected a probability in [0, 1] within 8e-06
    """
    one_of("reduction", reduction, REDUCTIONS)
    input, target, weight, pos_weight, sample_weight = tensors(
        input=input,
        target=target,
        weight=weight,
        pos_weight=pos_weight,
        sample_weight=sample_weight,
    )
    z, y, wrong = _binary("input", input, "target", target, validate)
    v = factors("pos_weight", pos_weight, z.shape, z.dtype, validate)
    w = factors("weight", weight, z.shape, z.dtype, validate)
    each = sample_weights(sample_weight, z.shape, z.dtype, validate)
    loss = _binary_cross_entropy(z, y, v)
    loss = loss if w is None else times(w, loss)
    return reduce(spoil(loss, wrong), reduction, None, each)


@for_arrays
def multilabel_soft_margin_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    reduction: str = "mean",
    sample_weight: Tensor | None = None,
    validate: bool = True,
) -> Tensor:
    r"""Mean over the labels of an example of the binary surprise (equation ``eq-multilabel``).

    :math:`\ell = \frac1C \sum_k w_k (y_k \log(1 + e^{-z_k}) + (1 - y_k) \log(1 + e^{z_k}))`

    Args:
        input: log-odds z in nats, shape (..., C).
        target: the probability y of each label, in [0, 1], the shape of ``input``.
        weight: factors w that broadcast to ``input``, finite and at least 0.
        reduction: "none", "mean" or "sum", over examples.
        sample_weight: a factor for each example, of the shape of ``input`` without C.
        validate: as for :func:`binary_cross_entropy_with_logits`.

    Returns:
        A number, or with "none" the shape of ``input`` without C.

    Raises:
        ValueError: as for :func:`binary_cross_entropy_with_logits`.

    Example: the second label is certain and right; torch gives nan.
        >>> z = torch.tensor([[0.0, torch.inf]], dtype=torch.float64)
        >>> round(multilabel_soft_margin_loss(z, torch.ones(1, 2)).item(), 12)
        0.34657359028
    """
    one_of("reduction", reduction, REDUCTIONS)
    input, target, weight, sample_weight = tensors(
        input=input, target=target, weight=weight, sample_weight=sample_weight
    )
    if input.ndim == 0:
        refuse_shape("input", (), "(..., C)")
    z, y, wrong = _binary("input", input, "target", target, validate)
    w = factors("weight", weight, z.shape, z.dtype, validate)
    each = sample_weights(sample_weight, z.shape[:-1], z.dtype, validate)
    loss = _binary_cross_entropy(z, y, None)
    loss = spoil(loss if w is None else times(w, loss), wrong)
    return reduce(loss.sum(-1) / z.shape[-1], reduction, None, each)


@for_arrays
def sigmoid_focal_loss(
    inputs: Tensor,
    targets: Tensor,
    alpha: float = 0.25,
    gamma: float = 2.0,
    reduction: str = "none",
    *,
    sample_weight: Tensor | None = None,
    validate: bool = True,
) -> Tensor:
    r"""Focal loss of yes or no, :math:`-\alpha_t (1 - p_t)^\gamma \log p_t`.

    The name, the arguments and the number are torchvision's; the derivatives are finite for
    :math:`\gamma < 1`, too.

    Args:
        inputs: log-odds in nats, any shape.
        targets: 1 for yes and 0 for no, or between, the shape of ``inputs``. They are constants:
            no gradient reaches them.
        alpha: the factor of yes, in [0, 1]; that of no is 1 - alpha. -1 for neither.
        gamma: at least 0.
        reduction: "none", "mean" or "sum".
        sample_weight: a factor for each element, of the shape of ``inputs``; a mean is then the
            weighted one.
        validate: whether to check the values of ``targets`` and the weights.

    Returns:
        A number, or with "none" the shape of ``inputs``.

    Raises:
        ValueError: the shapes differ, a target is NaN or outside [0, 1], or an option is not as
            above.

    Source: Lin et al. (2017), arXiv:1708.02002.

    Example: the plain form gives 0, with a gradient of nan.
        >>> x = torch.tensor(40.0, dtype=torch.float64, requires_grad=True)
        >>> loss = sigmoid_focal_loss(x, torch.tensor(1.0), alpha=-1, gamma=0.5)
        >>> [f"{t.item():.10e}" for t in (loss, torch.autograd.grad(loss, x)[0])]
        ['8.7565107627e-27', '-1.3134766144e-26']
    """
    one_of("reduction", reduction, REDUCTIONS)
    alpha = number("alpha", alpha, lambda a: 0 <= a <= 1 or a == -1, "a number in [0, 1], or -1")
    gamma = non_negative("gamma", gamma)
    inputs, targets, sample_weight = tensors(
        inputs=inputs, targets=targets, sample_weight=sample_weight
    )
    x, t, wrong = _binary("inputs", inputs, "targets", targets, validate)
    each = sample_weights(sample_weight, x.shape, x.dtype, validate)
    # A target that is negative by rounding has no power.
    t = within(xp, t.detach()) if validate else t.detach()
    loss = _sigmoid_focal(x, t, gamma)
    if alpha >= 0:
        loss = times(alpha * t + (1.0 - alpha) * (1.0 - t), loss)
    return reduce(spoil(loss, wrong), reduction, None, each)


class _SigmoidFocal(Written):
    """(1 - p_t)^gamma times the binary cross-entropy."""

    @staticmethod
    def forward(x: Tensor, t: Tensor, gamma: float) -> Tensor:
        power = ((1.0 - t) * torch.sigmoid(x) + t * torch.sigmoid(-x)) ** gamma
        return times(power, _binary_cross_entropy(x, t, None))

    @staticmethod
    def slope(x: Tensor, t: Tensor, gamma: float) -> Tensor:
        # With r = 1 - p_t and the cross-entropy L: r^gamma (L' + gamma L r' / r). Where r is below
        # the normal numbers, so is all of this, unless gamma is 0.
        yes, no = sigmoid(x), sigmoid(-x)
        r = (1.0 - t) * yes + t * no
        inside = r >= torch.finfo(x.dtype).tiny
        safe = torch.where(inside, r, 1.0)
        power = torch.where(inside, safe**gamma, r.detach() ** gamma)
        rate = (1.0 - 2.0 * t) * yes * no / safe
        slope = (1.0 - t) * yes - t * no
        loss = _binary_cross_entropy(x, t, None)
        return power * (slope + gamma * times(rate, loss))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        return g * _SigmoidFocal.slope(*ctx.saved_tensors, *ctx.constants), None, None

    @staticmethod
    def tangent(ctx: Any, tangent: Tensor, *_: Any) -> Tensor:
        return tangent * _SigmoidFocal.slope(*ctx.saved_tensors, *ctx.constants)


_sigmoid_focal: Callable[[Tensor, Tensor, float], Tensor] = applied(_SigmoidFocal)


def _binary_cross_entropy(z: Tensor, y: Tensor, v: Tensor | None) -> Tensor:
    yes = y if v is None else v * y
    return times(yes, softplus(-z)) + times(1.0 - y, softplus(z))


def _binary(
    name: str, input: Tensor, target_name: str, target: Tensor, validate: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    z, y = real(name, input), real(target_name, target)
    same_shape(target_name, y, name, z)
    wrong = probabilities(target_name, y, validate)
    dtype = wide(z, y if target.is_floating_point() else None)
    return z.to(dtype), y.to(dtype), wrong
