"""Probabilities where logits belong, the order of the logits, and what the model reports."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from celib.arguments.arrays import SUM_TOLERANCE
from celib.diagnosis.findings import NAN, SHAPES, STRANGE, STUCK
from celib.diagnosis.given import Batch
from celib.diagnosis.rules.rule import Rule, number, rule

RULES: list[Rule] = []


# Probabilities where logits belong.


@rule(
    RULES,
    "probabilities-as-logits",
    STUCK,
    what="What is given as logits are probabilities: a softmax was applied already, and the loss "
    "applies another. It cannot fall below log(1 + (C - 1)/e), and its gradients are small.",
    cure="Remove the softmax from the model, and give the loss what went into it. Where there are "
    "only probabilities, use `F.nll_loss(p.log(), target)`.",
)
def probabilities_as_logits(b: Batch) -> str | None:
    if b.binary:
        return None
    p = b.z[b.kept]
    n, count = p.shape
    # Two numbers may sum to 1 by accident.
    if (n < 2 and count < 3) or not bool(((p >= 0) & (p <= 1)).all()):
        return None
    # Votes, or the cosines of an orthonormal batch: a softmax is not that sure of every row.
    if bool(((p == 0) | (p == 1)).all()):
        return None
    miss = (p.sum(-1) - 1).abs().max().item()
    if miss > _sum_tolerance(b, p) or _takes_probabilities(b):
        return None
    floor = number(math.log1p((count - 1) / math.e))
    return (
        f"All {n} rows lie in [0, 1] and sum to 1 within {miss:.1g}. The floor for {count} classes "
        f"is {floor}."
    )


def _sum_tolerance(b: Batch, p: Tensor) -> float:
    """How far the sums of these rows may be from 1; below 0 if they tell nothing."""
    varied = len(p) >= 8 and (p.amax(0) - p.amin(0)).max() > 0.1
    if varied:  # no accident, whatever dtype the numbers have passed through
        return SUM_TOLERANCE
    eps = torch.finfo(b.logits.dtype).eps
    return -1.0 if eps > 1e-4 else 8 * eps


def _takes_probabilities(b: Batch) -> bool:
    """Whether the loss that was given is right for probabilities, and not for logits."""
    p = torch.stack([1 - b.z, b.z], -1) if b.binary else b.z
    return any(map(b.is_loss, b.reduced(b.each(p.log())))) and not b.explained


@rule(
    RULES,
    "binary-probabilities",
    STUCK,
    what="What is given as logits seem to be probabilities: a sigmoid was applied already, and the "
    "loss applies another. Nothing is wrong if the logits happen to lie between 0 and 1.",
    cure="Remove the sigmoid from the model, or use `F.binary_cross_entropy(p, target)`.",
    certain=False,
)
def binary_probabilities(b: Batch) -> str | None:
    if not b.binary or b.z.min() < 0 or b.z.max() > 1 or _takes_probabilities(b):
        return None
    z = b.z[b.kept]
    ends = int(((z > 0) & (z < 0.05)).sum()), int(((z > 0.95) & (z < 1)).sum())
    if min(ends) < max(10, 0.05 * len(z)):
        return None
    return (
        f"All {len(z)} lie in [0, 1], {ends[0]} of them below 0.05 and {ends[1]} above 0.95, as "
        f"the values of a sigmoid do."
    )


@rule(
    RULES,
    "sigmoid-as-logits",
    STUCK,
    what="What is given as logits seem to be sigmoids, one of each class, and the loss applies a "
    "softmax to them. It cannot fall below log(1 + (C - 1)/e). Nothing is wrong if the logits "
    "happen to lie between 0 and 1.",
    cure="Remove the sigmoid from the model, and give the loss what went into it.",
    certain=False,
)
def sigmoid_as_logits(b: Batch) -> str | None:
    z = b.z[b.kept]
    if b.binary or z.shape[-1] < 3 or not bool(((z >= 0) & (z <= 1)).all()):
        return None
    if ((z > 0) & (z < 1)).double().mean() < 0.5:
        return None
    ends = int((z < 0.05).sum()), int((z > 0.95).sum())
    if len(z) < 32 or min(ends) < 0.05 * len(z) or (z.sum(-1) - 1).abs().max() < 0.01:
        return None
    return (
        f"All {z.numel()} lie in [0, 1], {ends[0]} of them below 0.05 and {ends[1]} above "
        f"0.95, and rows do not sum to 1."
    )


# The order of the logits.


# The agreement, as kappa, up to which a model has learned nothing.
_LITTLE = 0.15


def _agreement(guess: Tensor, y: Tensor, classes: int) -> tuple[float, float]:
    """How far guesses and labels agree beyond chance: kappa, and in standard deviations.

    Chance is what guesses of these frequencies reach among labels of these frequencies.
    """
    n = len(y)
    hits = (guess == y).double().mean().item()
    shares = [torch.bincount(a, minlength=classes).double() / n for a in (guess, y)]
    chance = (shares[0] * shares[1]).sum().item()
    if not 0 < chance < 1:
        return 0.0, 0.0
    return (hits - chance) / (1 - chance), (hits - chance) / math.sqrt(chance * (1 - chance) / n)


def _has_learned(b: Batch, guess: Tensor, y: Tensor) -> bool:
    """Whether the model knows something of the labels where they are."""
    z = b.z[b.kept]
    # A model may predict one class only, and yet tell the rows apart.
    unbiased = (z - z.mean(0)).argmax(-1)
    return any(abs(_agreement(a, y, b.classes)[0]) > _LITTLE for a in (guess, unbiased))


def _only_there(
    b: Batch, guess: Tensor, y: Tensor, elsewhere: Tensor
) -> tuple[float, float] | None:
    """Accuracies here and elsewhere, if elsewhere is far better than chance.

    All as (n) in the order of ``y``, already without what does not take part.
    """
    there, deviations = _agreement(elsewhere, y, b.classes)
    # Guesses and labels of one sequence depend on each other, so the bounds are far from 5 %.
    if there < 0.5 or deviations < 8:
        return None
    return (guess == y).double().mean().item(), (elsewhere == y).double().mean().item()


@rule(
    RULES,
    "class-axis-unseen",
    SHAPES,
    what="The classes seem to be along another axis, of the same length, so that no shape "
    "disagrees and the loss is computed of the wrong numbers. Nothing is wrong if the model has "
    "learned something else along that axis.",
    cure="Move the axis: `logits.movedim(-1, 1)` for (N, T, C), or `logits.T` for (C, N).",
    certain=False,
)
def class_axis_unseen(b: Batch) -> str | None:
    if b.soft or b.binary or b.mask_kind == "classes":
        return None
    whole, y = b.logits.shape, b.y[b.kept]
    guess = b.z.argmax(-1)[b.kept]
    if _has_learned(b, guess, y):
        return None
    for k in range(b.logits.ndim):
        if k == b.axis or whole[k] != b.classes:
            continue
        elsewhere = b.logits.argmax(k).reshape(-1)[b.kept]
        found = _only_there(b, guess, y, elsewhere)
        if found:
            return (
                f"Along axis {b.axis} {100 * found[0]:.3g} % of {len(y)} predictions are right, "
                f"along axis {k} {100 * found[1]:.3g} %; both have length {b.classes}."
            )
    return None


@rule(
    RULES,
    "rows-in-another-order",
    SHAPES,
    what="Logits and targets seem to have been flattened in different orders, so that most rows "
    "meet the target of another. Nothing is wrong if the agreement in the other order is an "
    "accident of the data.",
    cure="Bring the classes to the end before flattening: `logits.movedim(1, -1).reshape(-1, C)` "
    "for (N, C, T), and flatten the targets in the same order of axes.",
    certain=False,
)
def rows_in_another_order(b: Batch) -> str | None:
    flat = b.logits.ndim == 2 and b.axis == 1 and not (b.soft or b.binary)
    # Each order costs a pass over the logits.
    flat = flat and b.logits.numel() < 2**24
    if not flat or b.mask_kind == "classes" or int(b.kept.sum()) < 32:
        return None
    guess, y = b.z.argmax(-1)[b.kept], b.y[b.kept]
    if _has_learned(b, guess, y):
        return None
    for how, elsewhere in _other_orders(b):
        found = _only_there(b, guess, y, elsewhere[b.kept])
        if found:
            return (
                f"As they are, {100 * found[0]:.3g} % of {len(y)} predictions are right, and "
                f"{100 * found[1]:.3g} % if {how}."
            )
    return None


def _other_orders(b: Batch) -> Iterator[tuple[str, Tensor]]:
    """The predictions, (n), for each way in which the rows may have been flattened."""
    rows = b.z.argmax(-1)
    for first in range(2, b.n // 2 + 1):
        if b.n % first:
            continue
        second = b.n // first
        yield (
            f"the logits are rows of shape ({first}, {second}) and the targets their transpose",
            rows.reshape(first, second).T.reshape(-1),
        )
        yield (
            f"the logits are read as ({first}, C, {second})",
            b.logits.reshape(first, b.classes, second).argmax(1).reshape(-1),
        )


# What the model reports.


def _is_reported(b: Batch, p: Tensor) -> bool:
    """Whether the probabilities that were reported are these, to their accuracy."""
    reported = b.by_rows(b.probabilities).double()[b.kept] if b.probabilities is not None else None
    if reported is None or b.probabilities is None or not b.probabilities.is_floating_point():
        return False
    tolerance = max(1e-5, torch.finfo(b.probabilities.dtype).eps)
    return bool(((reported - p[b.kept]).abs() <= tolerance).all())


@rule(
    RULES,
    "probabilities-nan",
    NAN,
    what="The reported probabilities have NaN where the logits are finite: the softmax was "
    "computed as `exp(z) / exp(z).sum()`, which overflows.",
    cure="Use `logits.softmax(axis)`, which subtracts the largest logit first.",
)
def probabilities_nan(b: Batch) -> str | None:
    if b.probabilities is None or bool(b.z.isnan().any()):
        return None
    rows = b.any_of(b.by_rows(b.probabilities).isnan()) & b.kept
    if not rows.any() or (not b.binary and bool((b.z == -math.inf).all(-1)[rows].any())):
        return None
    return f"This is so in {b.places(rows)}; the largest logit is {number(b.z.max().item())}."


@rule(
    RULES,
    "probabilities-axis",
    SHAPES,
    what="The reported probabilities are a softmax along another axis than that of the classes, so "
    "they depend on the other rows of the batch.",
    cure="Name the axis of the classes: `logits.softmax(1)`.",
)
def probabilities_axis(b: Batch) -> str | None:
    if b.probabilities is None or b.binary or _is_reported(b, b.z.softmax(-1)):
        return None
    for k in range(b.logits.ndim):
        if k != b.axis and _is_reported(b, b.by_rows(b.logits.double().softmax(k))):
            return f"They equal the softmax along axis {k}; the classes are along axis {b.axis}."
    return None


@rule(
    RULES,
    "probabilities-twice",
    STRANGE,
    what="The reported probabilities went through the softmax or sigmoid twice. They are near each "
    "other, and no confident prediction is seen.",
    cure="Apply it once.",
)
def probabilities_twice(b: Batch) -> str | None:
    if b.probabilities is None or _is_reported(b, b.probs(b.z)):
        return None
    twice = b.probs(b.probs(b.z))
    if not _is_reported(b, twice):
        return None
    shown, once = twice[b.kept].max().item(), b.probs(b.z)[b.kept].max().item()
    return f"The largest is {number(shown)}, where one pass gives {number(once)}."
