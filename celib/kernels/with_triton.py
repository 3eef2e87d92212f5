"""The kernels of a GPU: the logits are read once going forward, read and written once going back.

Forward, a program reads one row, tile by tile. A tile is K x L numbers, and L is such that each
thread holds one 16-byte vector of every row of the tile: then the largest of K, and the sum of K,
are found within a thread, without a word to the others, and each of the L lanes carries a pair of
its own, the largest logit and the sum of exponentials relative to it. Only after the last tile do
the lanes combine. The target is left out of the pair and comes in at the end, so that the loss of a
confident prediction, and 1 - p in its gradient, are computed from what the other classes have, not
from 1 minus almost 1.

Logits are shifted first and multiplied by log2(e) after: the other order loses what an offset
common to all logits takes away.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

from celib.kernels.family import Options

LOG2_E: tl.constexpr = tl.constexpr(1.0 / math.log(2.0))
# The logarithm of 2 in two parts: the first has so few digits that its multiples are exact.
LN2_HIGH: tl.constexpr = tl.constexpr(0.693359375)
LN2_LOW: tl.constexpr = tl.constexpr(math.log(2.0) - 0.693359375)
INF: tl.constexpr = tl.constexpr(math.inf)
NAN: tl.constexpr = tl.constexpr(math.nan)


@triton.jit
def _exp(x):
    """exp(x) for x <= 0, with the digits of exp2 also where x is large."""
    n = tl.floor(x * LOG2_E + 0.5)
    r = (x - n * LN2_HIGH) - n * LN2_LOW
    return tl.where(x < -100.0, 0.0, tl.exp2(n) * tl.exp2(r * LOG2_E))


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
def _logits(X, inside, scale, softcap, CAPPED: tl.constexpr):
    """A tile of logits in float32; -inf outside the row, which must come after the softcap."""
    x = tl.load(X, mask=inside, other=0.0).to(tl.float32)
    z = x * scale
    if CAPPED:
        e = tl.exp2(tl.abs(z) * (-2.0 * LOG2_E / softcap))
        z = tl.where(z < 0.0, -softcap, softcap) * ((1.0 - e) / (1.0 + e))
        z = tl.where(x == -INF, -INF, z)
    return tl.where(inside, z, -INF)


@triton.jit
def _forward_kernel(
    X, T, W, LOSS, LSE, CORRECT, NUMBERS,
    rows, classes, stride_x, stride_t, ignore_index, smoothing, z_loss, scale, softcap,
    SOFT: tl.constexpr, WEIGHTED: tl.constexpr, SMOOTHED: tl.constexpr, CAPPED: tl.constexpr,
    K: tl.constexpr, L: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)  # before the multiplication: an offset may pass 2^31
    X += row * stride_x
    cols = tl.arange(0, K)[:, None] * L + tl.arange(0, L)[None, :]
    m = tl.full([L], -INF, tl.float32)  # of each lane: the largest logit,
    s = tl.zeros([L], tl.float32)  # the sum of exp(z - m),
    below = tl.zeros([L], tl.float32)  # the sum of share (m - z), for a row of targets
    share = tl.zeros([L], tl.float32)
    below_all = tl.zeros([L], tl.float32)  # and of weight (m - z), over the classes not masked out
    share_all = tl.zeros([L], tl.float32)
    allowed = tl.zeros([L], tl.float32)
    top_q = tl.full([L], -INF, tl.float32)
    z_top_q = tl.full([L], -INF, tl.float32)
    if SOFT:
        T += row * stride_t
        y = -1
        kept = row >= 0
        wrong = row < 0
        end = classes
        z_y = row.to(tl.float32) * 0.0 - INF
        share_y = 0.0
    else:
        label = tl.load(T + row * stride_t).to(tl.int64)
        kept = label != ignore_index
        wrong = kept & ((label < 0) | (label >= classes))
        good = kept & (label >= 0) & (label < classes)
        y = tl.where(good, label, 0).to(tl.int32)
        end = tl.where(good, classes, 0)  # of a row that does not count nothing is read
        z_y = _logits(X + y, good, scale, softcap, CAPPED)
        share_y = good.to(tl.float32)
        if WEIGHTED:
            share_y = tl.load(W + y, mask=good, other=0.0).to(tl.float32)
    for start in range(0, end, K * L):
        c = start + cols
        inside = c < classes
        z = _logits(X + c, inside, scale, softcap, CAPPED)
        if not SOFT:
            z = tl.where(c == y, -INF, z)
        new = tl.maximum(m, tl.max(z, axis=0))
        ref = tl.where(new == -INF, 0.0, new)  # nothing but masked classes so far
        s = s * tl.exp2((m - ref) * LOG2_E) + tl.sum(tl.exp2((z - ref[None, :]) * LOG2_E), axis=0)
        if SOFT or SMOOTHED:
            w = inside.to(tl.float32)
            if WEIGHTED:
                w = tl.load(W + c, mask=inside, other=0.0).to(tl.float32)
            rise = tl.where(m == -INF, 0.0, new - m)
            drop = tl.where(z == ref[None, :], 0.0, ref[None, :] - z)
            if SMOOTHED:
                counts = z > -INF
                each = tl.where(counts, w, 0.0)
                below_all += share_all * rise + tl.sum(tl.where(counts, each * drop, 0.0), axis=0)
                share_all += tl.sum(each, axis=0)
                allowed += tl.sum(counts.to(tl.float32), axis=0)
            if SOFT:
                q = tl.load(T + c, mask=inside, other=0.0).to(tl.float32)
                u = q * w
                below += share * rise + tl.sum(tl.where(u == 0.0, 0.0, u * drop), axis=0)
                share += tl.sum(u, axis=0)
                # The logit of the likeliest target: ties within a lane go to the larger logit.
                q = tl.where(inside, q, -1.0)
                best = tl.max(q, axis=0)
                z_best = tl.max(tl.where(q == best[None, :], z, -INF), axis=0)
                z_top_q = tl.where(best > top_q, z_best, z_top_q)
                top_q = tl.maximum(best, top_q)
        m = new
    # The lanes combine.
    top = tl.max(m, axis=0)
    to_top = tl.where(m == top, 1.0, _exp(m - top))
    s_top = tl.sum(s * to_top, axis=0)
    if top == INF:  # rare: how many are certain?
        count = tl.zeros([L], tl.float32)
        for start in range(0, end, K * L):
            c = start + cols
            z = _logits(X + c, c < classes, scale, softcap, CAPPED)
            certain = tl.where(z == INF, 1.0, tl.where(z == z, 0.0, NAN))
            count += tl.sum(tl.where(c == y, 0.0, certain), axis=0)
        s_top = tl.sum(count, axis=0)
    largest = tl.maximum(top, z_y)
    e_top = tl.where(top == largest, 1.0, _exp(top - largest))
    e_y = tl.where(z_y == largest, 1.0, _exp(z_y - largest))
    rest = s_top * e_top
    if SOFT:
        rest = rest - 1.0  # of the likeliest class
        e_y = 1.0
    total = rest + e_y
    # Two certainties, or no class at all, stand for no distribution.
    broken = wrong | (largest == -INF) | ((largest == INF) & (total > 1.0))
    spoil = tl.where(broken, NAN, 0.0) + tl.where(z_y == z_y, 0.0, NAN)
    log_total = _log1p(tl.where(total < 2.0, rest + (e_y - 1.0), total - 1.0))
    lse = largest + log_total + spoil
    from_top = tl.where(top == largest, 0.0, largest - top) + log_total
    lifted = tl.where(m == -INF, 0.0, tl.where(m == top, 0.0, top - m))
    if SOFT:
        mass = tl.sum(share, axis=0)
        share_y = mass
        below_top = tl.sum(below + tl.where(share == 0.0, 0.0, share * lifted), axis=0)
        loss = below_top + mass * log_total
        z_likely = tl.max(tl.where(top_q == tl.max(top_q, axis=0), z_top_q, -INF), axis=0)
        correct = z_likely == largest
    else:
        loss_y = tl.where(z_y == largest, _log1p(rest), (largest - z_y) + log_total)
        loss = tl.where(share_y == 0.0, tl.where(loss_y == loss_y, 0.0, NAN), share_y * loss_y)
        mass = share_y
        correct = z_y == largest
    number = 1.0
    if SMOOTHED:
        weights = tl.sum(share_all, axis=0)
        spread = tl.sum(below_all + tl.where(share_all == 0.0, 0.0, share_all * lifted), axis=0)
        spread += tl.where(weights == 0.0, 0.0, weights * from_top)
        number = tl.sum(allowed, axis=0)
        if not SOFT:
            mine = z_y > -INF
            spread += tl.where(mine & (share_y != 0.0), share_y * loss_y, 0.0)
            weights += tl.where(mine, share_y, 0.0)
            number += mine.to(tl.float32)
        loss = (
            tl.where(smoothing == 1.0, 0.0, (1.0 - smoothing) * loss) + smoothing * spread / number
        )
        mass = (1.0 - smoothing) * mass + smoothing * weights / number
    loss += tl.where(z_loss == 0.0, 0.0, z_loss * lse * lse) + spoil
    tl.store(LOSS + row, tl.where(kept, loss, 0.0))
    tl.store(LSE + row, tl.where(kept, lse, 0.0))
    tl.store(CORRECT + row, (kept & correct & (spoil == 0.0)).to(tl.int8))
    NUMBERS += row
    tl.store(NUMBERS, largest + spoil)
    tl.store(NUMBERS + rows, total)
    tl.store(NUMBERS + 2 * rows, rest / total)
    tl.store(NUMBERS + 3 * rows, mass)
    tl.store(NUMBERS + 4 * rows, tl.where(kept, share_y, 0.0))
    tl.store(NUMBERS + 5 * rows, number)


@triton.jit
def _backward_kernel(
    X, T, W, NUMBERS, G_LOSS, G_LSE, OUT,
    rows, classes, stride_x, stride_t, stride_out, stride_g, stride_h,
    ignore_index, smoothing, z_loss, scale, softcap,
    SOFT: tl.constexpr, WEIGHTED: tl.constexpr, SMOOTHED: tl.constexpr, CAPPED: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = c < classes
    OUT += row * stride_out + c
    y = -1
    kept = row >= 0
    if not SOFT:
        label = tl.load(T + row * stride_t).to(tl.int64)
        kept = label != ignore_index
        y = tl.where((label >= 0) & (label < classes), label, -1).to(tl.int32)
    # A row that does not count is not read: it may hold anything.
    z = _logits(X + row * stride_x + c, inside & kept, scale, softcap, CAPPED)
    NUMBERS += row
    largest = tl.load(NUMBERS)
    total = tl.load(NUMBERS + rows)
    rest = tl.load(NUMBERS + 2 * rows)
    mass = tl.load(NUMBERS + 3 * rows)
    share_y = tl.load(NUMBERS + 4 * rows)
    g = tl.load(G_LOSS + row * stride_g)
    of_p = g * (mass + 2.0 * z_loss * (largest + _log1p(total - 1.0)))
    of_p = tl.where(z_loss == 0.0, g * mass, of_p) + tl.load(G_LSE + row * stride_h)
    w = tl.full([BLOCK], 1.0, tl.float32)
    if WEIGHTED:
        w = tl.load(W + c, mask=inside, other=0.0).to(tl.float32)
    p = tl.where(z == largest, 1.0, _exp(z - largest)) / total
    if SOFT:
        q = tl.load(T + row * stride_t + c, mask=inside, other=0.0).to(tl.float32)
        of_q = g * (1.0 - smoothing) * (q * w)
        # 1 - p of the likeliest class is known better than p.
        dz = tl.where(z == largest, (of_p - of_q) - of_p * rest, of_p * p - of_q)
    else:
        of_y = g * (1.0 - smoothing) * share_y
        dz = tl.where(c == y, (of_p - of_y) * p - of_y * rest, of_p * p)
    if SMOOTHED:
        dz -= g * (smoothing / tl.load(NUMBERS + 5 * rows)) * w
    if CAPPED:
        dz *= 1.0 - (z / softcap) * (z / softcap)
    dz = tl.where(z == -INF, 0.0, dz * scale)
    tl.store(OUT, dz.to(OUT.dtype.element_ty), mask=inside)


def forward(
    x: Tensor, target: Tensor, weight: Tensor | None, o: Options
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As :func:`celib.kernels.with_aten.forward`; x may be strided between rows only."""
    (n, classes), x, target = x.shape, _flat(x), _flat(target)
    loss, lse = (torch.empty(n, device=x.device, dtype=torch.float32) for _ in range(2))
    correct = torch.empty(n, device=x.device, dtype=torch.bool)
    numbers = torch.empty(6, n, device=x.device, dtype=torch.float32)
    # As many warps as a row has kilobytes to share, a power of two up to 8.
    warps = 1 << min(3, max(0, (classes * x.element_size() // 2048).bit_length() - 1))
    lanes = 32 * warps * (16 // x.element_size())
    if n > 0:
        with _on(x):
            _forward_kernel[(n,)](
                x, target, weight, loss, lse, correct.view(torch.int8), numbers, n, classes,
                x.stride(0), target.stride(0), *_numbers(o), **_flags(target, weight, o),
                K=4, L=lanes, num_warps=warps,
            )  # fmt: skip
    return loss, lse, correct, numbers


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
    """As :func:`celib.kernels.with_aten.backward`."""
    (n, classes), x, target = x.shape, _flat(x), _flat(target)
    block = min(4096, triton.next_power_of_2(classes))
    if n > 0:
        with _on(x):
            _backward_kernel[(n, triton.cdiv(classes, block))](
                x, target, weight, numbers, g_loss, g_lse, out, n, classes, x.stride(0),
                target.stride(0), out.stride(0), g_loss.stride(0), g_lse.stride(0), *_numbers(o),
                **_flags(target, weight, o), BLOCK=block, num_warps=max(1, block // 512),
            )  # fmt: skip


def _flat(a: Tensor) -> Tensor:
    return a if a.stride(-1) == 1 or a.ndim == 1 else a.contiguous()


def _numbers(o: Options) -> tuple[int | float, ...]:
    ignore_index, *others, scale = o
    smoothing, z_loss, softcap = map(float, others)
    return ignore_index, smoothing, z_loss, float(scale), softcap


def _flags(target: Tensor, weight: Tensor | None, o: Options) -> dict[str, bool]:
    return {
        "SOFT": target.is_floating_point(),
        "WEIGHTED": weight is not None,
        "SMOOTHED": o.label_smoothing > 0,
        "CAPPED": o.softcap > 0,
    }


def _on(x: Tensor) -> AbstractContextManager[object]:
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()
