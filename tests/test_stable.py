"""celib.stable against 50 digits, on the inputs where others fail."""

import math
from contextlib import contextmanager
from functools import partial

import mpmath as mp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from celib import stable
from celib.stable import expit, log1mexp, log1pexp, log_softmax, logit, logsumexp, softmax
from celib.testing import nasty_logits, oracle, ulp_error

inf, nan = math.inf, math.nan
U = 2.0**-53

check = settings(derandomize=True, deadline=None, max_examples=100)
logits = arrays(
    np.float64,
    st.integers(1, 12),
    elements=st.one_of(st.floats(-50, 50), st.floats(-1e4, 1e4), st.floats(-1e9, 1e9)),
)
both = pytest.mark.parametrize(
    "array", [np.asarray, partial(torch.asarray, dtype=torch.float64)], ids=["numpy", "torch"]
)
grad_input = partial(torch.tensor, dtype=torch.float64, requires_grad=True)


def random_rows():
    rng = np.random.default_rng(0)
    for _ in range(15):
        yield rng.normal(size=10)
        yield 30 * rng.normal(size=10)
        yield np.r_[rng.normal(), -rng.uniform(30, 45, 5)]
        yield np.log(rng.dirichlet(np.ones(10)))
        yield 1e8 + rng.normal(size=10)
        yield -1e4 + rng.normal(size=50)
        yield rng.uniform(-745, 0, 20)
    yield rng.normal(size=1000)


rows = [pytest.param(np.array(x), id=name) for name, x in nasty_logits().items()]


def mean_shift(x, log_weights):
    """Softmax-weighted distance from the largest: how rounding x - max(x) enters a sum."""
    return float(
        mp.fsum(mp.exp(w) * mp.mpf(x.max() - t) for w, t in zip(log_weights, x, strict=True))
    )


def assert_lse(actual, x):
    reference = oracle("logsumexp", x)
    absolute = float(abs(mp.mpf(float(actual)) - reference))
    assert ulp_error(actual, reference) <= 2 or absolute <= 2 * U * max(1, np.abs(x).max())


def assert_softmax(actual, x):
    bound = U * (len(x) / 8 + 8 + 2 * mp.mpf(np.ptp(x)))
    for found, want in zip(actual, oracle("softmax", x), strict=True):
        assert abs(mp.mpf(float(found)) - want) <= bound * want + 2.0**-1022 * 2 * U


def assert_log_softmax(actual, x):
    reference = oracle("log_softmax", x)
    shift = mean_shift(x, reference)
    for found, want, t in zip(actual, reference, x.max() - x, strict=True):
        unit = np.spacing(abs(float(want)))
        assert abs(mp.mpf(float(found)) - want) <= 4 * unit + 2 * U * (t + shift)


