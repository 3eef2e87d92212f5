"""The losses of a sigmoid in one pass with their gradient: celib.kernels.binary, and its loops.

Against 50 digits of mpmath, and against the same losses as operations of torch in float64, which
tests/test_losses.py measures.
"""

import importlib
import importlib.util
import itertools
import math
from functools import partial

import mpmath as mp
import numpy as np
import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.autograd import grad
from torch.utils.checkpoint import checkpoint

import celib.losses.binary as module
from celib.kernels.binary import Given, Options
from celib.losses import (
    binary_cross_entropy_with_logits,
    multilabel_soft_margin_loss,
    sigmoid_focal_loss,
)
from celib.testing import ulp_error

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("numba") is None, reason="numba is not installed"
)

inf, nan = math.inf, math.nan
EPS = 2.0**-23
REDUCTIONS = ("none", "mean", "sum")
focal = partial(sigmoid_focal_loss, reduction="mean")
LOSSES = {
    "binary": binary_cross_entropy_with_logits,
    "multilabel": multilabel_soft_margin_loss,
    "focal": focal,
    "focal, gamma 0": partial(focal, gamma=0),
    "focal, gamma 0.3": partial(focal, gamma=0.3, alpha=-1),
    "focal, gamma 1": partial(focal, gamma=1, alpha=0),
    "focal, gamma 2.5": partial(focal, gamma=2.5),
}


@pytest.fixture(autouse=True)
def one_pass(monkeypatch):
    """Whether each call was computed in one pass."""
    found, inner = [], module.in_one_pass

    def spy(*args):
        result = inner(*args)
        found.append(result is not None)
        return result

    monkeypatch.setattr(module, "in_one_pass", spy)
    return found


@pytest.fixture
def reference(monkeypatch):
    """Call a loss, by operations of torch, on float64 copies of its tensors."""

    def call(loss, *tensors, **options):
        def double(a):
            return a.detach().double() if isinstance(a, torch.Tensor) else a

        x, *others = map(double, tensors)
        x.requires_grad_()
        value = loss(x, *others, **{name: double(a) for name, a in options.items()})
        return value, partial(grad, value, x)

    return call


def numbers(*shape, seed=0, size=4.0, dtype=torch.float32):
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return (size * values).to(dtype)


def targets(*shape, seed=1, soft=False, dtype=torch.float32):
    values = torch.rand(*shape, generator=torch.Generator().manual_seed(seed))
    return values.to(dtype) if soft else (values < 0.3).to(dtype)


def with_gradient(loss, x, *args, g=None, **options):
    x = x.detach().requires_grad_()
    value = loss(x, *args, **options)
    assert value.grad_fn.name() == "_LossBackward"
    g = torch.ones_like(value) if g is None else g
    return value.detach(), grad(value, x, g)[0]


def close(found, wanted, units=8.0, dtype=torch.float32):
    """Equal but for some roundings: relative ones, and those of terms of 1 that cancel."""
    rounding = torch.finfo(dtype).eps
    wanted = wanted.detach()
    torch.testing.assert_close(
        *(found.double(), wanted.double()), rtol=units * rounding, atol=units * EPS / 4
    )


# Logits of float32 where the loss, or the loss of the opposite target, is from 1 down to the
# smallest of subnormal numbers, and below it.
LOGITS = np.concatenate(
    [
        *(np.linspace(-104, 104, 417), np.linspace(85, 104, 191), -np.linspace(85, 104, 191)),
        *([0.0, 1e-30, -1e-30, 1e-5, 1000.0, -1000.0], np.geomspace(1e-8, 100, 101)),
    ]
).astype(np.float32)


def softplus(x):
    return mp.log1p(mp.exp(x))


def sigmoid(x):
    return 1 / (1 + mp.exp(-x))


