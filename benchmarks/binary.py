"""The losses of a sigmoid, both passes: celib against torch, which has no fused one of the kind."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.cross_entropy import reason, summary
from benchmarks.timing import Step, measure
from celib import losses

SHAPES = (64, 10), (1024, 1000), (4096, 1000), (512, 32000)
QUICK = (64, 10), (64, 1000)
# A step of the smallest shape takes less than a clock can tell from the next: so many are one.
SMALL, CALLS = 2**14, 20
Loss = Callable[[Tensor, Tensor], Tensor]


def _sigmoid_focal(x: Tensor, y: Tensor) -> Tensor:
    """The formula of torchvision 0.20, alpha 1/4, gamma 2."""
    p = torch.sigmoid(x)
    loss = F.binary_cross_entropy_with_logits(x, y, reduction="none")
    p_t = p * y + (1 - p) * (1 - y)
    return ((0.25 * y + 0.75 * (1 - y)) * loss * (1 - p_t) ** 2).mean()


LOSSES: dict[str, dict[str, Loss]] = {
    "binary_cross_entropy_with_logits": {
        "celib": losses.binary_cross_entropy_with_logits,
        "torch": F.binary_cross_entropy_with_logits,
    },
    "multilabel_soft_margin_loss": {
        "celib": losses.multilabel_soft_margin_loss,
        "torch": F.multilabel_soft_margin_loss,
    },
    "sigmoid_focal_loss": {
        "celib": functools.partial(losses.sigmoid_focal_loss, reduction="mean"),
        "torch": _sigmoid_focal,
    },
}


def times(quick: bool, repeats: int, skipped: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Of logits N(0, 9) and labels of which 3 in 10 are yes, checked as by default."""
    for rows, classes in QUICK if quick else SHAPES:
        for dtype in (torch.float32,) if quick else (torch.float32, torch.bfloat16):
            generator = torch.Generator().manual_seed(0)
            x = (3.0 * torch.randn(rows, classes, generator=generator)).to(dtype)
            y = (torch.rand(rows, classes, generator=generator) < 0.3).to(dtype)
            calls = CALLS if x.numel() < SMALL else 1
            for name, peers in LOSSES.items():
                steps: dict[Any, Step] = {}
                for peer, loss in peers.items():
                    try:
                        _check(loss, x, y, peers["celib"])
                        steps[peer] = _step(loss, x, y, calls)
                    except Exception as error:
                        skipped[f"{peer}: {name}"] = reason(error)
                for peer, a in measure(steps, repeats, "cpu").items():
                    a = a._replace(seconds=a.seconds / calls)
                    yield {
                        "peer": peer,
                        "rows": rows,
                        "classes": classes,
                        "features": None,
                        "dtype": str(dtype).removeprefix("torch."),
                        "chunk": None,
                        "pass": name,
                        **summary(a, -1),
                    }


def _check(loss: Loss, x: Tensor, y: Tensor, known: Loss) -> None:
    """That a peer computes the same, as far as its precision goes; and a first call."""
    x = x.detach().requires_grad_()
    found, expected = loss(x, y), known(x, y)
    (g,), (wanted,) = (torch.autograd.grad(a, x) for a in (found, expected))
    # Torch's formula rounds each of its steps to bfloat16.
    tolerance = 2.0**-4 if x.dtype == torch.bfloat16 else 1e-4
    if not abs(found.item() - expected.item()) <= tolerance * abs(expected.item()):
        raise ValueError(f"gives {found.item():.6g}, celib {expected.item():.6g}")
    if not (g - wanted).abs().max() <= tolerance * wanted.abs().max():
        raise ValueError("has another gradient than celib")


def _step(loss: Loss, x: Tensor, y: Tensor, calls: int) -> Step:
    def step(mark: Callable[[], None]) -> None:
        leaf = x.detach().requires_grad_()
        mark()
        for _ in range(calls):
            leaf.grad = None
            loss(leaf, y).backward()
        mark()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.binary")
    parser.add_argument("--quick", action="store_true", help="small shapes")
    parser.add_argument("--repeats", type=int, default=11)
    options = parser.parse_args()
    skipped: dict[str, str] = {}
    print(f"{torch.get_num_threads()} threads; medians and quartiles in ms, peaks in MB")
    for t in times(options.quick, options.repeats, skipped):
        median, low, high = (1e3 * t[key] for key in ("median", "low", "high"))
        peak = "" if t["peak"] is None else f"{t['peak'] / 1e6:8.1f}"
        print(
            f"{t['rows']:5} x {t['classes']:<6}{t['dtype']:9} {t['pass']:33} {t['peer']:6}"
            f"{median:10.3f} {low:10.3f} to {high:8.3f} {peak}",
            flush=True,
        )
    for name, why in skipped.items():
        print(f"skipped {name}: {why}")


if __name__ == "__main__":
    main()
