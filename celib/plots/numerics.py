"""The figures of the chapter on numerics."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from celib.plots.style import COLOURS

__all__ = ["bound_and_error", "exponential_range", "scores_by_convention", "winners_loss"]


def exponential_range(
    names: Sequence[str], zero_below: np.ndarray, overflow: np.ndarray, resolution: np.ndarray
) -> Axes:
    """Where each format's exponential is a positive number, and where it is lost beside 1."""
    _, ax = plt.subplots(figsize=(6.4, 2.6))
    rows = np.arange(len(names))[::-1]
    ax.barh(rows, overflow - zero_below, left=zero_below, color=COLOURS[5], height=0.5)
    ax.plot(
        -resolution, rows, "|", color="black", markersize=19, markeredgewidth=1.8,
        label="$1 + e^x$ rounds to 1 from here to the left",
    )  # fmt: skip
    for row, low, high in zip(rows, zero_below, overflow, strict=True):
        ax.text(low, row + 0.34, "0", ha="center", fontsize=9)
        ax.text(high, row + 0.34, "$\\infty$", ha="center", fontsize=9)
    ax.set_xscale("symlog", linthresh=10)
    ticks = [-700, -100, -10, 0, 10, 100, 700]
    ax.set_xticks(ticks, [f"${tick}$" for tick in ticks])
    ax.set_xlim(-1500, 1500)
    ax.set_ylim(-1.15, len(names) - 0.3)
    ax.set_yticks(rows, names)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("$x$, where $e^x$ is finite and not 0")
    ax.legend(loc="lower right", fontsize=9)
    return ax


def winners_loss(
    gap: np.ndarray, shifted: Mapping[str, np.ndarray], log1p: Mapping[str, np.ndarray]
) -> Axes:
    """The relative error of a small loss, by format and formula, against the gap."""
    _, ax = plt.subplots()
    for name, colour in zip(shifted, COLOURS, strict=False):
        ax.semilogy(gap, shifted[name], "--", color=colour, label=f"{name}, shifted LSE $- z_c$")
        ax.semilogy(gap, log1p[name], color=colour, label=f"{name}, log1p")
    ax.axhline(1, color="#666666", linewidth=0.9, linestyle=":")
    ax.annotate("nothing left", (0.5, 1), (0, 3), textcoords="offset points")
    ax.set_ylim(1e-20, 1e2)
    ax.set_xlabel("gap between the right class and the other")
    ax.set_ylabel("relative error of the loss")
    ax.legend(loc="center right", bbox_to_anchor=(1, 0.37), fontsize=9)
    return ax


def bound_and_error(classes: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Axes:
    """Errors in units of their bounds: a row a class of inputs, its median bound at the right."""
    _, ax = plt.subplots(figsize=(6.4, 3.0))
    low = 1e-4
    for row, (bound, error) in zip(range(len(classes))[::-1], classes.values(), strict=True):
        height = row + np.linspace(-0.25, 0.25, len(error))
        ratio = np.maximum(error / bound, low)
        ax.semilogx(ratio, height, "o", color=COLOURS[0], markersize=3.5, alpha=0.7)
        size = f"$10^{{{np.log10(np.median(bound)):.0f}}}$"
        ax.text(1.25, row, size, va="center", fontsize=9)
    ax.axvline(1, color="black", linewidth=1)
    ax.text(1.25, len(classes) - 0.45, "bound", fontsize=9, va="bottom")
    ax.set_yticks(range(len(classes))[::-1], list(classes))
    ax.set_ylim(-0.5, len(classes) - 0.4)
    ax.grid(axis="y", visible=False)
    ax.set_xlim(0.8 * low, 4)
    ticks = [1e-4, 1e-3, 1e-2, 1e-1, 1]
    ax.set_xticks(ticks, ["$\\leq 10^{-4}$", "$10^{-3}$", "$10^{-2}$", "$10^{-1}$", "1"])
    ax.set_xlabel("error / bound")
    return ax


def scores_by_convention(
    exact: np.ndarray, clips: Mapping[str, float], *, name: str = "log-probabilities"
) -> Axes:
    """How many examples have at least a given loss, and where a clip cuts the tail off."""
    _, ax = plt.subplots()
    ordered = np.sort(exact)
    above = np.arange(len(ordered), 0, -1)
    ax.step(ordered, above, where="pre", color=COLOURS[0], label=f"{name}: the loss itself")
    for (kind, clip), colour in zip(clips.items(), COLOURS[1:], strict=False):
        ax.axvline(
            clip, color=colour, linestyle="--", label=f"{kind}: larger losses count {clip:.2f}"
        )
    ax.set_xscale("log")
    ax.set_xlim(1e-3, 3 * float(ordered[-1]))
    ax.set_ylim(0, 1.08 * float(above[ordered > 1e-3].max()))
    ax.set_xlabel("loss of an example, in nats")
    ax.set_ylabel("examples with this loss or more")
    ax.legend(loc="upper right", fontsize=9)
    return ax
