"""Figures on training in practice."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from celib.plots.style import COLOURS

__all__ = ["learning_curve", "loss_by_rate", "surprising", "three_runs"]


def three_runs(curves: dict[str, np.ndarray]) -> Axes:
    """Mean losses by epoch of several runs, which may leave the plot below."""
    _, ax = plt.subplots(figsize=(6.4, 3.1))
    colours = COLOURS[1], COLOURS[4], COLOURS[0]
    for (name, curve), colour in zip(curves.items(), colours, strict=True):
        ax.plot(np.arange(1, len(curve) + 1), curve, color=colour, label=name)
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set(xlabel="epoch", ylabel="loss in nats", ylim=(-10, 4))
    ax.legend(loc="lower right")
    return ax


def learning_curve(train: np.ndarray, valid: np.ndarray, stop: int) -> Axes:
    """Losses by epoch on a logarithmic axis, and the epoch whose weights are kept."""
    _, ax = plt.subplots(figsize=(6.4, 3.1))
    epochs = np.arange(1, len(train) + 1)
    ax.plot(epochs, train, color=COLOURS[0], label="training")
    ax.plot(epochs, valid, color=COLOURS[1], label="validation")
    ax.plot([stop + 1], [valid[stop]], "o", color=COLOURS[1], label="kept")
    ax.set(xlabel="epoch", ylabel="loss in nats", yscale="log")
    ax.legend()
    return ax


def loss_by_rate(rates: Sequence[float], losses: np.ndarray, bound: float) -> Axes:
    """A loss against the learning rate, dots for the seeds, and a bound on the rate."""
    _, ax = plt.subplots(figsize=(6.4, 3.1))
    ax.axvline(bound, color="#666666", linestyle="--", linewidth=1, label="bound at the start")
    ax.plot(rates, losses.mean(axis=1), color=COLOURS[0])
    ax.plot(rates, losses, ".", color=COLOURS[0], markersize=5)
    ax.set(xscale="log", yscale="log", xlabel="learning rate", ylabel="validation loss in nats")
    ax.legend()
    return ax


def surprising(
    pictures: np.ndarray, labels: np.ndarray, answers: np.ndarray, losses: np.ndarray
) -> Axes:
    """Small pictures with their label, the model's answer and the loss of each."""
    figure = plt.figure(figsize=(6.4, 1.9))
    axes = [figure.add_subplot(1, len(pictures), n + 1) for n in range(len(pictures))]
    for ax, picture, label, answer, loss in zip(
        axes, pictures, labels, answers, losses, strict=True
    ):
        ax.imshow(picture, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[:].set_visible(False)
        ax.set_title(f"label {label}\nmodel {answer}", fontsize=9)
        ax.set_xlabel(f"{loss:.1f} nats", fontsize=9)
    return axes[0]
