"""The divergence of two linear layers, a student and its teacher, a chunk of logits at a time.

As for the cross-entropy of a layer in :mod:`celib.kernels.linear`: the logits of some rows of both
are computed into two buffers, those of the student are replaced there by their gradient, and
multiplied on. That is three products for the student, all done when the forward pass ends, and one
for the teacher, which is a constant. Sums over chunks are kept in float32.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op
from torch.utils.flop_counter import register_flop_formula

from celib.derivatives import times
from celib.kernels.divergence import value_and_slopes
from celib.kernels.divergence_operators import loops, reference, run
from celib.kernels.linear import CHUNK, add_product, product
from celib.kernels.operators import differentiable

# The input of a layer, its matrix and its bias.
Layer = tuple[Tensor, Tensor, Tensor | None]

# Numbers of the logits that the operations of torch work on at a time, in place of the loop.
_BLOCK = 2**22


def loss_of_all(
    student: Layer,
    teacher: Layer,
    temperature: float | Tensor,
    kind: str,
    beta: float,
    counts: Tensor | None,
    factor: Tensor | None,
    chunk: int | None,
) -> Tensor:
    """The sum over all rows of T^2 times the divergence, times the factor.

    Args:
        student: x of shape (N, D), a matrix of shape (C, D), a bias of shape (C) or None.
        teacher: the same with another D; it gets no derivative.
        temperature: T, a number or a tensor of one.
        kind, beta: as for :func:`~celib.kernels.divergence.divergence`.
        counts: booleans, shape (N): which rows count; or None.
        factor: shape (N), or None.
        chunk: rows at a time, or None for a good number.
    """
    asked = *student, temperature
    wanted = [torch.is_grad_enabled() and isinstance(a, Tensor) and a.requires_grad for a in asked]
    if not isinstance(temperature, Tensor):
        temperature = torch.full((), temperature, dtype=torch.float64, device=student[0].device)
    device = student[0].device.type
    rows = chunk or CHUNK.get(device, CHUNK["cuda"])
    arguments = (*student, *teacher, temperature, counts, factor, kind, beta, rows)
    loss: Tensor = linear_distillation(*arguments, wanted[3], *wanted[:3])[0]
    return loss


@custom_op("celib::linear_distillation", mutates_args=())
def linear_distillation(
    x: Tensor,
    matrix: Tensor,
    bias: Tensor | None,
    teacher_x: Tensor,
    teacher_matrix: Tensor,
    teacher_bias: Tensor | None,
    temperature: Tensor,
    counts: Tensor | None,
    factor: Tensor | None,
    kind: str,
    beta: float,
    chunk: int,
    want_t: bool,
    want_x: bool,
    want_matrix: bool,
    want_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The sum, the losses of the rows without the factor, and the derivatives of the sum with
    respect to T, 0 if it is not wanted, and, empty if not, x, the matrix and the bias."""
    wide = _wide(x, teacher_x)
    (n, classes), of_sums = (len(x), len(matrix)), torch.promote_types(x.dtype, torch.float32)
    dx = x.new_empty(n * want_x, x.shape[1])
    d_matrix = x.new_zeros(classes * want_matrix, x.shape[1], dtype=of_sums)
    d_bias = x.new_zeros(classes * want_bias, dtype=of_sums)
    losses = x.new_empty(n, dtype=wide)
    to_t = x.new_zeros((), dtype=torch.float64)
    # Equal chunks: a short last chunk costs as much as a full one.
    size = math.ceil(n / max(1, math.ceil(n / chunk)))
    buffer, teacher_buffer = x.new_empty(size, classes), teacher_x.new_empty(size, classes)
    wanted = want_x or want_matrix or want_bias
    for start in range(0, n, size or 1):
        i = slice(start, min(n, start + size))
        z = product(x[i], matrix, bias, buffer)
        v = product(teacher_x[i], teacher_matrix, teacher_bias, teacher_buffer)
        these = None if counts is None else counts[i]
        w = None if factor is None else factor[i]
        losses[i], slope = _with_gradient(z, v, temperature, kind, beta, these, w, wanted, want_t)
        to_t += slope
        if want_x:
            torch.mm(z, matrix, out=dx[i])
        if want_matrix:
            add_product(d_matrix, z.T, x[i])
        if want_bias:
            d_bias += z.sum(0, dtype=of_sums)
    loss = losses if factor is None else times(factor.to(wide), losses)
    return loss.sum(), losses, to_t, dx, d_matrix, d_bias


def _wide(x: Tensor, teacher_x: Tensor) -> torch.dtype:
    return torch.promote_types(torch.promote_types(x.dtype, teacher_x.dtype), torch.float32)


