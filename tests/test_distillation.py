"""Distillation: divergences to 50 digits, the loop against the operations, the linear form."""

import functools
import itertools
import math
import pickle

import mpmath as mp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.autograd import grad, gradcheck, gradgradcheck
from torch.utils.flop_counter import FlopCounterMode

from celib import losses
from celib.kernels import divergence_operators, linear_divergence
from celib.losses import distillation_loss, linear_distillation_loss

# torch's own, of the check of forward mode.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
inf, nan = math.inf, math.nan
KINDS = {
    "forward": {},
    "reverse": {"divergence": "reverse"},
    "Jensen-Shannon": {"divergence": "jensen-shannon"},
    "Jensen-Shannon, 1/8": {"divergence": "jensen-shannon", "beta": 0.125},
    "Jensen-Shannon, nearly 1": {"divergence": "jensen-shannon", "beta": 1 - 2.0**-10},
}
each_kind = pytest.mark.parametrize("kind", KINDS)
fused = pytest.mark.skipif(
    divergence_operators._loop() is None, reason="needs numba: no loop to test"
)


@pytest.fixture
def without_loop(monkeypatch):
    """As on a machine without numba."""

    def switch():
        for module in (divergence_operators, linear_divergence):
            monkeypatch.setattr(module, "loops", lambda *_: None)

    return switch


