"""The kernels of a GPU: the logits are read once going forward, read and written once going back.

Forward, a program reads one row, tile by tile. A tile is K x L numbers, and L is such that each
thread holds one 16-byte vector of every line of the tile (where rows begin at multiples of 16
bytes; else as many single numbers): then the largest of K, and the sum of K, are found within a
thread, without a word to the others, and each of the L lanes carries a pair of its own, the largest
logit and the sum of exponentials relative to it. Only after the last tile do the lanes combine. The
target is left out of the pair and comes in at the end, so that the loss of a confident prediction,
and 1 - p in its gradient, are computed from what the other classes have, not from 1 minus almost 1.
Rows of few classes need no loop: a warp takes one or several of them as one tile. That is the
online softmax of Milakov and Gimelshein (2018, arXiv:1805.02867), with a pair per lane instead of
one per program.

Logits are shifted first and multiplied by log2(e) after: the other order loses what an offset
common to all logits takes away.
"""

# Without `from __future__ import annotations`: the interpreter of Triton before 3.4 takes a
# parameter for a constexpr only if the annotation is the class, not its name.

import math
from contextlib import AbstractContextManager, nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

from celib.kernels import family
from celib.kernels.family import Options, Rows

LOG2_E: tl.constexpr = tl.constexpr(1.0 / math.log(2.0))
# The logarithm of 2 in two parts: the first has so few digits that its multiples are exact.
LN2_HIGH: tl.constexpr = tl.constexpr(0.693359375)
LN2_LOW: tl.constexpr = tl.constexpr(math.log(2.0) - 0.693359375)
# Adding 1.5 2^23 to a float rounds it to an integer n, and leaves n in its last bits. With 127
# more, they are the exponent of 2^n once they are moved to their place.
ROUNDING: tl.constexpr = tl.constexpr(1.5 * 2**23 + 127)
LOWEST: tl.constexpr = tl.constexpr(-87.33654)  # the logarithm of the smallest normal number
# NaN has no name here: Triton compares the globals of a kernel with those of the functions that it
# calls, and refuses to compile where they differ, as NaN does from itself.
INF: tl.constexpr = tl.constexpr(math.inf)
# The lines of the results and of what is saved: see family.
LOSS, LSE = tl.constexpr(family.LOSS), tl.constexpr(family.LSE)
LOG_PROB, ENTROPY = tl.constexpr(family.LOG_PROB), tl.constexpr(family.ENTROPY)
LARGEST, TOTAL = tl.constexpr(family.LARGEST), tl.constexpr(family.TOTAL)
REST, MASS = tl.constexpr(family.REST), tl.constexpr(family.MASS)
SHARE, COUNT = tl.constexpr(family.SHARE), tl.constexpr(family.COUNT)
SPREAD: tl.constexpr = tl.constexpr(family.SPREAD)
PROGRAMS = 4096  # enough of them to keep a large GPU busy
# Rows of up to so many classes are one warp's; of up to 512, a warp takes several rows.
SMALL = 1024
both = reduced = None  # the backward pass reads the logits from memory at full speed


@triton.jit
def _exp(x):
    """exp(x) for x <= 0, with the digits of exp2 also far below 0; 0 below LOWEST."""
    k = x * LOG2_E + ROUNDING
    n = k - ROUNDING
    r = (x - n * LN2_HIGH) - n * LN2_LOW
    power = (k.to(tl.int32, bitcast=True) << 23).to(tl.float32, bitcast=True)
    return tl.where(x < LOWEST, 0.0, tl.exp2(r * LOG2_E) * power)


@triton.jit
def _log1p(x):
    """log(1 + x) for x >= 0, with the digits of a small x: hardware has no such function."""
    u = 1.0 + x
    bits = u.to(tl.int32, bitcast=True)
    # u = 2^e f with sqrt(1/2) <= f < sqrt(2); what the sum 1 + x rounded away is put back.
    e = (bits - 0x3F3504F3) >> 23
    f = (bits - (e << 23)).to(tl.float32, bitcast=True)
    y = tl.where(e == 0, x, (f - 1.0) + (x - (u - 1.0)) * (f / u))
    s = y / (2.0 + y)
    z = s * s
    series = 2.0 / 3.0 + z * (2.0 / 5.0 + z * (2.0 / 7.0 + z * (2.0 / 9.0 + z * (2.0 / 11.0))))
    near = 2.0 * s + s * z * series
    log = e.to(tl.float32) * LN2_HIGH + (near + e.to(tl.float32) * LN2_LOW)
    return tl.where(x < INF, log, x)


