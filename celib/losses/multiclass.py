"""One class of several: losses of a softmax."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor

from celib.arguments.errors import integer, label, non_negative, number, one_of
from celib.arguments.tensors import (
    autocast,
    class_weights,
    distributions,
    for_arrays,
    is_dtensor,
    labels,
    layer,
    logits,
    positive,
    real,
    sample_weights,
    spoil,
    tensors,
    wide,
)
from celib.derivatives import Written, applied, one_minus_exp, times
from celib.kernels.family import (
    FOCAL,
    GENERALISED,
    LOSS,
    SHARE,
    SYMMETRIC,
    Curve,
    Options,
    Rows,
    lookup,
    weight_of,
)
from celib.kernels.linear import loss_of_all, loss_of_each
from celib.kernels.operators import needs_reference, reduced, rows
from celib.losses.reduction import REDUCTIONS, mean_of, reduce

# A factor of the logits: a number, or a tensor of one, which may want a gradient.
Scale = float | Tensor


class CrossEntropy(NamedTuple):
    """A loss, and what is known of each row once it is computed.

    All but ``correct`` are differentiable, in nats, and 0 where the target is ignored.
    """

    loss: Tensor
    logsumexp: Tensor  #: of the logits
    correct: Tensor  #: whether no class is likelier than the target; bool
    log_prob: Tensor  #: of the target, without weights and smoothing; for probabilities the mean
    entropy: Tensor  #: of the softmax


@for_arrays
def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    scale: Scale = 1.0,
    mean_over: str | None = None,
    sample_weight: Tensor | None = None,
    inplace_backward: bool = False,
    return_statistics: bool = False,
    validate: bool = True,
) -> Any:
    r"""Surprise of a softmax at the true class (equations ``eq-loss`` and ``eq-family``).

    Use it in place of ``torch.nn.functional.cross_entropy``, with the same arguments, wherever
    exactly one class is right or a distribution over classes is the target. Give it logits, not
    probabilities. Where the logits come from a linear layer and do not fit into memory, use
    :func:`linear_cross_entropy`; where the classes are split over devices,
    :func:`celib.distributed.vocab_parallel_cross_entropy`; for independent labels,
    :func:`binary_cross_entropy_with_logits`.

    :math:`\ell = -\sum_k w_k q_k \log \mathrm{softmax}(z)_k`, with q the one-hot or given target.
    Label smoothing :math:`\varepsilon` puts :math:`(1 - \varepsilon) q_k + \varepsilon / |A|` in
    place of :math:`q_k`, for the classes A that are not masked out; a z-loss :math:`\lambda` adds
    :math:`\lambda (\log \sum_k e^{z_k})^2`.

    On a CPU the gradient is made with the loss, if ``input`` wants one: each logit is read from
    memory once, and the gradient is the one array of its size. On a GPU the logits are read once
    for the loss and once for the gradient. Triton computes on a GPU, numba on a CPU if it is
    installed, and blocks of torch's operations elsewhere and in float64: see :mod:`celib.kernels`.
    Derivatives of derivatives, with respect to ``target`` or ``weight``, in forward mode, and under
    ``torch.func`` take more memory.

    Accuracy, for a target of one class that is the likeliest: within 4 ulp of the dtype of the
    loss, besides what the rounding of :math:`z_k - z_y` does; the gradient likewise, before it is
    rounded to the dtype of ``input``.

    Args:
        input: logits in nats, shape (C), (N, C) or (N, C, d1, ...). They are left as they are.
            Rows that are not contiguous are copied once. A DTensor that is split over the batch or
            over the classes is taken as it is: see :mod:`celib.distributed`.
        target: classes, whole numbers of the shape of ``input`` without C; or probabilities, of
            the shape of ``input``.
        weight: a factor for each class, shape (C), finite and at least 0.
        ignore_index: a class whose targets are left out: loss 0, gradient 0, whatever the row is.
        reduction: "none", "mean" or "sum".
        label_smoothing: :math:`\varepsilon`, in [0, 1].
        z_loss: :math:`\lambda`, at least 0. No class weight applies to it.
        softcap: c > 0 for :math:`z = c \tanh(s x / c)` of inputs x; None for z = s x.
        scale: s, positive: an inverse temperature. A tensor of one number may want a gradient; the
            logits are then multiplied first, which takes a matrix more.
        mean_over: what a mean divides by. "weight": the sum of the weights of the targets,
            :math:`\sum_k w_k q_k` before smoothing. "count": the number of targets that are not
            ignored. None: torch's way, which is "weight" for classes and "count" for
            probabilities, so that one-hot targets and the classes they stand for disagree.
        sample_weight: a factor for each target, finite and at least 0, of the shape of the loss
            with "none". It multiplies the loss of its target, and in a mean what that adds to the
            divisor.
        inplace_backward: whether the gradient may replace the values of ``input``, which then must
            not be a leaf, nor be needed by anything else. The backward pass can run once.
        return_statistics: whether to return a :class:`CrossEntropy`, whose statistics have the
            shape of ``input`` without C. With them, a policy gradient or an entropy bonus needs no
            second pass over the logits.
        validate: whether to check the values of ``target`` and ``weight``.

    Returns:
        A number, or with "none" the shape of ``input`` without C; float64 if the logits or the
        probabilities are float64, and else float32. A mean over nothing is NaN, a sum 0; their
        gradients are 0.

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
    if is_dtensor(input):
        return _of_dtensors().cross_entropy(
            input, target, weight, ignore_index=ignore_index, reduction=reduction,
            label_smoothing=label_smoothing, z_loss=z_loss, softcap=softcap, scale=scale,
            mean_over=mean_over, sample_weight=sample_weight, inplace_backward=inplace_backward,
            return_statistics=return_statistics, validate=validate,
        )  # fmt: skip
    factor = scale if type(scale) is float else positive("scale", scale, input)
    options = options_of if torch.compiler.is_compiling() else _options_once
    o = options(
        *(ignore_index, reduction, label_smoothing, z_loss, softcap),
        *(1.0 if isinstance(factor, Tensor) else factor, mean_over, return_statistics),
    )
    input, target, weight, sample_weight = tensors(
        input=input, target=target, weight=weight, sample_weight=sample_weight
    )
    z, axis = logits("input", input), min(1, input.ndim - 1)
    # A view shares the values of its base; a compiler does not know whether there is one.
    base = input if torch.compiler.is_compiling() or input._base is None else input._base
    if inplace_backward and base.is_leaf and base.requires_grad:
        raise ValueError("inplace_backward = True: input is a leaf, whose values would be lost")
    given = target, input.shape, axis, ignore_index
    at_once = reduction != "none" and not (inplace_backward or return_statistics)
    # A kernel that makes the mean sees every target, and says whether a check is worth its time.
    late = validate and at_once
    target, wrong = _targets(*given, validate and not late)
    if isinstance(factor, Tensor):
        # An ignored row may hold anything, also NaN, which would reach the gradient of the scale.
        z = _scaled(without_ignored(z.to(wide(z)), target, ignore_index), factor)
    z = z.to(torch.promote_types(z.dtype, target.dtype)) if target.dtype == torch.float64 else z
    count = z.shape[-1]
    w = class_weights(weight, count, wide(z), validate)
    x = _as_rows(z)
    soft = target.is_floating_point()
    y = target if z.ndim == 2 else target.reshape(-1, count) if soft else target.reshape(-1)
    each = sample_weights(sample_weight, z.shape[:-1], wide(z), validate)
    over = mean_over or ("count" if soft else "weight")
    if at_once:
        flat = None if each is None else each.reshape(-1)
        total = reduced(x, y, w, o, flat, over if reduction == "mean" else None)
        if late and (total is None or total[1]):
            _, wrong = _targets(*given, True)
        if total is not None:
            return spoil(total[0], None if wrong is None else wrong.any())
    found = rows(x, y, w, o, inplace_backward)
    return finished(found, y, z.shape[:-1], wrong, each, reduction, over, o, return_statistics)


