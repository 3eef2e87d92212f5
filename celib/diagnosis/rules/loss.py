"""The number that the loss returned. Only the first of these is reported.

Most rules compute what a mistake would return for this batch and compare: a loss that is the right
one to its accuracy is never accused, and neither is one that no mistake explains.
"""

from __future__ import annotations

import functools
import math
from dataclasses import replace

import torch
from torch import Tensor

from celib.diagnosis.findings import (
    HALF,
    NAN,
    PADDING,
    SHAPES,
    STRANGE,
    STUCK,
    WEIGHTS,
    ZERO,
)
from celib.diagnosis.given import ABSOLUTE, SHARP, Batch
from celib.diagnosis.rules.rule import Evidence, Rule, number, rule

RULES: list[Rule] = []


def if_apart(evidence: Evidence) -> Evidence:
    """Look only where the loss is not that of the batch: what a mistake returns takes a pass."""

    @functools.wraps(evidence)
    def look(b: Batch) -> str | None:
        return evidence(b) if b.apart else None

    return look


def _but(b: Batch, said: str) -> str:
    """The evidence of a loss that another formula explains."""
    assert b.loss is not None
    return (
        f"The loss is {number(b.loss)}, which is {said}; that of the batch is {number(b.right[0])}."
    )


# NaN and inf.


@rule(
    RULES,
    "masked-class-in-loss",
    PADDING,
    what="The loss is not finite although no target needs a class that is masked out: the target "
    "gives such a class the share 0 and the loss computes 0 * inf, or label smoothing gives it a "
    "share above 0.",
    cure="Use `celib.losses.cross_entropy`, which leaves masked classes out of both; or mask with "
    "a large finite number such as -1e4, without label smoothing.",
)
def masked_class_in_loss(b: Batch) -> str | None:
    if b.binary or not _not_finite(b):
        return None
    masked = (b.z == -math.inf).any(-1) & b.kept
    if not masked.any() or not (b.soft or b.label_smoothing):
        return None
    kind = "soft" if b.soft else "smoothed"
    return f"The loss is {b.loss}, the targets are {kind}, and {b.places(masked)} have -inf logits."


@rule(
    RULES,
    "half-sum",
    HALF,
    what="The loss is not finite because the sum of the losses, or the number that it is divided "
    "by, is above 65504, the largest number of float16.",
    cure="Compute the loss in float32, `F.cross_entropy(logits.float(), target)`, or let "
    "`torch.autocast` do so.",
)
def half_sum(b: Batch) -> str | None:
    if not _not_finite(b) or b.logits.dtype != torch.float16:
        return None
    total, count = b.each(b.log_p)[b.kept].sum().item(), int(b.kept.sum())
    if max(total, count) <= torch.finfo(torch.float16).max:
        return None
    return f"The loss is {b.loss}; the sum over {count} targets is {number(total)}."


@rule(
    RULES,
    "loss-not-finite",
    NAN,
    what="The loss is not finite although the loss of these logits and targets is: the fault is in "
    "the loss function, or the loss is that of another batch.",
    cure="Let `celib.diagnosis.doctor` look at the loss function. The usual fault is the logarithm "
    "of a softmax or sigmoid that was rounded to 0: use `F.cross_entropy` or "
    "`F.binary_cross_entropy_with_logits` of the logits.",
)
def loss_not_finite(b: Batch) -> str | None:
    if not _not_finite(b):
        return None
    return f"The loss is {b.loss}; that of the batch is {number(b.right[0])}."


def _not_finite(b: Batch) -> bool:
    return b.loss is not None and not math.isfinite(b.loss) and all(map(math.isfinite, b.right))


# Stuck.


def _frequency(b: Batch) -> tuple[Tensor, float]:
    """How frequent the classes are among the targets, and the entropy of that."""
    frequency = b.q(0.0)[b.kept].mean(0)
    return frequency, -torch.xlogy(frequency, frequency).sum().item()