def _with_gradient(
    z: Tensor,
    v: Tensor,
    temperature: Tensor,
    kind: str,
    beta: float,
    counts: Tensor | None,
    factor: Tensor | None,
    wanted: bool,
    want_t: bool,
) -> tuple[Tensor, Tensor]:
    """The losses of rows, and the derivative of their weighted sum with respect to T; and in the
    place of z, if it is wanted, that with respect to z."""
    if z.device.type == "cpu" and loops(z, v, temperature.item()) is not None:
        a, b = (z, v) if z.dtype == v.dtype else (z.float(), v.float())
        to_t = z.new_empty(len(z), dtype=torch.float64) if want_t else None
        each = None if factor is None else factor.double()
        out = a if wanted else None
        loss = run(a, b, temperature.item(), kind, beta, counts, each, None, out, None, to_t)
        if wanted and a is not z:
            z.copy_(a)
        if to_t is None:
            return loss, z.new_zeros((), dtype=torch.float64)
        return loss, (to_t if each is None else times(each, to_t)).sum()
    wide, slope = _wide(z, v), z.new_zeros((), dtype=torch.float64)
    t, step = temperature.to(wide), max(1, _BLOCK // z.shape[1])
    losses = z.new_empty(len(z), dtype=wide)
    for start in range(0, len(z), step):
        i = slice(start, start + step)
        z_i, v_i = z[i].to(wide), v[i].to(wide)
        if counts is not None:
            z_i, v_i = (torch.where(counts[i, None], a, 0.0) for a in (z_i, v_i))
        value, to_z, to_log_t = value_and_slopes(z_i, v_i, t, kind, beta)
        losses[i] = t**2 * value
        # T^2 D(z / T): a factor T of the derivative remains.
        w = torch.ones_like(value) if factor is None else factor[i].to(wide)
        slope += (w * (t * (2.0 * value + to_log_t))).sum().to(slope.device)
        if wanted:
            z[i] = (w * t)[:, None] * to_z
    return losses, slope


@linear_distillation.register_fake
def _(
    x: Tensor, matrix: Tensor, bias: Tensor | None, teacher_x: Tensor, *others: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    want_x, want_matrix, want_bias = map(int, others[-3:])  # torch 2.5 multiplies no SymInt by True
    n, (classes, d) = x.shape[0], matrix.shape  # len would be a constant of what is exported
    of_sums, wide = torch.promote_types(x.dtype, torch.float32), _wide(x, teacher_x)
    return (
        x.new_empty((), dtype=wide),
        x.new_empty(n, dtype=wide),
        x.new_empty((), dtype=torch.float64),
        x.new_empty(n * want_x, d),
        x.new_empty(classes * want_matrix, d, dtype=of_sums),
        x.new_empty(classes * want_bias, dtype=of_sums),
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.kind, ctx.beta = inputs[9:11]
    ctx.set_materialize_grads(False)  # of the matrices below, which have none
    ctx.save_for_backward(*inputs[:9], *output[1:])
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx: Any, g: Tensor | None, *_: Any) -> tuple[Any, ...]:
    if g is None:
        return (None,) * 16
    saved = ctx.saved_tensors
    x, matrix, bias, *teacher, temperature, counts, factor = saved[:9]
    losses, to_t, *kept = saved[9:]
    layer, need = (x, matrix, bias), ctx.needs_input_grad
    if torch.is_grad_enabled():  # the derivative is itself to be differentiated
        v = torch.nn.functional.linear(*teacher)

        def total(
            x: Tensor, matrix: Tensor, bias: Tensor | None, t: Tensor, factor: Tensor | None
        ) -> Tensor:
            z = torch.nn.functional.linear(x, matrix, bias)
            loss = reference(z, v, t, ctx.kind, ctx.beta, counts)
            return (loss if factor is None else times(factor.to(loss.dtype), loss)).sum()

        *found, of_t, of_factor = differentiable(total, (*layer, temperature, factor), g)
    else:
        # A new product each time: the backward pass may run again.
        found = [
            (d.to(g.dtype) * g).to(a.dtype) if a is not None and needed else None
            for d, a, needed in zip(kept, layer, need, strict=False)
        ]
        of_t = (to_t * g).to(temperature.dtype) if need[6] else None
        of_factor = (g * losses).to(factor.dtype) if need[8] else None
    return (*found, None, None, None, of_t, None, of_factor, *(None,) * 7)


linear_distillation.register_autograd(_backward, setup_context=_setup)


# What FlopCounterMode counts, as of any layer: the matrix products.
@register_flop_formula(torch.ops.celib.linear_distillation)
def _flops(x: Any, matrix: Any, bias: Any, teacher_x: Any, *others: Any, **_: Any) -> int:
    want_x, want_matrix, _want_bias = others[-3:]
    of_student = (1 + want_x + want_matrix) * x[1]
    return int(2 * x[0] * matrix[0] * (of_student + teacher_x[1]))