@triton.jit
def _logits(X, inside, scale, softcap, SCALED: tl.constexpr, CAPPED: tl.constexpr):
    """A tile of logits in float32; -inf outside the row."""
    x = tl.load(X, mask=inside, other=-INF).to(tl.float32)
    # tl.where blocks FMA contraction of `x * scale - m`: the FMA would use an unrounded product,
    # while m is the maximum of rounded ones.
    z = tl.where(x == -INF, -INF, x * scale) if SCALED else x
    if CAPPED:
        e = tl.exp2(tl.abs(z) * (-2.0 * LOG2_E / softcap))
        t = tl.abs(z) / softcap
        u = t * t  # of a small t, 1 - e has few digits left: Taylor's series
        near = t - t * u * (1.0 / 3.0 - u * (2.0 / 15.0 - u * (17.0 / 315.0 - u * (62.0 / 2835.0))))
        z = tl.where(z < 0.0, -softcap, softcap) * tl.where(t < 0.25, near, (1.0 - e) / (1.0 + e))
        z = tl.where(x == -INF, -INF, z)
    return z


@triton.jit
def _slope(X, inside, scale, softcap, SCALED: tl.constexpr):
    """The derivative of the softcap, 1 / cosh(x / c)^2, with the digits of a logit near the cap."""
    x = tl.load(X, mask=inside, other=0.0).to(tl.float32)
    e = tl.exp2(tl.abs(x * scale if SCALED else x) * (-2.0 * LOG2_E / softcap))
    return 4.0 * e / ((1.0 + e) * (1.0 + e))


@triton.jit
def _line(P, i, length, row):
    """Where the number of a row is in line i of an array; 4 times the length may pass 2^31."""
    return P + ((row * 0 + i) * length + row)


@triton.jit
def _absorb(m, s, z):
    """The largest logit of each lane and the sum of exp(z - m), one tile on.

    m, s: shape (L). z: a tile, shape (K, L).
    """
    new = tl.maximum(m, tl.max(z, axis=0))
    ref = tl.where(new == -INF, 0.0, new)  # nothing but masked classes so far
    s = s * tl.exp2((m - ref) * LOG2_E)
    s += tl.sum(tl.exp2((z - ref[None, :]) * LOG2_E), axis=0)
    return new, s


@triton.jit
def _absorb_below(below, share, m, new, z, u):
    """The sum of u (m - z) in each lane, whose terms are never negative, and the sum of u."""
    ref = tl.where(new == -INF, 0.0, new)[None, :]
    rise = tl.where((share == 0.0) | (m == new), 0.0, new - m)
    drop = tl.where((u == 0.0) | (z == ref), 0.0, ref - z)
    return below + share * rise + tl.sum(u * drop, axis=0), share + tl.sum(u, axis=0)


@triton.jit
def _absorb_heat(heat, s, m, new, z):
    """The sum of exp(z - m) (m - z) in each lane; s and m are those before the tile."""
    ref = tl.where((new == -INF) | (new == INF), 0.0, new)
    rise = tl.where((s == 0.0) | (m == new), 0.0, new - m)
    heat = (heat + s * rise) * tl.where(m == new, 1.0, tl.exp2((m - ref) * LOG2_E))
    drop = tl.where((z == -INF) | (z == INF), 0.0, ref[None, :] - z)
    return heat + tl.sum(tl.exp2(-drop * LOG2_E) * drop, axis=0)


@triton.jit
def _combine(m, s):
    """The largest logit of the row and its sum, from those of the lanes."""
    top = tl.max(m, axis=0)
    return top, tl.sum(s * tl.where(m == top, 1.0, _exp(m - top)), axis=0)


@triton.jit
def _combine_below(below, share, m, top):
    rise = tl.where((share == 0.0) | (m == top), 0.0, top - m)
    return tl.sum(below + share * rise, axis=0), tl.sum(share, axis=0)


