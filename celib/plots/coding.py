"""The figures of the chapter on codes: what a lecturer draws on the blackboard."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from celib.plots.style import COLOURS, sheet

__all__ = ["block_lengths", "code_tree", "context_orders", "kraft_budget", "nested_intervals"]


def code_tree(words: Sequence[str], names: Sequence[str], answers: Sequence[str] = "01") -> Axes:
    """A binary tree whose leaves are words: a prefix code, or a strategy of questions."""
    depth = max(map(len, words))
    _, ax = plt.subplots(figsize=(6.4, 0.6 + 0.55 * len(words)))

    # The leaves are spaced evenly, and a node stands between its two branches.
    order = sorted(words)
    place = {word: float(-rank) for rank, word in enumerate(order)}
    for level in range(depth - 1, -1, -1):
        for word in {word[:level] for word in words if len(word) > level}:
            place[word] = (place[word + "0"] + place[word + "1"]) / 2
    for word, y in place.items():
        if word:
            x, parent = len(word), place[word[:-1]]
            ax.plot([x - 1, x], [parent, y], color="0.55", linewidth=1.2, zorder=1)
            ax.annotate(
                answers[int(word[-1])],
                (x - 0.5, (parent + y) / 2),
                (0, 4 if y > parent else -12),
                textcoords="offset points",
                ha="center",
                color=COLOURS[1],
            )
    for word, name in zip(words, names, strict=True):
        ax.plot(len(word), place[word], "o", color=COLOURS[0])
        shown = f"{name}  {word}" if answers == "01" else name
        ax.annotate(
            shown, (len(word), place[word]), (9, 0), textcoords="offset points", va="center"
        )
    inner = [(len(word), y) for word, y in place.items() if word not in words]
    ax.plot(*zip(*inner, strict=True), "o", color="0.55", markersize=4)
    ax.set_xlim(-0.1, depth + 0.9)
    ax.margins(y=0.12)
    ax.set_axis_off()
    return ax


def kraft_budget(words: Sequence[str], names: Sequence[str]) -> Axes:
    """The words of a prefix code as their intervals of binary fractions, and what is left over."""
    _, ax = plt.subplots(figsize=(6.4, 1.7))
    ax.barh(0, 1, height=0.8, color="none", edgecolor="0.6", hatch="///", linewidth=0.6)
    for i, (word, name) in enumerate(zip(words, names, strict=True)):
        low, width = int(word, 2) / 2 ** len(word), 2.0 ** -len(word)
        ax.barh(0, width, 0.8, low, color=COLOURS[i % len(COLOURS)], edgecolor="white")
        ax.annotate(
            f"{name}\n{word}", (low + width / 2, 0), ha="center", va="center", color="white"
        )
    ticks = np.linspace(0, 1, 9)
    ax.set(xlim=(-0.005, 1.005), ylim=(-0.5, 0.5), yticks=[], xticks=ticks)
    ax.set_xticklabels(["0", "1/8", "1/4", "3/8", "1/2", "5/8", "3/4", "7/8", "1"])
    ax.grid(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)
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


def nested_intervals(
    low: np.ndarray, width: np.ndarray, q: np.ndarray, message: Sequence[int], word: str
) -> Axes:
    """The interval of an arithmetic coder before and after each symbol, stretched to one width.

    ``low`` and ``width`` have an entry more than the message, ``q`` has the probabilities of the
    symbols 0 and 1; the interval of the code word is marked in the last row.
    """
    # Its places are those of book/_assets/explorables/coder.js.
    across, height, left, wide = 614, 394, 1, 612
    ax, write = sheet(across, height)
    pitch = min(92, (height - 90) / max(1, len(message)))
    bar = max(11, min(26, pitch - 22))

    def part(start: float, end: float, y: float, colour: str, alpha: float) -> None:
        ax.bar(
            left + start * wide,
            bar,
            (end - start) * wide,
            y,
            align="edge",
            color=colour,
            alpha=alpha,
        )

    places = ((left, "left"), (across / 2, "center"), (left + wide, "right"))
    for (x, ha), what in zip(places, ("begin", "width", "end"), strict=True):
        write(x, 11, what, ha)
    split = float(q[0])
    for i, (start, size) in enumerate(zip(low, width, strict=True)):
        y = 33 + i * pitch
        if i < len(message):
            symbol, after = message[i], y + pitch
            ends = left + wide * np.array([[0, split], [split, 1]][symbol])
            turn = max(y + bar, after - 15)
            outline = [ends[0], left, left, left + wide, left + wide, ends[1]]
            beam = [y + bar, turn, after, after, turn, y + bar]
            ax.fill(outline, beam, color=COLOURS[symbol], alpha=0.13, linewidth=0)
        if i < len(message) or i == 0:
            for each, (a, b) in enumerate(((0, split), (split, 1))):
                taken = i < len(message) and message[i] == each
                part(a, b, y, COLOURS[each], 0.75 if taken else 0.22)
                write(left + (a + b) / 2 * wide, y + bar / 2 + 4, f"{each}", "center")
        else:
            part(0, 1, y, COLOURS[message[-1]], 0.22)
        for (x_, ha), number in zip(places, (start, size, start + size), strict=True):
            write(x_, y - 4, f"{number:.6f}", ha)
    if word:
        begin = (int(word, 2) / 2 ** len(word) - low[-1]) / width[-1]
        end = begin + 2.0 ** -len(word) / width[-1]
        part(begin, end, y, COLOURS[2], 0.75)
        if (end - begin) * wide > 8 * len(word):
            write(left + (begin + end) / 2 * wide, y + bar / 2 + 4, word, "center")
    surprise = float(-np.log2(width[-1]))
    note = f"width {width[-1]:.6f} · surprise {surprise:.3f} bits"
    write(across / 2, height - 26, note, "center")
    write(across / 2, height - 6, f"code word {word}, {len(word)} bits", "center", "bold")
    return ax
