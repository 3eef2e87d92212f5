"""Calibration error against enumeration, quadrature, scikit-learn, and recorded other libraries."""

import json
import math
import numbers
import pickle
import subprocess
import sys
import tracemalloc
from copy import deepcopy
from fractions import Fraction
from itertools import pairwise, product

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.sparse import csr_matrix
from scipy.special import expit, softmax
from scipy.stats import norm
from sklearn.calibration import calibration_curve
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import make_scorer
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from celib import calibration
from celib.calibration import (
    CalibrationTable,
    calibration_error,
    decompose,
    explain_ece,
    null,
    reliability_curve,
    smooth_ece,
)
from celib.calibration import bins as bins_module
from celib.calibration import curve as curve_module
from celib.calibration.bins import bin_edges, table
from celib.scoring import brier_score, log_score

fixed = settings(derandomize=True, deadline=None, max_examples=60)


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
    for one in tables:
        assert one.count.tolist() == [2] + [1] * 9
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
    odds[0] = -1e-9  # so that not all of them look like probabilities
    assert value(y == 0, logits=odds) == pytest.approx(value(y == 0, expit(odds)))
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
    monkeypatch.setattr("celib.calibration.null.DRAWN", 0)
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
    with pytest.raises(ValueError, match="kind = 'classwise': expected 'binary'"):
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
        (0.209091, 0.136364, 0.209091, 0.163636, 0.154545),
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


def recorded_sample(kind, dtype):
    """Forecasts of which many are edges, as the libraries got them."""
    k = np.arange(60)
    if kind == "binary":
        return (k * k + k) % 7 % 2, (7 * k % 31 / 30).astype(dtype)
    a, b = k % 11 / 20, 3 * k % 10 / 20
    rows = np.stack([a, b, 1 - a - b], axis=1)
    return (rows.argmax(1) + (k % 5 < 2)) % 3, rows.astype(dtype)


# What these returned for recorded_sample: torchmetrics 1.9.0 (binary_calibration_error and
# multiclass_calibration_error), netcal 1.4.0, uncertainty-calibration 0.1.4, the loop of Guo et al.
# with torch 2.13.0, scikit-learn 1.9.1, and relplot 1.0.3, with NumPy 2.4.6 and SciPy 1.17.1.
LIBRARIES = ("torchmetrics", "netcal", "kumar", "guo", "sklearn", "relplot")
RECORDED = [
    ("binary", "float16", 5, (0.377197, 0.360474, 0.363883, 0.360510, 0.363883, 0.377214)),
    ("binary", "float16", 7, (0.364014, 0.363826, 0.363892, 0.369409, 0.363892, 0.363892)),
    ("binary", "float16", 10, (0.376953, 0.361709, 0.363892, 0.360543, 0.363892, 0.377214)),
    ("binary", "float16", 30, (0.430420, 0.397152, 0.412769, 0.413884, 0.412769, 0.430550)),
    ("binary", "float32", 5, (0.377222, 0.377222, 0.377222, 0.360556, 0.377222, 0.377222)),
    ("binary", "float32", 7, (0.363889, 0.363889, 0.363889, 0.369444, 0.363889, 0.363889)),
    ("binary", "float32", 10, (0.377222, 0.369111, 0.377222, 0.360556, 0.377222, 0.377222)),
    ("binary", "float32", 30, (0.417222, 0.422778, 0.430556, 0.413889, 0.430556, 0.426111)),
    ("binary", "float64", 5, (0.377222, 0.377222, 0.363889, 0.360556, 0.363889, 0.377222)),
    ("binary", "float64", 7, (0.363889, 0.363889, 0.363889, 0.369444, 0.363889, 0.363889)),
    ("binary", "float64", 10, (0.377222, 0.377222, 0.363889, 0.360556, 0.363889, 0.377222)),
    ("binary", "float64", 30, (0.430556, 0.430556, 0.428333, 0.413889, 0.428333, 0.430556)),
    ("confidence", "float16", 5, (0.118376, 0.174645, 0.118376, 0.118331, 0.118376, 0.118376)),
    ("confidence", "float16", 7, (0.121712, 0.118359, 0.118376, 0.118286, 0.118376, 0.121712)),
    ("confidence", "float16", 10, (0.143343, 0.185675, 0.143343, 0.143274, 0.143343, 0.146680)),
    ("confidence", "float16", 30, (0.146680, 0.118327, 0.146680, 0.146680, 0.146680, 0.146680)),
    ("confidence", "float32", 5, (0.118333, 0.118333, 0.118333, 0.118333, 0.118333, 0.118333)),
    ("confidence", "float32", 7, (0.121667, 0.118333, 0.118333, 0.118333, 0.118333, 0.118333)),
    ("confidence", "float32", 10, (0.146667, 0.132743, 0.143333, 0.143333, 0.143333, 0.146667)),
    ("confidence", "float32", 30, (0.146667, 0.136667, 0.146667, 0.146667, 0.146667, 0.146667)),
    ("confidence", "float64", 5, (0.118333, 0.091667, 0.091667, 0.118333, 0.118333, 0.091667)),
    ("confidence", "float64", 7, (0.121667, 0.118333, 0.118333, 0.118333, 0.118333, 0.121667)),
    ("confidence", "float64", 10, (0.146667, 0.176667, 0.143333, 0.143333, 0.143333, 0.180000)),
    ("confidence", "float64", 30, (0.146667, 0.186667, 0.183333, 0.146667, 0.183333, 0.180000)),
]


