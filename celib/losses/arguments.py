"""What the losses do with arguments and results."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from celib.stable import sum_tolerance

REDUCTIONS = ("none", "mean", "sum")


def tensor(name: str, a: Tensor) -> None:
    if not isinstance(a, Tensor):
        raise TypeError(f"{name} is of type {type(a).__name__}: expected a tensor")


def floating(name: str, a: Tensor) -> None:
    tensor(name, a)
    if not a.is_floating_point():
        raise TypeError(f"{name} has dtype {a.dtype}: expected floating-point numbers")


def dtypes(*tensors: Tensor | None) -> tuple[torch.dtype, torch.dtype]:
    """The dtype to compute in, and that of the result."""
    first, *others = (a.dtype for a in tensors if a is not None)
    for other in others:
        first = torch.promote_types(first, other)
    return torch.promote_types(first, torch.float32), first


def logits(input: Tensor, other: Tensor | None) -> tuple[Tensor, torch.dtype]:
    floating("input", input)
    axis = min(1, input.ndim - 1)
    if input.ndim == 0 or input.shape[axis] == 0:
        shape = tuple(input.shape)
        raise ValueError(f"input has shape {shape}: expected (C), (N, C) or (N, C, d1, ...), C > 0")
    wide, dtype = dtypes(input, other)
    return input.movedim(axis, -1).to(wide), dtype


def classes(
    target: Tensor, z: Tensor, ignore_index: int, validate: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Classes that can be looked up, which targets count, and which are out of range."""
    tensor("target", target)
    expected, found = tuple(z.shape[:-1]), tuple(target.shape)
    if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
        raise ValueError(f"target has dtype {target.dtype}: expected classes, of an integer dtype")
    if found != expected:
        raise ValueError(f"target has shape {found}: expected {expected} for classes")
    y, classes = target.long(), z.shape[-1]
    kept = y != ignore_index
    wrong = kept & ((y < 0) | (y >= classes))
    if validate:
        check("target", y, wrong, f"a class from 0 to {classes - 1}, or {ignore_index}")
    return torch.where(kept & ~wrong, y, 0), kept, wrong


def distributions(
    target: Tensor, input: Tensor, z: Tensor, validate: bool
) -> tuple[Tensor, Tensor | None]:
    if target.shape != input.shape:
        found, shape = tuple(target.shape), tuple(input.shape)
        raise ValueError(
            f"target has shape {found} and dtype {target.dtype}: "
            f"expected {shape} for probabilities, or {tuple(z.shape[:-1])} and integers for classes"
        )
    axis = min(1, input.ndim - 1)
    q = target.movedim(axis, -1).to(z.dtype)
    if not validate:
        return q, None
    tolerance = sum_tolerance(q.shape[-1], torch.finfo(target.dtype).eps)
    bad = ~((target >= 0) & (target <= 1.0 + tolerance))
    check("target", target, bad, "a probability in [0, 1]")
    total = q.detach().sum(-1)
    off = ~((total - 1.0).abs() <= tolerance)
    check("the sum of target over classes", total, off, f"1 within {tolerance:.1e}")
    return q, bad.any(axis) | off


def class_weights(
    weight: Tensor | None, classes: int, dtype: torch.dtype, validate: bool
) -> Tensor | None:
    if weight is None:
        return None
    if tuple(weight.shape) != (classes,):
        raise ValueError(f"weight has shape {tuple(weight.shape)}: expected ({classes},)")
    return factors("weight", weight, weight.shape, dtype, validate)


def factors(
    name: str, a: Tensor | None, shape: torch.Size, dtype: torch.dtype, validate: bool
) -> Tensor | None:
    if a is None:
        return None
    try:
        torch.broadcast_to(a, shape)
    except RuntimeError as error:
        found = tuple(a.shape)
        raise ValueError(
            f"{name} has shape {found}: expected to broadcast to {tuple(shape)}"
        ) from error
    if not validate:
        return a.to(dtype)
    wrong = ~((a >= 0) & (a < math.inf))
    check(name, a, wrong, "a finite number, at least 0")
    return spoil(a.to(dtype), wrong)


def same_shape(name: str, a: Tensor, other_name: str, other: Tensor) -> None:
    tensor(name, a)
    if a.shape != other.shape:
        shape = tuple(a.shape)
        raise ValueError(
            f"{name} has shape {shape}: expected that of {other_name}, {tuple(other.shape)}"
        )


def one_of(name: str, value: object, known: tuple[object, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} = {value!r}: expected one of {known}")


def number(name: str, value: float, fine: bool, expected: str) -> None:
    if not fine:
        raise ValueError(f"{name} = {value}: expected {expected}")


def check(name: str, a: Tensor, wrong: Tensor, expected: str) -> None:
    # Elsewhere the question would wait for the device: there spoil takes the place of an error.
    if a.device.type == "cpu" and wrong.any():
        index = wrong.nonzero()[0].tolist()
        at = str(index) if index else ""
        raise ValueError(f"{name}{at} = {a[tuple(index)].item()}: expected {expected}")


def spoil(loss: Tensor, wrong: Tensor | None) -> Tensor:
    """NaN where something is wrong, in the gradient too."""
    return loss if wrong is None else loss * torch.where(wrong, math.nan, 1.0).to(loss.dtype)


def reduce(loss: Tensor, reduction: str, total: Tensor | None = None) -> Tensor:
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    return loss.mean() if total is None else loss.sum() / total.sum()
