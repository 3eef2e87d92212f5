"""The figures of the chapter on calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from celib.plots.style import COLOURS

if TYPE_CHECKING:
    from celib.calibration import ReliabilityCurve

__all__ = [
    "calibration_null",
    "expected_scores",
    "memorising",
    "noise_rates",
    "reliability_diagrams",
    "temperature_objective",
]


def expected_scores(
    report: np.ndarray, excess: Mapping[str, np.ndarray], truth: float, best: Sequence[float]
) -> Axes:
    """What a report costs beyond the best report: a line a score, its minimum marked."""
    words = {"brier": "Brier", "focal": r"focal, $\gamma=2$"}
    _, ax = plt.subplots()
    for (name, line), place, colour in zip(excess.items(), best, COLOURS, strict=False):
        ax.plot(report, line, color=colour, label=words.get(name, name))
        ax.plot(place, 0, "o", color=colour, markersize=6, clip_on=False, zorder=3)
    ax.axvline(truth, color="#666666", linestyle="--", linewidth=1)
    ax.set(xlabel="report $q$", ylabel="expected cost above the best", xlim=(0, 1), ylim=(0, 0.8))
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return ax


def memorising(
    steps: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    confidence: np.ndarray,
    accuracy: np.ndarray,
) -> Axes:
    """Losses, and confidence beside accuracy, by step of training: a line a seed."""
    _, (left, right) = plt.subplots(1, 2, figsize=(6.4, 3.1))
    for ax, lines, colour, name in (
        (left, test, COLOURS[1], "test"),
        (left, train, COLOURS[0], "training"),
        (right, confidence, COLOURS[1], "mean confidence"),
        (right, accuracy, COLOURS[0], "accuracy"),
    ):
        drawn = ax.plot(steps, lines.T, color=colour, linewidth=1.1)
        drawn[0].set_label(name)
    left.set(xlabel="step", ylabel="cross-entropy in nats", ylim=(0, None))
    right.set(xlabel="step", ylabel="share of the test images", ylim=(0, 1))
    left.legend()
    right.legend(loc="lower right")
    first: Axes = left
    return first


def calibration_null(sizes: np.ndarray, mean: np.ndarray, high: np.ndarray) -> Axes:
    """The ECE of a calibrated forecaster against the sample size, a row of lines a bin count."""
    _, ax = plt.subplots()
    for average, top, colour, bins in zip(mean, high, COLOURS, (5, 15, 50), strict=False):
        ax.plot(sizes, average, "o-", color=colour, markersize=4, label=f"{bins} bins")
        ax.plot(sizes, top, linestyle=":", color=colour)
    ax.plot([], [], linestyle=":", color="#666666", label="95 % point")
    ax.set(xscale="log", yscale="log", xlabel="sample size $N$", ylabel="ECE")
    ax.legend()
    return ax


def reliability_diagrams(curves: Mapping[str, ReliabilityCurve]) -> Axes:
    """Frequencies against confidence, a panel a model; the range that calibration would allow."""
    words = {"raw": "as trained", "tempered": "with a temperature", "capped": "and a ceiling"}
    _, panels = plt.subplots(1, len(curves), figsize=(6.4, 2.7), sharey=True, squeeze=False)
    for ax, (name, curve) in zip(panels[0], curves.items(), strict=True):
        x = curve.mean_prob
        ax.plot([0, 1], [0, 1], color="#666666", linewidth=1, linestyle="--")
        ax.vlines(x, curve.lower, curve.upper, color=COLOURS[5], linewidth=5, alpha=0.6)
        ax.plot(x, curve.frequency, "o", color=COLOURS[1], markersize=4)
        ax.set(xlabel="confidence", xlim=(0, 1), ylim=(0, 1), aspect="equal")
        ax.set_title(words.get(name, name), fontsize=9)
    first: Axes = panels[0, 0]
    first.set_ylabel("share right")
    return first


def temperature_objective(
    temperature: np.ndarray, loss: np.ndarray, best: np.ndarray, stopped: np.ndarray
) -> Axes:
    """Validation loss against the temperature, a line a seed: its minimum, and an early stop."""
    _, ax = plt.subplots()
    for line, place, stop in zip(loss, best, stopped, strict=True):
        ax.plot(temperature, line, color="#999999", linewidth=1)
        ax.plot(place, np.interp(place, temperature, line), "o", color=COLOURS[0], markersize=5)
        ax.plot(stop, np.interp(stop, temperature, line), "s", color=COLOURS[1], markersize=5)
    ax.plot([], [], "o", color=COLOURS[0], label="minimum")
    ax.plot([], [], "s", color=COLOURS[1], label="after 50 iterations")
    ax.set(xlabel="temperature $T$", ylabel="validation loss in nats")
    ax.set_xlim(temperature.min(), temperature.max())
    ax.legend()
    return ax


def noise_rates(rates: Sequence[float], accuracy: Mapping[str, np.ndarray]) -> Axes:
    """Accuracy on clean labels against the share of random labels: a line a loss, its seeds."""
    _, ax = plt.subplots()
    for (name, values), colour in zip(accuracy.items(), COLOURS, strict=False):
        ax.plot(rates, values.mean(-1), color=colour, label=name)
        ax.plot(rates, values, "o", color=colour, markersize=3.5, alpha=0.7)
    ax.set(xlabel="share of training labels drawn at random", ylabel="accuracy, clean test labels")
    ax.set(ylim=(0, 1), xticks=list(rates))
    ax.legend(loc="lower left")
    return ax