@triton.jit
def _combine_heat(heat, m, s, top):
    rise = tl.where((s == 0.0) | (m == top), 0.0, top - m)
    each = (heat + s * rise) * tl.where(m == top, 1.0, _exp(m - top))
    return tl.where(top == INF, 0.0, tl.sum(each, axis=0))


@triton.jit
def _certain(
    X, cols, y, end, scale, softcap,
    SCALED: tl.constexpr, CAPPED: tl.constexpr, K: tl.constexpr, L: tl.constexpr,
):  # fmt: skip
    """How many logits of the other classes are inf; NaN if one is NaN."""
    count = tl.zeros([L], tl.float32)
    for start in range(0, end, K * L):
        c = start + cols
        z = _logits(X + c, c < end, scale, softcap, SCALED, CAPPED)
        one = tl.where(z == INF, 1.0, tl.where(z == z, 0.0, float("nan")))
        count += tl.sum(tl.where(c == y, 0.0, one), axis=0)
    return tl.sum(count, axis=0)


@triton.jit
def _target(
    X, T, W, there, classes, ignore_index, scale, softcap,
    WEIGHTED: tl.constexpr, SCALED: tl.constexpr, CAPPED: tl.constexpr,
):  # fmt: skip
    """Whether a row counts and its target is a class, the class, its logit, and its weight."""
    label = tl.load(T, mask=there, other=0).to(tl.int64)
    kept = there & (label != ignore_index)
    good = kept & (label >= 0) & (label < classes)
    y = tl.where(good, label, 0).to(tl.int32)
    z_y = _logits(X + y, good, scale, softcap, SCALED, CAPPED)
    share = good.to(tl.float32)
    if WEIGHTED:
        share = tl.load(W + y, mask=good, other=0.0).to(tl.float32)
    return kept, good, y, z_y, share


@triton.jit
def _store(
    RESULTS, CORRECT, SAVED, row, rows, there, kept, correct, spoil,
    loss, z_loss, largest, log_total, log_prob, entropy, total, rest, mass, share, number,
):  # fmt: skip
    lse = largest + log_total + spoil
    loss += tl.where(z_loss == 0.0, 0.0, z_loss * lse * lse) + spoil
    tl.store(_line(RESULTS, LOSS, rows, row), tl.where(kept, loss, 0.0), mask=there)
    tl.store(_line(RESULTS, LSE, rows, row), tl.where(kept, lse, 0.0), mask=there)
    log_prob = tl.where(kept, log_prob + spoil, 0.0)
    tl.store(_line(RESULTS, LOG_PROB, rows, row), log_prob, mask=there)
    entropy = tl.where(kept, entropy + spoil, 0.0)
    tl.store(_line(RESULTS, ENTROPY, rows, row), entropy, mask=there)
    tl.store(CORRECT + row, (kept & correct & (spoil == 0.0)).to(tl.int8), mask=there)
    tl.store(_line(SAVED, LARGEST, rows, row), largest + spoil, mask=there)
    tl.store(_line(SAVED, TOTAL, rows, row), total, mask=there)
    tl.store(_line(SAVED, REST, rows, row), rest / total, mask=there)
    tl.store(_line(SAVED, MASS, rows, row), mass, mask=there)
    tl.store(_line(SAVED, SHARE, rows, row), tl.where(kept, share, 0.0), mask=there)
    tl.store(_line(SAVED, COUNT, rows, row), number, mask=there)
    tl.store(_line(SAVED, SPREAD, rows, row), entropy, mask=there)


