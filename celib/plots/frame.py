"""A plot on a sheet, as the scripts of the figures that move draw it."""

import re
from collections.abc import Callable, Iterable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from celib.plots.style import COLOURS

__all__: list[str] = []  # nothing that a notebook draws

Ticks = Iterable[tuple[str, float]]


class Plot:
    """A plot on a sheet, which its axes share with what stands beside and below them.

    Its places are those of book/_assets/explorables/parts/plot.js, in pixels of the sheet.
    """

    def __init__(
        self, page: tuple[Axes, Callable[..., None]], place: tuple[float, float, float, float]
    ) -> None:
        self.ax, self._write = page
        self.left, self.right, self.top, self.base = place

    def write(
        self, x: float, y: float, text: str, ha: str = "left", weight: str = "normal"
    ) -> None:
        self._write(x, y, re.sub(r"-(?=\d)", "−", text), ha, weight)

    def x(self, share: Any) -> Any:
        return self.left + share * (self.right - self.left)

    def y(self, share: Any) -> Any:
        return self.base - share * (self.base - self.top)

    def axes(self, title: str, up: Ticks, across: Ticks, at: float = 0) -> None:
        """The two axes, whose ticks are pairs of a text and a place."""
        self.write(at, 12, title)
        for text, y in up:
            self.write(self.left - 8, y + 4, text, "right")
            self.line([self.left - 4, self.left], [y, y])
        for text, x in across:
            self.write(x, self.base + 18, text, "center")
            self.line([x, x], [self.base, self.base + 4])
        corner = [self.left, self.left, self.right], [self.top, self.base, self.base]
        self.line(*corner)

    def line(
        self, x: Any, y: Any, style: Any = "-", color: str = "black", linewidth: float = 0.8
    ) -> None:
        self.ax.plot(x, y, ls=style, color=color, linewidth=linewidth, solid_capstyle="butt")

    def curve(self, x: Any, y: Any, style: Any, color: str, linewidth: float) -> None:
        """A line of which the frame cuts what lies beyond it."""
        (drawn,) = self.ax.plot(x, y, ls=style, color=color, linewidth=linewidth)
        wide, high = self.right - self.left + 2, self.base - self.top + 2
        frame = Rectangle((self.left - 1, self.top - 1), wide, high, transform=self.ax.transData)
        drawn.set_clip_path(frame)

    def arrow(self, x: float, y: float, color: str) -> None:
        self.ax.fill([x - 5, x + 5, x], [y, y, y - 8], color=color, linewidth=0)

    def dot(self, x: float, y: float, radius: float, color: str) -> None:
        """At the upper edge, with an arrow, if it lies above."""
        self.ax.plot(x, max(y, self.top), "o", color=color, markersize=1.5 * radius, mew=0)
        if y < self.top:
            self.arrow(x, self.top - radius - 1, color)

    def bar(
        self, x: float, y: float, width: float, height: float, color: str, alpha: float = 0.75
    ) -> None:
        self.ax.bar(x, height, width, y, align="edge", color=color, alpha=alpha)

    def rail(self, y: float, share: float) -> None:
        """A bar below the plot, full up to where the script has a handle."""
        edge = self.x(share)
        self.bar(self.left, y, edge - self.left, 14, COLOURS[2])
        self.bar(edge, y, self.right - edge, 14, COLOURS[2], 0.22)

    def slider(self, y: float, label: str, text: str, share: float) -> None:
        """The same with its name and its number above."""
        self.rail(y, share)
        self.write(self.left, y - 6, label)
        self.write(self.right, y - 6, text, "right", "bold")

    def column(self, rows: Iterable[tuple[str, str, dict[str, Any]]]) -> None:
        """Rows of a word, a number, and the look of the line that they belong to."""
        for n, (word, text, look) in enumerate(rows):
            x, y = self.right + 12, self.top + 10 + 42 * n
            if look:
                self.line([x, x], [y - 10, y + 16], **look)
            self.write(x + 8, y, word)
            self.write(x + 8, y + 15, text, weight="bold")


def look(color: str, style: Any = "-", linewidth: float = 1.5) -> dict[str, Any]:
    """Of a line in a plot."""
    return {"color": color, "style": style, "linewidth": linewidth}
