"""Figures on attention and contrastive learning."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Circle

from celib.plots.frame import Plot, look
from celib.plots.style import COLOURS, arrow, ring, sheet

__all__ = [
    "contrastive_bound",
    "half_digits",
    "infonce_bound",
    "look_up",
    "memories",
    "pull",
    "retrieval",
    "soft_lookup",
    "weights_of_keys",
]

_KEYS = np.array([[0.8, 0.1], [0.25, 0.75], [-0.65, 0.45], [-0.45, -0.65], [0.15, -0.1]])


def _tile(ax: Axes, pixels: np.ndarray, left: float, top: float, unit: float) -> None:
    """A small grey image on a sheet, ``unit`` pixels of the page a pixel, with a frame."""
    rows, columns = pixels.shape
    right, bottom = left + unit * columns, top + unit * rows
    place = (left, right, bottom, top)
    ax.imshow(pixels, "Greys", vmin=0, vmax=1, extent=place, aspect="auto", interpolation="none")
    xs, ys = [left, right, right, left, left], [top, top, bottom, bottom, top]
    ax.plot(xs, ys, color="0.6", linewidth=0.8)


def half_digits(top: np.ndarray, bottoms: np.ndarray) -> Axes:
    """An upper half of a digit, and lower halves of which one belongs to it."""
    width, height, unit = 614, 122, 8
    ax, write = sheet(width, height)
    write(52, 20, "query", "center", "bold")
    _tile(ax, top, 20, 34, unit)
    for n, pixels in enumerate(bottoms):
        left = 122 + 82 * n
        write(left + 32, 20, f"key {n + 1}", "center")
        _tile(ax, pixels, left, 34 + 4 * unit, unit)
    write(368, 118, "Which lower half belongs to the upper one?", "center")
    ax.set(xlim=(0, width), ylim=(height, 0))
    return ax


def look_up(scores: np.ndarray, weights: np.ndarray, values: np.ndarray, result: float) -> Axes:
    """A query meets keys: the lines are as wide as the weights of the values in the result."""
    width, height = 614, 232
    ax, write = sheet(width, height)
    ys = [62.0 + 62.0 * n for n in range(len(scores))]
    middle = sum(ys) / len(ys)
    boxes = {"facecolor": "white", "edgecolor": "0.35", "boxstyle": "round,pad=0.45"}
    for x, title in ((52, "query"), (206, "keys"), (406, "values"), (568, "read-out")):
        write(x, 20, title, "center", "bold")
    for y, score, weight, value in zip(ys, scores, weights, values, strict=True):
        ax.plot([76, 184], [middle, y], color="0.6", linewidth=1)
        bar = {"color": COLOURS[0], "linewidth": 24 * weight, "solid_capstyle": "butt"}
        ax.plot([228, 384], [y, y], **bar)
        ax.plot([428, 546], [y, middle + 0.2 * (y - middle)], **bar)
        label = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
        ax.text(
            *(136, middle + 0.52 * (y - middle), f"score {score:g}"),
            ha="center", va="center", fontsize=9, bbox=label, zorder=5,
        )  # fmt: skip
        write(306, y - 16, f"weight {weight:.3f}", "center")
        ax.text(406, y, f"{value:g}", ha="center", va="center", fontsize=10, bbox=boxes, zorder=5)
    places = [(52, middle, r"$\mathbf{q}$")]
    places += [(206, y, rf"$\mathbf{{k}}_{n}$") for n, y in enumerate(ys, start=1)]
    places += [(568, middle, f"{result:.2f}")]
    for x, y, text in places:
        ax.text(x, y, text, ha="center", va="center", fontsize=10, bbox=boxes, zorder=5)
    return ax


def weights_of_keys(weights: np.ndarray) -> Axes:
    """A row of weights for each query; a weight of exactly 0 is masked and gets a cross."""
    _, ax = plt.subplots(figsize=(5.2, 3.4))
    shown = np.ma.masked_equal(weights, 0)
    image = ax.imshow(shown, "Blues", vmin=0, vmax=1, interpolation="none")
    for (i, j), weight in np.ndenumerate(weights):
        word = f"{weight:.2f}" if weight else "×"
        colour = "white" if weight > 0.6 else "black" if weight else "0.6"
        ax.text(j, i, word, ha="center", va="center", fontsize=8, color=colour)
    numbers = np.arange(len(weights))
    ax.set_xticks(numbers, numbers + 1)
    ax.set_yticks(numbers, numbers + 1)
    ax.set(xlabel="key", ylabel="query")
    ax.grid(False)
    plt.colorbar(image, ax=ax, label="weight")
    return ax


def memories(images: Sequence[np.ndarray], names: Sequence[str]) -> Axes:
    """Rows of images of 8 by 8 pixels, each column with a name."""
    unit, columns, rows = 8, len(names), len(images)
    gap = min(32, (600 - 64 * columns) / (columns - 1))
    left = (614 - columns * 64 - (columns - 1) * gap) / 2
    width, height = 614, 30 + rows * 78
    ax, write = sheet(width, height)
    for column, name in enumerate(names):
        x = left + column * (64 + gap)
        write(x + 32, 18, name, "center")
        for row in range(rows):
            _tile(ax, images[row][column], x, 28 + 78 * row, unit)
    ax.set(xlim=(0, width), ylim=(height, 0))
    return ax


def contrastive_bound(
    counts: np.ndarray, information: Sequence[float], means: np.ndarray, spread: np.ndarray
) -> Axes:
    """What InfoNCE shows of the mutual information, by the size of the batch; a row each."""
    _, ax = plt.subplots()
    ax.plot(counts, np.log(counts), "--", color="0.35", label=r"$\log N$")
    for n, (true, mean, error) in enumerate(zip(information, means, spread, strict=True)):
        ax.axhline(true, color=COLOURS[n], linewidth=0.9, linestyle=":")
        ax.errorbar(
            counts, mean, error, color=COLOURS[n], marker="o", markersize=4, capsize=2,
            label=f"$I$ = {true:g} nats",
        )  # fmt: skip
    ax.set_xscale("log", base=2)
    ax.set_xticks(counts, [str(count) for count in counts])
    ax.set(xlabel="$N$, keys to choose from", ylabel="nats", ylim=(0, 7))
    ax.legend(loc="center right", bbox_to_anchor=(1.0, 0.47))
    return ax


def retrieval(before: np.ndarray, after: np.ndarray, digits: np.ndarray) -> Axes:
    """Cosines before and after training, in groups of equal digits; each row's best is marked."""
    figure, axes = plt.subplots(1, 2, figsize=(6.4, 3.1), sharey=True)
    edges = np.concatenate([[0], np.flatnonzero(np.diff(digits)) + 1, [len(digits)]])
    middles, groups = (edges[1:] + edges[:-1] - 1) / 2, digits[edges[:-1]]
    for ax, cosines, title in zip(axes, (before, after), ("before", "after"), strict=True):
        image = ax.imshow(cosines, "RdBu", vmin=-1, vmax=1, interpolation="none")
        ax.plot(cosines.argmax(axis=1), np.arange(len(cosines)), "o", color="black", markersize=4)
        for edge in edges[1:-1] - 0.5:
            ax.axhline(edge, color="black", linewidth=0.9)
            ax.axvline(edge, color="black", linewidth=0.9)
        ax.set_title(title, fontsize=10.5)
        ax.set(xlabel="lower half", xticks=middles, yticks=middles)
        ax.set_xticklabels(groups)
        ax.set_yticklabels(groups)
        ax.tick_params(length=0, labelsize=8.5)
        ax.grid(False)
    axes[0].set_ylabel("upper half")
    figure.colorbar(image, ax=axes, label="cosine", shrink=0.9)
    left: Axes = axes[0]
    return left