class TestAccuracy:
    """In ulps of float32."""

    @pytest.mark.parametrize("y", [0.0, 1.0])
    def test_cross_entropy(self, y):
        x = torch.from_numpy(LOGITS)
        options = {"reduction": "none", "pos_weight": torch.tensor(2.0)}
        loss, g = with_gradient(
            binary_cross_entropy_with_logits, x, torch.full_like(x, y), **options
        )
        with mp.workdps(100):
            z = [mp.mpf(float(a)) for a in LOGITS]
            if y:
                wanted, slope = [2 * softplus(-a) for a in z], [-2 * sigmoid(-a) for a in z]
            else:
                wanted, slope = [softplus(a) for a in z], [sigmoid(a) for a in z]
            assert ulp_error(loss.numpy(), wanted).max() <= 3
            assert ulp_error(g.numpy(), slope).max() <= 3
        # Down to the last of the subnormal numbers, nothing is lost.
        assert (loss > 0).all() == ((x if y else -x) < 103.97).all()

    @pytest.mark.parametrize("y", [0.0, 1.0])
    @pytest.mark.parametrize("gamma", [0, 0.3, 0.5, 1, 2, 2.5, 5])
    def test_focal(self, y, gamma):
        x = torch.from_numpy(LOGITS)
        loss, g = with_gradient(sigmoid_focal_loss, x, torch.full_like(x, y), -1, gamma)
        with mp.workdps(100):
            sign = -1 if y else 1
            u = [sign * mp.mpf(float(a)) for a in LOGITS]
            r = [sigmoid(a) for a in u]
            wanted = [a**gamma * softplus(b) for a, b in zip(r, u, strict=True)]
            slope = [
                sign * a**gamma * (a + gamma * softplus(b) * (1 - a))
                for a, b in zip(r, u, strict=True)
            ]
            # The square root of a subnormal number has as few digits as it.
            whole = np.array([a >= 2.0**-126 for a in r])
            units = 3 + 3 * gamma
            assert ulp_error(loss.numpy(), wanted)[whole].max() <= units
            assert ulp_error(g.numpy(), slope)[whole].max() <= units
        assert loss[~torch.from_numpy(whole)].max() <= 2e-38

    @pytest.mark.parametrize("y", [0.1, 0.5, 1 - 2.0**-24])
    def test_soft(self, y):
        x, y = torch.from_numpy(LOGITS), float(np.float32(y))
        target = torch.full_like(x, y)
        loss, g = with_gradient(binary_cross_entropy_with_logits, x, target, reduction="none")
        with mp.workdps(100):
            z = [mp.mpf(float(a)) for a in LOGITS]
            wanted = [y * softplus(-a) + (1 - y) * softplus(a) for a in z]
            assert ulp_error(loss.numpy(), wanted).max() <= 4
            error = [abs(mp.mpf(b) - (sigmoid(a) - y)) for a, b in zip(z, g.tolist(), strict=True)]
            assert max(error) <= EPS

    def test_mean_of_many(self):
        x, y = numbers(1000, 1000), targets(1000, 1000)
        exact = torch.nn.functional.binary_cross_entropy_with_logits(x.double(), y.double())
        assert binary_cross_entropy_with_logits(x, y).item() == pytest.approx(exact, rel=2 * EPS)


