"""The losses of the family and their accuracy, by every kernel."""

import itertools
import math

import mpmath as mp
import pytest
import torch
import torch.nn.functional as F
from torch.autograd import grad

from celib.kernels import choice
from celib.kernels.family import ENTROPY, LOG_PROB, LOSS, LSE, reference
from kernels.comparing import (
    COMBINATIONS,
    DEVICES,
    DTYPES,
    GRID,
    KERNELS,
    MARKS,
    classes,
    error,
    exact,
    inf,
    nan,
    normal,
    run,
    ulps,
)

pytestmark = MARKS


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
