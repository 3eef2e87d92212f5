"""What is wrong with a loss that is NaN, stuck or odd.

:func:`diagnose` looks at a batch: logits, targets, and the number that came of them.
:func:`doctor` looks at a loss function. Both return :class:`Findings`: a sequence of
:class:`Finding`, each with its evidence and a cure, which is empty where nothing is odd. What is in
order is never accused; a finding that has a harmless explanation says so, and is not ``certain``.

A batch that was saved is looked at from the command line too::

    python -m celib.diagnosis batch.pt
"""

from celib.diagnosis.batch import diagnose
from celib.diagnosis.findings import Finding, Findings
from celib.diagnosis.losses import doctor

__all__ = ["Finding", "Findings", "diagnose", "doctor"]


def __dir__() -> list[str]:
    return sorted(__all__)
