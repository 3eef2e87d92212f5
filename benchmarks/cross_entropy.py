"""The losses: who computes them, at which shapes, and how exactly.

An error or an absence goes into ``skipped``, a name and a reason, and stops nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.timing import Measured, Step, measure
from celib.kernels import with_aten
from celib.kernels.choice import using
from celib.losses import cross_entropy, linear_cross_entropy

OFFSETS = 0.0, 1e2, 1e4, 1e6, 2.0**24
PASSES = "forward", "backward", "both"
# How far a peer may be from torch's float32 result, relative to the largest entry.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}


class Peer(NamedTuple):
    name: str
    loss: Callable[..., Tensor]  # of the inputs and the target: a mean, or reduction="none"
    chunk: int | None = None
    overwrites: bool = False  # its input, so that each run needs a new copy
    within: Callable[[], AbstractContextManager] = nullcontext


class Case(NamedTuple):
    rows: int
    classes: int
    features: int | None  # None: the logits are given
    dtype: torch.dtype

    def __str__(self) -> str:
        layer = f" of {self.features} features" if self.features else ""
        return f"{self.rows} x {self.classes}{layer}, {text(self.dtype)}"


def cases(device: str, quick: bool) -> list[Case]:
    """Linear first, then logits from the most telling shape on: the time may run out."""
    single, half = torch.float32, torch.bfloat16
    if quick:
        return [Case(256, 1000, 64, single), Case(256, 1000, None, single)]
    if device == "cpu":
        shapes = (4096, 1000), (2048, 32000), (512, 128256)
        linear = [Case(1024, 32000, 512, single)]
        return linear + [Case(n, c, None, dtype) for dtype in (single, half) for n, c in shapes]
    linear = [Case(4096, 128256, 4096, half), Case(8192, 32768, 4096, half)]
    linear.append(Case(8192, 262144, 4096, half))
    powers = [128256, 32768, 4096, 1024, 256, 262144, 50257, 131072, 65536, 16384, 8192, 2048, 512]
    gib = 2**30
    return linear + [
        Case(gib // (c * dtype.itemsize), c, None, dtype)
        for dtype in (half, single)
        for c in powers
    ]


def peers(case: Case, device: str, skipped: dict[str, str]) -> list[Peer]:
    return list(
        _of_layer(case, device, skipped) if case.features else _of_logits(case, device, skipped)
    )


def _of_logits(case: Case, device: str, skipped: dict[str, str]) -> Iterator[Peer]:
    yield Peer("eager", F.cross_entropy)
    yield Peer("compiled", torch.compile(lambda *a, **k: F.cross_entropy(*a, **k), dynamic=False))
    yield Peer("celib", cross_entropy)
    yield Peer("celib-inplace", _inplace, overwrites=True)
    if device == "cpu" and case.dtype == torch.float32:
        if find_spec("numba"):
            yield Peer("celib-aten", cross_entropy, within=lambda: using(with_aten))
        else:
            skipped["numba"] = "not installed: celib is what celib-aten would be"
    yield from _of_gpu({"liger": _liger, "quack": _quack}, device, skipped)


def _of_layer(case: Case, device: str, skipped: dict[str, str]) -> Iterator[Peer]:
    def eager(x: Tensor, w: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(F.linear(x, w), y)

    yield Peer("eager", eager)
    yield Peer("compiled", torch.compile(eager, dynamic=False))
    chunks = [case.rows // 16, case.rows // 4, case.rows // 2, case.rows]
    for chunk in chunks:
        yield Peer("celib", _with(linear_cross_entropy, chunk_size=chunk), chunk)
    columns = -(-case.classes // 8)
    yield Peer("celib-by-class", _by_class(columns), columns)
    if hasattr(F, "linear_cross_entropy"):
        yield Peer("torch-linear", F.linear_cross_entropy)
        options = torch.nn.LinearCrossEntropyOptions
        yield Peer("torch-linear-auto", _with(F.linear_cross_entropy, options=options()))
        for chunk in chunks:
            one = options(batch_chunk_size=chunk)
            yield Peer("torch-linear", _with(F.linear_cross_entropy, options=one), chunk)
    else:
        skipped["torch-linear"] = f"not in torch {torch.__version__}"
    others = {"liger": _liger_linear, "cut-cross-entropy": _cut, "quack": _quack_linear}
    yield from _of_gpu(others, device, skipped)


def _of_gpu(
    makers: dict[str, Callable[[], Peer]], device: str, skipped: dict[str, str]
) -> Iterator[Peer]:
    for name, make in makers.items():
        if device == "cpu":
            skipped[name] = "needs a GPU"
            continue
        try:
            yield make()
        except Exception as error:
            skipped[name] = reason(error)


def _liger() -> Peer:
    from liger_kernel.transformers import LigerCrossEntropyLoss

    def loss(z: Tensor, y: Tensor, reduction: str = "mean") -> Tensor:
        return LigerCrossEntropyLoss(reduction=reduction)(z, y)

    return Peer("liger", loss, overwrites=True)


def _quack() -> Peer:
    from quack.cross_entropy import cross_entropy

    return Peer("quack", cross_entropy)


def _liger_linear() -> Peer:
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    return Peer("liger", lambda x, w, y: LigerFusedLinearCrossEntropyLoss()(w, x, y))


def _cut() -> Peer:
    from cut_cross_entropy import linear_cross_entropy

    return Peer("cut-cross-entropy", linear_cross_entropy)


def _quack_linear() -> Peer:
    from quack.linear_cross_entropy import chunked_linear_cross_entropy

    # Its search for the fastest product may take longer than all the rest.
    loss = _with(chunked_linear_cross_entropy, chunk_size=4096, tuned=False)
    return Peer("quack-untuned", loss, 4096)


def _inplace(z: Tensor, y: Tensor, reduction: str = "mean") -> Tensor:
    return cross_entropy(z, y, reduction=reduction, inplace_backward=True)


def _with(function: Callable[..., Tensor], **options: Any) -> Callable[..., Tensor]:
    return lambda x, w, y: function(x, w, y, **options)


def _by_class(columns: int) -> Callable[..., Tensor]:
    each = _with(linear_cross_entropy, chunk_size=columns, reduction="none")
    return lambda x, w, y: each(x, w, y).mean()


def times(
    case: Case, device: str, repeats: int, skipped: dict[str, str]
) -> dict[str, list[dict[str, Any]]]:
    """The records of all peers that do what torch does, under the name of their list."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    y = torch.randint(case.classes, (case.rows,), device=device)
    if case.features is None:
        inputs = [torch.randn(case.rows, case.classes, device=device).to(case.dtype)]
    else:
        x, w = (torch.randn(n, case.features, device=device) for n in (case.rows, case.classes))
        inputs = [x.to(case.dtype), (w * (2.0 / case.features**0.5)).to(case.dtype)]
    kind = "linear" if case.features else "logits"
    steps: dict[tuple[str, str, int | None], Step] = {}
    expected = None
    for peer in peers(case, device, skipped):
        where = f"{case}" if peer.chunk is None else f"{case}, chunk {peer.chunk}"
        try:
            if expected is None:  # of the first peer, which is torch, in float32
                expected = _seen(*_step(peer, [a.float() for a in inputs], y)(_nothing), y)
            step = _step(peer, inputs, y)
            _check(expected, _seen(*step(_nothing), y), TOLERANCE[case.dtype])
            step(_nothing)
            steps[kind, peer.name, peer.chunk] = step
        except Exception as error:
            skipped[f"{peer.name}: {where}"] = reason(error)
            continue
        if device == "cuda" and kind == "logits":
            try:
                steps["graph", peer.name, peer.chunk] = _captured(peer, inputs, y)
            except Exception as error:
                skipped[f"{peer.name}: graph, {where}"] = reason(error)
    found: dict[str, list[dict[str, Any]]] = {kind: [], "graph": []}
    for (of, name, chunk), a in measure(steps, repeats, device).items():
        found[of] += _records(name, chunk, case, a)
    return found


