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
from celib.kernels.binary import Given, Options
from celib.kernels.binary import loss as in_one_pass
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

    Use it for one yes or no per logit, in place of torch's function of the same name, with which it
    shares arguments and value. Do not apply a sigmoid first. For classes of which exactly one is
    right use :func:`cross_entropy`.

    :math:`\ell = w (v y \log(1 + e^{-z}) + (1 - y) \log(1 + e^z))`

    Accuracy in float64, for targets of 0 and 1: within 4 ulp, as is the derivative; infinite
    logits are right. On a CPU other dtypes are computed in float32, in one pass with the gradient:
    within 3 ulp.

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
    o = _options(reduction, _BINARY)
    given = Given(input, target, weight, pos_weight, sample_weight)
    if (fused := in_one_pass(given, o, validate, _reference)) is not None:
        return fused
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
    return _after_checks(Given(z, y, w, v, each), o, wrong)


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

    Use it when an example may have several labels, in place of torch's function of the same name.
    :func:`binary_cross_entropy_with_logits` is the same without the mean over the labels, and takes
    ``pos_weight``.

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
    o = _options(reduction, _BY_ROW)
    given = Given(input, target, weight, None, sample_weight)
    if (fused := in_one_pass(given, o, validate, _reference)) is not None:
        return fused
    input, target, weight, sample_weight = tensors(
        input=input, target=target, weight=weight, sample_weight=sample_weight
    )
    if input.ndim == 0:
        refuse_shape("input", (), "(..., C)")
    z, y, wrong = _binary("input", input, "target", target, validate)
    w = factors("weight", weight, z.shape, z.dtype, validate)
    each = sample_weights(sample_weight, z.shape[:-1], z.dtype, validate)
    return _after_checks(Given(z, y, w, None, each), o, wrong)


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

    Use it in place of torchvision's function, for dense detection, where almost every place is
    background. It is not a proper score, either.

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
    o = Options(reduction, False, True, alpha, gamma)
    wants = isinstance(targets, Tensor) and targets.requires_grad
    constant = targets.detach() if wants else targets
    given = Given(inputs, constant, None, None, sample_weight)
    if (fused := in_one_pass(given, o, validate, _reference)) is not None:
        return fused
    inputs, targets, sample_weight = tensors(
        inputs=inputs, targets=targets, sample_weight=sample_weight
    )
    x, t, wrong = _binary("inputs", inputs, "targets", targets, validate)
    each = sample_weights(sample_weight, x.shape, x.dtype, validate)
    # A target that is negative by rounding has no power.
    t = within(xp, t.detach()) if validate else t.detach()
    return _after_checks(Given(x, t, None, None, each), o, wrong)


def _reference(given: Given, o: Options) -> Tensor:
    """The loss by operations that autograd can follow; nothing is checked."""
    dtype = wide(given.x, given.y if given.y.is_floating_point() else None)
    return _loss(Given._make(a if a is None else a.to(dtype) for a in given), o, None)


_BINARY = {name: Options(name) for name in REDUCTIONS}
_BY_ROW = {name: Options(name, by_row=True) for name in REDUCTIONS}


def _options(reduction: Any, known: dict[str, Options]) -> Options:
    if type(reduction) is not str or reduction not in known:
        one_of("reduction", reduction, REDUCTIONS)
    return known[reduction]


def _after_checks(given: Given, o: Options, wrong: Tensor | None) -> Tensor:
    """The loss, and NaN where something is wrong; in one pass for what only now is a tensor."""
    fused = None if wrong is not None else in_one_pass(given, o, False, _reference)
    return _loss(given, o, wrong) if fused is None else fused


def _loss(given: Given, o: Options, wrong: Tensor | None) -> Tensor:
    """The same of arrays in one dtype, and NaN where something is wrong."""
    x, y, weight, pos_weight, each = given
    if o.focal:
        loss = _sigmoid_focal(x, y, o.gamma)
        if o.alpha >= 0:
            loss = times(o.alpha * y + (1.0 - o.alpha) * (1.0 - y), loss)
    else:
        loss = _binary_cross_entropy(x, y, pos_weight)
    loss = spoil(loss if weight is None else times(weight, loss), wrong)
    loss = loss.sum(-1) / x.shape[-1] if o.by_row else loss
    return reduce(loss, o.reduction, None, each)


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
