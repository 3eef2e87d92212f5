"""The kernel in operations of torch, a block of rows at a time: every dtype, option and device.

On a CPU a block is so small that what one operation writes is still in the cache when the next one
reads it.
"""

from __future__ import annotations

import math

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
    logits,
    lookup,
)
from celib.kernels.memory import blocks
from celib.kernels.rows import (
    collected,
    exp_below,
    finish,
    gradient_hard,
    gradient_soft,
    part_of,
)

both = reduced = None  # a block is not read twice in any case


def can(x: Tensor, target: Tensor, o: Options) -> bool:
    return True


def forward(x: Tensor, target: Tensor, weight: Tensor | None, o: Options) -> Rows:
    w = None if weight is None else weight.to(torch.promote_types(x.dtype, torch.float32))
    of_rows = _soft if target.is_floating_point() else _hard
    parts = [of_rows(logits(x[i], o), target[i], w, o) for i in blocks(x)]
    if len(parts) == 1:
        return parts[0]
    results, correct, saved = zip(*parts, strict=True)
    return Rows(torch.cat(results, 1), torch.cat(correct), torch.cat(saved, 1))


def backward(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None,
    o: Options,
    saved: Tensor,
    g: Tensor,
    out: Tensor,
) -> None:
    w = None if weight is None else weight.to(saved.dtype)
    for i in blocks(x):
        z, arguments = logits(x[i], o), (x[i], saved[:, i], w, g[:, i], o)
        if target.is_floating_point():
            out[i] = gradient_soft(target[i].to(z.dtype), *arguments, z)
        else:
            y, kept, _ = lookup(target[i], z.shape[-1], o.ignore_index)
            out[i] = gradient_hard(y, kept, kept, *arguments, z)


def _hard(z: Tensor, target: Tensor, w: Tensor | None, o: Options) -> Rows:
    """Rows of logits whose targets are classes."""
    y, kept, wrong = lookup(target, z.shape[-1], o.ignore_index)
    z_y = z.gather(-1, y[:, None])[:, 0]
    others = part_of(z.scatter(-1, y[:, None], -math.inf), w, o)
    share = torch.where(kept, 1.0 if w is None else w[y], 0.0).to(z.dtype)
    return finish(others, z_y, share, kept, wrong, o)


def _soft(z: Tensor, q: Tensor, w: Tensor | None, o: Options) -> Rows:
    """Rows of logits whose targets are probabilities."""
    q = q.to(z.dtype)
    share = q if w is None else q * w
    m, at = z.max(-1, keepdim=True)
    e = exp_below(z.scatter(-1, at, -math.inf), m[:, 0])
    rest = e.sum(-1)
    below = torch.where(z == m, 0.0, m - z)
    m, mass = m[:, 0], share.sum(-1)
    broken = (m == -math.inf) | ((m == math.inf) & (rest > 0))
    log_total, total = torch.log1p(rest), 1.0 + rest
    loss = times(mass, log_total) + times(share, below).sum(-1)
    at_target = loss if w is None else times(q.sum(-1), log_total) + times(q, below).sum(-1)
    count, weight_q = torch.ones_like(m), mass
    if o.label_smoothing > 0:
        allowed = z > -math.inf
        each = allowed.to(z.dtype) if w is None else allowed * w
        count = allowed.sum(-1).to(z.dtype)
        even = (times(each, below).sum(-1) + times(each.sum(-1), log_total)) / count
        loss = times(1.0 - o.label_smoothing, loss) + o.label_smoothing * even
        mass = (1.0 - o.label_smoothing) * mass + o.label_smoothing * each.sum(-1) / count
    entropy = torch.zeros_like(m)
    if o.entropy:
        entropy = log_total + times(e, below).sum(-1) / total
    correct = z.gather(-1, q.argmax(-1, keepdim=True))[:, 0] == m
    return collected(
        {LOSS: loss, LSE: m + log_total, LOG_PROB: -at_target, ENTROPY: entropy},
        {LARGEST: m, TOTAL: total, REST: rest / total, MASS: mass, SHARE: weight_q,
         COUNT: count, SPREAD: entropy},
        correct, torch.ones_like(correct), broken, o,
    )  # fmt: skip
