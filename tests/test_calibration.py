"""Calibration error and repair, against enumeration, quadrature, scipy and scikit-learn itself."""

import math
import pickle
import re
import subprocess
import sys
import tracemalloc
import warnings
from fractions import Fraction
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, log_softmax, softmax
from scipy.stats import norm
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV, calibration_curve
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import check_estimator

from celib import calibration
from celib.calibration import (
    IsotonicCalibration,
    PlattScaling,
    TemperatureScaling,
    VectorScaling,
    calibration_error,
    explain_ece,
    reliability_curve,
    smooth_ece,
)
from celib.calibration import error as binned

fixed = settings(derandomize=True, deadline=None, max_examples=60)
CALIBRATORS = [TemperatureScaling, VectorScaling, PlattScaling, IsotonicCalibration]


def value(*args, **options):
    return calibration_error(*args, resamples=0, **options).value


def by_hand(y, p, bins, power):
    """The error in exact fractions, a bin at a time."""
    total, greatest = Fraction(0), Fraction(0)
    for k in range(bins):
        low, high = Fraction(k, bins), Fraction(k + 1, bins)
        inside = [i for i, x in enumerate(p) if low < x <= high or (k == 0 and x == 0)]
        if inside:
            gap = abs(sum(y[i] - p[i] for i in inside)) / len(inside)
            greatest = max(greatest, gap)
            total += len(inside) * gap**power / len(p) if power < math.inf else 0
    return float(greatest) if power == math.inf else float(total) ** (1 / power)


@given(
    st.lists(st.tuples(st.integers(0, 64), st.booleans()), min_size=1, max_size=30),
    st.integers(1, 16),
    st.sampled_from([1, 2, math.inf]),
)
@fixed
def test_error_in_fractions(pairs, bins, power):
    p, y = [Fraction(k, 64) for k, _ in pairs], [int(b) for _, b in pairs]
    floats = [float(x) for x in p]
    expected = by_hand(y, p, bins, power)
    assert value(y, floats, bins=bins, norm=power) == pytest.approx(expected, abs=1e-15)
    assert value(y * 2, floats * 2, bins=bins, norm=power) == pytest.approx(expected, abs=1e-15)
    backwards = value(y[::-1], floats[::-1], bins=bins, norm=power)
    assert backwards == pytest.approx(expected, abs=1e-15)


def test_bad_answers_of_others():
    # 1 in a bin of its own makes this 1.0 and .525.
    assert value([1, 0], [0.0, 1.0], bins=1) == 0.0
    assert value([1, 0], [0.95, 1.0]) == pytest.approx(0.475, rel=1e-15)
    # p = 0 in no bin makes this 0.
    assert value([1, 1], [0.0, 0.0]) == 1.0
    # A count that stops at 2^24 makes this 0.
    n = 25_000_000
    y = np.zeros(n, dtype=np.uint8)
    y[: n * 3 // 4] = 1
    assert value(y, np.full(n, 0.875, dtype=np.float32)) == 0.125


def test_measuring_does_without_scikit_learn_and_torch():
    code = "import sys, celib.calibration as c; c.calibration_error([0, 1], [0.2, 0.7]); "
    check = "assert not {'sklearn', 'torch', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code + check], check=True)
    with pytest.raises(AttributeError, match="nothing"):
        _ = calibration.nothing


def test_edges_are_the_same_in_every_dtype():
    p = np.arange(11) / 10
    y = np.arange(11) % 2
    tables = [calibration_error(y, p.astype(t), bins=10).bins for t in ("f2", "f4", "f8")]
    for table in tables:
        assert table.count.tolist() == [2] + [1] * 9
    assert value(y, p.astype("f4"), bins=10) == pytest.approx(value(y, p, bins=10), abs=1e-7)


def test_table_and_effective_bins():
    result = calibration_error([0, 1, 1], [0.1, 0.15, 0.9], bins=5)
    assert result.n_bins_effective == 2
    assert result.edge_rule == "(a, b], 0 in the first"
    assert (result.kind, result.norm) == ("binary", "l1")
    table = result.bins
    assert table.count.tolist() == [2, 0, 0, 0, 1]
    assert table.lower.tolist() == [0, 0.2, 0.4, 0.6, 0.8]
    np.testing.assert_allclose(table.mean_prob, [0.125, np.nan, np.nan, np.nan, 0.9], rtol=1e-15)
    np.testing.assert_allclose(table.frequency, [0.5, np.nan, np.nan, np.nan, 1.0], rtol=1e-15)
    assert float(result) == pytest.approx((2 * 0.375 + 0.1) / 3, rel=1e-14)
    constant = calibration_error([0, 1, 1], [0.5, 0.5, 0.5], strategy="quantile")
    assert constant.n_bins_effective == 1
    assert constant.value == pytest.approx(1 / 6, rel=1e-15)


def test_kinds():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(4), 300)
    y = rng.integers(0, 4, 300)
    top = value(p.argmax(1) == y, p.max(1))
    assert value(y, p, kind="confidence") == pytest.approx(top, abs=1e-15)
    each = [value(y == k, p[:, k]) for k in range(4)]
    assert value(y, p, kind="classwise") == pytest.approx(np.mean(each), abs=1e-15)
    squares = [value(y == k, p[:, k], norm=2) ** 2 for k in range(4)]
    assert value(y, p, kind="classwise", norm="l2") == pytest.approx(np.mean(squares) ** 0.5)
    assert value(y, p, kind="classwise", norm="max") == pytest.approx(
        max(value(y == k, p[:, k], norm="max") for k in range(4))
    )
    q, hit = p[:, 0], (y == 0).astype(int)
    both = np.stack([1 - q, q], axis=1)
    assert value(hit, both, kind="binary") == value(hit, q)
    assert value(hit, both, kind="confidence") == pytest.approx(value(hit, q, kind="confidence"))
    # A class that never comes is no error of the input: its forecasts are too great.
    assert value([0, 0], [[0.5, 0.25, 0.25]] * 2, kind="classwise") == pytest.approx(1 / 3)
    quantile = calibration_error(y, p, kind="classwise", strategy="quantile", bins=3)
    assert quantile.bins.count.tolist() == [[100] * 3] * 4


