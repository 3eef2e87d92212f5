"""The references against constants and closed forms, the ruler against neighbouring floats."""

import math

import mpmath as mp
import numpy as np
import pytest
import torch

from celib.testing import ORACLES, nasty_distributions, nasty_logits, oracle, ulp_error


@pytest.fixture(autouse=True)
def digits():
    with mp.workdps(60):
        yield


def near(value, text):
    return abs(value - mp.mpf(text)) < abs(mp.mpf(text)) * mp.mpf(10) ** -48


def test_oracles_of_known_constants():
    log2 = "0.693147180559945309417232121458176568075500134360255254"
    half = [0.5, 0.5]
    assert near(oracle("logsumexp", [0.0, 0.0]), log2)
    assert near(oracle("logsumexp", [0.0], weights=[2.0]), log2)
    assert near(-oracle("log_softmax", [7.0, 7.0])[0], log2)
    assert near(oracle("softmax", [0.0, 1e300], temperature=math.inf)[1], "0.5")
    assert near(oracle("expit", 0.0), "0.5")
    assert oracle("logit", 0.5) == 0
    assert near(oracle("log1pexp", 0.0), log2)
    assert near(oracle("self_information", 0.5), log2)
    assert near(oracle("entropy", half), log2)
    assert near(oracle("cross_entropy", [1.0, 0.0], half), log2)
    assert near(oracle("kl_divergence", [1.0, 0.0], half), log2)
    assert near(oracle("js_divergence", [1.0, 0.0], [0.0, 1.0]), log2)
    assert near(oracle("renyi_entropy", half, 3.0), log2)
    assert near(oracle("renyi_entropy", half, math.inf), log2)
    assert near(oracle("mutual_information", [[0.5, 0.0], [0.0, 0.5]]), log2)
    assert near(oracle("conditional_entropy", [[0.25, 0.25], [0.0, 0.5]]) * 2, log2)
    assert near(oracle("perplexity", half), "2")
    assert oracle("cross_entropy", half, [1.0, 0.0]) == mp.inf
    assert near(oracle("log1mexp", 1.0), "-0.45867514538708189102164364506732970187697790669219")


def test_small_results_have_all_digits():
    """exp(-700) beside 1: 304 digits away, and 50 more to be right."""
    wanted = mp.exp(-700)
    assert near(-oracle("log_softmax", [0.0, -700.0])[0] * (1 + wanted / 2), mp.nstr(wanted, 50))


def test_floats_are_taken_exactly():
    assert oracle("logsumexp", [0.1]) == mp.mpf(0.1) != mp.mpf("0.1")
    single = np.float32(0.1)
    assert oracle("logsumexp", np.array([single])) == mp.mpf(float(single))
    assert oracle("logsumexp", torch.tensor([0.1])) == mp.mpf(float(single))


def test_unknown_name():
    with pytest.raises(ValueError, match="name = 'entropie'"):
        oracle("entropie", [1.0])
    assert "entropy" in ORACLES


def test_ulp_error():
    assert ulp_error(1.0, 1) == 0
    assert ulp_error(np.nextafter(1.0, 2), 1) == 1
    assert ulp_error(np.nextafter(1.0, 0), 1) == 0.5
    assert ulp_error(0.0, mp.mpf(5e-324)) == 1
    assert ulp_error(np.float32(1) + np.spacing(np.float32(1)), 1) == 1
    assert ulp_error(1.0, 1 + mp.mpf(2) ** -54) == 0.25
    found = ulp_error([np.inf, np.nan, -np.inf, 1.0, np.nan], [mp.inf, mp.nan, mp.inf, mp.inf, 0])
    assert found.tolist() == [0, 0, np.inf, np.inf, np.inf]
    with pytest.raises(ValueError, match=r"reference has shape \(2,\): expected \(1,\)"):
        ulp_error([1.0], [1, 2])


def test_inputs():
    for row in nasty_logits().values():
        assert np.isfinite(row).all()
        assert np.ndim(row) == 1
    for p, q in nasty_distributions().values():
        assert len(p) == len(q)
        assert min(p + q) >= 0
        assert math.fsum(p) == pytest.approx(1, abs=2e-12)
        assert math.fsum(q) == pytest.approx(1, abs=2e-12)
