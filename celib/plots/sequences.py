"""Figures on losses over more classes than can be listed."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from celib.plots.style import COLOURS, arrow, ring, sheet

__all__ = [
    "ctc_trellis",
    "hat_of_articles",
    "learned_articles",
    "padded_batch",
    "token_by_token",
]


def ctc_trellis(routes: np.ndarray, weights: np.ndarray, names: Sequence[str]) -> Axes:
    """All alignments of a word: states against frames, the wider the more probable.

    ``routes`` has a row of states for each alignment, ``weights`` their probabilities given the
    word, and ``names`` the symbol of each state. The most probable alignment is dashed.
    """
    steps = routes.shape[1]
    width, height, left, top = 614, 44 * len(names) + 62, 96, 40
    ax, write = sheet(width, height)
    x = left + 115 * np.arange(steps)
    y = top + 44 * np.arange(len(names))
    share = np.zeros((steps, len(names)))
    arcs: dict[tuple[int, int, int], float] = {}
    for route, weight in zip(routes, weights, strict=True):
        share[np.arange(steps), route] += weight
        for n in range(steps - 1):
            arc = (n, int(route[n]), int(route[n + 1]))
            arcs[arc] = arcs.get(arc, 0) + float(weight)
    for (n, a, b), weight in arcs.items():
        line = 0.7 + 7 * weight
        ax.plot(x[n : n + 2], y[[a, b]], color=COLOURS[5], linewidth=line, solid_capstyle="round")
    best = routes[weights.argmax()]
    ax.plot(x, y[best], "--", color=COLOURS[1], linewidth=1.6, zorder=3)
    for n in range(steps):
        write(x[n], 18, f"frame {n + 1}", "center")
        for s, value in enumerate(share[n]):
            if value > 0:
                ring(ax, x[n], y[s], f"{value:.2f}", COLOURS[0], size=22, fontsize=8)
    for s, name in enumerate(names):
        write(left - 42, y[s] + 4, name, "center", "bold")
    return ax


def hat_of_articles(bought: int, drawn: Sequence[int]) -> Axes:
    """Sampled softmax as a game: one article from the customer and some from Q, in one hat."""
    ax, write = sheet(614, 208)
    write(70, 40, "customer $P$", "center", "bold")
    write(70, 150, "popularity $Q$", "center", "bold")

    ring(ax, 70, 68, f"{bought}", COLOURS[1])
    places = 70 + 40 * (np.arange(len(drawn)) - (len(drawn) - 1) / 2)
    for x, number in zip(places, drawn, strict=True):
        ring(ax, x, 178, f"{number}", COLOURS[0])
    arrow(ax, (94, 72), (230, 104))
    arrow(ax, (70 + 20 * len(drawn) + 6, 172), (230, 128))
    ax.fill_between([240, 384], 84, 148, color=COLOURS[5], alpha=0.25)
    write(312, 76, "hat", "center")
    shuffled = [*drawn[:1], bought, *drawn[1:]]
    for n, number in enumerate(shuffled):
        ring(ax, 312 + 44 * (n - (len(shuffled) - 1) / 2), 116, f"{number}", "0.35")
    arrow(ax, (390, 116), (440, 116))
    write(450, 112, "Which one did the")
    write(450, 130, "customer buy?")
    return ax


def learned_articles(truth: np.ndarray, plain: np.ndarray, corrected: np.ndarray) -> Axes:
    """Probabilities of a shop's articles, and what is learned without and with a correction."""
    _, ax = plt.subplots(figsize=(6.4, 2.7))
    articles = np.arange(1, len(truth) + 1)
    rows = ((truth, "$P$"), (plain, "plain"), (corrected, "logQ correction"))
    for n, (p, name) in enumerate(rows):
        ax.bar(articles + 0.26 * (n - 1), p, 0.24, color=COLOURS[n], label=name)
    ax.set(xlabel="article", ylabel="probability", xticks=articles)
    ax.grid(axis="x", visible=False)
    ax.legend()
    return ax


def padded_batch(sizes: Sequence[int], sums: Sequence[float]) -> Axes:
    """A batch of padded sequences, and what comes out of three ways to divide its losses."""
    ax, write = sheet(614, 44 + 30 * len(sizes) + 92)
    longest, size, left = max(sizes), 26, 40
    write(left + longest * size + 60, 18, "sum", "center")
    write(left + longest * size + 150, 18, "mean", "center")
    for row, (count, total) in enumerate(zip(sizes, sums, strict=True)):
        y = 32 + 30 * row
        for n in range(longest):
            x, filled = left + n * size, n < count
            look = {"color": COLOURS[0], "alpha": 0.7} if filled else {"fill": False}
            edge = {"edgecolor": "0.6", "linewidth": 0.8, "linestyle": "-" if filled else ":"}
            ax.bar(x, size - 3, size - 3, y, align="edge", **(look if filled else {**look, **edge}))
        write(left + longest * size + 60, y + 17, f"{total:.1f}", "center")
        write(left + longest * size + 150, y + 17, f"{total / count:.2f}", "center")
    y = 44 + 30 * len(sizes) + 14
    everything, tokens, means = sum(sums), sum(sizes), np.divide(sums, sizes)
    places = longest * len(sizes)
    answers = (
        ("per token", f"{everything:.1f} / {tokens}", everything / tokens),
        (
            "mean of the means",
            f"({' + '.join(f'{m:.2f}' for m in means)}) / {len(means)}",
            float(means.mean()),
        ),
        ("over all places", f"{everything:.1f} / {places}", everything / places),
    )
    for row, (name, quotient, value) in enumerate(answers):
        weight = "bold" if row == 0 else "normal"
        write(left, y + 24 * row, name, weight=weight)
        write(left + 160, y + 24 * row, quotient)
        write(left + 410, y + 24 * row, f"= {value:.2f}", weight=weight)
    return ax


def token_by_token(text: str, chances: np.ndarray) -> Axes:
    """Teacher forcing: each token below its own context, with its probability and its loss."""
    count = len(text)
    ax, write = sheet(614, 40 + 26 * count + 34)
    for x, word in ((44, "context"), (214, "token"), (330, "probability"), (490, "loss in nats")):
        write(x, 18, word, "left" if x == 44 else "center")
    for n, (token, chance) in enumerate(zip(text, chances, strict=True)):
        y, loss = 42 + 26 * n, -float(np.log(chance))
        write(44, y, text[:n].replace(" ", "\u2423") or "(none)")
        write(214, y, token.replace(" ", "\u2423"), "center", "bold")
        write(330, y, f"{chance:.3f}", "center")
        ax.bar(440, -14, 24 * loss, y + 3, color=COLOURS[0], alpha=0.8, align="edge")
        write(446 + 24 * loss, y, f"{loss:.2f}")
    y = 42 + 26 * count + 6
    ax.plot([44, 570], [y - 16, y - 16], color="0.5", linewidth=0.8)
    write(44, y + 4, "all", weight="bold")
    write(330, y + 4, f"{np.prod(chances):.2g}", "center")
    write(440, y + 4, f"{-np.log(chances).sum():.2f}", weight="bold")
    return ax