def _distance(b: Batch, frequency: Tensor) -> float:
    """The total variation between frequencies and the mean of the predictions."""
    return (b.log_p[b.kept].exp().mean(0) - frequency).abs().sum().item() / 2


def _mean(b: Batch) -> float:
    """The loss that was given, for one target."""
    assert b.loss is not None
    return b.loss / int(b.kept.sum()) if b.reduction == "none" else b.loss


def _spread(b: Batch) -> float:
    """How far apart the probabilities of the rows are: the largest distance to their mean."""
    p = b.log_p[b.kept].exp()
    return (p - p.mean(0)).abs().sum(-1).max().item() / 2


@rule(
    RULES,
    "constant-logits",
    STUCK,
    what="All rows have the same probabilities, although their targets differ: the model does not "
    "use its input. Nothing is wrong before the first step if the last layer is initialised with "
    "zeros.",
    cure="Look for what removes the signal: dead ReLUs, a learning rate of 0 or parameters that "
    "the optimizer does not have, an input of zeros, a `detach()`.",
    certain=False,
)
def constant_logits(b: Batch) -> str | None:
    if b.loss is None or b.reduction == "sum" or not _several_labels(b):
        return None
    # A model of frequencies has equal rows, too: the next rule tells that of labels of which some
    # are frequent.
    frequency, entropy = _frequency(b)
    far = _distance(b, frequency) > 0.5
    balanced = entropy >= 0.9 * math.log(b.classes)
    if not (b.explained and (balanced or far)) or _spread(b) > 1e-7:
        return None
    uniform = (frequency - 1 / b.classes).abs().sum().item() / 2
    if _distance(b, frequency) < uniform / 4:  # it has learned them
        return None
    return (
        f"{int(b.kept.sum())} rows are the same; the loss is {number(_mean(b))}, and "
        f"log {b.classes} is {number(math.log(b.classes))}."
    )


def _several_labels(b: Batch) -> bool:
    """Whether rows ought to differ: at least 8 of them, with different targets."""
    q = b.q(0.0)[b.kept]
    return len(q) >= 8 and bool((q != q[0]).any())


@rule(
    RULES,
    "ignores-input",
    STUCK,
    what="The rows have nearly the same probabilities, those of the label frequencies, and the "
    "loss is the entropy of the labels: the model has learned how frequent the classes are and "
    "nothing from its input. Nothing is wrong in the first steps of training.",
    cure="Train on. If it stays so, look for what removes the signal from the input, for a "
    "learning rate that is too large, and for labels that do not belong to their inputs.",
    certain=False,
)
def ignores_input(b: Batch) -> str | None:
    if b.loss is None or b.reduction == "sum" or not b.explained or int(b.kept.sum()) < 32:
        return None
    frequency, entropy = _frequency(b)
    # A model that was not trained has equal rows too, but they are near the uniform distribution.
    skewed = 0.05 < entropy < 0.9 * math.log(b.classes)
    follows = _distance(b, frequency) < 0.05
    loss, spread = _mean(b), _spread(b)
    if not (skewed and follows) or spread > 0.005 or abs(loss - entropy) > 0.03 * entropy:
        return None
    return (
        f"The loss is {number(loss)}, the entropy of the labels {number(entropy)}, and no row is "
        f"farther than {spread:.1g} from the mean of all."
    )


# Exactly 0.


@rule(
    RULES,
    "half-saturated",
    HALF,
    what="The loss is exactly 0 because of half precision: a softmax or sigmoid was rounded to 1 "
    "before its logarithm was taken, or a log-sum-exp to the largest logit.",
    cure="Compute the loss in float32, `F.cross_entropy(logits.float(), target)`, from the logits.",
)
def half_saturated(b: Batch) -> str | None:
    half = b.logits.dtype.itemsize == 2
    if b.loss != 0 or not b.apart or not half:
        return None
    # From this gap on 1 is the nearest number to the probability of the target.
    gap = math.log(2 / torch.finfo(b.logits.dtype).eps)
    share = (b.each(b.log_p)[b.kept] <= math.exp(-gap) * 1.5).double().mean().item()
    if share < 0.5:
        return None
    return (
        f"The loss of the batch is {number(b.right[0])}; in {100 * share:.3g} % of its rows the "
        f"target leads by more than about {gap:.2g}, where the probability rounds to 1."
    )


