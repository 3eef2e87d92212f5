"""Cross-entropy of a linear layer, whose logits are never all there at once.

Two ways, both operators of torch, which multiplies the matrices. By rows of the input
(``linear_cross_entropy``): a chunk of the logits is computed into one buffer, replaced there by its
gradient, and multiplied on; three products, done when the forward pass ends. By classes
(``linear_cross_entropy_by_class``): a slice of the logits is computed for its share of the sums,
and once more for its gradient; a fourth product, but the backward pass can take any derivative by
the loss of each row. Sums over chunks are kept in float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op
from torch.utils.flop_counter import register_flop_formula

from celib.kernels import with_aten
from celib.kernels.family import Options, logits, lookup, reference
from celib.kernels.operators import differentiable, kernel, shapes_of_rows

# Rows of the input at a time. The gradient by the weight passes through memory once a chunk: with
# fewer rows, that takes longer than the product itself.
CHUNK = {"cuda": 4096, "cpu": 512}
# Classes at a time.
SLICE = {"cuda": 32768, "cpu": 4096}


def loss_of_all(
    x: Tensor,
    matrix: Tensor,
    bias: Tensor | None,
    target: Tensor,
    weight: Tensor | None,
    o: Options,
    chunk: int | None,
) -> tuple[Tensor, Tensor]:
    """The sum of the losses, and the weight of each target; by chunks of rows.

    Args:
        x: shape (N, D).
        matrix: the weight of the layer, shape (C, D); bias: shape (C), or None.
        target: shape (N) or (N, C); weight: shape (C), or None.
        o: the options.
        chunk: rows at a time, or None for a good number.
    """
    wanted = [
        torch.is_grad_enabled() and a is not None and a.requires_grad for a in (x, matrix, bias)
    ]
    rows = chunk or CHUNK.get(x.device.type, CHUNK["cuda"])
    loss, share, *_ = linear_cross_entropy(x, matrix, bias, target, weight, *o, rows, *wanted)
    return loss, share


def loss_of_each(
    x: Tensor,
    matrix: Tensor,
    bias: Tensor | None,
    target: Tensor,
    weight: Tensor | None,
    o: Options,
    chunk: int | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As :func:`celib.kernels.operators.rows`, by slices of the classes; classes as targets."""
    columns = chunk or SLICE.get(x.device.type, SLICE["cuda"])
    loss, lse, correct, numbers = linear_cross_entropy_by_class(
        x, matrix, bias, target, weight, *o, columns
    )
    return loss, lse, numbers[4], correct


