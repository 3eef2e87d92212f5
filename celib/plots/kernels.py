"""The figures of the chapter on fused kernels."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator

from celib.plots.style import COLOURS

__all__ = ["achieved_bandwidth", "chunk_memory", "offset_error", "roofline", "tile"]

_PEERS = {
    "celib": "celib",
    "celib-inplace": "celib, in place",
    "celib-aten": "celib, without numba",
    "eager": "PyTorch, eager",
    "compiled": "torch.compile",
    "torch-linear": "PyTorch, linear_cross_entropy",
    "liger": "Liger Kernel",
    "cut-cross-entropy": "cut cross-entropy",
    "quack": "QuACK",
}


def roofline(
    machines: Mapping[str, tuple[float, float]],
    *,
    eager: float,
    fused: float,
    small: tuple[int, float],
    large: tuple[int, float],
) -> Axes:
    """The speed limit of each machine (bytes/s, operations/s), and where the operations lie.

    ``small`` and ``large`` are numbers of rows of a matrix product, and its operations per byte.
    """
    _, ax = plt.subplots(figsize=(6.4, 3.8))
    intensity = np.geomspace(0.2, 1e4, 400)
    for (name, (bandwidth, rate)), colour in zip(machines.items(), COLOURS, strict=False):
        limit = np.minimum(bandwidth * intensity, rate)
        ax.loglog(intensity, limit, color=colour, label=name)
        for x in (eager, fused, small[1], large[1]):
            ax.plot(x, min(bandwidth * x, rate), "o", color=colour, markersize=5)
    names = {
        eager: "eager",
        fused: "fused",
        small[1]: f"$dW$, {small[0]} rows",
        large[1]: f"$dW$, {large[0]} rows",
    }
    for x, name in names.items():
        ax.axvline(x, color="#888888", linewidth=0.8, linestyle=":")
        ax.annotate(
            name, (x, 0.03), (3, 0), xycoords=("data", "axes fraction"),
            textcoords="offset points", rotation=90, va="bottom", fontsize=9,
        )  # fmt: skip
    ax.set_xlim(0.2, 1e4)
    ax.set_xlabel("operations per byte moved")
    ax.set_ylabel("operations per second, at most")
    ax.legend(loc="upper left", fontsize=9)
    return ax


def tile(place: np.ndarray, thread: np.ndarray) -> Axes:
    """Who holds which logit: the places (K, L) of a tile as numbers, its threads as colours."""
    _, ax = plt.subplots(figsize=(6.4, 1.7))
    rows, columns = place.shape
    palette = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in COLOURS]) / 255
    colours = 0.35 * palette[thread % len(palette)] + 0.65
    ax.imshow(colours, aspect="auto", extent=(0, columns, rows, 0))
    for (k, j), number in np.ndenumerate(place):
        ax.text(j + 0.5, k + 0.5, str(number), ha="center", va="center", fontsize=7, color="black")
    ax.set_xticks(range(columns + 1), [])
    ax.set_yticks(range(rows + 1), [])
    ax.set_xlabel("$L$ neighbours in memory; one colour, one thread")
    ax.set_ylabel("$K$")
    ax.grid(True, color="white")
    ax.set_axisbelow(False)
    ax.tick_params(length=0)
    return ax


def offset_error(
    offset: np.ndarray,
    late: np.ndarray,
    scaled: np.ndarray,
    subtracted: np.ndarray,
    kernel: np.ndarray,
) -> Axes:
    """The largest relative error of a float32 loss against an offset common to all logits."""
    _, ax = plt.subplots()
    lines = {
        "LSE formed, then $- z_c$": (late, "--"),
        r"scaled by $\log_2 e$, then subtracted": (scaled, "-."),
        r"subtracted, then scaled by $\log_2 e$": (subtracted, "-"),
    }
    floor = 1e-9
    for (name, (error, style)), colour in zip(lines.items(), COLOURS[1:], strict=False):
        ax.loglog(offset, np.maximum(error, floor), style, color=colour, label=name)
    ax.loglog(offset, np.maximum(kernel, floor), "o", color=COLOURS[0], label="celib's kernel, run")
    ax.set_ylim(floor, 30)
    ax.set_xlabel("offset added to all logits")
    ax.set_ylabel("relative error of the loss")
    ax.legend(loc="upper left", fontsize=9)
    return ax


def chunk_memory(
    chunk: np.ndarray,
    buffer: np.ndarray,
    gradient: float,
    whole: float,
    recorded: Mapping[int, float],
) -> Axes:
    """Bytes of a chunked loss against the rows of a chunk: counted, and as recorded."""
    _, ax = plt.subplots()
    mega = 1e6
    ax.loglog(chunk, buffer / mega, "--", color=COLOURS[2], label="logits of one chunk")
    ax.axhline(
        gradient / mega, color=COLOURS[4], linestyle="--", label="gradient of the weights",
    )  # fmt: skip
    total = gradient + np.maximum(buffer, gradient)
    ax.loglog(chunk, total / mega, color=COLOURS[0], label="all at the peak")
    ax.loglog(
        list(recorded), [b / mega for b in recorded.values()], "o", color=COLOURS[0],
        label="recorded",
    )  # fmt: skip
    ax.axhline(whole / mega, color=COLOURS[1], label="whole matrices, eager")
    ax.set_xticks(list(recorded), [str(rows) for rows in recorded])
    ax.minorticks_off()
    ax.set_xlabel("rows in a chunk")
    ax.set_ylabel("megabytes beyond the inputs")
    ax.set_ylim(top=12 * whole / mega)
    ax.legend(loc="upper left", fontsize=9, ncols=2)
    return ax


def achieved_bandwidth(
    runs: Mapping[str, tuple[float, Mapping[str, tuple[Sequence[int], Sequence[float]]]]],
) -> Axes:
    """Bytes that have to move, by the time taken, against the classes; the speed of a copy above.

    ``runs`` has for each device the bytes/s of a copy and, for each peer, classes and bytes/s.
    """
    figure, panels = plt.subplots(1, len(runs), figsize=(6.4, 3.9), squeeze=False)
    shared = list(dict.fromkeys(peer for _, peers in runs.values() for peer in peers))
    drawn = {}
    for ax, (device, (copy, peers)) in zip(panels[0], runs.items(), strict=True):
        drawn["copy"] = ax.axhline(copy / 1e9, color="#777777", linestyle="--", linewidth=1.2)
        for peer, (classes, speed) in peers.items():
            order, number = np.argsort(classes), shared.index(peer)
            drawn[_PEERS.get(peer, peer)] = ax.loglog(
                np.array(classes)[order], np.array(speed)[order] / 1e9,
                "o-" if number < len(COLOURS) else "s:",
                color=COLOURS[number % len(COLOURS)], markersize=4,
            )[0]  # fmt: skip
        ticks = sorted({count for classes, _ in peers.values() for count in classes})
        if len(ticks) < 6:
            ax.set_xticks(ticks, [str(tick) for tick in ticks])
            ax.minorticks_off()
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_locator(NullLocator())
        ax.set_xlabel("classes")
        ax.set_title(device, fontsize=10)
    panels[0][0].set_ylabel("GB/s: $2R$ / time, both passes")
    figure.legend(drawn.values(), drawn.keys(), loc="outside lower center", ncols=3, fontsize=9)
    first: Axes = panels[0][0]
    return first