@rule(
    RULES,
    "loss-zero",
    ZERO,
    what="The loss is exactly 0, and that of the batch is not: the loss function does not see "
    "these rows.",
    cure="Look for a softmax over an axis of length 1 (`softmax(0)` of a single row), a mask or a "
    "weight of zeros, or a sum over nothing.",
)
def loss_zero(b: Batch) -> str | None:
    if b.loss != 0 or not b.apart:
        return None
    return f"The loss of the batch is {number(b.right[0])}."


# The softmax.


@rule(
    RULES,
    "softmax-twice",
    STUCK,
    what="The logits go through a softmax, or a sigmoid, before a loss that applies one itself. "
    "With two softmaxes it cannot fall below log(1 + (C - 1)/e), 0.3133 for 2 classes and 1.461 "
    "for 10, and its gradients are small.",
    cure="Give the loss the logits: `F.cross_entropy(logits, target)`, or "
    "`F.binary_cross_entropy_with_logits(logits, target)`; apply the softmax only to report.",
)
@if_apart
def softmax_twice(b: Batch) -> str | None:
    twice = b.reduced(b.each(b.log_probs(b.probs(b.z))))
    if not b.instead(twice):
        return None
    name = "sigmoid" if b.binary else "softmax"
    return _but(b, f"that of {name}(logits) taken for logits")


@rule(
    RULES,
    "softmax-floor",
    STUCK,
    what="The loss is at the floor of a loss whose softmax, or sigmoid, is applied twice, while "
    "the logits are confident and right. Nothing is wrong if the loss holds another term.",
    cure="Give the loss the logits, and apply the softmax only to report.",
    certain=False,
)
def softmax_floor(b: Batch) -> str | None:
    if b.loss is None or not b.apart or b.reduction != "mean" or b.soft:
        return None
    floor = math.log1p((b.classes - 1) / math.e)
    if b.binary:  # a sigmoid of 0 leaves log 2
        share = b.target.reshape(-1).double()[b.kept].mean().item()
        floor = share * math.log1p(1 / math.e) + (1 - share) * math.log(2)
    if abs(b.loss - floor) > 0.003 * floor or max(b.right) > 0.01 * floor:
        return None
    return (
        f"The loss is {number(b.loss)}, the floor {number(floor)}, and the loss of the batch "
        f"{number(b.right[0])}."
    )


@rule(
    RULES,
    "softmax-wrong-axis",
    STRANGE,
    what="The softmax of the loss is along another axis than that of the classes: the rows of the "
    "batch compete with each other.",
    cure="Name the axis of the classes: `logits.log_softmax(1)`. `F.softmax` without `dim` takes "
    "axis 0 of a batch of shape (N, C, T).",
)
@if_apart
def softmax_wrong_axis(b: Batch) -> str | None:
    if b.binary or b.loss is None:
        return None
    logits = b.logits.double()
    for k in range(logits.ndim):
        if k == b.axis or logits.shape[k] == 1:  # along which the loss is 0
            continue
        if b.instead(b.reduced(b.each(b.by_rows(logits.log_softmax(k))))):
            return _but(b, f"that of a softmax along axis {k}")
    return None


# The logarithm and the sign.


@rule(
    RULES,
    "nll-of-probabilities",
    STRANGE,
    what="The loss takes logarithms of probabilities and was given probabilities: it is minus "
    "their mean, between -1 and 0.",
    cure="Use `F.cross_entropy(logits, target)`, or `F.nll_loss(logits.log_softmax(1), target)`.",
)
@if_apart
def nll_of_probabilities(b: Batch) -> str | None:
    p = b.log_p.exp()
    return _but(b, "`nll_loss` of the softmax") if b.instead(b.reduced(b.each(p))) else None