def pull(query: np.ndarray, keys: np.ndarray, weights: np.ndarray) -> Axes:
    """The step of a query in the plane towards the first key, away from the read-out."""
    _, ax = plt.subplots(figsize=(4.6, 4.2))
    ax.add_patch(Circle((0, 0), 1, fill=False, color="0.6", linewidth=0.8))
    x, y = weights @ keys
    step = keys[0] - (x, y)
    gap = 0.13 * step / np.linalg.norm(step)  # beside a ring
    for n, (key, weight) in enumerate(zip(keys, weights, strict=True)):
        ax.plot([x, key[0]], [y, key[1]], color="0.75", linewidth=1)
        ring(ax, key[0], key[1], f"$k_{n + 1}$", COLOURS[0] if n == 0 else "0.4")
        ax.text(1.24 * key[0], 1.24 * key[1], f"{weight:.2f}", ha="center", va="center")
    ax.plot(x, y, "o", color="black", zorder=4)
    ax.text(x + 0.07, y + 0.09, "read-out")
    ring(ax, query[0], query[1], "$q$", COLOURS[1])
    for start, end in (((x, y), keys[0] - gap), (query + gap, query + step)):
        arrow(ax, (start[0], start[1]), (end[0], end[1]))
    ax.set(xlim=(-1.4, 1.4), ylim=(-1.32, 1.32), aspect="equal")
    ax.axis("off")
    return ax