@triton.jit
def _finish(
    RESULTS, CORRECT, SAVED, row, rows, there, kept, good, z_y, share,
    top, s_top, heat, spread, weight, number, smoothing, z_loss,
    SMOOTHED: tl.constexpr, HOT: tl.constexpr,
):  # fmt: skip
    """The target joins the other classes, in one row or in several at once."""
    largest = tl.maximum(top, z_y)
    # One of the two is the maximum. Set its exponential to 1: inf - inf is NaN.
    e = _exp(tl.minimum(top, z_y) - largest)
    rest = s_top * tl.where(top == largest, 1.0, e)
    e_y = tl.where(z_y == largest, 1.0, e)
    total = rest + e_y
    beyond_1 = tl.where(total < 2.0, rest + (e_y - 1.0), total - 1.0)
    log_total = _log1p(tl.where(z_y == largest, rest, beyond_1))
    loss_y = tl.where(z_y == largest, log_total, (largest - z_y) + log_total)
    loss = tl.where((share == 0.0) & (loss_y == INF), 0.0, share * loss_y)
    mass = share
    lift = tl.where(top == largest, 0.0, largest - top)
    entropy = tl.where(kept, 0.0, 0.0)
    if HOT:
        hot = tl.where(s_top == 0.0, 0.0, (heat + s_top * lift) * tl.where(top == largest, 1.0, e))
        hot += tl.where(e_y == 0.0, 0.0, e_y * (largest - z_y))
        entropy = log_total + tl.where(largest == INF, 0.0, hot) / total
    if SMOOTHED:
        from_top = lift + log_total
        spread += tl.where(weight == 0.0, 0.0, weight * from_top)
        mine = tl.where(z_y > -INF, share, 0.0)
        spread += tl.where(mine == 0.0, 0.0, mine * loss_y)
        number += (z_y > -INF).to(tl.float32)
        loss = tl.where(smoothing == 1.0, 0.0, (1.0 - smoothing) * loss)
        loss += smoothing * (spread / number)
        mass = (1.0 - smoothing) * share + smoothing * ((weight + mine) / number)
    # The loss, the lse and the whole gradient of a broken row become NaN. A row is broken if all
    # its logits are -inf or two of them are inf, because then its softmax is not defined; if its
    # label is out of range; or if one of its logits is NaN. A NaN among the other classes reaches
    # the sum. One at the target need not, because tl.maximum and tl.minimum may return the operand
    # that is a number.
    broken = (largest == -INF) | ((largest == INF) & (total > 1.0)) | (kept & (good == 0))
    broken = broken | (total != total) | (z_y != z_y)
    spoil = tl.where(broken, float("nan"), 0.0)
    _store(
        RESULTS, CORRECT, SAVED, row, rows, there, kept, z_y == largest, spoil, loss,
        z_loss, largest, log_total, -loss_y, entropy, total, rest, mass, share, number,
    )  # fmt: skip


@triton.jit
def _forward_kernel(
    X, T, W, RESULTS, CORRECT, SAVED,
    rows, classes, stride_x, stride_t, ignore_index, smoothing, z_loss, scale, softcap,
    WEIGHTED: tl.constexpr, SMOOTHED: tl.constexpr, SCALED: tl.constexpr, CAPPED: tl.constexpr,
    HOT: tl.constexpr, K: tl.constexpr, L: tl.constexpr,
):  # fmt: skip
    """One row whose target is a class."""
    row = tl.program_id(0).to(tl.int64)  # before the multiplication: an offset may pass 2^31
    X += row * stride_x
    there = row < rows
    kept, good, y, z_y, share = _target(
        X, T + row * stride_t, W, there, classes, ignore_index,
        scale, softcap, WEIGHTED, SCALED, CAPPED,
    )  # fmt: skip
    end = tl.where(good, classes, 0)  # of a row that does not count nothing is read
    cols = tl.arange(0, K)[:, None] * L + tl.arange(0, L)[None, :]
    m = tl.full([L], -INF, tl.float32)
    s = tl.zeros([L], tl.float32)
    heat = tl.zeros([L], tl.float32)  # for the entropy
    below = tl.zeros([L], tl.float32)  # for label smoothing, over the classes not masked out:
    weights = tl.zeros([L], tl.float32)  # sums of w (m - z), of w,
    number = tl.zeros([L], tl.float32)  # and of 1
    for start in range(0, end, K * L):
        c = start + cols
        z = _logits(X + c, c < classes, scale, softcap, SCALED, CAPPED)
        # In all tiles but one this saves a comparison and a selection per logit.
        if (start <= y) & (y < start + K * L):
            z = tl.where(c == y, -INF, z)
        new, total = _absorb(m, s, z)
        if HOT:
            heat = _absorb_heat(heat, s, m, new, z)
        if SMOOTHED:
            u = (z > -INF).to(tl.float32)
            number += tl.sum(u, axis=0)
            if WEIGHTED:
                u *= tl.load(W + c, mask=c < classes, other=0.0).to(tl.float32)
            below, weights = _absorb_below(below, weights, m, new, z, u)
        m, s = new, total
    top, s_top = _combine(m, s)
    if top == INF:
        s_top = _certain(X, cols, y, end, scale, softcap, SCALED, CAPPED, K, L)
    hot, spread, weight, count = 0.0, 0.0, 0.0, 1.0
    if HOT:
        hot = _combine_heat(heat, m, s, top)
    if SMOOTHED:
        spread, weight = _combine_below(below, weights, m, top)
        count = tl.sum(number, axis=0)
    _finish(
        RESULTS, CORRECT, SAVED, row, rows, there, kept, good, z_y, share,
        top, s_top, hot, spread, weight, count, smoothing, z_loss, SMOOTHED, HOT,
    )  # fmt: skip


