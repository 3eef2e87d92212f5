"""celib.losses against torch where torch is right, and against 50 digits where it is not."""

import copy
import importlib
import itertools
import math
import pickle
from functools import partial

import mpmath as mp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.autograd import grad, gradcheck, gradgradcheck

from celib import losses
from celib.losses import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    distillation_loss,
    focal_loss,
    generalized_cross_entropy,
    info_nce,
    multilabel_soft_margin_loss,
    sigmoid_focal_loss,
    symmetric_cross_entropy,
)
from celib.testing import nasty_logits, oracle, ulp_error

# torch's own, of the check of forward mode.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
inf, nan = math.inf, math.nan
U = 2.0**-53
REDUCTIONS = ("none", "mean", "sum")


def T(values, **options):
    return torch.tensor(values, **{"dtype": torch.float64} | options)


def same(found, wanted, rtol=1e-13, atol=1e-300):
    torch.testing.assert_close(found, wanted, rtol=rtol, atol=atol, equal_nan=True)


def slope(loss, *inputs, **options):
    """The value, and the gradient by each input."""
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    value = loss(*inputs)
    return value.detach(), *grad(value.sum(), inputs, **options)


# The losses of one row as a textbook writes them, in mpmath.


def shares(z, t=1):
    terms = [mp.exp(a / t) if a > -mp.inf else mp.mpf(0) for a in z]
    return [a / mp.fsum(terms) for a in terms]


def plain_focal(p, gamma):
    return -((1 - p) ** gamma) * mp.log(p)


def plain_distillation(z, v, t):
    p, s = shares(v, t), shares(z, t)
    return t**2 * mp.fsum(a * mp.log(a / b) for a, b in zip(p, s, strict=True))


GAMMA, Q, ALPHA = 0.5, 0.75, 0.25
SMOOTHED = 0.125
SOFT = (0.5, 0.25, 0.125, 0.125)
TEACHER = (1.0, -2.5, 0.25, 3.0)

# Every loss of one row of four logits, in two ways, and how many ulps a value and a gradient may be
# wrong by where the differences of the logits are exact. With one class as target: nothing cancels.
HARD = {
    "cross_entropy": (
        lambda z: cross_entropy(z, torch.tensor(0)),
        lambda z: -mp.log(shares(z)[0]),
        (2, 3),
    ),
    "focal": (
        lambda z: focal_loss(z, torch.tensor(0), gamma=GAMMA),
        lambda z: plain_focal(shares(z)[0], GAMMA),
        (4, 4),
    ),
    "focal, gamma 2": (
        lambda z: focal_loss(z, torch.tensor(0)),
        lambda z: plain_focal(shares(z)[0], 2),
        (6, 8),
    ),
    "generalized": (
        lambda z: generalized_cross_entropy(z, torch.tensor(0), q=Q),
        lambda z: (1 - shares(z)[0] ** Q) / Q,
        (3, 3),
    ),
    "symmetric": (
        lambda z: symmetric_cross_entropy(z, torch.tensor(0), alpha=ALPHA),
        lambda z: -ALPHA * mp.log(shares(z)[0]) + 4 * (1 - shares(z)[0]),
        (3, 5),
    ),
    "binary": (
        lambda z: binary_cross_entropy_with_logits(z[0], T(1.0)),
        lambda z: mp.log(1 + mp.exp(-z[0])),
        (2, 3),
    ),
    "binary, no": (
        lambda z: binary_cross_entropy_with_logits(z[0], T(0.0), pos_weight=T(2.0)),
        lambda z: mp.log(1 + mp.exp(z[0])),
        (2, 3),
    ),
    "multilabel": (
        lambda z: multilabel_soft_margin_loss(z, T([1.0, 0.0, 1.0, 0.0])),
        lambda z: mp.fsum(mp.log(1 + mp.exp(a)) for a in (-z[0], z[1], -z[2], z[3])) / 4,
        (3, 4),
    ),
    "sigmoid focal": (
        lambda z: sigmoid_focal_loss(z[0], T(1.0), gamma=GAMMA),
        lambda z: plain_focal(1 / (1 + mp.exp(-z[0])), GAMMA) / 4,
        (3, 4),
    ),
    "sigmoid focal, no": (
        lambda z: sigmoid_focal_loss(z[0], T(0.0), -1),
        lambda z: plain_focal(1 / (1 + mp.exp(z[0])), 2),
        (5, 4),
    ),
}
# Here the terms of a gradient can cancel, q_j against p_j: its error counts in units of 1.
MIXED = {
    "smoothed": (
        lambda z: cross_entropy(z, torch.tensor(0), label_smoothing=SMOOTHED),
        lambda z: (
            -(1 - SMOOTHED) * mp.log(shares(z)[0])
            - SMOOTHED / 4 * mp.fsum(mp.log(p) for p in shares(z))
        ),
        3,
    ),
    "soft": (
        lambda z: cross_entropy(z, T(SOFT)),
        lambda z: -mp.fsum(q * mp.log(p) for q, p in zip(SOFT, shares(z), strict=True)),
        3,
    ),
    "binary, soft": (
        lambda z: binary_cross_entropy_with_logits(z[0], T(0.25)),
        lambda z: mp.log(1 + mp.exp(-z[0])) / 4 + 3 * mp.log(1 + mp.exp(z[0])) / 4,
        3,
    ),
    "sigmoid focal, soft": (
        lambda z: sigmoid_focal_loss(z[0], T(0.25), -1, GAMMA),
        lambda z: (
            (3 / (1 + mp.exp(-z[0])) / 4 + 1 / (1 + mp.exp(z[0])) / 4) ** GAMMA
            * (mp.log(1 + mp.exp(-z[0])) / 4 + 3 * mp.log(1 + mp.exp(z[0])) / 4)
        ),
        4,
    ),
    "distillation": (
        lambda z: distillation_loss(z, T(TEACHER), temperature=2.0),
        lambda z: plain_distillation(z, TEACHER, 2),
        4,
    ),
}


def exact_rows():
    """Logits in eighths, at several distances: their differences are exact."""
    rng = np.random.default_rng(0)
    for width in (1, 8, 40, 300):
        yield from rng.integers(-8 * width, 8 * width, (6, 4)) / 8
    yield from ([0.0, -40.0, -41.0, -38.5], [17.0, 0.0, 0.0, 0.0], [2.0, 2.0, 2.0, 2.0])
    yield from ([-40.0, 0.0, -1.0, 0.125], [-700.0, 0.0, 0.0, 0.0], [300.0, 0.0, -1.0, 299.0])


def reference(plain, row):
    """Value and gradient; differentiation costs half of the 700 digits."""
    with mp.workdps(700):
        z = [mp.mpf(float(a)) for a in row]
        value = plain(z)
        slopes = []
        for k in range(len(z)):
            step = mp.mpf(10) ** -340
            up, down = ([*z[:k], z[k] + s * step, *z[k + 1 :]] for s in (1, -1))
            slopes.append((plain(up) - plain(down)) / (2 * step))
    with mp.workdps(50):
        # Below 2^-1022 digits run out; and a derivative that is 0 is 1e-340 here.
        return +value, [+s for s in slopes]


def errors(found, wanted):
    normal = [abs(w) > 2.0**-1020 for w in np.ravel(np.array(wanted, dtype=object))]
    found = np.ravel(found.numpy())
    assert all(n or abs(f) <= 2.0**-1020 for n, f in zip(normal, found, strict=True))
    return ulp_error(found, np.ravel(np.array(wanted, dtype=object)))[normal].max(initial=0)