def test_logits_are_said_not_guessed():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(50, 3))
    y = rng.integers(0, 3, 50)
    options = {"kind": "confidence", "bins": 5}
    assert value(y, logits=z, **options) == pytest.approx(value(y, softmax(z, 1), **options))
    odds = rng.random(50)
    assert value(y == 0, logits=odds) == pytest.approx(value(y == 0, expit(odds)))
    assert value(y == 0, logits=odds) != pytest.approx(value(y == 0, odds))
    with pytest.raises(ValueError, match="one of y_prob and logits"):
        calibration_error(y, softmax(z, 1), logits=z, kind="confidence")
    with pytest.raises(ValueError, match=r"logits\[1\] = nan"):
        calibration_error([0, 1], logits=[0.0, np.nan])


def test_weights_are_repetitions():
    rng = np.random.default_rng(0)
    p, y, w = rng.random(200), rng.integers(0, 2, 200), rng.integers(0, 4, 200)
    for norm_, strategy in product(("l1", "l2", "max"), ("uniform", "quantile")):
        options = {"norm": norm_, "strategy": strategy, "bins": 7}
        one = value(y, p, sample_weight=w, **options)
        assert one == pytest.approx(value(np.repeat(y, w), np.repeat(p, w), **options), abs=1e-14)
    same = calibration_error(y, p, sample_weight=np.ones(200))
    plain = calibration_error(y, p)
    assert (same.value, same.null_q95) == pytest.approx((plain.value, plain.null_q95), rel=1e-12)
    assert smooth_ece(y, p, sample_weight=w).value == pytest.approx(
        smooth_ece(np.repeat(y, w), np.repeat(p, w)).value, abs=1e-6
    )


def test_null_against_enumeration():
    p = np.array([0.2, 0.3, 0.6, 0.9])
    outcomes = list(product([0, 1], repeat=4))
    chance = np.array([np.prod(np.where(y, p, 1 - p)) for y in outcomes])
    errors = np.array([value(y, p, bins=2) for y in outcomes])
    result = calibration_error([0, 0, 1, 1], p, bins=2, resamples=20_000)
    assert result.null_mean == pytest.approx(chance @ errors, abs=0.003)
    assert chance[errors > result.null_q95 + 1e-12].sum() <= 0.05 + 0.005
    assert chance[errors >= result.null_q95 - 1e-12].sum() >= 0.05 - 0.005


def test_null_of_classes_against_enumeration():
    p = np.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [0.3, 0.4, 0.3]])
    outcomes = list(product(range(3), repeat=3))
    chance = [np.prod(p[range(3), y]) for y in outcomes]
    errors = [value(y, p, kind="classwise", bins=2) for y in outcomes]
    result = calibration_error([0, 1, 2], p, kind="classwise", bins=2, resamples=20_000)
    assert result.null_mean == pytest.approx(np.dot(chance, errors), abs=0.003)


@pytest.mark.parametrize(("n", "mean"), [(100, 0.082), (500, 0.037), (2000, 0.019)])
def test_null_of_a_calibrated_model(n, mean):
    rng = np.random.default_rng(0)
    forecasts = [rng.beta(5, 1, n) for _ in range(300)]
    errors = [value(rng.random(n) < p, p) for p in forecasts]
    found = [calibration_error(np.zeros(n), p, resamples=200) for p in forecasts[:20]]
    assert np.mean([r.null_mean for r in found]) == pytest.approx(mean, rel=0.04)
    assert np.mean([r.null_mean for r in found]) == pytest.approx(np.mean(errors), rel=0.05)
    q95 = np.quantile(errors, 0.95)
    assert np.mean([r.null_q95 for r in found]) == pytest.approx(q95, rel=0.08)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("shape", "bins"), [((5, 1), 15), ((1, 20), 15), ((0.3, 0.3), 1)])
