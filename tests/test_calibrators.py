"""Repair of probabilities, against independent optimisers and scikit-learn's own contract."""

import math
import pickle
import re
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn
import torch
from scipy.optimize import minimize, minimize_scalar
from scipy.sparse import csr_matrix
from scipy.special import expit, log_softmax, softmax
from sklearn import config_context
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_breast_cancer, load_digits, load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_predict, cross_val_score
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.fixes import parse_version

from celib.calibration import (
    CalibratedClassifier,
    IsotonicCalibration,
    PlattScaling,
    TemperatureScaling,
    VectorScaling,
    calibration_error,
)
from celib.scoring import log_score

CALIBRATORS = [TemperatureScaling, VectorScaling, PlattScaling, IsotonicCalibration]


def value(*args, **options):
    return calibration_error(*args, resamples=0, **options).value


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
    constant = TemperatureScaling().fit(np.full((4, 2), -1.0), [0, 1, 0, 1])
    assert constant.status_ == "uninformative"
    # A tie is separated as well: nothing is worse at a greater beta.
    tie = TemperatureScaling().fit([[2.0, 2.0], [0.0, 1.0]], [0, 1])
    assert (tie.status_, tie.temperature_ > 0) == ("separable", True)


def test_masked_classes():
    z, y = sampled(400, 3)
    masked = np.concatenate([z, np.full((400, 1), -np.inf)], axis=1)
    fit, plain = TemperatureScaling().fit(masked, y), TemperatureScaling().fit(z, y)
    assert fit.temperature_ == pytest.approx(plain.temperature_, rel=1e-12)
    assert (fit.predict_proba(masked)[:, 3] == 0).all()
    with pytest.raises(ValueError, match=r"y\[1\] = 3: expected a class that X\[1\] gives"):
        TemperatureScaling().fit(masked, [0, 3] * 200)
    with pytest.raises(ValueError, match=r"y\[0\] = 1: expected .* clip=1e-6"):
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
    for other in (z, z[:, :2]):
        with pytest.raises(ValueError, match=r"expected \(N\) or \(N, 1\), as in fit"):
            binary.predict_proba(other)
    np.testing.assert_array_equal(binary.predict(odds[:, None]), binary.predict(odds))
    with pytest.raises(ValueError, match="has 2 features, but"):
        calibrator().fit(z, y).predict_proba(z[:, :2])
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
    if method == "temperature" and parse_version(sklearn.__version__) < parse_version("1.8"):
        pytest.skip("scikit-learn has temperature scaling from 1.8 on")
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
        ([[0.0, np.inf], [1.0, 0.0]], [0, 1], {}, r"X\[0, 1\] = inf"),
        ([0.5, 1.2], [0, 1], {"input": "probs"}, r"X\[1\] = 1.2"),
        ([0.5, 0.2], [0, 1], {"input": "odds"}, "input = 'odds'"),
        (
            [[0.0, 1.0, 2.0], [1.0, 0.0, 0.0]],
            [0, 3],
            {},
            r"y\[1\] = 3: expected a class from 0 to 2",
        ),
        ([[0.0, 1.0], [1.0, 0.0]], [0], {}, r"y has shape \(1,\)"),
        ([0.0, 1.0], [0, 0.5], {}, r"y\[1\] = 0.5"),
        ([[-np.inf, -np.inf], [0.0, 1.0]], [0, 1], {}, r"X\[0\] = -inf in every class: expected"),
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
        calibrator().fit([-1.0, 1.0], [1, 1])


# The columns of X are the classes, in number and in order: checks with other data do not apply.
NOT_APPLICABLE = "expected a class from 0 to|has no example of class|distinct labels: expected"
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


# What X, y and the weights may be


def forms(array):
    """The same numbers in other clothes, with what they are called."""
    tensor = torch.tensor(array)
    yield "float32", array.astype(np.float32)
    yield "big-endian", array.astype(">f8")
    yield "list", array.tolist()
    yield "requires_grad", tensor.clone().requires_grad_()
    yield "list of tensors", list(tensor)
    yield "pandas", pd.DataFrame(array) if array.ndim == 2 else pd.Series(array)
    nullable = pd.DataFrame(array).astype("Float64")
    yield "nullable pandas", nullable if array.ndim == 2 else nullable[0]
    names = [f"c{k}" for k in range(array.shape[-1])]
    yield "polars", pl.DataFrame(array, schema=names) if array.ndim == 2 else pl.Series(array)
    if array.ndim == 1:
        yield "column", array[:, None]
        yield "column of a frame", pd.DataFrame({"score": array})


