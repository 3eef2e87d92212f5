"""The arithmetic of classes that are spread over ranks: parts of rows, exchanged and merged.

The algorithm is that of :func:`celib.kernels.linear.linear_cross_entropy_by_class`, with a rank in
the place of a slice: each describes its classes by a :class:`~celib.kernels.rows.Part`, and the
parts merge into the row.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from celib.distributed.ranks import Ranks, Step, agree
from celib.kernels import with_aten
from celib.kernels.choice import Kernel, kernel
from celib.kernels.family import (
    LARGEST,
    LOG_PROB,
    LSE,
    REST,
    SHARE,
    TOTAL,
    Options,
    Rows,
    logits,
)
from celib.kernels.linear import add_product, slice_of, slices
from celib.kernels.memory import blocks, empty_like
from celib.kernels.rows import Part, finish, gradient_hard, merge, nothing, part_of

# What a block of logits may take on a device other than a CPU.
BLOCK_BYTES = 2**28


class Targets(NamedTuple):
    """The targets of N rows, seen from a rank that holds K of the classes."""

    column: Tensor  #: which of the K classes the target is, shape (N); 0 where it is none of them
    here: Tensor  #: whether it is one of them, and counts, shape (N)
    kept: Tensor  #: whether the target counts, shape (N)
    wrong: Tensor  #: whether it counts and is no class of any rank, shape (N)
    share: Tensor  #: its weight, 0 if it does not count, shape (N)
    weight: Tensor | None  #: the weights of the K classes, or None for 1

    def rows(self, i: slice) -> Targets:
        column, here, kept, wrong, share, weight = self
        return Targets(column[i], here[i], kept[i], wrong[i], share[i], weight)


def rows(x: Tensor, targets: Targets, o: Options, ranks: Ranks) -> Rows:
    """As :func:`celib.kernels.operators.rows`, for a rank's columns x of the logits, shape (N, K).

    The rows are those of all classes, the same on all ranks.
    """
    return Rows(*_rows(x, targets, o, ranks))


def linear_rows(
    x: Tensor,
    matrix: Tensor,
    bias: Tensor | None,
    targets: Targets,
    o: Options,
    ranks: Ranks,
    columns: int,
    validate: bool,
) -> Rows:
    """The same for the logits x matrix^T + bias, of which ``columns`` exist at a time.

    Args:
        x: the same on all ranks, shape (N, D).
        matrix, bias: of the rank's classes, shapes (K, D) and (K).
        validate: whether the backward pass checks that all ranks have come to it.
    """
    return Rows(*_linear_rows(x, matrix, bias, targets, o, ranks, columns, validate))


class _Rows(Function):
    """The rows of logits that are there; the backward pass exchanges nothing."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, targets: Targets, o: Options, ranks: Ranks
    ) -> tuple[Tensor, ...]:
        x = _arrived(x)
        found = _finished(*_part_of_rows(x, targets, o), targets, o, ranks)
        _keep(ctx, (x,), targets, o, found)
        return tuple(found)

    @staticmethod
    def backward(ctx: Any, g: Tensor, *others: Any) -> tuple[Any, ...]:
        _refuse_second_derivative()
        x, column, here, kept, weight, saved = ctx.saved_tensors
        # A kernel thinks that the target is in each row that counts. Where it is on another rank,
        # any class may stand for it, if nothing is said of a target: its SHARE is 0, and of the
        # derivative with respect to log p_y = z_y - lse there remains that with respect to -lse.
        g = g.clone()
        elsewhere = torch.where(here, 0.0, g[LOG_PROB])
        g[LSE] -= elsewhere
        g[LOG_PROB] -= elsewhere
        # Nor does it know the index that is ignored from a column of the same number.
        target, o = torch.where(kept, column, -1), ctx.options._replace(ignore_index=-1)
        out = empty_like(x)
        if x.numel() > 0:
            kernel(x, target, o).backward(x, target, weight, o, saved, g, out)
        return out, None, None, None


