r"""The losses that every kernel computes, as operations that autograd can follow.

From a row x of C numbers come the logits :math:`z = s x`, or :math:`z = c \tanh(s x / c)` with a
softcap c. A are the classes whose logit is not ``-inf``, q is a row of probabilities or stands for
one class y, and :math:`\mathrm{lse} = \log \sum_k e^{z_k}`. The loss is (equation ``eq-family``)

.. math:: \ell = (1 - \varepsilon) \sum_k w_k q_k (\mathrm{lse} - z_k)
    + \frac{\varepsilon}{|A|} \sum_{k \in A} w_k (\mathrm{lse} - z_k) + \lambda\,\mathrm{lse}^2

and its derivative by a logit, for k in A and p the softmax of z,

.. math:: \frac{\partial \ell}{\partial z_k} = p_k (a + 2 \lambda\,\mathrm{lse})
    - (1 - \varepsilon) w_k q_k - \frac{\varepsilon}{|A|} w_k, \qquad
    a = (1 - \varepsilon) \sum_k w_k q_k + \frac{\varepsilon}{|A|} \sum_{k \in A} w_k.

Beside the loss stand three statistics of a row, which are differentiable too: lse, the
log-probability :math:`\sum_k q_k \log p_k` of the target, and the entropy
:math:`H = -\sum_k p_k \log p_k`, with :math:`\partial H / \partial z_k = p_k (-\log p_k - H)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from celib.derivatives import surprise_of, times

# The results of a row, the lines of an array of shape (4, N). ENTROPY is 0 unless it is asked for.
LOSS, LSE, LOG_PROB, ENTROPY = range(4)

# What the forward pass saves of a row for the backward pass, the lines of an array of shape (7, N):
# the largest logit M, the sum of exp(z - M), 1 - p of the target with its own digits, the factor a
# of p in the gradient, the weight of the target, |A|, and the entropy.
LARGEST, TOTAL, REST, MASS, SHARE, COUNT, SPREAD = range(7)
SAVED = 7


class Options(NamedTuple):
    """The numbers that choose a loss of the family.

    An operator of torch takes them as ``ignore_index`` and ``numbers()``, because its schema knows
    integers and lists of floats, and puts them together again with ``of``. So a new option is a
    line here, and one in each kernel.
    """

    ignore_index: int = -100
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    softcap: float = 0.0  # 0 for none
    scale: float = 1.0
    entropy: bool = False  # whether it is asked for

    @classmethod
    def of(cls, ignore_index: int, numbers: Sequence[float]) -> Options:
        smoothing, z_loss, softcap, scale, entropy = numbers
        return cls(ignore_index, smoothing, z_loss, softcap, scale, bool(entropy))

    def numbers(self) -> list[float]:
        """All but ``ignore_index``, which as a float would lose digits."""
        return [self.label_smoothing, self.z_loss, self.softcap, self.scale, float(self.entropy)]


class Curve(NamedTuple):
    """A loss that is a function of the surprise at the target: focal, generalised, symmetric.

    A kernel can apply it to each row, and its derivative to the row's gradient, if it knows the
    ``kind``. With the surprise s:

    - FOCAL: (1 - e^-s)^a s
    - GENERALISED: (1 - e^-(a s)) / a
    - SYMMETRIC: a s + b (1 - e^-s)
    """

    kind: int
    a: float
    b: float
    of: Callable[[Tensor], Tensor]  #: the same by operations that autograd can follow


STRAIGHT, FOCAL, GENERALISED, SYMMETRIC = range(4)


class Rows(NamedTuple):
    """What a kernel finds out about N rows."""

    results: Tensor  #: LOSS, LSE, LOG_PROB and ENTROPY, shape (4, N), float32 or float64
    correct: Tensor  #: whether no class is likelier than the target, shape (N), bool
    saved: Tensor  #: LARGEST to SPREAD, shape (7, N), for the backward pass


def logits(x: Tensor, o: Options) -> Tensor:
    """z of x, in float32 or float64."""
    z = x.to(torch.promote_types(x.dtype, torch.float32))
    if o.scale != 1.0:
        z = z * o.scale
    if o.softcap > 0:  # a class that is masked out stays so
        z = torch.where(z == -math.inf, z, o.softcap * torch.tanh(z / o.softcap))
    return z


def lookup(target: Tensor, classes: int, ignore_index: int) -> tuple[Tensor, Tensor, Tensor]:
    """Classes that can be looked up, which rows count, and which have no such class."""
    y = target.long()
    kept = y != ignore_index
    wrong = kept & ((y < 0) | (y >= classes))
    return torch.where(kept & ~wrong, y, 0), kept, wrong


def weight_of(y: Tensor, w: Tensor) -> Tensor:
    """The weight of each class y: w[y], which vmap does not take where y is one number."""
    return w.expand(*y.shape, w.shape[0]).gather(-1, y[..., None])[..., 0]


def slope(x: Tensor, o: Options) -> Tensor | float:
    """The derivative of z with respect to x.

    With a softcap it is s / cosh(s x / c)^2: 1 - (z / c)^2 would lose the digits of a logit near
    the cap.
    """
    if o.softcap == 0:
        return o.scale
    u = x.to(torch.promote_types(x.dtype, torch.float32)) * (o.scale / o.softcap)
    return o.scale / torch.cosh(u).square()


def reference(x: Tensor, target: Tensor, weight: Tensor | None, o: Options) -> Rows:
    """The kernels' results by differentiable operations: derivatives of every order, by all inputs.

    Args:
        x: shape (..., C).
        target: classes, integers of shape (...), or probabilities, shape (..., C).
        weight: shape (C), or None.

    Returns:
        The rows, with (...) in the place of N; of what is saved only the SHARE, as its one line.
        A row that is ignored has zeros.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    w = None if weight is None else weight.to(dtype)
    soft = target.is_floating_point()
    if soft:
        q = target.to(dtype)
        y, kept = q.argmax(-1), torch.ones(x.shape[:-1], dtype=torch.bool, device=x.device)
        wrong = ~kept
    else:
        y, kept, wrong = lookup(target, x.shape[-1], o.ignore_index)
    z = logits(torch.where(kept[..., None], x, 0.0), o)
    surprise = surprise_of(z)
    lse = torch.where(kept, log_sum(z, surprise), 0.0)
    if soft:
        share = q if w is None else q * w
        at_target = times(q, surprise).sum(-1)
        loss = at_target if w is None else times(share, surprise).sum(-1)
        share = share.sum(-1)
    else:
        share = torch.where(kept, 1.0 if w is None else weight_of(y, w), 0.0).to(z.dtype)
        at_target = surprise.gather(-1, y[..., None])[..., 0]
        loss = times(share, at_target)
    if o.label_smoothing > 0:
        allowed = (z > -math.inf).to(z.dtype)
        uniform = allowed / allowed.sum(-1, keepdim=True)
        spread = times(uniform if w is None else uniform * w, surprise).sum(-1)
        loss = times(1.0 - o.label_smoothing, loss) + o.label_smoothing * spread
    if o.z_loss > 0:
        loss = loss + o.z_loss * lse * lse
    entropy = torch.zeros_like(loss)
    if o.entropy:
        entropy = times(torch.exp(-surprise), surprise).sum(-1)
    spoil = torch.where(wrong, math.nan, 1.0).to(z.dtype)
    results = [torch.where(kept, a, 0.0) * spoil for a in (loss, lse, -at_target, entropy)]
    most = z.gather(-1, y[..., None])[..., 0] == z.amax(-1)
    correct = kept & ~wrong & ~lse.isnan() & most
    return Rows(torch.stack(results), correct, share[None])


def log_sum(z: Tensor, surprise: Tensor) -> Tensor:
    """Log-sum-exp, from the surprise at the likeliest class, which is small, and its logit."""
    at = z.argmax(-1, keepdim=True)
    return (surprise.gather(-1, at) + z.gather(-1, at))[..., 0]
