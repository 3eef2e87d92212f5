"""The inputs on which a loss is tried: few, small, and each the end of some way of writing it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

# How far two logits have to be apart, or from 0, for `exp` to overflow and to underflow, and to be
# outside of the bounds that people put on logits; but not as far as -1e4, which is a usual stand-in
# for -inf. Powers of two, which every dtype holds.
BEYOND = {
    torch.float16: 32.0,
    torch.bfloat16: 256.0,
    torch.float32: 2.0**13,
    torch.float64: 2.0**13,
}

# How far apart they have to be for `exp` to underflow alone, even after a shift by their mean.
UNDERFLOW = {torch.float16: 20.0, torch.bfloat16: 112.0, torch.float32: 112.0, torch.float64: 800.0}

# How far ahead the right class has to be for 1 - p to be rounded to 0, while the loss, about
# exp(-gap), still is a number of the dtype.
SURE = {torch.float16: 10.0, torch.bfloat16: 20.0, torch.float32: 20.0, torch.float64: 40.0}

# From these two rows the parameters of a mistake are read: how far the right class is ahead in one,
# and behind in the other.
AHEAD, BEHIND = 2.0, 3.0

# From p = 0.002 down to 1e-17: between them lie the constants that are added to a probability.
LADDER = (6.0, 9.0, 12.0, 15.0, 18.0, 20.0, 22.0, 25.0, 28.0, 32.0, 36.0, 40.0)


@dataclass(frozen=True)
class Setting:
    """What a loss is asked for."""

    kind: str
    reduction: str
    dtype: torch.dtype
    ignore_index: int | None
    weight: tuple[float, ...] | None
    classes: int | None
    gradient: bool
    strict: bool


@dataclass(frozen=True, eq=False)
class Probe:
    """One input. Its logits are of float64, but numbers of the dtype in question."""

    name: str
    logits: Tensor
    target: Tensor  #: as the loss gets it
    truth: Tensor  #: the probability of each class, or of yes, in float64
    counts: Tensor  #: which rows are not ignored
    weights: Tensor  #: a factor for each row
    smooth: bool  #: whether every right formula has the right gradient here, see `_smooth`

    @property
    def width(self) -> int:
        """The number of classes, or of labels."""
        return self.logits.shape[1] if self.logits.ndim == 2 else 1

    @property
    def size(self) -> int:
        return self.logits.numel()

    @property
    def largest(self) -> float:
        """The size of the logits, which the rounding of a difference of two of them follows."""
        finite = self.logits[self.logits.isfinite()]
        return float(finite.abs().max())

    @property
    def is_mild(self) -> bool:
        """Whether half precision can hold all that a loss computes on the way."""
        return self.largest <= 4


@lru_cache(maxsize=64)
def probes(s: Setting) -> tuple[Probe, ...]:
    """All inputs for a setting; the first one is plain."""
    made = {
        "multiclass": _multiclass,
        "soft": _soft,
        "binary": _binary,
        "multilabel": _multilabel,
    }[s.kind]
    return tuple(made(s))


def _eighths(rows: int, columns: int, seed: int) -> Tensor:
    """Logits from -4 to 4, odd multiples of 1/8: every dtype holds them."""
    rng = np.random.default_rng(seed)
    draw = [rng.permutation(max(columns, 32))[:columns] % 32 for _ in range(rows)]
    return torch.tensor(np.array(draw) / 4 - 31 / 8)


def _smooth(logits: Tensor) -> bool:
    """Whether no formula has a kink at these logits: at 0, or where two in a row are the same.

    There `abs`, `clamp` and `max` have some slope of many, and max(z, 0) - z y + log(1 + exp(-|z|))
    has the gradient 0 at z = 0, which is wrong, but no mistake. Nobody compares more than a few
    classes in pairs.
    """
    if logits.ndim == 1:
        return not bool((logits == 0).any())
    return logits.shape[1] > 32 or all(len(row.unique()) == len(row) for row in logits)


# One of several classes.


def _multiclass(s: Setting) -> list[Probe]:
    return [*_classes(s), *_masked(s), *_ignored(s)]


def _classes(s: Setting) -> list[Probe]:
    c = s.classes or 3
    sure, beyond = SURE[s.dtype], BEYOND[s.dtype]
    out = [
        _batch(s, "plain", _eighths(4, c, 0)),
        _batch(s, "reversed", _eighths(4, c, 0).flip(0), reverse=True),
        _batch(s, "tie", torch.zeros(1, c)),
        _batch(s, "ahead", _duel(s, c, [AHEAD], apart=False)),
        _batch(s, "behind", _duel(s, c, [-BEHIND], apart=False)),
        _batch(s, "sure", _duel(s, c, [sure])),
        _batch(s, "underflow", _duel(s, c, [-UNDERFLOW[s.dtype]])),
        _batch(s, "beyond", _duel(s, c, [-beyond])),
        _batch(s, "beyond, right", _duel(s, c, [beyond])),
        _batch(s, "high", _evens(c) + beyond),
        _batch(s, "low", -_evens(c) - beyond),
        _batch(s, "high and low", torch.cat([_evens(c) + beyond, -_evens(c) - beyond])),
        _batch(s, "ladder", _duel(s, c, [-gap for gap in LADDER])),
        # Thirds of eighths: numbers that half precision has to round.
        _batch(s, "another", _eighths(3, c if s.classes else 5, 12) / 3),
    ]
    if c <= 64:
        out.append(_batch(s, "square", _eighths(c, c, 3)))
    if s.classes is None and s.dtype.itemsize > 2:
        out.append(_batch(s, "many", _eighths(2, 1000, 4)))
    return out


def _allowed(s: Setting, classes: int) -> list[int]:
    """The classes that may be a target."""
    return [k for k in range(classes) if k != s.ignore_index]


def _duel(s: Setting, classes: int, gaps: Sequence[float], *, apart: bool = True) -> Tensor:
    """For each gap a row in which the target is so far ahead of the next class, or behind it.

    The other classes are at -1, -2 and so on, or, if they are not apart, at 0.
    """
    allowed = _allowed(s, classes)
    z = torch.zeros(len(gaps), classes, dtype=torch.float64)
    for row, gap in enumerate(gaps):
        target = allowed[row % len(allowed)]
        rival = (target + 1) % classes
        if apart:
            z[row, [k for k in range(classes) if k not in (target, rival)]] = _others(classes)
        z[row, target if gap > 0 else rival] = abs(gap)
    return z


def _others(classes: int) -> Tensor:
    return -(torch.arange(1, classes - 1) % 32).double()


def share_of_others(classes: int) -> float:
    """The sum of ``exp`` over the classes that are neither the target nor the next one."""
    return float(_others(classes).exp().sum())


def _evens(classes: int) -> Tensor:
    """Distinct numbers that every dtype can add to a power of two."""
    return 2.0 * (torch.arange(classes, dtype=torch.float64)[None] * 7 % 32)


def _batch(s: Setting, name: str, logits: Tensor, *, reverse: bool = False) -> Probe:
    rows, classes = logits.shape
    allowed = _allowed(s, classes)
    target = torch.tensor([allowed[row % len(allowed)] for row in range(rows)])
    return _labelled(s, name, logits, target.flip(0) if reverse else target)


def _labelled(s: Setting, name: str, logits: Tensor, target: Tensor) -> Probe:
    logits = logits.to(s.dtype).double()
    classes = logits.shape[1]
    counts = torch.ones(len(target), dtype=torch.bool)
    if s.ignore_index is not None:
        counts = target != s.ignore_index
    safe = torch.where(counts, target, _allowed(s, classes)[0])
    weights = torch.ones(len(target), dtype=torch.float64)
    if s.weight is not None:
        weights = torch.tensor(s.weight, dtype=torch.float64)[safe]
    truth = torch.nn.functional.one_hot(safe, classes).double()
    return Probe(name, logits, target, truth, counts, weights, _smooth(logits))


def _masked(s: Setting) -> list[Probe]:
    """A class that is impossible, and is not the target."""
    z = _duel(s, s.classes or 3, [1.0])
    z[0, _allowed(s, z.shape[1])[0] - 1] = -torch.inf
    return [_batch(s, "masked", z)]


def _ignored(s: Setting) -> list[Probe]:
    if s.ignore_index is None:
        return []
    c = s.classes or 3
    allowed = _allowed(s, c)
    some = torch.tensor([allowed[0], s.ignore_index, allowed[-1], s.ignore_index])
    every = torch.full((2,), s.ignore_index)
    return [
        _labelled(s, "ignored", _eighths(4, c, 5), some),
        _labelled(s, "all ignored", _eighths(2, c, 6), every),
    ]


# A distribution over the classes.


def _soft(s: Setting) -> list[Probe]:
    """The rows of the hard case, as distributions, and mixed ones."""
    hard = [_spread(s, one, one.truth) for one in [*_classes(s), *_masked(s)]]
    c = s.classes or 3
    mixed = torch.tensor(np.random.default_rng(7).multinomial(64, [1 / c] * c, 4) / 64)
    reversed_ = _spread(s, replace(hard[1], logits=hard[0].logits.flip(0)), mixed.flip(0))
    plain = _spread(s, hard[0], mixed)
    one = _spread(s, _batch(s, "one row", _eighths(1, c, 8)), mixed[:1])
    return [plain, reversed_, one, *hard[2:]]


def _spread(s: Setting, probe: Probe, truth: Tensor) -> Probe:
    return replace(probe, target=truth.to(s.dtype), truth=truth)


# Yes or no.


def _binary(s: Setting) -> list[Probe]:
    sure, beyond = SURE[s.dtype], BEYOND[s.dtype]
    plain = _eighths(6, 1, 0).ravel()
    answers = [1, 0, 0, 1, 0, 1]
    ladder = torch.tensor(LADDER)
    return [
        _answers(s, "plain", plain, answers),
        _answers(s, "reversed", plain.flip(0), answers[::-1]),
        _answers(s, "tie", [0], [1]),
        _answers(s, "tie, no", [0], [0]),
        _answers(s, "ahead", [AHEAD], [1]),
        _answers(s, "ahead, no", [-AHEAD], [0]),
        _answers(s, "behind", [-BEHIND], [1]),
        _answers(s, "behind, no", [BEHIND], [0]),
        _answers(s, "sure", [sure], [1]),
        _answers(s, "sure, no", [-sure], [0]),
        _answers(s, "lost, no", [sure], [0]),
        _answers(s, "beyond", [-beyond], [1]),
        _answers(s, "beyond, no", [beyond], [0]),
        _answers(s, "beyond, right", [beyond], [1]),
        _answers(s, "beyond, right, no", [-beyond], [0]),
        _answers(s, "ladder", -ladder, [1] * len(ladder)),
        _answers(s, "ladder, no", ladder, [0] * len(ladder)),
        # Thirds of eighths: numbers that half precision has to round.
        _answers(s, "another", _eighths(4, 1, 12).ravel() / 3, [0, 1, 1, 0]),
    ]


def _answers(
    s: Setting, name: str, logits: Tensor | Sequence[float], answers: Sequence[int]
) -> Probe:
    z = torch.as_tensor(logits, dtype=torch.float64).to(s.dtype).double()
    y = torch.tensor(answers, dtype=torch.float64)
    ones = torch.ones(len(y), dtype=torch.float64)
    return Probe(name, z, y.to(s.dtype), y, ones.bool(), ones, _smooth(z))


# Yes or no for each of several labels.


def _multilabel(s: Setting) -> list[Probe]:
    """The rows of the binary case, each of one number in all columns, and mixed ones."""
    width = s.classes or 3
    same = [_columns(s, one, width) for one in _binary(s)]
    z = _eighths(4, width, 9)
    y = torch.tensor(np.random.default_rng(10).integers(0, 2, (4, width)), dtype=torch.float64)
    plain = replace(_rows(s, z, y), name="plain")
    reversed_ = replace(_rows(s, z.flip(0), y.flip(0)), name="reversed")
    return [plain, reversed_, *same[2:]]


def _columns(s: Setting, one: Probe, width: int) -> Probe:
    z, y = (a[:, None].repeat(1, width) for a in (one.logits, one.truth))
    return replace(_rows(s, z, y), name=one.name)


def _rows(s: Setting, z: Tensor, y: Tensor) -> Probe:
    ones = torch.ones(len(z), dtype=torch.float64)
    return Probe("", z, y.to(s.dtype), y, ones.bool(), ones, bool((z != 0).all()))