@rule(
    RULES,
    "nll-of-logits",
    STRANGE,
    what="The loss takes logarithms of probabilities and was given logits: it is minus the mean "
    "logit of the target, which has no minimum.",
    cure="Use `F.cross_entropy(logits, target)`, or `F.nll_loss(logits.log_softmax(1), target)`.",
)
@if_apart
def nll_of_logits(b: Batch) -> str | None:
    if b.binary or not b.instead(b.reduced(b.each(b.z))):
        return None
    return _but(b, "`nll_loss` of the logits themselves")


@rule(
    RULES,
    "sign-flipped",
    STRANGE,
    what="The loss has the wrong sign: it is the mean log-likelihood, which a minimiser makes as "
    "small as it can.",
    cure="Minimise its negative.",
)
def sign_flipped(b: Batch) -> str | None:
    return _but(b, "its negative") if b.instead([-x for x in b.right]) else None


@rule(
    RULES,
    "base-two",
    STRANGE,
    what="The loss is in bits: it is 1/log 2 = 1.443 times the loss in nats. Nothing is wrong if "
    "bits are meant, but gradients are that many times larger.",
    cure="Use the natural logarithm, or multiply by `math.log(2)`.",
    certain=False,
)
def base_two(b: Batch) -> str | None:
    return (
        _but(b, "1.443 times as large") if b.instead([x / math.log(2) for x in b.right]) else None
    )


# Clips.


#: The largest loss of a row, and whose it is.
CLIPS = {
    100.0: "`torch.nn.BCELoss`, which replaces log(p) by -100 below it",
    -math.log(torch.finfo(torch.float32).eps): "`sklearn.metrics.log_loss`, or another clip at the "
    "epsilon of float32, 1.2e-7",
    -math.log(torch.finfo(torch.float64).eps): "`sklearn.metrics.log_loss`, or another clip at the "
    "epsilon of float64, 2.2e-16",
    -math.log(1e-7): "Keras, which clips probabilities at 1e-7",
    -math.log(1e-8): "a clip of probabilities at 1e-8",
    -math.log(1e-10): "a clip of probabilities at 1e-10",
    -math.log(1e-12): "a clip of probabilities at 1e-12",
    -math.log(1e-15): "a clip of probabilities at 1e-15, such as that of older scikit-learn",
}


@rule(
    RULES,
    "clipped-loss",
    STUCK,
    what="The loss of some rows is cut off, because probabilities were clipped, or bounded by an "
    "epsilon, before the logarithm. The gradient of these rows, which are the wrong ones, is 0.",
    cure="Compute the loss from the logits: `F.cross_entropy`, "
    "`F.binary_cross_entropy_with_logits`, or `from_logits=True`.",
)
@if_apart
def clipped_loss(b: Batch) -> str | None:
    log_probs = b.log_p
    for top, whose in CLIPS.items():
        if b.instead(b.reduced(b.each(log_probs.clamp(min=-top)))):
            return _but(b, f"what a bound of {number(top)} for each row leaves: that of {whose}")
    for eps in (1e-7, 1e-8, 1e-9, 1e-10, 1e-12):
        if b.instead(b.reduced(b.each((log_probs.exp() + eps).log()))):
            return _but(b, f"that of log(p + {eps:.0e}), at most {number(-math.log(eps))} a row")
    if b.binary and b.instead(b.reduced(b.each(_after_sigmoid(b)))):
        return _but(b, "that of `torch.nn.BCELoss`, which takes a sigmoid rounded to 1")
    return None


def _after_sigmoid(b: Batch) -> Tensor:
    """The logarithms that BCELoss takes of a sigmoid in float32, in which 1 - p may be 0."""
    p = b.z.float().sigmoid()
    return torch.stack([(1 - p).log(), p.log()], -1).clamp(min=-100.0).double()


