"""Scores against mpmath, enumeration in exact fractions, and the optimum of proper rules."""

from fractions import Fraction
from itertools import pairwise

import mpmath as mp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from sklearn.metrics import brier_score_loss, log_loss

from celib.scoring import (
    bin_edges,
    brier_score,
    decompose,
    expected_score,
    log_score,
    spherical_score,
)
from celib.testing import ulp_error

fixed = settings(derandomize=True, deadline=None, max_examples=60)
TINY = [1e-300, 1e-20, 1e-17, 1e-9, 0.1, 0.3, 0.5, 0.7, 1 - 1e-9, 1 - 2**-53]


def exact(score, y, p):
    """The loss of the distribution given, which for one number p is (1 - p, p)."""
    # 1 - 1e-300, squared, takes 600 digits.
    with mp.workdps(700):
        row = [mp.mpf(float(x)) for x in np.atleast_1d(p)]
        if len(row) == 1:
            row = [1 - row[0], row[0]]
        norm = mp.sqrt(sum(x * x for x in row))
        return {
            "log": lambda: -mp.log(row[y]),
            "brier": lambda: sum((x - (k == y)) ** 2 for k, x in enumerate(row)),
            "half": lambda: sum((x - (k == y)) ** 2 for k, x in enumerate(row)) / 2,
            "spherical": lambda: 1 - row[y] / norm,
        }[score]()


@pytest.mark.parametrize("p", TINY)
@pytest.mark.parametrize("y", [0, 1])
def test_binary_scores_keep_their_digits(y, p):
    assert ulp_error(log_score([y], [p]), exact("log", y, p)) <= 2
    assert ulp_error(brier_score([y], [p]), exact("half", y, p)) <= 3
    assert ulp_error(spherical_score([y], [p]), exact("spherical", y, p)) <= 6


@pytest.mark.parametrize("rest", [1e-160, 1e-12, 1e-3, 0.3])
@pytest.mark.parametrize("y", [0, 1, 2])
def test_scores_of_three_classes_keep_their_digits(y, rest):
    row = np.array([1 - rest, rest / 4, 3 * rest / 4])
    assert ulp_error(log_score([y], [row]), exact("log", y, row)) <= 1
    assert ulp_error(spherical_score([y], [row]), exact("spherical", y, row)) <= 6
    if rest > 1e-12:
        assert ulp_error(brier_score([y], [row]), exact("brier", y, row)) <= 3


def test_scales_and_reductions():
    y, p, w = [1, 0, 1], [0.8, 0.4, 0.5], [1.0, 2.0, 0.0]
    each = brier_score(y, p, reduction="none")
    np.testing.assert_allclose(each, [0.04, 0.16, 0.25], rtol=1e-14)
    assert brier_score(y, p, scale="sum") == pytest.approx(2 * each.mean(), rel=1e-15)
    rows = [[1 - x, x] for x in p]
    assert brier_score(y, rows) == pytest.approx(2 * each.mean(), rel=1e-15)
    assert brier_score(y, rows, scale="half") == pytest.approx(each.mean(), rel=1e-15)
    assert brier_score(y, p, reduction="sum") == pytest.approx(0.45, rel=1e-14)
    assert brier_score(y, p, sample_weight=w) == pytest.approx(0.12, rel=1e-14)
    # An infinite score of weight 0 is left out.
    assert log_score([1, 1], [0.0, 0.5], sample_weight=[0, 3]) == pytest.approx(np.log(2))


def test_scores_agree_with_scikit_learn_away_from_its_clip():
    rng = np.random.default_rng(0)
    p, w = rng.dirichlet([1, 2, 3], 50), rng.random(50)
    y = rng.integers(0, 3, 50)
    assert log_score(y, p, sample_weight=w) == pytest.approx(log_loss(y, p, sample_weight=w))
    q, hit = p[:, 0], y == 0
    assert brier_score(hit, q) == pytest.approx(brier_score_loss(hit, q), rel=1e-14)
    assert log_score([1], [0.0]) == np.inf


def test_dtypes_and_tensors():
    p = np.array([0.25, 0.75], dtype=np.float32)
    assert brier_score([0, 1], p) == 0.0625
    assert brier_score(torch.tensor([0, 1]), torch.tensor(p, requires_grad=True)) == 0.0625
    assert log_score([0, 1], torch.tensor(p).bfloat16()) == pytest.approx(-np.log(0.75), rel=1e-15)
    assert brier_score([0, 1], [0, 1]) == 0.0
    # Sums in float32 would stop growing at 2^24.
    many = np.full(2**24 + 8, 0.5, dtype=np.float32)
    assert brier_score(np.ones(2**24 + 8, dtype=np.int8), many, reduction="sum") == 2**22 + 2


@pytest.mark.parametrize("rule", ["log", "brier", "spherical"])
@given(st.lists(st.floats(0.01, 1), min_size=3, max_size=3), st.integers(0, 10**6))
@fixed
def test_honesty_is_best_and_only_honesty(rule, masses, seed):
    p = np.array(masses) / np.sum(masses)
    q = np.random.default_rng(seed).dirichlet(np.ones(3), 200)
    honest = expected_score(rule, p, p)
    others = expected_score(rule, p, q)
    assert (others >= honest - 1e-15).all()
    far = np.abs(q - p).max(1) > 1e-3
    assert (others[far] > honest).all()