class TestAccuracy:
    @pytest.mark.parametrize("name", HARD)
    def test_one_class(self, name):
        loss, plain, (of_value, of_gradient) = HARD[name]
        for row in exact_rows():
            value, gradient = slope(loss, T(np.asarray(row)))
            wanted, slopes = reference(plain, row)
            assert errors(value, wanted) <= of_value
            # The gradient of the generalized loss holds p^q, and the rounding of its logarithm.
            scale = Q * cross_entropy(T(np.asarray(row)), torch.tensor(0)).item()
            allowed = of_gradient + (2 * scale if name == "generalized" else 0)
            assert errors(gradient, slopes) <= allowed

    @pytest.mark.parametrize("name", MIXED)
    def test_mixed(self, name):
        loss, plain, of_gradient = MIXED[name]
        for row in exact_rows():
            value, gradient = slope(loss, T(np.asarray(row)))
            wanted, slopes = reference(plain, row)
            assert errors(value, wanted) <= 4
            for found, want in zip(gradient.tolist(), slopes, strict=True):
                assert abs(mp.mpf(found) - want) <= of_gradient * U

    @pytest.mark.parametrize("name", nasty_logits())
    def test_nasty_rows(self, name):
        row = nasty_logits()[name]
        logs, p = oracle("log_softmax", row), oracle("softmax", row)
        largest = max(row)
        # What the rounding of differences of logits does: it is the first-order error of the loss.
        shift = float(
            mp.fsum(a * (mp.mpf(largest) - mp.mpf(x)) for a, x in zip(p, row, strict=True))
        )
        for y in range(0, len(row), 1 + len(row) // 10):
            value, gradient = slope(lambda z, y=y: cross_entropy(z, torch.tensor(y)), T(row))
            unit = np.spacing(float(-logs[y]))
            distance = float(mp.mpf(largest) - mp.mpf(row[y]))
            error = abs(mp.mpf(value.item()) - -logs[y]) if math.isfinite(-logs[y]) else 0
            assert float(error) <= 4 * unit + 2 * U * (distance + shift)
            assert gradient.isfinite().all()
            with mp.workdps(400):
                rest = [a - (k == y) for k, a in enumerate(p)]
            for k, want in enumerate(rest):
                if k != y:
                    bound = U * (len(row) / 8 + 8 + 2 * (largest - min(row)))
                    assert abs(mp.mpf(gradient[k].item()) - want) <= bound * want + 2.0**-1070

    @pytest.mark.parametrize(
        ("dtype", "gap"),
        [(torch.float32, 17), (torch.float32, 80), (torch.float64, 40), (torch.float64, 700)],
    )
    def test_confident_and_right(self, dtype, gap):
        wanted = float(mp.log1p(mp.exp(-gap)))
        wrong = float(1 / (1 + mp.exp(gap)))
        z = T([0.0, -gap], dtype=dtype, requires_grad=True)
        loss = cross_entropy(z, torch.tensor(0))
        first = grad(loss, z, create_graph=True)[0]
        second = grad(first[0], z)[0]
        close = partial(pytest.approx, rel=4 * torch.finfo(dtype).eps, abs=0)
        assert loss.item() == close(wanted)
        assert first.tolist() == close([-wrong, wrong])
        assert second.tolist() == close([wrong * (1 - wrong), -wrong * (1 - wrong)])

    def test_binary_twice(self):
        x = T([40.0, -40.0, 0.0], requires_grad=True)
        loss = binary_cross_entropy_with_logits(x, T([0.0, 1.0, 0.5]), reduction="sum")
        first = grad(loss, x, create_graph=True)[0]
        curve = grad(first.sum(), x)[0]
        assert curve.tolist() == pytest.approx(
            [4.248354255291589e-18] * 2 + [0.25], rel=1e-15, abs=0
        )

    def test_published_values(self):
        found = cross_entropy(T([[0.0, -40.0]]), torch.tensor([0])).item()
        assert found == pytest.approx(4.2483542552915890e-18, rel=1e-15, abs=0)
        for x, y, want in ((40, 1, 4.2483542552915890e-18), (20.5, 1, 1.2501528656053015e-9)):
            found = binary_cross_entropy_with_logits(T(float(x)), T(float(y)))
            assert found.item() == pytest.approx(want, rel=1e-15, abs=0)
        for x, gamma, want in ((20.0, 2.0, 8.7565107175752358e-27), (-40.0, 2.0, 40.0)):
            found = sigmoid_focal_loss(T(x), T(1.0), -1, gamma)
            assert found.item() == pytest.approx(want, rel=1e-15, abs=0)
        found = generalized_cross_entropy(T([0.3, 0.7]).log(), torch.tensor(0), q=1e-12)
        assert found.item() == pytest.approx(1.20397280432521125, rel=1e-15)

    def test_many_classes(self):
        # Uniform: the gradient of the class that comes first is not the rest of a sum.
        z = torch.zeros(50_000)
        _, g = slope(lambda z: cross_entropy(z, torch.tensor(7)), z)
        assert g[0].item() == g[1].item() == pytest.approx(2e-5, rel=3e-7)

    @pytest.mark.parametrize("offset", [0.0, 1.0, -300.0])
    @pytest.mark.parametrize("distance", [2.0**-8, 2.0**-20, 2.0**-40])
    @pytest.mark.parametrize("temperature", [1.0, 4.0])
    def test_student_close_to_teacher(self, offset, distance, temperature):
        rng = np.random.default_rng(1)
        v = rng.integers(-64, 64, 5) / 8
        z = v + offset + distance * rng.integers(-8, 8, 5)
        assert ((z - offset - v) * 2**40 % 1 == 0).all()

        def loss(z, v):
            return distillation_loss(z, v, temperature=temperature)

        value, to_student, to_teacher = slope(loss, T(z), T(v))
        teacher, student = [mp.mpf(a) for a in v], [mp.mpf(a) for a in z]
        with mp.workdps(100):
            wanted = plain_distillation(student, teacher, temperature)
            p, s = shares(teacher, temperature), shares(student, temperature)
            rise = [temperature * (b - a) for a, b in zip(p, s, strict=True)]
            mean = mp.fsum(a * mp.log(a / b) for a, b in zip(p, s, strict=True))
            back = [temperature * a * (mp.log(a / b) - mean) for a, b in zip(p, s, strict=True)]
        assert errors(value, wanted) <= 16
        scale = float(max(map(abs, rise)))
        np.testing.assert_allclose(
            to_student, np.array(rise, float), rtol=1e-14, atol=1e-15 * scale
        )
        np.testing.assert_allclose(
            to_teacher, np.array(back, float), rtol=1e-14, atol=1e-15 * scale
        )

    def test_offset_of_the_student(self):
        # The subtraction of logits rounds to 2^-44 here, and they differ by 1e-9.
        rng = np.random.default_rng(2)
        v = rng.normal(size=5)
        z = v + 300 + 1e-9 * rng.normal(size=5)
        with mp.workdps(80):
            wanted = plain_distillation([mp.mpf(a) for a in z], [mp.mpf(a) for a in v], 1)
        found = distillation_loss(T(z.tolist()), T(v.tolist()), temperature=1.0).item()
        assert found == pytest.approx(float(wanted), rel=1e-13, abs=0)

    def test_student_far_from_teacher(self):
        for v, z in itertools.product(([0.0, 0.0], [0.0, -800.0], [-30.0, 5.0]), repeat=2):
            for t in (0.5, 1.0):
                with mp.workdps(1500):
                    want = float(plain_distillation([mp.mpf(a) for a in z], v, mp.mpf(t)))
                found, g = slope(
                    lambda z, v=v, t=t: distillation_loss(z, T(v), temperature=t), T(z)
                )
                assert found.item() == pytest.approx(want, rel=1e-14, abs=0)
                assert g.isfinite().all()


CLASSES = torch.tensor([0, 3, -100, 2, 1, 3])


def grid():
    generator = torch.Generator().manual_seed(0)
    for shape in ((4,), (6, 4), (6, 4, 2), (3, 4, 2, 5)):
        z = torch.randn(shape, generator=generator, dtype=torch.float64)
        axis = min(1, len(shape) - 1)
        sites = (*shape[:axis], *shape[axis + 1 :])
        y = torch.randint(0, 4, sites, generator=generator)
        some = torch.where(torch.rand(sites, generator=generator) < 0.3, -100, y)
        q = torch.randn(shape, generator=generator, dtype=torch.float64).softmax(axis)
        for target, ignore in ((y, -100), (some, -100), (y, 2), (q, -100)):
            yield z, target, ignore


class TestSameAsTorch:
    @pytest.mark.parametrize("reduction", REDUCTIONS)
    @pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
    @pytest.mark.parametrize("weight", [None, [0.5, 2.0, 0.0, 1.25]])
    def test_cross_entropy(self, reduction, smoothing, weight):
        w = None if weight is None else T(weight)
        options = {"reduction": reduction, "label_smoothing": smoothing}
        for z, target, ignore in grid():
            options |= {"target": target, "weight": w, "ignore_index": ignore}
            found = slope(partial(cross_entropy, **options), z)
            wanted = slope(partial(F.cross_entropy, **options), z)
            same(found, wanted, atol=1e-14)

    @pytest.mark.parametrize("reduction", REDUCTIONS)
    @pytest.mark.parametrize("weight", [None, (3, 1), (4,), (3, 4)])
    @pytest.mark.parametrize("pos_weight", [None, (), (4,)])
    def test_binary(self, reduction, weight, pos_weight):
        generator = torch.Generator().manual_seed(0)
        z, y = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64).mul(3)
        y = y.sigmoid()
        w = None if weight is None else torch.rand(weight, generator=generator, dtype=z.dtype)
        v = (
            None
            if pos_weight is None
            else torch.rand(pos_weight, generator=generator, dtype=z.dtype)
        )
        options = {"reduction": reduction, "pos_weight": v}
        ours = slope(lambda z, y: binary_cross_entropy_with_logits(z, y, w, **options), z, y)
        theirs = slope(lambda z, y: F.binary_cross_entropy_with_logits(z, y, w, **options), z, y)
        same(ours, theirs, atol=1e-14)
        if v is None:
            ours = multilabel_soft_margin_loss(z, y, w, reduction=reduction)
            same(ours, F.multilabel_soft_margin_loss(z, y, w, reduction=reduction))

    def test_empty(self):
        none = torch.empty(0, 3)
        for target in (torch.empty(0, dtype=torch.long), none):
            assert math.isnan(cross_entropy(none, target))
            assert cross_entropy(none, target, reduction="sum") == 0
            assert cross_entropy(none, target, reduction="none").shape == (0,)
        left_out = torch.full((2,), -100)
        for weight, over in itertools.product((None, torch.ones(3)), (None, "weight", "count")):
            assert math.isnan(cross_entropy(torch.ones(2, 3), left_out, weight, mean_over=over))
        assert cross_entropy(torch.ones(2, 3), left_out, reduction="sum") == 0
        assert math.isnan(
            cross_entropy(torch.ones(1, 2), torch.tensor([0]), torch.tensor([0.0, 1.0]))
        )

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
    def test_other_integers(self, dtype):
        z, y = torch.randn(3, 4), torch.tensor([0, 3, 1])
        assert cross_entropy(z, y.to(dtype)) == cross_entropy(z, y)

    @pytest.mark.parametrize("alpha", [0.25, 0, -1])
    @pytest.mark.parametrize("gamma", [0, 1, 2.5])
    def test_torchvision_formula(self, alpha, gamma):
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(8, generator=generator, dtype=torch.float64)
        for t in (torch.arange(8) % 2.0, torch.rand(8, generator=generator)):
            t = t.double()
            p = x.sigmoid()
            p_t = p * t + (1 - p) * (1 - t)
            wanted = F.binary_cross_entropy_with_logits(x, t, reduction="none") * (1 - p_t) ** gamma
            wanted = (alpha * t + (1 - alpha) * (1 - t)) * wanted if alpha >= 0 else wanted
            same(sigmoid_focal_loss(x, t, alpha, gamma), wanted)
            same(sigmoid_focal_loss(x, t, alpha, gamma, "mean"), wanted.mean())

    @pytest.mark.parametrize("reduction", [*REDUCTIONS, "batchmean"])
    def test_distillation(self, reduction):
        z, v = torch.randn(2, 5, 3, 2, generator=torch.Generator().manual_seed(0)).double()
        one = F.kl_div((z / 3).log_softmax(1), (v / 3).softmax(1), reduction="none").sum(1) * 9
        wanted = {"none": one, "mean": one.mean(), "sum": one.sum(), "batchmean": one.sum() / 5}
        options = {"temperature": 3.0, "reduction": reduction}
        same(distillation_loss(z, v, axis=1, **options), wanted[reduction])
        z, v = z.movedim(1, -1), v.movedim(1, -1)
        same(distillation_loss(z, v, axis=-1, **options), wanted[reduction])

    def test_focal_with_gamma_0_is_cross_entropy(self):
        for z, target, ignore in grid():
            if not target.is_floating_point():
                for weight, over in itertools.product((None, T([1, 2, 3, 0.5])), (None, "count")):
                    options = {"weight": weight, "ignore_index": ignore, "mean_over": over}
                    same(
                        focal_loss(z, target, gamma=0, **options),
                        cross_entropy(z, target, **options),
                    )

    @pytest.mark.parametrize(
        "loss", [focal_loss, generalized_cross_entropy, symmetric_cross_entropy]
    )
    def test_reductions_leave_the_ignored_out(self, loss):
        z, y = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), CLASSES
        one = loss(z, y, reduction="none")
        assert one[2] == 0
        assert one.count_nonzero() == 5
        same(loss(z, y), one.sum() / 5, rtol=1e-6)
        same(loss(z, y, reduction="sum"), one.sum(), rtol=1e-6)


