"""The door: every container, at every function that takes probabilities, labels, logits or weights.

All functions accept a container, with the value of a list, or all refuse it in the same words.
"""

import ast
import json
import math
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse
import torch

import celib
from celib import calibration, coding, information, losses, scoring, stable
from celib.arguments.arrays import SUM_TOLERANCE

inf, nan = math.inf, math.nan

# Numbers that every dtype holds exactly; of the whole ones, every integer dtype too.
ROWS = np.array([[0.5, 0.25, 0.25], [0.125, 0.125, 0.75], [0.25, 0.5, 0.25], [0.75, 0.25, 0.0]])
ONE_HOT = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
SINGLE = np.array([0.5, 0.25, 0.75, 0.125])
WHOLE = np.array([1.0, 0.0, 0.0, 1.0])
LABELS = np.array([0.0, 2.0, 1.0, 0.0])
LOGITS = np.array([[0.5, -1.25, 3.0], [2.0, 0.0, -0.5], [1.0, 1.0, 1.0], [-4.0, 8.0, 0.25]])
WHOLE_LOGITS = np.array([[1.0, 0.0, 3.0], [2.0, 0.0, 5.0], [1.0, 1.0, 1.0], [4.0, 8.0, 0.0]])
FACTORS = np.array([1.0, 0.5, 2.0, 0.25])
WHOLE_FACTORS = np.array([1.0, 0.0, 2.0, 3.0])
COUNTS = np.array([[3.0, 0.0, 1.0], [1.0, 1.0, 1.0], [7.0, 2.0, 0.0], [0.0, 0.0, 5.0]])
Y, HIT = [0, 2, 1, 0], [0, 1, 1, 0]
P, Q, Z, ODDS = ROWS.tolist(), ROWS[::-1].tolist(), LOGITS.tolist(), [0.5, -1.0, 2.0, 0.25]


def fitted(calibrator, x, y, weight=None, **options):
    return calibrator(**options).fit(x, y, weight).predict_proba(x)


def value(result):
    return getattr(result, "value", result)


def symbols(given):
    return len(coding.arithmetic_encode(given, lambda past: [0.5, 0.25, 0.25]))


def first_row(function):
    """Of a function of one distribution: rows are given, each is used."""
    return lambda rows: [function(row) for row in rows_of(rows)]


def rows_of(a):
    if isinstance(a, pd.DataFrame):
        return [a.iloc[i] for i in range(len(a))]
    if isinstance(a, pl.DataFrame):
        return [pl.Series(row, dtype=a.dtypes[0]) for row in a.rows()]
    return [a[i] for i in range(len(a))]


