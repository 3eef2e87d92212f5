"""Losses of classification, from logits, with the digits and the gradients that they have.

The signatures, shapes and keyword names are those of ``torch.nn.functional``, and where torch
returns a documented number the defaults return the same: classes are along axis 1 of more than one.
The classes of :mod:`torch.nn` have their namesakes here too. What differs is what torch loses:

- The loss of a confident and right answer keeps full relative accuracy instead of being rounded to
  0, and so do its first and second derivatives, which are written down, not left to the rules for
  ``exp`` and ``log``, in reverse and in forward mode.
- A logit of ``-inf`` is a class that is masked out. It adds nothing to a loss whose target does
  not need it, whatever the kind of target, gets a gradient of exactly 0, and no share of the label
  smoothing. A target that needs it has the loss ``inf``.
- A logit of ``inf`` is certainty. Several in a row, or a row that is masked out altogether, stand
  for no distribution: the loss of that row is NaN.

Arguments are what :mod:`celib.arguments` lets in. Where one is a tensor the result is one, on its
device; without any it is a NumPy number. Shapes are always checked; ``validate=True`` checks the
values too. On a CPU a bad one raises ValueError. Where nothing can be raised (on another device,
under a compiler, a tracer or ``vmap``) the loss of the bad row and its gradient are NaN, and its
neighbours are untouched. ``validate=False`` skips these checks. Every loss takes a
``sample_weight``, a factor for each target: a mean is then the weighted one.

The loss of float16 and bfloat16 logits is computed in float32, and stays so: a gradient is rounded
once, to the dtype of what it belongs to.
"""

from celib.losses.binary import (
    binary_cross_entropy_with_logits,
    multilabel_soft_margin_loss,
    sigmoid_focal_loss,
)
from celib.losses.contrastive import info_nce
from celib.losses.distillation import distillation_loss, linear_distillation_loss
from celib.losses.modules import (
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    DistillationLoss,
    FocalLoss,
    GeneralizedCrossEntropyLoss,
    InfoNCELoss,
    LinearCrossEntropyLoss,
    LinearDistillationLoss,
    MultiLabelSoftMarginLoss,
    SigmoidFocalLoss,
    SymmetricCrossEntropyLoss,
)
from celib.losses.multiclass import (
    CrossEntropy,
    cross_entropy,
    focal_loss,
    generalized_cross_entropy,
    linear_cross_entropy,
    symmetric_cross_entropy,
)

__all__ = [
    "BCEWithLogitsLoss",
    "CrossEntropy",
    "CrossEntropyLoss",
    "DistillationLoss",
    "FocalLoss",
    "GeneralizedCrossEntropyLoss",
    "InfoNCELoss",
    "LinearCrossEntropyLoss",
    "LinearDistillationLoss",
    "MultiLabelSoftMarginLoss",
    "SigmoidFocalLoss",
    "SymmetricCrossEntropyLoss",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "distillation_loss",
    "focal_loss",
    "generalized_cross_entropy",
    "info_nce",
    "linear_cross_entropy",
    "linear_distillation_loss",
    "multilabel_soft_margin_loss",
    "sigmoid_focal_loss",
    "symmetric_cross_entropy",
]


def __dir__() -> list[str]:
    return sorted(__all__)
