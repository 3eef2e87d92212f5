"""The kernels in operations of torch, a block of rows at a time: every dtype, option and device.

On a CPU a block is so small that what one operation writes is still in the cache when the next one
reads it. What the forward pass keeps of a row is a column of six numbers: the largest logit M; the
sum S of exp(z - M); 1 - p of the target, with its own digits; the factor a of p in the gradient;
the weight of the target; the number of classes that are not masked out.
"""

from __future__ import annotations

import math
import os

import numpy as np
import torch
from torch import Tensor

from celib.derivatives import times
from celib.kernels.family import Options, logits, lookup

# The process at import. The threads of torch's OpenMP do not survive a fork, so that a child must
# not use them. Kept here, because with_numba may first be imported in the child.
PROCESS = os.getpid()
# Of a block, for each thread: a smaller one pays more for calls, a larger one for memory.
BLOCK_BYTES = 2**21
LARGE_BYTES = 2**22


def forward(
    x: Tensor, target: Tensor, weight: Tensor | None, o: Options
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss, lse, whether the target is a likeliest class, and the six numbers, of rows x (N, C)."""
    w = None if weight is None else weight.to(torch.promote_types(x.dtype, torch.float32))
    of_rows = soft if target.is_floating_point() else hard
    parts = [of_rows(logits(x[i], o), target[i], w, o) for i in blocks(x)]
    loss, lse, correct, kept = zip(*parts, strict=True)
    return torch.cat(loss), torch.cat(lse), torch.cat(correct), torch.cat(kept, 1)


def backward(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None,
    o: Options,
    numbers: Tensor,
    g_loss: Tensor,
    g_lse: Tensor,
    out: Tensor,
) -> None:
    """The derivative by x, into ``out``, which may be x.

    g_loss and g_lse, shape (N), are the derivatives by the loss and the lse of each row.
    """
    w = None if weight is None else weight.to(numbers.dtype)
    for i in blocks(x):
        z, of_p = logits(x[i], o), factor_of_p(o, numbers[:, i], g_loss[i], g_lse[i])
        arguments = (z, of_p, numbers[:, i], w, g_loss[i], o)
        if target.is_floating_point():
            out[i] = gradient_soft(target[i].to(z.dtype), *arguments)
        else:
            y, kept, _ = lookup(target[i], z.shape[-1], o.ignore_index)
            out[i] = gradient_hard(y, kept, kept, *arguments)


def factor_of_p(o: Options, numbers: Tensor, g: Tensor, g_lse: Tensor) -> Tensor:
    m, total, _, mass, _, _ = numbers
    of_p: Tensor = g * mass + g_lse
    if o.z_loss > 0:
        of_p = of_p + g * (2.0 * o.z_loss * (m + torch.log(total)))
    return of_p


def gradient_hard(
    y: Tensor,
    here: Tensor,
    kept: Tensor,
    z: Tensor,
    of_p: Tensor,
    numbers: Tensor,
    w: Tensor | None,
    g: Tensor,
    o: Options,
) -> Tensor:
    """The derivative by x of rows whose target is class y of these columns, if it is ``here``."""
    m, total, rest, _, share, allowed = numbers
    y, of_y = y[:, None], g * (1.0 - o.label_smoothing) * share
    z_y = z.gather(-1, y)
    p_y = exp_below(z_y, m)[:, 0] / total
    at_y = torch.where(z_y[:, 0] == -math.inf, 0.0, (of_p - of_y) * p_y - of_y * rest)
    at_y = torch.where(here, at_y, of_p * p_y)
    dz = exp_below(z, m).mul_((of_p / total)[:, None]).scatter_(-1, y, at_y[:, None])
    dx = chain(dz, z, g * (o.label_smoothing / allowed), w, o)
    if z.device.type == "cpu" and kept.all():
        return dx
    return dx.masked_fill_(~kept[:, None], 0.0)


def gradient_soft(
    q: Tensor,
    z: Tensor,
    of_p: Tensor,
    numbers: Tensor,
    w: Tensor | None,
    g: Tensor,
    o: Options,
) -> Tensor:
    """The derivative by x of rows whose targets are probabilities."""
    m, total, rest, _, _, allowed = numbers
    of_q = (g * (1.0 - o.label_smoothing))[:, None] * (q if w is None else q * w)
    # 1 - p of the likeliest class is known better than p.
    near = (of_p[:, None] - of_q) - (of_p * rest)[:, None]
    far = exp_below(z, m).div_(total[:, None]).mul_(of_p[:, None]).sub_(of_q)
    dz = torch.where(z == m[:, None], near, far)
    dx = chain(dz, z, g * (o.label_smoothing / allowed), w, o)
    return torch.where(z == -math.inf, 0.0, dx)


def chain(dz: Tensor, z: Tensor, each: Tensor, w: Tensor | None, o: Options) -> Tensor:
    """From the derivative by z without smoothing to that by x."""
    if o.label_smoothing > 0:
        dz = dz - (each[:, None] if w is None else each[:, None] * w)
    if o.softcap > 0:
        dz = dz * (1.0 - (z / o.softcap) ** 2)
    if o.scale != 1.0:
        dz = dz * o.scale
    return torch.where(z == -math.inf, 0.0, dz) if o.label_smoothing > 0 or o.softcap > 0 else dz


def hard(
    z: Tensor, target: Tensor, w: Tensor | None, o: Options
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows of logits whose targets are classes."""
    y, kept, wrong = lookup(target, z.shape[-1], o.ignore_index)
    z_y = z.gather(-1, y[:, None])[:, 0]
    m, s, spread = without(z.scatter(-1, y[:, None], -math.inf), w, o)
    share = torch.where(kept, 1.0 if w is None else w[y], 0.0).to(z.dtype)
    return finish(m, s, z_y, share, kept, wrong, spread, o)


def without(
    others: Tensor, w: Tensor | None, o: Options
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor] | None]:
    """m, s and spread, as :func:`finish` wants them, of logits that hide the target by -inf.

    ``others`` is overwritten.
    """
    m = others.amax(-1)
    if o.label_smoothing == 0:
        return m, exp_below(others, m, out=others).sum(-1), None
    allowed = others > -math.inf
    below = torch.where(allowed & (others != m[:, None]), m[:, None] - others, 0.0)
    each = allowed.to(others.dtype) if w is None else allowed * w
    weighted = (below if w is None else times(w, below)).sum(-1)
    number = allowed.sum(-1).to(others.dtype)
    return m, exp_below(others, m, out=others).sum(-1), (weighted, each.sum(-1), number)


