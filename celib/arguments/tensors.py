"""What is special to torch: the arguments of losses, classes to look up, and factors.

On a CPU a wrong value raises. Elsewhere, and where values are not there yet, the functions here say
which entries are wrong, and :func:`spoil` makes the results that depend on them NaN.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import array_api_compat.torch as xp
import numpy as np
import torch
from torch import Tensor

from celib.arguments import arrays
from celib.arguments.arrays import readable
from celib.arguments.errors import number, refuse_dtype, refuse_shape

F = TypeVar("F", bound=Callable[..., Any])


# What may be None, in every loss.
_OPTIONAL = {
    *("linear_bias", "mask", "negatives", "pos_weight", "sample_weight", "teacher_bias", "weight")
}


def tensors(**given: Any) -> list[Any]:
    """Arguments as tensors on one device; an optional one that is None stays so."""
    if _plain(given):
        return list(given.values())
    some = {name: a for name, a in given.items() if a is not None or name not in _OPTIONAL}
    if not all(isinstance(a, Tensor) for a in some.values()):
        arrays.same_labels(some)
    found = {name: arrays.values(name, a) for name, a in some.items()}
    known = [name for name, a in found.items() if isinstance(a, Tensor)]
    place = found[known[0]].device if known else torch.device("cpu")
    for name, a in found.items():
        if not isinstance(a, Tensor):
            found[name] = arrays.to_tensor(name, a, place)
        elif a.device != place:
            raise ValueError(f"{name} is on {a.device}: expected {place}, where {known[0]} is")
    return [found.get(name) for name in given]


def is_dtensor(a: object) -> bool:
    """Whether it is a DTensor; if it is, the module of its class has been imported."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(a, module.DTensor)


_DTYPES = {
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
}


def _plain(given: dict[str, Any]) -> bool:
    """Whether nothing has to be done, which is so in nearly every call, and quickly said."""
    place = None
    for name, a in given.items():
        if a is None and name in _OPTIONAL:
            continue
        if type(a) is not Tensor and type(a) is not torch.nn.Parameter:
            return False
        if a.dtype not in _DTYPES or a.layout is not torch.strided or a.is_nested:
            return False
        if not torch.compiler.is_compiling() and a.is_neg():
            return False
        if place is not None and a.device != place:
            return False
        place = a.device
    return True


def for_arrays(loss: F) -> F:
    """Let a loss of tensors take arrays too: NumPy in, NumPy out."""

    @functools.wraps(loss)
    def call(*args: Any, **kwargs: Any) -> Any:
        result = loss(*args, **kwargs)
        if args and isinstance(args[0], Tensor):
            return result
        if any(map(_holds_tensors, (*args, *kwargs.values()))):
            return result
        if isinstance(result, tuple):
            return type(result)(*(a.numpy()[()] for a in result))
        return result.numpy()[()]

    return cast(F, call)


def _holds_tensors(a: Any) -> bool:
    if isinstance(a, (list, tuple)) and a:
        a = a[0]
    return isinstance(a, Tensor)


def real(name: str, a: Tensor) -> Tensor:
    """A tensor of floating-point numbers: integers and booleans become float64."""
    if a.is_floating_point():
        return a
    if a.is_complex() or a.is_quantized:
        refuse_dtype(name, a.dtype)
    return a.double()


def wide(*given: Tensor | None) -> torch.dtype:
    """The dtype to compute in, which is that of the result: float32, or float64."""
    dtype = torch.float32
    for a in given:
        dtype = dtype if a is None else torch.promote_types(dtype, a.dtype)
    return dtype


def logits(name: str, a: Tensor, axis: int | None = None) -> Tensor:
    """Logits with their classes last; by default classes are where torch's losses have them."""
    a = real(name, a)
    axis = min(1, a.ndim - 1) if axis is None else axis
    if a.ndim == 0 or a.shape[axis] == 0:
        refuse_shape(name, a.shape, "(C), (N, C) or (N, C, d1, ...), C > 0")
    return a if axis in (-1, a.ndim - 1) else a.movedim(axis, -1)


def spoil(result: Tensor, wrong: Tensor | None) -> Tensor:
    """NaN where something is wrong, in the gradient too."""
    return cast(Tensor, arrays.spoil(xp, result, wrong))


def _all_classes(target: Tensor, count: int) -> bool:
    """Whether every target is a class: one pass over them, which is what a good input costs."""
    if target.numel() == 0:
        return True
    low, high = target.long().aminmax()  # which torch does not have for uint16
    return low.item() >= 0 and high.item() < count


def labels(
    target: Tensor, shape: Sequence[int], count: int, ignore_index: int, validate: bool
) -> Tensor:
    """Classes as integers, in their own dtype if that is one: a kernel takes any.

    Where nothing can be raised, what is not a class stays out of range, and a kernel makes its row
    NaN.
    """
    if target.is_complex() or target.is_quantized:
        refuse_dtype("target", target.dtype)
    if tuple(target.shape) != tuple(shape):
        refuse_shape("target", target.shape, f"{tuple(shape)} for classes")
    y = target
    if target.dtype == torch.bool:
        y = target.long()
    elif target.is_floating_point():
        whole = (target.abs() < 2.0**53) & (target == target.round())
        # A number that is neither a class nor the index that is ignored.
        nothing = count if ignore_index != count else count + 1
        y = torch.where(whole, torch.where(whole, target, 0.0).long(), nothing)
    if validate and readable(y) and not _all_classes(y, count):
        wrong = (y.long() != ignore_index) & ((y.long() < 0) | (y.long() >= count))
        expected = f"a class from 0 to {count - 1}, or {ignore_index}"
        arrays.check(xp, "target", target, wrong, expected)
    return y