class TestSpecialValues:
    def test_infinite_logits(self):
        x = torch.tensor([inf, -inf, inf, -inf, inf, -inf])
        y = torch.tensor([1, 0, 0, 1, 0.5, 0.5])
        loss, g = with_gradient(binary_cross_entropy_with_logits, x, y, reduction="none")
        assert loss.tolist() == [0, 0, inf, inf, inf, inf]
        assert g.tolist() == [0, 0, 1, -1, 0.5, -0.5]
        for gamma in (0, 0.5, 1, 2):
            loss, g = with_gradient(sigmoid_focal_loss, x[:4], y[:4], -1, gamma)
            assert loss.tolist() == [0, 0, inf, inf]
            assert g.tolist() == [0, 0, 1, -1]

    @pytest.mark.parametrize("name", ["weight", "sample_weight"])
    def test_0_times_infinity(self, name):
        x, y = torch.tensor([inf, -inf, 1.0]), torch.tensor([0.0, 1.0, 1.0])
        options = {name: torch.tensor([0.0, 0.0, 2.0])}
        loss, g = with_gradient(binary_cross_entropy_with_logits, x, y, reduction="none", **options)
        assert loss.tolist() == [0, 0, pytest.approx(2 * math.log1p(math.exp(-1)))]
        assert g[:2].tolist() == [0, 0]
        weight = torch.zeros(())
        assert binary_cross_entropy_with_logits(x[1:2], y[1:2], pos_weight=weight) == 0
        assert sigmoid_focal_loss(x[1], y[1], alpha=0) == 0

    @pytest.mark.parametrize("name", LOSSES)
    def test_nan_stays(self, name):
        x, y = torch.tensor([[nan, 1.0]]), torch.tensor([[1.0, 0.0]])
        loss, g = with_gradient(LOSSES[name], x, y)
        assert loss.isnan()
        assert g.isnan().tolist() == [[True, False]]
        loss, g = with_gradient(LOSSES[name], x.nan_to_num(), y * nan, validate=False)
        assert loss.isnan()


LAYOUTS = {
    "contiguous": lambda a: a,
    "transposed": lambda a: a.t().contiguous().t(),
    "strided": lambda a: a.repeat_interleave(2, 1)[:, ::2],
    "rows apart": lambda a: torch.stack((a, -a), 1)[:, 0],
    "expanded": lambda a: a[:1].expand_as(a),
}
WEIGHTS = {
    "none": lambda n, c: None,
    "one": lambda n, c: targets(1, soft=True, seed=5)[0],
    "per class": lambda n, c: targets(c, soft=True, seed=5) * 3,
    "per row": lambda n, c: targets(n, 1, soft=True, seed=5),
    "full": lambda n, c: targets(n, c, soft=True, seed=5),
    "float64": lambda n, c: targets(n, c, soft=True, seed=5).double(),
    "integers": lambda n, c: torch.arange(c) % 3,
}


