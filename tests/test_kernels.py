"""celib.kernels, every kernel on the same inputs, against float64 and against 50 digits.

The Triton kernels run on the GPU where there is one and in Triton's interpreter elsewhere. Tests
that need a GPU carry the marker ``gpu`` and say so where they are skipped. A number in the name of
a test is that of a failure of a published kernel: see FAILURES.md.
"""

import functools
import importlib
import importlib.util
import itertools
import math
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import NamedTuple

import mpmath as mp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.autograd import grad, gradcheck, gradgradcheck

from celib.kernels import choice, linear, memory, operators
from celib.kernels.family import ENTROPY, LOG_PROB, LOSS, LSE, SHARE, Options, reference
from celib.losses import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    focal_loss,
    linear_cross_entropy,
)

inf, nan = math.inf, math.nan
HAS_GPU = torch.cuda.is_available()
pytestmark = [
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


@pytest.fixture(params=DEVICES)
def kernel(request, monkeypatch):
    name, _, rows = request.param.partition("-")
    if name not in KERNELS:
        pytest.skip(f"{name} is not installed")
    if rows:
        monkeypatch.setattr(KERNELS[name], "SMALL", 0)
    with choice.using(KERNELS[name]), torch.device(DEVICES[name]):
        yield name


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


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


class TestFamily:
    """Every combination of options, against float64."""

    @pytest.mark.parametrize("weighted", [False, True], ids=["even", "weighted"])
    @pytest.mark.parametrize(("kernel", "o", "soft"), COMBINATIONS, indirect=["kernel"])
    def test_against_float64(self, kernel, o, weighted, soft):
        x, y = normal(11, 37), classes(11, 37)
        x[1, 5] = x[2, :20] = -inf
        y[3] = o.ignore_index
        w = torch.rand(37, generator=None) if weighted else None
        target = normal(11, 37, seed=1).softmax(-1) if soft else y
        names = ("loss", "lse", "log_prob", "entropy")[: 4 if o.entropy else 3]
        g = {name: torch.rand(11) for name in names}
        found, wanted = (f(x, target, w, o, **g) for f in (run, exact))
        for a, b in zip(found, wanted, strict=True):
            assert error(a, b) < 5e-7
        assert torch.equal(found.correct, wanted.correct)

    def test_reference_against_the_formula(self):
        # The family in 50 digits, written from the formula, for the reference of all other tests.
        x, w = normal(4, 5, dtype=torch.float64), torch.tensor([0.5, 1.0, 2.0, 0.0, 3.0])
        for o, q in itertools.product(GRID, (normal(4, 5, seed=1).softmax(-1), classes(4, 5))):
            found = reference(x, q.double() if q.ndim == 2 else q, w.double(), o).results
            hot = q.double() if q.ndim == 2 else F.one_hot(q, 5).double()
            for i in range(4):
                z = [mp.mpf(a) * o.scale for a in x[i].tolist()]
                z = [o.softcap * mp.tanh(a / o.softcap) for a in z] if o.softcap else z
                total = mp.log(mp.fsum(map(mp.exp, z)))
                surprise = [total - a for a in z]
                mixed = [
                    (1 - o.label_smoothing) * b + o.label_smoothing / 5 for b in hot[i].tolist()
                ]
                wanted = mp.fsum(
                    a * b * c for a, b, c in zip(w.tolist(), mixed, surprise, strict=True)
                )
                wanted += o.z_loss * total**2
                log_prob = -mp.fsum(a * b for a, b in zip(hot[i].tolist(), surprise, strict=True))
                entropy = mp.fsum(mp.exp(-a) * a for a in surprise) if o.entropy else 0
                for line, value in (
                    (LOSS, wanted),
                    (LSE, total),
                    (LOG_PROB, log_prob),
                    (ENTROPY, entropy),
                ):
                    assert found[line, i].item() == pytest.approx(float(value), rel=1e-13)


def ulps(found, wanted):
    # In units of the last place of float32, of the exact value, where it is a normal number.
    found = torch.where(wanted.abs() < 2.0**-120, wanted, found.double())
    unit = torch.exp2(torch.floor(torch.log2(wanted.abs().clamp(min=2.0**-126))) - 23)
    return ((found.double() - wanted).abs() / unit).max().item()


class TestAccuracy:
    def test_03_offset(self, kernel):
        # Rounded inputs are the inputs: what a common offset takes away is taken from both.
        for c in (0.0, 1e2, 1e4, 1e6, 2.0**24):
            x, y = normal(8, 3000) + c, classes(8, 3000)
            found, wanted = run(x, y), exact(x, y)
            assert ulps(found.loss, wanted.loss) <= 4
            assert error(found.dx, wanted.dx) < 5e-7

    def test_loss_within_4_ulp(self, kernel):
        # On a grid of 1/64, where differences of logits are exact.
        gaps = torch.cat([torch.linspace(0.0, 80.0, 41), -torch.linspace(0.5, 80.5, 41)])
        x = (normal(82, 300) * 64).round() / 64
        x[:, 7] = x.amax(-1) + gaps
        y = torch.full((82,), 7)
        found, wanted = run(x, y), exact(x, y)
        assert ulps(found.loss, wanted.loss) <= 4
        # Each entry of the gradient has its digits, the target's too, however close p is to 1.
        assert ulps(found.dx, wanted.dx) <= 8

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    @pytest.mark.parametrize("p", [0.9, 0.99, 0.999, 0.9999])
    def test_04_p_minus_1(self, kernel, p, dtype):
        x = torch.zeros(4, 64)
        x[:, 0] = math.log(63 * p / (1 - p))
        x = x.to(dtype)
        y = torch.zeros(4, dtype=torch.long)
        found, wanted = run(x, y).dx[:, 0], exact(x, y).dx[:, 0]
        assert found.dtype == dtype
        # Rounded once; the interpreter cuts bfloat16 off, which is twice as wrong.
        assert (found.double() / wanted - 1).abs().max() < 2 * torch.finfo(dtype).eps

    @pytest.mark.parametrize(
        ("kernel", "dtype"),
        list(itertools.product(DEVICES, DTYPES)),
        indirect=["kernel"],
    )
    def test_no_worse_than_torch(self, kernel, dtype):
        for c in (3, 300, 5000):
            x, y = normal(16, c, seed=c).to(dtype), classes(16, c)
            loss, _, _, _, dx, *_ = run(x, y)
            a = x.clone().requires_grad_()
            b = F.cross_entropy(a, y, reduction="none")
            (db,) = grad(b.sum(), a)
            wanted = exact(x, y)
            for mine, peer, w in ((loss, b, wanted.loss), (dx, db, wanted.dx)):
                unit = torch.finfo(mine.dtype).eps
                assert error(mine, w) <= 1.5 * error(peer, w) + unit

    def test_bfloat16_is_rounded_as_torch_does(self):
        if "numba" not in KERNELS:
            pytest.skip("numba is not installed")
        x, y = normal(64, 999).bfloat16(), classes(64, 999)
        g = torch.logspace(-45, 38, 64)  # subnormal results, and some beyond the largest number
        g[5], g[6], g[7] = nan, -inf, -3.4e38
        g[8:10] = torch.tensor([2**31 - 1, -1], dtype=torch.int32).view(torch.float32)  # NaN
        with choice.using(KERNELS["numba"]):
            found, wanted = run(x, y, loss=g).dx, run(x.float(), y, loss=g).dx.bfloat16()
        assert torch.equal(found.isnan(), wanted.isnan())
        assert torch.equal(found.nan_to_num(1.0), wanted.nan_to_num(1.0))


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


class TestNastyRows:
    @pytest.mark.parametrize("name", NASTY)
    @pytest.mark.parametrize(
        ("kernel", "o", "soft"),
        list(itertools.product(DEVICES, (PLAIN, SMOOTH), (False, True))),
        indirect=["kernel"],
    )
    def test_01_rows(self, kernel, name, o, soft):
        row, y = NASTY[name]
        x, target = torch.tensor([row, row[::-1]]), torch.tensor([y, len(row) - 1 - y])
        target = F.one_hot(target, len(row)).float() if soft else target
        found, wanted = run(x, target, None, o), exact(x, target, None, o)
        names = ("loss", "lse", "log_prob", "entropy")[: 4 if o.entropy else 3]
        for a, b in ((getattr(found, name), getattr(wanted, name)) for name in names):
            torch.testing.assert_close(a.double(), b, rtol=3e-7, atol=2e-38, equal_nan=True)
        if wanted.loss.isfinite().all():
            torch.testing.assert_close(found.dx.double(), wanted.dx, rtol=1e-6, atol=2e-7)
        assert torch.equal(found.correct, wanted.correct)
        if name != "all masked":  # of which the gradient may be 0
            assert torch.equal(found.loss.isnan(), found.dx.isnan().any(-1))

    def test_26_ignored_rows_may_hold_anything(self, kernel):
        x, y = normal(4, 5), torch.tensor([0, -100, -100, 1])
        for bad in (nan, inf, -inf):
            x[1], x[2, 1:3] = bad, bad
            loss, lse, share, correct, dx, *_ = run(x, y)
            assert (loss[1:3] == 0).all()
            assert (dx[1:3] == 0).all()
            assert (lse[1:3] == 0).all()
            assert not correct[1:3].any()
            assert share.tolist() == [1, 0, 0, 1]
            alone = run(x[[0, 3]], y[[0, 3]])
            assert torch.equal(dx[[0, 3]], alone.dx)

    @pytest.mark.parametrize("bad", [-1, 5, 5 + 10**9, 2**40])
    def test_16_out_of_range(self, kernel, bad):
        x, y = normal(4, 5), torch.tensor([0, 1, 2, 3])
        wanted = run(x, y)
        y[2] = bad
        loss, lse, _, correct, dx, *_ = run(x, y)
        assert loss.isnan().tolist() == [False, False, True, False]
        assert dx.isnan().all(-1).tolist() == [False, False, True, False]
        assert not correct[2]
        rest = [0, 1, 3]
        assert torch.equal(dx[rest], wanted.dx[rest])
        assert torch.equal(loss[rest], wanted.loss[rest])
        assert lse[2].isnan()

    @pytest.mark.parametrize("c", [31, 32, 33, 123, 1023, 1025, 4095, 4097])
    @pytest.mark.parametrize(
        ("kernel", "o"),
        list(itertools.product(DEVICES, (PLAIN, EVERY))),
        indirect=["kernel"],
    )
    def test_02_23_padding(self, kernel, o, c):
        # Beside the row stands what a kernel must not see, and the softcap must not make of it.
        wide = normal(3, c + 9)
        wide[:, c:] = 1e4
        x, y = wide[:, :c], classes(3, c)
        for a, b in zip(run(x, y, None, o), exact(x, y, None, o), strict=True):
            assert error(a, b) < 5e-7

    @pytest.mark.parametrize("o", [PLAIN, SMOOTH], ids=["plain", "smooth"])
    def test_certain_in_a_later_tile(self, kernel, o):
        x = torch.zeros(2, 5000)
        x[:, 4999] = inf
        y = torch.tensor([4999, 3])
        for target in (y, F.one_hot(y, 5000).float()):
            for w in (None, torch.arange(5000) % 2.0):
                found, wanted = run(x, target, w, o), exact(x, target, w, o)
                assert torch.equal(found.loss.double(), wanted.loss)

    def test_ignored_row_in_the_reference(self):
        x = torch.tensor([[nan, 1.0, 2.0], [0.0, 1.0, 2.0]], requires_grad=True)
        loss = cross_entropy(x, torch.tensor([-100, 1]), softcap=5.0, reduction="sum")
        (dx,) = grad(loss, x, create_graph=True)
        assert (dx[0] == 0).all()
        assert dx[1].isfinite().all()

    def test_softcap_of_small_logits(self, kernel):
        x, o = torch.tensor([[0.01, 0.02, -0.01]]), Options(softcap=50.0)
        found, wanted = run(x, torch.tensor([0]), None, o), exact(x, torch.tensor([0]), None, o)
        assert ulps(found.loss, wanted.loss) <= 4
        assert ulps(found.dx, wanted.dx) <= 8

    def test_softcap_leaves_masks(self, kernel):
        x = torch.tensor([[1.0, -inf, 3.0]])
        loss, _, _, _, dx, *_ = run(x, torch.tensor([0]), None, Options(softcap=2.0))
        alone = run(x[:, [0, 2]], torch.tensor([0]), None, Options(softcap=2.0))
        assert loss.item() == alone.loss.item()
        assert dx[0, 1] == 0

    def test_24_degenerate_shapes(self, kernel):
        for n, c in ((0, 5), (1, 1), (1, 2), (3, 1)):
            loss, lse, _, _, dx, *_ = run(normal(n, c).half(), torch.zeros(n, dtype=torch.long))
            loss, lse, _, _, dx, *_ = run(normal(n, c), torch.zeros(n, dtype=torch.long))
            assert loss.shape == lse.shape == (n,)
            assert dx.shape == (n, c)
            assert c > 1 or (dx == 0).all()


class TestLayout:
    def test_06_logits_are_left_alone(self, kernel):
        x, y = normal(6, 50), classes(6, 50)
        before = x.clone()
        run_on = x.requires_grad_()
        loss, *_ = operators.rows(run_on, y, None, Options()).results
        loss.sum().backward()
        assert torch.equal(x.detach(), before)
        again, *_ = operators.rows(run_on, y, None, Options()).results
        assert torch.equal(again, loss)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_in_place_gradient(self, kernel, dtype):
        x, y = normal(6, 50).to(dtype), classes(6, 50)
        wanted = run(x, y).dx
        leaf = x.clone().requires_grad_()
        logits = leaf * 1.0
        cross_entropy(logits, y, reduction="sum", inplace_backward=True).backward()
        assert torch.equal(leaf.grad, wanted)
        assert torch.equal(logits.detach(), wanted)
        logits = leaf * 1.0
        loss = cross_entropy(logits, y, inplace_backward=True)
        loss.backward(retain_graph=True)
        with pytest.raises(RuntimeError, match="inplace operation"):
            loss.backward()
        for values in (leaf, leaf.view(6, 50), leaf[:, :]):
            with pytest.raises(ValueError, match="inplace_backward = True: input is a leaf"):
                cross_entropy(values, y, inplace_backward=True)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
    def test_strides(self, kernel, dtype):
        x, y = normal(5, 40).to(dtype), classes(5, 40)
        wanted = run(x, y)
        wide = torch.zeros(5, 64, dtype=dtype)
        wide[:, :40] = x
        columns = torch.empty(40, 5, dtype=dtype).T.copy_(x)
        for view in (wide[:, :40], columns, x[[0]].expand(5, -1)):
            leaf = view.detach().requires_grad_()
            loss = cross_entropy(leaf, y, reduction="none")
            (dx,) = grad(loss.sum(), leaf)
            if view.stride(0):
                assert torch.equal(loss, wanted.loss)
                assert torch.equal(dx, wanted.dx)
            else:
                assert torch.equal(loss, run(view.contiguous(), y).loss)

    @pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 7, 4), (2, 7, 3, 2)])
    def test_classes_at_1(self, kernel, shape):
        x = normal(*shape, dtype=torch.float32)
        axis = min(1, len(shape) - 1)
        sites = [n for i, n in enumerate(shape) if i != axis]
        y = classes(math.prod(sites), 7).reshape(sites)
        for reduction in ("none", "mean", "sum"):
            a, b = (x.clone().requires_grad_() for _ in range(2))
            found = cross_entropy(a, y, reduction=reduction)
            wanted = F.cross_entropy(b, y, reduction=reduction)
            torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(
                grad(found.sum(), a)[0], grad(wanted.sum(), b)[0], rtol=1e-5, atol=1e-7
            )

    @pytest.mark.parametrize(
        "dtype", [torch.int64, torch.int32, torch.int16, torch.uint8, torch.uint16]
    )
    def test_25_targets_at_odd_addresses(self, kernel, dtype):
        x, y = normal(9, 20), classes(10, 20).to(dtype)
        assert torch.equal(run(x, y[1:]).dx, run(x, y[1:].clone()).dx)
        assert torch.equal(run(x, y[1:]).loss, run(x, y[1:].long()).loss)
        assert torch.equal(cross_entropy(x, y[1:], reduction="none"), run(x, y[1:]).loss)

    def test_weights_of_any_layout(self, kernel):
        x, y, w = normal(4, 5), classes(4, 5), torch.rand(10)
        for view in (w[::2], torch.tensor(2.0).expand(5)):
            for a, b in zip(run(x, y, view), run(x, y, view.clone()), strict=True):
                assert torch.equal(a, b)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
    def test_other_default_dtype(self, kernel, dtype):
        x, y = normal(60, 300, size=20).to(dtype), classes(60, 300)
        wanted = run(x, y)
        torch.set_default_dtype(torch.float64)
        try:
            found = run(x, y)
        finally:
            torch.set_default_dtype(torch.float32)
        for a, b in zip(found, wanted, strict=True):
            assert a.dtype == b.dtype
            assert torch.equal(a, b)

    def test_18_same_bits(self, kernel):
        x, y, w = normal(8, 777), classes(8, 777), torch.rand(777)
        first = run(x, y, w)
        for _ in range(9):
            assert all(torch.equal(a, b) for a, b in zip(run(x, y, w), first, strict=True))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
    @pytest.mark.parametrize("of_torch", [True, False], ids=["torch", "python"])
    def test_threads(self, monkeypatch, of_torch, dtype):
        # Large enough to be shared among threads; called from several threads at once.
        if "numba" not in KERNELS:
            pytest.skip("numba is not installed")
        if not of_torch:
            threads = importlib.import_module("celib.kernels.threads")
            monkeypatch.setattr(threads, "_openmp", lambda: None)
        x, y = normal(301, 700).to(dtype), classes(301, 700)
        threads = torch.get_num_threads()
        results = [None] * 4

        def work(i):
            results[i] = run(x, y)

        try:
            torch.set_num_threads(1)
            wanted = run(x, y)
            torch.set_num_threads(3)
            workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
        finally:
            torch.set_num_threads(threads)
        for found in results:
            assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))

    @pytest.mark.parametrize("limit", ["1", "2", "64"])
    def test_threads_of_torch(self, limit):
        # Where torch is built with an OpenMP that has GNU's entry point the kernel runs on it, also
        # if OpenMP gives it fewer threads than it asks for.
        if "numba" not in KERNELS or sys.platform != "linux":
            pytest.skip("numba is not installed, or this is not Linux")
        code = (
            "import torch; from celib.losses import cross_entropy\n"
            "from celib.kernels import threads\n"
            "assert threads._openmp() or 'OpenMP' not in torch.__config__.parallel_info()\n"
            "x, y = torch.arange(400000.).reshape(1000, 400) % 7, torch.arange(1000) % 400\n"
            "torch.set_num_threads(1); wanted = cross_entropy(x, y, reduction='none')\n"
            "torch.set_num_threads(3); found = cross_entropy(x, y, reduction='none')\n"
            "assert torch.equal(found, wanted)\n"
        )
        in_a_process(code, OMP_THREAD_LIMIT=limit)

    def test_threads_are_kept(self):
        # For another number of threads OpenMP would end those it has, and begin new ones.
        if "numba" not in KERNELS or not os.path.isdir("/proc/self/task"):
            pytest.skip("numba is not installed, or the system does not list threads")
        code = (
            "import os, torch; from celib.losses import cross_entropy\n"
            "torch.set_num_threads(4)\n"
            "x, y, z = torch.zeros(90, 1000), torch.arange(90), torch.zeros(300000)\n"
            "seen = set()\n"
            "for _ in range(50):\n"
            "    cross_entropy(x, y); z.add_(1); seen |= set(os.listdir('/proc/self/task'))\n"
            "raise SystemExit(len(seen) > 20)\n"
        )
        in_a_process(code)

    @pytest.mark.parametrize("first", ["(x + 1).sum()", "cross_entropy(x, y)"])
    def test_after_a_fork(self, first):
        # Of the threads of torch's OpenMP nothing is left there, and it would wait for them.
        if "numba" not in KERNELS or not hasattr(os, "fork"):
            pytest.skip("numba is not installed, or there is no fork")
        code = (
            "import os, torch; from celib.losses import cross_entropy\n"
            "torch.set_num_threads(2)\n"
            "x, y = torch.zeros(400, 1000), torch.arange(400)\n"
            f"{first}\n"
            "child = os.fork()\n"
            "loss = cross_entropy(x, y).item()\n"
            "wrong = abs(loss - 6.907755) > 1e-5\n"
            "if child == 0: os._exit(wrong)\n"
            "raise SystemExit(wrong or os.waitpid(child, 0)[1] != 0)\n"
        )
        in_a_process(code)