# Labels and weights.


@rule(
    RULES,
    "labels-plus-minus",
    SHAPES,
    what="The loss expects the labels -1 and 1, and got 0 and 1: every 0 costs log 2, whatever the "
    "logit.",
    cure="Give it `2 * target - 1`, or use `F.binary_cross_entropy_with_logits(logits, target)`.",
)
@if_apart
def labels_plus_minus(b: Batch) -> str | None:
    y = b.target.reshape(-1).double()
    if not b.binary or not bool(((y == 0) | (y == 1))[b.kept].all()):
        return None
    each = torch.nn.functional.softplus(-y * b.z)
    each = each if b.factor is None else each * b.factor[:, 0]
    return _but(b, "the mean of log(1 + exp(-y z))") if b.instead(b.reduced(each)) else None


@rule(
    RULES,
    "weight-not-used",
    WEIGHTS,
    what="The weights do not enter the loss.",
    cure="Pass them on: `F.cross_entropy(logits, target, weight=weight)`. If the loss is to have "
    "none, leave `weight` out here.",
)
@if_apart
def weight_not_used(b: Batch) -> str | None:
    if b.weight is None or not b.instead(replace(b, weight=None).right):
        return None
    return _but(b, "that without weights")


@rule(
    RULES,
    "weights-over-n",
    WEIGHTS,
    what="The weighted losses are divided by the number of targets, where torch divides by the sum "
    "of their weights. Nothing is wrong if that is meant, as in other libraries, but a batch of "
    "rare classes then has larger gradients.",
    cure="Divide by `weight[target].sum()`, or leave it and choose the learning rate for it.",
    certain=False,
)
def weights_over_n(b: Batch) -> str | None:
    # Of a single target it is not known whether its loss was reduced.
    if b.loss is None or b.reduction != "mean" or len(b.right) < 2 or b.n == 1:
        return None
    by_weight, by_count = b.right
    room = 20 * (b.atol + b.rtol * abs(by_weight)) + 0.002 * abs(by_weight)
    if b.rtol > SHARP or not b.is_loss(by_count) or abs(b.loss - by_weight) <= room:
        return None
    return _but(b, f"the weighted sum divided by {int(b.kept.sum())}")


# Masks and divisors.


@rule(
    RULES,
    "mask-not-used",
    PADDING,
    what="The loss counts what the mask, or the `ignore_index`, leaves out.",
    cure="Pass `ignore_index` to the loss, or compute `(loss * mask).sum() / mask.sum()` with "
    "`reduction='none'`; fill masked classes with -inf before the loss.",
)
@if_apart
def mask_not_used(b: Batch) -> str | None:
    z, all_rows = b.by_rows(b.logits).double(), torch.ones(b.n, dtype=torch.bool)
    everything = _padding_too(b)
    if everything is not None and b.instead(b.reduced(everything, all_rows)):
        return _but(b, f"that of all {b.n} targets, of which {int(b.kept.sum())} take part")
    if b.allowed is not None and b.instead(b.reduced(b.each(b.log_probs(z)))):
        return _but(b, "that of all classes, of which the mask leaves out some")
    return None


def _padding_too(b: Batch) -> Tensor | None:
    """The losses of all rows, if the targets of those that are left out are classes too."""
    if bool(b.kept.all()):
        return None
    if b.binary or b.soft:
        return b.each(b.log_p)
    if bool(((b.y < 0) | (b.y >= b.classes)).any()):
        return None
    loss = -b.log_p.gather(1, b.y[:, None])[:, 0]
    return loss if b.factor is None else loss * b.factor[b.y]


@rule(
    RULES,
    "mean-over-padding",
    PADDING,
    what="The sum of the losses is divided by the number of all targets, also of those that are "
    "left out, so that a batch with much padding counts less. Nothing is wrong if that is meant.",
    cure="Divide by the number of targets that take part: `(loss * mask).sum() / mask.sum()`.",
    certain=False,
)
def mean_over_padding(b: Batch) -> str | None:
    kept = int(b.kept.sum())
    if (
        b.reduction != "mean"
        or kept == b.n
        or not b.instead([x * kept / b.n for x in b.right[-1:]])
    ):
        return None
    return _but(b, f"the sum over {kept} targets divided by {b.n}")