class TestMeanOver:
    @pytest.mark.parametrize("over", ["weight", "count"])
    @pytest.mark.parametrize("smoothing", [0.0, 0.1])
    def test_one_hot_targets_are_their_classes(self, over, smoothing):
        z, y = torch.randn(5, 3, 2).double(), torch.randint(0, 3, (5, 2))
        one_hot = F.one_hot(y, 3).movedim(-1, 1).double()
        w = T([0.5, 2.0, 7.0])
        options = {"mean_over": over, "label_smoothing": smoothing}
        same(cross_entropy(z, one_hot, w, **options), cross_entropy(z, y, w, **options))

    def test_denominators(self):
        z, y, w = torch.zeros(3, 2).double(), torch.tensor([0, 1, -100]), T([1.0, 3.0])
        total = 4 * math.log(2)
        assert cross_entropy(z, y, w).item() == pytest.approx(total / 4)
        assert cross_entropy(z, y, w, mean_over="count").item() == pytest.approx(total / 2)
        q = T([[1, 0], [0, 1]])
        assert cross_entropy(z[:2], q, w).item() == pytest.approx(total / 2)
        assert cross_entropy(z[:2], q, w, mean_over="weight").item() == pytest.approx(total / 4)


MASKED = [1.0, 2.0, -inf]
PAIR = math.log1p(math.e)  # the loss of the first of two classes, one behind the other


