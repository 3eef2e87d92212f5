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


def wide(*tensors: Tensor | None) -> torch.dtype:
    """The dtype to compute in, which is that of the result: float32, or float64."""
    dtype = torch.float32
    for a in tensors:
        dtype = dtype if a is None else torch.promote_types(dtype, a.dtype)
    return dtype


def logits(input: Tensor) -> Tensor:
    """The logits with their classes last."""
    floating("input", input)
    axis = min(1, input.ndim - 1)
    if input.ndim == 0 or input.shape[axis] == 0:
        shape = tuple(input.shape)
        raise ValueError(f"input has shape {shape}: expected (C), (N, C) or (N, C, d1, ...), C > 0")
    return input.movedim(axis, -1)


def indices(target: Tensor, shape: torch.Size) -> None:
    tensor("target", target)
    expected, found = tuple(shape), tuple(target.shape)
    if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
        raise ValueError(f"target has dtype {target.dtype}: expected classes, of an integer dtype")
    if found != expected:
        raise ValueError(f"target has shape {found}: expected {expected} for classes")


def all_classes(target: Tensor, count: int) -> bool:
    """Whether every target is a class: one pass over them, which is what a good input costs."""
    if target.numel() == 0:
        return True
    low, high = target.long().aminmax()  # which torch does not have for uint16
    return low.item() >= 0 and high.item() < count


def classes(
    target: Tensor, shape: torch.Size, count: int, ignore_index: int, validate: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Classes that can be looked up, which targets count, and which are out of range."""
    indices(target, shape)
    y = target.long()
    kept = y != ignore_index
    wrong = kept & ((y < 0) | (y >= count))
    if validate:
        check("target", y, wrong, f"a class from 0 to {count - 1}, or {ignore_index}")
    return torch.where(kept & ~wrong, y, 0), kept, wrong


def distributions(
    target: Tensor, shape: torch.Size, axis: int, ignore_index: int, validate: bool
) -> Tensor | None:
    """Which rows of targets, with C at ``axis`` of their shape, are not probabilities."""
    if ignore_index >= 0:
        raise ValueError(f"ignore_index = {ignore_index}: expected classes as target")
    if target.shape != shape:
        found, of_classes = tuple(target.shape), tuple(n for i, n in enumerate(shape) if i != axis)
        raise ValueError(
            f"target has shape {found} and dtype {target.dtype}: "
            f"expected {tuple(shape)} for probabilities, or {of_classes} and integers for classes"
        )
    if not validate:
        return None
    tolerance = sum_tolerance(shape[axis], torch.finfo(target.dtype).eps)
    # By row first: a mask of the targets' size is made only to name what is wrong.
    bad = ~((target.amin(axis) >= 0) & (target.amax(axis) <= 1.0 + tolerance))
    if can_check(bad) and bad.any():
        each = ~((target >= 0) & (target <= 1.0 + tolerance))
        check("target", target, each, "a probability in [0, 1]")
    total = target.detach().sum(axis, dtype=wide(target))
    off = ~((total - 1.0).abs() <= tolerance)
    within = "" if torch.compiler.is_compiling() else f" within {tolerance:.1e}"
    check("the sum of target over classes", total, off, f"1{within}")
    return bad | off


def layer(input: Tensor, linear_weight: Tensor, linear_bias: Tensor | None) -> None:
    given = {"input": input, "linear_weight": linear_weight, "linear_bias": linear_bias}
    for name, a in given.items():
        if a is None:
            continue
        floating(name, a)
        if a.dtype != input.dtype and not torch.is_autocast_enabled(input.device.type):
            raise TypeError(f"{name} has dtype {a.dtype}: expected that of input, {input.dtype}")
    d = input.shape[-1] if input.ndim else 0
    if linear_weight.ndim != 2 or linear_weight.shape[1] != d or 0 in linear_weight.shape:
        found, shape = tuple(linear_weight.shape), tuple(input.shape)
        raise ValueError(
            f"linear_weight has shape {found}: expected (C, D), C and D above 0, "
            f"with input of shape (..., D), here {shape}"
        )
    if linear_bias is not None and linear_bias.shape != linear_weight.shape[:1]:
        expected = tuple(linear_weight.shape[:1])
        raise ValueError(f"linear_bias has shape {tuple(linear_bias.shape)}: expected {expected}")


def autocast(
    x: Tensor, matrix: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Operands of a matrix product, in the dtype that autocast wants for them."""
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    dtype = x.dtype if x.dtype == torch.float64 else dtype  # which autocast leaves alone
    return x.to(dtype), matrix.to(dtype), None if bias is None else bias.to(dtype)


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


def can_check(a: Tensor) -> bool:
    # Elsewhere the question would wait for the device, and a compiler cannot follow the answer:
    # there spoil takes the place of an error.
    unknown = torch.compiler.is_compiling() or torch._C._functorch.is_batchedtensor(a)
    return a.device.type == "cpu" and not unknown


def check(name: str, a: Tensor, wrong: Tensor, expected: str) -> None:
    if can_check(wrong) and wrong.any():
        index = wrong.nonzero()[0].tolist()
        at = str(index) if index else ""
        raise ValueError(f"{name}{at} = {a[tuple(index)].item()}: expected {expected}")


def spoil(loss: Tensor, wrong: Tensor | None) -> Tensor:
    """NaN where something is wrong, in the gradient too."""
    return loss if wrong is None else loss * torch.where(wrong, math.nan, 1.0).to(loss.dtype)


def mean_of(loss: Tensor, total: Tensor) -> Tensor:
    """The quotient, whose gradient over nothing is 0."""
    some = total != 0
    return torch.where(some, loss / torch.where(some, total, 1.0), loss.detach() / total)


def reduce(loss: Tensor, reduction: str, total: Tensor | None = None) -> Tensor:
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    return loss.mean() if total is None else loss.sum() / total.sum()