DISTRIBUTIONS = {
    "entropy": information.entropy,
    "cross_entropy, p": lambda p: information.cross_entropy(p, Q, validate=True),
    "cross_entropy, q": lambda q: information.cross_entropy(ONE_HOT.tolist(), q),
    "kl_divergence, p": lambda p: information.kl_divergence(p, [[0.25, 0.25, 0.5]] * 4),
    "kl_divergence, q": lambda q: information.kl_divergence(ONE_HOT.tolist(), q),
    "js_divergence": lambda p: information.js_divergence(p, Q),
    "renyi_entropy": lambda p: information.renyi_entropy(p, 2),
    "perplexity": information.perplexity,
    "perplexity, q": lambda q: information.perplexity(ONE_HOT.tolist(), q=q),
    "expected_score, p": lambda p: scoring.expected_score("brier", p, Q),
    "expected_score, q": lambda q: scoring.expected_score("brier", P, q),
    "log_score": lambda p: scoring.log_score([0, 2, 1, 0], p),
    "brier_score": lambda p: scoring.brier_score(Y, p),
    "spherical_score": lambda p: scoring.spherical_score(Y, p),
    "decompose": lambda p: calibration.decompose(Y, p, resamples=0).score,
    "calibration_error": lambda p: calibration.calibration_error(
        Y, p, kind="classwise", resamples=0
    ),
    "smooth_ece": lambda p: calibration.smooth_ece(Y, p, kind="confidence", resamples=0),
    "explain_ece": lambda p: calibration.explain_ece(Y, p, kind="confidence")[0],
    "reliability_curve": lambda p: (
        calibration.reliability_curve(Y, p, kind="confidence", resamples=0).frequency
    ),
    "isotonic": lambda p: fitted(calibration.IsotonicCalibration, p, Y, input="probs"),
    "cross_entropy loss": lambda q: losses.cross_entropy(Z, q),
    "linear_cross_entropy": lambda q: losses.linear_cross_entropy(Z, np.eye(3), q),
}
ALONE = {  # one distribution at a time
    "huffman_code": lambda p: len(coding.huffman_code(p)),
    "arithmetic_decode": lambda p: coding.arithmetic_decode("1", lambda past: p, 1),
}
PROBABILITIES = {
    "self_information": information.self_information,
    "logit": stable.logit,
    "log_score, one column": lambda p: scoring.log_score(HIT, p),
    "brier_score, one column": lambda p: scoring.brier_score(HIT, p),
    "calibration_error, one column": lambda p: calibration.calibration_error(HIT, p, resamples=0),
    "smooth_ece, one column": lambda p: calibration.smooth_ece(HIT, p, resamples=0),
    "decompose, one column": lambda p: calibration.decompose(HIT, p, resamples=0).score,
    "explain_ece, one column": lambda p: calibration.explain_ece(HIT, p)[0],
    "isotonic, one column": lambda p: fitted(
        calibration.IsotonicCalibration, p, HIT, input="probs"
    ),
    "binary_cross_entropy": lambda y: losses.binary_cross_entropy_with_logits(ODDS, y),
    "multilabel": lambda y: losses.multilabel_soft_margin_loss(ODDS, y),
    "sigmoid_focal_loss": lambda y: losses.sigmoid_focal_loss(ODDS, y),
}
CLASSES = {
    "log_score": lambda y: scoring.log_score(y, [[0.25, 0.25, 0.5]] * 4),
    "brier_score": lambda y: scoring.brier_score(y, P),
    "spherical_score": lambda y: scoring.spherical_score(y, P),
    "decompose": lambda y: calibration.decompose(y, P, resamples=0).score,
    "calibration_error": lambda y: calibration.calibration_error(
        y, P, kind="confidence", resamples=0
    ),
    "smooth_ece": lambda y: calibration.smooth_ece(y, P, kind="confidence", resamples=0),
    "reliability_curve": lambda y: (
        calibration.reliability_curve(y, P, kind="confidence", resamples=0).frequency
    ),
    "explain_ece": lambda y: calibration.explain_ece(y, P, kind="confidence")[0],
    "cross_entropy": lambda y: losses.cross_entropy(Z, y),
    "linear_cross_entropy": lambda y: losses.linear_cross_entropy(Z, np.eye(3), y),
    "focal_loss": lambda y: losses.focal_loss(Z, y),
    "generalized": lambda y: losses.generalized_cross_entropy(Z, y),
    "symmetric": lambda y: losses.symmetric_cross_entropy(Z, y),
    "arithmetic_encode": symbols,
}
CALIBRATOR_LABELS = {
    "temperature": lambda y: fitted(calibration.TemperatureScaling, Z, y),
    "isotonic": lambda y: fitted(calibration.IsotonicCalibration, Z, y),
}
SCORES = {
    "logsumexp": stable.logsumexp,
    "softmax": stable.softmax,
    "log_softmax": stable.log_softmax,
    "log1pexp": stable.log1pexp,
    "expit": stable.expit,
    "cross_entropy": lambda z: losses.cross_entropy(z, Y),
    "linear_cross_entropy": lambda x: losses.linear_cross_entropy(x, x, Y),
    "binary_cross_entropy": lambda z: losses.binary_cross_entropy_with_logits(z, P),
    "multilabel": lambda z: losses.multilabel_soft_margin_loss(z, P),
    "focal_loss": lambda z: losses.focal_loss(z, Y),
    "sigmoid_focal_loss": lambda z: losses.sigmoid_focal_loss(z, P),
    "generalized": lambda z: losses.generalized_cross_entropy(z, Y),
    "symmetric": lambda z: losses.symmetric_cross_entropy(z, Y),
    "info_nce": lambda z: losses.info_nce(z, z, temperature=0.5),
    "distillation, student": lambda z: losses.distillation_loss(z, Z, temperature=2.0),
    "distillation, teacher": lambda z: losses.distillation_loss(Z, z, temperature=2.0),
    "distillation, reverse": lambda z: losses.distillation_loss(
        z, Z, temperature=2.0, divergence="reverse"
    ),
    "distillation, Jensen-Shannon": lambda z: losses.distillation_loss(
        z, Z, temperature=2.0, divergence="jensen-shannon"
    ),
    "linear distillation, student": lambda x: losses.linear_distillation_loss(
        x, x, Z, Z, temperature=2.0
    ),
    "info_nce, query": lambda x: losses.info_nce(x, Z, temperature=1.0),
    "info_nce, key": lambda x: losses.info_nce(Z, x, temperature=1.0, symmetric=True),
    "info_nce, negatives": lambda x: losses.info_nce(Z, Z, temperature=1.0, negatives=x),
    "calibration_error": lambda z: calibration.calibration_error(
        Y, logits=z, kind="confidence", resamples=0
    ),
    "smooth_ece": lambda z: calibration.smooth_ece(Y, logits=z, kind="confidence", resamples=0),
    "temperature": lambda z: fitted(calibration.TemperatureScaling, z, Y),
}
WEIGHTS = {
    "logsumexp": lambda w: stable.logsumexp([1.0, 2.0, 3.0, 4.0], weights=w),
    "log_score": lambda w: scoring.log_score(HIT, SINGLE, sample_weight=w),
    "brier_score": lambda w: scoring.brier_score(HIT, SINGLE, sample_weight=w),
    "decompose": lambda w: calibration.decompose(HIT, SINGLE, sample_weight=w, resamples=0).score,
    "calibration_error": lambda w: calibration.calibration_error(
        HIT, SINGLE, sample_weight=w, resamples=0
    ),
    "smooth_ece": lambda w: calibration.smooth_ece(HIT, SINGLE, sample_weight=w, resamples=0),
    "reliability_curve": lambda w: (
        calibration.reliability_curve(HIT, SINGLE, sample_weight=w, resamples=0).count
    ),
    "platt": lambda w: fitted(calibration.PlattScaling, ODDS, HIT, w),
    "cross_entropy": lambda w: losses.cross_entropy(Z, Y, sample_weight=w),
    "linear_cross_entropy": lambda w: losses.linear_cross_entropy(Z, np.eye(3), Y, sample_weight=w),
    "binary_cross_entropy": lambda w: losses.binary_cross_entropy_with_logits(
        ODDS, HIT, sample_weight=w
    ),
    "binary_cross_entropy, pos_weight": lambda w: losses.binary_cross_entropy_with_logits(
        ODDS, HIT, pos_weight=w
    ),
    "multilabel": lambda w: losses.multilabel_soft_margin_loss(ODDS, HIT, w),
    "focal_loss": lambda w: losses.focal_loss(Z, Y, sample_weight=w),
    "class weights": lambda w: losses.cross_entropy([[1.0, 2.0, 3.0, 4.0]] * 4, Y, w),
    "distillation": lambda w: losses.distillation_loss(Z, P, temperature=1, sample_weight=w),
    "linear distillation": lambda w: losses.linear_distillation_loss(
        Z, Z, P, P, temperature=1, sample_weight=w
    ),
}
NUMBERS_OF_OUTCOMES = {"entropy_from_counts": information.entropy_from_counts}