def _step(peer: Peer, inputs: list[Tensor], y: Tensor) -> Step:
    def step(mark: Callable[[], None]) -> tuple[Tensor, tuple[Tensor, ...]]:
        leaves = [_input(peer, a) for a in inputs]
        with peer.within():
            mark()
            loss = peer.loss(*leaves, y)
            mark()
            gradient = torch.autograd.grad(loss, leaves)
            mark()
        return loss, gradient

    return step


def _input(peer: Peer, a: Tensor) -> Tensor:
    """A leaf; or, for a peer that overwrites it, a copy that is none."""
    leaf = a.detach().requires_grad_()
    return leaf * 1 if peer.overwrites else leaf


def _captured(peer: Peer, inputs: list[Tensor], y: Tensor) -> Step:
    """Both passes as one CUDA graph, without the time that Python takes to launch them."""
    step = _step(peer, inputs, y)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    # A peer that waits for the device fails here, and not in the capture, which it would spoil.
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.cuda.stream(side):
            for _ in range(3):
                step(_nothing)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.current_stream().wait_stream(side)
    leaves = [a.clone().requires_grad_() for a in inputs]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        torch.autograd.grad(peer.loss(*leaves, y), leaves)

    def replay(mark: Callable[[], None], kept: Any = leaves) -> None:
        mark()
        graph.replay()
        mark()

    return replay


