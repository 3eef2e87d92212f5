"""Distillation: divergences of logits, and of two linear layers, against torch's formulas.

``python -m benchmarks.distillation`` prints the times and the memory; ``--quick`` of small shapes.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.cross_entropy import reason, summary
from benchmarks.timing import Step, measure
from celib.losses import distillation_loss, linear_distillation_loss

T = 2.0
Loss = Callable[[Tensor, Tensor], Tensor]
KINDS = "forward", "reverse", "jensen-shannon"
SHAPES = (64, 10), (1024, 1000), (512, 32000), (64, 128256)
# Rows, classes, features of the student and of the teacher; with 1/8 and all of the rows at a time.
LAYERS = ((512, 32000, 128, 256),)
SUM = {"reduction": "batchmean", "log_target": True}


def _forward(z: Tensor, v: Tensor) -> Tensor:
    p = torch.softmax(v / T, -1)
    return F.kl_div(torch.log_softmax(z / T, -1), p, reduction="batchmean") * T**2


def _forward_of_logs(z: Tensor, v: Tensor) -> Tensor:
    return F.kl_div(torch.log_softmax(z / T, -1), torch.log_softmax(v / T, -1), **SUM) * T**2


def _reverse_of_logs(z: Tensor, v: Tensor) -> Tensor:
    return F.kl_div(torch.log_softmax(v / T, -1), torch.log_softmax(z / T, -1), **SUM) * T**2


def _js_of_logs(z: Tensor, v: Tensor) -> Tensor:
    s, p = torch.log_softmax(z / T, -1), torch.log_softmax(v / T, -1)
    m = torch.logaddexp(s, p) - math.log(2.0)
    return (F.kl_div(m, p, **SUM) + F.kl_div(m, s, **SUM)) * (T**2 / 2)


def peers(kind: str) -> dict[str, Loss]:
    ours = partial(distillation_loss, temperature=T, divergence=kind)
    theirs: dict[str, dict[str, Loss]] = {
        "forward": {"torch": _forward, "torch-log": _forward_of_logs},
        "reverse": {"torch-log": _reverse_of_logs},
        "jensen-shannon": {"torch-log": _js_of_logs},
    }
    return {"celib": ours, **theirs[kind]}


def times(quick: bool, repeats: int, skipped: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Forward and backward of float32, with respect to the student."""
    for n, classes in SHAPES[:2] if quick else SHAPES:
        generator = torch.Generator().manual_seed(0)
        z, v = (torch.randn(n, classes, generator=generator) for _ in range(2))
        for kind in KINDS:
            steps = {
                name: _step(loss, (z,), (v,), 100 if n * classes < 10**4 else 1)
                for name, loss in peers(kind).items()
            }
            yield from _measured(steps, f"distillation, {kind}", (n, classes), repeats, skipped)
    for n, classes, d, e in ((128, 1000, 16, 32),) if quick else LAYERS:
        generator = torch.Generator().manual_seed(0)
        sizes = (n, d), (classes, d), (n, e), (classes, e)
        x, student, h, teacher = (torch.randn(*s, generator=generator) / 8 for s in sizes)
        for kind in KINDS:
            steps = {
                f"{name}, whole": _step(_whole(loss), (x, student), (h, teacher))
                for name, loss in peers(kind).items()
            }
            for chunk in (n // 8, n // 2):
                ours = partial(_chunked, kind=kind, chunk=chunk)
                steps[f"celib, {chunk} rows"] = _step(ours, (x, student), (h, teacher))
            name = f"linear distillation, {kind}"
            yield from _measured(steps, name, (n, classes), max(3, repeats // 2), skipped, d)


def _whole(loss: Loss) -> Callable[..., Tensor]:
    return lambda x, student, h, teacher: loss(F.linear(x, student), F.linear(h, teacher))


def _chunked(
    x: Tensor, student: Tensor, h: Tensor, teacher: Tensor, kind: str, chunk: int
) -> Tensor:
    options: dict[str, Any] = {"temperature": T, "divergence": kind, "chunk_size": chunk}
    return linear_distillation_loss(x, student, h, teacher, **options)


def _step(
    loss: Callable[..., Tensor],
    learned: tuple[Tensor, ...],
    fixed: tuple[Tensor, ...],
    often: int = 1,
) -> Step:
    """Forward and backward; a small one often, because a clock has its own price."""

    def step(mark: Callable[[], None]) -> None:
        leaves = [a.detach().requires_grad_() for a in learned]
        mark()
        for _ in range(often):
            for leaf in leaves:
                leaf.grad = None
            loss(*leaves, *fixed).backward()
        mark()

    step.often = often  # type: ignore[attr-defined]
    return step


def _measured(
    steps: dict[Any, Step],
    name: str,
    shape: tuple[int, int],
    repeats: int,
    skipped: dict[str, str],
    features: int | None = None,
) -> Iterator[dict[str, Any]]:
    for peer, step in list(steps.items()):
        try:
            step(lambda: None)
        except Exception as error:
            skipped[f"{peer}: {name}"] = reason(error)
            del steps[peer]
    for peer, a in measure(steps, repeats, "cpu").items():
        a = a._replace(seconds=a.seconds / steps[peer].often)  # type: ignore[attr-defined]
        yield {
            "peer": peer,
            "rows": shape[0],
            "classes": shape[1],
            "features": features,
            "dtype": "float32",
            "chunk": None,
            "pass": name,
            **summary(a, -1),
        }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.distillation")
    parser.add_argument("--quick", action="store_true", help="small shapes")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=11)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    skipped = dict[str, str]()
    for row in times(options.quick, 3 if options.quick else options.repeats, skipped):
        ms = [f"{1e3 * row[key]:.3f}" for key in ("low", "median", "high")]
        peak = "?" if row["peak"] is None else f"{row['peak'] / 2**20:.0f} MiB"
        shape = f"{row['rows']} x {row['classes']}"
        print(f"{row['pass']:36} {shape:13} {row['peer']:17}", *ms, "ms", peak, flush=True)
    if skipped:
        print(json.dumps(skipped, indent=1))


if __name__ == "__main__":
    main()