class TestSameAsReference:
    @pytest.mark.parametrize("reduction", REDUCTIONS)
    @pytest.mark.parametrize(
        ("name", "dtype", "of_target"),
        [
            *((name, torch.float32, torch.float32) for name in LOSSES),
            ("binary", torch.bfloat16, torch.bfloat16),
            ("multilabel", torch.bfloat16, torch.bfloat16),
            ("focal", torch.bfloat16, torch.bfloat16),
            ("binary", torch.float16, torch.float16),
            ("binary", torch.float32, torch.int64),
            ("multilabel", torch.float32, torch.bool),
        ],
    )
    def test_dtypes(self, name, reduction, dtype, of_target, reference):
        soft = of_target == dtype
        x = numbers(7, 1500, dtype=dtype)
        y = targets(7, 1500, soft=soft, dtype=of_target)
        loss = partial(LOSSES[name], reduction=reduction)
        wanted, slope = reference(loss, x, y)
        g = numbers(*wanted.shape, seed=2) if reduction == "none" else None
        value, found = with_gradient(loss, x, y, g=g)
        assert value.dtype == torch.float32
        assert found.dtype == dtype
        close(value, wanted, 10)
        close(found, slope(torch.ones_like(wanted) if g is None else g.double())[0], 10, dtype)

    @pytest.mark.parametrize(
        ("layout", "of_target"),
        [(a, b) for a in LAYOUTS for b in LAYOUTS if "contiguous" in (a, b) or a == b],
    )
    def test_layouts(self, layout, of_target, reference):
        x, y = LAYOUTS[layout](numbers(5, 70)), LAYOUTS[of_target](targets(5, 70))
        for loss, reduction in itertools.product(
            (binary_cross_entropy_with_logits, multilabel_soft_margin_loss, sigmoid_focal_loss),
            REDUCTIONS,
        ):
            wanted, slope = reference(loss, x, y, reduction=reduction)
            g = None if reduction != "none" else numbers(*wanted.shape, seed=2)
            value, found = with_gradient(loss, x, y, reduction=reduction, g=g)
            close(value, wanted)
            close(found, slope(torch.ones_like(wanted) if g is None else g.double())[0], 16)

    @pytest.mark.parametrize("shape", [(3, 1500), (2, 700, 3)])
    @pytest.mark.parametrize(
        ("weight", "pos_weight"),
        [*((w, "none") for w in WEIGHTS), ("none", "full"), ("per class",) * 2],
    )
    def test_weights(self, shape, weight, pos_weight, reference):
        x, y = numbers(*shape), targets(*shape, soft=True)
        n, c = math.prod(shape[:-1]), shape[-1]
        w, v = WEIGHTS[weight](n, c), WEIGHTS[pos_weight](n, c)
        w = w.view(*shape[:-1], -1) if w is not None and w.ndim == 2 else w
        v = v.view(shape) if v is not None and v.ndim == 2 else v
        of_elements = targets(*shape, soft=True, seed=6)
        of_rows = of_elements[..., 0]
        for reduction, each in itertools.product(REDUCTIONS, (False, True)):
            for loss, options in (
                (
                    binary_cross_entropy_with_logits,
                    {"pos_weight": v, "sample_weight": of_elements if each else None},
                ),
                (multilabel_soft_margin_loss, {"sample_weight": of_rows if each else None}),
            ):
                options |= {"weight": w, "reduction": reduction}
                wanted, slope = reference(loss, x, y, **options)
                g = None if reduction != "none" else numbers(*wanted.shape, seed=2)
                value, found = with_gradient(loss, x, y, g=g, **options)
                close(value, wanted, 16)
                g = torch.ones_like(wanted) if g is None else g.double()
                close(found, slope(g)[0], 16)

    @pytest.mark.parametrize("name", LOSSES)
    def test_other_shapes(self, name, reference):
        loss = LOSSES[name]
        for shape in ((1,), (3,), (1, 1), (2, 1), (4, 1, 3)):
            wanted, slope = reference(loss, numbers(*shape), targets(*shape))
            value, found = with_gradient(loss, numbers(*shape), targets(*shape))
            close(value, wanted)
            close(found, slope()[0])
        if name != "multilabel":
            value, found = with_gradient(loss, torch.tensor(-1.0), torch.tensor(0.0))
            wanted, slope = reference(loss, torch.tensor(-1.0), torch.tensor(0.0))
            close(value, wanted)
            close(found, slope()[0])
        assert loss(torch.empty(0, 3), torch.empty(0, 3)).isnan()
        assert loss(torch.empty(0, 3), torch.empty(0, 3), reduction="sum") == 0

    def test_arrays_and_parameters(self, one_pass):
        x, y = numbers(4, 5), targets(4, 5)
        wanted = binary_cross_entropy_with_logits(x, y).item()
        assert binary_cross_entropy_with_logits(x.numpy(), y.numpy()) == wanted
        parameter = torch.nn.Parameter(x)
        assert binary_cross_entropy_with_logits(parameter, y).item() == wanted
        assert one_pass == [True, False, True, True]

    def test_without_numba(self, monkeypatch):
        x, y = numbers(4, 5), targets(4, 5)
        wanted = with_gradient(binary_cross_entropy_with_logits, x, y)
        monkeypatch.setattr("celib.kernels.binary.installed", lambda *_: None)
        x.requires_grad_()
        loss = binary_cross_entropy_with_logits(x, y)
        close(loss, wanted[0])
        close(grad(loss, x)[0], wanted[1])

    def test_what_keeps_the_other_path(self, one_pass):
        x, y = numbers(4, 5).requires_grad_(), targets(4, 5)
        loss = binary_cross_entropy_with_logits
        loss(x.double(), y)
        loss(x, y.double())
        loss(x, y.clone().requires_grad_())
        loss(x, y, torch.ones(5).requires_grad_())
        for unusual in (torch.ones(4, 1), torch.ones(2, 1, 5)):
            loss(x.expand(2, 4, 5), y.expand(2, 4, 5), unusual)
        torch.func.vmap(loss)(x, y)
        torch.func.grad(lambda x: loss(x, y))(x)
        with torch.autograd.forward_ad.dual_level():
            loss(x, y)
        loss(x.to("meta"), y.to("meta"))
        with FakeTensorMode(allow_non_fake_inputs=True):
            loss(x, y)
        assert not any(one_pass)
        # The values of a negated view are not those in memory. They are written out first.
        close(loss(torch._neg_view(x), y), loss((-x).double(), y))
        assert one_pass.count(True) == 1


