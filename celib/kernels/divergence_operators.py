"""The divergences of logits as one function of autograd, on a CPU, with the gradient made at once.

What the loop of :mod:`celib.kernels.divergence_numba` cannot do is left to the operations of
:mod:`celib.kernels.divergence`, and so are derivatives of derivatives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from celib.derivatives import times
from celib.kernels.choice import installed
from celib.kernels.divergence import FORWARD, MIXED, divergence
from celib.kernels.memory import empty_like
from celib.kernels.operators import (
    as_single,
    differentiable,
    is_final,
    is_traced,
    is_transformed,
    taken,
)

# Beyond these, 1 / T or what it is multiplied by might overflow.
_LEAST, _MOST = 2.0**-100, 2.0**100
_PLAIN = Tensor, torch.nn.Parameter


def fuses(z: Tensor, v: Tensor, temperature: float | Tensor) -> bool:
    """Whether the loop computes the divergences of these logits, and the derivatives asked for."""
    if is_traced(z) or type(v) not in _PLAIN or is_transformed():
        return False
    if isinstance(temperature, Tensor) and type(temperature) not in _PLAIN:
        return False
    return loops(z, v, temperature) is not None


def loops(z: Tensor, v: Tensor, temperature: float | Tensor) -> Any:
    """The module of the loop, where it is installed and computes this."""
    if z.device.type != "cpu" or (found := _loop()) is None:
        return None
    if z.dtype not in found.BITS or v.dtype not in found.BITS:
        return None
    return found if _LEAST <= as_number(temperature) <= _MOST else None


def _loop() -> Any:
    return installed("numba", "divergence_numba")


def as_number(temperature: float | Tensor) -> float:
    return temperature.item() if isinstance(temperature, Tensor) else temperature


def reference(
    z: Tensor,
    v: Tensor,
    temperature: float | Tensor,
    kind: str,
    beta: float,
    counts: Tensor | None,
) -> Tensor:
    """T^2 times the divergences, by operations that keep more arrays; 0 for rows that do not count.

    Args:
        z, v: the logits of the student and of the teacher, shape (..., C).
        temperature: T, a number or a tensor of one.
        kind, beta: as for :func:`~celib.kernels.divergence.divergence`.
        counts: booleans, shape (...), or None.
    """
    dtype = torch.promote_types(torch.promote_types(z.dtype, v.dtype), torch.float32)
    if isinstance(temperature, Tensor):
        t = temperature.to(dtype)
    else:
        t = torch.full((), temperature, dtype=dtype, device=z.device)
    z, v = z.to(dtype), v.to(dtype)
    if counts is not None:
        z, v = (torch.where(counts[..., None], a, 0.0) for a in (z, v))
    loss: Tensor = t**2 * divergence(z, v, t, kind, beta)
    return loss if counts is None else torch.where(counts, loss, 0.0)


def fused(
    z: Tensor,
    v: Tensor,
    temperature: float | Tensor,
    kind: str,
    beta: float,
    counts: Tensor | None,
    factor: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """As :func:`reference`, where it :func:`fuses`, for logits of shape (N, C) and in float32.

    Args:
        factor: of the losses, shape (N), or None; without a derivative.
        scale: None for the losses themselves, shape (N); or a number, for the sum of their products
            with the factor, times this number.
    """
    if z.dtype != v.dtype:
        z, v = z.float(), v.float()
    wanted = False, False, False
    if torch.is_grad_enabled():
        of_t = isinstance(temperature, Tensor) and temperature.requires_grad
        wanted = z.requires_grad, v.requires_grad, of_t
    factor = None if factor is None else factor.detach().double()
    return _fused(z, v, temperature, kind, beta, counts, factor, scale, wanted)


class _Fused(Function):
    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,
        v: Tensor,
        temperature: float | Tensor,
        kind: str,
        beta: float,
        counts: Tensor | None,
        factor: Tensor | None,
        scale: float | None,
        wanted: tuple[bool, bool, bool],
    ) -> Tensor:
        to_z = empty_like(z) if wanted[0] else None
        to_v = empty_like(v) if wanted[1] else None
        to_t = z.new_empty(len(z), dtype=torch.float64) if wanted[2] else None
        loss = run(
            z, v, as_number(temperature), kind, beta, counts, factor, scale, to_z, to_v, to_t
        )
        ctx.kind, ctx.beta, ctx.scale, ctx.spent = kind, beta, scale, False
        ctx.temperature = temperature if not isinstance(temperature, Tensor) else None
        t = temperature if isinstance(temperature, Tensor) else None
        ctx.save_for_backward(z, v, t, counts, factor, to_z, to_v, to_t)
        if scale is None:
            return loss.float()
        loss = loss if factor is None else times(factor, loss)
        total = scale * loss.sum().item()
        return as_single(total)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        z, v, t, counts, factor, to_z, to_v, to_t = ctx.saved_tensors
        temperature, nothing = ctx.temperature if t is None else t, (None,) * 6
        if not is_final(g):

            def result(z: Tensor, v: Tensor, t: Tensor | None) -> Tensor:
                at = temperature if t is None else t
                loss = reference(z, v, at, ctx.kind, ctx.beta, counts)
                if ctx.scale is not None:
                    each = loss if factor is None else times(factor.to(loss.dtype), loss)
                    loss = each.sum() * ctx.scale
                return loss

            return *differentiable(result, (z, v, t), g), *nothing
        found: list[Tensor | None] = [None, None]
        if not ctx.spent:
            ctx.spent = True
            if ctx.scale is not None and g.item() == 1.0:  # as nearly always, and quickly
                found = [None if a is None else a.data for a in (to_z, to_v)]
            else:
                each = g if ctx.scale is not None else g[:, None]
                found = [None if a is None else taken(a, each) for a in (to_z, to_v)]
        missing = [a is not None and b is None for a, b in zip((to_z, to_v), found, strict=True)]
        if any(missing):
            anew = [
                empty_like(a) if lacks else None for a, lacks in zip((z, v), missing, strict=True)
            ]
            of_rows = g.double() if ctx.scale is None else g.double().expand(len(z))
            of_rows = of_rows if factor is None else of_rows * factor
            options = as_number(temperature), ctx.kind, ctx.beta
            run(z, v, *options, counts, of_rows, ctx.scale, anew[0], anew[1], None)
            found = [b if a is None else a for a, b in zip(anew, found, strict=True)]
        of_t = None
        if to_t is not None:
            of_rows = g.double() if factor is None else times(factor, g.double())
            of_t = (of_rows * to_t).sum() * (1.0 if ctx.scale is None else ctx.scale)
            of_t = of_t.to(t.dtype)
        return *found, of_t, *nothing


_fused: Callable[..., Tensor] = _Fused.apply


def run(
    z: Tensor,
    v: Tensor,
    temperature: float,
    kind: str,
    beta: float,
    counts: Tensor | None,
    factor: Tensor | None,
    scale: float | None,
    to_z: Tensor | None,
    to_v: Tensor | None,
    to_t: Tensor | None,
) -> Tensor:
    """The loop for a student and its teacher, of one dtype: the losses, float64, shape (N)."""
    (a, out_a), (b, out_b) = (v, to_v), (z, to_z)
    if kind not in (FORWARD, MIXED):
        (a, out_a), (b, out_b) = (z, to_z), (v, to_v)
    beta, scale = beta if kind == MIXED else 0.0, 1.0 if scale is None else scale
    loss: Tensor = _loop().run(a, b, temperature, beta, counts, factor, scale, out_a, out_b, to_t)
    return loss
