"""What a score is made of, against enumeration in exact fractions; and its null."""

import subprocess
import sys
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celib.calibration import Decomposition, decompose
from celib.scoring import brier_score, log_score, spherical_score

fixed = settings(derandomize=True, deadline=None, max_examples=60)


def pooled(y, p):
    """Isotonic regression by the min-max formula, in fractions."""
    levels = sorted(set(p))
    hits = [sum(Fraction(b) for a, b in zip(p, y, strict=True) if a == x) for x in levels]
    count = [p.count(x) for x in levels]
    n = len(levels)

    def mean(i, j):
        return sum(hits[i : j + 1]) / sum(count[i : j + 1])

    fitted = [max(min(mean(i, j) for j in range(k, n)) for i in range(k + 1)) for k in range(n)]
    return {x: fitted[k] for k, x in enumerate(levels)}


@given(
    st.lists(st.tuples(st.integers(0, 16), st.integers(0, 1)), min_size=1, max_size=12),
)
@fixed
def test_corp_against_the_min_max_formula(pairs):
    p, y = [k / 16 for k, _ in pairs], [b for _, b in pairs]
    fitted = pooled(y, p)

    def score(forecasts):
        terms = [(Fraction(f) - b) ** 2 for f, b in zip(forecasts, y, strict=True)]
        return sum(terms) / len(terms)

    parts = decompose(y, p)
    rate = Fraction(sum(y), len(y))
    best, base = score([fitted[x] for x in p]), rate * (1 - rate)
    assert parts.miscalibration == pytest.approx(float(score(p) - best), abs=1e-15)
    assert parts.discrimination == pytest.approx(float(base - best), abs=1e-15)
    assert parts.uncertainty == pytest.approx(float(base), abs=1e-15)
    assert min(parts.miscalibration, parts.discrimination) >= 0


@given(
    st.lists(st.tuples(st.integers(0, 32), st.integers(0, 1)), min_size=1, max_size=20),
    st.integers(1, 7),
)
@fixed
def test_binned_brier_is_that_of_stephenson_and_others(pairs, bins):
    p, y = [Fraction(k, 32) for k, _ in pairs], [b for _, b in pairs]
    n, rate = len(p), Fraction(sum(y), len(y))
    groups = {}
    for f, o in zip(p, y, strict=True):
        k = next(k for k in range(bins) if f <= Fraction(k + 1, bins))
        groups.setdefault(k, []).append((f, o))
    rel = res = wbv = wbc = Fraction(0)
    for members in groups.values():
        f_bar = sum(f for f, _ in members) / len(members)
        o_bar = Fraction(sum(o for _, o in members), len(members))
        rel += len(members) * (f_bar - o_bar) ** 2 / n
        res += len(members) * (o_bar - rate) ** 2 / n
        wbv += sum((f - f_bar) ** 2 for f, _ in members) / n
        wbc += 2 * sum((f - f_bar) * (o - o_bar) for f, o in members) / n
    parts = decompose(y, [float(f) for f in p], method="binned", bins=bins)
    assert parts.miscalibration == pytest.approx(float(rel), abs=1e-15)
    assert parts.discrimination == pytest.approx(float(res), abs=1e-15)
    assert parts.within_bin_variance == pytest.approx(float(wbv), abs=1e-15)
    assert parts.within_bin_covariance == pytest.approx(float(wbc), abs=1e-15)
    assert parts.within_bin == pytest.approx(float(wbv - wbc), abs=1e-15)


@pytest.mark.parametrize("rule", ["log", "brier", "spherical"])
@pytest.mark.parametrize("method", ["corp", "binned"])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_parts_add_up(rule, method, weighted):
    rng = np.random.default_rng(1)
    p = np.round(rng.random(400), 2) * 0.98 + 0.01
    y = rng.random(400) < p**2
    w = rng.integers(0, 4, 400) if weighted else None
    score = {"log": log_score, "brier": brier_score, "spherical": spherical_score}[rule]
    parts = decompose(y, p, rule=rule, method=method, sample_weight=w)
    assert parts.score == pytest.approx(score(y, p, sample_weight=w), rel=1e-14)
    total = parts.miscalibration - parts.discrimination + parts.uncertainty + parts.within_bin
    assert total == pytest.approx(parts.score, abs=2e-15)
    within = parts.within_bin_variance - parts.within_bin_covariance
    assert within == pytest.approx(parts.within_bin, abs=2e-15)
    if weighted:
        again = decompose(np.repeat(y, w), np.repeat(p, w), rule=rule, method=method)
        assert parts.miscalibration == pytest.approx(again.miscalibration, abs=1e-14)
        assert parts.discrimination == pytest.approx(again.discrimination, abs=1e-14)