def soft_lookup(angle: float, beta: float, most: float = 20) -> Axes:
    """The attention of a query to five keys in the plane, which are their own values.

    The query is an arrow of length 1 at ``angle`` degrees; its products with the keys are
    multiplied by ``beta``, from 0 to ``most``, before the softmax. The black dot is the read-out,
    the mean of the keys under the weights.
    """
    turn = np.radians(angle)
    query = np.array([np.cos(turn), np.sin(turn)])
    scores = beta * (_KEYS @ query)
    log_weights = scores - scores.max()
    log_weights -= np.log(np.exp(log_weights).sum())
    weights = np.exp(log_weights)
    read_out, entropy = weights @ _KEYS, -float(weights @ log_weights)

    # Its places are those of book/_assets/explorables/attend.js.
    width, height = 614, 394
    side = min(height - 60, width * 0.52)
    r = side / 2 - 9
    middle = 9 + r
    page = sheet(width, height)
    plot = Plot(page, (side + 26, width - 44, 26, height - 52))
    write, ax = plot.write, plot.ax

    def disc(x: float, y: float, radius: float, **kind: object) -> None:
        ax.add_patch(Circle((x, y), radius, **kind))

    write(plot.left - 14, 12, "weights")
    for i, weight in enumerate(weights):
        y, end = 20 + 24 * i, plot.x(weight)
        plot.bar(plot.left, y, end - plot.left, 16, COLOURS[i])
        write(plot.left - 14, y + 12, "ABCDE"[i])
        write(end + 6, y + 12, f"{weight:.3f}")
    disc(middle, middle, r, fill=False, color="0.35", linewidth=0.8)
    places = middle + r * _KEYS * (1, -1)
    ax.fill(*places[:4].T, color=COLOURS[5], alpha=0.22, linewidth=0)
    tip = middle + r * query * (1, -1)
    shaft = middle + (r - 8) * query * (1, -1)
    plot.line([middle, shaft[0]], [middle, shaft[1]], linewidth=1.5)
    along, beside = query * (1, -1), query[::-1]
    head = tip + np.array([[0, 0], [-10, 4], [-10, -4]]) @ np.array([along, beside])
    ax.fill(*head.T, color="black", linewidth=0)
    for i, (x, y) in enumerate(places):
        disc(x, y, 9, color=COLOURS[i], alpha=0.75, linewidth=0)
        write(x, y + 4, "ABCDE"[i], "center")
    for x, y in (middle + r * read_out * (1, -1), (plot.left - 9, 156)):
        disc(x, y, 5, facecolor="black", edgecolor="white", linewidth=0.75, zorder=3)
    rows = (
        ("read-out", f"{read_out[0]:z.2f}, {read_out[1]:z.2f}"),
        ("entropy", f"{entropy:z.3f} nats"),
        ("keys in use", f"{np.exp(entropy):.3f}"),
    )
    for n, (word, text) in enumerate(rows):
        write(plot.left, 160 + 36 * n, word)
        write(plot.left, 175 + 36 * n, text, weight="bold")
    rail = Plot(page, (1, width - 1, 0, height - 58))
    rail.slider(height - 18, "β", f"{beta:.1f}", beta / most)
    return ax


def _loss(classes: int, candidates: int) -> float:
    """The mean of log(1 + K), with K of N - 1 others in the class of the first."""
    if classes == 1:
        return float(np.log(candidates))
    k = np.arange(candidates)
    # Each probability of a binomial variable is a multiple of the one before.
    ratios = np.log((candidates - k[1:]) / k[1:] / (classes - 1))
    logs = np.concatenate([[0.0], np.cumsum(ratios)])
    p = np.exp(logs - logs.max())
    return float(p @ np.log1p(k) / p.sum())


def infonce_bound(classes: int, candidates: int) -> Axes:
    """What InfoNCE sees of the information of a class about its copy, by number of candidates.

    One of ``classes`` equally likely classes is drawn, and its copy is to be found among
    ``candidates``, of which the others are drawn anew. Both are powers of two, up to 65536. The
    curve is the logarithm of the number less the mean loss of the best critic, in nats.
    """
    most = 16
    information, log_n = float(np.log(classes)), float(np.log(candidates))
    loss = _loss(classes, candidates)
    # Its places are those of book/_assets/explorables/saturation.js.
    width, height = 614, 394
    plot = Plot(sheet(width, height), (28, width - 112, 26, height - 116))

    def x(count: float) -> float:
        return float(plot.x(np.log2(count) / most))

    def y(nats: float) -> float:
        return float(plot.y(nats / (most * np.log(2))))

    level, dashed, curve = look(COLOURS[1]), look("0.35", "--", 1.2), look(COLOURS[0])
    up = [(f"{nats}", y(nats)) for nats in range(0, 12, 2)]
    plot.axes("nats", up, [(f"{2**k}", x(2**k)) for k in range(0, 17, 4)])
    plot.line([x(1), x(2**most)], [y(0), y(most * np.log(2))], **dashed)
    plot.curve([plot.left, plot.right], [y(information)] * 2, **level)
    counts = [round(2 ** (i / 4)) for i in range(4 * most + 1)]
    bounds = [y(float(np.log(n)) - _loss(classes, n)) for n in counts]
    plot.curve([x(n) for n in counts], bounds, **curve)
    bound = y(log_n - loss)
    plot.line([x(candidates)] * 2, [plot.base, bound], color="0.35")
    plot.dot(x(candidates), bound, 4.5, COLOURS[0])
    rows = (
        ("information", information, level),
        ("log N", log_n, dashed),
        ("loss", loss, None),
        ("bound", log_n - loss, curve),
    )
    plot.column([(word, f"{value:z.3f} nats", own or {}) for word, value, own in rows])
    letters = ("N, candidates", candidates), ("M, classes", classes)
    for i, (label, count) in enumerate(letters):
        plot.slider(plot.base + 46 + 36 * i, label, f"{count}", np.log2(count) / most)
    return plot.ax
