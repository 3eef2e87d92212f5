"""celib.information against 50 digits, identities and enumeration."""

import itertools
import math
from functools import partial

import mpmath as mp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from celib import information
from celib.information import (
    conditional_entropy,
    cross_entropy,
    entropy,
    entropy_from_counts,
    joint_distribution,
    js_divergence,
    kl_divergence,
    mutual_information,
    perplexity,
    renyi_entropy,
    self_information,
)
from celib.testing import nasty_distributions, oracle

inf, nan = math.inf, math.nan
LOG2 = 0.6931471805599453

check = settings(derandomize=True, deadline=None, max_examples=100)
both = pytest.mark.parametrize(
    "array", [np.asarray, partial(torch.asarray, dtype=torch.float64)], ids=["numpy", "torch"]
)
grad_input = partial(torch.tensor, dtype=torch.float64, requires_grad=True)
pairs = [pytest.param(*pair, id=name) for name, pair in nasty_distributions().items()]

EIGHT = st.integers(1, 8)


@st.composite
def distributions(draw, rows=2, sizes=EIGHT):
    """Rows with zeros, tiny entries and sums that round."""
    n = draw(sizes)
    weight = st.one_of(st.just(0.0), st.floats(1e-3, 1), st.floats(1e-300, 1e-3))
    out = []
    for _ in range(rows):
        w = draw(arrays(np.float64, n, elements=weight))
        w[draw(st.integers(0, n - 1))] += 1
        out.append(w / w.sum())
    return out


def relative_error(actual, reference):
    actual = mp.mpf(float(actual))
    return 0.0 if actual == reference else float(abs(actual - reference) / abs(reference))


def close_pair(rng, distance):
    p = rng.dirichlet(np.ones(rng.integers(2, 20)))
    q = p * (1 + distance * rng.uniform(-1, 1, p.size))
    return p, q / q.sum()


class TestEntropy:
    @pytest.mark.parametrize(
        ("p", "bits"),
        [
            ([1], 0),
            ([1.0, 0.0, 0.0], 0),
            ([0.5, 0.5], 1),
            ([0.5, 0.25, 0.125, 0.125], 1.75),
            ([1 / 8] * 8, 3),
        ],
    )
    @both
    def test_dyadic(self, p, bits, array):
        found = float(entropy(array(p), base=2))
        assert found == bits
        assert math.copysign(1, found) == 1

    @check
    @given(distributions())
    def test_reference(self, rows):
        p, q = rows
        assert relative_error(entropy(p), oracle("entropy", p)) <= 1e-15
        assert relative_error(cross_entropy(p, q), oracle("cross_entropy", p, q)) <= 1e-15

    @pytest.mark.parametrize("axis", [0, 1])
    def test_long_sums_are_pairwise_along_any_axis(self, axis):
        """Added one by one, 200 000 equal terms drift by 1e-12."""
        p = np.full((200_000, 2) if axis == 0 else (2, 200_000), 1 / 200_000)
        for function in (entropy, partial(cross_entropy, p), entropy_from_counts):
            found = function(np.ones_like(p) if function is entropy_from_counts else p, axis=axis)
            bias = 199_999 / 400_000 if function is entropy_from_counts else 0
            np.testing.assert_allclose(found, math.log(200_000) + bias, rtol=1e-15)

    @both
    def test_rare_outcome_beside_a_certain_one(self, array):
        p = [1.0, 1e-20]
        assert relative_error(entropy(array(p)), oracle("entropy", p)) <= 2e-16

    @both
    def test_cross_entropy_of_zeros(self, array):
        assert float(cross_entropy(array([0.5, 0.5, 0.0]), array([0.5, 0.5, 0.0]))) == LOG2
        assert float(cross_entropy(array([0.5, 0.5]), array([1.0, 0.0]))) == inf
        assert float(cross_entropy(array([1.0, 0.0]), array([1.0, 0.0]))) == 0
        assert float(cross_entropy(array([1.0, 0.0]), array([0.0, 1.0]))) == inf

    def test_order_of_arguments(self):
        p, q = [0.75, 0.25], [0.5, 0.5]
        assert cross_entropy(p, q, base=2) == 1
        assert cross_entropy(q, p) == pytest.approx(-0.5 * math.log(0.75 * 0.25), rel=1e-15)

    @check
    @given(distributions())
    def test_chain_rule(self, rows):
        p, q = rows
        total = float(entropy(p) + kl_divergence(p, q))
        assert float(cross_entropy(p, q)) == pytest.approx(total, rel=1e-13, abs=1e-14)

    @both
    def test_self_information(self, array):
        found = self_information(array([1.0, 0.125, 0.0, 1 - 2**-53]), base=2)
        np.testing.assert_allclose(found, [0, 3, inf, 2**-53 / LOG2], rtol=2e-16)
        assert not np.signbit(np.asarray(found)[0])
        assert type(self_information(0.5)) is np.float64

    @both
    def test_perplexity(self, array):
        p = array([0.25, 0.25, 0.5])
        assert float(perplexity(p)) == pytest.approx(2**1.5, rel=1e-15)
        assert float(perplexity(p, q=array([0.5, 0.25, 0.25]))) == pytest.approx(2**1.75, rel=1e-15)
        assert float(perplexity(array([1.0, 0.0]))) == 1
        assert float(perplexity(array([1.0, 0.0]), q=array([0.0, 1.0]))) == inf


