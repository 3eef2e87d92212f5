"""Whether logits and targets belong together at all. Only the first of these is reported."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from celib.diagnosis.findings import NAN, SHAPES, ZERO
from celib.diagnosis.given import Batch
from celib.diagnosis.rules.rule import Rule, number, rule

RULES: list[Rule] = []


@rule(
    RULES,
    "empty-batch",
    NAN,
    what="The batch is empty, and a mean over nothing is 0/0, which is NaN.",
    cure="Leave out empty batches, or divide the sum of the losses by `max(count, 1)`.",
)
def empty_batch(b: Batch) -> str | None:
    if b.logits.numel() and b.target.numel():
        return None
    return f"The logits have shape {shape(b.logits)} and the targets {shape(b.target)}."


@rule(
    RULES,
    "no-class-axis",
    ZERO,
    what="There is one logit for each target, and no axis of classes. A binary loss needs "
    "`binary=True` here; the softmax of a single class is 1 and its loss exactly 0, whatever the "
    "logit is.",
    cure="For two classes and one logit use `F.binary_cross_entropy_with_logits(logits, target)`, "
    "with `binary=True` here; for a softmax give the model an output for each class.",
)
def no_class_axis(b: Batch) -> str | None:
    if b.binary:
        return None
    one_each = f"The logits have shape {shape(b.logits)} and the targets {shape(b.target)}"
    if b.classes == 1:
        return f"{one_each}: axis {b.axis}, that of the classes, has length 1."
    if b.logits.ndim > 1 or b.logits.shape != b.target.shape:
        return None
    target = b.target.double()
    if b.target.is_floating_point() and not bool(((target == 0) | (target == 1)).all()):
        return None
    if target.sum() == 1 and b.target.is_floating_point():  # one row, whose target is one-hot
        return None
    return f"{one_each}, with no axis for the classes."


@rule(
    RULES,
    "column-against-row",
    SHAPES,
    what="Logits and targets differ by an axis of length 1. `F.binary_cross_entropy_with_logits` "
    "raises a ValueError, and a loss that is written with operators spreads the one over the "
    "other and averages over pairs that do not belong together.",
    cure="Give both the same shape: `logits.squeeze(-1)` or `target.unsqueeze(-1)`.",
)
def column_against_row(b: Batch) -> str | None:
    if not b.binary or b.fits or squeezed(b.logits) != squeezed(b.target):
        return None
    try:
        pairs = np.broadcast_shapes(shape(b.logits), shape(b.target))
    except ValueError:
        return None
    evidence = (
        f"The logits have shape {shape(b.logits)} and the targets {shape(b.target)}, which "
        f"broadcast to {pairs}."
    )
    return evidence + _mean_of_pairs(b, pairs)


def _mean_of_pairs(b: Batch, pairs: tuple[int, ...]) -> str:
    """What a loss that was given adds to the evidence."""
    if b.loss_given is None or b.loss_given.numel() != 1 or math.prod(pairs) > 2**24:
        return ""
    z, y = b.logits.double().expand(pairs), b.target.double().expand(pairs)
    each = torch.nn.functional.binary_cross_entropy_with_logits(z, y, reduction="none")
    loss, over_pairs = b.loss_given.double().item(), each.mean().item()
    if abs(loss - over_pairs) > 1e-4 * abs(over_pairs):
        return ""
    return f" The loss that was given, {number(loss)}, is the mean over all these pairs."


@rule(
    RULES,
    "classes-for-binary",
    SHAPES,
    what="The targets are classes, one for each row, where a binary loss wants a 0 or a 1 for each "
    "logit. `F.binary_cross_entropy_with_logits` raises a ValueError.",
    cure="If exactly one class is right, use `F.cross_entropy(logits, target)`; otherwise give "
    "targets of the shape of the logits, such as `F.one_hot(target, C).float()`.",
)
def classes_for_binary(b: Batch) -> str | None:
    if not b.binary or b.fits or b.logits.ndim < 2:
        return None
    whole = tuple(b.logits.shape)
    without = {whole[:k] + whole[k + 1 :] for k in range(1, len(whole))}
    if tuple(b.target.shape) not in without:
        return None
    top = number(b.target.double().max().item())
    return (
        f"The logits have shape {shape(b.logits)} and the targets {shape(b.target)}, with values "
        f"up to {top}."
    )


@rule(
    RULES,
    "integer-target",
    SHAPES,
    what="The targets have the shape of the logits and whole numbers as their dtype: "
    "`F.cross_entropy` takes them for probabilities of the wrong dtype and raises a RuntimeError.",
    cure="Give the classes, `target.argmax(axis)`, or probabilities, `target.float()`. If several "
    "classes may be right at once, use a binary loss.",
)
def integer_target(b: Batch) -> str | None:
    if b.binary or b.target.shape != b.logits.shape or b.fits:
        return None
    ones = (b.target != 0).sum(b.axis)
    kind = "one-hot" if bool((ones == 1).all()) else "not one-hot"
    dtype = str(b.target.dtype).removeprefix("torch.")
    return f"Both have shape {shape(b.target)}; the targets have dtype {dtype} and are {kind}."


@rule(
    RULES,
    "class-axis",
    SHAPES,
    what="The classes are along another axis than the one that the loss takes for them. In torch "
    "they are along axis 1: (N, C), (N, C, T), (N, C, H, W).",
    cure="Move the axis, `logits.movedim(-1, 1)` for (N, T, C), or `logits.T` for (C, N); or "
    "flatten both, `F.cross_entropy(logits.reshape(-1, C), target.reshape(-1))`.",
)
def class_axis(b: Batch) -> str | None:
    if b.binary or b.fits:
        return None
    whole = tuple(b.logits.shape)
    found = [k for k in range(len(whole)) if whole[:k] + whole[k + 1 :] == tuple(b.target.shape)]
    if not found:
        return None
    return (
        f"The logits have shape {shape(b.logits)} and the targets {shape(b.target)}, which fit if "
        f"the classes are along axis {found[0]}, not along axis {b.axis}."
    )


@rule(
    RULES,
    "target-column",
    SHAPES,
    what="The targets have an axis of length 1 too many. `F.cross_entropy` raises a RuntimeError.",
    cure="Remove it: `target.squeeze(1)` for targets of shape (N, 1) or (N, 1, H, W).",
)
def target_column(b: Batch) -> str | None:
    if b.binary or b.fits or b.target.ndim != len(b.shape) + 1:
        return None
    at = [k for k, n in enumerate(b.target.shape) if n == 1]
    target = tuple(b.target.shape)
    if not any(target[:k] + target[k + 1 :] == b.shape for k in at):
        return None
    return f"The targets have shape {shape(b.target)}, and the logits leave {b.shape} for classes."


@rule(
    RULES,
    "target-shape",
    SHAPES,
    what="The shapes of logits and targets do not belong together.",
    cure="Give one class for each row of logits, or probabilities of the shape of the logits. If "
    "one of the two is flattened, flatten the other in the same order.",
)
def target_shape(b: Batch) -> str | None:
    if b.fits:
        return None
    expected = f"{b.shape}" if b.binary else f"{b.shape} for classes or {shape(b.logits)}"
    return (
        f"The logits have shape {shape(b.logits)}, so the targets should have {expected}; they "
        f"have {shape(b.target)}."
    )


def shape(a: Tensor) -> tuple[int, ...]:
    return tuple(a.shape)


def squeezed(a: Tensor) -> tuple[int, ...]:
    """The shape without axes of length 1."""
    return tuple(n for n in a.shape if n != 1)