def finish(
    m: Tensor,
    s: Tensor,
    z_y: Tensor,
    share: Tensor,
    kept: Tensor,
    wrong: Tensor,
    spread: tuple[Tensor, Tensor, Tensor] | None,
    o: Options,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The results, from what a row is without its target.

    Args:
        m, s: the largest logit of the other classes, and their sum of exp(z - m).
        z_y, share: the logit and the weight of the target.
        spread: for label smoothing, of the other classes that are not masked out: the weighted sum
            of m - z, the sum of the weights, the number.
    """
    largest = torch.maximum(m, z_y)
    e_m = torch.where(m == largest, 1.0, torch.exp(m - largest))
    e_y = torch.where(z_y == largest, 1.0, torch.exp(z_y - largest))
    rest = s * e_m
    total = rest + e_y
    # Two certainties, or no class at all, stand for no distribution.
    broken = (largest == -math.inf) | ((largest == math.inf) & (total > 1.0)) | wrong
    spoil = torch.where(broken, math.nan, 0.0).to(s.dtype)
    # log1p keeps the digits of a small loss; the other two terms are never negative.
    # Of a total near 1, one of whose terms is 1, the digits are in the other.
    log_total = torch.log1p(torch.where(total < 2.0, rest + (e_y - 1.0), total - 1.0))
    loss_y = torch.where(z_y == largest, torch.log1p(rest), (largest - z_y) + log_total)
    lse = largest + log_total
    loss, mass = times(share, loss_y), share
    count = torch.ones_like(s)
    if spread is not None:
        below, weights, number = spread
        mine = (z_y > -math.inf).to(s.dtype)
        weight_y = torch.where(mine > 0, share, 0.0)
        count = number + mine
        from_m = torch.where(m == largest, 0.0, largest - m) + log_total
        even = (below + times(weights, from_m) + times(weight_y, loss_y)) / count
        loss = times(1.0 - o.label_smoothing, loss) + o.label_smoothing * even
        mass = (1.0 - o.label_smoothing) * share + o.label_smoothing * (weights + weight_y) / count
    return results(
        loss,
        lse,
        z_y == largest,
        kept,
        spoil,
        (largest, total, rest / total, mass, share, count),
        o,
    )


def soft(
    z: Tensor, q: Tensor, w: Tensor | None, o: Options
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows of logits whose targets are probabilities."""
    q = q.to(z.dtype)
    share = q if w is None else q * w
    m, at = z.max(-1, keepdim=True)
    rest = exp_below(z.scatter(-1, at, -math.inf), m[:, 0]).sum(-1)
    below = torch.where(z == m, 0.0, m - z)
    m, mass = m[:, 0], share.sum(-1)
    broken = (m == -math.inf) | ((m == math.inf) & (rest > 0))
    spoil = torch.where(broken, math.nan, 0.0).to(z.dtype)
    log_total = torch.log1p(rest)
    loss = times(mass, log_total) + times(share, below).sum(-1)
    count, weight_q = torch.ones_like(m), mass
    if o.label_smoothing > 0:
        allowed = z > -math.inf
        each = allowed.to(z.dtype) if w is None else allowed * w
        count = allowed.sum(-1).to(z.dtype)
        even = (times(each, below).sum(-1) + times(each.sum(-1), log_total)) / count
        loss = times(1.0 - o.label_smoothing, loss) + o.label_smoothing * even
        mass = (1.0 - o.label_smoothing) * mass + o.label_smoothing * each.sum(-1) / count
    correct = z.gather(-1, q.argmax(-1, keepdim=True))[:, 0] == m
    kept = torch.ones_like(correct)
    numbers = (m, 1.0 + rest, rest / (1.0 + rest), mass, weight_q, count)
    return results(loss, m + log_total, correct, kept, spoil, numbers, o)


def results(
    loss: Tensor,
    lse: Tensor,
    correct: Tensor,
    kept: Tensor,
    spoil: Tensor,
    numbers: tuple[Tensor, ...],
    o: Options,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    lse = lse + spoil
    loss = loss + spoil
    if o.z_loss > 0:
        loss = loss + o.z_loss * lse * lse
    largest, *others = numbers
    return (
        torch.where(kept, loss, 0.0),
        torch.where(kept, lse, 0.0),
        correct & kept & ~spoil.isnan(),
        torch.stack([largest + spoil, *others]),
    )


def exp_below(z: Tensor, m: Tensor, out: Tensor | None = None) -> Tensor:
    """exp(z - m) with m the largest of the row; of an infinite m, 1 where z is m, and else 0."""
    infinite = m.abs() == math.inf
    if z.device.type == "cpu" and not infinite.any():
        return torch.sub(z, m[:, None], out=out).exp_()
    e = (z - torch.where(infinite, 0.0, m)[:, None]).exp_()
    return torch.where((m == math.inf)[:, None], (z == m[:, None]).to(e.dtype), e)


def blocks(x: Tensor) -> list[slice]:
    """The rows of x in blocks; all at once where no cache of ours is filled by them."""
    n, classes = x.shape
    if x.device.type != "cpu":
        return [slice(0, n)]
    size = max(x.element_size(), 4)
    rows = max(1, BLOCK_BYTES * torch.get_num_threads() // (classes * size))
    return [slice(i, min(n, i + rows)) for i in range(0, max(n, 1), rows)]


def empty_like(x: Tensor) -> Tensor:
    """An array for the gradient.

    The first touch of fresh pages of 4 kB costs a CPU more than everything that is computed here.
    NumPy asks the system for large pages, where it offers them; torch does so only if told by its
    environment.
    """
    if x.device.type != "cpu" or x.numel() * x.element_size() < LARGE_BYTES:
        return torch.empty(x.shape, dtype=x.dtype, device=x.device)
    memory = np.empty(x.numel() * x.element_size(), dtype=np.uint8)
    return torch.from_numpy(memory).view(x.dtype).view(x.shape)
