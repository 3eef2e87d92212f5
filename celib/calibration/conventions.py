"""One name, six numbers: the binned error under the conventions of published code."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from celib.calibration.error import EDGE_RULE, Floats, events
from celib.scoring import assign, bin_edges


@dataclass(frozen=True)
class Convention:
    """The expected calibration error as one library computes it.

    Attributes:
        name: the library.
        value: its number.
        gap: how much it is above the number of celib.
        moved: how many predictions are in a bin of another index than in celib.
        dropped: how many are in no bin.
        reason: where the gap comes from.
    """

    name: str
    value: float
    gap: float
    moved: int
    dropped: int
    reason: str


def explain_ece(
    y_true: ArrayLike,
    y_prob: ArrayLike | None = None,
    *,
    logits: ArrayLike | None = None,
    kind: str | None = None,
    bins: int = 15,
) -> list[Convention]:
    """The same predictions under published conventions, with the reason for each gap.

    The rules are those of torchmetrics 1.9, netcal 1.4 (NumPy's histogram), Kumar et al. 2019
    (uncertainty-calibration 0.1.4), Guo et al. 2017 (``temperature_scaling`` of gpleiss),
    scikit-learn's ``calibration_curve`` (weighted by counts) and relplot 1.0, restated here in a
    few lines each; none of them is imported.

    Args:
        y_true, y_prob, logits, kind: as for :func:`celib.calibration.calibration_error`; ``kind``
            is "binary" or "confidence".
        bins: how many bins of equal width.

    Returns:
        A list of :class:`Convention`, celib's first.

    Raises:
        ValueError: as for :func:`celib.calibration.calibration_error`.

    Example: one bin, and a forecast of exactly 1.
        >>> for row in explain_ece([1, 0], [0.0, 1.0], bins=1)[:2]:
        ...     print(row.name, row.value, row.moved)
        celib 0.0 0
        torchmetrics 1.0 1
    """
    p, hit = events(y_true, y_prob, logits, kind)
    own = assign(p, bin_edges(p, bins, "uniform"))
    p32 = p.astype(np.float32)
    p = p.astype(np.float64, copy=False)
    single = _linspace_of_torch(bins)
    double = np.linspace(0, 1, bins + 1)
    exact = np.arange(1, bins) / bins

    left_closed = np.searchsorted(double[1:-1], p, side="right")
    above_zero = np.where(p32 > 0, np.searchsorted(single[1:-1], p32, side="left"), -1)
    rules: list[tuple[str, NDArray[np.int64], str]] = [
        ("celib", own, f"{EDGE_RULE}; edges k / {bins}, rounded once to the dtype of y_prob"),
        (
            "torchmetrics",
            np.searchsorted(single[1:], p32, side="right"),
            "[a, b), and 1 in a bin of its own; edges and sums in float32",
        ),
        ("netcal", left_closed, "[a, b), 1 in the last; edges of linspace"),
        ("kumar", np.searchsorted(exact, p, side="left"), f"(a, b]; edges k / {bins} in float64"),
        ("guo", above_zero, "(a, b], and 0 in no bin, yet counted in N; edges in float32"),
        (
            "sklearn",
            np.searchsorted(double[1:-1], p, side="left"),
            "(a, b], 0 in the first; edges of linspace",
        ),
        (
            "relplot",
            (p / (1.0 / bins)).astype(np.int64),
            f"[a, b) by the integer part of p / (1 / {bins}), 1 in a bin of its own",
        ),
    ]
    rows: list[Convention] = []
    for name, which, rule in rules:
        if name == "torchmetrics":
            value = _in_float32(which, p32, hit)
        else:
            kept = which >= 0
            residual = np.bincount(which[kept], (hit - p)[kept])
            value = float(np.abs(residual).sum() / p.size)
        dropped = int((which < 0).sum())
        moved = int((which != own).sum()) - dropped
        gap = value - (rows[0].value if rows else value)
        rows.append(Convention(name, value, gap, moved, dropped, _why(rule, moved, dropped, gap)))
    return rows


def _linspace_of_torch(bins: int) -> NDArray[np.float32]:
    """torch.linspace(0, 1, bins + 1): a float32 step, counted from the nearer end."""
    step = float(np.float32(1.0 / bins))
    k = np.arange(bins + 1)
    edges = np.where(k < (bins + 1) // 2, k * step, 1.0 - (bins - k) * step)
    return edges.astype(np.float32)


def _in_float32(which: NDArray[np.int64], p: Floats, hit: NDArray[np.bool_]) -> float:
    """Means and shares in float32, added one after the other as a scatter does."""
    size = int(which.max()) + 1
    order = np.argsort(which, kind="stable")
    total = np.zeros((3, size), dtype=np.float32)
    for k in np.unique(which):
        inside = order[which[order] == k]
        one = np.ones(inside.size, dtype=np.float32)
        for row, values in enumerate((one, p[inside], hit[inside].astype(np.float32))):
            total[row, k] = np.add.accumulate(values)[-1]
    used = total[0] > 0
    count, confidence, accuracy = total[:, used]
    share = count / np.float32(which.size)
    return float(np.sum(np.abs(accuracy / count - confidence / count) * share))


def _why(rule: str, moved: int, dropped: int, gap: float) -> str:
    effects = []
    if moved:
        effects.append(f"{moved} in another bin")
    if dropped:
        effects.append(f"{dropped} in no bin")
    if not effects and gap:
        effects.append("rounding of the sums")
    return rule if not effects else f"{rule}: {', '.join(effects)}"
