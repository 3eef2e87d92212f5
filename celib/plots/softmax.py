"""The figures of the chapter on softmax."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.tri import Triangulation

from celib.plots.style import COLOURS, draw_simplex, on_simplex

__all__ = [
    "entropy_under_constraint",
    "probabilities_and_entropies",
    "temperature_paths",
    "text_by_temperature",
    "winner_by_gap",
]


def winner_by_gap(
    gap: np.ndarray, shares: Mapping[int, np.ndarray], gaps: np.ndarray, tops: np.ndarray
) -> Axes:
    """The largest probability by gap: curves for tied rivals, a dot a context of a real model."""
    _, ax = plt.subplots(figsize=(6.4, 3.8))
    ax.plot(gaps, tops, ".", color="0.65", markersize=3, rasterized=True, label="contexts")
    for (classes, share), style in zip(shares.items(), ("-", "--", "-."), strict=True):
        ax.plot(gap, share, linestyle=style, label=f"$C={classes}$, rivals tied")
    ax.set(xlabel="gap between the two largest logits", ylabel="largest probability")
    ax.set(xlim=(0, gap.max()), ylim=(0, 1.02))
    ax.legend(loc="lower right")
    return ax


def probabilities_and_entropies(
    temperature: np.ndarray, p: np.ndarray, entropies: Mapping[str, np.ndarray]
) -> Axes:
    """Left: the probabilities of three classes by temperature. Right: entropies in nats."""
    axes: tuple[Axes, Axes]
    _, axes = plt.subplots(1, 2, figsize=(6.4, 3.3))
    left, right = axes
    for i, style in enumerate(("-", "--", "-.")):
        left.plot(temperature, p[:, i], linestyle=style, label=rf"$\hat p_{i + 1}$")
    left.axvline(1, color="0.5", linewidth=0.9, linestyle=":")
    left.set(xscale="log", xlabel="temperature $T$", ylabel="probability", ylim=(0, 1.02))
    left.set_xlim(0.05, temperature.max())
    left.legend()
    for (name, entropy), style, colour in zip(
        entropies.items(), ("-", "--"), (COLOURS[0], COLOURS[1]), strict=True
    ):
        right.plot(temperature, entropy, linestyle=style, color=colour, label=f"$z={name}$")
    for classes, x, side in ((2, 190, "right"), (3, 0.055, "left")):
        right.axhline(np.log(classes), color="0.5", linewidth=0.9, linestyle=":")
        right.annotate(
            rf"$\log {classes}$", (x, np.log(classes)), (0, 3), textcoords="offset points", ha=side
        )
    right.set(xscale="log", xlabel="temperature $T$", ylabel="entropy in nats", ylim=(0, 1.6))
    right.set_xlim(left.get_xlim())
    right.legend(loc="upper left", fontsize=9)
    return left


def temperature_paths(paths: Sequence[np.ndarray], names: Sequence[str]) -> Axes:
    """Where the softmax of three logits goes from infinite temperature to zero."""
    ax = draw_simplex(["class 1", "class 2", "class 3"])
    for path, name, style in zip(paths, names, ("-", "--", "-.", ":"), strict=True):
        (line,) = ax.plot(*on_simplex(path), linestyle=style, label=f"$z={name}$")
        ax.plot(*on_simplex(path[0]), "s", color=line.get_color(), markersize=5, clip_on=False)
    ax.plot(*on_simplex(np.full(3, 1 / 3)), "o", color="black", markersize=4)
    ax.legend(loc="upper left", bbox_to_anchor=(0.66, 1.02), fontsize=9)
    return ax


def entropy_under_constraint(
    p: np.ndarray,
    entropy: np.ndarray,
    highest: float,
    same_score: np.ndarray,
    path: np.ndarray,
    best: np.ndarray,
) -> Axes:
    """Level lines of the entropy, and the path of softmax through a line of equal mean score.

    ``highest`` is the largest entropy on that line, at ``best``: its level line touches the line.
    """
    ax = draw_simplex(["class 1", "class 2", "class 3"])
    triangles = Triangulation(*on_simplex(p))
    lines = ax.tricontour(triangles, entropy, levels=[0.4, 0.6, 0.75, 1.0, 1.07], colors="0.75")
    lines.set_linewidth(0.9)
    ax.tricontour(triangles, entropy, levels=[float(highest)], colors="black", linewidths=1)
    ax.plot(*on_simplex(path), color=COLOURS[0], label=r"$\mathrm{softmax}(z/T)$")
    ax.plot(*on_simplex(same_score), "--", color=COLOURS[1], label="equal mean score")
    ax.plot(*on_simplex(best), "o", color="black", markersize=5)
    ax.legend(loc="upper left", bbox_to_anchor=(0.66, 1.02), fontsize=9)
    return ax


def text_by_temperature(temperature: np.ndarray, sampled: np.ndarray, real: np.ndarray) -> Axes:
    """Three measures of sampled text by temperature, and the same of real text.

    ``sampled`` has shape (temperatures, samples, 3), ``real`` (excerpts, 3).
    """
    axes: tuple[Axes, Axes, Axes]
    _, axes = plt.subplots(1, 3, figsize=(6.4, 2.9))
    titles = ("surprise in nats per character", "share of known words", "share of distinct strings")
    for k, (ax, title) in enumerate(zip(axes, titles, strict=True)):
        mean, spread = sampled[..., k].mean(1), sampled[..., k].std(1, ddof=1)
        ax.errorbar(temperature, mean, spread, fmt="o-", markersize=3.5, capsize=2, label="sampled")
        middle, width = real[:, k].mean(), real[:, k].std(ddof=1)
        ax.axhline(middle, color=COLOURS[1], linestyle="--", label="real")
        ax.axhspan(middle - width, middle + width, color=COLOURS[1], alpha=0.15, linewidth=0)
        ax.set(xlabel="temperature $T$", ylim=(0, 2.6 if k == 0 else 1.05))
        ax.set_ylabel(title, fontsize=9)
        ax.set_xticks([0, 1, 2])
    axes[0].legend(loc="upper left", fontsize=9)
    return axes[0]
