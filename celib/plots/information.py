"""The figures of the chapter on information."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.tri import Triangulation

from celib.plots.style import COLOURS, draw_simplex, on_simplex

__all__ = [
    "binary_entropy",
    "block_lengths",
    "context_orders",
    "information_bias",
    "neighbour_counts",
    "pixel_information",
    "self_information",
    "simplex_entropy",
]


def self_information(p: np.ndarray, nats: np.ndarray) -> Axes:
    """The surprise of an outcome against its probability, in nats (left) and bits (right)."""
    _, ax = plt.subplots()
    ax.plot(p, nats)
    ax.set(xlabel="probability $p$", ylabel="surprise in nats", xlim=(0, 1), ylim=(0, None))
    bits = ax.secondary_yaxis("right", functions=(lambda y: y / np.log(2), lambda y: y * np.log(2)))
    bits.set_ylabel("surprise in bits")
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


def block_lengths(n: np.ndarray, rate: np.ndarray, entropy: float) -> Axes:
    """Bits per symbol of Huffman codes for blocks of n symbols, above the entropy."""
    _, ax = plt.subplots()
    ax.plot(n, entropy + 1 / n, color="0.6", linewidth=1.2, label="$H_2+1/n$")
    ax.plot(n, rate, "o-", label="Huffman code for blocks")
    ax.axhline(entropy, color=COLOURS[1], linestyle="--", label="$H_2$")
    ax.set(xlabel="block length $n$", ylabel="bits per symbol", xticks=n, ylim=(0, 1.15))
    ax.legend()
    return ax


def neighbour_counts(first: np.ndarray, second: np.ndarray) -> Axes:
    """How often each pair of grey levels occurs side by side, in two pictures."""
    axes: tuple[Axes, Axes]
    figure, axes = plt.subplots(1, 2, figsize=(6.4, 3.3), sharey=True)
    norm = LogNorm(1, max(first.max(), second.max()))
    few_colours = plt.get_cmap("cividis", 12)  # a picture of few colours makes a small file
    for ax, counts in zip(axes, (first, second), strict=True):
        image = ax.imshow(counts.T, few_colours, norm, origin="lower", interpolation="none")
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


def context_orders(rate: np.ndarray, compressors: dict[str, tuple[float, float]]) -> Axes:
    """Bits per character by context length, and compressors that start empty or have read."""
    _, ax = plt.subplots(figsize=(6.4, 3.8))
    orders = np.arange(len(rate))
    ax.plot(orders, rate, "o-", label="character model")
    for i, (name, (empty, read)) in enumerate(compressors.items(), start=1):
        x = orders[-1] + 0.45 * i
        ax.plot([x, x], [empty, read], color="0.6", linewidth=1)
        squares = ax.plot([x], [empty], "s", color=COLOURS[1])
        diamonds = ax.plot([x], [read], "D", color=COLOURS[2])
        ax.annotate(name, (x, empty), (0, 8), textcoords="offset points", ha="center")
    ax.set(xlabel="characters of context", ylabel="bits per character", ylim=(0, None))
    ax.set_xticks(orders)
    squares[0].set_label("compressor that starts empty")
    diamonds[0].set_label("the same, after the training text")
    ax.legend()
    return ax
