"""Figures on rare classes, noisy labels, shifted data and distillation."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from celib.plots.style import COLOURS

__all__ = [
    "class_weights",
    "covariate_shift",
    "easy_negatives",
    "moving_threshold",
    "noisy_labels",
    "soft_labels",
]


def class_weights(eta: np.ndarray, learned: Mapping[float, np.ndarray]) -> Axes:
    """What a weight makes a model report: a line a weight, as probabilities and as log-odds."""
    _, (left, right) = plt.subplots(1, 2, figsize=(6.4, 3.2))
    left.axhline(0.5, color="#666666", linewidth=1, linestyle="--")
    right.axhline(0, color="#666666", linewidth=1, linestyle="--")
    for (weight, report), colour in zip(learned.items(), COLOURS, strict=False):
        left.plot(eta, report, color=colour, label=f"$w={weight:g}$")
        left.plot(1 / (1 + weight), 0.5, "o", color=colour, markersize=5, zorder=3)
        right.plot(*(np.log(p / (1 - p)) for p in (eta, report)), color=colour)
        right.plot(-np.log(weight), 0, "o", color=colour, markersize=5, zorder=3)
    left.set(xlabel=r"probability $\eta$", ylabel="reported probability", xlim=(0, 1), ylim=(0, 1))
    right.set(xlabel=r"log-odds of $\eta$", ylabel="reported log-odds", xlim=(-8, 4), ylim=(-8, 8))
    right.set(xticks=(-8, -4, 0, 4))
    left.legend(loc="lower right")
    first: Axes = left
    return first


def easy_negatives(report: np.ndarray, ratio: Mapping[float, np.ndarray]) -> Axes:
    """Loss of all background in units of one face's, against what background is reported as."""
    _, ax = plt.subplots(figsize=(6.4, 3.2))
    for (gamma, line), colour in zip(ratio.items(), COLOURS, strict=False):
        ax.plot(report, line, color=colour, label=rf"$\gamma={gamma:g}$")
    ax.axhline(1, color="#666666", linewidth=1, linestyle="--")
    ax.set(xscale="log", yscale="log", xlim=(report.max(), report.min()), ylim=(1e-4, 3e3))
    ax.set_xlabel("probability of a face reported for each background window")
    ax.set_ylabel("loss of 999 background\nwindows / loss of a face")
    ax.legend(loc="lower left")
    return ax


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
