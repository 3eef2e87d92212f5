"""The grammar of a refusal: which argument, where in it, what was found, what was expected."""

from __future__ import annotations

import math
import operator
import sysconfig
import traceback
from collections.abc import Callable, Sequence
from numbers import Real
from pathlib import Path
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


def label(name: str, value: Any) -> int:
    """A number that an integer target may have, such as ``ignore_index``."""
    return integer(name, value, lambda n: -(2**63) <= n < 2**63, "an integer")


def positive(name: str, value: Any) -> Any:
    """A number that is positive and finite."""
    return number(name, value, lambda x: 0 < x < math.inf, "positive and finite")


def non_negative(name: str, value: Any) -> Any:
    """A finite number that is not negative."""
    return number(name, value, lambda x: 0 <= x < math.inf, "a finite number, at least 0")


def where_raised(error: BaseException) -> tuple[str, str] | None:
    """The last line of somebody else's code that an error passed: where it is, and what it says.

    For functions that are given to us to call: "line 3 of your cell" and the code, which is empty
    where the source is not at hand; None if no such line is known.
    """
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_own(frame.filename)]
    if not own:
        return None
    path = Path(own[-1].filename)
    place = path.name if path.exists() else "your cell"
    return f"line {own[-1].lineno} of {place}", own[-1].line or ""


# Neither this library nor those below it wrote the line that the reader has to look at.
_OTHERS = (str(Path(__file__).parents[1]), sysconfig.get_path("stdlib"), "<frozen", "<__array")


def _is_own(file: str) -> bool:
    return not (
        file.startswith(_OTHERS) or {"site-packages", "dist-packages"} & {*Path(file).parts}
    )