class TestInfiniteLogits:
    def test_masked_class(self):
        loss, g = slope(lambda z: cross_entropy(z, torch.tensor(0)), T(MASKED))
        assert loss.item() == pytest.approx(PAIR)
        same(g, T([-1 / (1 + 1 / math.e), 1 / (1 + 1 / math.e), 0]))
        loss, g = slope(lambda z: cross_entropy(z, torch.tensor(2)), T(MASKED))
        assert loss == inf
        same(g, T([1 / (1 + math.e), 1 / (1 + 1 / math.e), 0]))

    def test_smoothing_over_the_allowed(self):
        loss, g = slope(lambda z: cross_entropy(z, torch.tensor(0), label_smoothing=0.1), T(MASKED))
        alone = slope(
            lambda z: cross_entropy(z, torch.tensor(0), label_smoothing=0.1), T(MASKED[:2])
        )
        same((loss, g[:2]), alone)
        assert g[2] == 0
        w = T([1.0, 2.0, 5.0])
        same(
            cross_entropy(T(MASKED), torch.tensor(0), w, label_smoothing=0.1),
            cross_entropy(T(MASKED[:2]), torch.tensor(0), w[:2], label_smoothing=0.1),
        )
        assert cross_entropy(T(MASKED), torch.tensor(2), label_smoothing=1.0) == pytest.approx(
            PAIR - 0.5
        )

    def test_soft_target(self):
        def loss(z, q):
            return cross_entropy(z, q)

        value, to_z, to_q = slope(loss, T(MASKED), T([0.5, 0.5, 0.0]))
        assert value.item() == pytest.approx(0.81326168751822283, rel=1e-15)
        assert to_z[2] == 0
        same(to_q, T([PAIR, PAIR - 1, 0]))
        assert cross_entropy(T(MASKED), T([0.5, 0.25, 0.25])) == inf
        smoothed = cross_entropy(T(MASKED), T([0.5, 0.5, 0.0]), label_smoothing=0.3)
        assert smoothed.item() == pytest.approx(0.81326168751822283)

    def test_class_without_weight(self):
        w = T([1.0, 1.0, 0.0])
        for target in (torch.tensor(2), T([0.0, 0.0, 1.0])):
            options = {"target": target, "weight": w, "reduction": "sum"}
            loss, g = slope(partial(cross_entropy, **options), T(MASKED))
            assert loss == 0
            assert g.tolist() == [0, 0, 0]

    @pytest.mark.parametrize("y", [0, 1])
    def test_certainty(self, y):
        loss, g = slope(lambda z: cross_entropy(z, torch.tensor(y)), T([inf, 0.0, -3.0]))
        assert loss == (0, inf)[y]
        assert g.tolist() == [0, 0, 0] if y == 0 else [1, -1, 0]

    def test_single_class(self):
        for z, wanted in ((3.0, 0.0), (inf, 0.0), (-inf, nan), (nan, nan)):
            same(cross_entropy(T([z]), torch.tensor(0)), T(wanted))

    def test_rows_without_distribution_leave_their_neighbours_alone(self):
        rows = T([[-inf, -inf], [inf, inf], [nan, 0.0], [0.0, 0.0]])
        for target in (torch.zeros(4, dtype=torch.long), T([[0.5, 0.5]] * 4)):
            for smoothing in (0.0, 0.1):
                loss, g = slope(
                    lambda z, target=target, e=smoothing: cross_entropy(
                        z, target, reduction="none", label_smoothing=e
                    ),
                    rows,
                )
                assert loss.isnan().tolist() == [True, True, True, False]
                assert g[3].isfinite().all()

    @pytest.mark.parametrize(
        "loss",
        [
            cross_entropy,
            partial(cross_entropy, label_smoothing=0.1),
            focal_loss,
            generalized_cross_entropy,
            symmetric_cross_entropy,
        ],
    )
    def test_ignored_rows_may_hold_anything(self, loss):
        rows = T([[nan, 0.0], [-inf, -inf], [inf, inf], [0.0, 1.0]])
        value, g = slope(lambda z: loss(z, torch.tensor([-100, -100, -100, 1])), rows)
        assert value.isfinite()
        assert g[:3].count_nonzero() == 0
        assert g[3].isfinite().all()

    def test_binary(self):
        x, y = T([inf, -inf, inf, -inf, inf, -inf]), T([1, 0, 0, 1, 0.5, 0.5])
        loss, g = slope(lambda x: binary_cross_entropy_with_logits(x, y, reduction="none"), x)
        assert loss.tolist() == [0, 0, inf, inf, inf, inf]
        assert g.tolist() == [0, 0, 1, -1, 0.5, -0.5]
        weighted = binary_cross_entropy_with_logits(x[2:4], y[2:4], T([0.0, 0.0]), reduction="none")
        assert weighted.tolist() == [0, 0]
        assert binary_cross_entropy_with_logits(x[3], y[3], pos_weight=T(0.0)) == 0

    @pytest.mark.parametrize("gamma", [0, 0.01, 0.5, 1, 2])
    @pytest.mark.parametrize("size", [1000.0, inf, 720.0, 60.0])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_focal_derivatives_are_finite(self, gamma, size, dtype):
        for sign, y in itertools.product((1, -1), (0, 1)):
            x = T(sign * size, dtype=dtype, requires_grad=True)
            pair = torch.stack((-x, x)) if size < inf else torch.stack((0 * x.detach(), x))
            pair = torch.nan_to_num(pair, nan=0.0, posinf=inf, neginf=-inf)
            for loss in (
                sigmoid_focal_loss(x, T(float(y), dtype=dtype), -1, gamma),
                focal_loss(pair, torch.tensor(y), gamma=gamma),
            ):
                wrong = (sign > 0) != (y > 0)
                first = grad(loss, x, create_graph=True)[0]
                assert first.isfinite()
                if not wrong:
                    assert loss.item() <= 1e-25
                    assert grad(first, x)[0].isfinite()
                elif size < inf:
                    factor = 1 if loss.item() <= 1.5 * size else 2
                    assert loss.item() == pytest.approx(factor * size, rel=1e-6)
                    assert abs(first.item()) == pytest.approx(factor, rel=1e-6)

    def test_bounded_losses_at_a_masked_class(self):
        value, g = slope(lambda z: generalized_cross_entropy(z, torch.tensor(2), q=0.5), T(MASKED))
        assert value == 2
        assert g.tolist() == [0, 0, 0]
        bounded = symmetric_cross_entropy(T(MASKED), torch.tensor(2), alpha=0.0, log_zero=-3.0)
        assert bounded == 3
        assert symmetric_cross_entropy(T(MASKED), torch.tensor(2)) == inf

    def test_distillation(self):
        def loss(z, v):
            return distillation_loss(z, v, temperature=1.0)

        value, to_z, to_v = slope(loss, T(MASKED), T([0.5, 0.25, -inf]))
        same((value, to_z[:2], to_v[:2]), slope(loss, T(MASKED[:2]), T([0.5, 0.25])))
        assert to_z[2] == to_v[2] == 0
        # Only the teacher masks: what the student spends there is lost, -log(1 - 1/4).
        value, to_z, to_v = slope(loss, T([1.0, 1.0, 1.0, 1.0]), T([3.0, 3.0, 3.0, -inf]))
        assert value.item() == pytest.approx(math.log(4 / 3), rel=1e-15)
        same(to_z, T([-1 / 12, -1 / 12, -1 / 12, 0.25]), atol=1e-15)
        assert loss(T(MASKED), T([0.0, 0.0, 0.0])) == inf
        assert loss(T([inf, 0.0]), T([inf, 3.0])) == 0
        assert loss(T([inf, 0.0]), T([0.0, 0.0])) == inf
        assert loss(T([1.0, 2.0]), T([inf, 0.0])).item() == pytest.approx(PAIR)
        assert loss(T([1e308, 1e308]), T([-1e308, -1e308])) == 0
        broken = T([[-inf, -inf], [inf, inf], [0.0, 0.0]])
        for pair in ((broken, torch.zeros_like(broken)), (torch.zeros_like(broken), broken)):
            found = distillation_loss(*pair, temperature=1.0, reduction="none")
            assert found.isnan().tolist() == [True, True, False]


GENERIC = {
    "index": lambda z: cross_entropy(z, CLASSES[:3], T([1, 0.5, 2, 3]), label_smoothing=0.1),
    "soft": lambda z: cross_entropy(z, T([SOFT] * 3)),
    "binary": lambda z: binary_cross_entropy_with_logits(z, T([SOFT] * 3), pos_weight=T(3.0)),
    "multilabel": lambda z: multilabel_soft_margin_loss(z, T([SOFT] * 3), reduction="none"),
    "focal": lambda z: focal_loss(z, CLASSES[:3], gamma=0.5, reduction="none"),
    "focal 2": lambda z: focal_loss(z, CLASSES[:3], T([1, 0.5, 2, 3])),
    "sigmoid focal": lambda z: sigmoid_focal_loss(z, T([SOFT] * 3), gamma=0.5),
    "generalized": lambda z: generalized_cross_entropy(z, CLASSES[:3]),
    "symmetric": lambda z: symmetric_cross_entropy(z, CLASSES[:3], reduction="sum"),
    "distillation": lambda z: distillation_loss(z, T([TEACHER] * 3), temperature=2.0),
    "teacher": lambda v: distillation_loss(T([TEACHER] * 3), v, temperature=2.0),
}


