"""Cross-entropy as operators of torch, and which kernel computes them.

``celib::cross_entropy`` and ``celib::cross_entropy_backward`` are opaque to a compiler, which sees
their shapes; they wait for no device, and give the same bits for the same input. The backward pass
computes exp(z - M) / S again from the logits, so that nothing of their size is kept for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.library import custom_op

from celib.kernels import with_aten
from celib.kernels.family import Options, reference


def kernel(x: Tensor, target: Tensor, o: Options) -> ModuleType:
    """Where the work is done."""
    if _chosen is not None:
        return _chosen
    half_or_single = x.dtype in (torch.float16, torch.bfloat16, torch.float32)
    # A grid has 65535 blocks of 4096 classes; Triton is for GPUs from Volta on.
    if x.is_cuda and half_or_single and x.shape[-1] < 2**27 and _has("triton") and _volta(x):
        from celib.kernels import with_triton

        return with_triton
    of_cpu = x.device.type == "cpu" and half_or_single and _has("numba")
    plain = o.label_smoothing == 0 and o.softcap == 0 and o.scale == 1
    if of_cpu and plain and not target.is_floating_point():
        from celib.kernels import with_numba

        return with_numba
    return with_aten


@contextmanager
def using(module: ModuleType) -> Iterator[None]:
    """Within it that kernel does all work: for tests, for comparisons, and for reading.

    On a CPU :mod:`celib.kernels.with_triton` runs in Triton's interpreter, slowly, if the
    environment had TRITON_INTERPRET=1 when Triton was first imported.
    """
    global _chosen
    before, _chosen = _chosen, module
    try:
        yield
    finally:
        _chosen = before


_chosen: ModuleType | None = None


def _volta(x: Tensor) -> bool:
    return torch.cuda.get_device_capability(x.device) >= (7, 0)


@cache
def _has(module: str) -> bool:
    if find_spec(module) is None:
        return False
    try:
        import_module(f"celib.kernels.with_{module}")
    except (ImportError, RuntimeError):  # numba that does not fit NumPy, or has nowhere to cache
        return False
    return True


def rows(
    x: Tensor, target: Tensor, weight: Tensor | None, o: Options, inplace_backward: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss, lse, weight of the target, and whether the target is a likeliest class, of each row.

    Differentiable by x. What asks for more, a derivative by the target or a weight or a transform
    of torch.func, gets :func:`~celib.kernels.family.reference`, which keeps more arrays.

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
        return reference(x, target, weight, o)
    loss, lse, correct, numbers = cross_entropy(x, target, weight, *o, inplace_backward)
    return loss, lse, numbers[4], correct


def needs_reference(target: Tensor, weight: Tensor | None) -> bool:
    """Whether derivatives are asked for that the operators do not have."""
    others = [a for a in (target, weight) if a is not None]
    wanted = torch.is_grad_enabled() and any(a.requires_grad for a in others)
    return wanted or torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


@custom_op("celib::cross_entropy", mutates_args=())
def cross_entropy(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    z_loss: float,
    softcap: float,
    scale: float,
    inplace_backward: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    o = Options(ignore_index, label_smoothing, z_loss, softcap, scale)
    return kernel(x, target, o).forward(x, target, weight, o)  # type: ignore[no-any-return]


@cross_entropy.register_fake
def shapes_of_rows(x: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n, dtype = x.shape[0], torch.promote_types(x.dtype, torch.float32)
    loss = x.new_empty(n, dtype=dtype)
    correct = x.new_empty(n, dtype=torch.bool)
    return loss, torch.empty_like(loss), correct, x.new_empty(6, n, dtype=dtype)


@custom_op("celib::cross_entropy_backward", mutates_args=())
def cross_entropy_backward(
    x: Tensor,
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
) -> Tensor:
    o = Options(ignore_index, label_smoothing, z_loss, softcap, scale)
    out = with_aten.empty_like(x)
    kernel(x, target, o).backward(x, target, weight, o, numbers, g_loss, g_lse, out)
    return out


@cross_entropy_backward.register_fake
def _(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape)


@custom_op("celib::cross_entropy_backward_", mutates_args=("x",))
def cross_entropy_backward_(
    x: Tensor,
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
) -> None:
    o = Options(ignore_index, label_smoothing, z_loss, softcap, scale)
    kernel(x, target, o).backward(x, target, weight, o, numbers, g_loss, g_lse, x)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, target, weight, *options, ctx.inplace = inputs
    ctx.options = Options(*options)
    ctx.save_for_backward(x, target, weight, output[3])
    ctx.mark_non_differentiable(output[2], output[3])


def _backward(ctx: Any, g_loss: Tensor, g_lse: Tensor, *others: Any) -> tuple[Any, ...]:
    x, target, weight, numbers = ctx.saved_tensors
    nothing = (None,) * (2 + len(ctx.options) + 1)
    if torch.is_grad_enabled():  # the derivative is itself to be differentiated
        loss, lse, _, _ = reference(x, target, weight, ctx.options)
        return *differentiable((loss, lse), (x,), (g_loss, g_lse)), *nothing
    arguments = (target, weight, numbers, g_loss, g_lse, *ctx.options)
    if ctx.inplace:
        x = x.detach()
        cross_entropy_backward_(x, *arguments)
        return x, *nothing
    return cross_entropy_backward(x, *arguments), *nothing


cross_entropy.register_autograd(_backward, setup_context=_setup)


def differentiable(
    outputs: tuple[Tensor, ...], inputs: tuple[Tensor | None, ...], g: tuple[Tensor, ...]
) -> list[Tensor | None]:
    """The derivatives by the inputs that want one, themselves differentiable."""
    wanted = [a for a in inputs if a is not None and a.requires_grad]
    found = iter(torch.autograd.grad(outputs, wanted, g, create_graph=True))
    return [next(found) if a is not None and a.requires_grad else None for a in inputs]
