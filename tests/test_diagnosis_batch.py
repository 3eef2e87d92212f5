"""celib.diagnosis.diagnose: what it says of broken batches, and that it is silent about others.

The losses and gradients are those of torch, and the mistakes are written as people write them, with
torch or NumPy; nothing here asks the library what the right answer is.
"""

import functools
import math
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import celib.diagnosis as package
import celib.losses
from celib.data import digits, python_topics
from celib.diagnosis import Findings, diagnose
from celib.diagnosis.__main__ import main
from celib.diagnosis.batch import CAUSES
from celib.diagnosis.rules.loss import CLIPS
from celib.ngram import CharacterModel

inf, nan = math.inf, math.nan
ROOT = Path(__file__).parents[1]
CHAPTER = {
    "The loss is NaN",
    "Only the gradient is NaN",
    "The loss is stuck",
    "The loss is a strange number",
    "The loss is exactly 0",
    "Shapes and labels",
    "Padding, masks and means",
    "Class weights and imbalance",
    "Half precision",
}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Many small batches: threads that wait for each other take most of the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def random(seed):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0, size=1.0):
    return size * torch.randn(shape, generator=random(seed))


def classes(*shape, count, seed=0):
    return torch.randint(count, shape, generator=random(seed + 1000))


def with_loss(logits, target, loss=F.cross_entropy, **options):
    """A batch with the loss, the gradient and the probabilities that torch has for it."""
    z = logits.detach().clone().requires_grad_()
    value = loss(z, target, **options)
    value.backward()
    binary = loss is not F.cross_entropy
    return {
        "logits": logits,
        "target": target,
        "loss": value.item(),
        "gradient": z.grad,
        "probabilities": logits.sigmoid() if binary else logits.softmax(min(1, logits.ndim - 1)),
        **({"binary": True} if binary else {}),
        **options,
    }


bce = F.binary_cross_entropy_with_logits


# Models. Each is trained once, and looked at on the way.


@functools.cache
def digits_models(kind, seed):
    """Logits and labels of a model of the digits: before, during and after its training."""
    pixels, labels = digits()
    order = torch.randperm(len(labels), generator=random(seed))
    x = torch.tensor(pixels, dtype=torch.float32).flatten(1)[order] / 16
    y = torch.tensor(labels).long()[order]
    torch.manual_seed(seed)
    layers = {
        "linear": [torch.nn.Linear(64, 10)],
        "mlp": [torch.nn.Linear(64, 48), torch.nn.ReLU(), torch.nn.Linear(48, 10)],
    }
    model = torch.nn.Sequential(*layers[kind])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    stages = []
    for step in range(121):
        if step in (0, 1, 3, 10, 30, 120):
            with torch.no_grad():
                stages.append(model(x))
        some = slice(256 * (step % 7), 256 * (step % 7 + 1))
        optimizer.zero_grad()
        F.cross_entropy(model(x[some]), y[some]).backward()
        optimizer.step()
    return stages, y


