"""The figures of the chapter on losses."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from celib.plots.style import COLOURS, sheet

__all__ = [
    "class_axis",
    "doubled_softmax",
    "every_pair",
    "loss_and_slopes",
    "loss_by_margin",
    "ruler",
    "smoothed_loss",
    "training_step",
    "weighted_tokens",
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


def _cell(ax: Axes, x: float, y: float, size: float, colour: str, depth: float) -> None:
    """One cell of a drawn table, the deeper in its colour the larger ``depth`` in [0, 1] is."""
    look: dict[str, Any] = {
        "width": size,
        "height": size,
        "align": "edge",
        "edgecolor": "white",
        "linewidth": 1,
    }
    ax.bar(x, color=colour, bottom=y, alpha=0.12 + 0.6 * depth, **look)


def every_pair(z: np.ndarray, y: np.ndarray, pairs: np.ndarray) -> Axes:
    """Losses of every logit (a column) with every label (a row), and the two means of them."""
    n, size, left, top = len(z), 46, 132, 62
    ax, write = sheet(614, top + n * size + 16)
    write(left + n * size / 2, 16, "labels (N,)", "center")
    write(12, top + n * size / 2 + 4, "logits (N, 1)")
    depth = pairs / pairs.max()
    for i in range(n):
        write(left - 12, top + i * size + size / 2 + 4, f"{z[i]:g}", "right")
        write(left + i * size + size / 2, top - 10, f"{y[i]:g}", "center")
        for j in range(n):
            colour = COLOURS[0] if i == j else COLOURS[1]
            _cell(ax, left + j * size, top + i * size, size, colour, depth[i, j])
            middle = left + j * size + size / 2, top + i * size + size / 2 + 4
            write(*middle, f"{pairs[i, j]:.2f}", "center", "bold" if i == j else "normal")
    right = left + n * size + 36
    rows = (
        (0, "(N,) with (N,)", f"every logit and its label: {np.diag(pairs).mean():.4f}"),
        (1, "(N, 1) with (N,)", f"every pair: {pairs.mean():.4f}"),
    )
    for k, first, second in rows:
        at = top + n * size / 2 - 40 + 60 * k
        _cell(ax, right, at - 11, 14, COLOURS[k], 0.7)
        write(right + 22, at, first, weight="bold")
        write(right + 22, at + 18, second)
    return ax


def class_axis(z: np.ndarray) -> Axes:
    """Softmax of one sequence, tokens by classes, along the classes and along the tokens."""
    n, size, top = len(z), 40, 48
    ax, write = sheet(614, top + n * size + 34)
    shifted = np.exp(z - z.max())
    for left, axis, title, colour in (
        (70, 1, "along the classes", COLOURS[0]),
        (380, 0, "along the tokens", COLOURS[1]),
    ):
        p = shifted / shifted.sum(axis=axis, keepdims=True)
        write(left + n * size / 2, 14, title, "center", "bold")
        write(left + n * size / 2, top - 12, "classes", "center")
        write(left - 12, top + n * size / 2 + 4, "tokens", "right")
        for i in range(n):
            for j in range(n):
                _cell(ax, left + j * size, top + i * size, size, colour, p[i, j])
                middle = left + j * size + size / 2, top + i * size + size / 2 + 4
                write(*middle, f"{p[i, j]:.2f}", "center")
            total = p.sum(axis=1)[i]
            write(left + n * size + 8, top + i * size + size / 2 + 4, f"{total:.2f}")
            below = p.sum(axis=0)[i]
            write(left + i * size + size / 2, top + n * size + 18, f"{below:.2f}", "center")
        write(left + n * size + 8, top + n * size + 18, "sums")
    return ax


def weighted_tokens(loss: np.ndarray, sizes: Sequence[int]) -> Axes:
    """Losses as areas: each token as wide as its weight in the mean and as high as its loss.

    On the left all tokens weigh the same, on the right the parts do, which have ``sizes`` tokens.
    """
    width, base, rise = 250, 170, 40
    ax, write = sheet(614, base + 40)
    part = np.repeat(np.arange(len(sizes)), sizes)
    alike = np.full(len(loss), 1 / len(loss))
    by_part = 1 / (len(sizes) * np.asarray(sizes)[part])
    for left, weights, title in ((24, alike, "mean over tokens"), (340, by_part, "mean of means")):
        write(left + width / 2, 14, f"{title}: {weights @ loss:g}", "center", "bold")
        for start, weight, high, k in zip(
            weights.cumsum() - weights, weights, loss, part, strict=True
        ):
            x = left + start * width
            look: dict[str, Any] = {
                "align": "edge",
                "edgecolor": "white",
                "linewidth": 1,
                "alpha": 0.75,
            }
            ax.bar(x, -high * rise, weight * width, base, color=COLOURS[k], **look)
            write(x + weight * width / 2, base - high * rise - 6, f"{high:g}", "center")
            write(x + weight * width / 2, base + 16, f"1/{round(1 / weight)}", "center")
        write(left + width / 2, base + 34, "weights", "center")
    return ax


def ruler(rows: Sequence[dict[str, float]]) -> Axes:
    """Losses on a logarithmic axis: where they begin, their floors, and clips, with causes."""
    left, right, low, high, step = 96, 560, 0.2, 200.0, 96
    ax, write = sheet(614, step * len(rows) + 44)

    def x(loss: float) -> float:
        return left + (right - left) * float(np.log(loss / low) / np.log(high / low))

    heads = "starts", "floors", "clips"
    for n, (row, head) in enumerate(zip(rows, heads, strict=True)):
        base = 64 + step * n
        write(4, base + 4, head, weight="bold")
        ax.plot([left, right], [base, base], color="0.7", linewidth=0.8)
        # From right to left, each name right of its tick and above those that it would meet.
        free = [np.inf] * 5
        for name, loss in sorted(row.items(), key=lambda item: -item[1]):
            words = f"{loss:.2f}  {name}"
            end = x(loss) + 6.2 * len(words) + 4
            level = next((k for k in range(5) if end < free[k]), 4)
            free[: level + 1] = [x(loss) - 4] * (level + 1)
            top = base - 6 - 17 * level
            ax.plot([x(loss), x(loss)], [top - 9, base + 6], color=COLOURS[n], linewidth=1.4)
            write(x(loss) + 4, top, words)
    base = step * len(rows) + 16
    for tick in (0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200):
        ax.plot([x(tick), x(tick)], [base - 4, base], color="black", linewidth=0.8)
        write(x(tick), base + 15, f"{tick:g}", "center")
    ax.plot([left, right], [base, base], color="black", linewidth=0.8)
    write(4, base + 15, "loss (nats)")
    return ax