class TestKL:
    @both
    @pytest.mark.parametrize(("p", "q"), pairs)
    def test_nasty(self, p, q, array):
        found = float(kl_divergence(array(p), array(q)))
        # Where every term is subnormal, so is the accuracy.
        assert found == 0 or found >= 2e-308 / 1e3
        tolerance = 1e-15 if found > 1e-300 else 1e-14
        assert relative_error(found, oracle("kl_divergence", p, q)) <= tolerance

    @pytest.mark.parametrize("distance", [0.3, 1e-1, 1e-2, 1e-4, 1e-6, 1e-8, 1e-9, 1e-12])
    def test_close_pairs(self, distance):
        rng = np.random.default_rng(0)
        for _ in range(40):
            p, q = close_pair(rng, distance)
            assert relative_error(kl_divergence(p, q), oracle("kl_divergence", p, q)) <= 1e-15
            assert relative_error(js_divergence(p, q), oracle("js_divergence", p, q)) <= 1e-15

    def test_far_pairs(self):
        rng = np.random.default_rng(0)
        for _ in range(100):
            n, a, b = rng.integers(2, 20), *rng.choice([0.05, 0.3, 1, 5], 2)
            p, q = rng.dirichlet(np.full(n, a)), rng.dirichlet(np.full(n, b))
            assert relative_error(kl_divergence(p, q), oracle("kl_divergence", p, q)) <= 2e-15

    @pytest.mark.parametrize("ratio", [1.66, 1.67, 0.599, 0.601, 1.0 + 2**-52, 3.0, 1e3])
    def test_every_branch(self, ratio):
        """One bit of probability at a given ratio, the rest close by: both sides of the switch."""
        q = np.array([2.0**-10, 1 - 2.0**-10])
        p = np.array([ratio * q[0], 1 - ratio * q[0]])
        assert relative_error(kl_divergence(p, q), oracle("kl_divergence", p, q)) <= 1.5e-15

    def test_nearly_disjoint(self):
        # Without a warning about what underflows.
        p, q = np.array([1, 1e-20]), np.array([1e-20, 1])
        assert relative_error(js_divergence(p, q), oracle("js_divergence", p, q)) <= 1e-15

    @both
    def test_published_values(self, array):
        for p, q, value in [
            ([1.0, 0.0], [0.5, 0.5], 0.69314718055994531),
            ([0.5, 0.5], [1.0, 0.0], inf),
            ([1.0, 0.0], [1.0, 0.0], 0),
            ([0.5, 0.5], [1.0, 1e-300], 344.69461676854691),
        ]:
            assert float(kl_divergence(array(p), array(q))) == pytest.approx(value, rel=3e-16)

    @check
    @given(distributions())
    def test_never_negative(self, rows):
        p, q = rows
        forward, backward = float(kl_divergence(p, q)), float(kl_divergence(q, p))
        assert forward >= 0
        assert (forward == inf) == bool(((p > 0) & (q == 0)).any())
        assert kl_divergence(p, p) == 0
        assert math.copysign(1, kl_divergence(p, p)) == 1
        js = float(js_divergence(p, q))
        assert 0 <= js <= LOG2
        assert js == float(js_divergence(q, p))
        assert js <= (forward + backward) / 4 * (1 + 1e-14)

    @check
    @given(distributions(rows=1), st.integers(0, 2**32), st.integers(-16, -1))
    def test_never_negative_when_close(self, rows, seed, exponent):
        (p,) = rows
        q = p * (1 + 10.0**exponent * np.random.default_rng(seed).uniform(-1, 1, p.size))
        q = q / q.sum()
        assert float(kl_divergence(p, q)) >= 0
        assert float(js_divergence(p, q)) >= 0

    @check
    @given(distributions(sizes=st.just(6)))
    def test_data_processing(self, rows):
        p, q = rows
        merged = [r.reshape(3, 2).sum(axis=1) for r in rows]
        assert float(kl_divergence(*merged)) <= float(kl_divergence(p, q)) * (1 + 1e-13) + 1e-30

    @pytest.mark.parametrize("scale", [1 + 2**-50, 1 - 1e-9])
    def test_rounding_of_sums_is_not_divergence(self, scale):
        """Sums of p log(p / q) would be -log(scale), of the non-negative terms its square."""
        p, q = np.array([0.3, 0.7]), np.array([0.3 + 1e-8, 0.7 - 1e-8])
        plain = oracle("kl_divergence", p, q * scale)
        assert relative_error(kl_divergence(p, q * scale), plain) <= 1e-15
        assert relative_error(js_divergence(p, q * scale), oracle("js_divergence", p, q)) <= 1e-8

    def test_bounds_hold_in_the_last_bit(self):
        rng = np.random.default_rng(0)
        p, q = rng.dirichlet(np.ones(4), (2, 2000))
        zeros = np.zeros_like(p)
        apart = js_divergence(np.hstack([p, zeros]), np.hstack([zeros, q]))
        assert (apart <= LOG2).all()
        assert (apart >= LOG2 * (1 - 1e-15)).all()
        # Proportional rows are the same distribution: what is left is rounding, of either sign.
        assert (kl_divergence(p, p * (1 - 2**-30)) >= 0).all()
        assert (js_divergence(p, p * (1 - 2**-30)) >= 0).all()

    def test_float32(self):
        rng = np.random.default_rng(0)
        for distance in (1, 1e-2, 1e-4):
            p, q = (r.astype(np.float32) for r in close_pair(rng, distance))
            found = kl_divergence(p, q)
            assert found.dtype == np.float32
            assert relative_error(found, oracle("kl_divergence", p, q)) <= 1e-15 * 2**29
        assert js_divergence(np.float32([1, 0]), np.float32([0, 1])) <= np.float32(math.log(2))

    @both
    def test_js_extremes(self, array):
        p, q = array([1.0, 0.0]), array([0.0, 1.0])
        assert float(js_divergence(p, q)) == LOG2
        assert float(js_divergence(p, q, base=2)) == 1
        assert float(js_divergence(p, p)) == 0