class TestGradientWithLoss:
    """On a CPU the gradient is made with the loss; what asks for another one still gets it."""

    @pytest.fixture(autouse=True)
    def _numba(self):
        if "numba" not in KERNELS:
            pytest.skip("numba is not installed")

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("soft", [False, True], ids=["classes", "probabilities"])
    @pytest.mark.parametrize(
        "o", [PLAIN, SMOOTH._replace(entropy=False), EVERY._replace(entropy=False)], ids=str
    )
    @pytest.mark.parametrize("stream", [0, 2**40], ids=["streamed", "cached"])
    def test_the_same_bits(self, monkeypatch, dtype, soft, o, stream):
        # Together, apart, in place, and past the caches, from rows at any address.
        kernel = KERNELS["numba"]
        monkeypatch.setattr(kernel, "STREAM", stream)
        for c in (1, 7, 300, 1001):
            x, y = normal(5, c).to(dtype), classes(5, c)
            target = normal(5, c, seed=1).softmax(-1) if soft else y
            g = torch.zeros(4, 5)
            g[LOSS] = torch.rand(5)
            together, apart = torch.empty(2, 5, c, dtype=dtype)
            found = kernel.both(x, target, None, o, g[LOSS], together)
            alone = kernel.forward(x, target, None, o)
            kernel.backward(x, target, None, o, alone.saved, g, apart)
            inside = x.clone()
            kernel.backward(inside, target, None, o, alone.saved, g, inside)
            assert all(torch.equal(a, b) for a, b in zip(found, alone, strict=True))
            assert torch.equal(together, apart)
            assert torch.equal(together, inside)
            together = x.clone()
            kernel.both(together, target, None, o, g[LOSS], together)
            assert torch.equal(together, apart)

    @pytest.mark.parametrize("factor", [1.0, 0.125, -0.3, 65536.0, 0.0, nan])
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("reduction", ["none", "mean"])
    def test_upstream(self, factor, dtype, reduction):
        # float16 gradients of a mean may underflow unless the loss is scaled before.
        x, y = normal(9, 300, size=9.0).to(dtype), classes(9, 300)
        a, b = x.clone().requires_grad_(), x.double().requires_grad_()
        (found,) = grad((cross_entropy(a, y, reduction=reduction) * factor).sum(), a)
        (wanted,) = grad((F.cross_entropy(b, y, reduction=reduction) * factor).sum(), b)
        torch.testing.assert_close(found, wanted.to(dtype), rtol=4e-6, atol=0, equal_nan=True)

    @pytest.mark.parametrize("reduction", ["none", "sum"])
    def test_it_is_handed_out_once(self, reduction):
        # What a caller does with a gradient must not be seen by the next backward pass.
        x, y = normal(9, 30).requires_grad_(), classes(9, 30)
        wanted = run(x, y).dx
        loss = cross_entropy(x, y, reduction=reduction).sum()
        for _ in range(3):
            (dx,) = grad(loss, x, retain_graph=True)
            assert torch.equal(dx, wanted)
            dx.fill_(nan)

    def test_mixed_upstream(self):
        # One row more, one less, one not at all, and through another result.
        x, y, g = normal(4, 30), classes(4, 30), torch.tensor([2.0, 0.5, 0.0, 1.0])
        for lse in (0.0, 0.25):
            found, wanted = (f(x, y, loss=g, lse=lse) for f in (run, exact))
            assert error(found.dx, wanted.dx) < 5e-7

    @pytest.mark.parametrize("weighted", [False, True], ids=["even", "weighted"])
    @pytest.mark.parametrize("sampled", [False, True], ids=["once", "sample weights"])
    @pytest.mark.parametrize("mean_over", [None, "count", "weight"])
    @pytest.mark.parametrize("soft", [False, True], ids=["classes", "probabilities"])
    def test_reductions(self, weighted, sampled, mean_over, soft):
        x, y = normal(9, 30), classes(9, 30)
        y[3] = -100
        target = normal(9, 30, seed=1).softmax(-1) if soft else y
        options = {
            "weight": torch.rand(30) if weighted else None,
            "sample_weight": torch.rand(9) if sampled else None,
            "mean_over": mean_over,
        }
        wide = {k: a.double() if torch.is_tensor(a) else a for k, a in options.items()}
        for reduction in ("mean", "sum"):
            a, b = x.clone().requires_grad_(), x.double().requires_grad_()
            found = cross_entropy(a, target, reduction=reduction, **options)
            wanted = cross_entropy(
                b, target.double() if soft else target, reduction=reduction, **wide
            )
            torch.testing.assert_close(found.double(), wanted, rtol=1e-6, atol=0)
            assert error(grad(found, a)[0], grad(wanted, b)[0]) < 5e-7

    def test_checks_ride_along(self):
        # The kernel says when a check is worth its time; then the check explains.
        x, y, q = normal(3, 4), torch.tensor([0, 7, 1]), normal(3, 4).softmax(-1)
        with pytest.raises(ValueError, match=r"target\[1\] = 7: expected a class from 0 to 3"):
            cross_entropy(x, y)
        for bad, message in (
            (q * 0.9, r"the sum of target\[0\] = 0\.[89]"),
            (torch.where(q == q.amax(), -q, q), r"target\[\d, \d\] = -0\."),
            (torch.where(q == q.amax(), nan, q), r"target\[\d, \d\] = nan"),
        ):
            with pytest.raises(ValueError, match=message):
                cross_entropy(x, bad)
        near = q * (1.0 + 2.0**-8)  # suspicious, and accepted
        torch.testing.assert_close(
            cross_entropy(x, near), cross_entropy(x.double(), near.double()).float()
        )
        x[0, 0] = nan
        assert cross_entropy(x, q).isnan()  # good targets of bad logits

    def test_sums_beyond_float32(self):
        # torch gives inf for a sum that no float32 holds; so do we, and no error.
        x, y = torch.zeros(20, 2), torch.ones(20, dtype=torch.long)
        x[:, 0], x[:, 1] = 1.5e38, -1.5e38
        for loss in (cross_entropy, focal_loss):
            leaf = x.clone().requires_grad_()
            found = loss(leaf, y, reduction="sum")
            assert found == inf
            assert grad(found, leaf)[0].isfinite().all()
            assert loss(x, y).isfinite()
        z = torch.full((20, 4000), 1e38)
        assert binary_cross_entropy_with_logits(z, torch.zeros_like(z), reduction="sum") == inf

    def test_checkpoints_and_accumulation(self):
        from torch.utils.checkpoint import checkpoint

        x, y = normal(9, 30).requires_grad_(), classes(9, 30)
        (once,) = grad(cross_entropy(x, y), x)
        for _ in range(2):
            loss = checkpoint(cross_entropy, x, y, use_reentrant=False)
            (loss / 2).backward()
        torch.testing.assert_close(x.grad, once)

    def test_memory_is_used_again(self):
        x = torch.zeros(1024, 1100)
        if not memory._PAGES:
            pytest.skip("only on Linux")
        first = memory.empty_like(x)
        address = first.data_ptr()
        second = memory.empty_like(x)
        assert second.data_ptr() != address
        view = first.view(-1)[5:].fill_(3.0)
        del first
        assert memory.empty_like(x).data_ptr() != address  # there is still a view of it
        del view
        third = memory.empty_like(x.to(torch.bfloat16).repeat(2, 1))
        assert third.data_ptr() == address
        del second, third
        assert len(memory.kept) == 1


