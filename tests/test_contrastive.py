"""InfoNCE against 50 digits, against the explicit matrix, and at its door."""

import mpmath
import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from celib.losses import InfoNCELoss, info_nce

GENERATOR = torch.Generator().manual_seed(0)


def normal(*shape):
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


X, K, MORE = normal(7, 3), normal(7, 3), normal(12, 3)


def by_digits(query, key, temperature, normalize=True):
    """The losses of the queries, to 50 digits."""
    with mpmath.workdps(50):

        def rows(a):
            found = [[mpmath.mpf(v) for v in row] for row in a.tolist()]
            if not normalize:
                return found
            return [[v / mpmath.sqrt(sum(w * w for w in row)) for v in row] for row in found]

        x, k = rows(query), rows(key)
        scores = [
            [sum(a * b for a, b in zip(row, other, strict=True)) / temperature for other in k]
            for row in x
        ]
        return [
            float(mpmath.log(sum(mpmath.exp(s) for s in row)) - row[n])
            for n, row in enumerate(scores)
        ]


def by_matrix(query, key, temperature, symmetric=False, reduction="mean"):
    s = F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).T / temperature
    own = torch.arange(len(query))
    loss = F.cross_entropy(s, own, reduction=reduction)
    return (loss + F.cross_entropy(s.T, own, reduction=reduction)) / 2 if symmetric else loss


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("temperature", [0.01, 0.3, 5.0])
@pytest.mark.parametrize("key", [K, MORE], ids=["N keys", "more keys"])
def test_every_loss_has_the_digits_of_float64(key, temperature, normalize):
    found = info_nce(X, key, temperature=temperature, normalize=normalize, reduction="none")
    wanted = torch.tensor(by_digits(X, key, temperature, normalize), dtype=torch.float64)
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=0)


@pytest.mark.parametrize("chunk_size", [None, 1, 3])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_value_and_gradients_are_those_of_the_matrix(symmetric, reduction, chunk_size):
    results = []
    for loss in (by_matrix, info_nce):
        x, k = (a.clone().requires_grad_() for a in (X, K))
        t = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
        options = {} if loss is by_matrix else {"chunk_size": chunk_size}
        value = loss(x, k, temperature=t, symmetric=symmetric, reduction=reduction, **options)
        slopes = torch.autograd.grad((value * torch.arange(1, 1 + value.numel())).sum(), (x, k, t))
        results.append((value.detach(), *slopes))
    for found, wanted in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted)


def test_derivatives_against_differences():
    t = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    x, k = (a[:4].clone().requires_grad_() for a in (X, MORE))

    def call(x, k, t):
        return info_nce(x, k, temperature=t)

    assert gradcheck(call, (x, k, t))
    assert gradgradcheck(call, (x, k, t))


def test_the_bound_on_the_information_is_never_above_log_n():
    for n in (1, 2, 50):
        pairs = torch.eye(n, dtype=torch.float64)
        loss = info_nce(pairs, pairs, temperature=1e-3)
        assert 0 <= loss < 1e-300
    assert info_nce(X[:1], K[:1], temperature=0.1) == 0


def test_halves_are_computed_in_float32():
    for dtype, accuracy in ((torch.bfloat16, 0.15), (torch.float16, 0.02)):
        x, k = (a.to(dtype).requires_grad_() for a in (X, K))
        loss = info_nce(x, k, temperature=0.1)
        assert loss.dtype == torch.float32
        wanted = info_nce(x.double(), k.double(), temperature=0.1)
        torch.testing.assert_close(loss.double(), wanted, rtol=accuracy, atol=0)
        loss.backward()
        assert x.grad.dtype == k.grad.dtype == dtype


def test_a_row_of_zeros_is_as_near_to_every_key():
    x = X.clone()
    x[2] = 0
    found = info_nce(x, K, temperature=0.1, reduction="none")
    assert found[2].item() == pytest.approx(torch.tensor(7.0).log().item())


def test_module():
    t = torch.nn.Parameter(torch.tensor(0.2, dtype=torch.float64))
    module = InfoNCELoss(temperature=t, symmetric=True)
    assert list(module.parameters()) == [t]
    assert module(X, K) == info_nce(X, K, temperature=0.2, symmetric=True)
    assert "symmetric=True" in repr(module)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"query": X[0]}, r"query has shape \(3,\): expected \(N, D\)"),
        ({"key": K[:, :2]}, r"key has shape \(7, 2\): expected \(M, 3\)"),
        ({"key": K[:5]}, r"key has shape \(5, 3\): expected 7 rows, at least one for each query"),
        ({"key": MORE, "symmetric": True}, r"expected 7 rows, one for each query"),
        ({"temperature": 0.0}, r"temperature = 0.0: expected positive and finite"),
        ({"temperature": torch.tensor(-1.0)}, r"temperature"),
        ({"temperature": torch.ones(2)}, r"temperature has shape \(2,\): expected one number"),
        ({"reduction": "batchmean"}, r"reduction = 'batchmean': expected 'none', 'mean' or 'sum'"),
        ({"chunk_size": 0}, r"chunk_size = 0: expected at least 1"),
    ],
)
def test_what_is_refused(arguments, said):
    given = {"query": X, "key": K, "temperature": 0.1} | arguments
    with pytest.raises(ValueError, match=said):
        info_nce(given.pop("query"), given.pop("key"), **given)


def test_dtypes_have_to_agree():
    with pytest.raises(TypeError, match=r"key has dtype torch\.float32"):
        info_nce(X, K.float(), temperature=0.1)
