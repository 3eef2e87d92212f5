"""The figures of the chapter on KL as evidence."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from celib.plots.style import COLOURS

__all__ = ["evidence", "forward_and_reverse", "tilted_die", "wealth"]


def evidence(first: np.ndarray, second: np.ndarray, rates: tuple[float, float]) -> Axes:
    """Sums of evidence in bits under two models, shape (runs, observations), and their drifts."""
    _, ax = plt.subplots()
    steps = np.arange(first.shape[1] + 1)
    runs = zip((first, second), rates, COLOURS, ("-", "--"), ("$P$", "$Q$"), strict=False)
    for walks, rate, colour, line, name in runs:
        begun = np.pad(walks, ((0, 0), (1, 0)))
        # Every fifteenth toss, for a small file.
        ax.plot(steps[::15], begun.T[::15], line, color=colour, linewidth=0.6, alpha=0.5)
        label = f"{name}: {rate:+.3f} bits per toss".replace("-", "\N{MINUS SIGN}")
        ax.plot(steps[[0, -1]], rate * steps[[0, -1]], color=colour, linewidth=2.4, label=label)
    ax.axhline(0, color="0.35", linewidth=0.9)
    ax.set(xlabel="tosses", ylabel="evidence for $P$ in bits", xlim=(0, steps[-1]))
    ax.legend(loc="upper left")
    return ax


def tilted_die(faces: np.ndarray, fair: np.ndarray, given: np.ndarray, tilted: np.ndarray) -> Axes:
    """The probabilities of the faces of a die, before and after a mean is known."""
    _, ax = plt.subplots(figsize=(6.4, 3.0))
    parts = (fair, "fair"), (given, "given the mean"), (tilted, "tilted")
    for n, (p, name) in enumerate(parts):
        ax.bar(faces + 0.26 * (n - 1), p, 0.24, color=COLOURS[n], label=name)
    ax.grid(axis="x", visible=False)
    ax.set(xlabel="face", ylabel="probability")
    ax.legend()
    return ax


def wealth(capital: dict[str, np.ndarray]) -> Axes:
    """How often a capital has doubled, day by day, for each way to bet."""
    _, ax = plt.subplots()
    for (name, doublings), line in zip(capital.items(), ("-", "--", "-.", ":"), strict=False):
        ax.plot(np.arange(doublings.size + 1), np.append(0, doublings), line, label=name)
    ax.axhline(0, color="0.35", linewidth=0.9)
    ax.set(xlabel="days", ylabel="doublings of the capital", xlim=(0, None))
    ax.legend(loc="upper left")
    return ax


def forward_and_reverse(
    x: np.ndarray, target: np.ndarray, forward: np.ndarray, reverse: np.ndarray
) -> Axes:
    """A target density, and its closest normal density in either direction of the divergence."""
    _, ax = plt.subplots()
    ax.fill_between(x, target, color="#dddddd", label="$P$")
    ax.plot(x, forward, color=COLOURS[0], label=r"smallest $D_{KL}(P\Vert Q)$")
    ax.plot(x, reverse, color=COLOURS[1], linestyle="--", label=r"smallest $D_{KL}(Q\Vert P)$")
    ax.set_ylim(bottom=0)
    ax.set_xlabel("$x$")
    ax.set_ylabel("probability of a cell of the grid")
    ax.legend(loc="upper right")
    return ax
