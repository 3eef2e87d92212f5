"""What is asked in the exercises, and what every verdict on an answer needs."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from celib import coding, information, scoring, stable
from celib.arguments.arrays import is_tensor, quiet, values
from celib.arguments.errors import one_of

FOLDER = Path(__file__).parent  # with the data

# What the page says in the same words: its script fills in the numbers.
WORDS = {
    "right": "Right.",
    "far below": "Not yet: this is too small, by more than 10 %.",
    "below": "Not yet: this is too small, by less than 10 %.",
    "above": "Not yet: this is too large, by less than 10 %.",
    "far above": "Not yet: this is too large, by more than 10 %.",
    "part": "Not yet. Right so far: {right} of {all} numbers.",
    "length": "There should be {all} numbers, and there are {found}.",
    "number": "Write one number, such as 0.375, 3/8 or 1e-3, without words or units.",
    "numbers": "Write numbers such as 0.375, 3/8 or 1e-3, separated by commas or spaces.",
    "choose": "Choose one of the answers.",
}


class Unusable(Exception):
    """The sentence on an answer that cannot be judged."""


@dataclass(frozen=True)
class Exercise:
    """A table of the data."""

    kind: str  # "number", "array", "choice" or "function"
    ask: str
    answer: str  # an expression; of a choice one of the options, as in each of wrong
    hints: list[str]
    wrong: list[dict[str, str]] = field(default_factory=list)  # each with a value, and what to say
    tolerance: float | None = None
    options: list[str] = field(default_factory=list)  # of a choice
    inputs: str = "[]"  # of a function: an expression for a list of tuples of arguments

    def value(self, expression: str, **known: Any) -> Any:
        """What an expression of the data stands for; a choice is its place in the list."""
        if self.kind == "choice":
            return np.float64(self.options.index(expression))
        known |= {"np": np, "rng": np.random.default_rng(0)}
        for module in (coding, information, scoring, stable):
            known |= {name: getattr(module, name) for name in module.__all__}
        found = eval(f"({expression})", known)  # the data are part of the library
        return found if self.kind == "function" else np.asarray(found, dtype=np.float64)

    @cached_property
    def right(self) -> Any:
        return self.value(self.answer)

    @cached_property
    def mistakes(self) -> list[tuple[Any, str]]:
        return [(self.value(one["value"], answer=self.right), one["say"]) for one in self.wrong]

    @property
    def margin(self) -> tuple[float, float]:
        """The largest error: absolute, and as a share of the value, which are added."""
        if self.kind == "choice":
            return 0.0, 0.0
        if self.kind == "function":
            return (1e-12 if self.tolerance is None else self.tolerance), 1e-6
        return (0.0, 5e-3) if self.tolerance is None else (self.tolerance, 0.0)


@cache
def exercises() -> dict[str, Exercise]:
    """All exercises that can be checked, by their labels."""
    found: dict[str, Exercise] = {}
    for path in sorted(FOLDER.glob("*.toml")):
        tables = tomllib.loads(path.read_text("utf-8"))
        if twice := found.keys() & tables.keys():
            raise ValueError(f"{path.name} has {min(twice)} again: expected one table a label")
        found |= {name: Exercise(**table) for name, table in tables.items()}
    return found


def exercise(name: str) -> Exercise:
    """The exercise with that label."""
    known = exercises()
    if name not in known:
        one_of("name", name, get_close_matches(str(name), known, cutoff=0) or ["a known label"])
    return known[name]


@quiet
def near(found: NDArray[Any], wanted: NDArray[Any], margin: tuple[float, float]) -> NDArray[Any]:
    """Which of the numbers are as wanted; what is infinite or NaN has to be just that."""
    absolute, relative = margin
    close = np.abs(found - wanted) <= absolute + relative * np.abs(wanted)
    same = (found == wanted) | (np.isnan(found) & np.isnan(wanted))
    result: NDArray[Any] = np.where(np.isfinite(wanted), close, same)
    return result


def array_of(a: Any, what: str) -> NDArray[Any]:
    """The numbers in whatever a reader hands in, as an array of float64."""
    try:
        found = values("answer", a)
        if is_tensor(found):
            found = found.detach().cpu()
            found = found.double() if found.is_floating_point() else found
        found = np.asarray(found)
        if found.dtype.kind in "biufO":  # objects are exact numbers, or refuse the conversion
            return found.astype(np.float64)
    except Exception:  # code of the reader's own may run here, and raise anything
        pass
    raise Unusable(f"{what} is of type {type(a).__name__}, not a number or an array of numbers.")
