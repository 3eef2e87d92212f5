"""celib.diagnosis.doctor: right losses pass, and wrong ones are named.

The losses are written as people write them, in torch and in NumPy, and not as the table of mistakes
writes them. The reference of the doctor itself is compared with mpmath.
"""

import io
import math
import random
import re
import shutil
import subprocess
import sys
import threading
import time
import warnings
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path

import mpmath as mp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import log_softmax as scipy_log_softmax
from scipy.special import logsumexp as scipy_logsumexp
from torch import nn

from celib import losses
from celib.diagnosis import doctor
from celib.diagnosis.losses import CAUSES, _right, _setting
from celib.diagnosis.mistakes.formulas import REDUCTIONS
from celib.diagnosis.mistakes.probes import probes

SECTIONS = {
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
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
WEIGHT = [0.5, 2.0, 1.0, 4.0]
W = torch.tensor(WEIGHT)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """So small are the batches that threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def rows(y):
    return torch.arange(len(y))


def onehot(z, y):
    return F.one_hot(y, z.shape[1]).to(z.dtype)


# Losses that are right.


def by_logsumexp(z, y):
    return (torch.logsumexp(z, 1) - z[rows(y), y]).mean()


def shifted(z, y):
    z = z - z.max(1, keepdim=True).values
    return (z.exp().sum(1).log() - z[rows(y), y]).mean()


def shifted_detached(z, y):
    m = z.max(dim=1, keepdim=True)[0].detach()
    lse = (z - m).exp().sum(1, keepdim=True).log() + m
    return (lse - z.gather(1, y[:, None])).mean()


def in_a_loop(z, y):
    total = 0.0
    for row, label in zip(z, y, strict=True):
        total = total + torch.logsumexp(row, 0) - row[label]
    return total / len(y)


def other_names(predictions, labels):
    log_probs = F.log_softmax(predictions, dim=-1)
    return -log_probs.gather(1, labels.unsqueeze(1)).squeeze(1).mean()


def by_margins(z, y):
    """log(1 + sum of exp of the margins)"""
    margins = z - z.gather(1, y[:, None])
    return torch.logsumexp(margins, 1).mean()


def by_softplus(z, y):
    right = z.gather(1, y[:, None]).squeeze(1)
    others = z.masked_fill(F.one_hot(y, z.shape[1]).bool(), -torch.inf).logsumexp(1)
    return F.softplus(others - right).mean()


def with_a_fill(z, y):
    """-1e4 stands for -inf where there is half precision, too."""
    right = z.gather(1, y[:, None])
    others = z.masked_fill(F.one_hot(y, z.shape[1]).bool(), -1e4).logsumexp(1, keepdim=True)
    return torch.logaddexp(right - right, others - right).mean()


def in_numpy(z, y):
    z, y = z.numpy(), y.numpy()
    z = z - z.max(axis=1, keepdims=True)
    return (np.log(np.exp(z).sum(1)) - z[np.arange(len(y)), y]).mean()


def in_scipy(z, y):
    z, y = z.double().numpy(), y.numpy()
    return float((scipy_logsumexp(z, axis=1) - z[np.arange(len(y)), y]).mean())


def like_optax(z, y):
    """optax's softmax_cross_entropy_with_integer_labels, written in NumPy."""
    z, y = z.numpy(), y.numpy()
    z = z - z.max(-1, keepdims=True)
    label = np.take_along_axis(z, y[:, None], -1)[:, 0]
    return np.log(np.exp(z).sum(-1)) - label


def naive_double(z, y):
    """Not shifted by hand, but by logaddexp."""
    total = z[:, 0]
    for k in range(1, z.shape[1]):
        total = torch.logaddexp(total, z[:, k])
    return (total - z[rows(y), y]).mean()


class OwnLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.log_softmax = nn.LogSoftmax(dim=1)

    def forward(self, inputs, targets):
        return F.nll_loss(self.log_softmax(inputs), targets)


class OwnBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z, y):
        ctx.save_for_backward(z, y)
        return F.cross_entropy(z, y)

    @staticmethod
    def backward(ctx, grad_output):
        z, y = ctx.saved_tensors
        g = torch.softmax(z, 1)
        g[rows(y), y] -= 1
        return grad_output * g / len(y), None


def masked_mean(z, y, ignore=-100):
    keep = y != ignore
    each = F.cross_entropy(z, y.where(keep, 0), reduction="none")
    return (each * keep).sum() / keep.sum()


def masked_mean_safe(z, y, ignore=-100):
    keep = y != ignore
    each = F.cross_entropy(z, y.where(keep, 0), reduction="none")
    return (each * keep).sum() / keep.sum().clamp(min=1)


def selected(z, y, ignore=-1):
    keep = y != ignore
    return by_logsumexp(z[keep], y[keep])


def weighted(z, y):
    w = W.to(z.dtype)[y]
    return (w * F.cross_entropy(z, y, reduction="none")).sum() / w.sum()


def binary_stable(z, y):
    return (z.clamp(min=0) - z * y + (-z.abs()).exp().log1p()).mean()


def binary_logaddexp(z, y):
    return (torch.logaddexp(torch.zeros_like(z), z) - y * z).mean()


def binary_two_classes(z, y):
    return F.cross_entropy(torch.stack([torch.zeros_like(z), z], 1), y.long())


def binary_numpy(z, y):
    z, y = z.numpy(), y.numpy()
    return np.mean(np.logaddexp(0, z) - y * z)


def soft_by_hand(z, t):
    return -(t * F.log_softmax(z, 1)).sum(1).mean()


def soft_by_lse(z, t):
    return (torch.logsumexp(z, 1) - (t * z).sum(1)).mean()


def soft_scipy(z, t):
    return -(t.numpy() * scipy_log_softmax(z.double().numpy(), axis=1)).sum(1).mean()


BINARY, MULTI, SOFT = {"kind": "binary"}, {"kind": "multilabel"}, {"kind": "soft"}
SUM, NONE = {"reduction": "sum"}, {"reduction": "none"}
NO_GRADIENT = {"gradient": False}
bce, celib_bce = F.binary_cross_entropy_with_logits, losses.binary_cross_entropy_with_logits