class TestDerivatives:
    @pytest.mark.parametrize("name", GENERIC)
    def test_gradcheck(self, name):
        z = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
        assert gradcheck(GENERIC[name], (z,))
        assert gradgradcheck(GENERIC[name], (z,))

    def test_by_both_arguments(self):
        z, q = torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(0)).double()
        q = q.softmax(-1)
        for loss in (
            lambda z, q: cross_entropy(z, q, label_smoothing=0.1, validate=False),  # moves q
            lambda z, q: binary_cross_entropy_with_logits(z, q),
            lambda z, q: distillation_loss(z, q, temperature=0.7, reduction="none"),
        ):
            inputs = [z.clone().requires_grad_(), q.clone().requires_grad_()]
            assert gradcheck(loss, inputs)
            assert gradgradcheck(loss, inputs)

    def test_close_student_twice(self):
        v = torch.randn(5, generator=torch.Generator().manual_seed(0)).double()
        z = (v + 1e-9).requires_grad_()
        first = grad(distillation_loss(z, v, temperature=2.0), z, create_graph=True)[0]
        row = grad(first[0], z)[0]
        p = (v / 2).softmax(0)
        same(row, p[0] * (torch.eye(5)[0].double() - p), rtol=1e-7)

    def test_vmap(self):
        z, y = torch.randn(5, 4).double(), torch.randint(0, 4, (5,))

        def loss(z, y):
            return cross_entropy(z, y, label_smoothing=0.1)

        by_row = torch.func.vmap(torch.func.grad(loss))(z, y)
        same(
            by_row, slope(lambda z: cross_entropy(z, y, label_smoothing=0.1, reduction="sum"), z)[1]
        )

    def test_target_gets_no_part_in_focal(self):
        t = torch.full((3,), 0.5, requires_grad=True)
        assert not sigmoid_focal_loss(torch.zeros(3), t).requires_grad


class TestLearned:
    """A scale or a temperature that is a tensor gets its exact gradient."""

    @pytest.mark.parametrize("softcap", [None, 3.0])
    @pytest.mark.parametrize("masked", [False, True])
    @pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
    def test_scale(self, softcap, masked, reduction):
        z = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).double()
        if masked:
            z[0, 1] = z[1, 1] = -inf
            z[5, :2] = -inf
        options = {"softcap": softcap, "reduction": reduction, "label_smoothing": 0.1}

        def loss(z, s):
            return cross_entropy(z, CLASSES, scale=s, **options)

        same(loss(z, T(1.7)), loss(z, 1.7))
        _, to_z, to_s = slope(loss, z, T(1.7))
        same(to_z, slope(lambda z: loss(z, 1.7), z)[1])
        h = 1e-6
        change = loss(z, 1.7 + h).sum() - loss(z, 1.7 - h).sum()
        assert to_s.item() == pytest.approx(change.item() / (2 * h), rel=1e-6)
        finite = torch.where(z.isinf(), 0.3, z).requires_grad_()
        assert gradcheck(loss, (finite, T(1.7, requires_grad=True)), check_forward_ad=True)
        assert gradgradcheck(loss, (finite, T(1.7, requires_grad=True)))

    def test_scale_in_a_list(self):
        s = torch.tensor(0.5, requires_grad=True)
        found = grad(cross_entropy(Z, Y, scale=[s]), s)
        same(found, grad(cross_entropy(Z, Y, scale=s), s))

    def test_scale_to_50_digits(self):
        row, y, s = [0.0, -30.0, 2.5], 0, 3.0
        with mp.workdps(80):
            z = [mp.mpf(a) for a in row]
            p = shares([s * a for a in z])
            wanted = mp.fsum(a * b for a, b in zip(p, z, strict=True)) - z[y]
        _, _, found = slope(lambda z, s: cross_entropy(z, torch.tensor(y), scale=s), T(row), T(s))
        assert found.item() == pytest.approx(float(wanted), rel=1e-15)

    @pytest.mark.parametrize("reduction", ["mean", "none"])
    @pytest.mark.parametrize("bias", [False, True])
    def test_scale_of_a_layer(self, reduction, bias):
        generator = torch.Generator().manual_seed(0)
        x, matrix = (torch.randn(n, 3, generator=generator).double() for n in (6, 4))
        b = torch.randn(4, generator=generator).double() if bias else None

        def fused(x, matrix, s):
            return losses.linear_cross_entropy(
                x, matrix, CLASSES, linear_bias=b, scale=s, reduction=reduction
            )

        def plain(x, matrix, s):
            return cross_entropy(F.linear(x, matrix, b), CLASSES, scale=s, reduction=reduction)

        same(slope(fused, x, matrix, T(2.5)), slope(plain, x, matrix, T(2.5)), atol=1e-15)

    @pytest.mark.parametrize("distance", [1.0, 2.0**-20])
    def test_temperature(self, distance):
        rng = np.random.default_rng(1)
        v = rng.integers(-64, 64, 5) / 8
        z = v + 0.5 + distance * rng.integers(-8, 8, 5)
        t = 1.5

        def loss(z, v, t):
            return distillation_loss(z, v, temperature=t)

        value, to_z, to_v, to_t = slope(loss, T(z), T(v), T(t))
        same((value, to_z, to_v), slope(lambda z, v: loss(z, v, t), T(z), T(v)))
        with mp.workdps(120):
            rows = [[mp.mpf(a) for a in row] for row in (z, v)]
            step = mp.mpf(10) ** -40
            up, down = (plain_distillation(*rows, mp.mpf(t) + s * step) for s in (1, -1))
            wanted = (up - down) / (2 * step)
        # T^2 D at a constant distance depends on T in second order only: two terms cancel.
        assert to_t.item() == pytest.approx(float(wanted), rel=1e-12, abs=4e-16 * value.item())
        inputs = [a.clone().requires_grad_() for a in (T(z), T(v), T(t))]
        if distance == 1:
            assert gradcheck(loss, inputs, check_forward_ad=True)
            assert gradgradcheck(loss, inputs)

    def test_what_is_ignored_or_masked_reaches_no_gradient(self):
        z = T([[1.0, 2.0, 0.5], [nan, nan, inf]])
        y = torch.tensor([0, -100])
        value, to_z, to_s = slope(lambda z, s: cross_entropy(z, y, scale=s), z, T(1.5))
        same((value, to_s), slope(lambda s: cross_entropy(z[:1], y[:1], scale=s), T(1.5)))
        assert to_z[1].tolist() == [0, 0, 0]
        matrix, bias = T([[1, 2, 3], [0, 1, 0], [2, 0, 1]]), T([0.0, 0.5, -inf])
        for reduction in ("mean", "none"):

            def layer(x, matrix, s, y=y, reduction=reduction):
                return losses.linear_cross_entropy(
                    x, matrix, y, linear_bias=bias, scale=s, reduction=reduction
                )

            found = slope(layer, z, matrix, T(1.5))
            alone = slope(partial(layer, y=y[:1]), z[:1], matrix, T(1.5))
            same(found[0].sum(), alone[0].sum())
            same(found[1][:1], alone[1])
            assert found[1][1].tolist() == [0, 0, 0]
            same(found[2:], alone[2:])

    def test_temperature_with_classes_masked_out(self):
        z, v = T([1.0, 2.0, -inf, 0.5]), T([0.5, 0.25, -inf, -inf])
        _, _, _, to_t = slope(lambda z, v, t: distillation_loss(z, v, temperature=t), z, v, T(2.0))
        h = 1e-5
        change = [distillation_loss(z, v, temperature=2 + s * h).item() for s in (1, -1)]
        assert to_t.item() == pytest.approx((change[0] - change[1]) / (2 * h), rel=1e-8)


WEIGHTED = {
    "cross_entropy": lambda z, **o: cross_entropy(z, CLASSES, T([1, 2, 0.5, 3]), **o),
    "soft": lambda z, **o: cross_entropy(z, T([SOFT] * 6), **o),
    "linear": lambda z, **o: losses.linear_cross_entropy(z, T(np.eye(4).tolist()), CLASSES, **o),
    "binary": lambda z, **o: binary_cross_entropy_with_logits(z[:, 0], T([0, 1] * 3), **o),
    "multilabel": lambda z, **o: multilabel_soft_margin_loss(z, T([SOFT] * 6), **o),
    "focal": lambda z, **o: focal_loss(z, CLASSES, **o),
    "sigmoid focal": lambda z, **o: sigmoid_focal_loss(z[:, 0], T([0, 1] * 3), **o),
    "generalized": lambda z, **o: generalized_cross_entropy(z, CLASSES, **o),
    "symmetric": lambda z, **o: symmetric_cross_entropy(z, CLASSES, **o),
    "distillation": lambda z, **o: distillation_loss(z, T([TEACHER] * 6), temperature=2.0, **o),
}