# role: the functions, numbers for dtypes with fractions, numbers for integers
ROLES = {
    "distributions": (DISTRIBUTIONS, ROWS, ONE_HOT),
    "one distribution": ({k: first_row(f) for k, f in ALONE.items()}, ROWS, ONE_HOT),
    "probabilities": (PROBABILITIES, SINGLE, WHOLE),
    "labels": (CLASSES | CALIBRATOR_LABELS, LABELS, LABELS),
    "logits": (SCORES, LOGITS, WHOLE_LOGITS),
    "weights": (WEIGHTS, FACTORS, WHOLE_FACTORS),
    "counts": (NUMBERS_OF_OUTCOMES, COUNTS, COUNTS),
}


def of_pandas(a, **options):
    return pd.DataFrame(a, **options) if a.ndim == 2 else pd.Series(a, **options)


def of_polars(a):
    return pl.DataFrame(a) if a.ndim == 2 else pl.Series(a)


class Kept(torch.Tensor):
    """A subclass, as of libraries that hang something on a tensor."""


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


ACCEPTED = {
    "list": np.ndarray.tolist,
    "tuple": lambda a: tuple(map(tuple, a)) if a.ndim == 2 else tuple(a.tolist()),
    "list of arrays": list,
    "float16": lambda a: a.astype(np.float16),
    "float32": lambda a: a.astype(np.float32),
    "float64": lambda a: a,
    "longdouble": lambda a: a.astype(np.longdouble),
    "big-endian": lambda a: a.astype(">f8"),
    "big-endian float32": lambda a: a.astype(">f4"),
    "read-only": read_only,
    "negative strides": lambda a: a[::-1].copy()[::-1],
    "every second": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "Fortran order": np.asfortranarray,
    "masked, nothing hidden": lambda a: np.ma.masked_array(a, mask=np.zeros(a.shape, bool)),
    "pandas": of_pandas,
    "pandas float32": lambda a: of_pandas(a.astype(np.float32)),
    "pandas nullable": lambda a: of_pandas(a).astype("Float64"),
    "pandas, labelled": lambda a: of_pandas(a, index=list("dcba")),
    "polars": of_polars,
    "polars float32": lambda a: of_polars(a.astype(np.float32)),
    "torch": torch.tensor,
    "torch float32": lambda a: torch.tensor(a, dtype=torch.float32),
    "torch float16": lambda a: torch.tensor(a, dtype=torch.float16),
    "torch bfloat16": lambda a: torch.tensor(a, dtype=torch.bfloat16),
    "torch, a gradient wanted": lambda a: torch.tensor(a, requires_grad=True),
    "torch parameter": lambda a: torch.nn.Parameter(torch.tensor(a)),
    "torch subclass": lambda a: torch.tensor(a).as_subclass(Kept),
    "torch, every second": lambda a: torch.tensor(np.repeat(a, 2, axis=-1))[..., ::2],
    "list of tensors": lambda a: list(torch.tensor(a)),
}
INTEGERS = {
    **{
        name: lambda a, dtype=name: a.astype(dtype)
        for name in [
            "int8",
            "int16",
            "int32",
            "int64",
            "uint8",
            "uint16",
            "uint32",
            "uint64",
            ">i4",
        ]
    },
    "pandas int": lambda a: of_pandas(a.astype(int)),
    "pandas nullable int": lambda a: of_pandas(a.astype(int)).astype("Int64"),
    "polars int": lambda a: of_polars(a.astype(np.int32)),
    **{
        f"torch {name}": lambda a, dtype=name: torch.tensor(a).to(getattr(torch, dtype))
        for name in ["uint8", "int8", "int16", "int32", "int64", "uint16"]
    },
}
BOOLEANS = {
    "bool": lambda a: a.astype(bool),
    "torch bool": lambda a: torch.tensor(a).bool(),
    "pandas boolean": lambda a: of_pandas(a.astype(bool)).astype("boolean"),
    "polars bool": lambda a: of_polars(a.astype(bool)),
}


