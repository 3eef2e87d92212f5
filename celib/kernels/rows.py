"""The arithmetic of a row in operations of torch: what the target is left out of, and joins later.

A kernel that knows only some of the classes of a row, a tile, a slice or a shard, can describe them
by a few sums, relative to their largest logit (:class:`Part`). Two such parts merge into one
(:func:`merge`), in any order: this is the online softmax of Milakov and Gimelshein (2018,
arXiv:1805.02867). The target's own logit stays out of the sums until the end (:func:`finish`). So
the loss of a confident prediction, and 1 - p in its gradient, are computed from what the other
classes have, and not from 1 minus almost 1.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from celib.derivatives import times
from celib.kernels.family import (
    COUNT,
    ENTROPY,
    LARGEST,
    LOG_PROB,
    LOSS,
    LSE,
    MASS,
    REST,
    SHARE,
    SPREAD,
    TOTAL,
    Options,
    Rows,
    slope,
)


class Part(NamedTuple):
    """Some classes of N rows, without the target; each field has shape (N).

    The last three are for label smoothing, about the classes that are not masked out, and ``heat``
    is for the entropy; they are zeros where the options do not ask for them.
    """

    largest: Tensor  #: the largest logit m, -inf without classes
    total: Tensor  #: the sum of exp(z - m)
    heat: Tensor  #: the sum of exp(z - m) (m - z)
    below: Tensor  #: the sum of w (m - z)
    weight: Tensor  #: the sum of w
    allowed: Tensor  #: the number


def nothing(rows: int, like: Tensor) -> Part:
    """The part without classes, which changes nothing that it is merged with."""
    zero = like.new_zeros(rows)
    return Part(like.new_full((rows,), -math.inf), zero, zero, zero, zero, zero)


def part_of(others: Tensor, w: Tensor | None, o: Options) -> Part:
    """The part of logits (N, K) in which the target, if it is among them, is hidden by -inf.

    ``others`` is overwritten.
    """
    m = others.amax(-1)
    below = weight = count = heat = torch.zeros_like(m)
    drop = None
    if o.label_smoothing > 0 or o.entropy:
        allowed = others > -math.inf
        drop = torch.where(allowed & (others != m[:, None]), m[:, None] - others, 0.0)
        if o.label_smoothing > 0:
            each = allowed.to(others.dtype) if w is None else allowed * w
            below = (drop if w is None else times(w, drop)).sum(-1)
            weight, count = each.sum(-1), allowed.sum(-1).to(others.dtype)
    e = exp_below(others, m, out=others)
    if drop is not None and o.entropy:
        heat = times(e, drop).sum(-1)
    return Part(m, e.sum(-1), heat, below, weight, count)


def merge(a: Part, b: Part) -> Part:
    """The part of both sets of classes."""
    m = torch.maximum(a.largest, b.largest)
    rise_a, rise_b = (torch.where(c.largest == m, 0.0, m - c.largest) for c in (a, b))
    e_a, e_b = torch.exp(-rise_a), torch.exp(-rise_b)
    return Part(
        m,
        a.total * e_a + b.total * e_b,
        times(e_a, a.heat + times(a.total, rise_a)) + times(e_b, b.heat + times(b.total, rise_b)),
        _lifted(a, rise_a) + _lifted(b, rise_b),
        a.weight + b.weight,
        a.allowed + b.allowed,
    )


def _lifted(a: Part, rise: Tensor) -> Tensor:
    return a.below + times(a.weight, rise)


def finish(
    others: Part, z_y: Tensor, share: Tensor, kept: Tensor, wrong: Tensor, o: Options
) -> Rows:
    """The rows, when the target joins the other classes.

    Args:
        others: all classes but the target.
        z_y, share: the logit and the weight of the target, shape (N).
        kept, wrong: which rows count, and which of them have a target that does not exist.
    """
    m = others.largest
    largest = torch.maximum(m, z_y)
    # One of the two is the maximum. Set its exponential to 1: inf - inf is NaN.
    e_m = torch.where(m == largest, 1.0, torch.exp(m - largest))
    e_y = torch.where(z_y == largest, 1.0, torch.exp(z_y - largest))
    rest = others.total * e_m
    total = rest + e_y
    # Two logits of inf, or none above -inf, have no softmax.
    broken = (largest == -math.inf) | ((largest == math.inf) & (total > 1.0)) | wrong
    # If the total is near 1, one of its terms is exactly 1: take the other's digits, not those of
    # total - 1. log1p keeps them.
    log_total = torch.log1p(torch.where(total < 2.0, rest + (e_y - 1.0), total - 1.0))
    surprise = torch.where(z_y == largest, torch.log1p(rest), (largest - z_y) + log_total)
    loss, mass, count = times(share, surprise), share, torch.ones_like(rest)
    from_m, from_y = (torch.where(a == largest, 0.0, largest - a) for a in (m, z_y))
    if o.label_smoothing > 0:
        mine = (z_y > -math.inf).to(rest.dtype)
        weight_y = torch.where(mine > 0, share, 0.0)
        count = others.allowed + mine
        even = others.below + times(others.weight, from_m + log_total) + times(weight_y, surprise)
        loss = times(1.0 - o.label_smoothing, loss) + o.label_smoothing * (even / count)
        even_mass = (others.weight + weight_y) / count
        mass = (1.0 - o.label_smoothing) * share + o.label_smoothing * even_mass
    entropy = torch.zeros_like(rest)
    if o.entropy:
        heat = times(e_m, others.heat + times(others.total, from_m)) + times(e_y, from_y)
        entropy = log_total + heat / total
    return collected(
        {LOSS: loss, LSE: largest + log_total, LOG_PROB: -surprise, ENTROPY: entropy},
        {LARGEST: largest, TOTAL: total, REST: rest / total, MASS: mass, SHARE: share,
         COUNT: count, SPREAD: entropy},
        z_y == largest, kept, broken, o,
    )  # fmt: skip


def collected(
    results: dict[int, Tensor],
    saved: dict[int, Tensor],
    correct: Tensor,
    kept: Tensor,
    broken: Tensor,
    o: Options,
) -> Rows:
    """The rows: zeros where they do not count, NaN where they are broken, and the z-loss added."""
    spoil = torch.where(broken, math.nan, 0.0).to(results[LOSS].dtype)
    lines = [results[i] + spoil for i in range(len(results))]
    if o.z_loss > 0:
        lines[LOSS] = lines[LOSS] + o.z_loss * lines[LSE] * lines[LSE]
    # A row whose largest logit is saved as NaN gets a gradient of NaN.
    saved[LARGEST] = saved[LARGEST] + spoil
    return Rows(
        torch.stack([torch.where(kept, line, 0.0) for line in lines]),
        correct & kept & ~spoil.isnan(),
        torch.stack([saved[i] for i in range(len(saved))]),
    )


class Factors(NamedTuple):
    """What a row's gradient with respect to z is made of; each field has shape (N).

    It is ``of_p`` p_k + ``of_surprise`` p_k log(1 / p_k), less ``of_q`` w_k q_k + ``of_mean`` q_k
    for a target q, and less ``of_each`` w_k for a class that is not masked out.
    """

    of_p: Tensor
    of_q: Tensor
    of_mean: Tensor
    of_each: Tensor
    of_surprise: Tensor


def factors(o: Options, saved: Tensor, g: Tensor) -> Factors:
    """The factors of rows with the derivatives g, shape (4, N), with respect to the results."""
    m, total, mass = saved[LARGEST], saved[TOTAL], saved[MASS]
    of_p = g[LOSS] * mass + g[LSE] - g[LOG_PROB]
    if o.z_loss > 0:
        of_p = of_p + g[LOSS] * (2.0 * o.z_loss * (m + torch.log(total)))
    if o.entropy:
        of_p = of_p - g[ENTROPY] * saved[SPREAD]
    of_each = g[LOSS] * (o.label_smoothing / saved[COUNT])
    return Factors(of_p, g[LOSS] * (1.0 - o.label_smoothing), -g[LOG_PROB], of_each, g[ENTROPY])


def gradient_hard(
    y: Tensor,
    here: Tensor,
    kept: Tensor,
    x: Tensor,
    saved: Tensor,
    w: Tensor | None,
    g: Tensor,
    o: Options,
    z: Tensor,
) -> Tensor:
    """The derivative with respect to x of rows whose target is a class.

    Args:
        y: the target's column among those of x, shape (N); any column where it is not ``here``.
        kept: which rows count.
        x, z: some of the columns of the input and of its logits, shape (N, K).
        saved, g: of these rows, shape (7, N) and (4, N).
        w: the weights of these columns, shape (K), or None.
    """
    f = factors(o, saved, g)
    m, total = saved[LARGEST], saved[TOTAL]
    y, of_y = y[:, None], f.of_q * saved[SHARE] + f.of_mean
    z_y = z.gather(-1, y)
    p_y = exp_below(z_y, m)[:, 0] / total
    # p - 1, from 1 - p.
    at_y = torch.where(z_y[:, 0] == -math.inf, 0.0, (f.of_p - of_y) * p_y - of_y * saved[REST])
    at_y = torch.where(here, at_y, f.of_p * p_y)
    dz = exp_below(z, m).mul_((f.of_p / total)[:, None]).scatter_(-1, y, at_y[:, None])
    dx = _chain(dz, f, x, z, saved, w, o)
    if z.device.type == "cpu" and kept.all():
        return dx
    return dx.masked_fill_(~kept[:, None], 0.0)


def gradient_soft(
    q: Tensor, x: Tensor, saved: Tensor, w: Tensor | None, g: Tensor, o: Options, z: Tensor
) -> Tensor:
    """The derivative with respect to x of rows whose targets are probabilities q, shape (N, C)."""
    f = factors(o, saved, g)
    m, total = saved[LARGEST], saved[TOTAL]
    of_q = f.of_q[:, None] * (q if w is None else q * w) + f.of_mean[:, None] * q
    # 1 - p of the likeliest class is known better than p.
    near = (f.of_p[:, None] - of_q) - (f.of_p * saved[REST])[:, None]
    far = exp_below(z, m).div_(total[:, None]).mul_(f.of_p[:, None]).sub_(of_q)
    dx = _chain(torch.where(z == m[:, None], near, far), f, x, z, saved, w, o)
    return torch.where(z == -math.inf, 0.0, dx)


def _chain(
    dz: Tensor, f: Factors, x: Tensor, z: Tensor, saved: Tensor, w: Tensor | None, o: Options
) -> Tensor:
    """From the derivative with respect to z, smoothing and entropy not counted, to that of x."""
    m, total = saved[LARGEST], saved[TOTAL]
    if o.entropy:
        p = exp_below(z, m) / total[:, None]
        below = torch.where(z == m[:, None], 0.0, m[:, None] - z)
        surprise = below + torch.log(total)[:, None]
        dz = dz + f.of_surprise[:, None] * times(p, surprise)
    if o.label_smoothing > 0:
        dz = dz - (f.of_each[:, None] if w is None else f.of_each[:, None] * w)
    if o.softcap > 0 or o.scale != 1.0:
        dz = dz * slope(x, o)
    masked = o.label_smoothing > 0 or o.softcap > 0 or o.entropy
    return torch.where(z == -math.inf, 0.0, dz) if masked else dz


def exp_below(z: Tensor, m: Tensor, out: Tensor | None = None) -> Tensor:
    """exp(z - m), with m the largest logit of the row; if m is infinite, 1 where z = m, else 0."""
    infinite = m.abs() == math.inf
    if z.device.type == "cpu" and not infinite.any():
        return torch.sub(z, m[:, None], out=out).exp_()
    e = (z - torch.where(infinite, 0.0, m)[:, None]).exp_()
    return torch.where((m == math.inf)[:, None], (z == m[:, None]).to(e.dtype), e)