class TestAutograd:
    def test_08_any_upstream(self, kernel):
        x, y = normal(9, 30), classes(9, 30)
        g = torch.rand(9)
        assert error(run(x, y, loss=g).dx, exact(x, y, loss=g).dx) < 5e-7
        spread = torch.tensor(0.7).expand(9)  # stride 0
        assert torch.equal(run(x, y, loss=spread).dx, run(x, y, loss=spread.contiguous()).dx)

    def test_07_backward_again(self, kernel):
        x, y = normal(9, 30).requires_grad_(), classes(9, 30)
        loss = cross_entropy(x, y)
        once = grad(loss, x, retain_graph=True)[0]
        for times in (1, 2, 3):
            loss.backward(retain_graph=True)
            torch.testing.assert_close(x.grad, times * once)

    @pytest.mark.parametrize("o", [Options(), EVERY], ids=["plain", "every"])
    def test_07_double_backward(self, o):
        x, y = normal(3, 4, dtype=torch.float64), torch.tensor([0, -100, 3])
        w = torch.tensor([1.0, 0.5, 2.0, 1.0], dtype=torch.float64)
        for target in (y, normal(3, 4, seed=1, dtype=torch.float64).softmax(-1)):

            def both(x, target=target):
                return operators.rows(x, target, w, o).results

            x = x.requires_grad_()
            assert gradcheck(both, x)
            assert gradgradcheck(both, x)

    def test_by_target_and_weight(self):
        x, w = normal(3, 4, dtype=torch.float64), torch.ones(4, dtype=torch.float64)
        q = normal(3, 4, seed=1, dtype=torch.float64).softmax(-1)
        inputs = [a.requires_grad_() for a in (x, q, w)]
        assert gradcheck(lambda x, q, w: operators.rows(x, q, w, EVERY).results, inputs)

    def test_linear_by_target_and_weight(self):
        x, matrix = normal(3, 2, dtype=torch.float64), normal(4, 2, seed=2, dtype=torch.float64)
        q, w = normal(3, 4, seed=1, dtype=torch.float64).softmax(-1), torch.ones(4).double()
        inputs = [a.requires_grad_() for a in (x, matrix, q, w)]
        for reduction in ("none", "mean"):

            def loss(x, matrix, q, w, reduction=reduction):
                options = {"weight": w, "reduction": reduction, "validate": False}
                return linear_cross_entropy(x, matrix, q, **options)

            assert gradcheck(loss, inputs)

    @pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # torch's own
    def test_transforms_of_torch_func(self):
        x, matrix, y = normal(6, 3), normal(5, 3, seed=1), classes(6, 5)
        for loss in (
            lambda x: cross_entropy(x @ matrix.T, y),
            lambda x: linear_cross_entropy(x, matrix, y),
        ):
            leaf = x.clone().requires_grad_()
            torch.testing.assert_close(torch.func.grad(loss)(x), grad(loss(leaf), leaf)[0])
        each = torch.vmap(cross_entropy)(x @ matrix.T, y)
        torch.testing.assert_close(each, cross_entropy(x @ matrix.T, y, reduction="none"))
        tangent = normal(6, 5, seed=2)
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(x @ matrix.T, tangent)
            rise = torch.autograd.forward_ad.unpack_dual(cross_entropy(dual, y)).tangent
        slope = torch.func.grad(cross_entropy)(x @ matrix.T, y)
        torch.testing.assert_close(rise, (slope * tangent).sum())

    def test_logsumexp_is_differentiable(self, kernel):
        x, y = normal(5, 20).requires_grad_(), torch.tensor([0, 1, 2, -100, 4])
        found = cross_entropy(x, y, return_statistics=True)
        kept = y != -100
        torch.testing.assert_close(found.logsumexp[kept], x.logsumexp(-1)[kept])
        (dx,) = grad(found.logsumexp.sum(), x)
        torch.testing.assert_close(dx[kept], x.softmax(-1)[kept])
        assert (dx[~kept] == 0).all()
        assert torch.equal(found.correct, (x.argmax(-1) == y) & kept)

    @pytest.mark.parametrize("linear", [False, True])
    def test_policy_gradient_statistics(self, kernel, linear):
        # The entropy and the log-probability of an action, and what they are differentiated for.
        x, y = normal(6, 20), torch.tensor([0, 1, 2, -100, 4, 5])
        matrix = torch.eye(20, device=x.device)
        a, b = x.clone().requires_grad_(), x.double().requires_grad_()
        options = {"return_statistics": True, "reduction": "sum"}
        found = (
            linear_cross_entropy(a, matrix, y, chunk_size=7, **options)
            if linear
            else cross_entropy(a, y, label_smoothing=0.1, weight=torch.rand(20), **options)
        )
        kept = (y != -100).double()
        log_p = b.log_softmax(-1)
        log_prob = log_p.gather(-1, y.clamp(min=0)[:, None])[:, 0] * kept
        entropy = -(log_p.exp() * log_p).sum(-1) * kept
        assert error(found.log_prob, log_prob) < 5e-7
        assert error(found.entropy, entropy) < 5e-7
        g, h = normal(6, seed=2), normal(6, seed=3)
        (da,) = grad((g * found.log_prob + h * found.entropy).sum(), a)
        (db,) = grad((g.double() * log_prob + h.double() * entropy).sum(), b)
        assert error(da, db) < 2e-6

    def test_statistics_of_probabilities(self, kernel):
        x, q = normal(40, 20), normal(40, 20, seed=1).softmax(-1)
        assert torch.equal(run(x, q).correct, x.argmax(-1) == q.argmax(-1))

    @pytest.mark.parametrize(
        ("smoothing", "weighted", "ignored", "reduction"),
        list(itertools.product((0.0, 0.3), (False, True), (False, True), ("none", "mean", "sum"))),
    )
    def test_10_as_torch(self, kernel, smoothing, weighted, ignored, reduction):
        x, y = normal(7, 9), classes(7, 9)
        w = torch.rand(9) if weighted else None
        y = torch.where(torch.arange(7) < 3, -100, y) if ignored else y
        options = {"label_smoothing": smoothing, "reduction": reduction}
        a, b = x.clone().requires_grad_(), x.double().requires_grad_()
        found = cross_entropy(a, y, w, **options)
        wanted = F.cross_entropy(b, y, None if w is None else w.double(), **options)
        torch.testing.assert_close(found.double(), wanted, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(
            grad(found.sum(), a)[0].double(), grad(wanted.sum(), b)[0], rtol=1e-5, atol=1e-6
        )

    @pytest.mark.parametrize("n", [0, 3])
    @pytest.mark.parametrize(("reduction", "value"), [("none", 0.0), ("sum", 0.0), ("mean", nan)])
    def test_09_all_ignored(self, kernel, reduction, value, n):
        x, y = normal(n, 4).requires_grad_(), torch.full((n,), -100)
        matrix = normal(5, 4, seed=1).requires_grad_()
        for inputs, loss in (
            ([x], cross_entropy(x, y, reduction=reduction)),
            ([x, matrix], linear_cross_entropy(x, matrix, y, reduction=reduction)),
        ):
            assert loss.isnan().all() if math.isnan(value) else (loss == value).all()
            assert all((a == 0).all() for a in grad(loss.sum(), inputs))

    def test_11_smoothing_beyond_underflow(self, kernel):
        x = torch.tensor([[0.0, -300.0, -150.0]])
        loss = cross_entropy(x, torch.tensor([0]), label_smoothing=0.3)
        assert loss.item() == pytest.approx(0.1 * 450.0, rel=1e-6)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_17_loss_is_float32(self, kernel, dtype):
        x, y = normal(5, 6).to(dtype), classes(5, 6)
        assert cross_entropy(x, y).dtype == torch.float32
        assert run(x, y).dx.dtype == dtype


class TestCompiler:
    """What torch.compile and its kin see of the operators."""

    def test_13_14_full_graph(self):
        y = torch.where(torch.arange(6) % 2 == 0, -100, classes(6, 5))

        def loss(x, y):
            a, lse, *_ = cross_entropy(x, y, return_statistics=True)
            return a + lse.square().mean(), cross_entropy(x, y, reduction="none", z_loss=0.1)

        compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
        a, b = (normal(6, 5).requires_grad_() for _ in range(2))
        for found, wanted in zip(compiled(a, y), loss(b, y), strict=True):
            torch.testing.assert_close(found, wanted)
            (da,) = grad(found.sum(), a, retain_graph=True)
            torch.testing.assert_close(da, grad(wanted.sum(), b, retain_graph=True)[0])

    def test_13_linear_full_graph(self):
        x, matrix, y = normal(6, 4), normal(5, 4, seed=1), classes(6, 5)

        def loss(x, matrix):
            each = linear_cross_entropy(x, matrix, y, reduction="none").sum()
            return each + linear_cross_entropy(x, matrix, y, chunk_size=2)

        compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
        inputs = [x.requires_grad_(), matrix.requires_grad_()]
        torch.testing.assert_close(compiled(*inputs), loss(*inputs))
        for a, b in zip(grad(compiled(*inputs), inputs), grad(loss(*inputs), inputs), strict=True):
            torch.testing.assert_close(a, b)

    def test_any_number_of_classes(self):
        compiled = torch.compile(cross_entropy, fullgraph=True, backend="aot_eager")
        for c in (5, 7, 9):
            x, q = normal(6, c), normal(6, c, seed=1).softmax(-1)
            torch.testing.assert_close(compiled(x, q), cross_entropy(x, q))

    @pytest.mark.parametrize("soft", [False, True], ids=["classes", "probabilities"])
    def test_opcheck(self, soft):
        x, numbers = normal(4, 5).requires_grad_(), (-100, Options().numbers())
        target = normal(4, 5, seed=1).softmax(-1) if soft else classes(4, 5)
        torch.library.opcheck(operators.cross_entropy, (x, target, None, *numbers, False))
        w = normal(5, 3, seed=2).requires_grad_()
        a = normal(4, 3, seed=3).requires_grad_()
        arguments = (a, w, None, target, None, *numbers)
        torch.library.opcheck(linear.linear_cross_entropy, (*arguments, 2, True, True, False))
        if not soft:
            torch.library.opcheck(linear.linear_cross_entropy_by_class, (*arguments, 2))

    def test_13_meta(self):
        # A tensor without values: whatever waits for one raises.
        x = torch.empty(6, 5, device="meta", requires_grad=True)
        y = torch.empty(6, device="meta", dtype=torch.long)
        loss = cross_entropy(x, y, torch.empty(5, device="meta"), label_smoothing=0.1)
        assert grad(loss, x)[0].shape == (6, 5)


class TestDispatch:
    @pytest.mark.parametrize(
        ("dtype", "options", "soft", "module"),
        [
            (torch.float32, Options(), False, "numba"),
            (torch.float32, Options(z_loss=0.1), False, "numba"),
            (torch.float32, Options(label_smoothing=0.1), False, "numba"),
            (torch.float32, Options(softcap=1.0), False, "numba"),
            (torch.float32, Options(scale=2.0), False, "numba"),
            (torch.float32, Options(), True, "numba"),
            (torch.float64, Options(), False, "aten"),
            (torch.bfloat16, Options(), False, "numba"),
            (torch.float16, Options(z_loss=0.1), False, "numba"),
        ],
    )
    def test_cpu(self, dtype, options, soft, module):
        x = torch.zeros(2, 3, dtype=dtype)
        target = torch.zeros(2, 3) if soft else torch.zeros(2, dtype=torch.long)
        if module not in KERNELS:
            pytest.skip(f"{module} is not installed")
        assert choice.kernel(x, target, options) is KERNELS[module]

    def test_without_numba(self):
        code = (
            "import sys; sys.modules['numba'] = None\n"
            "import importlib.util; real = importlib.util.find_spec\n"
            "importlib.util.find_spec = lambda name: None if name == 'numba' else real(name)\n"
            "import torch; from celib.losses import cross_entropy\n"
            "from celib.kernels import choice, family, with_aten\n"
            "x = torch.zeros(2, 4)\n"
            "assert choice.kernel(x, torch.tensor([0, 1]), family.Options()) is with_aten\n"
            "print(cross_entropy(x, torch.tensor([0, 1])).item())\n"
        )
        assert float(in_a_process(code)) == pytest.approx(math.log(4))

    def test_numba_that_cannot_be_imported(self):
        code = (
            "import sys, types; broken = types.ModuleType('numba')\n"
            "import importlib.machinery\n"
            "broken.__spec__ = importlib.machinery.ModuleSpec('numba', None)\n"
            "sys.modules['numba'] = broken\n"  # from it njit cannot be imported
            "import torch; from celib.losses import cross_entropy\n"
            "print(cross_entropy(torch.zeros(2, 4), torch.tensor([0, 1])).item())\n"
        )
        assert float(in_a_process(code)) == pytest.approx(math.log(4))

    def test_after_the_main_thread(self):
        # A thread may outlive the main one, whose end closes every pool.
        code = (
            "import threading, time, torch; from celib.losses import cross_entropy\n"
            "torch.set_num_threads(2)\n"
            "def late():\n"
            "    time.sleep(1)\n"
            "    print(cross_entropy(torch.zeros(400, 1000), torch.arange(400)).item())\n"
            "threading.Thread(target=late).start()\n"
        )
        assert float(in_a_process(code)) == pytest.approx(math.log(1000))

    def test_large_arrays_of_numpy(self):
        # Large pages are asked for by NumPy alone: the gradient must lie in its memory.
        small, large = torch.zeros(4, 4), torch.zeros(1024, 2048)
        assert memory.empty_like(large).shape == large.shape
        assert memory.empty_like(small.bfloat16()).dtype == torch.bfloat16
        assert memory.empty_like(large.bfloat16()).dtype == torch.bfloat16


LAYERS = [
    {"reduction": "mean", "chunk_size": 1},
    {"reduction": "mean", "chunk_size": 4},
    {"reduction": "sum", "chunk_size": 100},
    {"reduction": "mean"},
    {"reduction": "none", "chunk_size": 3},
    {"reduction": "none"},
]


class TestLinear:
    @pytest.mark.parametrize("options", LAYERS, ids=str)
    @pytest.mark.parametrize("o", [{}, {"label_smoothing": 0.1, "z_loss": 0.01, "softcap": 3.0}])
    @pytest.mark.parametrize("bias", [False, True])
    @pytest.mark.parametrize("soft", [False, True], ids=["classes", "probabilities"])
    def test_against_float64(self, options, o, bias, soft):
        x, matrix = normal(10, 6, size=1.0), normal(11, 6, seed=1, size=1.0)
        b = normal(11, seed=2) if bias else None
        y = classes(10, 11)
        y[2] = -100
        target = normal(10, 11, seed=3).softmax(-1) if soft else y
        w = torch.rand(11)
        layer = [a.clone().requires_grad_() for a in (x, matrix, b) if a is not None]
        wide = [a.detach().double().requires_grad_() for a in layer]
        found = linear_cross_entropy(
            *layer[:2], target, linear_bias=layer[2] if bias else None, weight=w, **options, **o
        )
        wanted = cross_entropy(
            F.linear(*wide),
            target.double() if soft else target,
            w.double(),
            reduction=options["reduction"],
            **o,
        )
        torch.testing.assert_close(found.double(), wanted, rtol=2e-6, atol=1e-6)
        g = torch.rand(wanted.shape)
        for a, b in zip(grad(found, layer, g), grad(wanted, wide, g.double()), strict=True):
            assert error(a, b) < 2e-6

    def test_masked_and_certain(self):
        # What a slice of classes does not know when it is computed.
        matrix = torch.eye(6)
        x = torch.tensor([[0.0, 1.0, -inf, -inf, -inf, -inf], [-inf, -inf, 2.0, 3.0, -inf, 1.0]])
        y = torch.tensor([1, 2])
        x = torch.where(x == -inf, -1e30, x)
        for smoothing in (0.0, 0.2):
            options = {"reduction": "none", "label_smoothing": smoothing}
            found = linear_cross_entropy(x, matrix, y, chunk_size=2, **options)
            torch.testing.assert_close(found, cross_entropy(x, y, **options))

    def test_statistics(self):
        x, matrix, y = normal(10, 6), normal(11, 6, seed=1), classes(10, 11)
        found = linear_cross_entropy(x, matrix, y, chunk_size=4, return_statistics=True)
        wanted = cross_entropy(F.linear(x, matrix), y, return_statistics=True)
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b)

    @pytest.mark.parametrize("reduction", ["none", "mean"])
    def test_07_again_and_twice(self, reduction):
        x, matrix, y = normal(4, 3), normal(5, 3, seed=1), torch.tensor([0, 4, -100, 2])
        layer = [x.double().requires_grad_(), matrix.double().requires_grad_()]

        def loss(x, matrix):
            return linear_cross_entropy(x, matrix, y, reduction=reduction, chunk_size=2)

        assert gradcheck(loss, layer)
        assert gradgradcheck(loss, layer)
        value = loss(*layer).sum()
        once = grad(value, layer, retain_graph=True)
        value.backward(retain_graph=True)
        value.backward()
        for a, b in zip(layer, once, strict=True):
            torch.testing.assert_close(a.grad, 2 * b)

    @pytest.mark.parametrize("k", [4, 16, 64])
    def test_05_sums_over_chunks(self, k):
        # bfloat16 operands, and a sum that does not get worse with the number of chunks.
        x, matrix = (a.bfloat16() for a in (normal(64, 8), normal(50, 8, seed=1)))
        y = classes(64, 50)
        wide = matrix.double().requires_grad_()
        (wanted,) = grad(cross_entropy(F.linear(x.double(), wide), y), wide)

        def off(chunk):
            narrow = matrix.clone().requires_grad_()
            return error(
                grad(linear_cross_entropy(x, narrow, y, chunk_size=chunk), narrow)[0], wanted
            )

        assert off(64 // k) <= 1.1 * off(64) + torch.finfo(torch.bfloat16).eps / 8

    @pytest.mark.parametrize("options", LAYERS, ids=str)
    def test_18_same_bits(self, options):
        x, matrix, y = normal(50, 16), normal(300, 16, seed=1), classes(50, 300)
        layer = [x.requires_grad_(), matrix.requires_grad_()]

        def once():
            loss = linear_cross_entropy(*layer, y, **options)
            return loss, *grad(loss.sum(), layer)

        first = once()
        for _ in range(4):
            assert all(torch.equal(a, b) for a, b in zip(once(), first, strict=True))

    def test_autocast(self):
        x, matrix, y = normal(10, 6), normal(11, 6, seed=1), classes(10, 11)
        wanted = cross_entropy(F.linear(x.bfloat16(), matrix.bfloat16()), y)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            layer = [x.requires_grad_(), matrix.requires_grad_()]
            found = linear_cross_entropy(*layer, y)
            assert torch.equal(cross_entropy(F.linear(*layer), y), wanted)
            double = [a.detach().double() for a in layer]
            untouched = linear_cross_entropy(*double, y)  # autocast leaves float64 alone
        torch.testing.assert_close(found, wanted)
        assert all(a.dtype == torch.float32 for a in grad(found, layer))
        assert torch.equal(untouched, linear_cross_entropy(*double, y))

    def test_no_gradient_no_memory(self):
        x, matrix, y = normal(10, 6), normal(11, 6, seed=1), classes(10, 11)
        numbers = (-100, Options().numbers())
        found = linear.linear_cross_entropy(x, matrix, None, y, None, *numbers, 4, *[False] * 3)
        assert [a.numel() for a in found[2:]] == [0, 0, 0]
        assert not linear_cross_entropy(x, matrix, y).requires_grad
        only = x.requires_grad_()
        (dx,) = grad(linear_cross_entropy(only, matrix, y), only)
        torch.testing.assert_close(dx, grad(cross_entropy(F.linear(only, matrix), y), only)[0])

    def test_shapes(self):
        x, matrix = normal(2, 3, 6), normal(11, 6, seed=1)
        y = classes(6, 11).reshape(2, 3)
        found = linear_cross_entropy(x, matrix, y, reduction="none")
        flat = linear_cross_entropy(x.reshape(6, 6), matrix, y.reshape(6), reduction="none")
        assert torch.equal(found, flat.reshape(2, 3))
        assert linear_cross_entropy(x[0, 0], matrix, y[0, 0]).shape == ()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"linear_weight": torch.zeros(11, 5)}, r"linear_weight has shape \(11, 5\)"),
            ({"linear_bias": torch.zeros(5)}, r"linear_bias has shape \(5,\): expected \(11,\)"),
            ({"target": torch.tensor([0, 11])}, r"target\[1\] = 11: expected a class from 0 to 10"),
            ({"target": torch.tensor([0])}, r"target has shape \(1,\): expected \(2,\)"),
            ({"weight": torch.zeros(5)}, r"weight has shape \(5,\): expected \(11,\)"),
            ({"chunk_size": 0}, "chunk_size = 0"),
            ({"z_loss": -1.0}, r"z_loss = -1\.0"),
            ({"softcap": 0.0}, r"softcap = 0\.0"),
            ({"scale": 0.0}, r"scale = 0\.0"),
        ],
    )
    def test_errors(self, change, message):
        arguments = {
            "input": torch.zeros(2, 6),
            "linear_weight": torch.zeros(11, 6),
            "target": torch.tensor([0, 1]),
        }
        with pytest.raises(ValueError, match=message):
            linear_cross_entropy(**(arguments | change))
        with pytest.raises(TypeError, match="linear_weight has dtype"):
            linear_cross_entropy(
                torch.zeros(2, 6), torch.zeros(11, 6).double(), torch.tensor([0, 1])
            )