@custom_op("celib::linear_cross_entropy", mutates_args=())
def linear_cross_entropy(
    x: Tensor,
    matrix: Tensor,
    bias: Tensor | None,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    z_loss: float,
    softcap: float,
    scale: float,
    chunk: int,
    want_x: bool,
    want_matrix: bool,
    want_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The sum of the losses, the weights of the targets, and its derivatives, empty if unwanted."""
    o = Options(ignore_index, label_smoothing, z_loss, softcap, scale)
    (n, classes), wide = (len(x), len(matrix)), torch.promote_types(x.dtype, torch.float32)
    sizes = (n * want_x, x.shape[1]), (classes * want_matrix, x.shape[1]), (classes * want_bias,)
    dx = x.new_empty(sizes[0])
    d_matrix, d_bias = (x.new_zeros(size, dtype=wide) for size in sizes[1:])
    loss, share = x.new_zeros((), dtype=wide), x.new_empty(n, dtype=wide)
    # As many rows in each chunk: a short one would cost as much as a long one.
    size = math.ceil(n / max(1, math.ceil(n / chunk)))
    buffer = x.new_empty(size, classes)
    for start in range(0, n, size or 1):
        i = slice(start, min(n, start + size))
        some, y, z = x[i], target[i], buffer[: min(n, start + size) - start]
        if bias is None:
            torch.mm(some, matrix.T, out=z)
        else:
            torch.addmm(bias, some, matrix.T, out=z)
        kernel_ = kernel(z, y, o)
        each, _, _, numbers = kernel_.forward(z, y, weight, o)
        loss += each.sum()
        share[i] = numbers[4]
        if not (want_x or want_matrix or want_bias):
            continue
        kernel_.backward(z, y, weight, o, numbers, torch.ones_like(each), torch.zeros_like(each), z)
        if want_x:
            torch.mm(z, matrix, out=dx[i])
        if want_matrix:
            _add_product(d_matrix, z.T, some)
        if want_bias:
            d_bias += z.sum(0, dtype=wide)
    return loss, share, dx, d_matrix, d_bias


@linear_cross_entropy.register_fake
def _(x: Tensor, matrix: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    want_x, want_matrix, want_bias = map(int, others[-3:])  # torch 2.5 multiplies no SymInt by True
    n, (classes, d) = x.shape[0], matrix.shape  # len would be a constant of what is exported
    wide = torch.promote_types(x.dtype, torch.float32)
    return (
        x.new_empty((), dtype=wide),
        x.new_empty(n, dtype=wide),
        x.new_empty(n * want_x, d),
        x.new_empty(classes * want_matrix, d, dtype=wide),
        x.new_empty(classes * want_bias, dtype=wide),
    )


def _setup_all(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.options = Options(*inputs[5:10])
    ctx.set_materialize_grads(False)  # of the matrices below, which have none
    ctx.save_for_backward(*inputs[:5], *output[2:])
    ctx.mark_non_differentiable(*output[1:])


def _backward_all(ctx: Any, g: Tensor | None, *_: Any) -> tuple[Any, ...]:
    if g is None:
        return (None,) * (5 + len(ctx.options) + 4)
    x, matrix, bias, target, weight, *kept = ctx.saved_tensors
    layer = (x, matrix, bias)
    if torch.is_grad_enabled():  # the derivative is itself to be differentiated
        loss = _reference(*layer, target, weight, ctx.options)[0].sum()
        found: list[Tensor | None] = differentiable((loss,), layer, (g,))
    else:
        # A new product each time: the backward pass may run again.
        found = [
            (d.to(g.dtype) * g).to(a.dtype) if a is not None and need else None
            for d, a, need in zip(kept, layer, ctx.needs_input_grad, strict=False)
        ]
    return (*found, *(None,) * (2 + len(ctx.options) + 4))


linear_cross_entropy.register_autograd(_backward_all, setup_context=_setup_all)


@custom_op("celib::linear_cross_entropy_by_class", mutates_args=())
def linear_cross_entropy_by_class(
    x: Tensor,
    matrix: Tensor,
    bias: Tensor | None,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    z_loss: float,
    softcap: float,
    scale: float,
    columns: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss, lse, whether the target is a likeliest class, and the six numbers, of each row."""
    o = Options(ignore_index, label_smoothing, z_loss, softcap, scale)
    y, kept, wrong = lookup(target, len(matrix), o.ignore_index)
    wide = torch.promote_types(x.dtype, torch.float32)
    w = None if weight is None else weight.to(wide)
    m, z_y = x.new_full((2, len(x)), -math.inf, dtype=wide)
    s, *zeros = x.new_zeros((4, len(x)), dtype=wide)
    spread = zeros[0], zeros[1], zeros[2]
    for c in _slices(len(matrix), columns):
        z, at, here = _slice(x, matrix, bias, y, c, o)
        z_y = torch.where(here, z.gather(-1, at)[:, 0], z_y)
        others = torch.where(here[:, None], z.scatter(-1, at, -math.inf), z)
        m_c, s_c, spread_c = with_aten.without(others, None if w is None else w[c], o)
        new = torch.maximum(m, m_c)
        if spread_c is not None:
            (below, weights, number), (below_c, weights_c, number_c) = spread, spread_c
            rise, rise_c = (torch.where(a == new, 0.0, new - a) for a in (m, m_c))
            below = _lifted(below, weights, rise) + _lifted(below_c, weights_c, rise_c)
            spread = below, weights + weights_c, number + number_c
        s = _rescaled(s, m, new) + _rescaled(s_c, m_c, new)
        m = new
    share = torch.where(kept, 1.0 if w is None else w[y], 0.0).to(wide)
    of_all = spread if o.label_smoothing > 0 else None
    return with_aten.finish(m, s, z_y, share, kept, wrong, of_all, o)


linear_cross_entropy_by_class.register_fake(shapes_of_rows)


@custom_op("celib::linear_cross_entropy_by_class_backward", mutates_args=())
def linear_cross_entropy_by_class_backward(
    x: Tensor,
    matrix: Tensor,
    bias: Tensor | None,
    target: Tensor,
    weight: Tensor | None,
    numbers: Tensor,
    g_loss: Tensor,
    g_lse: Tensor,
    ignore_index: int,
    label_smoothing: float,
    z_loss: float,
    softcap: float,
    scale: float,
    columns: int,
) -> tuple[Tensor, Tensor, Tensor]:
    o = Options(ignore_index, label_smoothing, z_loss, softcap, scale)
    y, kept, _ = lookup(target, len(matrix), o.ignore_index)
    wide = numbers.dtype
    w = None if weight is None else weight.to(wide)
    dx = torch.zeros_like(x, dtype=wide)
    d_matrix, d_bias = torch.empty_like(matrix), matrix.new_empty(len(matrix))
    of_p = with_aten.factor_of_p(o, numbers, g_loss, g_lse)
    for c in _slices(len(matrix), columns):
        z, at, here = _slice(x, matrix, bias, y, c, o)
        w_c = None if w is None else w[c]
        of_z = with_aten.gradient_hard(
            at[:, 0], here & kept, kept, z, of_p, numbers, w_c, g_loss, o
        )
        d_bias[c] = of_z.sum(0)
        of_z = of_z.to(x.dtype)
        _add_product(dx, of_z, matrix[c])
        torch.mm(of_z.T, x, out=d_matrix[c])
    return dx.to(x.dtype), d_matrix, d_bias


@linear_cross_entropy_by_class_backward.register_fake
def _(x: Tensor, matrix: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(matrix), matrix.new_empty(len(matrix))


def _setup_each(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.options, ctx.columns = Options(*inputs[5:10]), inputs[10]
    ctx.save_for_backward(*inputs[:5], output[3])
    ctx.mark_non_differentiable(output[2], output[3])


def _backward_each(ctx: Any, g_loss: Tensor, g_lse: Tensor, *others: Any) -> tuple[Any, ...]:
    x, matrix, bias, target, weight, numbers = ctx.saved_tensors
    layer = (x, matrix, bias)
    if torch.is_grad_enabled():
        loss, lse, _, _ = _reference(*layer, target, weight, ctx.options)
        found = differentiable((loss, lse), layer, (g_loss, g_lse))
    else:
        dx, d_matrix, d_bias = linear_cross_entropy_by_class_backward(
            *layer, target, weight, numbers, g_loss, g_lse, *ctx.options, ctx.columns
        )
        found = [dx, d_matrix, None if bias is None else d_bias]
    return (*found, *(None,) * (2 + len(ctx.options) + 1))


linear_cross_entropy_by_class.register_autograd(_backward_each, setup_context=_setup_each)


def _products(number: int, x: Sequence[int], matrix: Sequence[int]) -> int:
    return 2 * number * x[0] * x[1] * matrix[0]


# What FlopCounterMode counts, as of any layer: the matrix products.
@register_flop_formula(torch.ops.celib.linear_cross_entropy)
def _flops(x: Sequence[int], matrix: Sequence[int], *others: Any, **_: Any) -> int:
    want_x, want_matrix, _want_bias = others[-3:]
    return _products(1 + want_x + want_matrix, x, matrix)


@register_flop_formula(torch.ops.celib.linear_cross_entropy_by_class)
def _flops_each(x: Sequence[int], matrix: Sequence[int], *_: Any, **__: Any) -> int:
    return _products(1, x, matrix)


@register_flop_formula(torch.ops.celib.linear_cross_entropy_by_class_backward)
def _flops_each_backward(x: Sequence[int], matrix: Sequence[int], *_: Any, **__: Any) -> int:
    return _products(3, x, matrix)


def _reference(
    x: Tensor,
    matrix: Tensor,
    bias: Tensor | None,
    target: Tensor,
    weight: Tensor | None,
    o: Options,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return reference(torch.nn.functional.linear(x, matrix, bias), target, weight, o)


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a b, the sum in the dtype of total, whatever that of a and b."""
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    elif (
        total.is_cuda
        and torch.cuda.get_device_capability(total.device) >= (8, 0)
        and hasattr(torch.ops.aten.addmm, "dtype_out")  # since torch 2.8
    ):
        torch.addmm(total, a, b, out_dtype=total.dtype, out=total)
    else:
        # The factors are widened, not the product: a @ b would be rounded to their dtype.
        total.addmm_(a.to(total.dtype), b.to(total.dtype))


def _slices(classes: int, columns: int) -> list[slice]:
    return [slice(i, min(classes, i + columns)) for i in range(0, classes, columns)]


def _slice(
    x: Tensor, matrix: Tensor, bias: Tensor | None, y: Tensor, c: slice, o: Options
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of some classes, where among them the target is, and whether it is."""
    z = torch.nn.functional.linear(x, matrix[c], None if bias is None else bias[c])
    at = y - c.start
    here = (at >= 0) & (at < z.shape[1])
    return logits(z, o), torch.where(here, at, 0)[:, None], here


def _rescaled(s: Tensor, m: Tensor, new: Tensor) -> Tensor:
    return s * torch.where(m == new, 1.0, torch.exp(m - new))


def _lifted(below: Tensor, weights: Tensor, rise: Tensor) -> Tensor:
    return below + torch.where(weights == 0, 0.0, weights * rise)
