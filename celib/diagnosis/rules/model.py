"""What the model has learned."""

from __future__ import annotations

import math

import torch
from scipy.stats import rankdata
from torch import Tensor

from celib.diagnosis.findings import WEIGHTS
from celib.diagnosis.given import Batch
from celib.diagnosis.rules.loss import constant_logits, ignores_input
from celib.diagnosis.rules.rule import Rule, number, rule

RULES: list[Rule] = []


@rule(
    RULES,
    "majority-only",
    WEIGHTS,
    what="One class has nearly all labels, it alone is predicted, and the logits do not rank the "
    "other rows lower: the accuracy is that of a constant. Nothing is wrong early in training, or "
    "if the input does not tell the classes apart.",
    cure="Look at the loss of each class, and at a ranking such as the area under the ROC curve, "
    "instead of the accuracy. Train on, with class weights or a balanced sampler if rare classes "
    "matter.",
    certain=False,
)
def majority_only(b: Batch) -> str | None:
    if b.soft or int(b.kept.sum()) < 100 or ignores_input(b) or constant_logits(b):
        return None
    p = b.log_p[b.kept].exp()
    labels = b.target.reshape(-1)[b.kept]
    if b.binary and not bool(((labels == 0) | (labels == 1)).all()):
        return None
    y = labels.long()
    counts = torch.bincount(y, minlength=b.classes)
    major = int(counts.argmax())
    n, others = len(y), len(y) - int(counts[major])
    share = 1 - others / n
    if share < 0.9 or others < 10 or bool((p.argmax(-1) != major).any()):
        return None
    score = p[:, major]
    # An untrained model may predict one class for every row, but not with such confidence.
    if score.mean() < share - 0.05 or _ranks(score, y == major) > 2:
        return None
    return (
        f"Class {major} has {number(100 * share)} % of {n} labels and all predictions; the others "
        f"have {others} labels."
    )


def _ranks(score: Tensor, positive: Tensor) -> float:
    """How far the positive rows are ranked above the others by chance, in standard deviations.

    The statistic of Mann and Whitney, with the mean rank of ties.
    """
    m, n = int(positive.sum()), len(score)
    u = float(rankdata(score.numpy())[positive.numpy()].sum()) - m * (m + 1) / 2
    spread = math.sqrt(m * (n - m) * (n + 1) / 12)
    return (u - m * (n - m) / 2) / spread