@triton.jit
def _forward_small_kernel(
    X, T, W, RESULTS, CORRECT, SAVED,
    rows, classes, stride_x, stride_t, ignore_index, smoothing, z_loss, scale, softcap,
    WEIGHTED: tl.constexpr, SMOOTHED: tl.constexpr, SCALED: tl.constexpr, CAPPED: tl.constexpr,
    HOT: tl.constexpr, R: tl.constexpr, L: tl.constexpr,
):  # fmt: skip
    """R rows of at most L classes, which all fit into one tile; the targets are classes."""
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    there = row < rows
    X += row * stride_x
    kept, good, y, z_y, share = _target(
        X, T + row * stride_t, W, there, classes, ignore_index,
        scale, softcap, WEIGHTED, SCALED, CAPPED,
    )  # fmt: skip
    c = tl.arange(0, L)[None, :]
    z = _logits(X[:, None] + c, good[:, None] & (c < classes), scale, softcap, SCALED, CAPPED)
    z = tl.where(c == y[:, None], -INF, z)
    top = tl.max(z, axis=1)
    ref = tl.where(top == -INF, 0.0, top)[:, None]
    s_top = tl.sum(tl.where(z == ref, 1.0, tl.exp2((z - ref) * LOG2_E)), axis=1)
    hot, spread, weight, count = 0.0, 0.0, 0.0, 1.0
    if HOT:
        drop = tl.where((z == -INF) | (z == ref), 0.0, ref - z)
        each = tl.where(drop < INF, tl.exp2(-drop * LOG2_E) * drop, 0.0)
        hot = tl.sum(each, axis=1)
    if SMOOTHED:
        u = (z > -INF).to(tl.float32)
        count = tl.sum(u, axis=1)
        if WEIGHTED:
            u *= tl.load(W + c, mask=c < classes, other=0.0).to(tl.float32)
        spread = tl.sum(u * tl.where((u == 0.0) | (z == ref), 0.0, ref - z), axis=1)
        weight = tl.sum(u, axis=1)
    _finish(
        RESULTS, CORRECT, SAVED, row, rows, there, kept, good, z_y, share,
        top, s_top, hot, spread, weight, count, smoothing, z_loss, SMOOTHED, HOT,
    )  # fmt: skip