class TestAccuracy:
    @both
    @pytest.mark.parametrize("x", rows)
    def test_nasty(self, x, array):
        assert_lse(logsumexp(array(x)), x)
        assert_softmax(softmax(array(x)), x)
        assert_log_softmax(log_softmax(array(x)), x)

    @both
    def test_random(self, array):
        for x in random_rows():
            assert_lse(logsumexp(array(x)), x)
            assert_softmax(softmax(array(x)), x)
            assert_log_softmax(log_softmax(array(x)), x)

    @check
    @given(logits)
    def test_any(self, x):
        assert_lse(logsumexp(x), x)
        assert_softmax(softmax(x), x)
        assert_log_softmax(log_softmax(x), x)

    @check
    @given(logits, st.floats(1e-3, 1e3))
    def test_temperature(self, x, temperature):
        np.testing.assert_allclose(
            log_softmax(x, temperature=temperature),
            np.array(oracle("log_softmax", x, temperature), dtype=float),
            rtol=1e-15 * (4 + np.ptp(x) / temperature),
            atol=5e-324,
        )

    @both
    def test_temperature_is_applied_to_differences(self, array):
        x, cold = array([1e300, 1e300 * (1 - 2**-52)]), 1e-10
        assert softmax(x, temperature=cold).tolist() == [1, 0]
        assert softmax(array([1e8 + 1, 1e8]), temperature=array([3.0]))[0] == pytest.approx(
            0.58257020646237, rel=1e-13
        )

    @check
    @given(logits, st.integers(0, 2**32))
    def test_weights(self, x, seed):
        w = np.random.default_rng(seed).choice([0.0, 1.0, 1e-300, 0.3, 7.0], size=x.shape)
        if not w.any():
            assert logsumexp(x, weights=w) == -inf
            return
        reference = oracle("logsumexp", x[w > 0], weights=w[w > 0])
        size = np.max(np.abs(x[w > 0]) + np.abs(np.log(w[w > 0])))
        assert abs(float(logsumexp(x, weights=w) - reference)) <= 4 * U * max(1, size)

    def test_weights_keep_small_excess(self):
        assert logsumexp([0, 0], weights=[1, 1e-18]) == pytest.approx(1e-18, rel=1e-14)

    @pytest.mark.parametrize("axis", [0, -1])
    def test_long_sums_are_pairwise_along_any_axis(self, axis):
        """Added one by one, 200 000 equal terms drift by 1e-12."""
        x = np.full((2, 200_000), -2.3)
        x[:, 0] = [0.0, 1.0]
        want = [math.log(math.fsum(np.exp(row))) for row in x]
        out = logsumexp(np.ascontiguousarray(x.T) if axis == 0 else x, axis=axis)
        assert ulp_error(out, want).max() <= 2
        # Transposed views are last-axis sums over strided memory.
        assert ulp_error(logsumexp(np.ascontiguousarray(x.T).T), want).max() <= 2

    def test_subtracts_before_rounding(self):
        """x - logsumexp(x) has the rounding error of 1e8."""
        x = 1e8 + np.array([0.0, 1.0, 2.0])
        np.testing.assert_allclose(log_softmax(x), log_softmax(x - 1e8), rtol=1e-15)
        np.testing.assert_allclose(softmax(x), softmax(x - 1e8), rtol=1e-15)

    @check
    @given(logits)
    def test_invariants(self, x):
        p = softmax(x)
        assert (p >= 0).all()
        assert abs(math.fsum(p) - 1) <= 4 * U * max(1, math.log2(len(x)))
        assert (
            x.max()
            <= logsumexp(x)
            <= (x.max() + np.log(len(x))) * (1 + np.sign(x.max()) * 4 * U) + 4 * U
        )
        np.testing.assert_array_equal(softmax(x[::-1])[::-1] > 0, p > 0)


def exact_lse(x, weights=None):
    """As the oracle, but quick for a thousand terms: the largest is taken out first."""
    with mp.workdps(60):
        x, a = [mp.mpf(float(t)) for t in x], int(np.argmax(x))
        w = [mp.mpf(float(t)) for t in (weights if weights is not None else np.ones(len(x)))]
        rest = mp.fsum(w[j] * mp.exp(t - x[a]) for j, t in enumerate(x) if j != a)
        return x[a] + (mp.log1p(rest) if w[a] == 1 else mp.log(w[a] + rest))


def strained_rows():
    """Rows in which one term or another of the bound is the largest."""
    rng = np.random.default_rng(1)
    yield from random_rows()
    for _ in range(15):
        yield np.array([0.1, 0.1 - rng.uniform(0, 40)])
        yield np.full(rng.integers(2, 300), rng.normal())
        yield -rng.uniform(0.5, 2) * np.log(np.arange(1, 300))
        yield rng.normal() - rng.uniform(0, 1) * np.arange(60)
        yield rng.uniform(-1, 1) * 10.0 ** rng.uniform(-300, 300, 5)


def assert_bounded(value, bound, reference):
    assert abs(mp.mpf(float(value)) - reference) <= mp.mpf(float(bound))