@pytest.mark.parametrize(("kind", "dtype", "bins", "expected"), RECORDED)
def test_conventions_follow_the_dtype(kind, dtype, bins, expected):
    y, p = recorded_sample(kind, dtype)
    rows = {row.name: row.value for row in explain_ece(y, p, kind=kind, bins=bins)}
    found = dict(zip(LIBRARIES, (rows[name] for name in LIBRARIES), strict=True))
    assert found == pytest.approx(dict(zip(LIBRARIES, expected, strict=True)), abs=1e-6)
    assert rows["celib"] == pytest.approx(value(y, p, kind=kind, bins=bins), abs=1e-15)


@pytest.mark.parametrize(("bins", "expected"), [(1, 0.16650390625), (2, 0.2509765625)])
def test_sums_of_torchmetrics_in_float16(bins, expected):
    # torchmetrics 1.9.0 with torch 2.13.0; sums that are rounded to float16 at each step are off.
    k = np.arange(3000)
    rows = explain_ece(k % 3 == 0, (7 * k % 3001 / 3001).astype(np.float16), bins=bins)
    assert rows[1].value == expected


def test_edges_of_torchmetrics():
    # Its edge is the float64 next to 0.3, and 0.3 below it: both forecasts are in one bin.
    rows = {row.name: row.value for row in explain_ece([0, 1], [0.3, 0.35], bins=10)}
    assert rows["torchmetrics"] == pytest.approx(0.475, abs=1e-15)
    # What torch.linspace(0, 1, n + 1) returns, in every dtype.
    for bins, (name, dtype) in product((1, 2, 7, 15, 20, 49, 100), torch_dtypes()):
        edges = calibration.conventions._linspace_of_torch(bins, np.dtype(name))
        expected = torch.linspace(0, 1, bins + 1, dtype=dtype).numpy()
        np.testing.assert_array_equal(edges, expected, err_msg=f"{bins} bins in {name}")


def torch_dtypes():
    return [(name, getattr(torch, name)) for name in ("float16", "float32", "float64")]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("bins", [1, 3, 5, 10, 20, 49])
def test_the_row_of_scikit_learn_is_scikit_learn(dtype, bins):
    rng = np.random.default_rng(bins)
    p = np.concatenate([rng.random(300), rng.integers(0, bins + 1, 300) / bins]).astype(dtype)
    y = rng.random(600) < p
    frequency, mean = calibration_curve(y, p, n_bins=bins)
    edges = np.linspace(0, 1, bins + 1)[1:-1]
    count = np.bincount(np.searchsorted(edges, p))
    expected = abs(frequency - mean) @ count[count > 0] / 600
    rows = {row.name: row.value for row in explain_ece(y, p, bins=bins)}
    assert rows["sklearn"] == pytest.approx(expected, abs=1e-13)