def _as_rows(z: Tensor) -> Tensor:
    """Logits as a matrix. Kernels want contiguous rows: other layouts are copied."""
    count = z.shape[-1]
    x = z if z.ndim == 2 else z.reshape(-1, count)
    return x if x.stride(-1) == 1 or count == 1 else x.contiguous()


def finished(
    found: Rows,
    target: Tensor,
    shape: Sequence[int],
    wrong: Tensor | None,
    each: Tensor | None,
    reduction: str,
    over: str,
    o: Options,
    return_statistics: bool,
) -> Any:
    """From the rows to what is returned; ``shape`` is that of the result with "none"."""
    loss, lse, log_prob, entropy = (a.view(shape) for a in found.results.unbind())
    share = _share(found.saved[SHARE], target, over, o.ignore_index).view(shape)
    loss = reduce(spoil(loss, wrong), reduction, share, each)
    if not return_statistics:
        return loss
    return CrossEntropy(loss, lse, found.correct.view(shape), log_prob, entropy)


@for_arrays
def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    ignore_index: int | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    scale: Scale = 1.0,
    mean_over: str | None = None,
    sample_weight: Tensor | None = None,
    chunk_size: int | None = None,
    return_statistics: bool = False,
    validate: bool = True,
) -> Any:
    r"""Cross-entropy of a linear layer, without the matrix of all its logits.

    Use it for a language model's head, whose logits (tokens times vocabulary) are often the largest
    array of a training step. If they fit into memory, :func:`cross_entropy` of them is the simpler
    way.

    The number is that of ``cross_entropy(linear(input, linear_weight, linear_bias), target, ...)``.
    For a mean or a sum, ``chunk_size`` rows of logits exist at a time, and the gradient is computed
    with them in three matrix products. With ``reduction="none"`` or ``return_statistics`` it is
    ``chunk_size`` columns, and four products; for probabilities as targets, all at once. Sums over
    chunks are kept in float32. Under autocast the matrices are multiplied in its dtype.

    Args:
        input: shape (D), or (..., D).
        linear_weight: shape (C, D).
        target: classes, whole numbers of the shape of ``input`` without D; or probabilities, with C
            in the place of D.
        linear_bias: shape (C).
        chunk_size: at least 1; None for a number that suits the device. The logits take
            chunk_size * C numbers, or chunk_size * N.
        weight, ignore_index, reduction, label_smoothing, z_loss, softcap, scale, mean_over,
            sample_weight, return_statistics, validate: as for :func:`cross_entropy`. A scale that
            is a tensor multiplies ``input`` and the bias, in their dtype; ``sample_weight`` takes
            the way of "none". ``ignore_index=None`` is -100.

    Returns:
        As :func:`cross_entropy`, with "none" the shape of ``input`` without D. A derivative of the
        derivative is computed from all logits at once.

    Raises:
        ValueError: as for :func:`cross_entropy`, or a shape or dtype of the layer is not as above.

    Source: Wijmans et al. (2024), arXiv:2411.09009, for the problem.

    A contrastive loss is the same problem: each of N queries has its own key among M, so the keys
    are the weight, the places of the own keys the target, and ``scale`` is one over the
    temperature. InfoNCE of both directions, without the N x N matrix of similarities
    (van den Oord, Li and Vinyals, 2018, arXiv:1807.03748; Radford et al., 2021, arXiv:2103.00020):

        >>> queries, keys = (torch.nn.functional.normalize(a) for a in torch.randn(2, 8, 4))
        >>> own = torch.arange(8)
        >>> loss = linear_cross_entropy(queries, keys, own, scale=1 / 0.07, chunk_size=2)
        >>> loss = (loss + linear_cross_entropy(keys, queries, own, scale=1 / 0.07)) / 2
        >>> similarities = queries @ keys.T / 0.07
        >>> both = cross_entropy(similarities, own) + cross_entropy(similarities.T, own)
        >>> bool(torch.isclose(loss, both / 2))
        True

    Example: three chunks, and the number of the whole.
        >>> x, y = torch.eye(3), torch.tensor([0, 1, 3])
        >>> round(linear_cross_entropy(x, torch.ones(4, 3), y, chunk_size=1).item(), 6)
        1.386294
    """
    if is_dtensor(linear_weight) or is_dtensor(input):
        return _of_dtensors().linear_cross_entropy(
            input, linear_weight, target, linear_bias=linear_bias, weight=weight,
            ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing,
            z_loss=z_loss, softcap=softcap, scale=scale, mean_over=mean_over,
            sample_weight=sample_weight, chunk_size=chunk_size,
            return_statistics=return_statistics, validate=validate,
        )  # fmt: skip
    ignore = -100 if ignore_index is None else ignore_index
    factor = positive("scale", scale, input)
    o = options_of(
        *(ignore, reduction, label_smoothing, z_loss, softcap),
        *(1.0 if isinstance(factor, Tensor) else factor, mean_over, return_statistics),
    )
    if chunk_size is not None:
        chunk_size = integer("chunk_size", chunk_size, lambda n: 0 < n < 2**63, "at least 1")
    input, linear_weight, target, linear_bias, weight, sample_weight = tensors(
        input=input,
        linear_weight=linear_weight,
        target=target,
        linear_bias=linear_bias,
        weight=weight,
        sample_weight=sample_weight,
    )
    input, linear_weight = real("input", input), real("linear_weight", linear_weight)
    linear_bias = None if linear_bias is None else real("linear_bias", linear_bias)
    layer(input, linear_weight, linear_bias)
    count, axis = linear_weight.shape[0], input.ndim - 1
    shape = (*input.shape[:-1], count)
    target, wrong = _targets(target, shape, axis, ignore, validate)
    w = class_weights(weight, count, wide(input), validate)
    each = sample_weights(sample_weight, shape[:-1], wide(input), validate)
    soft = target.is_floating_point()
    y = target.reshape(-1, count) if soft else target.reshape(-1)
    # An ignored row may hold anything, also NaN, which the products would spread.
    x = without_ignored(input.reshape(-1, input.shape[-1]), y, ignore)
    x, matrix, bias = autocast(x, linear_weight, linear_bias)
    if isinstance(factor, Tensor):
        # A factor of the input is one of the logits, and the input is smaller.
        factor = factor.to(x.dtype)
        x, bias = x * factor, None if bias is None else _scaled(bias, factor)
    over = mean_over or ("count" if soft else "weight")
    more = needs_reference(y, w)
    if reduction != "none" and not return_statistics and not more and each is None:
        total, share = loss_of_all(x, matrix, bias, y, w, o, chunk_size)
        total = spoil(total, None if wrong is None else wrong.any())
        share = _share(share, y, over, ignore)
        return total if reduction == "sum" else mean_of(total, share.sum())
    found = (
        rows(torch.nn.functional.linear(x, matrix, bias), y, w, o)
        if soft or more
        else loss_of_each(x, matrix, bias, y, w, o, chunk_size)
    )
    return finished(found, y, shape[:-1], wrong, each, reduction, over, o, return_statistics)


