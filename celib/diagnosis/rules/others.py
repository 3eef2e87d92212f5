"""Arguments beside logits and targets. Only the first of these is reported."""

from __future__ import annotations

from celib.diagnosis.findings import SHAPES, WEIGHTS
from celib.diagnosis.given import Batch, spreads
from celib.diagnosis.rules.rule import Rule, rule

RULES: list[Rule] = []


@rule(
    RULES,
    "odd-argument",
    SHAPES,
    what="A mask, loss, gradient or array of probabilities does not fit the batch, so it cannot be "
    "looked at.",
    cure="Give a mask of booleans, True for what takes part, of the shape of the targets or of the "
    "classes; a loss of one number, or one for each target; gradient and probabilities of the "
    "shape of the logits.",
)
def odd_argument(b: Batch) -> str | None:
    if b.mask is not None and b.mask_kind == "odd":
        others = int(((b.mask != 0) & (b.mask != 1)).sum())
        return (
            f"The mask has shape {tuple(b.mask.shape)} and {others} values that are not 0 or 1, "
            f"beside logits of shape {tuple(b.logits.shape)} and targets of shape "
            f"{tuple(b.target.shape)}."
        )
    if b.loss_given is not None and b.loss is None:
        return f"The loss has shape {tuple(b.loss_given.shape)}, and there are {b.n} targets."
    for name, a in (("gradient", b.gradient), ("array of probabilities", b.probabilities)):
        if a is not None and a.shape != b.logits.shape:
            return f"The {name} has shape {tuple(a.shape)}, and the logits {tuple(b.logits.shape)}."
    return None


@rule(
    RULES,
    "weight-shape",
    WEIGHTS,
    what="There is not one weight for each class, and torch raises a RuntimeError.",
    cure="Give weights of shape (C), in the order of the classes; for binary targets a shape that "
    "broadcasts to theirs.",
)
def weight_shape(b: Batch) -> str | None:
    if b.weight is None:
        return None
    found = tuple(b.weight.shape)
    if not b.binary:
        fits = found == (b.classes,)
        wanted = f"({b.classes},)"
    else:
        whole = (1,) * (len(b.shape) - len(found)) + found
        fits = spreads(b.weight.reshape(whole), b.shape)
        wanted = f"one that broadcasts to {b.shape}"
    return None if fits else f"The weights have shape {found}: expected {wanted}."
