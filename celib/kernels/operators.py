"""Cross-entropy as one function of autograd, and as operators of torch for whatever traces it.

A call in eager mode goes straight to the kernel. A compiler, an export and a dispatch mode see
``celib::cross_entropy`` and its backward pass instead: opaque operators, with known shapes. Both
wait for no device, and give the same bits for the same input.

Nothing of the size of the logits is kept for the backward pass but the logits themselves and, where
the kernel makes it with the loss, the gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad
from torch.autograd.graph import increment_version
from torch.library import custom_op

from celib.derivatives import times
from celib.kernels.choice import kernel
from celib.kernels.family import LOG_PROB, LOSS, SAVED, SHARE, Curve, Options, Rows, reference
from celib.kernels.memory import empty_like

_CPU, _LARGEST = torch.device("cpu"), torch.finfo(torch.float32).max


def rows(
    x: Tensor, target: Tensor, weight: Tensor | None, o: Options, inplace_backward: bool = False
) -> Rows:
    """The results of each row, differentiable with respect to x.

    What asks for more, a derivative with respect to the target or a weight or a transform of
    torch.func, gets :func:`~celib.kernels.family.reference`, which keeps more arrays.

    Args:
        x: shape (N, C), float16, bfloat16, float32 or float64.
        target: shape (N) or (N, C), as for :func:`~celib.kernels.family.reference`. A class that
            does not exist makes its row NaN.
        weight: shape (C), or None.
        o: the options.
        inplace_backward: whether the gradient replaces x. It must not be needed any more, and the
            backward pass can run once.
    """
    if needs_reference(target, weight):
        found = reference(x, target, weight, o)
        return Rows(found.results, found.correct, found.saved.expand(SHARE + 1, -1))
    if is_traced(x):
        numbers = (o.ignore_index, o.numbers())
        return Rows(*cross_entropy(x, target, weight, *numbers, inplace_backward))
    wanted = x.requires_grad and torch.is_grad_enabled()
    return Rows(*_rows(x, target, weight, o, inplace_backward, wanted))


def reduced(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None,
    o: Options,
    factor: Tensor | None,
    over: str | None,
    curve: Curve | None = None,
) -> tuple[Tensor, bool] | None:
    """The sum of all losses, or their mean, in one step with the gradient.

    None where there is no such step: see :func:`rows`. With it comes whether some target may be
    wrong: a good one never makes this True for a loss that is a number, unless it sums to 1 badly.

    Args:
        x, target, weight, o: as for :func:`rows`.
        factor: what multiplies the loss of each row and its part of the divisor, shape (N).
        over: what the sum is divided by: the weights of the "weight" or the "count" of the targets
            that are not ignored, or None for the sum itself.
        curve: what is made of the surprise at each target, a class; None for the loss of ``o``.
    """
    soft = target.is_floating_point()
    if is_traced(x) or needs_reference(target, weight) or (soft and over == "weight"):
        return None
    run = kernel(x, target, o).reduced
    if run is None or (factor is not None and factor.requires_grad):
        return None
    wanted = x.requires_grad and torch.is_grad_enabled()
    # In one tuple, for each argument of a Function takes time.
    return _reduced(x, target, (run, weight, o, factor, over, curve, wanted))


def needs_reference(target: Tensor, weight: Tensor | None) -> bool:
    """Whether derivatives are asked for that the operators do not have."""
    wanted = target.requires_grad or (weight is not None and weight.requires_grad)
    return (wanted and torch.is_grad_enabled()) or is_transformed()


def is_transformed() -> bool:
    """Whether a transform of torch.func or forward mode is under way."""
    active: bool = torch._C._are_functorch_transforms_active()
    return active or forward_ad._current_level >= 0


def is_traced(x: Tensor) -> bool:
    """Whether operators are recorded, or x has no values, so that no kernel can be called."""
    return (
        torch.compiler.is_compiling()
        or type(x) not in (Tensor, torch.nn.Parameter)
        or x.device.type == "meta"
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._get_tracing_state() is not None
    )


class _Rows(Function):
    """The rows, as :class:`~celib.kernels.family.Rows`.

    The gradient is made with them where the kernel can, for derivatives with respect to the losses
    of 1.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        target: Tensor,
        weight: Tensor | None,
        o: Options,
        inplace: bool,
        wanted: bool,
    ) -> tuple[Tensor, ...]:
        expected = None
        if wanted and not (inplace or o.entropy):
            expected = x.new_ones(x.shape[0], dtype=torch.float32)
        found, gradient = _run(x, target, weight, o, expected)
        ctx.options, ctx.inplace, ctx.spent = o, inplace, False
        ctx.save_for_backward(x, target, weight, found.saved, gradient)
        ctx.mark_non_differentiable(found.correct, found.saved)
        return tuple(found)

    @staticmethod
    def backward(ctx: Any, g: Tensor, *others: Any) -> tuple[Any, ...]:
        x, target, weight, saved, gradient = ctx.saved_tensors
        nothing = (None,) * 5
        if not is_final(g):
            fixed = (target, weight, ctx.options)
            return *differentiable(lambda x: reference(x, *fixed).results, (x,), g), *nothing
        if gradient is not None and not ctx.spent and not g[1:].any():
            ctx.spent = True
            found = taken(gradient, g[LOSS][:, None])
            if found is not None:
                return found, *nothing
        arguments = (x, target, weight, ctx.options, saved, g)
        return _gradient(*arguments, inplace=ctx.inplace), *nothing