def _of_dtensors() -> Any:
    # By name, as a kernel is found: celib.distributed stands on this module.
    return import_module("celib.distributed.dtensor")


def options_of(
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
    z_loss: float,
    softcap: float | None,
    scale: float,
    mean_over: str | None,
    entropy: bool,
) -> Options:
    """The options of a kernel; a scale that is a tensor is multiplied before it, and 1 here."""
    one_of("reduction", reduction, REDUCTIONS)
    one_of("mean_over", mean_over, (None, "weight", "count"))
    ignore_index = label("ignore_index", ignore_index)
    label_smoothing = number(
        "label_smoothing", label_smoothing, lambda s: 0 <= s <= 1, "a number in [0, 1]"
    )
    z_loss = non_negative("z_loss", z_loss)
    if softcap is not None:
        softcap = number(
            "softcap", softcap, lambda c: 0 < c < math.inf, "a positive number, or None"
        )
    scale = number("scale", scale, lambda s: 0 < s < math.inf, "positive and finite")
    return Options(ignore_index, label_smoothing, z_loss, softcap or 0.0, scale, bool(entropy))


# A training loop asks for the same options each time, and to check them takes as long as a small
# loss. Typed, because True is not taken for 1.0; arguments without a hash are checked each time.
_checked = functools.lru_cache(maxsize=64, typed=True)(options_of)


