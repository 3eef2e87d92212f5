"""Logits that are NaN or infinite."""

from __future__ import annotations

import math

import torch

from celib.diagnosis.findings import GRADIENT_NAN, HALF, NAN
from celib.diagnosis.given import Batch
from celib.diagnosis.rules.rule import Rule, number, rule

RULES: list[Rule] = []


@rule(
    RULES,
    "nan-logits",
    NAN,
    what="Some logits are NaN before the loss sees them, so the fault is in the model or its "
    "input.",
    cure="Look for the first NaN on the way: the input, the parameters after the last step (a "
    "learning rate too large), a division by 0, the logarithm or the root of 0. "
    "`torch.autograd.set_detect_anomaly(True)` names the operation of a gradient.",
)
def nan_logits(b: Batch) -> str | None:
    rows = b.any_of(b.z.isnan()) & b.kept
    return f"There is NaN in the logits of {b.places(rows)}." if rows.any() else None


@rule(
    RULES,
    "half-overflow",
    HALF,
    what="Some logits of float16 are inf: they were larger than 65504, the largest number of that "
    "dtype. Their loss is NaN in torch.",
    cure="Compute the last layer in float32 or bfloat16, or bound its output, by a normalisation "
    "or a soft cap.",
)
def half_overflow(b: Batch) -> str | None:
    if b.logits.dtype != torch.float16:
        return None
    rows = b.any_of(b.z == math.inf) & b.kept
    if not rows.any():
        return None
    finite = b.z[b.z.isfinite()].abs()
    top = number(finite.max().item()) if len(finite) else "0"
    return f"There is inf in the logits of {b.places(rows)}; the largest finite one is {top}."


@rule(
    RULES,
    "inf-logits",
    NAN,
    what="Some logits are infinite, and torch computes inf - inf, which is NaN. Logits of -inf "
    "are a mask where there are several classes, and no mistake there; a binary loss has no use "
    "for them.",
    cure="Look for the overflow on the way to the logits: a division by 0, the exponential of a "
    "large number, `log(0)`. Instead of -inf for a binary target, leave the entry out by a mask.",
)
def inf_logits(b: Batch) -> str | None:
    rows = b.any_of(b.z.isinf() if b.binary else b.z == math.inf) & b.kept
    if not rows.any() or half_overflow(b):
        return None
    return f"There are infinite logits in {b.places(rows)}."


@rule(
    RULES,
    "ignored-row-not-finite",
    GRADIENT_NAN,
    what="Some rows that are ignored hold NaN or inf, or nothing but -inf. `F.cross_entropy` "
    "leaves them out of the loss, but their gradient is 0 * NaN = NaN. Nothing is wrong if the "
    "rows are removed before the loss, or if the loss is one of `celib.losses`.",
    cure="Remove the rows, `F.cross_entropy(logits[keep], target[keep])`, or fill them with 0.",
    certain=False,
)
def ignored_row_not_finite(b: Batch) -> str | None:
    if b.binary or (b.gradient is not None and bool(b.gradient.isfinite().all())):
        return None
    bad = b.z.isnan() | (b.z == math.inf)
    rows = (bad.any(-1) | (b.z == -math.inf).all(-1)) & b.ignored
    return f"This is so in {b.places(rows)}." if rows.any() else None
