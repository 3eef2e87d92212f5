"""A batch as it was given, and what several rules ask of it, computed once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from celib.arguments import arrays
from celib.arguments.errors import refuse_dtype

# How far a loss of float32 may be from the same loss in float64, relative and absolute. The sum of
# a million terms in float32 misses by a few 1e-6, and torch rounds a loss of 1e-8 to 0.
RELATIVE, ABSOLUTE = 1.5e-5, 1e-6

# Above this relative tolerance a loss does not tell one explanation from another by its value.
SHARP = 3e-4


def tensor(name: str, given: Any) -> Tensor:
    """An argument as a tensor on the CPU, off its graph. The values are not copied."""
    try:
        found = arrays.values(name, given)
    except (ValueError, TypeError):
        raise
    except Exception as error:  # an object of the reader's own may raise anything
        raise ValueError(f"{name} raises {type(error).__name__}: expected numbers") from error
    if not isinstance(found, Tensor):
        found = arrays.to_tensor(name, found, "cpu")
    if found.is_complex() or found.is_quantized:
        refuse_dtype(name, found.dtype)
    if found.device.type != "meta":
        found = found.detach().cpu()
    if not arrays.readable(found):  # meta, fake, or one of many under vmap
        raise ValueError(f"{name} is a tensor that holds no values here: expected numbers")
    return cast(Tensor, found)


@contextmanager
def on_the_cpu() -> Iterator[None]:
    """Make tensors there, also in a program that has set another device as the default."""
    elsewhere = torch.get_default_device().type != "cpu"
    with torch.device("cpu") if elsewhere else nullcontext():
        yield


def distinct(a: Tensor) -> list[int]:
    """The different values of integers, in order."""
    return [int(n) for n in torch.unique(a).tolist()]


def spreads(a: Tensor, shape: Sequence[int]) -> bool:
    """Whether it has this shape, but for axes of length 1."""
    return a.ndim == len(shape) and all(n in (1, m) for n, m in zip(a.shape, shape, strict=True))


@dataclass
class Batch:
    """The arguments of ``diagnose``, as tensors on the CPU.

    A *row* is what one target is about: the logits of all classes, or with ``binary`` one logit.
    There are n rows, in the order of the targets.
    """

    logits: Tensor  #: in a floating-point dtype
    target: Tensor
    loss_given: Tensor | None
    gradient: Tensor | None
    probabilities: Tensor | None
    weight: Tensor | None
    mask: Tensor | None
    ignore_index: int
    reduction: str
    label_smoothing: float
    binary: bool
    axis: int
    of_torch: bool  #: whether the targets came as a tensor
    #: Half a unit of the last digit of losses that were rounded, such as to 1.4612; else 0.
    typed: float

    def __post_init__(self) -> None:
        # Losses of all targets speak for themselves; of one number it is not known who reduced it.
        if self.loss_given is not None and self.loss_given.numel() == self.n > 1:
            self.reduction = "none"
        elif self.reduction == "none":
            self.reduction = "mean"
        # A mask of rows may have kept the axis of the classes.
        if self.mask is not None and not self.binary and self.mask.ndim == self.logits.ndim > 0:
            of_rows = self.mask.shape[self.axis] == 1 < self.classes
            self.mask = self.mask.squeeze(self.axis) if of_rows else self.mask
        # A single number spreads over a single number, and nothing comes of it.
        if self.binary and self.logits.numel() == self.target.numel() == 1:
            self.target = self.target.reshape(self.logits.shape)

    # Shapes.

    @cached_property
    def classes(self) -> int:
        """C, the number of classes; 2 if they are binary."""
        return 2 if self.binary else self.logits.shape[self.axis]

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The shape of the targets if they are classes; of binary targets that of the logits."""
        whole = tuple(self.logits.shape)
        if self.binary:
            return whole
        return tuple(n for i, n in enumerate(whole) if i != self.axis)

    @cached_property
    def soft(self) -> bool:
        """Whether the targets are distributions over the classes."""
        same = self.target.shape == self.logits.shape
        return not self.binary and same and self.target.is_floating_point()

    @cached_property
    def fits(self) -> bool:
        """Whether logits and targets belong together by their shapes."""
        return self.soft or tuple(self.target.shape) == self.shape

    @cached_property
    def n(self) -> int:
        return math.prod(self.shape)

    def by_rows(self, a: Tensor) -> Tensor:
        """Something of the shape of the logits, as (n, C), or (n) if binary."""
        if self.binary:
            return a.reshape(-1)
        return a.movedim(self.axis, -1).reshape(-1, self.classes)

    def any_of(self, flags: Tensor) -> Tensor:
        """Which rows have a flag, (n), of flags as ``by_rows`` has them."""
        return flags if self.binary else flags.any(-1)

    # Masks.

    @cached_property
    def mask_kind(self) -> str | None:
        """What a mask is about: "targets", "classes", "either" or "odd"; None if there is none.

        A mask of shape (C) beside N = C targets may mean either, and is left alone. One that is odd
        does not hold booleans, or fits neither.
        """
        if self.mask is None:
            return None
        if not bool(((self.mask == 0) | (self.mask == 1)).all()):
            return "odd"
        of_targets = spreads(self.mask, self.shape)
        of_classes = not self.binary and spreads(self.mask, self.logits.shape)
        if not self.binary and tuple(self.mask.shape) == (self.classes,):
            return "either" if of_targets else "classes"
        return "targets" if of_targets else "classes" if of_classes else "odd"

    @cached_property
    def allowed(self) -> Tensor | None:
        """Which classes a mask leaves to each row, (n, C)."""
        if self.mask_kind != "classes":
            return None
        mask = cast(Tensor, self.mask) != 0
        if tuple(mask.shape) == (self.classes,):
            return mask.expand(self.n, -1)
        return self.by_rows(mask.expand(self.logits.shape))

    @cached_property
    def ignored(self) -> Tensor:
        """Which targets are ignored by their value, (n). BCE of torch has no ``ignore_index``."""
        if self.soft or self.binary:
            return torch.zeros(self.n, dtype=torch.bool)
        return self.target.reshape(-1) == self.ignore_index

    @cached_property
    def kept(self) -> Tensor:
        """Which targets take part, (n)."""
        if self.mask_kind != "targets":
            return ~self.ignored
        return ~self.ignored & (cast(Tensor, self.mask).expand(self.shape).reshape(-1) != 0)

    # Values.

    @cached_property
    def z(self) -> Tensor:
        """The logits in float64, (n, C) or (n); -inf in classes that a mask leaves out."""
        z = self.by_rows(self.logits).double()
        return z if self.allowed is None else z.masked_fill(~self.allowed, -math.inf)

    @cached_property
    def top(self) -> Tensor:
        """The largest logit of each row, (n)."""
        return self.z if self.binary else self.z.amax(-1)

    @cached_property
    def needed(self) -> Tensor:
        """The logits of classes that the target of their row gives a share, (n, .), or NaN."""
        if self.soft:
            return self.z.masked_fill(~(self.q(0.0) > 0), math.nan)
        return self.z.gather(1, self._y_inside[:, None])

    @cached_property
    def y(self) -> Tensor:
        """The classes, (n), as integers."""
        return self.target.reshape(-1).long()

    @cached_property
    def _y_inside(self) -> Tensor:
        """The same, and 0 in rows that do not take part, which may have any label."""
        return torch.where(self.kept & (self.y >= 0) & (self.y < self.classes), self.y, 0)

    def q(self, smoothing: float) -> Tensor:
        """The targets as distributions, (n, C), smoothed over the classes that are not masked."""
        if self.binary:
            y = self.target.reshape(-1).double()
            return torch.stack([1 - y, y], -1) * (1 - smoothing) + smoothing / 2
        if self.soft:
            q = self.by_rows(self.target).double()
        else:
            q = torch.nn.functional.one_hot(self._y_inside, self.classes).double()
        if not smoothing:
            return q
        open_ = (self.z > -math.inf).double()
        return (1 - smoothing) * q + smoothing * open_ / open_.sum(-1, keepdim=True)

    def log_probs(self, z: Tensor) -> Tensor:
        """From logits as in ``z`` to the logarithms of probabilities, (n, C)."""
        if self.binary:
            z = torch.stack([torch.zeros_like(z), z], -1)
        return z.log_softmax(-1)

    @cached_property
    def log_p(self) -> Tensor:
        """The logarithms of the probabilities that the logits stand for, (n, C)."""
        return self.log_probs(self.z)

    def probs(self, z: Tensor) -> Tensor:
        """From logits as in ``z`` to probabilities of the same shape."""
        return z.sigmoid() if self.binary else z.softmax(-1)

    # Losses.

    @cached_property
    def factor(self) -> Tensor | None:
        """Class weights as (C), or weights of binary targets as (n, 1); None without."""
        if self.weight is None:
            return None
        w = self.weight.double()
        return w.expand(self.shape).reshape(-1, 1) if self.binary else w

    def each(self, log_probs: Tensor, smoothing: float | None = None) -> Tensor:
        """The losses of all rows, (n), with weights, from the logarithms of probabilities."""
        smoothing = self.label_smoothing if smoothing is None else smoothing
        if not (smoothing or self.soft or self.binary):
            return self._each_of_classes(log_probs)
        q = self.q(smoothing)
        q = q if self.factor is None else q * self.factor
        # A class that no target needs adds nothing, even if its probability is 0.
        return -torch.where(q == 0, 0.0, q * log_probs).sum(-1)

    def _each_of_classes(self, log_probs: Tensor) -> Tensor:
        """The same, where only the class of the target counts: without a table of them."""
        y = self._y_inside
        found = -log_probs.gather(1, y[:, None])[:, 0]
        if self.factor is None:
            return found
        factor = self.factor[y]
        return torch.where(factor == 0, 0.0, factor * found)

    def reduced(self, each: Tensor, kept: Tensor | None = None) -> list[float]:
        """What the loss of all may be: torch's mean, and that over the count of targets."""
        kept = self.kept if kept is None else kept
        total = each[kept].sum().item()
        if self.reduction != "mean":
            return [total]
        count = int(kept.sum())
        if self.factor is None or self.binary or self.soft:
            return [total / count] if count else [math.nan]
        divisor = self.factor[self.y[kept]].sum().item()
        return [total / d if d else math.nan for d in (divisor, count)]

    @cached_property
    def right(self) -> list[float]:
        """The values that a right loss may have."""
        return self.reduced(self.each(self.log_p))

    @cached_property
    def loss(self) -> float | None:
        """The loss that was given; of several, one for each target, their sum."""
        if self.loss_given is None or self.loss_given.numel() not in (1, self.n):
            return None
        return self.loss_given.double().sum().item()

    @cached_property
    def rtol(self) -> float:
        """How far the loss that was given may be from the value it stands for."""
        loss = self.loss
        if loss is None or not math.isfinite(loss) or loss == 0:
            return RELATIVE
        for dtype in {a.dtype for a in (self.loss_given, self.logits) if a is not None}:
            half = dtype in (torch.float16, torch.bfloat16)
            if half and torch.tensor(loss, dtype=dtype).double().item() == loss:
                return torch.finfo(dtype).eps
        count = 1 if self.loss_given is None else self.loss_given.numel()
        return max(RELATIVE, self.typed * count / abs(loss))

    @cached_property
    def atol(self) -> float:
        """The same as an absolute error: a log-sum-exp is as large as the logits, and rounded."""
        top = self.top[self.kept & self.top.isfinite()]
        offset = 0.0 if self.binary or not len(top) else top.abs().max().item()
        return ABSOLUTE + offset * torch.finfo(torch.float32).eps

    def is_loss(self, value: float) -> bool:
        """Whether the loss that was given is this value, to its own accuracy."""
        if self.loss is None or not math.isfinite(value):
            return False
        return abs(self.loss - value) <= self.atol + self.rtol * abs(value)

    @cached_property
    def rounded_to_0(self) -> bool:
        """Whether losses of 0 may be numbers that somebody rounded to a digit or more."""
        if self.reduction != "none":
            return self.right[0] <= self.typed
        return bool((self.each(self.log_p)[self.kept] <= self.typed).all())

    @cached_property
    def explained(self) -> bool:
        """Whether the loss that was given is that of the batch."""
        return any(map(self.is_loss, self.right))

    @cached_property
    def apart(self) -> bool:
        """Whether the loss that was given is clearly not that of the batch."""
        loss = self.loss
        if loss is None or not math.isfinite(loss) or not all(map(math.isfinite, self.right)):
            return False
        if loss == 0 and self.rounded_to_0:
            return False
        return all(
            abs(loss - value) > 20 * (self.atol + self.rtol * abs(value)) + 0.002 * abs(value)
            for value in self.right
        )

    def instead(self, values: list[float]) -> bool:
        """Whether the loss that was given is one of these and clearly not that of the batch.

        In half precision too many values are near by accident.
        """
        return self.apart and self.rtol <= SHARP and any(map(self.is_loss, values))

    # Words.

    def places(self, flags: Tensor) -> str:
        """Where the first targets are that are flagged, (n), and how many there are."""
        found = flags.nonzero().flatten()
        some = [np.unravel_index(int(i), self.shape or (1,)) for i in found[:4]]
        named = [str(int(i[0])) if len(i) == 1 else str(tuple(map(int, i))) for i in some]
        more = ", ..." if len(found) > 4 else ""
        return f"{len(found)} of {self.n} targets (at {', '.join(named)}{more})"