def test_weights_of_conventions_are_repetitions():
    rng = np.random.default_rng(0)
    p, y, w = rng.integers(0, 6, 80) / 5, rng.integers(0, 2, 80), rng.integers(0, 4, 80)
    one = explain_ece(y, p, bins=5, sample_weight=w)
    two = explain_ece(np.repeat(y, w), np.repeat(p, w), bins=5)
    for a, b in zip(one, two, strict=True):
        assert a.value == pytest.approx(b.value, abs=1e-14), a.name


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
        ([], [], r"y_prob has shape \(0,\): expected at least one number"),
        ([0, 2], [0.5, 0.5], r"y_true\[1\] = 2: expected a class from 0 to 1"),
        ([0, 0.5], [0.5, 0.5], r"y_true\[1\] = 0.5"),
        ([0], [0.5, 0.5], r"y_true has shape \(1,\): expected \(2,\)"),
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
        (
            lambda: calibration_error([0], [0.5], bins=[0, math.nan, 1]),
            r"bins\[1\] = nan: expected",
        ),
        (lambda: calibration_error([0], [0.5], bins=[0.1, 1]), r"bins\[0\] = 0.1: expected 0"),
        (lambda: calibration_error([0], logits=[[1, 1, 2]]), "kind = None: expected 'confidence'"),
        (lambda: calibration_error([0], logits=[[[1.0]]]), r"logits has shape \(1, 1, 1\)"),
        (
            lambda: calibration_error([0], logits=[[-math.inf] * 2], kind="binary"),
            r"logits\[0, 0\] = -inf: expected a logit of a softmax",
        ),
        (lambda: smooth_ece([0], [0.5], resamples=-1), "resamples = -1"),
        (lambda: explain_ece([0], [0.5], bins=0), "bins = 0"),
        (lambda: calibration_error([0], [0.5], resamples=-1), "resamples = -1"),
        (lambda: calibration_error([0]), "one of y_prob and logits"),
        (
            lambda: calibration_error([0], [[0.2, 0.3, 0.5]], kind="binary"),
            r"kind = 'binary': expected 'confidence' or 'classwise' for",
        ),
        (lambda: calibration_error([3], [[0.2, 0.3, 0.5]], kind="confidence"), r"y_true\[0\] = 3"),
        (lambda: reliability_curve([0], [0.5], method="kernel"), "method = 'kernel'"),
    ],
)
def test_refusals_of_options(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: calibration_error([0], [0.5], bins=2.5),
            "bins is of type float: expected a whole",
        ),
        (lambda: calibration_error([0], [0.5], resamples=1.5), "resamples is of type float"),
        (lambda: smooth_ece([0], [0.5], bandwidth="wide"), "bandwidth is of type str"),
        (lambda: calibration_error(["a"], [0.5]), "y_true has dtype"),
        (lambda: calibration_error([0], logits=[1j]), "logits has dtype complex128"),
        (lambda: CalibrationTable(bins="ten"), "bins is of type str"),
    ],
)
def test_refusals_of_types(call, message):
    with pytest.raises(TypeError, match=message):
        call()


def test_edges():
    assert bin_edges(np.zeros(1), 10, "uniform", None)[3] == 0.3
    assert bin_edges(np.zeros(1, np.float32), 10, "uniform", None).dtype == np.float32
    p = np.arange(1, 13) / 12
    edges = bin_edges(p, 4, "quantile", None)
    assert edges.tolist() == [0, 3 / 12, 6 / 12, 9 / 12, 1]
    assert all(((p > a) & (p <= b)).sum() == 3 for a, b in pairwise(edges))
    np.testing.assert_array_equal(bin_edges(p, 4, "quantile", np.ones(12)), edges)
    assert bin_edges(np.full(9, 0.5), 4, "quantile", None).tolist() == [0, 0.5, 1]