class _LinearRows(Function):
    """The rows of logits that are computed a slice at a time, in both passes."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        matrix: Tensor,
        bias: Tensor | None,
        targets: Targets,
        o: Options,
        ranks: Ranks,
        columns: int,
        validate: bool,
    ) -> tuple[Tensor, ...]:
        z_y = torch.full_like(targets.share, -math.inf)
        x, matrix, part, w = _arrived(x), _arrived(matrix), nothing(len(x), z_y), targets.weight
        for c in slices(len(matrix), columns):
            z, at, among = slice_of(x, matrix, bias, targets.column, c)
            here, w_c = targets.here & among, None if w is None else w[c]
            some = targets._replace(column=at[:, 0], here=here, weight=w_c)
            next_part, next_z_y = _part(logits(z, o), some, o)
            part, z_y = merge(part, next_part), torch.maximum(z_y, next_z_y)
        found = _finished(part, z_y, targets, o, ranks)
        ctx.ranks, ctx.columns, ctx.validate = ranks, columns, validate
        ctx.exchanges = ctx.needs_input_grad[0]
        _keep(ctx, (x, matrix, bias), targets, o, found)
        return tuple(found)

    @staticmethod
    def backward(ctx: Any, g: Tensor, *others: Any) -> tuple[Any, ...]:
        _begin_backward(ctx)
        x, matrix, bias, column, here, kept, w, saved = ctx.saved_tensors
        o = ctx.options
        want_x, want_matrix, want_bias = ctx.needs_input_grad[:3]
        dx = torch.zeros_like(x, dtype=saved.dtype) if want_x else None
        d_matrix = torch.empty_like(matrix) if want_matrix else None
        d_bias = torch.empty_like(bias) if want_bias else None
        for c in slices(len(matrix), ctx.columns):
            z, at, among = slice_of(x, matrix, bias, column, c)
            w_c = None if w is None else w[c]
            arguments = (at[:, 0], here & among, kept, z, saved, w_c, g, o, logits(z, o))
            of_z = gradient_hard(*arguments)
            if d_bias is not None:
                d_bias[c] = of_z.sum(0)
            of_z = of_z.to(x.dtype)
            if dx is not None:
                add_product(dx, of_z, matrix[c])
            if d_matrix is not None:
                torch.mm(of_z.T, x, out=d_matrix[c])
        if dx is not None:
            # In float32 also for halves: each rank's sum would be rounded, and then their sum.
            ctx.ranks.add(dx, "the gradient with respect to input")
            dx = dx.to(x.dtype)
        return dx, d_matrix, d_bias, *(None,) * 5


_rows: Callable[..., tuple[Tensor, Tensor, Tensor]] = _Rows.apply
_linear_rows: Callable[..., tuple[Tensor, Tensor, Tensor]] = _LinearRows.apply


def _keep(
    ctx: Any, inputs: tuple[Tensor | None, ...], targets: Targets, o: Options, found: Rows
) -> None:
    saved = found.saved.clone()
    saved[SHARE] = torch.where(targets.here, saved[SHARE], 0.0)
    column, here, kept = targets[:3]
    ctx.options = o
    ctx.save_for_backward(*inputs, column, here, kept, targets.weight, saved)
    ctx.mark_non_differentiable(found.correct, found.saved)


def _arrived(x: Tensor) -> Tensor:
    """The values of what torch's tensor parallelism may still be waiting for."""
    wait = getattr(x, "wait", None)  # of an AsyncCollectiveTensor
    return x if wait is None else wait()


def _begin_backward(ctx: Any) -> None:
    """Before ranks wait for each other's gradients, see that all of them have come for that."""

    def prepare() -> Step:
        _refuse_second_derivative()
        # autograd.grad may ask for fewer derivatives than the forward pass was ready for.
        wanted = str(bool(ctx.needs_input_grad[0]))
        return Step({"function": f"{ctx.ranks.caller}.backward", "gradient of input": wanted}, True)

    if ctx.exchanges and ctx.validate:
        agree(ctx.ranks, prepare)
    _refuse_second_derivative()