def test_expected_score_is_the_mean_of_the_scores():
    p, q = np.array([0.2, 0.5, 0.3]), np.array([[0.1, 0.1, 0.8], [0.6, 0.2, 0.2]])
    for rule, score in (("log", log_score), ("brier", brier_score), ("spherical", spherical_score)):
        means = [sum(p[y] * score([y], [row]) for y in range(3)) for row in q]
        np.testing.assert_allclose(expected_score(rule, p, q), means, rtol=1e-14)
    assert expected_score("log", [0.5, 0.5, 0.0], [0.5, 0.5, 0.0]) == pytest.approx(np.log(2))
    assert expected_score("log", [0.5, 0.5, 0.0], [0.5, 0.0, 0.5]) == np.inf


@pytest.mark.parametrize(("gamma", "best"), [(1, 0.7744), (2, 0.6942), (5, 0.5974)])
def test_focal_loss_is_not_proper(gamma, best):
    def focal(q):
        return -((1 - q) ** gamma) * np.log(q)

    found = minimize_scalar(
        lambda q: expected_score(focal, [0.9, 0.1], [q, 1 - q]), bounds=(0.01, 0.99)
    )
    assert found.x == pytest.approx(best, abs=1e-4)


def test_calibrated_and_useless():
    # E12: a constant forecast of 1/2 for a rate of .1 or .9 has all the entropy of a fair coin.
    p = np.array([[0.1, 0.9], [0.9, 0.1]])
    assert expected_score("log", p, np.full((2, 2), 0.5)).mean() == pytest.approx(
        0.693147, abs=1e-6
    )
    assert expected_score("log", p, p).mean() == pytest.approx(0.325083, abs=1e-6)


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


def test_edges():
    assert bin_edges(np.zeros(1), 10, "uniform")[3] == 0.3
    assert bin_edges(np.zeros(1, np.float32), 10, "uniform").dtype == np.float32
    p = np.arange(1, 13) / 12
    edges = bin_edges(p, 4, "quantile")
    assert edges.tolist() == [0, 3 / 12, 6 / 12, 9 / 12, 1]
    assert all(((p > a) & (p <= b)).sum() == 3 for a, b in pairwise(edges))
    np.testing.assert_array_equal(bin_edges(p, 4, "quantile", np.ones(12)), edges)
    assert bin_edges(np.full(9, 0.5), 4, "quantile").tolist() == [0, 0.5, 1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: log_score([0, 1], [0.5, np.nan]), r"y_prob\[1\] = nan"),
        (lambda: brier_score([0, 1, 0], [0.5, 0.1, 1.2]), r"y_prob\[2\] = 1.2"),
        (lambda: log_score([0], [-0.1]), r"y_prob\[0\] = -0.1"),
        (lambda: log_score([], []), "y_prob is empty"),
        (lambda: log_score([0, 2], [0.5, 0.5]), r"y_true\[1\] = 2, expected a class from 0 to 1"),
        (lambda: log_score([0, -1], [[0.5, 0.5]] * 2), r"y_true\[1\] = -1"),
        (lambda: log_score([0, 0.5], [0.5, 0.5]), r"y_true\[1\] = 0.5"),
        (lambda: log_score([0], [0.5, 0.5]), r"y_true has shape \(1,\), expected \(2,\)"),
        (lambda: log_score([0], [[0.5, 0.6]]), r"y_prob\[0\] sums to 1.1"),
        (lambda: log_score([0], [[1.0]]), r"shape \(1, 1\)"),
        (lambda: log_score(["a"], [0.5]), "y_true has dtype"),
        (lambda: log_score([0], [0.5], reduction="avg"), "'avg'"),
        (lambda: log_score([0], [0.5], sample_weight=[-1]), r"sample_weight\[0\] = -1"),
        (lambda: log_score([0], [0.5], sample_weight=[0]), "zero everywhere"),
        (lambda: log_score([0], [0.5], sample_weight=[1, 1]), r"sample_weight has shape \(2,\)"),
        (lambda: log_score([0], [0.5], sample_weight=[1], reduction="none"), "sample_weight"),
        (lambda: brier_score([0], [0.5], scale="auto"), "scale = 'auto'"),
        (lambda: expected_score("hinge", [0.5, 0.5], [0.5, 0.5]), "rule = 'hinge'"),
        (lambda: expected_score("log", [0.5, 0.6], [0.5, 0.5]), r"p\[0\] sums to 1.1"),
        (lambda: expected_score("log", [[0.5, 0.5]], [0.5, 0.5]), r"\(1, 2\)"),
        (lambda: expected_score(lambda q: q.sum(), [0.5, 0.5], [0.5, 0.5]), r"shape \(\)"),
        (lambda: decompose([0], [[0.5, 0.5]], rule="log"), r"\(1, 2\), expected \(N\) for rule"),
        (lambda: decompose([0], [0.5], method="murphy"), "'murphy'"),
        (lambda: decompose([0], [0.5], rule="linear"), "'linear'"),
        (lambda: decompose([0], [0.5], method="binned", bins=0), "bins = 0"),
        (lambda: decompose([0], [0.5], method="binned", bins=[0, 0.5]), "end with 1"),
        (lambda: decompose([0], [0.5], method="binned", bins=[0, 0.5, 0.5, 1]), r"bins\[1\] = 0.5"),
        (lambda: decompose([0], [0.5], method="binned", strategy="kmeans"), "'kmeans'"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