def hiding(a):
    mask = np.zeros(a.shape, bool)
    mask.flat[1] = True
    return np.ma.masked_array(a, mask=mask)


REFUSED = {
    "masked": hiding,
    "complex": lambda a: a.astype(complex),
    "torch complex": lambda a: torch.tensor(a).cfloat(),
    "torch sparse": lambda a: torch.tensor(a).to_sparse(),
    "torch float8": lambda a: torch.tensor(a).to(torch.float8_e4m3fn),
    "text": lambda a: np.full(a.shape, "0.5"),
    "fractions": lambda a: np.full(a.shape, Fraction(1, 2)),
    "dates": lambda a: a.astype(int).astype("M8[s]"),
}
SPARSE = {
    "scipy matrix": scipy.sparse.csr_matrix,
    "scipy array": scipy.sparse.csc_array,
}
CELLS = [(role, name) for role, (functions, *_) in ROLES.items() for name in functions]


def number(result):
    result = value(result)
    if not isinstance(result, torch.Tensor):
        result = torch.tensor(np.asarray(result, dtype=np.float64))
    return result.detach().double()


def compare(function, given, reference):
    found, wanted = number(function(given)), number(function(reference.tolist()))
    # A result of float16 or bfloat16 is rounded to it.
    torch.testing.assert_close(found, wanted, rtol=8e-3, atol=2e-3, equal_nan=True)
    if "16" not in str(getattr(given, "dtype", "")):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize(("role", "name"), CELLS)
