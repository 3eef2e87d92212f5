"""What the losses of several processes cost: ``python -m benchmarks.distributed``.

Three ways to get the cross-entropy of logits whose classes are split over the ranks of a group:

- ``celib``: :func:`celib.distributed.vocab_parallel_cross_entropy`; ``celib-unchecked`` is the same
  with ``validate=False``
- ``loss_parallel``: torch's cross_entropy of a DTensor, within ``loss_parallel()``
- ``three-reductions``: the scheme of Megatron-LM (Shoeybi et al., 2019, arXiv:1909.08053) in plain
  operations of torch: three all-reduces, and a softmax in float32 that is kept

and, with names that end in ``-linear``, the cross-entropy of a layer that is split: celib's against
the product with the layer followed by the three reductions. What is sent is counted where torch
dispatches a collective, what is kept for the backward pass where autograd saves a tensor. The
record is ``celib/data/distributed.json``.

``torchrun`` starts this file once per number of processes, with one thread each, so that 4
processes on a machine with 2 cores take twice the time that they would with 4.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.graph import saved_tensors_hooks
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor.parallel import loss_parallel
from torch.utils._python_dispatch import TorchDispatchMode

from celib.distributed import vocab_parallel_cross_entropy, vocab_parallel_linear_cross_entropy
from celib.losses import cross_entropy

RECORD = Path(__file__).parents[1] / "celib" / "data" / "distributed.json"
RANKS = (1, 2, 4)
REPEATS = 7
# Rows, classes, features of the layer.
SHAPES = ((1024, 32000, 128), (256, 128256, 128))
QUICK = ((64, 1000, 32),)
Loss = Callable[[Tensor, Tensor], Any]


class _ThreeReductions(Function):
    """The losses of all rows: the largest logit, the target's and the sum of exponentials."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, first: int) -> Tensor:
        z = x.float()
        largest = z.amax(-1)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        z = z - largest[:, None]
        column = y - first
        here = (column >= 0) & (column < x.shape[1])
        column = torch.where(here, column, 0)[:, None]
        at_target = torch.where(here, z.gather(-1, column)[:, 0], 0.0)
        dist.all_reduce(at_target)
        softmax = z.exp_()
        total = softmax.sum(-1)
        dist.all_reduce(total)
        softmax /= total[:, None]
        ctx.save_for_backward(softmax, column, here)
        ctx.dtype = x.dtype
        return total.log() - at_target

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        softmax, column, here = ctx.saved_tensors
        gradient = softmax.scatter_add(-1, column, -here.float()[:, None])
        return gradient.mul_(g[:, None]).to(ctx.dtype), None, None


class _SumOfGradients(Function):
    """The input of a layer that is split by classes: its gradient is summed over the ranks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        g = g.clone()
        dist.all_reduce(g)
        return g


def three_reductions(x: Tensor, y: Tensor, reduction: str = "mean") -> Tensor:
    loss: Tensor = _ThreeReductions.apply(x, y, dist.get_rank() * x.shape[1])
    return loss if reduction == "none" else loss.mean()


class Sent(TorchDispatchMode):
    """How many collectives there were, and how many bytes a rank sends for them in a ring.

    With R ranks and a buffer of b bytes per rank: (R - 1) b for an all-gather, which forwards every
    buffer but one, and 2 b (R - 1) / R for an all-reduce.
    """

    def __init__(self) -> None:
        super().__init__()
        self.collectives, self.bytes = 0, 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(t is DTensor for t in types):
            return NotImplemented  # what it does to its local tensors comes here
        space, _, name = func.name().partition("::")
        exchanges = "gather" in name or "reduce" in name
        if space in ("c10d", "_c10d_functional") and exchanges:
            size = dist.get_world_size()
            # c10d names the output of a gather first, and the input second.
            gathers = "gather" in name
            a = args[1] if gathers and space == "c10d" else args[0]
            given = a if isinstance(a, Tensor) else a[0]
            size_of = given.numel() * given.element_size()
            self.collectives += 1
            self.bytes += size_of * (size - 1) * (1.0 if gathers else 2.0 / size)
        return func(*args, **(kwargs or {}))


def counted(run: Callable[[], Tensor], given: list[Tensor]) -> dict[str, Any]:
    """The collectives of both passes, the bytes sent, and those kept between the passes.

    What was given is not counted among what is kept: it was there before.
    """
    kept, known = dict[int, int](), {a.untyped_storage().data_ptr() for a in given}

    def keep(a: Tensor) -> Tensor:
        local = a.to_local() if isinstance(a, DTensor) else a
        storage = local.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return a

    with Sent() as sent, saved_tensors_hooks(keep, lambda a: a):
        loss = run()
    with Sent() as after:
        loss.backward()
    return {
        "collectives": sent.collectives + after.collectives,
        "sent": round(sent.bytes),
        "sent_backward": round(after.bytes),
        "kept": sum(kept.values()),
    }


def peers(x: Tensor, y: Tensor, matrix: Tensor, hidden: Tensor) -> dict[str, tuple[Any, list[Any]]]:
    """For each peer a function that computes its loss, and the tensors whose gradients it wants."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    x, matrix, hidden = (a.detach().requires_grad_() for a in (x, matrix, hidden))
    spread = DTensor.from_local(x.detach(), mesh, [Shard(1)]).requires_grad_()

    def linear() -> Tensor:
        return three_reductions(F.linear(_SumOfGradients.apply(hidden), matrix), y)

    return {
        "celib": (lambda: vocab_parallel_cross_entropy(x, y), [x]),
        "celib-unchecked": (lambda: vocab_parallel_cross_entropy(x, y, validate=False), [x]),
        "loss_parallel": (lambda: F.cross_entropy(spread, y), [spread]),
        "three-reductions": (lambda: three_reductions(x, y), [x]),
        "celib-linear": (
            lambda: vocab_parallel_linear_cross_entropy(hidden, matrix, y),
            [hidden, matrix],
        ),
        "three-reductions-linear": (linear, [hidden, matrix]),
    }