HEALTHY = {
    "torch": (F.cross_entropy, {}),
    "torch, sum": (partial(F.cross_entropy, reduction="sum"), SUM),
    "torch, none": (partial(F.cross_entropy, reduction="none"), NONE),
    "torch, module": (nn.CrossEntropyLoss(), {}),
    "torch, module, sum": (nn.CrossEntropyLoss(reduction="sum"), SUM),
    "torch, defaults": (nn.CrossEntropyLoss(label_smoothing=0.0, weight=None), {}),
    "torch, nll": (lambda z, y: F.nll_loss(F.log_softmax(z, 1), y), {}),
    "torch, nll module": (lambda z, y: nn.NLLLoss()(nn.LogSoftmax(1)(z), y), {}),
    "torch, log_softmax twice": (lambda z, y: F.cross_entropy(F.log_softmax(z, 1), y), {}),
    "torch, in double": (lambda z, y: F.cross_entropy(z.double(), y), {}),
    "torch, in float": (lambda z, y: F.cross_entropy(z.float(), y), {}),
    "torch, one number": (lambda z, y: F.cross_entropy(z, y).reshape(1), {}),
    "celib, focal with gamma 0": (partial(losses.focal_loss, gamma=0.0), {}),
    "torch, vmap": (
        lambda z, y: torch.vmap(lambda a, k: a.logsumexp(0) - a.gather(0, k[None])[0])(z, y),
        NONE,
    ),
    "celib": (losses.cross_entropy, {}),
    "celib, sum": (partial(losses.cross_entropy, reduction="sum"), SUM),
    "celib, none": (partial(losses.cross_entropy, reduction="none"), NONE),
    "celib, module": (losses.CrossEntropyLoss(), {}),
    "celib, three classes": (losses.cross_entropy, {"classes": 3}),
    "ten classes": (F.cross_entropy, {"classes": 10}),
    "two classes": (F.cross_entropy, {"classes": 2}),
    "many classes": (by_logsumexp, {"classes": 1000}),
    "by hand, logsumexp": (by_logsumexp, {}),
    "by hand, shifted": (shifted, {}),
    "by hand, shift detached": (shifted_detached, {}),
    "by hand, loop": (in_a_loop, {}),
    "by hand, other names": (other_names, {}),
    "by hand, margins": (by_margins, {}),
    "by hand, softplus": (by_softplus, {}),
    "by hand, logaddexp": (naive_double, {}),
    "by hand, -1e4 for -inf": (with_a_fill, {}),
    # The mean of all differences of an (N, N) table is the difference of the means.
    "by hand, an accidental table": (
        lambda z, y: (z.logsumexp(1, keepdim=True) - z[rows(y), y]).mean(),
        {},
    ),
    "by hand, sum": (lambda z, y: len(y) * by_logsumexp(z, y), SUM),
    "by hand, module": (OwnLoss(), {}),
    "by hand, backward": (OwnBackward.apply, {}),
    "numpy": (in_numpy, NO_GRADIENT),
    "scipy": (in_scipy, NO_GRADIENT),
    "like optax": (like_optax, NONE | NO_GRADIENT),
    "ignore, torch": (F.cross_entropy, {"ignore_index": -100}),
    "ignore, torch, -1": (partial(F.cross_entropy, ignore_index=-1), {"ignore_index": -1}),
    "ignore, torch, a class": (partial(F.cross_entropy, ignore_index=0), {"ignore_index": 0}),
    "ignore, torch, sum": (partial(F.cross_entropy, reduction="sum"), {"ignore_index": -100} | SUM),
    "ignore, celib": (losses.cross_entropy, {"ignore_index": -100}),
    "ignore, by hand": (masked_mean, {"ignore_index": -100}),
    "ignore, by hand, never empty": (masked_mean_safe, {"ignore_index": -100}),
    "ignore, selected": (selected, {"ignore_index": -1}),
    "weights, torch": (lambda z, y: F.cross_entropy(z, y, W.to(z.dtype)), {"weight": WEIGHT}),
    "weights, torch, sum": (
        lambda z, y: F.cross_entropy(z, y, W.to(z.dtype), reduction="sum"),
        {"weight": WEIGHT} | SUM,
    ),
    "weights, torch, none": (
        lambda z, y: F.cross_entropy(z, y, W.to(z.dtype), reduction="none"),
        {"weight": WEIGHT} | NONE,
    ),
    "weights, torch, ignore": (
        lambda z, y: F.cross_entropy(z, y, W.to(z.dtype), ignore_index=1),
        {"weight": WEIGHT, "ignore_index": 1},
    ),
    "weights, celib": (partial(losses.cross_entropy, weight=W), {"weight": WEIGHT}),
    "weights, by hand": (weighted, {"weight": WEIGHT}),
    "binary, torch": (bce, BINARY),
    "binary, torch, module": (nn.BCEWithLogitsLoss(), BINARY),
    "binary, torch, sum": (nn.BCEWithLogitsLoss(reduction="sum"), BINARY | SUM),
    "binary, torch, none": (nn.BCEWithLogitsLoss(reduction="none"), BINARY | NONE),
    "binary, torch, pos_weight 1": (partial(bce, pos_weight=torch.tensor(1.0)), BINARY),
    "binary, torch, softplus": (
        lambda z, y: (y * F.softplus(-z) + (1 - y) * F.softplus(z)).mean(),
        BINARY,
    ),
    "binary, torch, logsigmoid": (
        lambda z, y: -(y * F.logsigmoid(z) + (1 - y) * F.logsigmoid(-z)).mean(),
        BINARY,
    ),
    "binary, celib": (celib_bce, BINARY),
    "binary, celib, module": (losses.BCEWithLogitsLoss(reduction="sum"), BINARY | SUM),
    "binary, celib, focal": (
        partial(losses.sigmoid_focal_loss, alpha=-1, gamma=0.0),
        BINARY | NONE,
    ),
    "binary, stable": (binary_stable, BINARY),
    "binary, logaddexp": (binary_logaddexp, BINARY),
    "binary, two classes": (binary_two_classes, BINARY),
    "binary, numpy": (binary_numpy, BINARY | NO_GRADIENT),
    "multilabel, torch": (bce, MULTI),
    "multilabel, torch, sum": (partial(bce, reduction="sum"), MULTI | SUM),
    "multilabel, torch, none": (partial(bce, reduction="none"), MULTI | NONE),
    "multilabel, torch, margin": (F.multilabel_soft_margin_loss, MULTI),
    "multilabel, torch, margin, sum": (nn.MultiLabelSoftMarginLoss(reduction="sum"), MULTI | SUM),
    "multilabel, torch, margin, none": (
        nn.MultiLabelSoftMarginLoss(reduction="none"),
        MULTI | NONE,
    ),
    "multilabel, celib": (losses.multilabel_soft_margin_loss, MULTI),
    "multilabel, celib, bce": (celib_bce, MULTI | {"classes": 7}),
    "multilabel, by hand": (lambda z, y: binary_stable(z, y), MULTI),
    "soft, torch": (F.cross_entropy, SOFT),
    "soft, torch, sum": (partial(F.cross_entropy, reduction="sum"), SOFT | SUM),
    "soft, torch, none": (partial(F.cross_entropy, reduction="none"), SOFT | NONE),
    "soft, celib": (losses.cross_entropy, SOFT),
    "soft, by hand": (soft_by_hand, SOFT),
    "soft, logsumexp": (soft_by_lse, SOFT),
    "soft, scipy": (soft_scipy, SOFT | NO_GRADIENT),
}


def wide(loss, dtype):
    """NumPy has no bfloat16."""
    if dtype is torch.bfloat16:
        return lambda z, y: loss(z.float(), y.float() if y.is_floating_point() else y)
    return loss


@pytest.mark.parametrize("name", HEALTHY)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_right_loss_passes(name, dtype):
    loss, options = HEALTHY[name]
    if not options.get("gradient", True):
        loss = wide(loss, dtype)
    found = doctor(loss, dtype=dtype, **options)
    assert not found, found


# Losses that are wrong.


def log_of_softmax(z, y):
    return -torch.log(torch.softmax(z, 1))[rows(y), y].mean()


def log_of_softmax_onehot(z, y):
    return -(onehot(z, y) * torch.log(F.softmax(z, dim=-1))).sum(-1).mean()


def log_of_softmax_nll(z, y):
    return F.nll_loss(F.softmax(z, 1).log(), y)


def unshifted(z, y):
    e = torch.exp(z)
    return -torch.log(e[rows(y), y] / e.sum(1)).mean()


def unshifted_lse(z, y):
    return (torch.log(torch.exp(z).sum(1)) - z.gather(1, y[:, None])[:, 0]).mean()


def picked(f):
    """A loss from a function of the logits: minus the entry of the target."""
    return lambda z, y: -f(z)[rows(y), y].mean()


def softmax(z):
    return torch.softmax(z, 1)


def numpy_log_softmax(z, y):
    z = z.numpy()
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    return -np.log(p[np.arange(len(y)), y.numpy()]).mean()


def keras_like(z, y):
    """Clip, as Keras does for probabilities."""
    p = torch.clip(softmax(z), 1e-7, 1 - 1e-7)
    return -(onehot(z, y) * p.log()).sum(1).mean()


def column_minus_row(z, y):
    return torch.logsumexp(z, 1, keepdim=True) - z[rows(y), y]


def gathered_minus_row(z, y):
    return torch.logsumexp(z, 1) - z.gather(1, y.unsqueeze(1))


def detached_lse(z, y):
    with torch.no_grad():
        lse = torch.logsumexp(z, 1)
    return (lse - z[rows(y), y]).mean()


class Backward(torch.autograd.Function):
    """The right value; the gradient is made by ``of``."""

    @staticmethod
    def forward(ctx, z, y, of):
        ctx.save_for_backward(z, y)
        ctx.of = of
        return F.cross_entropy(z, y)

    @staticmethod
    def backward(ctx, grad_output):
        z, y = ctx.saved_tensors
        return ctx.of(grad_output, softmax(z) - onehot(z, y), len(y)), None, None


def with_backward(of):
    return lambda z, y: Backward.apply(z, y, of)


def in_place(z, y):
    z -= z.max(1, keepdim=True).values
    return (z.exp().sum(1).log() - z[rows(y), y]).mean()


def in_place_target(z, y):
    y.mul_(2).sub_(1)
    return F.softplus(-y * z).mean()


class WithState:
    calls = 0

    def __call__(self, z, y):
        self.calls += 1
        return F.cross_entropy(z, y) * (1 + 1 / self.calls)


class WithDropout(nn.Module):
    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, z, y):
        return F.cross_entropy(self.dropout(z), y)


def two_branches(z, y):
    """The stable branch is taken, and the other one spoils the gradient."""
    z = torch.where(y > 0, -z, z)
    return torch.where(z < 0, torch.log1p(z.exp()), z + torch.log1p((-z).exp())).mean()


def kl_where(z, t):
    """0 log 0 = 0 by `where`, which does not help the gradient."""
    p = torch.softmax(z, 1).clamp(min=0)
    return torch.where(t > 0, t * (torch.log_softmax(z, 1)), p.sqrt() * 0).neg().sum(1).mean()


def prints(z, y):
    print("loss", F.cross_entropy(z, y).item())
    return F.cross_entropy(z, y)