class TestBackward:
    @pytest.mark.parametrize("name", ["binary", "multilabel", "focal, gamma 0.3"])
    @pytest.mark.parametrize("reduction", REDUCTIONS)
    @pytest.mark.parametrize("factor", [1.0, 0.5, -1.0, 1024.0, 0.0])
    def test_factor(self, name, reduction, factor, reference):
        x, y = numbers(6, 40), targets(6, 40, soft=True)
        loss = partial(LOSSES[name], reduction=reduction)
        wanted, slope = reference(loss, x, y)
        _, found = with_gradient(loss, x, y, g=torch.full(wanted.shape, factor))
        close(found, slope(torch.full_like(wanted, factor))[0], 8 * max(1, abs(factor)))
        # As of a sum: the derivative is one number, seen from all places.
        _, again = with_gradient(
            lambda *a: loss(*a), x, y, g=torch.tensor(factor).expand_as(wanted)
        )
        close(again, found.double(), 8 * max(1, abs(factor)))

    def test_small_derivatives_are_not_lost(self):
        # The mean of many has derivatives below the normal numbers; a scale brings them back.
        x = torch.full((1000,), 87.0)
        _, g = with_gradient(
            binary_cross_entropy_with_logits, x, torch.ones(1000), g=torch.tensor(1000.0)
        )
        assert g[0].item() == pytest.approx(-math.exp(-87), rel=4 * EPS, abs=0)
        _, g = with_gradient(
            *(binary_cross_entropy_with_logits, x.half() / 8, torch.ones(1000).half()),
            g=torch.tensor(2.0**16),
        )
        wanted = torch.tensor(-65.536 / (1 + math.exp(87 / 8))).half()
        assert g[0] == wanted

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("factor", [1.0, 0.5])
    def test_twice(self, dtype, factor):
        x, y = numbers(8, 9, dtype=dtype).requires_grad_(), targets(8, 9, dtype=dtype)
        loss = factor * binary_cross_entropy_with_logits(x, y)
        (first,) = grad(loss, x, retain_graph=True)
        kept = first.clone()
        first.zero_()  # it belongs to whoever asked for it
        loss.backward(retain_graph=True)
        assert x.grad.equal(kept)
        loss.backward()
        assert x.grad.equal(kept + kept)
        with pytest.raises(RuntimeError, match="second time"):
            loss.backward()

    def test_added_to_what_is_there(self):
        x, y = numbers(8, 9).requires_grad_(), targets(8, 9)
        for _ in range(3):
            binary_cross_entropy_with_logits(x, y, reduction="sum").backward()
        _, one = with_gradient(binary_cross_entropy_with_logits, x, y, reduction="sum")
        assert x.grad.equal(one + one + one)

    @pytest.mark.parametrize("name", LOSSES)
    @pytest.mark.parametrize("reduction", REDUCTIONS)
    def test_derivative_of_the_derivative(self, name, reduction, reference):
        x, y = numbers(3, 5, size=1.0), targets(3, 5, soft=True)
        loss = partial(LOSSES[name], reduction=reduction)
        found = []
        for dtype in (torch.float32, torch.float64):
            z = x.to(dtype).requires_grad_()
            (first,) = grad(loss(z, y.to(dtype)).sum(), z, create_graph=True)
            found.append((first, grad(first.square().sum(), z)[0]))
        (first, second), (wanted, curve) = found
        close(first, wanted, 8)
        close(second, curve, 16)

    def test_several_at_a_time(self):
        x, y = numbers(4, 3).requires_grad_(), targets(4, 3)
        for name, reduction in itertools.product(("binary", "multilabel"), REDUCTIONS):
            loss = LOSSES[name](x, y, reduction=reduction)
            g = numbers(5, *loss.shape, seed=3)
            together = grad(loss, x, g, is_grads_batched=True, retain_graph=True)[0]
            for k in range(5):
                close(together[k], grad(loss, x, g[k], retain_graph=True)[0])

    def test_checkpoint_and_hooks(self):
        x, y = numbers(4, 3).requires_grad_(), targets(4, 3)
        (wanted,) = grad(binary_cross_entropy_with_logits(x, y), x)
        again = checkpoint(binary_cross_entropy_with_logits, x, y, use_reentrant=False)
        assert grad(again, x)[0].equal(wanted)
        with torch.autograd.graph.save_on_cpu():
            loss = 3 * binary_cross_entropy_with_logits(x, y)
        close(grad(loss, x)[0], 3 * wanted)

    def test_no_gradient(self):
        x, y = numbers(4, 3), targets(4, 3)
        wanted, _ = with_gradient(binary_cross_entropy_with_logits, x, y)
        x.requires_grad_()
        with torch.no_grad():
            assert binary_cross_entropy_with_logits(x, y) == wanted
        with torch.inference_mode():
            assert binary_cross_entropy_with_logits(x, y) == wanted