def _options_once(*given: Any) -> Options:
    try:
        return _checked(*given)
    except TypeError:
        return options_of(*given)


def without_ignored(rows: Tensor, target: Tensor, ignore_index: int) -> Tensor:
    """Rows whose target, a class, is ignored as zeros."""
    if target.is_floating_point():
        return rows
    return torch.where((target.long() == ignore_index)[..., None], 0.0, rows)


def _scaled(z: Tensor, scale: Tensor) -> Tensor:
    """Logits times a scale, whose gradient the classes that are masked out do not enter."""
    # The inner `where` keeps 0 * inf out of the gradient.
    fixed = z.isinf()
    return torch.where(fixed, z, torch.where(fixed, 0.0, z) * scale)


def _targets(
    target: Tensor, shape: Sequence[int], axis: int, ignore_index: int, validate: bool
) -> tuple[Tensor, Tensor | None]:
    """Targets for a kernel, and what the kernel cannot see to be wrong.

    ``shape`` is that of the logits, with the classes at ``axis``. Classes stay as they are: a
    kernel poisons the row of one that does not exist.
    """
    sites = (*shape[:axis], *shape[axis + 1 :])
    # The shape says which they are, whatever the dtype: one-hot rows may be integers, and classes
    # floating-point numbers.
    if tuple(target.shape) == tuple(shape) or (
        target.is_floating_point() and tuple(target.shape) != sites
    ):
        if not target.is_floating_point() and not target.is_complex():
            target = target.to(torch.float32)
        real("target", target)
        wrong = distributions(target, shape, axis, ignore_index, validate)
        return target.movedim(axis, -1), wrong
    return labels(target, sites, shape[axis], ignore_index, validate), None