class TestSampleWeight:
    @pytest.mark.parametrize("name", WEIGHTED)
    def test_whole_weights_are_repetitions(self, name):
        """A target of weight k counts as k targets, in the sum and in the mean."""
        z = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).double()
        w = torch.tensor([2.0, 0.0, 1.0, 3.0, 1.0, 1.0]).double()
        loss, ones = WEIGHTED[name], torch.ones(6)
        for reduction in ("mean", "sum"):
            same(
                slope(lambda z, r=reduction: loss(z, reduction=r, sample_weight=ones), z),
                slope(lambda z, r=reduction: loss(z, reduction=r), z),
            )
        each = loss(z, reduction="none")
        same(loss(z, reduction="none", sample_weight=w), w * each)
        same(loss(z, reduction="sum", sample_weight=w), (w * each).sum())
        # What a target adds to the divisor, from the mean of it and a second one.
        shares = {
            "cross_entropy": T([1, 3, 0, 0.5, 2, 3]),
            **dict.fromkeys(("linear", "focal", "generalized", "symmetric"), T([1, 1, 0, 1, 1, 1])),
        }.get(name, torch.ones(6).double())
        wanted = (w * each).sum() / (w * shares).sum()
        same(loss(z, reduction="mean", sample_weight=w), wanted)

    def test_a_weight_of_0_leaves_an_infinite_loss_out(self):
        z = T([[0.0, -inf], [0.0, 0.0]])
        left_out = cross_entropy(z, torch.tensor([1, 0]), sample_weight=T([0.0, 1.0]))
        assert left_out.item() == pytest.approx(math.log(2))

    @pytest.mark.parametrize("name", WEIGHTED)
    def test_a_mean_over_nothing_has_no_slope(self, name):
        z = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).double()
        nothing = torch.zeros(6)
        value, g = slope(lambda z: WEIGHTED[name](z, sample_weight=nothing, reduction="mean"), z)
        assert value.isnan()
        assert (g == 0).all()

    def test_gradient(self):
        z = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).double()
        w = torch.rand(6, generator=torch.Generator().manual_seed(1)).double().requires_grad_()
        for loss in WEIGHTED.values():
            assert gradcheck(lambda w, loss=loss: loss(z, sample_weight=w, reduction="mean"), w)


class TestMask:
    def test_tokens(self):
        z, v = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0)).double()
        mask = torch.arange(15).reshape(3, 5) % 4 > 0
        z[~mask] = nan  # padding may hold anything
        v[~mask] = inf
        options = {"temperature": 2.0, "axis": -1}
        one = distillation_loss(z[mask], v[mask], temperature=2.0, reduction="none")
        for reduction, wanted in (
            ("mean", one.mean()),
            ("sum", one.sum()),
            ("batchmean", one.sum() / 3),
        ):
            value, g = slope(
                lambda z, r=reduction: distillation_loss(z, v, mask=mask, reduction=r, **options), z
            )
            same(value, wanted)
            assert (g[~mask] == 0).all()
            assert g[mask].isfinite().all()
        each = distillation_loss(z, v, mask=mask, reduction="none", **options)
        same(each[mask], one)
        assert (each[~mask] == 0).all()

    def test_nothing_counts(self):
        options = {"temperature": 1, "mask": Y > 3}
        assert distillation_loss(Z, Z, reduction="mean", **options).isnan()
        assert distillation_loss(Z, Z, reduction="sum", **options) == 0


MODULES = {
    losses.CrossEntropyLoss: (
        {"weight": T([1, 2, 3, 4]), "label_smoothing": 0.1},
        lambda z, **o: cross_entropy(z, CLASSES, **o),
        lambda m, z: m(z, CLASSES),
    ),
    losses.BCEWithLogitsLoss: (
        {"pos_weight": T([1, 2, 3, 4]), "reduction": "sum"},
        lambda z, **o: binary_cross_entropy_with_logits(z, T([SOFT] * 6), **o),
        lambda m, z: m(z, T([SOFT] * 6)),
    ),
    losses.MultiLabelSoftMarginLoss: (
        {"weight": T([1, 2, 3, 4])},
        lambda z, **o: multilabel_soft_margin_loss(z, T([SOFT] * 6), **o),
        lambda m, z: m(z, T([SOFT] * 6)),
    ),
    losses.FocalLoss: (
        {"gamma": 1.5},
        lambda z, **o: focal_loss(z, CLASSES, **o),
        lambda m, z: m(z, CLASSES),
    ),
    losses.SigmoidFocalLoss: (
        {"alpha": 0.5, "reduction": "mean"},
        lambda z, **o: sigmoid_focal_loss(z, T([SOFT] * 6), **o),
        lambda m, z: m(z, T([SOFT] * 6)),
    ),
    losses.GeneralizedCrossEntropyLoss: (
        {"q": 0.5},
        lambda z, **o: generalized_cross_entropy(z, CLASSES, **o),
        lambda m, z: m(z, CLASSES),
    ),
    losses.SymmetricCrossEntropyLoss: (
        {"alpha": 0.5},
        lambda z, **o: symmetric_cross_entropy(z, CLASSES, **o),
        lambda m, z: m(z, CLASSES),
    ),
    losses.DistillationLoss: (
        {"temperature": 2.0, "reduction": "sum"},
        lambda z, **o: distillation_loss(z, T([TEACHER] * 6), **o),
        lambda m, z: m(z, T([TEACHER] * 6)),
    ),
    losses.InfoNCELoss: (
        {"temperature": 0.2, "symmetric": True},
        lambda z, **o: info_nce(z, z.flip(0), **o),
        lambda m, z: m(z, z.flip(0)),
    ),
}


class TestModules:
    @pytest.mark.parametrize("module", MODULES, ids=lambda m: m.__name__)
    def test_calls_its_function_and_travels(self, module):
        z = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).double()
        options, function, call = MODULES[module]
        loss = module(**options)
        same(call(loss, z), function(z, **options))
        same(call(pickle.loads(pickle.dumps(loss)), z), function(z, **options))
        same(call(copy.deepcopy(loss), z), function(z, **options))
        needs = {losses.DistillationLoss, losses.InfoNCELoss}
        other = module(temperature=1.0) if module in needs else module()
        assert set(loss.state_dict()) == {
            k for k, v in options.items() if isinstance(v, torch.Tensor)
        }
        assert all(b.device.type == "meta" for b in loss.to("meta").buffers())
        assert isinstance(repr(other), str)

    def test_as_torch(self):
        z, w = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.rand(4)
        for name, target, options in (
            ("CrossEntropyLoss", CLASSES, {"weight": w, "label_smoothing": 0.1}),
            ("CrossEntropyLoss", CLASSES, {"ignore_index": 3, "reduction": "sum"}),
            ("BCEWithLogitsLoss", z.sigmoid(), {"pos_weight": w}),
            ("MultiLabelSoftMarginLoss", (z > 0).float(), {"weight": w}),
        ):
            if options.get("ignore_index") == 3:
                target = CLASSES.clamp(min=0)
            ours, theirs = getattr(losses, name)(**options), getattr(torch.nn, name)(**options)
            same(ours(z, target), theirs(z, target), rtol=2e-6)

    def test_scale_is_trained(self):
        z, scale = torch.eye(4), torch.nn.Parameter(torch.tensor(2.0))
        loss = losses.CrossEntropyLoss(scale=scale)
        step = torch.optim.SGD(loss.parameters(), lr=1.0)
        before = loss(z, torch.arange(4))
        before.backward()
        step.step()
        assert loss(z, torch.arange(4)) < before
        assert loss.scale is scale
        distilled = losses.DistillationLoss(temperature=torch.nn.Parameter(torch.tensor(2.0)))
        distilled(z, 2 * z).backward()
        assert distilled.temperature.grad.isfinite()

    def test_linear(self):
        x, y = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), CLASSES
        loss = losses.LinearCrossEntropyLoss(3, 4, bias=True, label_smoothing=0.1)
        wanted = cross_entropy(loss.linear(x), y, label_smoothing=0.1)
        same(loss(x, y), wanted, rtol=1e-6)
        assert set(loss.state_dict()) == {"linear.weight", "linear.bias"}
        same(pickle.loads(pickle.dumps(loss))(x, y), wanted, rtol=1e-6)
        assert loss.double()(x.double(), y).dtype == torch.float64
        embedding = torch.nn.Embedding(4, 3)
        tied = losses.LinearCrossEntropyLoss(3, 4, tied_weight=embedding.weight)
        tied(embedding(torch.tensor([1, 2])), torch.tensor([2, 3])).backward()
        assert embedding.weight.grad.abs().sum() > 0
        with pytest.raises(ValueError, match=r"tied_weight has shape \(4, 3\): expected \(3, 4\)"):
            losses.LinearCrossEntropyLoss(4, 3, tied_weight=embedding.weight)


