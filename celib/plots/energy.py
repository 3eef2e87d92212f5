"""Figures on magnets, binding sites and policies."""

from collections.abc import Sequence
from functools import cache
from itertools import product
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.patches import PathPatch
from matplotlib.textpath import TextPath
from matplotlib.transforms import Affine2D

from celib.plots.frame import Plot, look
from celib.plots.style import COLOURS, arrow, sheet

__all__ = [
    "arrangements",
    "gibbs_law",
    "judgement",
    "magnet",
    "reinforce_loop",
    "sequence_logo",
    "site_scores",
    "tilted_policy",
]


def arrangements(states: np.ndarray, names: Sequence[str]) -> Axes:
    """Squares of magnets, up (dark) or down (light): ``states`` has a square of +1 and -1 each."""
    size, gap, top = 26, 46, 34
    side = states.shape[-1]
    ax, write = sheet(614, top + side * size + 12)
    left = (614 - len(states) * side * size - (len(states) - 1) * gap) / 2
    for state, name in zip(states, names, strict=True):
        write(left + side * size / 2, 18, name, "center")
        for i in range(side):
            for j in range(side):
                up = state[i, j] > 0
                x, y = left + j * size, top + i * size
                kind: dict[str, Any] = {"align": "edge", "edgecolor": "white", "linewidth": 1}
                ax.bar(x, size, size, y, color=COLOURS[0], alpha=0.85 if up else 0.15, **kind)
        left += side * size + gap
    return ax


def magnet(
    temperature: np.ndarray,
    energy: np.ndarray,
    entropy: np.ndarray,
    order: np.ndarray,
    free: np.ndarray,
    bound: np.ndarray,
) -> Axes:
    """A magnet against temperature, each value per atom; the free energy below its mean field."""
    _, (left, right) = plt.subplots(1, 2, figsize=(6.4, 3.1))
    left.plot(temperature, -energy, "--", color=COLOURS[1], label="minus energy")
    left.plot(temperature, entropy, color=COLOURS[0], label="entropy in nats")
    left.plot(temperature, order, "-.", color=COLOURS[2], label="magnetisation")
    left.set(xlabel="temperature $T$", ylabel="per atom", ylim=(0, 2.9))
    left.legend(loc="upper right", fontsize=9)
    right.fill_between(temperature, free, bound, color=COLOURS[4], alpha=0.35)
    right.plot(temperature, bound, "--", color=COLOURS[1], label="mean field")
    right.plot(temperature, free, color=COLOURS[0], label="exact")
    middle = len(temperature) // 2
    right.annotate(
        "$T$ times $D$, per atom",
        (temperature[middle], (free[middle] + bound[middle]) / 2),
        (0.06, 0.32),
        textcoords="axes fraction",
        fontsize=9,
        arrowprops={"arrowstyle": "-", "color": "0.35", "linewidth": 0.8},
    )
    right.set(xlabel="temperature $T$", ylabel="free energy per atom")
    right.legend(loc="upper right", fontsize=9)
    first: Axes = left
    return first


def sequence_logo(p: np.ndarray, letters: str = "ACGT") -> Axes:
    """A sequence logo: at each position a stack as high as its bits, letters as high as likely."""
    _, ax = plt.subplots(figsize=(6.4, 2.8))
    logs = np.log2(np.where(p > 0, p, 1))
    bits = np.log2(p.shape[1]) + (p * logs).sum(axis=1)
    font = FontProperties(family="DejaVu Sans", weight="bold")
    colours = dict(zip(letters, (COLOURS[2], COLOURS[0], COLOURS[4], COLOURS[1]), strict=False))
    for position, row in enumerate(p):
        low = 0.0
        for k in np.argsort(row):
            high = float(row[k] * bits[position])
            if high > 0.01:
                shape = TextPath((0, 0), letters[k], size=1, prop=font)
                box = shape.get_extents()
                place = Affine2D().translate(-box.x0, -box.y0)
                place = place.scale(0.86 / box.width, high / box.height)
                place = place.translate(position + 0.57, low)
                patch = PathPatch(
                    shape, transform=place + ax.transData, color=colours[letters[k]], linewidth=0
                )
                ax.add_patch(patch)
            low += high
    ax.set(xlim=(0.4, len(p) + 0.6), ylim=(0, 2), xlabel="position", ylabel="bits")
    ax.set_xticks(range(1, len(p) + 1))
    ax.grid(axis="x", visible=False)
    return ax


