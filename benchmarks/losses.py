"""Losses beside torch's formulas: forward and backward, means, from small calls to large ones.

A small call is repeated many times within one measurement, so that its time is one of Python, of
checks and of autograd rather than of a loop. ``python -m benchmarks.losses`` prints a table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.cross_entropy import reason, summary, text
from benchmarks.timing import Measured, Step, measure
from celib.kernels.choice import kernel
from celib.kernels.family import Options
from celib.losses import (
    cross_entropy,
    focal_loss,
    generalized_cross_entropy,
    symmetric_cross_entropy,
)

SHAPES = (1, 10), (64, 10), (32, 1000), (1024, 1000), (4096, 1000), (512, 32000)
Loss = Callable[[Tensor, Tensor], Tensor]


class Pair(NamedTuple):
    celib: Loss
    torch: Loss
    soft: bool = False
    dtype: torch.dtype = torch.float32
    peer: str = "torch"


def _surprise(z: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(z, y, reduction="none")


def _focal(z: Tensor, y: Tensor) -> Tensor:
    s = _surprise(z, y)
    return ((1.0 - torch.exp(-s)) ** 2 * s).mean()


def _generalized(z: Tensor, y: Tensor) -> Tensor:
    p = z.softmax(-1).gather(-1, y[:, None])
    return ((1.0 - p**0.7) / 0.7).mean()


def _symmetric(z: Tensor, y: Tensor) -> Tensor:
    s = _surprise(z, y)
    return (0.1 * s + 4.0 * (1.0 - torch.exp(-s))).mean()


def _smoothed(loss: Callable[..., Tensor]) -> Loss:
    return lambda z, y: loss(z, y, label_smoothing=0.1)


def _unchecked(z: Tensor, y: Tensor) -> Tensor:
    found: Tensor = cross_entropy(z, y, validate=False)
    return found


PAIRS = {
    "cross_entropy": Pair(cross_entropy, F.cross_entropy),
    "cross_entropy, unchecked": Pair(_unchecked, F.cross_entropy),
    "cross_entropy, smoothing": Pair(_smoothed(cross_entropy), _smoothed(F.cross_entropy)),
    "cross_entropy, soft": Pair(cross_entropy, F.cross_entropy, soft=True),
    "cross_entropy, bfloat16": Pair(cross_entropy, F.cross_entropy, dtype=torch.bfloat16),
    "cross_entropy, float16": Pair(cross_entropy, F.cross_entropy, dtype=torch.float16),
    "focal_loss": Pair(focal_loss, _focal),
    "generalized_cross_entropy": Pair(generalized_cross_entropy, _generalized),
    "symmetric_cross_entropy": Pair(symmetric_cross_entropy, _symmetric),
}


def times(quick: bool, repeats: int, skipped: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Of logits N(0, 9) and uniform targets."""
    for rows, classes in SHAPES[:2] if quick else SHAPES:
        calls = max(1, min(200, 2**20 // (rows * classes)))
        for name, pair in PAIRS.items():
            if quick and pair.dtype != torch.float32:
                continue
            generator = torch.Generator().manual_seed(0)
            z = (3.0 * torch.randn(rows, classes, generator=generator)).to(pair.dtype)
            y = torch.randint(classes, (rows,), generator=generator)
            if pair.soft:
                y = torch.randn(rows, classes, generator=generator).softmax(-1)
            try:
                a, b = (_gradient(loss, z, y).float() for loss in (pair.celib, pair.torch))
                tolerance = 1e-3 if pair.dtype == torch.float32 else 5e-2
                if not (a - b).abs().max() <= tolerance * b.abs().max():
                    raise ValueError("the gradients differ")
                steps: dict[Any, Step] = {
                    "celib": _step(pair.celib, z, y, calls),
                    pair.peer: _step(pair.torch, z, y, calls),
                }
                for step in steps.values():
                    step(lambda: None)
            except Exception as error:
                skipped[f"{name}: {rows} x {classes}"] = reason(error)
                continue
            for peer, found in measure(steps, repeats, "cpu").items():
                one = Measured(found.seconds / calls, found.peaks)
                yield {
                    "peer": peer,
                    "rows": rows,
                    "classes": classes,
                    "features": None,
                    "dtype": text(pair.dtype),
                    "chunk": None,
                    "pass": name,
                    **summary(one, -1),
                }


def _gradient(loss: Loss, z: Tensor, y: Tensor) -> Tensor:
    leaf = z.detach().requires_grad_()
    return torch.autograd.grad(loss(leaf, y), leaf)[0]


def _step(loss: Loss, z: Tensor, y: Tensor, calls: int) -> Step:
    leaf = z.detach().requires_grad_()

    def step(mark: Callable[[], None]) -> None:
        mark()
        for _ in range(calls):
            torch.autograd.grad(loss(leaf, y), leaf)
        mark()

    return step


class _Nothing(torch.autograd.Function):
    """What autograd itself takes for a function written in Python."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return torch.empty(())

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        found: Tensor = ctx.saved_tensors[0]
        return found


def parts(rows: int, classes: int) -> dict[str, float]:
    """Where the time of a small call goes, in seconds: each part runs by itself."""
    z, y, o = torch.randn(rows, classes), torch.randint(classes, (rows,)), Options()
    leaf, out = z.detach().requires_grad_(), torch.empty_like(z)
    run = kernel(z, y, o).reduced
    assert run is not None
    steps: dict[Any, Callable[[], Any]] = {
        "torch, both passes": lambda: torch.autograd.grad(F.cross_entropy(leaf, y), leaf),
        "celib, both passes": lambda: torch.autograd.grad(cross_entropy(leaf, y), leaf),
        "without checks of values": lambda: torch.autograd.grad(_unchecked(leaf, y), leaf),
        "arguments, checks, kernel": lambda: cross_entropy(z, y),
        "kernel, with the gradient": lambda: run(z, y, None, o, None, "count", None, out),
        "a function of autograd": lambda: torch.autograd.grad(_Nothing.apply(leaf), leaf),
    }
    found = measure({k: _often(step) for k, step in steps.items()}, 21, "cpu")
    return {k: float(np.median(a.seconds[:, -1])) / 200 for k, a in found.items()}


def _often(call: Callable[[], Any]) -> Step:
    def step(mark: Callable[[], None]) -> None:
        mark()
        for _ in range(200):
            call()
        mark()

    step(lambda: None)
    return step


def main() -> None:
    for rows, classes in SHAPES[:3]:
        print(f"{rows} x {classes}, microseconds")
        for name, seconds in parts(rows, classes).items():
            print(f"  {name:28}{seconds * 1e6:8.1f}")
    skipped: dict[str, str] = {}
    found = list(times(False, 11, skipped))
    for mine, peer in zip(found[::2], found[1::2], strict=True):
        shape = f"{mine['rows']} x {mine['classes']}"
        ratio = mine["median"] / peer["median"]
        print(
            f"{mine['pass']:28}{shape:>14}{mine['dtype']:>10}{mine['median'] * 1e6:12.1f} us"
            f"{peer['median'] * 1e6:12.1f} us {ratio:6.2f}x  peaks {mine['peak']}, {peer['peak']}"
        )
    print(skipped)


if __name__ == "__main__":
    main()