@triton.jit
def _forward_soft_kernel(
    X, T, W, RESULTS, CORRECT, SAVED,
    rows, classes, stride_x, stride_t, ignore_index, smoothing, z_loss, scale, softcap,
    WEIGHTED: tl.constexpr, SMOOTHED: tl.constexpr, SCALED: tl.constexpr, CAPPED: tl.constexpr,
    HOT: tl.constexpr, K: tl.constexpr, L: tl.constexpr,
):  # fmt: skip
    """One row whose target is a row of probabilities, read beside it."""
    row = tl.program_id(0).to(tl.int64)
    X += row * stride_x
    T += row * stride_t
    cols = tl.arange(0, K)[:, None] * L + tl.arange(0, L)[None, :]
    m = tl.full([L], -INF, tl.float32)
    s = tl.zeros([L], tl.float32)
    below = tl.zeros([L], tl.float32)  # sums of w q (m - z)
    share = tl.zeros([L], tl.float32)  # and of w q; for label smoothing those without q:
    below_all = tl.zeros([L], tl.float32)
    share_all = tl.zeros([L], tl.float32)
    number = tl.zeros([L], tl.float32)
    below_q = tl.zeros([L], tl.float32)  # and, if there are weights, those without w
    share_q = tl.zeros([L], tl.float32)
    heat = tl.zeros([L], tl.float32)
    q_likely = tl.full([L], -INF, tl.float32)  # the largest target
    z_likely = tl.full([L], -INF, tl.float32)  # and its logit
    for start in range(0, classes, K * L):
        c = start + cols
        inside = c < classes
        z = _logits(X + c, inside, scale, softcap, SCALED, CAPPED)
        q = tl.load(T + c, mask=inside, other=0.0).to(tl.float32)
        w = inside.to(tl.float32)
        if WEIGHTED:
            w = tl.load(W + c, mask=inside, other=0.0).to(tl.float32)
        new, total = _absorb(m, s, z)
        below, share = _absorb_below(below, share, m, new, z, q * w)
        if WEIGHTED:
            below_q, share_q = _absorb_below(below_q, share_q, m, new, z, q)
        if HOT:
            heat = _absorb_heat(heat, s, m, new, z)
        if SMOOTHED:
            u = tl.where(z > -INF, w, 0.0)
            number += tl.sum((z > -INF).to(tl.float32), axis=0)
            below_all, share_all = _absorb_below(below_all, share_all, m, new, z, u)
        m, s = new, total
        best = tl.max(tl.where(inside, q, -INF), axis=0)
        z_best = tl.max(tl.where(inside & (q == best[None, :]), z, -INF), axis=0)
        z_likely = tl.where(best > q_likely, z_best, z_likely)
        q_likely = tl.maximum(best, q_likely)
    top, total = _combine(m, s)
    if top == INF:
        total = _certain(X, cols, -1, classes, scale, softcap, SCALED, CAPPED, K, L)
    log_total = _log1p(total - 1.0)
    loss, mass = _combine_below(below, share, m, top)
    loss += tl.where(mass == 0.0, 0.0, mass * log_total)
    at_target = loss
    if WEIGHTED:
        at_target, mass_q = _combine_below(below_q, share_q, m, top)
        at_target += tl.where(mass_q == 0.0, 0.0, mass_q * log_total)
    entropy = tl.where(row < rows, 0.0, 0.0)
    if HOT:
        entropy = log_total + _combine_heat(heat, m, s, top) / total
    weight = mass
    count = 1.0
    if SMOOTHED:
        spread, weight_all = _combine_below(below_all, share_all, m, top)
        count = tl.sum(number, axis=0)
        spread = (spread + weight_all * log_total) / count
        loss = tl.where(smoothing == 1.0, 0.0, (1.0 - smoothing) * loss) + smoothing * spread
        mass = (1.0 - smoothing) * mass + smoothing * (weight_all / count)
    # As in _finish. A NaN in any logit reaches the sum, the target's among them.
    broken = (top == -INF) | ((top == INF) & (total > 1.0)) | (total != total)
    spoil = tl.where(broken, float("nan"), 0.0)
    likely = tl.max(tl.where(q_likely == tl.max(q_likely, axis=0), z_likely, -INF), axis=0)
    _store(
        RESULTS, CORRECT, SAVED, row, rows, row < rows, row < rows, likely == top, spoil, loss,
        z_loss, top, log_total, -at_target, entropy, total, total - 1.0, mass, weight, count,
    )  # fmt: skip


