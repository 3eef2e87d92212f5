"""Checks of one's own answers to the exercises of the book.

An exercise of the book whose answer is a number, several numbers, a choice or a function can be
checked, in its page and in its notebook. The files ``*.toml`` beside this module, one a chapter,
hold for each exercise the expression that computes the right answer, those of the usual mistakes
with a sentence on each, and three hints. How to add one is in CONTRIBUTING.md.

A number is right within half a per cent, so that three significant digits are always enough, unless
the data state an absolute tolerance. Text is read as the page reads it: "0.375", ".375", "0,375",
"3/8", "1e-3"; "1,024" is 1024 where that is an answer, and otherwise a little more than 1. Of
several numbers the values and their order count; in text they are separated by commas or spaces,
and have a decimal point. A choice is named by its words or by its place in the
list, from 1. The results of a function are right within 1e-6 of their size plus 1e-12, or plus the
tolerance that the data state.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from celib.exercises import functions
from celib.exercises.asked import WORDS, Exercise, Unusable, array_of, exercise, near

__all__ = ["Verdict", "check"]


def __dir__() -> list[str]:
    return sorted(__all__)


@dataclass(frozen=True, repr=False)
class Verdict:
    """What :func:`check` says of an answer; true if the answer is right."""

    right: bool  #: whether the answer is right
    says: str  #: the verdict in words, with formulas between dollar signs
    hint: str = ""  #: the next hint, after a wrong answer

    def __bool__(self) -> bool:
        return self.right

    def __repr__(self) -> str:
        return "\n".join(filter(None, (self.says, self.hint)))

    def _repr_markdown_(self) -> str:
        return repr(self).replace("\n", "\n\n")


# How many hints each exercise has given in this process.
_given: dict[str, int] = {}


def check(name: str, answer: Any = None) -> Verdict:
    """Whether an answer to an exercise of the book is right, and if not, why.

    Use it in a notebook on what you have computed, or without an answer for a hint. It recognises
    the usual mistakes. Every wrong answer brings the next of three hints, and none brings the
    solution.

    Args:
        name: the label of the exercise, such as "ex-units".
        answer: a number, numbers, a choice or a function, as the exercise asks, in any container
            of :mod:`celib.arguments`; also exact numbers of ``fractions`` and sympy, and text. A
            function is called on copies of the inputs that it is tried on, its printing is not
            shown, and an error that it raises is told with the line that raised it. None asks for
            the next hint.

    Returns:
        A :class:`Verdict`, which is true if the answer is right. No answer makes it raise.

    Raises:
        ValueError: no exercise with a check has that label.

    Example: the surprise of one toss in bits, where nats are asked for.
        >>> check("ex-units", 0.8813)
        That is in bits: the natural logarithm gives nats.
        Hint 1 of 3: Which of all models is surprised least?
        >>> bool(check("ex-units", "0,611"))
        True
    """
    asked = exercise(name)
    if answer is None:
        return Verdict(False, _asked(asked), _hint(name, asked))
    try:
        right, says = _judge(asked, answer)
    except Unusable as reason:
        return Verdict(False, str(reason))
    return Verdict(right, says, "" if right else _hint(name, asked))


def _hint(name: str, asked: Exercise) -> str:
    step = min(_given.get(name, 0) + 1, len(asked.hints))
    _given[name] = step
    return f"Hint {step} of {len(asked.hints)}: {asked.hints[step - 1]}"


def _asked(asked: Exercise) -> str:
    return "\n".join([asked.ask, *(f"{n}. {words}" for n, words in enumerate(asked.options, 1))])


def _judge(asked: Exercise, answer: Any) -> tuple[bool, str]:
    """Whether an answer is right, and the sentence on it."""
    if asked.kind == "function":
        return functions.judge(asked, answer)
    if asked.kind == "choice":
        found = _chosen(asked, answer)
    elif isinstance(answer, str):
        found = _read(answer, asked.kind == "array")
        grouped = answer.strip().replace("\N{MINUS SIGN}", "-")
        if asked.kind == "number" and _GROUPED.fullmatch(grouped):
            whole = np.array([float(grouped.replace(",", ""))])
            values = (asked.right, *(value for value, _ in asked.mistakes))
            if any(near(whole, value.ravel(), asked.margin).all() for value in values):
                found = whole
    else:
        found = array_of(answer, "Your answer")
        if np.isnan(found).any():
            raise Unusable(
                "Your answer is NaN, not a number."
                if found.ndim == 0
                else "Your answer contains NaN, which is not a number."
            )
    right = asked.right
    flat, wanted = found.ravel(), right.ravel()
    for value, says in [(right, WORDS["right"]), *asked.mistakes]:
        if flat.size == value.size and near(flat, value.ravel(), asked.margin).all():
            return value is right, says
    if flat.size != wanted.size:
        raise Unusable(
            WORDS["length" if right.ndim else "number"].format(all=wanted.size, found=flat.size)
        )
    if right.ndim:
        hits = int(near(flat, wanted, asked.margin).sum())
        return False, WORDS["part"].format(right=hits, all=wanted.size)
    far = "far " if abs(flat[0] - wanted[0]) > 0.1 * abs(wanted[0]) else ""
    return False, WORDS[far + ("below" if flat[0] < wanted[0] else "above")]


# The page reads text by the same rule: see checks.js of the book.
_PART = r"([+-]?(?:[0-9]+[.,]?[0-9]*|[.,][0-9]+)(?:[eE][+-]?[0-9]+)?)"
_NUMBER = re.compile(rf"{_PART}(?:\s*/\s*{_PART})?")
# Commas that may set off thousands. They decide only if the number is then one that is known.
_GROUPED = re.compile(r"[+-]?[1-9][0-9]{0,2}(?:,[0-9]{3})+")


def _read(text: str, many: bool) -> NDArray[Any]:
    text = text.replace("\N{MINUS SIGN}", "-")
    parts = re.sub(r"[\[\](),;]", " ", text).split() if many else [text.strip()]
    found = [_number(part) for part in parts]
    if not found or not all(map(math.isfinite, found)):
        raise Unusable(WORDS["numbers" if many else "number"])
    return np.array(found)


def _number(text: str) -> float:
    """NaN for what is not a number."""
    if not (parts := _NUMBER.fullmatch(text)):
        return math.nan
    over, under = (float(part.replace(",", ".")) for part in (parts[1], parts[2] or "1"))
    return over / under if under else math.nan


def _chosen(asked: Exercise, answer: Any) -> NDArray[Any]:
    text = str(answer).strip().casefold()
    options = [words.casefold() for words in asked.options]
    places = [str(place) for place in range(1, len(options) + 1)]
    for names in (options, places):
        if text in names:
            return np.array(float(names.index(text)))
    raise Unusable(f"{WORDS['choose']}\n{_asked(asked)}")