def _nothing() -> None:
    pass


def _seen(loss: Tensor, gradient: tuple[Tensor, ...], y: Tensor) -> list[Tensor]:
    """The loss, and eight rows of each gradient: those of the first targets in a weight's."""
    first, *others = gradient
    return [a.detach().float().clone() for a in (loss, first[:8], *(a[y[:8]] for a in others))]


def _check(expected: list[Tensor], found: list[Tensor], tolerance: float) -> None:
    for a, b in zip(expected, found, strict=True):
        difference = float((a - b).abs().max() / a.abs().max())
        if not difference <= tolerance:
            raise ValueError(f"differs from torch in float32 by {difference:.1e}")


def _records(name: str, chunk: int | None, case: Case, a: Measured) -> list[dict[str, Any]]:
    """A measurement as it is recorded."""
    graph = a.seconds.shape[1] < len(PASSES)  # one part, in memory that was there before
    return [
        {
            "peer": name,
            "rows": case.rows,
            "classes": case.classes,
            "features": case.features,
            "dtype": text(case.dtype),
            "chunk": chunk,
            "pass": PASSES[i],
            **summary(a, i),
            **({"peak": None} if graph else {}),
        }
        for i in ((-1,) if graph else (0, 1, 2))
    ]


def summary(a: Measured, part: int) -> dict[str, Any]:
    low, median, high = map(rounded, np.quantile(a.seconds[:, part], [0.25, 0.5, 0.75]))
    repeats, peak = len(a.seconds), a.peaks[part]
    return {"median": median, "low": low, "high": high, "repeats": repeats, "peak": peak}


def errors(device: str, quick: bool, skipped: dict[str, str]) -> list[dict[str, Any]]:
    """Against float64 on the same rounded logits, which are N(0, 9) plus an offset."""
    found = []
    rows, classes = (8, 1000) if quick else (64, 32000)
    generator = torch.Generator().manual_seed(0)
    plain = 3.0 * torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    y = torch.randint(classes, (rows,), generator=generator).to(device)
    for dtype, offsets in ((torch.float32, OFFSETS), (torch.bfloat16, OFFSETS[:1])):
        torch._dynamo.reset()
        team = peers(Case(rows, classes, None, dtype), device, skipped)
        for offset in offsets:
            z = (plain + offset).to(dtype).to(device)
            exact = z.double()
            exact = exact - exact.amax(1, keepdim=True)  # nothing is rounded by this
            loss, gradient = _each(Peer("float64", F.cross_entropy), exact, y)
            for peer in team:
                try:
                    each, slope = _each(peer, z, y)
                except Exception as error:
                    skipped[f"{peer.name}: error, {text(dtype)}"] = reason(error)
                    continue
                far = (slope - gradient).abs().max() / gradient.abs().max()
                found.append(
                    {
                        "peer": peer.name,
                        "classes": classes,
                        "dtype": text(dtype),
                        "offset": offset,
                        "loss": rounded(((each - loss) / loss).abs().max()),
                        "gradient": rounded(far),
                    }
                )
    return found


def _each(peer: Peer, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    leaf = _input(peer, z)
    with peer.within():
        each = peer.loss(leaf, y, reduction="none")
        loss = each.detach().double().clone()
        return loss, torch.autograd.grad(each.sum(), leaf)[0].double()


def text(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def rounded(x: Any) -> float:
    """Four digits, which are more than a time or an error has."""
    return float(f"{float(x):.4g}")


def reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:200]
