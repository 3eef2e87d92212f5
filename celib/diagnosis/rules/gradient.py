"""What came back to the logits."""

from __future__ import annotations

import torch
from torch import Tensor

from celib.diagnosis.findings import GRADIENT_NAN, HALF, STRANGE, STUCK
from celib.diagnosis.given import Batch
from celib.diagnosis.rules.rule import Rule, number, rule

RULES: list[Rule] = []


# The gradient of a confident and right model, softmax minus target, may be 0 by rounding; where it
# is above this, it may not.
_WRONG = 0.01


def _given(b: Batch) -> Tensor | None:
    """The gradient in the shape of the rows, in float64; None if it is not finite."""
    if b.gradient is None or not bool(b.gradient.isfinite().all()):
        return None
    return b.by_rows(b.gradient).double()


def _expected(b: Batch, z: Tensor) -> Tensor:
    """The gradient of the sum of the losses with respect to logits such as ``b.z``."""
    q = b.q(b.label_smoothing)
    q = q if b.factor is None else q * b.factor
    # Of -sum_k q_k log p_k, where the q_k need not sum to 1.
    p = b.probs(z)
    return p * q.sum(-1) - q[:, 1] if b.binary else p * q.sum(-1, keepdim=True) - q


def _kept(b: Batch, rows: Tensor) -> Tensor:
    """Logits or gradients, 0 in rows that are left out."""
    return torch.where(b.kept if b.binary else b.kept[:, None], rows, 0.0)


def _of_batch(b: Batch) -> Tensor:
    """The gradient of the sum of the losses."""
    return _kept(b, _expected(b, _kept(b, b.z)))


@rule(
    RULES,
    "gradient-not-finite",
    GRADIENT_NAN,
    what="The gradient is NaN or infinite where the loss is finite: on the way back an infinite "
    "slope meets a 0, as in the logarithm of a softmax that was rounded to 0, in `torch.where` "
    "with NaN in the branch that is not taken, or in the root of 0.",
    cure="Use `F.cross_entropy(logits, target)` or `logits.log_softmax(1)`; with `torch.where` "
    "make the argument harmless before the function, not its result after it.",
)
def gradient_not_finite(b: Batch) -> str | None:
    if b.gradient is None or bool(b.gradient.isfinite().all()):
        return None
    bad, poisoned = (b.any_of(~b.by_rows(a).isfinite()) for a in (b.gradient, b.logits))
    # What a row of NaN does to its own gradient is told elsewhere.
    rows = bad & ~(b.ignored & poisoned)
    if not rows.any():
        return None
    loss = b.right[0] if b.loss is None else b.loss
    return f"The gradient is not finite in {b.places(rows)}; the loss is {number(loss)}."


@rule(
    RULES,
    "gradient-underflow",
    HALF,
    what="The gradient is exactly 0 because its entries are below the smallest number of float16.",
    cure="Scale the loss, as `torch.amp.GradScaler` does, or use bfloat16.",
)
def gradient_underflow(b: Batch) -> str | None:
    g = _given(b)
    if g is None or bool(g.any()) or b.gradient is None or b.gradient.dtype != torch.float16:
        return None
    expected = _of_batch(b).abs().max().item()
    largest = expected / max(int(b.kept.sum()), 1)
    smallest = torch.finfo(torch.float16).smallest_normal * torch.finfo(torch.float16).eps
    if b.reduction != "mean" or expected < _WRONG or largest > smallest / 2:
        return None
    return (
        f"The largest entry should be {number(largest)}, and the smallest number of float16 is "
        f"{number(smallest)}."
    )


@rule(
    RULES,
    "gradient-zero",
    STUCK,
    what="The gradient is exactly 0 everywhere, although the predictions are not right: nothing "
    "can be learned.",
    cure="Look for a clip of probabilities or logits, `argmax` or rounding before the loss, a "
    "`detach()`, or a loss that is multiplied by 0.",
)
def gradient_zero(b: Batch) -> str | None:
    g = _given(b)
    if g is None or bool(g.any()) or gradient_underflow(b):
        return None
    expected = _of_batch(b).abs()
    if expected.max() < _WRONG:
        return None
    return (
        f"For the sum of the losses the largest entry should be {number(expected.max().item())} "
        f"(p - y, softmax or sigmoid minus target)."
    )