def _refuse_second_derivative() -> None:
    if torch.is_grad_enabled():
        raise NotImplementedError(
            "the derivative of a derivative of a distributed loss: expected create_graph=False"
        )


def _part_of_rows(x: Tensor, targets: Targets, o: Options) -> tuple[Part, Tensor]:
    """The part without the target of each row, and the logit of the target; by blocks of rows."""
    if x.shape[1] == 0:
        return nothing(len(x), targets.share), torch.full_like(targets.share, -math.inf)
    plain = o.label_smoothing == o.softcap == 0 and o.scale == 1.0 and not o.entropy
    chosen = kernel(x, targets.column, o)
    if plain and chosen is not with_aten:
        return _part_by_kernel(chosen, x, targets)
    found = [_part(logits(x[i], o), targets.rows(i), o) for i in _blocks(x)]
    if len(found) == 1:
        return found[0]
    parts, z_y = zip(*found, strict=True)
    return Part(*map(torch.cat, zip(*parts, strict=True))), torch.cat(z_y)


def _part_by_kernel(chosen: Kernel, x: Tensor, targets: Targets) -> tuple[Part, Tensor]:
    """The same in one pass, for logits without options: from what a kernel saves of a row.

    The kernel takes the column for the target of each row, so that REST is the share of the other
    classes. Where the target is on another rank, TOTAL is the sum of all classes.
    """
    saved = chosen.forward(x, targets.column, None, Options(ignore_index=-1)).saved
    m, total = saved[LARGEST], saved[TOTAL]
    total = torch.where(targets.here, saved[REST] * total, total)
    # A row that has no softmax is NaN: with a NaN in it, with several logits of inf, or with
    # nothing but -inf, which the classes of other ranks may make up for.
    broken = m.isnan()
    if x.device.type != "cpu" or broken.any():
        top = x.amax(-1).to(m.dtype)
        m = torch.where(broken, top, m)
        total = torch.where(broken, torch.where(top == -math.inf, 0.0, 2.0), total)
    z_y = x.gather(-1, targets.column[:, None])[:, 0].to(m.dtype)
    zero = torch.zeros_like(m)
    return Part(m, total, zero, zero, zero, zero), torch.where(targets.here, z_y, -math.inf)


def _blocks(x: Tensor) -> list[slice]:
    if x.device.type == "cpu":
        return blocks(x)
    size = max(1, BLOCK_BYTES // (4 * x.shape[1]))
    return [slice(i, i + size) for i in range(0, max(len(x), 1), size)]


def _part(z: Tensor, targets: Targets, o: Options) -> tuple[Part, Tensor]:
    at, here = targets.column[:, None], targets.here
    z_y = z.gather(-1, at)[:, 0]
    others = z.scatter(-1, at, torch.where(here, -math.inf, z_y)[:, None])
    return part_of(others, targets.weight, o), torch.where(here, z_y, -math.inf)


def _finished(part: Part, z_y: Tensor, targets: Targets, o: Options, ranks: Ranks) -> Rows:
    """The rows of all classes, from what each rank knows of its own."""
    names = ["largest", "total"]
    if o.label_smoothing > 0:
        # Without weights that of every class is 1, and the sum of weights is the number.
        names += ["below", "allowed"] if targets.weight is None else ["below", "allowed", "weight"]
    if o.entropy:
        names += ["heat"]
    sent = torch.stack([getattr(part, name) for name in names] + [z_y])
    received = ranks.gather(sent, f"{len(sent)} numbers per row")
    parts = []
    for of_rank in received:
        known = dict(zip(names, of_rank, strict=False))
        if "allowed" in known:
            known.setdefault("weight", known["allowed"])
        zero = torch.zeros_like(z_y)
        parts.append(Part(*(known.get(name, zero) for name in Part._fields)))
    # In the order of the ranks on each of them: so the sums are the same, bit for bit.
    merged, z_y = functools.reduce(merge, parts), received[:, -1].amax(0)
    return finish(merged, z_y, targets.share, targets.kept, targets.wrong, o)