@triton.jit
def _backward_kernel(
    X, T, W, SAVED, G, OUT,
    rows, classes, stretch, stride_x, stride_t, stride_out, stride_g, stride_line,
    ignore_index, smoothing, z_loss, scale, softcap,
    SOFT: tl.constexpr, WEIGHTED: tl.constexpr, SMOOTHED: tl.constexpr,
    SCALED: tl.constexpr, CAPPED: tl.constexpr, HOT: tl.constexpr,
    R: tl.constexpr, L: tl.constexpr,
):  # fmt: skip
    """A stretch of a row, or R rows that are shorter than that; elementwise, in tiles of (R, L).

    X, OUT: rows of logits and of their gradient, stride_x and stride_out numbers apart. T: classes,
    or with SOFT rows of probabilities, stride_t apart. SAVED: shape (7, rows). G: the derivatives
    with respect to the four results, stride_line from one to the next and stride_g from row to row.
    """
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    there = row < rows
    kept = there
    y = tl.full([R], -1, tl.int32)
    if not SOFT:
        label = tl.load(T + row * stride_t, mask=there, other=0).to(tl.int64)
        kept = there & (label != ignore_index)
        y = tl.where((label >= 0) & (label < classes), label, -1).to(tl.int32)
    # A row that does not count is not read: it may hold anything. So may what is saved of it.
    largest = tl.load(_line(SAVED, LARGEST, rows, row), mask=kept, other=0.0)
    total = tl.load(_line(SAVED, TOTAL, rows, row), mask=kept, other=1.0)
    rest = tl.load(_line(SAVED, REST, rows, row), mask=kept, other=0.0)
    mass = tl.load(_line(SAVED, MASS, rows, row), mask=kept, other=0.0)
    share_y = tl.load(_line(SAVED, SHARE, rows, row), mask=kept, other=0.0)
    g = tl.load(_line(G, LOSS, stride_line, row * stride_g), mask=kept, other=0.0)
    g_log_prob = tl.load(_line(G, LOG_PROB, stride_line, row * stride_g), mask=kept, other=0.0)
    of_p = g * mass - g_log_prob
    log_total = _log1p(total - 1.0)
    if z_loss > 0.0:
        of_p += g * 2.0 * z_loss * (largest + log_total)
    of_p += tl.load(_line(G, LSE, stride_line, row * stride_g), mask=kept, other=0.0)
    if HOT:
        g_entropy = tl.load(_line(G, ENTROPY, stride_line, row * stride_g), mask=kept, other=0.0)
        of_p -= g_entropy * tl.load(_line(SAVED, SPREAD, rows, row), mask=kept, other=0.0)
        of_surprise = g_entropy / total
    of_q = g * (1.0 - smoothing)
    of_y = of_q * share_y - g_log_prob
    if SMOOTHED:
        of_each = g * (smoothing / tl.load(_line(SAVED, COUNT, rows, row), mask=kept, other=1.0))
    of_e = of_p / total
    of_e_y = (of_p - of_y) / total
    X += row * stride_x
    OUT += row * stride_out
    if SOFT:
        T += row * stride_t
    first = tl.program_id(1) * stretch
    for start in range(first, tl.minimum(first + stretch, classes), L):
        c = start + tl.arange(0, L)[None, :]
        inside = kept[:, None] & (c < classes)
        z = _logits(X[:, None] + c, inside, scale, softcap, SCALED, CAPPED)
        w = 1.0
        if WEIGHTED and (SOFT or SMOOTHED):
            w = tl.load(W + c, mask=c < classes, other=0.0).to(tl.float32)
        e = _exp(z - largest[:, None])
        if tl.max(largest, axis=0) == INF:  # written as 1: inf - inf is not
            e = tl.where(z == largest[:, None], 1.0, e)
        dz = e * of_e[:, None]
        if SOFT:
            q = of_q[:, None] * w - g_log_prob[:, None]
            q *= tl.load(T[:, None] + c, mask=inside, other=0.0).to(tl.float32)
            # 1 - p of the likeliest class is known better than p.
            likeliest = (of_p[:, None] - q) - (of_p * rest)[:, None]
            dz = tl.where(z == largest[:, None], likeliest, dz - q)
        else:
            last = tl.max(y, axis=0)  # for R = 1 the target, whose tile this may be
            if (R > 1) | ((start <= last) & (last < start + L)):
                at_y = e * of_e_y[:, None] - (of_y * rest)[:, None]
                dz = tl.where(c == y[:, None], tl.where(z == -INF, 0.0, at_y), dz)
        if HOT:
            drop = tl.where(z == largest[:, None], 0.0, largest[:, None] - z)
            surprise = drop + log_total[:, None]
            dz += tl.where(e == 0.0, 0.0, of_surprise[:, None] * e * surprise)
        if SMOOTHED:
            dz -= of_each[:, None] * w
        if SCALED:
            dz *= scale
        if CAPPED:
            dz *= _slope(X[:, None] + c, inside, scale, softcap, SCALED)
        if (SOFT or SMOOTHED) or (CAPPED or HOT):  # Triton before 3.4 has no chain of three
            dz = tl.where(z == -INF, 0.0, dz)
        tl.store(OUT[:, None] + c, dz.to(OUT.dtype.element_ty), mask=there[:, None] & (c < classes))


