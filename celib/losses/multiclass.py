"""One class of several: losses of a softmax."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from celib.losses.arguments import (
    REDUCTIONS,
    class_weights,
    classes,
    distributions,
    logits,
    number,
    one_of,
    reduce,
    spoil,
    tensor,
)
from celib.losses.derivatives import Written, one_minus_exp, surprise_of, times


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    mean_over: str | None = None,
    validate: bool = True,
) -> Tensor:
    r"""Surprise of a softmax at the true class (equation ``eq-loss``).

    :math:`\ell = -\sum_k w_k q_k \log \mathrm{softmax}(z)_k`, with q the one-hot or given target.
    Label smoothing :math:`\varepsilon` puts :math:`(1 - \varepsilon) q_k + \varepsilon / |A|` in
    place of :math:`q_k`, for the classes A that are not masked out.

    Accuracy in float64, for a target of one class y that is the likeliest: within 4 ulp, besides
    what the rounding of :math:`z_k - z_y` does; the gradient likewise.

    Args:
        input: logits z in nats, shape (C), (N, C) or (N, C, d1, ...).
        target: classes, integers of the shape of ``input`` without C; or probabilities, floats of
            the shape of ``input``.
        weight: a factor for each class, shape (C), finite and at least 0.
        ignore_index: a class whose targets are left out: loss 0, gradient 0.
        reduction: "none", "mean" or "sum".
        label_smoothing: :math:`\varepsilon`, in [0, 1].
        mean_over: what a mean divides by. "weight": the sum of the weights of the targets,
            :math:`\sum_k w_k q_k` before smoothing. "count": the number of targets that are not
            ignored. None: torch's way, which is "weight" for classes and "count" for
            probabilities, so that one-hot targets and the classes they stand for disagree.
        validate: whether to check the values of ``target`` and ``weight``.

    Returns:
        A number, or with "none" the shape of ``input`` without C. A mean over nothing is NaN, a
        sum 0.

    Raises:
        ValueError: a shape or an option is not as above, a class is out of range, a probability is
            negative or NaN or a row of them does not sum to 1, a weight is negative or not finite,
            or ``ignore_index`` names a class while the targets are probabilities.

    Source: Szegedy et al. (2016), doi:10.1109/CVPR.2016.308, for label smoothing.

    Example: torch gives 0 for the first and inf for the second.
        >>> z = torch.tensor([[0.0, -40.0]], dtype=torch.float64)
        >>> f"{cross_entropy(z, torch.tensor([0])).item():.12e}"
        '4.248354255292e-18'
        >>> z = torch.tensor([[1.0, 2.0, -torch.inf]], dtype=torch.float64)
        >>> round(cross_entropy(z, torch.tensor([0]), label_smoothing=0.1).item(), 12)
        1.263261687518
    """
    one_of("reduction", reduction, REDUCTIONS)
    one_of("mean_over", mean_over, (None, "weight", "count"))
    number("label_smoothing", label_smoothing, 0 <= label_smoothing <= 1, "a number in [0, 1]")
    tensor("target", target)
    soft = target.is_floating_point()
    z, dtype = logits(input, target if soft else None)
    w = class_weights(weight, z.shape[-1], z.dtype, validate)
    if soft:
        if ignore_index >= 0:
            raise ValueError(f"ignore_index = {ignore_index}: expected classes as target")
        q, wrong = distributions(target, input, z, validate)
        share = q if w is None else q * w
        surprise = surprise_of(z)
        loss = times(share, surprise).sum(-1)
        kept = torch.ones_like(loss, dtype=torch.bool)
        share = kept if w is None else share.sum(-1)
    else:
        y, kept, wrong = classes(target, z, ignore_index, validate)
        surprise = surprise_of(torch.where(kept[..., None], z, 0.0))
        loss = surprise.gather(-1, y[..., None])[..., 0]
        share = kept
        if w is not None:
            share = torch.where(kept, w[y], 0.0)
            loss = times(share, loss)
    if label_smoothing > 0:
        allowed = (z > -math.inf).to(z.dtype)
        uniform = allowed / allowed.sum(-1, keepdim=True)
        spread = times(uniform if w is None else uniform * w, surprise).sum(-1)
        loss = times(1.0 - label_smoothing, loss) + label_smoothing * spread
    loss = spoil(torch.where(kept, loss, 0.0), wrong)
    over = mean_over or ("count" if soft else "weight")
    return reduce(loss, reduction, share if over == "weight" else kept).to(dtype)


def focal_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    gamma: float = 2.0,
    ignore_index: int = -100,
    reduction: str = "mean",
    mean_over: str | None = None,
    validate: bool = True,
) -> Tensor:
    r"""Cross-entropy that cares less for what is nearly right.

    :math:`\ell = -w_y (1 - p_y)^\gamma \log p_y`

    p is the softmax of the logits. Value and derivatives are computed from the loss
    :math:`-\log p_y`, so that they are finite for :math:`\gamma < 1`, too, where
    :math:`(1 - p_y)^{\gamma - 1}` is not. It is not a proper score: its minimum is not at the true
    probabilities.

    Args:
        input: logits in nats, shape (C), (N, C) or (N, C, d1, ...).
        target: classes, integers of the shape of ``input`` without C.
        gamma: at least 0; 0 is :func:`cross_entropy`.
        weight, ignore_index, reduction, mean_over, validate: as for :func:`cross_entropy`.

    Returns:
        A number, or with "none" the shape of ``target``.

    Raises:
        ValueError: as for :func:`cross_entropy`, or ``gamma`` is negative or not finite.

    Source: Lin et al. (2017), arXiv:1708.02002.

    Example: the plain form gives 0, with a gradient of nan.
        >>> z = torch.tensor([40.0, 0.0], dtype=torch.float64, requires_grad=True)
        >>> loss = focal_loss(z, torch.tensor(0), gamma=0.5)
        >>> [f"{t.item():.10e}" for t in (loss, torch.autograd.grad(loss, z)[0][0])]
        ['8.7565107627e-27', '-1.3134766144e-26']
    """
    one_of("reduction", reduction, REDUCTIONS)
    one_of("mean_over", mean_over, (None, "weight", "count"))
    number("gamma", gamma, 0 <= gamma < math.inf, "a finite number, at least 0")
    surprise, y, kept, wrong = _surprise_at(input, target, ignore_index, validate)
    w = class_weights(weight, input.shape[min(1, input.ndim - 1)], surprise.dtype, validate)
    share = kept if w is None else torch.where(kept, w[y], 0.0)
    loss = _focal(surprise, gamma)
    loss = torch.where(kept, loss if w is None else times(share, loss), 0.0)
    total = kept if mean_over == "count" else share
    return reduce(spoil(loss, wrong), reduction, total).to(input.dtype)


def generalized_cross_entropy(
    input: Tensor,
    target: Tensor,
    *,
    q: float = 0.7,
    ignore_index: int = -100,
    reduction: str = "mean",
    validate: bool = True,
) -> Tensor:
    r"""A bounded loss between cross-entropy and absolute error, :math:`(1 - p_y^q) / q`.

    It tends to :math:`-\log p_y` as q tends to 0, and is :math:`1 - p_y`, half the absolute error
    of the softmax p, for q = 1.

    Args:
        input: logits in nats, shape (C), (N, C) or (N, C, d1, ...).
        target: classes, integers of the shape of ``input`` without C.
        q: in (0, 1].
        ignore_index, reduction, validate: as for :func:`cross_entropy`.

    Returns:
        A number, or with "none" the shape of ``target``; 1 / q where the true class is masked out.

    Raises:
        ValueError: as for :func:`cross_entropy`, or ``q`` is outside (0, 1].

    Source: Zhang and Sabuncu (2018), arXiv:1805.07836.

    Example: nearly cross-entropy, where the plain form has four digits.
        >>> z = torch.tensor([0.3, 0.7], dtype=torch.float64).log()
        >>> round(generalized_cross_entropy(z, torch.tensor(0), q=1e-12).item(), 10)
        1.2039728043
    """
    one_of("reduction", reduction, REDUCTIONS)
    number("q", q, 0 < q <= 1, "a number in (0, 1]")
    surprise, _, kept, wrong = _surprise_at(input, target, ignore_index, validate)
    loss = torch.where(kept, one_minus_exp(q * surprise) / q, 0.0)
    return reduce(spoil(loss, wrong), reduction, kept).to(input.dtype)


def symmetric_cross_entropy(
    input: Tensor,
    target: Tensor,
    *,
    alpha: float = 0.1,
    beta: float = 1.0,
    log_zero: float = -4.0,
    ignore_index: int = -100,
    reduction: str = "mean",
    validate: bool = True,
) -> Tensor:
    r"""Cross-entropy both ways, :math:`\alpha H(q, p) + \beta H(p, q)`.

    In the second term the label q is what is believed, and log 0 := A, a negative number, stands
    for the infinite surprise at a class that the label rules out:
    :math:`-\alpha \log p_y - \beta A (1 - p_y)`, with p the softmax of the logits.

    Args:
        input: logits in nats, shape (C), (N, C) or (N, C, d1, ...).
        target: classes, integers of the shape of ``input`` without C.
        alpha, beta: at least 0. The defaults are the authors' for CIFAR-10.
        log_zero: A, below 0. Clipping the labels at 1e-4, as the authors' program does, is
            log(1e-4) = -9.21.
        ignore_index, reduction, validate: as for :func:`cross_entropy`.

    Returns:
        A number, or with "none" the shape of ``target``.

    Raises:
        ValueError: as for :func:`cross_entropy`, or an option is not as above.

    Source: Wang et al. (2019), arXiv:1908.06112.

    Example: a small loss that the plain form rounds to 0.
        >>> z = torch.tensor([0.0, -40.0], dtype=torch.float64)
        >>> f"{symmetric_cross_entropy(z, torch.tensor(0)).item():.12e}"
        '1.741825244670e-17'
    """
    one_of("reduction", reduction, REDUCTIONS)
    for name, value in (("alpha", alpha), ("beta", beta)):
        number(name, value, 0 <= value < math.inf, "a finite number, at least 0")
    number("log_zero", log_zero, -math.inf < log_zero < 0, "a finite number below 0")
    surprise, _, kept, wrong = _surprise_at(input, target, ignore_index, validate)
    loss = times(alpha, surprise) - beta * log_zero * one_minus_exp(surprise)
    return reduce(spoil(torch.where(kept, loss, 0.0), wrong), reduction, kept).to(input.dtype)


class _Focal(Written):
    """(1 - e^-x)^gamma x, of a surprise x."""

    @staticmethod
    def forward(x: Tensor, gamma: float) -> Tensor:
        return (-torch.expm1(-x)) ** gamma * x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        # With r = 1 - e^-x: r^gamma (1 + gamma x / (e^x - 1)). Below the normal numbers, where the
        # derivative of r^gamma may be infinite, all of this times that of x, which is about x
        # there, is below them, too, unless gamma is 0.
        (x,), (gamma,) = ctx.saved_tensors, ctx.constants
        inside = (x >= torch.finfo(x.dtype).tiny) & (x < math.inf)
        safe = torch.where(inside, x, 1.0)
        slope = one_minus_exp(safe) ** gamma * (1.0 + gamma * (safe / torch.expm1(safe)))
        return g * torch.where(inside, slope, one_minus_exp(x.detach()) ** gamma), None


_focal: Callable[[Tensor, float], Tensor] = _Focal.apply


def _surprise_at(
    input: Tensor, target: Tensor, ignore_index: int, validate: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The surprise at each class that counts, and the results of ``classes``."""
    z, _ = logits(input, None)
    y, kept, wrong = classes(target, z, ignore_index, validate)
    surprise = surprise_of(torch.where(kept[..., None], z, 0.0))
    return surprise.gather(-1, y[..., None])[..., 0], y, kept, wrong