def test_null_bin_by_bin_is_that_label_by_label(monkeypatch, shape, bins, weighted):
    rng = np.random.default_rng(0)
    p = rng.beta(*shape, 20_000)
    y = rng.random(20_000) < p
    w = rng.random(20_000) if weighted else None
    one = calibration_error(y, p, bins=bins, sample_weight=w)
    monkeypatch.setattr("celib.calibration.error._DRAWN", 0)
    two = calibration_error(y, p, bins=bins, sample_weight=w)
    assert two.null_mean == pytest.approx(one.null_mean, rel=0.1)
    assert two.null_q95 == pytest.approx(one.null_q95, rel=0.1)


def test_null_keeps_its_level():
    rng = np.random.default_rng(1)
    above, covered = [], []
    for seed in range(300):
        p = rng.beta(2, 1, 300)
        result = calibration_error(rng.random(300) < p, p, bins=10, resamples=200, seed=seed)
        above.append(result.value > result.null_q95)
        covered.append(result.ci[0] == 0)
    assert 0.02 <= np.mean(above) <= 0.09
    assert np.mean(covered) >= 0.94


def test_interval_covers():
    rng = np.random.default_rng(1)
    # No forecast is above its frequency: the binned error of the population has no kink.
    p = rng.beta(2, 1, 10**6)
    truth = np.mean(p - p**2)
    inside = []
    for seed in range(200):
        q = rng.beta(2, 1, 500)
        low, high = calibration_error(
            rng.random(500) < q**2, q, bins=10, resamples=200, seed=seed
        ).ci
        inside.append(low <= truth <= high)
        assert 0 <= low < high <= 1
    assert np.mean(inside) >= 0.85


def test_draws_are_seeded():
    p = np.random.default_rng(0).random(100)
    y = np.arange(100) % 2
    one, two, other = (calibration_error(y, p, seed=s) for s in (0, 0, 1))
    assert (one.null_mean, one.null_q95, one.ci) == (two.null_mean, two.null_q95, two.ci)
    assert one.null_mean != other.null_mean
    none = calibration_error(y, p, resamples=0)
    assert none.value == one.value
    assert np.isnan([none.null_mean, none.null_q95, *none.ci]).all()


def test_memory_beside_the_input():
    n = 2_000_000
    p = np.random.default_rng(0).random(n)
    y = np.zeros(n, dtype=np.int64)
    tracemalloc.start()
    calibration_error(y, p)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < p.nbytes


# The squared error without its bias


def test_debiased_square_of_every_sample():
    # Three reports in two bins, with these shares and frequencies.
    reports, share, rate = [0.1, 0.4, 0.8], np.array([0.5, 0.2, 0.3]), np.array([0.3, 0.2, 0.9])
    draws = [(p, y) for p in reports for y in (0, 1)]
    chance = np.stack([share * (1 - rate), share * rate], axis=1).ravel()
    mean = plug_in = 0.0
    for sample in product(range(6), repeat=4):
        p, y = zip(*[draws[k] for k in sample], strict=True)
        result = calibration_error(y, p, bins=2, norm="l2", resamples=0)
        mean += chance[list(sample)].prod() * result.debiased_square
        plug_in += chance[list(sample)].prod() * result.value**2
    held = np.array([0.7, 0.3])
    gap = np.array([(0.5 * 0.2 - 0.2 * 0.2) / 0.7, 0.1])
    # A bin that has one of the four predictions tells nothing.
    assert mean == pytest.approx(float((held * gap**2) @ (1 - (1 - held) ** 3)), abs=1e-15)
    assert plug_in > 5 * mean


def test_debiased_square_is_the_published_one_for_equal_reports():
    # The example of the authors' own tests: 1 of 4 at .5, 4 of 5 at .6.
    p, y = [0.5] * 4 + [0.6] * 5, [1, 0, 0, 0, 1, 1, 1, 1, 0]
    expected = 4 / 9 * (0.25**2 - 0.25 * 0.75 / 3) + 5 / 9 * (0.2**2 - 0.8 * 0.2 / 4)
    for norm_ in ("l1", "l2", "max"):
        result = calibration_error(y, p, bins=[0, 0.55, 1], norm=norm_, resamples=0)
        assert result.debiased_square == pytest.approx(expected, abs=1e-16)
    assert calibration_error([1], [0.3], resamples=0).debiased_square == 0.0
    assert calibration_error([0, 1], [0.5, 0.5], resamples=0).debiased_square == -0.25


def test_debiased_square_over_pairs():
    rng = np.random.default_rng(0)
    p, y, w = rng.dirichlet(np.ones(3), 60), rng.integers(0, 3, 60), rng.random(60)
    total = 0.0
    for k, b in product(range(3), range(5)):
        inside = np.ceil(5 * p[:, k]) == b + 1
        r, v = ((y == k) - p[:, k])[inside], w[inside]
        products, weights = np.outer(v * r, v * r), np.outer(v, v)
        apart = ~np.eye(r.size, dtype=bool)
        if r.size > 1:
            total += v.sum() / w.sum() / 3 * products[apart].sum() / weights[apart].sum()
    result = calibration_error(y, p, kind="classwise", bins=5, sample_weight=w, resamples=0)
    assert result.debiased_square == pytest.approx(total, abs=1e-15)