class TestRenyi:
    ORDERS = (
        0.0,
        1e-5,
        0.3,
        0.999,
        1 - 1e-9,
        1.0,
        1 + 1e-15,
        1.001,
        2.0,
        5.0,
        50.0,
        1e4,
        1e17,
        inf,
    )

    @check
    @given(distributions(rows=1), st.sampled_from(ORDERS))
    def test_reference(self, rows, order):
        (p,) = rows
        reference = oracle("renyi_entropy", p, order)
        assert float(renyi_entropy(p, order)) == pytest.approx(
            float(reference), rel=2e-15, abs=1e-15 if order > 1e-3 else 1e-13
        )

    @both
    def test_special_orders(self, array):
        p = array([0.5, 0.25, 0.25, 0.0])
        assert float(renyi_entropy(p, 0)) == pytest.approx(math.log(3), rel=1e-15)
        assert float(renyi_entropy(p, 1)) == float(entropy(p))
        assert float(renyi_entropy(p, 2)) == pytest.approx(-math.log(0.375), rel=1e-15)
        assert float(renyi_entropy(p, inf)) == LOG2
        for order in (0, 0.5, 1, 2, 1e3, inf):
            certain = renyi_entropy(array([1.0, 0.0]), order)
            assert float(certain) == 0
            assert math.copysign(1, certain) == 1

    @both
    def test_many_outcomes_and_high_order(self, array):
        """The sum of powers is 1e-297: what is left of 1 after a cancellation would be 0."""
        p = array(np.full(1000, 1e-3))
        for order in (100.0, 1e5, 1e15, 1e300):
            assert float(renyi_entropy(p, order)) == pytest.approx(math.log(1000), rel=1e-14)
        # Here order * log(p) is no float.
        assert float(renyi_entropy(array(np.full(10, 0.1)), 1.7e308)) == pytest.approx(
            math.log(10), rel=1e-14
        )

    def test_continuous_through_one(self):
        p = [0.9, 0.1]
        shannon = float(entropy(p))
        for gap in (1e-15, 1e-12, 1e-8):
            # dH/da at 1 is minus half the variance of the self-information
            slope = 0.5 * 0.9 * 0.1 * math.log(9) ** 2
            above, below = float(renyi_entropy(p, 1 + gap)), float(renyi_entropy(p, 1 - gap))
            assert above == pytest.approx(shannon - gap * slope, rel=1e-15)
            assert below == pytest.approx(shannon + gap * slope, rel=1e-15)

    @check
    @given(distributions(rows=1))
    def test_falls_with_the_order(self, rows):
        values = [float(renyi_entropy(rows[0], order)) for order in self.ORDERS]
        assert all(b <= a * (1 + 1e-14) + 1e-15 for a, b in itertools.pairwise(values))