class _Reduced(Function):
    """The sum or mean, with its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, target: Tensor, given: tuple[Any, ...]) -> tuple[Tensor, bool]:
        run, weight, o, factor, over, curve, wanted = given
        gradient = empty_like(x) if wanted else None
        loss, saved, suspicious = run(x, target, weight, o, factor, over, curve, gradient)
        ctx.options, ctx.curve, ctx.spent = o, curve, False
        ctx.save_for_backward(x, target, weight, saved, gradient)
        return as_single(loss), suspicious

    @staticmethod
    def backward(ctx: Any, g: Tensor, _: None) -> tuple[Any, ...]:
        x, target, weight, saved, gradient = ctx.saved_tensors
        nothing = (None,) * 2
        if not is_final(g):

            def total(x: Tensor) -> Tensor:
                found = reference(x, target, weight, ctx.options)
                loss = found.results[LOSS]
                if ctx.curve is not None:
                    loss = times(found.saved[0], ctx.curve.of(-found.results[LOG_PROB]))
                return times(saved[SAVED], loss).sum()

            return *differentiable(total, (x,), g), *nothing
        if gradient is not None and not ctx.spent:
            ctx.spent = True
            ready = taken(gradient, g)
            if ready is not None:
                return ready, *nothing
        of_rows = torch.zeros_like(saved[:4])
        of_rows[LOSS] = g * saved[SAVED]
        return _gradient(x, target, weight, ctx.options, saved[:SAVED], of_rows), *nothing


_rows: Callable[..., tuple[Tensor, Tensor, Tensor]] = _Rows.apply
_reduced: Callable[..., tuple[Tensor, bool]] = _Reduced.apply


def _run(
    x: Tensor, target: Tensor, weight: Tensor | None, o: Options, expected: Tensor | None
) -> tuple[Rows, Tensor | None]:
    """The rows; and the gradient for the expected derivatives, if the kernel makes it with them."""
    chosen = kernel(x, target, o)
    if expected is None or chosen.both is None:
        return chosen.forward(x, target, weight, o), None
    gradient = empty_like(x)
    return chosen.both(x, target, weight, o, expected, gradient), gradient


def is_final(g: Tensor) -> bool:
    """Whether a derivative g has values, and what is made of it is not differentiated again.

    It has none where several are taken at a time, as by ``is_grads_batched``.
    """
    batched = torch._C._functorch.is_legacy_batchedtensor(g)
    return not (torch.is_grad_enabled() or batched or torch._C._functorch.is_batchedtensor(g))


def as_single(total: float) -> Tensor:
    """A sum as a tensor of float32: inf beyond its range."""
    if abs(total) > _LARGEST:  # the quicker way raises there
        return torch.tensor(total, dtype=torch.float32, device=_CPU)
    return torch.scalar_tensor(total, dtype=torch.float32, device=_CPU)


def taken(gradient: Tensor, factor: Tensor) -> Tensor | None:
    """The gradient that was made with the loss, times a factor; None if it has to be made anew.

    What is handed out belongs to whoever gets it, and may be changed. So it can be taken once, and
    ``data`` gives it a version of its own: autograd would count each change as one of an array that
    it saved.
    """
    if factor.item() == 1.0 if factor.ndim == 0 else (factor == 1.0).all():
        return gradient.data
    # Made smaller it keeps its digits. Made larger it would lack those of entries that are below
    # the normal numbers, and a half has been rounded already.
    if gradient.dtype == torch.float32 and (factor.abs() <= 1.0).all():
        return gradient.data.mul_(factor)
    return None


def _gradient(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None,
    o: Options,
    saved: Tensor,
    g: Tensor,
    inplace: bool = False,
) -> Tensor:
    out = x.detach() if inplace else empty_like(x)
    kernel(x, target, o).backward(x, target, weight, o, saved, g, out)
    if inplace:
        increment_version(x)  # a kernel writes without autograd's knowledge
    return out


@custom_op("celib::cross_entropy", mutates_args=())
def cross_entropy(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    options: Sequence[float],
    inplace_backward: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    o = Options.of(ignore_index, options)
    return tuple(kernel(x, target, o).forward(x, target, weight, o))  # type: ignore[return-value]


@cross_entropy.register_fake
def shapes_of_rows(x: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    n, dtype = x.shape[0], torch.promote_types(x.dtype, torch.float32)
    results, saved = (x.new_empty(lines, n, dtype=dtype) for lines in (4, SAVED))
    return results, x.new_empty(n, dtype=torch.bool), saved


@custom_op("celib::cross_entropy_backward", mutates_args=())
def cross_entropy_backward(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None,
    saved: Tensor,
    g: Tensor,
    ignore_index: int,
    options: Sequence[float],
) -> Tensor:
    return _gradient(x, target, weight, Options.of(ignore_index, options), saved, g)


@cross_entropy_backward.register_fake
def _(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape)


@custom_op("celib::cross_entropy_backward_", mutates_args=("x",))
def cross_entropy_backward_(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None,
    saved: Tensor,
    g: Tensor,
    ignore_index: int,
    options: Sequence[float],
) -> None:
    o = Options.of(ignore_index, options)
    kernel(x, target, o).backward(x, target, weight, o, saved, g, x)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, target, weight, ignore_index, options, ctx.inplace = inputs
    ctx.options = Options.of(ignore_index, options)
    _, correct, saved = output
    ctx.save_for_backward(x, target, weight, saved)
    ctx.mark_non_differentiable(correct, saved)


def _backward(ctx: Any, g: Tensor, *others: Any) -> tuple[Any, ...]:
    x, target, weight, saved = ctx.saved_tensors
    o, nothing = ctx.options, (None,) * 5
    if torch.is_grad_enabled():  # the derivative is itself to be differentiated
        return *differentiable(lambda x: reference(x, target, weight, o).results, (x,), g), *nothing
    arguments = (target, weight, saved, g, o.ignore_index, o.numbers())
    if ctx.inplace:
        x = x.detach()
        cross_entropy_backward_(x, *arguments)
        return x, *nothing
    return cross_entropy_backward(x, *arguments), *nothing


cross_entropy.register_autograd(_backward, setup_context=_setup)


def differentiable(
    of: Callable[..., Tensor], inputs: Sequence[Tensor | None], g: Tensor
) -> list[Tensor | None]:
    """The derivatives of a function with respect to the inputs that want one.

    They are differentiable in turn if that is asked. The function is computed of views, because an
    input may depend on another one, as a hidden state does on tied weights, and what comes by that
    way is not a derivative of the function.
    """
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        views = [a.view_as(a) if a is not None and a.requires_grad else a for a in inputs]
        result = of(*views)
        wanted = [a for a in views if a is not None and a.requires_grad]
        found = iter(torch.autograd.grad(result, wanted, g.to(result.dtype), create_graph=again))
    return [next(found) if a is not None and a.requires_grad else None for a in inputs]
