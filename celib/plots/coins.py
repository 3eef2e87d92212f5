"""The figures of two coins, which their scripts make movable: the first frames of those."""

from collections.abc import Callable
from itertools import accumulate
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from celib.plots.frame import Plot, Ticks, look
from celib.plots.style import COLOURS, sheet

__all__ = ["tangent_gap", "told_apart", "two_directions"]


class _Coins(Plot):
    """A plot with two coins as bars below it and numbers beside it: p and q are those of heads.

    Its places are those of book/_assets/explorables/parts/coins.js.
    """

    def __init__(self, p: float, q: float, left: int) -> None:
        super().__init__(sheet(614, 394), (left, 502, 34, 302))
        self.p, self.q = p, q
        for letter, chance, y in (("P", p, self.base + 36), ("Q", q, self.base + 68)):
            self.rail(y, chance)
            self.write(left - 12, y + 11, letter, "right")
            self.write(self.right + 20, y + 11, f"{chance:.2f}")
            if self.x(chance) - left > 60:
                self.write(left + 8, y + 11, "heads")

    def heads_axis(self, title: str, up: Ticks) -> None:
        """The axis of heads, on which the letters of the coins take the place of numbers."""
        at = self.x(self.p), self.x(self.q)
        apart = max(0, 7 - abs(at[0] - at[1]) / 2) * (-1 if self.p > self.q else 1)
        own = at[0] - apart, at[1] + apart
        ticks = {text: self.x(float(text)) for text in ("0", "0.5", "1")}
        free = {k: x for k, x in ticks.items() if min(abs(x - one) for one in own) > 18}
        self.axes(title, up, free.items())
        for letter, x, tick in zip("PQ", own, at, strict=True):
            self.write(x, self.base + 18, letter, "center", "bold")
            self.line([tick, tick], [self.base, self.base + 4])


def _cross_entropy(p: Any, q: Any) -> Any:
    """Of coins with heads of probability p and q, in bits; celib.information would load SciPy."""
    p, q = np.broadcast_arrays(np.asarray(p, dtype=float), np.asarray(q, dtype=float))
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = [np.where(a > 0, -a * np.log2(b), 0) for a, b in ((p, q), (1 - p, 1 - q))]
    return terms[0] + terms[1] + 0.0


def _divergence(p: Any, q: Any) -> Any:
    return np.maximum(0, _cross_entropy(p, q) - _cross_entropy(p, p))


def _bits(value: float) -> str:
    return f"{value:.3f} bits" if np.isfinite(value) else "∞ bits"


def _heights(plot: _Coins, top: int) -> Callable[[Any], Any]:
    """Where bits are in the plot, from 0 at its base to ``top`` at its upper edge."""
    return lambda bits: plot.base - np.minimum(bits, 9999) / top * (plot.base - plot.top)


# Closer together towards the ends, where a curve may go up without end.
_HEADS = np.sin(np.linspace(0, np.pi / 2, 201)) ** 2


def two_directions(p: float, q: float, top: int = 3) -> Axes:
    """The divergences of two coins in either direction, as Q moves and P stays.

    P has heads with probability p, Q with probability q, each from 0 to 1; the curves have the
    divergences for all coins Q, the dots those for this one. What is above ``top`` bits bears an
    arrow.
    """
    forward, backward = float(_divergence(p, q)), float(_divergence(q, p))
    plot = _Coins(p, q, 22)
    y, x = _heights(plot, top), plot.x(q)
    looks = look(COLOURS[0]), look(COLOURS[1], (0, (2.5, 1.5)))
    plot.heads_axis("divergence (bits)", [(f"{bits}", y(bits)) for bits in range(top + 1)])
    highest = max(plot.top, y(max(forward, backward)))
    plot.line([x, x], [plot.base, highest], color="0.35")
    for values, own in zip((_divergence(p, _HEADS), _divergence(_HEADS, p)), looks, strict=True):
        plot.curve(plot.x(_HEADS), y(values), **own)
    plot.dot(x, y(forward), 6, COLOURS[0])
    plot.dot(x, y(backward), 4, COLOURS[1])
    plot.column([("D(P‖Q)", _bits(forward), looks[0]), ("D(Q‖P)", _bits(backward), looks[1])])
    return plot.ax