class TestChecks:
    """Nothing wrong comes through, and it is refused in the words of the other path."""

    @pytest.mark.parametrize("bad", [nan, 5.0, -0.5, inf, -inf])
    @pytest.mark.parametrize("place", [0, 16_383, 16_384, -1])
    @pytest.mark.parametrize("name", ["binary", "multilabel", "focal"])
    def test_target(self, name, bad, place):
        x, y = numbers(70, 1001), targets(70, 1001)
        y.view(-1)[place] = bad
        index = np.unravel_index(place % y.numel(), y.shape)
        argument = "targets" if name == "focal" else "target"
        message = rf"{argument}\[{index[0]}, {index[1]}\] = {bad}: expected a probability in "
        with pytest.raises(ValueError, match=message):
            LOSSES[name](x, y)
        with pytest.raises(ValueError, match=message):
            LOSSES[name](x.to(torch.bfloat16), y.to(torch.bfloat16))

    @pytest.mark.parametrize("bad", [2, -1])
    def test_label(self, bad):
        y = torch.ones(70, 1001, dtype=torch.int64)
        y[-1, -1] = bad
        with pytest.raises(ValueError, match=r"target\[69, 1000\] = "):
            binary_cross_entropy_with_logits(numbers(70, 1001), y)

    @pytest.mark.parametrize("bad", [nan, inf, -0.5])
    @pytest.mark.parametrize("name", ["weight", "pos_weight", "sample_weight"])
    @pytest.mark.parametrize("shape", [(70, 1001), (1001,), (70, 1), (1,)])
    def test_weight(self, name, bad, shape):
        if name == "sample_weight" and shape != (70, 1001):
            return
        w = torch.ones(shape)
        w.view(-1)[-1] = bad
        with pytest.raises(ValueError, match=rf"{name}\[.*\] = {bad}: expected a finite number"):
            binary_cross_entropy_with_logits(
                numbers(70, 1001), targets(70, 1001), reduction="sum", **{name: w}
            )

    def test_within_the_tolerance(self, one_pass):
        x, y = numbers(10), targets(10)
        y[0], y[1] = -(2.0**-18), 1 + 2.0**-18
        for name in ("binary", "focal"):
            loss, g = with_gradient(LOSSES[name], x, y)
            close(loss, LOSSES[name](x.double(), y.double()), 64)
        z = x.requires_grad_()
        (g,) = grad(focal(z, y), z)
        (wanted,) = grad(focal(z, y.clamp(0, 1)), z)
        assert g.equal(wanted)  # a negative target has no power

    def test_not_checked(self):
        x, y = torch.tensor([1.0]), torch.tensor([5.0])
        loss = binary_cross_entropy_with_logits(x, y, validate=False)
        assert loss.item() == pytest.approx(5 * math.log1p(math.exp(-1)) - 4 * math.log1p(math.e))

    def test_a_mean_over_nothing(self):
        x, y = numbers(4).requires_grad_(), targets(4)
        loss = binary_cross_entropy_with_logits(x, y, sample_weight=torch.zeros(4))
        assert loss.isnan()
        assert grad(loss, x)[0].count_nonzero() == 0