class TestJoint:
    @check
    @given(distributions(rows=1, sizes=st.sampled_from([6, 12])))
    def test_reference(self, rows):
        joint = rows[0].reshape(3, -1)
        found = float(mutual_information(joint))
        # The rounding of the marginals is a distance of 1e-16 from independence.
        reference = float(oracle("mutual_information", joint))
        assert found == pytest.approx(
            reference, rel=1e-14, abs=4e-16 * math.sqrt(reference) + 1e-31
        )
        reference = oracle("conditional_entropy", joint)
        assert relative_error(conditional_entropy(joint), reference) <= 2e-15

    @check
    @given(distributions(rows=1, sizes=st.just(12)))
    def test_identities(self, rows):
        joint = rows[0].reshape(3, 4)
        information = float(mutual_information(joint))
        assert information >= 0
        close = partial(pytest.approx, rel=1e-13, abs=1e-14)
        assert float(entropy(joint.sum(0)) - conditional_entropy(joint)) == close(information)
        assert float(mutual_information(joint.T)) == close(information)
        total = entropy(joint.sum(1)) + conditional_entropy(joint)
        assert float(total) == close(float(entropy(joint, axis=(0, 1))))

    def test_independent(self):
        rng = np.random.default_rng(0)
        for _ in range(50):
            joint = np.outer(rng.dirichlet(np.ones(4)), rng.dirichlet(np.ones(5)))
            assert 0 <= mutual_information(joint) < 1e-30
        assert mutual_information(np.full((2, 2), 0.25)) == 0

    @pytest.mark.parametrize("distance", [1e-2, 1e-4, 1e-6])
    def test_nearly_independent(self, distance):
        rng = np.random.default_rng(0)
        joint = np.outer(rng.dirichlet(np.ones(4)), rng.dirichlet(np.ones(5)))
        joint = joint * (1 + distance * rng.uniform(-1, 1, joint.shape))
        joint /= joint.sum()
        reference = oracle("mutual_information", joint)
        assert relative_error(mutual_information(joint), reference) <= 1e-15 / distance

    @both
    def test_extremes(self, array):
        """The product of the marginals, 1e-400, is no float."""
        joint = [[1.0, 0.0], [0.0, 1e-200]]
        reference = oracle("mutual_information", joint)
        assert relative_error(mutual_information(array(joint)), reference) <= 1e-14
        joint = [[0.5, 1e-20], [0.0, 0.5]]
        reference = oracle("conditional_entropy", joint)
        assert relative_error(conditional_entropy(array(joint)), reference) <= 1e-15

    @both
    def test_rows_are_x(self, array):
        joint = array([[0.25, 0.25], [0.0, 0.5]])
        assert float(conditional_entropy(joint, base=2)) == 0.5
        copy = array([[0.5, 0.0, 0.0], [0.0, 0.25, 0.25]])
        assert float(conditional_entropy(copy, base=2)) == 0.5
        assert float(mutual_information(copy, base=2)) == pytest.approx(1, rel=5e-16)
        zeros = array([[0.5, 0.5], [0.0, 0.0]])
        assert float(conditional_entropy(zeros, base=2)) == 1
        assert float(mutual_information(zeros)) == 0

    @both
    def test_batch(self, array):
        batch = np.random.default_rng(0).dirichlet(np.ones(6), (4, 5)).reshape(4, 5, 2, 3)
        for function in (mutual_information, conditional_entropy):
            found = function(array(batch))
            assert tuple(found.shape) == (4, 5)
            assert float(found[3, 2]) == pytest.approx(float(function(batch[3, 2])), rel=1e-15)


class TestCounts:
    def test_plugin_and_miller_madow(self):
        counts = [3, 1, 0, 4]
        plain = float(entropy_from_counts(counts, method="plugin"))
        assert plain == pytest.approx(float(entropy([3 / 8, 1 / 8, 0, 4 / 8])), rel=1e-15)
        # Three outcomes seen: the zero counts for nothing.
        assert entropy_from_counts(counts) == pytest.approx(plain + 2 / 16, rel=1e-15)
        assert entropy_from_counts(counts, base=2) == pytest.approx((plain + 2 / 16) / LOG2)
        assert entropy_from_counts([7]) == 0

    def test_bias_by_enumeration(self):
        """The exact mean over all samples of size 12 from (.5, .3, .2)."""
        p, n = (0.5, 0.3, 0.2), 12
        mean = {"plugin": 0.0, "miller-madow": 0.0}
        for a in range(n + 1):
            for b in range(n + 1 - a):
                counts = (a, b, n - a - b)
                ways = math.factorial(n) / math.prod(map(math.factorial, counts))
                chance = ways * math.prod(q**k for q, k in zip(p, counts, strict=True))
                for method in mean:
                    mean[method] += chance * float(entropy_from_counts(counts, method=method))
        truth = float(entropy(p))
        assert mean["plugin"] < truth - 0.08
        assert abs(mean["miller-madow"] - truth) < 0.02

    @both
    def test_rare_beside_common(self, array):
        """1e15 of 1e15 + 1 rounds to 1 - 1e-15: and 0.3 % of the result would be lost."""
        counts = [10**15, 1]
        with mp.workdps(50):
            shares = [mp.mpf(c) / (10**15 + 1) for c in counts]
            reference = -mp.fsum(s * mp.log(s) for s in shares)
        found = entropy_from_counts(array(counts), method="plugin")
        assert relative_error(found, reference) <= 1e-15

    @both
    def test_batch(self, array):
        found = entropy_from_counts(array([[1, 2], [1, 0], [3, 4]]), axis=0, method="plugin")
        np.testing.assert_allclose(
            found, [entropy_from_counts(c, method="plugin") for c in ([1, 1, 3], [2, 0, 4])]
        )