@rule(
    RULES,
    "mean-of-means",
    PADDING,
    what="The loss is a mean of means over parts of the batch that have different numbers of "
    "targets, so that the targets of short parts count more. Nothing is wrong if each part is "
    "meant to count the same.",
    cure="Add up the sums of the parts and divide once, by the number of all targets that count.",
    certain=False,
)
@if_apart
def mean_of_means(b: Batch) -> str | None:
    if b.loss is None or b.reduction != "mean" or bool(b.kept.all()) or not b.shape:
        return None
    each = (b.each(b.log_p) * b.kept).reshape(b.shape[0], -1).sum(1)
    counts = b.kept.reshape(b.shape[0], -1).sum(1)
    for parts in range(2, b.shape[0] + 1):
        if b.shape[0] % parts:
            continue
        totals, sizes = each.reshape(parts, -1).sum(1), counts.reshape(parts, -1).sum(1)
        some = sizes > 0
        if b.instead([(totals[some] / sizes[some]).mean().item()]):
            return _but(b, f"the mean of the means of {parts} parts of {b.shape[0] // parts} each")
    return None


@rule(
    RULES,
    "other-divisor",
    PADDING,
    what="The loss is that of the batch but for a whole factor: a sum in place of a mean, or a "
    "mean over something else. Nothing is wrong if that is meant, but the gradients are larger or "
    "smaller by the same factor.",
    cure="Use `reduction='mean'`, which divides by the number of targets that take part. If "
    "another divisor is meant, say `reduction='sum'` here, or scale the learning rate.",
    certain=False,
)
def other_divisor(b: Batch) -> str | None:
    if b.loss is None or b.reduction == "none":
        return None
    n = int(b.kept.sum())
    first = b.shape[0] if b.shape else 1
    last = n / first
    if b.reduction == "mean":
        factors = {
            "the sum over all targets": n,
            "the sum over what one row of the batch holds, divided by N alone": last,
            "the sum over the batch, divided by what one row of it holds": first,
            "divided by N twice": 1 / n,
        }
    else:
        factors = {"the mean in place of the sum": 1 / n}
    if not b.binary:
        factors["divided by the number of classes too"] = 1 / b.classes
        factors["multiplied by the number of classes"] = b.classes
    for how, factor in factors.items():
        if factor != 1 and b.instead([x * factor for x in b.right]):
            return _but(b, f"{number(factor)} times as large: {how}")
    return None


# Information, and what nothing else explains.


@rule(
    RULES,
    "label-smoothing",
    STRANGE,
    what="The loss is that of label smoothing, which cannot reach 0. Nothing is wrong.",
    cure="Say `label_smoothing` here. Report the loss without it beside the one that is minimised.",
    certain=False,
)
@if_apart
def label_smoothing(b: Batch) -> str | None:
    for smoothing in (0.1, 0.05, 0.2):
        if b.instead(b.reduced(b.each(b.log_p, smoothing))):
            return _but(b, f"that of a label smoothing of {smoothing}")
    return None


@rule(
    RULES,
    "negative-loss",
    STRANGE,
    what="The loss is negative, and a cross-entropy of these targets cannot be. Nothing is wrong "
    "if the loss holds another term, such as an entropy bonus.",
    cure="Look for a sign, for logits or probabilities in place of their logarithms, and for "
    "targets outside [0, 1]; let `celib.diagnosis.doctor` look at the loss function.",
    certain=False,
)
def negative_loss(b: Batch) -> str | None:
    if b.loss is None or not b.loss < -100 * ABSOLUTE or not b.apart:
        return None
    return f"The loss is {number(b.loss)}; that of the batch is {number(b.right[0])}."