def test_every_container_is_accepted(role, name, subtests):
    functions, fractions, whole = ROLES[role]
    kinds = [(ACCEPTED, fractions), (INTEGERS, whole)]
    if set(np.unique(whole)) <= {0.0, 1.0}:
        kinds.append((BOOLEANS, whole))
    for containers, numbers in kinds:
        for container, make in containers.items():
            with subtests.test(container=container):
                compare(functions[name], make(numbers), numbers)


def refusal(function, given):
    with pytest.raises((ValueError, TypeError)) as caught:
        function(given)
    return type(caught.value).__name__, str(caught.value)


def words(function, given):
    """The refusal without the argument's name and the tolerance."""
    kind, message = refusal(function, given)
    return kind, re.sub(r"^(the sum of )?\w+(?=\[| )", r"\1NAME", message)


# Estimators keep scikit-learn's contract where it has one: it asks for a ValueError for complex
# numbers, for numbers in arrays of objects to be taken, and for labels of any kind.
OF_SCIKIT_LEARN = {"complex", "fractions"}
ESTIMATORS = {"isotonic", "isotonic, one column", "temperature"}


@pytest.mark.parametrize("container", [*REFUSED, *SPARSE])
def test_what_is_refused_is_refused_in_the_same_words(container):
    found = {}
    for role, (functions, numbers, _) in ROLES.items():
        if role == "one distribution" or (container in SPARSE and numbers.ndim == 1):
            continue
        for name, function in functions.items():
            if name in ESTIMATORS and (container in OF_SCIKIT_LEARN or role == "labels"):
                continue
            if name != "arithmetic_encode":  # which takes symbol after symbol
                given = (SPARSE | REFUSED)[container](numbers)
                kind, message = words(function, given)
                found[role, name] = kind, re.sub(r"(take|such as) \w+\.", r"\1 NAME.", message)
    assert len(set(found.values())) == 1, found


SIZES = (2, 3, 10, 1000, 50257)


def clothes(rows):
    """One softmax, in what it may come in later: its first dtype is not told."""
    wide = rows.double()
    return {
        "as it is": rows,
        "double": wide,
        "float32": rows.float(),
        "array": wide.numpy(),
        "list": wide.tolist(),
        "JSON": json.loads(json.dumps(wide.tolist())),
        "frame": pd.DataFrame(wide.numpy()),
        "polars": pl.DataFrame(wide.numpy().T.copy()).transpose(),
    }


