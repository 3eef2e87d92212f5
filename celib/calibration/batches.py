"""The calibration error of predictions that arrive in batches."""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from celib.arguments.errors import integer, one_of
from celib.arguments.samples import named_as_scikit_learn
from celib.calibration import null
from celib.calibration.bins import bin_edges, table
from celib.calibration.error import CalibrationError, Norm, measured, power_of
from celib.calibration.inputs import KINDS, Floats, sample


class CalibrationTable:
    """Sums over fixed bins, which batches of predictions add to and which add up themselves.

    Use it in a validation loop, or where all predictions together do not fit into memory.

    It holds a few numbers for each bin (and class), however many predictions it has seen. Batches
    of one dtype give the table that :func:`celib.calibration.calibration_error` makes of all of
    them at once, up to the rounding of sums.

    Args:
        bins: how many bins of equal width, or their edges from 0 to 1.
        kind: as for :func:`celib.calibration.calibration_error`.

    Raises:
        ValueError: the bins are not such, or ``kind`` is not known.

    Example: the errors of batches say less than the error of all; here each of them is 0.5.
        >>> one, two = CalibrationTable(bins=1), CalibrationTable(bins=1)
        >>> _ = one.update([0], [0.5]), two.update([1], [0.5])
        >>> one.error().value, two.error().value, (one + two).error().value
        (0.5, 0.5, 0.0)
    """

    def __init__(self, *, bins: int | ArrayLike = 15, kind: str | None = None) -> None:
        one_of("kind", kind, (None, *KINDS))
        self._given = bin_edges(np.zeros(1), bins, "uniform", None)
        self._edges = self._given
        self._bins = bins
        self._kind = kind
        self._tables: list[Floats] = []

    @named_as_scikit_learn
    def update(
        self,
        y_true: ArrayLike,
        y_prob: ArrayLike | None = None,
        *,
        logits: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Add predictions, given as to :func:`celib.calibration.calibration_error`."""
        given = sample(y_true, y_prob, logits, self._kind, sample_weight)
        found = []
        for p, hit in given.columns():
            edges = bin_edges(p, self._bins, "uniform", None)
            found.append(table(p, hit, given.w, edges))
        self._add(given.kind, edges, found)
        return self

    def __add__(self, other: CalibrationTable) -> CalibrationTable:
        """The table of the predictions of both."""
        if not isinstance(other, CalibrationTable):
            return NotImplemented
        if not np.array_equal(self._given, other._given):
            raise ValueError("the tables have other bins: expected the same edges")
        if None not in (self._kind, other._kind) and self._kind != other._kind:
            raise ValueError(
                f"the tables are of kind {self._kind!r} and {other._kind!r}: expected one kind"
            )
        result = CalibrationTable(bins=self._bins, kind=self._kind or other._kind)
        for part in (self, other):
            if part._tables:
                result._add(part._kind, part._edges, part._tables)
        return result

    def _add(self, kind: str | None, edges: Floats, tables: list[Floats]) -> None:
        if self._tables:
            if kind != self._kind or len(tables) != len(self._tables):
                raise ValueError(
                    f"predictions of kind {kind!r} in {len(tables)} columns: expected "
                    f"{self._kind!r} in {len(self._tables)}, as in the table"
                )
            tables = [a + b for a, b in zip(self._tables, tables, strict=True)]
        self._kind, self._edges, self._tables = kind, edges, tables

    def error(self, *, norm: Norm = "l1", resamples: int = 1000, seed: int = 0) -> CalibrationError:
        """The calibration error of all predictions.

        Args:
            norm, resamples, seed: as for :func:`celib.calibration.calibration_error`. The null is
                drawn bin by bin, as there for many predictions: the single forecasts are not kept.

        Returns:
            A :class:`celib.calibration.CalibrationError`.

        Raises:
            ValueError: there are no predictions, or an option is not known.
        """
        power = power_of(norm)
        resamples = integer("resamples", resamples, lambda n: n >= 0, "a whole number from 0 on")
        if not self._tables:
            raise ValueError("the table is empty: expected at least one update")

        def hits(rng: np.random.Generator, cells: Floats) -> Floats:
            return null.from_sums(rng, cells, resamples)

        edges = [self._edges] * len(self._tables)
        return measured(self._tables, edges, str(self._kind), power, hits, resamples, seed)
