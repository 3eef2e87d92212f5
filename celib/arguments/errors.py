"""The grammar of a refusal: which argument, where in it, what was found, what was expected."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, NoReturn


def refuse(name: str, index: Sequence[int], value: object, expected: str) -> NoReturn:
    """Raise for one value; an empty ``index`` is a number of its own."""
    place = f"[{', '.join(map(str, index))}]" if index else ""
    raise ValueError(f"{name}{place} = {value}: expected {expected}")


def refuse_shape(name: str, shape: Sequence[int], expected: str) -> NoReturn:
    raise ValueError(f"{name} has shape {tuple(shape)}: expected {expected}")


def refuse_dtype(name: str, dtype: object, expected: str = "real numbers") -> NoReturn:
    raise TypeError(f"{name} has dtype {dtype}: expected {expected}")


def refuse_type(name: str, value: object, expected: str) -> NoReturn:
    raise TypeError(f"{name} is of type {type(value).__name__}: expected {expected}")


def one_of(name: str, value: object, known: Sequence[object]) -> None:
    """Refuse an option that is not in the list."""
    # Only text is compared: an array would compare itself entry by entry.
    if not any(value is k or (isinstance(value, str) and value == k) for k in known):
        *most, last = map(repr, known)
        listed = f"{', '.join(most)} or {last}" if most else last
        raise ValueError(f"{name} = {value!r}: expected {listed}")


def number(name: str, value: Any, fits: Callable[[float], bool], expected: str) -> Any:
    """A number that an option may be, as it is; of an array without axes its value.

    A tensor that requires grad is refused: an option that is a constant would drop the gradient.
    """
    if not isinstance(value, (int, float)):
        if getattr(value, "requires_grad", False):
            raise ValueError(f"{name} requires grad: expected a constant, {expected}")
        if getattr(value, "shape", None) != () or not hasattr(value, "item"):
            refuse_type(name, value, expected)
        try:
            found = value.item()
        except (RuntimeError, NotImplementedError):  # of a tensor that holds no value
            refuse_type(name, value, expected)
        if not isinstance(found, Real):
            refuse_type(name, value, expected)
        value = found if isinstance(found, int) else float(found)
    elif type(value) is not float and isinstance(value, float):
        value = float(value)  # of NumPy, which is a float too, but not for an operator of torch
    if isinstance(value, int) and value.bit_length() > 1024:  # beyond every float
        raise ValueError(f"{name} has {value.bit_length()} bits: expected {expected}")
    if not fits(value):
        raise ValueError(f"{name} = {value}: expected {expected}")
    return value


def integer(name: str, value: Any, fits: Callable[[int], bool], expected: str) -> int:
    """A whole number that an option may be."""
    try:
        value = operator.index(value)
    except TypeError:
        refuse_type(name, value, expected)
    if not fits(value):
        raise ValueError(f"{name} = {value}: expected {expected}")
    return int(value)


def positive(name: str, value: Any) -> Any:
    """A number that is positive and finite."""
    return number(name, value, lambda x: 0 < x < math.inf, "positive and finite")


def non_negative(name: str, value: Any) -> Any:
    """A finite number that is not negative."""
    return number(name, value, lambda x: 0 <= x < math.inf, "a finite number, at least 0")