@pytest.mark.parametrize("seed", range(5))
def test_debiased_square_by_simulation(seed):
    # Reports with density 2 p that are right with frequency p^2.
    edges = np.arange(5) / 4
    held = np.diff(edges**2)
    gap = np.diff(2 / 3 * edges**3 - edges**4 / 2) / held
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(400):
        p = rng.beta(2, 1, 100)
        result = calibration_error(rng.random(100) < p**2, p, bins=4, norm=2, resamples=0)
        found.append((result.value**2, result.debiased_square))
    bias = np.mean(found, axis=0) - held @ gap**2
    error = np.std(found, axis=0) / 20
    assert bias[0] > 5 * error[0]
    assert abs(bias[1]) < 3.5 * error[1]


# Smooth calibration error


def smooth_by_quadrature(y, p, width):
    """The definition: images of each prediction beyond 0 and 1, and numerical integration."""
    y, p = np.asarray(y, dtype=float), np.asarray(p)
    shift = 2 * np.arange(-6, 7)[:, None]

    def density(t):
        kernel = norm.pdf(t - p + shift, scale=width) + norm.pdf(t + p + shift, scale=width)
        return abs(np.mean(kernel.sum(0) * (y - p)))

    parts = np.linspace(0, 1, 201)
    return sum(quad(density, a, b, limit=200)[0] for a, b in pairwise(parts))


@pytest.mark.parametrize("width", [0.03, 0.2, 1.0])
def test_smooth_error_against_quadrature(width):
    rng = np.random.default_rng(0)
    p = np.concatenate([rng.random(12), [0.0, 1.0]])
    y = rng.integers(0, 2, 14)
    expected = smooth_by_quadrature(y, p, width)
    assert smooth_ece(y, p, bandwidth=width).value == pytest.approx(expected, rel=2e-5)


def test_automatic_bandwidth_is_the_fixed_point():
    rng = np.random.default_rng(0)
    p = rng.random(400)
    y = rng.random(400) < p**2
    result = smooth_ece(y, p)
    assert result.bandwidth == pytest.approx(result.value, rel=1e-9)
    assert smooth_ece(y, p, bandwidth=result.value).value == pytest.approx(result.value, rel=1e-9)
    y = rng.random(400) < 0.5
    result = smooth_ece(y, p)
    narrow, wide = (smooth_ece(y, p, bandwidth=s * result.value).value for s in (0.5, 2))
    assert narrow > result.value > wide
    assert float(smooth_ece(y, p)) == result.value


def test_smooth_error_of_one_forecast_is_its_gap():
    # Smoothing spreads one residual without loss: it is the bandwidth, whatever the kernel.
    assert smooth_ece([1, 0, 0, 0], [0.5] * 4).value == pytest.approx(0.25, rel=1e-6)
    assert smooth_ece([1, 0], [1.0, 0.0]).value == 0.0
    assert smooth_ece([0, 1], [1.0, 0.0]).value > 0.45
    assert smooth_ece([0, 1], [0.5, 0.5]).value < 1e-9


def test_smooth_error_is_continuous():
    y = [0, 1]
    values = [float(smooth_ece(y, [0.5, 0.5 + d])) for d in np.linspace(-1e-4, 1e-4, 9)]
    assert max(values) < 0.01
    assert value(y, [0.5, 0.50001], bins=2) > 0.45


def test_smooth_error_of_classes():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(300, 3))
    y = rng.integers(0, 3, 300)
    p = softmax(z, 1)
    top = smooth_ece(p.argmax(1) == y, p.max(1)).value
    assert smooth_ece(y, p, kind="confidence").value == pytest.approx(top)
    assert smooth_ece(y, logits=z, kind="confidence").value == pytest.approx(top)
    with pytest.raises(ValueError, match="classwise"):
        smooth_ece(y, p, kind="classwise")
    with pytest.raises(ValueError, match="bandwidth = 0"):
        smooth_ece([0], [0.5], bandwidth=0)


# Conventions


def test_conventions_on_edges():
    # Votes of five trees: every forecast is an edge of five bins.
    rng = np.random.default_rng(0)
    p = rng.integers(0, 6, 500) / 5
    y = rng.random(500) < 0.1 + 0.8 * p**2
    rows = {row.name: row for row in explain_ece(y, p, bins=5)}
    assert list(rows) == ["celib", "torchmetrics", "netcal", "kumar", "guo", "sklearn", "relplot"]
    assert rows["celib"].value == pytest.approx(value(y, p, bins=5), abs=1e-15)
    assert rows["guo"].dropped == (p == 0).sum()
    assert rows["guo"].gap == pytest.approx(
        abs(value(y[p > 0], p[p > 0], bins=5)) * (p > 0).mean() - rows["celib"].value, abs=1e-12
    )
    assert rows["netcal"].moved > 0
    assert abs(rows["netcal"].gap) > 1e-3
    for row in rows.values():
        assert row.gap == row.value - rows["celib"].value
        assert ("bin" in row.reason.split(": ")[-1]) or row.gap == 0
    curve = calibration_curve(y, p, n_bins=5)
    used = np.unique(np.searchsorted(np.linspace(0, 1, 6)[1:-1], p), return_counts=True)[1]
    assert rows["sklearn"].value == pytest.approx(abs(curve[0] - curve[1]) @ used / 500, abs=1e-14)


