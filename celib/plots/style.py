"""The look of the figures."""

from collections.abc import Callable, Sequence

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes

__all__ = [
    "COLOURS",
    "arrow",
    "bits_axis",
    "draw_simplex",
    "on_simplex",
    "ring",
    "sheet",
    "use_house_style",
]

# Okabe and Ito's palette, apart for readers with any common form of colour blindness, without
# its yellow, which is too pale for a line on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


def use_house_style() -> None:
    """Set matplotlib's defaults to the look of the book, and a notebook's figures to SVG.

    The same figure gives the same bytes on every run: element ids are seeded and undated.
    """
    plt.rcParams.update(
        {
            "axes.axisbelow": True,
            "axes.grid": True,
            "axes.prop_cycle": cycler(color=COLOURS),
            "axes.spines.right": False,
            "axes.spines.top": False,
            "figure.constrained_layout.use": True,
            "figure.dpi": 100,
            "figure.figsize": (6.4, 3.4),
            "font.size": 10.5,
            "grid.color": "#d9d9d9",
            "grid.linewidth": 0.6,
            "image.cmap": "cividis",
            "legend.frameon": False,
            "lines.linewidth": 1.8,
            "savefig.bbox": "standard",
            "svg.hashsalt": "celib",
        }
    )
    try:
        from IPython import get_ipython
        from matplotlib_inline.backend_inline import set_matplotlib_formats
    except ImportError:
        return
    if get_ipython() is not None:
        set_matplotlib_formats("svg", metadata={"Date": None})  # type: ignore[no-untyped-call]


def on_simplex(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where distributions on three outcomes lie in a triangle of side 1: shape (..., 3) to x, y."""
    p = np.asarray(p)
    return p[..., 1] + p[..., 2] / 2, p[..., 2] * np.sqrt(3) / 2


def draw_simplex(names: Sequence[str]) -> Axes:
    """The triangle of the distributions on three outcomes, its corners named."""
    _, ax = plt.subplots(figsize=(4.6, 3.8))
    ax.plot(*on_simplex(np.eye(3)[[0, 1, 2, 0]]), color="black", linewidth=1)
    for corner, name, offset in zip(np.eye(3), names, ((-9, -12), (9, -12), (0, 6)), strict=True):
        ax.annotate(name, on_simplex(corner), offset, textcoords="offset points", ha="center")
    ax.set_aspect("equal")
    ax.margins(0.12)
    ax.set_axis_off()
    return ax


def sheet(width: float, height: float) -> tuple[Axes, Callable[..., None]]:
    """An empty figure measured as a page of the site is: pixels of 1/96 inch from the top left.

    Beside it, what writes on it: x, y and the text.
    """
    figure = plt.figure(figsize=(width / 96, height / 96))
    figure.set_layout_engine("none")
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, width), ylim=(height, 0))
    ax.set_axis_off()

    def write(x: float, y: float, text: str, ha: str = "left", weight: str = "normal") -> None:
        ax.text(x, y, text, ha=ha, va="baseline", fontsize=9, weight=weight)

    return ax, write


def arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """A straight arrow from one place of a diagram to another."""
    ax.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": "0.3"})


def ring(
    ax: Axes, x: float, y: float, text: str, colour: str, size: float = 24, fontsize: float = 9
) -> None:
    """A circle with a text in it, above the lines that end there."""
    ax.plot(x, y, "o", color="white", markersize=size + 1, zorder=4)
    ax.plot(x, y, "o", markersize=size, markerfacecolor="white", zorder=4)
    ax.lines[-1].set_markeredgecolor(colour)
    ax.text(x, y, text, ha="center", va="center", fontsize=fontsize, zorder=5)


def bits_axis(
    ax: Axes, write: Callable[..., None], word: str, place: tuple[float, float, float], top: int
) -> Callable[[float], float]:
    """The vertical axis of boxes on a sheet, from 0 to ``top`` bits; returned is where bits are.

    ``place`` has its x and the y of its lower and its upper end.
    """
    left, base, high = place

    def y(bits: float) -> float:
        return base - min(bits, top) / top * (base - high)

    write(0, 12, f"{word} (bits)")
    for bits in range(top + 1):
        write(left - 8, y(bits) + 4, f"{bits}", "right")
        ax.plot([left - 4, left], [y(bits), y(bits)], color="black", linewidth=0.8)
    return y
