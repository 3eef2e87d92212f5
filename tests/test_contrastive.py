"""InfoNCE: against the explicit matrix of similarities, and against many digits."""

import math

import mpmath as mp
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch.autograd import grad, gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from celib import losses
from celib.losses import info_nce

# torch's own, of the check of forward mode.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
N, D, K = 4, 3, 3


def T(values):
    return torch.tensor(values, dtype=torch.float64)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


QUERY, KEY, NEGATIVES = normal(N, D, seed=1), normal(N, D, seed=2), normal(K, D, seed=3)
TAU = T(0.3)


def explicit(query, key, temperature, negatives=None, symmetric=False, normalize=True, **options):
    """The matrix of all similarities, and torch's loss."""
    given = [query, key] if negatives is None else [query, key, negatives]
    x, k, *more = (F.normalize(a) if normalize else a for a in given)
    z, own = x @ torch.cat([k, *more]).T / temperature, torch.arange(len(query))
    loss = F.cross_entropy(z, own, **options)
    return (loss + F.cross_entropy(z.T, own, **options)) / 2 if symmetric else loss


CASES = {
    "plain": {},
    "both directions": {"symmetric": True},
    "vectors as they are": {"normalize": False},
    "as they are, both": {"normalize": False, "symmetric": True},
    "negatives": {"negatives": NEGATIVES},
    "of each": {"reduction": "none"},
    "of each, both": {"reduction": "none", "symmetric": True},
    "sum": {"reduction": "sum", "negatives": NEGATIVES},
}
each = pytest.mark.parametrize("case", CASES)


@each
@pytest.mark.parametrize("chunk_size", [None, 1, 4])
def test_value_and_gradients_are_those_of_the_matrix(case, chunk_size):
    options = CASES[case]
    factors = torch.arange(1.0, N + 1, dtype=torch.float64)
    found, wanted = [], []
    for results, loss in (
        (found, lambda *a, **o: info_nce(*a[:2], temperature=a[2], chunk_size=chunk_size, **o)),
        (wanted, explicit),
    ):
        inputs = [a.clone().requires_grad_() for a in (QUERY, KEY, TAU)]
        value = loss(*inputs, **options)
        total = (value * factors).sum() if value.ndim else value
        results += [value, *grad(total, inputs)]
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


@each
def test_derivatives_against_differences(case):
    def loss(query, key, temperature):
        return info_nce(query, key, temperature=temperature, **CASES[case])

    inputs = [a.clone().requires_grad_() for a in (QUERY, KEY, TAU)]
    assert gradcheck(loss, inputs, check_forward_ad=True)
    assert gradgradcheck(loss, inputs)


def test_negatives_get_a_gradient():
    negatives = NEGATIVES.clone().requires_grad_()
    assert gradcheck(lambda n: info_nce(QUERY, KEY, temperature=0.3, negatives=n), negatives)


def digits(query, key, temperature):
    """The losses, from so many digits that those of a loss of 1e-43 are among them."""
    with mp.workdps(500):
        x, k = ([[mp.mpf(v) for v in row] for row in a.tolist()] for a in (query, key))
        unit = [[[v / mp.sqrt(mp.fdot(row, row)) for v in row] for row in a] for a in (x, k)]
        tau, losses = mp.mpf(temperature), []
        for n, row in enumerate(unit[0]):
            z = [mp.fdot(row, other) / tau for other in unit[1]]
            losses.append(float(mp.log(mp.fsum(mp.exp(v - z[n]) for v in z))))
    return T(losses)


@pytest.mark.parametrize("temperature", [1e3, 1.0, 0.07, 0.01, 1e-3, 1e-5])
def test_against_many_digits(temperature):
    # Along the axes, so that no rounding of a product is blown up by the small temperature.
    query, key = 2 * torch.eye(4, dtype=torch.float64), torch.eye(4, dtype=torch.float64)
    for keys in (key, key.flip(0), key.roll(1, 0)):
        found = info_nce(query, keys, temperature=temperature, reduction="none")
        rtol = 4e-16 * (1 + 1 / temperature)  # 1 / temperature is rounded, and then exponentiated
        torch.testing.assert_close(found, digits(query, keys, temperature), rtol=rtol, atol=0)
    found = info_nce(QUERY, KEY, temperature=temperature, reduction="none")
    wanted = digits(QUERY, KEY, temperature)
    # A cosine is rounded to 2e-16, and then divided.
    torch.testing.assert_close(found, wanted, rtol=1e-13, atol=1e-15 / temperature)


@pytest.mark.parametrize("size", [1e-300, 1e-160, 1e160, 1e300])
def test_lengths_whose_squares_leave_the_range(size):
    wanted = info_nce(QUERY, KEY, temperature=0.1)
    torch.testing.assert_close(info_nce(size * QUERY, KEY, temperature=0.1), wanted)
    torch.testing.assert_close(info_nce(QUERY, size * KEY, temperature=0.1), wanted)


def test_huge_similarities_of_vectors_as_they_are():
    query = (1e3 * QUERY).requires_grad_()
    loss = info_nce(query, 1e3 * KEY, temperature=1.0, normalize=False)
    torch.testing.assert_close(loss, explicit(query, 1e3 * KEY, 1.0, normalize=False))
    assert grad(loss, query)[0].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_narrow_dtypes_are_computed_in_float32(dtype):
    query, key = (a.to(dtype).requires_grad_() for a in (QUERY, KEY))
    loss = info_nce(query, key, temperature=0.05)
    assert loss.dtype == torch.float32
    inputs = [a.detach().double().requires_grad_() for a in (query, key)]
    wanted = explicit(*inputs, 0.05)
    torch.testing.assert_close(loss.double(), wanted, rtol=1e-5, atol=1e-6)
    for one, other in zip(grad(loss, (query, key)), grad(wanted, inputs), strict=True):
        assert one.dtype == dtype
        tolerance = max(1e-5, 2 * torch.finfo(dtype).eps)
        torch.testing.assert_close(one.double(), other, rtol=tolerance, atol=tolerance)
    mixed = info_nce(query, key.double(), temperature=0.05)
    assert mixed.dtype == torch.float64


