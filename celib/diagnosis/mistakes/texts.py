"""What can be wrong with a loss, in words: ``TEXTS`` for a finding, ``CAUSES`` for a list."""

from __future__ import annotations

from dataclasses import dataclass

from celib.diagnosis.findings import (
    GRADIENT_NAN,
    HALF,
    NAN,
    PADDING,
    SHAPES,
    STRANGE,
    STUCK,
    WEIGHTS,
    ZERO,
)


@dataclass(frozen=True)
class Text:
    """What is wrong, what to write instead, and where the book explains it."""

    what: str
    cure: str
    section: str
    certain: bool = True


_USE = "Use `torch.nn.functional.cross_entropy(logits, target)`"
_USE_BINARY = "Use `torch.nn.functional.binary_cross_entropy_with_logits(logits, target)`"
_LEAVE = "If it is meant, there is nothing to do, but the numbers of other losses do not compare."

TEXTS: dict[str, Text] = {
    # The loss of a row, of one class out of several.
    "log-of-softmax": Text(
        "The loss takes the logarithm of a softmax: a probability that is rounded to 0 makes it "
        "infinite or NaN, and its gradient, too.",
        "Use `log_softmax(logits, 1)` in place of `softmax(logits, 1).log()`.",
        NAN,
    ),
    "exp-unshifted": Text(
        "The loss takes `exp` of the logits as they are, which overflows for large logits and "
        "is 0 in all classes for very negative ones.",
        "Use `torch.logsumexp(logits, 1)`, or subtract the largest logit of each row first.",
        NAN,
    ),
    "global-shift": Text(
        "The largest logit of the whole batch is subtracted, not that of each row: in a row far "
        "below it every `exp` is 0.",
        "Subtract the maximum of each row, `logits.max(1, keepdim=True).values`.",
        NAN,
    ),
    "swapped": Text(
        "Target and prediction are swapped: the loss takes the logarithm of the target.",
        "Take the logarithm of the prediction: `-(target * log_softmax(logits, 1)).sum(1)`. In "
        "torch the logits are the first argument.",
        NAN,
    ),
    "eps-in-log": Text(
        "The loss adds a small constant to the probability before the logarithm. It bounds the "
        "loss, and the gradient of the worst mistakes vanishes.",
        "Leave the constant out and compute from logits: `log_softmax`, or `logsigmoid`.",
        STUCK,
    ),
    "p-clamped": Text(
        "The loss clamps the probability before the logarithm. It bounds the loss, and the "
        "gradient of the worst mistakes is 0.",
        "Leave the clamp out and compute from logits: `log_softmax`, or `logsigmoid`.",
        STUCK,
    ),
    "log-clamped": Text(
        "The loss clamps the logarithm of the probability. It bounds the loss, and the gradient "
        "of the worst mistakes is 0 or NaN.",
        "Leave the clamp out and compute from logits: `log_softmax`, or `logsigmoid`.",
        STUCK,
    ),
    "logits-clamped": Text(
        "The loss clamps the logits. It bounds the loss, and the gradient of clamped logits is 0.",
        "Leave the clamp out: a loss that is computed from logits does not need it.",
        STUCK,
    ),
    "softmax-twice": Text(
        "The softmax is taken twice: once before the loss, and once in it.",
        f"{_USE}, which takes the softmax itself, with the logits as they are.",
        STUCK,
    ),
    "sigmoid-before-softmax": Text(
        "A sigmoid is applied to the logits before the softmax.",
        f"{_USE} with the logits as they are.",
        STUCK,
    ),
    "no-softmax": Text(
        "The loss is minus the logit of the target: no softmax is taken. It has no lower bound.",
        "Apply `log_softmax` before `nll_loss`, or use `cross_entropy`.",
        STRANGE,
    ),
    "softmax-axis": Text(
        "The softmax is taken over the wrong axis: the probabilities of one example do not sum "
        "to 1.",
        "Take it over the classes: `log_softmax(logits, dim=1)`. The losses of yes or no need a "
        "sigmoid.",
        SHAPES,
    ),
    "softmax-for-sigmoid": Text(
        "The labels share one softmax, but they do not exclude each other: each needs a sigmoid.",
        f"{_USE_BINARY}.",
        SHAPES,
    ),
    "binary-for-multiclass": Text(
        "The loss is a binary cross-entropy of each class, not the cross-entropy of one "
        "distribution.",
        f"{_USE}. If the classes do not exclude each other, ask with kind='multilabel'.",
        STRANGE,
    ),
    "broadcast": Text(
        "Every example is compared with every target, in a table of shape (N, N). It comes of "
        "arrays of shapes (N, 1) and (N,), or of the index `[:, target]`.",
        "Give both the same shape, such as with `.squeeze(1)`, and take the entries of the targets "
        "with `[torch.arange(len(target)), target]`.",
        SHAPES,
    ),
    "labels-shifted": Text(
        "The loss takes the neighbour of the target's class.",
        "Count classes from 0, and index with the label as it is.",
        SHAPES,
    ),
    "target-ignored": Text(
        "The loss is the entropy of the prediction: the target does not enter.",
        "Weight the log-probabilities by the target, not by the prediction.",
        STRANGE,
    ),
    "kl": Text(
        "The loss is the KL divergence: smaller than the cross-entropy by the entropy of the "
        "target. Its gradient is the same, so that it is harmless unless the values are compared.",
        "Add the entropy of the target, or compare only values of the same loss.",
        STRANGE,
        certain=False,
    ),
    "base-2": Text(
        "The logarithm is that of base 2: the loss is in bits, not in nats.",
        "Use the natural logarithm, and divide by log(2) where bits are shown.",
        STRANGE,
    ),
    "base-10": Text(
        "The logarithm is that of base 10.",
        "Use the natural logarithm, `torch.log`.",
        STRANGE,
    ),
    "wrong-sign": Text(
        "The sign is wrong: what is minimised is the logarithm of the right probability.",
        "Put a minus in front.",
        STRANGE,
    ),
    "scaled": Text(
        "The loss is a constant multiple of the right one.",
        f"Leave the factor out. {_LEAVE}",
        STRANGE,
    ),
    "no-log": Text(
        "The loss uses the probability of the target without its logarithm. The gradient of the "
        "worst mistakes vanishes.",
        "Take the logarithm: `nll_loss` expects what `log_softmax` returns.",
        STUCK,
    ),
    "squared-error": Text(
        "The loss is a squared error, not a cross-entropy.",
        f"{_USE}, or its binary namesake.",
        STRANGE,
    ),
    "hinge": Text(
        "The loss is a hinge loss, not a cross-entropy.",
        f"{_USE}, or its binary namesake.",
        STRANGE,
    ),
    "perplexity": Text(
        "The loss is the exponential of the cross-entropy.",
        "Leave `exp` out of the loss, and take it where the perplexity is shown.",
        STRANGE,
    ),
    "argmax-inside": Text(
        "The prediction is rounded to a class before it is compared: the loss counts errors, and "
        "its gradient is 0.",
        "Compute the loss from the logits, and the accuracy beside it.",
        STUCK,
    ),
    "label-smoothing": Text(
        "Label smoothing is on: the targets are mixed with the uniform distribution.",
        f"Set `label_smoothing=0.0`. {_LEAVE}",
        STRANGE,
    ),
    "temperature": Text(
        "The logits are multiplied by a constant before the softmax or the sigmoid.",
        f"Leave the temperature out. {_LEAVE}",
        STRANGE,
    ),
    "focal": Text(
        "The loss has the factor (1 - p)^gamma of the focal loss.",
        f"Set gamma to 0. {_LEAVE}",
        STRANGE,
    ),
    # The loss of a yes or no.
    "log-of-sigmoid": Text(
        "The loss takes the logarithm of a sigmoid, or of the 1 + exp(-z) that is its inverse: "
        "it is infinite or NaN, from a logit of about -90 on in float32.",
        f"{_USE_BINARY}, or `logsigmoid(logits)` in place of `sigmoid(logits).log()`.",
        NAN,
    ),
    "one-minus-sigmoid": Text(
        "The loss takes the logarithm of 1 - sigmoid, which is rounded to 0 from a logit of about "
        "17 on in float32.",
        f"{_USE_BINARY}, or `logsigmoid(-logits)` for the logarithm of 1 - sigmoid.",
        NAN,
    ),
    "naive-softplus": Text(
        "The loss takes the logarithm of 1 + exp of a logit, which overflows, also where the loss "
        "is close to 0.",
        "Use `torch.nn.functional.softplus`, or `torch.logaddexp` with 0.",
        NAN,
    ),
    "sigmoid-twice": Text(
        "The sigmoid is taken twice: once before the loss, and once in it.",
        f"{_USE_BINARY}, which takes the sigmoid itself, with the logits as they are.",
        STUCK,
    ),
    "bce-on-sigmoid": Text(
        "The loss is `binary_cross_entropy` of a sigmoid, which clamps the logarithm at -100: the "
        "loss of a surprise is 100 where it should grow with the logit, and its gradient is 0.",
        f"{_USE_BINARY}.",
        STUCK,
    ),
    "term-forgotten": Text(
        "One of the two terms is missing: one of the answers costs nothing.",
        f"{_USE_BINARY}: the loss is -(y log p + (1 - y) log(1 - p)).",
        STRANGE,
    ),
    "labels-plus-minus": Text(
        "The loss expects the labels -1 and 1, and gets 0 and 1: every 0 costs the same, log 2 or "
        "the margin, whatever the logit.",
        "Pass `2 * target - 1`, or use a loss of labels 0 and 1.",
        SHAPES,
    ),
    "labels-flipped": Text(
        "Yes and no are exchanged.",
        "Look which of the two the logit stands for; the gradient drives it away from the target.",
        SHAPES,
    ),
    "logits-as-probabilities": Text(
        "The loss expects probabilities and gets logits.",
        f"{_USE_BINARY}.",
        STRANGE,
    ),
    "pos-weight": Text(
        "A weight of the positive answers is on.",
        f"Leave `pos_weight` out. {_LEAVE}",
        WEIGHTS,
    ),
    # What becomes of the rows.
    "sum-for-mean": Text(
        "The losses are summed where the mean is asked for: loss and gradient grow with the batch.",
        "Use `.mean()`, or ask with reduction='sum' if the sum is meant.",
        PADDING,
    ),
    "mean-for-sum": Text(
        "The mean of the losses is taken where the sum is asked for.",
        "Use `.sum()`, or ask with reduction='mean' if the mean is meant.",
        PADDING,
    ),
    "divided-by-classes": Text(
        "The loss is divided by the number of classes: the mean is taken over the entries of a "
        "table of N rows and C classes, of which one in a row counts.",
        "Sum over the classes first: `.sum(1).mean()`.",
        PADDING,
    ),
    "divided-twice": Text(
        "The loss is divided by the number of examples twice.",
        "Take the mean once.",
        PADDING,
    ),
    "labels-summed": Text(
        "The loss is summed over the labels before the mean over the examples. This is a usual "
        "convention and harmless if it is meant: it is the mean over all elements, times the "
        "number of labels.",
        "Use `.mean()` over all elements, or leave it and choose the learning rate for it.",
        PADDING,
        certain=False,
    ),
    "ignored-counted": Text(
        "Ignored targets add nothing to the sum, but are counted in the number it is divided by.",
        "Divide by the number of targets that count: `(target != ignore_index).sum()`.",
        PADDING,
    ),
    "ignore-unheeded": Text(
        "The loss does not heed `ignore_index`: it takes the number for a class.",
        "Pass `ignore_index` on, or leave these rows out before the mean.",
        PADDING,
    ),
    "all-ignored": Text(
        "The loss of a batch in which every target is ignored is not a number that can be "
        "trained on. torch returns NaN there, which is harmless if no batch is like that.",
        "Skip such a batch, or divide by `max(count, 1)`.",
        PADDING,
        certain=False,
    ),
    "weights-ignored": Text(
        "The class weights do not enter the loss.",
        "Pass `weight=` to the loss itself.",
        WEIGHTS,
    ),
    "weights-over-n": Text(
        "The weighted losses are divided by the number of examples, where torch divides by the "
        "sum of their weights. This is the convention of other libraries and harmless if it is "
        "meant.",
        "Divide by `weight[target].sum()`, or leave it and choose the learning rate for it.",
        WEIGHTS,
        certain=False,
    ),
    # Other signs.
    "half-inside": Text(
        "The loss is computed in half precision, although the logits have more digits.",
        "Leave out `.half()`, `.bfloat16()` or autocast around the loss; compute it in float32.",
        HALF,
    ),
    "masked-class": Text(
        "A class that is masked out by a logit of -inf spoils the loss of another class, or its "
        "gradient, often as 0 * inf. It is harmless if no logit is ever -inf.",
        "Take the entry of the target with `gather` instead of multiplying by zeros, or use "
        "`celib.losses.cross_entropy`.",
        PADDING,
        certain=False,
    ),
    "not-finite": Text(
        "The loss is NaN or infinite where the right one is a number.",
        "Compute from logits, with `log_softmax`, `logsigmoid` or `logsumexp`.",
        NAN,
    ),
    "wrong-value": Text(
        "The value of the loss is wrong, in a way that is none of the usual ones.",
        "Compare the steps of your loss with the right one on the input above.",
        STRANGE,
    ),
    "batch-order": Text(
        "The loss changes when the examples of a batch change their order.",
        "Look for an index that is a number, such as `[0]`, or for one loss that stands for all.",
        SHAPES,
    ),
    "not-repeatable": Text(
        "The loss is not the same in two calls on the same input.",
        "Call `.eval()` if dropout is in it, and look for random numbers or a state that is kept.",
        STRANGE,
    ),
    "no-gradient": Text(
        "The loss has no gradient: what it returns is not connected to the logits.",
        "Leave out `.item()`, `.detach()`, `.numpy()`, `torch.no_grad()` and `argmax` on the way. "
        "If it is not for training, ask with gradient=False.",
        STUCK,
    ),
    "zero-gradient": Text(
        "The gradient is 0 on every input.",
        "Look for `argmax`, `round`, a comparison or `.detach()` on the way.",
        STUCK,
    ),
    "nan-gradient": Text(
        "The value is right, but the gradient is NaN or infinite.",
        "`torch.where` does not keep the gradient of the branch that is not taken away: choose "
        "the argument inside, before `log`, `exp` or a division sees it.",
        GRADIENT_NAN,
    ),
    "lse-detached": Text(
        "The value is right, but the log-sum-exp has no gradient: the logit of the target is "
        "raised for ever and no other is lowered.",
        "Leave out `.detach()` and `torch.no_grad()` around the log-sum-exp.",
        STUCK,
    ),
    "target-detached": Text(
        "The value is right, but the logit of the target has no gradient of its own: the "
        "gradient is p instead of p minus the target.",
        "Leave out `.detach()` around the logit of the target, or subtract the target in a "
        "backward pass of your own.",
        STUCK,
    ),
    "gradient-lacks-mean": Text(
        "The value is a mean, but the gradient is that of the sum.",
        "Divide by the number of examples in the backward pass too.",
        PADDING,
    ),
    "gradient-sign": Text(
        "The value is right, but the gradient has the wrong sign.",
        "Turn the sign of the backward pass around: it is p minus the target.",
        STRANGE,
    ),
    "upstream-ignored": Text(
        "The gradient does not depend on what is done with the loss: that of twice the loss is "
        "not twice the gradient.",
        "Multiply by `grad_output` in the backward pass.",
        STRANGE,
    ),
    "wrong-gradient": Text(
        "The value is right, but the gradient is not.",
        "Compare it with p minus the target on the input above, or use `torch.autograd.gradcheck`.",
        STRANGE,
    ),
    "raises": Text(
        "The loss raises an error.",
        "Look at the line named above.",
        SHAPES,
    ),
    "needs-gpu": Text(
        "The loss needs a device that is not there.",
        "Leave out `.cuda()` and `.to(...)` in the loss, and let it follow `logits.device`.",
        SHAPES,
    ),
    "wrong-type": Text(
        "What the loss returns is not a real number.",
        "Return the loss, a tensor of a floating-point dtype, and nothing beside it.",
        SHAPES,
    ),
    "wrong-shape": Text(
        "What the loss returns has the wrong shape for the reduction that is asked for.",
        "Reduce it, such as with `.mean()`, or ask with the reduction that it has. With "
        "reduction='none' give targets that are ignored the loss 0, as torch does.",
        SHAPES,
    ),
    "changes-input": Text(
        "The loss changes what it is given: the next user of the logits or targets gets others.",
        "Replace operations in place, such as `x -= ...` or `x.sub_(...)`, by `x = x - ...`.",
        STRANGE,
    ),
    "prints": Text(
        "The loss prints. It is harmless, but it is slow in a training loop, and printing a "
        "number of a GPU makes the program wait for it.",
        "Leave `print` out.",
        STRANGE,
        certain=False,
    ),
    "winner-lost": Text(
        "The loss of a confident and right answer is rounded to 0, or its gradient is. This is "
        "an error of rounding alone and harmless for most training: torch has it too.",
        "Use `celib.losses`, if these examples are to be ranked or weighted by their loss.",
        ZERO,
        certain=False,
    ),
}

#: The name of each cause, and what it means.
CAUSES: dict[str, str] = {name: text.what for name, text in TEXTS.items()}
