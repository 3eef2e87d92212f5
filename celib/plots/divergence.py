"""The figures of the chapter on cross-entropy, the wrong code."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from celib.plots.style import COLOURS, bits_axis, sheet

__all__ = ["bill", "bills", "entropy_and_excess", "relative_errors"]


def entropy_and_excess(names: Sequence[str], entropy: np.ndarray, excess: np.ndarray) -> Axes:
    """Bars of cross-entropy, each split into the entropy and the divergence, in nats."""
    _, ax = plt.subplots(figsize=(6.4, 0.45 * len(names) + 0.9))
    rows = np.arange(len(names))[::-1]
    ax.barh(rows, entropy, color=COLOURS[0], label="$H(P)$", height=0.62)
    ax.barh(rows, excess, left=entropy, color=COLOURS[4], label=r"$D_{KL}(P\Vert Q)$", height=0.62)
    for row, total in zip(rows, entropy + excess, strict=True):
        ax.text(total + 0.02, row, f"{total:.3f}", va="center", fontsize=9)
    ax.set_yticks(rows, names)
    ax.grid(axis="y", visible=False)
    ax.set_xlim(0, 1.12 * float(np.max(entropy + excess)))
    ax.set_xlabel("cross-entropy $H(P, Q)$ in nats")
    ax.legend(loc="upper right")
    return ax


def relative_errors(distance: np.ndarray, subtracted: np.ndarray, summed: np.ndarray) -> Axes:
    """The relative error of two ways to compute a small divergence, on logarithmic axes."""
    _, ax = plt.subplots()
    ax.loglog(distance, subtracted, "o-", color=COLOURS[1], label=r"$\sum_i p_i \log(p_i/q_i)$")
    ax.loglog(distance, summed, "s-", color=COLOURS[0], label="celib.information.kl_divergence")
    ax.axhline(1, color="#666666", linewidth=0.9, linestyle="--")
    ax.annotate("nothing left", (distance.max(), 1), (0, 3), textcoords="offset points", ha="right")
    ax.set_xlabel("relative distance of $Q$ from $P$")
    ax.set_ylabel("relative error")
    ax.legend(loc=(0.02, 0.2))
    return ax


def bills(p: np.ndarray, lengths: Sequence[np.ndarray], outcomes: Sequence[str]) -> Axes:
    """What codes cost, as areas: an outcome is as wide as it is likely, as high as it is long.

    ``lengths`` has those of two codes in bits, made for p and for another distribution.
    """
    _, panels = plt.subplots(1, 2, figsize=(6.4, 2.7), sharey=True)
    left, width = np.cumsum(p) - p, np.asarray(p)
    titles = "the code made for it", "the code of another town"
    for ax, height, title in zip(panels, lengths, titles, strict=True):
        ax.bar(left, height, width, align="edge", color=COLOURS[:4], edgecolor="white", alpha=0.75)
        for x, w, h, name in zip(left, width, height, outcomes, strict=True):
            turned = 90 if w < 0.2 else 0
            ax.text(x + w / 2, h / 2, name, ha="center", va="center", rotation=turned, fontsize=9)
        ax.set_title(f"{title}: {float(p @ height):g} bits", fontsize=10.5)
        ax.set(xlim=(0, 1), ylim=(0, 3.2), xlabel="probability")
        ax.grid(False)
    panels[0].set_ylabel("length of the code in bits")
    first: Axes = panels[0]
    return first


def bill(p: np.ndarray, q: np.ndarray, names: Sequence[str], top: int = 5) -> Axes:
    """What a code made for q costs where p is true, and below the probabilities of the code.

    Outcomes are as wide as they are probable and as high as they are long; dashed, as high as with
    the code made for p. The solid line is the mean, the cross-entropy.
    """
    p, q = np.asarray(p, dtype=float), np.asarray(q, dtype=float)
    price, own = -np.log2(q), -np.log2(p)
    total, entropy = float(p @ price), float(p @ own)
    # Its places are those of book/_assets/explorables/bill.js.
    width, height, left, top_edge = 614, 394, 22, 26
    right, base, strip = width - 112, height - 96, height - 40
    ax, write = sheet(width, height)
    y = bits_axis(ax, write, "price", (left, base, top_edge), top)
    here, there = (left + (np.cumsum(x) - x) * (right - left) for x in (p, q))
    for i, name in enumerate(names):
        colour, wide = COLOURS[i], p[i] * (right - left)
        high = y(price[i])
        ax.bar(here[i], base - high, wide, high, align="edge", color=colour, alpha=0.75)
        ax.plot([here[i], here[i] + wide], [y(own[i])] * 2, "--", color="0.35", linewidth=1.2)
        write(here[i] + wide / 2, base - 6, name, "center")
        wide = q[i] * (right - left)
        ax.bar(there[i], 16, wide, strip, align="edge", color=colour, alpha=0.75)
        write(there[i] + wide / 2, strip + 12, name, "center")
    ax.plot([left, left, right], [top_edge, base, base], color="black", linewidth=0.8)
    ax.plot([left, right], [y(total)] * 2, color="black", linewidth=1.5)
    write(right + 6, base + 4, "here")
    write(right + 6, strip + 12, "there")
    rows = ("cross-entropy", total, "bold"), ("entropy", entropy, "normal")
    for n, (word, value, weight) in enumerate([*rows, ("divergence", total - entropy, "bold")]):
        write(right + 6, top_edge + 12 + 40 * n, word, weight=weight)
        write(right + 6, top_edge + 27 + 40 * n, f"{value:.3f} bits", weight=weight)
    return ax