def timed(run: Callable[[], Tensor], leaves: list[Any]) -> tuple[float, float]:
    """The seconds of the forward pass and of both, of the rank that took longest."""
    for a in leaves:
        a.grad = None
    dist.barrier()
    begin = time.perf_counter()
    loss = run()
    middle = time.perf_counter()
    loss.backward()
    end = time.perf_counter()
    found = torch.tensor([middle - begin, end - begin], dtype=torch.float64)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return found[0].item(), found[1].item()


def measured(rows: int, classes: int, features: int, dtype: torch.dtype, repeats: int) -> list[Any]:
    size, rank = dist.get_world_size(), dist.get_rank()
    generator = torch.Generator().manual_seed(rank)
    local = classes // size
    x = (3 * torch.randn(rows, local, generator=generator)).to(dtype)
    matrix = (torch.randn(local, features, generator=generator) / features**0.5).to(dtype)
    shared = torch.Generator().manual_seed(100)
    y = torch.randint(local * size, (rows,), generator=shared)
    hidden = (3 * torch.randn(rows, features, generator=shared)).to(dtype)
    them = peers(x, y, matrix, hidden)
    counts, times, values = {}, {name: list[tuple[float, float]]() for name in them}, {}
    for name, (run, leaves) in them.items():
        given = [a.to_local() if isinstance(a, DTensor) else a for a in leaves]
        with loss_parallel():
            counts[name] = counted(run, [*given, y])
        value = run_of(name, run)
        values[name] = value.full_tensor() if isinstance(value, DTensor) else value
    for ours, theirs in (("celib", "three-reductions"), ("celib", "loss_parallel"),
                         ("celib-linear", "three-reductions-linear")):  # fmt: skip
        tolerance = 1e-5 if dtype == torch.float32 else 0.02
        assert abs(values[ours] - values[theirs]) <= tolerance * values[ours], values
    order = list(them)
    for i in range(1 + repeats):  # the first round counts for nothing
        order = order[1:] + order[:1]
        for name in order:
            run, leaves = them[name]
            with loss_parallel():
                seconds = timed(run, leaves)
            if i > 0:
                times[name].append(seconds)
    entries = []
    for name in them:
        for part, column in (("forward", 0), ("both", 1)):
            quantiles = np.quantile(np.array(times[name])[:, column], [0.25, 0.5, 0.75])
            low, median, high = (float(f"{q:.4g}") for q in quantiles)
            entries.append({
                "peer": name, "ranks": size, "rows": rows, "classes": local * size,
                "features": features if "linear" in name else None,
                "dtype": str(dtype).removeprefix("torch."), "pass": part,
                "median": median, "low": low, "high": high, "repeats": repeats, **counts[name],
            })  # fmt: skip
    return entries


def run_of(name: str, run: Callable[[], Tensor]) -> Any:
    with torch.no_grad(), loss_parallel():
        return run()