def site_scores(
    score: np.ndarray, sites: np.ndarray, background: np.ndarray, threshold: float
) -> Axes:
    """How scores are distributed, in bits, for sites and for the background; a threshold."""
    _, ax = plt.subplots(figsize=(6.4, 2.9))
    edges = np.arange(np.floor(score.min()) - 1, np.ceil(score.max()) + 2)
    rows = ((background, "background", 0), (sites, "sites", 1))
    for weights, name, n in rows:
        heights, _ = np.histogram(score, edges, weights=weights)
        ax.bar(edges[:-1] + 0.3 + 0.4 * n, heights, 0.4, color=COLOURS[n], label=name)
    ax.axvline(threshold, color="black", linestyle="--", linewidth=1.2)
    ax.annotate(
        "reported", (threshold, ax.get_ylim()[1]), (5, -12), textcoords="offset points", fontsize=9
    )
    for weights, colour in ((background, COLOURS[0]), (sites, COLOURS[1])):
        ax.plot(weights @ score, 0, "^", color=colour, markersize=9, clip_on=False, zorder=5)
    ax.grid(axis="x", visible=False)
    ax.set(xlabel="score in bits", ylabel="probability")
    ax.legend(loc="upper left")
    return ax


def judgement(preferred: float, other: float, price: float) -> Axes:
    """DPO: from the log-ratios of two answers to the probability that the first is preferred."""
    ax, write = sheet(614, 214)
    zero, unit = 118, 70
    ax.plot([40, 250], [zero, zero], color="0.4", linewidth=1)
    for x, value, name, colour in ((80, preferred, "k", 0), (180, other, "j", 1)):
        ax.bar(x, -unit * value, 48, zero, color=COLOURS[colour], alpha=0.8)
        beyond = -8 if value > 0 else 18
        write(x, zero - unit * value + beyond, f"{value:.2f}", "center")
        write(x, zero + (18 if value > 0 else -8), f"answer ${name}$", "center")
    write(130, 204, r"$\log(\pi/\pi^0)$", "center")
    top, low = zero - unit * preferred, zero - unit * other
    ax.annotate("", (250, top), (250, low), arrowprops={"arrowstyle": "<->", "color": "0.3"})
    write(260, (top + low) / 2 + 4, f"{preferred - other:.2f}")
    logit = price * (preferred - other)
    middle = (top + low) / 2
    for start, end, word in ((304, 376, rf"$\times\,T={price:g}$"), (450, 520, r"$\sigma$")):
        arrow(ax, (start, middle), (end, middle))
        write((start + end) / 2, middle - 8, word, "center")
    write(413, middle + 4, f"{logit:.2f}", "center", "bold")
    write(413, middle + 26, "logit", "center")
    write(552, middle + 4, f"{1 / (1 + np.exp(-logit)):.2f}", "center", "bold")
    write(552, middle + 26, "$k$ is preferred", "center")
    return ax


def reinforce_loop(policy: np.ndarray, move: int, reward: float) -> Axes:
    """One game of REINFORCE: policy, drawn move and reward, and the weighted loss; arrows back."""
    ax, write = sheet(614, 236)
    floor, left, wide = 148, 40, 38
    for k, p in enumerate(policy):
        high, x = 96 * float(p), left + wide * k
        ax.bar(x, -high, wide - 10, floor, color=COLOURS[0], alpha=0.9 if k == move else 0.3)
        write(x, floor - high - 5, f"{p:g}", "center")
        write(x, floor + 17, f"{k + 1}", "center")
    write(left + wide, floor + 36, r"policy $\pi$", "center")
    loss = rf"loss ${reward:g}\cdot(-\log{policy[move]:g})$"

    def box(x: float, y: float, text: str, half: float) -> None:
        ax.fill_between([x - half, x + half], y - 17, y + 17, color=COLOURS[0], alpha=0.12)
        write(x, y + 4, text, "center")

    box(250, 74, f"move {move + 1}", 48)
    box(420, 74, f"reward {reward:g}", 48)
    box(400, 176, loss, 92)
    arrow(ax, (150, 74), (200, 74))
    write(175, 66, "draw", "center")
    arrow(ax, (300, 74), (370, 74))
    write(335, 66, "play", "center")
    arrow(ax, (264, 92), (350, 158))
    write(292, 136, "label", "right")
    arrow(ax, (420, 92), (414, 158))
    write(426, 130, "weight")
    arrow(ax, (306, 180), (150, 180))
    write(228, 200, "gradient", "center")
    return ax


def tilted_policy(temperature: np.ndarray, policy: np.ndarray, start: np.ndarray) -> Axes:
    """The probabilities of the moves against the price of leaving the reference, and its own."""
    _, ax = plt.subplots(figsize=(6.4, 3.0))
    for k, line in enumerate(("-", "--", "-.")):
        ax.plot(temperature, policy[:, k], line, color=COLOURS[k], label=f"move {k + 1}")
        ax.plot(temperature[-1] * 1.25, start[k], "D", color=COLOURS[k], clip_on=False)
    ax.annotate(
        r"$\pi^0$", (temperature[-1] * 1.25, start.max()), (0, 9), textcoords="offset points"
    )
    ax.set_xscale("log")
    ax.set_xlim(temperature[0], temperature[-1] * 1.5)
    ax.set(xlabel="price $T$ of a nat", ylabel="probability", ylim=(0, 1))
    ax.legend(loc="upper center")
    return ax