@pytest.mark.parametrize("classes", SIZES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_row_of_a_softmax_is_a_distribution(classes, dtype):
    generator = torch.Generator().manual_seed(classes)
    count = 2000 if classes <= 10 else 20 if classes <= 1000 else 2
    z = torch.randn(count, classes, generator=generator).to(getattr(torch, dtype))
    y = torch.randint(0, classes, (count,), generator=generator)
    steps = (z - z.amax(-1, keepdim=True)).exp()
    # torch's own, and one that rounds after each step.
    for rows in (z.softmax(-1), steps / steps.sum(-1, keepdim=True)):
        for name, given in clothes(rows).items():
            if classes > 1000 and name in ("JSON", "frame", "polars"):
                continue
            assert number(information.entropy(given)).isfinite().all(), name
            assert math.isfinite(scoring.brier_score(y, given)), name
            assert math.isfinite(losses.cross_entropy(z, given)), name


ULP = {np.float32: 2.0**-23, np.float64: 2.0**-52, np.float16: 2.0**-10}


@pytest.mark.parametrize("dtype", ULP)
@pytest.mark.parametrize("name", PROBABILITIES)
def test_rounding_at_the_ends_is_no_mistake(dtype, name):
    """One ulp above 1 counts as 1, and a rounding below 0 as 0."""
    function, ulp = PROBABILITIES[name], ULP[dtype]
    given = np.array([1 + ulp, 0.25, -ulp / 4, 0.125], dtype)
    assert given[0] > 1
    found, wanted = number(function(given)), number(function(given.clip(0, 1)))
    torch.testing.assert_close(found, wanted, rtol=2e-3, atol=2e-3)
    assert not found.isnan().any()


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_rounding_in_distributions(name):
    given = np.array([[1 + 2.0**-23, -(2.0**-24), 0.0], *ROWS[1:]], np.float32)
    found, wanted = (
        number(DISTRIBUTIONS[name](given)),
        number(DISTRIBUTIONS[name](given.clip(0, 1))),
    )
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bad", [-0.5, 1.2, nan, inf])
@pytest.mark.parametrize("role", ["distributions", "probabilities"])
def test_what_is_not_a_probability_is_refused_in_the_same_words(role, bad):
    functions, numbers, _ = ROLES[role]
    given = numbers.copy()
    given[(1, 0) if given.ndim == 2 else 1] = bad
    place = r"\[1, 0\]" if given.ndim == 2 else r"\[1\]"
    functions = {k: f for k, f in functions.items() if k != "logit"}  # NaN for NaN, as SciPy's
    found = {name: words(f, given) for name, f in functions.items()}
    assert len(set(found.values())) == 1, found
    kind, message = found.popitem()[1]
    assert kind == "ValueError"
    assert re.fullmatch(rf"NAME{place} = {bad}: expected a probability in \[0, 1\] .*", message)


def test_a_sum_is_refused_in_the_same_words():
    given = ROWS.copy()
    given[1] *= 1.2
    found = {name: words(f, given) for name, f in DISTRIBUTIONS.items()}
    assert set(found.values()) == {
        ("ValueError", "the sum of NAME[1] = 1.2: expected 1 within 0.008")
    }, found
    assert SUM_TOLERANCE == 2.0**-7


@pytest.mark.parametrize("bad", [-1.0, 3.0, 0.5, nan])
def test_what_is_not_a_class_is_refused(bad):
    given = LABELS.copy()
    given[1] = bad
    for name, function in CLASSES.items():
        kind, message = refusal(function, given)
        assert kind == "ValueError", name
        assert re.match(rf"\w+\[1\] = {bad}: expected a (class|symbol) from 0 to 2", message), name


@pytest.mark.parametrize("bad", [-1.0, nan, inf])
def test_what_is_not_a_weight_is_refused_in_the_same_words(bad):
    given = FACTORS.copy()
    given[1] = bad
    found = {name: words(f, given) for name, f in WEIGHTS.items()}
    assert set(found.values()) == {
        ("ValueError", f"NAME[1] = {bad}: expected a finite number, at least 0")
    }, found


PAIRS = {
    "kl_divergence": lambda p, q: information.kl_divergence(p, q),
    "expected_score": lambda p, q: scoring.expected_score("log", p, q),
    "brier_score": lambda p, q: scoring.brier_score(p.iloc[:, 0] * 0, q),
    "calibration_error": lambda p, q: calibration.calibration_error(
        p.iloc[:, 0] * 0, q, kind="confidence"
    ),
    "cross_entropy": lambda p, q: losses.cross_entropy(p, q),
    "joint_distribution": lambda p, q: information.joint_distribution(p.iloc[:, 0], q.iloc[:, 0]),
}


@pytest.mark.parametrize("name", PAIRS)
def test_labels_of_pandas_are_heeded(name):
    """pandas would align them; here other labels, or another order, are an error."""
    p = pd.DataFrame(ROWS, index=list("abcd"))
    PAIRS[name](p, p)
    with pytest.raises(ValueError, match=r"has another index than \w+: expected the same labels"):
        PAIRS[name](p, p.iloc[::-1])
    if name in ("kl_divergence", "cross_entropy", "expected_score"):
        with pytest.raises(ValueError, match="has another columns than"):
            PAIRS[name](p, p[[2, 1, 0]])


def test_a_series_spread_over_rows_is_about_the_columns():
    for rows in (2, 3, 4):  # also where both axes have one length
        z = pd.DataFrame(LOGITS[:rows], columns=list("abc"), index=range(10, 10 + rows))
        factors = pd.Series([1.0, 2.0, 3.0], index=list("abc"))
        keep = pd.Series([True, True, False], index=list("abc"))
        calls = {
            "weight": lambda w, z=z, n=rows: losses.cross_entropy(z, Y[:n], w),
            "pos_weight": lambda w, z=z: losses.binary_cross_entropy_with_logits(
                z, z * 0, pos_weight=w
            ),
            "weights": lambda w, z=z: stable.logsumexp(z, weights=w),
            "where": lambda w, z=z: stable.softmax(z, where=w),
        }
        for name, call in calls.items():
            given = keep if name == "where" else factors
            call(given)
            with pytest.raises(ValueError, match=f"{name} has another index than"):
                call(given[::-1])
    layer = pd.DataFrame(np.ones((3, 3)), index=list("xyz"), columns=list("abc"))
    losses.linear_cross_entropy(z, layer, Y)
    with pytest.raises(ValueError, match="linear_weight has another columns than input"):
        losses.linear_cross_entropy(z, layer[list("cba")], Y)
    x = pd.Series([1.0, 2.0], index=list("ab"))
    with pytest.raises(ValueError, match="where has another index than x"):
        stable.log_softmax(x, where=pd.Series([True, False], index=list("ba")))


def test_lists_hide_nothing():
    shown, hidden = np.ma.array([0.5, 0.5]), np.ma.array([0.5, 0.5], mask=[0, 1])
    with pytest.raises(ValueError, match="p is a masked array, with 1 masked entries"):
        information.entropy([shown, hidden])
    row = torch.tensor([0.5, 0.5], requires_grad=True)
    found = losses.cross_entropy([row, row], [0, 1], return_statistics=True)
    assert all(isinstance(part, torch.Tensor) for part in found)
    assert isinstance(stable.softmax([row.detach()] * 2), torch.Tensor)
    for other, error, message in (
        (torch.ones(3), ValueError, r"p\[1\] has shape \(3,\): expected that of p\[0\], \(2,\)"),
        (row.to("meta"), ValueError, r"p\[1\] is on meta: expected cpu"),
        (row.detach().to_sparse(), TypeError, r"p\[1\] is of type Tensor: expected a dense"),
        (row.detach().to(torch.float8_e4m3fn), TypeError, r"p\[1\] has dtype torch.float8"),
    ):
        with pytest.raises(error, match=message):
            information.entropy([row, other])


def test_masks_and_factors_are_on_the_device():
    x, meta = torch.zeros(2), torch.ones(2, dtype=torch.bool, device="meta")
    for given, place in ((x, "cpu"), (x.numpy(), "cpu"), (x.to("meta"), "meta")):
        where = meta if place == "cpu" else meta.new_ones(2, device="cpu")
        with pytest.raises(ValueError, match=f"where is on .*: expected {place}"):
            stable.softmax(given, where=where)
    with pytest.raises(TypeError, match=r"where has dtype torch\.bfloat16: expected booleans"):
        stable.softmax(x.numpy(), where=x.bfloat16())
    frame = pd.DataFrame([[1.0, 2.0]])
    keep = pd.DataFrame([[True, False]]).astype("boolean")
    assert stable.softmax(frame, where=keep).tolist() == [[1.0, 0.0]]
    scale = torch.ones((), device="meta")
    for call in (
        lambda: losses.cross_entropy(LOGITS, Y, scale=scale),
        lambda: losses.linear_cross_entropy(LOGITS, np.eye(3), Y, scale=scale),
        lambda: losses.distillation_loss(LOGITS, LOGITS, temperature=scale),
        lambda: losses.info_nce(LOGITS, LOGITS, temperature=scale),
    ):
        with pytest.raises(ValueError, match=r"(scale|temperature) is on meta: expected cpu"):
            call()
    with pytest.raises(TypeError, match="gamma is of type Tensor: expected a finite number"):
        losses.focal_loss(LOGITS, Y, gamma=scale)
    for one in ([2.0], np.array([2.0]), pd.Series([2.0]), np.longdouble(2)):
        wanted = losses.distillation_loss(LOGITS, ROWS, temperature=2.0)
        assert losses.distillation_loss(LOGITS, ROWS, temperature=one) == wanted


def test_missing_values_are_not_numbers():
    series = pd.Series([0.5, None, 0.5], dtype="Float64")
    for function in (information.entropy, stable.softmax):
        if function is stable.softmax:
            assert np.isnan(function(series)).any()
        else:
            with pytest.raises(ValueError, match=r"p\[1\] = nan"):
                function(series)
    with pytest.raises(ValueError, match=r"p\[1\] = nan"):
        information.entropy(pl.Series([0.5, None, 0.5]))
    with pytest.raises(TypeError, match=r"p is of type LazyFrame: .* such as p.collect\(\)"):
        information.entropy(pl.LazyFrame({"a": [1.0]}))


def test_arrays_follow_a_tensor():
    p, q = torch.tensor(ROWS, requires_grad=True), ROWS[::-1]
    for other in (q, q.tolist(), pd.DataFrame(q), q.astype(">f4")):
        found = information.kl_divergence(p, other)
        assert isinstance(found, torch.Tensor)
        assert found.requires_grad
        assert isinstance(information.kl_divergence(other, p), torch.Tensor)
    with pytest.raises(ValueError, match="q is on meta: expected cpu, where p is"):
        information.kl_divergence(p, p.to("meta"))
    with pytest.raises(ValueError, match="y_prob is a tensor that holds no values here"):
        scoring.log_score(Y, p.to("meta"))


NUMBERS_ONLY = {"score", "ece", "error", "curve", "decompose", "isotonic", "temperature", "platt"}


@pytest.mark.parametrize("role", ["distributions", "probabilities", "labels", "logits", "weights"])
def test_tensors_without_values(role):
    """What returns tensors returns one without values; what returns numbers refuses."""
    functions, numbers, _ = ROLES[role]
    for name, function in functions.items():
        if name == "arithmetic_encode":
            continue
        given = torch.tensor(numbers).to("meta")
        if any(part in name for part in NUMBERS_ONLY):
            with pytest.raises(
                ValueError, match=r"^\w+ is a tensor that holds no values here: exp"
            ):
                function(given)
        else:
            assert function(given).device.type == "meta", name


@pytest.mark.parametrize(
    "make", [float, np.float32, np.array, torch.tensor, lambda p: pl.Series([p])[0]]
)
def test_single_numbers(make):
    for function in (
        information.self_information,
        stable.logit,
        stable.expit,
        lambda y: losses.binary_cross_entropy_with_logits(0.5, y),
        lambda z: losses.binary_cross_entropy_with_logits(z, 0.5),
    ):
        found, wanted = number(function(make(0.25))), number(function(np.float64(0.25)))
        assert found.shape == ()
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-7)
    for function in (information.entropy, lambda p: scoring.log_score([0], p)):
        with pytest.raises(ValueError, match=r"(axis = -1|has shape \(\)): expected"):
            function(make(0.25))


