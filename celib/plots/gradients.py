"""The figures of the chapter on gradients."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from celib.plots.style import COLOURS, draw_simplex, on_simplex

__all__ = [
    "descent_field",
    "epochs_compared",
    "gradient_by_layer",
    "loss_and_slope",
    "losses_of_a_weight",
    "steps_to_cross",
]

# One colour a loss, in every figure of the chapter.
_LOSSES = (("cross-entropy", COLOURS[0], "-"), ("squared error", COLOURS[1], "--"))


def loss_and_slope(logit: np.ndarray, losses: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    """Two losses of a logit whose target is 1, and the size of their derivatives: rows a loss."""
    _, axes = plt.subplots(1, 2, figsize=(7.2, 3.2))
    for ax, rows in zip(axes, (losses, np.abs(slopes)), strict=True):
        for row, (name, colour, style) in zip(rows, _LOSSES, strict=True):
            ax.plot(logit, row, color=colour, linestyle=style, label=name)
        ax.set_xlabel("logit $z$; the target is 1")
    axes[0].set_ylabel("loss")
    axes[1].set_ylabel("size of the derivative by $z$")
    axes[0].legend(loc="upper right")
    return np.asarray(axes)


def descent_field(
    p: np.ndarray, velocity: np.ndarray, gains: np.ndarray, border: np.ndarray
) -> Axes:
    """Where a gradient step sends distributions on three classes; class 1 is right.

    ``gains`` marks the points at which class 3 gains; ``border`` is the line where it does not
    change.
    """
    ax = draw_simplex(["class 1 (right)", "class 2", "class 3"])
    ax.plot(*on_simplex(border), color="#666666", linestyle="--", linewidth=1)
    x, y = on_simplex(p)
    # The map to the plane is linear, up to a shift that a difference does not see.
    u, v = on_simplex(velocity)
    for mask, colour, name in (
        (~gains, COLOURS[0], "class 3 loses"),
        (gains, COLOURS[1], "class 3 gains"),
    ):
        ax.quiver(
            x[mask],
            y[mask],
            u[mask],
            v[mask],
            color=colour,
            label=name,
            angles="xy",
            scale_units="xy",
            scale=2.5,
            width=0.006,
        )
    ax.legend(loc="upper left", fontsize=9, bbox_to_anchor=(-0.1, 1.0))
    return ax


def steps_to_cross(
    starts: np.ndarray, steps: np.ndarray, grid: np.ndarray, times: np.ndarray
) -> Axes:
    """Steps until a logit that starts at a negative value is positive; rows are losses.

    ``times`` holds, on ``grid``, the limits for small steps.
    """
    _, ax = plt.subplots()
    for row, time, (name, colour, style) in zip(steps, times, _LOSSES, strict=True):
        ax.semilogy(grid, time, color=colour, linestyle=style, linewidth=1.2)
        ax.semilogy(starts, row, "o", color=colour, label=name)
    ax.set_xlabel("logit at the start; the target is 1")
    ax.set_ylabel("steps of size 1")
    ax.legend(loc="upper right")
    return ax


def epochs_compared(results: Mapping[str, np.ndarray], epochs: int) -> Axes:
    """Epochs with cross-entropy (row 0) and squared error (row 1); infinite is never."""
    _, ax = plt.subplots(figsize=(5.2, 4.2))
    never = 1.5 * epochs
    line = np.array([2.0, never])
    for factor, style in ((1, "-"), (3, "--"), (5, "--")):
        ax.plot(line, factor * line, color="#999999", linewidth=0.9, linestyle=style)
        ax.annotate(f"{factor}", (2.05, factor * 2.05), (-3, 3), textcoords="offset points")
    for (name, pair), marker, colour in zip(results.items(), "osD^", COLOURS, strict=False):
        shown = np.where(np.isfinite(pair), pair, never)
        ax.plot(*shown, marker, color=colour, label=name, markersize=7, alpha=0.8)
    ticks = [2, 5, 10, 20]
    ax.set_xscale("log")
    ax.set_yscale("log")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_ticks([*ticks, never], labels=[*map(str, ticks), "never"])
        axis.set_ticks([], minor=True)
    ax.set_xlim(1.9, 1.15 * never)
    ax.set_ylim(1.9, 1.15 * never)
    ax.set_xlabel("epochs with cross-entropy")
    ax.set_ylabel("epochs with squared error")
    ax.legend(loc="lower right", fontsize=9)
    return ax


def gradient_by_layer(sizes: Mapping[str, np.ndarray], names: Sequence[str]) -> Axes:
    """Norm of the gradient of each layer's weights, a pair of lines a network, a line a loss."""
    _, ax = plt.subplots()
    for pair, net, marker in zip(sizes.values(), names, "os^", strict=False):
        for row, (loss, colour, style) in zip(pair, _LOSSES, strict=True):
            layers = np.arange(1, len(row) + 1)
            ax.semilogy(layers, row, style, color=colour, marker=marker, label=f"{net}, {loss}")
    ax.set_xticks(layers)
    ax.set_xlabel("layer, counted from the input")
    ax.set_ylabel("norm of the gradient")
    ax.legend(loc="lower right", fontsize=9)
    return ax


def losses_of_a_weight(weight: np.ndarray, losses: np.ndarray, minima: np.ndarray) -> np.ndarray:
    """Two mean losses of a neuron with one weight; rows of ``minima`` are weight and loss."""
    _, axes = plt.subplots(1, 2, figsize=(7.2, 3.2))
    for ax, row, (name, colour, _) in zip(axes, losses, _LOSSES, strict=True):
        ax.plot(weight, row, color=colour)
        ax.set_title(name, fontsize=10.5)
        ax.set_xlabel("weight")
    axes[1].plot(*minima.T, "o", color="black", markersize=5)
    axes[0].set_ylabel("mean loss of four points")
    return np.asarray(axes)