def _share(share: Tensor, target: Tensor, over: str, ignore_index: int) -> Tensor:
    """What each target, a class or else a row of probabilities, adds to the divisor of a mean."""
    if over == "weight":
        return share
    soft = target.is_floating_point()
    return torch.ones_like(share) if soft else (target.long() != ignore_index).to(share)


@for_arrays
def focal_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    gamma: float = 2.0,
    ignore_index: int = -100,
    reduction: str = "mean",
    mean_over: str | None = None,
    sample_weight: Tensor | None = None,
    validate: bool = True,
) -> Tensor:
    r"""Cross-entropy that cares less for what is nearly right.

    Use it where easy examples outnumber the hard ones so far that their small losses drown them. If
    the probabilities matter, use :func:`cross_entropy`, or recalibrate afterwards.

    :math:`\ell = -w_y (1 - p_y)^\gamma \log p_y`

    p is the softmax of the logits. Value and derivatives are computed from the loss
    :math:`-\log p_y`, so that they are finite for :math:`\gamma < 1`, too, where
    :math:`(1 - p_y)^{\gamma - 1}` is not. It is not a proper score: its minimum is not at the true
    probabilities.

    Args:
        input: logits in nats, shape (C), (N, C) or (N, C, d1, ...).
        target: classes, whole numbers of the shape of ``input`` without C.
        gamma: at least 0; 0 is :func:`cross_entropy`.
        weight, ignore_index, reduction, mean_over, sample_weight, validate: as for
            :func:`cross_entropy`.

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
    gamma = non_negative("gamma", gamma)
    input, target, weight, sample_weight = tensors(
        input=input, target=target, weight=weight, sample_weight=sample_weight
    )
    curve = Curve(FOCAL, gamma, 0.0, lambda s: _focal(s, gamma))
    return _bent(
        *(input, target, weight, curve, ignore_index, reduction, mean_over or "weight"),
        *(sample_weight, validate),
    )


@for_arrays
def generalized_cross_entropy(
    input: Tensor,
    target: Tensor,
    *,
    q: float = 0.7,
    ignore_index: int = -100,
    reduction: str = "mean",
    sample_weight: Tensor | None = None,
    validate: bool = True,
) -> Tensor:
    r"""A bounded loss between cross-entropy and absolute error, :math:`(1 - p_y^q) / q`.

    Use it when some labels are wrong: no example can cost more than 1 / q, whereas the
    cross-entropy of a wrong label grows without bound. With labels that can be trusted use
    :func:`cross_entropy`, which is proper.

    It tends to :math:`-\log p_y` as q tends to 0, and is :math:`1 - p_y`, half the absolute error
    of the softmax p, for q = 1.

    Args:
        input: logits in nats, shape (C), (N, C) or (N, C, d1, ...).
        target: classes, whole numbers of the shape of ``input`` without C.
        q: in (0, 1].
        ignore_index, reduction, sample_weight, validate: as for :func:`cross_entropy`.

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
    q = number("q", q, lambda q: 0 < q <= 1, "a number in (0, 1]")
    input, target, sample_weight = tensors(input=input, target=target, sample_weight=sample_weight)
    curve = Curve(GENERALISED, q, 0.0, lambda s: one_minus_exp(q * s) / q)
    return _bent(
        input, target, None, curve, ignore_index, reduction, "count", sample_weight, validate
    )