class TestGradients:
    @pytest.mark.parametrize(
        "function",
        [entropy, perplexity, *(partial(renyi_entropy, order=a) for a in (0.7, 1 + 1e-7, 2, 20))],
    )
    def test_of_one(self, function):
        z = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        z.requires_grad_()
        assert torch.autograd.gradcheck(lambda z: function(z.softmax(-1)), z)
        assert torch.autograd.gradgradcheck(lambda z: function(z.softmax(-1)), z)

    @pytest.mark.parametrize("function", [cross_entropy, kl_divergence, js_divergence])
    def test_of_two(self, function):
        generator = torch.Generator().manual_seed(0)
        z, w = torch.randn(2, 2, 3, dtype=torch.float64, generator=generator)
        w[1] = z[1] + 1e-3 * w[1]
        z.requires_grad_()
        w.requires_grad_()
        through = lambda z, w: function(z.softmax(-1), w.softmax(-1))  # noqa: E731
        assert torch.autograd.gradcheck(through, (z, w))
        assert torch.autograd.gradgradcheck(through, (z, w))

    @pytest.mark.parametrize("function", [mutual_information, conditional_entropy])
    def test_of_a_joint(self, function):
        z = torch.randn(12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        z.requires_grad_()
        through = lambda z: function(z.softmax(0).reshape(3, 4))  # noqa: E731
        assert torch.autograd.gradcheck(through, z)
        assert torch.autograd.gradgradcheck(through, z)

    def test_formulas(self):
        p, q = grad_input([0.25, 0.75]), grad_input([0.5, 0.5])
        np.testing.assert_allclose(
            torch.autograd.grad(entropy(p), p)[0], [-math.log(0.25) - 1, -math.log(0.75) - 1]
        )
        np.testing.assert_allclose(torch.autograd.grad(cross_entropy(p, q), q)[0], [-0.5, -1.5])
        np.testing.assert_allclose(torch.autograd.grad(kl_divergence(p, q), q)[0], [0.5, -0.5])
        # Linear in p, at p = 0 too.
        p, q = grad_input([0.0, 1.0]), grad_input([0.25, 0.75])
        np.testing.assert_allclose(
            torch.autograd.grad(cross_entropy(p, q), p)[0], -torch.log(q.detach())
        )

    def test_zeros_are_finite(self):
        p = [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]
        q = [[0.5, 0.5, 0.0], [0.5, 0.25, 0.25]]
        orders = (0.5, 1.5, 30.0, inf)
        for function in (entropy, *(partial(renyi_entropy, order=a) for a in orders)):
            x = grad_input(p)
            assert torch.isfinite(torch.autograd.grad(function(x).sum(), x)[0]).all()
        for function in (cross_entropy, kl_divergence, js_divergence):
            x, y = grad_input(p), grad_input(q)
            slopes = torch.autograd.grad(function(x, y).sum(), (x, y))
            assert all(torch.isfinite(s).all() for s in slopes)
        for function in (mutual_information, conditional_entropy):
            x = grad_input([[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]])
            assert torch.isfinite(torch.autograd.grad(function(x), x)[0]).all()
        x = grad_input(p)
        assert torch.autograd.grad(entropy(x).sum(), x)[0][0, 1] == 0
        x = grad_input([0.5, 0.5])  # whose 60th powers add up to 0 beside 1
        assert torch.isfinite(torch.autograd.grad(renyi_entropy(x, 60), x)[0]).all()

    def test_an_infinite_row_leaves_its_neighbours_alone(self):
        p, q = grad_input([[0.5, 0.5], [0.5, 0.5]]), grad_input([[1.0, 0.0], [0.25, 0.75]])
        for function in (cross_entropy, kl_divergence):
            slopes = torch.autograd.grad(function(p, q).sum(), (p, q))
            assert all(torch.isfinite(s[1]).all() for s in slopes)


class TestArguments:
    ONE = (entropy, perplexity, partial(renyi_entropy, order=2.0))
    TWO = (cross_entropy, kl_divergence, js_divergence)

    @both
    @pytest.mark.parametrize("axis", [0, 1, -1, (0, 2), None])
    def test_axes(self, axis, array):
        rng = np.random.default_rng(0)
        p, q = rng.uniform(0.1, 1, (2, 2, 3, 4))
        p /= p.sum(axis, keepdims=True)
        q /= q.sum(axis, keepdims=True)
        np.testing.assert_allclose(entropy(array(p), axis=axis), -(p * np.log(p)).sum(axis))
        np.testing.assert_allclose(
            kl_divergence(array(p), array(q), axis=axis), (p * np.log(p / q)).sum(axis)
        )

    @pytest.mark.parametrize("function", [*ONE, *TWO])
    def test_types(self, function):
        n = 2 if function in self.TWO else 1
        for dtype in ("float16", "float32", "float64"):
            x = np.array([0.25, 0.75], dtype=dtype)
            assert function(*[x] * n).dtype == dtype
        assert function(*[np.array([1, 0])] * n).dtype == np.float64
        assert type(function(*[[0.25, 0.75]] * n)) is np.float64
        for dtype in (torch.float16, torch.bfloat16, torch.float32):
            x = torch.tensor([0.25, 0.75], dtype=dtype, requires_grad=True)
            out = function(*[x] * n)
            assert out.dtype == dtype
            out.backward()
            assert x.grad.dtype == dtype

    @pytest.mark.parametrize("function", [*ONE, *TWO, mutual_information, conditional_entropy])
    def test_base(self, function):
        p = (
            [[0.125, 0.875], [0.5, 0.5]]
            if function in self.ONE + self.TWO
            else [[0.2, 0.3], [0, 0.5]]
        )
        arguments = [p, p[::-1]] if function in self.TWO else [p]
        if function is perplexity:
            with pytest.raises(TypeError):
                function(p, base=2)
            return
        for base in (2, 10.0, 1.5):
            np.testing.assert_allclose(
                function(*arguments, base=base), function(*arguments) / math.log(base), rtol=1e-15
            )
        for base in (1, 0.5, 0, -2, nan, inf):
            with pytest.raises(ValueError, match=f"base = {base}"):
                function(*arguments, base=base)

    @both
    @pytest.mark.parametrize("function", ONE)
    @pytest.mark.parametrize(
        ("p", "message"),
        [
            ([[0.5, 0.5], [-0.1, 1.1]], r"p\[1, 0\] = -0.1: expected a probability"),
            ([[0.5, 0.5], [2.0, 0.0]], r"p\[1, 0\] = 2.0"),
            ([nan, 1.0], r"p\[0\] = nan"),
            ([inf, 0.0], r"p\[0\] = inf"),
            ([-1e-5, 1.0], r"p\[0\] = -1e-05: expected a probability in \[0, 1\] within 8e-06"),
            ([0.5, 0.4], r"the sum of p = 0.9: expected 1 within 0.008"),
            ([[1.0, 0.0], [0.5, 0.508]], r"the sum of p\[1\] = 1.008"),
            ([0.0, 0.0], r"the sum of p = 0.0"),
            ([], r"p has shape \(0,\)"),
            (np.ones((3, 0)), r"p has shape \(3, 0\)"),
            (1.0, r"axis = -1"),
        ],
    )
    def test_not_a_distribution(self, function, p, message, array):
        with pytest.raises(ValueError, match=message):
            function(array(p))

    @both
    @pytest.mark.parametrize("function", TWO)
    def test_second_argument(self, function, array):
        p = array([[0.5, 0.5], [0.5, 0.5]])
        with pytest.raises(ValueError, match=r"q\[1, 1\] = -1.0"):
            function(p, array([[0.5, 0.5], [0.5, -1.0]]))
        with pytest.raises(ValueError, match=r"the sum of q\[0\] = 0.6"):
            function(p, array([[0.3, 0.3], [0.5, 0.5]]))
        for q in ([0.5, 0.5], [[1.0], [1.0]], [[0.5, 0.5]]):
            with pytest.raises(ValueError, match=r"p has shape \(2, 2\) and q has shape"):
                function(p, array(q))
            with pytest.raises(ValueError, match="expected equal shapes"):
                function(p, array(q), validate=False)

    @pytest.mark.parametrize(
        ("call", "error", "message"),
        [
            (partial(self_information, [0.5, -0.1]), ValueError, r"p\[1\] = -0.1"),
            (partial(self_information, 1.5), ValueError, "p = 1.5"),
            (partial(self_information, nan), ValueError, "p = nan"),
            (partial(self_information, 0.5, base=1), ValueError, "base = 1"),
            (partial(renyi_entropy, [1.0], -0.5), ValueError, "order = -0.5"),
            (partial(renyi_entropy, [1.0], nan), ValueError, "order = nan"),
            (partial(entropy, [1.0], axis=1), ValueError, "axis = 1"),
            (partial(entropy, [1j]), TypeError, "p has dtype complex128"),
            (partial(mutual_information, [0.5, 0.5]), ValueError, r"joint has shape \(2,\)"),
            (partial(mutual_information, np.ones((2, 0))), ValueError, r"joint has shape \(2, 0\)"),
            (
                partial(conditional_entropy, [[0.5, 0.5], [0.5, 0.5]]),
                ValueError,
                "sum of joint = 2",
            ),
            (partial(conditional_entropy, [[1.5, -0.5]]), ValueError, r"joint\[0, 0\] = 1.5"),
            (partial(entropy_from_counts, [[1, 2], [3, -1]]), ValueError, r"counts\[1, 1\] = -1"),
            (partial(entropy_from_counts, [0.5, 0.5]), ValueError, r"counts\[0\] = 0.5"),
            (partial(entropy_from_counts, [inf]), ValueError, r"counts\[0\] = inf"),
            (partial(entropy_from_counts, [nan]), ValueError, r"counts\[0\] = nan"),
            (partial(entropy_from_counts, [[1, 1], [0, 0]]), ValueError, r"sum of counts\[1\] = 0"),
            (partial(entropy_from_counts, []), ValueError, r"counts has shape \(0,\)"),
            (partial(entropy_from_counts, [1], method="ml"), ValueError, "method = 'ml'"),
            (partial(entropy_from_counts, [1], base=0), ValueError, "base = 0"),
        ],
    )
    def test_errors(self, call, error, message):
        with pytest.raises(error, match=message):
            call()

    def test_rounded_distributions_are_accepted(self):
        rng = np.random.default_rng(0)
        for n in (2, 10, 1000):
            p = rng.dirichlet(np.ones(n))
            for dtype in (np.float16, np.float32, np.float64):
                rounded = p.astype(dtype)
                assert entropy(rounded) == pytest.approx(
                    float(entropy(p)), rel=5 * float(np.finfo(dtype).eps)
                )
        entropy([0.1] * 10)
        # Three times the bfloat16 nearest to 1/3 are 1.002.
        third = torch.full((3,), 1 / 3, dtype=torch.bfloat16)
        assert float(entropy(third)) == pytest.approx(math.log(3), rel=4e-3)

    def test_tolerance_has_a_ceiling(self):
        with pytest.raises(ValueError, match=r"the sum of p = 1.02"):
            entropy(np.full(1000, 0.00102, dtype=np.float32))

    def test_validation_can_be_turned_off(self):
        assert entropy([0.25, 0.25], validate=False) == LOG2
        assert math.isnan(kl_divergence([nan, 1.0], [0.5, 0.5], validate=False))
        rows = np.array([[nan, 1.0], [0.5, 0.5]])
        assert entropy(rows, validate=False)[1] == LOG2

    def test_empty_batch(self):
        assert entropy(np.ones((0, 3))).shape == (0,)
        assert kl_divergence(np.ones((0, 3)), np.ones((0, 3))).shape == (0,)


class TestJointFromLabels:
    def test_counts(self):
        x, y = ["b", "a", "b", "b"], [3, -1, 3, 0]
        wanted = [[0.25, 0, 0], [0, 0.25, 0.5]]
        np.testing.assert_array_equal(joint_distribution(x, y), wanted)
        found = joint_distribution(torch.tensor([1, 0, 1, 1]), y)
        assert isinstance(found, torch.Tensor)
        np.testing.assert_array_equal(found, wanted)
        repeated = joint_distribution(x, y, sample_weight=[2, 1, 0, 1])
        np.testing.assert_array_equal(repeated, joint_distribution([*"bbab"], [3, 3, -1, 0]))

    def test_mutual_information_against_scikit_learn(self):
        from sklearn.metrics import mutual_info_score

        x, y = np.random.default_rng(0).integers(0, 5, (2, 200))
        found = mutual_information(joint_distribution(x, y))
        assert found == pytest.approx(mutual_info_score(x, y), rel=1e-12)

    @pytest.mark.parametrize(
        ("x", "y", "message"),
        [
            ([0, 1], [0], r"y has shape \(1,\): expected that of x, \(2,\)"),
            ([], [], r"x has shape \(0,\)"),
            ([[0, 1]], [0, 1], r"x has shape \(1, 2\)"),
            ([0.0, nan], [0, 1], r"x\[1\] = nan: expected a label"),
            (["a", None], [0, 1], r"x\[1\] = None: expected a label"),
            (np.array(["2026-01-01", "NaT"], "M8[D]"), [0, 1], r"x\[1\] = None: expected a label"),
            (["a", 1], [0, 1], r"x\[1\] = 1: expected a label of the kind of 'a'"),
            ([1, "1"], [0, 1], r"x\[1\] = '1': expected a label of the kind of 1"),
        ],
    )
    def test_errors(self, x, y, message):
        with pytest.raises(ValueError, match=message):
            joint_distribution(x, y)


def simplex(shape, dtype, spread=1.0):
    z = spread * np.random.default_rng(len(shape)).normal(size=(2, *shape))
    p = np.exp(z)
    return (p / p.sum(-1, keepdims=True)).astype(dtype)


class TestShortCuts:
    """Rows of positive numbers are computed with fewer steps: to the same results."""

    ONE = (
        entropy,
        perplexity,
        *(partial(renyi_entropy, order=a) for a in (0.5, 1, 1.2, 2, 9, 1e9)),
    )
    TWO = (cross_entropy, kl_divergence, js_divergence)
    JOINT = (mutual_information, conditional_entropy)

    @staticmethod
    def general(monkeypatch, function, *given):
        with monkeypatch.context() as patch:
            for name in ("plain", "plain_rows"):
                patch.setattr(information, name, lambda *_: None)
            return function(*given)

    # The last two are so many numbers that a tensor is computed by torch.
    @pytest.mark.parametrize("shape", [(100,), (5, 7), (2, 3, 4), (20_000,), (2000, 9)])
    @pytest.mark.parametrize("dtype", [np.float64, np.float32])
    @pytest.mark.parametrize("spread", [2.0, 1e-3], ids=["far", "close"])
    def test_agree(self, shape, dtype, spread, monkeypatch):
        p, q = simplex(shape, dtype, spread)
        counts = np.arange(1.0, 1 + p.size, dtype=dtype).reshape(shape)
        calls = [(function, p) for function in (*self.ONE, self_information)]
        calls += [(function, p, q) for function in self.TWO]
        calls += [
            (partial(entropy_from_counts, method=m), counts) for m in ("plugin", "miller-madow")
        ]
        if len(shape) > 1:
            calls += [(function, p / shape[-2]) for function in self.JOINT]
        eps = float(np.finfo(dtype).eps)
        for function, *numbers in calls:
            # The rounding of marginals is as large as a weak dependence.
            rtol = 60 * eps * (1000 if function is mutual_information else 1)
            for one in (numbers, [torch.from_numpy(a) for a in numbers]):
                found = function(*one)
                wanted = self.general(monkeypatch, function, *one)
                assert type(found) is type(wanted)
                assert found.dtype == wanted.dtype
                assert found.shape == wanted.shape
                np.testing.assert_allclose(found, wanted, rtol=rtol, err_msg=str(function))

    @pytest.mark.parametrize("n", [10, 20_000])
    def test_agree_on_zeros(self, n, monkeypatch):
        p, q = simplex((3, n), np.float64)
        p[1] = np.eye(n)[2]
        p[2, :5] = 0.0
        p[2] /= p[2].sum()
        for kind in (np.asarray, torch.from_numpy):
            calls = [(f, kind(p)) for f in (entropy, perplexity)]
            for function, *numbers in (*calls, (cross_entropy, kind(p), kind(q))):
                with np.errstate(all="raise"):
                    found = function(*numbers)
                wanted = self.general(monkeypatch, function, *numbers)
                np.testing.assert_allclose(found, wanted, rtol=1e-14)
                assert not np.signbit(np.asarray(found)).any()

    def test_accuracy(self):
        """Of distributions at every distance: neither side of the switch is worse."""
        rng = np.random.default_rng(0)
        for distance in (4.0, 2.0, 1.5, 1.2, 1.0, 0.8, 0.6, 0.3):
            for _ in range(10):
                p, q = np.exp(distance * rng.normal(size=(2, 40)))
                p, q = p / p.sum(), q / q.sum()
                for function in (kl_divergence, js_divergence):
                    reference = oracle(function.__name__, p, q)
                    assert relative_error(function(p, q), reference) <= 1e-15
                    assert function(p, q) >= 0
                assert js_divergence(p, q) == js_divergence(q, p)

    @pytest.mark.parametrize("bad", [-0.5, 1.2, nan, inf, 0.05])
    @pytest.mark.parametrize("n", [10, 20_000])
    def test_refuse_in_the_same_words(self, bad, n, monkeypatch):
        p, q = simplex((3, n), np.float64)
        p[1, 0] = bad if bad != 0.05 else p[1, 0] + bad
        for kind in (np.asarray, torch.tensor):
            for function in (*self.ONE, *self.TWO):
                given = [kind(p)] if function in self.ONE else [kind(q), kind(p)]
                with pytest.raises(ValueError, match="expected") as found:
                    function(*given)
                with pytest.raises(ValueError, match="expected") as wanted:
                    self.general(monkeypatch, function, *given)
                assert str(found.value) == str(wanted.value)
                with pytest.raises(ValueError, match="base = 1"):
                    entropy(kind(q), base=1)

    @pytest.mark.parametrize("counts", [[3, -1], [0.5, 1], [inf, 1], [nan, 1], [1.5, 2.5]])
    def test_refuse_what_is_no_count(self, counts):
        for kind in (np.array, torch.tensor):
            with pytest.raises(ValueError, match="expected a whole number"):
                entropy_from_counts(
                    kind(counts, dtype=np.float64 if kind is np.array else torch.float64)
                )

    @pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
    def test_step_aside(self):
        """For zeros, and for whatever is not only about values."""
        for kind in (np.array, partial(torch.tensor, dtype=torch.float64)):
            assert float(entropy(kind([0.5, 0.5, 0.0]))) == LOG2
            assert float(kl_divergence(kind([0.5, 0.5]), kind([1.0, 0.0]))) == inf
        p = grad_input([0.25, 0.75])
        assert entropy(p).requires_grad
        with torch.no_grad():
            assert not entropy(p).requires_grad
        tangent = torch.tensor([1.0, -1.0], dtype=torch.float64)
        rise = torch.func.jvp(entropy, (p.detach(),), (tangent,))[1]
        assert float(rise) == pytest.approx(math.log(3))
        with np.errstate(all="raise"):
            assert entropy([1.0, 1e-310]) > 0
            assert kl_divergence(np.array([1.0, 1e-200]), np.array([1e-300, 1.0])) > 600