class TestBound:
    def test_theorem(self):
        """The formula of the docstring from an independent softmax and entropy."""
        for x in (np.array([0.3, -1.0, 2.5, 2.0]), np.array([3.0, 3.0]), -np.arange(7.0)):
            value, bound = logsumexp(x, return_bound=True)
            logs = oracle("log_softmax", x)
            p = [mp.exp(t) for t in logs]
            entropy = -mp.fsum(a * b for a, b in zip(p, logs, strict=True))
            count = entropy - max(logs) + len(x) * (1 - max(p)) + abs(value)
            assert 1 <= bound / (U * count) < 1.03

    @pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
    @pytest.mark.parametrize("array", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
    def test_never_below_the_error(self, dtype, array):
        top = np.finfo(dtype).max / 2
        for x in map(np.array, [*strained_rows(), *nasty_logits().values()]):
            x = x[abs(x) < top].astype(dtype)
            if x.size:
                assert_bounded(*logsumexp(array(x), return_bound=True), exact_lse(x))

    @check
    @given(logits)
    def test_any(self, x):
        assert_bounded(*logsumexp(x, return_bound=True), exact_lse(x))

    def test_bfloat16(self):
        for x in strained_rows():
            x = torch.tensor(x).to(torch.bfloat16)
            if x.isfinite().all():
                assert_bounded(*logsumexp(x, return_bound=True), exact_lse(x.tolist()))

    @check
    @given(logits, st.integers(0, 2**32), st.sampled_from([np.float64, np.float32]))
    def test_weights(self, x, seed, dtype):
        w = np.random.default_rng(seed).choice([1.0, 1e-30, 0.3, 7.0, 1e30], size=x.shape)
        x, w = x.astype(dtype), w.astype(dtype)
        found = logsumexp(x, weights=w, return_bound=True)
        assert_bounded(*found, oracle("logsumexp", x, weights=w))

    @both
    def test_stays_useful(self, array):
        """Relative accuracy for a dominant entry; log2 n, not n, for NumPy's long sums."""
        value, bound = logsumexp(array([0.0, -40.0]), return_bound=True)
        assert bound < 100 * U * value
        value, bound = logsumexp(np.zeros(2**20), return_bound=True)
        assert bound < 100 * U
        assert logsumexp(array([1e8, 0.0]), return_bound=True)[1] < 1.1 * U * 1e8

    def test_long_sums(self):
        x = np.random.default_rng(0).normal(size=300_001).astype(np.float32)
        reference = mp.log(math.fsum(np.exp(x.astype(np.float64))))
        assert_bounded(*logsumexp(x, return_bound=True), reference)
        assert_bounded(*logsumexp(torch.from_numpy(x), return_bound=True), reference)
        value, bound = logsumexp(torch.zeros(2**23), return_bound=True)
        assert math.isfinite(value)
        assert bound == inf

    @both
    def test_special(self, array):
        rows = array([[0, -inf], [-inf, -inf], [inf, 0], [nan, 0], [0, -800], [1.7e308, -1.7e308]])
        bound = logsumexp(rows, return_bound=True)[1].tolist()
        assert 0 < bound[0] < 1e-307
        assert bound[1:3] == [0, 0]
        assert math.isnan(bound[3])
        assert exact_lse([0, -800]) <= bound[4] < 1e-307
        assert bound[5] < 1e293
        assert float(logsumexp(array([]), return_bound=True)[1]) == 0
        assert logsumexp(array([5.0]), return_bound=True)[1] < 6e-16
        weighted = logsumexp(array([0.0, inf, -inf]), weights=[1, 1, 0], return_bound=True)
        assert [float(a) for a in weighted] == [inf, 0]

    def test_float16_overflow(self):
        x, w = np.array([65504, 0], np.float16), np.array([1e20, 1])
        assert [float(a) for a in logsumexp(x, weights=w, return_bound=True)] == [inf, inf]
        value, bound = logsumexp(np.full(9, 65504, np.float16), return_bound=True)
        assert (value, bound) == (65504, inf)

    @both
    def test_where_axes_and_shapes(self, array):
        x, mask = array([[1.0, nan, 2.0], [inf, 3.0, 1e300]]), [[1, 0, 1], [0, 1, 0]]
        found = logsumexp(x, where=np.array(mask, bool), return_bound=True)
        assert_bounded(found[0][0], found[1][0], exact_lse([1.0, 2.0]))
        assert found[1].shape == found[0].shape == (2,)
        x = array(np.random.default_rng(0).normal(size=(3, 4, 5)))
        value, bound = logsumexp(x, axis=(0, 2), keepdims=True, return_bound=True)
        assert value.shape == bound.shape == (1, 4, 1)
        for i in range(4):
            assert_bounded(
                value[0, i, 0], bound[0, i, 0], exact_lse(x[:, i, :].reshape(-1).tolist())
            )

    def test_dtype_and_gradient(self):
        x = grad_input([1.0, 2.0])
        value, bound = logsumexp(x, return_bound=True)
        assert value.requires_grad
        assert not bound.requires_grad
        assert logsumexp(x.half(), return_bound=True)[1].dtype == torch.float32
        assert isinstance(logsumexp([1, 2], return_bound=True)[1], np.float64)


class TestSpecialValues:
    """Constants from outside this repository; None where no exact value is asked for."""

    @both
    @pytest.mark.parametrize(
        ("x", "lse", "probabilities", "logs"),
        [
            ([], -inf, [], []),
            ([1000, 1000], 1000.6931471805599, [0.5, 0.5], None),
            ([-1000, -1000], -999.30685281944005, [0.5, 0.5], None),
            ([0, -800], 0.0, [1, 0], [0, -800]),
            ([0, -40], 4.2483542552915890e-18, None, [-4.2483542552915890e-18, -40]),
            ([5], 5, [1], [0]),
            ([0, -inf], 0, [1, 0], [0, -inf]),
            ([-inf], -inf, [nan], [nan]),
            ([-inf, -inf], -inf, [nan, nan], [nan, nan]),
            ([inf], inf, [1], [0]),
            ([inf, 0], inf, [1, 0], [0, -inf]),
            ([-inf, inf, 3], inf, [0, 1, 0], [-inf, 0, -inf]),
            ([inf, inf, 0], inf, [nan] * 3, [nan] * 3),
            ([nan], nan, [nan], [nan]),
            ([nan, 1], nan, [nan, nan], [nan, nan]),
            ([nan, inf], nan, [nan, nan], [nan, nan]),
            ([nan, -inf], nan, [nan, nan], [nan, nan]),
            ([1.7e308, -1.7e308], 1.7e308, [1, 0], [0, -inf]),
        ],
    )
    def test_values(self, x, lse, probabilities, logs, array):
        x = array(x)
        with np.errstate(all="raise"):  # infinities and underflow are results, not events
            assert float(logsumexp(x)) == pytest.approx(lse, rel=2e-16, nan_ok=True)
            if probabilities is not None:
                np.testing.assert_array_equal(softmax(x), probabilities)
            if logs is not None:
                np.testing.assert_allclose(log_softmax(x), logs, rtol=2e-16)

    def test_zero_is_not_negative(self):
        assert math.copysign(1, log_softmax([0, -inf])[0]) == 1
        assert math.copysign(1, logsumexp([0, -inf])) == 1

    @both
    def test_empty(self, array):
        x = array(np.zeros((2, 0)))
        assert float(logsumexp(x, axis=None)) == -inf
        assert logsumexp(x).tolist() == [-inf, -inf]
        assert tuple(logsumexp(x, axis=0).shape) == (0,)
        assert tuple(logsumexp(x, keepdims=True).shape) == (2, 1)
        assert softmax(x).shape == log_softmax(x, axis=None).shape == x.shape

    @both
    def test_rows_do_not_meet(self, array):
        x = array([[nan, 0], [0, 0], [inf, inf], [-inf, -inf], [inf, 0]])
        np.testing.assert_array_equal(softmax(x)[[1, 4]], [[0.5, 0.5], [1, 0]])
        np.testing.assert_allclose(logsumexp(x), [nan, math.log(2), inf, -inf, inf])


class TestMask:
    @both
    def test_same_as_without(self, array):
        x = array([[1.0, nan, 2.0], [inf, 3.0, 1e300]])
        mask = [[True, False, True], [False, True, False]]
        np.testing.assert_array_equal(
            logsumexp(x, where=mask), [logsumexp([1.0, 2.0]), logsumexp([3.0])]
        )
        # An older torch sums three terms in another order than two.
        np.testing.assert_allclose(
            softmax(x, where=mask)[0], np.insert(softmax([1.0, 2.0]), 1, 0), rtol=1e-15
        )
        np.testing.assert_array_equal(log_softmax(x, where=mask)[1], [-inf, 0, -inf])

    @both
    def test_nothing_left(self, array):
        x = array([[nan, inf], [1.0, 1.0]])
        mask = np.array([[False], [True]])
        assert logsumexp(x, where=mask).tolist() == [-inf, pytest.approx(1 + math.log(2))]
        assert softmax(x, where=mask).tolist() == [[0, 0], [0.5, 0.5]]
        assert log_softmax(x, where=mask)[0].tolist() == [-inf, -inf]

    @both
    def test_included_minus_infinity_stays(self, array):
        x = array([-inf, -inf, 0.0])
        np.testing.assert_array_equal(softmax(x, where=[True, True, False]), [nan, nan, 0])

    @both
    def test_zero_weights(self, array):
        assert float(logsumexp(array([nan, 1.0]), weights=[0, 1])) == 1
        assert float(logsumexp(array([inf, 1.0]), weights=array([0.0, 1.0]))) == 1
        assert float(logsumexp(array([nan, 1.0]), weights=[0, 0])) == -inf
        assert math.isnan(logsumexp(array([nan, 1.0]), weights=[1, 0]))
        out = logsumexp(array([1.0, nan, 2.0]), weights=[1, 1, 0], where=[True, False, True])
        assert float(out) == 1


class TestGradients:
    points = pytest.mark.parametrize(
        "x",
        [[[0.0, 0.0, 0.0]], [[1.0, 1.0, -2.0], [0.3, -0.1, 5.0]], [[0.0, -40.0]]],
        ids=["tie", "rows", "winner"],
    )

    @points
    @pytest.mark.parametrize("function", [logsumexp, softmax, log_softmax])
    def test_first_and_second_order(self, function, x):
        x = grad_input(x)
        assert torch.autograd.gradcheck(function, x)
        assert torch.autograd.gradgradcheck(function, x)

    def test_hessian_at_a_tie(self):
        """diag(s) - s s', which a derivative through the maximum gets wrong."""
        hessian = torch.autograd.functional.hessian(logsumexp, torch.zeros(2, dtype=torch.float64))
        assert hessian.tolist() == [[0.25, -0.25], [-0.25, 0.25]]

    def test_of_logsumexp_is_softmax(self):
        x = grad_input([[3.0, -inf, 1.0], [inf, 0.0, 1.0], [-inf, -inf, -inf]])
        (slope,) = torch.autograd.grad(logsumexp(x).sum(), x)
        np.testing.assert_allclose(slope[:2], softmax(x)[:2].detach(), rtol=1e-15)
        assert slope[2].tolist() == [0, 0, 0]

    def test_small_loss_has_a_slope(self):
        x = grad_input([0.0, -40.0])
        (slope,) = torch.autograd.grad(log_softmax(x)[0], x)
        np.testing.assert_allclose(slope, [4.248354255291589e-18, -4.248354255291589e-18])

    @pytest.mark.parametrize("function", [logsumexp, softmax, log_softmax])
    def test_masked_entries_get_zero(self, function):
        x = grad_input([[nan, 0.0, 1.0], [nan, inf, -inf], [-inf, 0.0, 1.0]])
        mask = torch.tensor([[False, True, True], [False, False, False], [True, True, True]])
        temperature = grad_input(2.0)
        if function is logsumexp:
            out, wanted = function(x, where=mask)[::2], [x]
        else:
            out = function(x, where=mask, temperature=temperature)
            out, wanted = out[torch.isfinite(out)] ** 2, [x, temperature]
        slopes = torch.autograd.grad(out.sum(), wanted, create_graph=True)
        assert all(torch.isfinite(s).all() for s in slopes)
        assert slopes[0][~mask].tolist() == [0] * 4
        assert slopes[0][2, 0] == 0
        assert slopes[0][0, 1] != 0
        (second,) = torch.autograd.grad((slopes[0] ** 2).sum(), x)
        assert torch.isfinite(second).all()

    def test_fully_masked_row(self):
        x = grad_input([-inf, nan])
        out = logsumexp(x, where=[False, False])
        assert out == -inf
        assert torch.autograd.grad(out, x)[0].tolist() == [0, 0]

    def test_temperature_and_weights(self):
        x, t, w = grad_input([0.5, -1.0, 2.0]), grad_input(0.7), grad_input([0.2, 3.0, 1.0])
        assert torch.autograd.gradcheck(lambda x, t: log_softmax(x, temperature=t), (x, t))
        assert torch.autograd.gradcheck(lambda x, w: logsumexp(x, weights=w), (x, w))
        w = grad_input([0.0, 1.0, 1.0])
        (slope,) = torch.autograd.grad(logsumexp(x, weights=w), w)
        assert slope[0] == 0
        assert torch.isfinite(slope).all()

    @pytest.mark.parametrize("function", [log1mexp, log1pexp, logit, expit])
    def test_elementwise(self, function):
        x = grad_input([0.1, 0.26, 0.5, 0.69, 0.7, 0.76, 0.9])
        assert torch.autograd.gradcheck(function, x)
        assert torch.autograd.gradgradcheck(function, x)

    def test_elementwise_branches_do_not_leak(self):
        x = grad_input([1e-300, 800.0])
        (slope,) = torch.autograd.grad(log1mexp(x).sum(), x)
        np.testing.assert_allclose(slope, [1e300, 0])
        p = grad_input([1e-300, 0.5, 1 - 2**-53])
        (slope,) = torch.autograd.grad(logit(p).sum(), p)
        np.testing.assert_allclose(slope, [1e300, 4, 2**53])


class TestElementwise:
    rng = np.random.default_rng(0)
    cases = pytest.mark.parametrize(
        ("name", "function", "x", "bound"),
        [
            (
                "log1mexp",
                log1mexp,
                np.r_[
                    np.logspace(-300, 2.8, 100),
                    rng.uniform(0, math.log(2), 100),
                    math.log(2) + np.linspace(-1e-3, 1e-3, 20),
                    rng.uniform(0, 40, 100),
                ],
                3,
            ),
            ("log1pexp", log1pexp, np.r_[rng.uniform(-740, 40, 100), rng.normal(size=100)], 2),
            (
                "logit",
                logit,
                np.r_[
                    rng.uniform(0, 1, 100),
                    0.5 + np.logspace(-16, -1, 30),
                    0.5 - np.logspace(-16, -1, 30),
                    0.25 + np.linspace(-1e-3, 1e-3, 20),
                    0.75 + np.linspace(-1e-3, 1e-3, 20),
                    np.logspace(-320, -1, 30),
                    1 - np.logspace(-16, -1, 30),
                ],
                3,
            ),
            ("expit", expit, np.r_[rng.uniform(-700, 40, 100), rng.normal(size=50)], 3),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )

    @both
    @cases
    def test_accuracy(self, name, function, x, bound, array):
        reference = [oracle(name, t) for t in x]
        assert ulp_error(np.asarray(function(array(x))), reference).max() <= bound

    @both
    @pytest.mark.parametrize(
        ("function", "x", "expected"),
        [
            (log1mexp, 1e-300, -690.77552789821371),
            (log1mexp, 50, -1.9287498479639178e-22),
            (log1mexp, math.log(2), -0.69314718055994533),
            (log1mexp, 0, -inf),
            (log1mexp, inf, 0),
            (log1mexp, -1, nan),
            (log1mexp, nan, nan),
            (log1pexp, -20.5, 1.2501528656053015e-9),
            (log1pexp, -750, 0),
            (log1pexp, 1000, 1000),
            (log1pexp, inf, inf),
            (log1pexp, -inf, 0),
            (log1pexp, nan, nan),
            (logit, 0, -inf),
            (logit, 1, inf),
            (logit, 0.5, 0),
            (logit, -0.1, nan),
            (logit, 1.1, nan),
            (logit, nan, nan),
            (expit, -inf, 0),
            (expit, inf, 1),
            (expit, nan, nan),
        ],
    )
    def test_values(self, function, x, expected, array):
        with np.errstate(all="raise"):
            found = float(function(array(x)))
        assert found == pytest.approx(expected, rel=3e-16, abs=0, nan_ok=True)

    @check
    @given(st.floats(1e-300, 30))
    def test_inverses(self, x):
        # The slope of -log1mexp(-y) turns the rounding of y into x of another size.
        y = float(log1mexp(x))
        slope = abs(y / x) * (math.expm1(x) if x < 700 else inf)
        assert float(log1mexp(-y)) == pytest.approx(-x, rel=1e-15 * (4 + slope))
        assert float(logit(expit(-x))) == pytest.approx(-x, rel=1e-14, abs=1e-15)


class TestArguments:
    @pytest.mark.parametrize("function", [logsumexp, softmax, log_softmax, log1pexp, expit])
    def test_numpy_types(self, function):
        for given_dtype, dtype in {
            "int64": "float64",
            "uint8": "float64",
            "bool": "float64",
            "float16": "float16",
            "float32": "float32",
            "float64": "float64",
        }.items():
            x = np.array([1, 0, 1], dtype=given_dtype)
            before = x.copy()
            out = function(x) if function is not logsumexp else logsumexp(x, weights=[1, 2, 0])
            assert isinstance(out, np.ndarray | np.generic)
            assert out.dtype == dtype
            np.testing.assert_array_equal(x, before)

    @pytest.mark.parametrize("function", [logsumexp, softmax, log_softmax, log1pexp, logit])
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_torch_types(self, function, dtype):
        x = torch.tensor([0.25, 0.5], dtype=dtype, requires_grad=True)
        out = function(x)
        assert out.dtype == dtype
        out.sum().backward()
        assert x.grad.dtype == dtype
        assert function(torch.tensor([1, 0])).dtype == torch.float64

    def test_device_is_kept(self):
        x = torch.zeros(2, 3, device="meta", dtype=torch.float32)
        # Only what neither looks at values nor leaves the device can run without storage.
        assert (
            softmax(x, where=torch.ones(3, dtype=torch.bool, device="meta")).device.type == "meta"
        )
        assert logsumexp(x).device.type == "meta"

    def test_half_precision_is_rounded_once(self):
        zeros = np.zeros(2**20, dtype=np.float16)
        assert float(logsumexp(zeros)) == float(np.float16(13.862944))
        assert logsumexp(zeros.astype(np.float32)) == np.float32(13.862944)
        x = np.random.default_rng(0).normal(size=(20, 50)).astype(np.float16)
        want = softmax(x.astype(np.float64)).astype(np.float16)
        np.testing.assert_array_equal(softmax(x), want)
        assert float(softmax(torch.tensor(x)).sum()) == pytest.approx(20, rel=1e-3)

    def test_scalars(self):
        for function in (log1mexp, log1pexp, logit, expit):
            assert type(function(0.5)) is np.float64
            assert type(function(np.float32(0.5))) is np.float32
        assert type(logsumexp([1, 2])) is np.float64

    @both
    @pytest.mark.parametrize("axis", [0, 1, 2, -1, (0, 2), [1, -1], (2, 0), None])
    def test_axes(self, axis, array):
        x = np.random.default_rng(0).normal(size=(2, 3, 4))
        np_axis = tuple(axis) if isinstance(axis, list) else axis
        plain = np.exp(x).sum(np_axis, keepdims=True)
        np.testing.assert_allclose(
            logsumexp(array(x), axis=axis, keepdims=True), np.log(plain), rtol=1e-14
        )
        np.testing.assert_allclose(
            logsumexp(array(x), axis=axis), np.log(plain).squeeze(np_axis), rtol=1e-14
        )
        np.testing.assert_allclose(softmax(array(x), axis=axis), np.exp(x) / plain, rtol=1e-14)
        np.testing.assert_allclose(log_softmax(array(x), axis=axis), x - np.log(plain), rtol=1e-13)

    @pytest.mark.parametrize(
        ("call", "error", "message"),
        [
            (partial(logsumexp, [1j]), TypeError, "x has dtype complex128"),
            (partial(expit, torch.tensor([1j])), TypeError, "x has dtype torch.complex64"),
            (partial(logit, "a"), TypeError, "p has dtype"),
            (partial(softmax, None), TypeError, "x has dtype object"),
            (partial(softmax, [[1], [2, 3]]), ValueError, "x is not an array"),
            (partial(softmax, [1.0], axis=1), ValueError, "axis = 1"),
            (partial(softmax, 1.0), ValueError, "axis = -1"),
            (partial(logsumexp, [[1.0]], axis=(0, -2)), ValueError, "axis = "),
            (
                partial(logsumexp, [1.0, 2.0], axis=0.5),
                TypeError,
                "axis is of type float: expected an",
            ),
            (partial(softmax, [1.0], temperature=0), ValueError, "temperature = 0"),
            (partial(softmax, [1.0], temperature=-1), ValueError, "temperature = -1"),
            (partial(softmax, [1.0], temperature=nan), ValueError, "temperature = nan"),
            (partial(log_softmax, [1.0], temperature=inf), ValueError, "temperature = inf"),
            (
                partial(softmax, [1.0, 2.0], temperature=np.ones(2)),
                ValueError,
                r"temperature has shape \(2,\)",
            ),
            (partial(softmax, [1.0], where=[1]), TypeError, "where has dtype int64"),
            (
                partial(softmax, [1.0, 2.0], where=[True] * 3),
                ValueError,
                r"where has shape \(3,\): expected to broadcast to \(2,\)",
            ),
            (partial(softmax, [1.0], where=[[True]]), ValueError, r"where has shape \(1, 1\)"),
            (
                partial(logsumexp, torch.zeros(2), weights=torch.ones(3)),
                ValueError,
                r"weights has shape \(3,\)",
            ),
            (
                partial(logsumexp, [[1, 2], [3, 4]], weights=[[1, 1], [1, -2]]),
                ValueError,
                r"weights\[1, 1\] = -2.0",
            ),
            (
                partial(logsumexp, [1.0, 2.0], weights=[1.0, inf]),
                ValueError,
                r"weights\[1\] = inf: expected a finite number, at least 0",
            ),
        ],
    )
    def test_errors(self, call, error, message):
        with pytest.raises(error, match=message):
            call()


ROWWISE = (logsumexp, softmax, log_softmax)
ENTRYWISE = (log1mexp, log1pexp, logit, expit)


@contextmanager
def without_short_cuts(monkeypatch):
    """Everything takes the general path."""
    with monkeypatch.context() as patch:
        for name in ("plain", "plain_rows"):
            patch.setattr(stable, name, lambda *given: None)
        for name in ("ready", "only_values"):
            patch.setattr(stable, name, lambda a: False)
        yield


def same(found, wanted, units):
    """To so many units in the last place; also of one kind, dtype and shape."""
    assert type(found) is type(wanted)
    assert found.dtype == wanted.dtype
    assert found.shape == wanted.shape
    found, wanted = np.asarray(found), np.asarray(wanted)
    np.testing.assert_array_less(abs(found - wanted), (units + 0.5) * np.spacing(abs(wanted)))


class TestShortCuts:
    """What nearly every call is given is computed with fewer steps: to the same results."""

    # The last two are so many numbers that a tensor is computed by torch.
    shapes = pytest.mark.parametrize("shape", [(100,), (5, 7), (2, 3, 4), (20_000,), (2000, 9)])
    dtypes = pytest.mark.parametrize("dtype", [np.float64, np.float32])

    @shapes
    @dtypes
    @pytest.mark.parametrize("function", [*ROWWISE, partial(softmax, temperature=0.3)])
    def test_rows(self, function, dtype, shape, monkeypatch):
        x = np.random.default_rng(0).normal(size=shape).astype(dtype)
        x[..., 0] += 10  # also one that makes up most of the sum
        found, of_tensor = function(x), function(torch.from_numpy(x))
        with without_short_cuts(monkeypatch):
            np.testing.assert_array_equal(found, function(x))  # to the last bit
            same(found, function(x), 0)
            wanted = function(torch.from_numpy(x))
        assert of_tensor.dtype == wanted.dtype
        eps = float(np.finfo(dtype).eps)
        torch.testing.assert_close(of_tensor, wanted, rtol=100 * eps, atol=0)

    @shapes
    @dtypes
    @pytest.mark.parametrize("function", ENTRYWISE)
    def test_entries(self, function, dtype, shape, monkeypatch):
        x = np.random.default_rng(0).uniform(0.001, 0.999, shape).astype(dtype)
        found, of_tensor = function(x), function(torch.from_numpy(x))
        with without_short_cuts(monkeypatch):
            same(found, function(x), 6 if dtype is np.float64 else 12)
            same(of_tensor, function(torch.from_numpy(x)), 12)

    @pytest.mark.parametrize("function", ROWWISE)
    @pytest.mark.parametrize("value", [nan, inf, -inf, 1e300, -1e300])
    def test_are_not_taken_by_what_is_special(self, function, value, monkeypatch):
        x = np.random.default_rng(0).normal(size=(2, 6))
        x[1, 2] = value
        for rows in (x, torch.from_numpy(x)):
            with np.errstate(all="raise"):
                found = function(rows)
            with without_short_cuts(monkeypatch):
                np.testing.assert_allclose(found, function(rows), rtol=4e-16)

    @pytest.mark.parametrize("function", ROWWISE)
    def test_look_at_axes_and_strides(self, function, monkeypatch):
        x = np.random.default_rng(0).normal(size=(4, 4))
        for rows, axis in ((x, 0), (x.T, -1), (x.T, 1), (x, np.int64(0)), (x[::2, ::2], -1)):
            found = function(rows, axis=axis), function(torch.tensor(rows), axis=axis)
            with without_short_cuts(monkeypatch):
                for one in found:
                    np.testing.assert_allclose(one, function(rows, axis=axis), rtol=1e-15)

    @pytest.mark.parametrize("function", [*ROWWISE, *ENTRYWISE])
    def test_leave_the_argument_as_it_is(self, function):
        for n in (10, 20_000):
            x = np.random.default_rng(0).uniform(0.1, 0.9, n)
            x.flags.writeable = False
            tensor = torch.tensor(x)
            function(x)
            found = function(tensor)
            np.testing.assert_array_equal(x, tensor)
            assert found.data_ptr() != tensor.data_ptr()

    @pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
    @pytest.mark.parametrize("function", [*ROWWISE, *ENTRYWISE])
    def test_keep_gradients(self, function):
        x = torch.full((5,), 0.3, dtype=torch.float64)
        assert function(x.requires_grad_()).requires_grad
        tangent = torch.func.jvp(function, (x.detach(),), (torch.ones_like(x),))[1]
        assert tangent.isfinite().all()

    def test_refuse_what_is_refused(self):
        for x in (np.ones(3), torch.ones(3), torch.ones(3, dtype=torch.float64)):
            for function in (softmax, log_softmax):
                with pytest.raises(ValueError, match=r"temperature = 0\.0"):
                    function(x, temperature=0.0)
            for function in ROWWISE:
                with pytest.raises(ValueError, match="axis = 1"):
                    function(x, axis=1)
                with pytest.raises(ValueError, match="axis = -1"):
                    function(x[0])