@pytest.mark.parametrize("compiled", [True, False], ids=["numba", "numpy"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bins", [1, 2, 3, 7, 10, 15, 49, 100, 1000])
def test_counts_at_the_edges(compiled, dtype, bins, monkeypatch):
    # Each edge k / bins as a float, and its neighbours: no more than one rounding apart.
    if compiled and not bins_module._NUMBA:
        pytest.skip("numba is not installed")
    monkeypatch.setattr(bins_module, "_NUMBA", compiled)
    monkeypatch.setattr(bins_module, "_BLOCK", 2)
    edges = (np.arange(bins + 1) / bins).astype(dtype)
    near = [edges, np.nextafter(edges, dtype(2)), np.nextafter(edges, dtype(-1)), [0, 0.5, 1]]
    p = np.unique(np.concatenate(near).astype(dtype).clip(0, 1))
    hit = np.arange(p.size) % 3 == 0
    wanted = np.zeros((bins, 2, 3))
    for q, h in zip(p.tolist(), hit.tolist(), strict=True):
        b = max(next(k for k in range(bins + 1) if q <= edges[k]) - 1, 0)
        wanted[b, int(h)] += 1, q, q * q
    found = table(p, hit, None, edges)
    np.testing.assert_allclose(
        found[..., [bins_module.COUNT, bins_module.WP, bins_module.W2P2]], wanted, rtol=1e-14
    )
    np.testing.assert_array_equal(found[..., bins_module.W], found[..., bins_module.W2])
    np.testing.assert_array_equal(found[..., bins_module.WP], found[..., bins_module.W2P])


# A result is a number


def results():
    rng = np.random.default_rng(0)
    p = rng.random(100)
    y = rng.random(100) < p**2
    return [calibration_error(y, p, resamples=50), smooth_ece(y, p, resamples=10)]


@pytest.mark.parametrize("result", results(), ids=lambda r: type(r).__name__)
def test_a_result_behaves_as_its_value(result):
    plain = result.value
    assert type(plain) is float
    assert isinstance(result, numbers.Number)
    assert result == plain
    assert hash(result) == hash(plain)
    assert result < plain + 1
    assert sorted([1.0, result, 0.0])[1] is result
    assert type(-1 * result) is type(result + 1) is type(abs(result)) is float
    assert round(result, 3) == round(plain, 3)
    assert f"{result:.3f}" == f"{plain:.3f}"
    assert f"{result}" == str(result) == str(plain)
    assert json.dumps([result]) == f"[{plain}]"
    assert np.asarray([result, 1.0]).dtype == np.float64
    assert np.mean([result, result]) == plain
    assert float(torch.tensor(result, dtype=torch.float64)) == plain
    assert pd.Series([result]).dtype == np.float64
    for copied in (pickle.loads(pickle.dumps(result)), deepcopy(result)):
        assert type(copied) is type(result)
        assert (copied.value, copied.null_q95) == (plain, result.null_q95)
    assert repr(result).startswith(f"{type(result).__name__}(value={plain!r}, ")
    assert "array" not in repr(result)
    with pytest.raises(AttributeError):
        result.value = 0.0


def test_errors_in_model_selection():
    x, y = load_breast_cancer(return_X_y=True)
    model = make_pipeline(StandardScaler(), LogisticRegression())
    scorers = {
        metric.__name__: make_scorer(
            metric, greater_is_better=False, response_method="predict_proba", resamples=0
        )
        for metric in (calibration_error, smooth_ece)
    }
    found = cross_validate(model, x, y, cv=3, scoring=scorers)
    split = np.arange(y.size) % 2 == 0
    fitted = model.fit(x[split], y[split])
    by_hand = calibration_error(y[~split], fitted.predict_proba(x[~split])[:, 1], resamples=0)
    assert scorers["calibration_error"](fitted, x[~split], y[~split]) == -by_hand
    for name in scorers:
        assert found[f"test_{name}"].dtype == np.float64
        assert (found[f"test_{name}"] < 0).all(), name
    grid = {"logisticregression__C": [1e-4, 1.0]}
    search = GridSearchCV(model, grid, cv=3, scoring=scorers["calibration_error"]).fit(x, y)
    assert search.best_params_["logisticregression__C"] == 1.0
    x, y = load_digits(return_X_y=True)
    top = make_scorer(
        calibration_error,
        greater_is_better=False,
        response_method="predict_proba",
        kind="confidence",
    )
    model = make_pipeline(StandardScaler(), LogisticRegression())
    assert -0.2 < top(model.fit(x[:300], y[:300]), x[300:], y[300:]) < 0


ALL = [calibration_error, smooth_ece, explain_ece, reliability_curve, decompose]


def number_of(result):
    """What is compared of a result."""
    if isinstance(result, list):
        return [row.value for row in result]
    return getattr(result, "frequency", getattr(result, "miscalibration", result))


@pytest.mark.parametrize("call", [*ALL, log_score, brier_score])
def test_containers(call):
    rng = np.random.default_rng(0)
    p = rng.random(80).astype(np.float32).astype(np.float64)
    y, w = (rng.random(80) < p).astype(int), rng.random(80)
    expected = number_of(call(y, p, sample_weight=w))
    tensor = torch.tensor(p)
    for name, labels, forecasts, weights in (
        ("lists", y.tolist(), p.tolist(), w.tolist()),
        ("tensors", torch.tensor(y), tensor.clone().requires_grad_(), torch.tensor(w)),
        ("pandas", pd.Series(y, dtype="Int64"), pd.Series(p), pd.Series(w, dtype="Float64")),
        ("polars", pl.Series(y), pl.Series(p), pl.Series(w)),
        ("frames", pd.DataFrame({"y": y}), pl.DataFrame({"p": p}), w[:, None]),
        ("big-endian", y.astype(">i4"), p.astype(">f8"), w.astype(">f8")),
        ("backwards", y[::-1].copy()[::-1], p[::-1].copy()[::-1], w[::-1].copy()[::-1]),
    ):
        found = number_of(call(labels, forecasts, sample_weight=weights))
        np.testing.assert_allclose(found, expected, rtol=1e-12, err_msg=name)
    assert np.array_equal(number_of(call(y, y_proba=p)), number_of(call(y, p)), equal_nan=True)
    hidden = np.ma.array(p, mask=np.arange(80) == 3)
    for name, forecasts, message in (
        ("masked", hidden, "y_prob is a masked array, with 1 masked entries"),
        ("sparse", csr_matrix(p), "y_prob is of type csr_matrix: expected a dense array"),
        ("meta", torch.tensor(p, device="meta"), "y_prob is a tensor that holds no values"),
        ("lazy", pl.DataFrame({"p": p}).lazy(), "y_prob is of type LazyFrame"),
        ("text", [str(x) for x in p], "y_prob has dtype <U"),
    ):
        try:
            with pytest.raises((TypeError, ValueError), match=message):
                call(y, forecasts)
        except BaseException as error:
            error.add_note(name)
            raise


@pytest.mark.parametrize("call", ALL)
def test_rounding_of_narrow_dtypes_is_no_mistake(call):
    p = torch.softmax(torch.randn(200, 2, generator=torch.manual_seed(0)).bfloat16(), 1)
    y = np.arange(200) % 2
    for rows in (p, p.double(), p.tolist(), p.float().numpy()):
        options = {} if call is decompose else {"kind": "binary"}
        call(y, rows, **options)
        call(y, rows[:, 1].tolist() if hasattr(rows, "shape") else [r[1] for r in rows])
    call([0, 1], [0.5, 1 + 2**-52])


@pytest.mark.parametrize("call", [calibration_error, smooth_ece, explain_ece, reliability_curve])
def test_probabilities_that_are_called_logits(call):
    p = np.random.default_rng(0).random(50)
    y = np.arange(50) % 2
    with pytest.warns(UserWarning, match=r"every value of logits.*\[0, 1\].*pass them as y_prob"):
        call(y, logits=p)
    call(y, logits=p - 0.5)
    call(y, p)
    with pytest.warns(UserWarning, match="every value of logits"):
        CalibrationTable().update(y, logits=p)


# Weights of curves, and their bands


@pytest.mark.parametrize("method", ["binned", "isotonic"])
def test_weights_of_curves_are_repetitions(method):
    rng = np.random.default_rng(0)
    p, y, w = rng.integers(0, 21, 300) / 20, rng.integers(0, 2, 300), rng.integers(0, 4, 300)
    one = reliability_curve(y, p, method=method, sample_weight=w, bins=7)
    two = reliability_curve(np.repeat(y, w), np.repeat(p, w), method=method, bins=7)
    np.testing.assert_allclose(one.mean_prob, two.mean_prob, rtol=1e-13)
    np.testing.assert_allclose(one.frequency, two.frequency, rtol=1e-13, atol=1e-15)
    plain = reliability_curve(y, p, method=method, bins=7)
    same = reliability_curve(y, p, method=method, bins=7, sample_weight=np.full(300, 2.0))
    for name in ("lower", "upper", "lower_all", "upper_all"):
        a, b = getattr(plain, name), getattr(same, name)
        np.testing.assert_allclose(a, b, atol=0.08, err_msg=name)
    # Few heavy predictions are as uncertain as few predictions.
    heavy = reliability_curve(y, p, method=method, bins=7, sample_weight=1 + 999.0 * (w == 3))
    assert (heavy.upper - heavy.lower).mean() > 1.3 * (plain.upper - plain.lower).mean()


@pytest.mark.parametrize(
    ("n", "shape", "options"),
    [
        (400, (1, 1), {"bins": 10}),
        (400, (1, 12), {"bins": 15}),
        (3000, (5, 1), {"bins": 15}),
        (3000, (5, 1), {"bins": 15, "strategy": "quantile"}),
        (3000, (1, 1), {"bins": 10, "weighted": True}),
        (400, (1, 1), {"bins": 100}),
        (400, (1, 1), {"method": "isotonic"}),
        (3000, (5, 1), {"method": "isotonic"}),
    ],
)
def test_bands_hold_what_they_say(n, shape, options):
    rng = np.random.default_rng(3)
    p = rng.beta(*shape, n)
    weighted = options.pop("weighted", False)
    w = rng.random(n) if weighted else None
    curve = reliability_curve(rng.random(n) < p, p, sample_weight=w, **options)
    assert (curve.lower_all <= curve.lower).all()
    assert (curve.upper_all >= curve.upper).all()
    point, whole = [], []
    for _ in range(400):
        again = reliability_curve(
            rng.random(n) < p, p, sample_weight=w, resamples=0, **options
        ).frequency
        inside = (curve.lower <= again) & (again <= curve.upper)
        point.append(inside.mean())
        whole.append(((curve.lower_all <= again) & (again <= curve.upper_all)).all())
    assert np.mean(point) >= 0.93
    assert 0.91 <= np.mean(whole) <= 0.99


def test_bins_of_few_predictions_are_drawn_from_their_distribution():
    """Against all outcomes, enumerated: also bins of one prediction, and certain ones."""
    rng = np.random.default_rng(0)
    sizes, draws = (1, 2, 9, 5), 200_000
    cell = np.repeat([0, 2, 3, 5], sizes)
    p = np.r_[0.3, 0.0, 1.0, rng.random(9), rng.random(5)]
    order = rng.permutation(p.size)
    found = null._of_few(rng, p[order], cell[order], 6, draws)
    assert found.shape == (draws, 6)
    assert not found[:, [1, 4]].any()
    for k, n in zip([0, 2, 3, 5], sizes, strict=True):
        chance = np.zeros(n + 1)
        for outcome in product([0, 1], repeat=n):
            chance[sum(outcome)] += np.prod(np.where(outcome, p[cell == k], 1 - p[cell == k]))
        share = np.bincount(found[:, k].astype(int), minlength=n + 1) / draws
        np.testing.assert_allclose(share, chance, atol=5 * 0.5 / np.sqrt(draws))
    # The bins are independent: their order is not that of the numbers.
    assert abs(np.corrcoef(found[:, 3], found[:, 5])[0, 1]) < 5 / np.sqrt(draws)


def test_quantiles_of_bands_are_those_of_numpy():
    drawn = np.sort(np.random.default_rng(0).random((3, 41)))
    for share in (0.025, 0.5, 0.975, 1.0):
        found = curve_module._quantile(drawn, share)
        np.testing.assert_allclose(found, np.quantile(drawn, share, axis=1), rtol=1e-14)
    np.testing.assert_array_equal(curve_module._quantile(drawn[:, :1], 0.025), drawn[:, 0])


def test_bands_of_many_predictions():
    rng = np.random.default_rng(0)
    p = rng.beta(0.7, 0.7, 40_000)
    y = rng.random(40_000) < p
    for method in ("binned", "isotonic"):
        many = reliability_curve(y, p, method=method, resamples=300)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(null, "DRAWN", 10**9)
            patch.setattr(null, "SMALL", 10**9)
            exact = reliability_curve(y, p, method=method, resamples=300)
        for name in ("lower", "upper", "lower_all", "upper_all"):
            gap = getattr(many, name) - getattr(exact, name)
            assert np.sqrt(np.mean(gap**2)) < 0.004, (method, name)


# Batches


@pytest.mark.parametrize(
    ("kind", "bins", "norm", "weighted"),
    [
        ("binary", 15, "l1", False),
        ("binary", [0, 0.3, 0.7, 1], "l2", True),
        ("confidence", 10, "max", False),
        ("classwise", 7, "l1", True),
    ],
)
def test_table_of_batches(kind, bins, norm, weighted):
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(3), 5000).astype(np.float32)
    y = rng.integers(0, 3, 5000)
    if kind == "binary":
        p, y = p[:, 0], y == 0
    w = rng.random(5000) if weighted else None
    whole = calibration_error(y, p, kind=kind, bins=bins, norm=norm, sample_weight=w)
    tables = [CalibrationTable(bins=bins, kind=kind) for _ in range(2)]
    for k, batch in enumerate(np.split(np.arange(5000), [1, 700, 4000])):
        part = None if w is None else w[batch]
        tables[k % 2].update(y[batch], p[batch], sample_weight=part)
    empty = CalibrationTable(bins=bins, kind=kind)
    found = (tables[0] + empty + tables[1]).error(norm=norm)
    assert found.value == pytest.approx(whole.value, rel=1e-12)
    assert found.debiased_square == pytest.approx(whole.debiased_square, rel=1e-9)
    assert found.null_q95 == pytest.approx(whole.null_q95, rel=0.15)
    for name in ("lower", "upper", "count", "weight", "mean_prob", "frequency"):
        a, b = getattr(found.bins, name), getattr(whole.bins, name)
        np.testing.assert_allclose(a, b, rtol=1e-12, err_msg=name)
    assert (found.kind, found.norm) == (whole.kind, whole.norm)
    # Nothing was added to the parts.
    assert tables[0].error().bins.count.sum() < whole.bins.count.sum()


def test_refusals_of_tables():
    with pytest.raises(ValueError, match="the table is empty"):
        CalibrationTable().error()
    with pytest.raises(ValueError, match="the tables have other bins"):
        CalibrationTable(bins=3) + CalibrationTable(bins=4)
    with pytest.raises(ValueError, match="kind = 'top'"):
        CalibrationTable(kind="top")
    with pytest.raises(ValueError, match="bins = 0: expected a whole number from 1 on"):
        CalibrationTable(bins=0)
    with pytest.raises(TypeError):
        CalibrationTable() + 1
    one = CalibrationTable().update([0, 1], y_proba=[0.2, 0.7])
    with pytest.raises(TypeError, match="expected one of y_prob and y_proba"):
        one.update([0, 1], [0.2, 0.7], y_proba=[0.2, 0.7])
    two = CalibrationTable(kind="classwise").update([0, 1], [[0.5, 0.5], [0.1, 0.9]])
    with pytest.raises(ValueError, match="the tables are of kind 'binary' and 'classwise'"):
        one + two
    with pytest.raises(ValueError, match="of kind 'confidence' and 'binary'"):
        CalibrationTable(kind="confidence") + one
    with pytest.raises(ValueError, match="predictions of kind 'classwise' in 3 columns"):
        two.update([0, 1], [[0.5, 0.25, 0.25], [0.125, 0.875, 0.0]])
    with pytest.raises(ValueError, match=r"y_prob\[0\] = 1.5"):
        one.update([0], [1.5])
    assert one.error(resamples=0).bins.count.sum() == 2


# The null of the smooth error


def test_null_of_the_smooth_error_against_enumeration():
    p = np.array([0.2, 0.3, 0.6, 0.9])
    outcomes = list(product([0, 1], repeat=4))
    chance = np.array([np.prod(np.where(y, p, 1 - p)) for y in outcomes])
    for bandwidth in (None, 0.1):
        errors = np.array(
            [smooth_ece(y, p, bandwidth=bandwidth, resamples=0).value for y in outcomes]
        )
        result = smooth_ece([0, 0, 1, 1], p, bandwidth=bandwidth, resamples=5000)
        assert result.null_mean == pytest.approx(chance @ errors, rel=0.02), bandwidth
        assert chance[errors > result.null_q95 * 1.01].sum() <= 0.05 + 0.01
        assert chance[errors >= result.null_q95 * 0.99].sum() >= 0.05 - 0.01


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(5, 1), (1, 20), (0.1, 0.1)])
def test_null_of_the_smooth_error_of_many(monkeypatch, shape, weighted):
    rng = np.random.default_rng(0)
    p = rng.beta(*shape, 20_000)
    y = rng.random(20_000) < p
    w = rng.random(20_000) if weighted else None
    one = smooth_ece(y, p, sample_weight=w, resamples=200)
    monkeypatch.setattr(null, "DRAWN", 0)
    two = smooth_ece(y, p, sample_weight=w, resamples=200)
    assert two.null_mean == pytest.approx(one.null_mean, rel=0.06)
    assert two.null_q95 == pytest.approx(one.null_q95, rel=0.1)
    # And the rough evaluation is that of the value itself.
    drawn = [smooth_ece(rng.random(20_000) < p, p, sample_weight=w, resamples=0) for _ in range(60)]
    assert one.null_mean == pytest.approx(np.mean(drawn), rel=0.06)