@pytest.mark.parametrize("kind", ["logits", "odds", "rows", "probs"])
@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_containers(calibrator, kind):
    z, y = sampled(120, 3)
    # Numbers of float32, so that all forms hold the same.
    z = z.astype(np.float32).astype(np.float64)
    x = {"logits": z, "odds": z[:, 0], "rows": softmax(z, 1), "probs": expit(z[:, 0])}[kind]
    x = x.astype(np.float32).astype(np.float64)
    y = (y == 0).astype(int) if x.ndim == 1 else y
    model = calibrator(input="logits" if kind in ("logits", "odds") else "probs")
    expected = model.fit(x, y).predict_proba(x)
    for name, other in forms(x):
        found = clone(model).fit(other, y).predict_proba(other)
        np.testing.assert_allclose(found, expected, rtol=1e-6, err_msg=name)
    for name, labels in (
        ("list", y.tolist()),
        ("tensor", torch.tensor(y)),
        ("float32", y.astype("f4")),
        ("pandas", pd.Series(y, dtype="Int64")),
        ("polars", pl.Series(y)),
    ):
        found = clone(model).fit(x, labels).predict_proba(x)
        np.testing.assert_array_equal(found, expected, err_msg=name)
    weights = np.arange(120) % 4
    expected = clone(model).fit(x, y, sample_weight=weights).predict_proba(x)
    for name, w in (("tensor", torch.tensor(weights).half()), ("pandas", pd.Series(weights))):
        found = clone(model).fit(x, y, sample_weight=w).predict_proba(x)
        np.testing.assert_array_equal(found, expected, err_msg=name)


@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_softmax_rows_of_every_dtype(calibrator):
    z, y = sampled(500, 3)
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        p = torch.softmax(torch.tensor(z) / 2, 1).to(dtype)
        for name, rows in (("tensor", p), ("list", p.tolist()), ("double", p.double())):
            fit = calibrator(input="probs", clip=1e-4).fit(rows, y)
            found = fit.predict_proba(rows)
            np.testing.assert_allclose(found.sum(1), 1, rtol=1e-12, err_msg=f"{dtype} {name}")


