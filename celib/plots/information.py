"""The figures of the chapters on entropy and on two variables."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.tri import Triangulation

from celib.plots.style import COLOURS, bits_axis, draw_simplex, on_simplex, sheet

__all__ = [
    "binary_entropy",
    "information_bars",
    "information_bias",
    "logarithm_and_tangent",
    "neighbour_counts",
    "pixel_information",
    "self_information",
    "simplex_entropy",
    "surprise_areas",
    "typical_surprise",
]


def self_information(p: np.ndarray, nats: np.ndarray) -> Axes:
    """The surprise of an outcome against its probability, in nats (left) and bits (right)."""
    _, ax = plt.subplots()
    ax.plot(p, nats)
    ax.set(xlabel="probability $p$", ylabel="surprise in nats", xlim=(0, 1), ylim=(0, None))
    bits = ax.secondary_yaxis("right", functions=(lambda y: y / np.log(2), lambda y: y * np.log(2)))
    bits.set_ylabel("surprise in bits")
    return ax


def surprise_areas(p: np.ndarray, names: Sequence[str], top: int = 5) -> Axes:
    """Outcomes as wide as their probability and as high as their surprise: entropy as an area.

    The solid line is the entropy in bits, which is the mean height; the dashed one is that of a
    uniform distribution. Bars higher than ``top`` bits are cut and bear an arrow.
    """
    p = np.asarray(p, dtype=float)
    with np.errstate(divide="ignore"):
        surprise = -np.log2(p) + 0.0
    area = np.where(p > 0, p * np.where(p > 0, surprise, 0), 0)
    entropy, level = float(area.sum()), float(np.log2(len(p)))
    # Its places are those of book/_assets/explorables/bars.js.
    width, height, left, right, first, base = 614, 394, 22, 530, 84, 294
    ax, write = sheet(width, height)
    y = bits_axis(ax, write, "surprise", (left, base, 26), top)
    edges = left + np.concatenate([[0], np.cumsum(p)]) * (right - left)
    column = (right - first) / len(p)
    for i, name in enumerate(names):
        colour, start, wide = COLOURS[i], edges[i], p[i] * (right - left)
        if p[i] > 0:
            high = y(surprise[i])
            ax.bar(start, base - high, wide, high, align="edge", color=colour, alpha=0.75)
            if surprise[i] > top:
                ax.plot(start + wide / 2, high - 6, "^", color=colour, markersize=7)
            if wide > 14 and base - high > 16:
                write(start + wide / 2, (base + high) / 2 + 4, name, "center")
        at = first + column * (i + 0.5)
        ax.bar(at - 16, 9, 9, height - 63, align="edge", color=colour, alpha=0.75)
        write(at - 3, height - 54, name)
        for row, number in enumerate((p[i], surprise[i], area[i]), start=1):
            text = f"{number:.3f}" if np.isfinite(number) else "∞"
            write(at, height - 54 + 17 * row, text, "center")
    ax.plot([left, left, right], [26, base, base], color="black", linewidth=0.8)
    ax.plot([left, right], [y(level)] * 2, "--", color="0.35", linewidth=1.2)
    ax.plot([left, right], [y(entropy)] * 2, color="black", linewidth=1.5)
    write(right + 6, y(level) - 2, f"$\\log_2$ {len(p)}")
    under = 12 if base - y(entropy) > 30 else -18
    write(right + 6, y(entropy) + under, "entropy", weight="bold")
    write(right + 6, y(entropy) + under + 14, f"{entropy:.3f} bits", weight="bold")
    for row, word in enumerate(("probability", "surprise", "area"), start=1):
        write(0, height - 54 + 17 * row, word)
    write(right + 6, height - 54, "Σ")
    write(right + 6, height - 37, "1.000")
    write(right + 6, height - 3, f"{entropy:.3f}", weight="bold")
    return ax


def logarithm_and_tangent(u: np.ndarray) -> Axes:
    """The logarithm and its tangent at 1."""
    _, ax = plt.subplots(figsize=(6.4, 3.2))
    ax.plot(u, u - 1, "--", color=COLOURS[1], label="$u-1$")
    ax.plot(u, np.log(u), color=COLOURS[0], label=r"$\log u$")
    ax.plot(1, 0, "o", color="0.25", markersize=5)
    ax.set(xlabel="$u$", xlim=(0, u[-1]), ylim=(-2.5, 2.1))
    ax.legend()
    return ax


def typical_surprise(curves: dict[int, tuple[np.ndarray, np.ndarray]], entropy: float) -> Axes:
    """How likely each surprise per toss is: by number of tosses, the bits and their probability."""
    _, ax = plt.subplots()
    for tosses, (bits, mass) in curves.items():
        density = mass / (bits[1] - bits[0])
        ax.plot(bits, density, drawstyle="steps-mid", label=f"{tosses} tosses")
    ax.axvline(entropy, color="0.35", linestyle="--", linewidth=1.2)
    ax.set(xlabel="surprise in bits per toss", ylabel="density", xlim=(0.1, 1.2), ylim=(0, None))
    ax.legend()
    return ax


def binary_entropy(p: np.ndarray, h: np.ndarray, ends: np.ndarray, h_ends: np.ndarray) -> Axes:
    """The entropy of a coin in bits, and the chord between two coins with its middle."""
    _, ax = plt.subplots()
    ax.plot(p, h)
    ax.plot(ends, h_ends, "o--", color=COLOURS[1], linewidth=1.2)
    middle, mean = np.mean(ends), np.mean(h_ends)
    top = float(np.interp(middle, p, h))
    ax.annotate("", (middle, top), (middle, mean), arrowprops={"arrowstyle": "->"})
    ax.annotate("gain of mixing", (middle, mean), (8, -10), textcoords="offset points")
    ax.set(xlabel="probability of heads", ylabel="entropy in bits", xlim=(0, 1), ylim=(0, 1.05))
    return ax


def simplex_entropy(p: np.ndarray, h: np.ndarray) -> Axes:
    """Contours of the entropy in nats over the distributions of three outcomes, rows of ``p``."""
    ax = draw_simplex(["$(1,0,0)$", "$(0,1,0)$", "$(0,0,1)$"])
    triangles = Triangulation(*on_simplex(p))
    levels = np.linspace(0, 1.1, 12)
    filled = ax.tricontourf(triangles, h, levels=levels)
    filled.set_rasterized(True)
    lines = ax.tricontour(triangles, h, levels=[0.3, 0.5, 0.7, 0.9, 1.0, 1.08], colors="white")
    lines.set_linewidth(0.9)
    ax.plot(*on_simplex(np.full(3, 1 / 3)), "o", color="black", markersize=4)
    plt.colorbar(filled, ax=ax, label="entropy in nats", shrink=0.8, ticks=levels[::2])
    return ax


def neighbour_counts(first: np.ndarray, second: np.ndarray) -> Axes:
    """How often each pair of grey levels occurs side by side, in two pictures."""
    axes: tuple[Axes, Axes]
    figure, axes = plt.subplots(1, 2, figsize=(6.4, 3.3), sharey=True)
    norm = LogNorm(1, max(first.max(), second.max()))
    # Few colours, and two levels in one, make a small file.
    colours = plt.get_cmap("cividis", 8)
    for ax, counts, title in zip(axes, (first, second), ("temple", "flower"), strict=True):
        ax.set_title(title, fontsize=10.5)
        halved = counts.reshape(128, 2, 128, 2).sum(axis=(1, 3))
        image = ax.imshow(
            halved.T, colours, norm, origin="lower", extent=(0, 256, 0, 256), interpolation="none"
        )
        ax.set(xlabel="left pixel", xticks=[0, 100, 200], yticks=[0, 100, 200])
        ax.grid(False)
    axes[0].set_ylabel("right pixel")
    figure.colorbar(image, ax=axes, label="pairs", shrink=0.85)
    return axes[0]


def pixel_information(bits: np.ndarray) -> Axes:
    """What each pixel of a digit tells about its label, in bits, as an image."""
    _, ax = plt.subplots(figsize=(6.4, 3.6))
    image = ax.imshow(bits, vmin=0)
    ax.set(xlabel="column", ylabel="row", xticks=range(8), yticks=range(8))
    ax.grid(False)
    plt.colorbar(image, ax=ax, label="mutual information in bits")
    return ax


def information_bias(predicted: np.ndarray, shuffled: np.ndarray) -> Axes:
    """Mutual information that chance produces, against its prediction; rows are seeds."""
    _, ax = plt.subplots(figsize=(6.4, 3.8))
    limit = 1.1 * shuffled.max()
    ax.plot([0, limit], [0, limit], color="0.5", linewidth=1, linestyle="--")
    every = np.broadcast_to(predicted, shuffled.shape)
    ax.plot(every.ravel(), shuffled.ravel(), ".", color=COLOURS[5], label="one shuffle")
    ax.plot(predicted, shuffled.mean(axis=0), "o", color=COLOURS[0], label="mean of the shuffles")
    ax.set(
        xlabel="predicted bias in bits",
        ylabel="estimate after shuffling, in bits",
        xlim=(0, 1.1 * predicted.max()),
        ylim=(0, limit),
    )
    ax.legend()
    return ax


def information_bars(h_x: float, h_y: float, h_xy: float) -> Axes:
    """Entropies of two variables and of the pair as bars; the overlap is the mutual information."""
    _, ax = plt.subplots(figsize=(6.4, 2.4))
    overlap = h_x + h_y - h_xy
    bars = (
        (0, h_xy, "0.6", "H(X,Y)"),
        (0, h_x, COLOURS[0], "H(X)"),
        (h_xy - h_y, h_y, COLOURS[1], "H(Y)"),
    )
    for row, (start, length, colour, name) in enumerate(bars):
        ax.barh(-row, length, 0.72, start, color=colour, edgecolor="white", alpha=0.85)
        middle = start + length / 2
        ax.text(middle, -row, f"${name}={length:.2f}$", ha="center", va="center", color="white")
    for x in (h_xy - h_y, h_x):
        ax.plot([x, x], [-3.3, 0.4], color="0.35", linewidth=1, linestyle=":")
    parts = (h_x - overlap) / 2, h_x - overlap / 2, h_xy - (h_y - overlap) / 2
    bits = h_x - overlap, overlap, h_y - overlap
    names = r"H(X\mid Y)", "I(X;Y)", r"H(Y\mid X)"
    for x, name, value in zip(parts, names, bits, strict=True):
        ax.text(x, -2.85, f"${name}$\n{value:.2f}", ha="center", va="center")
    ax.set(xlim=(-0.02, h_xy + 0.02), ylim=(-3.35, 0.5))
    ax.set_axis_off()
    return ax
