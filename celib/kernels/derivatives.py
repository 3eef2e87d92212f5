"""Functions whose derivatives of every order are written down.

Classes are along the last axis, and nothing is checked. Each takes its derivative from its inputs,
by functions of the same kind: what autograd makes of the operations inside would cancel, or be
0 times infinity.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


class Written(Function):
    """A function that keeps its inputs for the derivative, and nothing else."""

    generate_vmap_rule = True

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*(a for a in inputs if isinstance(a, Tensor)))
        ctx.constants = [a for a in inputs if not isinstance(a, Tensor)]


class _Surprise(Written):
    """Minus the log-softmax."""

    @staticmethod
    def forward(z: Tensor) -> Tensor:
        largest, at, _, others = split(z)
        return (largest - z).scatter(-1, at, 0.0).add_(torch.log1p(others))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        # p_j sum_k g_k - g_j, without the cancellation: p_j (sum without g_j) - g_j (1 - p_j).
        (z,) = ctx.saved_tensors
        p, rest = softmax_of(z)
        at = g.abs().argmax(-1, keepdim=True)
        out = p * sum_of_others(g, at) - g * rest
        return torch.where(z == -math.inf, 0.0, out)


class _Softmax(Written):
    """The softmax p, and 1 - p."""

    @staticmethod
    def forward(z: Tensor) -> tuple[Tensor, Tensor]:
        _, at, terms, others = split(z)
        p = terms.scatter(-1, at, 1.0).div_(1.0 + others)
        return p, (1.0 - p).scatter(-1, at, others / (1.0 + others))

    @staticmethod
    def backward(ctx: Any, g_p: Tensor, g_rest: Tensor) -> Tensor:
        # p_j (g_j - sum_k g_k p_k), again without p_j g_j on both sides.
        (z,) = ctx.saved_tensors
        p, rest = softmax_of(z)
        g = g_p - g_rest
        return p * (g * rest - sum_of_others(g * p, z.argmax(-1, keepdim=True)))


class _Softplus(Written):
    """log(1 + e^x)."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.log1p(torch.exp(-x.abs())) + x.clamp(min=0.0)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return g * sigmoid(x)


class _Sigmoid(Written):
    """torch's own; but the derivative that torch takes, s (1 - s), is 0 where s rounds to 1."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.sigmoid(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return g * (sigmoid(x) * sigmoid(-x))


class _OneMinusExp(Written):
    """1 - e^-x; torch's derivative of expm1, one more than the value, is 0 for x > 37."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return -torch.expm1(-x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return g * torch.exp(-x)


surprise_of: Callable[[Tensor], Tensor] = _Surprise.apply
softmax_of: Callable[[Tensor], tuple[Tensor, Tensor]] = _Softmax.apply
softplus: Callable[[Tensor], Tensor] = _Softplus.apply
sigmoid: Callable[[Tensor], Tensor] = _Sigmoid.apply
one_minus_exp: Callable[[Tensor], Tensor] = _OneMinusExp.apply


def split(z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The largest entry, its place, the others' exponentials relative to it, and their sum."""
    largest, at = z.max(-1, keepdim=True)
    terms = (z - largest).exp_().scatter(-1, at, 0.0)
    others = terms.sum(-1, keepdim=True)
    return largest, at, terms, torch.where(largest > -math.inf, others, math.nan)


def sum_of_others(a: Tensor, at: Tensor) -> Tensor:
    """For each entry the sum of all others of its row; ``at`` is the place of a large one."""
    others = a.scatter(-1, at, 0.0).sum(-1, keepdim=True)
    return ((others - a) + a.gather(-1, at)).scatter(-1, at, others)


def times(factor: Tensor | float, value: Tensor) -> Tensor:
    """The product, in which 0 inf = 0."""
    return factor * torch.where((value == math.inf) & (factor == 0), 0.0, value)