@rule(
    RULES,
    "gradient-softmax-twice",
    STUCK,
    what="The gradient is that of a loss behind two softmaxes, or two sigmoids. It vanishes for "
    "confident rows, whether they are right or wrong.",
    cure="Give the loss the logits, and apply the softmax only to report.",
)
def gradient_softmax_twice(b: Batch) -> str | None:
    g = _given(b)
    if g is None or b.gradient is None or not bool(g.any()):
        return None
    p = b.probs(_kept(b, b.z))
    outer = _expected(b, p)
    mean = p * outer if b.binary else (p * outer).sum(-1, keepdim=True)
    far, near = _misfit(g, _of_batch(b)), _misfit(g, _kept(b, p * (outer - mean)))
    rounding = torch.finfo(b.gradient.dtype).eps if b.gradient.is_floating_point() else 0.0
    if near > max(1e-3, 2 * rounding) or far < 0.05 or b.n < 2:
        return None
    return (
        f"Up to a factor it differs from that gradient by {100 * near:.2g} % and from the gradient "
        f"of the batch by {100 * far:.3g} %."
    )


@rule(
    RULES,
    "gradient-sign",
    STRANGE,
    what="The gradient is minus that of the batch: a step against it raises the loss. Nothing is "
    "wrong if it is meant to be turned around, as by a gradient reversal.",
    cure="Look for a sign in the loss or in a backward pass of your own: the gradient is p minus "
    "the target.",
    certain=False,
)
def gradient_sign(b: Batch) -> str | None:
    g = _given(b)
    if g is None or b.gradient is None or not b.gradient.is_floating_point() or not bool(g.any()):
        return None
    expected = _of_batch(b)
    # Of a few numbers, a gradient of another loss has this direction by accident.
    if expected.numel() - (0 if b.binary else b.n) < 4 or expected.abs().max() < _WRONG:
        return None
    misfit = _misfit(-g, expected)
    if misfit > max(1e-3, 2 * torch.finfo(b.gradient.dtype).eps):
        return None
    return f"Up to a positive factor it differs from minus that gradient by {100 * misfit:.2g} %."


def _misfit(g: Tensor, expected: Tensor) -> float:
    """What is left of g, as a share of its norm, after the best multiple of another gradient."""
    along = (g * expected).sum() / (expected * expected).sum().clamp(min=1e-300)
    if along <= 0:
        return 1.0
    return float((g - along * expected).norm() / g.norm())


@rule(
    RULES,
    "gradient-sum",
    STRANGE,
    what="The rows of the gradient do not sum to 0 over the classes, as those of a softmax "
    "cross-entropy do. Nothing is wrong if the loss is another one, holds a term such as a z-loss, "
    "or if these logits pass through another function before the softmax.",
    cure="If a softmax cross-entropy is meant, use `F.cross_entropy(logits, target)` of these "
    "logits, without clips; a sigmoid for each class is a binary loss.",
    certain=False,
)
def gradient_sum(b: Batch) -> str | None:
    g = _given(b)
    if g is None or b.gradient is None or b.binary or not b.gradient.is_floating_point():
        return None
    finfo = torch.finfo(b.gradient.dtype)
    size = g.abs().sum(-1)
    # Rounding of each entry, and what is lost below the smallest number.
    rounding = 4 * max(finfo.eps, 1e-6) * size + b.classes * finfo.smallest_normal * finfo.eps
    # In a confident row p - 1 is mostly rounding; in half precision p misses by 2 % everywhere.
    half = min(b.gradient.dtype.itemsize, b.logits.dtype.itemsize) == 2
    looked_at = b.kept & (_of_batch(b).abs().sum(-1) > (0.5 if half else 0.1))
    off = (g.sum(-1).abs() > rounding + (0.1 if half else 0.01) * size) & looked_at
    if not off.any() or off[looked_at].double().mean() < 0.5:
        return None
    worst = (g.sum(-1).abs() / size.clamp(min=1e-300))[off].max().item()
    sigmoid = _misfit(g, _kept(b, b.z.sigmoid() - b.q(0.0)))
    is_sigmoid = " It is that of a sigmoid for each class." if sigmoid < 1e-3 else ""
    return (
        f"This is so in {b.places(off)}; the sum is up to {100 * worst:.3g} % of the sum of the "
        f"absolute values.{is_sigmoid}"
    )
