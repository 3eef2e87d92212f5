"""Labels, soft targets, masks and class weights."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from celib.arguments.arrays import SUM_TOLERANCE, entry_tolerance
from celib.diagnosis.findings import NAN, SHAPES, STRANGE, WEIGHTS
from celib.diagnosis.given import Batch, distinct
from celib.diagnosis.rules.rule import Rule, number, rule

RULES: list[Rule] = []


# Classes as targets.


def _labels(b: Batch) -> Tensor | None:
    """The classes that take part, in the dtype they came in; None if the targets are none."""
    if b.soft or b.binary:
        return None
    found = b.target.reshape(-1)[b.kept]
    return found if len(found) else None


def _whole_labels(b: Batch) -> Tensor | None:
    """The same as integers; None also if they are not whole numbers."""
    y = _labels(b)
    return y.long() if y is not None and bool(_whole(y).all()) else None


def _whole(y: Tensor) -> Tensor:
    """Which of some numbers are whole ones that an integer can hold."""
    y = y.double()
    return (y == y.round()) & (y.abs() < 2.0**53)


def _outside(b: Batch) -> Tensor:
    """Which targets, (n), take part and are no class."""
    return b.kept & ((b.y < 0) | (b.y >= b.classes))


@rule(
    RULES,
    "fractional-labels",
    SHAPES,
    what="The targets have the shape of classes, but are not whole numbers.",
    cure="Give classes from 0 to C - 1 as `torch.long`, or probabilities of the shape of the "
    "logits; for numbers to predict, use a loss of regression.",
)
def fractional_labels(b: Batch) -> str | None:
    y = _labels(b)
    if y is None or _whole_labels(b) is not None:
        return None
    flags = b.kept & ~_whole(b.target.reshape(-1))
    first = number(b.target.reshape(-1)[flags][0].item())
    return f"{b.places(flags)} are not whole numbers; the first is {first}."


@rule(
    RULES,
    "label-not-ignored",
    SHAPES,
    what="Some targets have a value that usually marks what to leave out, but it is neither a "
    "class nor the `ignore_index`. On a CPU torch raises an IndexError; on a GPU the kernel stops "
    "with a failed assertion.",
    cure="Pass the value to the loss, such as `ignore_index=255`, or replace it: "
    "`target.masked_fill(target == 255, -100)`.",
)
def label_not_ignored(b: Batch) -> str | None:
    if _whole_labels(b) is None:
        return None
    outside = _outside(b)
    values = distinct(b.y[outside])
    if len(values) != 1 or values[0] not in (-1, -100, 255):
        return None
    return (
        f"{b.places(outside)} have the value {values[0]}; the classes are 0 to {b.classes - 1}, "
        f"and `ignore_index` is {b.ignore_index}."
    )


@rule(
    RULES,
    "labels-from-one",
    SHAPES,
    what="The labels count from 1 to C, where classes count from 0 to C - 1. On a CPU torch raises "
    "an IndexError; on a GPU the kernel stops with a failed assertion.",
    cure="Subtract 1: `target - 1`.",
)
def labels_from_one(b: Batch) -> str | None:
    y = _whole_labels(b)
    if y is None or y.min() < 1 or y.max() != b.classes or len(distinct(y)) < 2:
        return None
    return f"The labels go from {y.min()} to {y.max()}, and there are {b.classes} classes."


@rule(
    RULES,
    "label-out-of-range",
    SHAPES,
    what="Some labels are no class. On a CPU torch raises an IndexError; on a GPU the kernel stops "
    "with a failed assertion, often reported at a later operation.",
    cure="Give the model as many outputs as there are classes (the largest label plus 1), or mark "
    "what is to be left out with the `ignore_index`.",
)
def label_out_of_range(b: Batch) -> str | None:
    if _whole_labels(b) is None or label_not_ignored(b) or labels_from_one(b):
        return None
    outside = _outside(b)
    if not outside.any():
        return None
    values = ", ".join(map(str, distinct(b.y[outside])[:4]))
    return (
        f"{b.places(outside)} are outside 0 to {b.classes - 1}: {values}. `ignore_index` is "
        f"{b.ignore_index}."
    )


@rule(
    RULES,
    "float-labels",
    SHAPES,
    what="The labels are whole numbers in a floating-point dtype, of which `F.cross_entropy` "
    "raises a RuntimeError. Nothing is wrong if the loss takes such labels, as those of "
    "`celib.losses` and Keras do.",
    cure="Convert them: `target.long()`.",
    certain=False,
)
def float_labels(b: Batch) -> str | None:
    if not b.target.is_floating_point() or _whole_labels(b) is None:
        return None
    if _some_label_is_wrong(b) or _were_taken(b):
        return None
    return f"The targets have dtype {str(b.target.dtype).removeprefix('torch.')}."


def _were_taken(b: Batch) -> bool:
    """Whether some loss took the labels as they are, since something came of it."""
    return b.loss_given is not None or b.gradient is not None


@rule(
    RULES,
    "narrow-labels",
    SHAPES,
    what="The labels have a dtype of which `F.cross_entropy` raises a RuntimeError, such as "
    '"expected target dtype to be Long or Byte" or "expected scalar type Long". Nothing is wrong '
    "if they are converted on the way to the loss, or if it takes them, as those of `celib.losses` "
    "do.",
    cure="Convert them: `target.long()`.",
    certain=False,
)
def narrow_labels(b: Batch) -> str | None:
    if not b.of_torch or b.target.is_floating_point() or _whole_labels(b) is None:
        return None
    if _were_taken(b):
        return None
    # torch takes bytes for logits of two axes alone.
    if b.target.dtype == torch.long or (b.target.dtype == torch.uint8 and b.logits.ndim == 2):
        return None
    return f"The targets have dtype {str(b.target.dtype).removeprefix('torch.')}."


# Distributions and binary targets.


def _soft_rows(b: Batch) -> Tensor:
    """The soft targets that take part, (., C); binary ones as (., 1)."""
    rows = b.target.reshape(-1, 1) if b.binary else b.by_rows(b.target)
    return rows.double()[b.kept]


@rule(
    RULES,
    "signed-targets",
    SHAPES,
    what="The binary targets are -1 and 1, where a binary loss wants 0 and 1. With them the loss "
    "becomes negative and has no minimum.",
    cure="Convert them: `(target + 1) / 2`; or use `F.softplus(-target * logits)`.",
)
def signed_targets(b: Batch) -> str | None:
    if not b.binary or not b.kept.any():
        return None
    y = _soft_rows(b)
    if not bool(((y == 1) | (y == -1)).all()) or not bool((y == -1).any()):
        return None
    return f"{int((y == -1).sum())} of {len(y)} targets are -1, the others 1."


@rule(
    RULES,
    "target-outside-unit",
    SHAPES,
    what="Some targets are no probabilities. A loss of them may be negative, NaN or have no "
    "minimum; binary losses and soft targets know no `ignore_index`.",
    cure="Give targets in [0, 1]. Leave out what does not count by a mask: "
    "`(loss * mask).sum() / mask.sum()` with `reduction='none'`.",
)
def target_outside_unit(b: Batch) -> str | None:
    if not (b.soft or b.binary) or signed_targets(b):
        return None
    eps = torch.finfo(b.target.dtype).eps if b.target.is_floating_point() else 0.0
    y = b.target.reshape(-1, 1) if b.binary else b.by_rows(b.target)
    t = entry_tolerance(eps)
    bad = ~((y >= -t) & (y <= 1 + t)) & b.kept[:, None]
    if not bad.any():
        return None
    first = number(y[bad][0].item())
    return f"{b.places(bad.any(-1))} are outside [0, 1]; the first value is {first}."


@rule(
    RULES,
    "target-sum",
    SHAPES,
    what="The soft targets do not sum to 1 over the classes. The loss of such a row has its "
    "minimum where the softmax is the target divided by its sum, and is that many times larger. "
    "Nothing is wrong if the sums are weights of the rows.",
    cure="Divide by the sum, `target / target.sum(axis, keepdim=True)`. If several classes may be "
    "right at once, use `F.binary_cross_entropy_with_logits`.",
    certain=False,
)
def target_sum(b: Batch) -> str | None:
    if not b.soft or target_outside_unit(b):
        return None
    total = b.by_rows(b.target).double().sum(-1)
    # A row of zeros is how some leave out a row.
    off = b.kept & (total != 0) & ((total - 1).abs() > SUM_TOLERANCE)
    if not off.any():
        return None
    low, high = number(total[off].min().item()), number(total[off].max().item())
    return f"The sums of {b.places(off)} go from {low} to {high}."


# Masks and ignored targets.


@rule(
    RULES,
    "nothing-left",
    NAN,
    what="No target takes part, so the mean is 0/0, which is NaN.",
    cure="Skip the batch, or divide the sum of the losses by `max(count, 1)`.",
)
def nothing_left(b: Batch) -> str | None:
    if b.kept.any():
        return None
    masked = " or masked out" if b.mask_kind == "targets" else ""
    return f"All {b.n} targets are ignored (`ignore_index` is {b.ignore_index}){masked}."


@rule(
    RULES,
    "row-masked-out",
    NAN,
    what="Some rows have no class left: all their logits are -inf. Their softmax is 0/0, and their "
    "loss and gradient are NaN.",
    cure="Leave at least one class in every row, or give these rows the `ignore_index` and finite "
    "logits.",
)
def row_masked_out(b: Batch) -> str | None:
    if b.binary or _beyond(b):
        return None
    closed = (b.z == -math.inf).all(-1) & b.kept
    return f"Every class is masked out in {b.places(closed)}." if closed.any() else None


# What a mask may put in place of a logit, beside -inf and the smallest numbers of a dtype.
_FILLS = (-1e10, -1e9, -1e8, -1e7, -1e6, -1e5, -1e4, -65504.0)


def _fills(logits: Tensor) -> list[float]:
    """The same, rounded to the dtype of the logits."""
    smallest = torch.finfo(logits.dtype).min
    rounded = torch.tensor([-math.inf, *_FILLS, smallest, smallest / 2], dtype=logits.dtype)
    return sorted(set(rounded.tolist()))


@rule(
    RULES,
    "target-impossible",
    STRANGE,
    what="The model gives the target of some rows the probability 0: the logits are logarithms of "
    "probabilities or of counts, that of the target is -inf, and the loss is infinite. Nothing is "
    "wrong with the loss; a model that counts without smoothing is like that, and so are classes "
    "that a mask has closed.",
    cure="Smooth the model, such as by adding 1 to each count, leave such rows out, or report how "
    "many there are; if the classes were masked, check the mask against the targets.",
    certain=False,
)
def target_impossible(b: Batch) -> str | None:
    if b.binary or b.mask_kind == "classes" or _beyond(b) or _some_label_is_wrong(b):
        return None
    hit = _needs_masked(b, -math.inf)
    if not hit.any() or not _of_probabilities(b.z[hit]):
        return None
    return f"The logit of the target is -inf in {b.places(hit)}, where the others make up all."


def _of_probabilities(z: Tensor) -> bool:
    """Whether all rows are logarithms of probabilities, or of counts."""
    counts = z.exp()
    whole = bool(((counts - counts.round()).abs() <= 1e-4 * counts.clamp(min=1)).all())
    return whole or bool((z.logsumexp(-1).abs() < 1e-3).all())


def _needs_masked(b: Batch, fill: float) -> Tensor:
    """Which rows, (n), have a target whose logit is this fill, far below another one."""
    # A finite number is a fill only if it is far below the others of its row.
    far = b.top > fill / 2 if math.isfinite(fill) else b.top > fill
    return (b.needed == fill).any(-1) & far & b.kept


@rule(
    RULES,
    "target-masked-out",
    STRANGE,
    what="The class that is the target is masked out in some rows, which makes its loss infinite, "
    "or as large as the number that stands for -inf.",
    cure="Check the mask against the targets, "
    "`mask.gather(1, target[:, None])`, and leave out rows whose target is not allowed.",
)
def target_masked_out(b: Batch) -> str | None:
    if b.binary or _beyond(b) or _some_label_is_wrong(b) or target_impossible(b):
        return None
    for fill in _fills(b.logits):
        hit = _needs_masked(b, fill)
        if hit.any():
            by_mask = " by the mask" if b.mask_kind == "classes" else ""
            return f"The logit of the target is {number(fill)}{by_mask} in {b.places(hit)}."
    return None


def _beyond(b: Batch) -> bool:
    """Whether some logits are inf or NaN: then -inf may be an overflow too, and no mask."""
    return bool((b.z.isnan() | (b.z == math.inf)).any())


def _some_label_is_wrong(b: Batch) -> bool:
    if b.soft:
        return False
    return _labels(b) is not None and (_whole_labels(b) is None or bool(_outside(b).any()))


# Class weights.


@rule(
    RULES,
    "weight-not-finite",
    NAN,
    what="Some class weights are infinite or NaN, and so are loss and gradient. 1 / count is "
    "infinite for a class that does not occur.",
    cure="Make the weights from counts that are at least 1: `1 / counts.clamp(min=1)`.",
)
def weight_not_finite(b: Batch) -> str | None:
    return _weights(b, lambda w: ~w.isfinite())


@rule(
    RULES,
    "weight-negative",
    WEIGHTS,
    what="Some class weights are negative: the loss of their rows is maximised.",
    cure="Give weights that are at least 0.",
)
def weight_negative(b: Batch) -> str | None:
    return _weights(b, lambda w: w < 0)


def _weights(b: Batch, wrong: Callable[[Tensor], Tensor]) -> str | None:
    """The first weights of which something is true."""
    if b.weight is None:
        return None
    w = b.weight.reshape(-1).double()
    bad = wrong(w).nonzero().flatten()
    if not len(bad):
        return None
    first = int(bad[0])
    value = number(w[first].item())
    return f"{len(bad)} of {len(w)} weights are so; the first, at {first}, is {value}."


@rule(
    RULES,
    "weight-zero",
    WEIGHTS,
    what="The weights of all targets in the batch are 0. The mean over classes divides by their "
    "sum, and 0/0 is NaN; with soft or binary targets the loss is 0.",
    cure="Give every class that occurs a positive weight, or skip batches without one.",
)
def weight_zero(b: Batch) -> str | None:
    if b.weight is None or _some_label_is_wrong(b) or not b.kept.any():
        return None
    w = b.weight.double()
    used = w.expand(b.shape).reshape(-1)[b.kept] if b.binary else w
    if not b.binary:
        used = w * (b.q(0.0)[b.kept].sum(0) > 0)
    if bool((used != 0).any()):
        return None
    return f"All weights of the {int(b.kept.sum())} targets that take part are 0."
