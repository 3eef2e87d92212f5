"""From the losses of all targets to a number."""

from __future__ import annotations

import torch
from torch import Tensor

from celib.derivatives import times

REDUCTIONS = ("none", "mean", "sum")


def reduce(
    loss: Tensor, reduction: str, share: Tensor | None = None, factor: Tensor | None = None
) -> Tensor:
    """The losses, weighted by ``factor``, as they are, as a sum or as a mean.

    ``share`` is what each target adds to the divisor of a mean; None for 1.
    """
    if factor is not None:
        loss = times(factor, loss)
        share = factor if share is None else share * factor
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    return loss.mean() if share is None else mean_of(loss.sum(), share.sum())


def mean_of(loss: Tensor, total: Tensor) -> Tensor:
    """The quotient, whose gradient over nothing is 0."""
    some = total != 0
    return torch.where(some, loss / torch.where(some, total, 1.0), loss.detach() / total)