def raises(z, y):
    return F.cross_entropy(z, y, weight=torch.ones(17))


def needs_gpu(z, y):
    if torch.cuda.is_available():  # what another machine would say
        raise RuntimeError("Found no NVIDIA driver on your system.")
    return F.cross_entropy(z.cuda(), y.cuda())


def one_hot_of_the_batch(z, y):
    """The number of classes is taken from the batch."""
    return -(F.one_hot(y) * F.log_softmax(z, 1)).sum(1).mean()


def hand_focal(gamma, alpha=1.0):
    def loss(z, y):
        nll = F.cross_entropy(z, y, reduction="none")
        p = torch.exp(-nll)
        return (alpha * (1 - p) ** gamma * nll).mean()

    return loss


def binary_p(z, y, log=torch.log, p=torch.sigmoid):
    p = p(z)
    return -(y * log(p) + (1 - y) * log(1 - p)).mean()


def with_eps(eps):
    return partial(binary_p, log=lambda p: torch.log(p + eps))


def binary_chosen(z, y, p=torch.sigmoid):
    p = p(z)
    return -torch.log(torch.where(y == 1, p, 1 - p)).mean()


def numpy_sigmoid(z, y):
    z, y = z.numpy(), y.numpy()
    p = 1 / (1 + np.exp(-z))
    return -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))


def softplus_naive(z, y):
    return (torch.log(1 + torch.exp(z)) - y * z).mean()


def unreduced_numpy(z, y):
    return F.cross_entropy(z, y, reduction="none").detach().numpy()


def fixed_index(z, y):
    return F.cross_entropy(z[:1], y[:1])


ce = F.cross_entropy
IGNORE = {"ignore_index": -1}
WEIGHTED = {"weight": WEIGHT}


def to(dtype):
    return lambda z, y: ce(z.to(dtype), y).float()


