"""The figures of the chapter on losses."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from celib.plots.style import COLOURS

__all__ = [
    "doubled_softmax",
    "loss_and_slopes",
    "loss_by_margin",
    "smoothed_loss",
    "training_step",
]


def training_step() -> Axes:
    """What a step of training reads and writes: a diagram."""
    _, ax = plt.subplots(figsize=(6.4, 2.3))
    places = {
        "input $x$": (0, 1),
        "model $\\theta$": (1, 1),
        "logits $z$": (2, 1),
        "loss $\\ell(\\mathbf{y},z)$": (3.1, 1),
        "target $\\mathbf{y}$": (3.1, 0),
        "optimiser": (1, 0),
        "gradient $\\nabla_\\theta\\ell$": (2, 0),
    }
    x, model, logits, loss, target, optimiser, gradient = places
    boxes = {}
    for name, place in places.items():
        colour = COLOURS[1] if name in (gradient, optimiser) else COLOURS[0]
        frame = {"boxstyle": "round", "facecolor": "white", "edgecolor": colour}
        boxes[name] = ax.text(*place, name, ha="center", va="center", bbox=frame)
    for start, stop, colour in (
        (x, model, COLOURS[0]),
        (model, logits, COLOURS[0]),
        (logits, loss, COLOURS[0]),
        (target, loss, COLOURS[0]),
        (loss, gradient, COLOURS[1]),
        (gradient, optimiser, COLOURS[1]),
        (optimiser, model, COLOURS[1]),
    ):
        ends = {"patchA": boxes[start].get_bbox_patch(), "patchB": boxes[stop].get_bbox_patch()}
        arrow = {"arrowstyle": "-|>", "color": colour, "shrinkA": 2, "shrinkB": 2, **ends}
        ax.annotate("", places[stop], places[start], arrowprops=arrow)
    ax.set(xlim=(-0.4, 3.6), ylim=(-0.35, 1.35))
    ax.set_axis_off()
    return ax


def loss_and_slopes(p: np.ndarray, loss: np.ndarray, in_p: np.ndarray, in_z: np.ndarray) -> Axes:
    """The loss of one example against the probability of its class, and how steep it is."""
    _, (left, right) = plt.subplots(1, 2, figsize=(6.4, 3.1))
    left.plot(p, loss)
    left.set(xlabel=r"probability $\hat p_c$", ylabel="loss in nats", xlim=(0, 1), ylim=(0, 5))
    right.plot(p, in_p, color=COLOURS[1], label=r"in $\hat p_c$: $1/\hat p_c$")
    right.plot(p, in_z, color=COLOURS[2], linestyle="--", label=r"in $z_c$: $1-\hat p_c$")
    right.set(xlabel=r"probability $\hat p_c$", ylabel="slope, without its sign")
    right.set(xlim=(0, 1), yscale="log", ylim=(0.01, 100))
    right.legend(loc="upper right")
    ax: Axes = left
    return ax


def loss_by_margin(margin: np.ndarray, losses: np.ndarray, classes: Sequence[int]) -> Axes:
    """The loss against the margin with all wrong classes tied: a line a number of classes."""
    _, ax = plt.subplots()
    for line, number, colour in zip(losses, classes, COLOURS, strict=False):
        ax.plot(margin, line, color=colour, label=f"$C={number}$")
    ax.plot(margin, np.maximum(-margin, 0), color="#666666", linestyle=":", label="$\\max(-m,0)$")
    ax.axvline(0, color="#666666", linewidth=0.8)
    ax.set(xlabel="margin $m$", ylabel="loss in nats", ylim=(0, None))
    ax.set_xlim(margin.min(), margin.max())
    ax.legend()
    return ax


def smoothed_loss(
    gap: np.ndarray, losses: np.ndarray, smoothing: Sequence[float], best: np.ndarray
) -> Axes:
    """The loss against the lead of the true class: a line an amount of smoothing, its minimum."""
    _, ax = plt.subplots()
    for line, amount, place, colour in zip(losses, smoothing, best, COLOURS, strict=False):
        ax.plot(gap, line, color=colour, label=rf"$\varepsilon={amount:g}$")
        if np.isfinite(place):
            ax.plot(place, np.interp(place, gap, line), "o", color=colour, markersize=5)
    ax.set(xlabel="lead of the true class over each other", ylabel="loss in nats", ylim=(0, None))
    ax.set_xlim(gap.min(), gap.max())
    ax.legend()
    return ax


def doubled_softmax(once: np.ndarray, twice: np.ndarray, floor: float) -> Axes:
    """Reported losses by epoch, a line a seed, with one softmax and with two."""
    _, ax = plt.subplots()
    epochs = np.arange(1, once.shape[-1] + 1)
    for lines, colour, name in (
        (twice, COLOURS[1], "two softmaxes"),
        (once, COLOURS[0], "one softmax"),
    ):
        drawn = ax.plot(epochs, lines.T, color=colour, linewidth=1.1)
        drawn[0].set_label(name)
    ax.axhline(floor, color="#666666", linestyle="--", linewidth=1, label="floor of two softmaxes")
    ax.set(xlabel="epoch", ylabel="reported loss in nats", ylim=(0, None), xticks=epochs[1::2])
    ax.legend()
    return ax
