"""A reader's function, tried beside the right one: whatever it does, it gets a sentence."""

from __future__ import annotations

import inspect
import io
import reprlib
import sys
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from copy import deepcopy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from celib.arguments.errors import where_raised
from celib.exercises.asked import WORDS, Exercise, Unusable, array_of, near

Arguments = tuple[Any, ...]
Function = Callable[..., Any]


def judge(asked: Exercise, function: Any) -> tuple[bool, str]:
    """Whether a function gives what the right one gives, and the sentence on it."""
    if not callable(function):
        raise Unusable(
            f"This exercise asks for a function, and this is of type {type(function).__name__}. "
            "Give the function itself, without calling it."
        )
    names = list(inspect.signature(asked.right).parameters)
    inputs: list[Arguments] = asked.value(asked.inputs)
    printed = io.StringIO()
    with redirect_stdout(printed):
        found = [_result(function, given, names, printed) for given in inputs]
    wanted = [_reference(asked.right, given) for given in inputs]
    hits = [_same(one, two, asked) for one, two in zip(found, wanted, strict=True)]
    if all(hits):
        also = " It also prints, which was not shown here." if printed.getvalue() else ""
        return True, WORDS["right"] + also
    for mistake, says in asked.mistakes:
        with suppress(ArithmeticError, ValueError):  # where a mistake raises, the reader's did not
            results = [_reference(mistake, given) for given in inputs]
            if all(_same(one, two, asked) for one, two in zip(found, results, strict=True)):
                return False, says
    first = hits.index(False)
    return False, (
        f"Not yet: your function is right on {sum(hits)} of {len(hits)} inputs. "
        f"For {_shown(names, inputs[first])} it returns {_how(found[first], wanted[first])}."
    )


def _same(found: NDArray[Any], wanted: NDArray[Any], asked: Exercise) -> bool:
    return found.shape == wanted.shape and bool(near(found, wanted, asked.margin).all())


def _how(found: NDArray[Any], wanted: NDArray[Any]) -> str:
    """What is amiss with a result; the right one is not told."""
    if found.shape != wanted.shape:
        return f"an array of shape {found.shape}, where {wanted.shape} is expected"
    if (np.isnan(found) & ~np.isnan(wanted)).any():
        return "NaN, which is not a number" if found.ndim == 0 else "an array with NaN in it"
    if found.ndim == 0:
        return f"{found:.6g}, which is too {'small' if found < wanted else 'large'}"
    return f"{_short(found)}, which differs"


def _called(function: Function, given: Arguments) -> Any:
    # The verdict says what came of a division by zero: NumPy's warning would say it again.
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return function(*given)


def _reference(function: Function, given: Arguments) -> NDArray[Any]:
    return np.asarray(_called(function, deepcopy(given)), dtype=np.float64)


def _result(
    function: Function, given: Arguments, names: list[str], printed: io.StringIO
) -> NDArray[Any]:
    """What the reader's function returns for one input, or the sentence on why that is nothing."""
    at, copies = _shown(names, given), deepcopy(given)
    try:
        result = _called(function, copies)
    except (Exception, SystemExit) as error:
        raise Unusable(_raised(error, function, copies, at)) from None
    for name, before, after in zip(names, given, copies, strict=True):
        if _exactly(before) != _exactly(after):
            raise Unusable(
                f"Your function changes its argument {name}: for {at} it leaves "
                f"{_short(after)} in it. Let it work on a copy. (The check had passed copies.)"
            )
    if result is None and printed.getvalue():
        raise Unusable(
            "Your function prints its result and returns None: let it return the result."
        )
    if result is None:
        raise Unusable(f"For {at} your function returns None: let it end with return.")
    return array_of(result, f"For {at} the result of your function")


def _raised(error: BaseException, function: Function, given: Arguments, at: str) -> str:
    try:
        inspect.signature(function).bind(*given)
    except TypeError as reason:
        arguments = "one argument" if len(given) == 1 else f"{len(given)} arguments"
        return f"Your function cannot be called with {arguments}: {reason}."
    except ValueError:
        pass  # some functions of C have no signature
    says = f"For {at} your function raises {type(error).__name__}"
    says += f": {' '.join(str(error).split())}" if str(error) else ""
    found = where_raised(error)
    if found is None:
        return f"{says}."
    place, line = found
    code = f": `{line}`" if line else "."
    return f"{says} ({place}){code}"


def _shown(names: list[str], given: Arguments) -> str:
    return ", ".join(f"`{name} = {_short(a)}`" for name, a in zip(names, given, strict=True))


def _short(a: Any) -> str:
    if isinstance(a, (np.ndarray, np.generic)):
        return np.array2string(
            np.asarray(a), precision=6, separator=", ", threshold=12, edgeitems=2
        )
    return reprlib.repr(a)


def _exactly(a: Any) -> str:
    with np.printoptions(threshold=sys.maxsize, floatmode="unique"):
        return repr(a)