# Name: the loss, the options, what is found.
MUSEUM = {
    "log of softmax": (log_of_softmax, {}, ["log-of-softmax"]),
    "log of softmax, one-hot": (log_of_softmax_onehot, {}, ["log-of-softmax"]),
    "log of softmax, nll_loss": (log_of_softmax_nll, {}, ["log-of-softmax"]),
    "log of softmax, soft": (
        lambda z, t: -(t * softmax(z).log()).sum(1).mean(),
        SOFT,
        ["log-of-softmax"],
    ),
    "exp, ratio": (unshifted, {}, ["exp-unshifted"]),
    "exp, log-sum-exp": (unshifted_lse, {}, ["exp-unshifted"]),
    "exp, shifted by the batch": (
        lambda z, y: unshifted_lse(z - z.max(), y),
        {},
        ["global-shift"],
    ),
    "exp, shifted by the mean": (
        lambda z, y: unshifted_lse(z - z.mean(1, keepdim=True), y),
        {},
        ["not-finite"],
    ),
    "always nan": (lambda z, y: z.sum() * math.nan, {}, ["not-finite"]),
    "exp, numpy": (numpy_log_softmax, NO_GRADIENT, ["exp-unshifted"]),
    "exp and eps": (
        picked(lambda z: torch.log(z.exp() / z.exp().sum(1, keepdim=True) + 1e-9)),
        {},
        ["exp-unshifted", "eps-in-log"],
    ),
    "softmax twice": (lambda z, y: ce(softmax(z), y), {}, ["softmax-twice"]),
    "softmax twice, module": (
        lambda z, y: nn.CrossEntropyLoss()(nn.Softmax(dim=1)(z), y),
        {},
        ["softmax-twice"],
    ),
    "softmax twice, soft": (lambda z, t: ce(softmax(z), t), SOFT, ["softmax-twice"]),
    "sigmoid first": (lambda z, y: ce(torch.sigmoid(z), y), {}, ["sigmoid-before-softmax"]),
    "eps 1e-8": (picked(lambda z: torch.log(softmax(z) + 1e-8)), {}, ["eps-in-log"]),
    "eps 1e-7": (picked(lambda z: torch.log(softmax(z) + 1e-7)), {}, ["eps-in-log"]),
    "eps 1e-12": (picked(lambda z: torch.log(1e-12 + softmax(z))), {}, ["eps-in-log"]),
    "eps 1e-3": (picked(lambda z: torch.log(softmax(z) + 1e-3)), {}, ["eps-in-log"]),
    "eps, one-hot": (
        lambda z, y: -(onehot(z, y) * torch.log(softmax(z) + 1e-10)).sum() / len(y),
        {},
        ["eps-in-log"],
    ),
    "clamp 1e-8": (picked(lambda z: softmax(z).clamp(min=1e-8).log()), {}, ["p-clamped"]),
    "clamp 1e-6": (picked(lambda z: softmax(z).clamp_min(1e-6).log()), {}, ["p-clamped"]),
    "clip": (keras_like, {}, ["p-clamped"]),
    "log clamped": (picked(lambda z: softmax(z).log().clamp(min=-100)), {}, ["log-clamped"]),
    "log_softmax clamped": (
        picked(lambda z: F.log_softmax(z, 1).clamp(min=-50)),
        {},
        ["log-clamped"],
    ),
    "logits clamped": (lambda z, y: ce(z.clamp(-10, 10), y), {}, ["logits-clamped"]),
    "logits clamped, 500": (lambda z, y: ce(z.clamp(-500, 500), y), {}, ["logits-clamped"]),
    "logits clamped, 5000": (lambda z, y: ce(z.clamp(-5e3, 5e3), y), {}, ["logits-clamped"]),
    "logits clamped, above": (lambda z, y: ce(z.clamp(max=300), y), {}, ["logits-clamped"]),
    "logits clamped, below": (lambda z, y: ce(z.clamp(min=-300), y), {}, ["wrong-value"]),
    "log_softmax clamped, 1000": (
        picked(lambda z: F.log_softmax(z, 1).clamp(min=-1000)),
        {},
        ["log-clamped"],
    ),
    "clamp 1e-300, float64": (
        picked(lambda z: softmax(z).clamp(min=1e-300).log()),
        {"dtype": torch.float64},
        ["eps-in-log"],  # which has the same values
    ),
    "nll of logits": (lambda z, y: F.nll_loss(z, y), {}, ["no-softmax"]),
    "nll of softmax": (lambda z, y: F.nll_loss(softmax(z), y), {}, ["no-log"]),
    "one minus p": (lambda z, y: (1 - softmax(z)[rows(y), y]).mean(), {}, ["no-log"]),
    "axis": (lambda z, y: F.nll_loss(F.log_softmax(z, 0), y), {}, ["softmax-axis"]),
    "axis, module": (
        lambda z, y: nn.NLLLoss()(nn.LogSoftmax(dim=0)(z), y),
        {},
        ["softmax-axis"],
    ),
    "swapped": (
        lambda z, y: -(softmax(z) * torch.log(onehot(z, y))).sum(1).mean(),
        {},
        ["swapped"],
    ),
    "swapped, eps": (
        lambda z, y: -(softmax(z) * torch.log(onehot(z, y) + 1e-8)).sum(1).mean(),
        {},
        ["swapped"],
    ),
    "swapped, torch": (lambda z, t: ce(t, z), SOFT, ["swapped"]),
    "broadcast": (lambda z, y: column_minus_row(z, y).sum(), SUM, ["broadcast"]),
    "broadcast, gather": (lambda z, y: gathered_minus_row(z, y).sum(), SUM, ["broadcast"]),
    "table of labels": (lambda z, y: -F.log_softmax(z, 1)[:, y].mean(), {}, ["broadcast"]),
    "binary of one-hot": (lambda z, y: bce(z, onehot(z, y)), {}, ["binary-for-multiclass"]),
    "binary of softmax": (
        lambda z, y: F.binary_cross_entropy(softmax(z), onehot(z, y)),
        {},
        ["binary-for-multiclass"],
    ),
    "labels from 1": (lambda z, y: ce(z, (y - 1) % z.shape[1]), {}, ["labels-shifted"]),
    "labels from 1, numpy": (
        lambda z, y: -F.log_softmax(z, 1)[rows(y), y - 1].mean(),
        {},
        ["labels-shifted"],
    ),
    "entropy": (
        lambda z, y: -(softmax(z) * F.log_softmax(z, 1)).sum(1).mean(),
        {},
        ["target-ignored"],
    ),
    "kl": (lambda z, t: F.kl_div(F.log_softmax(z, 1), t, reduction="batchmean"), SOFT, ["kl"]),
    "kl, mean": (
        lambda z, t: F.kl_div(F.log_softmax(z, 1), t, reduction="mean"),
        SOFT,
        ["kl", "divided-by-classes"],
    ),
    "base 2": (lambda z, y: ce(z, y) / math.log(2), {}, ["base-2"]),
    "base 2, log2": (lambda z, y: ce(z, y) * np.log2(np.e), {}, ["base-2"]),
    "base 10": (lambda z, y: ce(z, y) / math.log(10), {}, ["base-10"]),
    "sign": (lambda z, y: F.log_softmax(z, 1)[rows(y), y].mean(), {}, ["wrong-sign"]),
    "factor": (lambda z, y: 0.3 * ce(z, y), {}, ["scaled"]),
    "squared": (lambda z, y: F.mse_loss(softmax(z), onehot(z, y)), {}, ["squared-error"]),
    "squared, sum": (
        lambda z, y: ((softmax(z) - onehot(z, y)) ** 2).sum(1).mean(),
        {},
        ["squared-error"],
    ),
    "squared, logits": (lambda z, y: F.mse_loss(z, onehot(z, y)), {}, ["squared-error"]),
    "hinge": (F.multi_margin_loss, {}, ["hinge"]),
    "hinge, p": (partial(F.multi_margin_loss, p=2), {}, ["hinge"]),
    "hinge, p, sum over classes": (
        lambda z, y: (F.relu(1 + z - z.gather(1, y[:, None])).square().sum(1) - 1).mean(),
        {},
        ["hinge"],
    ),
    "hinge, p, best": (
        lambda z, y: (
            F.relu(1 + (z - 1e9 * onehot(z, y)).max(1).values - z.gather(1, y[:, None])[:, 0])
            .square()
            .mean()
        ),
        {},
        ["hinge"],
    ),
    "perplexity of the batch": (lambda z, y: ce(z, y).exp(), {}, ["perplexity"]),
    "perplexity of the batch, power": (
        lambda z, t: 2.0 ** (ce(z, t) / math.log(2)),
        SOFT,
        ["perplexity"],
    ),
    "perplexity": (lambda z, y: ce(z, y, reduction="none").exp().mean(), {}, ["perplexity"]),
    "errors": (
        lambda z, y: (z.argmax(1) != y).float().mean(),
        {},
        ["argmax-inside"],
    ),
    "round": (
        picked(lambda z: torch.log(torch.round(softmax(z)))),
        {},
        ["argmax-inside"],
    ),
    "smoothing": (partial(ce, label_smoothing=0.1), {}, ["label-smoothing"]),
    "smoothing, module": (nn.CrossEntropyLoss(label_smoothing=0.2), {}, ["label-smoothing"]),
    "smoothing, others": (
        lambda z, y: ce(z, onehot(z, y) * 0.9 + (1 - onehot(z, y)) * 0.1 / (z.shape[1] - 1)),
        {},
        ["label-smoothing"],
    ),
    "temperature": (lambda z, y: ce(z / 0.07, y), {}, ["temperature"]),
    "temperature 2": (lambda z, y: ce(z / 2.0, y), {}, ["temperature"]),
    "focal": (hand_focal(2.0), {}, ["focal"]),
    "focal, celib": (losses.focal_loss, {}, ["focal"]),
    "focal, alpha": (hand_focal(1.5, 0.25), {}, ["focal"]),
    "sum": (partial(ce, reduction="sum"), {}, ["sum-for-mean"]),
    "mean": (ce, SUM, ["mean-for-sum"]),
    "over classes": (
        lambda z, y: -(onehot(z, y) * F.log_softmax(z, 1)).mean(),
        {},
        ["divided-by-classes"],
    ),
    "over n twice": (lambda z, y: ce(z, y) / len(y), {}, ["divided-twice"]),
    "softmax twice, sum": (
        lambda z, y: ce(softmax(z), y, reduction="sum"),
        {},
        ["softmax-twice", "sum-for-mean"],
    ),
    "eps, sum": (
        lambda z, y: -torch.log(softmax(z) + 1e-8)[rows(y), y].sum(),
        {},
        ["eps-in-log", "sum-for-mean"],
    ),
    "base 2, over classes": (
        lambda z, y: -(onehot(z, y) * F.log_softmax(z, 1)).mean() / math.log(2),
        {},
        ["base-2", "divided-by-classes"],
    ),
    "ignored counted": (
        lambda z, y: ce(z, y, ignore_index=-1, reduction="sum") / len(y),
        IGNORE,
        ["ignored-counted"],
    ),
    "ignored counted, mask": (
        lambda z, y: (ce(z, y.clamp(min=0), reduction="none") * (y >= 0)).mean(),
        IGNORE,
        ["ignored-counted"],
    ),
    "ignore unheeded, index": (
        lambda z, y: -F.log_softmax(z, 1)[rows(y), y].mean(),
        IGNORE,
        ["ignore-unheeded"],
    ),
    "ignore unheeded, raises": (ce, IGNORE, ["ignore-unheeded"]),
    "ignore unheeded, a class": (ce, {"ignore_index": 0}, ["ignore-unheeded"]),
    "ignore unheeded, clamp": (lambda z, y: ce(z, y.clamp(min=0)), IGNORE, ["ignore-unheeded"]),
    "only what counts": (
        lambda z, y: ce(z[y >= 0], y[y >= 0], reduction="none"),
        IGNORE | NONE,
        ["wrong-shape"],
    ),
    "weights forgotten": (ce, WEIGHTED, ["weights-ignored"]),
    "weights over n": (
        lambda z, y: (W[y] * ce(z, y, reduction="none")).mean(),
        WEIGHTED,
        ["weights-over-n"],
    ),
    "weights over n, sum": (
        lambda z, y: ce(z, y, W.to(z.dtype), reduction="sum") / len(y),
        WEIGHTED,
        ["weights-over-n"],
    ),
    "half": (to(torch.float16), {}, ["half-inside"]),
    "bfloat16": (to(torch.bfloat16), {}, ["half-inside"]),
    "half, numpy": (
        lambda z, y: in_numpy(z.half().float(), y),
        NO_GRADIENT,
        ["half-inside"],
    ),
    "half, back at once": (lambda z, y: ce(z.half().float(), y), {}, ["half-inside"]),
    "autocast": (
        lambda z, y: ce(z.bfloat16(), y),
        {},
        ["half-inside"],
    ),
    "one-hot times -inf": (
        lambda z, y: -(onehot(z, y) * F.log_softmax(z, 1)).sum(1).mean(),
        {},
        ["masked-class"],
    ),
    "soft times -inf": (F.cross_entropy, SOFT | {"strict": True}, ["masked-class", "winner-lost"]),
    "nan, unnamed": (
        lambda z, y: (ce(z, y, reduction="none") + (z.exp().sum(1) * 0)).mean(),
        {},
        ["not-finite"],
    ),
    "wrong, unnamed": (lambda z, y: ce(z, y) + 0.25, {}, ["wrong-value"]),
    "first example": (fixed_index, {}, ["batch-order"]),
    "state": (WithState(), {}, ["not-repeatable"]),
    "dropout": (WithDropout(), {}, ["not-repeatable"]),
    "noise": (lambda z, y: ce(z + torch.randn_like(z), y), {}, ["not-repeatable"]),
    "float": (lambda z, y: ce(z, y).item(), {}, ["no-gradient"]),
    "numpy, asked for a gradient": (in_numpy, {}, ["no-gradient"]),
    "numpy with a mistake": (numpy_log_softmax, {}, ["no-gradient", "exp-unshifted"]),
    "nearly right": (
        lambda z, y: ce(z, y) + 1e-4 * z.logsumexp(1).square().mean(),
        {},
        ["wrong-value"],
    ),
    "detached": (lambda z, y: ce(z.detach(), y), {}, ["no-gradient"]),
    "detached, numbers": (
        lambda z, y: torch.tensor(ce(z, y).item(), requires_grad=True),
        {},
        ["no-gradient"],
    ),
    "eps, numpy": (
        lambda z, y: -np.log(softmax(z).detach().numpy()[np.arange(len(y)), y] + 1e-8).mean(),
        {},
        ["no-gradient", "eps-in-log"],
    ),
    "zero gradient": (lambda z, y: ce(z.detach(), y) + 0 * z.sum(), {}, ["zero-gradient"]),
    "lse detached": (detached_lse, {}, ["lse-detached"]),
    "target detached": (
        lambda z, y: (torch.logsumexp(z, 1) - z.detach()[rows(y), y]).mean(),
        {},
        ["target-detached"],
    ),
    "backward, no mean": (with_backward(lambda g, d, n: g * d), {}, ["gradient-lacks-mean"]),
    "backward, sign": (with_backward(lambda g, d, n: -g * d / n), {}, ["gradient-sign"]),
    "backward, upstream": (with_backward(lambda g, d, n: d / n), {}, ["upstream-ignored"]),
    "backward, odd": (
        with_backward(lambda g, d, n: g * d.clamp(-0.1, 0.1) / n),
        {},
        ["wrong-gradient"],
    ),
    "in place": (in_place, {}, ["changes-input"]),
    "in place, target": (in_place_target, BINARY, ["changes-input"]),
    "raises": (raises, {}, ["raises"]),
    "one argument": (lambda z: z.sum(), {}, ["raises"]),
    "one-hot of the batch": (one_hot_of_the_batch, {}, ["raises", "wrong-value"]),
    "string": (lambda z, y: str(ce(z, y)), {}, ["wrong-type"]),
    "none": (lambda z, y: None, {}, ["wrong-type"]),
    "tuple": (lambda z, y: (ce(z, y), softmax(z)), {}, ["wrong-type"]),
    "integer": (lambda z, y: 1, {}, ["wrong-type"]),
    "integer tensor": (lambda z, y: (z.argmax(1) != y).sum(), {}, ["wrong-type"]),
    "unreduced": (partial(ce, reduction="none"), {}, ["wrong-shape"]),
    "unreduced, array": (unreduced_numpy, {}, ["wrong-shape"]),
    "reduced": (ce, NONE, ["wrong-shape"]),
    "column": (lambda z, y: ce(z, y, reduction="none")[:, None], NONE, ["wrong-shape"]),
    "prints": (prints, {}, ["prints"]),
    "gpu": (needs_gpu, {}, ["needs-gpu"]),
    "all ignored, noted": (
        ce,
        {"ignore_index": -100, "strict": True},
        ["all-ignored", "winner-lost"],
    ),
    "winner, noted": (ce, {"strict": True}, ["winner-lost"]),
    "winner, binary, noted": (bce, BINARY | {"strict": True}, ["winner-lost"]),
    # Yes or no.
    "binary: log of sigmoid": (
        lambda z, y: -(y * z.sigmoid().log() + (1 - y) * (-z).sigmoid().log()).mean(),
        BINARY,
        ["log-of-sigmoid"],
    ),
    "binary: one minus": (binary_p, BINARY, ["one-minus-sigmoid"]),
    "binary: one minus, chosen": (binary_chosen, BINARY, ["one-minus-sigmoid"]),
    "binary: one minus, numpy": (numpy_sigmoid, BINARY | NO_GRADIENT, ["one-minus-sigmoid"]),
    "binary: naive softplus": (softplus_naive, BINARY, ["naive-softplus"]),
    "binary: naive, log1p": (
        lambda z, y: (torch.log1p(torch.exp(-z)) + (1 - y) * z).mean(),
        BINARY,
        ["naive-softplus"],
    ),
    "binary: naive, torch": (
        lambda z, y: F.soft_margin_loss(z, 2 * y - 1),
        BINARY,
        ["log-of-sigmoid"],
    ),
    "binary: sigmoid twice": (lambda z, y: bce(torch.sigmoid(z), y), BINARY, ["sigmoid-twice"]),
    "binary: torch": (
        lambda z, y: F.binary_cross_entropy(torch.sigmoid(z), y),
        BINARY,
        ["bce-on-sigmoid"],
    ),
    "binary: torch, module": (
        lambda z, y: nn.BCELoss(reduction="sum")(nn.Sigmoid()(z), y),
        BINARY | SUM,
        ["bce-on-sigmoid"],
    ),
    "binary: logits to BCELoss": (
        lambda z, y: F.binary_cross_entropy(z, y),
        BINARY,
        ["logits-as-probabilities"],
    ),
    "binary: logits as p": (
        partial(binary_p, p=lambda z: z),
        BINARY,
        ["logits-as-probabilities"],
    ),
    "binary: eps": (with_eps(1e-8), BINARY, ["eps-in-log"]),
    "binary: eps 1e-5": (with_eps(1e-5), BINARY, ["eps-in-log"]),
    "binary: clamp": (
        partial(binary_p, p=lambda z: z.sigmoid().clamp(1e-6, 1 - 1e-6)),
        BINARY,
        ["p-clamped"],
    ),
    "binary: log clamped": (
        partial(binary_p, log=lambda p: p.log().clamp(min=-50)),
        BINARY,
        ["log-clamped"],
    ),
    "binary: logits clamped": (lambda z, y: bce(z.clamp(-8, 8), y), BINARY, ["logits-clamped"]),
    "binary: first term": (lambda z, y: -(y * F.logsigmoid(z)).mean(), BINARY, ["term-forgotten"]),
    "binary: first term, log": (
        lambda z, y: -(y * torch.log(torch.sigmoid(z))).mean(),
        BINARY,
        ["term-forgotten"],
    ),
    "binary: second term": (
        lambda z, y: -((1 - y) * F.logsigmoid(-z)).mean(),
        BINARY,
        ["term-forgotten"],
    ),
    "binary: minus one": (lambda z, y: F.softplus(-y * z).mean(), BINARY, ["labels-plus-minus"]),
    "binary: minus one, torch": (F.soft_margin_loss, BINARY, ["labels-plus-minus"]),
    "binary: flipped": (lambda z, y: bce(z, 1 - y), BINARY, ["labels-flipped"]),
    "binary: flipped, sign of z": (lambda z, y: bce(-z, y), BINARY, ["labels-flipped"]),
    "binary: pos_weight": (
        partial(bce, pos_weight=torch.tensor(3.0)),
        BINARY,
        ["pos-weight"],
    ),
    "binary: swapped": (lambda z, y: bce(y, z.sigmoid()), BINARY, ["wrong-value"]),
    "binary: swapped, BCELoss": (
        lambda z, y: F.binary_cross_entropy(y, z.sigmoid()),
        BINARY,
        ["swapped"],
    ),
    "binary: softmax of one column": (
        lambda z, y: -(y[:, None] * F.log_softmax(z[:, None], 1)).mean(),
        BINARY,
        ["softmax-axis"],
    ),
    "binary: softmax of the batch": (
        lambda z, y: F.binary_cross_entropy(F.softmax(z, dim=0), y),
        BINARY,
        ["softmax-axis"],
    ),
    "binary: broadcast": (
        lambda z, y: (F.softplus(z[:, None]) - z[:, None] * y).mean(),
        BINARY,
        ["broadcast"],
    ),
    "binary: squared": (lambda z, y: F.mse_loss(z.sigmoid(), y), BINARY, ["squared-error"]),
    "binary: hinge": (
        lambda z, y: F.relu(1 - (2 * y - 1) * z).mean(),
        BINARY,
        ["hinge"],
    ),
    "binary: hinge, squared": (
        lambda z, y: F.relu(1 - (2 * y - 1) * z).square().mean(),
        BINARY,
        ["hinge"],
    ),
    "binary: hinge, labels -1 and 1": (
        lambda z, y: F.relu(1 - y * z).mean(),
        BINARY,
        ["hinge", "labels-plus-minus"],
    ),
    "binary: logits clamped, 1000": (
        lambda z, y: bce(z.clamp(-1e3, 1e3), y),
        BINARY,
        ["log-clamped"],
    ),
    "binary: perplexity of the batch": (
        lambda z, y: bce(z, y).exp(),
        BINARY,
        ["perplexity"],
    ),
    "binary: no log": (lambda z, y: (z.sigmoid() - y).abs().mean(), BINARY, ["no-log"]),
    "binary: round": (
        lambda z, y: ((z.sigmoid().round() - y) ** 2).mean(),
        BINARY,
        ["argmax-inside"],
    ),
    "binary: base 2": (lambda z, y: bce(z, y) / math.log(2), BINARY, ["base-2"]),
    "binary: sign": (lambda z, y: -bce(z, y), BINARY, ["wrong-sign"]),
    "binary: sum": (partial(bce, reduction="sum"), BINARY, ["sum-for-mean"]),
    "binary: temperature": (lambda z, y: bce(z * 10, y), BINARY, ["temperature"]),
    "binary: smoothing": (lambda z, y: bce(z, y * 0.9 + 0.05), BINARY, ["label-smoothing"]),
    "binary: focal": (
        partial(losses.sigmoid_focal_loss, reduction="mean"),
        BINARY,
        ["focal"],
    ),
    "binary: focal, no alpha": (
        partial(losses.sigmoid_focal_loss, alpha=-1, reduction="mean"),
        BINARY,
        ["focal"],
    ),
    "binary: two branches": (two_branches, BINARY, ["nan-gradient"]),
    "multilabel: softmax": (F.cross_entropy, MULTI, ["softmax-for-sigmoid"]),
    "multilabel: BCELoss": (
        lambda z, y: F.binary_cross_entropy(z.sigmoid(), y),
        MULTI,
        ["bce-on-sigmoid"],
    ),
    "multilabel: labels summed": (
        lambda z, y: bce(z, y, reduction="none").sum(1).mean(),
        MULTI,
        ["labels-summed"],
    ),
    "multilabel: sum": (partial(bce, reduction="sum"), MULTI, ["sum-for-mean"]),
    "multilabel: softmax of the batch": (
        lambda z, y: F.binary_cross_entropy(z.softmax(0), y),
        MULTI,
        ["softmax-axis"],
    ),
}