# What torchmetrics 1.9.0, netcal 1.4.0, uncertainty-calibration 0.1.4, the loop of Guo et al. and
# relplot 1.0.3 returned for ten forecasts of each k / m, so many of them right.
MEASURED = [
    (5, 5, [3, 1, 5, 4, 9, 8], (0.166667, 0.1, 0.133333, 0.116667, 0.133333)),
    (
        10,
        10,
        [3, 1, 5, 4, 9, 8, 2, 7, 6, 10, 9],
        (0.209091, 0.136364, 0.209091, 0.181818, 0.154545),
    ),
    (3, 7, [3, 1, 5, 8], (0.225, 0.225, 0.225, 0.15, 0.225)),
    (1, 1, [10, 0], (1.0, 0.0, 0.0, 0.5, 1.0)),
]


@pytest.mark.parametrize(("m", "bins", "right", "expected"), MEASURED)
def test_conventions_are_those_of_the_libraries(m, bins, right, expected):
    p = np.repeat(np.arange(m + 1) / m, 10)
    y = np.concatenate([np.arange(10) < k for k in right])
    rows = {row.name: row.value for row in explain_ece(y, p, bins=bins)}
    names = ("torchmetrics", "netcal", "kumar", "guo", "relplot")
    assert [rows[name] for name in names] == pytest.approx(expected, abs=1e-6)


def test_conventions_agree_on_continuous_forecasts():
    rng = np.random.default_rng(0)
    p = rng.random(2000)
    y = rng.random(2000) < p
    for row in explain_ece(y, p):
        assert row.gap == pytest.approx(0, abs=1e-5)
        assert (row.moved, row.dropped) in {(0, 0), (row.moved, 0)}


# Curves


def test_reliability_curve():
    rng = np.random.default_rng(0)
    p = rng.random(500)
    y = rng.random(500) < p
    curve = reliability_curve(y, p, bins=8)
    frequency, mean = calibration_curve(y, p, n_bins=8)
    np.testing.assert_allclose(curve.frequency, frequency, rtol=1e-13)
    np.testing.assert_allclose(curve.mean_prob, mean, rtol=1e-13)
    assert ((curve.lower <= curve.frequency) & (curve.frequency <= curve.upper)).mean() >= 0.75
    assert curve.count.sum() == 500
    q = np.round(p, 1)
    smooth = reliability_curve(y, q, method="isotonic")
    expected = IsotonicRegression().fit(q, y).predict(np.unique(q))
    np.testing.assert_allclose(smooth.frequency, expected, rtol=1e-13)
    np.testing.assert_allclose(smooth.mean_prob, np.unique(q), rtol=1e-13)
    bare = reliability_curve(y, p, resamples=0)
    assert np.isnan(bare.lower).all()