MUTATIONS = {
    "no -1": ("e * of_e_y[:, None] - (of_y * rest)[:, None]", "dz"),
    "no mask": ("mask=inside, other=-INF", "mask=inside, other=0.0"),
    "no mask of the target": ("z = tl.where(c == y, -INF, z)", "z = z"),
    "mask before the softcap": ("z = tl.where(x == -INF, -INF, z)", "z = z"),
    "no float32": (
        "e * of_e_y[:, None] - (of_y * rest)[:, None]",
        "dz.to(OUT.dtype.element_ty).to(tl.float32) - of_y[:, None]",
    ),
    "scaled before the shift": (
        "tl.exp2((z - ref[None, :]) * LOG2_E)",
        "tl.exp2(z * LOG2_E - ref[None, :] * LOG2_E)",
    ),
    "no correction of the sum": ("s = s * tl.exp2((m - ref) * LOG2_E)", "s = s + 0.0"),
    "small: no mask of the target": ("z = tl.where(c == y[:, None], -INF, z)", "z = z"),
    "small: scaled before the shift": (
        "tl.exp2((z - ref) * LOG2_E)",
        "tl.exp2(z * LOG2_E - ref * LOG2_E)",
    ),
    "1 - p by subtraction": (
        "tl.store(_line(SAVED, REST, rows, row), rest / total, mask=there)",
        "tl.store(_line(SAVED, REST, rows, row), 1.0 - 1.0 / total, mask=there)",
    ),
}  # fmt: skip