def errors() -> list[Any]:
    """The largest relative error of a loss, and that of a gradient relative to its largest entry.

    Against float64 on the same rounded logits, which are N(0, 9) plus an offset; in the confident
    rows the logit of the target is 30 more.
    """
    size, rank, rows, classes = dist.get_world_size(), dist.get_rank(), 64, 4096
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(classes, (rows,), generator=generator)
    noise = 3 * torch.randn(rows, classes, generator=generator)
    mesh, local = init_device_mesh("cpu", (size,)), classes // size
    entries = []
    for dtype in (torch.float32, torch.bfloat16):
        for offset, gap in ((0.0, 0.0), (1e4, 0.0), (0.0, 30.0)):
            x = noise.scatter_add(-1, y[:, None], torch.full((rows, 1), gap)) + offset
            whole = x.to(dtype).double().requires_grad_()
            wanted = cross_entropy(whole, y, reduction="none")
            (dx,) = torch.autograd.grad(wanted.sum(), whole)
            dx = dx[:, local * rank : local * (rank + 1)]

            def spread(z: Tensor) -> Tensor:
                return F.cross_entropy(DTensor.from_local(z, mesh, [Shard(1)]), y, reduction="none")

            for name, loss_of in {
                "celib": lambda z: vocab_parallel_cross_entropy(z, y, reduction="none"),
                "loss_parallel": spread,
                "three-reductions": lambda z: three_reductions(z, y, "none"),
            }.items():
                z = x.to(dtype)[:, local * rank : local * (rank + 1)].clone().requires_grad_()
                with loss_parallel():
                    loss = loss_of(z)  # type: ignore[no-untyped-call]
                    loss.sum().backward()
                loss = loss.full_tensor() if isinstance(loss, DTensor) else loss
                assert z.grad is not None
                largest = dx.abs().amax()
                found = torch.stack([
                    ((loss.double() - wanted).abs() / wanted).max().detach(),
                    (z.grad.double() - dx).abs().max(), largest,
                ])  # fmt: skip
                dist.all_reduce(found, dist.ReduceOp.MAX)
                of_loss, of_gradient = found[0].item(), (found[1] / found[2]).item()
                entries.append({
                    "peer": name, "ranks": size, "rows": rows, "classes": classes,
                    "dtype": str(dtype).removeprefix("torch."), "offset": offset, "gap": gap,
                    "loss": float(f"{of_loss:.3g}"), "gradient": float(f"{of_gradient:.3g}"),
                })  # fmt: skip
    return entries


def rank_of(output: Path, quick: bool) -> None:
    """What torchrun starts."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=120))
    found: dict[str, list[Any]] = {"loss": [], "error": errors()}
    for shape in QUICK if quick else SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            found["loss"] += measured(*shape, dtype, 3 if quick else REPEATS)
    if dist.get_rank() == 0:
        output.write_text(json.dumps(found))
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.distributed")
    parser.add_argument("--quick", action="store_true", help="small shapes, and no record")
    parser.add_argument("--output", type=Path, help=f"the record; {RECORD} unless --quick")
    parser.add_argument("--rank", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank is not None:
        rank_of(options.rank, options.quick)
        return
    from benchmarks.__main__ import described, record, versions

    torch.set_num_threads(1)  # of each process
    run: dict[str, Any] = {
        "date": str(datetime.date.today()),
        "device": f"{described('cpu')}, {os.cpu_count()} cores, gloo over loopback",
        "versions": versions(),
        "loss": [],
        "error": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        for ranks in RANKS:
            output = Path(folder) / f"{ranks}.json"
            command = [
                *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
                *("--nproc-per-node", str(ranks), "-m", "benchmarks.distributed"),
                *("--rank", str(output)),
                *(["--quick"] if options.quick else []),
            ]
            subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
            found = json.loads(output.read_text())
            run["loss"] += found["loss"]
            run["error"] += found["error"]
    output = options.output or (None if options.quick else RECORD)
    if output is not None:
        record(run, "cpu", output)
    print(table(run))


def table(run: dict[str, Any]) -> str:
    lines = [f"{run['device']}, torch {run['versions']['torch']}"]
    for e in run["loss"]:
        if e["pass"] == "both":
            lines.append(
                f"{e['ranks']} ranks {e['rows']:5} x {e['classes']:6} {e['dtype']:8} "
                f"{e['peer']:24} {e['median'] * 1e3:8.2f} ms  {e['collectives']} collectives  "
                f"sent {e['sent']:8} + {e['sent_backward']:8} B  kept {e['kept']:10} B"
            )
    for e in run["error"]:
        lines.append(
            f"{e['ranks']} ranks {e['dtype']:8} offset {e['offset']:7} gap {e['gap']:4} "
            f"{e['peer']:18} loss {e['loss']:.1e}  gradient {e['gradient']:.1e}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
