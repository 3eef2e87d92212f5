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
    return _odd_mask(b) or _odd_loss(b) or _odd_shape(b)


def _odd_mask(b: Batch) -> str | None:
    if b.mask is None or b.mask_kind != "odd":
        return None
    others = int(((b.mask != 0) & (b.mask != 1)).sum())
    if others:
        return f"The mask has {others} values that are neither 0 or False nor 1 or True."
    expected = f"{b.shape}, one for each target"
    if not b.binary:
        expected += f", or ({b.classes},) or {tuple(b.logits.shape)}, for the classes"
    return f"The mask has shape {tuple(b.mask.shape)}: expected {expected}."


def _odd_loss(b: Batch) -> str | None:
    if b.loss_given is None or b.loss is not None:
        return None
    found, kept = tuple(b.loss_given.shape), int(b.kept.sum())
    what = ""
    if b.loss_given.numel() == kept:
        what = ", that of the targets that take part"
    elif b.shape and found == b.shape[:1]:
        what = ", one for each sequence, row or image of the batch"
    return (
        f"The loss has shape {found}{what}: expected one number, such as their mean, or "
        f"{b.shape}, one for each target."
    )


def _odd_shape(b: Batch) -> str | None:
    for name, a in (("gradient", b.gradient), ("array of probabilities", b.probabilities)):
        if a is not None and a.shape != b.logits.shape:
            return (
                f"The {name} has shape {tuple(a.shape)}: expected {tuple(b.logits.shape)}, that of "
                "the logits."
            )
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
