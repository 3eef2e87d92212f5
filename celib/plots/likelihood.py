"""The figures of the chapter on likelihood."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from celib.plots.style import COLOURS

__all__ = [
    "bound_by_norm",
    "errors_by_size",
    "hodges_and_stein",
    "likelihood_without_maximum",
    "loss_by_sample_size",
    "projections_of_a_curve",
]


def errors_by_size(sizes: np.ndarray, errors: np.ndarray, predicted: np.ndarray) -> Axes:
    """Root mean squared error of two estimators; ``predicted`` holds the asymptotic values."""
    _, ax = plt.subplots()
    names = ("cross-entropy", "squared error")
    for row, line, name, colour, marker in zip(
        errors, predicted, names, COLOURS, "os", strict=False
    ):
        ax.loglog(sizes, line, color=colour, linewidth=1.2)
        ax.loglog(sizes, row, marker, color=colour, label=name)
    ax.set_xticks(sizes, [f"{size:,}" for size in sizes])
    ax.set_xticks([], minor=True)
    ax.set_xlabel("sample size $N$")
    ax.set_ylabel("error of the slope (RMS)")
    ax.legend(loc="upper right")
    return ax


def hodges_and_stein(
    theta: np.ndarray, hodges: Mapping[int, np.ndarray], norm: np.ndarray, stein: np.ndarray
) -> np.ndarray:
    """Scaled risk of Hodges' estimator by sample size, and the risk of James and Stein's."""
    _, axes = plt.subplots(1, 2, figsize=(7.2, 3.3))
    for (size, risk), colour, style in zip(hodges.items(), COLOURS, ("-", "--", ":"), strict=False):
        axes[0].plot(theta, risk, style, color=colour, label=f"$N={size}$")
    axes[0].axhline(1, color="black", linewidth=1)
    axes[0].set_xlabel(r"true mean $\theta$")
    axes[0].set_ylabel("$N$ times the mean squared error")
    axes[0].set_title("Hodges", fontsize=10.5)
    axes[0].legend(loc="upper right", fontsize=9)
    axes[1].plot(norm, stein, color=COLOURS[0])
    axes[1].axhline(10, color="black", linewidth=1)
    axes[1].set_ylim(0, 11)
    axes[1].set_xlabel(r"length of the true mean $\Vert\theta\Vert$")
    axes[1].set_ylabel("mean squared error")
    axes[1].set_title("James and Stein, $d=10$", fontsize=10.5)
    return np.asarray(axes)


def projections_of_a_curve(
    x: np.ndarray, truth: np.ndarray, fits: np.ndarray, densities: np.ndarray
) -> Axes:
    """A conditional probability and its logistic projections for two densities of inputs."""
    _, ax = plt.subplots()
    ax.plot(x, truth, color="black", label=r"truth $\eta(x)$")
    names = ("projection, inputs around 0", "projection, inputs around 1.5")
    for fit, density, name, colour, style in zip(
        fits, densities, names, COLOURS, ("-", "--"), strict=False
    ):
        ax.fill_between(x, 0.3 * density / densities.max(), color=colour, alpha=0.2, linewidth=0)
        ax.plot(x, fit, style, color=colour, label=name)
    ax.set_ylim(0, 1)
    ax.set_xlabel("input $x$")
    ax.set_ylabel("probability of $Y=1$")
    ax.legend(loc="upper left", fontsize=9)
    return ax


def likelihood_without_maximum(
    weight: np.ndarray, losses: np.ndarray, steps: np.ndarray, path: np.ndarray
) -> np.ndarray:
    """Loss of a weight for separated and overlapping labels; weight by steps of descent."""
    _, axes = plt.subplots(1, 2, figsize=(7.2, 3.2))
    for row, name, colour, style in zip(
        losses, ("separable", "one label flipped"), COLOURS, ("-", "--"), strict=False
    ):
        axes[0].plot(weight, row, style, color=colour, label=name)
    axes[0].set_xlabel("weight")
    axes[0].set_ylabel("mean loss")
    axes[0].legend(loc="upper left", fontsize=9)
    for row, name, colour, marker in zip(
        path, ("descent", r"$\log(t/4)$"), COLOURS, "os", strict=False
    ):
        axes[1].semilogx(steps, row, marker=marker, color=colour, markersize=4, label=name)
    axes[1].set_xlabel("steps $t$ of gradient descent")
    axes[1].set_ylabel("weight")
    axes[1].legend(loc="upper left", fontsize=9)
    return np.asarray(axes)


def bound_by_norm(
    norms: np.ndarray, train: np.ndarray, test: np.ndarray, bound: np.ndarray, trivial: np.ndarray
) -> Axes:
    """Losses and a bound on the risk against the norm allowed; ``trivial`` are two constants."""
    _, ax = plt.subplots()
    ax.plot(norms, bound, "o-", color=COLOURS[1], label="bound on the risk")
    ax.plot(norms, test, "s--", color=COLOURS[0], label="held-out loss")
    ax.plot(norms, train, "^:", color=COLOURS[2], label="training loss")
    for level, name in zip(trivial, ("fair coin", "base rate"), strict=True):
        ax.axhline(level, color="#666666", linewidth=0.9)
        ax.annotate(name, (norms[0], level), (0, 3), textcoords="offset points", fontsize=9)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xticks(norms, [f"{norm:g}" for norm in norms])
    ax.set_xlabel("largest norm $B$")
    ax.set_ylabel("nats")
    ax.legend(loc="lower left", fontsize=9)
    return ax


def loss_by_sample_size(
    sizes: np.ndarray, train: Mapping[int, np.ndarray], test: Mapping[int, np.ndarray]
) -> Axes:
    """Cross-entropy per character of models by order: rows are seeds, columns sample sizes."""
    _, ax = plt.subplots()
    for (order, old), colour, marker in zip(train.items(), COLOURS, "os", strict=False):
        new = test[order]
        ax.semilogx(sizes, old.mean(0), "--", color=colour, marker=marker, markersize=4)
        ax.semilogx(sizes, new.mean(0), color=colour, marker=marker, label=f"order {order}")
        ax.fill_between(sizes, new.min(0), new.max(0), color=colour, alpha=0.2, linewidth=0)
    ax.set_xticks(sizes, [f"{size:,}" for size in sizes])
    ax.set_xticks([], minor=True)
    ax.set_ylim(0, None)
    ax.set_xlabel("characters of training text")
    ax.set_ylabel("nats per character")
    ax.legend(loc="upper right", title="new text (dashed: old text)", fontsize=9, title_fontsize=9)
    return ax