@pytest.mark.parametrize("kind", [np.asarray, list, pd.DataFrame])
def test_numpy_in_numpy_out(kind):
    for role in ("distributions", "logits"):
        functions, numbers, _ = ROLES[role]
        for name, function in functions.items():
            assert not isinstance(function(kind(numbers)), torch.Tensor), name


def imports(path, modules):
    """The modules of celib that a file names in its import statements, wherever they stand."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            # What is no module is a name in one.
            found |= {name if name in modules else node.module for name in names}
    return found & modules


def test_no_circle_among_imports():
    root = Path(celib.__file__).parent
    paths = {
        ".".join(("celib", *path.relative_to(root).with_suffix("").parts)): path
        for path in root.rglob("*.py")
    }
    paths = {name.removesuffix(".__init__"): path for name, path in paths.items()}
    edges = {name: imports(path, set(paths)) for name, path in paths.items()}

    def visit(name, above):
        assert name not in above, " -> ".join([*above, name])
        for below in edges[name]:
            visit(below, (*above, name))

    for name in edges:
        visit(name, ())
    # The ground knows of nothing else, and kernels do not know their face.
    assert all(i.startswith("celib.arguments") for n in edges if "arguments" in n for i in edges[n])
    assert not any("losses" in i for n in edges if "kernels" in n for i in edges[n])
