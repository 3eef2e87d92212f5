"""Functions whose derivatives of every order are written down, in reverse and in forward mode.

Classes are along the last axis, and nothing is checked. Each function takes its derivative from its
inputs, by functions of the same kind, so that this derivative can be differentiated in turn. What
autograd makes of the operations inside would cancel, or be 0 times infinity.
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
    tangent: Callable[..., Any]

    @classmethod
    def plain(cls, *inputs: Any) -> Any:
        """The value, by operations that autograd can follow."""
        return cls.forward(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        tensors = [a for a in inputs if isinstance(a, Tensor)]
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)
        ctx.constants = [a for a in inputs if not isinstance(a, Tensor)]


_CONTEXTS_APART = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 6)


def applied(function: type[Written]) -> Callable[..., Any]:
    """The function as it is called, with its forward derivative, ``tangent``, where it can be used.

    torch's compiler does not trace a Function that has a ``jvp``, and needs none; nor did it, up to
    torch 2.5, one whose context is set up apart. And the ``jvp`` of a Function is not
    differentiated again in forward mode: torch would return 0 without a word.
    """
    both_ways: Any = type(function.__name__, (function,), {"jvp": staticmethod(function.tangent)})

    def forward(ctx: Any, *inputs: Any) -> Any:
        function.setup_context(ctx, inputs, None)
        return function.forward(*inputs)

    parts = {"forward": staticmethod(forward), "backward": staticmethod(function.backward)}
    whole: Any = type(function.__name__, (Function,), parts)
    traced: Any = function if _CONTEXTS_APART else whole

    def call(*inputs: Any) -> Any:
        if torch.compiler.is_compiling():
            # Of a Function under vmap the compiler makes nothing: there its operations have to do.
            if torch._C._are_functorch_transforms_active():
                return function.plain(*inputs)
            return traced.apply(*inputs)
        if _forward_levels() > 1:
            raise NotImplementedError(
                "a forward-mode derivative of a forward-mode derivative: expected jacfwd(jacrev(f))"
            )
        return both_ways.apply(*inputs)

    return call


def _forward_levels() -> int:
    """How many transforms of torch.func that are under way differentiate in forward mode."""
    functorch = torch._C._functorch
    stack = functorch.get_interpreter_stack() or []
    return sum(level.key() == functorch.TransformType.Jvp for level in stack)


class _Surprise(Written):
    """Minus the log-softmax."""

    @classmethod
    def plain(cls, z: Tensor) -> Tensor:
        out = cls.forward(z)
        return torch.where(z == -math.inf, out.detach(), out)

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

    @staticmethod
    def tangent(ctx: Any, t: Tensor) -> Tensor:
        # sum_k p_k t_k - t_j, with the same care.
        (z,) = ctx.saved_tensors
        p, rest = softmax_of(z)
        t = torch.where(z == -math.inf, 0.0, t)
        return sum_of_others(p * t, z.argmax(-1, keepdim=True)) - t * rest


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

    @staticmethod
    def tangent(ctx: Any, t: Tensor) -> tuple[Tensor, Tensor]:
        # The Jacobian is symmetric.
        (z,) = ctx.saved_tensors
        p, rest = softmax_of(z)
        t = torch.where(z == -math.inf, 0.0, t)
        change = p * (t * rest - sum_of_others(t * p, z.argmax(-1, keepdim=True)))
        return change, -change


class _Softplus(Written):
    """log(1 + e^x)."""

    @classmethod
    def plain(cls, x: Tensor) -> Tensor:
        return torch.logaddexp(x, torch.zeros_like(x))  # the parts below have no slope at 0

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.log1p(torch.exp(-x.abs())) + x.clamp(min=0.0)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return g * sigmoid(x)

    @staticmethod
    def tangent(ctx: Any, t: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return t * sigmoid(x)


class _Sigmoid(Written):
    """torch's own; but the derivative that torch takes, s (1 - s), is 0 where s rounds to 1."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.sigmoid(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return g * (sigmoid(x) * sigmoid(-x))

    @staticmethod
    def tangent(ctx: Any, t: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return t * (sigmoid(x) * sigmoid(-x))


class _OneMinusExp(Written):
    """1 - e^-x; torch's derivative of expm1, one more than the value, is 0 for x > 37."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return -torch.expm1(-x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return g * torch.exp(-x)

    @staticmethod
    def tangent(ctx: Any, t: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return t * torch.exp(-x)


surprise_of: Callable[[Tensor], Tensor] = applied(_Surprise)
softmax_of: Callable[[Tensor], tuple[Tensor, Tensor]] = applied(_Softmax)
softplus: Callable[[Tensor], Tensor] = applied(_Softplus)
sigmoid: Callable[[Tensor], Tensor] = applied(_Sigmoid)
one_minus_exp: Callable[[Tensor], Tensor] = applied(_OneMinusExp)


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
    if isinstance(factor, Tensor):
        return factor * torch.where((value == math.inf) & (factor == 0), 0.0, value)
    return factor * (torch.where(value == math.inf, 0.0, value) if factor == 0 else value)
