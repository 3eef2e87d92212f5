"""Figures on rare classes: weights, thresholds and the focal loss."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from celib.plots.style import COLOURS

__all__ = [
    "class_weights",
    "compromise",
    "costs_of_decisions",
    "easy_negatives",
    "fitted_slopes",
    "focal_reports",
    "quotients",
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


def costs_of_decisions(missed: float) -> Axes:
    """Mean costs of silence and of an alarm against the probability; a false alarm costs 1."""
    _, ax = plt.subplots(figsize=(6.4, 2.9))
    eta, cut = np.linspace(0, 0.3, 61), 1 / (1 + missed)
    silence, alarm = missed * eta, 1 - eta
    ax.plot(eta, silence, color=COLOURS[0], label=rf"silence, ${missed:g}\,\eta$")
    ax.plot(eta, alarm, "--", color=COLOURS[1], label=r"alarm, $1-\eta$")
    cheaper = np.minimum(silence, alarm)
    ax.fill_between(eta, 0, cheaper, where=eta <= cut + 1e-9, color=COLOURS[0], alpha=0.2)
    ax.fill_between(eta, 0, cheaper, where=eta >= cut - 1e-9, color=COLOURS[1], alpha=0.2)
    ax.plot(cut, 1 - cut, "o", color="0.25", zorder=3)
    ax.annotate(
        rf"$\frac{{1}}{{{1 + missed:g}}}$", (cut, 1 - cut), (-6, 12), textcoords="offset points"
    )
    ax.set(xlabel=r"probability $\eta$ of a face", ylabel="mean cost", xlim=(0, 0.3), ylim=(0, 2.2))
    ax.legend(loc="upper left")
    return ax


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


def fitted_slopes(slopes: Mapping[str, Sequence[float]], truth: float) -> Axes:
    """Slopes that several ways of fitting found, a row of dots and their mean for each way."""
    _, ax = plt.subplots(figsize=(6.4, 2.6))
    places = np.arange(len(slopes))[::-1]
    words = {"plain": "plain", "w = 500": "weight 500", "r = 0.01": "1 in 100 kept"}
    for place, values, colour in zip(places, slopes.values(), COLOURS, strict=False):
        up = np.linspace(-0.22, 0.22, 7)[np.arange(len(values)) % 7]
        ax.plot(values, place + up, "o", color=colour, markersize=3, alpha=0.6)
        ax.plot([np.mean(values)] * 2, [place - 0.36, place + 0.36], color=colour, linewidth=3)
    ax.axvline(truth, color="0.25", linestyle="--", linewidth=1.2)
    ax.set_yticks(places, [words.get(name, name) for name in slopes])
    ax.grid(axis="y", visible=False)
    ax.set(xlabel="fitted slope", ylim=(-0.6, len(slopes) - 0.4))
    return ax


def focal_reports(report: np.ndarray, truth: Mapping[float, np.ndarray]) -> Axes:
    """What an ideal model reports under focal losses, against the true probability."""
    _, ax = plt.subplots(figsize=(6.4, 3.2))
    ax.axhline(0.5, color="#666666", linewidth=0.8, linestyle=":")
    ax.axvline(0.5, color="#666666", linewidth=0.8, linestyle=":")
    for (gamma, eta), colour, line in zip(truth.items(), COLOURS, ("-", "--", "-."), strict=False):
        ax.plot(eta, report, line, color=colour, label=rf"$\gamma={gamma:g}$")
    ax.set(xlabel=r"true probability $\eta$", ylabel="reported probability")
    ax.set(xlim=(0, 1), ylim=(0, 1))
    ax.legend(loc="upper left")
    return ax


def compromise(curve: np.ndarray, dots: Mapping[str, np.ndarray]) -> Axes:
    """What is explained of two tasks: a curve over their weights, and some choices on it."""
    _, ax = plt.subplots(figsize=(6.4, 2.9))
    ax.plot(*curve.T, color=COLOURS[0])
    words = {"learned, 1": "learned weights", "sum, 1": "sum", "sum, 0.01": "sum, hundreds"}
    for (name, place), mark, colour in zip(dots.items(), "os^", COLOURS[1:], strict=False):
        ax.plot(*place, mark, color=colour, markersize=8, label=words.get(name, name), zorder=3)
    ax.set(xlabel="explained share of progress", ylabel="explained share\nof the blood value")
    ax.legend(loc="lower left")
    return ax


def quotients(shares: np.ndarray, p: np.ndarray, names: Sequence[str]) -> Axes:
    """Probabilities, the shares of the classes, and the one divided by the other, as bars."""
    _, panels = plt.subplots(1, 3, figsize=(6.4, 2.5))
    rows = ((p, "$p^*$"), (shares, r"$\pi$"), (p / shares, r"$p^*/\pi$"))
    for ax, (values, name), colour in zip(panels, rows, COLOURS, strict=False):
        ax.bar(range(len(values)), values, 0.6, color=colour)
        for k, value in enumerate(values):
            ax.annotate(f"{value:.2g}", (k, value), (0, 3), textcoords="offset points", ha="center")
        ax.set_xticks(range(len(values)), names)
        ax.set_title(name, fontsize=11)
        ax.set(ylim=(0, 1.15 * values.max()))
        ax.grid(axis="x", visible=False)
    first: Axes = panels[0]
    return first