MUSEUM |= {
    "exp, shares shifted by the batch": (
        lambda z, y: unshifted(z - z.max(), y),
        {},
        ["global-shift"],
    ),
    "axis, one-hot and log": (
        lambda z, y: -(onehot(z, y) * z.softmax(0).log()).sum(1).mean(),
        {},
        ["softmax-axis"],
    ),
    "axis, log": (picked(lambda z: z.softmax(0).log()), {}, ["softmax-axis"]),
    "axis, all": (
        picked(lambda z: z - z.ravel().logsumexp(0)),
        {},
        ["softmax-axis"],
    ),
    "swapped, logits": (lambda z, t: -(z * t.log()).sum(1).mean(), SOFT, ["swapped"]),
    "binary of one-hot, sum": (
        lambda z, y: bce(z, onehot(z, y), reduction="none").sum(1).mean(),
        {},
        ["binary-for-multiclass"],
    ),
    "binary of softmax, sum": (
        lambda z, y: F.binary_cross_entropy(softmax(z), onehot(z, y), reduction="sum") / len(y),
        {},
        ["binary-for-multiclass"],
    ),
    "squared, logits, sum": (
        lambda z, y: ((z - onehot(z, y)) ** 2).sum(1).mean(),
        {},
        ["squared-error"],
    ),
    "hinge, sum": (
        lambda z, y: (F.relu(1 + z - z.gather(1, y[:, None])).sum(1) - 1).mean(),
        {},
        ["hinge"],
    ),
    "hinge, best": (
        lambda z, y: F.relu(
            1 + (z - 1e9 * onehot(z, y)).max(1).values - z.gather(1, y[:, None])[:, 0]
        ).mean(),
        {},
        ["hinge"],
    ),
    "round, one-hot": (
        lambda z, y: -(onehot(z, y) * torch.log(torch.round(softmax(z)) + 1e-30)).sum(1).mean(),
        {},
        ["zero-gradient", "wrong-value"],
    ),
    "labels from -1": (lambda z, y: ce(z, (y + 1) % z.shape[1]), {}, ["labels-shifted"]),
    "table of labels, sum": (
        lambda z, y: -F.log_softmax(z, 1)[:, y].sum(),
        SUM,
        ["broadcast"],
    ),
    "binary: softmax of the batch, first term": (
        lambda z, y: -(y * F.log_softmax(z, 0)).mean(),
        BINARY,
        ["softmax-axis"],
    ),
    "binary: broadcast, sum": (
        lambda z, y: (F.softplus(z[:, None]) - z[:, None] * y).sum(),
        BINARY | SUM,
        ["broadcast"],
    ),
    "binary: one minus, logsigmoid": (
        lambda z, y: -(y * F.logsigmoid(z) + (1 - y) * (1 - z.sigmoid()).log()).mean(),
        BINARY,
        ["one-minus-sigmoid"],
    ),
    "binary: one minus, logsigmoid, chosen": (
        lambda z, y: -torch.where(y > 0, F.logsigmoid(z), (1 - z.sigmoid()).log()).mean(),
        BINARY,
        ["one-minus-sigmoid"],
    ),
    "binary: log of sigmoid, chosen": (
        lambda z, y: -torch.where(y > 0, z, -z).sigmoid().log().mean(),
        BINARY,
        ["log-of-sigmoid"],
    ),
    "binary: logsigmoid clamped": (
        lambda z, y: -F.logsigmoid((2 * y - 1) * z).clamp(min=-30).mean(),
        BINARY,
        ["log-clamped"],
    ),
    "binary: clamp, chosen": (
        lambda z, y: -((2 * y - 1) * z).sigmoid().clamp(min=1e-6).log().mean(),
        BINARY,
        ["p-clamped"],
    ),
    "binary: eps, chosen": (
        lambda z, y: -(((2 * y - 1) * z).sigmoid() + 1e-7).log().mean(),
        BINARY,
        ["eps-in-log"],
    ),
    "clip, large": (picked(lambda z: softmax(z).clamp(0.01, 0.99).log()), {}, ["p-clamped"]),
    "clamp, large": (picked(lambda z: softmax(z).clamp(min=0.01).log()), {}, ["p-clamped"]),
    "binary: clamp that is none above": (
        partial(binary_p, p=lambda z: z.sigmoid().clamp(1e-8, 1 - 1e-8)),
        BINARY,
        ["p-clamped"],
    ),
    "binary: clamp that is none above, chosen": (
        partial(binary_chosen, p=lambda z: z.sigmoid().clamp(1e-8, 1 - 1e-8)),
        BINARY,
        ["p-clamped"],
    ),
    "binary: clamp, both sides": (
        lambda z, y: (
            -(
                y * z.sigmoid().clamp(min=1e-6).log()
                + (1 - y) * (1 - z.sigmoid()).clamp(1e-6).log()
            ).mean()
        ),
        BINARY,
        ["p-clamped"],
    ),
    "binary: second term, log": (
        lambda z, y: -((1 - y) * torch.log(1 - z.sigmoid())).mean(),
        BINARY,
        ["term-forgotten"],
    ),
    "binary: logits as p, chosen": (
        lambda z, y: -torch.where(y > 0, z.log(), (1 - z).log()).mean(),
        BINARY,
        ["logits-as-probabilities"],
    ),
    "binary: swapped, log": (
        lambda z, y: -(z.sigmoid() * y.log() + (1 - z.sigmoid()) * (1 - y).log()).mean(),
        BINARY,
        ["swapped"],
    ),
    "binary: swapped, logits": (lambda z, y: bce(y, z), BINARY, ["swapped"]),
    "binary: entropy": (
        lambda z, y: torch.distributions.Bernoulli(logits=z).entropy().mean(),
        BINARY,
        ["target-ignored"],
    ),
    "binary: minus p": (
        lambda z, y: -(y * z.sigmoid() + (1 - y) * (1 - z.sigmoid())).mean(),
        BINARY,
        ["no-log"],
    ),
    "binary: squared, logits": (lambda z, y: F.mse_loss(z, y), BINARY, ["squared-error"]),
    "binary: exponential": (
        lambda z, y: bce(z, y, reduction="none").exp().mean(),
        BINARY,
        ["perplexity"],
    ),
    "binary: errors": (
        lambda z, y: ((z.sigmoid() > 0.5).float() != y).float().mean(),
        BINARY,
        ["argmax-inside"],
    ),
    "binary: errors at 0": (
        lambda z, y: ((z >= 0).float() - y).abs().mean(),
        BINARY,
        ["argmax-inside"],
    ),
    "binary: base 10": (lambda z, y: bce(z, y) / math.log(10), BINARY, ["base-10"]),
    "binary: factor": (lambda z, y: 5 * bce(z, y), BINARY, ["scaled"]),
    "multilabel: softmax, mean": (
        lambda z, y: -(y * F.log_softmax(z, 1)).mean(),
        MULTI,
        ["softmax-for-sigmoid"],
    ),
    "multilabel: softmax, BCELoss": (
        lambda z, y: F.binary_cross_entropy(z.softmax(1), y),
        MULTI,
        ["softmax-for-sigmoid"],
    ),
    "multilabel: labels summed, none": (
        lambda z, y: bce(z, y, reduction="none").sum(1),
        MULTI | NONE,
        ["labels-summed"],
    ),
    "multilabel: one minus": (binary_p, MULTI, ["one-minus-sigmoid"]),
    "multilabel: sigmoid twice": (lambda z, y: bce(z.sigmoid(), y), MULTI, ["sigmoid-twice"]),
}