class TestHalf:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_gradient_rounded_once(self, dtype):
        z = (8 * torch.randn(64, 4, generator=torch.Generator().manual_seed(0))).to(dtype)
        y = torch.arange(64) % 4
        soft = z.float().flip(0).softmax(1).to(dtype)
        for loss in (
            lambda z: cross_entropy(z, y, label_smoothing=0.1),
            lambda z: cross_entropy(z, y, torch.arange(4.0), reduction="sum"),
            lambda z: cross_entropy(z, soft.to(z.dtype), reduction="none", validate=False),
            lambda z: binary_cross_entropy_with_logits(z, soft.to(z.dtype)),
            lambda z: multilabel_soft_margin_loss(z, soft.to(z.dtype)),
            lambda z: focal_loss(z, y),
            lambda z: sigmoid_focal_loss(z, soft.to(z.dtype)),
            lambda z: generalized_cross_entropy(z, y),
            lambda z: symmetric_cross_entropy(z, y),
            lambda z: distillation_loss(z, soft.to(z.dtype), temperature=2.0),
        ):
            value, g = slope(loss, z)
            wide, wide_g = slope(loss, z.float())
            assert value.dtype == torch.float32
            assert g.dtype == dtype
            same(value, wide, rtol=1e-6)
            same(g.float(), wide_g, rtol=0.51 * torch.finfo(dtype).eps, atol=2.0**-25)

    def test_sum_beyond_the_integers_of_float16(self):
        z = torch.zeros(4096, 2, dtype=torch.float16)
        assert cross_entropy(z, torch.zeros(4096, dtype=torch.long)).item() == pytest.approx(
            math.log(2), rel=1e-3
        )


Z, Y = torch.zeros(2, 3), torch.tensor([0, 2])
BAD = [
    (
        cross_entropy,
        (Z, torch.tensor([0, 3])),
        {},
        r"target\[1\] = 3: expected a class from 0 to 2",
    ),
    (cross_entropy, (Z, torch.tensor([-1, 0])), {}, r"target\[0\] = -1"),
    (cross_entropy, (Z, torch.tensor([-100, 0])), {"ignore_index": -1}, r"target\[0\] = -100"),
    (cross_entropy, (Z, torch.tensor([0, 1, 2])), {}, r"target has shape \(3,\): expected \(2,\)"),
    (cross_entropy, (Z, torch.tensor([0.5, 1.0])), {}, r"target\[0\] = 0\.5: expected a class"),
    (cross_entropy, (Z, torch.tensor([0.0, nan])), {}, r"target\[1\] = nan: expected a class"),
    (cross_entropy, (Z, torch.ones(2, 2)), {}, r"float32: expected \(2, 3\) for prob"),
    (cross_entropy, (Z, torch.zeros(2, 3, dtype=torch.long)), {}, r"sum of target\[0\] = 0\.0"),
    (cross_entropy, (Z, torch.zeros(2, 2, dtype=torch.long)), {}, r"\(2, 2\): expected \(2,\)"),
    (cross_entropy, (Z, T([[0.5, 0.5, 0], [0.9, 0.9, 0]])), {}, r"the sum of target\[1\] = 1\.8"),
    (cross_entropy, (Z, T([[0.5, 0.5, 0], [-0.5, 1, 0.5]])), {}, r"target\[1, 0\] = -0\.5"),
    (cross_entropy, (Z, T([[0.5, 0.5, 0], [nan, 1, 0]])), {}, r"target\[1, 0\] = nan"),
    (cross_entropy, (Z, torch.full((2, 3), 1 / 3)), {"ignore_index": 1}, "ignore_index = 1"),
    (cross_entropy, (Z, Y, torch.ones(2)), {}, r"weight has shape \(2,\): expected \(3,\)"),
    (cross_entropy, (Z, Y, T([1, -1, 1])), {}, r"weight\[1\] = -1\.0"),
    (cross_entropy, (Z, Y, T([1, 1, inf])), {}, r"weight\[2\] = inf"),
    (cross_entropy, (Z, Y), {"label_smoothing": 1.5}, r"label_smoothing = 1\.5"),
    (cross_entropy, (Z, Y), {"label_smoothing": nan}, "label_smoothing = nan"),
    (cross_entropy, (Z, Y), {"reduction": "average"}, "reduction = 'average'"),
    (cross_entropy, (Z, Y), {"reduction": "batchmean"}, "reduction = 'batchmean'"),
    (cross_entropy, (Z, Y), {"mean_over": "sum"}, "mean_over = 'sum'"),
    (cross_entropy, (torch.tensor(1.0), torch.tensor(0)), {}, r"input has shape \(\)"),
    (cross_entropy, (torch.zeros(2, 0), Y), {}, r"input has shape \(2, 0\)"),
    (
        binary_cross_entropy_with_logits,
        (Z, Z[0]),
        {},
        r"target has shape \(3,\): expected .*\(2, 3\)",
    ),
    (binary_cross_entropy_with_logits, (Z, Z + 1.5), {}, r"target\[0, 0\] = 1\.5"),
    (binary_cross_entropy_with_logits, (Z, Z * nan), {}, r"target\[0, 0\] = nan"),
    (binary_cross_entropy_with_logits, (Z, Z, torch.ones(2)), {}, r"weight has shape \(2,\)"),
    (binary_cross_entropy_with_logits, (Z, Z, torch.ones(5, 2, 3)), {}, "weight has shape"),
    (binary_cross_entropy_with_logits, (Z, Z), {"pos_weight": T([1, -2, 1])}, r"pos_weight\[1\]"),
    (binary_cross_entropy_with_logits, (Z, Z), {"reduction": "x"}, "reduction = 'x'"),
    (multilabel_soft_margin_loss, (Z, Z - 1), {}, r"target\[0, 0\] = -1\.0"),
    (multilabel_soft_margin_loss, (Z[0, 0], Z[0, 0]), {}, r"input has shape \(\)"),
    (focal_loss, (Z, Y), {"gamma": -1}, "gamma = -1"),
    (focal_loss, (Z, Z), {}, r"\(2, 3\): expected \(2,\) for classes"),
    (focal_loss, (Z, Y, T([1, 1, -1])), {}, r"weight\[2\]"),
    (sigmoid_focal_loss, (Z, Z + 2), {}, r"targets\[0, 0\] = 2\.0"),
    (sigmoid_focal_loss, (Z, Z), {"alpha": 1.5}, r"alpha = 1\.5"),
    (sigmoid_focal_loss, (Z, Z), {"gamma": nan}, "gamma = nan"),
    (sigmoid_focal_loss, (Z, Y), {}, r"targets has shape \(2,\): expected that of inputs"),
    (generalized_cross_entropy, (Z, Y), {"q": 0}, "q = 0"),
    (generalized_cross_entropy, (Z, Y), {"q": 1.1}, r"q = 1\.1"),
    (symmetric_cross_entropy, (Z, Y), {"alpha": -1}, "alpha = -1"),
    (symmetric_cross_entropy, (Z, Y), {"log_zero": 0}, "log_zero = 0"),
    (distillation_loss, (Z, Z), {"temperature": 0}, "temperature = 0"),
    (distillation_loss, (Z, Z[0]), {"temperature": 1}, r"teacher_logits has shape \(3,\)"),
    (distillation_loss, (Z, Z * nan), {"temperature": 1}, r"teacher_logits\[0, 0\] = nan"),
    (distillation_loss, (Z, Z), {"temperature": 1, "reduction": "x"}, "reduction = 'x'"),
    (distillation_loss, (Z[None], Z[None]), {"temperature": 1}, "axis = None: expected the axis"),
    (
        distillation_loss,
        (Z, Z),
        {"temperature": 1, "mask": torch.ones(3, dtype=torch.bool)},
        r"mask has shape \(3,\): expected \(2,\)",
    ),
    (cross_entropy, (Z, Y), {"sample_weight": torch.ones(3)}, r"sample_weight has shape \(3,\)"),
    (cross_entropy, (Z, Y), {"sample_weight": T([1, -1])}, r"sample_weight\[1\] = -1\.0"),
    (cross_entropy, (Z, Y), {"scale": 0}, "scale = 0: expected positive and finite"),
    (cross_entropy, (Z, Y), {"scale": T(-1.0)}, "scale = -1.0: expected positive and finite"),
    (cross_entropy, (Z, Y), {"scale": 10**400}, "scale has 1329 bits: expected positive and fin"),
    (cross_entropy, (Z, Y), {"z_loss": 10**400}, "z_loss has 1329 bits: expected a finite numb"),
    (cross_entropy, (Z, Y), {"scale": torch.ones(2)}, r"scale has shape \(2,\): expected one"),
    *(
        (loss, data, {name: torch.tensor(0.5, requires_grad=True)}, f"{name} requires grad")
        for loss, data, name in [
            (cross_entropy, (Z, Y), "softcap"),
            (cross_entropy, (Z, Y), "label_smoothing"),
            (cross_entropy, (Z, Y), "z_loss"),
            (focal_loss, (Z, Y), "gamma"),
            (sigmoid_focal_loss, (Z, Z), "gamma"),
            (sigmoid_focal_loss, (Z, Z), "alpha"),
            (generalized_cross_entropy, (Z, Y), "q"),
            (symmetric_cross_entropy, (Z, Y), "beta"),
        ]
    ),
    (cross_entropy, (Z, Y.to("meta")), {}, "target is on meta: expected cpu, where input is"),
    (
        binary_cross_entropy_with_logits,
        (Z, Z),
        {"pos_weight": torch.ones(3, device="meta")},
        "pos_weight is on meta: expected cpu",
    ),
]