@cache
def _small_magnet() -> tuple[np.ndarray, np.ndarray]:
    """All 512 states of nine spins on a torus of three by three, and their energies."""
    spins = np.array(list(product((-1, 1), repeat=9)))
    lattice = spins.reshape(-1, 3, 3)
    bonds = [lattice * np.roll(lattice, 1, axis) for axis in (1, 2)]
    return spins, -np.sum(bonds, axis=(0, 2, 3))


def _per_spin(p: np.ndarray, temperature: float) -> tuple[float, float, float, float]:
    """What a law of all 512 states has: energy, entropy, free energy and magnetisation."""
    spins, energies = _small_magnet()
    surprise = -np.log(p, out=np.zeros(len(p)), where=p > 0)
    energy, entropy = float(p @ energies) / 9, float(p @ surprise) / 9
    magnetisation = float(p @ np.abs(spins.sum(axis=1))) / 9
    return energy, entropy, energy - temperature * entropy, magnetisation


def gibbs_law(temperature: float, m: float, top: int = 4) -> Axes:
    """A small magnet under the law of Gibbs, and a trial law whose spins are independent.

    The magnet has nine spins on a torus of three by three, coupled by 1, without a field. On the
    left is how probable each energy is under either law, on the right the divergence of the trial
    law from that of Gibbs, in nats and up to ``top``, for every mean of a spin from 0 to 1. Below
    are energy, entropy, free energy and absolute magnetisation per spin. The ``temperature`` is
    from 0.5 to 6; the dot is at the mean ``m``.
    """
    spins, energies = _small_magnet()
    weights = np.exp((energies.min() - energies) / temperature)
    gibbs = weights / weights.sum()
    trials = np.linspace(0, 1, 101)

    def trial(mean: float) -> np.ndarray:
        chances: np.ndarray = np.where(spins > 0, (1 + mean) / 2, (1 - mean) / 2).prod(axis=1)
        return chances

    means = _per_spin(gibbs, temperature), _per_spin(trial(m), temperature)

    def bill(mean: float) -> float:
        free = _per_spin(trial(mean), temperature)[2]
        return max(0, 9 * (free - means[0][2]) / temperature)

    # Its places are those of book/_assets/explorables/ising.js.
    width, height = 614, 394
    base, half, first = height - 134, width // 2, 84
    page = sheet(width, height)
    left = Plot(page, (26, half - 12, 26, base))
    right = Plot(page, (half + 24, width - 20, 26, base))
    write = left.write

    def table(row: int, *texts: str) -> None:
        for i, text in enumerate(texts):
            write(first + (i + 0.5) * (width - first) / 4, height - 54 + 17 * row, text, "center")

    levels, wide = np.unique(energies), (left.right - left.left) / 16
    places = left.x((np.arange(len(levels)) + 0.5) / len(levels))
    for k, (law, name) in enumerate(((gibbs, "Gibbs"), (trial(m), "product"))):
        for level, x in zip(levels, places, strict=True):
            high = left.y(law[level == energies].sum())
            left.bar(x + (k - 1) * wide, high, wide, base - high, COLOURS[k])
        left.bar(0, height - 46 + 17 * k, 9, 9, COLOURS[k])
        write(13, height - 37 + 17 * k, name)
        table(k + 1, *(f"{value:z.3f}" for value in means[k]))
    table(0, "energy", "entropy", "free energy", "|m|")
    write(0, height - 54, "per spin")
    write(0, height - 3, f"divergence {bill(m):.3f} nats", weight="bold")
    left.axes(
        "probability of the energy",
        [(f"{p:g}", left.y(p)) for p in (0, 0.5, 1)],
        [(f"{level}", x) for level, x in zip(levels, places, strict=True)],
    )

    up = [(f"{nats}", right.y(nats / top)) for nats in range(top + 1)]
    across = [(f"{mean:g}", right.x(mean)) for mean in (0, 0.5, 1)]
    right.axes("divergence (nats)", up, across, half)
    right.curve(
        right.x(trials), right.y(np.array([bill(x) for x in trials]) / top), **look(COLOURS[1])
    )
    x, y = right.x(m), right.y(bill(m) / top)
    right.line([x, x], [base, max(26, y)], **look(COLOURS[4], linewidth=3.75))
    right.dot(x, y, 4.5, COLOURS[1])
    left.slider(base + 44, "temperature", f"{temperature:.2f}", (temperature - 0.5) / 5.5)
    right.slider(base + 44, "magnetisation", f"{m:.2f}", m)
    return left.ax