@pytest.mark.parametrize("name", MUSEUM)
def test_a_wrong_loss_is_named(name):
    loss, options, causes = MUSEUM[name]
    found = doctor(loss, **options)
    assert found.causes == causes, found
    for one in found:
        in_the_words_of_the_book(one)


def in_the_words_of_the_book(one):
    assert one.what == CAUSES[one.cause]
    assert one.section in SECTIONS
    assert one.what.endswith(".")
    assert one.cure.endswith(".")
    assert "!" not in re.sub("`[^`]*`", "", one.what + one.cure)
    assert "harmless" in one.what or one.certain
    assert "Traceback" not in one.evidence
    assert len(one.evidence) < 700


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", [*MUSEUM][::7])
def test_the_name_is_that_of_float32(name, dtype):
    loss, options, causes = MUSEUM[name]
    loss = loss if options.get("gradient", True) else wide(loss, dtype)
    assert doctor(loss, dtype=dtype, **options).causes == causes


def test_every_cause_is_in_the_museum():
    seen = {cause for _, _, causes in MUSEUM.values() for cause in causes}
    assert seen == {*CAUSES}


def test_the_collections_are_large():
    named = [n for n, (_, _, causes) in MUSEUM.items() if not {*causes} & GENERIC]
    assert len(HEALTHY) >= 40
    assert len(named) >= 50