REFUSED = {
    "masked": (lambda x: np.ma.array(x, mask=np.arange(x.size).reshape(x.shape) == 1), "masked"),
    "sparse": (csr_matrix, "X is of type csr_matrix: expected a dense array, not a sparse one"),
    "meta": (lambda x: torch.tensor(x, device="meta"), "X is a tensor that holds no values here"),
    "sparse tensor": (lambda x: torch.tensor(x).to_sparse(), "X is of type Tensor: expected a den"),
    "lazy": (lambda x: pl.DataFrame(x).lazy(), "X is of type LazyFrame: expected values that"),
    "missing": (
        lambda x: pd.DataFrame(x).astype("Float64").mask(pd.DataFrame(x) == x[0, 1]),
        r"X\[0, 1\] = nan",
    ),
    "complex": (lambda x: x + 0j, "Complex data not supported"),
    "reordered": (
        lambda x: pd.DataFrame(x, index=range(len(x))[::-1]),
        "y has another index than X: expected the same labels",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_refused_containers(calibrator, name):
    z, y = sampled(30, 3)
    form, message = REFUSED[name]
    labels = pd.Series(y) if name == "reordered" else y
    with pytest.raises((TypeError, ValueError), match=message):
        calibrator().fit(form(z), labels)
    if name != "reordered":
        with pytest.raises((TypeError, ValueError), match=message):
            calibrator().fit(z, y).predict_proba(form(z))


# Labels


@pytest.mark.parametrize("calibrator", CALIBRATORS)
@pytest.mark.parametrize(
    "labels",
    [
        np.array(["cat", "dog", "eel"]),
        np.array(["cat", "dog", "eel"], dtype=object),
        np.array([-1, 3, 40]),
        np.array([1, 2, 3]),
        np.array([0.0, 1.0, 2.0]),
        np.array([0, 1, 2], dtype=np.uint8),
    ],
    ids=lambda a: f"{a.dtype}-{a[0]}",
)
def test_labels_of_any_kind(calibrator, labels):
    z, y = sampled(300, 3)
    plain, named = calibrator().fit(z, y), calibrator().fit(z, labels[y])
    assert named.classes_.tolist() == labels.tolist()
    assert named.classes_.dtype == labels.dtype
    np.testing.assert_array_equal(named.predict(z), labels[plain.predict(z)])
    np.testing.assert_array_equal(named.predict_proba(z), plain.predict_proba(z))
    assert named.score(z, labels[y]) == plain.score(z, y)


@pytest.mark.parametrize("calibrator", CALIBRATORS)
@pytest.mark.parametrize("labels", [[False, True], ["no", "yes"], [-1, 1]])
def test_two_labels(calibrator, labels):
    z, y = sampled(300, 2)
    odds, names = z[:, 1] - z[:, 0], np.array(labels)
    fit = calibrator().fit(odds, names[y])
    assert fit.classes_.tolist() == labels
    assert fit.predict(odds).dtype == names.dtype
    # The probability is that of the second label.
    assert fit.predict_proba(odds)[odds.argmax(), 1] > 0.5


def test_fewer_labels_than_columns():
    z, y = sampled(60, 3)
    kept = y != 1
    fit = TemperatureScaling().fit(z[kept], y[kept])
    assert fit.classes_.tolist() == [0, 1, 2]
    booleans = TemperatureScaling().fit([-1.0, 2.0], [True, True])
    assert booleans.classes_.tolist() == [False, True]
    for labels, message in (
        (np.array(["a", "b", "c"])[y], r"y\[0\] = .*: expected a class from 0 to 2, since y has 2"),
        (y + 1, r"y\[\d+\] = 3: expected a class from 0 to 2, since y has 2 labels of 3"),
        (y - 1, r"y\[\d+\] = -1: expected a class from 0 to 2"),
    ):
        with pytest.raises(ValueError, match=message):
            TemperatureScaling().fit(z[kept], labels[kept])
    with pytest.raises(ValueError, match="y has 3 distinct labels: expected no more than 2"):
        TemperatureScaling().fit(z[:, :2], y)
    with pytest.raises(ValueError, match=r"Unknown label type: y\[1\] = nan"):
        TemperatureScaling().fit([-1.0, 2.0], [0.0, np.nan])


# What comes out


@pytest.mark.parametrize("kind", ["logits", "odds", "probs"])
@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_log_probabilities(calibrator, kind):
    z, y = sampled(300, 3)
    x = {"logits": z, "odds": z[:, 0], "probs": softmax(z, 1)}[kind]
    y = (y == 0).astype(int) if x.ndim == 1 else y
    fit = calibrator(input="probs" if kind == "probs" else "logits").fit(x, y)
    with np.errstate(divide="ignore"):
        expected = np.log(fit.predict_proba(x))
    np.testing.assert_allclose(fit.predict_log_proba(x), expected, rtol=1e-9, atol=1e-12)


def test_log_probabilities_keep_their_digits():
    # A probability of e^-2000 is 0, and one of 1 - e^-100 is 1.
    fit = TemperatureScaling().fit(*sampled(500, 3, 1.0))
    fit.temperature_ = 1.0
    rows = fit.predict_log_proba([[0.0, -2000.0, -2000.0]])[0]
    assert rows[1:].tolist() == [-2000.0, -2000.0]
    odds = TemperatureScaling().fit([-2.0, 1.0, -1.0, 3.0], [0, 0, 1, 1])
    odds.temperature_ = 1.0
    assert odds.predict_log_proba([100.0])[0].tolist() == pytest.approx([-100, -math.exp(-100)])
    for calibrator in (VectorScaling, PlattScaling):
        fit = calibrator().fit([-2.0, 1.0, -1.0, 3.0], [0, 0, 1, 1])
        far = fit.predict_log_proba([1e5])[0]
        assert np.isfinite(far).all(), calibrator.__name__
        assert far[0] < -1000, calibrator.__name__


@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_frames_come_out(calibrator):
    z, y = sampled(60, 3)
    frame = pd.DataFrame(z, columns=["cat", "dog", "eel"], index=np.arange(60) * 2)
    fit = calibrator().set_output(transform="pandas").fit(frame, y)
    out = fit.transform(frame)
    assert list(out.columns) == ["cat", "dog", "eel"]
    assert out.index.equals(frame.index)
    np.testing.assert_array_equal(out.to_numpy(), fit.predict_proba(frame))
    assert fit.feature_names_in_.tolist() == ["cat", "dog", "eel"]
    with pytest.raises(ValueError, match="feature names should match"):
        fit.predict_proba(frame.rename(columns={"cat": "cow"}))
    polars = calibrator().set_output(transform="polars").fit(frame, y).transform(frame)
    assert polars.columns == ["cat", "dog", "eel"]
    again = fit.fit(z[:, 0], y == 0)
    assert not hasattr(again, "feature_names_in_")
    one = calibrator().set_output(transform="pandas").fit(z[:, 0], y == 0)
    assert one.get_feature_names_out().tolist() == ["x0"]
    assert one.transform(z[:, 0]).shape == (60, 1)


# Probabilities of 0


@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_clip(calibrator):
    votes = np.array([0.0, 0.0, 0.2, 0.6, 1.0, 1.0, 0.4, 1.0])
    y = np.array([0, 1, 0, 1, 1, 0, 1, 1])
    clipped = calibrator(input="probs", clip=0.01).fit(votes, y)
    by_hand = calibrator(input="probs").fit(votes.clip(0.01, 0.99), y)
    np.testing.assert_array_equal(
        clipped.predict_proba(votes), by_hand.predict_proba(votes.clip(0.01, 0.99))
    )
    rows = np.stack([0.8 - 0.8 * votes, 0.8 * votes, np.full(8, 0.2)], axis=1)
    labels = np.array([0, 1, 2, 1, 1, 0, 2, 1])
    least = np.maximum(rows, 0.01)
    least /= least.sum(1, keepdims=True)
    clipped = calibrator(input="probs", clip=0.01).fit(rows, labels)
    by_hand = calibrator(input="probs").fit(least, labels)
    np.testing.assert_array_equal(clipped.predict_proba(rows), by_hand.predict_proba(least))
    for clip in (0.0, 0.5, -1.0, math.nan):
        with pytest.raises(ValueError, match=r"clip = .*: expected None, or between 0 and 0\.5"):
            calibrator(input="probs", clip=clip).fit(votes, y)
    with pytest.raises(ValueError, match=r"between 0 and 0\.333"):
        calibrator(input="probs", clip=0.4).fit(rows, labels)
    with pytest.raises(TypeError, match="clip is of type str"):
        calibrator(input="probs", clip="small").fit(votes, y)
    with pytest.raises(ValueError, match=r"clip = 0\.01: expected None for input = 'logits'"):
        calibrator(clip=0.01).fit(votes - 0.5, y)


@pytest.mark.parametrize("calibrator", [VectorScaling, PlattScaling])
def test_certain_votes_name_the_remedy(calibrator):
    with pytest.raises(ValueError, match=r"X\[1\] = 0.0: expected a probability above 0.*clip="):
        calibrator(input="probs").fit([0.5, 0.0, 0.5], [1, 0, 0])
    with pytest.raises(ValueError, match=r"X\[0\] = 1.0: expected a probability .*clip="):
        calibrator(input="probs").fit([1.0, 0.2, 0.5], [1, 0, 0])
    with pytest.raises(ValueError, match=r"X\[1, 2\] = 0.0: expected a probability .*clip="):
        calibrator(input="probs").fit([[0.2, 0.3, 0.5], [0.5, 0.5, 0.0]] * 2, [0, 1, 2, 1])
    with pytest.raises(ValueError, match=r"X\[1, 0\] = -inf: expected a finite logit"):
        calibrator().fit([[0.0, 2.0], [-np.inf, 0.0]], [0, 1])


# Warnings, and the penalty


@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_probabilities_that_are_called_logits(calibrator):
    rng = np.random.default_rng(0)
    p = rng.random(200)
    y = rng.random(200) < p
    message = rf"every value of X.*lies in \[0, 1\].*use {calibrator.__name__}\(input='probs'\)"
    for x in (p, p[:, None], np.stack([1 - p, p], axis=1)):
        with pytest.warns(UserWarning, match=message):
            calibrator().fit(x, y)
        calibrator(input="probs").fit(x, y)
    calibrator().fit(np.append(p, 1.5), np.append(y, True))  # cannot be probabilities


def test_vector_scaling_with_a_penalty():
    z, y = sampled(300, 3)
    z = z * [0.5, 1, 2] + [1, 0, -1]
    w = np.random.default_rng(0).integers(0, 3, 300)

    def objective(v):
        log_p = log_softmax(v[:3] * z + v[3:], axis=1)[np.arange(300), y]
        return -(w @ log_p) + 5.0 / 2 * (((v[:3] - 1) ** 2).sum() + (v[3:] ** 2).sum())

    found = minimize(objective, np.r_[np.ones(3), np.zeros(3)], tol=1e-9).x
    fit = VectorScaling(l2=5.0).fit(z, y, sample_weight=w)
    np.testing.assert_allclose(fit.scale_, found[:3], atol=1e-4)
    np.testing.assert_allclose(fit.offset_, found[3:], atol=1e-4)
    assert fit.converged_
    # It has a minimum where the likelihood has none: separated classes, or a missing one.
    separated = VectorScaling(l2=1.0).fit(z, z.argmax(1))
    assert not separated.at_bound_
    assert separated.converged_
    missing = VectorScaling(l2=1.0).fit(z[y != 1], y[y != 1])
    assert missing.converged_
    assert missing.predict_proba(z).argmax(1).max() == 2
    strong = VectorScaling(l2=1e8).fit(z, y).predict_proba(z)
    np.testing.assert_allclose(strong, softmax(z, 1), atol=1e-4)
    with pytest.raises(ValueError, match="l2 = -1: expected a finite number, at least 0"):
        VectorScaling(l2=-1).fit(z, y)


# Behind a classifier


def breast_cancer():
    x, y = load_breast_cancer(return_X_y=True)
    return StandardScaler().fit_transform(x), y


@pytest.mark.parametrize(
    ("classifier", "calibrator"),
    [
        (LogisticRegression(), TemperatureScaling()),
        (LogisticRegression(), PlattScaling(input="probs", clip=1e-9)),
        (GaussianNB(), TemperatureScaling()),
        (SVC(), PlattScaling()),
        (SVC(), IsotonicCalibration()),
        (RandomForestClassifier(20, random_state=0), TemperatureScaling(input="probs", clip=1e-3)),
        (KNeighborsClassifier(), IsotonicCalibration(input="probs")),
    ],
    ids=lambda e: type(e).__name__,
)
@pytest.mark.parametrize("data", ["two", "three"])
def test_calibrated_classifier(classifier, calibrator, data):
    x, y = breast_cancer() if data == "two" else load_iris(return_X_y=True)
    names = np.array(["zebra", "ant", "bee"])  # not in order
    model = CalibratedClassifier(classifier, calibrator, cv=3).fit(x[::2], names[y[::2]])
    assert model.classes_.tolist() == sorted(set(names[y].tolist()))
    p = model.predict_proba(x[1::2])
    assert p.shape == (len(x[1::2]), model.classes_.size)
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-12)
    assert model.score(x[1::2], names[y[1::2]]) > 0.9
    assert model.n_features_in_ == x.shape[1]
    np.testing.assert_allclose(np.exp(model.predict_log_proba(x[1::2])), p, atol=1e-12)
    np.testing.assert_array_equal(
        model.predict(x), model.classes_[model.predict_proba(x).argmax(1)]
    )
    copied = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(copied.predict_proba(x), model.predict_proba(x))


@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_calibrated_classifier_by_hand(calibrator):
    x, y = breast_cancer()
    classifier = LogisticRegression()
    found = CalibratedClassifier(classifier, calibrator(), cv=3).fit(x, y).predict_proba(x)
    scores = cross_val_predict(classifier, x, y, cv=3, method="decision_function")
    by_hand = calibrator().fit(scores, y).predict_proba(classifier.fit(x, y).decision_function(x))
    np.testing.assert_array_equal(found, by_hand)
    if calibrator is PlattScaling:
        peer = CalibratedClassifierCV(classifier, method="sigmoid", cv=3, ensemble=False)
        np.testing.assert_allclose(found, peer.fit(x, y).predict_proba(x), atol=1e-4)


def test_calibrated_classifier_repairs_overconfidence():
    x, y = breast_cancer()
    naive = GaussianNB()
    before = log_score(y[1::2], naive.fit(x[::2], y[::2]).predict_proba(x[1::2])[:, 1])
    model = CalibratedClassifier(naive, TemperatureScaling(), cv=5).fit(x[::2], y[::2])
    assert log_score(y[1::2], model.predict_proba(x[1::2])[:, 1]) < before / 2


def test_frozen_classifier():
    x, y = load_iris(return_X_y=True)
    fitted = LogisticRegression(max_iter=500).fit(x[::2], y[::2])
    held = y[1::2] != 1  # a class that the held-out examples lack
    model = CalibratedClassifier(FrozenEstimator(fitted), TemperatureScaling())
    model.fit(x[1::2][held], y[1::2][held])
    assert model.classes_.tolist() == [0, 1, 2]
    by_hand = TemperatureScaling().fit(fitted.decision_function(x[1::2][held]), y[1::2][held])
    assert model.calibrator_.temperature_ == by_hand.temperature_
    with pytest.raises(ValueError, match="y has the label 3: expected one of those"):
        model.fit(x, np.where(y == 1, 3, y))


def test_weights_and_metadata_of_a_calibrated_classifier():
    x, y = breast_cancer()
    w = np.arange(y.size) % 3
    folds = np.arange(y.size) % 4
    model = CalibratedClassifier(LogisticRegression(C=1e-2), PlattScaling(), cv=GroupKFold(4))
    one = model.fit(x, y, sample_weight=w, groups=folds).predict_proba(x)
    two = (
        clone(model)
        .fit(np.repeat(x, w, axis=0), np.repeat(y, w), groups=np.repeat(folds, w))
        .predict_proba(x)
    )
    np.testing.assert_allclose(one, two, atol=1e-3)
    with pytest.warns(UserWarning, match="KNeighborsClassifier.fit does not take sample_weight"):
        CalibratedClassifier(KNeighborsClassifier(), IsotonicCalibration(input="probs"), cv=3).fit(
            x, y, sample_weight=w
        )
    with config_context(enable_metadata_routing=True):
        inner = LogisticRegression(C=1e-2).set_fit_request(sample_weight=True)
        routed = CalibratedClassifier(inner, PlattScaling(), cv=GroupKFold(4))
        found = routed.fit(x, y, sample_weight=w, groups=folds).predict_proba(x)
        np.testing.assert_array_equal(found, one)
        unweighted = LogisticRegression(C=1e-2).set_fit_request(sample_weight=False)
        routed = CalibratedClassifier(unweighted, PlattScaling(), cv=GroupKFold(4))
        other = routed.fit(x, y, sample_weight=w, groups=folds).predict_proba(x)
        assert abs(other - one).max() > 1e-4


def test_search_over_both():
    x, y = load_iris(return_X_y=True, as_frame=True)
    model = make_pipeline(
        StandardScaler().set_output(transform="pandas"),
        CalibratedClassifier(LogisticRegression(), VectorScaling(), cv=3),
    )
    grid = {
        "calibratedclassifier__estimator__C": [0.01, 1.0],
        "calibratedclassifier__calibrator__l2": [0.1, 10.0],
    }
    search = GridSearchCV(model, grid, cv=2, scoring="neg_log_loss").fit(x, y)
    assert search.best_score_ > -0.5
    inner = search.best_estimator_[-1]
    assert inner.feature_names_in_.tolist() == x.columns.tolist()


def test_refusals_of_a_calibrated_classifier():
    x, y = load_iris(return_X_y=True)
    few = np.r_[np.arange(50), 50, np.arange(100, 150)]
    with pytest.raises(ValueError, match="y has 1 examples of 1: expected at least one sample"):
        CalibratedClassifier(LogisticRegression(), PlattScaling(), cv=3).fit(x[few], y[few])
    with pytest.raises(TypeError, match="calibrator is of type LogisticRegression"):
        CalibratedClassifier(LogisticRegression(), LogisticRegression()).fit(x, y)
    with pytest.raises(AttributeError, match="predict_proba"):
        CalibratedClassifier(SVC(), PlattScaling(input="probs")).fit(x, y)
    x4, y4 = np.r_[x, x[:50] + 10], np.r_[y, np.full(50, 3)]
    with pytest.raises(ValueError, match=r"decision_function of X has shape \(200, 6\)"):
        CalibratedClassifier(SVC(decision_function_shape="ovo"), PlattScaling(), cv=2).fit(x4, y4)
    with pytest.raises(ValueError, match=r"y\[\d+\] = \d: expected a class that X"):
        CalibratedClassifier(
            RandomForestClassifier(3, random_state=0), TemperatureScaling(), cv=3
        ).fit(x, y)


@pytest.mark.parametrize("calibrator", [TemperatureScaling(), VectorScaling(input="probs")])
def test_a_calibrated_classifier_is_one_of_scikit_learn(calibrator):
    model = CalibratedClassifier(LogisticRegression(), calibrator, cv=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(model, on_fail=None, on_skip=None)
    failed = {r["check_name"]: str(r["exception"]) for r in results if r["status"] == "failed"}
    assert failed == {}
    assert sum(result["status"] == "passed" for result in results) >= 55


# What a stranger broke.


@pytest.mark.parametrize("masked", [-1e4, -1e9, np.finfo(np.float32).min])
def test_masked_classes_do_not_set_the_unit_of_a_fit(masked):
    rng = np.random.default_rng(0)
    z = 3 * rng.normal(size=(1000, 3))
    y = (z / 3 + rng.gumbel(size=z.shape)).argmax(1)
    plain = log_score(y, VectorScaling(l2=1.0).fit(z, y).predict_proba(z))
    never = np.c_[z, np.full(1000, masked)]
    fit = VectorScaling(l2=1.0).fit(never, y)
    assert fit.converged_
    assert log_score(y, fit.predict_proba(never)) == pytest.approx(plain, rel=1e-3)
    sometimes = np.where((rng.random(z.shape) < 0.2) & (np.arange(3) != y[:, None]), masked, z)
    temperature = TemperatureScaling().fit(sometimes, y).predict_proba(sometimes)
    vector = VectorScaling().fit(sometimes, y).predict_proba(sometimes)
    assert log_score(y, vector) <= log_score(y, temperature) + 1e-3


def test_certain_log_odds_on_both_sides():
    z, y = np.array([2.0, -1.0, -3.0, 1.0, -np.inf]), np.array([1, 0, 1, 0, 0])
    one, other = TemperatureScaling().fit(z, y), TemperatureScaling().fit(-z, 1 - y)
    assert one.temperature_ == pytest.approx(other.temperature_, rel=1e-12)
    assert one.predict_proba([np.inf, -np.inf]).tolist() == [[0.0, 1.0], [1.0, 0.0]]
    with pytest.raises(ValueError, match=r"X\[4\] = inf: expected a finite logit"):
        PlattScaling().fit(-z, 1 - y)


def test_what_has_no_weight_is_not_there():
    p = [[0.5, 0.5], [0.3, 0.7], [0.6, 0.4], [1.0, 0.0]]
    weighted = TemperatureScaling(input="probs").fit(p, [0, 1, 1, 1], sample_weight=[1, 1, 1, 0])
    assert (
        weighted.temperature_
        == TemperatureScaling(input="probs").fit(p[:3], [0, 1, 1]).temperature_
    )


def test_text_is_not_read_as_numbers():
    frame = pd.DataFrame({"a": ["1", "-2", "3"], "b": ["3", "4", "0"]}, dtype=object)
    with pytest.raises(TypeError, match="X has dtype object: expected real numbers"):
        TemperatureScaling().fit(frame, [0, 1, 0])


def test_logits_below_the_normal_numbers_say_nothing():
    fit = TemperatureScaling().fit(
        np.array([-1.0, 2, 1, -3, 0.5, -0.2]) * 1e-309, [0, 1, 0, 0, 1, 1]
    )
    assert fit.status_ == "uninformative"
    assert fit.temperature_ > 0


def test_options_may_be_text_of_any_kind():
    grid = GridSearchCV(TemperatureScaling(), {"input": np.array(["logits"])}, cv=2)
    rng = np.random.default_rng(0)
    z = rng.normal(size=40)
    assert (
        grid.fit(z[:, None], rng.random(40) < 1 / (1 + np.exp(-z))).best_params_["input"]
        == "logits"
    )


def test_isotonic_keeps_the_order_of_certain_scores():
    z, y = [40.0, 50.0, 60.0, 70.0], [0, 0, 1, 1]
    assert IsotonicCalibration().fit(z, y).transform(z).tolist() == y
    mirrored = IsotonicCalibration().fit([-a for a in z], y[::-1])
    assert mirrored.transform([-a for a in z]).tolist() == y[::-1]
    p = [1e-22, 1e-20, 1e-18, 1e-16]
    assert IsotonicCalibration(input="probs").fit(p, y).transform(p).tolist() == y
    rows = np.array([[0.0, a, -a] for a in z])
    assert IsotonicCalibration().fit(rows, [0, 2, 1, 1]).predict(rows).tolist()[2:] == [1, 1]


def test_a_frozen_classifier_has_to_be_fitted():
    with pytest.raises(NotFittedError):
        CalibratedClassifier(FrozenEstimator(GaussianNB()), PlattScaling()).fit(
            [[0.0], [1.0]], [0, 1]
        )
