"""Scores against mpmath, the optimum of proper rules, and scikit-learn."""

import subprocess
import sys

import mpmath as mp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss, make_scorer
from sklearn.model_selection import cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from celib import calibration, scoring
from celib.scoring import brier_score, expected_score, log_score, spherical_score
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


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: log_score([0, 1], [0.5, np.nan]), r"y_prob\[1\] = nan"),
        (lambda: brier_score([0, 1, 0], [0.5, 0.1, 1.2]), r"y_prob\[2\] = 1.2"),
        (lambda: log_score([0], [-0.1]), r"y_prob\[0\] = -0.1"),
        (lambda: log_score([], []), r"y_prob has shape \(0,\): expected at least one number"),
        (lambda: log_score([0, 2], [0.5, 0.5]), r"y_true\[1\] = 2: expected a class from 0 to 1"),
        (lambda: log_score([0, -1], [[0.5, 0.5]] * 2), r"y_true\[1\] = -1"),
        (lambda: log_score([0, 0.5], [0.5, 0.5]), r"y_true\[1\] = 0.5"),
        (lambda: log_score([0], [0.5, 0.5]), r"y_true has shape \(1,\): expected \(2,\)"),
        (lambda: log_score([0], [[0.5, 0.6]]), r"the sum of y_prob\[0\] = 1.1"),
        (lambda: log_score([0], [0.5], reduction="avg"), "'avg'"),
        (lambda: log_score([0], [0.5], sample_weight=[-1]), r"sample_weight\[0\] = -1"),
        (lambda: log_score([0], [0.5], sample_weight=[0]), "the sum of sample_weight = 0.0"),
        (lambda: log_score([0], [0.5], sample_weight=[1, 1]), r"sample_weight has shape \(2,\)"),
        (
            lambda: log_score([0], [0.5], sample_weight=[1], reduction="none"),
            "sample_weight is given",
        ),
        (lambda: brier_score([0], [0.5], scale="auto"), "scale = 'auto'"),
        (lambda: expected_score("hinge", [0.5, 0.5], [0.5, 0.5]), "rule = 'hinge'"),
        (
            lambda: expected_score("log", [0.5, 0.6], [0.5, 0.5]),
            r"the sum of p\[\] = 1.1|the sum of p = 1.1",
        ),
        (
            lambda: expected_score("log", [[0.5, 0.5]], [0.5, 0.5]),
            r"p has shape \(1, 2\): expected \(2,\)",
        ),
        (
            lambda: expected_score(lambda q: q.sum(), [0.5, 0.5], [0.5, 0.5]),
            r"result of rule has shape \(\)",
        ),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: log_score(["a"], [0.5]), "y_true has dtype"),
        (lambda: log_score([0], [0.5 + 0j]), "y_prob has dtype complex128"),
        (lambda: brier_score([0], [0.5], scale=[1]), None),
        (lambda: log_score([0], [0.5], sample_weight=["1"]), "sample_weight has dtype"),
        (lambda: expected_score("log", ["a"], [1.0]), "p has dtype"),
        (lambda: log_score([0], [0.5], y_proba=[0.5]), "expected one of y_prob and y_proba"),
    ],
)
def test_refusals_of_types(call, message):
    with pytest.raises(TypeError if message else ValueError, match=message):
        call()


def test_names_of_scikit_learn():
    y, p = [0, 1], [0.25, 0.5]
    for score in (log_score, brier_score, spherical_score):
        assert score(y, y_proba=p) == score(y, y_prob=p) == score(y, p)


def test_booleans_are_labels_of_rows():
    rows = [[0.2, 0.8], [0.3, 0.7]]
    for score in (log_score, brier_score, spherical_score):
        assert score([True, False], rows) == score([1, 0], rows)


def test_one_column_is_the_probability_of_class_1():
    assert log_score([1, 0], [[0.5], [0.25]]) == log_score([1, 0], [0.5, 0.25])


def test_scores_in_cross_validation():
    x, y = load_breast_cancer(return_X_y=True)
    model = make_pipeline(StandardScaler(), LogisticRegression())
    scorers = {
        score.__name__: make_scorer(score, greater_is_better=False, response_method="predict_proba")
        for score in (log_score, brier_score, spherical_score)
    }
    found = cross_validate(model, x, y, cv=3, scoring=scorers)
    peer = cross_validate(model, x, y, cv=3, scoring=("neg_log_loss", "neg_brier_score"))
    np.testing.assert_allclose(found["test_log_score"], peer["test_neg_log_loss"], rtol=1e-10)
    np.testing.assert_allclose(found["test_brier_score"], peer["test_neg_brier_score"], rtol=1e-10)


def test_decomposition_is_found_here_too():
    assert scoring.decompose is calibration.decompose
    assert scoring.Decomposition is calibration.Decomposition
    assert dir(scoring) == sorted(scoring.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        _ = scoring.nothing
    # Without a circle: the scores alone load nothing of what stands on them.
    code = "import sys, celib.scoring; assert 'celib.calibration' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
