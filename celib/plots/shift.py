"""Figures on shifted data, noisy labels and distillation."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from celib.plots.style import COLOURS, ring, sheet

__all__ = [
    "covariate_shift",
    "label_channel",
    "moving_threshold",
    "noisy_labels",
    "soft_labels",
]


def covariate_shift(
    x: np.ndarray,
    truth: np.ndarray,
    fits: Mapping[str, np.ndarray],
    inputs: Mapping[str, np.ndarray],
) -> Axes:
    """A probability and two lines fitted to it, above the densities of old and new inputs."""
    _, (top, bottom) = plt.subplots(
        2, 1, figsize=(6.4, 4.0), sharex=True, height_ratios=(2, 1), squeeze=True
    )
    words = {"plain": "fitted to old inputs", "weighted": "fitted with weights"}
    few = slice(None, None, 8)  # for a small file
    x, truth = x[few], truth[few]
    top.plot(x, truth, color="0.25", label=r"truth $\eta(x)$")
    for (name, line), colour, style in zip(fits.items(), COLOURS, ("--", "-."), strict=False):
        top.plot(x, line[few], style, color=colour, label=words.get(name, name))
    for (name, density), colour in zip(inputs.items(), COLOURS, strict=False):
        bottom.fill_between(x, density[few], color=colour, alpha=0.45, label=f"{name} inputs")
    top.set(ylabel="probability of 1", ylim=(0, 1), xlim=(x[0], x[-1]))
    bottom.set(xlabel="$x$", ylabel="density", ylim=(0, None))
    top.legend(loc="lower center")
    bottom.legend(loc="upper left")
    first: Axes = top
    return first


def label_channel(channel: np.ndarray, clean: np.ndarray) -> Axes:
    """Clean labels on the left, noisy ones on the right, a line as wide as its probability.

    Below are the distribution ``clean`` and the one that the ``channel`` makes of it, as bars.
    """
    classes = len(clean)
    ax, write = sheet(614, 330)
    left, right, top, step = 190, 424, 44, 52
    y = top + step * np.arange(classes)
    write(left, 20, "clean label", "center")
    write(right, 20, "noisy label", "center")
    for k in range(classes):
        for j in range(classes):
            look = {"color": COLOURS[k], "linewidth": 0.6 + 9 * channel[k, j]}
            ax.plot([left, right], y[[k, j]], alpha=0.55, solid_capstyle="round", **look)
    for k in range(classes):
        for x in (left, right):
            ring(ax, x, y[k], f"{k + 1}", COLOURS[k], size=21)
        write(right + 24, y[k] + 4, f"from {k + 1}: {channel[k, k]:.2g}")
    others = channel[0, 1]
    write(right + 24, y[-1] + 24, f"others: {others:.2g}")
    floor, wide = 306, 34
    for x, p, name in ((left, clean, "$p^*$"), (right, clean @ channel, "$p^*W$")):
        for k, value in enumerate(p):
            place, high = x + wide * (k - (classes - 1) / 2), 90 * float(value)
            ax.bar(place, -high, wide - 8, floor, color=COLOURS[k], alpha=0.75)
            write(place, floor - high - 4, f"{value:.2g}", "center")
        write(x, floor + 17, name, "center")
    return ax


def moving_threshold(
    x: np.ndarray, densities: Sequence[np.ndarray], shares: Sequence[float]
) -> Axes:
    """Two classes' densities times their shares, a panel a share: where they cross, one decides."""
    _, panels = plt.subplots(1, len(shares), figsize=(6.4, 2.9), sharey=True)
    for ax, share in zip(panels, shares, strict=True):
        for scale, density, colour, name in zip(
            (1 - share, share), densities, COLOURS, ("class 0", "class 1"), strict=False
        ):
            ax.fill_between(x, scale * density, color=colour, alpha=0.45, label=name)
        gap = np.log((1 - share) * densities[0]) - np.log(share * densities[1])
        cut = float(np.interp(0, -gap, x))
        ax.axvline(cut, color="0.25", linestyle="--", linewidth=1.2)
        ax.set_title(rf"share of class 1: {share:g}", fontsize=9)
        ax.set(xlabel="$x$", xlim=(x[0], x[-1]))
    first: Axes = panels[0]
    first.set(ylabel="share times density", ylim=(0, 0.4))
    panels[-1].legend(loc="upper right")
    return first


def noisy_labels(
    rates: Sequence[float], accuracy: Mapping[str, np.ndarray], loss: Mapping[str, np.ndarray]
) -> Axes:
    """Accuracy and log loss on clean labels against the noise: a line a method, dots for seeds."""
    _, (left, right) = plt.subplots(1, 2, figsize=(6.4, 3.1))
    words = {"CE": "cross-entropy", "GCE": "generalised", "forward": "forward"}
    for ax, measured in ((left, accuracy), (right, loss)):
        for (name, values), colour, mark in zip(measured.items(), COLOURS, "os^", strict=False):
            ax.plot(rates, values.mean(-1), color=colour, label=words.get(name, name))
            ax.plot(rates, values, mark, color=colour, markersize=3.5, alpha=0.7)
        ax.set(xlabel="noise rate", xticks=list(rates))
    left.set(ylabel="accuracy, clean labels", ylim=(0.8, 1), yticks=(0.8, 0.85, 0.9, 0.95, 1))
    right.set(ylabel="log loss in nats, clean labels", ylim=(0, None))
    left.legend(loc="lower left")
    first: Axes = left
    return first


def soft_labels(image: np.ndarray, shares: Mapping[float, np.ndarray]) -> Axes:
    """A digit beside the probabilities that a teacher gives its classes at some temperatures."""
    _, (left, right) = plt.subplots(1, 2, figsize=(6.4, 2.7), width_ratios=(1, 2.6))
    left.pcolormesh(image[::-1], cmap="gray_r", edgecolors="none")
    left.set_aspect("equal")
    left.set_axis_off()
    classes, width = np.arange(len(next(iter(shares.values())))), 0.8 / len(shares)
    for n, ((temperature, p), colour) in enumerate(zip(shares.items(), COLOURS, strict=False)):
        place = classes + width * (n - (len(shares) - 1) / 2)
        right.bar(place, p, width, color=colour, label=f"$T={temperature:g}$")
    right.set(xlabel="class", ylabel="probability", xticks=classes)
    right.grid(axis="x", visible=False)
    right.legend()
    first: Axes = right
    return first