class TestErrors:
    @pytest.mark.parametrize(("loss", "data", "options", "message"), BAD)
    def test_value_error(self, loss, data, options, message):
        with pytest.raises(ValueError, match=message):
            loss(*data, **options)

    @pytest.mark.parametrize(
        ("data", "options", "message"),
        [
            ((Z.cfloat(), Y), {}, "input has dtype torch.complex64: expected real numbers"),
            ((Z, Y.cfloat()), {}, "target has dtype torch.complex64"),
            ((None, Y), {}, "input has dtype object: expected real numbers"),
            ((Z, None), {}, "target has dtype object: expected real numbers"),
            ((Z, ["a", "b"]), {}, "target has dtype <U1: expected real numbers"),
            ((Z.to_sparse(), Y), {}, "input is of type Tensor: expected a dense tensor"),
            ((Z, Y, "balanced"), {}, "weight has dtype <U8: expected real numbers"),
            ((Z, Y), {"ignore_index": None}, "ignore_index is of type NoneType: expected an int"),
            ((Z, Y), {"ignore_index": 1.5}, "ignore_index is of type float: expected an integer"),
            ((Z, Y), {"label_smoothing": "0.1"}, "label_smoothing is of type str: expected a num"),
            ((Z, Y), {"z_loss": None}, "z_loss is of type NoneType: expected a finite number"),
        ],
    )
    def test_type_error(self, data, options, message):
        with pytest.raises(TypeError, match=message):
            cross_entropy(*data, **options)

    def test_checks_can_be_left_out(self):
        off = {"validate": False, "reduction": "none"}
        same(
            cross_entropy(Z, torch.full((2, 3), 2.0), **off),
            T([6, 6]).float() * math.log(3),
            rtol=1e-6,
        )
        assert cross_entropy(Z, torch.tensor([0, 3]), **off).isnan().tolist() == [False, True]
        assert binary_cross_entropy_with_logits(Z, Z + 2, **off).isfinite().all()


MODULES_THAT_READ = [
    importlib.import_module(f"celib.{name}") for name in ("arguments.arrays", "arguments.tensors")
]
CALLS = {
    "index": lambda z, y, q: cross_entropy(z, y, torch.ones_like(z[0]), label_smoothing=0.1),
    "soft": lambda z, y, q: cross_entropy(z, q, label_smoothing=0.1),
    "binary": lambda z, y, q: binary_cross_entropy_with_logits(z, q, q[0], pos_weight=q[0]),
    "multilabel": lambda z, y, q: multilabel_soft_margin_loss(z, q),
    "focal": lambda z, y, q: focal_loss(z, y, torch.ones_like(z[0])),
    "sigmoid focal": lambda z, y, q: sigmoid_focal_loss(z, q, reduction="mean"),
    "generalized": lambda z, y, q: generalized_cross_entropy(z, y),
    "symmetric": lambda z, y, q: symmetric_cross_entropy(z, y),
    "distillation": lambda z, y, q: distillation_loss(z, q, temperature=2.0),
}


class TestOtherDevices:
    @pytest.mark.parametrize("name", CALLS)
    def test_nothing_waits(self, name):
        # A tensor on the meta device has no values: whatever asks for one raises.
        z = torch.empty(5, 3, device="meta", requires_grad=True)
        y = torch.empty(5, device="meta", dtype=torch.long)
        q = torch.empty(5, 3, device="meta")
        loss = CALLS[name](z, y, q)
        assert loss.shape == ()
        assert grad(loss, z)[0].shape == z.shape

    @pytest.mark.parametrize(
        ("loss", "bad"),
        [
            (cross_entropy, torch.tensor([0, 3, 1])),
            (cross_entropy, torch.tensor([0, -1, 1])),
            (focal_loss, torch.tensor([0, 3, 1])),
            (generalized_cross_entropy, torch.tensor([0, 3, 1])),
            (symmetric_cross_entropy, torch.tensor([0, 3, 1])),
            (cross_entropy, T([[1, 0, 0], [0.9, 0.9, 0], [0, 1, 0]])),
            (cross_entropy, T([[1, 0, 0], [-0.5, 1.5, 0], [0, 1, 0]])),
            (cross_entropy, T([[1, 0, 0], [nan, 1, 0], [0, 1, 0]])),
            (multilabel_soft_margin_loss, T([[1, 0, 0], [0, 2, 0], [0, 1, 0]])),
        ],
    )
    def test_bad_row_is_poisoned(self, loss, bad, monkeypatch):
        # What a GPU would do, on the CPU: nothing can be read, so that nothing can be raised.
        for module in MODULES_THAT_READ:
            monkeypatch.setattr(module, "readable", lambda _: False)
        z = torch.randn(3, 3, generator=torch.Generator().manual_seed(0)).double()
        value, g = slope(lambda z: loss(z, bad, reduction="none"), z)
        assert value.isnan().tolist() == [False, True, False]
        assert g.isnan().any(1).tolist() == [False, True, False]
        good = bad.clone()
        good[1] = good[0]
        wanted, wanted_g = slope(lambda z: loss(z, good, reduction="none"), z)
        assert torch.equal(value[[0, 2]], wanted[[0, 2]])
        assert torch.equal(g[[0, 2]], wanted_g[[0, 2]])
        mean, mean_g = slope(lambda z: loss(z, bad), z)
        assert mean.isnan()
        assert mean_g[[0, 2]].isfinite().all()


def test_all_is_public():
    assert set(losses.__all__) == {n for n in dir(losses) if callable(getattr(losses, n))}
