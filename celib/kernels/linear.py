"""Cross-entropy of a linear layer, whose logits are never all there at once.

Two ways, both operators of torch, which multiplies the matrices. By rows of the input
(``linear_cross_entropy``): a chunk of the logits is computed into one buffer, replaced there by its
gradient, and multiplied on; three products, done when the forward pass ends. By classes
(``linear_cross_entropy_by_class``): a slice of the logits is computed for its share of the sums,
and once more for its gradient; a fourth product, but the backward pass can take any derivative with
respect to the results of each row. Sums over chunks are kept in float32.

The problem, and a solution whose tiles of logits never leave the chip: Wijmans et al. (2024),
arXiv:2411.09009.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op
from torch.utils.flop_counter import register_flop_formula

from celib.kernels.choice import kernel
from celib.kernels.family import LOSS, SHARE, Options, Rows, logits, lookup, reference
from celib.kernels.operators import differentiable, shapes_of_rows
from celib.kernels.rows import finish, gradient_hard, merge, nothing, part_of

# Rows of the input at a time. The gradient with respect to the weight passes through memory once
# per chunk: with fewer rows, that takes longer than the product itself.
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
    numbers = (o.ignore_index, o.numbers())
    loss, share, *_ = linear_cross_entropy(x, matrix, bias, target, weight, *numbers, rows, *wanted)
    return loss, share


def loss_of_each(
    x: Tensor,
    matrix: Tensor,
    bias: Tensor | None,
    target: Tensor,
    weight: Tensor | None,
    o: Options,
    chunk: int | None,
) -> Rows:
    """As :func:`celib.kernels.operators.rows`, by slices of the classes; classes as targets."""
    columns = chunk or SLICE.get(x.device.type, SLICE["cuda"])
    numbers = (o.ignore_index, o.numbers())
    return Rows(*linear_cross_entropy_by_class(x, matrix, bias, target, weight, *numbers, columns))


@custom_op("celib::linear_cross_entropy", mutates_args=())
def linear_cross_entropy(
    x: Tensor,
    matrix: Tensor,
    bias: Tensor | None,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    options: Sequence[float],
    chunk: int,
    want_x: bool,
    want_matrix: bool,
    want_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The sum of the losses, the weights of the targets, and its derivatives, empty if unwanted."""
    o = Options.of(ignore_index, options)
    (n, classes), wide = (len(x), len(matrix)), torch.promote_types(x.dtype, torch.float32)
    sizes = (n * want_x, x.shape[1]), (classes * want_matrix, x.shape[1]), (classes * want_bias,)
    dx = x.new_empty(sizes[0])
    d_matrix, d_bias = (x.new_zeros(size, dtype=wide) for size in sizes[1:])
    loss, share = x.new_zeros((), dtype=wide), x.new_empty(n, dtype=wide)
    wanted = want_x or want_matrix or want_bias
    # Equal chunks: a short last chunk costs as much as a full one.
    size = math.ceil(n / max(1, math.ceil(n / chunk)))
    buffer = x.new_empty(size, classes)
    for start in range(0, n, size or 1):
        i = slice(start, min(n, start + size))
        some, y = x[i], target[i]
        z = product(some, matrix, bias, buffer)
        found = (_replaced if wanted else _forward)(z, y, weight, o)
        loss += found.results[LOSS].sum()
        share[i] = found.saved[SHARE]
        if want_x:
            torch.mm(z, matrix, out=dx[i])
        if want_matrix:
            add_product(d_matrix, z.T, some)
        if want_bias:
            d_bias += z.sum(0, dtype=wide)
    return loss, share, dx, d_matrix, d_bias


def _forward(z: Tensor, y: Tensor, weight: Tensor | None, o: Options) -> Rows:
    return kernel(z, y, o).forward(z, y, weight, o)


def _replaced(z: Tensor, y: Tensor, weight: Tensor | None, o: Options) -> Rows:
    """The rows of some logits, which their gradient replaces: that of the sum of the losses."""
    chosen = kernel(z, y, o)
    if chosen.both is not None:
        return chosen.both(z, y, weight, o, z.new_ones(len(z), dtype=torch.float32), z)
    found = chosen.forward(z, y, weight, o)
    g = torch.zeros_like(found.results)
    g[LOSS] = 1.0
    chosen.backward(z, y, weight, o, found.saved, g, z)
    return found


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
    ctx.options = Options.of(*inputs[5:7])
    ctx.set_materialize_grads(False)  # of the matrices below, which have none
    ctx.save_for_backward(*inputs[:5], *output[2:])
    ctx.mark_non_differentiable(*output[1:])


def _backward_all(ctx: Any, g: Tensor | None, *_: Any) -> tuple[Any, ...]:
    if g is None:
        return (None,) * 11
    x, matrix, bias, target, weight, *kept = ctx.saved_tensors
    layer = (x, matrix, bias)
    if torch.is_grad_enabled():  # the derivative is itself to be differentiated
        found: list[Tensor | None] = differentiable(
            lambda x, matrix, bias: (
                _reference(x, matrix, bias, target, weight, ctx.options).results[LOSS].sum()
            ),
            *(layer, g),
        )
    else:
        # A new product each time: the backward pass may run again.
        found = [
            (d.to(g.dtype) * g).to(a.dtype) if a is not None and need else None
            for d, a, need in zip(kept, layer, ctx.needs_input_grad, strict=False)
        ]
    return (*found, *(None,) * 8)