def can(x: Tensor, target: Tensor, o: Options) -> bool:
    """From Volta on; and a grid has 65535 blocks of 4096 classes."""
    if x.dtype not in (torch.float16, torch.bfloat16, torch.float32) or x.shape[-1] >= 2**27:
        return False
    return x.is_cuda and torch.cuda.get_device_capability(x.device) >= (7, 0)


def forward(x: Tensor, target: Tensor, weight: Tensor | None, o: Options) -> Rows:
    (n, classes), x, target = x.shape, _flat(x), _flat(target)
    weight = None if weight is None else weight.contiguous()
    results = torch.empty(4, n, device=x.device, dtype=torch.float32)
    correct = torch.empty(n, device=x.device, dtype=torch.bool)
    saved = torch.empty(family.SAVED, n, device=x.device, dtype=torch.float32)
    soft = target.is_floating_point()
    if soft or classes > SMALL:
        # As many warps as a row has kilobytes to share, a power of two up to 8.
        warps = 1 << min(3, max(0, (classes * x.element_size() // 2048).bit_length() - 1))
        tile = {"K": 2 if soft else 4, "L": 32 * warps * (16 // x.element_size())}
        kernel, programs = (_forward_soft_kernel if soft else _forward_kernel), n
    else:
        kernel, warps, tile = _forward_small_kernel, 1, _rows_of(classes)
        programs = triton.cdiv(n, tile["R"])
    if n > 0:
        with _on(x):
            kernel[(programs,)](
                x, target, weight, results, correct.view(torch.int8), saved, n, classes,
                x.stride(0), target.stride(0), **_numbers(o), **_flags(weight, o),
                **tile, num_warps=warps,
            )  # fmt: skip
    return Rows(results, correct, saved)


def backward(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None,
    o: Options,
    saved: Tensor,
    g: Tensor,
    out: Tensor,
) -> None:
    (n, classes), x, target = x.shape, _flat(x), _flat(target)
    weight = None if weight is None else weight.contiguous()
    # What a program does once for its row counts less if it has several tiles.
    length = min(4096, triton.next_power_of_2(classes))
    tile = _rows_of(classes) if classes <= SMALL else {"R": 1, "L": length}
    tiles = triton.cdiv(n, tile["R"]), triton.cdiv(classes, length)
    stretch = length * min(4, 1 + tiles[0] * tiles[1] // PROGRAMS)
    flags = _flags(weight, o) | {"SOFT": target.is_floating_point()}
    if n > 0:
        with _on(x):
            _backward_kernel[(tiles[0], triton.cdiv(classes, stretch))](
                x, target, weight, saved, g, out, n, classes, stretch, x.stride(0),
                target.stride(0), out.stride(0), g.stride(1), g.stride(0), **_numbers(o),
                **flags, **tile, num_warps=length // 512 if classes > SMALL else 1,
            )  # fmt: skip


def _rows_of(classes: int) -> dict[str, int]:
    """A tile for one warp, with one row or several short ones.

    If they are very short, it has fewer than SMALL logits: what a thread holds per row counts then.
    """
    length = triton.next_power_of_2(classes)
    return {"R": min(SMALL // length, max(8, 256 // length)), "L": length}


def _flat(a: Tensor) -> Tensor:
    return a if a.stride(-1) == 1 or a.ndim == 1 else a.contiguous()


def _numbers(o: Options) -> dict[str, int | float]:
    return {
        "ignore_index": o.ignore_index,
        "smoothing": float(o.label_smoothing),
        "z_loss": float(o.z_loss),
        "scale": float(o.scale),
        "softcap": float(o.softcap),
    }


def _flags(weight: Tensor | None, o: Options) -> dict[str, bool]:
    return {
        "WEIGHTED": weight is not None,
        "SMOOTHED": o.label_smoothing > 0,
        "SCALED": o.scale != 1.0,
        "CAPPED": o.softcap > 0,
        "HOT": o.entropy,
    }


def _on(x: Tensor) -> AbstractContextManager[object]:
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()
