"""Figures on training in practice."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from celib.plots.style import COLOURS, sheet

__all__ = [
    "descent_bound",
    "early_stopping",
    "found_and_repaired",
    "rates",
    "surprising_images",
    "three_parts",
]


def found_and_repaired(found: np.ndarray, freed: np.ndarray, repaired: np.ndarray) -> Axes:
    """Reported losses by epoch: a script with its loader, without its sigmoid, and repaired."""
    _, ax = plt.subplots()
    epochs = np.arange(1, len(found) + 1)
    ax.axhspan(-9, 0, color="#999999", alpha=0.18, linewidth=0)
    ax.plot(epochs, repaired.T, color=COLOURS[2], linewidth=1.2)
    ax.plot(epochs, found, color=COLOURS[1])
    inside = freed > -30
    ax.plot(epochs[inside], freed[inside], "--", color=COLOURS[0])
    ax.text(len(epochs), 0.55, "repaired, five seeds", color=COLOURS[2], ha="right")
    ax.text(len(epochs), -4.6, "with the loader", color=COLOURS[1], ha="right")
    words = f"without the sigmoid, on its way to {freed[-1]:.0f}".replace("-", "\N{MINUS SIGN}")
    ax.text(epochs[inside][0] + 1.1, -7.6, words, color=COLOURS[0])
    ax.text(len(epochs), -0.75, "no cross-entropy of labels is here", color="0.4", ha="right")
    ax.set(xlabel="epoch", ylabel="reported loss in nats", ylim=(-9, 3))
    ax.set(xlim=(0.5, len(epochs) + 0.5), xticks=epochs[4::5])
    ax.grid(axis="x", visible=False)
    return ax


def three_parts(sizes: Mapping[str, int]) -> Axes:
    """A diagram: three parts of the data, what each decides, and what may flow back."""
    width, height = 614, 196
    ax, write = sheet(width, height)
    words = {
        "train": ("training", "weights", "every step"),
        "val": ("validation", "stop, rate, temperature", "now and then"),
        "test": ("test", "the report", "once"),
    }
    left, total, full = 12.0, sum(sizes.values()), width - 24 - 16
    for (name, size), colour in zip(sizes.items(), COLOURS, strict=False):
        part, decides, often = words[name]
        wide = full * size / total
        ax.barh(40, wide, 40, left, align="edge", color=colour)
        middle = left + wide / 2
        ax.text(middle, 64, f"{size}", ha="center", color="white", fontsize=10, weight="bold")
        write(middle, 30, part, "center", "bold")
        _arrow(ax, (middle, 84), (middle, 112))
        write(middle, 126, decides, "center")
        if name != "test":
            _arrow(ax, (middle, 134), (middle, 160))
        else:
            ax.plot([middle, middle], [134, 146], color="0.35", linewidth=1)
            ax.plot([middle - 9, middle + 9], [146, 146], color="0.35", linewidth=2)
            write(middle, 166, "nothing goes back", "center")
        write(middle, 14, often, "center")
        left += wide + 8
    ax.barh(160, full * (sizes["train"] + sizes["val"]) / total + 8, 24, 12, align="edge",
            color="none", edgecolor="0.35", linewidth=1)  # fmt: skip
    write(12 + full * (sizes["train"] + sizes["val"]) / total / 2, 176, "the model", "center")
    return ax


def _arrow(ax: Axes, start: tuple[float, float], stop: tuple[float, float]) -> None:
    line = {"arrowstyle": "-|>", "linewidth": 1.2, "color": "0.35", "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", stop, start, arrowprops=line)


def early_stopping(histories: Sequence[np.ndarray], best: Sequence[int], patience: int) -> Axes:
    """Training and validation loss by epoch, a run a split: the first is drawn heavily.

    A history has a row for each epoch: the mean training loss, and the validation loss.
    """
    _, ax = plt.subplots()
    for number, history in reversed(list(enumerate(histories))):
        epochs = np.arange(1, len(history) + 1)
        heavy = number == 0
        width, alpha = (2.0, 1.0) if heavy else (0.9, 0.45)
        for column, colour in ((0, COLOURS[0]), (1, COLOURS[1])):
            ax.plot(epochs, history[:, column], color=colour, linewidth=width, alpha=alpha)
        ax.plot(
            epochs[best[number]], history[best[number], 1], "o", color=COLOURS[1],
            markersize=7 if heavy else 4, alpha=1 if heavy else 0.6,
        )  # fmt: skip
    kept, stop = best[0] + 1, best[0] + 1 + patience
    ax.axvspan(kept, stop, color="#999999", alpha=0.2, linewidth=0)
    ax.text((kept + stop) / 2, 0.37, "patience", ha="center", color="0.4")
    end = len(histories[0])
    highest = max(history[-1, 1] for history in histories)
    ax.text(end, highest + 0.015, "validation", color=COLOURS[1], ha="right")
    ax.text(end, 0.012, "training", color=COLOURS[0], ha="right")
    ax.set(xlabel="epoch", ylabel="loss in nats", ylim=(0, 0.4), xlim=(0, end + 1))
    return ax


def descent_bound(theta: np.ndarray, loss: np.ndarray, start: float, curvature: float) -> Axes:
    """A loss of one weight, the parabola above it that touches at ``start``, and two steps."""
    _, ax = plt.subplots()
    height = np.interp(start, theta, loss)
    slope = np.interp(start, theta, np.gradient(loss, theta))
    above = height + slope * (theta - start) + curvature / 2 * (theta - start) ** 2
    ax.plot(theta, loss, color=COLOURS[0])
    ax.plot(theta, above, color=COLOURS[2])
    ax.axhline(height, color="0.75", linewidth=0.8)
    ax.plot(start, height, "o", color="black", markersize=5)
    ax.text(start + 0.15, height + 0.05, "start")
    for k, word in ((1, r"$\eta=1/\lambda$"), (2, r"$\eta=2/\lambda$")):
        end = start - k * slope / curvature
        top = height - (k - k**2 / 2) * slope**2 / curvature
        ax.plot(end, top, "o", color=COLOURS[2], markersize=5)
        ax.plot([end, end], [np.interp(end, theta, loss), top], ":", color="0.4", linewidth=1)
        ax.text(end + 0.15, top - 0.17, word, color=COLOURS[2])
    ax.text(theta[-1] - 0.9, 1.15, "loss", color=COLOURS[0])
    ax.text(theta[-1] - 1.9, height + 0.4, "parabola", color=COLOURS[2])
    ax.set(xlabel=r"logit $\theta$", ylabel="loss in nats", xlim=theta[[0, -1]], ylim=(0.5, 3.2))
    return ax


def rates(grid: np.ndarray, losses: np.ndarray, sure: float, start: float) -> Axes:
    """Validation loss against the learning rate: dots for splits, a line of means, two limits."""
    _, ax = plt.subplots()
    ax.axvspan(grid[0] / 2, sure, color=COLOURS[2], alpha=0.13, linewidth=0)
    ax.plot(grid, losses.mean(axis=-1), color=COLOURS[0])
    ax.plot(grid, losses, "o", color=COLOURS[0], markersize=3.5, alpha=0.6)
    for place, style, word in (
        (sure, "-", r"$2/\lambda$"),
        (start, "--", "$2/\\lambda$\nat the\nstart"),
    ):
        ax.axvline(place, color=COLOURS[2], linestyle=style, linewidth=1.3)
        ax.text(place * 1.07, 2.4, word, color=COLOURS[2], va="top")
    ax.text(grid[0] / 1.7, 0.12, "a full step\nis sure to descend", color=COLOURS[2])
    ax.set(xscale="log", xlabel=r"learning rate $\eta$", ylabel="validation loss in nats")
    ax.set(xlim=(grid[0] / 2, grid[-1] * 2), ylim=(0, 2.5))
    return ax


def surprising_images(
    images: np.ndarray, labels: Sequence[int], answers: Sequence[int], losses: Sequence[float]
) -> Axes:
    """A row of images, each with its label, the answer of a model, and the loss."""
    _, panels = plt.subplots(1, len(images), figsize=(6.4, 1.75))
    told = zip(panels, images, labels, answers, losses, strict=True)
    for ax, image, label, answer, loss in told:
        ax.imshow(image, cmap="gray_r", interpolation="nearest")
        ax.set_xticks([])
        ax.set_yticks([])
        ax.grid(visible=False)
        for side in ax.spines.values():
            side.set(visible=True, color="0.6")
        ax.set_title(f"label {label}", fontsize=9.5)
        ax.set_xlabel(f"answer {answer}\n{loss:.1f} nats", fontsize=9.5)
    first: Axes = panels[0]
    return first