linear_cross_entropy.register_autograd(_backward_all, setup_context=_setup_all)


@custom_op("celib::linear_cross_entropy_by_class", mutates_args=())
def linear_cross_entropy_by_class(
    x: Tensor,
    matrix: Tensor,
    bias: Tensor | None,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    options: Sequence[float],
    columns: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The rows, as :class:`~celib.kernels.family.Rows`."""
    o = Options.of(ignore_index, options)
    y, kept, wrong = lookup(target, len(matrix), o.ignore_index)
    wide = torch.promote_types(x.dtype, torch.float32)
    w = None if weight is None else weight.to(wide)
    z_y = x.new_full((len(x),), -math.inf, dtype=wide)
    part = nothing(len(x), z_y)
    for c in slices(len(matrix), columns):
        z, at, here = slice_of(x, matrix, bias, y, c)
        z = logits(z, o)
        z_y = torch.where(here, z.gather(-1, at)[:, 0], z_y)
        others = torch.where(here[:, None], z.scatter(-1, at, -math.inf), z)
        part = merge(part, part_of(others, None if w is None else w[c], o))
    share = torch.where(kept, 1.0 if w is None else w[y], 0.0).to(wide)
    return tuple(finish(part, z_y, share, kept, wrong, o))  # type: ignore[return-value]


linear_cross_entropy_by_class.register_fake(shapes_of_rows)


@custom_op("celib::linear_cross_entropy_by_class_backward", mutates_args=())
def linear_cross_entropy_by_class_backward(
    x: Tensor,
    matrix: Tensor,
    bias: Tensor | None,
    target: Tensor,
    weight: Tensor | None,
    saved: Tensor,
    g: Tensor,
    ignore_index: int,
    options: Sequence[float],
    columns: int,
) -> tuple[Tensor, Tensor, Tensor]:
    o = Options.of(ignore_index, options)
    y, kept, _ = lookup(target, len(matrix), o.ignore_index)
    wide = saved.dtype
    w = None if weight is None else weight.to(wide)
    dx = torch.zeros_like(x, dtype=wide)
    d_matrix, d_bias = torch.empty_like(matrix), matrix.new_empty(len(matrix))
    for c in slices(len(matrix), columns):
        z, at, here = slice_of(x, matrix, bias, y, c)
        w_c = None if w is None else w[c]
        of_z = gradient_hard(at[:, 0], here & kept, kept, z, saved, w_c, g, o, logits(z, o))
        d_bias[c] = of_z.sum(0)
        of_z = of_z.to(x.dtype)
        add_product(dx, of_z, matrix[c])
        torch.mm(of_z.T, x, out=d_matrix[c])
    return dx.to(x.dtype), d_matrix, d_bias


@linear_cross_entropy_by_class_backward.register_fake
def _(x: Tensor, matrix: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(matrix), matrix.new_empty(len(matrix))


def _setup_each(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.options, ctx.columns = Options.of(*inputs[5:7]), inputs[7]
    _, correct, saved = output
    ctx.save_for_backward(*inputs[:5], saved)
    ctx.mark_non_differentiable(correct, saved)


def _backward_each(ctx: Any, g: Tensor, *others: Any) -> tuple[Any, ...]:
    x, matrix, bias, target, weight, saved = ctx.saved_tensors
    layer, o = (x, matrix, bias), ctx.options
    if torch.is_grad_enabled():
        found = differentiable(
            lambda x, matrix, bias: _reference(x, matrix, bias, target, weight, o).results, layer, g
        )
    else:
        numbers = (o.ignore_index, o.numbers())
        dx, d_matrix, d_bias = linear_cross_entropy_by_class_backward(
            *layer, target, weight, saved, g, *numbers, ctx.columns
        )
        found = [dx, d_matrix, None if bias is None else d_bias]
    return (*found, *(None,) * 5)


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
) -> Rows:
    return reference(torch.nn.functional.linear(x, matrix, bias), target, weight, o)


def product(x: Tensor, matrix: Tensor, bias: Tensor | None, buffer: Tensor) -> Tensor:
    """The logits of a layer, in the first rows of a buffer."""
    z = buffer[: len(x)]
    return torch.mm(x, matrix.T, out=z) if bias is None else torch.addmm(bias, x, matrix.T, out=z)


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
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


def slices(classes: int, columns: int) -> list[slice]:
    return [slice(i, min(classes, i + columns)) for i in range(0, classes, columns)]


def slice_of(
    x: Tensor, matrix: Tensor, bias: Tensor | None, y: Tensor, c: slice
) -> tuple[Tensor, Tensor, Tensor]:
    """The products of some classes, where among them the target is, and whether it is."""
    z = torch.nn.functional.linear(x, matrix[c], None if bias is None else bias[c])
    at = y - c.start
    here = (at >= 0) & (at < z.shape[1])
    return z, torch.where(here, at, 0)[:, None], here