def test_one_pair_has_nothing_to_find():
    query = QUERY[:1].clone().requires_grad_()
    loss = info_nce(query, KEY[:1], temperature=0.1)
    assert loss == 0
    assert (grad(loss, query)[0] == 0).all()


def test_equal_keys_cost_the_logarithm_of_their_number():
    for n in (2, 5, 64):
        found = info_nce(normal(n, D), torch.ones(n, D), temperature=0.1)
        torch.testing.assert_close(found, T(math.log(n)))


def test_the_gradient_is_a_read_out_minus_the_own_key():
    query = QUERY.clone().requires_grad_()
    loss = info_nce(query, KEY, temperature=TAU, normalize=False, reduction="sum")
    weights = (QUERY @ KEY.T / TAU).softmax(-1)
    torch.testing.assert_close(grad(loss, query)[0], (weights @ KEY - KEY) / TAU)


class Largest(TorchDispatchMode):
    """The number of entries of the largest result of an operation."""

    entries = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for a in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(a, torch.Tensor):
                self.entries = max(self.entries, a.numel())
        return result


def test_the_matrix_of_similarities_is_never_made():
    count = 512
    query, key = (normal(count, D, seed=s).float().requires_grad_() for s in (4, 5))
    with Largest() as seen:
        info_nce(query, key, temperature=0.1, symmetric=True, chunk_size=16).backward()
    assert seen.entries <= 16 * count
    with Largest() as seen:
        explicit(query, key, 0.1).backward()
    assert seen.entries == count**2


def test_the_module_trains_its_temperature():
    log_tau = torch.nn.Parameter(T(0.0))
    close = F.normalize(QUERY) + 0.1 * F.normalize(KEY)
    step = torch.optim.SGD([log_tau], 0.5)
    before = info_nce(QUERY, close, temperature=log_tau.exp()).item()
    for _ in range(20):
        step.zero_grad()
        info_nce(QUERY, close, temperature=log_tau.exp()).backward()
        step.step()
    assert log_tau < -1
    assert info_nce(QUERY, close, temperature=log_tau.exp()) < before
    tau = torch.nn.Parameter(T(0.5))
    loss = losses.InfoNCELoss(temperature=tau, symmetric=True)
    assert loss.temperature is tau
    torch.testing.assert_close(
        loss(QUERY, KEY), info_nce(QUERY, KEY, temperature=0.5, symmetric=True)
    )
    loss(QUERY, KEY).backward()
    assert tau.grad.isfinite()
    one = losses.InfoNCELoss(temperature=0.5)
    torch.testing.assert_close(
        one(QUERY, KEY, NEGATIVES), info_nce(QUERY, KEY, temperature=0.5, negatives=NEGATIVES)
    )
    assert "symmetric=True" in repr(loss)


def test_arrays():
    found = info_nce(QUERY.numpy(), KEY.tolist(), temperature=0.3)
    assert isinstance(found, np.floating)
    assert found == info_nce(QUERY, KEY, temperature=0.3)
    frame = pd.DataFrame(QUERY.numpy(), index=list("abcd"))
    more = pd.DataFrame(QUERY.numpy(), index=list("wxyz"))
    info_nce(frame, frame, temperature=0.3, negatives=more)
    with pytest.raises(ValueError, match="key has another index than query"):
        info_nce(frame, more, temperature=0.3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": KEY[:3]}, r"key has shape \(3, 3\): expected that of query, \(4, 3\)"),
        ({"query": QUERY[0]}, r"query has shape \(3,\): expected \(N, D\)"),
        ({"query": QUERY[:0], "key": KEY[:0]}, r"query has shape \(0, 3\): expected \(N, D\)"),
        ({"negatives": KEY[:, :2]}, r"negatives has shape \(4, 2\): expected \(K, 3\)"),
        ({"negatives": KEY, "symmetric": True}, "symmetric = True: expected False together with"),
        ({"temperature": 0.0}, "temperature = 0.0: expected positive and finite"),
        ({"temperature": -T(1.0)}, "temperature = -1.0: expected positive and finite"),
        ({"temperature": 1e-320}, "temperature = .*: expected a number whose inverse is finite"),
        ({"temperature": torch.ones(2)}, r"temperature has shape \(2,\): expected one number"),
        ({"reduction": "batchmean"}, "reduction = 'batchmean': expected 'none', 'mean' or 'sum'"),
        ({"chunk_size": 0}, "chunk_size = 0: expected at least 1"),
        ({"key": KEY.to("meta")}, "key is on meta: expected cpu, where query is"),
    ],
)
def test_what_is_refused(change, message):
    given = {"query": QUERY, "key": KEY, "temperature": 0.1} | change
    with pytest.raises(ValueError, match=message):
        info_nce(**given)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_vector_of_zeros_is_as_similar_to_every_key(dtype):
    query = QUERY.to(dtype, copy=True)
    query[2] = 0
    query.requires_grad_()
    found = info_nce(query, KEY, temperature=0.1, reduction="none", negatives=NEGATIVES)
    assert found[2].item() == pytest.approx(math.log(N + K))
    (slope,) = grad(found.sum(), query)
    assert (slope[2] == 0).all()
    assert (slope[:2] != 0).all()
    wanted = info_nce(query, KEY, temperature=0.1, normalize=False)
    assert wanted.isfinite()