def T(values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def slopes(loss, *inputs):
    """The value, and the gradient with respect to each input."""
    inputs = [a.detach().clone().requires_grad_() for a in inputs]
    value = loss(*inputs)
    return value.detach(), *grad(value.sum(), inputs)


def same(found, wanted, rtol=1e-12, atol=1e-300):
    torch.testing.assert_close(found, wanted, rtol=rtol, atol=atol, equal_nan=True)


# The textbook's formulas in mpmath.


def softmax(z, t):
    terms = [mp.exp(mp.mpf(a) / t) if a > -inf else mp.mpf(0) for a in z]
    total = mp.fsum(terms)
    return [a / total for a in terms]


def kl(p, q):
    return mp.fsum(a * mp.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def oracle(z, v, t, divergence="forward", beta=0.5):
    """T^2 D, and its derivatives with respect to z, v and T."""
    t, beta = mp.mpf(t), mp.mpf(beta)
    p, s = softmax(v, t), softmax(z, t)

    def against(a, b, total):  # of sum a log(a / b) with respect to the logits of a
        return [
            x * (mp.log(x / y) - total) if x > 0 else mp.mpf(0) for x, y in zip(a, b, strict=True)
        ]

    less = [a - b for a, b in zip(s, p, strict=True)]
    if divergence == "forward":
        value = kl(p, s)
        to_z, to_v = less, against(p, s, value)
    elif divergence == "reverse":
        value = kl(s, p)
        to_z, to_v = against(s, p, value), [-a for a in less]
    else:
        m = [beta * a + (1 - beta) * b for a, b in zip(p, s, strict=True)]
        of_p, of_s = kl(p, m), kl(s, m)
        value = beta * of_p + (1 - beta) * of_s
        to_z = [(1 - beta) * a for a in against(s, m, of_s)]
        to_v = [beta * a for a in against(p, m, of_p)]
    finite = [[mp.mpf(a) if a > -inf else mp.mpf(0) for a in row] for row in (z, v)]
    both = zip((*to_z, *to_v), (*finite[0], *finite[1]), strict=True)
    change = mp.fsum(a * b for a, b in both)
    to_t = 2 * t * value - change
    return t**2 * value, [t * a for a in to_z], [t * a for a in to_v], to_t


def pairs():
    """Rows of student and teacher; all exact in float32."""
    rng = np.random.default_rng(0)
    for width in (1, 4, 16):
        yield f"width {width}", *(np.float32(rng.normal(size=(2, 6)) * width))
    v = rng.integers(-64, 64, 6) / 8
    yield "2^-8", v + 2.0**-8 * rng.integers(-8, 8, 6), v
    yield "2^-8, with an offset", v + 300 + 2.0**-8 * rng.integers(-8, 8, 6), v
    yield "2^-20", v + 2.0**-20 * np.array([3, 0, -2, 1, 5, -7]), v
    yield "2^-40", 2.0**-20 * v + 2.0**-40 * np.array([3, 0, -2, 1, 5, -7]), 2.0**-20 * v
    yield "one class close", np.array([5, 2.0**-33, 2, 1]), np.array([5, 2.0**-34, 2, 1])
    far, tiny = np.array([-295, -300, -298, -299.0]), np.array([5, 2.0**-50, 2, 1])
    yield "close, with an offset", far, tiny
    yield "nearly certain", np.array([0, -30, -28, -40.0]), np.array([0, -4, -30, -25.0])
    yield "far", np.array([1000, 0, -5, 3.0]), np.array([0, 3, 10, -90.0])
    both = -inf
    yield "masked by both", np.array([1, both, 0.5, 3]), np.array([0.25, both, -2, 1.5])


PAIRS = {name: [np.float64(a).tolist() for a in rows] for name, *rows in pairs()}
ONE_SIDED = {
    "masked by each": ([1.0, 2.0, 3.0, -inf, 5.0], [2.0, 2.0, -inf, 4.0, 1.0]),
    "disjoint": ([1.0, 2.0, -inf, -inf], [-inf, -inf, 3.0, 1.0]),
    "the likeliest is masked": ([-inf, 2.0, 1.0], [30.0, 1.0, 3.0]),
}


@functools.cache
def wanted_of(name, temperature, kind):
    z, v = (PAIRS | ONE_SIDED)[name]
    finite = [a for a in (*z, *v) if a > -inf]
    with mp.workdps(80 + int(0.45 * (max(finite) - min(finite)) / temperature)):
        return [np.array(a, float) for a in oracle(z, v, temperature, **KINDS[kind])]


def check_oracle(name, temperature, kind, dtype, rtol, of_gradient):
    (z, v), wanted = (PAIRS | ONE_SIDED)[name], wanted_of(name, temperature, kind)

    def loss(z, v, t):
        return distillation_loss(z, v, temperature=t, **KINDS[kind])

    value, *found = slopes(loss, T(z, dtype), T(v, dtype), T(temperature))
    assert value.item() >= 0
    tiny = torch.finfo(dtype).smallest_normal
    np.testing.assert_allclose(value.double(), wanted[0], rtol=rtol, atol=tiny)
    for a, b in zip(found[:2], wanted[1:], strict=False):
        scale = np.abs(b).max() + tiny
        # A Jensen-Shannon divergence near its bound has nearly no slope.
        far = "Jensen" in kind and wanted[0] > 1e-3 * temperature**2
        floor = 2.0**-50 * temperature if far else 0.0
        np.testing.assert_allclose(a.double(), b, rtol=0, atol=of_gradient * scale + floor)
    # T^2 D at a constant distance depends on T in second order only: two terms cancel.
    atol = rtol * wanted[0] / temperature + tiny
    np.testing.assert_allclose(found[2], wanted[3], rtol=rtol, atol=atol)


@each_kind
@pytest.mark.parametrize("temperature", [1.0, 0.1, 10.0])
class TestOracle:
    """The value is rounded once or twice; of a gradient, errors are relative to its largest."""

    def test_operations(self, kind, temperature, subtests):
        for name in PAIRS:
            with subtests.test(name):
                check_oracle(name, temperature, kind, torch.float64, 2e-12, 2e-13)

    @fused
    def test_loop(self, kind, temperature, subtests):
        for name in (*PAIRS, *(ONE_SIDED if "Jensen" in kind else ())):
            with subtests.test(name):
                check_oracle(name, temperature, kind, torch.float32, 8e-8, 1e-7)

    def test_classes_that_one_masks_out(self, kind, temperature, subtests):
        for name in ONE_SIDED if "Jensen" in kind else ():
            with subtests.test(name):
                check_oracle(name, temperature, kind, torch.float64, 2e-12, 2e-13)


# Where a divergence is no longer a number, or no longer finite.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
class TestLimits:
    def test_masks(self, dtype):
        def all_of(z, v):
            options = {"temperature": 1.0}
            return [
                distillation_loss(T(z, dtype), T(v, dtype), **options, **KINDS[kind]).item()
                for kind in ("forward", "reverse", "Jensen-Shannon")
            ]

        forward, reverse, js = all_of([1.0, 1.0, -inf], [0.0, 0.0, 0.0])
        assert forward == inf
        assert reverse == pytest.approx(math.log(3 / 2))
        assert 0 < js < math.log(2)
        forward, reverse, js = all_of([0.0, 0.0, 0.0], [1.0, 1.0, -inf])
        assert forward == pytest.approx(math.log(3 / 2))
        assert reverse == inf
        assert all_of([inf, 0.0], [inf, 3.0]) == [0, 0, 0]
        assert all_of([inf, 0.0], [0.0, 0.0]) == pytest.approx([inf, math.log(2), 0.2157615543])
        assert all_of([3e38, 3e38], [-3e38, -3e38]) == [0, 0, 0]
        *far, js = all_of([3e38, -3e38], [-3e38, 3e38])
        assert all(a > 1e38 for a in far)
        assert js == pytest.approx(math.log(2))

    @each_kind
    def test_what_is_no_distribution_is_nan(self, kind, dtype):
        broken = T([[-inf, -inf, -inf], [inf, inf, 0], [0, nan, 1], [0, 1, -1]], dtype)
        good = T([[0.5, 0, 1]] * 4, dtype)
        options = {"temperature": 2.0, "reduction": "none", "validate": False} | KINDS[kind]
        for a, b in ((broken, good), (good, broken)):
            value, to_a, to_b = slopes(lambda z, v: distillation_loss(z, v, **options), a, b)
            assert value.isnan().tolist() == [True, True, True, False]
            if dtype == torch.float32 and divergence_operators._loop():
                for g in (to_a, to_b):
                    assert g.isnan().all(1).tolist() == [True, True, True, False]
            for g in (to_a, to_b):
                assert g[3].isfinite().all()

    @each_kind
    def test_an_infinite_loss_has_a_gradient(self, kind, dtype):
        z, v = T([1.0, 0.5, -inf], dtype), T([0.5, 0.25, 1.0], dtype)
        pair = (v, z) if kind == "reverse" else (z, v)
        _, to_z, to_v = slopes(
            lambda z, v: distillation_loss(z, v, temperature=1.0, **KINDS[kind]), *pair
        )
        assert to_z.isfinite().all()
        assert to_v.isfinite().all()


def weighted_mean(loss, mask, weight):
    share = torch.ones_like(loss) if mask is None else mask.to(loss)
    share = share if weight is None else share * weight
    return (loss * share).sum() / share.sum()


@fused
class TestLoop:
    """The loop and the operations of torch are one function."""

    @each_kind
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("axis", [1, -1])
    def test_grid(self, kind, dtype, axis, without_loop):
        z, v = 3 * normal(2, 5, 7, 11)
        z, v = (a.movedim(-1, axis).to(dtype) for a in (z, v))
        hole = torch.arange(11) % 4 == 3
        hole = hole[:, None] if axis == 1 else hole
        mask = torch.arange(35).reshape(5, 7) % 3 > 0
        weight = normal(5, 7, seed=2).abs()
        calls = []
        cases = (False, None, None), (True, None, weight), (True, mask, None), (True, mask, weight)
        kinds = ("none", "mean", "sum", "batchmean")
        for (holes, m, w), reduction in itertools.product(cases, kinds):
            t = T(4.0) if reduction == "mean" else 0.5
            a, b = (torch.where(hole, -inf, x) if holes else x for x in (z, v))
            if m is not None:  # what does not count may be anything
                a, b = (torch.where(m.unsqueeze(axis), x, nan) for x in (a, b))
            options = {"mask": m, "sample_weight": w, "reduction": reduction, "axis": axis}

            def loss(a, b, t=t, options=options):
                return distillation_loss(a, b, temperature=t, **options, **KINDS[kind])

            calls.append((loss, (a, b)))
        ours = [slopes(loss, *rows) for loss, rows in calls]
        without_loop()
        # Halves are exact in float64, and their gradient is rounded once.
        eps = torch.finfo(dtype).eps
        for (loss, rows), (value, *found) in zip(calls, ours, strict=True):
            assert value.dtype == torch.float32
            wanted, *g = slopes(loss, *(a.double() for a in rows))
            same(value.double(), wanted, rtol=1e-6)
            for a, b in zip(found, g, strict=True):
                assert a.dtype == dtype
                same(a.double(), b, rtol=0.51 * eps + 1e-6, atol=2.0**-25 if eps > 1e-6 else 1e-9)

    def test_it_is_the_loop(self, monkeypatch):
        calls = []
        run = divergence_operators.run
        monkeypatch.setattr(divergence_operators, "run", lambda *a: calls.append(1) or run(*a))
        z = normal(4, 3, dtype=torch.float32).requires_grad_()
        distillation_loss(z, z.detach() + 1, temperature=2.0).backward()
        assert len(calls) == 1  # the gradient with the loss
        distillation_loss(z.double(), z.detach().double(), temperature=2.0)
        assert len(calls) == 1

    @each_kind
    def test_never_negative(self, kind):
        """Distances from 1 to 2^-60, of rows that nearly agree to the last bit."""
        v = normal(61, 50, dtype=torch.float32) * 2.0 ** -torch.arange(61.0)[:, None]
        for z in (v * (1 + 2.0**-23), v + v.flip(1) * 2.0**-10, v + 0.5, v):
            each = distillation_loss(z, v, temperature=0.7, reduction="none", **KINDS[kind])
            assert (each >= 0).all()
        assert (
            distillation_loss(v, v, temperature=0.7, reduction="none", **KINDS[kind]) == 0
        ).all()

    def test_weights_whose_sum_is_beyond_float32(self):
        z, v = (normal(3, 5, seed=s, dtype=torch.float32) for s in range(2))
        options = {"temperature": 1.0, "reduction": "mean"}
        loss = distillation_loss(z, v, sample_weight=torch.full((3,), 2e38), **options)
        same(loss, distillation_loss(z, v, **options), rtol=1e-6)

    def test_threads_and_strides(self):
        z, v = normal(2, 300, 2000, dtype=torch.float32)
        before = torch.get_num_threads()
        try:
            found = []
            for threads in (1, 2):
                torch.set_num_threads(threads)
                found.append(slopes(lambda z: distillation_loss(z, v, temperature=2.0), z))
        finally:
            torch.set_num_threads(before)
        assert torch.equal(found[0][1], found[1][1])
        sparse = torch.stack([z, z], -1)[::2, :, 0]
        wanted = slopes(lambda z: distillation_loss(z, v[::2], temperature=2.0), z[::2].clone())
        same(slopes(lambda z: distillation_loss(z, v[::2], temperature=2.0), sparse), wanted)

    @each_kind
    def test_backward_again_and_scaled(self, kind):
        z, v = normal(2, 4, 6, dtype=torch.float32)
        z.requires_grad_()
        v.requires_grad_()
        options = {"temperature": 2.0} | KINDS[kind]
        wanted = slopes(lambda z, v: distillation_loss(z, v, **options), z.double(), v.double())
        loss = distillation_loss(z, v, **options)
        for factor in (1.0, 0.25, 3.0, 1.0):
            found = grad(factor * loss, (z, v), retain_graph=True)
            for a, b in zip(found, wanted[1:], strict=True):
                same(a.double(), factor * b, rtol=1e-6, atol=1e-8)
                a.zero_()  # it belongs to whoever got it
        w = T([0.5, 2.0, 0.0, 1.0], torch.float32)
        found = grad(3.0 * distillation_loss(z, v, sample_weight=w, **options), (z, v))
        whole = distillation_loss(z.double(), v.double(), sample_weight=w, **options)
        for a, b in zip(found, grad(3.0 * whole, (z, v)), strict=True):
            same(a, b, rtol=1e-6, atol=1e-7)
        each = distillation_loss(z, v, reduction="none", **options)
        g = T([1.0, 2.0, 0.0, -1.0], torch.float32)
        found = grad(each, (z, v), g)
        whole = distillation_loss(z.double(), v.double(), reduction="none", **options)
        for a, b in zip(found, grad(whole, (z, v), g.double()), strict=True):
            same(a, b, rtol=1e-6, atol=1e-7)

    @each_kind
    def test_second_derivative(self, kind):
        def twice(dtype):
            z, v = (a.to(dtype).requires_grad_() for a in normal(2, 3, 5))
            t = T(1.5, dtype).requires_grad_()
            loss = distillation_loss(z, v, temperature=t, reduction="sum", **KINDS[kind])
            first = grad(loss, (z, v, t), create_graph=True)
            return [a.double() for a in grad(sum((g * g).sum() for g in first), (z, v, t))]

        same(twice(torch.float32), twice(torch.float64), rtol=1e-4, atol=1e-5)

    def test_weights_and_temperature_that_learn(self):
        z, v = normal(2, 6, 4)
        w, t = normal(6, seed=1).abs(), T(1.5)
        mask = torch.arange(6) % 3 > 0
        for reduction in ("none", "mean", "sum", "batchmean"):

            def loss(z, w, t, reduction=reduction):
                options = {"reduction": reduction, "mask": mask, "sample_weight": w}
                return distillation_loss(z, v.to(z.dtype), temperature=t, **options)

            found = slopes(loss, z.float(), w.float(), t.float())
            wanted = slopes(loss, z.float().double(), w.float().double(), t)
            for a, b in zip(found, wanted, strict=True):
                same(a.double(), b, rtol=1e-5, atol=1e-6)

    def test_a_teacher_that_is_nan(self):
        z = normal(3, 4, dtype=torch.float32)
        bad = z.clone()
        bad[1, 2] = nan
        for reduction in ("none", "mean"):
            options = {"temperature": 1.0, "reduction": reduction}
            with pytest.raises(
                ValueError, match=r"teacher_logits\[1, 2\] = nan: expected a number"
            ):
                distillation_loss(z, bad, **options)
            assert distillation_loss(bad, z, **options).isnan().any()
            mask = torch.tensor([True, False, True])
            assert distillation_loss(z, bad, mask=mask, **options).isfinite().all()
            assert distillation_loss(z, bad, validate=False, **options).isnan().any()
        with pytest.raises(ValueError, match=r"teacher_logits\[0, 2, 1\] = nan"):
            distillation_loss(z.T[None], bad.T[None], axis=1, temperature=1.0)

    def test_mixed_dtypes_and_no_grad(self):
        z, v = normal(2, 4, 5, dtype=torch.float32)
        half = v.bfloat16()
        value, g = slopes(lambda z: distillation_loss(z, half, temperature=2.0), z)
        wanted = slopes(lambda z: distillation_loss(z, half.float(), temperature=2.0), z)
        same((value, g), wanted)
        with torch.no_grad():
            assert not distillation_loss(z.requires_grad_(), v, temperature=2.0).requires_grad
        with torch.inference_mode():
            assert distillation_loss(z, v, temperature=2.0) > 0

    def test_memory(self):
        """One array of the size of the logits: the gradient. With a teacher that learns, two."""
        z, v = normal(2, 500, 1000, dtype=torch.float32)
        z.requires_grad_()
        size = 4 * z.numel()
        distillation_loss(z, v, temperature=2.0).backward()
        for kind in KINDS.values():
            z.grad = None
            found = allocations(lambda kind=kind: distillation_loss(z, v, temperature=2.0, **kind))
            assert sum(n >= size // 4 for n in found) == 1
            assert sum(found) < 1.1 * size
        v.requires_grad_()
        found = allocations(lambda: distillation_loss(z, v, temperature=2.0))
        assert sum(n >= size // 4 for n in found) == 2


def allocations(call):
    """The bytes of each array that torch makes for a call and its backward pass."""
    with torch.profiler.profile(profile_memory=True) as profile:
        call().backward()
    events = profile.profiler.kineto_results.events()
    return [e.nbytes() for e in events if e.name() == "[memory]" and e.nbytes() > 0]


class TestFamily:
    @each_kind
    @pytest.mark.parametrize("reduction", ["none", "mean", "sum", "batchmean"])
    def test_same_as_torch(self, kind, reduction):
        """The formulas as one writes them with torch, where they have digits."""
        z, v = normal(2, 5, 3, 4)
        log_s, log_p = (z / 3).log_softmax(-1), (v / 3).log_softmax(-1)

        def one(a, b):
            return F.kl_div(b, a, reduction="none", log_target=True).sum(-1)

        if kind == "forward":
            each = one(log_p, log_s)
        elif kind == "reverse":
            each = one(log_s, log_p)
        else:
            beta = KINDS[kind].get("beta", 0.5)
            log_m = torch.logaddexp(log_p + math.log(beta), log_s + math.log1p(-beta))
            each = beta * one(log_p, log_m) + (1 - beta) * one(log_s, log_m)
        each = 9 * each
        wanted = {"none": each, "mean": each.mean(), "sum": each.sum(), "batchmean": each.sum() / 5}
        options = {"temperature": 3.0, "reduction": reduction, "axis": -1} | KINDS[kind]
        same(distillation_loss(z, v, **options), wanted[reduction], rtol=1e-11)
        found = distillation_loss(z.float(), v.float(), **options)
        same(found, wanted[reduction].float(), rtol=1e-5)

    def test_swapped(self):
        z, v = normal(2, 6, 5)
        for dtype in (torch.float32, torch.float64):
            a, b = z.to(dtype), v.to(dtype)
            forward, reverse = (
                slopes(
                    lambda z, v, k=k: distillation_loss(z, v, temperature=2.0, divergence=k), a, b
                )
                for k in ("forward", "reverse")
            )
            back = slopes(
                lambda v, z: distillation_loss(z, v, temperature=2.0, divergence="reverse"), a, b
            )
            same(forward, back)
            assert forward[0] != reverse[0]
            options = {"temperature": 2.0, "divergence": "jensen-shannon"}
            one = slopes(lambda z, v: distillation_loss(z, v, beta=0.25, **options), a, b)  # noqa: B023
            two = slopes(lambda z, v: distillation_loss(v, z, beta=0.75, **options), a, b)  # noqa: B023
            same(one, two, rtol=1e-6 if dtype == torch.float32 else 1e-12, atol=1e-9)

    def test_limits_of_beta(self):
        z, v = normal(2, 6, 5)
        options = {"temperature": 2.0, "divergence": "jensen-shannon"}
        for beta, kind in ((2.0**-30, "forward"), (1 - 2.0**-30, "reverse")):
            found = distillation_loss(z, v, beta=beta, **options) / min(beta, 1 - beta)
            same(found, distillation_loss(z, v, temperature=2.0, divergence=kind), rtol=1e-7)
        for beta in (0.01, 0.5, 0.9):
            bound = -beta * math.log(beta) - (1 - beta) * math.log1p(-beta)
            far = {"temperature": 1.0, "reduction": "none"}
            found = distillation_loss(1e3 * z, -1e3 * z, beta=beta, **(options | far))
            assert (found <= bound * (1 + 1e-12)).all()
            assert (found > 0.9 * bound).all()

    @pytest.mark.parametrize("kind", ["reverse", "Jensen-Shannon, 1/8"])
    def test_gradcheck(self, kind):
        inputs = [a.requires_grad_() for a in (*normal(2, 2, 3), T(1.5))]

        def loss(z, v, t):
            return distillation_loss(z, v, temperature=t, reduction="none", **KINDS[kind])

        assert gradcheck(loss, inputs, check_forward_ad=True)
        assert gradgradcheck(loss, inputs, fast_mode=True)

    def test_refused(self):
        z = torch.zeros(2, 3)
        for options, message in (
            (
                {"divergence": "kl"},
                "divergence = 'kl': expected 'forward', 'reverse' or 'jensen-sh",
            ),
            ({"beta": 0.5}, "beta = 0.5: expected None for divergence = 'forward'"),
            (
                {"divergence": "jensen-shannon", "beta": 0.0},
                r"beta = 0.0: expected a number in \(0,",
            ),
            (
                {"divergence": "jensen-shannon", "beta": 1},
                r"beta = 1: expected a number in \(0, 1\)",
            ),
        ):
            with pytest.raises(ValueError, match=message):
                distillation_loss(z, z, temperature=1.0, **options)
            with pytest.raises(ValueError, match=message):
                linear_distillation_loss(z, z, z, z, temperature=1.0, **options)


# Two linear layers.

N, D, E, C = 7, 3, 5, 11


def layers(dtype=torch.float64):
    x, h = normal(N, D, seed=1, dtype=dtype), normal(N, E, seed=2, dtype=dtype)
    student, teacher = normal(C, D, seed=3, dtype=dtype), normal(C, E, seed=4, dtype=dtype)
    return x, student, normal(C, seed=5, dtype=dtype), h, teacher, normal(C, seed=6, dtype=dtype)


def whole(x, matrix, bias, h, teacher, teacher_bias, **options):
    z, v = F.linear(x, matrix, bias), F.linear(h, teacher, teacher_bias)
    return distillation_loss(z, v, **options)


def chunked(x, matrix, bias, h, teacher, teacher_bias, **options):
    return linear_distillation_loss(
        x, matrix, h, teacher, linear_bias=bias, teacher_bias=teacher_bias, **options
    )


class TestLinear:
    @each_kind
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("reduction", ["mean", "sum", "batchmean", "none"])
    def test_same_as_whole_logits(self, kind, dtype, reduction):
        x, matrix, bias, *teacher = layers(dtype)
        mask = torch.arange(N) % 3 > 0
        weight = normal(N, seed=8, dtype=dtype).abs()
        tolerance = {"rtol": 2e-5, "atol": 2e-6} if dtype == torch.float32 else {"atol": 1e-14}
        for m, w, b in ((None, None, None), (mask, weight, bias), (mask, None, bias)):
            options = {"reduction": reduction, "mask": m, **KINDS[kind]}
            inputs = [x, matrix, T(1.5, dtype)]
            inputs += [] if b is None else [b]
            inputs += [] if w is None else [w]

            def loss(call, x, matrix, t, *others, b=b, w=w, options=options, **more):
                others = list(others)
                of_b = others.pop(0) if b is not None else None
                of_w = others.pop(0) if w is not None else None
                more |= {"temperature": t, "sample_weight": of_w} | options
                return call(x, matrix, of_b, *teacher, **more)

            wanted = slopes(lambda *a, f=loss: f(whole, *a), *inputs)
            for chunk in (1, 3, 100):
                found = slopes(lambda *a, f=loss, n=chunk: f(chunked, *a, chunk_size=n), *inputs)
                same(found, wanted, **tolerance)

    @each_kind
    def test_without_the_loop(self, kind, without_loop, monkeypatch):
        x, matrix, bias, *teacher = layers(torch.float32)
        mask = torch.arange(N) % 3 > 0
        options = {"temperature": 2.0, "mask": mask, "chunk_size": 3} | KINDS[kind]
        wanted = slopes(lambda *a: chunked(*a, *teacher, **options), x, matrix, bias)
        without_loop()
        monkeypatch.setattr(linear_divergence, "_BLOCK", 2 * C)  # two rows at a time
        found = slopes(lambda *a: chunked(*a, *teacher, **options), x, matrix, bias)
        same(found, wanted, rtol=1e-4, atol=1e-5)

    def test_tokens_and_masks(self):
        """Hidden states with more axes; what does not count may be NaN."""
        x, matrix, bias, h, teacher, teacher_bias = layers(torch.float32)
        x, h = x[:6].reshape(2, 3, D), h[:6].reshape(2, 3, E)
        mask = torch.tensor([[True, False, True], [False, True, True]])
        bad_x, bad_h = (torch.where(mask[..., None], a, nan) for a in (x, h))
        rest = matrix, bias, h, teacher, teacher_bias
        for reduction in ("none", "mean", "sum", "batchmean"):
            options = {"temperature": 2.0, "mask": mask, "reduction": reduction}
            wanted = slopes(
                lambda x, m, b, o=options: whole(x, m, b, *rest[2:], axis=-1, **o), x, *rest[:2]
            )
            found = slopes(
                lambda x, m, b, o=options: chunked(x, m, b, bad_h, *rest[3:], chunk_size=2, **o),
                bad_x, *rest[:2],
            )  # fmt: skip
            same(found, wanted, rtol=1e-5, atol=1e-6)
            assert (found[1][~mask] == 0).all()
        nothing = {"temperature": 2.0, "mask": torch.zeros(2, 3, dtype=torch.bool)}
        value, g = slopes(lambda x: chunked(x, *rest, reduction="mean", **nothing), bad_x)
        assert value.isnan()
        assert (g == 0).all()
        assert chunked(bad_x, *rest, reduction="sum", **nothing) == 0
        one = chunked(x[0, 0], matrix, bias, h[0, 0], teacher, teacher_bias, temperature=2.0)
        same(one, whole(x[0, 0], matrix, bias, h[0, 0], teacher, teacher_bias, temperature=2.0),
             rtol=1e-6)  # fmt: skip

    def test_no_rows(self):
        x, matrix, _, h, teacher, _ = layers(torch.float32)
        value, to_x, to_matrix = slopes(
            lambda x, m: linear_distillation_loss(x, m, h[:0], teacher, temperature=1.0,
                                                  reduction="sum"), x[:0], matrix
        )  # fmt: skip
        assert value == 0
        assert to_x.shape == (0, D)
        assert (to_matrix == 0).all()
        options = {"temperature": 1.0, "reduction": "mean"}
        assert linear_distillation_loss(x[:0], matrix, h[:0], teacher, **options).isnan()

    def test_halves(self):
        """Sums over chunks are kept in float32: many small ones are not lost."""
        x, matrix, bias, h, teacher, teacher_bias = (a.bfloat16() for a in layers())
        many = 60
        x, h = x.repeat(many, 1), h.repeat(many, 1)
        options = {"temperature": 2.0, "reduction": "sum"}
        value, *found = slopes(
            lambda *a: chunked(*a, h, teacher, teacher_bias, chunk_size=N, **options),
            x, matrix, bias,
        )  # fmt: skip
        wide = [a.double() for a in (x, matrix, bias)]
        fixed = [a.double() for a in (h, teacher, teacher_bias)]
        wanted, *g = slopes(lambda *a: whole(*a, *fixed, **options), *wide)
        assert value.dtype == torch.float32
        same(value.double(), wanted, rtol=2e-2)
        for a, b in zip(found, g, strict=True):
            assert a.dtype == torch.bfloat16
            same(a.double(), b, rtol=2e-2, atol=2e-2 * b.abs().max().item())

    def test_mixed_students_and_teachers(self):
        x, matrix, bias, *teacher = layers(torch.float32)
        half = [a.bfloat16() for a in teacher]
        found = slopes(lambda *a: chunked(*a, *half, temperature=2.0), x, matrix, bias)
        same(found, slopes(lambda *a: whole(*a, *half, temperature=2.0), x, matrix, bias),
             rtol=1e-5, atol=1e-6)  # fmt: skip

    def test_autocast(self):
        x, matrix, bias, *teacher = layers(torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            found = slopes(lambda *a: chunked(*a, *teacher, temperature=2.0), x, matrix, bias)
        assert found[0].dtype == found[1].dtype == found[2].dtype == torch.float32
        wanted = slopes(lambda *a: whole(*a, *teacher, temperature=2.0), x, matrix, bias)
        for a, b in zip(found, wanted, strict=True):
            assert not torch.equal(a, b)
            same(a, b, rtol=5e-2, atol=5e-2 * b.abs().max().item())

    @pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
    def test_compiled(self, dynamic):
        torch._dynamo.reset()
        x, matrix, bias, *teacher = layers(torch.float32)
        mask = torch.arange(N) % 3 > 0

        def loss(x, matrix, bias):
            return chunked(x, matrix, bias, *teacher, temperature=2.0, mask=mask, chunk_size=3)

        compiled = torch.compile(loss, fullgraph=True, dynamic=dynamic, backend="aot_eager")
        same(slopes(compiled, x, matrix, bias), slopes(loss, x, matrix, bias), rtol=1e-6, atol=1e-8)

    def test_second_derivative(self):
        x, matrix, bias, *teacher = layers()
        x, matrix, bias = x[:3, :2], matrix[:4, :2], bias[:4]
        teacher = teacher[0][:3], teacher[1][:4], teacher[2][:4]
        inputs = [a.clone().requires_grad_() for a in (x, matrix, bias, T(1.5))]
        weight = normal(3, seed=8).abs()

        def loss(call, x, matrix, bias, t, **more):
            options = {"temperature": t, "sample_weight": weight} | more
            return call(x, matrix, bias, *teacher, **options)

        assert gradcheck(lambda *a: loss(chunked, *a, chunk_size=2), inputs)
        assert gradgradcheck(lambda *a: loss(chunked, *a, chunk_size=2), inputs, fast_mode=True)

    def test_opcheck(self):
        x, matrix, bias, *teacher = layers(torch.float32)
        x.requires_grad_()
        matrix.requires_grad_()
        torch.library.opcheck(
            linear_divergence.linear_distillation,
            (x, matrix, bias, *teacher, T(2.0), torch.arange(N) > 1, normal(N).abs(),
             "jensen-shannon", 0.5, 3, False, True, True, False),
        )  # fmt: skip

    def test_flops(self):
        x, matrix, bias, *teacher = layers()
        of_student, of_teacher = 2 * N * D * C, 2 * N * E * C
        with FlopCounterMode(display=False) as counter:
            chunked(x.requires_grad_(), matrix.requires_grad_(), bias, *teacher,
                    temperature=2.0).backward()  # fmt: skip
        assert counter.get_total_flops() == 3 * of_student + of_teacher
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            chunked(x, matrix, bias, *teacher, temperature=2.0)
        assert counter.get_total_flops() == of_student + of_teacher

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_memory(self, dtype, monkeypatch):
        """No array of N times C, whether the loop computes or operations do."""
        monkeypatch.setattr(linear_divergence, "_BLOCK", 2**15)
        n, classes = 512, 1000
        x, h = normal(n, 8, dtype=dtype), normal(n, 6, seed=1, dtype=dtype)
        matrix, teacher = normal(classes, 8, dtype=dtype), normal(classes, 6, seed=2, dtype=dtype)
        x.requires_grad_()
        matrix.requires_grad_()

        def call(chunk):
            return linear_distillation_loss(
                x, matrix, h, teacher, temperature=2.0, chunk_size=chunk
            )

        size = n * classes * x.element_size()
        assert max(allocations(lambda: call(32))) <= size // 16
        assert max(allocations(lambda: call(n))) == size  # so that it would be seen

    def test_refused(self):
        x, matrix, bias, h, teacher, teacher_bias = layers(torch.float32)
        for name in ("teacher_input", "teacher_weight", "teacher_bias"):
            given = {"teacher_input": h, "teacher_weight": teacher, "teacher_bias": teacher_bias}
            given[name] = given[name].clone().requires_grad_()
            with pytest.raises(
                ValueError, match=rf"{name} requires grad: expected a constant, such"
            ):
                linear_distillation_loss(x, matrix, **given, temperature=1.0)
            with torch.no_grad():
                assert linear_distillation_loss(x, matrix, **given, temperature=1.0) > 0
        bad = teacher.clone()
        bad[2] = nan
        for given, message in (
            ({"teacher_input": h[1:]}, r"teacher_input has shape \(6, 5\): expected \(7, 'E'\)"),
            ({"teacher_weight": teacher[1:]}, r"teacher_weight has shape \(10, 5\): expected"),
            (
                {"teacher_weight": teacher.T},
                r"teacher_weight has shape \(5, 11\): expected \(11, 5",
            ),
            ({"teacher_bias": bias[1:]}, r"teacher_bias has shape \(10,\): expected \(11,\)"),
            ({"linear_bias": bias[1:]}, r"linear_bias has shape \(10,\)"),
            ({"linear_weight": matrix.T}, r"linear_weight has shape \(3, 11\)"),
            ({"mask": torch.ones(3, dtype=torch.bool)}, r"mask has shape \(3,\)"),
            ({"chunk_size": 0}, "chunk_size = 0: expected at least 1"),
            ({"teacher_weight": bad}, r"teacher_logits\[0, 2\] = nan: expected a number"),
            ({"teacher_weight": bad, "reduction": "none"}, r"teacher_logits\[0, 2\] = nan"),
        ):
            good = {"linear_weight": matrix, "teacher_input": h, "teacher_weight": teacher}
            with pytest.raises(ValueError, match=message):
                linear_distillation_loss(x, **(good | given), temperature=1.0)


class TestModules:
    def test_divergences(self):
        z, v = normal(2, 4, 5, dtype=torch.float32)
        options = {"temperature": 2.0, "divergence": "jensen-shannon", "beta": 0.25}
        loss = losses.DistillationLoss(**options)
        same(loss(z, v), distillation_loss(z, v, **options))
        assert "divergence='jensen-shannon', beta=0.25" in repr(loss)

    def test_linear(self):
        x, _, _, h, teacher, bias = layers(torch.float32)
        teacher = torch.nn.Parameter(teacher)
        options = {"temperature": 2.0, "divergence": "reverse", "chunk_size": 2}
        loss = losses.LinearDistillationLoss(D, teacher, bias, bias=True, **options)
        wanted = distillation_loss(
            loss.linear(x), F.linear(h, teacher, bias), temperature=2.0, divergence="reverse"
        )
        same(loss(x, h), wanted, rtol=1e-5)
        loss(x, h).backward()
        assert loss.linear.weight.grad.abs().sum() > 0
        assert teacher.grad is None
        assert set(loss.state_dict()) == {"linear.weight", "linear.bias"}
        same(pickle.loads(pickle.dumps(loss))(x, h), wanted, rtol=1e-5)
        assert loss.double()(x.double(), h.double()).dtype == torch.float64
        tied = torch.nn.Parameter(normal(C, D, dtype=torch.float32))
        assert (
            losses.LinearDistillationLoss(D, teacher, tied_weight=tied, **options).linear.weight
            is tied
        )
        with pytest.raises(ValueError, match=r"tied_weight has shape \(11, 3\)"):
            losses.LinearDistillationLoss(4, teacher, tied_weight=tied, **options)