class TestBits:
    @pytest.fixture(autouse=True)
    def threads(self):
        before = torch.get_num_threads()
        yield
        torch.set_num_threads(before)

    @pytest.mark.parametrize("name", ["binary", "multilabel", "focal, gamma 2.5"])
    @pytest.mark.parametrize("shape", [(313, 1001), (40_000, 7)])
    def test_any_number_of_threads(self, name, shape):
        x, y = numbers(*shape), targets(*shape, soft=True)
        w = targets(shape[-1], seed=4, soft=True)
        options = {} if "focal" in name else {"weight": w}
        for reduction in REDUCTIONS:
            found = []
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                found.append(with_gradient(LOSSES[name], x, y, reduction=reduction, **options))
            for value, g in found[1:]:
                assert value.equal(found[0][0])
                assert g.equal(found[0][1])

    def test_sum_in_float64(self):
        # Before it is rounded to float32, which hides in which order it was added.
        x, y, w = numbers(313, 1001), targets(313, 1001), targets(1001, soft=True)
        loops = importlib.import_module("celib.kernels.binary_numba")
        loop, found = loops.of(x.dtype, y.dtype), set()
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            given = Given(x, y, w)
            found.add(loops.run(loop, given, Options("sum"), 1.0, None, None, None, True))
        assert len(found) == 1

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_is_rounded_once(self, dtype):
        x, y = numbers(3, 2000, dtype=dtype, size=8.0), targets(3, 2000, dtype=dtype)
        for name, reduction in itertools.product(("binary", "multilabel", "focal"), REDUCTIONS):
            loss = partial(LOSSES[name], reduction=reduction)
            value, g = with_gradient(loss, x, y)
            wide, wanted = with_gradient(loss, x.float(), y.float())
            assert value.equal(wide)
            assert g.equal(wanted.to(dtype))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_is_rounded_once_for_other_derivatives(self, dtype, reference):
        x, y = numbers(3, 200, dtype=dtype, size=2.0), targets(3, 200, dtype=dtype)
        loss = partial(binary_cross_entropy_with_logits, reduction="sum")
        for factor in (0.3, 3.0):
            exact = factor * reference(loss, x, y)[1]()[0]
            _, g = with_gradient(loss, x, y, g=torch.tensor(factor))
            spacing = torch.finfo(dtype).eps * 2.0 ** exact.abs().log2().floor()
            assert ((g.double() - exact).abs() <= 0.502 * spacing)[exact.abs() > 2.0**-14].all()

    def test_large_gradients_are_stored_past_the_caches(self, monkeypatch):
        numba = pytest.importorskip("celib.kernels.binary_numba")
        for dtype in (torch.float32, torch.bfloat16):
            x, y = numbers(33, 2011, dtype=dtype), targets(33, 2011, dtype=dtype)
            weight = targets(2011, soft=True)
            wanted = with_gradient(binary_cross_entropy_with_logits, x, y, weight)
            with monkeypatch.context() as patch:
                patch.setattr(numba, "STREAM", 0)
                found = with_gradient(binary_cross_entropy_with_logits, x, y, weight)
            assert found[0].equal(wanted[0])
            assert found[1].equal(wanted[1])
