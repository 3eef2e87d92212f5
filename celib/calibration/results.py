"""Numbers that carry what it takes to read them."""

from __future__ import annotations

from typing import Any, Self


class Result(float):
    """A float with fields, the first of which is its value.

    It is compared, sorted, hashed, formatted and computed with as its value, so that it can stand
    where a metric of scikit-learn returns a number; what is computed from it is a plain float.
    """

    value: float

    def __new__(cls, value: float, *args: Any, **fields: Any) -> Self:
        return super().__new__(cls, value)

    # The dataclass of the fields has a repr, which str would take.
    __str__ = float.__repr__
