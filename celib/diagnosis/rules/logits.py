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
    if miss > _sum_tolerance(b, p) or _by_accident(p) or _takes_probabilities(b):
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


def _by_accident(p: Tensor) -> bool:
    """Whether numbers with so few digits may sum to 1 in all of these rows without a reason.

    Of rows of numbers with d digits about one in 10^d does; equal rows are one piece of evidence.
    """
    for unit in (1.0, 2.0, 4.0, 5.0, 8.0, 10.0, 16.0, 20.0, 100.0, 1e3):
        if bool(((p * unit - (p * unit).round()).abs() <= 1e-5 * unit).all()):
            return len(torch.unique(p, dim=0)) * math.log10(unit) < 3.9
    return False


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
    if not flat or b.mask_kind == "classes" or int(b.kept.sum()) < 32:
        return None
    guess, y = b.z.argmax(-1)[b.kept], b.y[b.kept]
    if _has_learned(b, guess, y):
        return None
    some = _some(b)
    guess, y = b.z[some].argmax(-1), b.y[some]
    for how, elsewhere in _other_orders(b, some):
        found = _only_there(b, guess, y, elsewhere)
        if found:
            return (
                f"As they are, {100 * found[0]:.3g} % of {len(y)} predictions are right, and "
                f"{100 * found[1]:.3g} % if {how}."
            )
    return None


def _some(b: Batch) -> Tensor:
    """Which rows are looked at: all that take part, or as many of them as tell enough.

    There may be hundreds of orders, and each costs a pass over the logits of these rows.
    """
    kept = b.kept.nonzero().flatten()
    most = min(max(2**21 // b.classes, 64), 4096)
    if len(kept) <= most:
        return kept
    draw = torch.randperm(len(kept), generator=torch.Generator().manual_seed(0))
    return kept[draw[:most]]


def _other_orders(b: Batch, at: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The predictions at some targets, for each way in which the rows may have been flattened."""
    rows, numbers = b.z.argmax(-1), b.logits.reshape(-1)
    classes = torch.arange(b.classes)
    for first in range(2, b.n // 2 + 1):
        if b.n % first:
            continue
        second = b.n // first
        yield (
            f"the logits are rows of shape ({first}, {second}) and the targets their transpose",
            rows[at % first * second + at // first],
        )
        start = at // second * b.classes * second + at % second
        yield (
            f"the logits are read as ({first}, C, {second})",
            numbers[start[:, None] + classes * second].argmax(1),
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
    "probabilities-outside",
    SHAPES,
    what="What is reported as probabilities are none: some are below 0 or above 1. Nothing is "
    "wrong if they are meant to be percentages, logarithms or logits.",
    cure="Report `logits.softmax(1)`, or `logits.sigmoid()` for binary targets.",
    certain=False,
)
def probabilities_outside(b: Batch) -> str | None:
    if b.probabilities is None:
        return None
    p = b.by_rows(b.probabilities).double()[b.kept]
    p = p[p.isfinite()]
    if not len(p) or bool(((p >= -_ENTRY) & (p <= 1 + _ENTRY)).all()):
        return None
    same = b.by_rows(b.logits).double()[b.kept]
    known = {"the logits themselves": same, "`log_softmax` of them": b.log_p[b.kept]}
    which = [says for says, a in known.items() if a.numel() == p.numel() and _close(p, a)]
    return (
        f"They go from {number(p.min().item())} to {number(p.max().item())}"
        f"{f', and are {which[0]}' if which else ''}."
    )


# How far outside [0, 1] half precision may lead.
_ENTRY = 2.0**-7


def _close(p: Tensor, other: Tensor) -> bool:
    p, other = p.reshape(-1), other.reshape(-1)
    return bool(((p - other).abs() <= 1e-2 * other.abs() + 1e-5).all())


@rule(
    RULES,
    "probabilities-sigmoid",
    STRANGE,
    what="The reported probabilities are a sigmoid of each logit, and do not sum to 1 over the "
    "classes. Nothing is wrong if several classes may be right at once; then the loss is binary, "
    "and `binary=True` belongs here.",
    cure="If one class is right, report `logits.softmax(1)`.",
    certain=False,
)
def probabilities_sigmoid(b: Batch) -> str | None:
    if b.probabilities is None or b.binary or _is_reported(b, b.z.softmax(-1)):
        return None
    sigmoid = b.z.sigmoid()
    if not b.kept.any() or not _is_reported(b, sigmoid):
        return None
    total = sigmoid[b.kept].sum(-1)
    return f"The sums of the rows go from {number(total.min().item())} to {_top(total)}."


def _top(a: Tensor) -> str:
    return number(a.max().item())


@rule(
    RULES,
    "probabilities-temperature",
    STRANGE,
    what="The reported probabilities are those of the logits times a constant, so they are not the "
    "ones that the loss sees. Nothing is wrong if a temperature is meant, as after a calibration.",
    cure="Report `logits.softmax(1)`, or say beside the loss which temperature is applied.",
    certain=False,
)
def probabilities_temperature(b: Batch) -> str | None:
    if b.probabilities is None or _is_reported(b, b.probs(b.z)):
        return None
    factor = _factor(b, b.by_rows(b.probabilities).double())
    if factor is None or not _is_reported(b, b.probs(factor * b.z)):
        return None
    # Where probabilities are nearly equal, all that is done to them looks like a temperature.
    if (b.probs(factor * b.z) - b.probs(b.z))[b.kept].abs().max() < 0.01:
        return None
    return (
        f"They equal those of {number(factor)} times the logits, a temperature of "
        f"{number(1 / factor)}."
    )


def _factor(b: Batch, p: Tensor) -> float | None:
    """By what the logits would have to be multiplied for these probabilities; None if by nothing.

    Of a few numbers, or of few different ones, all that is done to them looks like a factor.
    """
    z, p = b.z[b.kept], p[b.kept]
    log = p.logit() if b.binary else p.log()
    seen = (p > 1e-6) & (p < 1 - 1e-6) & z.isfinite()
    if not b.binary:  # compare with the mean of those that are seen, in each row
        count = seen.sum(-1, keepdim=True).clamp(min=1)
        z, log = (a - torch.where(seen, a, 0.0).sum(-1, keepdim=True) / count for a in (z, log))
    z, log = z[seen], log[seen]
    if len(z) - (0 if b.binary else len(p)) < 4 or not bool(z.any()):
        return None
    if len(torch.unique((50 * z / z.abs().max()).round())) < 5:
        return None
    factor = float((z * log).sum() / (z * z).sum())
    return factor if math.isfinite(factor) and abs(factor) > 1e-3 else None


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