def tangent_gap(p: float, q: float, top: int = 2) -> Axes:
    """The entropy of a coin, and the cross-entropy with a coin Q as its tangent at Q.

    P has heads with probability p, Q with probability q, each from 0 to 1. Above p the entropy is
    thin and the divergence, up to the tangent, thick. What is above ``top`` bits bears an arrow.
    """
    cross, entropy = float(_cross_entropy(p, q)), float(_cross_entropy(p, p))
    plot = _Coins(p, q, 22)
    y, x, touch = _heights(plot, top), plot.x(p), float(_cross_entropy(q, q))
    hump, tangent, gap = look(COLOURS[0]), look("black"), look(COLOURS[4], linewidth=3.75)
    plot.heads_axis("cross-entropy (bits)", [(f"{bits}", y(bits)) for bits in range(top + 1)])
    plot.line([plot.x(q)] * 2, [plot.base, y(touch)], "--", "0.35", linewidth=1.2)
    plot.line([x, x], [plot.base, y(entropy)], color="0.35")
    plot.line([x, x], [y(entropy), max(plot.top, y(cross))], **gap)
    if cross > top:
        plot.arrow(x, plot.top - 2, COLOURS[4])
    plot.curve(plot.x(_HEADS), y(_cross_entropy(_HEADS, _HEADS)), **hump)
    # For a coin that always falls alike the line is upright.
    ends = np.array([0, q, 1])
    plot.curve(plot.x(ends), y(_cross_entropy(ends, q)), **tangent)
    plot.dot(plot.x(q), y(touch), 4.5, COLOURS[0])
    rows = (
        ("cross-entropy", cross, tangent),
        ("entropy", entropy, hump),
        ("divergence", float(_divergence(p, q)), gap),
    )
    plot.column([(word, _bits(value), own) for word, value, own in rows])
    return plot.ax


def told_apart(p: float, q: float, most: int = 100) -> Axes:
    """How often two coins are taken for each other after n tosses, on a logarithmic axis.

    One of them, chosen with probability one half, is tossed, and the likelier one is named. P has
    heads with probability p, Q with probability q, both between 0 and 1. The straight line is
    Chernoff's bound; the dot is at the first n with an error of at most 0.05.
    """
    likelihood = np.log([[p, 1 - p], [q, 1 - q]])
    factorial = np.array(list(accumulate(np.log(np.arange(1, most + 1)), initial=0.0)))
    errors = np.empty(most + 1)
    for n in range(most + 1):
        k = np.arange(n + 1)
        ways = factorial[n] - factorial[k] - factorial[n - k]
        each = likelihood[:, :1] * k + likelihood[:, 1:] * (n - k)
        errors[n] = np.exp(ways + each.min(axis=0)).sum() / 2
    enough, low = 0.05, 0.001
    within = errors <= enough + 1e-12  # which may be reached exactly, but for rounding
    first = int(np.argmax(within)) if within.any() else None
    # The Chernoff information is the divergence of the coin that is as far from P as from Q.
    heads, tails = likelihood[0] - likelihood[1]
    chernoff = float(_divergence(tails / (tails - heads), p)) if p != q else 0.0

    plot = _Coins(p, q, 44)

    def x(tosses: Any) -> Any:
        return plot.left + tosses / most * (plot.right - plot.left)

    def y(error: Any) -> Any:
        return plot.base - np.log(error / low) / np.log(0.5 / low) * (plot.base - plot.top)

    curve, straight = look(COLOURS[0]), look(COLOURS[1], linewidth=0.75)
    levels = 0.5, 0.1, enough, 0.01, low
    across = [(f"{n}", x(n)) for n in range(0, most + 1, most // 5)]
    plot.axes("error", [(f"{error:g}", y(error)) for error in levels], across)
    plot.write(plot.right + 20, plot.base + 4, "tosses")
    plot.line([plot.left, plot.right], [y(enough)] * 2, "--", "0.35", linewidth=1.2)
    ends = np.array([0, most])
    plot.curve(x(ends), y(0.5 * 2 ** (-ends * chernoff)), **straight)
    plot.curve(x(np.arange(most + 1)), y(errors), **curve)
    if first is not None:
        plot.line([x(first)] * 2, [plot.base, y(errors[first])], color="0.35")
        plot.dot(x(first), y(errors[first]), 4.5, COLOURS[0])
    forward, backward = float(_divergence(p, q)), float(_divergence(q, p))
    plot.column(
        [
            ("tosses", f"> {most}" if first is None else f"{first}", curve),
            ("Chernoff", _bits(chernoff), straight),
            ("D(P‖Q)", _bits(forward), {}),
            ("D(Q‖P)", _bits(backward), {}),
        ]
    )
    return plot.ax
