"""What is found: a list of findings that prints, is a table, and is false when it is empty."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from html import escape
from textwrap import fill
from typing import Any, overload

# The headings of the book's chapter on calling the loss, for ``section``.
NAN = "The loss is NaN"
GRADIENT_NAN = "Only the gradient is NaN"
STUCK = "The loss is stuck"
STRANGE = "The loss is a strange number"
ZERO = "The loss is exactly 0"
SHAPES = "Shapes and labels"
PADDING = "Padding, masks and means"
WEIGHTS = "Class weights and imbalance"
HALF = "Half precision"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or odd enough to look at."""

    cause: str  #: its name, such as "softmax-twice"; stable, so that code may ask for it
    what: str  #: what is wrong, in a sentence
    evidence: str  #: how it is known, with the numbers
    cure: str  #: what to do
    section: str  #: where the book explains it: a heading of the chapter on calling the loss
    certain: bool = True  #: False if there is a harmless explanation, which ``what`` names

    def __str__(self) -> str:
        lines = [f"{self.cause}: {self.what}", f"how it is known: {self.evidence}"]
        lines += [f"what to do: {self.cure}", f"in the book: {self.section}"]
        return "\n".join(
            fill(line, 88, initial_indent="  " * bool(n), subsequent_indent="    ")
            for n, line in enumerate(lines)
        )


class Findings(Sequence[Finding]):
    """The findings, the gravest first: a sequence, which is false if nothing is odd."""

    def __init__(self, found: Iterable[Finding] = ()) -> None:
        self._found = tuple(found)

    @overload
    def __getitem__(self, index: int) -> Finding: ...
    @overload
    def __getitem__(self, index: slice) -> Findings: ...
    def __getitem__(self, index: int | slice) -> Finding | Findings:
        found = self._found[index]
        return Findings(found) if isinstance(found, tuple) else found

    def __len__(self) -> int:
        return len(self._found)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self._found)

    @property
    def causes(self) -> list[str]:
        """The names of what was found."""
        return [finding.cause for finding in self]

    def __repr__(self) -> str:
        return "\n".join(map(str, self)) or "Nothing odd was found."

    def _repr_html_(self) -> str:
        if not self:
            return f"<p>{escape(repr(self))}</p>"
        parts = []
        for one in self:
            names = ("cause", one.cause), ("what", one.what), ("evidence", one.evidence)
            rows = [*names, ("cure", one.cure), ("section", one.section)]
            cells = (f"<tr><th>{name}</th><td>{escape(text)}</td></tr>" for name, text in rows)
            parts.append(f"<tbody>{''.join(cells)}</tbody>")
        return f'<table class="dataframe findings">{"".join(parts)}</table>'

    def to_frame(self) -> Any:
        """The findings as a table of pandas, a row for each."""
        import pandas

        return pandas.DataFrame(
            [asdict(one) for one in self], columns=[f.name for f in fields(Finding)]
        )
