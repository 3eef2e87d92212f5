"""A look at a batch: logits, targets, and what came of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from celib.arguments.errors import integer, label, number, one_of, refuse_type
from celib.diagnosis.findings import Finding, Findings
from celib.diagnosis.given import Batch, on_the_cpu, tensor
from celib.diagnosis.rules import gradient, logits, loss, model, others, shapes, targets, values
from celib.diagnosis.rules.rule import Rule
from celib.losses.reduction import REDUCTIONS

# What can be looked at depends on what is in order: a group is tried if those before it have found
# nothing certain. Of some only the first finding is told, since the others would follow from it.
_GROUPS: tuple[tuple[list[Rule], bool], ...] = (
    (shapes.RULES, True),
    (others.RULES, True),
    (targets.RULES + values.RULES, False),
    (logits.RULES, False),
    (loss.RULES, True),
    (gradient.RULES, False),
    (model.RULES, True),
)

#: What :func:`diagnose` knows: the name of each cause, and what it says of it.
CAUSES: dict[str, str] = {rule.cause: rule.what for rules, _ in _GROUPS for rule in rules}


def diagnose(
    logits: Any,
    target: Any,
    *,
    loss: Any = None,
    gradient: Any = None,
    probabilities: Any = None,
    weight: Any = None,
    mask: Any = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    binary: bool = False,
    axis: int = 1,
) -> Findings:
    r"""What is wrong with a batch, or with the number that a loss returned for it.

    Use it when a loss is NaN, stuck or odd, on the batch of that step. It computes the loss itself,
    in float64, and compares: with what the shapes, labels, masks and weights allow, and with what
    known mistakes would have returned. A batch that is in order gets an empty result. So does a
    loss that is not that of the batch and that no known mistake explains: then look at the function
    with :func:`celib.diagnosis.doctor`.

    The arguments are read and left as they are. They may be on any device; the work is done on the
    CPU, in several arrays of float64 of the size of ``logits``, so give a part of a batch that is
    large.

    Args:
        logits: what the loss was given as logits, shape (C), (N, C) or (N, C, d1, ...); with
            ``binary`` any shape.
        target: classes, of the shape of ``logits`` without C; or probabilities, of the shape of
            ``logits``. With ``binary`` numbers in [0, 1], of the shape of ``logits``.
        loss: what the loss returned: one number, or one for each target.
        gradient: that of the logits, of their shape, up to a factor.
        probabilities: what the model reports, of the shape of ``logits``.
        weight: a factor for each class, shape (C); with ``binary`` one that broadcasts to
            ``target``.
        mask: booleans, True for what takes part: of the shape of classes as ``target``, or of
            shape (C) or that of ``logits``, for the classes that a row may have.
        ignore_index: a class whose targets are left out.
        reduction: "none", "mean" or "sum": how ``loss`` was made of the losses of the targets.
        label_smoothing: that of ``loss``.
        binary: whether each logit is a question of its own, for a sigmoid.
        axis: the axis of the classes; of logits with one axis always that one.

    Returns:
        The findings, those first that explain others: each with a cause, which is a key of
        ``CAUSES``, its evidence and a cure. Those that are not ``certain`` name the harmless
        explanation.

    Raises:
        ValueError: an option is not as above, or an argument holds no numbers.
        TypeError: an argument or an option is of another type. What is odd about numbers and
            shapes is never raised but found.

    Example: the loss of a model that is nearly right looks as if it had stopped learning.
        >>> import torch
        >>> z = 9.0 * torch.eye(10)
        >>> y = torch.arange(10)
        >>> loss = torch.nn.functional.cross_entropy(z.softmax(1), y)
        >>> print(f"{loss:.4f}", diagnose(z, y, loss=loss).causes)
        1.4621 ['softmax-twice']
        >>> diagnose(z, y, loss=torch.nn.functional.cross_entropy(z, y))
        Nothing odd was found.
    """
    one_of("reduction", reduction, REDUCTIONS)
    if not isinstance(binary, bool):
        refuse_type("binary", binary, "True or False")
    smoothing = number("label_smoothing", label_smoothing, lambda x: 0 <= x <= 1, "in [0, 1]")
    z = tensor("logits", logits)
    z = z if z.is_floating_point() else z.double()
    z = z.reshape(1) if z.ndim == 0 and not binary else z
    given = _optional("loss", loss)
    batch = Batch(
        logits=z,
        target=tensor("target", target),
        loss_given=given,
        gradient=_optional("gradient", gradient),
        probabilities=_optional("probabilities", probabilities),
        weight=_optional("weight", weight),
        mask=_optional("mask", mask),
        ignore_index=label("ignore_index", ignore_index),
        reduction=reduction,
        label_smoothing=float(smoothing),
        binary=binary,
        of_torch=isinstance(target, Tensor),
        axis=0 if binary else _axis(axis, z.ndim),
        typed=_typed(loss, given),
    )
    with on_the_cpu():
        return Findings(_look(_without_signs(batch)))


def _optional(name: str, given: Any) -> Tensor | None:
    return None if given is None else tensor(name, given)


def _axis(axis: int, ndim: int) -> int:
    """The axis counted from 0."""
    axis = integer("axis", axis, lambda k: ndim == 1 or -ndim <= k < ndim, f"an axis of {ndim}")
    return 0 if ndim == 1 else axis % ndim


def _typed(given: Any, loss: Tensor | None) -> float:
    """Half a unit of the last digit of losses with few digits, which somebody rounded; else 0.

    Those that were computed have more of them, but for an accident such as 800/64 = 12.5: nobody
    rounds one number and makes a tensor of it. Half precision has few digits of its own.
    """
    if loss is None or not bool(loss.isfinite().all()):
        return 0.0
    if isinstance(given, Tensor | np.ndarray) and loss.numel() == 1 and bool(loss.any()):
        return 0.0
    if not loss.is_floating_point():
        return 0.5
    exact, eps = loss.double(), torch.finfo(loss.dtype).eps
    top = exact.abs().max().item() if loss.numel() else 0.0
    for digits in range(1, 7):
        # Where the numbers of the dtype are not much closer, every loss has so few digits.
        if loss.dtype.itemsize < 4 or 10.0**-digits < 50 * eps * top:
            break
        rounded = (exact * 10**digits).round() / 10**digits
        if torch.equal(rounded.to(loss.dtype), loss):
            return 0.5 * 10.0**-digits
    return 0.0


def _without_signs(batch: Batch) -> Batch:
    """The same with labels 0 and 1, if those of -1 and 1 are what the loss was made for."""
    y = batch.target.double()
    if not batch.binary or batch.loss_given is None or not bool((y.abs() == 1).all()):
        return batch
    if any(rule.look(batch) for rule in (*shapes.RULES, *others.RULES)):
        return batch
    halved = replace(batch, target=(y + 1) / 2)
    return halved if halved.explained else batch


def _look(batch: Batch) -> Iterable[Finding]:
    found: list[Finding] = []
    for rules, only_first in _GROUPS:
        for rule in rules:
            finding = rule.look(batch)
            if finding is None:
                continue
            found.append(finding)
            if only_first:
                break
        if any(finding.certain for finding in found):
            break
    return found