@functools.cache
def text_models(seed):
    """Logits (N, C, T) and labels (N, T) of a model of characters, as it learns."""
    text = python_topics()[6000 * seed : 6000 * (seed + 1)]
    alphabet = sorted(set(text))
    ids = torch.tensor([alphabet.index(c) for c in text])
    windows = ids[: 16 * 33 * (len(ids) // (16 * 33))].reshape(-1, 33)
    torch.manual_seed(seed)
    model = torch.nn.Sequential(
        torch.nn.Embedding(len(alphabet), 32), torch.nn.Linear(32, len(alphabet))
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    stages = []
    for step in range(31):
        if step in (0, 3, 10, 30):
            with torch.no_grad():
                stages.append(model(windows[:16, :-1]).movedim(-1, 1))
        optimizer.zero_grad()
        F.cross_entropy(model(windows[:, :-1]).movedim(-1, 1), windows[:, 1:]).backward()
        optimizer.step()
    return stages, windows[:16, 1:]


@functools.cache
def rare_models(seed):
    """Logits (N, 1) and targets of a binary model of rare events, 1 in 20, as it learns."""
    x = normal(2000, 5, seed=seed)
    y = ((x[:, :1] + 0.5 * normal(2000, 1, seed=seed + 50)) > 1.85).float()
    torch.manual_seed(seed)
    model = torch.nn.Linear(5, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    stages = []
    for step in range(201):
        if step in (0, 10, 30, 200):
            with torch.no_grad():
                stages.append(model(x))
        optimizer.zero_grad()
        bce(model(x), y).backward()
        optimizer.step()
    assert 0.03 < y.mean() < 0.07
    return stages, y


def network(width, count, seed, rows=64):
    """Logits of a network as it is initialised."""
    torch.manual_seed(seed)
    model = torch.nn.Sequential(
        *(torch.nn.Linear(20, width), torch.nn.ReLU(), torch.nn.Linear(width, count))
    )
    with torch.no_grad():
        return model(torch.randn(rows, 20))


# Healthy batches. Each function yields arguments of diagnose; nothing may be found.

HEALTHY = []


def healthy(function):
    HEALTHY.append(function)
    return function


@healthy
def networks_at_initialisation():
    for seed in range(3):
        for width in (4, 64, 512):
            for count in (2, 3, 10, 100, 1000):
                z = network(width, count, seed)
                yield with_loss(z, classes(64, count=count, seed=seed))


@healthy
def losses_that_were_rounded_to_0():
    yield batch(8.0 * torch.eye(10), torch.arange(10), 0.0)
    z, y = trained(size=30.0)
    yield batch(z, y, round(F.cross_entropy(z, y).item(), 2))


@healthy
def losses_of_targets_that_were_rounded():
    for size in (3.0, 8.0):
        z = size * torch.eye(10) + normal(10, 10)
        each = F.cross_entropy(z, torch.arange(10), reduction="none")
        for digits_ in (1, 2, 3, 4):
            rounded = [round(x, digits_) for x in each.tolist()]
            for loss in (rounded, torch.tensor(rounded), np.array(rounded)):
                yield batch(z, torch.arange(10), loss)
    z = 8.0 * torch.eye(10)
    for loss in ([0.0] * 10, torch.zeros(10), np.zeros(10), [0] * 10, torch.tensor(0.0)):
        yield batch(z, torch.arange(10), loss)
    yield batch(z.bfloat16(), torch.arange(10), 0.0)
    # Of rounding, the sum is that of bits: 0.1 log 2 is rounded to 0.1.
    p = math.exp(-0.1 * math.log(2))
    for rows in (10, 4000):
        yield batch([[math.log(p / (1 - p)), 0.0]] * rows, [0] * rows, [0.1] * rows)


@healthy
def rows_of_few_digits_that_sum_to_1():
    yield batch([[0.1, 0.7, 0.2]], [1])
    yield batch([[0.25, 0.75], [0.5, 0.5]], [1, 0])
    yield batch(torch.full((16, 10), 0.1), classes(16, count=10))
    draw = np.random.default_rng(0)
    found = 0
    while found < 30:
        z = draw.normal(0, 0.5, (1, 3)).round(int(draw.integers(1, 3)))
        if abs(z.sum() - 1) < 1e-9 and (z >= 0).all():
            found += 1
            yield batch(z, [0])


@healthy
def masks_of_rows_that_keep_an_axis():
    z, y = plain()
    kept = torch.arange(32) % 3 > 0
    loss = F.cross_entropy(z[kept], y[kept])
    yield batch(z, y, loss, mask=kept[:, None])
    z, y = normal(4, 10, 6), classes(4, 6, count=10)
    kept = (torch.arange(24) % 5 > 0).reshape(4, 1, 6)
    each = F.cross_entropy(z, y, reduction="none")
    yield batch(z, y, each[kept[:, 0]].mean(), mask=kept)
    yield batch(z.movedim(1, -1), y, each[kept[:, 0]].mean(), mask=kept.movedim(1, -1), axis=-1)


@healthy
def logits_of_zeros_and_ones():
    yield with_loss(torch.eye(10), torch.arange(10))
    yield batch(F.one_hot(classes(40, count=9), 9).float(), classes(40, count=9, seed=1))


@healthy
def another_loss_of_one_row():
    z = torch.tensor([[4.7, 0.0]])
    p = z.softmax(1)[0, 0]
    yield batch(z, [0], -((1 - p) ** 2) * p.log())


@healthy
def small_logits_at_initialisation():
    for seed in range(3):
        for count in (2, 10, 1000):
            yield with_loss(normal(64, count, seed=seed, size=1e-3), classes(64, count=count))
            yield with_loss(normal(256, count, size=1e-3), (normal(256) > 1.5).long())


@healthy
def models_of_digits():
    for seed in range(3):
        for kind in ("linear", "mlp"):
            stages, y = digits_models(kind, seed)
            for z in stages:
                yield with_loss(z, y)
                yield with_loss(z[:32], y[:32])
                yield {"logits": z[:4], "target": y[:4]}


@healthy
def sorted_digits():
    stages, y = digits_models("mlp", 0)
    order = y.argsort()
    for z in stages:
        yield with_loss(z[order], y[order])
        yield with_loss(z[order][:1780], y[order][:1780])


@healthy
def models_of_text():
    for seed in range(3):
        stages, y = text_models(seed)
        for z in stages:
            yield with_loss(z, y)
            count = z.shape[1]
            yield with_loss(z.movedim(1, -1).reshape(-1, count), y.reshape(-1))
            last = {**with_loss(z, y), "logits": z.movedim(1, -1), "axis": -1}
            yield {**last, "gradient": None, "probabilities": None}


@healthy
def text_by_counting():
    text = python_topics()[:6000]
    for order in (0, 1, 3):
        model = CharacterModel(text, order=order)
        p = np.array([model.distribution(text[max(0, i - order) : i]) for i in range(300)])
        target = [model.alphabet.index(c) for c in text[:300]]
        yield with_loss(torch.tensor(p).log(), torch.tensor(target))


@healthy
def counts_of_frequent_and_less_frequent_classes():
    for seed in range(3):
        y = (torch.rand(227, generator=random(seed)) ** 1.3 * 26).long()
        counts = torch.bincount(y, minlength=26).add(1)
        yield with_loss(counts.log().expand(227, 26), y)


@healthy
def layouts():
    for seed in range(3):
        yield with_loss(normal(4, 7, 5, seed=seed), classes(4, 5, count=7, seed=seed))
        yield with_loss(normal(4, 5, 5, seed=seed), classes(4, 5, count=5, seed=seed))
        yield with_loss(normal(6, 6, 6, 6, seed=seed), classes(6, 6, 6, count=6, seed=seed))
        yield with_loss(normal(2, 3, 8, 8, seed=seed), classes(2, 8, 8, count=3, seed=seed))
        yield with_loss(normal(7, seed=seed), classes(count=7, seed=seed))
        yield with_loss(normal(16, 16, seed=seed), classes(16, count=16, seed=seed))


@healthy
def square_and_trained():
    for seed in range(3):
        y = classes(32, 12, count=12, seed=seed)
        z = normal(32, 12, 12, seed=seed) + 4 * F.one_hot(y, 12).movedim(-1, 1)
        yield with_loss(z, y)
        one = F.one_hot(torch.arange(64), 64)
        # A contrastive batch, whose columns are easier than its rows.
        z = normal(64, 64, seed=seed) + 6 * one + 4 * normal(1, 64, seed=seed + 9)
        yield with_loss(z, torch.arange(64))
        yield with_loss(z.T.contiguous(), torch.arange(64))


@healthy
def soft_labels():
    for seed in range(4):
        z, q = normal(32, 10, seed=seed), normal(32, 10, seed=seed + 7, size=2).softmax(1)
        yield with_loss(z, q)
        yield with_loss(z, q, label_smoothing=0.1)
        yield with_loss(z, F.one_hot(classes(32, count=10), 10).float())
        yield with_loss(normal(8, 4, 6, seed=seed), normal(8, 4, 6, seed=9).softmax(1))
        yield with_loss(z, q.bfloat16().float())
        rounded = F.one_hot(classes(32, count=10), 10) * (1 + 2e-7) - 1e-8
        yield with_loss(z, rounded)
        near = normal(256, 50, seed=seed, size=0.1).softmax(1).bfloat16()
        yield with_loss(normal(256, 50, seed=seed, size=1e-3).bfloat16(), near)
        yield with_loss(normal(5, seed=seed), normal(5, seed=9).softmax(0))
        mixed = 0.3 * F.one_hot(classes(32, count=10), 10) + 0.7 * F.one_hot(
            classes(32, count=10, seed=5), 10
        )
        yield with_loss(z, mixed)


@healthy
def smoothed_and_said():
    for smoothing in (0.05, 0.1, 0.2):
        for z in digits_models("mlp", 0)[0]:
            yield with_loss(z, digits_models("mlp", 0)[1], label_smoothing=smoothing)


@healthy
def masked_vocabularies():
    for seed in range(4):
        y = classes(40, count=30, seed=seed)
        open_ = (normal(40, 30, seed=seed) > 0) | (F.one_hot(y, 30) > 0)
        z = normal(40, 30, seed=seed, size=3)
        yield with_loss(z.masked_fill(~open_, -inf), y)
        yield with_loss(z.masked_fill(~open_, -1e9), y)
        yield with_loss(z.masked_fill(~open_, torch.finfo(torch.float32).min), y)
        batch = with_loss(z.masked_fill(~open_, -inf), y)
        yield {**batch, "logits": z, "mask": open_}
        kept = torch.arange(30) < 20
        batch = with_loss(z.masked_fill(~kept, -inf), y % 20)
        yield {**batch, "logits": z, "mask": kept}
        yield {**batch, "logits": z, "mask": kept[None].float()}
        # A class that is masked out beside smoothed and soft targets, with a loss that knows masks.
        loss = celib.losses.cross_entropy(z.masked_fill(~open_, -inf), y, label_smoothing=0.1)
        yield {
            **{"logits": z.masked_fill(~open_, -inf), "target": y},
            **{"loss": loss, "label_smoothing": 0.1},
        }


@healthy
def half_precision():
    for seed in range(3):
        for dtype in (torch.bfloat16, torch.float16):
            for size in (0.01, 1, 5, 20):
                z = normal(64, 10, seed=seed, size=size).to(dtype)
                y = classes(64, count=10, seed=seed)
                yield with_loss(z, y)
                yield {**with_loss(z.float(), y), "logits": z}
                yield with_loss(z + 50 * F.one_hot(y, 10).to(dtype), y)
            yield with_loss(normal(64, 1000, seed=seed).to(dtype), classes(64, count=1000))
            yield with_loss(normal(64, seed=seed).to(dtype), (normal(64) > 0).to(dtype), bce)


@healthy
def ignored_targets():
    for seed in range(4):
        z, y = normal(8, 20, 16, seed=seed), classes(8, 16, count=20, seed=seed)
        pad = torch.arange(16) >= torch.randint(1, 17, (8, 1), generator=random(seed))
        yield with_loss(z, y.masked_fill(pad, -100))
        yield with_loss(z, y.masked_fill(pad, -1), ignore_index=-1)
        yield with_loss(z, y.masked_fill(pad, 0), ignore_index=0)
        yield with_loss(z, y.masked_fill(pad, 255), ignore_index=255)
        each = F.cross_entropy(z, y, reduction="none")
        loss = (each * ~pad).sum() / (~pad).sum()
        yield {"logits": z, "target": y, "mask": ~pad, "loss": loss}
        yield {"logits": z, "target": y.masked_fill(pad, -1), "mask": (~pad).float(), "loss": loss}
        yield {"logits": z, "target": y, "loss": each, "reduction": "none"}


@healthy
def class_weights():
    for seed in range(4):
        z, y = normal(64, 6, seed=seed), classes(64, count=6, seed=seed)
        weight = torch.rand(6, generator=random(seed)) + 0.1
        for reduction in ("mean", "sum"):
            yield with_loss(z, y, weight=weight, reduction=reduction)
            yield with_loss(z, y.masked_fill(y == 2, -100), weight=weight, reduction=reduction)
        yield with_loss(z, y, weight=weight * (torch.arange(6) > 0))
        yield with_loss(z, z.softmax(1), weight=weight)


@healthy
def binary():
    for seed in range(3):
        stages, y = rare_models(seed)
        for z in stages:
            yield with_loss(z, y, bce)
            yield with_loss(z[:200, 0], y[:200, 0], bce)
        z = normal(50, 8, seed=seed, size=2)
        y = (torch.rand(50, 8, generator=random(seed)) < 0.05).float()
        yield with_loss(z, y, bce)
        yield with_loss(z - 3, y, bce)
        yield with_loss(z, y, bce, reduction="sum")
        yield with_loss(z, y, bce, weight=torch.rand(8, generator=random(seed)) + 0.5)
        yield with_loss(z, 0.9 * y + 0.05, bce)
        yield {"logits": z.tolist(), "target": y.int().tolist(), "binary": True}
        # With pos_weight, which diagnose is not told of.
        loss = bce(z, y, pos_weight=torch.tensor(19.0))
        yield {"logits": z, "target": y, "loss": loss, "binary": True}
        seen = torch.rand(50, 8, generator=random(seed)) < 0.7
        loss = bce(z, y, reduction="none")[seen].mean()
        yield {
            **{"logits": z, "target": y.masked_fill(~seen, -1)},
            **{"mask": seen, "loss": loss, "binary": True},
        }
        yield with_loss(z.relu() * 0.1, y, bce)


@healthy
def rows_that_are_nearly_the_same():
    """As of a network whose last bias outweighs its weights."""
    for seed in range(3):
        for bias in ([0.3, 0.35, 0.35], [0.1, 0.2, 0.3, 0.4], [0.498, 0.501]):
            z = torch.tensor(bias) + normal(64, len(bias), seed=seed, size=3e-3)
            yield with_loss(z, classes(64, count=len(bias), seed=seed))
            yield with_loss(z.bfloat16(), classes(64, count=len(bias), seed=seed))
            yield with_loss(z[:1].bfloat16(), classes(1, count=len(bias), seed=seed))


@healthy
def one_class_predicted_but_ranked():
    """In two classes a transposed block of two rows looks like its own transpose."""
    for seed in range(3):
        y = classes(256, count=2, seed=seed)
        signal = 3e-3 * F.one_hot(y, 2) * (torch.rand(256, 1, generator=random(seed)) < 0.5)
        z = torch.tensor([0.0, 3.0]) + 1e-3 * normal(256, 2, seed=seed) + signal
        yield with_loss(z, y)
        yield with_loss(z.reshape(128, 2, 2).movedim(-1, 1), y.reshape(128, 2))


@healthy
def float16_losses_of_few_targets():
    for seed in range(3):
        z = normal(3, 2, seed=seed) + 8 * torch.tensor([1.0, 0.0]) - 1e4
        yield with_loss(z.half(), torch.zeros(3, dtype=torch.long))
        yield with_loss(z.float(), torch.zeros(3, dtype=torch.long))


@healthy
def weighted_and_smoothed():
    for seed in range(3):
        y, weight = classes(8, count=2, seed=seed), torch.tensor([0.3, 1.7])
        z = 4.0 * F.one_hot(y, 2) + 1e-3 * normal(8, 2, seed=seed)
        yield with_loss(z, y, label_smoothing=0.05, weight=weight)
        yield with_loss(normal(8, 2, seed=seed), z.softmax(1), weight=weight)


@healthy
def rare_classes():
    for seed in range(3):
        stages, y = rare_models(seed)
        for z in stages:
            yield with_loss(torch.cat([torch.zeros_like(z), z], 1), y[:, 0].long())
        # Not trained: every row is given to the frequent class, as it happens.
        z = normal(400, 2, seed=seed) * 0.1 + torch.tensor([0.5, -0.5])
        few = (torch.rand(400, generator=random(seed)) < 0.05).long()
        yield with_loss(z, few)
        # One class alone is predicted, but the others are ranked above it; or others are, too.
        yield with_loss(z + torch.tensor([3.0, 0.0]) + 0.3 * F.one_hot(few, 2), few)
        yield with_loss(torch.tensor([5.0, 0.0]) + 1.7 * normal(400, 2, seed=seed), few)
        # What little there is to know is known.
        p = (0.4 * normal(4000, seed=seed) - 2.2).sigmoid()
        y = (torch.rand(4000, generator=random(seed)) < p).long()
        yield with_loss(torch.stack([1 - p, p], 1).log(), y)


@healthy
def single_rows():
    for seed in range(3):
        for count in (2, 3, 10, 1000):
            yield with_loss(normal(1, count, seed=seed), classes(1, count=count, seed=seed))
        yield with_loss(normal(1, 1, seed=seed), torch.ones(1, 1), bce)
    yield {"logits": [[0.3, 0.7]], "target": [1]}
    yield {"logits": torch.zeros(16, 10), "target": classes(16, count=10)}
    yield {"logits": torch.zeros(1, 2), "target": [1], "loss": math.log(2)}
    yield {"logits": 3.0, "target": 1, "binary": True}


@healthy
def confident_models():
    for seed in range(3):
        y = classes(64, count=10, seed=seed)
        for size in (12, 17, 40, 120, 1000):
            z = normal(64, 10, seed=seed) + size * F.one_hot(y, 10)
            yield with_loss(z, y)
            yield with_loss(z.double(), y)
            yield with_loss(size * (2.0 * (y[:, None] > 4) - 1), (y[:, None] > 4).float(), bce)


@healthy
def sure_and_sometimes_wrong():
    for seed in range(3):
        y = classes(64, count=10, seed=seed)
        for size in (5, 15, 50):
            z = normal(64, 10, seed=seed) + size * F.one_hot(y.where(torch.arange(64) > 3, 0), 10)
            yield with_loss(z, y)


@healthy
def offsets():
    for seed in range(3):
        for offset in (-1e4, 1e4, 1e6):
            z = normal(64, 10, seed=seed) + offset
            yield with_loss(z, classes(64, count=10, seed=seed))
            rows = normal(64, 1, seed=seed + 3, size=1e3)
            yield with_loss(normal(64, 10, seed=seed) + rows, classes(64, count=10, seed=seed))


@healthy
def normalised_logits():
    for seed in range(3):
        for count in (2, 10, 100):
            z = normal(64, count, seed=seed, size=2).log_softmax(1)
            yield with_loss(z, classes(64, count=count, seed=seed))


@healthy
def other_losses():
    """Right losses that are not the cross-entropy: nothing explains them, so nothing is said."""
    for seed in range(4):
        z, y = normal(64, 10, seed=seed, size=2), classes(64, count=10, seed=seed)
        each = F.cross_entropy(z, y, reduction="none")
        p = (-each).exp()
        for loss in (
            *(((1 - p) ** 2 * each).mean(), (1 - p).mean() * 1.7, each.mean() + 0.1),
            *(each.mean() + 1e-2 * (z.logsumexp(1) ** 2).mean(), each.mean().exp()),
            *(F.cross_entropy(z / 2, y), F.cross_entropy(z + 0.3, y) * 0.97, each[:40].mean()),
            *(F.cross_entropy(z, y.flip(0)), F.multi_margin_loss(z, y), each.median()),
        ):
            yield {"logits": z, "target": y, "loss": loss.item()}


@healthy
def odd_but_right():
    z, y = plain()
    # A loss that takes probabilities, or classes as floats, where they are.
    p = z.softmax(1)
    yield batch(p, y, F.nll_loss(p.log(), y))
    p, t = normal(400, size=6).sigmoid(), (normal(400) > 0).float()
    yield batch(p, t, F.binary_cross_entropy(p, t), binary=True)
    yield batch(z, y.float(), F.cross_entropy(z, y))
    # A binary loss of labels -1 and 1, where they are.
    z_, t = normal(400), (normal(400, seed=1) > 0).float() * 2 - 1
    for reduction in ("mean", "sum", "none"):
        loss = F.soft_margin_loss(z_, t, reduction=reduction)
        yield batch(z_, t.int(), loss, binary=True, reduction=reduction)
    # A loss of one's own that takes labels of floats.
    z_, y_ = plain()
    yield batch(z_, y_.float(), F.cross_entropy(z_, y_) + 0.2)
    # One row whose target is a distribution.
    yield with_loss(normal(5), F.one_hot(torch.tensor(2), 5).float())
    # Rows of soft targets that are left out by zeros.
    yield with_loss(z, F.one_hot(y, 10).float() * (y > 3)[:, None])
    # Rows of NaN that were removed before the loss.
    bad = z.where(y[:, None] > 3, nan).requires_grad_()
    F.cross_entropy(bad[y > 3], y[y > 3]).backward()
    yield batch(bad, y.where(y > 3, -100), gradient=bad.grad.nan_to_num())
    # As many targets as classes: of which of the two a mask is, is not known.
    z, y = plain(rows=10)
    mask = torch.arange(10) != y[0]
    yield batch(z, y, F.cross_entropy(z, y), mask=mask)
    yield batch(z, y, F.cross_entropy(z[mask], y[mask]), mask=mask)
    # Fewer targets than a row and a class that nobody has.
    yield with_loss(normal(3, 4), torch.tensor([1, 2, 3]))
    # Probabilities that are smoothed, or those of an average of models, and of logits of zeros.
    yield batch(z, y, probabilities=0.9 * z.softmax(1) + 0.01)
    yield batch(z, y, probabilities=(z.softmax(1) + (2 * z).softmax(1)) / 2)
    yield batch(torch.zeros(10, 2), y % 2, probabilities=torch.full((10, 2), 0.5))
    few = 4.0 * F.one_hot(y, 10)
    yield batch(few, y, probabilities=0.9 * few.softmax(1) + 0.01)
    yield batch(z / 1e3, y, probabilities=0.9 * (z / 1e3).softmax(1) + 0.01)
    yield batch(z[:1, :2], [1], probabilities=[[0.2, 0.8]])
    # Narrow labels that the loss took, and those of NumPy, which torch may never see.
    yield batch(z, y.int(), F.cross_entropy(z, y))
    yield batch(z, y.byte())
    yield batch(z, y.numpy().astype(np.int32))
    # A gradient that points the other way in a few numbers.
    yield batch(z[:1, :2], [0], gradient=[[0.1, -0.1]])
    yield {**with_loss(torch.zeros(10, 10), y), "loss": None}
    half = z.bfloat16()
    yield batch(half, y.float(), F.cross_entropy(half, y))
    # Near another explanation by the accident of three digits.
    sure, right = trained()
    near = F.cross_entropy(sure, right, label_smoothing=0.1) * 1.002
    yield batch(sure.bfloat16(), right, near.bfloat16())
    yield batch(sure, right, round(near.item(), 2))
    weight = torch.arange(1.0, 11.0)
    yield batch(z, y.float(), F.cross_entropy(z, y, weight=weight), weight=weight)
    # The loss of one target, which nobody has divided.
    yield batch(
        z[:1], y[:1], F.cross_entropy(z[:1], y[:1], weight, reduction="none"), weight=weight
    )
    # Weights whose mean is 1: the divisors are the same.
    y = torch.arange(40) % 10
    z, weight = normal(40, 10), weight / weight.mean()
    over_count = F.cross_entropy(z, y, weight=weight, reduction="sum") / 40
    yield batch(z, y, over_count, weight=weight)
    # Both a mask and ignored targets.
    z, y = plain(rows=11)
    yield batch(z, y.where(y > 3, -100), mask=torch.arange(11) > 2)
    z, y = plain(rows=10)
    # At the floor of a second softmax by accident.
    yield batch(z, y, 1.4612)
    assert F.cross_entropy(z, y) > 2
    # A bias for each class, learned; the input does not count yet.
    yield with_loss(torch.tensor([2.0, -1.0]) + 0.3 * normal(500, 2), (normal(500) > 1.3).long())


@healthy
def typed_in():
    z, y = [[2.0, -1.0, 0.5], [0.1, 0.2, 0.3]], [0, 2]
    loss = F.cross_entropy(torch.tensor(z), torch.tensor(y)).item()
    for digits_ in (1, 2, 3, 4, 6):
        yield {"logits": z, "target": y, "loss": round(loss, digits_)}
    yield {"logits": np.array(z, np.float32), "target": np.array(y, np.int32), "loss": loss}


@functools.cache
def batches(function):
    return list(function())


def test_there_are_enough_healthy_batches():
    assert sum(len(batches(f)) for f in HEALTHY) >= 200


@pytest.mark.parametrize("function", HEALTHY, ids=lambda f: f.__name__)
def test_healthy_batches_are_not_accused(function):
    for i, batch in enumerate(batches(function)):
        found = diagnose(**batch)
        assert not found, f"batch {i}:\n{found}"


# Broken batches: the cause that has to be found, and the only one.

BROKEN = []


def broken(cause):
    def add(function):
        BROKEN.append((cause, function))
        return function

    return add


def plain(seed=0, rows=32, count=10, size=1.0):
    return normal(rows, count, seed=seed, size=size), classes(rows, count=count, seed=seed)


def trained(seed=0, rows=64, count=10, size=6.0):
    """Logits that are mostly right."""
    z, y = plain(seed, rows, count)
    return z + size * F.one_hot(y, count), y


def batch(z, y, loss=None, **options):
    return {"logits": z, "target": y, "loss": loss, **options}


@broken("empty-batch")
def nothing():
    yield batch(torch.zeros(0, 10), torch.zeros(0, dtype=torch.long))
    yield batch(torch.zeros(0, 3, 5), torch.zeros(0, 5, dtype=torch.long), nan)
    yield batch(torch.zeros(0, 1), torch.zeros(0, 1), binary=True)
    yield batch([], [])


@broken("no-class-axis")
def one_logit():
    yield batch(normal(16, 1), torch.zeros(16, dtype=torch.long))
    yield batch(normal(16, 1), (normal(16, 1) > 0).float(), 0.0)
    yield batch(normal(16), (normal(16) > 0).long())
    yield batch(normal(16), (normal(16) > 0).float())


@broken("column-against-row")
def broadcasting():
    z, y = normal(16, 1), (normal(16) > 0).float()
    pairs = bce(*torch.broadcast_tensors(z, y))
    yield batch(z, y, binary=True)
    yield batch(z, y, pairs, binary=True)
    yield batch(z[:, 0], y[:, None], binary=True)
    yield batch(normal(4, 1, 8, 8), (normal(4, 8, 8) > 0).float(), binary=True)


@broken("classes-for-binary")
def indices_for_binary():
    z, y = plain()
    yield batch(z, y, binary=True)
    yield batch(normal(4, 3, 8), classes(4, 8, count=3), binary=True)
    yield batch(z, y.float(), binary=True)


@broken("integer-target")
def integers_of_the_shape_of_logits():
    z, y = plain()
    for dtype in (torch.long, torch.int32, torch.uint8, torch.bool):
        yield batch(z, F.one_hot(y, 10).to(dtype))
    yield batch(z, classes(32, 10, count=2))


@broken("class-axis")
def classes_last_or_first():
    yield batch(normal(4, 7, 5), classes(4, 7, count=5))
    yield batch(normal(4, 8, 8, 3), classes(4, 8, 8, count=3))
    yield batch(normal(10, 32), classes(32, count=10))
    yield batch(normal(7, 4, 5), classes(4, 5, count=7))
    yield batch(normal(4, 5, 7), classes(4, 7, count=5), axis=-1)


@broken("target-column")
def targets_in_a_column():
    z, y = plain()
    yield batch(z, y[:, None])
    yield batch(normal(2, 3, 8, 8), classes(2, 1, 8, 8, count=3))


@broken("target-shape")
def other_shapes():
    z, y = plain()
    yield batch(z, y[:-1])
    yield batch(normal(4, 5, 7), classes(28, count=5))
    yield batch(z, F.one_hot(y, 11).float())
    yield batch(normal(8, 3), (normal(8, 2) > 0).float(), binary=True)
    yield batch(z, 3)


@broken("odd-argument")
def arguments_that_do_not_fit():
    z, y = plain()
    yield batch(z, y, torch.ones(7))
    yield batch(z, y, mask=torch.ones(9))
    yield batch(z, y, mask=torch.full((32,), -inf).where(y > 4, 0.0))
    yield batch(z, y, mask=y)
    yield batch(z, y, gradient=z[:3])
    yield batch(z, y, probabilities=z[:, 0])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mask": torch.ones(5)}, "mask has shape (5,): expected (3, 5), one for each target, or"),
        ({"mask": torch.ones(5)}, "or (7,) or (3, 7, 5), for the classes"),
        ({"mask": torch.full((3, 5), 2.0)}, "15 values that are neither 0 or False nor 1 or"),
        ({"loss": torch.ones(3)}, "loss has shape (3,), one for each sequence, row or image"),
        ({"loss": torch.ones(3)}, "expected one number, such as their mean, or (3, 5), one for"),
        ({"loss": torch.ones(9)}, "loss has shape (9,), that of the targets that take part: exp"),
        ({"loss": torch.ones(4)}, "The loss has shape (4,): expected one number"),
        ({"gradient": torch.ones(3, 5)}, "gradient has shape (3, 5): expected (3, 7, 5)"),
    ],
)
def test_what_shape_was_expected(options, words):
    target = classes(3, 5, count=7).masked_fill(torch.arange(15).reshape(3, 5) > 8, -100)
    (one,) = diagnose(normal(3, 7, 5), target, **options)
    assert one.cause == "odd-argument"
    assert words in one.evidence


@broken("weight-shape")
def weights_of_another_length():
    z, y = plain()
    yield batch(z, y, weight=torch.ones(9))
    yield batch(z, y, weight=torch.ones(32))
    yield batch(z, y, weight=1.0)
    yield batch(z, F.one_hot(y, 10).float(), weight=torch.ones(3), binary=True)


@broken("weight-not-finite")
def weights_of_absent_classes():
    z, y = plain(count=4)
    yield batch(z, y, weight=1 / torch.bincount(y.clamp(max=2), minlength=4))
    yield batch(z, y, nan, weight=[1.0, nan, 1.0, 1.0])


@broken("weight-negative")
def weights_below_zero():
    z, y = plain(count=4)
    yield batch(z, y, weight=[1.0, -1.0, 1.0, 1.0])


@broken("weight-zero")
def weights_of_zero():
    z, y = plain(count=4)
    yield batch(z, y % 2, nan, weight=[0.0, 0.0, 1.0, 1.0])
    yield batch(z, F.one_hot(y % 2, 4).float(), weight=[0.0, 0.0, 1.0, 1.0])
    yield batch(z, F.one_hot(y, 4).float(), 0.0, weight=torch.zeros(4), binary=True)


@broken("fractional-labels")
def labels_between_classes():
    z, y = plain()
    yield batch(z, y + 0.5)
    yield batch(z, normal(32))
    yield batch(z, y.float().where(y > 2, nan))
    yield batch(z, y.float().where(y > 2, inf))


@broken("label-not-ignored")
def labels_that_are_marks():
    z, y = plain()
    yield batch(z, y.where(y > 3, -1))
    yield batch(z, y.where(y > 3, 255))
    yield batch(z, y.where(y > 3, -100), ignore_index=0)
    yield batch(normal(2, 5, 6, 6), classes(2, 6, 6, count=5).where(torch.arange(6) > 0, 255))
    yield batch(z, y.where(y > 3, -1).float())


@broken("labels-from-one")
def labels_that_count_from_one():
    z, y = plain()
    yield batch(z, y + 1)
    yield batch(z[:3, :2], [1, 2, 2])
    yield batch(z, (y + 1).where(y > 2, -100))


@broken("label-out-of-range")
def labels_that_are_no_class():
    z, y = plain()
    yield batch(z, y.where(y > 3, 12))
    yield batch(z, y - 5)
    yield batch(z, y.where(y != 9, 10))
    yield batch(z, y.where(y != 9, 2**40))


@broken("float-labels")
def labels_of_floats():
    z, y = plain()
    yield batch(z, y.float())
    yield batch(z, y.double().numpy())
    yield batch(z.tolist(), y.half().tolist())


@broken("narrow-labels")
def labels_of_few_bits():
    z, y = plain()
    for dtype in (torch.int8, torch.int16, torch.int32, torch.uint16, torch.uint32):
        with pytest.raises(RuntimeError, match="Long"):
            F.cross_entropy(z, y.to(dtype))
        yield batch(z, y.to(dtype))
    yield batch(z[:, :2], y > 4)
    z, y = normal(4, 10, 3), classes(4, 3, count=10).byte()
    with pytest.raises(RuntimeError, match="Long"):
        F.cross_entropy(z, y)
    yield batch(z, y)


@pytest.mark.parametrize("noise", [0.0, 1e-4])
@pytest.mark.parametrize("share", [0.05, 0.08])
def test_what_explains_another_thing_is_told_alone(share, noise):
    """A model of frequencies predicts one class."""
    y = (torch.rand(4000, generator=random(3)) < share).long()
    share = y.double().mean().item()
    z = torch.tensor([0.0, math.log(share / (1 - share))]) + noise * normal(4000, 2)
    assert diagnose(**with_loss(z, y)).causes == ["ignores-input"]
    assert diagnose(**with_loss(z[:, 1], y.float(), bce)).causes == ["ignores-input"]


def test_labels_of_which_a_loss_came_were_taken():
    z, y = plain()
    loss = F.cross_entropy(z.softmax(1), y)
    assert diagnose(z, y.float(), loss=loss).causes == ["softmax-twice"]


@broken("signed-targets")
def labels_with_a_sign():
    z = normal(32)
    yield batch(z, z.sign(), binary=True)
    yield batch(normal(8, 3), normal(8, 3).sign(), -3.0, binary=True)


@broken("target-outside-unit")
def targets_that_are_no_probabilities():
    z, _ = plain()
    q = z.softmax(1)
    yield batch(z, q - 0.2)
    yield batch(z, q.where(q < 0.2, nan))
    yield batch(normal(32), 255.0 * (normal(32) > 0), binary=True)
    yield batch(normal(32, 4), classes(32, 4, count=2) - 1, -1.0, binary=True)
    yield batch(normal(32), torch.full((32,), -100.0), binary=True)


@broken("target-sum")
def targets_of_several_classes():
    z, _ = plain()
    yield batch(z, (normal(32, 10, seed=8) > 0).float())
    yield batch(z, 3 * z.softmax(1).clamp(max=0.3))
    yield with_loss(z, (normal(32, 10, seed=8) > 0).float())


@broken("nothing-left")
def all_ignored():
    z, y = plain()
    yield batch(z, torch.full((32,), -100), nan)
    yield batch(z, torch.zeros_like(y), ignore_index=0)
    yield batch(z, y, mask=torch.zeros(32, dtype=torch.bool))
    yield batch(z, F.one_hot(y, 10).float(), mask=torch.zeros(32, 10), binary=True)


@broken("row-masked-out")
def rows_without_a_class():
    z, y = plain()
    yield batch(z.masked_fill(y[:, None] == 3, -inf), y.where(y != 3, 0))
    yield batch(z, y, nan, mask=(y != 3)[:, None].expand(32, 10))


@broken("target-masked-out")
def targets_that_are_masked():
    z, y = plain()
    closed = (F.one_hot(y, 10) > 0) & (torch.arange(32) < 3)[:, None]
    yield batch(z.masked_fill(closed, -inf), y, inf)
    for fill in (-1e9, -1e4, torch.finfo(torch.float32).min):
        yield batch(z.masked_fill(closed, fill), y)
    yield batch(z.bfloat16().masked_fill(closed, -1e9), y)
    yield batch(z.half().masked_fill(closed, -1e4), y)
    yield batch(z, y, mask=torch.arange(10) < 5)
    yield batch(z.masked_fill(closed, -inf), F.one_hot(y, 10).float())


@broken("target-impossible")
def models_that_exclude_what_happens():
    text = python_topics()[:3000]
    model = CharacterModel(text, order=2)
    p = np.array([model.distribution(text[i - 2 : i]) for i in range(2, 200)])
    p = np.where(p < p.max(1, keepdims=True) / 5, 0.0, p)  # as without smoothing
    target = [model.alphabet.index(c) for c in text[2:200]]
    p = torch.tensor(p / p.sum(1, keepdims=True))
    yield batch(p.log(), target)
    yield with_loss(p.float().log(), torch.tensor(target)) | {"gradient": None}
    counts = torch.tensor([[3.0, 0.0, 5.0], [2.0, 2.0, 0.0]])
    yield batch(counts.log(), [1, 0], inf)


@broken("nan-logits")
def logits_that_are_nan():
    z, y = plain()
    yield batch(z.where(y[:, None] != 4, nan), y, nan)
    yield batch(z.index_fill(1, torch.tensor([2]), nan), y)
    yield batch(z, F.one_hot(y, 10).float(), binary=True) | {"logits": z.sqrt()}


@broken("half-overflow")
def logits_beyond_float16():
    z, y = plain(size=40000.0)
    yield batch(z.half(), y, nan)
    yield batch((z / 30000).exp().mul(60000).half(), y)


@broken("inf-logits")
def logits_that_are_infinite():
    z, y = plain()
    yield batch(z.where(z < 1, inf), y, nan)
    yield batch(z.where(z < 1, -inf), F.one_hot(y, 10).float(), binary=True)
    yield batch(z.bfloat16().where(z < 1, inf), y)


@broken("ignored-row-not-finite")
def poisoned_padding():
    z, y = plain()
    pad = torch.arange(32) > 20
    bad = z.where(~pad[:, None], nan).requires_grad_()
    y = y.masked_fill(pad, -100)
    loss = F.cross_entropy(bad, y)
    loss.backward()
    assert loss.isfinite()
    assert bad.grad.isnan().any()
    yield batch(bad, y, loss, gradient=bad.grad)
    yield batch(z.where(~pad[:, None], -inf), y)


@broken("probabilities-as-logits")
def probabilities_as_logits():
    for seed in range(2):
        for count in (2, 3, 10, 1000):
            z, y = plain(seed, count=count, size=3)
            yield batch(z.softmax(1), y, F.cross_entropy(z.softmax(1), y))
    z, y = plain()
    yield batch(z.bfloat16().softmax(1), y)
    yield batch(z.half().softmax(1), y)
    yield batch(z.bfloat16().softmax(1).float(), y)
    yield batch([[0.0900, 0.2447, 0.6653]], [2])
    yield batch([[0.1, 0.2, 0.7], [0.8, 0.1, 0.1], [0.3, 0.3, 0.4], [0.2, 0.2, 0.6]], [2, 0, 2, 1])
    yield batch([[0.24, 0.76], [0.51, 0.49]], [1, 0])
    yield batch(normal(4, 5, 7).softmax(1), classes(4, 7, count=5))
    yield batch(z.softmax(1), y.where(y > 2, -100))


@broken("binary-probabilities")
def sigmoids_as_logits():
    for seed in range(2):
        z = normal(400, seed=seed, size=6)
        yield batch(z.sigmoid(), (z > 0).float(), bce(z.sigmoid(), (z > 0).float()), binary=True)
    z = normal(60, 9, size=6)
    yield batch(z.sigmoid(), (z > 0).float(), binary=True)


@broken("class-axis-unseen")
def square_and_transposed():
    for seed in range(2):
        y = classes(16, 12, count=12, seed=seed)
        z = normal(16, 12, 12, seed=seed) + 5 * F.one_hot(y, 12)
        yield with_loss(z, y)
    z, y = trained(rows=32, count=32)
    yield batch(z.T, y)


@broken("rows-in-another-order")
def flattened_in_different_orders():
    for seed in range(2):
        y = classes(8, 12, count=9, seed=seed)
        z = normal(8, 12, 9, seed=seed) + 6 * F.one_hot(y, 9)
        yield batch(z.movedim(-1, 1).reshape(-1, 9), y.reshape(-1))
        yield batch(z.reshape(-1, 9), y.T.reshape(-1))
        yield with_loss(z.movedim(0, 1).reshape(-1, 9), y.reshape(-1))


@broken("probabilities-nan")
def softmax_by_hand():
    z, y = plain(size=200.0)
    yield batch(z, y, probabilities=z.exp() / z.exp().sum(1, keepdim=True))
    z = 300 * (2.0 * (y > 4) - 1)
    yield batch(z, (y > 4).float(), probabilities=z.exp() / (1 + z.exp()), binary=True)


@broken("probabilities-axis")
def softmax_over_the_batch():
    z, y = plain()
    yield batch(z, y, probabilities=z.softmax(0))
    yield batch(normal(4, 5, 7), classes(4, 7, count=5), probabilities=normal(4, 5, 7).softmax(-1))


@broken("probabilities-twice")
def reported_twice():
    z, y = plain()
    yield batch(z, y, probabilities=z.softmax(1).softmax(1))
    yield batch(z[0], y[0], probabilities=z[0].softmax(0).softmax(0))
    yield batch(z, (z > 0).float(), probabilities=z.sigmoid().sigmoid().bfloat16(), binary=True)


@broken("probabilities-outside")
def reported_logits():
    z, y = plain()
    for p in (z, z.log_softmax(1), 100 * z.softmax(1)):
        yield batch(z, y, probabilities=p)
    yield batch(z, (z > 0).float(), probabilities=z, binary=True)


@broken("probabilities-sigmoid")
def reported_sigmoids():
    z, y = plain()
    yield batch(z, y, probabilities=z.sigmoid())
    z, y = normal(4, 5, 7), classes(4, 7, count=5)
    yield with_loss(z, y) | {"probabilities": z.sigmoid().bfloat16()}


@broken("probabilities-temperature")
def reported_with_a_temperature():
    z, y = plain()
    for factor in (0.5, 0.7, 1.3, 10.0, -1.0):
        yield batch(z, y, probabilities=(factor * z).softmax(1))
        yield batch(z, (z > 0).float(), probabilities=(factor * z).sigmoid(), binary=True)
    z = z.masked_fill((normal(32, 10, seed=5) > 1) & (F.one_hot(y, 10) == 0), -inf)
    yield with_loss(z, y) | {"probabilities": (z / 2).softmax(1)}


@broken("masked-class-in-loss")
def zero_times_infinity():
    z, y = plain()
    closed = (normal(32, 10, seed=5) > 1) & (F.one_hot(y, 10) == 0)
    z = z.masked_fill(closed, -inf)
    yield batch(z, y, F.cross_entropy(z, y, label_smoothing=0.1), label_smoothing=0.1)
    q = F.one_hot(y, 10).float()
    yield batch(z, q, -(q * z.log_softmax(1)).sum(1).mean())


@broken("loss-not-finite")
def losses_that_fail_by_themselves():
    z, y = trained(size=-200.0)
    yield batch(z, y, F.nll_loss(z.softmax(1).log(), y))
    z, y = plain(size=200.0)
    yield batch(z, y, -(z.exp() / z.exp().sum(1, keepdim=True)).log()[range(32), y].mean())
    each = torch.full((32,), 0.5)
    each[3] = nan
    yield batch(z, y, each, reduction="none")
    z = torch.tensor([300.0, -300.0])
    p, t = z.sigmoid(), torch.tensor([0.0, 1.0])
    yield batch(z, t, -(t * p.log() + (1 - t) * (1 - p).log()).mean(), binary=True)


@broken("constant-logits")
def rows_that_are_all_equal():
    y = classes(64, count=10)
    yield with_loss(torch.zeros(64, 10), y)
    yield with_loss(torch.full((64, 1000), 3.7), classes(64, count=1000))
    yield with_loss(torch.zeros(64), (y > 4).float(), bce)
    yield batch(torch.zeros(64, 10), y, 2.303)
    yield batch(torch.zeros(64, 2), y % 2, 0.693)
    # Only the biases of the last layer are left, before they have learned and long after.
    yield with_loss(normal(10, size=0.02).expand(256, 10), classes(256, count=10))
    yield with_loss(normal(10, size=1.5).expand(256, 10), classes(256, count=10))


@broken("sigmoid-as-logits")
def sigmoids_before_a_softmax():
    for seed in range(2):
        z, y = trained(seed, rows=200)
        yield with_loss((3 * z).sigmoid(), y)
    yield batch((3 * z).sigmoid(), y)


@broken("ignores-input")
def frequencies_only():
    y = (torch.rand(4000, generator=random(3)) < 0.1).long()
    share = y.double().mean().item()
    z = torch.tensor([0.0, math.log(share / (1 - share))]).expand(4000, 2)
    yield with_loss(z + 1e-4 * normal(4000, 2), y)
    yield with_loss(z[:, 1] + 1e-4 * normal(4000), y.float(), bce)
    y = torch.tensor([0, 0, 0, 0, 0, 0, 0, 1, 1, 2]).repeat(50)
    z = torch.tensor([0.7, 0.2, 0.1]).log().expand(500, 3)
    yield with_loss(z, y)


@broken("half-sum")
def more_than_float16_can_hold():
    for rows in (40000, 66000):
        z, y = normal(rows, 4, size=2).half(), classes(rows, count=4)
        loss = F.cross_entropy(z, y)
        # Not every version of torch adds up in float16.
        yield batch(z, y, inf if loss.isfinite() else loss)
    yield batch(z, y, inf, reduction="sum")


@broken("half-saturated")
def logarithm_of_a_rounded_softmax():
    for dtype, size in ((torch.bfloat16, 10.0), (torch.float16, 10.0)):
        y = classes(64, count=4)
        z = (size * F.one_hot(y, 4)).to(dtype)
        loss = -z.softmax(1)[range(64), y].log().mean()
        assert loss == 0
        yield batch(z, y, loss)


@broken("loss-zero")
def losses_of_nothing():
    z, y = plain()
    yield batch(z, y, 0.0)
    yield batch(z[:1], y[:1], F.nll_loss(z[:1].log_softmax(0), y[:1]))
    yield batch(z, y, (F.cross_entropy(z, y, reduction="none") * 0).sum(), reduction="sum")
    yield batch(z, (z > 0).float(), 0.0, binary=True)


@broken("softmax-twice")
def softmax_before_the_loss():
    for seed in range(2):
        for count in (2, 3, 10, 1000):
            z, y = trained(seed, count=count)
            yield batch(z, y, F.cross_entropy(z.softmax(1), y).item())
            z, y = plain(seed, count=count)
            yield batch(z, y, F.cross_entropy(z.softmax(1), y))
    z, y = trained(3)
    weight = torch.arange(1.0, 11.0)
    yield batch(z, y, F.cross_entropy(z.softmax(1), y, weight=weight), weight=weight)
    yield batch(z, y, F.cross_entropy(z.softmax(1), y, reduction="sum"), reduction="sum")
    y = y.where(y > 3, -100)
    yield batch(z, y, F.cross_entropy(z.softmax(1), y))
    yield batch(z.bfloat16(), y, F.cross_entropy(z.bfloat16().float().softmax(1), y))
    for t in ((z > 1).float(), (z > 1).float() * 0.9):
        yield batch(z, t, bce(z.sigmoid(), t), binary=True)
    # As it is read from a log, with four digits.
    y = torch.arange(10)
    z = 40 * torch.eye(10)
    yield batch(z, y, 1.4612)


@broken("softmax-floor")
def at_the_floor():
    z, y = trained(size=30.0)
    yield batch(z, y, 1.463)
    z, y = trained(count=2, size=30.0)
    yield batch(z, y, 0.3135)
    z = 30 * (2.0 * (y > 0) - 1)
    share = (y > 0).double().mean().item()
    yield batch(z, (y > 0).float(), 0.31326 * share + 0.6931 * (1 - share) + 5e-4, binary=True)


@broken("softmax-wrong-axis")
def loss_over_the_batch():
    z, y = plain()
    yield batch(z, y, F.nll_loss(z.log_softmax(0), y))
    z, y = normal(4, 5, 7), classes(4, 7, count=5)
    yield batch(z, y, F.nll_loss(z.log_softmax(2), y))


@broken("nll-of-probabilities")
def nll_without_logarithm():
    for z, y in (plain(), trained(), plain(count=2)):
        yield batch(z, y, F.nll_loss(z.softmax(1), y))
    z, y = plain()
    yield batch(z, y, F.nll_loss(z.softmax(1), y, reduction="sum"), reduction="sum")


@broken("nll-of-logits")
def nll_of_logits():
    for z, y in (plain(), trained(), plain(count=2)):
        yield batch(z, y, F.nll_loss(z, y))


@broken("sign-flipped")
def log_likelihood():
    z, y = plain()
    yield batch(z, y, -F.cross_entropy(z, y))
    yield batch(z, (z > 1).float(), -bce(z, (z > 1).float()), binary=True)


@broken("base-two")
def bits():
    z, y = plain()
    yield batch(z, y, -(z.softmax(1)[range(32), y].log2()).mean())
    yield batch(z, (z > 1).float(), bce(z, (z > 1).float()) / math.log(2), binary=True)


@broken("clipped-loss")
def clipped_losses():
    y = classes(64, count=10)
    wrong = normal(64, 10) + 60 * F.one_hot((y + (torch.arange(64) < 8)) % 10, 10)
    from sklearn.metrics import log_loss

    for dtype in (np.float32, np.float64):
        p = wrong.double().softmax(1).numpy().astype(dtype)
        yield batch(wrong, y, float(log_loss(y.numpy(), p, labels=range(10))))
    p = wrong.softmax(1)
    yield batch(wrong, y, F.nll_loss(p.clamp(1e-7, 1 - 1e-7).log(), y))
    yield batch(wrong, y, F.nll_loss((p + 1e-8).log(), y))
    yield batch(wrong, y, F.nll_loss(p.clamp(min=1e-12).log(), y))
    z = torch.where(torch.arange(64) < 8, 40.0, -40.0) * normal(64).abs().clamp(min=0.8)
    yield batch(
        z, torch.zeros(64), F.binary_cross_entropy(z.sigmoid(), torch.zeros(64)), binary=True
    )
    z = 300 * normal(64).sign()
    t = (normal(64, seed=4) > 0).float()
    yield batch(z, t, F.binary_cross_entropy(z.sigmoid(), t), binary=True)


@broken("labels-plus-minus")
def soft_margins():
    z, t = normal(32), (normal(32, seed=4) > 0).float()
    yield batch(z, t, F.soft_margin_loss(z, t), binary=True)
    yield batch(z, t, F.soft_margin_loss(z, t, reduction="sum"), reduction="sum", binary=True)
    z, t = normal(8, 5), (normal(8, 5, seed=4) > 1).long()
    yield batch(z, t, F.soft_margin_loss(z, t), binary=True)


@broken("weight-not-used")
def weights_that_were_forgotten():
    z, y = plain()
    weight = torch.arange(1.0, 11.0)
    for reduction in ("mean", "sum", "none"):
        loss = F.cross_entropy(z, y, reduction=reduction)
        yield batch(z, y, loss, weight=weight, reduction=reduction)
    z, y = plain(seed=3)
    some = y.where(y > 2, -100)
    yield batch(z, some, F.cross_entropy(z, some), weight=weight)
    yield batch(z, z.softmax(1), F.cross_entropy(z, z.softmax(1)), weight=weight)
    t = (z > 1).float()
    yield batch(z, t, bce(z, t), weight=weight, binary=True)


@broken("weights-over-n")
def weighted_and_divided_by_n():
    z, y = plain()
    weight = torch.arange(1.0, 11.0)
    for rows in (y, y.where(y > 2, -100)):
        total = F.cross_entropy(z, rows, weight=weight, reduction="sum")
        yield batch(z, rows, total / (rows >= 0).sum(), weight=weight)
        yield batch(z, rows, round(total.item() / (rows >= 0).sum().item(), 4), weight=weight)


@broken("mask-not-used")
def padding_that_counts():
    z, y = normal(8, 20, 16), classes(8, 16, count=20)
    pad = torch.arange(16) >= torch.randint(1, 12, (8, 1), generator=random(0))
    yield batch(z, y, F.cross_entropy(z, y), mask=~pad)
    y = y.masked_fill(pad, 0)
    yield batch(z, y, F.cross_entropy(z, y), ignore_index=0)
    t = (z > 1).float()
    yield batch(z, t, bce(z, t), mask=normal(8, 20, 16, seed=3) > 0, binary=True)
    z, y = plain()
    yield batch(z, y % 5, F.cross_entropy(z, y % 5), mask=torch.arange(10) < 5)


@broken("mean-over-padding")
def divided_by_all():
    z, y = normal(8, 20, 16), classes(8, 16, count=20)
    pad = torch.arange(16) >= torch.randint(1, 12, (8, 1), generator=random(0))
    each = F.cross_entropy(z, y, reduction="none") * ~pad
    yield batch(z, y, each.mean(), mask=~pad)
    yield batch(z, y.masked_fill(pad, -100), each.mean())


@broken("mean-of-means")
def parts_that_count_the_same():
    z, y = trained(rows=8 * 16, count=20, size=2)
    z, y = z.reshape(8, 16, 20).movedim(-1, 1), y.reshape(8, 16)
    pad = torch.arange(16) >= torch.tensor([[2, 3, 1, 2, 16, 14, 15, 16]]).T
    z = (
        z
        + 3 * F.one_hot(y, 20).movedim(-1, 1) * ~pad[:, None] * (torch.arange(8) > 3)[:, None, None]
    )
    y = y.masked_fill(pad, -100)
    for parts in (2, 4, 8):
        means = [F.cross_entropy(a, b) for a, b in zip(z.chunk(parts), y.chunk(parts), strict=True)]
        yield batch(z, y, torch.stack(means).mean())


@broken("other-divisor")
def other_divisors():
    z, y = normal(6, 5, 7), classes(6, 7, count=5)
    yield batch(z, y, F.cross_entropy(z, y, reduction="sum"))
    yield batch(z, y, F.cross_entropy(z, y, reduction="sum") / 6)
    yield batch(z, y, F.cross_entropy(z, y) / 42)
    yield batch(z, y, F.cross_entropy(z, y), reduction="sum")
    z, y = plain()
    yield batch(z, y, -(F.one_hot(y, 10) * z.log_softmax(1)).mean())
    t = (z > 1).float()
    yield batch(z, t, bce(z, t, reduction="none").sum(1).mean(), binary=True)


@broken("label-smoothing")
def smoothed_and_not_said():
    z, y = plain()
    for smoothing in (0.05, 0.1, 0.2):
        yield batch(*trained(), F.cross_entropy(*trained(), label_smoothing=smoothing))
    yield batch(z, y, F.cross_entropy(z, y, label_smoothing=0.1).item())


@broken("negative-loss")
def negative_losses():
    z, y = plain()
    yield batch(z, y, -0.345)
    yield batch(z, y, F.cross_entropy(z, y) - 4)


@broken("gradient-not-finite")
def gradients_that_are_nan():
    z, y = trained(size=-200.0)
    z.requires_grad_()
    p = z.softmax(1)[range(64), y]
    loss = torch.where(p > 0, -p.log(), 100.0).mean()
    loss.backward()
    assert loss.isfinite()
    yield batch(z, y, None, gradient=z.grad)
    z, y = plain()
    yield batch(z, y, gradient=z.where(y[:, None] > 2, inf))


@broken("gradient-underflow")
def gradients_below_float16():
    z = torch.full((2**19,), -4.5).half().requires_grad_()
    y = torch.zeros(2**19).half()
    bce(z, y).backward()
    assert not z.grad.any()
    yield batch(z, y, gradient=z.grad, binary=True)


@broken("gradient-zero")
def gradients_of_nothing():
    z, y = plain()
    yield batch(z, y, F.cross_entropy(z, y), gradient=torch.zeros(32, 10))
    yield batch(z, (z > 1).float(), gradient=torch.zeros(32, 10), binary=True)


@broken("gradient-softmax-twice")
def gradients_of_two_softmaxes():
    for z, y in (plain(), trained(), plain(count=2), plain(count=1000)):
        z = z.requires_grad_()
        F.cross_entropy(z.softmax(1), y).backward()
        yield batch(z, y, gradient=z.grad)
    z, y = plain()
    z = (3 * z).requires_grad_()
    bce(z.sigmoid(), (z > 1).float()).backward()
    yield batch(z, (z > 1).float(), gradient=z.grad, binary=True)


@broken("gradient-sign")
def gradients_that_were_turned_around():
    for z, y in (plain(), trained(), plain(count=2), plain(count=1000)):
        gradient = with_loss(z, y)["gradient"]
        for factor in (-1.0, -32.0):
            yield batch(z, y, F.cross_entropy(z, y), gradient=factor * gradient)
        yield batch(z.bfloat16(), y, gradient=-gradient.bfloat16())
    z, y = plain()
    t = (z > 1).float()
    yield batch(z, t, gradient=-with_loss(z, t, bce)["gradient"], binary=True)


@broken("gradient-sum")
def gradients_of_something_else():
    z, y = plain(size=3)
    for loss in (
        lambda z: bce(z, F.one_hot(y, 10).float()),
        lambda z: F.cross_entropy(5 * (z / 2).tanh(), y),
        lambda z: F.cross_entropy(z, y) + 0.1 * (z.logsumexp(1) ** 2).mean(),
    ):
        z = z.detach().requires_grad_()
        loss(z).backward()
        yield batch(z, y, gradient=z.grad)


@broken("majority-only")
def majority_everywhere():
    y = (torch.rand(600, generator=random(3)) < 0.05).long()
    z = torch.tensor([3.0, 0.0]) + 0.3 * normal(600, 2)
    yield with_loss(z, y)
    yield batch(z[:, 1] - z[:, 0], y.float(), binary=True)


@pytest.mark.parametrize(("cause", "function"), BROKEN, ids=lambda x: getattr(x, "__name__", x))
def test_broken_batches_are_recognised(cause, function):
    for i, given in enumerate(function()):
        found = diagnose(**given)
        assert found.causes == [cause], f"batch {i}:\n{found}"


def test_there_are_enough_broken_batches():
    assert sum(len(list(function())) for _, function in BROKEN) >= 60


# The texts.


def test_every_cause_has_a_broken_batch():
    assert sorted(CAUSES) == sorted(cause for cause, _ in BROKEN)


@functools.cache
def findings():
    return [diagnose(**next(function()))[0] for _, function in BROKEN]


def test_texts():
    for one in findings():
        assert one.section in CHAPTER
        assert one.what == CAUSES[one.cause]
        assert ("Nothing is wrong" in one.what) == (not one.certain), one.cause
        for text in (one.what, one.evidence, one.cure):
            assert text[0].isupper() or text[0].isdigit(), text
            assert text.endswith("."), text
            assert "!" not in text
            # Torch's numbers and Python's would show.
            assert not re.search(r"tensor|np\.|[1-9]\.\d{4}|0\.0*[1-9]\d{4}", text), text


def test_of_a_large_batch_some_rows_are_looked_at():
    """Each of hundreds of orders costs a pass; the bound is one for a busy machine."""
    y = classes(720, 1001, count=10)
    z = normal(720, 1001, 10) + 6 * F.one_hot(y, 10)
    start = time.perf_counter()
    (one,) = diagnose(z.movedim(-1, 1).reshape(-1, 10), y.reshape(-1))
    assert one.cause == "rows-in-another-order"
    assert "of 4096 predictions" in one.evidence
    assert "(720, C, 1001)" in one.evidence
    (one,) = diagnose(z.reshape(-1, 10), y.T.reshape(-1))
    assert one.cause == "rows-in-another-order"
    assert not diagnose(z.reshape(-1, 10), y.reshape(-1))
    assert not diagnose(normal(720720, 10), y.reshape(-1))
    assert time.perf_counter() - start < 25


def test_evidence_has_the_numbers_of_the_batch():
    z, y = trained()
    (one,) = diagnose(z, y, loss=F.cross_entropy(z.softmax(1), y))
    assert f"{F.cross_entropy(z, y):.4g}" in one.evidence
    assert f"{F.cross_entropy(z.softmax(1), y):.4g}" in one.evidence
    y[[3, 50]] = 12
    (one,) = diagnose(z, y)
    assert "2 of 64 targets (at 3, 50)" in one.evidence
    (one,) = diagnose(normal(4, 3, 5), classes(4, 5, count=3).index_fill(1, torch.tensor([2]), 7))
    assert "4 of 20 targets (at (0, 2), (1, 2), (2, 2), (3, 2))" in one.evidence


# Numbers that are known.


def test_floors_of_the_texts():
    right = 1000 * torch.eye(10), torch.arange(10)
    assert f"{F.cross_entropy(right[0].softmax(1), right[1]):.4g}" == "1.461"
    two = 1000 * torch.eye(2), torch.arange(2)
    assert f"{F.cross_entropy(two[0].softmax(1), two[1]):.4g}" == "0.3133"
    for number in ("1.461", "0.3133"):
        assert number in CAUSES["softmax-twice"]


def test_clips_are_those_of_the_libraries():
    from sklearn.metrics import log_loss

    known = {round(top, 2) for top in CLIPS}
    for dtype in (np.float32, np.float64):
        wrong = log_loss([1], np.array([[1, 0]], dtype), labels=[0, 1])
        assert round(wrong, 2) in known
    assert F.binary_cross_entropy(torch.zeros(1), torch.ones(1)).item() in known
    # Keras clips at backend.epsilon(), 1e-7.
    assert {15.94, 36.04, 100.0, 16.12, 18.42} <= known


@pytest.mark.parametrize(
    ("dtype", "gap"),
    [("float32", 16.64), ("float64", 36.74), ("bfloat16", 5.545), ("float16", 7.62)],
)
def test_gap_at_which_a_probability_rounds_to_one(dtype, gap):
    """Of a softmax whose every step is rounded to the dtype."""
    dtype = getattr(torch, dtype)

    def largest(gap):
        e = torch.tensor([0.0, -gap], dtype=torch.float64).exp().to(dtype)
        return (e[0] / (e[0] + e[1]).to(dtype)).item()

    assert largest(gap + 0.02) == 1
    assert largest(gap - 0.02) < 1
    assert math.isclose(gap, math.log(2 / torch.finfo(dtype).eps), rel_tol=1e-3)


# The door.


@pytest.mark.parametrize(
    "convert",
    [
        *(lambda a: a.tolist(), lambda a: a.numpy(), lambda a: list(a), lambda a: a.to("cpu")),
        *(lambda a: tuple(a.tolist()), lambda a: np.asfortranarray(a.numpy())),
        lambda a: a.clone().requires_grad_() if a.is_floating_point() else a,
    ],
)
def test_containers(convert):
    z, y = trained()
    wrong, right = F.cross_entropy(z.softmax(1), y), F.cross_entropy(z, y)
    for loss in (wrong, wrong.item(), np.float32(wrong.item()), [wrong.item()]):
        assert diagnose(convert(z), convert(y), loss=loss).causes == ["softmax-twice"]
    for loss in (right, right.item(), np.float64(right.item()), None):
        assert not diagnose(convert(z), convert(y), loss=loss, weight=convert(torch.ones(10)))


def test_arguments_are_left_as_they_are():
    z, y = trained()
    given = {
        **with_loss(z, y.masked_fill(y == 2, -100), weight=torch.arange(1.0, 11.0)),
        **{"mask": y != 3, "loss": torch.tensor(3.0)},
    }
    kept = {name: a.clone() for name, a in given.items() if isinstance(a, torch.Tensor)}
    diagnose(**given)
    for name, a in kept.items():
        assert torch.equal(given[name], a), name


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"reduction": "max"}, ValueError, "reduction = 'max': expected 'none', 'mean' or 'sum'"),
        ({"binary": 1}, TypeError, "binary is of type int"),
        ({"ignore_index": 0.5}, TypeError, "ignore_index is of type float"),
        ({"ignore_index": 2**64}, ValueError, "ignore_index = 18446744073709551616"),
        ({"label_smoothing": 1.5}, ValueError, "label_smoothing = 1.5"),
        ({"label_smoothing": "much"}, TypeError, "label_smoothing is of type str"),
        ({"axis": 2}, ValueError, "axis = 2"),
        ({"axis": "last"}, TypeError, "axis is of type str"),
        ({"loss": "large"}, TypeError, "loss has dtype"),
        ({"weight": torch.ones(10, dtype=torch.complex64)}, TypeError, "weight has dtype"),
        ({"mask": torch.ones(10, device="meta")}, ValueError, "mask is a tensor that holds no"),
    ],
)
def test_options_that_are_wrong(options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        diagnose(*plain(), **options)


class Bomb:
    def __array__(self, dtype=None, copy=None):
        raise OSError("boom")


@pytest.mark.parametrize("name", ["logits", "target", "loss", "mask", "weight"])
def test_objects_that_raise_when_they_are_read(name):
    given = dict(zip(("logits", "target"), plain(), strict=True))
    with pytest.raises(ValueError, match=f"{name} raises OSError: expected numbers"):
        diagnose(**(given | {name: Bomb()}))


def test_a_program_with_another_default_device():
    z, y = trained()
    given = with_loss(z, y.where(y > 2, -100), label_smoothing=0.1)
    torch.set_default_device("meta")
    try:
        assert not diagnose(**given)
        assert diagnose(z, y, loss=0.9).causes == []
        assert diagnose(z.tolist(), y.tolist(), loss=F.cross_entropy(z.softmax(1), y)).causes == [
            "softmax-twice"
        ]
    finally:
        torch.set_default_device(None)


SHAPES = [(), (1,), (5,), (5, 1), (5, 3), (5, 5), (16, 2), (2, 3, 4), (2, 3, 4, 4), (0,), (0, 3)]
DTYPES = [torch.float32] * 4 + [torch.float16, torch.bfloat16, torch.float64] + [torch.int64] * 4
DTYPES += [torch.uint8, torch.bool]


@pytest.mark.parametrize("seed", range(4))
def test_odd_data_never_raise(seed):
    """Any shapes, dtypes and values: something is found, or nothing, and that is printed."""
    choice = np.random.default_rng(seed)

    def odd(*shapes):
        """Most often of the first shape."""
        shape = shapes[0] if choice.random() < 0.8 else SHAPES[choice.integers(len(SHAPES))]
        size = 10.0 ** choice.integers(-1, 6)
        values = normal(*shape, seed=int(choice.integers(100)), size=size)
        values = values.clamp(-1, int(choice.integers(1, 9))) if choice.random() < 0.6 else values
        for special in (nan, inf, -inf, 0.0):
            if choice.random() < 0.1:
                values = values.where(values < 1, special)
        return values.to(DTYPES[choice.integers(len(DTYPES))])

    def maybe(*shapes):
        return odd(*shapes) if choice.random() < 0.3 else None

    seen = set()
    for _ in range(1000):
        whole = SHAPES[choice.integers(len(SHAPES))]
        binary, axis = bool(choice.integers(2)), int(choice.integers(max(len(whole), 1)))
        of_classes = whole if binary or choice.random() < 0.2 else whole[:axis] + whole[axis + 1 :]
        logits = normal(*whole, size=3) if choice.random() < 0.3 else odd(whole)
        found = diagnose(
            *(logits, odd(of_classes)),
            loss=maybe((), of_classes),
            gradient=maybe(whole),
            probabilities=maybe(whole),
            weight=maybe(whole[axis : axis + 1]),
            mask=maybe(of_classes),
            ignore_index=int(choice.integers(-1, 3)),
            reduction=("mean", "sum", "none")[choice.integers(3)],
            label_smoothing=float(choice.choice([0, 0.1])),
            binary=binary,
            axis=axis if logits.ndim > axis else 0,
        )
        assert repr(found)
        seen.update(found.causes)
    assert len(seen) > 20


def test_what_was_found_is_a_table():
    z, y = trained()
    found = diagnose(z, y, loss=F.cross_entropy(z.softmax(1), y))
    assert isinstance(found, Findings)
    assert found.to_frame()["cause"].tolist() == ["softmax-twice"]
    assert not diagnose(z, y)


def test_public_names():
    assert package.diagnose is diagnose
    assert set(dir(package)) <= {"Finding", "Findings", "diagnose", "doctor"}
    with pytest.raises(AttributeError, match="nothing"):
        _ = package.nothing


# The command.


def save(path, **given):
    if path.suffix == ".pt":
        torch.save(given, path)
    else:
        np.savez(path, **{name: np.asarray(a) for name, a in given.items()})
    return str(path)


@pytest.mark.parametrize("suffix", [".pt", ".npz"])
def test_command(tmp_path, capsys, suffix):
    z, y = trained()
    path = tmp_path / f"batch{suffix}"
    assert main([save(path, logits=z, target=y, loss=F.cross_entropy(z, y), ignore_index=-1)]) == 0
    assert capsys.readouterr().out == "Nothing odd was found.\n"
    twice = F.cross_entropy(z.softmax(1), y)
    assert main([save(path, logits=z, target=y, loss=twice, reduction="mean", binary=False)]) == 1
    assert capsys.readouterr().out.startswith("softmax-twice: ")


class Code:
    """What a pickle would run."""

    def __reduce__(self):
        return print, ("it ran",)


def test_a_tensor_without_values_is_refused():
    z, y = plain()
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = mode.from_tensor(z)
    for hollow in (fake, z.to("meta")):
        with pytest.raises(ValueError, match="logits is a tensor that holds no values here"):
            diagnose(hollow, y)


def test_files_that_cannot_be_used(tmp_path, capsys):
    z, y = plain()
    torch.save({"logits": Code(), "target": y}, tmp_path / "code.pt")
    np.savez(tmp_path / "code.npz", logits=np.array([Code()], dtype=object), target=y)
    torch.save([z, y], tmp_path / "list.pt")
    save(tmp_path / "unknown.pt", logits=z, labels=y)
    save(tmp_path / "lacking.npz", logits=z)
    save(tmp_path / "option.pt", logits=z, target=y, reduction="max")
    (tmp_path / "text.pt").write_text("logits")
    (tmp_path / "hello.pt").write_text("hello")
    (tmp_path / "epoch.pt").write_text("epoch")
    save(tmp_path / "other.pt", logits=z, target=y)
    (tmp_path / "other.pt").rename(tmp_path / "other.npz")
    (tmp_path / "text.npz").write_text("logits")
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "folder.pt").mkdir()
    names = [*sorted(path.name for path in tmp_path.iterdir()), "missing.pt", "missing.npz"]
    assert len(names) == 15
    for name in names:
        assert main([str(tmp_path / name)]) == 2, name
        out, err = capsys.readouterr()
        assert out == "", name
        assert f"{name} cannot be used: " in err
        assert err.count("\n") == 1, err
        assert "Traceback" not in err


def test_command_from_outside(tmp_path):
    z, y = plain()
    path = save(tmp_path / "batch.pt", logits=z, target=y + 1)
    command = [sys.executable, "-m", "celib.diagnosis"]
    done = subprocess.run([*command, path], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert "labels-from-one" in done.stdout
    assert done.stderr == ""
    help_ = subprocess.run([*command, "--help"], capture_output=True, text=True, cwd=ROOT).stdout
    assert 'torch.save({"logits": logits, "target": target, "loss": loss}, "batch.pt")' in help_