GENERIC = {"wrong-value", "not-finite", "wrong-gradient", "nan-gradient", "zero-gradient", "raises"}


# What right is.


def plain_loss(kind, z, t):
    """The cross-entropy of a row of logits, or of one, in mpmath."""
    if kind in ("binary", "multilabel"):
        return t * mp.log(1 + mp.exp(-z)) + (1 - t) * mp.log(1 + mp.exp(z))
    lse = mp.log(mp.fsum(mp.exp(a) for a in z if a > -mp.inf))
    return mp.fsum(b * (lse - a) for a, b in zip(z, t, strict=True) if b > 0)


def plain_slope(kind, z, t):
    if kind in ("binary", "multilabel"):
        return 1 / (1 + mp.exp(-z)) - t
    total = mp.fsum(mp.exp(a) for a in z if a > -mp.inf)
    return [(mp.exp(a) / total if a > -mp.inf else 0) - b for a, b in zip(z, t, strict=True)]


@pytest.mark.parametrize("kind", ["multiclass", "soft", "binary", "multilabel"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_reference_has_the_digits_of_float64(kind, dtype):
    s = _setting(print, kind, "none", dtype, None, None, None, True, False)
    for one in probes(s):
        if one.name == "many":  # a thousand classes, of which the others are as good
            continue
        found = _right(REDUCTIONS[0], one, s)
        z, t = one.logits.tolist(), one.truth.tolist()
        if kind == "multilabel":
            z, t = one.logits.ravel().tolist(), one.truth.ravel().tolist()
        with mp.workdps(2000):
            rows_ = [
                tuple(map(mp.mpmathify, pair)) if kind in BINARY_KINDS else pair
                for pair in zip(z, t, strict=True)
            ]
            values = [float(plain_loss(kind, *pair)) for pair in rows_]
            slopes = [plain_slope(kind, *pair) for pair in rows_]
            slopes = np.array(slopes, dtype=object).astype(float)
        np.testing.assert_allclose(found.value.numpy().ravel(), values, rtol=1e-14, atol=1e-320)
        scale = 1e-14 if kind == "soft" else 1e-320  # p - t cancels, unless t is 0 or 1
        np.testing.assert_allclose(
            found.gradient.numpy().ravel(), slopes.ravel(), rtol=1e-13, atol=scale
        )


BINARY_KINDS = ("binary", "multilabel")


def test_a_probe_of_a_dtype_is_exact_in_it():
    for kind in ("multiclass", "soft", "binary", "multilabel"):
        for dtype in DTYPES:
            for one in probes(_setting(print, kind, "mean", dtype, None, None, None, True, False)):
                assert torch.equal(one.logits.to(dtype).double(), one.logits), one.name


# What is said.


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("eps 1e-8", "1e-08"),
        ("eps 1e-12", "1e-12"),
        ("eps, sum", "1e-08"),
        ("clamp 1e-6", "1e-06"),
        ("clip", "1e-07"),
        ("log clamped", "min=-100"),
        ("logits clamped", "z.clamp(-10, 10)"),
        ("binary: logits clamped, 1000", "z.clamp(-1000, 1000)"),
        ("temperature", "14.29 * z"),
        ("temperature 2", "0.5 * z"),
        ("smoothing", "label_smoothing=0.1"),
        ("focal", "agrees with (1 - p)^2 *"),
        ("focal, alpha", "0.25 * (1 - p)^1.5"),
        ("factor", "0.3 times"),
        ("binary: focal", "(1 - p)^2 * -log(p), times 0.25 for yes and 1 - 0.25 for no"),
        ("binary: pos_weight", "pos_weight=3"),
        ("binary: eps 1e-5", "1e-05"),
        ("half", "float16"),
        ("bfloat16", "bfloat16"),
        ("raises", "RuntimeError"),
        ("raises", f"of {Path(__file__).name}): `return F.cross_entropy("),
        ("one argument", "cannot be called with two arguments"),
        (
            "log of softmax",
            "`logits = [[0, 112, -1]]`, `target = [0]` it returns inf; 112 is right",
        ),
        ("wrong, unnamed", "it returns 1.349; 1.099 is right"),
        ("nearly right", "it returns 1.098733; 1.098612 is right"),
        ("in place", "it leaves `logits = "),
        ("in place, target", "it leaves `target = "),
        ("prints", "first: 'loss 4.4496"),
        ("string", "type str"),
        ("none", "returns None"),
        ("unreduced", "shape (4,)"),
        ("lse detached", "minus the target"),
        ("backward, no mean", "the number of rows"),
        ("winner, noted", "it returns 0; 2.819e-09 is right"),
    ],
)
def test_the_evidence_has_the_numbers(name, words):
    loss, options, _ = MUSEUM[name]
    assert words in " ".join(one.evidence for one in doctor(loss, **options))


def test_the_smallest_input_is_shown():
    """Wrong only for many examples, and only for many classes."""
    found = doctor(lambda z, y: ce(z, y) + (len(y) > 3))
    assert "target = [0, 1, 2, 0]`" in found[0].evidence
    found = doctor(lambda z, y: ce(z, y) + (z.shape[1] > 100))
    assert "logits of shape (2, 1000)" in found[0].evidence
    assert "on 1 of 16 inputs" in found[0].evidence


# What is a mistake, and what is rounding.


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_nothing_is_noted_of_celib(dtype, reduction):
    options = {"dtype": dtype, "reduction": reduction, "strict": True}
    of_classes = partial(losses.cross_entropy, reduction=reduction)
    of_answers = partial(celib_bce, reduction=reduction)
    for kind, loss in zip(
        ("multiclass", "soft", "binary", "multilabel"),
        (of_classes,) * 2 + (of_answers,) * 2,
        strict=True,
    ):
        found = doctor(loss, kind=kind, **options)
        assert not found, found


@pytest.mark.parametrize("noise", [1e-7, 3e-7])
def test_an_error_of_rounding_is_no_mistake(noise):
    def loss(z, y):
        return ce(z, y) * (1 + noise) + noise

    assert not doctor(loss)
    assert not doctor(loss, dtype=torch.float64)


def test_a_small_error_that_is_not_of_rounding_is_found():
    assert doctor(lambda z, y: ce(z, y) + 1e-4).causes == ["wrong-value"]
    assert doctor(lambda z, y: ce(z * 1.001, y)).causes == ["temperature"]


def test_the_gradient_is_not_judged_at_a_kink():
    """The usual stable formula has the gradient 0 at z = 0, where it should be -1/2."""
    z = torch.zeros(1, requires_grad=True)
    binary_stable(z, torch.ones(1)).backward()
    assert z.grad.item() == 0
    assert not doctor(binary_stable, kind="binary")


def test_a_batch_in_which_all_are_ignored_may_be_0_or_nan():
    for value in (0.0, math.nan):

        def loss(z, y, value=value):
            return ce(z, y) if (y >= 0).any() else z.sum() * value

        assert not doctor(loss, ignore_index=-100)


def test_a_sum_in_which_all_are_ignored_is_0():
    def loss(z, y):
        total = ce(z, y, reduction="sum")
        return total if (y >= 0).any() else total * math.nan

    assert doctor(loss, ignore_index=-100, reduction="sum").causes == ["all-ignored"]


# What the loss may do, and what the doctor may not.


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_parameters_get_no_gradient_and_the_mode_stays(mode):
    scale = nn.Parameter(torch.tensor(1.0))
    probes.cache_clear()
    with mode():
        assert not doctor(lambda z, y: ce(z * scale, y))
        assert not torch.is_grad_enabled()
    assert not doctor(lambda z, y: ce(z * scale, y))
    assert scale.grad is None


def test_no_gradient_is_asked_for_that_is_not_wanted():
    scale = nn.Parameter(torch.tensor(1.0))
    assert not doctor(lambda z, y: ce(z, y) * scale, gradient=False)


@pytest.mark.parametrize("kind", ["multiclass", "soft", "binary", "multilabel"])
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_is_never_finite_has_no_name(kind, number):
    found = doctor(lambda z, y: z.sum() * 0 + number, kind=kind, gradient=False)
    assert found.causes == ["not-finite"]