def test_null_of_the_smooth_error_keeps_its_level():
    rng = np.random.default_rng(1)
    above = []
    for seed in range(120):
        p = rng.beta(2, 1, 300)
        result = smooth_ece(rng.random(300) < p, p, seed=seed)
        above.append(result.value > result.null_q95)
    assert 0.015 <= np.mean(above) <= 0.1
    none = smooth_ece([0, 1], [0.2, 0.7], resamples=0)
    assert np.isnan([none.null_mean, none.null_q95]).all()
    certain = smooth_ece([1, 0], [1.0, 0.0])
    assert (certain.value, certain.null_q95) == (0.0, 0.0)


def test_what_is_public():
    assert dir(calibration) == sorted(calibration.__all__)
    for name in calibration.__all__:
        assert getattr(calibration, name).__module__.startswith("celib.calibration"), name


# What a stranger broke.


@pytest.mark.parametrize("n", [25, 50, 200])
@pytest.mark.parametrize("bins", [7, 20, 25])
def test_quantiles_of_equal_weights_are_quantiles(n, bins):
    p = np.random.default_rng(0).random(n)
    np.testing.assert_array_equal(
        bin_edges(p, bins, "quantile", None), bin_edges(p, bins, "quantile", np.ones(n))
    )


def test_what_has_no_weight_is_not_there():
    y, p, w = [1, 0, 1], [0.9, 0.1, 0.2], [1, 0, 2]
    weighted = calibration_error(y, p, sample_weight=w)
    alone = calibration_error([1, 1], [0.9, 0.2], sample_weight=[1, 2])
    assert weighted.n_bins_effective == alone.n_bins_effective == 2
    assert weighted.ci == alone.ci
    assert np.isfinite(calibration_error([1, 0], [0.9, 0.1], sample_weight=[1, 0]).ci).all()
    for method in ("binned", "isotonic"):
        curve = reliability_curve([1, 0], [0.9, 0.95], sample_weight=[1, 0], bins=2, method=method)
        assert curve.count.tolist() == [1]
        assert curve == curve


@pytest.mark.parametrize("call", [calibration_error, smooth_ece, reliability_curve, decompose])
@pytest.mark.parametrize("seed", [-1, 1.5, "a"])
def test_a_seed_is_a_whole_number(call, seed):
    error = ValueError if seed == -1 else TypeError
    with pytest.raises(error, match=r"^seed (= -1|is of type \w+): expected a whole number"):
        call([0, 1], [0.2, 0.7], seed=seed)