EIGHTHS = st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 2))


@given(st.lists(EIGHTHS, min_size=1, max_size=9))
@fixed
def test_brier_parts_of_classes(rows):
    forecasts = [[Fraction(8 - b - c, 8), Fraction(b, 8), Fraction(c, 8)] for b, c, _ in rows]
    y, n = [k for _, _, k in rows], len(rows)
    miscalibration = discrimination = uncertainty = Fraction(0)
    for k in range(3):
        hits, p = [int(label == k) for label in y], [row[k] for row in forecasts]
        fitted, rate = pooled(hits, p), Fraction(sum(hits), n)
        best = sum((fitted[x] - b) ** 2 for x, b in zip(p, hits, strict=True)) / n
        raw = sum((x - b) ** 2 for x, b in zip(p, hits, strict=True)) / n
        miscalibration += raw - best
        discrimination += rate * (1 - rate) - best
        uncertainty += rate * (1 - rate)
    floats = np.array(forecasts, dtype=float)
    parts = decompose(y, floats)
    assert parts.score == pytest.approx(brier_score(y, floats), abs=1e-15)
    assert parts.miscalibration == pytest.approx(float(miscalibration), abs=1e-15)
    assert parts.discrimination == pytest.approx(float(discrimination), abs=1e-15)
    assert parts.uncertainty == pytest.approx(float(uncertainty), abs=1e-15)
    parts = decompose(y, floats, method="binned", bins=3)
    total = parts.miscalibration - parts.discrimination + parts.uncertainty + parts.within_bin
    assert total == pytest.approx(brier_score(y, floats), abs=2e-15)


def test_two_classes_count_twice():
    rng = np.random.default_rng(0)
    p, w = rng.random(50), rng.random(50)
    y = rng.random(50) < p
    one = decompose(y, p, sample_weight=w)
    two = decompose(y, np.stack([1 - p, p], axis=1), sample_weight=w)
    assert two.miscalibration == pytest.approx(2 * one.miscalibration, rel=1e-12)
    assert two.discrimination == pytest.approx(2 * one.discrimination, rel=1e-12)


def test_infinite_log_scores():
    y, p = [1, 0, 0, 1], [0.0, 0.0, 0.05, 1.0]
    corp = decompose(y, p, rule="log")
    assert (corp.score, corp.miscalibration) == (np.inf, np.inf)
    assert np.isfinite([corp.discrimination, corp.uncertainty]).all()
    # The mean forecast of the first bin is above 0: what is infinite is inside the bin.
    binned = decompose(y, p, rule="log", method="binned", bins=10)
    assert (binned.score, binned.within_bin) == (np.inf, np.inf)
    assert np.isfinite([binned.miscalibration, binned.discrimination]).all()
    # A bin of nothing but 0 is itself infinitely wrong.
    edges = [0, 0.01, 0.5, 1]
    alone = decompose(y, p, rule="log", method="binned", bins=edges)
    assert (alone.miscalibration, alone.within_bin) == (np.inf, 0.0)
    # 0 is right there, while another forecast of the bin is above 0 and right as well.
    mixed = decompose([0, 1], [0.0, 0.5], rule="log", method="binned", bins=1)
    assert mixed.score == pytest.approx(np.log(2) / 2)
    assert mixed.within_bin_variance == mixed.within_bin_covariance == np.inf
    total = mixed.miscalibration - mixed.discrimination + mixed.uncertainty + mixed.within_bin
    assert total == pytest.approx(mixed.score, abs=1e-15)


def test_one_class_has_no_uncertainty():
    for method in ("corp", "binned"):
        parts = decompose([1, 1], [0.5, 0.75], rule="log", method=method)
        assert (parts.uncertainty, parts.discrimination) == (0.0, 0.0)


# The null