def test_numbers_that_torch_does_not_know():
    """A loss of NumPy may return a long double, or numbers of the other order of bytes."""

    def loss(z, y):
        z = z.numpy()
        return -scipy_log_softmax(z, 1)[np.arange(len(z)), y].mean()

    for dtype in (np.longdouble, ">f4", ">f8"):
        assert not doctor(lambda z, y, dtype=dtype: np.array(loss(z, y), dtype), gradient=False)
    assert doctor(lambda z, y: Broken(), gradient=False).causes == ["wrong-type"]


class Broken:
    def __array__(self, dtype=None, copy=None):
        raise KeyError("broken")


def test_a_gradient_may_be_sparse():
    """The gradient of an embedding may hold only the rows that were looked up."""
    found = doctor(lambda z, y: -F.embedding(y % len(z), z, sparse=True).mean())
    assert found.causes == ["batch-order"]


def test_random_numbers_stay_where_they_were():
    def loss(z, y):
        random.random(), np.random.random()  # noqa: NPY002 - as old code does
        return F.cross_entropy(F.dropout(z), y)

    def states():
        of_numpy = np.random.get_state()[1].tolist()  # noqa: NPY002
        return random.getstate(), of_numpy, torch.get_rng_state().tolist()

    before = states()
    assert doctor(loss).causes == ["not-repeatable"]
    assert states() == before


def test_what_other_threads_print_is_theirs():
    """It is not said of the loss, and arrives where it was printed."""
    done, out = threading.Event(), io.StringIO()

    def talk():
        while not done.is_set():
            print("epoch")
            done.wait(1e-4)

    with redirect_stdout(out):
        thread = threading.Thread(target=talk)
        thread.start()
        heard = {cause for _ in range(5) for cause in doctor(ce).causes}
        heard_of = doctor(prints).causes
        done.set()
        thread.join()
    assert not heard
    assert heard_of == ["prints"]
    assert {*out.getvalue().split()} == {"epoch"}


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no words")


class Unsigned:
    @property
    def __signature__(self):
        raise OSError("no signature")

    def __call__(self, z, y):
        raise ValueError("as it is")


class Locked:
    @property
    def __array__(self):
        raise OSError("locked")


class Touchy(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError("not so")


def raising(error):
    def loss(z, y):
        raise error

    return loss


@pytest.mark.parametrize(
    ("loss", "cause"),
    [
        (raising(Mute()), "raises"),
        (Unsigned(), "raises"),
        (raising(ValueError("\ud800 is half of a pair")), "raises"),
        (lambda z, y: Locked(), "wrong-type"),
        (lambda z, y: [Locked(), Mute()], "wrong-type"),
        (lambda z, y: ce(z, y).detach().as_subclass(Touchy), "wrong-type"),
        (lambda z, y: torch.nested.nested_tensor([z[0], z[0, :2]]), "wrong-type"),
        (lambda z, y: torch.masked.masked_tensor(z[0, 0].detach(), y[0] > 3), "wrong-type"),
    ],
)
def test_objects_that_raise_whatever_is_asked(loss, cause):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = doctor(loss)
    assert found.causes == [cause]
    repr(found).encode()


def test_an_input_that_cannot_be_read_any_more():
    def loss(z, y):
        value = ce(z, y)
        z.__class__ = Touchy
        return value

    (one,) = doctor(loss)
    assert one.cause == "changes-input"
    assert "it leaves other `logits` behind" in one.evidence


def test_a_tensor_of_another_class_is_a_tensor():
    class Named(torch.Tensor):
        pass

    assert not doctor(lambda z, y: ce(z, y).as_subclass(Named))
    assert not doctor(lambda z, y: nn.Parameter(ce(z, y)), gradient=False)


def test_long_messages_are_cut():
    sentences = "It is of the wrong kind. " + 40 * "Look at the manual. "
    for message in (sentences, 500 * "word ", "x" * 5000):
        for loss in (raising(ValueError(message)), lambda z, y, m=message: ce(z, y).view(m)):
            (one,) = doctor(loss)
            assert len(one.evidence) < 500, one.evidence
    (one,) = doctor(raising(ValueError(sentences)))
    assert "ValueError: It is of the wrong kind. Look at the manual" in one.evidence
    assert "manual (line" in one.evidence


def settings():
    return (
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )


@pytest.fixture
def _settings_at_the_end():
    threads = torch.get_num_threads()
    yield
    torch.set_default_device(None)
    torch.set_default_dtype(torch.float32)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
    torch.set_grad_enabled(True)


@pytest.mark.usefixtures("_settings_at_the_end")
@pytest.mark.parametrize(
    "change",
    [
        lambda: torch.set_default_dtype(torch.float64),
        lambda: torch.set_default_device("meta"),
        lambda: torch.set_num_threads(3),
        lambda: torch.use_deterministic_algorithms(True),
        lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    ],
)
@pytest.mark.parametrize("fails", [False, True])
def test_what_a_loss_sets_is_set_back(change, fails):
    def loss(z, y):
        change()
        return ce(z, y if not fails else None)

    probes.cache_clear()
    before = settings()
    assert doctor(loss, weight=[1.0] * 4, ignore_index=-100).causes == ["raises"] * fails
    assert settings() == before


@pytest.mark.usefixtures("_settings_at_the_end")
def test_a_loss_that_turns_gradients_off():
    def loss(z, y):
        torch.set_grad_enabled(False)
        return ce(z, y)

    _right.cache_clear()
    assert doctor(loss).causes == ["no-gradient"]
    assert torch.is_grad_enabled()


@pytest.mark.usefixtures("_settings_at_the_end")
def test_a_program_with_another_default_device():
    torch.set_default_device("meta")
    probes.cache_clear()
    for kind in ("multiclass", "soft", "binary", "multilabel"):
        assert not doctor(bce if kind in BINARY_KINDS else ce, kind=kind)
    assert torch.get_default_device().type == "meta"


def test_two_examinations_say_the_same():
    for name in ("in place", "eps 1e-8", "torch"):
        loss, options = (MUSEUM | HEALTHY)[name][:2]
        assert doctor(loss, **options) is not None
        assert repr(doctor(loss, **options)) == repr(doctor(loss, **options))


def test_nothing_is_printed(capsys):
    doctor(prints)
    assert capsys.readouterr().out == ""


@pytest.mark.skipif(not shutil.which("g++"), reason="no compiler")
def test_a_compiled_loss_passes():
    compiled = torch.compile(by_logsumexp, backend="aot_eager")
    assert not doctor(compiled)


def test_optax_passes():
    optax = pytest.importorskip("optax")

    def loss(z, y):
        each = optax.softmax_cross_entropy_with_integer_labels(z.numpy(), y.numpy())
        return np.asarray(each).mean()

    assert not doctor(loss, gradient=False)


def test_it_is_fast():
    """Not a measurement: a bound that holds on a busy machine, for the slowest way."""
    start = time.perf_counter()
    assert doctor(lambda z, y: ce(z, y).sin()).causes == ["wrong-value"]
    assert time.perf_counter() - start < 2


# Arguments.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "ordinal"}, "kind = 'ordinal': expected 'multiclass', 'binary', 'multilabel' or"),
        ({"reduction": "avg"}, "reduction = 'avg': expected 'mean', 'sum' or 'none'"),
        ({"dtype": torch.int64}, "dtype = torch.int64: expected torch.float32, "),
        ({"classes": 1}, "classes = 1: expected at least 2"),
        ({"weight": [1.0, -1.0]}, r"weight\[1\] = -1.0: expected positive and finite"),
        ({"weight": "ab"}, r"weight = 'ab': expected positive numbers, of shape \(C,\)"),
        ({"weight": "12"}, "weight = '12': expected positive numbers"),
        ({"weight": 3.0}, r"weight = 3.0: expected positive numbers, of shape \(C,\)"),
        ({"weight": [None, 1.0]}, r"weight = \[None, 1.0\]: expected positive numbers"),
        ({"weight": torch.ones(2, 2)}, r"weight = tensor(.|\s)*: expected positive numbers"),
        ({"weight": [1.0]}, r"weight has shape \(1,\): expected \(C,\), C at least 2"),
        ({"weight": WEIGHT, "classes": 3}, r"weight has shape \(4,\): expected \(3,\)"),
        (BINARY | {"ignore_index": -1}, "ignore_index = -1: expected None for kind = 'binary'"),
        (SOFT | {"weight": WEIGHT}, "expected None for kind = 'soft'"),
        ({"strict": "yes"}, "strict = 'yes': expected True or False"),
    ],
)
def test_a_bad_option_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        doctor(ce, **options)


@pytest.mark.parametrize("loss", [3.0, None, nn.CrossEntropyLoss])
def test_what_cannot_be_called_is_refused(loss):
    with pytest.raises(TypeError, match=r"loss_fn is of type .*: expected a function of logits"):
        doctor(loss)


def test_celib_needs_no_torch_to_be_imported():
    code = "import sys, celib; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