@for_arrays
def symmetric_cross_entropy(
    input: Tensor,
    target: Tensor,
    *,
    alpha: float = 0.1,
    beta: float = 1.0,
    log_zero: float = -4.0,
    ignore_index: int = -100,
    reduction: str = "mean",
    sample_weight: Tensor | None = None,
    validate: bool = True,
) -> Tensor:
    r"""Cross-entropy both ways, :math:`\alpha H(q, p) + \beta H(p, q)`.

    Use it when some labels are wrong. It has three numbers to choose;
    :func:`generalized_cross_entropy` has one.

    In the second term the label q is what is believed, and log 0 := A, a negative number, stands
    for the infinite surprise at a class that the label rules out:
    :math:`-\alpha \log p_y - \beta A (1 - p_y)`, with p the softmax of the logits.

    Args:
        input: logits in nats, shape (C), (N, C) or (N, C, d1, ...).
        target: classes, whole numbers of the shape of ``input`` without C.
        alpha, beta: at least 0. The defaults are the authors' for CIFAR-10.
        log_zero: A, below 0. Clipping the labels at 1e-4, as the authors' program does, is
            log(1e-4) = -9.21.
        ignore_index, reduction, sample_weight, validate: as for :func:`cross_entropy`.

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
    alpha, beta = non_negative("alpha", alpha), non_negative("beta", beta)
    log_zero = number("log_zero", log_zero, lambda a: -math.inf < a < 0, "a finite number below 0")
    input, target, sample_weight = tensors(input=input, target=target, sample_weight=sample_weight)
    b = -beta * log_zero
    curve = Curve(SYMMETRIC, alpha, b, lambda s: times(alpha, s) + b * one_minus_exp(s))
    return _bent(
        input, target, None, curve, ignore_index, reduction, "count", sample_weight, validate
    )


class _Focal(Written):
    """(1 - e^-x)^gamma x, of a surprise x."""

    @staticmethod
    def forward(x: Tensor, gamma: float) -> Tensor:
        return (-torch.expm1(-x)) ** gamma * x

    @staticmethod
    def slope(x: Tensor, gamma: float) -> Tensor:
        # With r = 1 - e^-x: r^gamma (1 + gamma x / (e^x - 1)). For subnormal x the derivative of
        # r^gamma may overflow, but its product with that of x underflows anyway, for that is about
        # x there; unless gamma is 0, where the power is 1.
        inside = (x >= torch.finfo(x.dtype).tiny) & (x < math.inf)
        safe = torch.where(inside, x, 1.0)
        slope = one_minus_exp(safe) ** gamma * (1.0 + gamma * (safe / torch.expm1(safe)))
        return torch.where(inside, slope, one_minus_exp(x.detach()) ** gamma)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return g * _Focal.slope(*ctx.saved_tensors, *ctx.constants), None

    @staticmethod
    def tangent(ctx: Any, t: Tensor, _: None) -> Tensor:
        return t * _Focal.slope(*ctx.saved_tensors, *ctx.constants)


_focal: Callable[[Tensor, float], Tensor] = applied(_Focal)


def _bent(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    curve: Curve,
    ignore_index: int,
    reduction: str,
    over: str,
    sample_weight: Tensor | None,
    validate: bool,
) -> Tensor:
    """A loss that is a function of the surprise at the target, times the weight of the class."""
    ignore_index = label("ignore_index", ignore_index)
    z = logits("input", input)
    sites, count = z.shape[:-1], z.shape[-1]
    late = validate and reduction != "none"
    y = labels(target, sites, count, ignore_index, validate and not late)
    w = class_weights(weight, count, wide(z), validate)
    each = sample_weights(sample_weight, sites, wide(z), validate)
    x, o = _as_rows(z), Options(ignore_index)
    if reduction != "none":
        flat = None if each is None else each.reshape(-1)
        total = reduced(x, y.reshape(-1), w, o, flat, over if reduction == "mean" else None, curve)
        if late and (total is None or total[1]):
            labels(target, sites, count, ignore_index, True)
        if total is not None:
            return total[0]
    surprise = rows(x, y.reshape(-1), None, o).results[LOSS].view(sites)
    y, kept, _ = lookup(y, count, ignore_index)
    share = kept if w is None else torch.where(kept, weight_of(y, w), 0.0)
    loss = curve.of(surprise)
    loss = torch.where(kept, loss if w is None else times(share, loss), 0.0)
    return reduce(loss, reduction, kept if over == "count" else share, each)
