"""The figures of the chapter on the geometry of KL."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from celib.plots.style import COLOURS, draw_simplex, on_simplex, sheet

__all__ = ["channel", "fisher_circles", "loss_by_order", "pinsker", "projection"]


def channel(p: np.ndarray, q: np.ndarray, w: np.ndarray) -> Axes:
    """Two sources through one channel: shares of inputs and outputs, arrows the wider the likelier.

    ``w`` has a row for each input and a column for each output.
    """
    width, height, unit = 614, 60 * len(w) + 70, 190
    ax, write = sheet(width, height)
    middle = 30 + 30 * len(w)
    inputs = middle + 60 * (np.arange(len(w)) - (len(w) - 1) / 2)
    outputs = middle + 60 * (np.arange(w.shape[1]) - (w.shape[1] - 1) / 2)
    sides = (235, -1, inputs, p, q, "P", "Q"), (380, 1, outputs, p @ w, q @ w, "PW", "QW")
    for edge, way, places, first, second, one, two in sides:
        align = "right" if way < 0 else "left"
        for n, y in enumerate(places):
            write(edge - 14 * way, y + 4, f"{n + 1}", "center")
            for top, share, colour in ((y - 17, first[n], 0), (y + 1, second[n], 1)):
                ax.barh(top, way * unit * share, 16, edge, align="edge", color=COLOURS[colour])
                write(edge + way * (unit * share + 5), top + 12, f"{share:.2f}", align)
        total = float((first * np.log(first / second)).sum())
        words = f"$D_{{KL}}({one}\\Vert {two})$ = {total:.3f} nats"
        write(edge + way * 70, height - 10, words, "center")
        for name, colour, x in ((one, 0, edge + way * 80 - 30), (two, 1, edge + way * 80 + 30)):
            ax.bar(x - 16, -10, 10, 16, align="edge", color=COLOURS[colour])
            write(x, 16, f"${name}$")
    for i, row in enumerate(w):
        for j, share in enumerate(row):
            if share > 0:
                arrow = {"arrowstyle": "-|>", "linewidth": 0.6 + 1.6 * share, "color": "0.35"}
                ax.annotate("", (354, outputs[j]), (261, inputs[i]), arrowprops=arrow)
                if share < 1:
                    spot = 0.35 * outputs[j] + 0.65 * inputs[i]
                    write(
                        261 + 0.35 * 93 + (9 if outputs[j] > inputs[i] else 0),
                        spot - 7,
                        f"{share:g}",
                        "center",
                    )
    return ax


def pinsker(variation: np.ndarray, divergence: np.ndarray) -> Axes:
    """Random pairs of distributions, and the two curves below which none can lie."""
    _, ax = plt.subplots()
    ax.plot(variation, divergence, ".", color=COLOURS[0], markersize=3, alpha=0.5, rasterized=True)
    grid = np.linspace(0, 0.999, 400)
    ax.plot(np.append(grid, 1), 2 * np.append(grid, 1) ** 2, color=COLOURS[1], label="Pinsker")
    ax.plot(grid, -np.log1p(-(grid**2)), "--", color=COLOURS[2], label="Bretagnolle and Huber")
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 3)
    ax.set_xlabel("total variation $V(P, Q)$")
    ax.set_ylabel(r"$D_{KL}(P\Vert Q)$ in nats")
    ax.legend(loc="upper left")
    return ax


def fisher_circles(centres: np.ndarray, circles: np.ndarray, ellipses: np.ndarray) -> Axes:
    """In the simplex: what lies at one divergence from some centres, and Fisher's ellipses."""
    ax = draw_simplex(["1", "2", "3"])
    for centre, circle, ellipse in zip(centres, circles, ellipses, strict=True):
        ax.plot(*on_simplex(centre), "o", color="0.25", markersize=3)
        solid = ax.plot(*on_simplex(circle), color=COLOURS[0])
        dashed = ax.plot(*on_simplex(ellipse), "--", color=COLOURS[1], linewidth=1.2)
    solid[0].set_label("equal divergence")
    dashed[0].set_label("Fisher information")
    ax.legend(loc="upper right")
    return ax


def projection(
    family: np.ndarray, same_mean: np.ndarray, p: np.ndarray, best: np.ndarray, q: np.ndarray
) -> Axes:
    """A one-parameter family in the simplex, a distribution, its projection, and a member."""
    ax = draw_simplex(["0", "1", "2"])
    ax.plot(*on_simplex(family), color=COLOURS[0], label="exponential family")
    ax.plot(*on_simplex(same_mean), color=COLOURS[1], linestyle="--", label="same mean as $P$")
    for ends in ((p, q), (best, q)):
        ax.plot(*on_simplex(np.array(ends)), ":", color="0.35", linewidth=1.2)
    places = (p, "$P$", (-2, 9)), (best, r"$\hat Q$", (-16, -4)), (q, "$Q$", (-14, 3))
    for point, name, offset in places:
        ax.plot(*on_simplex(point), "o", color="black", markersize=5)
        ax.annotate(name, on_simplex(point), offset, textcoords="offset points")
    ax.legend(loc="upper right")
    return ax


def loss_by_order(orders: np.ndarray, train: np.ndarray, test: np.ndarray) -> Axes:
    """Cross-entropy per character by order of the model: a line a fold, bits."""
    _, ax = plt.subplots()
    for losses, colour, style, name in (
        (train, COLOURS[0], "--", "text it was fitted to"),
        (test, COLOURS[1], "-", "text held out"),
    ):
        lines = ax.plot(orders, losses.T, color=colour, linestyle=style, linewidth=1.1)
        lines[0].set_label(name)
    ax.set_xticks(orders)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("order: characters of context")
    ax.set_ylabel("bits per character")
    ax.legend()
    return ax
