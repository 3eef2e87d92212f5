"""One name, seven numbers: the binned error under the conventions of published code."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray

from celib.arguments.errors import integer, one_of
from celib.arguments.samples import named_as_scikit_learn
from celib.calibration.bins import EDGE_RULE, assign, bin_edges
from celib.calibration.inputs import Floats, sample


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


@named_as_scikit_learn
def explain_ece(
    y_true: ArrayLike,
    y_prob: ArrayLike | None = None,
    *,
    logits: ArrayLike | None = None,
    kind: str | None = None,
    bins: int = 15,
    sample_weight: ArrayLike | None = None,
) -> list[Convention]:
    """The same predictions under published conventions, with the reason for each gap.

    Use it when two libraries report different calibration errors of the same predictions. To
    measure calibration, use :func:`calibration_error`.

    The rules are those of torchmetrics 1.9 (its binary error for "binary" and its multiclass error
    for "confidence"), netcal 1.4 (NumPy's histogram), Kumar et al. 2019 (uncertainty-calibration
    0.1.4), Guo et al. 2017 (``temperature_scaling`` of gpleiss), scikit-learn's
    ``calibration_curve`` (weighted by counts) and relplot 1.0, restated here in a few lines each;
    none of them is imported. Several depend on the dtype of the forecasts, which is therefore kept.

    Args:
        y_true, y_prob, logits, kind: as for :func:`celib.calibration.calibration_error`; ``kind``
            is "binary" or "confidence". bfloat16 counts as float32.
        bins: how many bins of equal width.
        sample_weight: shape (N), at least 0. None of these libraries takes weights: a row then is
            about its bins and its dtypes, with weighted sums.

    Returns:
        A list of :class:`Convention`, celib's first.

    Raises:
        TypeError, ValueError, UserWarning: as for :func:`celib.calibration.calibration_error`.

    Example: one bin, and a forecast of exactly 1; a float64 of 0.3 that is below an edge.
        >>> for row in explain_ece([1, 0], [0.0, 1.0], bins=1)[:2]:
        ...     print(row.name, row.value, row.moved)
        celib 0.0 0
        torchmetrics 1.0 1
        >>> [round(row.value, 3) for row in explain_ece([0, 1], [0.3, 0.35], bins=10)[:2]]
        [0.475, 0.475]
    """
    bins = integer("bins", bins, lambda n: n >= 1, "a whole number from 1 on")
    if kind == "classwise":
        one_of("kind", kind, ("binary", "confidence"))
    given = sample(y_true, y_prob, logits, kind, sample_weight)
    [(p, hit)] = given.columns()
    w = np.ones(p.size) if given.w is None else given.w
    own = assign(p, bin_edges(p, bins, "uniform", None))
    wide = p.astype(np.float64, copy=False)
    evenly = np.linspace(0, 1, bins + 1)
    exact = np.arange(1, bins) / bins
    # torchmetrics makes float32 of the confidences of several classes.
    tensor = p if given.kind == "binary" else p.astype(np.float32, copy=False)
    # Guo's edges are Python's floats from a float32 tensor, which torch rounds to a narrower dtype.
    single = _linspace_of_torch(bins, np.dtype(np.float32))[:-1]
    above = np.searchsorted(single.astype(p.dtype), p, side="left") - 1
    # netcal's forecasts are at least a rounding away from 0 and 1.
    eps = np.finfo(p.dtype).eps
    inside = p.clip(eps, 1 - eps)

    rules: list[tuple[str, NDArray[np.int64], str]] = [
        ("celib", own, f"{EDGE_RULE}; edges k / {bins}, rounded once to the dtype of y_prob"),
        (
            "torchmetrics",
            np.searchsorted(_linspace_of_torch(bins, tensor.dtype)[1:], tensor, side="right"),
            f"[a, b), and 1 in a bin of its own; edges and sums in {tensor.dtype}",
        ),
        (
            "netcal",
            np.searchsorted(evenly[1:-1].astype(p.dtype), inside, side="right"),
            "[a, b), 1 in the last; edges of linspace",
        ),
        (
            "kumar",
            np.searchsorted(exact, wide, side="left"),
            f"(a, b]; edges k / {bins} in float64",
        ),
        ("guo", above, "(a, b], and 0 in no bin, yet counted in N; edges in float32"),
        (
            "sklearn",
            np.searchsorted(evenly[1:-1], wide, side="left"),
            "(a, b], 0 in the first; edges of linspace",
        ),
        (
            "relplot",
            (p / p.dtype.type(1.0 / bins)).astype(np.int64),
            f"[a, b) by the integer part of p / (1 / {bins}), 1 in a bin of its own",
        ),
    ]
    rows: list[Convention] = []
    for name, which, rule in rules:
        if name == "torchmetrics":
            value = _in_one_dtype(which, tensor, hit, w)
        elif name == "netcal":
            share = np.bincount(np.searchsorted(evenly[1:-1], inside, side="right"), w, bins)
            value = _of_means(which, inside, hit, w, share / w.sum())
        elif name == "guo":
            kept = which >= 0
            share = np.bincount(which[kept], w[kept], bins)
            value = _of_means(which[kept], p[kept], hit[kept], w[kept], share / w.sum(), p.dtype)
        else:
            residual = np.bincount(which, w * (hit - wide))
            value = float(np.abs(residual).sum() / w.sum())
        dropped = int((which < 0).sum())
        moved = int((which != own).sum()) - dropped
        gap = value - (rows[0].value if rows else value)
        rows.append(Convention(name, value, gap, moved, dropped, _why(rule, moved, dropped, gap)))
    return rows


def _linspace_of_torch(bins: int, dtype: np.dtype) -> Floats:
    """torch.linspace(0, 1, bins + 1) on a CPU: a rounded step, counted from the nearer end."""
    one = dtype.type(1)
    step = one / dtype.type(bins)
    front = [k for k in range(bins + 1) if k < (bins + 1) // 2]
    back = [bins - k for k in range(len(front), bins + 1)]
    if dtype == np.float16:  # every operation is rounded
        ends = [np.array(k, dtype=dtype) * step for k in (front, back)]
        return np.concatenate([ends[0], one - ends[1]])
    # A processor multiplies and subtracts with one rounding (FMA).
    exact = Fraction(float(step))
    edges = [float(k * exact) for k in front] + [float(1 - k * exact) for k in back]
    return np.array(edges).astype(dtype)


def _in_one_dtype(which: NDArray[np.int64], p: Floats, hit: NDArray[np.bool_], w: Floats) -> float:
    """Means and shares in the dtype of p, added one after the other as a scatter does."""
    total = np.zeros((3, int(which.max()) + 1), dtype=p.dtype)
    wide = np.promote_types(p.dtype, np.float32)  # torch adds float16 up in float32
    v = w.astype(wide)
    order = np.argsort(which, kind="stable")
    start = np.flatnonzero(np.diff(which[order], prepend=-1))
    for inside in np.split(order, start[1:]):
        for row, values in enumerate((v, v * p, v * hit)):
            total[row, which[inside[0]]] = np.add.accumulate(values[inside])[-1]
    count, confidence, accuracy = total[:, total[0] > 0]
    share = count / count.sum()
    return float(np.sum(np.abs(accuracy / count - confidence / count) * share))


def _of_means(
    which: NDArray[np.int64],
    p: Floats,
    hit: NDArray[np.bool_],
    w: Floats,
    share: Floats,
    dtype: np.dtype | None = None,
) -> float:
    """Gaps between the means of bins, the forecasts' in a dtype, weighted by ``share``.

    netcal takes the means with edges of the dtype of p, and the shares with those of float64.
    """
    mass, confidence, accuracy = (np.bincount(which, v, share.size) for v in (w, w * p, w * hit))
    used = mass > 0
    mean = (confidence[used] / mass[used]).astype(dtype or np.float64).astype(np.float64)
    gap = np.abs(mean - accuracy[used] / mass[used])
    return float((gap * share[used]).sum())


def _why(rule: str, moved: int, dropped: int, gap: float) -> str:
    effects = []
    if moved:
        effects.append(f"{moved} in another bin")
    if dropped:
        effects.append(f"{dropped} in no bin")
    if not effects and gap:
        effects.append("rounding of the sums")
    return rule if not effects else f"{rule}: {', '.join(effects)}"