@pytest.mark.parametrize("rule", ["log", "brier", "spherical"])
@pytest.mark.parametrize("method", ["corp", "binned"])
def test_null_against_enumeration(rule, method):
    p = np.array([0.2, 0.3, 0.3, 0.9])
    options = {"rule": rule, "method": method, "bins": 3}
    outcomes = list(product([0, 1], repeat=4))
    chance = np.array([np.prod(np.where(y, p, 1 - p)) for y in outcomes])
    parts = np.array([decompose(y, p, resamples=0, **options).miscalibration for y in outcomes])
    result = decompose([0, 0, 1, 1], p, resamples=20_000, **options)
    assert result.null_mean == pytest.approx(chance @ parts, rel=0.03)
    assert chance[parts > result.null_q95 + 1e-12].sum() <= 0.05 + 0.01
    assert chance[parts >= result.null_q95 - 1e-12].sum() >= 0.05 - 0.01


@pytest.mark.parametrize("method", ["corp", "binned"])
def test_null_of_classes_against_enumeration(method):
    p = np.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [0.3, 0.4, 0.3]])
    outcomes = list(product(range(3), repeat=3))
    chance = [np.prod(p[range(3), y]) for y in outcomes]
    options = {"method": method, "bins": 2}
    parts = [decompose(y, p, resamples=0, **options).miscalibration for y in outcomes]
    result = decompose([0, 1, 2], p, resamples=20_000, **options)
    assert result.null_mean == pytest.approx(np.dot(chance, parts), rel=0.03)


@pytest.mark.parametrize("method", ["corp", "binned"])
def test_null_with_weights_is_that_of_weighted_labels(method):
    p, w = np.array([0.2, 0.3, 0.6]), np.array([1.0, 0.0, 3.0])
    options = {"method": method, "bins": 2, "sample_weight": w}
    outcomes = list(product([0, 1], repeat=3))
    chance = np.array([np.prod(np.where(y, p, 1 - p)) for y in outcomes])
    parts = [decompose(y, p, resamples=0, **options).miscalibration for y in outcomes]
    result = decompose([0, 0, 1], p, resamples=20_000, **options)
    assert result.null_mean == pytest.approx(chance @ parts, rel=0.05)


@pytest.mark.parametrize("method", ["corp", "binned"])
def test_null_keeps_its_level(method):
    rng = np.random.default_rng(1)
    above = []
    for seed in range(200):
        p = rng.beta(2, 1, 300)
        parts = decompose(rng.random(300) < p, p, method=method, seed=seed)
        above.append(parts.miscalibration > parts.null_q95)
    assert 0.015 <= np.mean(above) <= 0.1


def test_null_of_certain_forecasts():
    # They leave no label to chance, and an infinite score has no part in the null.
    parts = decompose([1, 1], [0.0, 1.0], rule="log")
    assert (parts.miscalibration, parts.null_mean, parts.null_q95) == (np.inf, 0.0, 0.0)


def test_draws_are_seeded():
    p = np.random.default_rng(0).random(100)
    y = np.arange(100) % 2
    one, two, other = (decompose(y, p, seed=s) for s in (0, 0, 1))
    assert one == two
    assert one.null_mean != other.null_mean
    none = decompose(y, p, resamples=0)
    assert none.miscalibration == one.miscalibration
    assert np.isnan([none.null_mean, none.null_q95]).all()


def test_sum_of_parts():
    one = Decomposition(1.0, 0.5, 0.25, 0.75, null_mean=0.1, null_q95=0.2)
    total = one + one
    assert (total.score, total.miscalibration, total.uncertainty) == (2.0, 1.0, 1.5)
    assert np.isnan([total.null_mean, total.null_q95]).all()
    with pytest.raises(TypeError):
        one + 1.0


def test_does_without_scikit_learn():
    code = "import sys; from celib.calibration import decompose; decompose([0, 1], [0.2, 0.7]); "
    check = "assert not {'sklearn', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code + check], check=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: decompose([0], [[0.5, 0.5]], rule="log"), r"\(1, 2\): expected \(N\) for rule"),
        (lambda: decompose([0], [0.5], method="murphy"), "'murphy'"),
        (lambda: decompose([0], [0.5], rule="linear"), "'linear'"),
        (lambda: decompose([0], [0.5], method="binned", bins=0), "bins = 0"),
        (
            lambda: decompose([0], [0.5], method="binned", bins=[0, 0.5]),
            r"bins\[1\] = 0.5: expected 1",
        ),
        (
            lambda: decompose([0], [0.5], method="binned", bins=[0, 0.5, 0.5, 1]),
            r"bins\[2\] = 0.5: expected edges that increase",
        ),
        (lambda: decompose([0], [0.5], method="binned", strategy="kmeans"), "'kmeans'"),
        (
            lambda: decompose([0], [0.5], resamples=-1),
            "resamples = -1: expected a whole number from 0 on",
        ),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
