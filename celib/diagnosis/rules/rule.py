"""What a rule is: the texts of one cause, and the function that finds its evidence in a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from celib.diagnosis.findings import Finding
from celib.diagnosis.given import Batch

Evidence = Callable[[Batch], str | None]


@dataclass(frozen=True)
class Rule:
    """One cause: what is said of it, and how it is recognised."""

    cause: str
    section: str
    what: str  #: also the harmless explanation, if there is one
    cure: str
    certain: bool
    evidence: Evidence  #: how it is known of this batch, or None

    def look(self, batch: Batch) -> Finding | None:
        evidence = self.evidence(batch)
        if evidence is None:
            return None
        return Finding(self.cause, self.what, evidence, self.cure, self.section, self.certain)


def rule(
    rules: list[Rule], cause: str, section: str, *, what: str, cure: str, certain: bool = True
) -> Callable[[Evidence], Evidence]:
    """Put a function that finds evidence into a list of rules, with the texts of its cause."""

    def add(evidence: Evidence) -> Evidence:
        rules.append(Rule(cause, section, what, cure, certain, evidence))
        return evidence

    return add


def number(x: float) -> str:
    """Four significant digits."""
    return f"{x:.4g}"
