"""Inputs for every kernel, and what float64 makes of them: for the tests beside this file."""

import importlib
import importlib.util
import itertools
import math
import os
import subprocess
import sys
from typing import NamedTuple

import pytest
import torch
from torch.autograd import grad

from celib.kernels import operators
from celib.kernels.family import SHARE, Options, reference

inf, nan = math.inf, math.nan
HAS_GPU = torch.cuda.is_available()


MARKS = [
    # Dividing by zero and the like raise no flag on a GPU.
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton"),
    # The interpreter of Triton 3.1 takes arrays of one element for numbers.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:triton"),
]


KERNELS = {
    name: importlib.import_module(f"celib.kernels.with_{name}")
    for name in ("aten", "numba", "triton")
    if name == "aten" or importlib.util.find_spec(name)
}


OF_TRITON = "cuda" if HAS_GPU else "cpu"


# "rows": the kernels that go over a row tile by tile, for few classes too, which else have others.
DEVICES = {"aten": "cpu", "numba": "cpu", "triton": OF_TRITON, "triton-rows": OF_TRITON}


PLAIN = Options()


SMOOTH = Options(label_smoothing=0.125, entropy=True)


EVERY = Options(label_smoothing=0.1, z_loss=0.01, softcap=5.0, scale=0.5, entropy=True)


def normal(*shape, seed=0, size=3.0, **options):
    generator = torch.Generator().manual_seed(seed)
    values = size * torch.randn(*shape, generator=generator, device="cpu", dtype=torch.float64)
    return values.to(torch.empty(0).device).to(options.get("dtype", torch.float32))


def classes(n, c, seed=0):
    values = torch.randint(c, (n,), generator=torch.Generator().manual_seed(seed), device="cpu")
    return values.to(torch.empty(0).device)


class Found(NamedTuple):
    """What a kernel makes of some rows, and the gradient for derivatives g of the results."""

    loss: torch.Tensor
    lse: torch.Tensor
    share: torch.Tensor
    correct: torch.Tensor
    dx: torch.Tensor
    log_prob: torch.Tensor
    entropy: torch.Tensor


def derivatives(results, g):
    """g, which names some results, as one array; that of the loss is 1 if g does not name it."""
    given = {"loss": torch.ones(results.shape[1])} | g
    lines = [given.get(name, 0.0) for name in ("loss", "lse", "log_prob", "entropy")]
    return torch.stack([torch.as_tensor(a).expand(results.shape[1]).to(results) for a in lines])


def run(x, target, weight=None, o=PLAIN, rows=operators.rows, **g):
    """By the kernel in use."""
    x = x.detach().clone().requires_grad_()
    results, correct, saved = rows(x, target, weight, o)
    share = saved[SHARE] if len(saved) > 1 else saved[0]
    (dx,) = grad(results, x, derivatives(results, g))
    loss, lse, log_prob, entropy = results.detach()
    return Found(loss, lse, share, correct, dx, log_prob, entropy)


def exact(x, target, weight=None, o=PLAIN, **g):
    """The same in float64 by autograd, of the inputs as rounded."""
    target = target.double() if target.is_floating_point() else target
    weight = None if weight is None else weight.double()
    return run(x.double(), target, weight, o, reference, **g)


def in_a_process(code, **environment):
    """What a Python of its own prints; it must end well, and within a minute."""
    command = [sys.executable, "-c", code]
    options = {"capture_output": True, "text": True, "timeout": 60}
    done = subprocess.run(command, env=os.environ | environment, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def error(found, wanted):
    """The largest error, relative to the largest entry."""
    found, wanted = found.double(), wanted.double()
    same = (found == wanted) | (found.isnan() & wanted.isnan())
    return torch.where(same, 0.0, (found - wanted).abs()).max() / wanted[
        wanted.isfinite()
    ].abs().max().clamp(min=1e-300)


GRID = [
    Options(label_smoothing=e, z_loss=z, softcap=c, scale=s, entropy=c > 0)
    for e, z, (c, s) in itertools.product((0.0, 0.1, 1.0), (0.0, 0.01), ((0.0, 1.0), (5.0, 0.5)))
]


DTYPES = (torch.float16, torch.bfloat16, torch.float32)


COMBINATIONS = [
    pytest.param(name, o, soft, id=f"{name}-{'soft' if soft else 'hard'}-{tuple(o[1:])}")
    for name, o, soft in itertools.product(DEVICES, GRID, (False, True))
]


def ulps(found, wanted):
    # In units of the last place of float32, of the exact value, where it is a normal number.
    found = torch.where(wanted.abs() < 2.0**-120, wanted, found.double())
    unit = torch.exp2(torch.floor(torch.log2(wanted.abs().clamp(min=2.0**-126))) - 23)
    return ((found.double() - wanted).abs() / unit).max().item()


# Rows on which kernels fail, and the class that is the target.
NASTY = {
    "masked first": ([-inf] * 2500 + [1.0, 2.0, 0.5], 2501),
    "masked but the target": ([-inf] * 40 + [3.0] + [-inf] * 9, 40),
    "masked target": ([1.0, -inf, 2.0], 1),
    "all masked": ([-inf] * 5, 2),
    "certain": ([0.0, inf, 3.0], 1),
    "certain elsewhere": ([0.0, inf, 3.0], 2),
    "certain twice": ([inf, inf, 3.0], 1),
    "certain twice elsewhere": ([inf, inf, 3.0], 2),
    "nan": ([0.0, nan, 1.0], 0),
    "negative nan": ([0.0, -nan, 1.0], 0),
    "nan target": ([0.0, nan, 1.0], 1),
    "nan and inf": ([0.0, nan, inf], 0),
    "one class": ([5.0], 0),
    "two equal": ([7.0, 7.0], 1),
    "huge": ([1e38, -1e38, 1e38], 0),
    "far": ([0.0, 200.0, -200.0], 0),
    "subnormal loss": ([0.0, -95.0], 0),
}


LAYERS = [
    {"reduction": "mean", "chunk_size": 1},
    {"reduction": "mean", "chunk_size": 4},
    {"reduction": "sum", "chunk_size": 100},
    {"reduction": "mean"},
    {"reduction": "none", "chunk_size": 3},
    {"reduction": "none"},
]
