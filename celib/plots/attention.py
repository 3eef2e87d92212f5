"""Figures on attention and contrastive learning."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from celib.plots.style import COLOURS, sheet

__all__ = ["attention_weights", "information_bound", "look_up", "recalled", "similarities"]


def look_up(weights: np.ndarray, values: np.ndarray, answer: float) -> Axes:
    """A query on the left, a bar for each key as long as its weight, and the values they bring."""
    unit, top, step = 200, 46, 36
    ax, write = sheet(614, top + len(weights) * step + 34)
    middle = top + (len(weights) - 1) * step / 2
    write(24, middle + 4, "query", "center", "bold")
    for head, x in (("keys", 120), ("weights", 190), ("values", 480)):
        write(x, 20, head, "center" if head == "keys" else "left", "bold")
    for n, (weight, value) in enumerate(zip(weights, values, strict=True)):
        y = top + n * step
        arrow = {"arrowstyle": "-|>", "linewidth": 0.6 + 2.5 * weight, "color": "0.4"}
        ax.annotate("", (100, y), (52, middle), arrowprops=arrow)
        write(120, y + 4, f"key {n + 1}", "center")
        ax.barh(y, unit * weight, 20, 190, color=COLOURS[0], alpha=0.8)
        write(190 + unit * weight + 8, y + 4, f"{weight:.3f}")
        write(480, y + 4, f"{value:g}")
    write(480, top + len(weights) * step + 12, f"mean {answer:.2f}", weight="bold")
    return ax


def attention_weights(weights: np.ndarray, tokens: Sequence[str]) -> Axes:
    """Who attends to whom: a row a query, a column a key, the darker the larger the weight."""
    size, left, top = 34, 90, 76
    n = len(weights)
    ax, write = sheet(614, top + n * size + 10)
    write(left + n * size / 2, 16, "keys", "center", "bold")
    write(6, top + n * size / 2 + 4, "queries", weight="bold")
    for i, token in enumerate(tokens):
        write(left - 8, top + i * size + size / 2 + 4, token, "right")
        write(left + i * size + size / 2, top - 12, token, "center")
        for j in range(n):
            depth = float(weights[i, j])
            x, y = left + j * size, top + i * size
            ax.bar(
                x,
                size,
                size,
                y,
                align="edge",
                color=COLOURS[0],
                alpha=0.75 * depth,
                edgecolor="none",
            )
            ax.plot([x, x + size, x + size], [y + size, y + size, y], color="0.85", linewidth=0.6)
            if depth > 0:
                write(x + size / 2, y + size / 2 + 4, f"{depth:.1f}", "center")
    return ax


def recalled(pictures: np.ndarray, heads: Sequence[str]) -> Axes:
    """Rows of small grey pictures, shape (rows, columns, height, width), with heads above."""
    rows, columns = pictures.shape[:2]
    axes = plt.subplots(rows, columns, figsize=(6.4, 1.15 * rows + 0.35), squeeze=False)[1]
    for row, line in zip(axes, pictures, strict=True):
        for ax, picture in zip(row, line, strict=True):
            ax.imshow(picture, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
            ax.set_xticks([])
            ax.set_yticks([])
            ax.spines[:].set_visible(False)
    for ax, head in zip(axes[0], heads, strict=True):
        ax.set_title(head, fontsize=9.5)
    first: Axes = axes[0, 0]
    return first


def information_bound(
    sizes: np.ndarray, bounds: dict[float, np.ndarray], top: float | None = None
) -> Axes:
    """The bound of InfoNCE against the number of candidates, a line an information, dots seeds.

    ``bounds`` has, for each information in nats, an array of sizes by seeds.
    """
    _, ax = plt.subplots()
    ax.plot(sizes, np.log(sizes), color="black", linestyle=":", label="log N")
    for (information, found), colour in zip(bounds.items(), COLOURS, strict=False):
        ax.axhline(information, color=colour, linestyle="--", linewidth=0.9)
        ax.plot(sizes, found.mean(axis=1), color=colour, label=f"I = {information:g}")
        ax.plot(sizes, found, ".", color=colour, markersize=4)
    ax.set_xscale("log", base=2)
    ax.set(xlabel="candidates N", ylabel="bound in nats", ylim=(0, top))
    ax.legend(fontsize=8.5)
    return ax


def similarities(before: np.ndarray, after: np.ndarray) -> Axes:
    """Cosines of upper with lower halves, own pairs on the diagonal, before training and after."""
    figure = plt.figure(figsize=(6.4, 3.0))
    axes = [figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2)]
    for ax, matrix, name in zip(axes, (before, after), ("before", "after"), strict=True):
        drawn = ax.imshow(matrix, vmin=-1, vmax=1, interpolation="nearest")
        ax.set(title=name, xlabel="lower halves", xticks=[], yticks=[])
        ax.grid(visible=False)
    axes[0].set_ylabel("upper halves")
    figure.colorbar(drawn, ax=axes, label="cosine", shrink=0.85)
    return axes[0]