@pytest.mark.parametrize("call", [calibration_error, smooth_ece, explain_ece, reliability_curve])
@pytest.mark.parametrize(
    ("y", "p", "message"),
    [
        ([0, 1], [0.5, np.nan], r"y_prob\[1\] = nan"),
        ([0, 1], [1.2, 0.5], r"y_prob\[0\] = 1.2"),
        ([], [], "y_prob is empty"),
        ([0, 2], [0.5, 0.5], r"y_true\[1\] = 2, expected a class from 0 to 1"),
        ([0, 0.5], [0.5, 0.5], r"y_true\[1\] = 0.5"),
        ([0], [0.5, 0.5], r"y_true has shape \(1,\), expected \(2,\)"),
        ([0, 1], [[0.5, 0.5], [0.5, 0.5]], "expected 'confidence' or 'classwise' or 'binary'"),
    ],
)
def test_refusals(call, y, p, message):
    with pytest.raises(ValueError, match=message):
        call(y, p)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: calibration_error([0], [0.5], norm=3), "norm = 3"),
        (lambda: calibration_error([0], [0.5], kind="top"), "kind = 'top'"),
        (lambda: calibration_error([0], [0.5], bins=0), "bins = 0"),
        (lambda: calibration_error([0], [0.5], resamples=-1), "resamples = -1"),
        (lambda: calibration_error([0]), "one of y_prob and logits"),
        (lambda: calibration_error([0], [[0.2, 0.3, 0.5]], kind="binary"), "two classes"),
        (lambda: calibration_error([3], [[0.2, 0.3, 0.5]], kind="confidence"), r"y_true\[0\] = 3"),
        (lambda: reliability_curve([0], [0.5], method="kernel"), "method = 'kernel'"),
    ],
)
def test_refusals_of_options(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# Repair


def sampled(n=3000, classes=4, temperature=2.0, seed=0):
    """Logits that are too far apart by a factor, and classes drawn from the right ones."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, classes)) * 2
    y = (z + rng.gumbel(size=z.shape)).argmax(1)
    return temperature * z, y


def nll(z, y):
    return -log_softmax(z, axis=1)[np.arange(len(y)), y].mean()


@pytest.mark.parametrize("temperature", [0.05, 0.3, 1.0, 5.3, 400.0, 1e8])
def test_temperature_is_the_optimum(temperature):
    z, y = sampled(500, 5, temperature)
    fit = TemperatureScaling().fit(z, y)
    found = minimize_scalar(
        lambda s: nll(z / temperature / np.exp(s), y), bounds=(-3, 3), options={"xatol": 1e-10}
    )
    assert fit.temperature_ == pytest.approx(temperature * np.exp(found.x), rel=1e-6)
    assert (fit.converged_, fit.at_bound_, fit.status_) == (True, False, "optimal")
    low, high = fit.bracket_
    assert low < 1 / fit.temperature_ < high
    assert high / low - 1 < 1e-10
    assert fit.derivative_[0] < 0 <= fit.derivative_[1]
    # The derivative by an independent way.
    step = 1e-4 / temperature
    for beta in (0.5 / temperature, 2 / temperature):
        slope = (nll((beta + step) * z, y) - nll((beta - step) * z, y)) / (2 * step)
        assert (slope > 0) == (beta > 1 / fit.temperature_)
    assert (fit.predict(z) == z.argmax(1)).all()


def test_binary_temperature_is_on_the_scale_of_log_odds():
    rng = np.random.default_rng(0)
    z = rng.normal(size=20_000) * 2
    y = rng.random(20_000) < expit(z)
    one = TemperatureScaling().fit(z, y)
    assert one.temperature_ == pytest.approx(1, abs=0.05)
    two = TemperatureScaling().fit(np.stack([np.zeros_like(z), z], axis=1), y)
    assert two.temperature_ == pytest.approx(one.temperature_, rel=1e-10)
    column = TemperatureScaling().fit(z[:, None], y)
    assert column.temperature_ == one.temperature_
    probs = TemperatureScaling(input="probs").fit(expit(z), y)
    assert probs.temperature_ == pytest.approx(one.temperature_, rel=1e-9)
    np.testing.assert_allclose(one.predict_proba(z)[:, 1], expit(z / one.temperature_), rtol=1e-13)


def test_separable_and_uninformative_data():
    z, _ = sampled(50)
    separable = TemperatureScaling().fit(z, z.argmax(1))
    assert (separable.status_, separable.at_bound_) == ("separable", True)
    assert not separable.converged_
    for labels in (z.argmin(1), (z.argmax(1) + 1) % 4):
        wrong = TemperatureScaling().fit(z, labels)
        assert (wrong.status_, wrong.at_bound_) == ("uninformative", True)
        assert wrong.temperature_ > 0
        np.testing.assert_allclose(wrong.predict_proba(z), 0.25, atol=1e-4)
    constant = TemperatureScaling().fit(np.zeros((4, 2)), [0, 1, 0, 1])
    assert constant.status_ == "uninformative"
    # A tie is separated as well: nothing is worse at a greater beta.
    tie = TemperatureScaling().fit([[1.0, 1.0], [0.0, 1.0]], [0, 1])
    assert (tie.status_, tie.temperature_ > 0) == ("separable", True)


def test_masked_classes():
    z, y = sampled(400, 3)
    masked = np.concatenate([z, np.full((400, 1), -np.inf)], axis=1)
    fit, plain = TemperatureScaling().fit(masked, y), TemperatureScaling().fit(z, y)
    assert fit.temperature_ == pytest.approx(plain.temperature_, rel=1e-12)
    assert (fit.predict_proba(masked)[:, 3] == 0).all()
    with pytest.raises(ValueError, match=r"y\[1\] = 3 has probability 0 in X\[1\]"):
        TemperatureScaling().fit(masked, [0, 3] * 200)
    with pytest.raises(ValueError, match=r"y\[0\] = 1 has probability 0"):
        TemperatureScaling(input="probs").fit([0.0, 0.5], [1, 0])


def test_vector_scaling_against_an_independent_optimiser():
    z, y = sampled(600, 3)
    z = z * [0.5, 1, 2] + [1, 0, -1]
    fit = VectorScaling().fit(z, y)
    found = minimize(lambda v: nll(v[:3] * z + v[3:], y), np.r_[np.ones(3), np.zeros(3)], tol=1e-9)
    np.testing.assert_allclose(fit.scale_, found.x[:3], atol=2e-4)
    np.testing.assert_allclose(fit.offset_, found.x[3:] - found.x[3:].mean(), atol=2e-4)
    assert fit.converged_
    assert not fit.at_bound_
    assert abs(fit.offset_.sum()) < 1e-12
    assert VectorScaling().fit(z, z.argmax(1)).at_bound_


def test_platt_scaling_against_logistic_regression():
    rng = np.random.default_rng(0)
    z = rng.normal(size=500) * 3
    y = (rng.random(500) < expit(0.5 * z - 1)).astype(int)
    fit = PlattScaling(prior=False).fit(z, y)
    peer = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(z[:, None], y)
    assert fit.slope_ == pytest.approx(peer.coef_[0], rel=1e-4)
    assert fit.offset_ == pytest.approx(peer.intercept_, rel=1e-4)
    assert fit.converged_
    # Platt's targets, as two weighted examples for each.
    plus, minus = y.sum(), 500 - y.sum()
    share = np.where(y == 1, (plus + 1) / (plus + 2), 1 / (minus + 2))
    peer.fit(np.r_[z, z][:, None], np.r_[np.ones(500), np.zeros(500)], np.r_[share, 1 - share])
    assert PlattScaling().fit(z, y).slope_ == pytest.approx(peer.coef_[0], rel=1e-4)
    with pytest.raises(ValueError, match="separated"):
        PlattScaling(prior=False).fit([-1.0, 0.5, 2.0], [0, 0, 1])
    several = PlattScaling().fit(*sampled(500))
    assert several.slope_.shape == (4,)
    assert several.converged_


def test_isotonic_calibration():
    rng = np.random.default_rng(0)
    p = rng.random(300)
    y = rng.random(300) < p**2
    fit = IsotonicCalibration(input="probs").fit(p, y)
    peer = IsotonicRegression(out_of_bounds="clip").fit(p, y)
    np.testing.assert_allclose(fit.transform(p), peer.predict(p), atol=1e-9)
    assert fit.transform(p).mean() == pytest.approx(y.mean(), rel=1e-9)
    assert (np.diff(fit.transform(np.sort(p))) >= 0).all()
    z, labels = sampled(400, 3)
    q = IsotonicCalibration().fit(z, labels).predict_proba(z)
    np.testing.assert_allclose(q.sum(1), 1, rtol=1e-14)


@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_repairs_overconfidence(calibrator):
    z, y = sampled(4000, 4, 3.0)
    fit = calibrator().fit(z[:2000], y[:2000])
    before = value(y[2000:], logits=z[2000:], kind="confidence")
    after = value(y[2000:], fit.predict_proba(z[2000:]), kind="confidence")
    assert before > 0.15
    assert after < 0.05
    if calibrator is VectorScaling:
        z = log_softmax(z, 1)
        fit = calibrator().fit(z[:2000], y[:2000])
    same = calibrator(input="probs").fit(softmax(z[:2000], 1), y[:2000])
    np.testing.assert_allclose(same.predict_proba(softmax(z, 1)), fit.predict_proba(z), atol=1e-4)


@pytest.mark.parametrize("calibrator", CALIBRATORS)
@pytest.mark.parametrize("kind", ["binary", "several"])
def test_weights_of_fits_are_repetitions(calibrator, kind):
    z, y = sampled(300, 3)
    if kind == "binary":
        z, y = z[:, 0], (y == 0).astype(int)
    w = np.random.default_rng(0).integers(0, 4, 300)
    one = calibrator().fit(z, y, sample_weight=w).predict_proba(z)
    two = calibrator().fit(np.repeat(z, w, axis=0), np.repeat(y, w)).predict_proba(z)
    np.testing.assert_allclose(one, two, atol=1e-5)


@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_shapes_and_pipeline(calibrator):
    z, y = sampled(200, 3)
    odds, hit = z[:, 0], (y == 0).astype(int)
    binary = calibrator().fit(odds, hit)
    assert binary.predict_proba(odds).shape == (200, 2)
    assert binary.transform(odds).shape == (200,)
    assert calibrator().fit(odds[:, None], hit).transform(odds[:, None]).shape == (200, 1)
    assert calibrator().fit(z, y).transform(z).shape == (200, 3)
    with pytest.raises(ValueError, match="expected 2 classes"):
        binary.predict_proba(z)
    steps = make_pipeline(FunctionTransformer(lambda x: x / 2), calibrator())
    scores = cross_val_score(steps, z, y, scoring="neg_log_loss", cv=3)
    assert np.isfinite(scores).all()
    assert np.median(scores) > -0.7
    copied = pickle.loads(pickle.dumps(clone(binary).fit(odds, hit)))
    np.testing.assert_array_equal(copied.predict_proba(odds), binary.predict_proba(odds))


@pytest.mark.parametrize(
    ("method", "calibrator"),
    [
        ("sigmoid", PlattScaling),
        ("isotonic", IsotonicCalibration),
        ("temperature", TemperatureScaling),
    ],
)
def test_against_calibrated_classifier(method, calibrator):
    pixels, digit = load_digits(return_X_y=True)
    target = digit if method == "temperature" else digit % 2
    model = LogisticRegression(max_iter=2000).fit(pixels[:300], target[:300])
    x, y = pixels[300:800], target[300:800]
    peer = CalibratedClassifierCV(FrozenEstimator(model), method=method).fit(x, y)
    scores = model.decision_function(x)
    ours = calibrator().fit(scores, y).predict_proba(scores)
    np.testing.assert_allclose(ours, peer.predict_proba(x), atol=1e-4)


def test_on_a_real_network():
    pixels, digit = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    order = rng.permutation(digit.size)
    train, held, test = order[:300], order[300:800], order[800:]
    noisy = np.where(rng.random(digit.size) < 0.2, rng.integers(0, 10, digit.size), digit)
    model = LogisticRegression(C=100, max_iter=300)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(pixels[train], noisy[train])
    z = model.decision_function(pixels)
    fit = TemperatureScaling().fit(z[held], noisy[held])
    assert fit.temperature_ > 2
    before = calibration_error(noisy[test], logits=z[test], kind="confidence", resamples=200)
    p = fit.predict_proba(z[test])
    after = calibration_error(noisy[test], p, kind="confidence", resamples=200)
    assert before.value > before.null_q95
    assert after.value < before.value / 2


@pytest.mark.parametrize("calibrator", CALIBRATORS)
@pytest.mark.parametrize(
    ("x", "y", "options", "message"),
    [
        ([[0.0, np.nan]], [0], {}, r"X\[0, 1\] = nan"),
        ([0.0, np.inf], [0, 1], {}, r"X\[1\] = inf"),
        ([0.5, 1.2], [0, 1], {"input": "probs"}, r"X\[1\] = 1.2"),
        ([0.5, 0.2], [0, 1], {"input": "odds"}, "input = 'odds'"),
        ([[0.0, 1.0], [1.0, 0.0]], [0, 2], {}, r"y\[1\] = 2, expected a class from 0 to 1"),
        ([[0.0, 1.0], [1.0, 0.0]], [0], {}, r"y has shape \(1,\)"),
        ([0.0, 1.0], [0, 0.5], {}, r"y\[1\] = 0.5"),
        ([[-np.inf, -np.inf], [0.0, 1.0]], [0, 1], {}, r"X\[0\] is -inf in every class"),
        ([], [], {}, "0 sample"),
    ],
)
def test_refusals_of_fits(calibrator, x, y, options, message):
    with pytest.raises(ValueError, match=message):
        calibrator(**options).fit(x, y)


@pytest.mark.parametrize("calibrator", CALIBRATORS[1:])
def test_a_missing_class_cannot_be_fitted(calibrator):
    with pytest.raises(ValueError, match="no example of class 1"):
        calibrator().fit([[0.0, 1.0, 2.0], [1.0, 0.0, 0.0]], [0, 2])
    with pytest.raises(ValueError, match="no example of class 0"):
        calibrator().fit([0.0, 1.0], [1, 1])


# The columns of X are the classes, in number and in order: checks with other data do not apply.
NOT_APPLICABLE = "expected a class from 0 to|has no example of class"
ASSUMING_FEATURES = {
    "check_classifiers_classes",
    "check_classifiers_one_label",
    "check_classifiers_train",
    "check_positive_only_tag_during_fit",
}


@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_estimator_checks_of_scikit_learn(calibrator):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(calibrator(), on_fail=None, on_skip=None)
    for result in results:
        if result["status"] == "failed" and result["check_name"] not in ASSUMING_FEATURES:
            assert re.search(NOT_APPLICABLE, str(result["exception"])), result
    assert sum(result["status"] == "passed" for result in results) >= 40


@pytest.mark.parametrize("compiled", [True, False], ids=["numba", "numpy"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bins", [1, 2, 3, 7, 10, 15, 49, 100, 1000])
def test_counts_at_the_edges(compiled, dtype, bins, monkeypatch):
    # Each edge k / bins as a float, and its neighbours: no more than one rounding apart.
    if compiled and not binned._NUMBA:
        pytest.skip("numba is not installed")
    monkeypatch.setattr(binned, "_NUMBA", compiled)
    monkeypatch.setattr(binned, "_BLOCK", 2)
    edges = (np.arange(bins + 1) / bins).astype(dtype)
    near = [edges, np.nextafter(edges, dtype(2)), np.nextafter(edges, dtype(-1)), [0, 0.5, 1]]
    p = np.unique(np.concatenate(near).astype(dtype).clip(0, 1))
    hit = np.arange(p.size) % 3 == 0
    wanted = np.zeros((bins, 2, 3))
    for q, h in zip(p.tolist(), hit.tolist(), strict=True):
        b = max(next(k for k in range(bins + 1) if q <= edges[k]) - 1, 0)
        wanted[b, int(h)] += 1, q, q * q
    found = binned._table(p, hit, None, edges)
    np.testing.assert_allclose(
        found[..., [binned.COUNT, binned.WP, binned.W2P2]], wanted, rtol=1e-14
    )
    np.testing.assert_array_equal(found[..., binned.W], found[..., binned.W2])
    np.testing.assert_array_equal(found[..., binned.WP], found[..., binned.W2P])
