"""The losses of a sigmoid as one function of autograd, for eager calls on a CPU.

The loss and its gradient are made in one pass by :mod:`celib.kernels.binary_numba`, where numba is
installed; nothing else of the size of the logits is kept for the backward pass. What the pass does
not know is up to the caller, who has the losses as operations of torch too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad
from torch.autograd.function import _SingleLevelFunction

from celib.kernels.choice import installed
from celib.kernels.memory import empty_like
from celib.kernels.operators import as_single, differentiable

_CPU = torch.device("cpu")
_FEW = 2**14  # numbers, whose memory an allocator has at hand


class Options(NamedTuple):
    """What is computed, beside its arrays."""

    reduction: str
    by_row: bool = False  # the mean over the last axis comes first
    focal: bool = False
    alpha: float = -1.0
    gamma: float = 0.0


class Given(NamedTuple):
    """The arrays of a loss, as they came."""

    x: Tensor
    y: Tensor
    weight: Tensor | None = None
    pos_weight: Tensor | None = None
    sample_weight: Tensor | None = None


Reference = Callable[[Given, Options], Tensor]


def loss(given: Given, o: Options, checked: bool, reference: Reference) -> Tensor | None:
    """The loss of the options, in one pass with its gradient.

    None where there is no such pass: for other layouts, dtypes and devices, for transforms and
    tracers, for derivatives with respect to a target or a weight; and, if it is ``checked``, for
    input that may have to be refused, because a target is not in [0, 1], or a weight is not finite
    or below 0.

    Args:
        given: the arrays, or whatever was passed in their place. The logits are of float32,
            bfloat16 or float16, any shape; the targets of the same shape, and the weights of a
            shape that broadcasts to it.
        o: the options.
        checked: whether the values of the targets and the weights are checked.
        reference: the loss by operations that autograd can follow, for derivatives of the
            derivative.
    """
    if torch.compiler.is_compiling():
        return None
    loops = installed("numba", "binary_numba")
    x, y, weight, pos_weight, sample_weight = given
    if loops is None or not (_is_plain(x) and _is_plain(y)) or _is_watched():
        return None
    loop = loops.of(x.dtype, y.dtype)
    size, shape = x.numel(), x.shape
    if loop is None or shape != y.shape or size == 0 or (o.by_row and not shape):
        return None
    grad = torch.is_grad_enabled()
    if grad and y.requires_grad:
        return None
    for w in (weight, pos_weight, sample_weight):
        if w is not None and (not _is_plain(w) or (grad and w.requires_grad)):
            return None
    # What the sum of all losses is multiplied by, or for "none" the loss itself.
    share = 1.0
    if o.reduction == "mean":
        total = float(size)
        if sample_weight is not None:
            total = sample_weight.sum(dtype=torch.float64).item()
            total *= shape[-1] if o.by_row else 1
            if not 0.0 < total < math.inf:
                return None  # a mean over nothing
        share = 1.0 / total
    elif o.by_row:
        share = 1.0 / shape[-1]
    gradient = None
    if grad and x.requires_grad:
        small = size < _FEW and x.is_contiguous()
        gradient = torch.empty_like(x) if small else empty_like(x)
    result = None
    if o.reduction == "none":
        result = torch.empty(shape[:-1] if o.by_row else shape, dtype=torch.float32, device=_CPU)
    found = loops.run(loop, given, o, share, gradient, result, None, checked)
    if found is None:
        return None
    if result is None:
        result = as_single(found * share)
    if gradient is None:
        return result
    return _loss(x, ((o, share, reference), given, gradient, result))


# Questions to torch's dispatcher, which knows in one number what takes part in a call: to ask for
# each thing by itself takes longer than the loss of a few hundred logits.


def _bits(*names: str) -> int:
    found = 0
    for name in names:
        found |= torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, name)).raw_repr()
    return found


# Of a dense tensor on the CPU, and of one made in inference mode: without the keys of negated
# views, sparse, nested and fake tensors, and wrappers of torch.func.
_DENSE = _bits("CPU", "ADInplaceOrView", "AutogradCPU", "AutocastCPU"), _bits("CPU", "AutocastCPU")
# Of a thread. Modes such as that of fake tensors, the transforms of torch.func and torch.jit.trace
# add keys of their own.
_USUAL = _bits("BackendSelect", "ADInplaceOrView")
_keys, _included = torch._C._dispatch_keys, torch._C._dispatch_tls_local_include_set


def _is_plain(a: Tensor) -> bool:
    """Whether the memory of a tensor holds its values, as a loop reads them."""
    kind = type(a)
    return (kind is Tensor or kind is torch.nn.Parameter) and _keys(a).raw_repr() in _DENSE


def _is_watched() -> bool:
    """Whether a transform, a tracer or forward mode takes part, so that no loop can be called."""
    return bool(_included().raw_repr() & ~_USUAL) or forward_ad._current_level >= 0


class _Loss(Function):
    """A loss that is there already, with its gradient for a derivative of 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, found: tuple[Any, ...]) -> Tensor:
        result: Tensor
        ctx.options, given, ctx.gradient, result = found
        ctx.save_for_backward(*given)
        return result

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, None]:
        # What is handed out belongs to whoever gets it, and may be changed: so it is handed out
        # once.
        gradient, ctx.gradient = ctx.gradient, None
        plain = _is_plain(g)
        if gradient is not None and plain and not torch.is_grad_enabled():
            factor = _number(g)
            if factor == 1.0:
                return gradient, None
            # Made smaller it keeps its digits. Made larger it would lack those of entries that are
            # below the normal numbers, and a half has been rounded already.
            if factor is not None and abs(factor) <= 1.0 and gradient.dtype is torch.float32:
                return gradient.mul_(factor), None
        given, (o, share, reference) = Given(*ctx.saved_tensors), ctx.options
        if torch.is_grad_enabled():  # the derivative is itself to be differentiated
            found = differentiable(lambda x: reference(given._replace(x=x), o), (given.x,), g)
            return found[0], None
        if not plain:  # of several derivatives at a time, by torch.func
            one = _gradient(given, o, share, None, None)
            g = g.unsqueeze(-1) if o.by_row and g.ndim else g
            return (g * one).to(one.dtype), None
        factor = _number(g)
        if factor is None:
            return _gradient(given, o, share, g, gradient), None
        return _gradient(given, o, factor * share, None, gradient), None


# ``Function.apply`` looks after transforms before it calls this, and there are none here.
_loss: Callable[..., Tensor] = super(_SingleLevelFunction, _Loss).apply


def _number(g: Tensor) -> float | None:
    """What a derivative is for all results alike; None if it may be several numbers."""
    if not g.ndim:
        return g.item()
    return None if any(g.stride()) and g.numel() > 1 else g[(0,) * g.ndim].item()


def _gradient(
    given: Given, o: Options, share: float, g: Tensor | None, out: Tensor | None
) -> Tensor:
    """The gradient for a derivative g with respect to each result, or 1, times ``share``."""
    out = empty_like(given.x) if out is None else out
    loops = installed("numba", "binary_numba")
    loop = loops.of(given.x.dtype, given.y.dtype)
    loops.run(loop, given, o, share, out, None, g, False)
    return out
