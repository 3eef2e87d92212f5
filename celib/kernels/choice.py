"""What a kernel offers, and which one computes a call.

A kernel is a module with the functions of :class:`Kernel`. To add one, write the module, and name
it in :func:`kernel`; tests/kernels runs every kernel that it lists through the same tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol

from torch import Tensor

from celib.kernels import with_aten
from celib.kernels.family import Options, Rows


class Kernel(Protocol):
    """The rows of one loss of the family, and their gradient.

    In all functions x holds the logits before scale and softcap: shape (N, C), the entries of a row
    contiguous, float16, bfloat16, float32 or float64. ``target`` holds classes, integers of shape
    (N), or probabilities, floating-point numbers of shape (N, C). ``weight`` has shape (C), or is
    None. Nothing was checked: a class that does not exist makes its row NaN.
    """

    def can(self, x: Tensor, target: Tensor, o: Options) -> bool:
        """Whether the kernel computes this: device, dtype, kind of target, options, sizes."""
        ...

    def forward(self, x: Tensor, target: Tensor, weight: Tensor | None, o: Options) -> Rows:
        """The results of the rows, in float64 for float64 logits and else in float32."""
        ...

    def backward(
        self,
        x: Tensor,
        target: Tensor,
        weight: Tensor | None,
        o: Options,
        saved: Tensor,
        g: Tensor,
        out: Tensor,
    ) -> None:
        """The derivative with respect to x, into ``out``, which may be x itself.

        ``saved`` is that of ``forward``, shape (7, N). g holds the derivatives with respect to the
        results, shape (4, N), of any strides.
        """
        ...

    @property
    def both(self) -> Callable[..., Rows] | None:
        """``both(x, target, weight, o, g, out)``: forward, and the gradient while it is there.

        None where this saves nothing. ``g`` is the derivative with respect to the loss of each row,
        shape (N), that the caller expects; that with respect to the other results is 0.
        """
        ...

    @property
    def reduced(self) -> Callable[..., tuple[float, Tensor, bool]] | None:
        """``reduced(x, target, weight, o, factor, over, curve, out)``: the sum or mean of all.

        None where ``both`` is. ``factor``, shape (N) or None, multiplies each loss and its part of
        the divisor. ``over``, the divisor: "count", the number of targets that are not ignored;
        "weight", the sum of their weights; None for 1. ``curve`` is applied to the surprise at each
        target, a class, before its weight; None for the surprise itself. ``out`` takes the
        gradient, or is None.
        Returned are the result; what is saved, and what multiplies each loss in the result, shape
        (8, N); and whether some target may be wrong, which a check can find out then.
        """
        ...


def kernel(x: Tensor, target: Tensor, o: Options) -> Kernel:
    """Where the work is done."""
    if _chosen is not None:
        return _chosen
    for name in ("triton",) if x.is_cuda else ("numba",) if x.device.type == "cpu" else ():
        found: Kernel | None = installed(name, f"with_{name}")
        if found is not None and found.can(x, target, o):
            return found
    return with_aten


@contextmanager
def using(module: Kernel) -> Iterator[None]:
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


_chosen: Kernel | None = None


@cache
def installed(package: str, module: str) -> Any:
    """The module of celib.kernels that is written with a package, where both can be imported."""
    if find_spec(package) is None:
        return None
    try:
        return import_module(f"celib.kernels.{module}")
    except (ImportError, RuntimeError):  # numba that does not fit NumPy, or has nowhere to cache
        return None