def distributions(
    target: Tensor, shape: Sequence[int], axis: int, ignore_index: int, validate: bool
) -> Tensor | None:
    """Which rows of targets, with C at ``axis`` of their shape, are not distributions."""
    if ignore_index >= 0:
        raise ValueError(f"ignore_index = {ignore_index}: expected classes as target")
    if tuple(target.shape) != tuple(shape):
        classes = tuple(n for i, n in enumerate(shape) if i != axis)
        raise ValueError(
            f"target has shape {tuple(target.shape)} and dtype {target.dtype}: "
            f"expected {tuple(shape)} for probabilities, or {classes} for classes"
        )
    if not validate:
        return None
    eps = torch.finfo(target.dtype).eps
    return cast("Tensor | None", arrays.distributions(xp, "target", target.detach(), eps, (axis,)))


def probabilities(name: str, p: Tensor, validate: bool) -> Tensor | None:
    """Which entries are not probabilities."""
    if not validate:
        return None
    eps = torch.finfo(p.dtype).eps if p.is_floating_point() else 0.0
    return cast("Tensor | None", arrays.probabilities(xp, name, p.detach(), eps))


def same_shape(name: str, a: Tensor, other_name: str, other: Tensor) -> None:
    if a.shape != other.shape:
        refuse_shape(name, a.shape, f"that of {other_name}, {tuple(other.shape)}")


def factors(
    name: str, a: Tensor | None, shape: Sequence[int], dtype: torch.dtype, validate: bool
) -> Tensor | None:
    """Weights that broadcast to a shape: finite, and at least 0."""
    if a is None:
        return None
    a = real(name, a).to(dtype)
    arrays.broadcast(xp, name, a, shape)
    if not validate:
        return a
    wrong = ~((a >= 0) & (a < math.inf))
    arrays.check(xp, name, a, wrong, "a finite number, at least 0")
    return a if readable(a) else spoil(a, wrong)


def class_weights(
    weight: Tensor | None, classes: int, dtype: torch.dtype, validate: bool
) -> Tensor | None:
    """One factor for each class."""
    if weight is not None and tuple(weight.shape) != (classes,):
        refuse_shape("weight", weight.shape, f"({classes},), a factor for each class")
    return factors("weight", weight, (classes,), dtype, validate)


def sample_weights(
    weight: Tensor | None, shape: Sequence[int], dtype: torch.dtype, validate: bool
) -> Tensor | None:
    """One factor for each target."""
    if weight is not None and tuple(weight.shape) != tuple(shape):
        refuse_shape("sample_weight", weight.shape, f"{tuple(shape)}, a factor for each target")
    return factors("sample_weight", weight, shape, dtype, validate)


def positive(name: str, value: Any, input: Any) -> Any:
    """A positive number as it is, or a tensor of one number, which may want a gradient.

    A tensor that cannot be read is NaN where it is not positive. It is on the device of ``input``,
    or on the CPU, as torch has it for a single number.
    """
    if not isinstance(value, (int, float)):
        found = arrays.values(name, value)
        value = found if isinstance(found, Tensor) or found.shape == (1,) else value
    if not isinstance(value, Tensor):
        if isinstance(value, np.ndarray) and value.shape == (1,):
            value = value.reshape(())
        return number(name, value, lambda s: 0 < s < math.inf, "positive and finite")
    if tuple(value.shape) not in ((), (1,)):
        refuse_shape(name, value.shape, "one number")
    value = real(name, value).reshape(())
    place = input.device if isinstance(input, Tensor) else torch.device("cpu")
    if value.device not in (place, torch.device("cpu")):
        raise ValueError(f"{name} is on {value.device}: expected {place}, where input is")
    wrong = ~((value > 0) & (value < math.inf))
    arrays.check(xp, name, value, wrong, "positive and finite")
    return value if readable(value) else torch.where(wrong, math.nan, value)


def layer(input: Tensor, linear_weight: Tensor, linear_bias: Tensor | None) -> None:
    """Check that a linear layer fits its input."""
    given = {"input": input, "linear_weight": linear_weight, "linear_bias": linear_bias}
    for name, a in given.items():
        if a is not None and a.dtype != input.dtype and not _autocast(input.device.type):
            refuse_dtype(name, a.dtype, f"that of input, {input.dtype}")
    d = input.shape[-1] if input.ndim else 0
    if linear_weight.ndim != 2 or linear_weight.shape[1] != d or 0 in linear_weight.shape:
        found, shape = tuple(linear_weight.shape), tuple(input.shape)
        raise ValueError(
            f"linear_weight has shape {found}: expected (C, D), C and D above 0, "
            f"with input of shape (..., D), here {shape}"
        )
    if linear_bias is not None and linear_bias.shape != linear_weight.shape[:1]:
        refuse_shape("linear_bias", linear_bias.shape, f"{tuple(linear_weight.shape[:1])}")


def _autocast(device: str) -> bool:
    # The one device without autocast, of which torch would rather raise.
    return device != "meta" and torch.is_autocast_enabled(device)


def autocast(
    x: Tensor, matrix: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Operands of a matrix product, in the dtype that autocast wants for them."""
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if _autocast(device) else x.dtype
    dtype = x.dtype if x.dtype == torch.float64 else dtype  # which autocast leaves alone
    return x.to(dtype), matrix.to(dtype), None if bias is None else bias.to(dtype)