@pytest.mark.skipif("triton" not in KERNELS, reason="triton is not installed")
class TestTriton:
    @pytest.mark.parametrize("mutation", [None, *MUTATIONS])
    def test_20_mutations(self, mutation, tmp_path):
        # A kernel with one of these faults must not get through: nothing at all must.
        old, new = MUTATIONS.get(mutation, ("", ""))
        source = Path(KERNELS["triton"].__file__).read_text()
        assert old in source
        path = tmp_path / "mutant.py"
        path.write_text(source.replace(old, new))
        specification = importlib.util.spec_from_file_location("mutant", path)
        mutant = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(mutant)
        right = []
        for small in (mutant.SMALL, 0):
            mutant.SMALL = small
            with choice.using(mutant), torch.device(OF_TRITON):
                right.append(self.is_right())
        assert all(right) == (mutation is None)

    def is_right(self):
        confident = torch.zeros(2, 40)
        confident[:, 3] = 14.0
        ignored = normal(3, 600)
        ignored[1] = nan
        masked = torch.tensor([[1.0, -inf, 3.0]])
        cases = [
            (normal(3, 600), classes(3, 600), PLAIN),
            (normal(3, 600).half(), classes(3, 600), PLAIN),
            (normal(3, 600) + 1e6, classes(3, 600), PLAIN),
            (confident, torch.tensor([3, 3]), PLAIN),
            (confident.half(), torch.tensor([3, 3]), PLAIN),
            (ignored, torch.tensor([1, -100, 2]), PLAIN),
            (masked, torch.tensor([2]), Options(softcap=2.0)),
        ]
        for x, y, o in cases:
            found, wanted = run(x, y, None, o), exact(x, y, None, o)
            unit = torch.finfo(x.dtype).eps
            at = y.clamp(min=0)[:, None]
            pairs = [(found.loss, wanted.loss), (found.dx, wanted.dx)]
            pairs.append((found.dx.gather(1, at), wanted.dx.gather(1, at)))
            if not all(error(a, b) < max(5e-7, unit) for a, b in pairs):
                return False
        return True

    @pytest.mark.skipif(HAS_GPU, reason="replaces operations of Triton's interpreter")
    @pytest.mark.parametrize("suffix", ["imum", ""], ids=["propagates", "passes over"])
    @pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
    @pytest.mark.parametrize("o", [PLAIN, SMOOTH, EVERY], ids=["plain", "smooth", "every"])
    @pytest.mark.parametrize("c", [3, 1500])
    def test_nan_anywhere(self, monkeypatch, c, o, soft, suffix):
        # tl.minimum and tl.maximum may propagate NaN or return the other operand: min.f32 and
        # max.f32 of a GPU do the latter, and Triton's interpreter does since 3.8. Both are tried.
        builder = importlib.import_module("triton.runtime.interpreter").InterpreterBuilder
        for name in ("min", "max"):
            operation = getattr(np, name + suffix if suffix else f"f{name}")
            method = functools.partialmethod(builder.binary_op, op=operation)
            monkeypatch.setattr(builder, f"create_{name}numf", method)
        x, y = normal(5, c), torch.tensor([0, 0, c - 1, c - 1, 1])
        x[1, 0] = x[2, c - 1] = x[3, 1] = nan  # at the target, at the target, elsewhere
        with choice.using(KERNELS["triton"]):
            loss, lse, _, correct, dx, *_ = run(x, F.one_hot(y, c).float() if soft else y, None, o)
        broken = [False, True, True, True, False]
        assert loss.isnan().tolist() == lse.isnan().tolist() == broken
        assert dx.isnan().all(-1).tolist() == dx.isnan().any(-1).tolist() == broken
        assert not correct[1:4].any()

    @pytest.mark.parametrize("c", [4097, 20000])
    @pytest.mark.parametrize("o", [PLAIN, EVERY], ids=["plain", "every"])
    def test_stretches_of_several_tiles(self, monkeypatch, c, o):
        x, y = normal(3, c), torch.tensor([c - 1, 4096, 9])
        with choice.using(KERNELS["triton"]), torch.device(OF_TRITON):
            wanted = run(x, y, None, o)
            monkeypatch.setattr(KERNELS["triton"], "PROGRAMS", 1)
            assert torch.equal(run(x, y, None, o).dx, wanted.dx)

    @pytest.mark.parametrize("capability", [75, 80, 90])
    def test_21_22_assembles(self, capability):
        # From T4 to H200. Loads are vectors, no loop waits for a warp, no register is spilled, but
        # a few where all options are on. An H200 has time for about 14 instructions for each
        # bfloat16 logit that is read, and for 28 if a gradient is written, before memory is faster;
        # of those counted here about a fifth is in branches seldom taken.
        environment = os.environ | {"TRITON_INTERPRET": "0"}
        command = [sys.executable, Path(__file__).parents[1] / "tools/assemble.py", str(capability)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        lines = [line.split() for line in done.stdout.splitlines()]
        assert len(lines) == 32
        allowed = {"forward": 13, "backward": 24, "forward-one": 22}
        for _, _, name, _, spilled, vectors, synchronised, instructions in lines:
            assert int(spilled) <= 64 * name.endswith("every")
            one_turn = name in ("backward-small-every", "backward-few-every")  # of the loop
            assert int(synchronised) == 0 or one_turn
            assert int(vectors) >= (1 if "few" in name else 2)  # a tile of few is one vector
            assert float(instructions) <= allowed.get(name, math.inf)


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_GPU, reason="needs a CUDA GPU")
class TestGpu:
    """What only a GPU can show; TestFamily to TestAutograd run their Triton tests there, too."""

    @pytest.mark.parametrize("o", [PLAIN, EVERY], ids=["plain", "every"])
    def test_13_no_synchronisation(self, o):
        x, y = normal(64, 5000).cuda().requires_grad_(), classes(64, 5000).cuda()
        matrix, a = normal(5000, 64).cuda().requires_grad_(), normal(64, 64).cuda().requires_grad_()
        options = {"label_smoothing": o.label_smoothing, "z_loss": o.z_loss, "scale": o.scale}
        torch.cuda.set_sync_debug_mode("error")
        try:
            cross_entropy(x, y, **options).backward()
            linear_cross_entropy(a, matrix, y, **options).backward()
            linear_cross_entropy(a, matrix, y, reduction="none", **options).sum().backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def test_13_graph(self):
        x, y = normal(64, 5000).cuda().requires_grad_(), classes(64, 5000).cuda()
        wanted = grad(cross_entropy(x, y), x)[0]
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            grad(cross_entropy(x, y), x)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            (dx,) = grad(cross_entropy(x, y), x)
        dx.zero_()
        graph.replay()
        assert torch.equal(dx, wanted)

    def test_14_compiled(self):
        x, y = normal(64, 5000).cuda().requires_grad_(), classes(64, 5000).cuda()
        y[::2] = -100
        loss = torch.compile(lambda x: cross_entropy(x * 2, y, reduction="none"), fullgraph=True)
        torch.empty(64, 5000, device="cuda").fill_(nan)
        found, wanted = loss(x), cross_entropy(x * 2, y, reduction="none")
        assert torch.equal(found, wanted)
        assert torch.equal(grad(found.sum(), x)[0], grad(wanted.sum(), x)[0])

    def test_15_beyond_31_bits(self):
        n, c = 8200, 262144
        x = torch.zeros(n, c, device="cuda", dtype=torch.float16)
        x[-1, -1] = 9.0
        y = torch.zeros(n, device="cuda", dtype=torch.long)
        y[-1] = c - 1
        x.requires_grad_()
        loss = cross_entropy(x, y, reduction="none")
        (dx,) = grad(loss.sum(), x)
        wanted = math.log(c - 1 + math.exp(9.0)) - 9.0
        assert loss[-1].item() == pytest.approx(wanted, rel=1e-6)
        assert dx[-1, -1].item() == pytest.approx(math.expm1(-wanted), rel=1e-3)
        assert dx[0, 0].item() == pytest.approx(1 / c - 1, rel=1e-3)

    @pytest.mark.parametrize("c", [50257, 128256, 262144])
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_large_vocabularies(self, c, dtype):
        x, y = normal(16, c).cuda().to(dtype), classes(16, c).cuda()
        found, wanted = run(x, y), exact(x, y)
        assert ulps(found.loss, wanted.loss) <= 4
        assert error(found.dx, wanted.dx) <= torch.finfo(dtype).eps

    def test_linear_in_half_precision(self):
        x, matrix, y = normal(300, 64), normal(5000, 64, seed=1), classes(300, 5000).cuda()
        for dtype in (torch.float16, torch.bfloat16):
            layer = [a.cuda().to(dtype).requires_grad_() for a in (x / 10, matrix)]
            wide = [a.detach().double().requires_grad_() for a in layer]
            for options in ({}, {"chunk_size": 100}, {"reduction": "sum"}):
                reduction = options.get("reduction", "mean")
                wanted = cross_entropy(F.linear(*wide), y, reduction=reduction)
                found = linear_cross_entropy(*layer, y, **options)
                assert found.item() == pytest.approx(wanted.item(), rel=1e-2)
                for a, b in zip(grad(found, layer), grad(wanted, wide), strict=True):
                    assert error(a, b) < 0.02


def test_every_failure_has_a_test():
    tests = Path(__file__).parent
    known = re.findall(r"^\| (\d+) \|", (tests / "FAILURES.md").read_text(), re.M)
    names = "".join(path.read_text() for path in tests.glob("test_*.py"))
    found = re.findall(r"def (?:test|failure)_((?:\d\d_)+)", names)
    tested = {int(number) for name in found for number in name.split("_") if number}
    assert tested == set(map(int, known)) == set(range(1, 27))
